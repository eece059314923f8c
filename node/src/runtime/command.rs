//! What local threads and the shard say to each other, over one ring each way per thread.

use crate::grd::{AcquireError, GrantPath};
use pagewire_protocol::{BufferTag, Mode};
use pagewire_transport::{FrameIndex, arena::PinTicket};
use rtrb::Consumer;
use std::thread::Thread;

/// From a thread to the shard.
#[derive(Debug)]
pub(super) enum Command {
    /// The thread that will wait for completions, to be unparked.
    Waiter(Thread),
    /// Get me this page. The next one is asked for when this one is answered.
    Acquire { sequence: u32, tag: BufferTag, mode: Mode },
    /// I no longer want to wait for that.
    Withdraw { sequence: u32, tag: BufferTag },
    /// The last pin on a page that is being revoked is gone.
    Unpinned(FrameIndex),
    /// Keep this pin until everything is delivered that was published up to here.
    Keep(PinTicket, u64),
    /// The last word: here is what has not been taken.
    Gone(Consumer<Completion>),
}

/// From the shard to a thread: exactly one for each acquire.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) sequence: u32,
    pub(super) result: Result<Grant, Option<AcquireError>>,
}

/// A page, pinned for the thread that asked.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) ticket: PinTicket,
    pub(super) path: GrantPath,
}
