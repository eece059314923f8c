//! The agent driven over pipes in memory, with pages in memory in place of an instance.

use super::*;
use crate::{
    grd::GrantPath,
    ledger::{relation, verify, workload::tests::MemoryPages},
};
use pagewire_protocol::{BufferTag, PageSize};
use std::{
    io::{BufReader, PipeReader, PipeWriter},
    path::Path,
    sync::Mutex,
    thread::JoinHandle,
};

struct FakeWorker(MemoryPages);

impl Pages for FakeWorker {
    type Read<'a> = <MemoryPages as Pages>::Read<'a>;
    type Write<'a> = <MemoryPages as Pages>::Write<'a>;
    type Error = String;

    fn read(&self, tag: BufferTag) -> Result<Self::Read<'_>, String> {
        self.0.read(tag)
    }

    fn write(&self, tag: BufferTag) -> Result<Self::Write<'_>, String> {
        assert!(self.0.refused != Some(u32::MAX), "a worker that panics");
        self.0.write(tag)
    }
}

impl GrantTimes for FakeWorker {
    fn latencies(&self) -> GrantLatencies {
        let mut latencies = GrantLatencies::default();
        latencies.record(GrantPath::TwoWay, 12_000);
        latencies
    }
}

struct FakeInstance {
    pages: MemoryPages,
    manifest: Manifest,
    relation: PathBuf,
    is_mute: bool,
    calls: Arc<Mutex<Vec<String>>>,
}

impl FakeInstance {
    fn note(&self, call: &str) {
        self.calls.lock().expect("not poisoned").push(call.to_owned());
    }
}

impl Instance for FakeInstance {
    type Worker = FakeWorker;

    fn identity(&self) -> (InstanceId, Incarnation) {
        (InstanceId(1), Incarnation(5))
    }

    fn listen_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 41_234))
    }

    fn set_peers(&mut self, peers: &[(InstanceId, SocketAddr)]) -> Result<(), String> {
        self.note(&format!("{} peers", peers.len()));
        Ok(())
    }

    fn meet(&self, peers: &[(InstanceId, SocketAddr)]) -> Result<(), String> {
        self.note(&format!("meets {}", peers.len()));
        Ok(())
    }

    fn wait_ready(&mut self, _: Duration) -> Result<(), String> {
        if self.is_mute { Err("no session to instance 0".to_owned()) } else { Ok(()) }
    }

    fn install_view(&self, view: &[u8]) -> Result<u64, String> {
        self.note(&format!("view of {} bytes", view.len()));
        view.first().map(|epoch| u64::from(*epoch)).ok_or_else(|| "an empty view".to_owned())
    }

    fn is_settled(&self) -> Result<bool, String> {
        Ok(true)
    }

    fn leave(&self, _: Duration) -> Result<(), String> {
        self.note("leave");
        self.pages.store(&self.manifest, &self.relation);
        Ok(())
    }

    fn take_longest_wait(&self) -> Duration {
        Duration::from_micros(1500)
    }

    fn worker(&self) -> Result<FakeWorker, String> {
        Ok(FakeWorker(self.pages.clone()))
    }

    fn flush(&self) -> Result<(), String> {
        self.note("flush");
        self.pages.store(&self.manifest, &self.relation);
        Ok(())
    }

    fn counters(&self) -> (u64, u64) {
        (7, 7 * 8320)
    }

    fn links(&self) -> LinkCounts {
        LinkCounts { tcp: 1, ..LinkCounts::default() }
    }

    fn stop(self) -> Result<(), String> {
        self.note("stop");
        Ok(())
    }
}

