//! What can be wrong with a ring, in words.

use crate::layout::{ENTRIES_MAX, ENTRIES_MIN, RING_VERSION};
use pagewire_protocol::{ClusterId, InstanceId};
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// Why a ring cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The system refused something.
    #[error("SI ring {}: cannot {doing}: {source}; {}", path.display(), advice(source))]
    Io {
        /// The ring.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes this ring.
    #[error(
        "SI ring {} is written by process {pid}, expected no other writer: stop that instance, or \
         give this one a ring of its own",
        path.display()
    )]
    InUse {
        /// The ring.
        path: PathBuf,
        /// The writer's process id, as it wrote it down; 0 while it is still at it.
        pid: u32,
    },
    /// What is there is no ring that may be used.
    #[error("SI ring {}: {fault}", path.display())]
    Fault {
        /// The ring.
        path: PathBuf,
        /// What is wrong.
        fault: RingFault,
    },
}

impl RingError {
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing, source }
    }

    pub(crate) fn fault(path: &Path) -> impl FnOnce(RingFault) -> Self {
        move |fault| Self::Fault { path: path.to_owned(), fault }
    }

    /// What is wrong with the ring itself, if that is it.
    #[must_use]
    pub fn ring_fault(&self) -> Option<&RingFault> {
        match self {
            Self::Fault { fault, .. } => Some(fault),
            Self::Io { .. } | Self::InUse { .. } => None,
        }
    }
}

/// What to do about what the system said of a ring or of its folder.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull => {
            "make room there (`df`), or take a smaller ring (`si_ring_entries`)"
        }
        ErrorKind::ReadOnlyFilesystem => "name a file that can be written in `si_ring`",
        ErrorKind::NotADirectory => "a part of that path is a file: name another one in `si_ring`",
        ErrorKind::NotFound => "make its folder and let this user make it, or mend `si_ring`",
        ErrorKind::PermissionDenied => "let this user read and write there, or mend `si_ring`",
        _ => "see that this user can make and use it there, or mend `si_ring`",
    }
}

/// What is wrong with the bytes of a ring, or with the numbers asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingFault {
    /// There is none.
    #[error(
        "found no such file, expected the ring of an instance on this host: start that instance, which \
         makes it, or name the ring that it has (`si_ring` in its configuration)"
    )]
    Absent,
    /// A directory, a device, a FIFO.
    #[error("found {found}, expected a regular file: name the file that the instance writes")]
    NotAFile {
        /// What it is.
        found: &'static str,
    },
    /// The file belongs to another user than the one that would write it.
    #[error(
        "it belongs to user {found}, expected {expected}: remove it, or name a file of this \
         instance's own"
    )]
    Owner {
        /// User id of the file.
        found: u32,
        /// User id of the process.
        expected: u32,
    },
    /// Shorter or longer than its header says, or cut in its header.
    #[error(
        "{found} bytes, expected {expected}: it was cut or written over; restart the instance, which \
         makes a new one"
    )]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes that it should have; of the header alone where there is none.
        expected: u64,
    },
    /// It does not begin as a ring does.
    #[error(
        "begins with {found:#018x}, expected {expected:#018x}: this is no SI ring, and is left as it is; \
         name another file (`si_ring` in the instance's configuration), or remove it if nobody needs it"
    )]
    Magic {
        /// Its first 8 bytes, little-endian.
        found: u64,
        /// Those of a ring.
        expected: u64,
    },
    /// Of another version of the layout.
    #[error(
        "layout version {found}, expected {RING_VERSION}: reader and instance must be of builds \
             that speak one version; restart the older one with the newer build"
    )]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The fixed part of the header is damaged.
    #[error(
        "header carries CRC-32C {found:#010x}, computed {computed:#010x}: it is damaged; restart \
         the instance, which makes a new one"
    )]
    Crc {
        /// The one in the file.
        found: u32,
        /// The one of the bytes.
        computed: u32,
    },
    /// The header's own sizes are not those of this version.
    #[error(
        "header of {header} and entries of {entry} bytes, expected 4096 and 32: it is damaged; restart \
         the instance, which makes a new one"
    )]
    Sizes {
        /// Bytes of the header, as it says.
        header: u32,
        /// Bytes of an entry, as it says.
        entry: u32,
    },
    /// A number of entries that no ring has.
    #[error("{found} entries, expected a power of two from {ENTRIES_MIN} to {ENTRIES_MAX}")]
    Entries {
        /// The number.
        found: u32,
    },
    /// A ring of another cluster.
    #[error(
        "it is of cluster {found}, expected {expected}: name the ring of this cluster's instance, \
         or remove the file if that cluster is no more"
    )]
    Cluster {
        /// The cluster in the header.
        found: ClusterId,
        /// The one asked for.
        expected: ClusterId,
    },
    /// A ring of another instance of the cluster, which may not be written here.
    #[error(
        "it is of instance {found}, expected {expected}: give each instance a ring of its own, or \
         remove the file if that instance is no more"
    )]
    Instance {
        /// The instance in the header.
        found: InstanceId,
        /// The one asked for.
        expected: InstanceId,
    },
    /// A position that no writer reaches in the life of a machine.
    #[error(
        "position {found}, expected less than 2^63: it is damaged; restart the instance, which \
             makes a new one"
    )]
    Position {
        /// The position.
        found: u64,
    },
    /// The ring has been replaced by another at its path.
    #[error("it has been replaced: attach again")]
    Replaced,
}
