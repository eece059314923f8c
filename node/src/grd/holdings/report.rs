//! Telling a master what this instance has: one page when it asks, all pages of a partition when it
//! is new.
//!
//! Both are cuts. From then on nothing of the page that was on its way counts: revocations that were
//! not served are forgotten (the master makes new ones), and so is what is still to come for a
//! request, which is sent again under the same id. A page that came and only waits for
//! acknowledgements is current, and nobody can have more of it: it is held S from now on. A copy in
//! transit stays one until the master says what it is.

use super::{
    Held, Holdings,
    state::{Activity, Holding, Pending, Purpose},
};
use crate::{
    grd::{
        event::{AcquireError, Effect},
        out::Out,
        store::{Cursor, Hashed},
    },
    planted,
    view::{Standing, View},
};
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, GuideRecord, InstanceId, InstanceStat, Mode, PartitionId, Pcm,
    Report, Transit,
    guide::{GUIDE_RECORDS_MAX, lower_half},
    tag::PARTITIONS,
};
use std::collections::VecDeque;

/// Batches told before other events have their turn.
const BATCHES_AT_ONCE: usize = 4;

/// What is still to be told to new masters.
#[derive(Debug, Clone, Default)]
pub(super) struct Telling {
    /// Partitions with their epochs, by master, epoch and number.
    partitions: VecDeque<(PartitionId, Epoch)>,
    /// How far the first one has been told.
    cursor: Cursor,
    /// Instances that are told that there is nothing, at the start.
    nothing: VecDeque<(InstanceId, Epoch)>,
}

#[cfg(feature = "planted")]
impl Telling {
    /// How much is left, and where it goes on; the views say the rest.
    pub(super) fn left(&self) -> impl std::fmt::Debug + '_ {
        (self.partitions.front(), self.partitions.len(), &self.cursor, &self.nothing)
    }
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
        let same = |(p, epoch): &(PartitionId, Epoch)| view.partition_epoch(*p) == *epoch;
        let first = self.telling.partitions.front().copied();
        self.telling.partitions.retain(same);
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
                let epoch = view.partition_epoch(partition);
                self.telling.partitions.push_back((partition, epoch));
            }
        }
        // All that one master is to be told comes together, and in the order that ends rest on.
        let order = |(p, epoch): &(PartitionId, Epoch)| (view.master_of(*p), *epoch, *p);
        self.telling.partitions.make_contiguous().sort_unstable_by_key(order);
        if self.telling.partitions.front().copied() != first {
            self.telling.cursor = Cursor::default();
        }
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
}

impl Held<'_, '_> {
    // ---- one page ------------------------------------------------------------------------------

    /// PCM_QUERY: the master wants to know.
    pub(in crate::grd) fn query(&mut self, from: InstanceId, fence: GrantNumber) {
        self.cut(fence);
        let report = report_of(self.h, self.out.view);
        self.send(from, Pcm::Report { fence, report });
        // The master keeps the request.
        self.after_cut(false);
    }

    /// Forgets what was on its way.
    fn cut(&mut self, fence: GrantNumber) {
        let (h, tag) = (&mut *self.h, self.tag);
        (h.revocation, h.parked, h.fence) = (None, None, fence);
        if h.activity == Activity::Releasing && !planted::is("keep_what_is_released") {
            // The master may have given it on already, and its answer be lost. Storage has it.
            self.out.effect(Effect::Drop { tag });
            h.give_up();
        }
        let Some(p) = h.pending.filter(|p| !p.ended) else { return };
        h.pending = Some(Pending::new(p.request, p.want, p.recovery));
        if let (true, false, Some(grant)) = (p.page, p.held, p.grant) {
            (h.mode, h.grant, h.version) = (Mode::S, grant, p.version);
            h.reopen = true;
            self.take(&p);
        } else if p.dirty && h.mode != Mode::N {
            // Of an upgrade: acknowledgements brought the duty to write.
            self.take(&Pending { held: true, ..p });
        } else if p.taken {
            self.effect(Effect::Discard { tag });
        }
        self.h.stale_read = self.h.reading;
    }

    /// Lets local threads go on with what is held, and asks again where nobody has the request.
    fn after_cut(&mut self, asks_again: bool) {
        if let Some(Pending { request, want, recovery, .. }) =
            self.h.pending.filter(|p| asks_again && !p.ended)
        {
            let (to, tag, epoch) = (self.master(), self.tag, self.epoch());
            let message = Pcm::Acquire { request, want, recovery };
            self.effect(Effect::RequestAgain { to, tag, epoch, message });
        }
        let reopens = std::mem::take(&mut self.h.reopen);
        match self.h.activity {
            // Pins are lowered, and what for is forgotten.
            Activity::Flushing(to, Purpose::Revocation) => {
                self.h.activity = Activity::Idle;
                self.complete_waiters(to);
            }
            Activity::Idle if reopens => self.complete_waiters(Mode::N),
            _ => self.step(),
        }
        self.cancel();
    }

