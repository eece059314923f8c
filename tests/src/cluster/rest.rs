//! What must be so when nothing is under way any more.

use super::{Checked, Cluster, ensure};
use pagewire_protocol::Mode;

impl Cluster {
    pub(super) fn check_rest(&mut self) -> Checked {
        for (node, thread) in self.threads() {
            ensure!(
                thread.is_idle(),
                "I5: at rest, but a thread of {node} waits: {thread:?}; {}",
                self.what_is_left()
            );
        }
        ensure!(
            self.is_calm(),
            "at rest, but not everyone has the latest view: {:?}",
            self.membership
        );
        ensure!(self.redo.is_none(), "at rest, but redo is not over");
        ensure!(self.requests.is_empty(), "I5: at rest, but requests wait for frames");
        ensure!(self.drains.is_empty(), "I5: at rest, but drains have not been told");
        for (node, parked) in self.parked.iter().enumerate() {
            let number = parked.len();
            ensure!(number == 0, "I5: at rest, but {node} keeps {number} messages parked");
        }
        for node in self.nodes.iter().filter(|node| node.is_live()) {
            let loading = node.grd.loading().count();
            ensure!(loading == 0, "I5: at rest, but {} still loads {loading} partitions", node.id);
        }
        self.network.check_rest()?;
        self.check_si_rest()?;
        for page in 0..self.pages.len() {
            self.focus = page;
            self.check_page(page)?;
            self.check_page_rest(page)?;
        }
        Ok(())
    }

    /// What keeps the cluster from coming to rest.
    pub(super) fn what_is_left(&self) -> String {
        let mut left = Vec::new();
        let mut note = |words: String| left.push(words);
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_live()) {
            for (page, frame) in node.frames.iter().enumerate() {
                if let Some((request, want)) = frame.request {
                    note(format!("{at} asks for page {page} {want} (#{})", request.sequence));
                }
            }
            let loading = node.grd.loading().count();
            if loading > 0 {
                note(format!("{at} loads {loading} partitions"));
            }
            if node.leaving {
                note(format!("{at} is leaving: {}", self.left_at(at)));
            }
        }
        if let Some(redo) = &self.redo {
            note(format!("{redo:?}"));
        }
        let (ios, dues) = (self.ios.len(), self.dues.len());
        note(format!("network busy {}, {ios} I/O, {dues} dues", self.network.is_busy()));
        left.join("; ")
    }

    fn left_at(&self, at: usize) -> String {
        let node = &self.nodes[at];
        let held = node.grd.held_tags().count();
        let mastered = node.grd.mastered_tags().count();
        let frames = node.frames.iter().filter(|frame| !frame.is_empty()).count();
        let idle = node.threads.iter().all(super::workload::Thread::is_idle);
        let told = self.network.has_told_everything(at);
        format!(
            "{held} held, {mastered} mastered, {frames} frames, threads idle {idle}, log {:?}, \
             sessions acknowledged {told}, I/O {}",
            node.log,
            self.has_io(at)
        )
    }

    fn check_page_rest(&self, page: usize) -> Checked {
        let it = &self.pages[page];
        let (id, truth) = (page, it.truth());
        if let Some(entry) = self.nodes[it.master].grd.entry(&it.tag) {
            let busy = entry.converting || entry.repairing || entry.lost || entry.queued > 0;
            ensure!(!busy, "I5: at rest, but page {id} converts: {entry:?}");
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let other = node.is_live() && at != it.master;
            let lists = other && node.grd.entry(&it.tag).is_some();
            ensure!(
                !lists,
                "I4: at rest, and {at} has an entry of page {page}, mastered by {}",
                it.master
            );
        }
        let duties = self.nodes.iter().filter(|node| node.is_live() && node.frames[page].dirty);
        let duties = duties.count();
        ensure!(
            duties <= 1,
            "I3: at rest, and {duties} instances have the duty to write page {page}"
        );
        ensure!(
            duties == 1 || it.storage == truth,
            "I3: at rest nobody has the duty to write page {page}: committed is v{}, storage has v{}",
            truth.version,
            it.storage.version
        );
        for node in self.nodes.iter().filter(|node| node.is_live()) {
            let (id, frame) = (node.id, &node.frames[page]);
            ensure!(frame.transit.is_empty(), "I10: at rest, but {id} keeps a copy in transit");
            ensure!(frame.request.is_none(), "I10: at rest, but {id} has a frame reserved");
            ensure!(frame.arrival.is_none(), "I10: at rest, but {id} has not taken what came");
            ensure!(!frame.duty, "I3: at rest, but {id} has not taken up its duty");
            ensure!(frame.lowering.is_none(), "I5: at rest, but {id} is draining pins");
            if let Some(past) = frame.past {
                // A write that was told to have failed may be there nevertheless.
                // After a view change the master may not know what is on storage.
                ensure!(
                    past.version > it.storage.version || duties == 1 || self.membership.disturbed,
                    "I10: at rest {id} keeps past image v{}, and storage has v{}",
                    past.version,
                    it.storage.version
                );
            }
            if frame.past.is_some() {
                let entry = self.nodes[it.master].grd.entry(&it.tag);
                let known = entry.is_some_and(|entry| entry.past_images.contains(&node.id));
                ensure!(known, "I10: at rest {id} keeps a past image that its master forgot");
            }
            let Some(view) = node.grd.holding(&it.tag) else { continue };
            ensure!(!view.busy && !view.in_transit, "I5: at rest, but {id} is busy: {view:?}");
            let something = view.mode > Mode::N || frame.past.is_some();
            ensure!(something, "I10: {id} remembers page {page} for nothing: {view:?}");
            let open = if frame.opened_short { view.mode.min(Mode::S) } else { view.mode };
            ensure!(frame.word == open, "I5: at rest {id} lets pin {} of {open}", frame.word);
        }
        Ok(())
    }

    /// After everything has been evicted.
    pub(super) fn check_empty(&self) -> Checked {
        for (page, it) in self.pages.iter().enumerate() {
            let (storage, truth) = (it.storage, it.truth());
            ensure!(
                storage == truth,
                "I9: all is evicted; storage has v{} of page {page}, committed is v{}",
                storage.version,
                truth.version
            );
            let holders = self.nodes[it.master].grd.entry(&it.tag).map(|entry| entry.holders);
            ensure!(
                holders.as_ref().is_none_or(Vec::is_empty),
                "I4: all is evicted, and the directory lists {holders:?} for page {page}"
            );
        }
        for node in self.nodes.iter().filter(|node| node.is_live()) {
            let held = node.grd.held_tags().next();
            ensure!(held.is_none(), "I4: all is evicted, and {} holds {held:?}", node.id);
            let frame = node.frames.iter().position(|frame| !frame.is_empty());
            ensure!(
                frame.is_none(),
                "I10: all is evicted, and {} keeps of page {frame:?}",
                node.id
            );
        }
        Ok(())
    }
}
