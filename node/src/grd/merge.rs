//! Who has a page, made of what everyone alive reports of it: the one rule for a page whose holder
//! died and for a partition whose master changed. A pure function.
//!
//! ```text
//!  reported by those alive                     | outcome
//!  --------------------------------------------+----------------------------------------------------
//!  someone holds X                             | owner, exclusive
//!  someone holds S                             | holders; owner: who is dirty, else who knows it saved,
//!                                              |   else (the write-owner died, or its duty was in a
//!                                              |   message that nobody took) one of them, told dirty
//!  nobody holds; the newest copy in transit    | held again, S, by its shipper, dirty as it was
//!    has not arrived                           |
//!  nobody holds; only past images, or a copy   | base: the newest past image or dirty copy; storage
//!    that was on its way to one who died       |   may have a newer one. Lost, if redo is not applied
//!  nobody has anything                         | storage. Lost, if redo is not applied
//!  --------------------------------------------+----------------------------------------------------
//!  any other copy in transit                   | past image if it was dirty, else forgotten
//! ```
//! A copy in transit has not arrived exactly when its receiver still waits for the request that it
//! answers: requests end only with an answer. Held S copies are all of the current version: whoever
//! made a newer one had X, and nobody else held anything then.

use super::store::InstanceSet;
use crate::planted;
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, Report, Transit};

/// What the rule goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    /// From each instance at most one.
    pub(super) reports: &'a [(InstanceId, Report)],
    /// Instances that died while this was found out, or just before.
    pub(super) dead: InstanceSet,
    /// The redo of someone who died is not applied yet.
    pub(super) redo_missing: bool,
    /// A grant that its requester refused: a copy in transit under it has not arrived.
    pub(super) refused: Option<GrantNumber>,
}

/// What an instance has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) to: InstanceId,
    pub(super) mode: Mode,
    pub(super) dirty: bool,
}

/// Who has the page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) holders: InstanceSet,
    pub(super) owner: Option<InstanceId>,
    pub(super) exclusive: bool,
    pub(super) version: Lsn,
    /// The current version is on storage.
    pub(super) saved: bool,
    pub(super) past: InstanceSet,
    /// The newest past image, when nobody holds the page.
    pub(super) base: Option<(InstanceId, Lsn)>,
    pub(super) lost: bool,
    /// Greatest grant seen.
    pub(super) grant: GrantNumber,
    pub(super) told: Vec<Told>,
    /// Reports contradict each other.
    pub(super) broken: bool,
}

pub(super) fn merge(given: &Given<'_>) -> Outcome {
    let mut out = Outcome::default();
    for (id, report) in given.reports {
        out.grant = out.grant.max(report.grant);
        if let Some(transit) = report.transit {
            out.grant = out.grant.max(transit.grant);
        }
        if report.past.is_some() {
            out.past = out.past.with(*id);
        }
        if report.mode != Mode::N {
            out.holders = out.holders.with(*id);
            out.version = out.version.max(report.version);
        }
    }
    let reinstated = newest_transit(given).filter(|(_, transit)| {
        (out.holders.is_empty() || planted::is("reinstate_beside_a_holder"))
            && !is_dead(given, transit)
            && is_on_its_way(given, transit)
    });
    let mut new_duty = None;
    if let Some((shipper, transit)) = reinstated {
        out.holders = InstanceSet::of(shipper);
        out.owner = Some(shipper);
        out.version = transit.version;
        out.saved = !transit.dirty;
    } else if !out.holders.is_empty() {
        new_duty = choose_owner(given, &mut out).filter(|_| !planted::is("nobody_adopts_the_duty"));
    }
    for (id, report) in given.reports {
        let comes_back = reinstated.is_some_and(|(shipper, _)| shipper == *id);
        let mode = if comes_back { Mode::S } else { report.mode };
        let left = report.transit.filter(|transit| transit.dirty && !comes_back);
        if left.is_some() && !planted::is("forget_what_was_in_transit") {
            out.past = out.past.with(*id);
        }
        if out.holders.is_empty() {
            let newest = report.past.max(left.map(|transit| transit.version));
            let better = |newest: &Lsn| out.base.is_none_or(|(_, version)| version < *newest);
            if let Some(version) = newest.filter(better) {
                out.base = Some((*id, version));
            }
        }
        if report.transit.is_some() || new_duty == Some(*id) {
            let dirty = if comes_back {
                report.transit.is_some_and(|transit| transit.dirty)
            } else {
                report.dirty || new_duty == Some(*id)
            };
            out.told.push(Told { to: *id, mode, dirty });
        }
    }
    out.lost = out.holders.is_empty() && given.redo_missing && !planted::is("nothing_is_ever_lost");
    out
}

/// The copy in transit that was shipped last, and who shipped it.
fn newest_transit(given: &Given<'_>) -> Option<(InstanceId, Transit)> {
    let transits = given.reports.iter().filter_map(|(id, r)| Some((*id, r.transit?)));
    transits.max_by_key(|(_, transit)| transit.grant)
}

fn is_dead(given: &Given<'_>, transit: &Transit) -> bool {
    transit.to_dead || given.dead.has(transit.to)
}

fn is_on_its_way(given: &Given<'_>, transit: &Transit) -> bool {
    let waits = |(id, report): &(InstanceId, Report)| {
        *id == transit.to && report.pending == Some(transit.request)
    };
    given.refused == Some(transit.grant) || given.reports.iter().any(waits)
}

/// Chooses the owner among holders; the one who has to be told that the duty to write is his now.
fn choose_owner(given: &Given<'_>, out: &mut Outcome) -> Option<InstanceId> {
    let held = || given.reports.iter().filter(|(_, report)| report.mode != Mode::N);
    let first = |wanted: fn(&Report) -> bool| held().find(|(_, r)| wanted(r)).map(|(id, _)| *id);
    let exclusive = held().filter(|(_, report)| report.mode == Mode::X).count();
    out.broken = exclusive > 0 && held().count() > 1;
    if let Some(owner) = first(|report| report.mode == Mode::X) {
        (out.owner, out.exclusive, out.holders) = (Some(owner), true, InstanceSet::of(owner));
        return None;
    }
    if let Some(owner) = first(|report| report.dirty) {
        out.owner = Some(owner);
        return None;
    }
    if let Some(owner) = first(|report| !report.unsaved) {
        (out.owner, out.saved) = (Some(owner), true);
        return None;
    }
    out.owner = first(|_| true);
    out.owner
}

#[cfg(test)]
mod tests;
