//! `pagewire`: runs one instance, or a whole demonstration of three.

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use pagewire_node::{
    NodeConfig, agent, demo, doctor,
    instance::NodeInstance,
    link_lines::LinkLines,
    ring_watch::{RingProblem, RingWatch},
    roster::Roster,
    runtime::Node,
    si_cmd,
    status::{self, NodeFacts, StatusError},
    storage_watch::{Look, News, StorageWatch, Watched},
    store::marks::Marks,
    view::View,
};
use pagewire_protocol::{Incarnation, InstanceId};
use std::{
    error::Error,
    io::{self, BufReader, IsTerminal, Write, stdin, stdout},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often an instance looks whether its peers are up.
const PEERS_CHECK: Duration = Duration::from_millis(50);
/// How often it looks whether a peer refuses it, once they were.
const WHOLE_CHECK: Duration = Duration::from_millis(500);

/// What the help of the whole and of each command ends with.
const ENVIRONMENT: &str = "\
Environment:
  PAGEWIRE_LOG  What is logged to standard error: error, warn, info, debug or trace, also by module,
                for example warn,pagewire_transport=debug [default: warn]";

const EXIT: &str = "\
Exit status:
  0  done; 1  it failed, or the answer is no; 2  the arguments are wrong;
  128 + N  ended by signal N (130: Ctrl-C, 143: SIGTERM)";

/// Ships database blocks between the instances of a shared-storage cluster
#[derive(Debug, Parser)]
#[command(name = "pagewire", version, after_help = format!("{ENVIRONMENT}\n\n{EXIT}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a small cluster on this host, move money between pages, prove that nothing was lost
    #[command(after_help = demo_help(), long_about = DEMO)]
    Demo(demo::DemoOptions),
    /// Run one instance until it is ended
    #[command(after_help = format!("{NODE_KEYS}\n\n{ENVIRONMENT}"), long_about = NODE)]
    Node(NodeOptions),
    /// Say what a running node says of itself: its peers, and what messages with them go over
    #[command(after_help = format!("{STATUS_EXIT}\n\n{ENVIRONMENT}"), long_about = STATUS)]
    Status(status::StatusOptions),
    /// Say what the directory knows of one page: who holds it, in which mode, who waits
    #[command(after_help = format!("{PAGE_EXIT}\n\n{ENVIRONMENT}"), long_about = PAGE)]
    Page(status::PageOptions),
    /// Say what this host offers and what to change
    #[command(after_help = doctor_help(), long_about = DOCTOR)]
    Doctor(doctor::DoctorOptions),
    /// Look into the invalidations that reach an instance
    #[command(after_help = ENVIRONMENT)]
    Si(si_cmd::SiOptions),
    /// Replay the transfer logs of a finished demo against its page file
    #[command(after_help = ENVIRONMENT)]
    Verify(demo::verify_cmd::VerifyOptions),
}

const DEMO: &str = "\
Runs a small cluster on this host, moves money between pages, and proves that nothing was lost.

Each instance is a process of its own. A separate process replays what they logged against the
pages they left.";

fn demo_help() -> String {
    format!(
        "\
Verdict, the last line of the table (`verdict` in JSON):
  VERIFIED         money moved, and every update, checksum and the total came out; exit status 0
  NOTHING TO MOVE  fewer than 2 pages of --pages have room for an account: any number of pages is
                   taken and comes back unharmed, but nothing moved; exit status 0
  NOT VERIFIED     something was lost or damaged, told line by line; exit status 1

Ctrl-C and SIGTERM stop all instances and remove every file; exit status 130 or 143. What a demo
that was killed left in TMPDIR is removed when another one starts.

{ENVIRONMENT}"
    )
}

const DOCTOR: &str = "\
Says what this host offers and what to change: huge pages, overcommit, limits, cores, clock, TCP,
RDMA devices, core files; with --config also storage, address, key file, status socket, SI ring,
cores and arena of one instance. It changes nothing.";

const STATUS: &str = "\
Says what a running node says of itself: how long it runs, whether its storage is there and its peers'
the same, and for each peer what messages go over (RDMA verbs or TCP), why not verbs with the reasons
counted by name and end, links that came and went, and messages; connections that were turned away, by
reason; whether the ring for invalidations is there; for each member of the cluster the partitions of
the directory that it masters, whether pages in them can be had, and how many pages it holds S and X,
has to write, or keeps as past images. Asks over the node's local socket, which is its user's alone.";

