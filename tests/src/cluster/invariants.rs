//! What must be so after each step, by the numbers of DESIGN section 6 (I1 to I10).
//!
//! Safety of what threads see is checked always, among all instances that may still touch pages.
//! What the directory says is checked where the cluster is calm: everyone has the same view, nobody
//! is dead, and the entry is not being rebuilt. Where the duty to write is, is followed message by
//! message as long as no membership has changed; after that it is checked at rest.

use super::{Checked, Cluster, ensure};
use pagewire_node::grd::{Anomalies, EntryView, HoldingView};
use pagewire_protocol::{GrantNumber, Lsn, Mode};

type Views = [Option<HoldingView>; 16];

/// The mode in which an instance may use the page; one that is giving it up may not any more.
fn usable(view: Option<&HoldingView>) -> Mode {
    view.filter(|view| !view.releasing).map_or(Mode::N, |view| view.mode)
}

impl Cluster {
    /// Everything that is said about one page.
    pub(super) fn check_page(&mut self, page: usize) -> Checked {
        let tag = self.pages[page].tag;
        let mut views: Views = [const { None }; 16];
        for (view, node) in views.iter_mut().zip(&self.nodes) {
            if !node.is_live() {
                continue;
            }
            *view = node.grd.holding(&tag);
            let anomalies = node.grd.anomalies();
            ensure!(
                self.membership.disturbed || anomalies == Anomalies::default(),
                "instance {} has {anomalies:?}",
                node.id
            );
        }
        self.check_exclusion(page, &views)?;
        self.check_frames(page, &views)?;
        self.check_duty(page)?;
        self.check_grants(page, &views)?;
        self.check_directory(page, &views)
    }

    /// One X holder at most, and then no S holder; pins and words no wider than the mode.
    fn check_exclusion(&self, page: usize, views: &Views) -> Checked {
        let holders = views.iter().filter(|view| usable(view.as_ref()) >= Mode::S).count();
        for (node, view) in self.nodes.iter().zip(views) {
            if !node.is_live() {
                continue;
            }
            let (id, frame) = (node.id, &node.frames[page]);
            let mode = usable(view.as_ref());
            ensure!(mode < Mode::X || holders == 1, "I1: X at {id}, {holders} instances hold");
            ensure!(frame.word <= mode, "I1: {id} lets threads pin {}, holds {mode}", frame.word);
            ensure!(!frame.exclusive || mode == Mode::X, "I1: a writer at {id}, holding {mode}");
            ensure!(frame.shared == 0 || mode >= Mode::S, "I1: readers at {id}, holding {mode}");
            ensure!(!frame.exclusive || frame.shared == 0, "I1: a writer among readers at {id}");
        }
        Ok(())
    }

    /// The frame is there when the page is held, and has what was last committed.
    fn check_frames(&self, page: usize, views: &Views) -> Checked {
        let truth = self.pages[page].truth();
        for (node, view) in self.nodes.iter().zip(views) {
            if !node.is_live() {
                continue;
            }
            let (id, frame) = (node.id, &node.frames[page]);
            let mode = view.map_or(Mode::N, |view| view.mode);
            ensure!(frame.held.is_some() == (mode > Mode::N), "{id} holds {mode}, or not?");
            if let Some(content) = frame.held.filter(|_| usable(view.as_ref()) > Mode::N) {
                let behind = content == truth || self.is_redoing(node, page);
                let version = content.version;
                ensure!(behind, "I2: {id} has v{version}, committed is v{}", truth.version);
            }
            let Some(view) = view else { continue };
            ensure!(
                view.mode != Mode::S || view.dirty == frame.dirty,
                "I3: {id} holds S: core says dirty {}, frame says {}",
                view.dirty,
                frame.dirty
            );
        }
        Ok(())
    }

    /// One write-owner at most; without one, storage has the page.
    fn check_duty(&self, page: usize) -> Checked {
        if self.membership.disturbed {
            return Ok(());
        }
        let it = &self.pages[page];
        let frames = self.nodes.iter().map(|node| &node.frames[page]);
        let duties = it.flying_duties
            + frames.map(|frame| usize::from(frame.dirty) + usize::from(frame.duty)).sum::<usize>();
        ensure!(duties <= 1, "I3: {duties} instances have the duty to write page {page}");
        ensure!(
            duties == 1 || it.storage == it.truth(),
            "I3: nobody has the duty to write page {page}: committed is v{}, storage has v{}",
            it.truth().version,
            it.storage.version
        );
        Ok(())
    }

