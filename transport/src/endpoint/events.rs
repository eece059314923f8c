//! Events on their way to the owner, in the order in which they happened.
//!
//! Messages have a queue of their own: they are written and read in place, field by field, which costs
//! less than moving an [`Event`] in and out as a whole; the other kinds are rare.
//!
//! ```text
//!   messages   m0 m1 m2 m3 m4 ...
//!   others        ^        ^          each with the number of messages that came before it
//! ```

use super::event::Event;
use crate::{
    Frame, Received,
    ring::{Ring, Vacant},
};
use pagewire_protocol::{Body, Epoch, InstanceId, Lane, MessageKind, SessionHeader, header::Slot};
use std::collections::VecDeque;

#[derive(Debug)]
struct Arrived {
    from: InstanceId,
    lane: Lane,
    kind: MessageKind,
    epoch: Epoch,
    body: Body,
    frame: Option<Frame>,
}

impl Vacant for Arrived {
    fn vacant() -> Self {
        let (from, kind) = (InstanceId(0), MessageKind::ACK_ONLY);
        Self { from, lane: Lane::Control, kind, epoch: Epoch(0), body: Body::EMPTY, frame: None }
    }
}

#[derive(Debug)]
pub(super) struct EventQueue {
    messages: Ring<Arrived>,
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

    /// The next event, if it is none that [`EventQueue::next_message`] knows.
    #[inline]
    pub(super) fn pop_other(&mut self) -> Option<Event> {
        if self.others.front().is_some_and(|(at, _)| *at <= self.taken) {
            return self.others.pop_front().map(|(_, event)| event);
        }
        None
    }

    /// Sender and lane of the message that [`EventQueue::pop_message`] takes.
    #[inline]
    pub(super) fn next_message(&self) -> Option<(InstanceId, Lane)> {
        self.messages.get(0).map(|arrived| (arrived.from, arrived.lane))
    }

    /// The next message; what comes before it is taken.
    #[inline(always)] // So that it is written where the caller's caller wants it.
    pub(super) fn pop_message(&mut self) -> Option<Event> {
        let arrived = self.messages.pop()?;
        self.taken += 1;
        Some(Event::Message(Received {
            from: arrived.from,
            lane: arrived.lane,
            kind: arrived.kind,
            epoch: arrived.epoch,
            body: arrived.body,
            frame: arrived.frame.take(),
        }))
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
