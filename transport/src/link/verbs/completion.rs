//! Completions: which work is done, and how it went.
//!
//! Invariants: a completion queue has room for all the work of its queue pairs (they reserve it when
//! they are made), so that it never overruns. Events taken from its channel are acknowledged before
//! it is destroyed, which would otherwise wait for ever.
//!
//! Leaf module: the unsafe here calls functions of the library and of its function table with
//! pointers that came from them.

use super::{
    abi,
    device::{Context, set_nonblocking},
    error::{VerbsError, check},
};
use std::{
    fmt, io,
    mem::zeroed,
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

/// Which work request of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A receive.
    Receive {
        /// The slot it had.
        slot: u32,
    },
    /// A send, and with it every earlier one of the queue pair.
    Send {
        /// The slot it had.
        slot: u32,
    },
    /// The marker behind the last send of a queue pair that is being drained.
    Drain,
    /// Nothing that we post.
    Unknown(u64),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receive { slot } => write!(f, "receive {slot}"),
            Self::Send { slot } => write!(f, "send {slot}"),
            Self::Drain => f.write_str("the end of its sends"),
            Self::Unknown(id) => write!(f, "work request {id:#x}"),
        }
    }
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The caller's word for the queue pair.
    pub(super) tag: u16,
    /// Tells it from earlier queue pairs with the same tag and number, of which completions may
    /// still be in the queue.
    pub(super) serial: u16,
}

/// ```text
///  63        48 47        32 31  30 29              0
///  +-----------+------------+------+----------------+
///  | tag       | serial     | kind | slot           |
///  +-----------+------------+------+----------------+
/// ```
/// The kind has to be in the id: of work that failed nothing else of a completion can be relied on
/// but its status and the number of the queue pair.
pub(super) fn work_id(owner: Owner, work: Work) -> u64 {
    let (kind, slot) = match work {
        Work::Receive { slot } => (1, slot),
        Work::Send { slot } => (2, slot),
        Work::Drain => (3, 0),
        Work::Unknown(id) => return id,
    };
    debug_assert!(slot <= SLOT_MASK);
    let owner = u64::from(owner.tag) << 16 | u64::from(owner.serial);
    owner << 32 | u64::from(kind << 30 | slot)
}

/// Bits of a slot's number: far more than a queue can have.
const SLOT_MASK: u32 = (1 << 30) - 1;

fn decode_work_id(id: u64) -> (Owner, Work) {
    let [t1, t0, s1, s0, w3, w2, w1, w0] = id.to_be_bytes();
    let word = u32::from_be_bytes([w3, w2, w1, w0]);
    let slot = word & SLOT_MASK;
    let work = match word >> 30 {
        1 => Work::Receive { slot },
        2 => Work::Send { slot },
        3 => Work::Drain,
        _ => Work::Unknown(id),
    };
    let (tag, serial) = (u16::from_be_bytes([t1, t0]), u16::from_be_bytes([s1, s0]));
    (Owner { tag, serial }, work)
}

/// How a work request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// The message is longer than the receive, or than the port's greatest message.
    LocalLength,
    /// The queue pair found something wrong with a work request.
    LocalOperation,
    /// A work request named memory that is not registered, or not for this.
    LocalProtection,
    /// The queue pair was in error before the work was begun.
    Flushed,
    /// The peer answered something that was not asked.
    BadResponse,
    /// The peer's write was not allowed, told to the receiver.
    LocalAccess,
    /// The peer cannot do what was asked: its receive is too short for the message.
    RemoteInvalidRequest,
    /// The peer does not allow the access.
    RemoteAccess,
    /// The peer's queue pair failed while it did what was asked.
    RemoteOperation,
    /// The peer does not acknowledge.
    RetryExceeded,
    /// The peer had no receive posted, again and again.
    RnrRetryExceeded,
    /// The peer ended the operation.
    RemoteAborted,
    /// The device or the queue pair has failed.
    Fatal,
    /// The peer did not answer in time.
    ResponseTimeout,
    /// The driver does not say.
    General,
    /// A value of `enum ibv_wc_status` that a reliable queue pair does not have.
    Other(u32),
}

