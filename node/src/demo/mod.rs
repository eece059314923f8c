//! `pagewire demo`: a cluster of processes on this host, a ledger on it, and the proof that no update
//! was lost.
//!
//! ```text
//!  prepare relation --> N x `pagewire node --agent` (children) --> `pagewire verify` --> report
//!                        listening, peers, ready, start ... stop, flush, quit
//! ```
//! Purpose: the coordinator. It touches no page: it prepares the files, starts and paces the
//! instances ([`child`]), lets a separate process judge what they left ([`verify_cmd`]) and prints
//! the outcome ([`report`]).
//!
//! Invariants: the source of `--pages` is only read; the temporary folder and every child are gone
//! when [`run`] returns, or a signal ended it ([`cleanup`]); what can be refused is refused before
//! anything is started; what came out is printed before it is kept ([`out`]), so that a result that
//! cannot be written costs nobody the table.

pub mod child;
pub mod cleanup;
mod out;
pub mod report;
pub mod verify_cmd;

use crate::{
    agent::lines::{Command as Order, Event, Report},
    ledger::{
        manifest::{GROUP_ACCOUNTS, ManifestError},
        relation::{self, Prepared, RelationError},
        verify::Verification,
    },
    random::Random,
};
use child::{ChildError, Fleet};
use cleanup::Cleanup;
use out::Out;
use pagewire_protocol::{InstanceId, PageSize};
use report::{DemoReport, Setting, grouped};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

/// How long the instances may take for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Page size of the demo's cluster.
const PAGE_SIZE: PageSize = PageSize::K8;
/// Pages of the made-up relation: few enough that instances meet, enough for all kinds of page.
const SYNTHETIC_PAGES: u32 = 600;
/// An arena holds the relation and what is in flight, within these bounds: a large relation is
/// evicted and read again.
const ARENA_MIB: std::ops::RangeInclusive<u32> = 32..=128;
const ARENA_IN_FLIGHT_MIB: u32 = 16;
/// Pages that a worker may need at a time, with some to spare: an audit holds a whole group.
const PAGES_PER_WORKER: u32 = 16;
const _: () = assert!(GROUP_ACCOUNTS + 1 < PAGES_PER_WORKER as usize);

/// Runs a small cluster on this host, moves money between pages, and proves that nothing was lost
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Instances, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(2..=4))]
    pub nodes: u16,
    /// How long the workload runs, in seconds
    #[arg(long, value_name = "S", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Work on a copy of this relation file (`relfile.1` is the relation's second segment);
    /// money moves when two of its pages have free space
    #[arg(long, value_name = "FILE")]
    pub pages: Option<PathBuf>,
    /// Keep the result here, with each page's original LSN: a regular file, replaced when it is whole
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What carries the pages; `auto` takes the best that this build has
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// Workers of each instance
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Pages that each instance caches at most: fewer than the relation has are given up and read
    /// again all the time [default: as many as there is room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..))]
    pub cache_pages: Option<u32>,
    /// Seed of the pages and of the workers' choices [default: another one each time]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    pub json: bool,
}

/// What carries the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// The best that this build has: TCP.
    Auto,
    /// TCP.
    Tcp,
}

/// Why the demo cannot run or finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A child failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The relation cannot be prepared or put back.
    #[error(transparent)]
    Relation(#[from] RelationError),
    /// The manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The result could not be kept.
    #[error("cannot write --out {}: {source}; give a path in a folder you may write to", path.display())]
    Out {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The result would go where no file can be.
    #[error(
        "--out {} is {found}, expected a regular file or a path where nothing is: give another path",
        path.display()
    )]
    OutNotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The result would overwrite its source.
    #[error(
        "--out {} is the same file as --pages; give another path, then put the result in place \
         yourself",
        path.display()
    )]
    OutIsSource {
        /// The path.
        path: PathBuf,
    },
    /// The workers of an instance may hold more pages at a time than it may cache.
    #[error(
        "--cache-pages is {found}, expected at least {expected} for {threads} workers that hold up \
         to {PAGES_PER_WORKER} pages each: raise it or lower --threads"
    )]
    CacheTooSmall {
        /// Pages to cache.
        found: u32,
        /// Fewest that will do.
        expected: u32,
        /// Workers of each instance.
        threads: u32,
    },
    /// The system refused.
    #[error("cannot {doing}: {source}; check TMPDIR, permissions and free space")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The verifier printed no verdict.
    #[error(
        "the verifier ended with {status} and no verdict, expected one; its error stands above"
    )]
    NoVerdict {
        /// How it ended.
        status: String,
    },
}

