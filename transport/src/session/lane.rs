//! One lane of a session, both directions.

use super::{AckDue, Disposition, LaneNumbers, Violation};
use crate::{Message, message::Refusal, planted, ring::Ring};
use pagewire_protocol::{Lane, Sequence};

/// Messages that a lane retains at most, whatever number of receives the peer states.
const WINDOW_MAX: usize = 4096;

/// What a header tells beside its message: up to which sequence all has come, and receives posted.
pub(super) type Told = (Sequence, u32);

#[derive(Debug)]
pub(super) struct LaneState {
    // Sending.
    /// Unacknowledged messages, the oldest first; its sequence is `acked + 1`.
    pub(super) retained: Ring<Message>,
    /// Every message has a page, or none has.
    carries_frames: bool,
    window: usize,
    pub(super) acked: Sequence,
    /// Sequence that goes on the link next.
    cursor: Sequence,
    /// Greatest sequence that was ever on a link.
    pub(super) high_water: Sequence,
    /// Of the present link: messages sent, and receives the peer has posted. Both modulo 2^32.
    sent: u32,
    limit: u32,
    // Receiving.
    pub(super) expected: Sequence,
    /// Of the present link: messages received, and receives posted. Both modulo 2^32.
    received: u32,
    pub(super) granted: u32,
    /// The greatest number of receives that were outstanding on this link.
    credits: u32,
    told_ack: Sequence,
    told_granted: u32,
}

impl LaneState {
    pub(super) fn new(lane: Lane, window: u32) -> Self {
        let window = usize::try_from(window).unwrap_or(usize::MAX).min(WINDOW_MAX);
        Self {
            retained: Ring::with_capacity(window),
            carries_frames: lane.class().has_frame(),
            window,
            acked: Sequence(0),
            cursor: Sequence(1),
            high_water: Sequence(0),
            sent: 0,
            limit: 0,
            expected: Sequence(1),
            received: 0,
            granted: 0,
            credits: 0,
            told_ack: Sequence(0),
            told_granted: 0,
        }
    }

    /// The invariants of the drawing in the module above, of debug builds.
    #[inline]
    fn check(&self) {
        let on_link = Sequence(self.cursor.0 - 1);
        debug_assert!(self.retained.len() <= self.window, "more is kept than the window: {self:?}");
        debug_assert!(self.acked <= on_link, "the cursor is behind what is acknowledged: {self:?}");
        debug_assert!(on_link <= self.high_water, "on the link and never sent: {self:?}");
        debug_assert!(self.high_water.0 <= self.last_assigned(), "sent and not kept: {self:?}");
        debug_assert!(self.told_ack < self.expected, "acknowledged and not there: {self:?}");
        debug_assert!(
            self.granted.wrapping_sub(self.received) <= self.credits,
            "more receives came than were posted: {self:?}"
        );
    }

    pub(super) fn numbers(&self) -> LaneNumbers {
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        LaneNumbers {
            window: small(self.window as u64),
            kept: small(self.retained.len() as u64),
            waiting: small(self.last_assigned() + 1 - self.cursor.0),
            sent: self.sent,
            limit: self.limit,
            received: self.received,
            posted: self.granted,
        }
    }

    /// How many messages [`LaneState::submit`] would take now.
    #[inline]
    pub(super) fn room(&self, linked: bool) -> u64 {
        let window = (self.window - self.retained.len()) as u64;
        let waiting = self.last_assigned() + 1 - self.cursor.0;
        let credit = self.credit_left().saturating_sub(waiting);
        if linked { window.min(credit) } else { window }
    }

    /// Whether there is no [`LaneState::room`].
    #[inline]
    fn is_full(&self, linked: bool) -> bool {
        let waiting = self.last_assigned() + 1 - self.cursor.0;
        self.retained.len() >= self.window || (linked && waiting >= self.credit_left())
    }

    pub(super) fn last_received(&self) -> Sequence {
        if planted::is("session_ack_ahead") && self.expected.0 > 3 {
            return self.expected;
        }
        Sequence(self.expected.0 - 1)
    }

