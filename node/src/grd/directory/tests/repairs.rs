//! Repair of one page, when somebody who had a part in it has died or refused what it was granted.

use super::{after, holds, master, member, report, sent};
use crate::{
    grd::{
        Event, Grd,
        tests::{acquire, claim, grd, message, request, run, tag},
    },
    view::{Member, View},
};
use pagewire_protocol::{
    Epoch, GrantNumber, Incarnation, InstanceId, Lsn, Mode, Pcm, Report, RequestId, Transit,
    pcm::Verdict,
};

const B: InstanceId = InstanceId(1);
const C: InstanceId = InstanceId(2);

fn query(fence: u64) -> Pcm {
    Pcm::Query { fence: GrantNumber(fence) }
}

fn dies(grd: &mut Grd, left: &[u16]) -> Vec<(u16, Pcm)> {
    let effects = sent(&run(grd, Event::View(after(left).into())));
    effects.into_iter().filter(|(_, m)| !matches!(m, Pcm::NodeClear { .. })).collect()
}

fn nothing(pending: Option<u32>) -> Report {
    Report { pending, ..Report::default() }
}

fn grants(effects: &[(u16, Pcm)], of: RequestId) -> bool {
    effects.iter().any(|(_, message)| match message {
        Pcm::Ship { request, .. } => *request == of,
        Pcm::Response { request, verdict, .. } => *request == of && !verdict.is_refusal(),
        _ => false,
    })
}

/// 2 wrote the page, 1 wants it: under grant 3.
fn shipping(want: Mode) -> Grd {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, want));
    grd
}

#[test]
fn when_the_shipper_dies_the_request_is_granted_anew() {
    let mut grd = shipping(Mode::X);
    assert_eq!(dies(&mut grd, &[0, 1]), [(1, query(4))]);
    // 1 still waits for it, and keeps the past image that it had.
    let past = Report { past: Some(Lsn(7)), pending: Some(2), ..Report::default() };
    assert_eq!(run(&mut grd, report(1, 4, past)), []);
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.lost && entry.queued == 1 && !entry.converting, "{entry:?}");
    assert_eq!((entry.version, entry.past_images), (Lsn(7), vec![B]));
    let done = Event::RedoDone { instance: C, incarnation: Incarnation(0) };
    assert!(grants(&sent(&run(&mut grd, done)), request(1, 2)));
}

#[test]
fn a_requester_that_was_answered_after_all_is_not_granted_again() {
    // It took the page, and its claim is lost with the fence: it holds X.
    for (pending, again) in [(None, false), (Some(3), false), (Some(2), true)] {
        let mut grd = shipping(Mode::X);
        dies(&mut grd, &[0, 1]);
        let held = Report { pending, ..holds(Mode::S) };
        let effects = sent(&run(&mut grd, report(1, 4, held)));
        assert_eq!(grants(&effects, request(1, 2)), again, "{effects:?}");
    }
}

#[test]
fn when_the_requester_dies_its_request_dies_too() {
    let mut grd = shipping(Mode::X);
    assert_eq!(dies(&mut grd, &[0, 2]), [(2, query(4))]);
    let (grant, version) = (GrantNumber(3), Lsn(9));
    let transit = Transit { to: B, to_dead: true, request: 2, grant, version, dirty: true };
    let shipped = Report { transit: Some(transit), ..Report::default() };
    let effects = sent(&run(&mut grd, report(2, 4, shipped)));
    let assign = Pcm::Assign { mode: Mode::N, grant: GrantNumber(5), dirty: false };
    assert_eq!(effects, [(2, assign)], "its copy is a past image now");
    run(&mut grd, message(2, Pcm::Assigned { grant: GrantNumber(5) }));
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.lost && entry.queued == 0 && !entry.converting, "{entry:?}");
    assert_eq!((entry.past_images, entry.version), (vec![C], Lsn(9)));
}

#[test]
fn when_one_who_was_to_acknowledge_dies_the_grant_begins_anew_without_it() {
    let mut grd = grd(0);
    for from in [1, 2] {
        run(&mut grd, acquire(from, 1, Mode::S));
        run(&mut grd, claim(from, 1, from.into(), Mode::S));
    }
    run(&mut grd, acquire(1, 2, Mode::X));
    assert_eq!(dies(&mut grd, &[0, 1]), [(1, query(4))]);
    let held = Report { pending: Some(2), dirty: false, ..holds(Mode::S) };
    let effects = sent(&run(&mut grd, report(1, 4, held)));
    let [(1, Pcm::Response { request: of, verdict: Verdict::Held, acks: 0, grant, .. })] =
        effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((of, grant), (request(1, 2), GrantNumber(5)));
}

