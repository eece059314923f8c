//! What must be so when nothing is under way any more.

use super::{Checked, Cluster, ensure};
use pagewire_protocol::Mode;

impl Cluster {
    pub(super) fn check_rest(&mut self) -> Checked {
        for (node, thread) in self.threads() {
            ensure!(thread.is_idle(), "at rest, but a thread of {node} waits: {thread:?}");
        }
        self.network.check_rest()?;
        for page in 0..self.pages.len() {
            self.check_page(page)?;
            self.check_page_rest(page)?;
        }
        Ok(())
    }

    fn check_page_rest(&self, page: usize) -> Checked {
        let it = &self.pages[page];
        if let Some(entry) = self.nodes[it.master].grd.entry(&it.tag) {
            ensure!(!entry.converting, "at rest, but page {page} converts: {entry:?}");
        }
        ensure!(it.flying_duties == 0, "at rest, but a duty is on its way");
        for node in &self.nodes {
            let (id, frame) = (node.id, &node.frames[page]);
            ensure!(frame.transit.is_empty(), "at rest, but {id} keeps a copy in transit");
            ensure!(frame.request.is_none(), "at rest, but {id} has a frame reserved");
            ensure!(frame.arrival.is_none(), "at rest, but {id} has not taken what came");
            ensure!(!frame.duty, "at rest, but {id} has not taken up its duty");
            ensure!(frame.lowering.is_none(), "at rest, but {id} is draining pins");
            let Some(view) = node.grd.holding(&it.tag) else { continue };
            ensure!(!view.busy && !view.in_transit, "at rest, but {id} is busy: {view:?}");
            ensure!(view.mode > Mode::N, "{id} remembers page {page} for nothing: {view:?}");
            let open = if frame.opened_short { Mode::S } else { view.mode };
            ensure!(frame.word == open, "at rest {id} lets threads pin {} of {open}", frame.word);
        }
        Ok(())
    }

    /// After everything has been evicted.
    pub(super) fn check_empty(&self) -> Checked {
        for (page, it) in self.pages.iter().enumerate() {
            ensure!(it.storage == it.truth(), "all is evicted, and storage lacks page {page}");
            let holders = self.nodes[it.master].grd.entry(&it.tag).map(|entry| entry.holders);
            ensure!(
                holders.as_ref().is_none_or(Vec::is_empty),
                "all is evicted, and the directory lists {holders:?} for page {page}"
            );
        }
        let mut held = self.nodes.iter().flat_map(|node| node.grd.held_tags());
        ensure!(held.next().is_none(), "all is evicted, and something is held");
        Ok(())
    }
}

