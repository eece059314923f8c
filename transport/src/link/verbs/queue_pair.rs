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

use super::{
    abi,
    choice::{Choice, LinkLayer, Mtu},
    completion::{Completion, CompletionQueue, Owner, Status, Work},
    device::Context,
    domain::MemoryRegion,
    error::{VerbsError, check},
    receive_queue::ReceiveQueue,
    send_queue::{Held, Request, SendQueue},
    slots::Slots,
};
use crate::{Frame, SharedFrame};
use std::{
    fmt, io,
    mem::{ManuallyDrop, zeroed},
    net::Ipv6Addr,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

pub use super::slots::SLOT_BYTES;

/// Packet and queue pair numbers have 24 bits.
const BITS_24: u32 = 0x00FF_FFFF;
/// An acknowledgement is awaited for 4.096 us x 2^14 = 67 ms.
const ACKNOWLEDGE_TIMEOUT: u8 = 14;
/// Tries after the first: the peer is given up after about half a second (some drivers: two). Not 7:
/// rxe takes that for "for ever" (Linux 6.1, rxe_comp.c), so that a peer that is gone is never noticed.
const RETRIES: u8 = 6;
/// Tries when the peer has no receive posted. Credits forbid that, so that few are enough; 7 would
/// mean for ever.
const RNR_RETRIES: u8 = 6;
/// How long a peer without a receive asks for patience: 0.64 ms. (0 would mean 655 ms.)
const RNR_TIMER: u8 = 12;
const HOPS: u8 = 64;

/// How much work a queue pair has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Receives posted at once: the sum of the credits that are given.
    pub receives: u32,
    /// Sends and reads under way at once; rounded up to a power of two.
    pub sends: u32,
}

impl Capacity {
    /// Completions that the work can have at once: all of it, and the marker of a drain. The
    /// completion queue needs as many entries for each queue pair.
    #[must_use]
    pub fn completions(&self) -> u32 {
        let sends = SendQueue::depth_of(self.sends);
        self.receives.saturating_add(sends).saturating_add(1)
    }
}

/// What a queue pair is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairOptions {
    /// Comes back with each completion, to find the queue pair again.
    pub tag: u16,
    /// How much work it has room for.
    pub capacity: Capacity,
    /// Every receive has a frame; sends may have one.
    pub carries_frames: bool,
    /// Peers may read from the memory region, which must be registered for that.
    pub remote_reads: bool,
    /// Ask for sends whose message travels in the work request, if the driver is known to do it
    /// well.
    pub inline: bool,
}

/// What a peer has to know to connect: exchanged over the handshake's TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairAddress {
    /// Number of the queue pair, 24 bits.
    pub queue_pair: u32,
    /// Number of the first packet it sends, 24 bits.
    pub first_packet: u32,
    /// LID of its port; 0 on Ethernet.
    pub lid: u16,
    /// GID of its port; unspecified where packets have no global header.
    pub gid: Ipv6Addr,
    /// Greatest packet of its port.
    pub mtu: Mtu,
}

/// Memory of a peer that it lets us read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteMemory {
    /// First address, as the peer knows it.
    pub address: u64,
    /// The peer's key ([`MemoryRegion::remote_key`]).
    pub key: u32,
}

/// Why work was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedReason {
    /// As much is under way as there is room for: take completions first.
    Full,
    /// The queue pair carries frames and there is none, or the other way round.
    WrongKind,
    /// The frame is not of the arena whose memory is registered.
    ForeignFrame,
}

/// Work that was not queued, and the frame that came with it.
#[derive(Debug)]
pub struct Refused<F> {
    /// Why.
    pub reason: RefusedReason,
    /// The frame, as it was.
    pub frame: F,
}

/// What a completed receive has brought.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Header and body; zeros beyond what was sent.
    pub message: &'a mut [u8; SLOT_BYTES],
    /// Bytes of it that were sent; 0 when the receive failed.
    pub message_bytes: usize,
    /// The frame of the receive.
    pub frame: Option<Frame>,
    /// Bytes of the frame that were sent, from its start; the others are as they were.
    pub frame_bytes: usize,
}