    /// PCM_ASSIGN: what this instance has of the page from now on.
    pub(in crate::grd) fn assign(
        &mut self,
        from: InstanceId,
        mode: Mode,
        grant: GrantNumber,
        dirty: bool,
    ) {
        let (h, tag) = (&mut *self.h, self.tag);
        let comes_back = mode == Mode::S && h.mode == Mode::N && h.transit.is_some();
        let released = h.activity == Activity::Releasing;
        if released {
            h.activity = Activity::Idle;
            h.wants_eviction = true;
        }
        match h.transit {
            Some(transit) if comes_back => {
                h.transit = None;
                (h.mode, h.grant, h.version) = (Mode::S, grant, transit.version);
                (h.dirty, h.unsaved) = (dirty, false);
                // It was durable before it was shipped.
                h.flush = pagewire_protocol::Lsn::ZERO;
                self.effect(Effect::Reinstate { tag, grant: transit.grant, dirty });
            }
            transit => {
                if let Some(transit) = transit {
                    self.arrived(&transit);
                }
                let h = &mut *self.h;
                // The duty is of the copy that is held, not of one that was in transit.
                if dirty && h.mode == Mode::S && !h.dirty {
                    (h.dirty, h.unsaved) = (true, false);
                    self.effect(Effect::MarkDirty { tag });
                }
            }
        }
        self.send(from, Pcm::Assigned { grant });
        if comes_back || released {
            self.complete_waiters(Mode::N);
        } else {
            self.step();
        }
    }
}

impl Holdings {
    // ---- whole partitions ----------------------------------------------------------------------

    pub(in crate::grd) fn has_to_tell(&self) -> bool {
        !self.telling.partitions.is_empty() || !self.telling.nothing.is_empty()
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
            let Some(&(first, _)) = self.telling.partitions.front() else { return };
            let to = view.master_of(first);
            let batch = self.next_batch(to, view);
            let last = !self.telling.partitions.iter().any(|(p, _)| view.master_of(*p) == to);
            effects.push(Effect::LoadGuide { to, epoch, batch, last });
        }
    }

    /// As many records as fit, as long as the next partitions go to the same master. Partitions that
    /// nothing is held of are ended together with the next one that has pages, or the last one.
    fn next_batch(&mut self, to: InstanceId, view: &View) -> Vec<GuideRecord> {
        let mut batch = Vec::with_capacity(GUIDE_RECORDS_MAX);
        let mut ended = None;
        while let Some(&(partition, epoch)) = self.telling.partitions.front() {
            // A walk may see a few more than it is asked for; ends need room as well.
            let room = GUIDE_RECORDS_MAX.saturating_sub(batch.len() + 2 + WALK_SLACK);
            if view.master_of(partition) != to || room == 0 {
                break;
            }
            if let Some((_, other)) = ended.filter(|(_, ended)| *ended != epoch) {
                let (partition, epoch) = (ended.map_or(partition, |(p, _)| p), other);
                batch.push(GuideRecord::End { partition, epoch });
                ended = None;
            }
            let (holdings, cursor) = (&self.holdings, &mut self.telling.cursor);
            if holdings.partition_len(partition) > 0 {
                holdings.walk(partition, cursor, room, |tag, h| {
                    let report = report_of(h, view);
                    if is_worth_telling(&report) {
                        batch.push(GuideRecord::Page { tag: *tag, epoch, report });
                    }
                });
                if !cursor.is_done() {
                    break;
                }
            }
            ended = Some((partition, epoch));
            self.telling.partitions.pop_front();
            self.telling.cursor = Cursor::default();
        }
        if let Some((partition, epoch)) = ended {
            batch.push(GuideRecord::End { partition, epoch });
        }
        debug_assert!(batch.len() <= GUIDE_RECORDS_MAX, "a batch of {}", batch.len());
        batch
    }

    // ---- the whole instance --------------------------------------------------------------------

    /// The lease is lost: nobody gets anything any more.
    pub(in crate::grd) fn fail_all(&mut self, out: &mut Out<'_>) {
        let waited = |(tag, h): (&BufferTag, &Holding)| (!h.waiters.is_empty()).then_some(*tag);
        let tags: Vec<_> = self.holdings.iter().filter_map(waited).collect();
        for tag in tags {
            let error = AcquireError::LeaseExpired { tag };
            self.of(&Hashed::of(tag), out, |page| page.fail_waiters(&error));
        }
    }

    /// Counts of what is held.
    pub(in crate::grd) fn stat(&self) -> InstanceStat {
        let [held_shared, held_exclusive, dirty, past_images, requests, ..] =
            self.holdings.counts();
        let of_holder =
            InstanceStat { held_shared, held_exclusive, dirty, ..InstanceStat::default() };
        InstanceStat { past_images, requests, ..of_holder }
    }
}

/// Pages that share a home in the index come together.
const WALK_SLACK: usize = 8;

fn is_worth_telling(report: &Report) -> bool {
    !report.is_nothing() || report.pending.is_some()
}

fn report_of(h: &Holding, view: &View) -> Report {
    Report {
        mode: h.mode,
        grant: h.grant,
        version: h.version,
        dirty: h.dirty && h.mode != Mode::N,
        unsaved: h.unsaved && h.mode != Mode::N,
        writer: h.writer,
        transit: h.transit.map(|transit| {
            let to = transit.request.instance;
            let standing = view.standing(to, transit.request.incarnation);
            Transit {
                to,
                to_dead: standing != Standing::Member,
                request: lower_half(transit.request.sequence),
                grant: transit.grant,
                version: transit.version,
                dirty: transit.dirty,
            }
        }),
        past: h.past,
        pending: h.pending.filter(|p| !p.ended).map(|p| lower_half(p.request.sequence)),
    }
}
