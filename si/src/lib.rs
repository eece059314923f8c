//! The SI ring: invalidations in shared memory, written by one process and read by any number.
//!
//! Purpose: the instance that receives SI messages (`pagewire-node`) writes them here; database
//! backends, in processes of their own, read them with [`SiReader`] or with the C header
//! `include/pagewire_si.h`. docs/si.md draws the bytes and states the order of memory accesses.
//!
//! Invariants: the writer never looks at readers, so none of them can hold it up or break it; a reader
//! maps the ring read-only, keeps its cursor to itself, and gets every message in order or is told
//! [`SiRead::Reset`], never anything third. Writing and reading allocate nothing and take no lock.
//!
//! ```text
//!   protocol.rs   the order of loads, stores and fences: the text that the model checker reads
//!   layout.rs     where everything is; the fixed part of the header, read and written: pure
//!   memory.rs     mappings and memfds             place.rs   ring files: made, taken over, replaced
//!   lock.rs       who writes, and whether it lives   trial.rs   what a writer would meet, tried out
//!   writer.rs, reader.rs, entry.rs                what callers see
//! ```
#![warn(missing_docs)]

use pagewire_protocol::{ClusterId, InstanceId};
use std::path::PathBuf;

#[cfg(target_endian = "big")]
compile_error!("the ring's layout is little-endian and is read as the host's integers");

mod entry;
mod error;
mod layout;
mod lock;
mod memory;
mod place;
mod protocol;
mod reader;
#[cfg(test)]
mod tests;
mod trial;
mod writer;

/// What the protocol is made of; the model checker gives it its own.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

/// Where the ring of an instance is unless its configuration says otherwise: in memory, where whoever
/// reads it needs the numbers of cluster and instance alone.
#[must_use]
pub fn default_path(cluster: ClusterId, instance: InstanceId) -> PathBuf {
    PathBuf::from(format!("/dev/shm/pagewire-{cluster}-{instance}.si"))
}

pub use entry::SiEntry;
pub use error::{RingError, RingFault};
pub use layout::{ENTRIES_MAX, ENTRIES_MIN, RING_MODE, RING_VERSION};
pub use place::cluster_of;
pub use reader::{RingState, SiRead, SiReader};
pub use trial::{Trial, try_out};
pub use writer::{RingConfig, RingWriter};