/// Runs the demo and prints its outcome; true when the verification passed and no audit failed.
///
/// A signal that ends it ends this process, in order and with 128 + its number.
///
/// # Errors
/// [`DemoError`] when it cannot run to its end, or its result cannot be kept. All children have
/// ended then.
pub fn run(options: &DemoOptions) -> Result<bool, DemoError> {
    check_cache(options)?;
    let cleanup = Cleanup::default();
    cleanup.at_signals().map_err(io_error("wait for signals"))?;
    let out = check_files(options, &cleanup)?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    let make =
        || tempfile::Builder::new().prefix("pagewire-demo-").tempdir().map(tempfile::TempDir::keep);
    let folder = cleanup.enter(make).map_err(io_error("make a temporary folder"))?;
    let stage = Stage::set(options, seed, folder.path(), cleanup.clone())?;
    let (elapsed, reports) = stage.play()?;
    let transfers = reports.iter().map(|report| report.transfers).sum();
    let found = stage.judge(transfers)?;
    let report = DemoReport::new(stage.setting(), elapsed, &reports, &found);
    print(&report, options.json).map_err(io_error("print the outcome"))?;
    match out {
        Some(out) if report.passed() => out.write(&stage.prepared, &cleanup)?,
        Some(_) => eprintln!("pagewire: --out is not written: the result is not verified"),
        None => {}
    }
    Ok(report.passed())
}

fn print(report: &DemoReport, json: bool) -> io::Result<()> {
    let text = if json { serde_json::to_string(report)? + "\n" } else { report.table() };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// Refuses a cache in which the workers would wait for each other's pages for good.
fn check_cache(options: &DemoOptions) -> Result<(), DemoError> {
    let (threads, expected) = (options.threads, options.threads * PAGES_PER_WORKER);
    match options.cache_pages {
        Some(found) if found < expected => {
            Err(DemoError::CacheTooSmall { found, expected, threads })
        }
        _ => Ok(()),
    }
}

/// Refuses what will not work at the end, before anything is started; returns where `--out` goes.
fn check_files(options: &DemoOptions, cleanup: &Cleanup) -> Result<Option<Out>, DemoError> {
    if let Some(pages) = &options.pages {
        relation::check_file(pages, PAGE_SIZE)?;
    }
    let check = |out: &Path| Out::check(out, options.pages.as_deref(), cleanup);
    options.out.as_deref().map(check).transpose()
}

/// A seed that every JSON reader can hold.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = now.as_secs().wrapping_mul(1_000_000_000) + u64::from(now.subsec_nanos());
    Random::stream(nanoseconds, u64::from(std::process::id())).next_u64() >> 32
}

/// Everything that is there before the first instance starts.
struct Stage<'o> {
    options: &'o DemoOptions,
    seed: u64,
    folder: &'o Path,
    program: PathBuf,
    prepared: Prepared,
    cleanup: Cleanup,
}

impl<'o> Stage<'o> {
    fn set(
        options: &'o DemoOptions,
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
        for instance in stage.instances() {
            let arena_mib = stage.arena_mib();
            let mut text = config(instance, options.nodes, cluster, &storage, &key, arena_mib);
            if let Some(pages) = options.cache_pages {
                text.push_str(&format!("cache_pages = {pages}\n"));
            }
            fs::write(stage.config_path(instance), text)
                .map_err(io_error("write an instance's configuration"))?;
        }
        Ok(stage)
    }

