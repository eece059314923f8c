//! What a run of the demo stands on: its folder's files, what starts an instance, and who judges what
//! they left.

use super::{
    child,
    cleanup::Cleanup,
    error::{DemoError, io_error},
    options::DemoOptions,
    report::Setting,
};
use crate::{
    ledger::{
        relation::{self, Prepared},
        verify::Verification,
    },
    random::Random,
    view::View,
};
use pagewire_protocol::{InstanceId, PageSize};
use pagewire_transport::link::verbs::Overrides;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

/// Page size of the demo's cluster.
pub(super) const PAGE_SIZE: PageSize = PageSize::K8;
/// How long the instances may take for each step.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Pages of the made-up relation: few enough that instances meet, enough for all kinds of page.
const SYNTHETIC_PAGES: u32 = 600;
/// An arena holds the relation and what is in flight, within these bounds: a large relation is
/// evicted and read again.
const ARENA_MIB: std::ops::RangeInclusive<u32> = 32..=128;
const ARENA_IN_FLIGHT_MIB: u32 = 16;

/// Everything that is there before the first instance starts.
pub(super) struct Stage<'o> {
    pub(super) options: &'o DemoOptions,
    seed: u64,
    folder: &'o Path,
    program: PathBuf,
    pub(super) prepared: Prepared,
    pub(super) cleanup: Cleanup,
}

impl<'o> Stage<'o> {
    pub(super) fn set(
        options: &'o DemoOptions,
        rdma: &Overrides,
        seed: u64,
        folder: &'o Path,
        cleanup: Cleanup,
    ) -> Result<Self, DemoError> {
        let program = std::env::current_exe().map_err(io_error("find this program's own path"))?;
        let storage = folder.join("storage");
        let prepared = match &options.pages {
            Some(file) => relation::prepare_file(&storage, PAGE_SIZE, file)?,
            None => relation::prepare_synthetic(&storage, PAGE_SIZE, SYNTHETIC_PAGES, seed)?,
        };
        let stage = Self { options, seed, folder, program, prepared, cleanup };
        stage.prepared.manifest.save(&stage.manifest_path())?;
        // Runs on one host at one time must not take each other's instances for peers; TOML has
        // signed numbers.
        let cluster = Random::new(fresh_seed()).next_u64() >> 1;
        let key = folder.join("cluster.key");
        write_key(&key).map_err(io_error("write the cluster key"))?;
        let most = stage.all_instances().count();
        for instance in stage.all_instances() {
            let arena_mib = stage.arena_mib();
            let members = if instance == stage.newcomer() { most } else { options.nodes.into() };
            let mut text = config(instance, members, cluster, &storage, &key, arena_mib);
            text.push_str(&format!("members_max = {most}\n"));
            text.push_str(&links(options.transport.name(), rdma));
            if let Some(pages) = options.cache_pages {
                text.push_str(&format!("cache_pages = {pages}\n"));
            }
            fs::write(stage.config_path(instance), text)
                .map_err(io_error("write an instance's configuration"))?;
        }
        Ok(stage)
    }

    /// Those that are there from the start.
    pub(super) fn instances(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (0..self.options.nodes).map(InstanceId)
    }

    /// The first ones, and the one that joins.
    fn all_instances(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (0..self.options.nodes + u16::from(self.options.join)).map(InstanceId)
    }

    /// The instance that joins in mid-run.
    pub(super) fn newcomer(&self) -> InstanceId {
        InstanceId(self.options.nodes)
    }

    /// The instance that leaves in mid-run.
    pub(super) fn leaver(&self) -> InstanceId {
        InstanceId(1)
    }

    fn manifest_path(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    fn config_path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(format!("instance-{instance}.toml"))
    }

    fn log_path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(format!("transfers-{instance}.log"))
    }

    fn arena_mib(&self) -> u32 {
        let pages_per_mib = (1 << 20) / PAGE_SIZE.bytes_u32();
        let relation_mib = self.prepared.manifest.page_count.div_ceil(pages_per_mib);
        (relation_mib + ARENA_IN_FLIGHT_MIB).clamp(*ARENA_MIB.start(), *ARENA_MIB.end())
    }

    pub(super) fn setting(&self) -> Setting {
        let manifest = &self.prepared.manifest;
        Setting {
            nodes: self.options.nodes,
            asked: self.options.transport.name(),
            pages: manifest.page_count,
            accounts: manifest.account_count() as u64,
            threads: self.options.threads,
            seed: self.seed,
            seconds: self.options.seconds,
        }
    }

    /// The file with `view`.
    pub(super) fn write_view(&self, view: &View) -> Result<PathBuf, DemoError> {
        let file = self.folder.join(format!("view-{}", view.epoch()));
        // Whole or not at all: instances that have begun may be reading it.
        let begun = file.with_extension("new");
        fs::write(&begun, view.encode())
            .and_then(|()| fs::rename(&begun, &file))
            .map_err(io_error("write a view"))?;
        Ok(file)
    }

    /// What starts `instance`, a member of `view`, with that view.
    pub(super) fn node_command(
        &self,
        instance: InstanceId,
        view: &View,
    ) -> Result<Command, DemoError> {
        let file = self.write_view(view)?;
        let incarnation = view.member(instance).map_or(0, |member| member.incarnation.0);
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--config").arg(self.config_path(instance)).arg("--agent");
        command.arg("--manifest").arg(self.manifest_path());
        command.arg("--log").arg(self.log_path(instance));
        command.arg("--threads").arg(self.options.threads.to_string());
        command.arg("--seed").arg(self.seed.to_string());
        command.arg("--view").arg(file).arg("--incarnation").arg(incarnation.to_string());
        // When one instance ends, the others warn of it until they are ended: the coordinator's one
        // line says it all.
        if std::env::var_os("PAGEWIRE_LOG").is_none() {
            command.env("PAGEWIRE_LOG", "error");
        }
        Ok(command)
    }

    /// Lets a process that shares nothing with the instances judge the files they left.
    pub(super) fn judge(&self, transfers: u64) -> Result<Verification, DemoError> {
        let mut command = Command::new(&self.program);
        command.arg("verify").arg("--manifest").arg(self.manifest_path());
        command.arg("--relation").arg(&self.prepared.path);
        for instance in self.all_instances() {
            command.arg("--log").arg(self.log_path(instance));
        }
        command.arg("--transfers").arg(transfers.to_string()).arg("--json");
        // Replaying is far faster than the run was; the step's time is for reading a large relation.
        let timeout = STEP_TIMEOUT + 2 * Duration::from_secs(self.options.seconds);
        let (status, text) =
            child::run_helper(&mut command, "the verifier", timeout, &self.cleanup)?;
        serde_json::from_str(&text).map_err(|_| DemoError::NoVerdict { status: status.to_string() })
    }
}