/// Instance 0 masters the page in a view that names lives; 1 and 2 read it.
fn readers_in_their_lives() -> (Grd, View) {
    let lives = [0, 1, 2].map(|id| Member { incarnation: Incarnation(1), ..member(id) });
    let first = View::first(Epoch(1), lives.to_vec()).unwrap();
    let mut grd = Grd::new(InstanceId(0), Incarnation(1), first.clone());
    for from in [1, 2] {
        run(&mut grd, acquire(from, 1, Mode::S));
        run(&mut grd, claim(from, 1, from.into(), Mode::S));
    }
    (grd, first)
}

#[test]
fn one_that_has_no_part_in_what_is_under_way_is_only_taken_out_with_its_requests() {
    let (mut grd, first) = readers_in_their_lives();
    run(&mut grd, acquire(0, 1, Mode::S));
    run(&mut grd, acquire(2, 2, Mode::X));
    run(&mut grd, acquire(1, 2, Mode::X));
    run(&mut grd, acquire(2, 3, Mode::S));
    assert_eq!(grd.entry(&tag()).unwrap().queued, 3);
    let left = first.members()[..2].to_vec();
    let next = first.next(left, vec![(C, Incarnation(1))]).unwrap();
    let effects = sent(&run(&mut grd, Event::View(next.into())));
    assert!(effects.iter().all(|(_, m)| matches!(m, Pcm::NodeClear { .. })), "{effects:?}");
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.converting && !entry.repairing, "1 ships to 0: {entry:?}");
    assert_eq!((entry.holders, entry.owner, entry.queued), (vec![B], Some(B), 1));
}

#[test]
fn a_death_during_a_repair_begins_it_anew_with_all_who_are_left() {
    let mut grd = shipping(Mode::X);
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(3) };
    run(&mut grd, message(1, refuse));
    run(&mut grd, report(2, 4, holds(Mode::X)));
    assert_eq!(dies(&mut grd, &[0, 1]), [(1, query(5))]);
    assert_eq!(run(&mut grd, report(1, 4, nothing(None))), [], "of the query before");
    assert!(grd.entry(&tag()).unwrap().repairing);
    run(&mut grd, report(1, 5, nothing(None)));
    let entry = grd.entry(&tag()).unwrap();
    assert!(!entry.repairing && entry.holders.is_empty() && entry.lost, "{entry:?}");
}

#[test]
fn the_death_of_one_who_was_asked_begins_a_repair_anew_and_of_another_does_not() {
    let (mut grd, first) = readers_in_their_lives();
    // 3 has no part in the page, which 1 and 2 read and 2 wants to write.
    let lives = |ids: &[u16]| {
        ids.iter().map(|&id| Member { incarnation: Incarnation(1), ..member(id) }).collect()
    };
    let four = first.next(lives(&[0, 1, 2, 3]), Vec::new()).unwrap();
    run(&mut grd, Event::View(four.clone().into()));
    run(&mut grd, acquire(2, 2, Mode::X));
    let refuse = Pcm::Refuse { request: request(2, 2), grant: GrantNumber(3) };
    assert_eq!(sent(&run(&mut grd, message(2, refuse))), [(1, query(4)), (2, query(4))]);
    let queries = |effects: &[(u16, Pcm)]| {
        let is_query = |(_, m): &&(u16, Pcm)| matches!(m, Pcm::Query { .. });
        effects.iter().filter(is_query).copied().collect::<Vec<_>>()
    };
    let dead = |id| (InstanceId(id), Incarnation(1));
    let three = four.next(lives(&[0, 1, 2]), vec![dead(3)]).unwrap();
    assert_eq!(queries(&sent(&run(&mut grd, Event::View(three.clone().into())))), []);
    let two = three.next(lives(&[0, 1]), vec![dead(2), dead(3)]).unwrap();
    let effects = sent(&run(&mut grd, Event::View(two.into())));
    assert_eq!(queries(&effects), [(1, query(5))], "2 cannot report any more");
}

