//! Repair of one page: someone who had a part in it has died, or refused what it was granted.
//!
//! ```text
//!   master                               those who may have it
//!     |---- QUERY, fence = next grant ------->|   forget revocations, and what is still to come of
//!     |<--- REPORT ---------------------------|   grants below the fence; ask again
//!     |     (all in: merge)                   |
//!     |---- ASSIGN, to those who change ----->|
//!     |<--- ASSIGNED -------------------------|
//!     next request
//! ```
//! Messages on their way are harmless: grants below the fence are refused, what was said on the
//! control lane before a report has come before it, and acknowledgements name their grant.

use super::{Directory, Page, Request};
use crate::{
    grd::{
        merge::{Given, Outcome, merge},
        out::Out,
        store::{Hashed, InstanceSet},
    },
    planted,
    view::Life,
};
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Pcm, Report, RequestId, guide::lower_half};

/// What is known so far.
#[derive(Debug, Clone)]
pub(super) struct Repair {
    /// Number of the query, or of the assignment.
    number: GrantNumber,
    awaited: InstanceSet,
    /// The reports are in, and it is told who has what.
    assigning: bool,
    /// Everyone who may have the page.
    asked: InstanceSet,
    dead: InstanceSet,
    refused: Option<GrantNumber>,
    /// The request whose grant was cut off: it is queued again, unless its requester has been
    /// answered after all.
    again: Option<RequestId>,
    reports: Vec<(InstanceId, Report)>,
}

impl Page {
    /// `id` is being asked what it has, or told, and has not answered: what it has said before does not
    /// count any more. It may have been told once already, and then asked again because somebody left.
    pub(super) fn is_awaited(&self, id: InstanceId) -> bool {
        self.rare.repair.as_ref().is_some_and(|repair| repair.awaited.has(id))
    }
}

/// Everyone who has a part in the page or may have it.
fn parties(page: &Page) -> InstanceSet {
    let mut all = page.entry.holders.0 | page.entry.past.0;
    if let Some(c) = page.rare.conversion {
        all |= c.invalidated.0 | InstanceSet::of(c.request.instance).0;
        all |= c.source.map_or(0, |source| InstanceSet::of(source).0);
    }
    all |= page.rare.base.map_or(0, |(keeper, _)| InstanceSet::of(keeper).0);
    all |= page.rare.repair.as_ref().map_or(0, |repair| repair.asked.0);
    InstanceSet(all)
}

impl Directory {
    /// Begins to find out who has the page; over again if that is under way.
    pub(super) fn repair(
        &mut self,
        page: &mut Page,
        dead: InstanceSet,
        refused: Option<GrantNumber>,
        out: &mut Out<'_>,
    ) {
        let before = page.rare.repair.as_ref();
        let dead = InstanceSet(dead.0 | before.map_or(0, |repair| repair.dead.0));
        let refused = refused.or(before.and_then(|repair| repair.refused));
        let members = out.members();
        // An instance that was started again under a dead one's id has nothing: asking does no harm.
        let asked = InstanceSet(parties(page).0 & members.0);
        let mut again = before.and_then(|repair| repair.again);
        if let Some(c) = page.rare.conversion.take()
            && refused.is_none()
            && !dead.has(c.request.instance)
        {
            again = Some(c.request);
            let request = Request { id: c.request, want: c.want, recovery: c.recovery };
            self.pool.push(&mut page.rare.queue, request);
        }
        page.rare.leaving = InstanceSet::default();
        let number =
            if planted::is("no_fence") { page.entry.grant() } else { page.entry.next_grant() };
        let reports = Vec::new();
        let awaited = asked;
        let repair =
            Repair { number, awaited, assigning: false, asked, dead, refused, again, reports };
        page.rare.repair = Some(Box::new(repair));
        for id in asked.iter() {
            out.send_of(id, &page.of, Pcm::Query { fence: number });
        }
        if asked.is_empty() {
            self.conclude(page, out);
        }
    }

    pub(super) fn report(
        &mut self,
        page: &mut Page,
        from: InstanceId,
        fence: GrantNumber,
        report: Report,
        out: &mut Out<'_>,
    ) {
        let Some(repair) = &mut page.rare.repair else { return };
        if repair.number != fence || repair.assigning || !repair.awaited.has(from) {
            return;
        }
        repair.awaited = repair.awaited.without(from);
        if let Some(again) = repair.again.filter(|again| again.instance == from)
            && report.pending != Some(lower_half(again.sequence))
        {
            self.pool.remove(&mut page.rare.queue, |queued| queued.id == again);
        }
        if !report.is_nothing() || report.pending.is_some() {
            repair.reports.push((from, report));
        }
        if repair.awaited.is_empty() {
            self.conclude(page, out);
        }
    }

