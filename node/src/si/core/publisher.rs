//! The publisher's side: what has left, and who has acknowledged how much of it.

use super::Odd;
use crate::{planted, view::Life};
use pagewire_protocol::{Epoch, Incarnation, InstanceId, si::wire::SiAck};
use std::collections::VecDeque;

/// Most batches that are not delivered at a time: so many can a subscriber have to hold back.
pub const UNDER_WAY_MAX: usize = 256;
/// Most of them that travel in frames.
pub const FRAMES_UNDER_WAY_MAX: usize = 8;

/// A stream to one life of a subscriber: there while there is a session.
#[derive(Debug, Clone, Copy)]
struct Stream {
    to: Life,
    /// The batch before its first.
    begun_after: u64,
    /// Up to where it has everything, once it has said so.
    acknowledged: Option<u64>,
    /// The latest view that it has told.
    told: Epoch,
}

/// A batch that is not delivered.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    number: u64,
    position: u64,
    in_frame: bool,
}

#[derive(Debug)]
pub(super) struct Publisher {
    /// Number of the last batch.
    last: u64,
    streams: Vec<Stream>,
    under_way: VecDeque<UnderWay>,
    frames: usize,
}

impl Default for Publisher {
    fn default() -> Self {
        let under_way = VecDeque::with_capacity(UNDER_WAY_MAX);
        Self { last: 0, streams: Vec::new(), under_way, frames: 0 }
    }
}

impl Publisher {
    /// A stream begins. Returns the number of its first batch.
    pub(super) fn up(&mut self, peer: InstanceId, life: Incarnation) -> u64 {
        self.over((peer, Incarnation(0)));
        let (to, told, begun_after) = ((peer, life), Epoch(0), self.last);
        self.streams.push(Stream { to, begun_after, acknowledged: None, told });
        self.last + 1
    }

    /// The stream to this life is over; life 0: to any.
    pub(super) fn over(&mut self, life: Life) {
        self.streams.retain(|stream| !is_it(stream.to, life));
    }

    pub(super) fn subscribers(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.streams.iter().map(|stream| stream.to.0)
    }

    pub(super) fn has_room(&self, in_frame: bool) -> bool {
        let room = self.under_way.len() < UNDER_WAY_MAX;
        room && (!in_frame || self.frames < FRAMES_UNDER_WAY_MAX)
    }

    pub(super) fn publish(&mut self, position: u64, in_frame: bool) -> u64 {
        debug_assert!(self.has_room(in_frame), "more is under way than may be");
        self.last += 1;
        self.frames += usize::from(in_frame);
        self.under_way.push_back(UnderWay { number: self.last, position, in_frame });
        self.last
    }

    pub(super) fn acknowledged(&mut self, from: InstanceId, ack: SiAck) -> Result<(), Odd> {
        let last = self.last;
        let stream = self.streams.iter_mut().find(|stream| stream.to.0 == from);
        let stream = stream.ok_or(Odd::NoStream)?;
        if ack.up_to > last || ack.up_to < stream.begun_after {
            return Err(Odd::Ack { found: ack.up_to, last });
        }
        stream.acknowledged = stream.acknowledged.max(Some(ack.up_to));
        stream.told = stream.told.max(ack.epoch);
        Ok(())
    }

    pub(super) fn is_delivered(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The position up to which everything is delivered, if that is news.
    pub(super) fn settle(&mut self, epoch: Epoch, members: &[Life]) -> Option<u64> {
        self.under_way.front()?;
        let mut members = members;
        if planted::is("si_forget_a_member") {
            members = members.split_last().map_or(members, |(_, others)| others);
        }
        let mut least = self.last;
        for member in members {
            let stream = self.streams.iter().find(|stream| is_it(stream.to, *member))?;
            if stream.told > epoch && !planted::is("si_forget_the_later_view") {
                return None;
            }
            least = least.min(stream.acknowledged?);
        }
        let mut position = None;
        while let Some(first) = self.under_way.front().filter(|first| first.number <= least) {
            position = Some(first.position);
            self.frames -= usize::from(first.in_frame);
            self.under_way.pop_front();
        }
        position
    }
}

/// Whether `life` is this one; a life of 0 is any.
pub(super) fn is_it(this: Life, life: Life) -> bool {
    this.0 == life.0 && (life.1.0 == 0 || this.1 == life.1)
}