const PAGE: &str = "\
Says what the directory knows of one page: its master, owner, mode and holders, who waits for it,
who keeps past images, its grant number, and its version known and on storage. Asks the node on this
host over its local socket, and that asks the page's master.";

const STATUS_EXIT: &str = "\
Exit status: 0 when the node answered, 1 when there is none, or something else in its place.";

const PAGE_EXIT: &str = "\
Exit status: 0 when the page's master told of it, 1 when it has no entry of the page (nobody has held
it), cannot be asked, or no node answers here.";

fn doctor_help() -> String {
    format!(
        "\
Each line begins with what is to be done:
  OK      nothing
  note    nothing has to be; the host could serve Pagewire better
  CHANGE  Pagewire does not run as configured, or cannot use an RDMA device that is there

Exit status: 0 when there is no CHANGE, 1 when there is one.

{ENVIRONMENT}"
    )
}

const NODE_KEYS: &str = "\
Keys of the file, with what they are when they are left out; relative paths are taken from the folder
that the command is started in:
  cluster = 42                  a number, the same on all instances
  instance = 0                  0 to 63, its own on each
  listen = \"10.0.0.1:7400\"     IP:PORT
  storage = \"/srv/shared\"      folder of the page files that all instances share
  members = [0, 1]              this instance and its peers
  members_max = 2               1 to 64: more than `members` has, where some may join later [as
                                many as members]
  page_size = 8192              4096, 8192, 16384 or 32768
  arena_mb = 64                 memory for pages, in MiB
  cache_pages = 4000            32 or more [as many as the arena has room for]
  huge_pages = true             if the host has them
  lock_memory = false           keep that memory from being swapped out
  dump_memory = false           leave the pages in core files
  shards = 1                    1 to 64, the same on all instances: threads that move pages, each
                                with its share of memory and a port; shard n has that of listen + n
  poller_cores = [2]            a core for each shard [any]
  spin_us = 0                   0 to 1000000: how long an idle shard spins before it sleeps; more
                                than 0 only with cores to spare
  io_threads = 2                1 to 64
  acquire_timeout_ms = 30000    longest wait for a page
  keepalive_ms = 1000           a link that has nothing to say says so this often; more often to a
                                peer whose peer_timeout_ms wants it
  peer_timeout_ms = 10000       a link that is silent for so long is taken down; at least twice
                                keepalive_ms
  page_crc = true               a CRC-32C on every page that is sent
  cluster_key = \"/etc/pagewire/cluster.key\"
                                the same key on all instances, in a file of mode 0600: 32 to 4096
                                bytes, for example of `openssl rand -hex 32` [none]
  transport = \"auto\"            auto: RDMA verbs with peers where both ends can, TCP with others;
                                verbs: nothing else; tcp
  rdma_device = \"mlx5_0\"        [chosen by the address of listen, as are the two that follow]
  rdma_port = 1                 1 to 255
  rdma_gid_index = 3            0 to 255
  si_ring = \"/dev/shm/pagewire-42-0.si\"   where other processes read invalidations
  si_ring_entries = 65536       a power of two; a reader further behind resets
  status_socket = \"/run/pagewire/42-0.sock\"
                                where `pagewire status` asks [CLUSTER-INSTANCE.sock in the first of
                                $XDG_RUNTIME_DIR/pagewire, /run/pagewire and $TMPDIR/pagewire-UID
                                that can be had]
  [[peers]]                     one for each other instance
  instance = 1
  address = \"10.0.0.2:7400\"    IP:PORT";

const NODE: &str = "\
Runs one instance until it is ended.

Tells on standard output where it listens, whom it waits for (again every 30 s), and each instance
that comes up; also whether messages with it go over RDMA verbs or TCP, and why. Ends by itself only
when a peer refuses it for good, and has proven to be one. `pagewire doctor --config FILE` checks the
same file against this host first.";

#[derive(Debug, Args)]
struct NodeOptions {
    /// TOML file of this instance
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    ledger: LedgerOptions,
}

