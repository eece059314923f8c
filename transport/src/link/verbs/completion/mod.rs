//! Completions: which work is done, and how it went.
//!
//! Invariants: a completion queue has room for all the work of its queue pairs (they reserve it when
//! they are made), so that it never overruns. Events taken from its channel are acknowledged before
//! it is destroyed, which would otherwise wait for ever.
//!
//! Leaf module: the unsafe here calls functions of the library and of its function table with
//! pointers that came from them.

mod channel;
mod done;
pub(super) mod status;
mod work;

pub use channel::CompletionChannel;
pub(super) use done::Done;
pub use done::{Completion, CompletionBatch};
pub use status::{CompletionError, Status};
pub use work::Work;
pub(super) use work::{Owner, work_id};

use super::{
    abi,
    device::Context,
    error::{VerbsError, check},
};
use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Completions taken with one call; UCX and eRPC take as many.
pub const BATCH_LEN: usize = 16;

/// Events acknowledged with one call, which takes a lock.
const ACKNOWLEDGED_TOGETHER: u32 = 64;

/// Where queue pairs report what is done.
///
/// To sleep: [`CompletionQueue::arm`], then poll once more, since what came before does not count,
/// then wait for the channel's descriptor; when it is readable [`CompletionQueue::take_events`].
pub struct CompletionQueue {
    raw: NonNull<abi::ibv_cq>,
    channel: Option<CompletionChannel>,
    context: Arc<Context>,
    capacity: u32,
    reserved: AtomicU32,
    unacknowledged: AtomicU32,
}