#[test]
fn a_requester_that_has_nothing_yet_is_asked_as_well() {
    let mut grd = grd(0);
    run(&mut grd, acquire(2, 1, Mode::S));
    run(&mut grd, claim(2, 1, 1, Mode::S));
    run(&mut grd, acquire(1, 1, Mode::S));
    let refuse = Pcm::Refuse { request: request(1, 1), grant: GrantNumber(2) };
    assert_eq!(sent(&run(&mut grd, message(1, refuse))), [(1, query(3)), (2, query(3))]);
}

/// 1 keeps a past image of the page, and reads it from 2, which wrote it.
fn reader_with_past_image() -> Grd {
    let mut grd = shipping(Mode::S);
    let (request, mode, grant) = (request(1, 2), Mode::S, GrantNumber(3));
    run(&mut grd, message(1, Pcm::Claim { request, mode, grant, version: Lsn(9), past: 0 }));
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.holders, entry.past_images), (vec![B, C], vec![B]));
    grd
}

#[test]
fn one_that_reads_the_page_beside_its_past_image_has_a_part_in_it() {
    let mut grd = reader_with_past_image();
    assert_eq!(dies(&mut grd, &[0, 1]), [(1, query(4))], "the owner has died");
    let mut grd = reader_with_past_image();
    assert_eq!(dies(&mut grd, &[0, 2]), []);
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.holders, entry.past_images), (vec![C], vec![]));
}

#[test]
fn a_past_image_that_storage_has_is_no_base() {
    let mut grd = master();
    run(&mut grd, message(2, Pcm::Written { grant: GrantNumber(2), version: Lsn(7) }));
    dies(&mut grd, &[0, 1]);
    run(&mut grd, report(1, 3, Report { past: Some(Lsn(7)), ..Report::default() }));
    let done = Event::RedoDone { instance: C, incarnation: Incarnation(0) };
    run(&mut grd, done);
    let effects = sent(&run(&mut grd, acquire(1, 2, Mode::S)));
    let storage =
        |m: &Pcm| matches!(m, Pcm::Response { verdict: Verdict::Storage, version: Lsn(7), .. });
    assert!(effects.len() == 1 && storage(&effects[0].1), "{effects:?}");
}

#[test]
fn a_request_that_a_first_repair_cut_off_is_remembered_by_the_second() {
    // 2 has died with the page; then 1, of whom nobody heard whether it was answered, reports.
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::X));
    let without_reader = after(&[0, 1]);
    let first = run(&mut grd, Event::View(without_reader.clone().into()));
    assert!(sent(&first).contains(&(1, query(4))));
    // Somebody joins and dies; it has no part in the page.
    let joined = without_reader
        .next([0, 1, 3].map(member).to_vec(), without_reader.dead().to_vec())
        .unwrap();
    run(&mut grd, Event::View(joined.into()));
    assert!(grd.entry(&tag()).unwrap().repairing, "it goes on");
    run(&mut grd, report(1, 4, nothing(None)));
    assert_eq!(grd.entry(&tag()).unwrap().queued, 0, "it was answered");
}

#[test]
fn only_who_is_asked_may_report_and_only_while_it_is_asked() {
    let mut grd = shipping(Mode::X);
    dies(&mut grd, &[0, 1]);
    assert_eq!(run(&mut grd, report(0, 4, holds(Mode::X))), []);
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.repairing, "0 was not asked: {entry:?}");
    // Assignments end by their own number, each of who was told.
    let unsaved = Report { unsaved: true, dirty: false, ..holds(Mode::S) };
    let effects = sent(&run(&mut grd, report(1, 4, unsaved)));
    let assign = Pcm::Assign { mode: Mode::S, grant: GrantNumber(5), dirty: true };
    assert_eq!(effects, [(1, assign)]);
    assert_eq!(run(&mut grd, report(1, 5, nothing(None))), [], "it has reported");
    assert_eq!(run(&mut grd, message(0, Pcm::Assigned { grant: GrantNumber(5) })), []);
    assert!(grd.entry(&tag()).unwrap().repairing);
    run(&mut grd, message(1, Pcm::Assigned { grant: GrantNumber(5) }));
    assert!(!grd.entry(&tag()).unwrap().repairing);
    assert_eq!(run(&mut grd, message(1, Pcm::Assigned { grant: GrantNumber(5) })), [], "again");
}

#[test]
fn an_assignment_before_all_reports_ends_nothing() {
    let mut grd = shipping(Mode::X);
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(3) };
    run(&mut grd, message(1, refuse));
    for from in [1, 2] {
        assert_eq!(run(&mut grd, message(from, Pcm::Assigned { grant: GrantNumber(4) })), []);
    }
    assert!(grd.entry(&tag()).unwrap().repairing);
}

