//! The subscriber's side: batches in their order, whatever lane they came on, into the ring.

use super::{
    Batch, Effect, Odd,
    publisher::{UNDER_WAY_MAX, is_it},
};
use crate::{planted, view::Life};
use pagewire_protocol::{
    Epoch, Incarnation, InstanceId,
    si::wire::{SiAck, SiBegin},
};

/// A stream from one life of a publisher.
#[derive(Debug)]
struct Stream<B> {
    from: Life,
    /// The number that comes next; `None` before SI_BEGIN.
    next: Option<u64>,
    /// What has overtaken others, by number.
    held: Vec<(u64, B)>,
    /// Something was written that is not acknowledged.
    owes: bool,
}

#[derive(Debug)]
pub(super) struct Subscriber<B> {
    streams: Vec<Stream<B>>,
}

impl<B> Default for Subscriber<B> {
    fn default() -> Self {
        Self { streams: Vec::new() }
    }
}

impl<B: Batch> Subscriber<B> {
    pub(super) fn up(&mut self, peer: InstanceId, life: Incarnation) {
        self.over((peer, Incarnation(0)));
        self.streams.push(Stream { from: (peer, life), next: None, held: Vec::new(), owes: false });
    }

    /// The stream from this life is over; life 0: from any.
    pub(super) fn over(&mut self, life: Life) {
        self.streams.retain(|stream| !is_it(stream.from, life));
    }

    fn stream(&mut self, from: InstanceId) -> Result<&mut Stream<B>, Odd> {
        self.streams.iter_mut().find(|stream| stream.from.0 == from).ok_or(Odd::NoStream)
    }

    pub(super) fn begun(
        &mut self,
        from: InstanceId,
        begin: SiBegin,
        effects: &mut Vec<Effect<B>>,
    ) -> Result<(), Odd> {
        let stream = self.stream(from)?;
        if stream.next.is_some() || begin.publisher != stream.from.1 {
            return Err(Odd::Begin);
        }
        if !planted::is("si_begin_without_reset") {
            effects.push(Effect::Reset);
        }
        (stream.next, stream.owes) = (Some(begin.next), true);
        stream.held.retain(|(number, _)| *number >= begin.next);
        stream.write(effects);
        Ok(())
    }

    pub(super) fn arrived(
        &mut self,
        from: InstanceId,
        number: u64,
        batch: B,
        effects: &mut Vec<Effect<B>>,
    ) -> Result<(), Odd> {
        let stream = self.stream(from)?;
        let expected = stream.next.unwrap_or(1);
        match stream.next {
            Some(next) if number == next || planted::is("si_lanes_in_any_order") => {
                stream.next = Some(number.max(next) + 1);
                stream.owes = true;
                effects.push(Effect::Write { publisher: from, batch });
                stream.write(effects);
                Ok(())
            }
            next => {
                let again = next.is_some_and(|next| number < next);
                let at = stream.held.binary_search_by_key(&number, |(held, _)| *held);
                let (false, Err(at)) = (again, at) else {
                    return Err(Odd::Again { found: number, expected });
                };
                stream.held.insert(at, (number, batch.keep()));
                stream.owes |= planted::is("si_acknowledge_what_is_held_back");
                if stream.held.len() < UNDER_WAY_MAX {
                    return Ok(());
                }
                // What is missing never comes: readers forget everything instead.
                effects.push(Effect::Reset);
                stream.next = stream.held.first().map(|(held, _)| *held);
                stream.write(effects);
                Err(Odd::TooFar { found: number, expected })
            }
        }
    }

    /// The number that comes next of this life, once its stream has begun.
    #[cfg(test)]
    pub(super) fn next_of(&self, from: Life) -> Option<u64> {
        self.streams.iter().find(|stream| stream.from == from)?.next
    }

    /// The life that a publisher's stream is from.
    #[cfg(test)]
    pub(super) fn life_of(&self, from: InstanceId) -> Option<Life> {
        self.streams.iter().find(|stream| stream.from.0 == from).map(|stream| stream.from)
    }

    pub(super) fn owes(&self) -> bool {
        self.streams.iter().any(|stream| stream.owes)
    }

    pub(super) fn acknowledge(
        &mut self,
        epoch: Epoch,
        may: impl Fn(InstanceId) -> bool,
        effects: &mut Vec<Effect<B>>,
    ) {
        for stream in &mut self.streams {
            let (to, Some(next)) = (stream.from.0, stream.next) else { continue };
            if !stream.owes || !may(to) {
                continue;
            }
            stream.owes = false;
            let mut up_to = next - 1;
            if planted::is("si_acknowledge_what_is_held_back") {
                up_to = stream.held.last().map_or(up_to, |(held, _)| *held);
            }
            effects.push(Effect::Acknowledge { to, ack: SiAck { up_to, epoch } });
        }
    }
}

impl<B> Stream<B> {
    /// Writes what was held back and is next.
    fn write(&mut self, effects: &mut Vec<Effect<B>>) {
        let mut next = self.next.unwrap_or(0);
        let ready = self.held.iter().zip(next..).take_while(|((held, _), at)| held == at).count();
        for (number, batch) in self.held.drain(..ready) {
            effects.push(Effect::Write { publisher: self.from.0, batch });
            next = number + 1;
            self.owes = true;
        }
        if self.next.is_some() {
            self.next = Some(next);
        }
    }
}