    fn instances(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (0..self.options.nodes).map(InstanceId)
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

    fn setting(&self) -> Setting {
        let manifest = &self.prepared.manifest;
        let transport = match self.options.transport {
            Transport::Auto | Transport::Tcp => "tcp",
        };
        Setting {
            nodes: self.options.nodes,
            transport,
            pages: manifest.page_count,
            accounts: manifest.account_count() as u64,
            threads: self.options.threads,
            seed: self.seed,
            seconds: self.options.seconds,
        }
    }

    /// Runs the instances; returns how long the workers worked and what each instance reports.
    fn play(&self) -> Result<(Duration, Vec<Report>), DemoError> {
        let mut fleet = Fleet::new(STEP_TIMEOUT, &self.cleanup);
        for instance in self.instances() {
            fleet.start(instance, &mut self.node_command(instance))?;
        }
        let listening = fleet.wait_all("listening")?;
        fleet.tell(&Order::Peers(addresses(&listening)));
        fleet.wait_all("ready")?;

        fleet.tell(&Order::Start);
        let started = Instant::now();
        let mut progress = Progress::new(started);
        let watched = fleet.watch(Duration::from_secs(self.options.seconds), |instance, event| {
            progress.show(instance, event);
        });
        progress.clear();
        watched?;
        fleet.tell(&Order::Stop);
        let elapsed = started.elapsed();
        fleet.wait_all("stopped")?;

        fleet.tell(&Order::Flush);
        fleet.wait_all("flushed")?;
        fleet.tell(&Order::Quit);
        let reports = reports(fleet.wait_all("report")?);
        fleet.finish()?;
        Ok((elapsed, reports))
    }

    fn node_command(&self, instance: InstanceId) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--config").arg(self.config_path(instance)).arg("--agent");
        command.arg("--manifest").arg(self.manifest_path());
        command.arg("--log").arg(self.log_path(instance));
        command.arg("--threads").arg(self.options.threads.to_string());
        command.arg("--seed").arg(self.seed.to_string());
        // When one instance ends, the others warn of it until they are ended: the coordinator's one
        // line says it all.
        if std::env::var_os("PAGEWIRE_LOG").is_none() {
            command.env("PAGEWIRE_LOG", "error");
        }
        command
    }

