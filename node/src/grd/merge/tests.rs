//! Row by row of the table, then any legal set of reports.

use super::*;
use crate::random::Random;

const A: InstanceId = InstanceId(0);
const B: InstanceId = InstanceId(1);
const C: InstanceId = InstanceId(2);

fn nothing() -> Report {
    Report::default()
}

fn holds(mode: Mode, version: u64) -> Report {
    Report { mode, version: Lsn(version), grant: GrantNumber(version), ..nothing() }
}

fn past(version: u64) -> Report {
    Report { past: Some(Lsn(version)), ..nothing() }
}

/// A dirty copy on its way to `to`, for its request 5 and under grant `grant`.
fn shipped(to: InstanceId, version: u64, grant: u64) -> Report {
    let (grant, version) = (GrantNumber(grant), Lsn(version));
    let transit = Transit { to, to_dead: false, request: 5, grant, version, dirty: true };
    Report { transit: Some(transit), ..nothing() }
}

fn waits(request: u32) -> Report {
    Report { pending: Some(request), ..nothing() }
}

fn given(reports: &[(InstanceId, Report)]) -> Given<'_> {
    Given { reports, dead: InstanceSet::default(), redo_missing: false, refused: None }
}

fn told(to: InstanceId, mode: Mode, dirty: bool) -> Told {
    Told { to, mode, dirty }
}

#[test]
fn whoever_holds_x_owns_the_page_alone() {
    let outcome = merge(&given(&[(A, past(3)), (B, holds(Mode::X, 7))]));
    assert_eq!((outcome.owner, outcome.exclusive), (Some(B), true));
    assert_eq!((outcome.holders, outcome.past), (InstanceSet::of(B), InstanceSet::of(A)));
    assert_eq!((outcome.version, outcome.grant), (Lsn(7), GrantNumber(7)));
    assert_eq!((outcome.told, outcome.base), (vec![], None));
    assert!(!outcome.broken && !outcome.saved && !outcome.lost);
}

#[test]
fn x_beside_another_holder_is_a_contradiction() {
    let outcome = merge(&given(&[(A, holds(Mode::S, 7)), (B, holds(Mode::X, 7))]));
    assert!(outcome.broken);
    assert_eq!(outcome.holders, InstanceSet::of(B), "the writer's word counts");
    assert!(!merge(&given(&[(A, holds(Mode::S, 7)), (B, holds(Mode::S, 7))])).broken);
}

#[test]
fn of_readers_the_dirty_one_owns_else_one_who_knows_it_saved_else_one_is_told_to_write() {
    let unsaved = Report { unsaved: true, ..holds(Mode::S, 7) };
    let dirty = Report { dirty: true, ..holds(Mode::S, 7) };
    let saved = holds(Mode::S, 7);
    let outcome = merge(&given(&[(A, unsaved), (B, dirty), (C, unsaved)]));
    assert_eq!((outcome.owner, outcome.saved, outcome.told), (Some(B), false, vec![]));
    let outcome = merge(&given(&[(A, unsaved), (B, saved), (C, unsaved)]));
    assert_eq!((outcome.owner, outcome.saved, outcome.told), (Some(B), true, vec![]));
    let outcome = merge(&given(&[(A, nothing()), (B, unsaved), (C, unsaved)]));
    assert_eq!((outcome.owner, outcome.saved), (Some(B), false));
    assert_eq!(outcome.told, [told(B, Mode::S, true)]);
    assert!(!outcome.exclusive);
}

