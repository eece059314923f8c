//! Shared invalidations (SI): "your cached copy of this is stale", published by one instance and
//! readable in the ring of every instance before whoever needs to know can act on it.
//!
//! ```text
//!   threads: Publisher --queue--> shard 0: core, own ring --> sessions --> shard 0: core, ring --> readers
//!            Ticket    <--------- completed <---------------- SI_ACK <----  (any process: SiReader)
//! ```
//! [`core`] decides, and the runtime's shard 0 does what it says.

pub mod core;
mod error;
mod publisher;
mod queue;
pub(crate) mod shared;

pub use error::{PublishError, TicketError};
pub use publisher::{Publisher, Ticket};
