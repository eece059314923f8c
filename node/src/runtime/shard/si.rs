//! Invalidations, on an instance's first shard: the core of [`crate::si`] meets threads that publish,
//! the endpoint, and the ring that any process reads. And, on every shard, the pins that outlive their
//! guards until what was published under them is delivered.
//!
//! ```text
//!   poll:  queue -> own ring, one batch for all | flush | read -> ring | acknowledge | let go
//! ```
//! A batch leaves when every subscriber's lane has room for it, so nothing of it waits beside the
//! queue, and what threads publish meanwhile goes with the next one. Up to four messages travel in a
//! body; more in a frame, which is encoded once and sent to all. Frames: what is sent is among those
//! that the module above counts for the bulk lane; what has to be held back is copied, so that
//! receives keep theirs.

use super::Shard;
use crate::{
    runtime::{counters::NodeCounters, error::NodeError, outbox::Outbox},
    si::{
        Publisher,
        core::{Batch, Effect, Odd, SiCore},
        shared::SiShared,
    },
    view::{Life, View},
};
use pagewire_protocol::{
    Body, DecodeError, InstanceId, Lane, MessageKind, SiMessage,
    si::{
        SI_MESSAGE_BYTES,
        wire::{
            INLINE_MAX, SI_ACK, SI_BATCH, SI_BEGIN, SI_FRAME, SiAck, SiBatch, SiBegin, SiBytes,
            SiFrame,
        },
    },
};
use pagewire_si::{RingWriter, SiReader};
use pagewire_transport::{Endpoint, Frame, Message, Received, arena::PinTicket};
use std::sync::Arc;

/// Most batches that leave at once: with nobody to wait for, threads could publish as fast as they are
/// taken, and the turn would have no end.
const BATCHES_PER_TURN: usize = 16;

/// A batch that has come.
#[derive(Debug)]
pub(super) enum Arrived {
    Inline(SiBatch),
    /// So many messages at the beginning of the frame.
    Frame(Frame, usize),
    Kept(Box<[SiBytes]>),
    /// What it says is not known: readers forget everything.
    Unreadable,
}

impl Batch for Arrived {
    fn keep(self) -> Self {
        match self {
            Self::Frame(frame, count) => Self::Kept(first(&frame, count).into()),
            other => other,
        }
    }
}

fn first(frame: &Frame, count: usize) -> &[SiBytes] {
    frame.as_chunks().0.get(..count).unwrap_or(&[])
}

/// See the module.
#[derive(Debug)]
pub(super) struct Si {
    shared: Arc<SiShared>,
    core: SiCore<Arrived>,
    ring: RingWriter,
    me: InstanceId,
    effects: Vec<Effect<Arrived>>,
    /// Messages that leave.
    leaving: Vec<SiBytes>,
    per_frame: usize,
}

impl Si {
    pub(super) fn new(
        shared: Arc<SiShared>,
        me: Life,
        view: &View,
        ring: RingWriter,
        page_bytes: usize,
    ) -> Self {
        let per_frame = page_bytes / SI_MESSAGE_BYTES;
        let (core, me) = (SiCore::new(me, view), me.0);
        let (effects, leaving) = (Vec::with_capacity(64), Vec::with_capacity(per_frame));
        Self { shared, core, ring, me, effects, leaving, per_frame }
    }

    /// Something waits to be published.
    pub(super) fn has_queued(&self) -> bool {
        self.shared.queue.has(1)
    }

    /// Everything that was published is delivered, and everything that came is acknowledged.
    fn is_at_rest(&self) -> bool {
        self.core.is_delivered() && !self.core.owes() && !self.has_queued()
    }

    fn apply(&mut self, outbox: &mut Outbox, endpoint: &mut Endpoint, counters: &NodeCounters) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Begin { to, begin } => {
                    let message = Message::new(SI_BEGIN, begin.encode());
                    outbox.send(endpoint, to, Lane::Si, message, false);
                }
                Effect::Acknowledge { to, ack } => {
                    let message = Message::new(SI_ACK, ack.encode());
                    outbox.send(endpoint, to, Lane::Control, message, false);
                }
                Effect::Write { publisher, batch } => {
                    let messages = match &batch {
                        Arrived::Inline(batch) => batch.messages(),
                        Arrived::Frame(frame, count) => first(frame, *count),
                        Arrived::Kept(messages) => messages,
                        Arrived::Unreadable => {
                            counters.si_resets.add(1);
                            self.ring.reset();
                            continue;
                        }
                    };
                    counters.si_delivered.add(messages.len() as u64);
                    self.ring.write(publisher, messages);
                }
                Effect::Reset => {
                    counters.si_resets.add(1);
                    self.ring.reset();
                }
                Effect::Complete { position } => {
                    counters.si_acknowledged.add(position - counters.si_acknowledged.get());
                    self.shared.complete(position);
                }
            }
        }
    }
}

