//! Events on their way to the owner, in the order in which they happened.
//!
//! Messages have a queue of their own: they are written in place, field by field, and may be read there
//! ([`Taken`]), which costs less than moving an [`Event`] in and out as a whole; the other kinds are rare.
//!
//! ```text
//!   messages   m0 m1 m2 m3 m4 ...
//!   others        ^        ^          each with the number of messages that came before it
//! ```

use super::event::Event;
use crate::{Frame, Received, message::Taken, ring::Ring};
use pagewire_protocol::{InstanceId, Lane, SessionHeader, header::Slot};
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct EventQueue {
    messages: Ring<Received>,
    /// Messages that were ever taken.
    taken: u64,
    others: VecDeque<(u64, Event)>,
}

impl EventQueue {
    pub(super) fn with_capacity(messages: usize) -> Self {
        Self {
            messages: Ring::with_capacity(messages),
            taken: 0,
            others: VecDeque::with_capacity(16),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.others.is_empty()
    }

    /// Appends an event.
    pub(super) fn push_back(&mut self, event: Event) {
        self.others.push_back((self.taken + self.messages.len() as u64, event));
    }

    /// Appends a message, its body as it lies in `slot`.
    #[inline(always)] // With the header in registers and the body where it arrived.
    pub(super) fn push_message(
        &mut self,
        from: InstanceId,
        header: &SessionHeader,
        slot: &Slot,
        frame: Option<Frame>,
    ) {
        let place = self.messages.push();
        place.from = from;
        place.lane = header.lane;
        place.kind = header.kind;
        place.epoch = header.epoch;
        place.body.set_from_slot(slot, header.body_len);
        place.frame = frame;
    }

    /// There are events that are no messages.
    #[inline]
    pub(super) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// The next event is none that [`EventQueue::next_message`] knows.
    pub(super) fn is_other_next(&self) -> bool {
        self.others.front().is_some_and(|(at, _)| *at <= self.taken)
    }

    /// The next event, if it is none that [`EventQueue::next_message`] knows.
    #[inline]
    pub(super) fn pop_other(&mut self) -> Option<Event> {
        if !self.is_other_next() {
            return None;
        }
        self.others.pop_front().map(|(_, event)| event)
    }

    /// Sender and lane of the message that [`EventQueue::pop_message`] takes.
    #[inline]
    pub(super) fn next_message(&self) -> Option<(InstanceId, Lane)> {
        self.messages.get(0).map(|arrived| (arrived.from, arrived.lane))
    }

    /// The next message, where it lies; what comes before it is taken.
    #[inline(always)] // As `pop_message`.
    pub(super) fn take_message(&mut self) -> Option<Taken<'_>> {
        let arrived = self.messages.pop()?;
        self.taken += 1;
        Some(Taken(arrived))
    }

    /// The next message; what comes before it is taken.
    #[inline(always)] // So that it is written where the caller's caller wants it.
    pub(super) fn pop_message(&mut self) -> Option<Event> {
        Some(Event::Message(self.take_message()?.take()))
    }

    /// Events that are no messages.
    pub(super) fn others_mut(&mut self) -> impl Iterator<Item = &mut Event> {
        self.others.iter_mut().map(|(_, event)| event)
    }

    /// Drops the messages of `peer` that are not taken yet; what comes after them moves up.
    pub(super) fn drop_messages_of(&mut self, peer: InstanceId) {
        let positions = self.messages.iter().zip(self.taken..);
        let dropped: Vec<u64> =
            positions.filter(|(m, _)| m.from == peer).map(|(_, at)| at).collect();
        self.messages.retain(|message| message.from != peer);
        for (at, _) in &mut self.others {
            *at -= dropped.iter().filter(|position| **position < *at).count() as u64;
        }
    }

    /// Drops everything that `peer` has sent or that was to be told of it. Whoever began a read is
    /// told how it ended all the same.
    pub(super) fn drop_all_of(&mut self, peer: InstanceId) {
        self.drop_messages_of(peer);
        self.others.retain(|(_, event)| event.peer() != peer || matches!(event, Event::Read(_)));
    }

    /// Lanes of the messages of `peer` that are not taken yet.
    pub(super) fn lanes_from(&self, peer: InstanceId) -> impl Iterator<Item = Lane> {
        self.messages.iter().filter(move |arrived| arrived.from == peer).map(|a| a.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaConfig};
    use pagewire_protocol::{Body, Epoch, MessageKind, Sequence};

    fn push(queue: &mut EventQueue, kind: u16, frame: Option<Frame>) {
        let body = Body::new(&kind.to_le_bytes()).unwrap();
        let header = SessionHeader {
            lane: Lane::Requests,
            kind: MessageKind(kind),
            body_len: body.count_bytes(),
            frame: false,
            page_crc: None,
            epoch: Epoch(3),
            sequence: Sequence(1),
            ack: Sequence(0),
            credits: 0,
            source: InstanceId(4),
        };
        queue.push_message(InstanceId(4), &header, &header.encode_slot(&body, false), frame);
    }

    #[test]
    fn a_message_is_read_where_it_lies_as_it_is_when_moved_and_in_its_turn() {
        let mut queue = EventQueue::with_capacity(2);
        push(&mut queue, 7, None);
        push(&mut queue, 7, None);
        queue.push_back(Event::Linked { peer: InstanceId(4) });
        push(&mut queue, 8, None);
        let Some(Event::Message(moved)) = queue.pop_message() else { panic!("a message") };
        assert!(!queue.is_other_next());
        let taken = queue.take_message().unwrap();
        let facts = |m: &Received| (m.from, m.lane, m.kind, m.epoch, m.body, m.frame.is_none());
        assert_eq!(facts(&taken), facts(&moved));
        assert_eq!(moved.body.as_slice(), [7, 0]);
        drop(taken);
        assert!(queue.is_other_next());
        assert!(matches!(queue.pop_other(), Some(Event::Linked { .. })));
        assert_eq!(queue.take_message().unwrap().kind, MessageKind(8));
        assert!(queue.take_message().is_none() && queue.is_empty());
    }

    #[test]
    fn a_frame_that_is_left_in_a_message_goes_back_and_one_that_is_taken_stays() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(2) }).unwrap();
        let mut queue = EventQueue::with_capacity(4);
        push(&mut queue, 1, arena.take());
        push(&mut queue, 2, arena.take());
        drop(queue.take_message());
        assert_eq!(arena.free_frames(), 1, "the frame that was left");
        let kept = queue.take_message().unwrap().frame.take();
        assert_eq!((kept.is_some(), arena.free_frames()), (true, 1));
    }
}
