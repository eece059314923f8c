//! The only place where the pure core meets threads, clocks, disks and sessions.
//!
//! ```text
//!   worker threads          shard thread                              I/O threads
//!   Handle --Command ring-->  Shard { Endpoint, Grd, PageTable } --jobs-->  Store
//!          <-Completion ring-                                    <-done--
//! ```
//! One [`Shard`] per node in this version. It belongs to one thread: [`Node`] gives it one of its
//! own, or the caller drives it with [`Shard::poll`].

mod command;
mod handle;
mod index;
mod io;
mod node;
mod outbox;
mod pool;
mod refusals;
mod shard;

pub use handle::{Handle, ReadGuard, WriteGuard};
pub use node::{Node, NodeError};
pub use shard::{NodeCounters, Shard};
