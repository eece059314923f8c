//! The verbs link: a queue pair for each lane class, and one completion queue for all three.
//!
//! ```text
//!   small   send  slot{header, body}            receive  slot         posted again as it is taken
//!   page    send  slot{header, body} + frame    receive  slot, frame  posted as the session posts
//!   bulk    as page
//! ```
//! A page is one send of two segments, header and frame, and lands in one receive of the same shape;
//! its frame is handed over as it is. There is no CRC: the ICRC of every packet covers all of it.
//!
//! Who owns what: a posted frame, and a frame that is being sent, belong to their queue pair until
//! the completion is taken. A page asks for a completion of its own, so that its frame is free as soon
//! as it is sent; small messages share one.
//!
//! Receives: those of the small queue pair are enough for the credits of its lanes, and for every
//! acknowledgement that can be on its way alone: one needs a message to acknowledge or a receive to
//! tell of, so there are at most twice as many as all credits. There are
//! `SMALL_RECEIVES_UNPOSTED_MAX` more, so that those that are used are posted again by
//! `SMALL_RECEIVES_SPARE`, and nobody waits for that. The
//! queue pair never waits for a receive (RNR).
//!
//! Work per message: one work request; all that leave in one turn share a doorbell for each class;
//! one packet for a small message; one completion for a page, one for several small messages.

mod posting;
mod reads;
mod taking;
mod todo;

pub use reads::DoneRead;