/// What the demo gives the instances it starts.
#[derive(Debug, Args)]
struct LedgerOptions {
    /// Take commands from standard input and run the ledger (used by the demo).
    #[arg(long, requires_all = ["manifest", "log"], hide = true)]
    agent: bool,
    /// Manifest of the prepared relation.
    #[arg(long, requires = "agent", hide = true)]
    manifest: Option<PathBuf>,
    /// Transfer log to write.
    #[arg(long, requires = "agent", hide = true)]
    log: Option<PathBuf>,
    /// Worker threads.
    #[arg(long, default_value_t = 2, hide = true)]
    threads: u32,
    /// Seed of the workers.
    #[arg(long, default_value_t = 0, hide = true)]
    seed: u64,
    /// File with the view to begin with.
    #[arg(long, requires_all = ["agent", "incarnation"], hide = true)]
    view: Option<PathBuf>,
    /// Life that the instance has in it.
    #[arg(long, requires = "view", hide = true)]
    incarnation: Option<u64>,
}

fn main() -> ExitCode {
    // Standard output belongs to results; logs go to standard error.
    let filter = log_filter(std::env::var("PAGEWIRE_LOG").ok());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A file or a journal has no use for colours. On a terminal it is as it was made: colours are a feature
    // of the library, and asked for without it they are an error.
    let log = if std::io::stderr().is_terminal() { log } else { log.with_ansi(false) };
    // Whoever reads it may have gone, and there is nobody else to tell.
    log.log_internal_errors(false).init();
    if let Err(error) = demo::cleanup::survive_file_size_limit() {
        tracing::info!("a file at its size limit will end this process: {error}");
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("pagewire: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn log_filter(wanted: Option<String>) -> tracing_subscriber::EnvFilter {
    let usual = || tracing_subscriber::EnvFilter::new("warn");
    let Some(wanted) = wanted else { return usual() };
    tracing_subscriber::EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        say(&format!(
            "pagewire: PAGEWIRE_LOG is '{wanted}', expected error, warn, info, debug or trace, also \
             by module ({error}): taking warn"
        ));
        usual()
    })
}

/// A line for the operator, who may have closed the other end of it.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Help and version as they are; what is wrong with the arguments in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    say(&format!("pagewire: {}; see --help", lines.join(" ")));
    ExitCode::from(2)
}

fn run(command: Command) -> Result<bool, Box<dyn Error>> {
    match command {
        Command::Demo(options) => Ok(demo::run(&options)?),
        Command::Doctor(options) => {
            let refused =
                |error| format!("cannot write to standard output: {error}; check where it goes");
            Ok(doctor::run(&options).map_err(refused)?)
        }
        Command::Status(options) => {
            let config = NodeConfig::load(&options.config)?;
            Ok(status::run(&options, &config).map(|()| true)?)
        }
        Command::Page(options) => {
            let config = NodeConfig::load(&options.config)?;
            Ok(status::page::run(&options, &config).map(|()| true)?)
        }
        Command::Si(options) => Ok(si_cmd::run(&options).map(|()| true)?),
        Command::Verify(options) => Ok(demo::verify_cmd::run(&options)?),
        Command::Node(options) => {
            let config = NodeConfig::load(&options.config)?;
            match options.ledger {
                LedgerOptions {
                    agent: true,
                    manifest: Some(manifest),
                    log: Some(log),
                    threads,
                    seed,
                    view,
                    incarnation,
                } => {
                    let config = in_view(config, view.as_deref(), incarnation)?;
                    let options = agent::Options { manifest, log, threads, seed };
                    run_agent(config, &options)
                }
                _ => serve(&config, &options.config).map(|()| true),
            }
        }
    }
}