impl Drop for Si {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shard {
    /// Runs `what` on the core and does what it says, where this is the first shard.
    fn with_si<T>(
        &mut self,
        what: impl FnOnce(&mut SiCore<Arrived>, &mut Vec<Effect<Arrived>>) -> T,
    ) -> Option<T> {
        let si = self.si.as_mut()?;
        let result = what(&mut si.core, &mut si.effects);
        si.apply(&mut self.outbox, &mut self.endpoint, &self.counters);
        Some(result)
    }

    /// Publishes invalidations of this instance, from any thread.
    #[must_use]
    pub fn si_publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.shared.si))
    }

    /// A reader of this instance's ring.
    ///
    /// # Errors
    /// [`NodeError::SiRing`]; [`NodeError::Stopped`] where this is not the first shard.
    pub fn si_reader(&self) -> Result<SiReader, NodeError> {
        Ok(self.si.as_ref().ok_or(NodeError::Stopped)?.ring.reader()?)
    }

    // ---- publishing ------------------------------------------------------------------------------

    /// Sends what threads have published, as far as there is room. True when there was anything.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        let has_queued = self.si.as_ref().is_some_and(Si::has_queued);
        has_queued && !self.is_fenced && self.publish_queued()
    }

    #[inline(never)] // Looked for in every turn, found in few.
    fn publish_queued(&mut self) -> bool {
        let Self { si: Some(si), outbox, endpoint, arena, counters, .. } = self else {
            return false;
        };
        let mut any = false;
        for _ in 0..BATCHES_PER_TURN {
            if !si.has_queued() || !si.core.may_publish(false) {
                break;
            }
            let is_alone = si.core.subscribers().next().is_none();
            let has_room = |lane| {
                let room = |to| outbox.is_clear(to, lane) && endpoint.room(to, lane) > 0;
                si.core.subscribers().all(room)
            };
            let many = si.shared.queue.has(INLINE_MAX + 1);
            let in_frame = many && !is_alone && si.core.may_publish(true) && has_room(Lane::Bulk);
            let frame = if in_frame { arena.take() } else { None };
            if frame.is_none() && !has_room(Lane::Si) {
                break;
            }
            let most = if is_alone || frame.is_some() { si.per_frame } else { INLINE_MAX };
            si.leaving.clear();
            let position = si.shared.take(most, &mut si.leaving);
            counters.si_published.add(si.leaving.len() as u64);
            any = true;
            si.ring.write(si.me, &si.leaving);
            let batch = si.core.publish(position, frame.is_some(), &mut si.effects);
            let (lane, message) = encode(batch, &si.leaving, frame);
            for to in si.core.subscribers() {
                outbox.send(endpoint, to, lane, message.clone(), false);
            }
            si.apply(outbox, endpoint, counters);
        }
        any
    }

    // ---- what comes ------------------------------------------------------------------------------

    pub(super) fn is_si(kind: MessageKind) -> bool {
        matches!(kind, SI_BEGIN | SI_BATCH | SI_FRAME | SI_ACK)
    }

    /// A message about invalidations has come.
    #[cold]
    fn odd_si(&mut self, from: InstanceId, kind: MessageKind, error: &dyn std::error::Error) {
        self.counters.bad_messages.add(1);
        tracing::warn!("instance {from} sent an SI message {kind} that {error}");
    }

    pub(super) fn on_si(&mut self, received: &mut Received) {
        let Received { from, kind, ref body, ref mut frame, .. } = *received;
        let read = match self.take_si(from, kind, body, frame.take()) {
            Ok(read) => read,
            Err(error) => {
                // Whatever it was, it is lost.
                self.lost_si();
                return self.odd_si(from, kind, &error);
            }
        };
        match read {
            None => self.odd_si(from, kind, &Odd::NoStream),
            Some(Err(odd)) => self.odd_si(from, kind, &odd),
            Some(Ok(())) => {}
        }
    }

    fn take_si(
        &mut self,
        from: InstanceId,
        kind: MessageKind,
        body: &Body,
        frame: Option<Frame>,
    ) -> Result<Option<Result<(), Odd>>, DecodeError> {
        let body = body.as_slice();
        match kind {
            SI_ACK => {
                let ack = SiAck::decode(body)?;
                Ok(self.with_si(|core, effects| core.acknowledged(from, ack, effects)))
            }
            SI_BEGIN => {
                let begin = SiBegin::decode(body)?;
                Ok(self.with_si(|core, effects| core.begun(from, begin, effects)))
            }
            SI_BATCH => {
                let batch = SiBatch::decode(body)?;
                let arrived = Arrived::Inline(batch);
                let arrived = self.judged(from, batch.messages(), arrived);
                Ok(self.with_si(|core, effects| core.arrived(from, batch.batch, arrived, effects)))
            }
            _ => {
                let page = frame.as_deref().unwrap_or(&[]);
                let (SiFrame { batch, .. }, messages) = SiFrame::decode(body, page)?;
                let count = messages.len();
                let problem = messages.iter().find_map(|message| SiMessage::decode(message).err());
                let arrived = match (frame, problem) {
                    (Some(frame), None) => Arrived::Frame(frame, count),
                    (_, problem) => self.unreadable(from, problem),
                };
                Ok(self.with_si(|core, effects| core.arrived(from, batch, arrived, effects)))
            }
        }
    }

    /// `arrived`, or that it cannot be read.
    fn judged(&mut self, from: InstanceId, messages: &[SiBytes], arrived: Arrived) -> Arrived {
        let problem = messages.iter().find_map(|message| SiMessage::decode(message).err());
        if problem.is_none() { arrived } else { self.unreadable(from, problem) }
    }

    #[cold]
    fn unreadable(&mut self, from: InstanceId, problem: Option<DecodeError>) -> Arrived {
        self.counters.bad_messages.add(1);
        if let Some(problem) = problem {
            tracing::warn!("instance {from} published what is no invalidation: {problem}");
        }
        Arrived::Unreadable
    }

    #[cold]
    fn lost_si(&mut self) {
        if let Some(si) = &mut self.si {
            self.counters.si_resets.add(1);
            si.ring.reset();
        }
    }

    /// Once a turn, after the ring: publishers are told. True when there were any.
    pub(super) fn acknowledge_si(&mut self) -> bool {
        let Some(si) = self.si.as_mut().filter(|si| si.core.owes()) else { return false };
        let outbox = &self.outbox;
        si.core.acknowledge(|to| outbox.is_clear(to, Lane::Control), &mut si.effects);
        si.apply(&mut self.outbox, &mut self.endpoint, &self.counters);
        true
    }

    // ---- sessions and views ------------------------------------------------------------------------

    pub(super) fn si_up(&mut self, peer: InstanceId, life: pagewire_protocol::Incarnation) {
        self.with_si(|core, effects| core.up(peer, life, effects));
    }

    pub(super) fn si_ended(&mut self, life: Life) {
        self.with_si(|core, _| core.ended(life));
    }

    /// Before anything of the view is used: readers reset for those that are gone.
    pub(super) fn si_view(&mut self, view: &View) {
        self.with_si(|core, effects| core.view(view, effects));
    }

    /// True when nothing of this instance's invalidations is under way.
    pub(super) fn is_si_at_rest(&self) -> bool {
        self.kept.is_empty() && self.si.as_ref().is_none_or(Si::is_at_rest)
    }

    // ---- pins --------------------------------------------------------------------------------------

    /// A guard is gone under which something was published up to `position`: its pin stays.
    pub(super) fn keep(&mut self, pin: PinTicket, position: u64) {
        self.kept.push((position, pin));
        self.shared.si.keeps(self.shared.panic.shard, true);
    }

    /// Lets pins go under which nothing is under way any more. True when there were any.
    #[inline]
    pub(super) fn let_go(&mut self) -> bool {
        !self.kept.is_empty() && self.let_kept_go()
    }

    #[inline(never)] // As above.
    fn let_kept_go(&mut self) -> bool {
        let mut any = false;
        let mut at = 0;
        while let Some((position, _)) = self.kept.get(at) {
            if !self.is_fenced && !self.shared.si.may_let_go(*position) {
                at += 1;
                continue;
            }
            any = true;
            let (_, pin) = self.kept.swap_remove(at);
            self.shared.si.keeps(self.shared.panic.shard, false);
            let drained = self.pool.unpin(pin);
            self.drained(drained);
        }
        if any {
            self.run();
        }
        any
    }
}

/// True when one of the pins that are `kept` may go.
pub(super) fn any_may_go(kept: &[(u64, PinTicket)], shared: &SiShared) -> bool {
    kept.iter().any(|(position, _)| shared.may_let_go(*position))
}

/// The message that a batch travels in, and its lane.
fn encode(batch: u64, messages: &[SiBytes], frame: Option<Frame>) -> (Lane, Message) {
    match frame {
        Some(mut frame) => {
            let bytes = messages.as_flattened();
            frame[..bytes.len()].copy_from_slice(bytes);
            let body = SiFrame { batch, count: messages.len() as u64 }.encode();
            let frame = Some(frame.freeze());
            (Lane::Bulk, Message { frame, ..Message::new(SI_FRAME, body) })
        }
        None => {
            let body = SiBatch::new(batch, messages).map_or(Body::EMPTY, |batch| batch.encode());
            (Lane::Si, Message::new(SI_BATCH, body))
        }
    }
}
