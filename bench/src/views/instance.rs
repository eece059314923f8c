//! One instance of the cluster in memory: its core, the least that a runtime does for it, and its
//! clock.
//!
//! Pages have no bytes here, and one version; pins are gone at once, storage answers at once. The
//! clock goes on by what the core takes for each event, in processor time of this thread, so that
//! neither the other instances nor other programs are in it.

use super::spent::{Spent, Work};
use pagewire_node::grd::{Effect, Event, Grd, WaiterId};
use pagewire_protocol::{
    BufferTag, Epoch, GuideRecord, Incarnation, InstanceId, Lsn, Mode, Pcm,
    guide::{GUIDE_RECORD_BYTES, GUIDE_RECORDS_MAX, GuideHeader, decode_batch, encode_batch},
};
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Version of every page.
const VERSION: Lsn = Lsn(1);

/// Processor time of this thread.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::from_secs(part(now.tv_sec)) + Duration::from_nanos(part(now.tv_nsec))
}

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
    /// When what happened so far was over.
    pub(super) clock: Duration,
    /// What has come or will: by when, then by order.
    inbox: BTreeMap<(Duration, u64), Event>,
    /// Events that were put into the inbox.
    count: u64,
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
            clock: Duration::ZERO,
            inbox: BTreeMap::new(),
            count: 0,
            soon: VecDeque::new(),
            parked: VecDeque::new(),
            more: false,
            effects: Vec::new(),
            frame: vec![0; GUIDE_RECORD_BYTES * GUIDE_RECORDS_MAX],
        }
    }

    /// An event comes at `at`.
    pub(super) fn put(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.inbox.insert((at, self.count), event);
    }

    /// When the first of what waits has come.
    pub(super) fn first_at(&self) -> Option<Duration> {
        self.inbox.first_key_value().map(|((at, _), _)| *at)
    }

    /// When it has something to do; `None`: nothing.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.inbox.first_key_value().map(|((at, _), _)| self.clock.max(*at))
    }

    /// Takes one event from outside, and everything that follows from it here at once.
    pub(super) fn turn(&mut self, spent: &mut Spent, told: &mut Vec<Told>) {
        let Some(((at, _), event)) = self.inbox.pop_first() else { return };
        self.clock = self.clock.max(at);
        self.handle(event, spent, told);
        while let Some(event) = self.soon.pop_front() {
            self.handle(event, spent, told);
        }
    }

    /// Time that `work` takes passes for this instance.
    fn work<T>(&mut self, spent: &mut Spent, work: Work, run: impl FnOnce(&mut Self) -> T) -> T {
        let begin = processor_time();
        let done = run(self);
        let took = processor_time().saturating_sub(begin);
        spent.add(work, took);
        self.clock += took;
        done
    }

    fn handle(&mut self, event: Event, spent: &mut Spent, told: &mut Vec<Told>) {
        if event == Event::Continue {
            self.more = false;
        }
        // Only what comes from others can be parked.
        let kept = matches!(event, Event::Message { .. } | Event::LoadGuide { .. });
        let copy = kept.then(|| event.clone());
        let mut effects = std::mem::take(&mut self.effects);
        let work = Work::of(&event);
        self.work(spent, work, |instance| instance.grd.handle(event, &mut effects));
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
                let batch = self.work(spent, Work::Ship, |it| it.carried(&batch, last));
                let (from, incarnation) = (self.id, self.incarnation);
                told.push(Told::To(to, Event::LoadGuide { from, incarnation, epoch, batch, last }));
            }
            // Behind what waits already: that is served first.
            Effect::Again if !self.more => {
                self.more = true;
                self.put(self.clock, Event::Continue);
            }
            Effect::ViewInstalled { .. } => {
                self.soon.extend(std::mem::take(&mut self.parked));
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
