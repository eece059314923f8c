//! Redo: the lowest survivor applies what the logs of the dead have, page by page.
//!
//! A page's history is the union of all logs in the order of versions; of it, a recoverer can read
//! what lives wrote that are over. Each record changes the version before it and no other, so that a
//! base that is too old cannot be recovered: that is what past images are for.

use super::{Checked, Cluster, Place, ensure, membership::Told, workload::THREADS_MAX};
use pagewire_node::grd::{Event, WaiterId};
use pagewire_protocol::{Incarnation, InstanceId, Mode};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    ToDo,
    Asked(WaiterId),
    /// The recoverer has it pinned for X.
    Granted,
    Done,
}

/// The redo that is under way.
#[derive(Debug)]
pub(super) struct Redo {
    pub(super) by: usize,
    dead: Vec<(InstanceId, Incarnation)>,
    pages: Vec<Progress>,
}

impl Redo {
    /// The instance has the page to recover it.
    pub(super) fn is_at_work(&self, node: usize, page: usize) -> bool {
        self.by == node && matches!(self.pages[page], Progress::Asked(_) | Progress::Granted)
    }
}

/// The thread that a recoverer's waiters are of.
pub(super) const REDO_THREAD: u64 = THREADS_MAX - 1;

impl Cluster {
    /// Someone is dead, and somebody is there who can do its redo now.
    pub(super) fn redo_waits(&self) -> bool {
        let asked = |redo: &Redo| redo.pages.iter().any(|p| matches!(p, Progress::Asked(_)));
        match &self.redo {
            Some(redo) if !self.may_redo(redo.by) => false,
            Some(redo) if redo.pages.contains(&Progress::Granted) => true,
            Some(redo) if redo.dead != self.membership.dead => !asked(redo),
            Some(redo) => {
                redo.pages.iter().all(|p| *p == Progress::Done) || self.redo_page(redo).is_some()
            }
            None => !self.membership.dead.is_empty() && self.recoverer().is_some(),
        }
    }

    fn may_redo(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        it.is_live() && it.stop.is_none() && self.membership.told[node].is_empty()
    }

    /// The lowest member that is well and has heard of all views.
    fn recoverer(&self) -> Option<usize> {
        if !self.all_have_reset() {
            return None;
        }
        let members = self.membership.view.members().iter().filter(|member| !member.leaving);
        members.map(|member| usize::from(member.id.0)).find(|&node| self.may_redo(node))
    }

    /// A page that can be looked at: its master is up and has the latest view.
    fn redo_page(&self, redo: &Redo) -> Option<usize> {
        let ready = |page: &usize| {
            let master = self.pages[*page].master;
            redo.pages[*page] == Progress::ToDo && self.may_redo(master)
        };
        (0..self.pages.len()).find(ready)
    }

    pub(super) fn redo_step(&mut self) -> Checked {
        let Some(redo) = &self.redo else {
            let Some(by) = self.recoverer() else { return Ok(()) };
            let dead = self.membership.dead.clone();
            self.trace.event(self.summary.steps, || format!("{by} begins redo of {dead:?}"));
            let pages = vec![Progress::ToDo; self.pages.len()];
            self.redo = Some(Redo { by, dead, pages });
            return Ok(());
        };
        let by = redo.by;
        if let Some(page) = redo.pages.iter().position(|p| *p == Progress::Granted) {
            return self.redo_release(page);
        }
        if redo.dead != self.membership.dead {
            // Others have died: it begins anew when what was asked for has come, or will not.
            self.redo = None;
            return Ok(());
        }
        if redo.pages.iter().all(|p| *p == Progress::Done) {
            return self.redo_done();
        }
        let Some(page) = self.redo_page(redo) else { return Ok(()) };
        let behind = self.pages[page].storage != self.pages[page].truth();
        let progress = if !behind {
            Progress::Done
        } else {
            self.last_waiter += 1;
            let waiter = WaiterId(self.last_waiter * THREADS_MAX + REDO_THREAD);
            let tag = self.pages[page].tag;
            self.set_redo(page, Progress::Asked(waiter));
            let event = Event::Acquire { tag, mode: Mode::X, waiter, recovery: true };
            return self.feed(Place { node: by, page }, event);
        };
        self.set_redo(page, progress);
        Ok(())
    }

    /// The master says that nothing of the page is missing.
    pub(super) fn redo_not_needed(&mut self, place: Place) {
        self.set_redo(place.page, Progress::Done);
    }

    fn set_redo(&mut self, page: usize, progress: Progress) {
        if let Some(redo) = &mut self.redo {
            redo.pages[page] = progress;
        }
    }

    /// The recoverer has the page: everything that dead logs have beyond it is applied.
    pub(super) fn redo_granted(&mut self, place: Place, waiter: WaiterId) -> Checked {
        let asked = |redo: &Redo| {
            redo.by == place.node && redo.pages[place.page] == Progress::Asked(waiter)
        };
        ensure!(self.redo.as_ref().is_some_and(asked), "I5: redo gets what it did not ask for");
        self.set_redo(place.page, Progress::Granted);
        let frame = &mut self.nodes[place.node].frames[place.page];
        let mut content = frame.pin(Mode::X)?;
        let base = content.version;
        let mut last = content.version;
        for made in &self.pages[place.page].history {
            if made.content.version <= base {
                continue;
            }
            let writer = &self.nodes[made.writer];
            let over = !writer.running || writer.evicted || writer.life != made.life;
            ensure!(
                over,
                "I9: redo of page {} has v{last} and needs v{}, which is in the log of {}, alive",
                place.page,
                made.content.version,
                made.writer
            );
            last = made.content.version;
            content = made.content;
        }
        let changed = content.version != base;
        self.trace.detail(place.page, || format!("redo from v{base} to v{last}"));
        let node = &mut self.nodes[place.node];
        node.clock = node.clock.max(last);
        let frame = &mut node.frames[place.page];
        if changed {
            frame.held = Some(content);
            frame.dirty = true;
        }
        self.summary.redone += u64::from(changed);
        Ok(())
    }

    /// The recoverer's waiter for this page.
    pub(super) fn redo_waiter(&self, place: Place) -> Option<WaiterId> {
        let redo = self.redo.as_ref().filter(|redo| redo.by == place.node)?;
        match redo.pages[place.page] {
            Progress::Asked(waiter) => Some(waiter),
            Progress::ToDo | Progress::Granted | Progress::Done => None,
        }
    }

    /// The recoverer could not have it: once more.
    pub(super) fn redo_failed(&mut self, place: Place) {
        if self.redo.as_ref().is_some_and(|redo| redo.by == place.node) {
            self.set_redo(place.page, Progress::ToDo);
        }
    }

    fn redo_release(&mut self, page: usize) -> Checked {
        let Some(redo) = &self.redo else { return Ok(()) };
        let place = Place { node: redo.by, page };
        self.set_redo(page, Progress::Done);
        self.nodes[place.node].frames[page].unpin(Mode::X);
        self.note_drained(place);
        self.check_page(page)
    }

    fn redo_done(&mut self) -> Checked {
        let Some(redo) = self.redo.take() else { return Ok(()) };
        self.trace.event(self.summary.steps, || format!("redo of {:?} is done", redo.dead));
        self.membership.dead.retain(|dead| !redo.dead.contains(dead));
        let members: Vec<_> = self.membership.view.members().to_vec();
        for member in members {
            for &(id, life) in &redo.dead {
                let told = &mut self.membership.told[usize::from(member.id.0)];
                told.push_back(Told::Redone(id, life));
            }
        }
        self.summary.redos += 1;
        Ok(())
    }
}
