//! What the directory core wants done, and how the shard does it.

use super::{Shard, arrival::Arrival, guides::Guide};
use crate::{
    grd::{
        AcquireError, Effect, Event as Input, Grd,
        store::{Hashed, Step},
    },
    runtime::{command::Grant, io::IoJob, pool::Drained},
};
use pagewire_protocol::{
    Body, BufferTag, Epoch, GrantNumber, Incarnation, InstanceId, Lsn, Pcm, page,
};
use pagewire_transport::{Frame, Message, SharedFrame};
use std::{mem, time::Instant};

impl Shard {
    /// Puts by what the core is to be told at the next [`Shard::run`].
    pub(super) fn input(&mut self, input: Input) {
        self.inputs.push_back(input.into());
    }

    /// Feeds the core until it has nothing more to say.
    #[inline]
    pub(super) fn run(&mut self) {
        if !self.inputs.is_empty() {
            self.run_queued();
        }
    }

    #[inline(never)] // Asked for often, and rarely there.
    fn run_queued(&mut self) {
        while let Some(Arrival { input, page }) = self.inputs.pop_front() {
            if let Input::Message { from, incarnation, epoch, tag, message } = input {
                self.deliver((from, incarnation, epoch), &Hashed::of(tag), &message, page);
                continue;
            }
            self.arrivals.newcomer = page;
            self.tell_core(|grd, effects| grd.handle(input, effects));
            // A page that nobody took is nobody's.
            drop(self.arrivals.newcomer.take());
        }
        self.put_away();
    }

    /// Brings what will be read of a page nearer to the processor. The places name each other: looked up
    /// one after the other, each would be waited for.
    #[inline]
    pub(super) fn approach(&self, page: &mut Hashed) {
        if self.grd.was_last(&page.tag) {
            return;
        }
        self.approach_by(page, Step::Partition);
        self.approach_by(page, Step::Place);
        self.approach_by(page, Step::Entry);
    }

    #[inline(always)] // Which step it is is known wherever it is called.
    fn approach_by(&self, page: &mut Hashed, step: Step) {
        self.pool.approach(page, step);
        self.grd.approach(page, step);
    }

    /// Hands the core a message: now, without a place in the queue.
    pub(super) fn deliver(
        &mut self,
        (from, incarnation, epoch): (InstanceId, Incarnation, Epoch),
        of: &Hashed,
        message: &Pcm,
        page: Option<Frame>,
    ) {
        self.arrivals.newcomer = page;
        let source = (from, incarnation, epoch);
        self.tell_core(|grd, effects| grd.message(source, of, message, effects));
        let page = self.arrivals.newcomer.take();
        // What is of a later view is handed in again when that is there.
        if mem::take(&mut self.has_parked) {
            let (tag, message) = (of.tag, *message);
            let input = Input::Message { from, incarnation, epoch, tag, message };
            self.park(Arrival { input, page });
        }
    }

    /// Tells the core something, and does what it wants done.
    #[inline]
    pub(super) fn tell_core(&mut self, tell: impl FnOnce(&mut Grd, &mut Vec<Effect>)) {
        self.put_away();
        let mut effects = mem::take(&mut self.effects);
        tell(&mut self.grd, &mut effects);
        self.carry_out(&mut effects);
        self.effects = effects;
    }

    /// Does what the core wants done. What can be said to that at once, that pins are drained, is said
    /// at once: what the core wants then comes after what it wanted before.
    fn carry_out(&mut self, effects: &mut Vec<Effect>) {
        let mut next = 0;
        while let Some(effect) = effects.get_mut(next) {
            next += 1;
            self.put_away();
            if let Effect::Lower { ref tag, to } = *effect {
                if let Some(drained) = self.pool.lower(tag, to) {
                    let Drained { tag, to, dirty, version, flush } = drained;
                    self.grd.drained(tag, to, (dirty, version, flush), effects);
                }
            } else {
                self.apply(effect);
            }
        }
        effects.clear();
    }

