//! What must be so after each step, and at rest (DESIGN section 6, numbers 1 to 5).

use super::{Checked, Cluster, ensure};
use pagewire_node::grd::{Anomalies, EntryView, HoldingView};
use pagewire_protocol::{GrantNumber, Mode};

/// The mode in which an instance may use the page; one that is giving it up may not any more.
fn usable(view: Option<&HoldingView>) -> Mode {
    view.filter(|view| !view.releasing).map_or(Mode::N, |view| view.mode)
}

impl Cluster {
    /// Everything that is said about one page.
    pub(super) fn check_page(&mut self, page: usize) -> Checked {
        let tag = self.pages[page].tag;
        let mut views = [const { None }; 16];
        for (view, node) in views.iter_mut().zip(&self.nodes) {
            *view = node.grd.holding(&tag);
            let anomalies = node.grd.anomalies();
            ensure!(anomalies == Anomalies::default(), "instance {} has {anomalies:?}", node.id);
        }
        let views = &views[..self.nodes.len()];
        self.check_exclusion(page, views)?;
        self.check_frames(page, views)?;
        self.check_duty(page)?;
        self.check_grants(page, views)?;
        self.check_directory(page, views)
    }

    /// One X holder at most, and then no S holder; pins and words no wider than the mode.
    fn check_exclusion(&self, page: usize, views: &[Option<HoldingView>]) -> Checked {
        let holders = views.iter().filter(|view| usable(view.as_ref()) >= Mode::S).count();
        for (node, view) in views.iter().enumerate() {
            let mode = usable(view.as_ref());
            ensure!(mode < Mode::X || holders == 1, "X at {node}, {holders} instances hold");
            let frame = &self.nodes[node].frames[page];
            ensure!(frame.word <= mode, "{node} lets threads pin {}, holds {mode}", frame.word);
            ensure!(!frame.exclusive || mode == Mode::X, "a writer at {node}, which holds {mode}");
            ensure!(frame.shared == 0 || mode >= Mode::S, "readers at {node}, which holds {mode}");
            ensure!(!frame.exclusive || frame.shared == 0, "a writer among readers at {node}");
        }
        Ok(())
    }

    /// The frame is there when the page is held, and has what was last committed.
    fn check_frames(&self, page: usize, views: &[Option<HoldingView>]) -> Checked {
        let truth = self.pages[page].truth();
        for (node, view) in views.iter().enumerate() {
            let frame = &self.nodes[node].frames[page];
            let mode = view.map_or(Mode::N, |view| view.mode);
            ensure!(frame.held.is_some() == (mode > Mode::N), "{node} holds {mode}, or not?");
            if let Some(content) = frame.held.filter(|_| usable(view.as_ref()) > Mode::N) {
                let version = content.version;
                ensure!(content == truth, "{node} has v{version}, committed is v{}", truth.version);
            }
            let Some(view) = view else { continue };
            ensure!(
                view.mode != Mode::S || view.dirty == frame.dirty,
                "{node} holds S: core says dirty {}, frame says {}",
                view.dirty,
                frame.dirty
            );
        }
        Ok(())
    }

    /// One write-owner at most; without one, storage has the page.
    fn check_duty(&self, page: usize) -> Checked {
        let it = &self.pages[page];
        let frames = self.nodes.iter().map(|node| &node.frames[page]);
        let duties = it.flying_duties
            + frames.map(|frame| usize::from(frame.dirty) + usize::from(frame.duty)).sum::<usize>();
        ensure!(duties <= 1, "{duties} instances have the duty to write page {page}");
        ensure!(
            duties == 1 || it.storage == it.truth(),
            "nobody has the duty to write page {page}: committed is v{}, storage has v{}",
            it.truth().version,
            it.storage.version
        );
        Ok(())
    }

    /// A new grant has a greater number than all before it.
    fn check_grants(&mut self, page: usize, views: &[Option<HoldingView>]) -> Checked {
        for (node, view) in self.nodes.iter_mut().zip(views) {
            let frame = &mut node.frames[page];
            let grant = view.map_or(GrantNumber(0), |view| view.grant);
            if view.is_some_and(|view| view.mode > Mode::N) && grant != frame.top_grant {
                let top = &mut self.pages[page].top_grant;
                ensure!(grant > *top, "grant {grant} comes after grant {top}");
                (*top, frame.top_grant) = (grant, grant);
            }
        }
        Ok(())
    }

    /// The directory never goes back; while nothing is converting it equals the shadow information.
    fn check_directory(&mut self, page: usize, views: &[Option<HoldingView>]) -> Checked {
        let it = &mut self.pages[page];
        let Some(entry) = self.nodes[it.master].grd.entry(&it.tag) else { return Ok(()) };
        let (truth, version) = (it.truth().version, entry.version);
        ensure!(entry.grant >= it.top_given, "the directory's grant number went back");
        ensure!(version >= it.directory_version, "the directory's version went back");
        ensure!(version <= truth, "the directory has v{version}, committed is v{truth}");
        (it.top_given, it.directory_version) = (entry.grant, version);
        if entry.converting {
            return Ok(());
        }
        ensure!(entry.queued == 0, "requests wait, and nothing is converting");
        for (node, view) in self.nodes.iter().zip(views) {
            let id = node.id;
            let listed = entry.holders.contains(&id);
            let mode = view.map_or(Mode::N, |view| view.mode);
            ensure!(!listed || mode > Mode::N, "the directory lists {id}, which holds nothing");
            let usable = usable(view.as_ref());
            ensure!(listed || usable == Mode::N, "{id} holds {usable}, the directory knows not");
            let exclusive = entry.exclusive && entry.owner == Some(id);
            ensure!(
                !listed || exclusive == (mode == Mode::X),
                "{id} holds {mode}, the directory says exclusive {exclusive}"
            );
            ensure!(
                !node.frames[page].dirty || entry.owner == Some(id),
                "{id} has the duty to write and is not the owner"
            );
        }
        ensure!(
            !entry.holders.is_empty() || version == truth,
            "nobody holds page {page}; the directory has v{version}, committed is v{truth}"
        );
        check_entry(&entry)
    }
}

/// What an entry says of itself while nothing is converting.
fn check_entry(entry: &EntryView) -> Checked {
    let EntryView { owner, holders, .. } = entry;
    ensure!(
        owner.map_or(holders.is_empty(), |owner| holders.contains(&owner)),
        "the owner {owner:?} is not among the holders {holders:?}"
    );
    ensure!(!entry.exclusive || holders.len() == 1, "exclusive, and {holders:?} hold it");
    Ok(())
}
