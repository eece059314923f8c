//! What comes in to a shard: from the endpoint and from storage.

use super::{EVICT_RETRY, Shard, arrival::Arrival};
use crate::{
    grd::{Event as Input, store::Hashed},
    runtime::io::IoDone,
};
use pagewire_protocol::{
    BufferTag, DecodeError, Epoch, Incarnation, InstanceId, Lsn, MessageKind, Pcm,
    cluster_view::CLUSTER_VIEW,
    hello::Refusal,
    page,
    pcm::{Verdict, kind::PCM_LOAD_GUIDE},
};
use pagewire_transport::{Event, Frame, Received};
use std::time::Instant;

/// A message of the page protocol, read where it lay.
#[derive(Debug)]
pub(super) struct Said {
    from: InstanceId,
    kind: MessageKind,
    epoch: Epoch,
    read: Result<(BufferTag, Pcm), DecodeError>,
    frame: Option<Frame>,
}

impl Said {
    /// Whether a message of this kind is one: others have handlers of their own.
    #[inline]
    pub(super) fn is(kind: MessageKind) -> bool {
        !(kind == CLUSTER_VIEW || kind == PCM_LOAD_GUIDE || Shard::is_si(kind))
    }

    #[inline(always)] // It is written where it is handled.
    pub(super) fn read(received: &mut Received) -> Self {
        let Received { from, kind, epoch, ref body, ref mut frame, .. } = *received;
        Self { from, kind, epoch, read: Pcm::decode(kind, body.as_slice()), frame: frame.take() }
    }
}

