//! Telling new masters what this instance has of whole partitions, bit by bit while requests go on.
//!
//! ```text
//!   view: partitions that have another master          PCM_GUIDE_WANTED: somebody waits there
//!             |                                                  |
//!             v                                                  v
//!          others, by master, epoch, number  -------------->  wanted, as they were asked for
//!             |                                                  |
//!             | when nothing is wanted                           | first of all
//!             v                                                  v
//!          pages, End: also for all before it                 pages, Whole: for this one alone
//! ```
//! Nothing of the others is told while something is wanted: an End may be for all before it because
//! what was taken out of their order has been told by then.

use super::{
    Holdings,
    report::{is_worth_telling, report_of},
    state::Holding,
};
use crate::{
    grd::{
        event::Effect,
        out::Out,
        store::{Cursor, FEW, Hashed, PageMap},
    },
    planted,
    view::View,
};
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, GuideRecord, InstanceId, PartitionId, guide::GUIDE_RECORDS_MAX,
    tag::PARTITIONS,
};
use std::collections::VecDeque;

/// Batches told before other events have their turn.
const BATCHES_AT_ONCE: usize = 4;
/// Pages that share a home in the index come together: as many more as the index reaches. So do the pages
/// of a partition that has few.
const WALK_SLACK: usize = 15;
const _: () = assert!(FEW <= WALK_SLACK);

/// A partition that is still to be told.
#[derive(Debug, Clone, Copy)]
struct Part {
    id: PartitionId,
    epoch: Epoch,
    /// How far it has been told.
    cursor: Cursor,
}

impl Part {
    fn new(id: PartitionId, epoch: Epoch) -> Self {
        Self { id, epoch, cursor: Cursor::default() }
    }

    /// What the others are sorted by.
    fn order(&self, view: &View) -> (InstanceId, Epoch, PartitionId) {
        (view.master_of(self.id), self.epoch, self.id)
    }

    /// Tells about `most` pages of it, or what is left. True when there are no more.
    fn tell(
        &mut self,
        holdings: &PageMap<Holding>,
        most: usize,
        view: &View,
        batch: &mut Vec<GuideRecord>,
    ) -> bool {
        let (id, epoch) = (self.id, self.epoch);
        if holdings.partition_len(id) == 0 {
            return true;
        }
        holdings.walk(id, &mut self.cursor, most, |tag, h| {
            let report = report_of(h, view);
            if is_worth_telling(&report) {
                batch.push(GuideRecord::Page { tag: *tag, epoch, report });
            }
        });
        self.cursor.is_done()
    }
}

/// What is still to be told to new masters.
#[derive(Debug, Clone, Default)]
pub(super) struct Telling {
    /// Somebody waits for these.
    wanted: VecDeque<Part>,
    /// By master, epoch and number.
    others: VecDeque<Part>,
    /// Instances that are told that there is nothing, at the start.
    nothing: VecDeque<(InstanceId, Epoch)>,
}

#[cfg(feature = "planted")]
impl Telling {
    /// How much is left, and where it goes on; the views say the rest.
    pub(super) fn left(&self) -> impl std::fmt::Debug + '_ {
        (&self.wanted, self.others.front(), self.others.len(), &self.nothing)
    }
}

impl Telling {
    fn first(&self) -> Option<&Part> {
        if planted::is("ends_before_what_is_wanted") {
            return self.others.front().or_else(|| self.wanted.front());
        }
        self.wanted.front().or_else(|| self.others.front())
    }

    /// Whether there is more for `to`.
    fn has_more_for(&self, to: InstanceId, view: &View) -> bool {
        let parts = self.wanted.iter().chain(&self.others);
        parts.map(|part| view.master_of(part.id)).any(|master| master == to)
    }
}

/// Records that fit beside those of `batch`: a walk may see a few more than it is asked for, and ends
/// need room as well.
fn room_beside(batch: &[GuideRecord]) -> usize {
    GUIDE_RECORDS_MAX.saturating_sub(batch.len() + 2 + WALK_SLACK)
}

impl Holdings {
    /// The start of an instance: others may wait for what it has.
    pub(in crate::grd) fn begin(&mut self, view: &View) {
        if (0..PARTITIONS).all(|p| view.is_original(PartitionId(p))) {
            return;
        }
        let me = self.desk.last_request.instance;
        let others = view.members().iter().map(|m| m.id).filter(|id| *id != me);
        self.telling.nothing = others.map(|id| (id, view.epoch())).collect();
    }

    /// What a view means for what is held: the pages of partitions with a new epoch are cut off.
    pub(in crate::grd) fn change_view(&mut self, old: &View, out: &mut Out<'_>) {
        let view = out.view;
        let same = |part: &Part| view.partition_epoch(part.id) == part.epoch;
        self.telling.wanted.retain(same);
        self.telling.others.retain(same);
        for partition in view.changed(old) {
            let mut busy = Vec::new();
            self.holdings.each_of(partition, |tag, h| {
                // Most by far, and a cut would change nothing but the fence.
                if h.is_quiet() {
                    h.fence = GrantNumber(0);
                } else {
                    busy.push(*tag);
                }
            });
            for tag in busy {
                self.of(&Hashed::of(tag), out, |page| {
                    page.cut(GrantNumber(0));
                    page.after_cut(true);
                });
            }
            if view.master_of(partition) != out.me {
                let part = Part::new(partition, view.partition_epoch(partition));
                self.telling.others.push_back(part);
            }
        }
        // All that one master is to be told comes together, and in the order that ends rest on.
        self.telling.others.make_contiguous().sort_unstable_by_key(|part| part.order(view));
    }

