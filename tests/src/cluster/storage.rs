//! Shared storage and the logs: reads, writes and flushes in flight, done at some later step.
//!
//! A write whose instance is gone may land or not, until storage is fenced against that life: before
//! the view that is without it is decided.

use super::{Checked, Cluster, Place, content::Content, ensure, faults::Fault};
use pagewire_node::grd::Event;
use pagewire_protocol::{Incarnation, Lsn};

/// Longest that slow storage takes before it begins.
const SLOW_STEPS_MAX: u32 = 1000;

/// Where a read, a write or a flush is.
#[derive(Debug, Clone, Copy)]
enum Work {
    Read {
        at_least: Lsn,
        /// The newest of storage, the page that was taken and the past image is wanted.
        newest: bool,
        /// The page that was taken.
        arrival: Option<Content>,
        /// What the device has returned; the instance does not know yet.
        sampled: Option<Content>,
    },
    Write {
        content: Content,
        /// On the device; the instance does not know yet.
        landed: bool,
    },
    /// The log becomes durable up to here.
    Flush { to: Lsn },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Io {
    place: Place,
    /// Of the instance that wants it.
    life: Incarnation,
    work: Work,
    /// Nothing happens before this step.
    slow_until: u64,
}

impl Cluster {
    fn submit_io(&mut self, place: Place, work: Work) {
        let life = self.nodes[place.node].life;
        let percent = self.options.slow_io_percent;
        let slow = percent > 0 && self.random.percent(percent);
        let steps = if slow { self.some_steps(SLOW_STEPS_MAX) } else { 0 };
        self.ios.push(Io { place, life, work, slow_until: self.now + steps });
    }

    pub(super) fn submit_read(&mut self, place: Place, at_least: Lsn, newest: bool) {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let arrival = if newest { frame.arrival.take() } else { None };
        self.submit_io(place, Work::Read { at_least, newest, arrival, sampled: None });
    }

    pub(super) fn submit_write(&mut self, place: Place, content: Content) {
        self.submit_io(place, Work::Write { content, landed: false });
    }

    pub(super) fn submit_flush(&mut self, place: Place, to: Lsn) {
        self.submit_io(place, Work::Flush { to });
    }

    /// Reads, writes and flushes that may go on: on no disk that stands still, and none is slow once
    /// nobody wants anything any more.
    fn ready_ios(&self) -> impl Iterator<Item = usize> + '_ {
        let all = self.habit == super::workload::Habit::Nothing;
        let ready = move |io: &Io| {
            !self.nodes[io.place.node].slow_disk && (all || io.slow_until <= self.now)
        };
        self.ios.iter().enumerate().filter(move |(_, io)| ready(io)).map(|(at, _)| at)
    }

    pub(super) fn storage_waits(&self) -> bool {
        self.ready_ios().next().is_some()
    }

    pub(super) fn has_io(&self, node: usize) -> bool {
        self.ios.iter().any(|io| io.place.node == node)
    }

    fn is_orphan(&self, io: &Io) -> bool {
        let node = &self.nodes[io.place.node];
        !node.running || node.life != io.life
    }

    /// The process is gone: nobody waits for its reads any more, and its log ends where it ended.
    pub(super) fn orphan_io(&mut self, node: usize) {
        self.ios.retain(|io| io.place.node != node || matches!(io.work, Work::Write { .. }));
    }

    /// Storage takes nothing of this life any more; what was on its way lands before, or never.
    pub(super) fn fence_storage(&mut self, node: usize, life: Incarnation) -> Checked {
        let ios = std::mem::take(&mut self.ios);
        for io in ios {
            if io.place.node != node || io.life != life {
                self.ios.push(io);
            } else if let Work::Write { content, landed: false } = io.work
                && self.random.percent(50)
            {
                self.land(io.place, content)?;
            }
        }
        Ok(())
    }

    /// The log of a life ends; what is not durable may be there in part. Versions without a record
    /// are lost, and only those.
    pub(super) fn end_log(&mut self, node: usize) {
        let log = self.nodes[node].log;
        let torn = u32::try_from(log.end.0 - log.durable.0).unwrap_or(u32::MAX);
        let end = Lsn(log.durable.0 + u64::from(self.random.below(torn + 1)));
        let log = &mut self.nodes[node].log;
        (log.end, log.durable) = (end, end);
        let life = self.nodes[node].life;
        for page in &mut self.pages {
            let lost =
                |v: &super::content::Version| (v.writer, v.life) == (node, life) && v.redo > end;
            while page.history.last().is_some_and(lost) {
                page.history.pop();
                self.summary.lost_versions += 1;
            }
        }
    }