use super::{
    Choice, Completion, CompletionBatch, CompletionChannel, CompletionQueue, MemoryRegion,
    QueuePair, QueuePairAddress, QueuePairOptions, VerbsError,
    choice::Mtu,
    completion::{BATCH_LEN, Work},
    queue_pair::Capacity,
};
use crate::{
    Frame, SharedFrame,
    counters::VerbsCounters,
    error::LinkError,
    link::{Link, Sink, Urgency},
};
use pagewire_protocol::{
    Body, Lane, LaneClass, SessionHeader,
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES, Slot},
    link_control::QueuePairs,
    read::READS_MAX,
};
use reads::Reads;
use std::{
    net::Ipv6Addr,
    ops::Range,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use taking::{Again, take_message, take_other, take_receive};
use todo::Todo;

/// Sends of small messages that wait for their completion at most. The queue is a ring that every message
/// goes on in, so a long one is memory that is in no cache: 512 cost 0.2 us a message in the lab.
const SMALL_SENDS: u32 = 128;
/// Batches of completions in one poll turn at most, so that other links get theirs.
const BATCHES: u32 = 4;
/// Messages that are not urgent wait until there are this many.
const LATER_MAX: usize = 64;
/// Receives of small messages that need not be posted: they are posted again when there are so many.
const SMALL_RECEIVES_SPARE: u32 = 32;
/// Receives of small messages that are not posted at most: one poll turn may use so many more.
#[allow(clippy::cast_possible_truncation, reason = "a batch is small")]
const SMALL_RECEIVES_UNPOSTED_MAX: u32 = SMALL_RECEIVES_SPARE + BATCHES * BATCH_LEN as u32;
/// Longest wait for queue pairs in state ERROR to give their work back.
const DRAIN_MAX: Duration = Duration::from_millis(100);

const _: () = assert!(super::queue_pair::SLOT_BYTES == FRAME_OFFSET_BYTES);
#[allow(clippy::cast_possible_truncation, reason = "asserted")]
const HEADER_BYTES_U32: u32 = {
    assert!(HEADER_BYTES < FRAME_OFFSET_BYTES);
    HEADER_BYTES as u32
};

/// See the module.
#[derive(Debug)]
pub struct VerbsLink {
    queue_pairs: [QueuePair; LaneClass::COUNT],
    completions: Arc<CompletionQueue>,
    batch: CompletionBatch,
    /// What the next flush has to do.
    todo: Todo,
    /// Receives of small messages that are queued and not posted.
    queued_receives: u32,
    /// Receives of small messages that were used and are not queued again: that is for a poll turn in
    /// which nothing came, so that no answer waits for it.
    used_receives: u32,
    counters: Arc<VerbsCounters>,
    armed: bool,
    /// Why the link is of no use any more: the next poll tells.
    failed: Option<VerbsError>,
    /// There may be completions that were not looked at.
    ready: bool,
    /// Messages that nobody waits for; those of one lane stay in order.
    later: Vec<(SessionHeader, Body)>,
    reads: Reads,
}

/// What a link has room for and allows.
#[derive(Debug, Clone, Copy)]
pub struct LinkRoom {
    /// Receives of ours, by lane.
    pub credits: [u32; Lane::COUNT],
    /// Pages of each class that wait for their completion at most.
    pub page_sends: u32,
    /// One-sided reads, by either end.
    pub reads: bool,
}

impl LinkRoom {
    /// Sends and reads of a class that are under way at most.
    fn sends(&self, class: LaneClass) -> u32 {
        const READS: u32 = {
            assert!(READS_MAX < 1024);
            #[allow(clippy::cast_possible_truncation, reason = "above")]
            {
                READS_MAX as u32
            }
        };
        match class {
            LaneClass::Small => SMALL_SENDS,
            LaneClass::Page => self.page_sends,
            LaneClass::Bulk => self.page_sends + if self.reads { READS } else { 0 },
        }
    }
}

/// Receives of each class for these credits.
fn receives(credits: &[u32; Lane::COUNT]) -> [u32; LaneClass::COUNT] {
    let mut receives = [0u32; LaneClass::COUNT];
    let mut all = 0u32;
    for lane in Lane::ALL {
        let credit = credits[lane.index()];
        all = all.saturating_add(credit);
        let class = &mut receives[lane.class().index()];
        *class = class.saturating_add(credit);
    }
    let small = &mut receives[LaneClass::Small.index()];
    *small =
        small.saturating_add(all.saturating_mul(2)).saturating_add(SMALL_RECEIVES_UNPOSTED_MAX);
    receives
}

impl VerbsLink {
    /// Queue pairs with this room; the receives of small messages are posted.
    ///
    /// # Errors
    /// [`VerbsError`].
    pub fn new(
        region: &Arc<MemoryRegion>,
        choice: &Choice,
        room: &LinkRoom,
        counters: &Arc<VerbsCounters>,
    ) -> Result<Self, VerbsError> {
        let receives = receives(&room.credits);
        let options = LaneClass::ALL.map(|class| QueuePairOptions {
            tag: u16::try_from(class.index()).unwrap_or(0),
            capacity: Capacity { receives: receives[class.index()], sends: room.sends(class) },
            carries_frames: class.has_frame(),
            remote_reads: room.reads && class == LaneClass::Bulk,
            // A message before a page is no candidate, and requests with room for one take more memory.
            inline: !class.has_frame(),
        });
        let needed = options.iter().map(|o| o.capacity.completions()).fold(0, u32::saturating_add);
        let context = region.domain().context();
        let channel = CompletionChannel::new(context)?;
        let completions = CompletionQueue::new(context, needed, Some(channel))?;
        let [small, page, bulk] = options;
        let make = |options| QueuePair::new(region, &completions, choice, options);
        let mut link = Self {
            queue_pairs: [make(small)?, make(page)?, make(bulk)?],
            completions: Arc::clone(&completions),
            batch: CompletionBatch::new(),
            todo: Todo::default(),
            queued_receives: 0,
            used_receives: 0,
            counters: Arc::clone(counters),
            armed: false,
            failed: None,
            ready: true,
            later: Vec::with_capacity(LATER_MAX),
            reads: Reads::default(),
        };
        let small = &mut link.queue_pairs[LaneClass::Small.index()];
        while small.queue_receive(None).is_ok() {
            counters.receives.add(1);
        }
        small.post_receives()?;
        counters.receive_doorbells.add(1);
        Ok(link)
    }

    /// What the peer has to know.
    #[must_use]
    pub fn address(&self) -> QueuePairs {
        let addresses = self.queue_pairs.each_ref().map(QueuePair::address);
        let [small, ..] = addresses;
        QueuePairs {
            mtu: small.mtu.code(),
            lid: small.lid,
            gid: small.gid.octets(),
            numbers: addresses.map(|address| address.queue_pair),
            first_packets: addresses.map(|address| address.first_packet),
        }
    }

    /// Connects with the peer's.
    ///
    /// # Errors
    /// [`VerbsError`].
    pub fn connect(&mut self, peer: &QueuePairs) -> Result<(), VerbsError> {
        let problem = "its MTU is none that verbs has, expected 1 to 5";
        let mtu = Mtu::from_code(peer.mtu.into()).ok_or(VerbsError::PeerAddress { problem })?;
        for (queue_pair, class) in self.queue_pairs.iter_mut().zip(LaneClass::ALL) {
            queue_pair.connect(&QueuePairAddress {
                queue_pair: peer.numbers[class.index()],
                first_packet: peer.first_packets[class.index()],
                lid: peer.lid,
                gid: Ipv6Addr::from(peer.gid),
                mtu,
            })?;
        }
        Ok(())
    }

    /// Name of the device they are on.
    #[must_use]
    pub fn device(&self) -> &str {
        self.completions.context().name()
    }

    /// Becomes readable when completions have come while the link is armed.
    #[must_use]
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.completions.events_fd()
    }

    /// The completion channel is readable.
    pub fn on_events(&mut self) {
        if let Err(error) = self.completions.take_events() {
            // The next poll finds what is wrong.
            tracing::debug!("{error}");
        }
        (self.armed, self.ready) = (false, true);
    }

    /// Asks for an event with the next completion. What came before does not count: the link has to
    /// be polled once more before a sleep, which also tells of a queue that cannot be armed.
    pub fn arm(&mut self) {
        if self.armed {
            return;
        }
        match self.completions.arm() {
            Ok(()) => self.armed = true,
            Err(error) => self.fail(error),
        }
        self.ready = true;
    }

    /// True when this is the number of one of its queue pairs.
    #[must_use]
    pub fn has_queue_pair(&self, number: u32) -> bool {
        self.queue_pairs.iter().any(|queue_pair| queue_pair.number() == number)
    }

    /// Ends the link: takes the queue pairs to ERROR and hands what had arrived to `sink`. Frames
    /// go back to the arena.
    ///
    /// # Errors
    /// [`LinkError`] when `sink` says so; the link is ended all the same.
    pub fn close(mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        let mut delivered = Ok(());
        for queue_pair in &mut self.queue_pairs {
            if let Err(error) = queue_pair.begin_drain() {
                tracing::debug!("{error}");
            }
        }
        let deadline = Instant::now() + DRAIN_MAX;
        while !self.queue_pairs.iter().all(QueuePair::is_drained) && Instant::now() < deadline {
            match self.completions.poll(&mut self.batch) {
                Ok(_) if delivered.is_ok() => delivered = self.take_batch(sink, false),
                Ok(_) => drop(self.take_batch(&mut Nobody, false)),
                Err(_) => break,
            }
        }
        delivered
    }

    /// Ends the link without looking at what had arrived.
    pub fn discard(self) {
        let _ = self.close(&mut Nobody);
    }

    /// The next flush or poll tells.
    #[cold]
    fn fail(&mut self, error: VerbsError) {
        self.failed = Some(error);
        self.todo.add(Todo::FAILED);
    }

    #[cold]
    fn take_failure(&mut self) -> Result<(), LinkError> {
        self.todo.take(Todo::FAILED);
        self.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Takes what the completions in the batch have brought. `repost`: receives of small messages
    /// are queued again. An error of one completion does not keep the others from being taken.
    #[inline(always)] // In each turn in which something has come.
    fn take_batch(&mut self, sink: &mut impl Sink, repost: bool) -> Result<(), LinkError> {
        let len = self.batch.take_len();
        self.counters.completions.add(len as u64);
        for at in 0..len {
            if let Err(error) = self.take_done(at, sink, repost) {
                self.take_behind_failure(at + 1..len, sink, repost);
                return Err(error);
            }
        }
        Ok(())
    }

    #[cold]
    fn take_behind_failure(&mut self, left: Range<usize>, sink: &mut impl Sink, repost: bool) {
        for at in left {
            // The first failure is told.
            let _ = self.take_done(at, sink, repost);
        }
    }

    /// Takes what one completion in the batch has brought.
    #[inline(always)] // As above.
    fn take_done(
        &mut self,
        at: usize,
        sink: &mut impl Sink,
        repost: bool,
    ) -> Result<(), LinkError> {
        let done = self.batch.done(at);
        let small = &mut self.queue_pairs[LaneClass::Small.index()];
        match small.take_message(&done) {
            Some((slot, bytes)) => {
                self.used_receives += u32::from(repost);
                take_message(slot, bytes, sink)
            }
            None => {
                let completion = done.take();
                self.take_rare(completion, repost, sink)
            }
        }
    }

    /// Takes what is not a small message that has come: a page, or the end of a send or of a read, or
    /// work that has failed.
    #[inline(never)] // A page costs more than the call.
    fn take_rare(
        &mut self,
        completion: Completion,
        repost: bool,
        sink: &mut impl Sink,
    ) -> Result<(), LinkError> {
        let class = usize::from(completion.tag());
        let Some(queue_pair) = self.queue_pairs.get_mut(class) else { return Ok(()) };
        if !completion.is_success() || !matches!(completion.work(), Work::Receive { .. }) {
            return take_other(queue_pair, completion, repost, &mut self.reads);
        }
        if let Again::Queued = take_receive(queue_pair, completion, repost, sink)? {
            self.receive_queued(class);
        }
        Ok(())
    }

    /// What nobody waits for keeps the order of its own lane: it is queued now. False: there is no
    /// room for all of it.
    #[cold]
    fn keeps_order(&mut self, lane: Lane) -> bool {
        if self.later.iter().any(|(later, _)| later.lane == lane) {
            self.hurry();
            return self.later.is_empty();
        }
        true
    }

    #[inline(always)] // The header stays in registers.
    fn queue(&mut self, header: &SessionHeader, body: &Body, frame: Option<&SharedFrame>) -> bool {
        let queued = match frame {
            None => self.queue_message(header, body),
            // What the call is given lies in memory: a copy, so that the other's is in registers.
            Some(frame) => self.queue_page(&{ *header }, body, frame),
        };
        if queued {
            self.counters.sends.add(1);
        } else {
            self.todo.add(Todo::FULL);
        }
        queued
    }

    #[inline(always)] // As above.
    fn queue_message(&mut self, header: &SessionHeader, body: &Body) -> bool {
        let queue_pair = &mut self.queue_pairs[LaneClass::Small.index()];
        let message_bytes = HEADER_BYTES_U32 + u32::from(header.body_len);
        let Some(slot) = queue_pair.queue_message(message_bytes) else { return false };
        header.encode_into(slot, body, false);
        self.todo.add(Todo::sends(LaneClass::Small.index()));
        true
    }

    #[inline(never)] // A page costs more than the call.
    fn queue_page(&mut self, header: &SessionHeader, body: &Body, frame: &SharedFrame) -> bool {
        let class = header.lane.class().index();
        let queued = self.queue_pairs[class].queue_send(Some(frame.clone()), true, |slot| {
            header.encode_into(slot, body, false);
            HEADER_BYTES + body.as_slice().len()
        });
        if queued.is_ok() {
            self.todo.add(Todo::sends(class));
        }
        queued.is_ok()
    }
}

impl Link for VerbsLink {
    fn post_receive(&mut self, class: LaneClass, frame: Frame) {
        let queue_pair = &mut self.queue_pairs[class.index()];
        if let Err(refused) = queue_pair.queue_receive(Some(frame)) {
            // The peer would be told of it, and send a page that nothing waits for.
            let error = taking::not_queued(queue_pair, refused.reason);
            return self.fail(error);
        }
        self.receive_queued(class.index());
    }

    #[inline(always)] // The header stays in registers.
    fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        if urgency == Urgency::WhenQuiet && frame.is_none() && self.later.len() < LATER_MAX {
            self.later.push((*header, *body));
            return true;
        }
        if !self.later.is_empty() && frame.is_none() && !self.keeps_order(header.lane) {
            return false;
        }
        self.queue(header, body, frame)
    }

    #[inline]
    fn has_output(&self) -> bool {
        self.todo.is_any()
    }

    #[inline(always)] // Of each message.
    fn flush(&mut self) -> Result<(), LinkError> {
        if !self.todo.is_just(Todo::sends(LaneClass::Small.index())) || !self.later.is_empty() {
            return self.flush_all();
        }
        self.todo = Todo::default();
        Ok(self.post_sends(LaneClass::Small.index())?)
    }

    fn hurry(&mut self) {
        let later = std::mem::take(&mut self.later);
        let mut left = later.iter();
        let turned_away = left.find(|(header, body)| !self.queue(header, body, None));
        let rest: Vec<_> = turned_away.into_iter().chain(left).copied().collect();
        self.later = later;
        self.later.clear();
        self.later.extend(rest);
    }

    fn is_waiting_for_quiet(&self) -> bool {
        !self.later.is_empty()
    }

    #[inline(always)] // In each look at the peer.
    fn poll(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        if self.failed.is_some() {
            return self.take_failure();
        }
        self.ready = false;
        for _ in 0..BATCHES {
            let got = self.completions.poll(&mut self.batch)?;
            if got == 0 {
                // No answer waits for it now.
                if self.used_receives > 0 {
                    self.requeue_used()?;
                }
                return Ok(());
            }
            self.take_batch(sink, true)?;
            // What is just enough waits for a turn in which nothing has come.
            if self.used_receives + self.queued_receives > SMALL_RECEIVES_SPARE {
                self.requeue_used()?;
            }
            if got < BATCH_LEN {
                break;
            }
        }
        // Whoever is to sleep has to look once more.
        self.ready = true;
        Ok(())
    }

    fn is_hot(&self) -> bool {
        true
    }

    fn may_sleep(&self) -> bool {
        !self.ready && self.armed && !self.todo.is_any_but(Todo::FULL)
    }
}

/// Drops everything.
struct Nobody;

impl Sink for Nobody {
    fn message(
        &mut self,
        _header: &SessionHeader,
        _slot: &Slot,
        _frame: Option<Frame>,
    ) -> Result<Option<Frame>, LinkError> {
        Ok(None)
    }

    fn control(&mut self, _said: pagewire_protocol::LinkControl) -> Result<(), LinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receives_are_enough_for_all_credits_and_every_acknowledgement_alone() {
        assert_eq!(receives(&[256, 128, 128, 32, 8]), [512 + 2 * 552 + 96, 32, 8]);
        assert_eq!(receives(&[u32::MAX; 5]), [u32::MAX; 3]);
    }
}