#[test]
fn a_copy_whose_receiver_still_waits_is_held_again_by_its_shipper() {
    let outcome = merge(&given(&[(A, shipped(B, 9, 4)), (B, waits(5))]));
    assert_eq!((outcome.owner, outcome.holders), (Some(A), InstanceSet::of(A)));
    assert_eq!((outcome.version, outcome.saved, outcome.grant), (Lsn(9), false, GrantNumber(4)));
    assert_eq!(outcome.told, [told(A, Mode::S, true)]);
    assert_eq!((outcome.past, outcome.base), (InstanceSet::default(), None));
    let mut clean = shipped(B, 9, 4);
    clean.transit.as_mut().unwrap().dirty = false;
    let outcome = merge(&given(&[(A, clean), (B, waits(5))]));
    assert!(outcome.saved, "a clean copy was on storage before it left");
    assert_eq!(outcome.told, [told(A, Mode::S, false)]);
}

#[test]
fn a_refused_copy_has_not_arrived_either() {
    let reports = [(A, shipped(B, 9, 4))];
    let refused = Given { refused: Some(GrantNumber(4)), ..given(&reports) };
    assert_eq!(merge(&refused).owner, Some(A));
    let other = Given { refused: Some(GrantNumber(3)), ..given(&reports) };
    assert_eq!(merge(&other).owner, None);
}

#[test]
fn a_copy_that_has_arrived_is_a_past_image_if_it_was_dirty() {
    for receiver in [waits(6), nothing(), holds(Mode::X, 11)] {
        let outcome = merge(&given(&[(A, shipped(B, 9, 4)), (B, receiver)]));
        assert_eq!(outcome.past, InstanceSet::of(A), "{receiver:?}");
        assert_eq!(outcome.told, [told(A, Mode::N, false)], "{receiver:?}");
        assert!(!outcome.holders.has(A), "{receiver:?}");
    }
}

#[test]
fn only_the_copy_shipped_last_comes_back() {
    let outcome = merge(&given(&[(A, shipped(B, 9, 4)), (B, shipped(C, 11, 6)), (C, waits(5))]));
    assert_eq!(outcome.owner, Some(B));
    assert_eq!(outcome.past, InstanceSet::of(A));
    assert_eq!(outcome.told, [told(A, Mode::N, false), told(B, Mode::S, true)]);
}

#[test]
fn what_was_on_its_way_to_the_dead_is_the_base_of_redo() {
    let reports = [(A, shipped(B, 9, 4)), (C, past(3))];
    let dead = Given { dead: InstanceSet::of(B), redo_missing: true, ..given(&reports) };
    let outcome = merge(&dead);
    assert_eq!((outcome.base, outcome.lost), (Some((A, Lsn(9))), true));
    assert_eq!(outcome.past, InstanceSet::of(A).with(C));
    assert_eq!(outcome.holders, InstanceSet::default());
    // Its shipper knows it, though this master does not.
    let mut known = shipped(B, 9, 4);
    known.transit.as_mut().unwrap().to_dead = true;
    let outcome = merge(&given(&[(A, known), (B, waits(5))]));
    assert_eq!((outcome.owner, outcome.base), (None, Some((A, Lsn(9)))));
}

#[test]
fn the_newest_past_image_is_the_base_when_nobody_holds_the_page() {
    let outcome = merge(&given(&[(A, past(3)), (B, past(8)), (C, past(5))]));
    assert_eq!((outcome.base, outcome.lost), (Some((B, Lsn(8))), false));
    let outcome = merge(&given(&[(A, past(3)), (B, holds(Mode::S, 8))]));
    assert_eq!(outcome.base, None);
}

#[test]
fn what_nobody_has_is_lost_only_while_redo_is_missing() {
    for redo_missing in [false, true] {
        assert_eq!(merge(&Given { redo_missing, ..given(&[]) }).lost, redo_missing);
        let held = [(A, holds(Mode::S, 3))];
        assert!(!merge(&Given { redo_missing, ..given(&held) }).lost);
    }
}