impl Status {
    /// The meaning of a value of `enum ibv_wc_status`.
    #[must_use]
    pub fn from_raw(status: u32) -> Self {
        match status {
            abi::IBV_WC_SUCCESS => Self::Success,
            abi::IBV_WC_LOC_LEN_ERR => Self::LocalLength,
            abi::IBV_WC_LOC_QP_OP_ERR => Self::LocalOperation,
            abi::IBV_WC_LOC_PROT_ERR => Self::LocalProtection,
            abi::IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            abi::IBV_WC_BAD_RESP_ERR => Self::BadResponse,
            abi::IBV_WC_LOC_ACCESS_ERR => Self::LocalAccess,
            abi::IBV_WC_REM_INV_REQ_ERR => Self::RemoteInvalidRequest,
            abi::IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            abi::IBV_WC_REM_OP_ERR => Self::RemoteOperation,
            abi::IBV_WC_RETRY_EXC_ERR => Self::RetryExceeded,
            abi::IBV_WC_RNR_RETRY_EXC_ERR => Self::RnrRetryExceeded,
            abi::IBV_WC_REM_ABORT_ERR => Self::RemoteAborted,
            abi::IBV_WC_FATAL_ERR => Self::Fatal,
            abi::IBV_WC_RESP_TIMEOUT_ERR => Self::ResponseTimeout,
            abi::IBV_WC_GENERAL_ERR => Self::General,
            other => Self::Other(other),
        }
    }

    /// What has happened, for an operator.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Success => "nothing",
            Self::LocalLength => "a message is longer than the receive that was posted for it",
            Self::LocalOperation => "the queue pair cannot do what a work request asks",
            Self::LocalProtection => "a work request names memory that is not registered for it",
            Self::Flushed => "the queue pair had failed before, or was closed",
            Self::BadResponse => "the peer sent an answer that was not expected",
            Self::LocalAccess => "the peer tried an access that is not allowed",
            Self::RemoteInvalidRequest => {
                "the peer cannot take the request: its receive is shorter"
            }
            Self::RemoteAccess => "the peer does not allow the access",
            Self::RemoteOperation => "the peer's queue pair failed during the operation",
            Self::RetryExceeded => "the peer did not acknowledge in any of the tries",
            Self::RnrRetryExceeded => "the peer had no receive posted in any of the tries",
            Self::RemoteAborted => "the peer ended the operation",
            Self::Fatal => "the device has failed",
            Self::ResponseTimeout => "the peer did not answer in time",
            Self::General => "the driver gives no cause",
            Self::Other(_) => "the driver gives a cause that is not known",
        }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Success => "nothing to do",
            Self::Flushed => "look for the first error of this queue pair",
            Self::RetryExceeded | Self::ResponseTimeout => {
                "see whether the peer's host and port are up, whether both ends use the same RoCE \
                 version and packets of the active MTU pass the network, and that it loses none \
                 (PFC or ECN for RoCE)"
            }
            Self::RnrRetryExceeded => {
                "the credits forbid this: see that both ends have the same settings, and report it"
            }
            Self::LocalLength | Self::RemoteInvalidRequest => {
                "see that both ends have the same page size and version, and report it"
            }
            Self::RemoteAccess | Self::LocalAccess => {
                "see that one-sided reads are turned on at both ends, or at none"
            }
            Self::Fatal => "see the kernel's log; the device has to be reset",
            Self::RemoteOperation | Self::RemoteAborted => "see the peer's log",
            // What rxe says when its network interface is down.
            Self::LocalOperation => {
                "see that the port and its network interface are up, then the kernel's log"
            }
            Self::LocalProtection | Self::BadResponse | Self::General | Self::Other(_) => {
                "see the kernel's log for the device, and report it"
            }
        }
    }
}

/// Work that is done, or has failed: the right to take back what it held, once. It is therefore
/// neither copied nor made by anybody but the queue.
#[derive(Debug)]
pub struct Completion {
    owner: Owner,
    work: Work,
    status: Status,
    bytes: u32,
    queue_pair: u32,
    vendor_error: u32,
}

impl Completion {
    fn decode(raw: &abi::ibv_wc) -> Self {
        let (owner, work) = decode_work_id(raw.wr_id);
        Self {
            owner,
            work,
            status: Status::from_raw(raw.status),
            bytes: raw.byte_len,
            queue_pair: raw.qp_num,
            vendor_error: raw.vendor_err,
        }
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// The tag of its queue pair ([`QueuePairOptions`](super::QueuePairOptions)).
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.owner.tag
    }

    /// Which work.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    /// How it went.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Bytes of the message that was received, or were read; of no meaning for sends and failures.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Number of its queue pair.
    #[must_use]
    pub fn queue_pair(&self) -> u32 {
        self.queue_pair
    }