/// A seed that every JSON reader can hold.
pub(super) fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = now.as_secs().wrapping_mul(1_000_000_000) + u64::from(now.subsec_nanos());
    Random::stream(nanoseconds, u64::from(std::process::id())).next_u64() >> 32
}

/// Makes a key that this run's instances share, and nobody else.
fn write_key(path: &Path) -> io::Result<()> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    // As text: bytes of any value could end in a newline, which is no part of a key.
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The configuration of one instance; its peers' addresses come once they are known.
fn config(
    instance: InstanceId,
    members: usize,
    cluster: u64,
    storage: &Path,
    cluster_key: &Path,
    arena_mib: u32,
) -> String {
    // A JSON string is a TOML basic string.
    let ring = storage.with_file_name(format!("si-ring-{instance}"));
    let [storage, cluster_key, ring] = [storage, cluster_key, ring.as_path()]
        .map(|path| serde_json::Value::from(path.to_string_lossy()));
    let members: Vec<usize> = (0..members).collect();
    format!(
        "cluster = {cluster}\n\
         instance = {instance}\n\
         members = {members:?}\n\
         listen = \"127.0.0.1:0\"\n\
         storage = {storage}\n\
         cluster_key = {cluster_key}\n\
         si_ring = {ring}\n\
         si_ring_entries = 4096\n\
         page_size = {}\n\
         arena_mb = {arena_mib}\n",
        PAGE_SIZE.bytes()
    )
}

/// What the instances' links may be on, in lines of their configuration.
fn links(transport: &str, rdma: &Overrides) -> String {
    let mut text = format!("transport = \"{transport}\"\n");
    let device = rdma.device.as_deref().map(serde_json::Value::from);
    let numbers = [("rdma_port", rdma.port.map(u32::from)), ("rdma_gid_index", rdma.gid_index)];
    text.extend(device.map(|device| format!("rdma_device = {device}\n")));
    text.extend(numbers.iter().filter_map(|(key, n)| Some(format!("{key} = {}\n", (*n)?))));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_told_its_members_and_storage() {
        let (storage, key) = (Path::new("/tmp/a \"b\""), Path::new("/tmp/cluster.key"));
        let text = config(InstanceId(1), 3, 77, storage, key, 32);
        for line in [
            "cluster = 77",
            "instance = 1",
            "members = [0, 1, 2]",
            "listen = \"127.0.0.1:0\"",
            r#"storage = "/tmp/a \"b\"""#,
            r#"cluster_key = "/tmp/cluster.key""#,
            "page_size = 8192",
            "arena_mb = 32",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn an_instance_is_told_what_its_links_may_be_on() {
        assert_eq!(links("auto", &Overrides::default()), "transport = \"auto\"\n");
        let rdma = Overrides { device: Some("rxe0".to_owned()), port: Some(1), gid_index: Some(0) };
        let storage = Path::new("/tmp/storage");
        let key = Path::new("/tmp/cluster.key");
        let text = config(InstanceId(1), 3, 77, storage, key, 32) + &links("verbs", &rdma);
        let config = crate::NodeConfig::parse(&text, Path::new("node.toml")).expect("parsed");
        assert_eq!(config.transport, pagewire_transport::LinkPolicy::Verbs);
        assert_eq!(config.rdma, rdma);
    }

    #[test]
    fn the_key_of_a_run_is_a_key_and_another_one_each_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = ["a", "b"].map(|name| {
            let path = folder.path().join(name);
            write_key(&path).expect("written");
            pagewire_transport::ClusterKey::from_file(&path).expect("a key");
            fs::read(&path).expect("read")
        });
        assert_ne!(keys[0], keys[1]);
        assert!(write_key(&folder.path().join("a")).is_err(), "a file that is there is left alone");
    }
}