/// What a cluster may report of one page: one writer, or readers of one version of whom at most one
/// is dirty, past images older than that, and one copy in transit.
fn any_reports(random: &mut Random) -> Vec<(InstanceId, Report)> {
    let mut reports: Vec<_> = (0..6).map(|id| (InstanceId(id), nothing())).collect();
    let writer = random.percent(25).then(|| random.index(6));
    let duty = random.index(8);
    for (at, (_, report)) in reports.iter_mut().enumerate() {
        if random.percent(40) {
            report.past = Some(Lsn(u64::from(1 + random.below(50))));
        }
        if writer == Some(at) {
            *report = Report { past: report.past, dirty: random.percent(50), ..holds(Mode::X, 60) };
        } else if writer.is_none() && random.percent(30) {
            let (dirty, unsaved) = (at == duty, random.percent(50));
            let held = holds(Mode::S, 60);
            *report = Report { past: report.past, dirty, unsaved: unsaved && !dirty, ..held };
        } else if random.percent(30) {
            report.pending = Some(5);
        }
    }
    if random.percent(50) {
        let (from, to) = (random.index(6), random.index(6));
        let transit = shipped(InstanceId(u16::try_from(to).unwrap()), 55, 40).transit;
        if from != to && reports[from].1.mode == Mode::N {
            reports[from].1.transit = transit;
        }
    }
    reports
}

#[test]
fn whatever_is_reported_there_is_one_owner_one_duty_and_nothing_is_forgotten() {
    for seed in 0..4000 {
        let random = &mut Random::new(seed);
        let mut reports = any_reports(random);
        let redo_missing = random.percent(50);
        let outcome = merge(&Given { redo_missing, ..given(&reports) });
        let dirty_after = |id: InstanceId, report: &Report| {
            let told = outcome.told.iter().find(|told| told.to == id);
            told.map_or(report.dirty, |told| told.dirty)
        };
        let duties = reports.iter().filter(|(id, report)| dirty_after(*id, report)).count();
        let whole = || format!("seed {seed}: {reports:?} make {outcome:?}");
        assert!(!outcome.broken, "{}", whole());
        assert!(duties <= 1, "{}", whole());
        assert_eq!(outcome.owner.is_some(), !outcome.holders.is_empty(), "{}", whole());
        assert!(outcome.owner.is_none_or(|owner| outcome.holders.has(owner)), "{}", whole());
        assert!(!outcome.exclusive || outcome.holders.count() == 1, "{}", whole());
        assert_eq!(outcome.lost, redo_missing && outcome.holders.is_empty(), "{}", whole());
        assert!(outcome.base.is_none() || outcome.holders.is_empty(), "{}", whole());
        let read = !outcome.holders.is_empty() && !outcome.exclusive;
        assert!(!read || outcome.saved != (duties == 1), "on storage, or to be: {}", whole());
        for (id, report) in &reports {
            let back = report.transit.is_some() && outcome.holders.has(*id);
            let keeps = report.past.is_some() || report.transit.is_some() && !back;
            assert_eq!(outcome.past.has(*id), keeps, "{}", whole());
            assert_eq!(outcome.holders.has(*id), back || report.mode != Mode::N, "{}", whole());
            let is_told = outcome.told.iter().any(|told| told.to == *id);
            assert!(is_told || report.transit.is_none(), "{}", whole());
            assert!(outcome.grant >= report.grant, "{}", whole());
        }
        if outcome.holders.is_empty() {
            let transits = reports.iter().filter_map(|(_, report)| report.transit);
            let newest = reports.iter().filter_map(|(_, report)| report.past);
            let newest = newest.chain(transits.map(|transit| transit.version)).max();
            assert_eq!(outcome.base.map(|(_, version)| version), newest, "{}", whole());
        }
        // The order in which reports come in decides nothing but who of equals owns.
        reports.reverse();
        let again = merge(&Given { redo_missing, ..given(&reports) });
        assert_eq!((again.holders, again.past), (outcome.holders, outcome.past));
        assert_eq!((again.exclusive, again.saved), (outcome.exclusive, outcome.saved));
        assert_eq!((again.lost, again.version), (outcome.lost, outcome.version));
    }
}
