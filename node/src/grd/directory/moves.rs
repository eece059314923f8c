//! Partitions that this instance has come to master: their entries are made of what everyone
//! reports.
//!
//! ```text
//!           view with a new partition epoch              last End                  merge, replay
//!   not mine ---------------------------------> loading ----------> complete ----------------> usable
//!       ^                                        |   ^
//!       +---- view that moves it on -------------+   +-- view with a yet newer partition epoch
//! ```
//! Whether the former master has left, is leaving or died makes no difference: everyone who is alive
//! has, at its own view change, stopped acting on what is on its way under the old partition epoch,
//! and says what it has. What was on its way is refused everywhere, so the reports are a consistent
//! cut. Partitions become usable one by one. What is said of a page meanwhile is deferred.

use super::{Directory, repair::Repair};
use crate::{
    grd::{
        event::Effect,
        merge::{Given, merge},
        out::Out,
        store::{Hashed, InstanceSet},
    },
    planted,
    view::{Life, Member, View},
};
use pagewire_protocol::{
    BufferTag, Epoch, GuideRecord, InstanceId, PartitionId, Pcm, Report, tag::PARTITIONS,
};
use std::collections::{BTreeMap, BTreeSet};

/// Entries of partitions that are gone that are freed before other events have their turn.
const TIDIED_AT_ONCE: usize = 512;

/// A partition that is not usable yet.
#[derive(Debug, Clone, Default)]
struct Loading {
    awaited: InstanceSet,
    /// Died since the partition was given to this instance, or may have.
    dead: InstanceSet,
    /// In the order in which they came: one place for all, as pages are many. The last one counts of
    /// those that one instance makes of one page.
    reports: Vec<(BufferTag, InstanceId, Report)>,
    deferred: Vec<(InstanceId, BufferTag, Pcm)>,
    /// Somebody waits for a page of it, and those who are awaited have been told so.
    is_wanted: bool,
}

/// What is under way of partitions.
#[derive(Debug, Clone, Default)]
pub(super) struct Moves {
    loading: BTreeMap<PartitionId, Loading>,
    /// Made of reports while redo was missing: a page that nobody reported may have died with whoever
    /// had it.
    uncertain: BTreeSet<PartitionId>,
}

#[cfg(feature = "planted")]
impl Moves {
    /// What one partition still waits for, and how many do.
    pub(super) fn of(&self, partition: PartitionId) -> impl std::fmt::Debug + '_ {
        (self.loading.get(&partition), self.loading.len())
    }
}

impl Directory {
    /// Keeps what cannot be handled yet; true when it did. With the first request those who have not
    /// told all they have of the partition are asked to do so before all else.
    pub(super) fn defers(
        &mut self,
        from: InstanceId,
        page: &Hashed,
        message: &Pcm,
        out: &mut Out<'_>,
    ) -> bool {
        if self.moves.loading.is_empty() {
            return false;
        }
        let Some(loading) = self.moves.loading.get_mut(&page.partition()) else { return false };
        if loading.is_wanted
            && matches!(message, Pcm::Acquire { .. })
            && planted::is("serve_before_all_is_told")
        {
            return false;
        }
        if matches!(message, Pcm::Acquire { .. })
            && !std::mem::replace(&mut loading.is_wanted, true)
        {
            for member in loading.awaited.iter() {
                out.send(member, page.tag, Pcm::GuideWanted);
            }
        }
        loading.deferred.push((from, page.tag, *message));
        true
    }

    /// Whether a page that has no entry may have died with an instance.
    pub(super) fn may_be_lost(&self, tag: &BufferTag) -> bool {
        !self.moves.uncertain.is_empty() && self.moves.uncertain.contains(&tag.partition())
    }

    /// Partitions whose entries are still being collected.
    pub(in crate::grd) fn loading(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.moves.loading.keys().copied()
    }

    /// The state of a new instance: what it masters and was not so from the beginning has to be
    /// collected.
    pub(in crate::grd) fn begin(&mut self, me: InstanceId, view: &View) {
        self.unredone = view.dead().to_vec();
        let others = everyone(view).without(me);
        for partition in (0..PARTITIONS).map(PartitionId) {
            if view.master_of(partition) == me && !view.is_original(partition) {
                if others.is_empty() {
                    // There is nobody to ask.
                    self.moves.uncertain.insert(partition);
                    continue;
                }
                let loading = Loading { awaited: others, ..Loading::default() };
                self.moves.loading.insert(partition, loading);
            }
        }
        if self.unredone.is_empty() {
            self.moves.uncertain.clear();
        }
    }