    /// What a grant is made of; the rest is [`Shard::apply_rest`].
    #[inline] // A few of them for each message.
    fn apply(&mut self, effect: &mut Effect) {
        match *effect {
            Effect::Send { to, tag, epoch, ref message } => {
                if self.cancelled_here(message) {
                    return;
                }
                if to == self.me {
                    self.loop_back(tag, epoch, *message);
                } else {
                    self.send(to, tag, epoch, message, None);
                }
            }
            Effect::Request { to, tag, epoch, message } => self.request(to, tag, epoch, message),
            Effect::RequestOver { ref tag } => self.request_over(tag),
            Effect::Ship { to, tag, epoch, ref message, keep } => {
                self.ship(to, tag, epoch, message, keep);
            }
            Effect::Take { tag } => {
                if !self.arrivals.keep(tag) {
                    self.pool.broken(&tag, "has not come, expected it with its grant");
                }
            }
            Effect::Install { tag, dirty } => {
                let frame = self.arrivals.take(&tag);
                self.pool.install(tag, frame, dirty);
            }
            Effect::Complete { waiter, ref tag, mode, path } => {
                let pinned = self.pool.pin(tag, mode);
                let grant = pinned.map(|ticket| Grant { ticket, path });
                let broken = || Some(AcquireError::Protocol { tag: *tag });
                self.complete(waiter, grant.ok_or_else(broken));
            }
            Effect::Open { ref tag, mode } => {
                let is_dirty = self.pool.open(tag, mode);
                if !is_dirty {
                    self.flushes.settled(tag);
                }
            }
            _ => self.apply_rest(effect),
        }
    }

    #[inline(never)] // Rare, and large.
    fn apply_rest(&mut self, effect: &mut Effect) {
        match *effect {
            Effect::RequestAgain { to, tag, epoch, message } => {
                self.request_again(to, tag, epoch, message);
            }
            Effect::Read { tag, at_least } => {
                let frame = self.arena.take().expect("the arena has a frame for each request");
                self.io.submit(IoJob::Read { tag, at_least, frame });
            }
            Effect::Write { tag, version } => {
                let Some(frame) = self.pool.share(&tag) else {
                    self.flushes.failed(format!("page {tag} was to be written and is not here"));
                    self.flushes.settled(&tag);
                    return self.input(Input::WriteDone { tag, version, written: false });
                };
                self.pool.set_dirty(&tag, false);
                self.writing.insert(tag);
                self.io.submit(IoJob::Write { tag, version, frame });
            }
            Effect::MarkDirty { tag } => self.pool.set_dirty(&tag, true),
            Effect::Discard { tag } => drop(self.arrivals.take(&tag)),
            Effect::Broken { tag, problem } => self.pool.broken(&tag, problem),
            Effect::Fail { waiter, ref mut error, .. } => {
                let error = error.take();
                self.complete(waiter, Err(error));
            }
            Effect::Flush { to, .. } => {
                self.redo.flush(to);
                self.take_flushed();
            }
            Effect::Again => self.has_more = true,
            Effect::Park => self.has_parked = true,
            Effect::ViewInstalled { epoch } => {
                tracing::info!("view {epoch} is in force");
                self.unpark();
            }
            Effect::PartitionReady { .. } => {}
            Effect::Fence => self.fence(),
            Effect::LoadGuide { to, epoch, ref mut batch, last } => {
                let batch = mem::take(batch);
                self.guides.push(Guide { to, epoch, batch, last });
                self.send_guides();
            }
            Effect::StatReply { from, tag, ref stat } => self.answer(from, tag, stat),
            Effect::Forget { .. }
            | Effect::ToPastImage { .. }
            | Effect::Reinstate { .. }
            | Effect::KeepPastImage { .. }
            | Effect::DropPastImage { .. }
            | Effect::ShipPastImage { .. }
            | Effect::ReadNewer { .. }
            | Effect::Drop { .. } => self.apply_to_copies(effect),
            // These have been done.
            Effect::Lower { .. }
            | Effect::Send { .. }
            | Effect::Request { .. }
            | Effect::RequestOver { .. }
            | Effect::Ship { .. }
            | Effect::Take { .. }
            | Effect::Install { .. }
            | Effect::Complete { .. }
            | Effect::Open { .. } => {}
        }
    }