    /// Lets a process that shares nothing with the instances judge the files they left.
    fn judge(&self, transfers: u64) -> Result<Verification, DemoError> {
        let mut command = Command::new(&self.program);
        command.arg("verify").arg("--manifest").arg(self.manifest_path());
        command.arg("--relation").arg(&self.prepared.path);
        for instance in self.instances() {
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
    nodes: u16,
    cluster: u64,
    storage: &Path,
    cluster_key: &Path,
    arena_mib: u32,
) -> String {
    // A JSON string is a TOML basic string.
    let [storage, cluster_key] =
        [storage, cluster_key].map(|path| serde_json::Value::from(path.to_string_lossy()));
    let members: Vec<u16> = (0..nodes).collect();
    format!(
        "cluster = {cluster}\n\
         instance = {instance}\n\
         members = {members:?}\n\
         listen = \"127.0.0.1:0\"\n\
         storage = {storage}\n\
         cluster_key = {cluster_key}\n\
         page_size = {}\n\
         arena_mb = {arena_mib}\n",
        PAGE_SIZE.bytes()
    )
}

fn addresses(listening: &BTreeMap<InstanceId, Event>) -> Vec<(InstanceId, std::net::SocketAddr)> {
    let address = |(instance, event): (&InstanceId, &Event)| match event {
        Event::Listening { address } => Some((*instance, *address)),
        _ => None,
    };
    listening.iter().filter_map(address).collect()
}

fn reports(told: BTreeMap<InstanceId, Event>) -> Vec<Report> {
    let report = |event| match event {
        Event::Report(report) => Some(report),
        _ => None,
    };
    told.into_values().filter_map(report).collect()
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::Io { doing, source }
}

/// The line that a terminal shows while the workers work.
struct Progress {
    started: Instant,
    is_shown: bool,
    last: BTreeMap<InstanceId, [u64; 3]>,
}

impl Progress {
    fn new(started: Instant) -> Self {
        Self { started, is_shown: io::stderr().is_terminal(), last: BTreeMap::new() }
    }

    fn show(&mut self, instance: InstanceId, event: &Event) {
        let Event::Progress { transfers, audits, pages_shipped } = event else { return };
        self.last.insert(instance, [*transfers, *audits, *pages_shipped]);
        if self.is_shown {
            eprint!("\r\x1b[K{}", self.line(self.started.elapsed()));
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let sum = |field: usize| grouped(self.last.values().map(|counts| counts[field]).sum());
        let (transfers, audits, pages) = (sum(0), sum(1), sum(2));
        let elapsed_s = elapsed.as_secs_f64();
        format!("{elapsed_s:5.1} s  {transfers} transfers  {audits} audits  {pages} pages shipped")
    }

    fn clear(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: DemoOptions,
    }

    fn parse(words: &str) -> Result<DemoOptions, clap::Error> {
        let words = std::iter::once("demo").chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.options)
    }

    #[test]
    fn options_have_defaults_and_bounds() {
        let options = parse("").expect("defaults");
        assert_eq!((options.nodes, options.seconds, options.threads), (3, 5, 2));
        assert_eq!((options.transport, options.seed, options.json), (Transport::Auto, None, false));
        let options = parse("--nodes 4 --seconds 1 --transport tcp --seed 9 --json --pages a.1");
        assert_eq!(options.expect("parsed").pages, Some(PathBuf::from("a.1")));
        for words in [
            "--nodes 1",
            "--nodes 5",
            "--seconds 0",
            "--transport verbs",
            "--threads 0",
            "--cache-pages 31",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn a_cache_in_which_workers_wait_for_each_other_for_good_is_refused() {
        let check = |words| check_cache(&parse(words).expect("parsed"));
        check("--threads 64").expect("as many as there is room for");
        check("--threads 2 --cache-pages 32").expect("enough");
        let error = check("--threads 3 --cache-pages 47").expect_err("too few").to_string();
        assert!(error.contains("is 47, expected at least 48"), "{error}");
    }

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

    #[test]
    fn an_out_that_cannot_be_written_is_refused_before_the_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("pages"), vec![0; 8192]).expect("written");
        fs::write(path("kept"), "keep").expect("written");
        let check = |pages: &str, out: &str| {
            let mut options = parse("").expect("defaults");
            options.pages = Some(path(pages));
            options.out = Some(path(out));
            check_files(&options, &Cleanup::default())
        };
        check("pages", "new").expect("a new file");
        assert!(!path("new").exists(), "only tried");
        check("pages", "kept").expect("an old file");
        assert_eq!(fs::read(path("kept")).expect("read"), b"keep");
        let error = check("pages", "none/new").expect_err("no such folder").to_string();
        assert!(error.starts_with("cannot write --out"), "{error}");
        assert!(matches!(check("pages", "pages"), Err(DemoError::OutIsSource { .. })));
        assert!(matches!(check("kept", "new"), Err(DemoError::Relation(_))));
    }

    #[test]
    fn progress_adds_up_what_the_instances_told_last() {
        let mut progress = Progress { started: Instant::now(), is_shown: false, last: [].into() };
        for (instance, transfers) in [(0, 1000), (1, 5), (0, 2000)] {
            let event = Event::Progress { transfers, audits: 1, pages_shipped: 2 };
            progress.show(InstanceId(instance), &event);
        }
        let line = progress.line(Duration::from_millis(1500));
        assert_eq!(line, "  1.5 s  2,005 transfers  2 audits  4 pages shipped");
    }
}