    fn last_assigned(&self) -> u64 {
        self.acked.0 + self.retained.len() as u64
    }

    pub(super) fn check_expected(&self, lane: Lane, found: Sequence) -> Result<(), Violation> {
        if found.0 <= self.acked.0 {
            return Err(Violation::Forgotten { lane, found, acked: self.acked });
        }
        let ack = Sequence(found.0 - 1);
        if ack > self.high_water {
            return Err(Violation::AckOfUnsent { lane, found: ack, sent: self.high_water });
        }
        Ok(())
    }

    pub(super) fn link_up(&mut self, peer_expected: Sequence, limit: u32, granted: u32) {
        self.forget_up_to(Sequence(peer_expected.0 - 1));
        self.cursor = peer_expected;
        if planted::is("session_replay_skips") && self.has_waiting() {
            self.cursor = peer_expected.next();
        }
        if planted::is("session_forget_unacknowledged") {
            self.forget_up_to(self.high_water);
        }
        let old_sent = planted::is("session_old_sent");
        (self.sent, self.limit) = (if old_sent { self.sent } else { 0 }, limit);
        self.widen();
        (self.received, self.granted, self.credits) = (0, granted, granted);
        (self.told_ack, self.told_granted) = (self.last_received(), granted);
        self.check();
    }

    /// A peer that was short of frames at first may have all its receives posted later.
    #[inline]
    fn widen(&mut self) {
        if self.credit_left() > self.window as u64 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let credit = usize::try_from(self.credit_left()).unwrap_or(usize::MAX).min(WINDOW_MAX);
        if credit > self.window {
            self.window = credit;
            self.retained.reserve(credit);
        }
    }

    #[inline]
    fn forget_up_to(&mut self, ack: Sequence) {
        let mut count = ack.0.saturating_sub(self.acked.0).min(self.retained.len() as u64);
        if planted::is("session_keep_acknowledged") {
            count = count.min(16 - self.acked.0 % 16);
        }
        if count > 0 {
            self.forget(count);
        }
        self.cursor = self.cursor.max(self.acked.next());
    }

    fn forget(&mut self, count: u64) {
        let forgotten = usize::try_from(count).unwrap_or(usize::MAX);
        if self.carries_frames {
            // The pages may be changed or used again from now on.
            for oldest in self.retained.iter_mut().take(forgotten) {
                oldest.frame = None;
            }
        }
        self.retained.forget(forgotten);
        self.acked = Sequence(self.acked.0 + count);
    }

    #[inline]
    pub(super) fn has_waiting(&self) -> bool {
        self.cursor.0 <= self.last_assigned()
    }

