//! Reliable connected queue pairs.
//!
//! ```text
//!   new ----------> INIT --connect--> RTR --> RTS --begin_drain--> ERROR --> drained --> drop
//!   (receives may be queued and posted from INIT on, and should be before the peer sends)
//! ```
//! A message is up to [`SLOT_BYTES`] of header and body, and in a queue pair that carries frames a
//! page may follow. It is sent from a slot and a frame, and received into a slot and a frame: a
//! scatter list fills in order, so that the slot is whole before the frame begins.
//!
//! Invariants: what the device may touch belongs to the queue pair, from before it is posted until
//! its completion is taken, or until the queue pair is destroyed. If it cannot be destroyed, that
//! memory is never used again.
//!
//! Threading: a queue pair belongs to one thread at a time. Completions are taken from the completion
//! queue by whoever polls that, and handed to the queue pair whose tag they carry.
//!
//! Leaf module: the unsafe here calls functions of the library and of its function table with
//! pointers that came from them, and work requests of the two queues.

mod parts;
mod setup;

pub use super::slots::SLOT_BYTES;
pub use parts::{
    Arrival, Capacity, QueuePairAddress, QueuePairOptions, Refused, RefusedReason, RemoteMemory,
    Sent,
};

use super::{
    abi,
    choice::Choice,
    completion::{Completion, CompletionQueue, Done, Owner, Work},
    device::Context,
    domain::MemoryRegion,
    error::{VerbsError, check},
    receive_queue::ReceiveQueue,
    send_queue::{Held, Request, SendQueue},
    slots::Slots,
};
use crate::{Frame, SharedFrame};
use pagewire_protocol::header::Slot;
use setup::{check_capacity, create, no_attributes, random_24_bits};
use std::{
    fmt, io,
    mem::ManuallyDrop,
    net::Ipv6Addr,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

/// What the device may touch.
struct Memory {
    slots: Slots,
    receives: ReceiveQueue,
    sends: SendQueue,
    region: Arc<MemoryRegion>,
}

/// See the module.
pub struct QueuePair {
    raw: NonNull<abi::ibv_qp>,
    /// Dropped only when the queue pair is destroyed.
    memory: ManuallyDrop<Memory>,
    completions: Arc<CompletionQueue>,
    options: QueuePairOptions,
    owner: Owner,
    choice: Choice,
    number: u32,
    first_packet: u32,
    inline_bytes_max: u32,
    /// Longest message that has come into a slot, in bytes: behind it slots are zeros.
    longest_bytes: usize,
    is_draining: bool,
    is_marker_out: bool,
}

// SAFETY: the pointer is owned by this value alone, and libibverbs ties nothing to a thread.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A queue pair on the chosen port, in state INIT: receives may be posted.
    ///
    /// # Errors
    /// [`VerbsError::Capacity`], [`VerbsError::Memory`], [`VerbsError::Create`] or
    /// [`VerbsError::Modify`].
    pub fn new(
        region: &Arc<MemoryRegion>,
        completions: &Arc<CompletionQueue>,
        choice: &Choice,
        options: QueuePairOptions,
    ) -> Result<Self, VerbsError> {
        let context = region.domain().context();
        let depth = check_capacity(context, options.capacity)?;
        let owner = Owner { tag: options.tag, serial: next_serial() };
        let receives = options.capacity.receives;
        let slots = Slots::new(region.domain(), receives + depth)?;
        let segment = |slot| abi::ibv_sge {
            addr: slots.address(slot),
            length: SLOT_BYTES_U32,
            lkey: slots.local_key(),
        };
        let queue = ReceiveQueue::new(owner, receives, segment);
        let sends = SendQueue::new(owner, depth, |slot| segment(receives + slot));
        let memory = Memory { receives: queue, sends, slots, region: Arc::clone(region) };
        let first_packet = random_24_bits()
            .map_err(|source| context.cannot_create("random packet number", source))?;
        completions.reserve(options.capacity.completions())?;
        let created = create(region, completions, options, depth);
        let (raw, inline_bytes_max) =
            created.inspect_err(|_| completions.release(options.capacity.completions()))?;
        // From here on dropping it destroys the queue pair.
        let mut queue_pair = Self {
            raw,
            memory: ManuallyDrop::new(memory),
            completions: Arc::clone(completions),
            options,
            owner,
            choice: choice.clone(),
            // SAFETY: the queue pair was just made; its number does not change.
            number: unsafe { (*raw.as_ptr()).qp_num },
            first_packet,
            inline_bytes_max,
            longest_bytes: 0,
            is_draining: false,
            is_marker_out: false,
        };
        queue_pair.initialise()?;
        Ok(queue_pair)
    }

    fn context(&self) -> &Arc<Context> {
        self.memory.region.domain().context()
    }

    /// Its number, 24 bits.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &QueuePairOptions {
        &self.options
    }

    /// Longest message that travels in the work request itself, in bytes; 0: none.
    #[must_use]
    pub fn inline_bytes_max(&self) -> u32 {
        self.inline_bytes_max
    }

    /// What the peer has to know.
    #[must_use]
    pub fn address(&self) -> QueuePairAddress {
        let gid = self.choice.gid.as_ref().filter(|_| self.choice.global);
        QueuePairAddress {
            queue_pair: self.number(),
            first_packet: self.first_packet,
            lid: self.choice.lid,
            gid: gid.map_or(Ipv6Addr::UNSPECIFIED, |gid| gid.address),
            mtu: self.choice.mtu,
        }
    }

    /// Segment of a whole frame, if the region has it.
    fn frame_segment(&self, frame: &[u8]) -> Option<abi::ibv_sge> {
        let region = &self.memory.region;
        let length = u32::try_from(frame.len()).ok()?;
        Some(abi::ibv_sge { addr: region.address_of(frame)?, length, lkey: region.local_key() })
    }

    /// As [`QueuePair::frame_segment`], of a frame that the device is to write to.
    fn landing_segment(&self, frame: &Frame) -> Option<abi::ibv_sge> {
        let segment = self.frame_segment(frame)?;
        frame.forget_crc32c();
        Some(segment)
    }

    /// Queues `count` receives of a queue pair that carries no frames, as [`QueuePair::queue_receive`]
    /// does, and says how many there was room for.
    #[inline]
    pub(in crate::link::verbs) fn queue_message_receives(&mut self, count: u32) -> u32 {
        debug_assert!(!self.options.carries_frames);
        self.memory.receives.queue_messages(count)
    }

    /// Queues a receive; [`QueuePair::post_receives`] hands it to the device. `frame`: for the page
    /// of the message, if and only if the queue pair carries frames.
    ///
    /// # Errors
    /// Hands the frame back, with the reason.
    #[inline]
    pub fn queue_receive(&mut self, frame: Option<Frame>) -> Result<(), Refused<Option<Frame>>> {
        if frame.is_some() != self.options.carries_frames {
            return Err(Refused { reason: RefusedReason::WrongKind, frame });
        }
        if self.memory.receives.room() == 0 {
            return Err(Refused { reason: RefusedReason::Full, frame });
        }
        let with_segment = match frame {
            None => None,
            Some(frame) => match self.landing_segment(&frame) {
                Some(segment) => Some((frame, segment)),
                None => {
                    let reason = RefusedReason::ForeignFrame;
                    return Err(Refused { reason, frame: Some(frame) });
                }
            },
        };
        self.memory.receives.queue(with_segment);
        Ok(())
    }

    /// Hands the queued receives to the device, with one call.
    ///
    /// # Errors
    /// [`VerbsError::Post`]: drain and drop it. The frames that the device did not take have gone
    /// back to the arena.
    #[inline]
    pub fn post_receives(&mut self) -> Result<(), VerbsError> {
        let Some(chain) = self.memory.receives.chain() else { return Ok(()) };
        let mut refused = ptr::null_mut();
        // SAFETY: queue pair and context exist, the table was found complete when the context was
        // opened. The chain ends, and names memory that is registered and belongs to us until the
        // completion of its request.
        let returned = unsafe {
            let queue_pair = self.raw.as_ptr();
            let post = (*(*queue_pair).context).ops.post_recv;
            post.map_or(libc::ENOSYS, |post| post(queue_pair, chain, &raw mut refused))
        };
        self.memory.receives.chain_posted((returned != 0).then_some(refused.cast_const()));
        check(returned).map_err(|source| self.post_failed("receive", source))
    }

    #[cold]
    fn post_failed(&self, queue: &'static str, source: io::Error) -> VerbsError {
        VerbsError::Post { queue, queue_pair: self.number(), source }
    }

    /// Queues the first `message_bytes` of a slot, at most all of it, as [`QueuePair::queue_send`] does
    /// without a frame. The slot, with old bytes in it, is for the caller to write at once. `None`: as
    /// much is under way as there is room for.
    #[inline(always)] // Of each message.
    pub(in crate::link::verbs) fn queue_message(
        &mut self,
        message_bytes: u32,
    ) -> Option<&mut Slot> {
        let slot = if self.is_draining { None } else { self.memory.sends.next_slot() }?;
        let message_bytes = message_bytes.min(SLOT_BYTES_U32);
        let inline = message_bytes <= self.inline_bytes_max;
        self.memory.sends.queue_message(slot, message_bytes, inline);
        // SAFETY: as in `queue_send`; the request is queued, but not yet the device's.
        Some(unsafe { self.memory.slots.get_mut(self.options.capacity.receives + slot) })
    }

    /// Queues a message; [`QueuePair::post_sends`] hands it to the device. `write` puts header and
    /// body into the slot, which has old bytes in it, and says how many there are; before a frame
    /// the whole slot is sent. `signalled`: asks for a completion. Without, the queue pair asks for
    /// one now and then by itself, which stands for all before it.
    ///
    /// # Errors
    /// Hands the frame back, with the reason; `write` is then not called.
    #[inline]
    pub fn queue_send(
        &mut self,
        frame: Option<SharedFrame>,
        signalled: bool,
        write: impl FnOnce(&mut Slot) -> usize,
    ) -> Result<(), Refused<Option<SharedFrame>>> {
        if frame.is_some() && !self.options.carries_frames {
            return Err(Refused { reason: RefusedReason::WrongKind, frame });
        }
        let slot = if self.is_draining { None } else { self.memory.sends.next_slot() };
        let Some(slot) = slot else {
            return Err(Refused { reason: RefusedReason::Full, frame });
        };
        let page = frame.as_ref().map(|frame| self.frame_segment(frame));
        if let Some(None) = page {
            return Err(Refused { reason: RefusedReason::ForeignFrame, frame });
        }
        let page = page.flatten();
        // SAFETY: the slot is that of a request that is not yet queued; the device is done with the
        // one it had before, or `next_slot` would not give it.
        let bytes = unsafe { self.memory.slots.get_mut(self.options.capacity.receives + slot) };
        let written = write(bytes).min(SLOT_BYTES);
        let message_bytes = match page {
            Some(_) => {
                // What an earlier message left there is no business of this peer's.
                bytes[written..].fill(0);
                SLOT_BYTES_U32
            }
            None => u32::try_from(written).unwrap_or(SLOT_BYTES_U32),
        };
        let inline = page.is_none() && message_bytes <= self.inline_bytes_max;
        let held = frame.map_or(Held::Nothing, Held::Sent);
        let request = Request::Send { message_bytes, page, inline, signalled };
        self.memory.sends.queue(&request, held);
        Ok(())
    }

    /// Queues a read of as many bytes as a frame has; [`QueuePair::post_sends`] hands it to the
    /// device. The frame comes back with its completion. What was read may be torn, and gives no
    /// right to the page.
    ///
    /// # Errors
    /// Hands the frame back, with the reason.
    pub fn queue_read(&mut self, frame: Frame, from: RemoteMemory) -> Result<(), Refused<Frame>> {
        if self.is_draining || self.memory.sends.next_slot().is_none() {
            return Err(Refused { reason: RefusedReason::Full, frame });
        }
        let Some(into) = self.landing_segment(&frame) else {
            return Err(Refused { reason: RefusedReason::ForeignFrame, frame });
        };
        let request = Request::Read { into, remote_address: from.address, remote_key: from.key };
        self.memory.sends.queue(&request, Held::Read(frame));
        Ok(())
    }

    /// Hands the queued sends and reads to the device, with one call and one doorbell.
    ///
    /// # Errors
    /// [`VerbsError::Post`]: drain and drop it. What the device did not take was not sent.
    #[inline]
    pub fn post_sends(&mut self) -> Result<(), VerbsError> {
        let Some(chain) = self.memory.sends.chain() else { return Ok(()) };
        let (returned, refused) = self.post_send_chain(chain);
        self.memory.sends.chain_posted((returned != 0).then_some(refused));
        check(returned).map_err(|source| self.post_failed("send", source))
    }

    #[inline]
    fn post_send_chain(&mut self, chain: *mut abi::ibv_send_wr) -> (i32, *const abi::ibv_send_wr) {
        let mut refused = ptr::null_mut();
        // SAFETY: as in `post_receives`; what is sent is changed by nobody until then.
        let returned = unsafe {
            let queue_pair = self.raw.as_ptr();
            let post = (*(*queue_pair).context).ops.post_send;
            post.map_or(libc::ENOSYS, |post| post(queue_pair, chain, &raw mut refused))
        };
        (returned, refused)
    }

    /// Takes the message that the oldest receive of this queue pair has brought, of one that carries
    /// no frames: its slot, zeros beyond what was sent, and bytes. `None`: that is not what is done,
    /// and nothing is taken.
    #[inline(always)] // Of each message.
    pub(in crate::link::verbs) fn take_message(
        &mut self,
        done: &Done<'_>,
    ) -> Option<(&Slot, usize)> {
        debug_assert!(!self.options.carries_frames);
        let (id, bytes) = done.succeeded(self.number)?;
        let slot = self.memory.receives.take_message(id)?;
        let bytes = usize::try_from(bytes).unwrap_or(0).min(SLOT_BYTES);
        // SAFETY: the device is done with the slot, and a new receive in it needs `self`.
        let message = unsafe { self.memory.slots.get_mut(slot) };
        clear_behind(message, bytes, &mut self.longest_bytes);
        Some((message, bytes))
    }

    /// Takes what a completed receive of this queue pair has brought, or the frame of one that
    /// failed. Its slot is free for the next receive as soon as the message is let go.
    ///
    /// # Errors
    /// [`VerbsError::UnknownWork`]: the completion is of no receive that is posted here.
    #[inline]
    pub fn take_receive(&mut self, completion: Completion) -> Result<Arrival<'_>, VerbsError> {
        let taken = match completion.work() {
            Work::Receive { slot } if self.is_ours(&completion) => {
                self.memory.receives.take(slot).map(|frame| (slot, frame))
            }
            _ => None,
        };
        let Some((slot, frame)) = taken else { return Err(self.unknown_work(&completion)) };
        let bytes = if completion.is_success() {
            usize::try_from(completion.bytes()).unwrap_or(0)
        } else {
            // Nobody knows how much of the slot was written.
            self.longest_bytes = SLOT_BYTES;
            0
        };
        let message_bytes = bytes.min(SLOT_BYTES);
        let frame_bytes = frame.as_ref().map_or(0, |f| (bytes - message_bytes).min(f.len()));
        // SAFETY: the device is done with the slot, and a new receive in it needs `self`.
        let message = unsafe { self.memory.slots.get_mut(slot) };
        clear_behind(message, message_bytes, &mut self.longest_bytes);
        Ok(Arrival { message, message_bytes, frame, frame_bytes })
    }

    /// A completion can only stand for work of this queue pair if it names it in every way.
    #[inline]
    fn is_ours(&self, completion: &Completion) -> bool {
        completion.owner() == self.owner && completion.queue_pair() == self.number()
    }

    /// Takes back what a completed send or read of this queue pair held, and what those before it
    /// did, whether they succeeded or not.
    ///
    /// # Errors
    /// [`VerbsError::UnknownWork`]: the completion is of no send that is posted here.
    #[inline]
    pub fn take_sent(&mut self, completion: Completion) -> Result<Sent, VerbsError> {
        let is_ours = self.is_ours(&completion);
        let taken = match completion.work() {
            Work::Send { slot } if is_ours => self.memory.sends.take(slot),
            Work::Drain if is_ours && self.is_marker_out => {
                self.is_marker_out = false;
                Some((self.memory.sends.take_all(), None))
            }
            _ => None,
        };
        let Some((requests, read)) = taken else { return Err(self.unknown_work(&completion)) };
        Ok(Sent { requests, read })
    }

    #[cold]
    fn unknown_work(&self, completion: &Completion) -> VerbsError {
        let work = completion.work().to_string();
        VerbsError::UnknownWork { queue_pair: self.number(), work }
    }

    /// Receives that the device has.
    #[must_use]
    pub fn receives_posted(&self) -> u32 {
        self.memory.receives.posted()
    }

    /// Sends and reads that the device has, as far as completions have told.
    #[must_use]
    pub fn sends_outstanding(&self) -> u32 {
        self.memory.sends.outstanding()
    }

    /// Takes the queue pair to state ERROR: all its work completes, mostly as flushed. Take the
    /// completions until [`QueuePair::is_drained`], or until a deadline, then drop it. What was
    /// received before is among them.
    ///
    /// # Errors
    /// [`VerbsError::Modify`] or [`VerbsError::Post`]: no use waiting, drop it.
    pub fn begin_drain(&mut self) -> Result<(), VerbsError> {
        if self.is_draining {
            return Ok(());
        }
        self.is_draining = true;
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_ERR;
        self.modify("ERROR", &mut attributes, abi::IBV_QP_STATE)?;
        if self.sends_outstanding() == 0 {
            return Ok(());
        }
        // Sends that asked for no completion and have succeeded get none: this one tells of them.
        let marker = self.memory.sends.marker();
        let (returned, _) = self.post_send_chain(marker);
        self.is_marker_out = returned == 0;
        check(returned).map_err(|source| self.post_failed("send", source))
    }

    /// True when no work is left after [`QueuePair::begin_drain`].
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let left = self.sends_outstanding() + self.receives_posted();
        self.is_draining && !self.is_marker_out && left == 0
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let context = Arc::clone(self.context());
        let number = self.number();
        let left = self.sends_outstanding() + self.receives_posted();
        if left > 0 && context.quirks().drain_before_destroy {
            tracing::debug!("queue pair {number} of {} ends with {left} requests", context.name());
        }
        // SAFETY: destroyed once; its completion queue and domain are still held.
        let returned = unsafe { (context.library().destroy_qp)(self.raw.as_ptr()) };
        match check(returned) {
            // SAFETY: dropped once, here; the device does not use it any more.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.memory) },
            Err(error) => tracing::warn!(
                "queue pair {number} of {} stays: {error}; its frames are lost",
                context.name()
            ),
        }
        self.completions.release(self.options.capacity.completions());
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("number", &self.number())
            .field("options", &self.options)
            .field("receives_posted", &self.receives_posted())
            .field("sends_outstanding", &self.sends_outstanding())
            .finish_non_exhaustive()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "asserted")]
const SLOT_BYTES_U32: u32 = {
    assert!(SLOT_BYTES <= u16::MAX as usize);
    SLOT_BYTES as u32
};

/// Clears what an earlier message left in a slot behind the first `bytes`. `longest_bytes`: of all that
/// have come into the slots, which began as zeros.
#[inline]
fn clear_behind(slot: &mut Slot, bytes: usize, longest_bytes: &mut usize) {
    if bytes >= *longest_bytes {
        *longest_bytes = bytes;
    } else if let Some(left) = slot.get_mut(bytes..*longest_bytes) {
        left.fill(0);
    }
}

/// Tells queue pairs of this process apart, as long as completions of an old one can be about.
fn next_serial() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
