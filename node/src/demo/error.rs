//! Why the demo cannot run, or not to its end.

use super::{child::ChildError, options::PAGES_PER_WORKER};
use crate::{
    ledger::{manifest::ManifestError, relation::RelationError},
    view::ViewError,
};
use pagewire_transport::link::verbs::VerbsError;
use std::{io, path::PathBuf};

/// Why the demo cannot run or finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A child failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The members cannot be.
    #[error("members: {0}")]
    View(#[from] ViewError),
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
    /// Verbs is demanded, and this host cannot.
    #[error("--transport verbs cannot be used: {0}; or give --transport auto")]
    Verbs(#[from] VerbsError),
    /// Verbs is demanded, and any of several devices may be meant.
    #[error(
        "--transport verbs found RDMA devices {found}, expected one: name it with --rdma-device"
    )]
    SeveralDevices {
        /// Their names.
        found: String,
    },
    /// The system refused.
    #[error("cannot {doing}: {source}; check TMPDIR, permissions and free space")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The outcome cannot be printed.
    #[error("cannot write to standard output: {0}; check where it goes")]
    Output(io::Error),
    /// The verifier printed no verdict.
    #[error(
        "the verifier ended with {status} and no verdict, expected one; its error stands above"
    )]
    NoVerdict {
        /// How it ended.
        status: String,
    },
}

pub(super) fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::Io { doing, source }
}