    /// A new grant has a greater number than all before it, as long as the page has one master.
    fn check_grants(&mut self, page: usize, views: &Views) -> Checked {
        let epoch = self.membership.view.epoch_of(&self.pages[page].tag);
        if std::mem::replace(&mut self.pages[page].epoch, epoch) != epoch {
            self.pages[page].forget_grants();
        }
        for (node, view) in self.nodes.iter_mut().zip(views) {
            let same = node.grd.view().epoch_of(&self.pages[page].tag) == epoch;
            let frame = &mut node.frames[page];
            let grant = view.map_or(GrantNumber(0), |view| view.grant);
            if same && view.is_some_and(|view| view.mode > Mode::N) && grant != frame.top_grant {
                let top = &mut self.pages[page].top_grant;
                let new = grant > *top || self.membership.disturbed;
                ensure!(new, "I6: grant {grant} comes after grant {top}");
                *top = (*top).max(grant);
                frame.top_grant = grant;
            }
        }
        Ok(())
    }

    /// Everyone who may touch pages has the latest view, and nobody is dead whose redo is not done.
    pub(super) fn is_calm(&self) -> bool {
        if !self.membership.disturbed {
            return true;
        }
        let epoch = self.membership.view.epoch();
        let current = |member: &pagewire_node::view::Member| {
            let at = usize::from(member.id.0);
            let node = &self.nodes[at];
            node.is_live()
                && node.life == member.incarnation
                && node.grd.view().epoch() == epoch
                && self.membership.told[at].is_empty()
        };
        self.membership.dead.is_empty() && self.membership.view.members().iter().all(current)
    }

    /// The directory never goes back; while nothing is converting it equals the shadow information.
    fn check_directory(&mut self, page: usize, views: &Views) -> Checked {
        let calm = self.is_calm();
        let it = &mut self.pages[page];
        let master = &self.nodes[it.master];
        if !calm || !master.is_live() {
            return Ok(());
        }
        let truth = it.truth().version;
        let Some(entry) = master.grd.entry(&it.tag) else {
            if !self.membership.disturbed {
                let stored = it.storage.version;
                ensure!(stored == truth, "I3: forgotten at v{truth}, and storage has v{stored}");
                it.directory_version = Lsn::ZERO;
            }
            return Ok(());
        };
        let version = entry.version;
        ensure!(entry.grant >= it.top_given, "I6: the directory's grant number went back");
        // Being rebuilt, it still has what died with an instance whose log did not have it.
        ensure!(
            version <= truth || entry.repairing,
            "I2: the directory has v{version}, committed is v{truth}"
        );
        it.top_given = entry.grant;
        if !self.membership.disturbed {
            ensure!(version >= it.directory_version, "I2: the directory's version went back");
            it.directory_version = version;
        }
        if self.is_moving(page) || entry.converting || entry.repairing {
            return Ok(());
        }
        ensure!(entry.queued == 0, "I5: requests wait, and nothing is converting");
        for (node, view) in self.nodes.iter().zip(views) {
            if !node.is_live() {
                continue;
            }
            let id = node.id;
            let listed = entry.holders.contains(&id);
            let mode = view.map_or(Mode::N, |view| view.mode);
            ensure!(!listed || mode > Mode::N, "I4: the directory lists {id}, holding nothing");
            let usable = usable(view.as_ref());
            ensure!(listed || usable == Mode::N, "I4: {id} holds {usable}, which is not listed");
            let exclusive = entry.exclusive && entry.owner == Some(id);
            ensure!(
                !listed || exclusive == (mode == Mode::X),
                "I4: {id} holds {mode}, the directory says exclusive {exclusive}"
            );
            ensure!(
                !node.frames[page].dirty || entry.owner == Some(id),
                "I3: {id} has the duty to write and is not the owner"
            );
        }
        ensure!(
            !entry.holders.is_empty() || version == truth || self.membership.disturbed,
            "I2: nobody holds page {page}; the directory has v{version}, committed is v{truth}"
        );
        check_entry(&entry)
    }

    /// The master of the page is still collecting what others have of its partition.
    pub(super) fn is_moving(&self, page: usize) -> bool {
        let it = &self.pages[page];
        let partition = it.tag.partition();
        self.nodes[it.master].grd.loading().any(|loading| loading == partition)
    }

    // ---- what redo looks at ----------------------------------------------------------------------

    /// The recoverer has the page, and has not applied everything yet, or just has.
    fn is_redoing(&self, node: &super::node::Node, page: usize) -> bool {
        self.redo.as_ref().is_some_and(|redo| redo.is_at_work(usize::from(node.id.0), page))
    }
}

/// What an entry says of itself while nothing is converting.
fn check_entry(entry: &EntryView) -> Checked {
    let EntryView { owner, holders, .. } = entry;
    ensure!(
        owner.map_or(holders.is_empty(), |owner| holders.contains(&owner)),
        "I4: the owner {owner:?} is not among the holders {holders:?}"
    );
    ensure!(!entry.exclusive || holders.len() == 1, "I1: exclusive, and {holders:?} hold it");
    Ok(())
}
