//! `pagewire`: runs one instance, or a whole demonstration of three.

use clap::{Args, Parser, Subcommand};
use pagewire_node::{
    NodeConfig, agent, demo,
    instance::NodeInstance,
    runtime::{Node, NodeError},
};
use std::{
    error::Error,
    io::{BufReader, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

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
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pagewire: {error}");
            ExitCode::FAILURE
        }
    }
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
                    let instance = NodeInstance::start(config)?;
                    let options = agent::Options { manifest, log, threads, seed };
                    agent::run(instance, &options, BufReader::new(stdin()), stdout())?;
                }
                _ => serve(&config)?,
            }
            Ok(true)
        }
    }
}

/// Runs an instance until it is killed, or a peer refuses it.
fn serve(config: &NodeConfig) -> Result<(), NodeError> {
    let node = Node::start(config)?;
    let (instance, incarnation) = node.identity();
    println!(
        "instance {instance} of cluster {}, incarnation {incarnation}, listens on {}",
        config.cluster,
        node.listen_address()
    );
    let peers = config.members.len() - 1;
    match node.wait_for_peers(Duration::from_secs(3600)) {
        Ok(()) => println!("all {peers} peers are up"),
        Err(error) => return Err(error),
    }
    loop {
        std::thread::park_timeout(Duration::from_secs(1));
        if let Some(refusal) = node.refusal()? {
            return Err(NodeError::Refused(refusal));
        }
    }
}
