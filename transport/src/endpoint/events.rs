//! Events on their way to the owner, in the order in which they happened.
//!
//! Messages have a queue of their own: they are written and read field by field, which costs less
//! than moving an [`Event`] in and out as a whole, the other kinds are rare.
//!
//! ```text
//!   messages   m0 m1 m2 m3 m4 ...
//!   others        ^        ^          each with the number of messages that came before it
//! ```

use super::event::Event;
use crate::{Frame, Received};
use pagewire_protocol::{Body, InstanceId, Lane, SessionHeader};
use std::collections::VecDeque;

#[derive(Debug)]
struct Arrived {
    from: InstanceId,
    header: SessionHeader,
    body: Body,
    frame: Option<Frame>,
}

#[derive(Debug)]
pub(super) struct EventQueue {
    messages: VecDeque<Arrived>,
    /// Messages that were ever taken.
    taken: u64,
    others: VecDeque<(u64, Event)>,
}

impl EventQueue {
    pub(super) fn with_capacity(messages: usize) -> Self {
        Self {
            messages: VecDeque::with_capacity(messages),
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

    /// Appends a message.
    #[inline]
    pub(super) fn push_message(
        &mut self,
        from: InstanceId,
        header: &SessionHeader,
        body: Body,
        frame: Option<Frame>,
    ) {
        self.messages.push_back(Arrived { from, header: *header, body, frame });
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<Event> {
        if !self.others.is_empty() && self.others.front().is_some_and(|(at, _)| *at <= self.taken) {
            return self.others.pop_front().map(|(_, event)| event);
        }
        let Arrived { from, header, body, frame } = self.messages.front_mut()?;
        let received = Received {
            from: *from,
            lane: header.lane,
            kind: header.kind,
            epoch: header.epoch,
            body: *body,
            frame: frame.take(),
        };
        self.messages.pop_front();
        self.taken += 1;
        Some(Event::Message(received))
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
        self.messages.iter().filter(move |arrived| arrived.from == peer).map(|a| a.header.lane)
    }
}
