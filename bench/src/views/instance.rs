//! One instance of the cluster in memory: its core, and the least that a runtime does for it.
//!
//! Pages have no bytes here, and one version; pins are gone at once, storage answers at once.

use super::spent::{Spent, Work};
use pagewire_node::grd::{Effect, Event, Grd, WaiterId};
use pagewire_protocol::{
    BufferTag, Epoch, GuideRecord, Incarnation, InstanceId, Lsn, Mode, Pcm,
    guide::{GUIDE_RECORD_BYTES, GUIDE_RECORDS_MAX, GuideHeader, decode_batch, encode_batch},
};
use std::{collections::VecDeque, time::Instant};

/// Version of every page.
const VERSION: Lsn = Lsn(1);

/// What an instance tells the others or its clients.
#[derive(Debug)]
pub(super) enum Told {
    /// An event for an instance.
    To(InstanceId, Event),
    /// A client has its page.
    Granted(WaiterId),
    /// A client will not have it.
    Failed(WaiterId),
    /// A partition can be used.
    Ready,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) grd: Grd,
    pub(super) inbox: VecDeque<Event>,
    /// What its own storage and pins say, before anything else.
    soon: VecDeque<Event>,
    parked: VecDeque<Event>,
    /// The core has asked to be called again.
    pub(super) more: bool,
    effects: Vec<Effect>,
    frame: Vec<u8>,
}

impl Instance {
    pub(super) fn new(id: InstanceId, incarnation: Incarnation, grd: Grd) -> Self {
        Self {
            id,
            incarnation,
            grd,
            inbox: VecDeque::new(),
            soon: VecDeque::new(),
            parked: VecDeque::new(),
            more: false,
            effects: Vec::new(),
            frame: vec![0; GUIDE_RECORD_BYTES * GUIDE_RECORDS_MAX],
        }
    }

    /// Takes one event from outside, and everything that follows from it here at once. False when
    /// there was none.
    pub(super) fn turn(&mut self, spent: &mut Spent, told: &mut Vec<Told>) -> bool {
        let event = match self.inbox.pop_front() {
            Some(event) => event,
            // Only when nobody else waits, or after each round of those who did: see `Again`.
            None => return false,
        };
        self.handle(event, spent, told);
        while let Some(event) = self.soon.pop_front() {
            self.handle(event, spent, told);
        }
        true
    }

    fn handle(&mut self, event: Event, spent: &mut Spent, told: &mut Vec<Told>) {
        if event == Event::Continue {
            self.more = false;
        }
        let work = Work::of(&event);
        // Only what comes from others can be parked.
        let kept = matches!(event, Event::Message { .. } | Event::LoadGuide { .. });
        let copy = kept.then(|| event.clone());
        let begin = Instant::now();
        self.grd.handle(event, &mut self.effects);
        spent.add(work, begin.elapsed());
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            if effect == Effect::Park {
                self.parked.extend(copy.clone());
            } else {
                self.apply(effect, spent, told);
            }
        }
        self.effects = effects;
    }

    fn message(&self, epoch: Epoch, tag: BufferTag, message: Pcm) -> Event {
        let (from, incarnation) = (self.id, self.incarnation);
        Event::Message { from, incarnation, epoch, tag, message }
    }

    fn apply(&mut self, effect: Effect, spent: &mut Spent, told: &mut Vec<Told>) {
        match effect {
            Effect::Send { to, tag, epoch, message }
            | Effect::Request { to, tag, epoch, message }
            | Effect::RequestAgain { to, tag, epoch, message }
            | Effect::Ship { to, tag, epoch, message, .. }
            | Effect::ShipPastImage { to, tag, epoch, message } => {
                told.push(Told::To(to, self.message(epoch, tag, message)));
            }
            Effect::Read { tag, at_least } | Effect::ReadNewer { tag, at_least } => {
                self.soon.push_back(Event::ReadDone { tag, result: Ok(VERSION.max(at_least)) });
            }
            Effect::Write { tag, version } => {
                self.soon.push_back(Event::WriteDone { tag, version, written: true });
            }
            Effect::Lower { tag, to } => self.soon.push_back(drained(tag, to)),
            Effect::Flush { to, .. } => self.soon.push_back(Event::Flushed { up_to: to }),
            Effect::Complete { waiter, .. } => told.push(Told::Granted(waiter)),
            Effect::Fail { waiter, .. } => told.push(Told::Failed(waiter)),
            Effect::LoadGuide { to, epoch, batch, last } => {
                let begin = Instant::now();
                let batch = self.carried(&batch, last);
                spent.add(Work::Ship, begin.elapsed());
                let (from, incarnation) = (self.id, self.incarnation);
                told.push(Told::To(to, Event::LoadGuide { from, incarnation, epoch, batch, last }));
            }
            // Behind what waits already: that is served first.
            Effect::Again if !self.more => {
                self.more = true;
                self.inbox.push_back(Event::Continue);
            }
            Effect::ViewInstalled { .. } => {
                for event in std::mem::take(&mut self.parked).into_iter().rev() {
                    self.inbox.push_front(event);
                }
            }
            Effect::PartitionReady { .. } => told.push(Told::Ready),
            _ => {}
        }
    }

    /// A batch as the other side has it, once it was in a frame.
    fn carried(&mut self, batch: &[GuideRecord], last: bool) -> Vec<GuideRecord> {
        encode_batch(batch, &mut self.frame);
        let records = u16::try_from(batch.len()).unwrap_or(u16::MAX);
        decode_batch(GuideHeader { records, last }, &self.frame).unwrap_or_default()
    }
}

fn drained(tag: BufferTag, to: Mode) -> Event {
    Event::Drained { tag, to, dirty: false, version: VERSION, flush: Lsn::ZERO }
}
