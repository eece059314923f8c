//! RDMA verbs: a thin safe layer over libibverbs, which is opened at run time.
//!
//! Purpose: devices and their addresses, registered memory, completion queues and reliable connected
//! queue pairs. What is in flight belongs to the queue pair ([`QueuePair`]), so that no safe call
//! lets a device write to memory that somebody else uses. Nothing here allocates or locks on the
//! path of a message, beside what the driver does.
//!
//! ```text
//!   Context ------ ProtectionDomain ---- MemoryRegion (the arena, once a device)
//!      |                  |                    |
//!   CompletionQueue ------+----- QueuePair ----+   slots of 128 B for headers and bodies
//! ```
//! Each holds what it was made from (`Arc`), so that what C wants destroyed first is destroyed first.
//!
//! Threading: everything may be moved between threads; a queue pair belongs to one at a time.

#[cfg(feature = "verbs-abi")]
#[doc(hidden)]
pub mod abi;
#[cfg(not(feature = "verbs-abi"))]
#[allow(unreachable_pub, dead_code, reason = "public for the oracle, with the feature")]
mod abi;
pub mod choice;
pub mod completion;
pub mod device;
pub mod domain;
pub mod error;
pub mod event;
mod library;
pub mod link;
mod pinned;
pub mod queue_pair;
pub mod quirks;
mod receive_queue;
mod send_queue;
mod slots;
mod sysfs;

pub use choice::{Choice, Overrides, pick};
pub use completion::{
    Completion, CompletionBatch, CompletionChannel, CompletionQueue, Status, Work,
};
pub use device::Context;
pub use domain::{MemoryRegion, ProtectionDomain, ReadRegion};
pub use error::VerbsError;
pub use event::AsyncEvent;
pub use link::VerbsLink;
pub use queue_pair::{
    Arrival, Capacity, QueuePair, QueuePairAddress, QueuePairOptions, Refused, RefusedReason,
    RemoteMemory, Sent,
};