/// What a completed send has ended.
#[derive(Debug)]
pub struct Sent {
    /// Requests that are done: this one and those before it that asked for no completion.
    pub requests: u32,
    /// The frame of a read, with what was read if the completion is a success.
    pub read: Option<Frame>,
}

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
    first_packet: u32,
    inline_bytes_max: u32,
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
            first_packet,
            inline_bytes_max,
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
        // SAFETY: the queue pair exists; its number does not change.
        unsafe { (*self.raw.as_ptr()).qp_num }
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

    fn modify(
        &mut self,
        state: &'static str,
        attributes: &mut abi::ibv_qp_attr,
        mask: i32,
    ) -> Result<(), VerbsError> {
        let modify = self.context().library().modify_qp;
        // SAFETY: the queue pair exists, and the attributes of the mask are set.
        let returned = unsafe { modify(self.raw.as_ptr(), &raw mut *attributes, mask) };
        check(returned).map_err(|source| VerbsError::Modify {
            device: self.context().name().to_owned(),
            queue_pair: self.number(),
            state,
            source,
        })
    }

    fn initialise(&mut self) -> Result<(), VerbsError> {
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_INIT;
        attributes.port_num = self.choice.port;
        if self.options.remote_reads {
            attributes.qp_access_flags = abi::IBV_ACCESS_REMOTE_READ.unsigned_abs();
        }
        let mask = abi::IBV_QP_STATE
            | abi::IBV_QP_PKEY_INDEX
            | abi::IBV_QP_PORT
            | abi::IBV_QP_ACCESS_FLAGS;
        self.modify("INIT", &mut attributes, mask)
    }

    /// Connects to the peer's queue pair: messages may come as soon as the peer has connected, too,
    /// and be sent when this returns.
    ///
    /// # Errors
    /// [`VerbsError::PeerAddress`] when what the peer stated cannot be; [`VerbsError::Modify`].
    pub fn connect(&mut self, peer: &QueuePairAddress) -> Result<(), VerbsError> {
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_RTR;
        attributes.ah_attr = route(&self.choice, peer)?;
        attributes.path_mtu = u32::from(self.choice.mtu.min(peer.mtu).code());
        attributes.dest_qp_num = peer.queue_pair;
        attributes.rq_psn = peer.first_packet;
        attributes.max_dest_rd_atomic = self.context().reads_max();
        attributes.min_rnr_timer = RNR_TIMER;
        let mask = abi::IBV_QP_STATE
            | abi::IBV_QP_AV
            | abi::IBV_QP_PATH_MTU
            | abi::IBV_QP_DEST_QPN
            | abi::IBV_QP_RQ_PSN
            | abi::IBV_QP_MAX_DEST_RD_ATOMIC
            | abi::IBV_QP_MIN_RNR_TIMER;
        self.modify("RTR (ready to receive)", &mut attributes, mask)?;
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_RTS;
        attributes.timeout = ACKNOWLEDGE_TIMEOUT;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RNR_RETRIES;
        attributes.sq_psn = self.first_packet;
        attributes.max_rd_atomic = self.context().reads_max();
        let mask = abi::IBV_QP_STATE
            | abi::IBV_QP_TIMEOUT
            | abi::IBV_QP_RETRY_CNT
            | abi::IBV_QP_RNR_RETRY
            | abi::IBV_QP_SQ_PSN
            | abi::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify("RTS (ready to send)", &mut attributes, mask)
    }

    /// Segment of a whole frame, if the region has it.
    fn frame_segment(&self, frame: &[u8]) -> Option<abi::ibv_sge> {
        let region = &self.memory.region;
        let length = u32::try_from(frame.len()).ok()?;
        Some(abi::ibv_sge { addr: region.address_of(frame)?, length, lkey: region.local_key() })
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
        if !self.memory.receives.has_room() {
            return Err(Refused { reason: RefusedReason::Full, frame });
        }
        let with_segment = match frame {
            None => None,
            Some(frame) => match self.frame_segment(&frame) {
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
        write: impl FnOnce(&mut [u8; SLOT_BYTES]) -> usize,
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
        let Some(into) = self.frame_segment(&frame) else {
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
        let bytes = match completion.status() {
            Status::Success => usize::try_from(completion.bytes()).unwrap_or(0),
            _ => 0,
        };
        let message_bytes = bytes.min(SLOT_BYTES);
        let frame_bytes = frame.as_ref().map_or(0, |f| (bytes - message_bytes).min(f.len()));
        // SAFETY: the device is done with the slot, and a new receive in it needs `self`.
        let message = unsafe { self.memory.slots.get_mut(slot) };
        message[message_bytes..].fill(0);
        Ok(Arrival { message, message_bytes, frame, frame_bytes })
    }

    /// A completion can only stand for work of this queue pair if it names it in every way.
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

fn no_attributes() -> abi::ibv_qp_attr {
    // SAFETY: plain integers, for which zeros are a value.
    unsafe { zeroed() }
}

/// Tells queue pairs of this process apart, as long as completions of an old one can be about.
fn next_serial() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn random_24_bits() -> io::Result<u32> {
    Ok(getrandom::u32().map_err(io::Error::other)? & BITS_24)
}

/// The depth of the send queue, if the device has queues that long.
fn check_capacity(context: &Context, capacity: Capacity) -> Result<u32, VerbsError> {
    let available = context.work_requests_max();
    // One more for the marker of a drain.
    let sends = (1..=available).contains(&capacity.sends);
    let depth = if sends { SendQueue::depth_of(capacity.sends) } else { capacity.sends };
    let queues =
        [("receives of a queue pair", capacity.receives, 0), ("sends of a queue pair", depth, 1)];
    for (what, needed, beside) in queues {
        if needed == 0 || needed.saturating_add(beside) > available {
            return Err(VerbsError::Capacity { what, needed, available });
        }
    }
    Ok(depth)
}

/// Makes the queue pair; with messages in the work request if the driver does that.
fn create(
    region: &MemoryRegion,
    completions: &CompletionQueue,
    options: QueuePairOptions,
    depth: u32,
) -> Result<(NonNull<abi::ibv_qp>, u32), VerbsError> {
    let context = region.domain().context();
    let inline = if options.inline { context.quirks().inline_bytes_max } else { 0 };
    let segments = if options.carries_frames { 2 } else { 1 };
    let mut asked = inline.min(SLOT_BYTES_U32);
    loop {
        let mut attributes = abi::ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: completions.as_ptr(),
            recv_cq: completions.as_ptr(),
            srq: ptr::null_mut(),
            cap: abi::ibv_qp_cap {
                // One more for the marker of a drain.
                max_send_wr: depth + 1,
                max_recv_wr: options.capacity.receives,
                max_send_sge: segments,
                max_recv_sge: segments,
                max_inline_data: asked,
            },
            qp_type: abi::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: domain and completion queue exist and are kept by the queue pair; the attributes
        // are complete.
        let raw = unsafe {
            let create = context.library().create_qp;
            create(region.domain().as_ptr(), &raw mut attributes)
        };
        let failed = io::Error::last_os_error();
        match NonNull::new(raw) {
            // What is granted may be more than was asked for; that nobody has measured.
            Some(raw) => return Ok((raw, asked.min(attributes.cap.max_inline_data))),
            None if asked > 0 => asked = 0,
            None => return Err(context.cannot_create("queue pair", failed)),
        }
    }
}

/// How packets find the peer.
fn route(choice: &Choice, peer: &QueuePairAddress) -> Result<abi::ibv_ah_attr, VerbsError> {
    let wrong = |problem| Err(VerbsError::PeerAddress { problem });
    if peer.queue_pair > BITS_24 || peer.first_packet > BITS_24 {
        return wrong("its number has more than 24 bits");
    }
    // SAFETY: plain integers, for which zeros are a value.
    let mut route: abi::ibv_ah_attr = unsafe { zeroed() };
    route.port_num = choice.port;
    if choice.link_layer != LinkLayer::Ethernet {
        if peer.lid == 0 {
            return wrong("it has LID 0, expected one that a subnet manager has assigned");
        }
        route.dlid = peer.lid;
    }
    if choice.global {
        let Some(gid) = &choice.gid else { return wrong("this end has no GID to send from") };
        if peer.gid.is_unspecified() {
            return wrong(
                "it states no GID, expected one: is its port InfiniBand, this one Ethernet?",
            );
        }
        let Ok(sgid_index) = u8::try_from(gid.index) else {
            return wrong("this end's GID index is above 255, which a route cannot name");
        };
        route.is_global = 1;
        route.grh.dgid = abi::ibv_gid { raw: peer.gid.octets() };
        route.grh.sgid_index = sgid_index;
        route.grh.hop_limit = HOPS;
    }
    Ok(route)
}

#[cfg(test)]
mod tests {
    use super::super::choice::{Gid, GidKind};
    use super::*;

    fn choice(link_layer: LinkLayer, gid_index: u32) -> Choice {
        let address = Ipv6Addr::LOCALHOST;
        let gid = Gid { index: gid_index, address, kind: GidKind::RoceV2, interface: None };
        let global = link_layer == LinkLayer::Ethernet;
        let device = "rxe0".to_owned();
        Choice { device, port: 1, mtu: Mtu::Bytes1024, link_layer, lid: 4, gid: Some(gid), global }
    }

    fn peer() -> QueuePairAddress {
        let gid = "::ffff:10.0.0.2".parse().unwrap();
        QueuePairAddress { queue_pair: 17, first_packet: 5, lid: 0, gid, mtu: Mtu::Bytes4096 }
    }

    #[test]
    fn ethernet_is_routed_by_gid_and_infiniband_by_lid() {
        let roce = route(&choice(LinkLayer::Ethernet, 3), &peer()).unwrap();
        assert_eq!((roce.is_global, roce.grh.sgid_index, roce.dlid), (1, 3, 0));
        assert_eq!(roce.grh.dgid.raw, peer().gid.octets());
        let to = QueuePairAddress { lid: 9, gid: Ipv6Addr::UNSPECIFIED, ..peer() };
        let subnet = route(&choice(LinkLayer::InfiniBand, 0), &to).unwrap();
        assert_eq!((subnet.is_global, subnet.dlid), (0, 9));
    }

    #[test]
    fn what_a_peer_cannot_have_is_refused_before_the_device_sees_it() {
        let ethernet = choice(LinkLayer::Ethernet, 3);
        let infiniband = choice(LinkLayer::InfiniBand, 0);
        for (choice, peer, word) in [
            (&ethernet, QueuePairAddress { queue_pair: 1 << 24, ..peer() }, "24 bits"),
            (&ethernet, QueuePairAddress { first_packet: u32::MAX, ..peer() }, "24 bits"),
            (&ethernet, QueuePairAddress { gid: Ipv6Addr::UNSPECIFIED, ..peer() }, "no GID"),
            (&infiniband, peer(), "LID 0"),
        ] {
            let error = route(choice, &peer).unwrap_err().to_string();
            assert!(error.contains(word), "'{word}' in: {error}");
        }
        assert!(route(&choice(LinkLayer::Ethernet, 300), &peer()).is_err());
    }
}