    /// All reports are in.
    fn conclude(&mut self, page: &mut Page, out: &mut Out<'_>) {
        let Some(repair) = page.rare.repair.take() else { return };
        let outcome = merge(&Given {
            reports: &repair.reports,
            dead: repair.dead,
            redo_missing: !self.unredone.is_empty(),
            refused: repair.refused,
        });
        self.settle(page, &outcome, repair, out);
    }

    /// The page is as `outcome` says; tells those who do not know, then goes on.
    pub(super) fn settle(
        &mut self,
        page: &mut Page,
        outcome: &Outcome,
        mut repair: Box<Repair>,
        out: &mut Out<'_>,
    ) {
        out.anomalies.contradicting_reports += u64::from(outcome.broken);
        let entry = &mut page.entry;
        entry.holders = outcome.holders;
        entry.set_owner(outcome.owner);
        entry.set_exclusive(outcome.exclusive);
        entry.past = outcome.past;
        entry.version = if outcome.holders.is_empty() {
            // What was known of newer ones is gone, or comes back with redo.
            outcome.base.map_or(entry.stored, |(_, version)| entry.stored.max(version))
        } else {
            entry.version.max(outcome.version)
        };
        if outcome.saved {
            entry.stored = entry.stored.max(outcome.version);
        }
        entry.set_grant(entry.grant().max(outcome.grant));
        page.rare.lost = outcome.lost;
        let stored = page.entry.stored;
        page.rare.base = outcome.base.filter(|(_, version)| *version > stored);
        if outcome.told.is_empty() {
            self.next(page, out);
            return;
        }
        repair.number = page.entry.next_grant();
        (repair.assigning, repair.awaited) = (true, InstanceSet::default());
        for told in &outcome.told {
            repair.awaited = repair.awaited.with(told.to);
            page.rare.leaving = page.rare.leaving.without(told.to);
            let (mode, dirty) = (told.mode, told.dirty);
            out.send_of(told.to, &page.of, Pcm::Assign { mode, grant: repair.number, dirty });
        }
        page.rare.repair = Some(repair);
    }

    pub(super) fn assigned(
        &mut self,
        page: &mut Page,
        from: InstanceId,
        grant: GrantNumber,
        out: &mut Out<'_>,
    ) {
        let Some(repair) = &mut page.rare.repair else { return };
        if repair.assigning && repair.number == grant {
            repair.awaited = repair.awaited.without(from);
            if repair.awaited.is_empty() {
                page.rare.repair = None;
                self.next(page, out);
            }
        }
    }

    // ---- views ---------------------------------------------------------------------------------

    /// Takes those who have `gone` out of the entries of partitions that stay.
    pub(super) fn bury(&mut self, gone: InstanceSet, lives: &[Life], out: &mut Out<'_>) {
        if gone.is_empty() {
            return;
        }
        let slots =
            self.slots(|entry, rare| rare || (entry.holders.0 | entry.past.0) & gone.0 != 0);
        for slot in slots {
            let tag = self.store.tag(slot);
            let mut page = self.load_slot(&Hashed::of(tag), slot);
            self.bury_in(&mut page, gone, lives, out);
            self.save(page);
        }
    }

    fn bury_in(&mut self, page: &mut Page, gone: InstanceSet, lives: &[Life], out: &mut Out<'_>) {
        let is_gone = |id: InstanceId| gone.has(id);
        self.pool.remove(&mut page.rare.queue, |queued| {
            lives.contains(&(queued.id.instance, queued.id.incarnation))
                && !planted::is("serve_the_dead")
        });
        let owner_gone =
            page.entry.owner().is_some_and(is_gone) && !planted::is("do_not_repair_the_owner");
        let party_gone = page.rare.conversion.is_some_and(|c| {
            is_gone(c.request.instance)
                || c.source.is_some_and(is_gone)
                || c.invalidated.0 & gone.0 != 0 && !planted::is("wait_for_the_dead")
        });
        let base_gone = page.rare.base.is_some_and(|(keeper, _)| is_gone(keeper));
        let asked_gone = page.rare.repair.as_ref().is_some_and(|r| r.asked.0 & gone.0 != 0);
        if owner_gone || party_gone || base_gone || asked_gone {
            self.repair(page, gone, None, out);
        }
        // Plain holders and keepers of past images: nothing of theirs is missed.
        for id in (0..64).map(InstanceId).filter(|id| gone.has(*id)) {
            if page.rare.repair.is_none() && page.entry.holders.has(id) {
                super::convert::drop_holder(page, id, Lsn::ZERO);
            }
            page.entry.past = page.entry.past.without(id);
            page.rare.leaving = page.rare.leaving.without(id);
        }
    }
}

impl Repair {
    /// An assignment of what was reported for a whole partition.
    pub(super) fn of_rebuild(asked: InstanceSet, dead: InstanceSet) -> Box<Self> {
        Box::new(Self {
            number: GrantNumber(0),
            awaited: InstanceSet::default(),
            assigning: false,
            asked,
            dead,
            refused: None,
            again: None,
            reports: Vec::new(),
        })
    }
}
