//! What the directory core wants done, and how the shard does it.

use super::{HANDLE_SHIFT, Shard};
use crate::{
    grd::{AcquireError, Effect, Event as Input, WaiterId},
    runtime::{
        command::{Completion, Grant},
        io::IoJob,
        pool::Drained,
    },
};
use pagewire_protocol::{Body, BufferTag, Epoch, InstanceId, Lsn, Pcm};
use pagewire_transport::{Message, SharedFrame};

impl Shard {
    /// Puts by what the core is to be told at the next [`Shard::run`].
    pub(super) fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Feeds the core until it has nothing more to say.
    pub(super) fn run(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let mut effects = std::mem::take(&mut self.effects);
            self.grd.handle(input, &mut effects);
            for effect in effects.drain(..) {
                self.apply(effect);
            }
            // A page that nobody took is nobody's.
            drop(self.newcomer.take());
            self.effects = effects;
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, tag, epoch, message } => self.send(to, tag, epoch, message, None),
            Effect::Request { to, tag, epoch, message } => {
                self.waiting.push_back((to, tag, epoch, message));
                self.admit();
            }
            Effect::RequestOver { .. } => {
                self.outstanding -= 1;
                self.admit();
            }
            Effect::Ship { to, tag, epoch, message, keep } => {
                self.ship(to, tag, epoch, message, keep);
            }
            Effect::Forget { tag, grant } => {
                if self.copies.end_transit(&tag, grant).is_some() {
                    self.admit();
                }
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
            Effect::Lower { tag, to } => {
                if let Some(drained) = self.pool.lower(&tag, to) {
                    self.input(drained_input(drained));
                }
            }
            Effect::Install { tag, dirty } => {
                let frame = self.arrivals.remove(&tag);
                self.pool.install(tag, frame, dirty);
            }
            Effect::MarkDirty { tag } => self.pool.set_dirty(&tag, true),
            Effect::Discard { tag } => drop(self.arrivals.remove(&tag)),
            Effect::Broken { tag, problem } => self.pool.broken(&tag, problem),
            Effect::Complete { waiter, tag, mode, path } => {
                let pinned = self.pool.pin(&tag, mode);
                let grant = pinned.map(|ticket| Grant { ticket, path });
                let broken = Some(AcquireError::Protocol { tag });
                self.complete(waiter, grant.ok_or(broken));
            }
            Effect::Fail { waiter, error, .. } => self.complete(waiter, Err(error)),
            Effect::Open { tag, mode } => {
                self.pool.keep(&tag);
                self.pool.open(&tag, mode);
                if self.flushes.is_under_way() && !self.pool.is_dirty(&tag) {
                    self.flushes.settled(&tag);
                }
            }
            Effect::Take { tag } => {
                if let Some(frame) = self.newcomer.take() {
                    self.arrivals.insert(tag, frame);
                }
            }
            // Nothing is logged here yet, so all of it is durable.
            Effect::Flush { to, .. } => self.input(Input::Flushed { up_to: to }),
            Effect::Again => self.input(Input::Continue),
            // One view for the life of the process: nothing that comes with another one comes yet.
            other @ (Effect::RequestAgain { .. }
            | Effect::ShipPastImage { .. }
            | Effect::ToPastImage { .. }
            | Effect::Reinstate { .. }
            | Effect::KeepPastImage { .. }
            | Effect::DropPastImage { .. }
            | Effect::ReadNewer { .. }
            | Effect::Park
            | Effect::Fence
            | Effect::LoadGuide { .. }
            | Effect::ViewInstalled { .. }
            | Effect::PartitionReady { .. }
            | Effect::StatReply { .. }) => tracing::error!("not done by this version: {other:?}"),
            Effect::Drop { tag } => {
                drop(self.pool.remove(&tag));
                self.flushes.settled(&tag);
                self.admit();
            }
        }
    }

    pub(super) fn send(
        &mut self,
        to: InstanceId,
        tag: BufferTag,
        epoch: Epoch,
        message: Pcm,
        frame: Option<SharedFrame>,
    ) {
        let body = Body::new(&message.encode(tag)).unwrap_or(Body::EMPTY);
        let (lane, may_wait) = (message.lane(), message.may_wait());
        let message = Message { kind: message.kind(), epoch, body, frame };
        self.outbox.send(&mut self.endpoint, to, lane, message, may_wait);
    }

    fn ship(&mut self, to: InstanceId, tag: BufferTag, epoch: Epoch, message: Pcm, keep: bool) {
        let frame = if keep { self.pool.share(&tag) } else { self.pool.remove(&tag) };
        let Some(frame) = frame else { return };
        if let (false, Pcm::Response { grant, .. }) = (keep, message) {
            self.copies.sent(tag, grant, frame.clone());
        }
        self.counters.pages_shipped.add(1);
        self.counters.bytes_shipped.add(frame.len() as u64);
        self.send(to, tag, epoch, message, Some(frame));
        if !keep {
            self.flushes.settled(&tag);
        }
    }

    pub(super) fn complete(
        &mut self,
        waiter: WaiterId,
        result: Result<Grant, Option<AcquireError>>,
    ) {
        let at = usize::try_from(waiter.0 >> HANDLE_SHIFT).unwrap_or(usize::MAX);
        let sequence = waiter.0 & ((1 << HANDLE_SHIFT) - 1);
        let Some(handle) = self.handles.get_mut(at) else { return };
        // A handle has one request at a time and takes its answer before the next.
        let told = handle.completions.push(Completion { sequence, result });
        assert!(told.is_ok(), "a handle has more answers than requests");
        if let Some(thread) = &handle.waiter {
            thread.unpark();
        }
    }
}

/// What the core is told of a page whose pins are drained.
pub(super) fn drained_input(drained: Drained) -> Input {
    let Drained { tag, to, dirty, version, .. } = drained;
    debug_assert!(version != Lsn(u64::MAX));
    Input::Drained { tag, to, dirty, version, flush: Lsn::ZERO }
}