impl Shard {
    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(mut received) => self.on_message(&mut received),
            Event::Up { peer, incarnation } => {
                tracing::info!("instance {peer} is up, incarnation {incarnation}");
                self.note_life(peer, incarnation);
                self.refusals.over(peer);
                self.up.insert(peer);
                self.linked.insert(peer);
                self.si_up(peer, incarnation);
            }
            Event::Linked { peer } => {
                tracing::info!("instance {peer} is linked again");
                self.refusals.over(peer);
                self.linked.insert(peer);
            }
            Event::Down { peer, reason } => {
                tracing::warn!("the link with instance {peer} is down: {reason}");
                self.linked.remove(&peer);
            }
            Event::Ended { peer, incarnation, undelivered } => {
                tracing::error!(
                    "instance {peer} has ended its incarnation {incarnation} with {} messages of \
                     unknown outcome; a view without it has to say that what it had may be recovered",
                    undelivered.len()
                );
                self.lost.insert(peer);
                self.si_ended((peer, incarnation));
                self.outbox.forget(peer);
                self.up.remove(&peer);
                self.linked.remove(&peer);
            }
            Event::Refused { peer, refusal, detail, is_proven: false, .. } => {
                let detail = self.with_members(refusal, detail);
                self.refusals.note_unproven(peer, detail);
                self.tell_refusals();
            }
            Event::Refused { peer, refusal, detail, .. } => {
                let detail = self.with_members(refusal, detail);
                let told = detail.clone();
                // It is repeated with every attempt, and told once.
                if self.refusals.note(peer, refusal, detail, Instant::now()) && self.up.is_empty() {
                    tracing::info!("refused: {told}");
                }
                self.tell_refusals();
            }
            _ => {}
        }
    }

    /// Warns of refusals that this instance does not go for; to be called now and then.
    pub(in crate::runtime) fn tell_refusals(&mut self) {
        for detail in self.refusals.untold(!self.up.is_empty(), Instant::now()) {
            tracing::warn!("refused: {detail}");
        }
    }

    /// `detail` of a refusal; where the member lists differ, of which it has but hashes, with this
    /// instance's own: that and what the other one says show the difference.
    fn with_members(&self, refusal: Refusal, detail: String) -> String {
        if refusal != Refusal::View {
            return detail;
        }
        let members: Vec<_> = self.grd.view().members().iter().map(|member| member.id.0).collect();
        format!("{detail}; the members of instance {} are {members:?}", self.me)
    }

    /// Takes what has come, its page included. Messages of the page protocol do not come this way in a
    /// turn: see [`Said`].
    pub(super) fn on_message(&mut self, received: &mut Received) {
        if received.kind == CLUSTER_VIEW {
            return self.on_view_said(received.from, received.body.as_slice());
        }
        if Self::is_si(received.kind) {
            return self.on_si(received);
        }
        if received.kind == PCM_LOAD_GUIDE {
            if self.is_contradicting(received.from) {
                return self.counters.views_contradicted.add(1);
            }
            return self.on_guide(received);
        }
        self.on_said(Said::read(received));
    }

    fn is_contradicting(&self, peer: InstanceId) -> bool {
        !self.contradicting.is_empty() && self.contradicting.contains(&peer)
    }

    /// Takes a message of the page protocol, its page included.
    pub(super) fn on_said(&mut self, said: Said) {
        let Said { from, kind, epoch, read, frame } = said;
        if self.is_contradicting(from) {
            return self.counters.views_contradicted.add(1);
        }
        let (tag, message) = match read {
            Ok(decoded) => decoded,
            Err(error) => return self.bad_message(from, &error),
        };
        let mut page = Hashed::of(tag);
        self.approach(&mut page);
        if let Some(frame) = &frame {
            self.pool.approach_frame(frame.index());
        }
        let carries = matches!(message, Pcm::Response { verdict: Verdict::Page, .. });
        if carries != frame.is_some() {
            let problem = format!("{kind} with a page that it must not have, or without its page");
            return self.bad_message(from, &problem);
        }
        if let Some(frame) = &frame
            && page::lsn(frame) > page::VERSION_MAX
        {
            let (found, most) = (page::lsn(frame), page::VERSION_MAX);
            let problem = format!("{tag} in version {found}, expected at most {most}");
            return self.bad_message(from, &problem);
        }
        let incarnation = self.life_of(from);
        // What is queued comes first: nothing is, as a rule.
        self.run();
        self.deliver((from, incarnation, epoch), &page, &message, frame);
        self.run();
    }

    #[cold]
    fn bad_message(&mut self, from: InstanceId, problem: &dyn std::fmt::Display) {
        self.counters.bad_messages.add(1);
        tracing::warn!("instance {from} sent what is no PCM message of this version: {problem}");
    }

    /// The life of a peer that its session is with: it vouches for what comes on it.
    pub(super) fn life_of(&self, peer: InstanceId) -> Incarnation {
        self.lives.get(usize::from(peer.0)).copied().unwrap_or_default()
    }

    fn note_life(&mut self, peer: InstanceId, incarnation: Incarnation) {
        let at = usize::from(peer.0);
        if self.lives.len() <= at {
            self.lives.resize(at + 1, Incarnation(0));
        }
        self.lives[at] = incarnation;
    }

    /// The newest of what storage has of a page, of what came of it, and of the past image here. While
    /// storage cannot be read nothing is: it may have a newer one than there is beside it.
    pub(super) fn newest_of(
        &self,
        tag: BufferTag,
        at_least: Lsn,
        arrival: Option<Frame>,
        read: Result<(Lsn, Frame), String>,
    ) -> Result<(Lsn, Frame), String> {
        let mut best = read?;
        if let Some(frame) = arrival.filter(|frame| page::lsn(frame) > best.0) {
            best = (page::lsn(&frame), frame);
        }
        if let Some(past) = self.copies.past(&tag)
            && page::lsn(past) > best.0
        {
            best.0 = page::lsn(past);
            best.1.copy_from_slice(past);
        }
        if best.0 < at_least {
            return Err(format!(
                "the newest that is left has version {}, expected at least {}: what is missing was \
                 held by an instance that has died, and its redo is not applied",
                best.0.0, at_least.0
            ));
        }
        Ok(best)
    }

    pub(super) fn on_io(&mut self, done: IoDone) {
        match done {
            IoDone::Read { tag, result } => {
                self.counters.pages_read.add(1);
                let result = match self.newest.remove(&tag) {
                    Some((at_least, arrival)) => self.newest_of(tag, at_least, arrival, result),
                    None => result,
                };
                let (result, page) = match result {
                    Ok((version, frame)) => (Ok(version), Some(frame)),
                    Err(error) => (Err(error), None),
                };
                self.inputs.push_back(Arrival { input: Input::ReadDone { tag, result }, page });
            }
            IoDone::Write { tag, version, result } => {
                let written = result.is_ok();
                if let Err(error) = result {
                    tracing::error!("page {tag} could not be written: {error}");
                    self.pool.set_dirty(&tag, true);
                    self.evict_again_at = Some(Instant::now() + EVICT_RETRY);
                    self.flushes.failed(error);
                } else {
                    self.counters.pages_written.add(1);
                }
                self.writing.remove(&tag);
                self.flushes.settled(&tag);
                self.input(Input::WriteDone { tag, version, written });
            }
            IoDone::Sync { result } => self.flushes.end(&result),
        }
        self.run();
    }
}