// SAFETY: libibverbs serialises what needs it; the pointer is owned by this value alone.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above: polling takes the driver's lock.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue for at least `capacity` completions, which reports to `channel` if there is one.
    ///
    /// # Errors
    /// [`VerbsError::Capacity`] when the device has none of that size, [`VerbsError::Create`].
    pub fn new(
        context: &Arc<Context>,
        capacity: u32,
        channel: Option<CompletionChannel>,
    ) -> Result<Arc<Self>, VerbsError> {
        let available = context.completions_max();
        let Some(entries) =
            i32::try_from(capacity).ok().filter(|_| (1..=available).contains(&capacity))
        else {
            let what = "entries of a completion queue";
            return Err(VerbsError::Capacity { what, needed: capacity, available });
        };
        let channel_ptr = channel.as_ref().map_or(ptr::null_mut(), |c| c.raw.as_ptr());
        // SAFETY: context and channel exist; vector 0 always does.
        let raw = unsafe {
            let create = context.library().create_cq;
            create(context.as_ptr(), entries, ptr::null_mut(), channel_ptr, 0)
        };
        let raw = NonNull::new(raw)
            .ok_or_else(|| context.cannot_create("completion queue", io::Error::last_os_error()))?;
        Ok(Arc::new(Self {
            raw,
            channel,
            context: Arc::clone(context),
            capacity,
            reserved: AtomicU32::new(0),
            unacknowledged: AtomicU32::new(0),
        }))
    }

    /// The device it is on.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Becomes readable when an armed queue gets a completion; `None` without a channel.
    #[must_use]
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is done, at most [`BATCH_LEN`] completions, and says how many. A batch that is not
    /// drained is lost, and what its work held stays held until the queue pair is dropped.
    ///
    /// # Errors
    /// [`VerbsError::CompletionQueue`]: it is of no use any more, nor are its queue pairs.
    #[inline]
    pub fn poll(&self, batch: &mut CompletionBatch) -> Result<usize, VerbsError> {
        const ENTRIES: i32 = {
            assert!(BATCH_LEN < 128);
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "above")]
            {
                BATCH_LEN as i32
            }
        };
        // SAFETY: the queue exists, and its context, whose table was found complete when it was
        // opened. There is room for as many completions as are asked for.
        let returned = unsafe {
            let queue = self.raw.as_ptr();
            match (*(*queue).context).ops.poll_cq {
                Some(poll_cq) => poll_cq(queue, ENTRIES, batch.raw.as_mut_ptr()),
                None => -1,
            }
        };
        match usize::try_from(returned) {
            Ok(len) => {
                batch.len = len.min(BATCH_LEN);
                Ok(batch.len)
            }
            Err(_) => {
                batch.len = 0;
                Err(self.failed("poll", io::Error::from_raw_os_error(libc::EIO)))
            }
        }
    }

    /// Asks for one event with the next completion.
    ///
    /// # Errors
    /// [`VerbsError::CompletionQueue`].
    pub fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: as in `poll`.
        let returned = unsafe {
            let queue = self.raw.as_ptr();
            (*(*queue).context).ops.req_notify_cq.map_or(libc::ENOSYS, |arm| arm(queue, 0))
        };
        check(returned).map_err(|source| self.failed("arm", source))
    }

    /// Takes the events that the channel has, so that it is readable no longer, and says how many.
    ///
    /// # Errors
    /// [`VerbsError::CompletionQueue`].
    pub fn take_events(&self) -> Result<u32, VerbsError> {
        let Some(channel) = &self.channel else { return Ok(0) };
        let mut taken = 0;
        let ended = loop {
            let (mut queue, mut user) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the channel exists, and there is room for both answers.
            let returned = unsafe {
                let get = self.context.library().get_cq_event;
                get(channel.raw.as_ptr(), &raw mut queue, &raw mut user)
            };
            if returned == 0 {
                // The channel serves this queue alone.
                taken += 1;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break Ok(taken),
                _ => break Err(self.failed("take events from", error)),
            }
        };
        // What was taken is acknowledged in any case, for the queue to be destroyed one day.
        self.acknowledge(taken);
        ended
    }

    fn acknowledge(&self, taken: u32) {
        let waiting = self.unacknowledged.fetch_add(taken, Ordering::Relaxed) + taken;
        if waiting >= ACKNOWLEDGED_TOGETHER {
            self.acknowledge_all();
        }
    }

    fn acknowledge_all(&self) {
        let waiting = self.unacknowledged.swap(0, Ordering::Relaxed);
        if waiting > 0 {
            // SAFETY: the queue exists, and so many events were taken and not acknowledged.
            unsafe { (self.context.library().ack_cq_events)(self.raw.as_ptr(), waiting) };
        }
    }

    #[cold]
    fn failed(&self, what: &'static str, source: io::Error) -> VerbsError {
        VerbsError::CompletionQueue { what, device: self.context.name().to_owned(), source }
    }

    /// Keeps room for the work of a queue pair, so that the queue cannot overrun.
    pub(super) fn reserve(&self, needed: u32) -> Result<(), VerbsError> {
        let add = |reserved: u32| {
            reserved.checked_add(needed).filter(|reserved| *reserved <= self.capacity)
        };
        let reserved = self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        reserved.map(|_| ()).map_err(|reserved| VerbsError::Capacity {
            what: "free entries of a completion queue",
            needed,
            available: self.capacity - reserved,
        })
    }

    pub(super) fn release(&self, reserved: u32) {
        self.reserved.fetch_sub(reserved, Ordering::Relaxed);
    }

    pub(super) fn as_ptr(&self) -> *mut abi::ibv_cq {
        self.raw.as_ptr()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.acknowledge_all();
        // SAFETY: its queue pairs held it and are gone, and every event taken is acknowledged, so
        // it is destroyed once, without waiting; its channel is a field and goes afterwards.
        let returned = unsafe { (self.context.library().destroy_cq)(self.raw.as_ptr()) };
        if let Err(error) = check(returned) {
            tracing::warn!("a completion queue of {} stays: {error}", self.context.name());
        }
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionQueue")
            .field("device", &self.context.name())
            .field("capacity", &self.capacity)
            .field("reserved", &self.reserved)
            .finish_non_exhaustive()
    }
}