    /// Takes over the view that `out` has; `old` was the one before. What this instance itself has of
    /// the partitions that come to it is told with [`Directory::guide`], after that.
    pub(in crate::grd) fn change_view(&mut self, old: &View, out: &mut Out<'_>) {
        let view = out.view;
        // A partition that comes back is told grants only greater than those that its entries had.
        self.store.tidy(usize::MAX);
        let lives: Vec<Life> = old.gone(view).collect();
        let gone = ids_of(lives.iter().copied());
        self.redone.retain(|life| view.dead().contains(life));
        self.bury_in_loading(gone);
        // Views in between may have been skipped, and reports be of them: an earlier life under an id
        // that is new here may be dead.
        let dead = InstanceSet(gone.0 | ids_of(view.gone(old)).0);
        for partition in view.changed(old) {
            self.forget_partition(partition);
            self.moves.loading.remove(&partition);
            self.moves.uncertain.remove(&partition);
            if view.master_of(partition) == out.me {
                if old.master_of(partition) == out.me {
                    // It went and came back in views that were skipped: as above.
                    self.store.tidy(usize::MAX);
                }
                let mut awaited = everyone(view);
                if planted::is("do_not_wait_for_all_reports") && awaited.count() > 1 {
                    awaited = awaited.without(view.members()[0].id);
                }
                self.moves
                    .loading
                    .insert(partition, Loading { awaited, dead, ..Loading::default() });
            }
        }
        self.update_unredone(out);
        self.bury(gone, &lives, out);
        for (instance, incarnation) in lives {
            for member in view.members() {
                let clear = Pcm::NodeClear { instance, incarnation };
                out.send(member.id, BufferTag::default(), clear);
            }
        }
        self.complete_all(out);
    }

    /// Takes those who have `gone` out of what is being collected. Under the same id another life may be
    /// a member already: it has nothing of a partition that was this instance's before it came.
    fn bury_in_loading(&mut self, gone: InstanceSet) {
        for loading in self.moves.loading.values_mut() {
            if !planted::is("await_reports_of_the_dead") {
                loading.awaited = InstanceSet(loading.awaited.0 & !gone.0);
            }
            loading.dead = InstanceSet(loading.dead.0 | gone.0);
            if !planted::is("keep_reports_of_the_dead") {
                loading.reports.retain(|(_, from, _)| !gone.has(*from));
            }
            loading.deferred.retain(|(from, ..)| !gone.has(*from));
        }
    }

    /// The entries of a partition go, with what waits for them: whoever waits asks the new master.
    fn forget_partition(&mut self, partition: PartitionId) {
        for mut rare in self.store.give_up(partition) {
            while self.pool.pop(&mut rare.queue).is_some() {}
        }
    }

    /// Whether entries of partitions that are gone still take memory.
    pub(in crate::grd) fn is_untidy(&self) -> bool {
        self.store.is_untidy()
    }

    /// Frees some of it.
    pub(in crate::grd) fn tidy(&mut self) {
        self.store.tidy(TIDIED_AT_ONCE);
    }

    // ---- what others report --------------------------------------------------------------------

    /// One record of what `from` has.
    pub(in crate::grd) fn guide(
        &mut self,
        from: InstanceId,
        record: GuideRecord,
        out: &mut Out<'_>,
    ) {
        let view = out.view;
        match record {
            GuideRecord::Page { tag, epoch, report } => {
                if let Some(loading) = self.awaiting(tag.partition(), epoch, from, view) {
                    loading.reports.push((tag, from, report));
                }
            }
            GuideRecord::End { partition, epoch } => {
                let told = |p: PartitionId| p <= partition && view.partition_epoch(p) == epoch;
                self.has_told(from, told, out);
            }
            GuideRecord::Whole { partition, epoch } if planted::is("whole_is_an_end") => {
                let told = |p: PartitionId| p <= partition && view.partition_epoch(p) == epoch;
                self.has_told(from, told, out);
            }
            GuideRecord::Whole { partition, epoch } => {
                if let Some(loading) = self.awaiting(partition, epoch, from, view) {
                    loading.awaited = loading.awaited.without(from);
                    self.complete_if_whole(partition, out);
                }
            }
            GuideRecord::Nothing { epoch } => {
                self.has_told(from, |p| view.partition_epoch(p) <= epoch, out);
            }
        }
    }

