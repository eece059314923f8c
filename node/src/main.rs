//! `pagewire`: runs one instance, or a whole demonstration of three.

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use pagewire_node::{NodeConfig, agent, demo, instance::NodeInstance, runtime::Node};
use std::{
    error::Error,
    io::{BufReader, Write, stdin, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// How often an instance looks whether its peers are up.
const PEERS_CHECK: Duration = Duration::from_millis(50);
/// How often it looks whether a peer refuses it, once they were.
const WHOLE_CHECK: Duration = Duration::from_millis(500);

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Ships database blocks between the instances of a shared-storage cluster"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start several instances, let them move money between shared pages, and prove that nothing
    /// was lost.
    Demo(demo::DemoOptions),
    /// Run one instance.
    Node(NodeOptions),
    /// Replay the transfer logs of a demo against its page file.
    Verify(demo::verify_cmd::VerifyOptions),
}

#[derive(Debug, Args)]
struct NodeOptions {
    /// TOML file of this instance.
    #[arg(long)]
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
}

fn main() -> ExitCode {
    // Standard output belongs to results; logs go to standard error. PAGEWIRE_LOG sets the level.
    let filter = tracing_subscriber::EnvFilter::try_from_env("PAGEWIRE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pagewire: {error}");
            ExitCode::FAILURE
        }
    }
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
    eprintln!("pagewire: {}; see --help", lines.join(" "));
    ExitCode::from(2)
}

fn run(command: Command) -> Result<bool, Box<dyn Error>> {
    match command {
        Command::Demo(options) => Ok(demo::run(&options)?),
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
                } => {
                    let options = agent::Options { manifest, log, threads, seed };
                    run_agent(config, &options)
                }
                _ => serve(&config, &options.config).map(|()| true),
            }
        }
    }
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
    let node = Node::start(config)?;
    let (instance, incarnation) = node.identity();
    tell(&format!(
        "instance {instance} of cluster {}, incarnation {incarnation}, listens on {}",
        config.cluster,
        node.listen_address()
    ));
    let peers = config.members.len() - 1;
    let mut is_told = false;
    loop {
        let is_whole = node.peers_missing()?.is_empty();
        if is_whole && !is_told {
            tell(&format!("all {peers} peers are up"));
        }
        is_told |= is_whole;
        std::thread::park_timeout(if is_told { WHOLE_CHECK } else { PEERS_CHECK });
    }
}

/// A line for whoever watches; nobody has to.
fn tell(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}
