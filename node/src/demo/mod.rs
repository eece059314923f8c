//! `pagewire demo`: a cluster of processes on this host, a ledger on it, and the proof that no update
//! was lost.
//!
//! ```text
//!  prepare relation --> N x `pagewire node --agent` (children) --> `pagewire verify` --> report
//!                        listening, peers, ready, start ... stop, flush, quit
//!                                              views, where members come or go ([`members`])
//! ```
//! Purpose: the coordinator. It touches no page: it prepares the files, starts and paces the
//! instances ([`stage`], [`child`]), lets a separate process judge what they left ([`verify_cmd`])
//! and prints the outcome ([`report`]).
//!
//! Invariants: the source of `--pages` is only read; the temporary folder and every child are gone
//! when [`run`] returns, or a signal ended it ([`cleanup`]), but for a folder that the user keeps; and
//! a folder that a demo had to leave is gone when another one starts ([`folder`]); what can be refused
//! is refused before anything is started; what came out is printed before it is kept ([`out`]), so
//! that a result that cannot be written costs nobody the table.

pub mod change;
pub mod child;
pub mod cleanup;
mod error;
mod folder;
mod members;
mod options;
mod out;
mod play;
mod progress;
mod rdma;
pub mod report;
mod stage;
pub mod verify_cmd;

pub use error::DemoError;
pub use options::{DemoOptions, Transport};

use crate::ledger::relation;
use cleanup::Cleanup;
use error::io_error;
use folder::Folder;
use options::PAGES_PER_WORKER;
use out::Out;
use pagewire_transport::link::verbs::Overrides;
use report::DemoReport;
use stage::{PAGE_SIZE, Stage, fresh_seed};
use std::{
    io::{self, Write},
    path::Path,
};

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
    let rdma = match options.transport {
        Transport::Verbs => rdma::choose(options)?,
        Transport::Auto | Transport::Tcp => options.rdma(),
    };
    let seed = options.seed.unwrap_or_else(fresh_seed);
    let folder = Folder::make(&cleanup).map_err(io_error("make a temporary folder"))?;
    folder.remove_orphans();
    let ended = run_in(&folder, options, &rdma, seed, out, &cleanup);
    if options.keep {
        // Whether it passed or failed: who asks for the files may want to see why.
        match folder.keep() {
            Ok(kept) => {
                eprintln!("pagewire: the files of the run are kept in {}", kept.display());
            }
            Err(error) => eprintln!("pagewire: the folder of the run cannot be kept: {error}"),
        }
    }
    ended
}

/// The same in a folder that is there.
fn run_in(
    folder: &Folder,
    options: &DemoOptions,
    rdma: &Overrides,
    seed: u64,
    out: Option<Out>,
    cleanup: &Cleanup,
) -> Result<bool, DemoError> {
    let stage = Stage::set(options, rdma, seed, folder.path(), cleanup.clone())?;
    let played = play::play(&stage)?;
    let transfers = played.reports.iter().map(|report| report.transfers).sum();
    let found = stage.judge(transfers)?;
    let report = DemoReport::new(stage.setting(), played.elapsed, &played.reports, &found)
        .with_changes(played.changes, played.longest_request);
    print(&report, options.json).map_err(DemoError::Output)?;
    match out {
        Some(out) if report.passed() => out.write(&stage.prepared, cleanup)?,
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

#[cfg(test)]
mod tests {
    use super::{options::tests::parse, *};
    use std::fs;

    #[test]
    fn a_cache_in_which_workers_wait_for_each_other_for_good_is_refused() {
        let check = |words| check_cache(&parse(words).expect("parsed"));
        check("--threads 64").expect("as many as there is room for");
        check("--threads 2 --cache-pages 32").expect("enough");
        let error = check("--threads 3 --cache-pages 47").expect_err("too few").to_string();
        assert!(error.contains("is 47, expected at least 48"), "{error}");
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
}