    /// `from` has no more to say of the partitions that `told` is true for.
    fn has_told(
        &mut self,
        from: InstanceId,
        told: impl Fn(PartitionId) -> bool,
        out: &mut Out<'_>,
    ) {
        let mut whole = Vec::new();
        for (partition, loading) in &mut self.moves.loading {
            if loading.awaited.has(from) && told(*partition) {
                loading.awaited = loading.awaited.without(from);
                if loading.awaited.is_empty() {
                    whole.push(*partition);
                }
            }
        }
        for partition in whole {
            self.complete_if_whole(partition, out);
        }
    }

    fn awaiting(
        &mut self,
        partition: PartitionId,
        epoch: Epoch,
        from: InstanceId,
        view: &View,
    ) -> Option<&mut Loading> {
        let loading = self.moves.loading.get_mut(&partition)?;
        let wanted = view.partition_epoch(partition) == epoch && loading.awaited.has(from);
        wanted.then_some(loading)
    }

    fn complete_all(&mut self, out: &mut Out<'_>) {
        let all: Vec<_> = self.moves.loading.keys().copied().collect();
        for partition in all {
            self.complete_if_whole(partition, out);
        }
    }

    /// Makes entries of the reports when all are in.
    fn complete_if_whole(&mut self, partition: PartitionId, out: &mut Out<'_>) {
        let whole = |loading: &Loading| loading.awaited.is_empty();
        if !self.moves.loading.get(&partition).is_some_and(whole) {
            return;
        }
        let Some(mut loading) = self.moves.loading.remove(&partition) else { return };
        let redo_missing = !self.unredone.is_empty();
        if redo_missing {
            self.moves.uncertain.insert(partition);
        }
        loading.reports.sort_by_key(|(tag, from, _)| (*tag, *from));
        let mut reports = Vec::new();
        for of_page in loading.reports.chunk_by(|one, next| one.0 == next.0) {
            let tag = of_page[0].0;
            last_of_each(of_page, &mut reports);
            let given =
                Given { reports: &reports, dead: loading.dead, redo_missing, refused: None };
            let outcome = merge(&given);
            let asked = reports.iter().fold(InstanceSet::default(), |set, (id, _)| set.with(*id));
            let mut page = self.load(tag);
            self.settle(&mut page, &outcome, Repair::of_rebuild(asked, loading.dead), out);
            self.save(page);
        }
        out.effect(Effect::PartitionReady { partition });
        for (from, tag, message) in loading.deferred {
            self.handle(from, &Hashed::of(tag), &message, out);
        }
    }

    // ---- redo ----------------------------------------------------------------------------------

    /// All redo of an instance that has died is applied.
    pub(in crate::grd) fn redo_done(&mut self, life: Life, out: &mut Out<'_>) {
        if !self.redone.contains(&life) {
            self.redone.push(life);
        }
        self.update_unredone(out);
    }

    fn update_unredone(&mut self, out: &mut Out<'_>) {
        let is_missing = |life: &&Life| !self.redone.contains(life);
        self.unredone = out.view.dead().iter().filter(is_missing).copied().collect();
        if !self.unredone.is_empty() {
            return;
        }
        self.moves.uncertain.clear();
        let lost: Vec<_> = self
            .store
            .rare_slots()
            .filter(|&slot| self.store.rare(slot).is_some_and(|rare| rare.lost))
            .collect();
        for slot in lost {
            let tag = self.store.tag(slot);
            let mut page = self.load_slot(&Hashed::of(tag), slot);
            page.rare.lost = false;
            if page.rare.conversion.is_none() && page.rare.repair.is_none() {
                self.next(&mut page, out);
            }
            self.save(page);
        }
    }
}

/// Of reports on one page, sorted by instance: the last one of each instance.
fn last_of_each(
    of_page: &[(BufferTag, InstanceId, Report)],
    reports: &mut Vec<(InstanceId, Report)>,
) {
    reports.clear();
    let lasts = of_page.chunk_by(|one, next| one.1 == next.1).filter_map(<[_]>::last);
    reports.extend(lasts.map(|(_, from, report)| (*from, *report)));
}

fn everyone(view: &View) -> InstanceSet {
    ids_of(view.members().iter().map(Member::life))
}

fn ids_of(lives: impl Iterator<Item = Life>) -> InstanceSet {
    lives.fold(InstanceSet::default(), |set, life| set.with(life.0))
}