    /// One read, write or flush goes on: the device does it, the instance hears of it, or both.
    pub(super) fn storage_step(&mut self) -> Checked {
        let ready = self.ready_ios().count();
        let nth = self.random.index(ready);
        let Some(at) = self.ready_ios().nth(nth) else { return Ok(()) };
        let Io { place, work, .. } = self.ios[at];
        if self.is_orphan(&self.ios[at]) {
            self.ios.swap_remove(at);
            if let Work::Write { content, landed: false } = work
                && self.random.percent(50)
            {
                self.land(place, content)?;
            }
            return Ok(());
        }
        let at_once = self.random.percent(50);
        let deaf = !self.nodes[place.node].is_active();
        match work {
            Work::Read { at_least, newest, arrival, sampled: None } => {
                let content = self.pages[place.page].storage;
                if at_once && !deaf {
                    self.ios.swap_remove(at);
                    return self.read_done(place, at_least, newest, (content, arrival));
                }
                self.ios[at].work =
                    Work::Read { at_least, newest, arrival, sampled: Some(content) };
            }
            Work::Write { content, landed: false } => {
                if at_once && !deaf {
                    self.ios.swap_remove(at);
                    return self.write_ends(place, content, false);
                }
                self.land(place, content)?;
                self.ios[at].work = Work::Write { content, landed: true };
            }
            _ if deaf => {}
            Work::Read { at_least, newest, arrival, sampled: Some(content) } => {
                self.ios.swap_remove(at);
                return self.read_done(place, at_least, newest, (content, arrival));
            }
            Work::Write { content, landed: true } => {
                self.ios.swap_remove(at);
                return self.write_ends(place, content, true);
            }
            Work::Flush { to } => {
                self.ios.swap_remove(at);
                let log = &mut self.nodes[place.node].log;
                log.durable = log.durable.max(to);
                let up_to = log.durable;
                return self.feed(place, Event::Flushed { up_to });
            }
        }
        Ok(())
    }

    fn read_done(
        &mut self,
        place: Place,
        at_least: Lsn,
        newest: bool,
        (content, arrival): (Content, Option<Content>),
    ) -> Checked {
        let failed = self.random.percent(self.options.read_failure_percent);
        let tag = self.pages[place.page].tag;
        let frame = &mut self.nodes[place.node].frames[place.page];
        frame.reading = false;
        if failed {
            self.note(Fault::ReadFails, || format!("a read of {} fails", place.page));
            let result = Err("the device says no".to_owned());
            return self.feed(place, Event::ReadDone { tag, result });
        }
        let found = content.version;
        ensure!(found >= at_least, "I2: storage has v{found}, at least v{at_least} is needed");
        let mut best = content;
        if newest {
            let others = [arrival, frame.past];
            for other in others.into_iter().flatten() {
                best = if other.version > best.version { other } else { best };
            }
        }
        self.summary.reads += 1;
        let event = Event::ReadDone { tag, result: Ok(best.version) };
        self.feed_with(place, event, Some(best))
    }

    fn write_ends(&mut self, place: Place, content: Content, landed: bool) -> Checked {
        let written = !self.random.percent(self.options.write_failure_percent);
        // One that failed may have landed nevertheless.
        if !landed && (written || self.random.percent(50)) {
            self.land(place, content)?;
        }
        if !written {
            self.note(Fault::WriteFails, || format!("a write of {} fails", place.page));
        }
        let frame = &mut self.nodes[place.node].frames[place.page];
        frame.writing = false;
        ensure!(frame.held == Some(content), "I3: the page changed while it was being written");
        if written {
            frame.dirty = false;
            self.summary.writes += 1;
        }
        let (tag, version) = (self.pages[place.page].tag, content.version);
        self.feed(place, Event::WriteDone { tag, version, written })
    }

    fn land(&mut self, place: Place, content: Content) -> Checked {
        let page = &mut self.pages[place.page];
        let (old, new) = (page.storage.version, content.version);
        ensure!(old <= new, "I3: v{new} is written over v{old} on storage");
        ensure!(old < new || page.storage == content, "I2: two contents of v{new}");
        let known = new == Lsn::ZERO || page.made(new).is_some_and(|made| made.content == content);
        ensure!(known, "I8: v{new} reaches storage, and its redo is lost");
        page.storage = content;
        Ok(())
    }
}