    fn tags_of(&self, partition: PartitionId) -> Vec<BufferTag> {
        let mut tags = Vec::new();
        if self.holdings.partition_len(partition) > 0 {
            let mut cursor = Cursor::default();
            while !cursor.is_done() {
                self.holdings.walk(partition, &mut cursor, usize::MAX, |tag, _| tags.push(*tag));
            }
        }
        tags
    }

    /// PCM_GUIDE_WANTED: the new master of this page's partition has somebody who waits for it.
    pub(in crate::grd) fn guide_wanted(&mut self, tag: &BufferTag, view: &View) {
        let id = tag.partition();
        let others = &mut self.telling.others;
        let order = Part::new(id, view.partition_epoch(id)).order(view);
        let at = others.binary_search_by_key(&order, |part| part.order(view));
        if let Some(part) = at.ok().and_then(|at| others.remove(at))
            && !planted::is("forget_what_is_wanted")
        {
            self.telling.wanted.push_back(part);
        }
    }

    pub(in crate::grd) fn has_to_tell(&self) -> bool {
        self.telling.first().is_some() || !self.telling.nothing.is_empty()
    }

    /// What this instance has of a partition that it has come to master itself.
    pub(in crate::grd) fn tell_own(
        &self,
        partition: PartitionId,
        view: &View,
        mut tell: impl FnMut(GuideRecord),
    ) {
        let epoch = view.partition_epoch(partition);
        for tag in self.tags_of(partition) {
            let report = self.holdings.get(&tag).map(|h| report_of(h, view)).unwrap_or_default();
            if is_worth_telling(&report) {
                tell(GuideRecord::Page { tag, epoch, report });
            }
        }
    }

    /// Tells some of what is still to be told.
    pub(in crate::grd) fn tell_some(
        &mut self,
        me: InstanceId,
        view: &View,
        effects: &mut Vec<Effect>,
    ) {
        let epoch = view.epoch();
        while let Some((to, since)) = self.telling.nothing.pop_front() {
            if to != me {
                let batch = vec![GuideRecord::Nothing { epoch: since }];
                effects.push(Effect::LoadGuide { to, epoch, batch, last: true });
            }
        }
        for _ in 0..BATCHES_AT_ONCE {
            let Some(first) = self.telling.first() else { return };
            let to = view.master_of(first.id);
            let mut batch = Vec::with_capacity(GUIDE_RECORDS_MAX);
            let others_first = planted::is("ends_before_what_is_wanted");
            if self.telling.wanted.is_empty() || others_first && !self.telling.others.is_empty() {
                self.tell_others(to, view, &mut batch);
            } else {
                self.tell_wanted(to, view, &mut batch);
            }
            debug_assert!(batch.len() <= GUIDE_RECORDS_MAX, "a batch of {}", batch.len());
            let last = !self.telling.has_more_for(to, view);
            effects.push(Effect::LoadGuide { to, epoch, batch, last });
        }
    }

    /// As many records as fit, as long as what is wanted goes to the same master.
    fn tell_wanted(&mut self, to: InstanceId, view: &View, batch: &mut Vec<GuideRecord>) {
        while let Some(part) = self.telling.wanted.front_mut() {
            let room = room_beside(batch);
            let is_told = planted::is("whole_without_its_pages");
            if view.master_of(part.id) != to
                || room == 0
                || !(is_told || part.tell(&self.holdings, room, view, batch))
            {
                return;
            }
            batch.push(GuideRecord::Whole { partition: part.id, epoch: part.epoch });
            self.telling.wanted.pop_front();
        }
    }

    /// The same of the others. Partitions that nothing is held of are ended together with the next one
    /// that has pages, or the last one.
    fn tell_others(&mut self, to: InstanceId, view: &View, batch: &mut Vec<GuideRecord>) {
        let mut ended: Option<(PartitionId, Epoch)> = None;
        while let Some(part) = self.telling.others.front_mut() {
            let room = room_beside(batch);
            if view.master_of(part.id) != to || room == 0 {
                break;
            }
            if let Some((partition, epoch)) = ended.take_if(|(_, epoch)| *epoch != part.epoch) {
                batch.push(GuideRecord::End { partition, epoch });
            }
            if !part.tell(&self.holdings, room, view, batch) {
                break;
            }
            ended = Some((part.id, part.epoch));
            self.telling.others.pop_front();
        }
        if let Some((partition, epoch)) = ended {
            batch.push(GuideRecord::End { partition, epoch });
        }
    }
}