    /// Nothing is on the link that is not acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        self.cursor == self.acked.next()
    }

    #[inline]
    fn credit_left(&self) -> u64 {
        u64::from(self.limit.wrapping_sub(self.sent))
    }

    /// Keeps a message until it is acknowledged, and takes its frame. If it goes on the link next: its
    /// sequence, and what goes with it, acknowledgement and receives posted.
    #[inline(always)] // As `Session::submit_next`, whose part it is.
    pub(super) fn submit<const FRAME: bool>(
        &mut self,
        message: &mut Message,
        linked: bool,
    ) -> Result<Option<(Sequence, &Message, Told)>, Refusal> {
        self.check();
        debug_assert_eq!(self.is_full(linked), self.room(linked) == 0);
        if self.is_full(linked) && !planted::is("session_ignore_credit") {
            return Err(Refusal::NoCredit);
        }
        let is_next = linked && !self.has_waiting();
        let (sequence, told) = (self.cursor, (self.last_received(), self.granted));
        let place = self.retained.push();
        // From where it lies: it is not moved over the stack.
        place.body = message.body;
        (place.kind, place.epoch) = (message.kind, message.epoch);
        if FRAME {
            place.frame = message.frame.take();
        }
        debug_assert_eq!(place.frame.is_some(), FRAME, "a frame where the lane has none");
        Ok(is_next.then_some((sequence, place, told)))
    }

    #[inline]
    pub(super) fn next_outgoing(&self) -> Option<(Sequence, &Message)> {
        if self.credit_left() == 0 && !planted::is("session_ignore_credit") {
            return None;
        }
        let position = usize::try_from(self.cursor.0 - self.acked.0 - 1).ok()?;
        Some((self.cursor, self.retained.get(position)?))
    }

    #[inline]
    pub(super) fn transmitted(&mut self) -> bool {
        debug_assert!(self.next_outgoing().is_some());
        let first = self.cursor > self.high_water;
        self.high_water = self.high_water.max(self.cursor);
        self.cursor = self.cursor.next();
        self.sent = self.sent.wrapping_add(1);
        self.told();
        self.check();
        first
    }

    /// What the header that goes out now says has been told.
    pub(super) fn told(&mut self) {
        (self.told_ack, self.told_granted) = (self.last_received(), self.granted);
    }

    #[inline(always)] // As `Session::receive`, whose part it is.
    pub(super) fn acknowledge(
        &mut self,
        lane: Lane,
        ack: Sequence,
        limit: u32,
    ) -> Result<(), Violation> {
        if ack > self.high_water {
            return Err(Violation::AckOfUnsent { lane, found: ack, sent: self.high_water });
        }
        self.forget_up_to(ack);
        // Headers of one lane may travel on two connections: only the greatest counts.
        let more = limit.wrapping_sub(self.limit);
        if more != 0 && more < 1 << 31 {
            self.limit = limit;
            self.widen();
        }
        self.check();
        Ok(())
    }

    #[inline]
    pub(super) fn receive(
        &mut self,
        lane: Lane,
        found: Sequence,
    ) -> Result<Disposition, Violation> {
        if self.received == self.granted {
            return Err(Violation::NoCredit { lane, granted: self.granted });
        }
        if found > self.expected {
            return Err(Violation::Gap { lane, found, expected: self.expected });
        }
        self.received = self.received.wrapping_add(1);
        if found < self.expected {
            if planted::is("session_deliver_duplicate") {
                return Ok(Disposition::Deliver);
            }
            return Ok(Disposition::Duplicate);
        }
        self.expected = self.expected.next();
        self.check();
        Ok(Disposition::Deliver)
    }

    /// Receives that are posted and that nothing has come for.
    #[inline]
    pub(super) fn unused_receives(&self) -> u32 {
        self.granted.wrapping_sub(self.received)
    }

    #[inline]
    pub(super) fn posted(&mut self) {
        if planted::is("session_lose_receive") && self.granted % 8 == 7 {
            return;
        }
        if planted::is("session_double_credit") {
            self.granted = self.granted.wrapping_add(1);
        }
        self.granted = self.granted.wrapping_add(1);
        // Greater than at the start of the link when frames were short then.
        self.credits = self.credits.max(self.granted.wrapping_sub(self.received));
        self.check();
    }

    #[inline]
    pub(super) fn ack_due(&self) -> AckDue {
        let untold = self.last_received() != self.told_ack || self.granted != self.told_granted;
        match untold {
            true if self.is_ack_due_now() => AckDue::Now,
            true if !planted::is("session_never_lazy") => AckDue::Lazy,
            _ => AckDue::No,
        }
    }

    /// Whether [`LaneState::ack_due`] is [`AckDue::Now`].
    #[inline]
    pub(super) fn is_ack_due_now(&self) -> bool {
        let credits = self.granted.wrapping_sub(self.told_granted);
        if credits > 0 && self.told_granted == self.received {
            // All that the peer knows of is used up: it waits for this.
            return true;
        }
        let acks = self.last_received().0 - self.told_ack.0;
        let half = u64::from(self.credits / 2).max(1);
        acks.max(u64::from(credits)) >= half && !planted::is("session_never_lazy")
    }
}
