//! The only place where the pure core meets threads, clocks, disks and sessions.
//!
//! ```text
//!   worker threads          shard thread                              I/O threads
//!   Handle --Command ring-->  Shard { Endpoint, Grd, PageTable } --jobs-->  Store
//!          <-Completion ring-                                    <-done--
//! ```
//! A node has one [`Shard`] or several; a page's tag says which keeps it. A shard belongs to one
//! thread: [`Node`] gives each a [`Poller`](pagewire_transport::poller::Poller), or the caller drives
//! an only one with [`Shard::poll`].

mod command;
mod copies;
mod counters;
mod error;
mod guard;
mod handle;
mod index;
mod io;
mod line;
mod links;
mod members;
mod node;
mod outbox;
mod pool;
mod redo;
mod refusals;
mod shard;
mod shards;
mod shared;
mod si;
mod tag_map;

pub use counters::NodeCounters;
pub use error::NodeError;
pub use guard::{ReadGuard, WriteGuard};
pub use handle::Handle;
pub use links::{End, PeerLinks, WhyTcp, words};
pub use node::Node;
pub use redo::{Flushed, NothingToFlush, RedoLog};
pub use shard::Shard;