#[test]
fn who_releases_what_it_is_being_assigned_thinks_again() {
    let mut grd = shipping(Mode::X);
    dies(&mut grd, &[0, 1]);
    let unsaved = Report { unsaved: true, dirty: false, ..holds(Mode::S) };
    run(&mut grd, report(1, 4, unsaved));
    let release = Pcm::Release { grant: GrantNumber(2), version: Lsn(9) };
    assert_eq!(run(&mut grd, message(1, release)), []);
    let effects = run(&mut grd, message(1, Pcm::Assigned { grant: GrantNumber(5) }));
    assert_eq!(effects, [], "it has the duty to write it, and is not let go");
    assert_eq!(grd.entry(&tag()).unwrap().holders, [B]);
}

/// Found by a seed of the simulator: whoever was told to write the page thinks again, and a repair that
/// began anew meanwhile took its earlier release for a later one.
#[test]
fn a_release_from_before_a_report_does_not_let_go_of_what_the_report_says_is_held() {
    let mut grd = shipping(Mode::X);
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(3) };
    run(&mut grd, message(1, refuse));
    run(&mut grd, report(2, 4, nothing(None)));
    let unsaved = Report { unsaved: true, dirty: false, ..holds(Mode::S) };
    let assign = Pcm::Assign { mode: Mode::S, grant: GrantNumber(5), dirty: true };
    assert_eq!(sent(&run(&mut grd, report(1, 4, unsaved))), [(1, assign)]);
    assert_eq!(dies(&mut grd, &[0, 1]), [(1, query(6))]);
    // On its way when it was told; then it took the duty, and held the page when it was asked.
    let release = Pcm::Release { grant: GrantNumber(2), version: Lsn(9) };
    assert_eq!(run(&mut grd, message(1, release)), []);
    assert_eq!(run(&mut grd, message(1, Pcm::Assigned { grant: GrantNumber(5) })), []);
    assert_eq!(run(&mut grd, report(1, 6, holds(Mode::S))), [], "it is not let go");
    assert_eq!(grd.entry(&tag()).unwrap().holders, [B]);
    // One that comes after the report does.
    let effects = sent(&run(&mut grd, message(1, release)));
    assert_eq!(effects, [(1, Pcm::Released { grant: GrantNumber(2) })]);
}

#[test]
fn what_readers_know_on_storage_is_on_storage_after_a_repair() {
    let mut grd = shipping(Mode::X);
    dies(&mut grd, &[0, 1]);
    let saved = Report { dirty: false, ..holds(Mode::S) };
    run(&mut grd, report(1, 4, saved));
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.stored, entry.owner), (Lsn(9), Some(B)));
    assert!(!entry.lost && !entry.exclusive);
    // Whose reports contradict each other is counted.
    let mut grd = shipping(Mode::X);
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(3) };
    run(&mut grd, message(1, refuse));
    run(&mut grd, report(1, 4, holds(Mode::S)));
    run(&mut grd, report(2, 4, holds(Mode::X)));
    assert_eq!(grd.anomalies().contradicting_reports, 1);
}

#[test]
fn grants_go_on_after_the_greatest_that_was_reported() {
    let mut grd = shipping(Mode::X);
    dies(&mut grd, &[0, 1]);
    let later = Report { grant: GrantNumber(40), dirty: false, ..holds(Mode::S) };
    run(&mut grd, report(1, 4, later));
    let effects = sent(&run(&mut grd, acquire(0, 1, Mode::S)));
    let (request, want, grant, revokes) =
        (request(0, 1), Mode::S, GrantNumber(41), GrantNumber(40));
    assert_eq!(effects, [(1, Pcm::Ship { request, want, grant, revokes, acks: 0, past: false })]);
}

#[test]
fn a_written_page_of_who_died_is_read_by_the_next() {
    let mut grd = master();
    run(&mut grd, message(2, Pcm::Written { grant: GrantNumber(2), version: Lsn(9) }));
    run(&mut grd, message(1, Pcm::Discarded { version: Lsn(9) }));
    assert_eq!(dies(&mut grd, &[0, 1]), [], "nobody is left to ask");
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.lost && !entry.repairing && entry.version == Lsn(9), "{entry:?}");
}