/// An agent on a thread of its own, and the coordinator's ends of its pipes.
struct Driven {
    folder: tempfile::TempDir,
    commands: Option<PipeWriter>,
    events: std::io::Lines<BufReader<PipeReader>>,
    agent: JoinHandle<Result<(), AgentError>>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Driven {
    fn new(change: impl FnOnce(&mut FakeInstance)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let prepared = relation::prepare_synthetic(folder.path(), PageSize::K8, 40, 5)
            .expect("a prepared relation");
        let manifest_path = folder.path().join("manifest.json");
        prepared.manifest.save(&manifest_path).expect("saved");
        let calls = Arc::default();
        let mut instance = FakeInstance {
            pages: MemoryPages::load(&prepared.manifest, &prepared.path),
            manifest: prepared.manifest,
            relation: prepared.path,
            is_mute: false,
            calls: Arc::clone(&calls),
        };
        change(&mut instance);
        let log = folder.path().join("log");
        let options = Options { manifest: manifest_path, log, threads: 2, seed: 3 };
        let (input, commands) = std::io::pipe().expect("a pipe");
        let (events, output) = std::io::pipe().expect("a pipe");
        let agent = thread::spawn(move || run(instance, &options, BufReader::new(input), output));
        let events = BufReader::new(events).lines();
        Self { folder, commands: Some(commands), events, agent, calls }
    }

    fn say(&mut self, line: &str) {
        let commands = self.commands.as_mut().expect("still open");
        writeln!(commands, "{line}").expect("the agent listens");
    }

    /// The next event that is no progress.
    fn event(&mut self) -> Event {
        loop {
            match self.any_event() {
                Event::Progress { .. } => {}
                event => return event,
            }
        }
    }

    fn any_event(&mut self) -> Event {
        let line = self.events.next().expect("an event").expect("readable");
        serde_json::from_str(&line).expect("an event")
    }

    fn start(&mut self) {
        assert!(matches!(self.event(), Event::Listening { address } if address.port() == 41_234));
        self.say("peers 0=127.0.0.1:1 1=127.0.0.1:41234");
        assert_eq!(self.event(), Event::Ready);
        self.say("start");
    }

    fn error(self) -> AgentError {
        self.agent.join().expect("no panic").expect_err("it failed")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

#[test]
fn a_run_goes_from_listening_to_a_report_and_verifies() {
    let mut driven = Driven::new(|_| {});
    driven.start();
    let Event::Progress { pages_shipped, .. } = driven.any_event() else {
        panic!("progress is told while the workers run");
    };
    assert_eq!(pages_shipped, 7);
    driven.say("stop");
    assert_eq!(driven.event(), Event::Stopped);
    driven.say("flush");
    assert_eq!(driven.event(), Event::Flushed);
    driven.say("quit");
    let Event::Report(report) = driven.event() else { panic!("a report comes last") };
    assert!(report.transfers > 0 && report.audits > 0 && report.audit_failures == 0);
    assert_eq!((report.pages_shipped, report.bytes_shipped), (7, 58_240));
    assert_eq!(report.grants.two_way.count, 2, "one of each worker");

    let manifest = Manifest::load(&driven.path("manifest.json")).expect("the manifest");
    let (relation, log) = (driven.path("base/5/16384"), driven.path("log"));
    let found = verify::verify_files(&manifest, &relation, &[log], Some(report.transfers))
        .expect("readable");
    assert!(found.verified, "{found:#?}");
    driven.agent.join().expect("no panic").expect("it ended well");
    assert_eq!(*driven.calls.lock().expect("not poisoned"), ["2 peers", "flush", "stop"]);
}

#[test]
fn views_are_taken_at_any_time_and_told_when_they_are_in_force_and_settled() {
    let mut driven = Driven::new(|_| {});
    let (in_force, settled) = (Event::View { epoch: 2 }, Event::Settled { epoch: 2 });
    driven.event();
    let file = driven.path("a view");
    std::fs::write(&file, [2, 255]).expect("written");
    let view = format!("view {}", file.display());
    driven.say(&view);
    assert_eq!([driven.event(), driven.event()], [in_force.clone(), settled.clone()]);
    driven.say("peers 0=127.0.0.1:1");
    assert_eq!(driven.event(), Event::Ready);
    driven.say("meet 7=127.0.0.1:9");
    assert_eq!(driven.event(), Event::Met);
    driven.say(&view);
    assert_eq!([driven.event(), driven.event()], [in_force.clone(), settled.clone()]);
    driven.say("start");
    let Event::Progress { longest_us, .. } = driven.any_event() else { panic!("it works") };
    assert_eq!(longest_us, 1500);
    driven.say(&view);
    assert_eq!([driven.event(), driven.event()], [in_force.clone(), settled.clone()]);
    driven.say("stop");
    assert_eq!(driven.event(), Event::Stopped);
    driven.say(&view);
    assert_eq!([driven.event(), driven.event()], [in_force, settled]);
    driven.say("leave");
    assert_eq!(driven.event(), Event::Left);
    driven.say("quit");
    let Event::Report(report) = driven.event() else { panic!("a report comes last") };
    assert_eq!(report.links, LinkCounts::default(), "its links are nobody's any more");
    let calls = Arc::clone(&driven.calls);
    driven.agent.join().expect("no panic").expect("it ended well");
    let calls = calls.lock().expect("not poisoned");
    assert_eq!(calls[..3], ["view of 2 bytes", "1 peers", "meets 1"]);
    assert_eq!(calls[calls.len() - 2..], ["leave", "stop"]);
}

#[test]
fn a_view_that_is_none_is_told_and_ends_the_agent() {
    let mut driven = Driven::new(|_| {});
    driven.event();
    driven.say("view /no/such/file");
    let Event::Error { message } = driven.event() else { panic!("an error is told") };
    assert!(message.starts_with("instance 1 cannot take a view: /no/such/file: "), "{message}");
    assert!(matches!(driven.error(), AgentError::Instance { .. }));
}

#[test]
fn a_failed_worker_is_told_and_ends_the_agent() {
    let mut driven = Driven::new(|instance| instance.pages.refused = Some(3));
    driven.start();
    let Event::Error { message } = driven.event() else { panic!("an error is told") };
    assert!(message.contains("of instance 1 ended early: cannot hold page 1663/5/16384:3"));
    assert!(matches!(driven.error(), AgentError::Worker { .. }));
}

#[test]
fn a_panicking_worker_is_told_and_ends_the_agent() {
    let mut driven = Driven::new(|instance| instance.pages.refused = Some(u32::MAX));
    driven.start();
    let Event::Error { message } = driven.event() else { panic!("an error is told") };
    assert!(message.contains("panicked"), "{message}");
    assert!(matches!(driven.error(), AgentError::Thread { .. }));
}

#[test]
fn a_coordinator_that_is_gone_stops_the_agent() {
    let mut driven = Driven::new(|_| {});
    driven.start();
    driven.commands = None;
    let Event::Error { message } = driven.event() else { panic!("an error is told") };
    assert!(message.contains("the coordinator is gone"), "{message}");
    let calls = Arc::clone(&driven.calls);
    assert!(matches!(driven.error(), AgentError::CoordinatorGone { expected: "stop" }));
    assert_eq!(*calls.lock().expect("not poisoned"), ["2 peers", "stop"]);
}

#[test]
fn commands_out_of_order_and_unknown_ones_are_refused() {
    let mut driven = Driven::new(|_| {});
    driven.event();
    driven.say("flush");
    let Event::Error { message } = driven.event() else { panic!("an error is told") };
    assert!(message.starts_with("the coordinator sent 'flush', expected 'peers'"), "{message}");
    assert!(matches!(driven.error(), AgentError::Order { .. }));

    let mut driven = Driven::new(|_| {});
    driven.start();
    driven.say("dance");
    assert!(matches!(driven.event(), Event::Error { .. }));
    assert!(matches!(driven.error(), AgentError::Command(_)));
}

#[test]
fn peers_that_are_not_reached_are_told() {
    let mut driven = Driven::new(|instance| instance.is_mute = true);
    driven.event();
    driven.say("peers 0=127.0.0.1:1");
    let Event::Error { message } = driven.event() else { panic!("an error is told") };
    assert_eq!(message, "instance 1 cannot reach its peers: no session to instance 0");
    assert!(matches!(driven.error(), AgentError::Instance { .. }));
}

#[test]
fn a_missing_manifest_is_told_before_anything_else() {
    let driven = Driven::new(|_| {});
    let folder = driven.folder.path().to_owned();
    drop(driven.commands);
    let options =
        Options { manifest: folder.join("none"), log: folder.join("x"), threads: 1, seed: 1 };
    let instance = FakeInstance {
        pages: MemoryPages::default(),
        manifest: Manifest::load(&folder.join("manifest.json")).expect("the manifest"),
        relation: PathBuf::new(),
        is_mute: false,
        calls: Arc::default(),
    };
    let mut output = Vec::new();
    let error = run(instance, &options, &b""[..], &mut output).expect_err("no manifest");
    assert!(matches!(error, AgentError::Manifest(_)));
    let told = String::from_utf8(output).expect("text");
    assert!(told.starts_with(r#"{"event":"error","message":"cannot access manifest"#), "{told}");
}
