//! Shared storage: reads and writes in flight, done at some later step.

use super::{Checked, Cluster, Content, Place, ensure};
use pagewire_node::grd::Event;
use pagewire_protocol::Lsn;

/// Where a read or a write is.
#[derive(Debug, Clone, Copy)]
enum Work {
    Read {
        at_least: Lsn,
        /// What the device has returned; the instance does not know yet.
        sampled: Option<Content>,
    },
    Write {
        content: Content,
        /// On the device; the instance does not know yet.
        landed: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Io {
    place: Place,
    work: Work,
}

impl Io {
    pub(super) fn read(place: Place, at_least: Lsn) -> Self {
        Self { place, work: Work::Read { at_least, sampled: None } }
    }

    pub(super) fn write(place: Place, content: Content) -> Self {
        Self { place, work: Work::Write { content, landed: false } }
    }
}

impl Cluster {
    /// One read or write goes on: the device does it, the instance hears of it, or both at once.
    pub(super) fn storage_step(&mut self) -> Checked {
        let at = self.random.index(self.ios.len());
        let Io { place, work } = self.ios[at];
        let at_once = self.random.percent(50);
        match work {
            Work::Read { at_least, sampled: None } => {
                let content = self.pages[place.page].storage;
                if at_once {
                    self.ios.swap_remove(at);
                    return self.read_done(place, at_least, content);
                }
                self.ios[at].work = Work::Read { at_least, sampled: Some(content) };
            }
            Work::Read { at_least, sampled: Some(content) } => {
                self.ios.swap_remove(at);
                return self.read_done(place, at_least, content);
            }
            Work::Write { content, landed: false } => {
                if at_once {
                    self.ios.swap_remove(at);
                    return self.write_ends(place, content, false);
                }
                self.land(place, content)?;
                self.ios[at].work = Work::Write { content, landed: true };
            }
            Work::Write { content, landed: true } => {
                self.ios.swap_remove(at);
                return self.write_ends(place, content, true);
            }
        }
        Ok(())
    }

    fn read_done(&mut self, place: Place, at_least: Lsn, content: Content) -> Checked {
        let failed = self.random.percent(self.options.read_failure_percent);
        let tag = self.pages[place.page].tag;
        let node = &mut self.nodes[place.node];
        let frame = &mut node.frames[place.page];
        frame.reading = false;
        let result = if failed {
            Err("the device says no".to_owned())
        } else {
            let found = content.version;
            ensure!(found >= at_least, "storage has v{found}, at least v{at_least} is needed");
            self.newcomer = Some(content);
            node.clock = node.clock.max(found);
            self.summary.reads += 1;
            Ok(found)
        };
        self.feed(place, Event::ReadDone { tag, result })
    }

    fn write_ends(&mut self, place: Place, content: Content, landed: bool) -> Checked {
        let written = !self.random.percent(self.options.write_failure_percent);
        // One that failed may have landed nevertheless.
        if !landed && (written || self.random.percent(50)) {
            self.land(place, content)?;
        }
        let frame = &mut self.nodes[place.node].frames[place.page];
        frame.writing = false;
        ensure!(frame.held == Some(content), "the page changed while it was being written");
        if written {
            frame.dirty = false;
            self.summary.writes += 1;
        }
        let (tag, version) = (self.pages[place.page].tag, content.version);
        self.feed(place, Event::WriteDone { tag, version, written })
    }

    fn land(&mut self, place: Place, content: Content) -> Checked {
        let storage = &mut self.pages[place.page].storage;
        let (old, new) = (storage.version, content.version);
        ensure!(old <= new, "v{new} is written over v{old} on storage");
        ensure!(old < new || *storage == content, "two contents of v{new}");
        *storage = content;
        Ok(())
    }
}
