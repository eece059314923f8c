//! `pagewire doctor`: what this host offers Pagewire, and what to change.
//!
//! ```text
//!  /proc /sys /lib --gather--> HostFacts --+
//!                                          +--judge--> findings --> text or JSON, exit status
//!  configuration ----try_out--> Plan ------+
//! ```
//! Purpose: each finding says what was found, what is expected, and the command or setting that
//! changes it. `gather` reads, `judge` is pure, so that a made-up `/proc` and `/sys` is as good as a
//! real one for a test.
//!
//! Exit status: 0 when this host runs Pagewire (as the given configuration says), also with notes;
//! 1 when something is to be changed first: Pagewire would not start, or not do what the
//! configuration says, or could not use an RDMA device that is there.
//!
//! JSON, one object:
//!
//! ```json
//! {"ok": false, "changes": 1, "notes": 3, "findings": [
//!   {"level": "ok" | "note" | "change", "area": "memory", "subject": "vm.overcommit_memory",
//!    "found": "2 (strict), 12 MiB left to commit", "expected": "0 or 1, or room for ...",
//!    "change": "sysctl -w vm.overcommit_memory=0, ..." | null}]}
//! ```
//! Areas: memory, cpu, limits, network, rdma, configuration. Subjects and words may change between
//! versions; levels, areas and the fields' names stay.

pub mod facts;
mod finding;
mod gather;
mod judge;
mod plan;
mod ring;
mod socket;

pub use finding::{Finding, Level};
pub use gather::gather;
pub use judge::judge;
pub use plan::{KeyFile, Plan, Running, StorageUse, Trial};
pub use ring::{RingFound, RingPlace};
pub use socket::{SocketPlace, SocketProblem};

use serde::Serialize;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Says what this host offers, and what to change
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorOptions {
    /// Check this instance's TOML file against the host, too
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One JSON object on standard output instead of lines
    #[arg(long)]
    pub json: bool,
    /// Look for `/proc`, `/sys`, `/lib` and `/etc` below this folder
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    pub root: PathBuf,
}

/// Everything that was found, with its sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Nothing is to be changed.
    pub ok: bool,
    /// How many things are to be changed.
    pub changes: usize,
    /// How many notes there are.
    pub notes: usize,
    /// All findings, by area.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Adds up `findings`.
    #[must_use]
    pub fn new(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (changes, notes) = (count(Level::Change), count(Level::Note));
        Self { ok: changes == 0, changes, notes, findings }
    }

    fn write(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
        } else {
            self.findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
            writeln!(out, "\n{}", self.summary())?;
        }
        out.flush()
    }

    fn summary(&self) -> String {
        let (notes, changes) = (self.notes, self.changes);
        let notes = if notes == 1 { "1 note".to_owned() } else { format!("{notes} notes") };
        match changes {
            0 => format!("This host runs Pagewire; {notes}."),
            1 => format!("1 thing is to be changed; {notes}."),
            _ => format!("{changes} things are to be changed; {notes}."),
        }
    }
}

/// Gathers and judges everything below `root` for the configuration at `config`, if one is given.
#[must_use]
pub fn diagnose(root: &Path, config: Option<&Path>) -> Diagnosis {
    let plan = config.map_or_else(Plan::default, Plan::try_out);
    Diagnosis::new(judge(&gather(root), &plan))
}

/// Prints the diagnosis; true when nothing is to be changed.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(options: &DoctorOptions) -> io::Result<bool> {
    let diagnosis = diagnose(&options.root, options.config.as_deref());
    diagnosis.write(options.json, &mut io::stdout().lock())?;
    Ok(diagnosis.ok)
}
