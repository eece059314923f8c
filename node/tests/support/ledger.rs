//! A cluster of real processes that runs the ledger, driven over the line protocol as the demo's
//! coordinator does, so that a test can do to it what a demo never would.

use super::process::{Ended, Process};
use pagewire_node::{
    agent::lines::Event,
    ledger::relation::{self, Prepared},
};
use pagewire_protocol::PageSize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// Cluster id of every [`Cluster`].
pub(crate) const CLUSTER: u64 = 4711;

/// An address that nothing else uses: a loopback address of its own, so that no connection of
/// another test can have its port.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(64) + NEXT.fetch_add(1, Ordering::Relaxed);
    let digit = |value: u32, base: u32| u8::try_from(value % base).expect("below 256");
    // A number in mixed base, so that no two are the same; 127.0.0.1, the source of all
    // connections, and addresses that end in 0 or 255 do not come up.
    let (a, b, c) = (digit(number / 64_000, 126), digit(number / 250, 256), digit(number, 250));
    SocketAddr::from(([127, a + 1, b, c + 1], 7400))
}

/// The configuration of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) cluster: u64,
    pub(crate) instance: u16,
    pub(crate) listen: SocketAddr,
    pub(crate) storage: PathBuf,
    pub(crate) members: Vec<u16>,
    pub(crate) peers: Vec<(u16, SocketAddr)>,
    pub(crate) page_size: u32,
    /// More lines.
    pub(crate) more: String,
}

impl Config {
    /// The cluster of all.
    pub(crate) const CLUSTER: u64 = CLUSTER;

    /// Instance `instance` of 0, 1, 2, without the peers' addresses.
    pub(crate) fn new(instance: u16, storage: &Path) -> Self {
        Self {
            cluster: CLUSTER,
            instance,
            listen: own_address(),
            storage: storage.to_owned(),
            members: vec![0, 1, 2],
            peers: Vec::new(),
            page_size: 8192,
            more: "huge_pages = false\narena_mb = 16\n".to_owned(),
        }
    }

    /// Three instances that know each other.
    pub(crate) fn three(storage: &Path) -> Vec<Self> {
        let configs: Vec<_> = (0..3).map(|instance| Self::new(instance, storage)).collect();
        let all: Vec<_> = configs.iter().map(|c| (c.instance, c.listen)).collect();
        configs.into_iter().map(|config| config.with_peers(&all)).collect()
    }

    /// With all of `all` that are not the instance itself for peers.
    pub(crate) fn with_peers(self, all: &[(u16, SocketAddr)]) -> Self {
        let others = all.iter().filter(|(id, _)| *id != self.instance);
        Self { peers: others.copied().collect(), ..self }
    }

    /// Its text, with a ring in the storage's folder: instances of other tests have the same usual place.
    pub(crate) fn text(&self) -> String {
        let ring = self.storage.join(format!("{}-{}.ring", self.cluster, self.instance));
        self.text_with_ring(&ring)
    }

    pub(crate) fn text_with_ring(&self, ring: &Path) -> String {
        self.text_with(&format!("si_ring = {ring:?}\n"))
    }

    /// Its text, with `keys` behind its own.
    fn text_with(&self, keys: &str) -> String {
        let Self { cluster, instance, listen, storage, members, peers, page_size, more } = self;
        let peer = |(id, address): &(u16, SocketAddr)| {
            format!("[[peers]]\ninstance = {id}\naddress = \"{address}\"\n")
        };
        let peers: String = peers.iter().map(peer).collect();
        format!(
            "cluster = {cluster}\ninstance = {instance}\nlisten = \"{listen}\"\n\
             storage = {storage:?}\nmembers = {members:?}\npage_size = {page_size}\n{more}{keys}{peers}"
        )
    }

    /// Its text, with a socket for `pagewire status` and a ring beside the file `path`: instances of other
    /// tests have the same usual places.
    pub(crate) fn text_with_socket(&self, path: &Path) -> String {
        // A ring of another cluster would be in the way of the one that comes after it.
        let ring = path.with_extension(format!("{}.ring", self.cluster));
        let socket = path.with_extension("sock");
        self.text_with(&format!("status_socket = {socket:?}\nsi_ring = {ring:?}\n"))
    }

    /// Writes it to `path` and starts `pagewire node` with it.
    pub(crate) fn run(&self, path: &Path) -> Process {
        std::fs::write(path, self.text_with_socket(path)).expect("a configuration");
        Process::pagewire(["node".as_ref(), "--config".as_ref(), path.as_os_str()])
    }
}

