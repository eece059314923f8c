//! `pagewire si`: looks into the SI ring of an instance on this host, as any other reader does.
//!
//! Rooms: `tail` follows the ring, `text` says in a line what it met. Nothing is asked of the node: a
//! ring is a file, and its writer does not know who reads it.

mod tail;
mod text;

use crate::{NodeConfig, config::ConfigError};
use pagewire_protocol::ClusterId;
use pagewire_si::RingError;
use std::{io, path::PathBuf};

/// Look into the invalidations that reach an instance
#[derive(Debug, Clone, clap::Args)]
pub struct SiOptions {
    #[command(subcommand)]
    command: SiCommand,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum SiCommand {
    /// Print invalidations as they arrive, and resets
    #[command(after_help = TAIL_EXIT, long_about = TAIL)]
    Tail(TailOptions),
}

const TAIL: &str = "\
Prints the invalidations that arrive in an instance's SI ring from now on, a line each, with the ring's
sequence and the instance that published it; and each time when readers had to reset their caches. Says
so when the ring has no writer, and goes on with the next one; waits a minute for a ring that was
removed. Ctrl-C ends it.";

const TAIL_EXIT: &str = "\
Exit status: 0 after --count messages, 1 when there is no ring or it cannot be read, 130 after Ctrl-C.

Environment:
  PAGEWIRE_LOG  What is logged to standard error, as `pagewire --help` has it [default: warn]";

#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ring", "config"]))]
struct TailOptions {
    /// The ring's file
    #[arg(value_name = "RING")]
    ring: Option<PathBuf>,
    /// TOML file of the instance whose ring it is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Why the invalidations of an instance cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiError {
    /// The instance's file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no ring that can be read.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Standard output takes nothing.
    #[error("cannot write to standard output: {0}; check where it goes")]
    Output(#[from] io::Error),
}

/// Where the ring of the instance of `config` is.
#[must_use]
pub fn ring_of(config: &NodeConfig) -> PathBuf {
    let usual = || pagewire_si::default_path(config.cluster, config.instance);
    config.si_ring.clone().unwrap_or_else(usual)
}

/// Which ring is followed, and for whom.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    cluster: ClusterId,
}

impl Source {
    fn of(options: &TailOptions) -> Result<Self, SiError> {
        if let Some(file) = &options.config {
            let config = NodeConfig::load(file)?;
            return Ok(Self { path: ring_of(&config), cluster: config.cluster });
        }
        let path = options.ring.clone().unwrap_or_default();
        let cluster = pagewire_si::cluster_of(&path)?;
        Ok(Self { path, cluster })
    }
}

/// Runs the command.
///
/// # Errors
/// [`SiError`].
pub fn run(options: &SiOptions) -> Result<(), SiError> {
    let SiCommand::Tail(options) = &options.command;
    let source = Source::of(options)?;
    tail::follow(&source, options.count, options.json, &mut io::stdout().lock())
}