    /// What concerns copies of pages that are not held, and what holds them again.
    fn apply_to_copies(&mut self, effect: &Effect) {
        match *effect {
            Effect::Forget { tag, grant } => drop(self.copies.end_transit(&tag, grant)),
            Effect::ToPastImage { tag, grant } => {
                if let Some(copy) = self.copies.end_transit(&tag, grant) {
                    self.keep_past(tag, copy);
                }
            }
            Effect::Reinstate { tag, grant, dirty } => {
                let copy = self.copies.end_transit(&tag, grant);
                self.pool.reinstate(tag, copy, dirty);
            }
            Effect::KeepPastImage { tag, .. } => {
                if let Some(copy) = self.pool.remove(&tag) {
                    self.keep_past(tag, copy);
                }
                self.flushes.settled(&tag);
            }
            Effect::DropPastImage { tag, version }
                if self.copies.past(&tag).is_some_and(|past| page::lsn(past) <= version) =>
            {
                drop(self.copies.take_past(&tag));
            }
            Effect::ShipPastImage { to, tag, epoch, ref message } => match self.copies.past(&tag) {
                Some(past) => {
                    let frame = past.clone();
                    self.send_page(to, tag, epoch, message, frame);
                }
                None => self.pool.broken(&tag, "has no past image here, expected one to ship"),
            },
            Effect::ReadNewer { tag, at_least } => {
                let frame = self.arena.take().expect("the arena has a frame for each request");
                self.newest.insert(tag, (at_least, self.arrivals.take(&tag)));
                self.io.submit(IoJob::Read { tag, at_least: Lsn::ZERO, frame });
            }
            Effect::Drop { tag } => {
                drop(self.pool.remove(&tag));
                self.flushes.settled(&tag);
            }
            _ => {}
        }
        // A frame may have come free.
        self.admit();
    }

    fn keep_past(&mut self, tag: BufferTag, copy: SharedFrame) {
        self.counters.past_images_kept.add(1);
        self.copies.keep(tag, copy);
    }

    /// The core hears how far the redo log is durable.
    pub(super) fn take_flushed(&mut self) {
        // No look at the clock in each turn for what is rare.
        if self.redo.has_news()
            && let Some(up_to) = self.redo.next(Instant::now())
        {
            self.input(Input::Flushed { up_to });
        }
    }

    pub(super) fn send(
        &mut self,
        to: InstanceId,
        tag: BufferTag,
        epoch: Epoch,
        message: &Pcm,
        frame: Option<SharedFrame>,
    ) {
        let body = Body::new(&message.encode(tag)).unwrap_or(Body::EMPTY);
        let (lane, may_wait) = (message.lane(), message.may_wait());
        // A claim goes well with the next request, which is soon there.
        self.is_awaited |= !may_wait && !matches!(message, Pcm::Claim { .. });
        let message = Message { kind: message.kind(), epoch, body, frame };
        self.outbox.send(&mut self.endpoint, to, lane, message, may_wait);
    }

    /// Sends a page that nobody can be writing. One that is not kept is put away before anything else is done:
    /// when it has left, where a message asked for it, otherwise when the core has nothing more to say.
    fn ship(&mut self, to: InstanceId, tag: BufferTag, epoch: Epoch, message: &Pcm, keep: bool) {
        let Some(frame) = self.pool.share(&tag) else { return };
        self.send_page(to, tag, epoch, message, frame);
        if let (false, Pcm::Response { grant, .. }) = (keep, message) {
            self.shipped = Some((tag, *grant));
        }
    }

    /// Puts the page away that was shipped last: it is in transit.
    #[inline]
    pub(super) fn put_away(&mut self) {
        if let Some((tag, grant)) = self.shipped.take() {
            self.put_away_shipped(tag, grant);
        }
    }

    #[inline(never)] // Asked for often.
    fn put_away_shipped(&mut self, tag: BufferTag, grant: GrantNumber) {
        if let Some(copy) = self.pool.remove(&tag) {
            self.copies.sent(tag, grant, copy);
        }
        self.flushes.settled(&tag);
    }

    fn send_page(
        &mut self,
        to: InstanceId,
        tag: BufferTag,
        epoch: Epoch,
        message: &Pcm,
        frame: SharedFrame,
    ) {
        self.counters.pages_shipped.add(1);
        self.counters.bytes_shipped.add(frame.len() as u64);
        self.send(to, tag, epoch, message, Some(frame));
    }

    /// The core is told of a page whose pins are drained, if they are.
    pub(super) fn drained(&mut self, drained: Option<Drained>) {
        if let Some(drained) = drained {
            self.input(drained.into());
        }
    }
}
