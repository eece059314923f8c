//! The runtime of the model: effects are done at once, and what they are answered with comes at once.

use super::world::{Load, Packet, Redo, World};
use pagewire_node::grd::{AcquireError, Effect, Event};
use pagewire_protocol::{InstanceId, Lane, Lsn, Mode, Pcm, pcm::Verdict};
use std::collections::VecDeque;

/// What is answered at once, in order.
type Answers = VecDeque<(Event, Option<Lsn>)>;

impl World {
    /// Gives `event`, with the page that came with it, to the core of `at`, and does what it wants.
    pub(super) fn feed(
        &mut self,
        at: usize,
        event: Event,
        content: Option<Lsn>,
    ) -> Result<(), String> {
        let mut answers = Answers::from([(event, content)]);
        while let Some((event, content)) = answers.pop_front() {
            self.handle(at, event, content, &mut answers)?;
        }
        Ok(())
    }

    fn handle(
        &mut self,
        at: usize,
        event: Event,
        mut content: Option<Lsn>,
        answers: &mut Answers,
    ) -> Result<(), String> {
        let mut effects = std::mem::take(&mut self.effects);
        self.instance(at)?.grd.handle(event.clone(), &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Park => {
                    let parked = (event.clone(), content.take());
                    self.instance(at)?.parked.push(parked);
                }
                Effect::Take { .. } => {
                    let taken = content.take().ok_or("takes a page that has not come")?;
                    let it = self.instance(at)?;
                    it.arrival = Some(taken);
                    it.clock = it.clock.max(taken);
                }
                Effect::ViewInstalled { .. } => {
                    let parked = std::mem::take(&mut self.instance(at)?.parked);
                    for again in parked.into_iter().rev() {
                        answers.push_front(again);
                    }
                }
                effect => self.apply(at, effect, answers)?,
            }
        }
        self.effects = effects;
        Ok(())
    }

    fn apply(&mut self, at: usize, effect: Effect, answers: &mut Answers) -> Result<(), String> {
        let tag = self.tag;
        match effect {
            // It changes which partition is told first, and there is one that anything is held of.
            Effect::Send { message: Pcm::GuideWanted, .. } => Ok(()),
            Effect::Send { to, epoch, message, .. } => {
                self.sends(at, &message)?;
                if usize::from(to.0) == at {
                    let incarnation = pagewire_protocol::Incarnation(1);
                    let event = Event::Message { from: to, incarnation, epoch, tag, message };
                    answers.push_back((event, None));
                    return Ok(());
                }
                self.post(at, to, message.lane(), epoch, Load::Pcm(Box::new(message), None))
            }
            Effect::Request { to, epoch, message, .. }
            | Effect::RequestAgain { to, epoch, message, .. } => {
                self.instance(at)?.requested = true;
                if usize::from(to.0) == at {
                    let incarnation = pagewire_protocol::Incarnation(1);
                    let event = Event::Message { from: to, incarnation, epoch, tag, message };
                    answers.push_back((event, None));
                    return Ok(());
                }
                self.post(at, to, message.lane(), epoch, Load::Pcm(Box::new(message), None))
            }
            Effect::LoadGuide { to, epoch, batch, last } => {
                self.post(at, to, Lane::Bulk, epoch, Load::Guide(batch, last))
            }
            Effect::Ship { to, epoch, message, keep, .. } => {
                self.leaves(at)?;
                let grant = match message {
                    Pcm::Response { verdict: Verdict::Page, grant, .. } => grant.0,
                    _ => return Err("ships a page without saying so".to_owned()),
                };
                let it = self.instance(at)?;
                let content = it.held.ok_or("ships what it does not have")?;
                if !keep {
                    (it.held, it.dirty, it.open) = (None, false, Mode::N);
                    it.transit = Some((grant, content));
                }
                let load = Load::Pcm(Box::new(message), Some(content));
                self.post(at, to, Lane::Pages, epoch, load)
            }
            Effect::ShipPastImage { to, epoch, message, .. } => {
                let content = self.instance(at)?.past.ok_or("has no past image to ship")?;
                let load = Load::Pcm(Box::new(message), Some(content));
                self.post(at, to, Lane::Pages, epoch, load)
            }
            Effect::Flush { to, .. } => {
                let it = self.instance(at)?;
                it.durable = it.durable.max(usize::try_from(to.0).unwrap_or(usize::MAX));
                answers.push_back((Event::Flushed { up_to: to }, None));
                Ok(())
            }
            Effect::Write { version, .. } => {
                self.leaves(at)?;
                if self.storage > version {
                    return Err(format!("I3: v{version} is written over v{}", self.storage));
                }
                self.storage = version;
                self.instance(at)?.dirty = false;
                answers.push_back((Event::WriteDone { tag, version, written: true }, None));
                Ok(())
            }
            Effect::Read { at_least, .. } => self.read(at, at_least, false, answers),
            Effect::ReadNewer { at_least, .. } => self.read(at, at_least, true, answers),
            Effect::Lower { to, .. } => {
                let redo = self.log_position(at)?;
                let it = self.instance(at)?;
                it.open = it.open.min(to);
                let version = it.held.ok_or("lowers pins of what it does not have")?;
                let flush = if it.dirty { redo } else { Lsn::ZERO };
                let dirty = it.dirty;
                answers.push_back((Event::Drained { tag, to, dirty, version, flush }, None));
                Ok(())
            }
            Effect::Complete { waiter, mode, .. } => self.granted(at, waiter.0, mode),
            // A survivor has the page, or has written it: there is nothing to apply.
            Effect::Fail { waiter, error: Some(AcquireError::NotLost { .. }), .. } => {
                let it = self.instance(at)?;
                if it.recovering.take() != Some(waiter.0) {
                    return Err("I5: one that does not apply redo is told so".to_owned());
                }
                self.redo = Redo::Done;
                Ok(())
            }
            Effect::Fail { error, .. } => Err(format!("I5: a waiter fails: {error:?}")),
            Effect::Broken { problem, .. } => Err(format!("I5: the page {problem}")),
            effect => self.apply_local(at, effect),
        }
    }

    /// Effects on the copy that an instance has, and on nothing else.
    fn apply_local(&mut self, at: usize, effect: Effect) -> Result<(), String> {
        let storage = self.storage;
        let it = self.instance(at)?;
        match effect {
            Effect::RequestOver { .. } => it.requested = false,
            Effect::Install { dirty, .. } => {
                it.held = Some(it.arrival.take().ok_or("installs what has not come")?);
                (it.dirty, it.open) = (dirty, Mode::N);
            }
            Effect::MarkDirty { .. } => it.dirty = true,
            Effect::Discard { .. } => it.arrival = None,
            Effect::Open { mode, .. } => it.open = mode,
            Effect::Drop { .. } if it.dirty => return Err("I3: drops a dirty page".to_owned()),
            Effect::Drop { .. } => (it.held, it.open) = (None, Mode::N),
            Effect::KeepPastImage { .. } => {
                it.past = Some(it.held.take().ok_or("has nothing to keep")?);
                (it.dirty, it.open) = (false, Mode::N);
            }
            Effect::DropPastImage { version, .. } if storage < version => {
                return Err(format!("I9: drops past image v{version}, storage has v{storage}"));
            }
            Effect::DropPastImage { .. } => it.past = None,
            Effect::Forget { grant, .. } => drop(take_transit(&mut it.transit, grant.0)?),
            Effect::ToPastImage { grant, .. } => {
                it.past = Some(take_transit(&mut it.transit, grant.0)?);
            }
            Effect::Reinstate { grant, dirty, .. } => {
                it.held = Some(take_transit(&mut it.transit, grant.0)?);
                (it.dirty, it.open) = (dirty, Mode::N);
            }
            Effect::Again => it.again = true,
            _ => {}
        }
        Ok(())
    }

    fn post(
        &mut self,
        from: usize,
        to: InstanceId,
        lane: Lane,
        epoch: pagewire_protocol::Epoch,
        load: Load,
    ) -> Result<(), String> {
        let to = usize::from(to.0);
        if to == from {
            return Err("sends a message to itself".to_owned());
        }
        // There is no session with one that is gone, once it is known to be.
        let knows = self.instances[from].as_ref().is_some_and(|it| it.heard);
        if self.instances[to].is_none() || self.crashed == Some(to) && knows {
            return Ok(());
        }
        self.lanes[from][to][lane.index()].push_back(Packet { epoch, load });
        Ok(())
    }

    fn read(
        &mut self,
        at: usize,
        at_least: Lsn,
        newest: bool,
        answers: &mut Answers,
    ) -> Result<(), String> {
        let (tag, storage) = (self.tag, self.storage);
        if storage < at_least {
            return Err(format!("I2: storage has v{storage}, at least v{at_least} is needed"));
        }
        let it = self.instance(at)?;
        let mut best = storage;
        if newest {
            best = best.max(it.arrival.take().unwrap_or_default()).max(it.past.unwrap_or_default());
        }
        answers.push_back((Event::ReadDone { tag, result: Ok(best) }, Some(best)));
        Ok(())
    }

    /// A guard: it sees what was last committed, a writer makes one more version, and it is over.
    pub(super) fn granted(&mut self, at: usize, waiter: u64, mode: Mode) -> Result<(), String> {
        let truth = self.truth();
        let redo = self.redo == Redo::Asked(at) && waiter > 100;
        let writable = self.history.iter().map(|(version, writer)| (*version, *writer));
        let needed: Vec<_> = writable.collect();
        let gone = self.crashed;
        let it = self.instance(at)?;
        let awaited = if redo {
            it.recovering.take() == Some(waiter)
        } else {
            it.waiting.take() == Some((waiter, mode))
        };
        if !awaited {
            return Err(format!("I5: waiter {waiter} gets {mode}, waits for {:?}", it.waiting));
        }
        let mut held = it.held.ok_or("I2: a guard without a page")?;
        if redo {
            let base = held;
            for (version, writer) in needed.into_iter().filter(|(version, _)| *version > base) {
                if Some(writer) != gone {
                    return Err(format!("I9: redo needs v{version} of {writer}, which is alive"));
                }
                it.dirty = true;
                held = version;
            }
            it.held = Some(held);
            it.clock = it.clock.max(held);
        }
        if held != truth {
            return Err(format!("I2: a guard at {at} sees v{held}, committed is v{truth}"));
        }
        if redo {
            self.redo = Redo::Done;
        } else if mode == Mode::X {
            let version = Lsn(it.clock.max(held).0 + 1);
            (it.clock, it.held, it.dirty) = (version, Some(version), true);
            it.log.push(version);
            self.history.push((version, at));
        }
        Ok(())
    }

    /// Where the redo of the version that `at` holds ends in its log; 0 when it did not make it.
    fn log_position(&mut self, at: usize) -> Result<Lsn, String> {
        let it = self.instance(at)?;
        let made = it.log.iter().position(|version| Some(*version) == it.held);
        Ok(Lsn(made.map_or(0, |at| at as u64 + 1)))
    }

    /// The version that `at` holds leaves it: its redo must be durable.
    fn leaves(&mut self, at: usize) -> Result<(), String> {
        let position = self.log_position(at)?.0;
        let it = self.instance(at)?;
        let durable = it.durable as u64;
        if position > durable {
            let held = it.held;
            return Err(format!("I8: {held:?} leaves {at}, redo to {position}, durable {durable}"));
        }
        Ok(())
    }

    fn sends(&mut self, at: usize, message: &Pcm) -> Result<(), String> {
        if let Pcm::Invalidated { dirty, .. } = *message {
            let it = self.instance(at)?;
            let is = it.dirty && it.held.is_some();
            if is != dirty {
                return Err(format!("I3: gives up: dirty {is}, says {dirty}"));
            }
            if dirty {
                self.leaves(at)?;
                self.instance(at)?.dirty = false;
            }
        }
        Ok(())
    }
}

fn take_transit(transit: &mut Option<(u64, Lsn)>, grant: u64) -> Result<Lsn, String> {
    match transit.take() {
        Some((of, content)) if of == grant => Ok(content),
        other => Err(format!("grant {grant} is not in transit, {other:?} is")),
    }
}