/// Three instances with the ledger's workers at work.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Process>,
    pub(crate) addresses: Vec<(u16, SocketAddr)>,
    pub(crate) files: Files,
}

/// What a run leaves.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) prepared: Prepared,
    pub(crate) transfers: u64,
}

impl Files {
    pub(crate) fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.folder.path().join("manifest.json")
    }

    pub(crate) fn log(&self, instance: usize) -> PathBuf {
        self.folder.path().join(format!("transfers-{instance}.log"))
    }

    /// Lets `pagewire verify` judge the files.
    pub(crate) fn verify(&self, instances: usize) -> Ended {
        let mut arguments = vec!["verify".into(), "--manifest".into(), self.manifest()];
        arguments.extend(["--relation".into(), self.prepared.path.clone()]);
        for instance in 0..instances {
            arguments.extend(["--log".into(), self.log(instance)]);
        }
        arguments.extend(["--transfers".into(), self.transfers.to_string().into()]);
        Process::pagewire(arguments).end()
    }
}

impl Cluster {
    /// Starts three instances over a made-up relation of `pages` pages; their workers are at work.
    pub(crate) fn at_work(pages: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let storage = folder.path().join("storage");
        let prepared = relation::prepare_synthetic(&storage, PageSize::K8, pages, 5);
        let prepared = prepared.expect("a relation");
        let files = Files { folder, prepared, transfers: 0 };
        files.prepared.manifest.save(&files.manifest()).expect("a manifest");
        let agents: Vec<_> = (0..3).map(|instance| start_agent(instance, &files)).collect();
        let mut cluster = Self { agents, addresses: Vec::new(), files };
        for (instance, told) in (0..).zip(cluster.events("listening")) {
            let Event::Listening { address } = told else { panic!("{told:?}") };
            cluster.addresses.push((instance, address));
        }
        let peers = cluster.addresses.iter().map(|(id, address)| format!(" {id}={address}"));
        let peers: String = peers.collect();
        cluster.say(&format!("peers{peers}"));
        cluster.events("ready");
        cluster.say("start");
        cluster.makes_progress();
        cluster
    }

    fn say(&mut self, line: &str) {
        self.agents.iter_mut().for_each(|agent| agent.say(line));
    }

    /// The next event of this name of every agent.
    fn events(&mut self, name: &str) -> Vec<Event> {
        let of = |agent: &mut Process| {
            let parse = |line: &str| serde_json::from_str::<Event>(line).ok();
            let wanted = |line: &str| parse(line).is_some_and(|e| e.name() == name);
            parse(&agent.line(name, wanted)).expect("an event")
        };
        self.agents.iter_mut().map(of).collect()
    }

    /// Returns when every agent has made transfers that it had not made before.
    pub(crate) fn makes_progress(&mut self) {
        for agent in &mut self.agents {
            let transfers = |line: &str| match serde_json::from_str(line) {
                Ok(Event::Progress { transfers, .. }) => Some(transfers),
                Ok(Event::Error { message }) => panic!("{message}"),
                _ => None,
            };
            // What it told before now does not count, so the second line from now on.
            agent.skip_told();
            let first = agent.line("progress", |line| transfers(line).is_some());
            let first = transfers(&first).expect("progress");
            agent.line("more transfers", |line| transfers(line).is_some_and(|n| n > first));
        }
    }

    /// Ends the run in order; every process must end well.
    pub(crate) fn finish(mut self) -> Files {
        for (order, answer) in [("stop", "stopped"), ("flush", "flushed"), ("quit", "report")] {
            self.say(order);
            for event in self.events(answer) {
                if let Event::Report(report) = event {
                    assert_eq!(report.audit_failures, 0);
                    self.files.transfers += report.transfers;
                }
            }
        }
        self.agents.into_iter().for_each(|agent| drop(agent.end().succeeded()));
        self.files
    }
}

fn start_agent(instance: u16, files: &Files) -> Process {
    let config = Config::new(instance, &files.storage());
    let path = files.folder.path().join(format!("agent-{instance}.toml"));
    std::fs::write(&path, config.text()).expect("a configuration");
    let [path, manifest, log] = [path, files.manifest(), files.log(usize::from(instance))];
    let arguments = ["node".into(), "--config".into(), path, "--agent".into()];
    let ledger = ["--manifest".into(), manifest, "--log".into(), log];
    Process::pagewire(arguments.into_iter().chain(ledger).chain(["--seed".into(), "9".into()]))
}