/// `config` of an instance that begins in a view which somebody has decided.
fn in_view(
    config: NodeConfig,
    view: Option<&Path>,
    incarnation: Option<u64>,
) -> Result<NodeConfig, Box<dyn Error>> {
    let Some(path) = view else { return Ok(config) };
    let refused = |error: &dyn Error| format!("view {}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| refused(&error))?;
    let view = View::decode(&bytes).map_err(|error| refused(&error))?;
    let incarnation = incarnation.map(Incarnation);
    Ok(NodeConfig { first_view: Some(Arc::new(view)), incarnation, ..config })
}

/// Runs the demo's part of an instance. What the coordinator was told, it tells the user.
fn run_agent(config: NodeConfig, options: &agent::Options) -> Result<bool, Box<dyn Error>> {
    let instance = match NodeInstance::start(config) {
        Ok(instance) => instance,
        Err(error) => return Ok(agent::refuse(error.to_string(), stdout()).map(|()| false)?),
    };
    match agent::run(instance, options, BufReader::new(stdin()), stdout()) {
        Err(error) if error.is_told() => Ok(false),
        ended => Ok(ended.map(|()| true)?),
    }
}

/// Runs an instance until it is killed, or a peer refuses it for good.
fn serve(config: &NodeConfig, path: &Path) -> Result<(), Box<dyn Error>> {
    config.check_peers(path)?;
    let node = Arc::new(Node::start(config)?);
    let (watched, ring_problem) = (Watched::default(), RingProblem::default());
    let facts = NodeFacts::new(Arc::clone(&node), config, watched.clone(), ring_problem.clone());
    let status = offer_status(config, facts)?;
    if let Some(server) = &status
        && let Err(error) = server.file().remove_at_signals()
    {
        tracing::warn!("the status socket will stay behind when a signal ends this node: {error}");
    }
    let (instance, incarnation) = node.identity();
    tell(&format!(
        "instance {instance} of cluster {}, incarnation {incarnation}, listens on {}",
        config.cluster,
        places(&node.listen_addresses())
    ));
    if let Some(server) = &status {
        tell(&format!(
            "`pagewire status --config FILE` asks at {}",
            server.file().path().display()
        ));
    }
    let peers = config.members.iter().copied().filter(|id| *id != config.instance);
    let mut storage =
        StorageWatch::new(instance, incarnation, node.marks().folder(), Instant::now());
    let mut ring = node.si_ring_path().and_then(|path| watch_ring(path, ring_problem));
    let (mut roster, line) = Roster::new(peers, Instant::now());
    tell(&line);
    let mut link_lines = LinkLines::new(config.transport);
    loop {
        let missing = node.peers_missing()?;
        roster.observe(&missing, Instant::now()).iter().for_each(|line| tell(line));
        link_lines.observe(&node.links()).iter().for_each(|line| tell(line));
        watch_storage(&mut storage, &node);
        watched.set(storage.found());
        if let Some(line) = ring.as_mut().and_then(|ring| ring.observe(Instant::now())) {
            tracing::warn!("{line}");
        }
        let pause = if roster.was_whole() { WHOLE_CHECK } else { PEERS_CHECK };
        std::thread::park_timeout(pause);
    }
}

/// The storage as the watch sees it.
struct Storage<'a>(&'a Marks);

impl Look for Storage<'_> {
    fn mark(&mut self, instance: InstanceId) -> Option<Incarnation> {
        self.0.of(instance).unwrap_or_else(|error| {
            tracing::debug!("{error}");
            None
        })
    }

    fn storage(&mut self) -> Result<(), String> {
        self.0.still_there()
    }
}

/// Looks whether the storage is there, whether the peers' is the same, and nobody else's.
fn watch_storage(watch: &mut StorageWatch, node: &Node) {
    let marks = node.marks();
    let (linked, gone) = (node.linked_lives(), status::gone_lives(node));
    for news in watch.observe(&linked, &gone, Instant::now(), &mut Storage(marks)) {
        match news {
            News::Tell(line) => tracing::error!("{line}"),
            News::Over(line) => tracing::warn!("{line}"),
            News::LeaveAgain => {
                let (instance, incarnation) = node.identity();
                if let Err(error) = marks.leave(instance, incarnation) {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}

/// Looks at the ring's file; an instance goes without rather than not at all.
fn watch_ring(path: &Path, problem: RingProblem) -> Option<RingWatch> {
    RingWatch::new(path, problem, Instant::now())
        .inspect_err(|error| tracing::warn!("SI ring {} is not watched: {error}", path.display()))
        .ok()
}

/// Answers `pagewire status`. Where the configuration names no place, an instance goes without rather
/// than not at all.
fn offer_status(
    config: &NodeConfig,
    facts: NodeFacts,
) -> Result<Option<status::Server>, StatusError> {
    match status::Server::start(&status::Places::of(config), facts) {
        Err(error) if config.status_socket.is_none() => {
            tracing::warn!("{error}");
            Ok(None)
        }
        started => started.map(Some),
    }
}

/// Where the shards listen, which is on ports in a row.
fn places(addresses: &[SocketAddr]) -> String {
    match addresses {
        [only] => only.to_string(),
        [first, .., last] => {
            format!("{first} to {}, {} shards", last.port(), addresses.len())
        }
        [] => String::new(),
    }
}

/// A line for whoever watches; nobody has to.
fn tell(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}