    /// The failure, if it is one.
    ///
    /// # Errors
    /// [`CompletionError`] unless the work succeeded.
    pub fn result(&self) -> Result<(), CompletionError> {
        match self.status {
            Status::Success => Ok(()),
            status => Err(CompletionError {
                queue_pair: self.queue_pair,
                work: self.work,
                status,
                vendor_error: self.vendor_error,
            }),
        }
    }
}

/// A work request that failed; its queue pair does no work any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{work} of queue pair {queue_pair} failed: {} ({status:?}, vendor error {vendor_error:#x}); {}",
    status.cause(), status.remedy()
)]
pub struct CompletionError {
    /// Number of the queue pair.
    pub queue_pair: u32,
    /// Which work.
    pub work: Work,
    /// How it went.
    pub status: Status,
    /// What the driver adds, for its vendor.
    pub vendor_error: u32,
}

/// Room for the completions of one poll.
pub struct CompletionBatch {
    raw: [abi::ibv_wc; BATCH_LEN],
    len: usize,
}

impl CompletionBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: plain integers, for which zeros are a value.
        Self { raw: unsafe { zeroed() }, len: 0 }
    }

    /// Takes the completions of the last poll, in their order.
    pub fn drain(&mut self) -> impl Iterator<Item = Completion> + '_ {
        let len = std::mem::take(&mut self.len);
        self.raw[..len].iter().map(Completion::decode)
    }
}

impl Default for CompletionBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CompletionBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.raw[..self.len].iter().map(Completion::decode)).finish()
    }
}

/// Where a completion queue reports that something is in it, for a thread that sleeps.
pub struct CompletionChannel {
    raw: NonNull<abi::ibv_comp_channel>,
    context: Arc<Context>,
}

// SAFETY: libibverbs serialises what needs it; the pointer is owned by this value alone.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    /// A channel, nonblocking.
    ///
    /// # Errors
    /// [`VerbsError::Create`].
    pub fn new(context: &Arc<Context>) -> Result<Self, VerbsError> {
        let failed = |source| context.cannot_create("completion channel", source);
        // SAFETY: the context is open.
        let raw = unsafe { (context.library().create_comp_channel)(context.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| failed(io::Error::last_os_error()))?;
        let channel = Self { raw, context: Arc::clone(context) };
        set_nonblocking(&channel).map_err(failed)?;
        Ok(channel)
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: its completion queue owned it and is gone, so it is destroyed once and last.
        let returned = unsafe { (self.context.library().destroy_comp_channel)(self.raw.as_ptr()) };
        if let Err(error) = check(returned) {
            tracing::warn!("a completion channel of {} stays: {error}", self.context.name());
        }
    }
}

impl fmt::Debug for CompletionChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionChannel").field("device", &self.context.name()).finish()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_work_request_says_whose_and_which_it_was() {
        let works = [Work::Receive { slot: 0 }, Work::Send { slot: SLOT_MASK }, Work::Drain];
        for work in works {
            for (tag, serial) in [(0, 1), (1, 0), (u16::MAX, u16::MAX)] {
                let owner = Owner { tag, serial };
                assert_eq!(decode_work_id(work_id(owner, work)), (owner, work));
            }
        }
        assert_eq!(decode_work_id(5).1, Work::Unknown(5));
    }

    #[test]
    fn a_failed_completion_says_cause_and_remedy() {
        // SAFETY: plain integers, for which zeros are a value.
        let mut raw: abi::ibv_wc = unsafe { zeroed() };
        raw.wr_id = work_id(Owner { tag: 3, serial: 1 }, Work::Send { slot: 5 });
        assert!(Completion::decode(&raw).result().is_ok());
        (raw.status, raw.qp_num, raw.vendor_err) = (abi::IBV_WC_RETRY_EXC_ERR, 17, 0x81);
        // The other fields are not to be relied on.
        raw.opcode = 0xDEAD;
        let text = Completion::decode(&raw).result().unwrap_err().to_string();
        for word in ["send 5", "queue pair 17", "acknowledge", "RoCE version", "0x81"] {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
    }

    #[test]
    fn every_status_has_a_cause_and_a_remedy_and_unknown_ones_are_kept() {
        for raw in 0..40 {
            let status = Status::from_raw(raw);
            assert!(!status.cause().is_empty() && !status.remedy().is_empty());
            assert_eq!(status == Status::Success, raw == 0);
        }
        assert_eq!(Status::from_raw(5), Status::Flushed);
        assert_eq!(Status::from_raw(13), Status::RnrRetryExceeded);
        assert_eq!(Status::from_raw(99), Status::Other(99));
    }
}
