//! Requests, grants, claims, releases and cancels: whom the master tells what.

use super::{claim_of, master, sent};
use crate::grd::{
    Anomalies, Grd,
    tests::{acquire, claim, grd, message, request, run, tag},
};
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict};

const A: InstanceId = InstanceId(0);
const B: InstanceId = InstanceId(1);
const C: InstanceId = InstanceId(2);

/// What the master itself answers.
fn answer(of: RequestId, verdict: Verdict, mode: Mode, grant: u64) -> Pcm {
    Pcm::Response {
        request: of,
        verdict,
        mode,
        grant: GrantNumber(grant),
        version: Lsn::ZERO,
        acks: 0,
        dirty: false,
        unsaved: false,
        past: false,
        writer: A,
    }
}

fn with(mut response: Pcm, stored: u64, masked: u64) -> Pcm {
    if let Pcm::Response { version, acks, .. } = &mut response {
        (*version, *acks) = (Lsn(stored), masked);
    }
    response
}

fn redo(from: u16, sequence: u64) -> crate::grd::Event {
    let request = request(from, sequence);
    message(from, Pcm::Acquire { request, want: Mode::X, recovery: true })
}

fn cancel(from: u16, sequence: u64) -> crate::grd::Event {
    message(from, Pcm::Cancel { request: request(from, sequence) })
}

fn release(from: u16, grant: u64, version: u64) -> crate::grd::Event {
    let (grant, version) = (GrantNumber(grant), Lsn(version));
    message(from, Pcm::Release { grant, version })
}

/// Instance 0 masters the page, 1 and then 2 have read it, version 7 each.
fn readers() -> Grd {
    let mut grd = grd(0);
    for from in [1, 2] {
        run(&mut grd, acquire(from, 1, Mode::S));
        run(&mut grd, claim(from, 1, from.into(), Mode::S));
    }
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.owner, entry.holders, entry.exclusive), (Some(B), vec![B, C], false));
    assert_eq!((entry.version, entry.converting), (Lsn(7), false));
    grd
}

// ---- grants ------------------------------------------------------------------------------------

#[test]
fn who_is_first_reads_storage_and_at_least_the_version_that_is_known_to_be_there() {
    let mut grd = grd(0);
    let effects = sent(&run(&mut grd, acquire(1, 1, Mode::S)));
    assert_eq!(effects, [(1, answer(request(1, 1), Verdict::Storage, Mode::S, 1))]);
    let mut grd = master();
    run(&mut grd, message(2, Pcm::Written { grant: GrantNumber(2), version: Lsn(9) }));
    run(&mut grd, release(2, 2, 9));
    let effects = sent(&run(&mut grd, acquire(2, 2, Mode::X)));
    let expected = with(answer(request(2, 2), Verdict::Storage, Mode::X, 3), 9, 0);
    assert_eq!(effects, [(2, expected)]);
}

#[test]
fn a_reader_gets_the_page_from_its_owner_and_nobody_gives_it_up() {
    let mut grd = readers();
    let effects = sent(&run(&mut grd, acquire(0, 1, Mode::S)));
    let (request, want, grant, revokes) = (request(0, 1), Mode::S, GrantNumber(3), GrantNumber(2));
    assert_eq!(effects, [(1, Pcm::Ship { request, want, grant, revokes, acks: 0, past: false })]);
}

#[test]
fn a_writer_waits_for_every_reader_and_the_owner_ships() {
    let mut grd = readers();
    let effects = sent(&run(&mut grd, acquire(0, 1, Mode::X)));
    let (request, want, grant, revokes) = (request(0, 1), Mode::X, GrantNumber(3), GrantNumber(2));
    let invalidate = Pcm::Invalidate { request, grant, revokes };
    let ship = Pcm::Ship { request, want, grant, revokes, acks: 0b100, past: false };
    assert_eq!(effects, [(2, invalidate), (1, ship)]);
}

#[test]
fn a_reader_that_wants_to_write_keeps_its_page_and_waits_for_the_others() {
    let mut grd = readers();
    let effects = sent(&run(&mut grd, acquire(2, 2, Mode::X)));
    let (of, grant, revokes) = (request(2, 2), GrantNumber(3), GrantNumber(2));
    let invalidate = Pcm::Invalidate { request: of, grant, revokes };
    let held = with(answer(of, Verdict::Held, Mode::X, 3), 0, 0b010);
    assert_eq!(effects, [(1, invalidate), (2, held)]);
    // Its claim leaves it alone with the page.
    let claims = Pcm::Claim { request: of, mode: Mode::X, grant, version: Lsn(7), past: 0b010 };
    assert_eq!(
        sent(&run(&mut grd, message(2, claims))),
        [(2, Pcm::Claimed { request: of, grant })]
    );
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.owner, entry.holders, entry.exclusive), (Some(C), vec![C], true));
    assert_eq!(entry.past_images, [B]);
}

#[test]
fn a_claim_ends_its_own_grant_only() {
    let mut grd = readers();
    run(&mut grd, acquire(2, 2, Mode::X));
    let before = grd.entry(&tag());
    let (mode, version) = (Mode::X, Lsn(9));
    for (of, grant) in [(request(2, 2), 2), (request(2, 1), 3)] {
        let claims = Pcm::Claim { request: of, mode, grant: GrantNumber(grant), version, past: 1 };
        let again = Pcm::Claimed { request: of, grant: GrantNumber(grant) };
        assert_eq!(
            sent(&run(&mut grd, message(2, claims))),
            [(2, again)],
            "as if it were repeated"
        );
        assert_eq!(grd.entry(&tag()), before);
    }
    // Of a grant that was never given.
    for count in 1..=2 {
        let (request, grant) = (request(2, 2), GrantNumber(4));
        let claims = Pcm::Claim { request, mode, grant, version, past: 1 };
        assert_eq!(sent(&run(&mut grd, message(2, claims))), []);
        assert_eq!(grd.anomalies().no_grant, count);
    }
    assert_eq!(grd.entry(&tag()), before);
}

#[test]
fn a_writers_page_that_is_read_stays_its_owners_to_write() {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::S));
    let (request, mode, grant) = (request(1, 2), Mode::S, GrantNumber(3));
    let claim = Pcm::Claim { request, mode, grant, version: Lsn(8), past: 0 };
    let claimed = Pcm::Claimed { request, grant };
    assert_eq!(sent(&run(&mut grd, message(1, claim))), [(1, claimed), (2, claimed)]);
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.owner, entry.holders, entry.exclusive), (Some(C), vec![B, C], false));
    assert_eq!(entry.version, Lsn(9), "the greatest that is known");
}

#[test]
fn who_keeps_a_past_image_already_is_still_listed_when_it_hands_the_duty_over_again() {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::X));
    let mode = Mode::X;
    let claims = |from: u16, grant, version, past| {
        let (request, grant, version) = (request(from, 2), GrantNumber(grant), Lsn(version));
        message(from, Pcm::Claim { request, mode, grant, version, past })
    };
    run(&mut grd, claims(1, 3, 9, 0b100));
    run(&mut grd, acquire(2, 2, Mode::X));
    run(&mut grd, claims(2, 4, 11, 0b010));
    assert_eq!(grd.entry(&tag()).unwrap().past_images, [B, C]);
}

// ---- requests that wait ------------------------------------------------------------------------

#[test]
fn a_request_that_waits_is_granted_once_however_often_it_came() {
    let mut grd = grd(0);
    run(&mut grd, acquire(1, 1, Mode::X));
    for _ in 0..2 {
        assert_eq!(run(&mut grd, acquire(2, 1, Mode::X)), []);
        assert_eq!(grd.entry(&tag()).unwrap().queued, 1);
    }
    assert_eq!(run(&mut grd, acquire(2, 2, Mode::S)), []);
    assert_eq!(grd.entry(&tag()).unwrap().queued, 2, "another request of the same instance");
    run(&mut grd, claim(1, 1, 1, Mode::X));
    assert_eq!(grd.entry(&tag()).unwrap().queued, 1);
    let effects = sent(&run(&mut grd, claim_of(2, 2, 8, 0)));
    let ships = |(to, message): &(u16, Pcm)| {
        *to == 2 && matches!(message, Pcm::Response { request: of, .. } if *of == request(2, 2))
    };
    assert!(effects.iter().any(ships), "the next one: {effects:?}");
}

#[test]
fn a_request_that_is_cancelled_while_it_waits_is_answered_and_the_others_stay() {
    let mut grd = grd(0);
    run(&mut grd, acquire(1, 1, Mode::X));
    run(&mut grd, acquire(2, 1, Mode::X));
    run(&mut grd, acquire(2, 2, Mode::S));
    assert_eq!(run(&mut grd, cancel(2, 3)), [], "of a request that is over");
    let effects = sent(&run(&mut grd, cancel(2, 1)));
    assert_eq!(effects, [(2, answer(request(2, 1), Verdict::Cancelled, Mode::X, 0))]);
    assert_eq!(run(&mut grd, cancel(2, 1)), [], "it is over");
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.converting && entry.queued == 1, "{entry:?}");
    let effects = sent(&run(&mut grd, claim(1, 1, 1, Mode::X)));
    let next = |(_, message): &(u16, Pcm)| matches!(message, Pcm::Ship { request: of, want: Mode::S, .. } if *of == request(2, 2));
    assert!(effects.iter().any(next), "{effects:?}");
}

#[test]
fn redo_is_not_needed_of_what_is_not_lost_and_does_not_wait_to_hear_it() {
    let told =
        |from, sequence| [(from, answer(request(from, sequence), Verdict::NotLost, Mode::X, 0))];
    let mut grd = grd(0);
    assert_eq!(sent(&run(&mut grd, redo(1, 1))), told(1, 1));
    assert_eq!(grd.entry(&tag()), None, "nothing is left of the question");
    let mut grd = readers();
    assert_eq!(sent(&run(&mut grd, redo(1, 2))), told(1, 2));
    run(&mut grd, acquire(0, 1, Mode::X));
    assert_eq!(sent(&run(&mut grd, redo(2, 2))), told(2, 2));
    assert_eq!(grd.entry(&tag()).unwrap().queued, 0);
}

// ---- releases ----------------------------------------------------------------------------------

#[test]
fn when_the_owner_releases_another_holder_owns_and_storage_has_the_version() {
    let mut grd = readers();
    let effects = sent(&run(&mut grd, release(1, 1, 7)));
    assert_eq!(effects, [(1, Pcm::Released { grant: GrantNumber(1) })]);
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.owner, entry.holders, entry.stored), (Some(C), vec![C], Lsn(7)));
    assert!(!entry.exclusive);
}

#[test]
fn when_a_reader_releases_nothing_is_learned_of_storage() {
    let mut grd = readers();
    run(&mut grd, release(2, 2, 7));
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.owner, entry.holders, entry.stored), (Some(B), vec![B], Lsn::ZERO));
}

#[test]
fn a_release_of_what_is_being_revoked_is_not_answered() {
    // PCM_SHIP or PCM_INVALIDATE has crossed it, and is served from the page.
    for from in [1, 2] {
        let mut grd = readers();
        run(&mut grd, acquire(0, 1, Mode::X));
        let before = grd.entry(&tag());
        assert_eq!(run(&mut grd, release(from, from.into(), 7)), []);
        assert_eq!(grd.entry(&tag()), before);
    }
}

#[test]
fn a_reader_that_has_no_part_in_what_is_under_way_leaves_at_once() {
    let mut grd = readers();
    run(&mut grd, acquire(0, 1, Mode::S));
    let effects = sent(&run(&mut grd, release(2, 2, 7)));
    assert_eq!(effects, [(2, Pcm::Released { grant: GrantNumber(2) })]);
    assert_eq!(grd.entry(&tag()).unwrap().holders, [B]);
    assert!(grd.entry(&tag()).unwrap().converting);
}

#[test]
fn a_release_by_one_who_holds_nothing_changes_nothing() {
    let mut grd = master();
    let before = grd.entry(&tag());
    assert_eq!(run(&mut grd, release(1, 2, 9)), []);
    assert_eq!(grd.entry(&tag()), before);
}

#[test]
fn the_release_of_another_grant_does_not_end_the_one_that_is_under_way() {
    let mut grd = readers();
    run(&mut grd, acquire(2, 2, Mode::X));
    // Its release for eviction crossed nothing: it still holds S, and asked for X after it.
    let effects = sent(&run(&mut grd, release(2, 2, 7)));
    assert_eq!(effects, [(2, Pcm::Released { grant: GrantNumber(2) })]);
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.converting && entry.holders == [B], "{entry:?}");
}

// ---- what is said of a page without an entry ---------------------------------------------------

#[test]
fn what_was_never_granted_is_counted_when_it_is_claimed_or_released() {
    let mut grd = grd(0);
    for count in 1..=2 {
        assert_eq!(run(&mut grd, claim(1, 1, 1, Mode::X)), []);
        assert_eq!(grd.anomalies().no_grant, 2 * count - 1);
        assert_eq!(run(&mut grd, release(1, 1, 7)), []);
        assert_eq!(grd.anomalies(), Anomalies { no_grant: 2 * count, ..Anomalies::default() });
    }
    assert_eq!(grd.entry(&tag()), None);
}

#[test]
fn a_past_image_of_what_nobody_has_is_superseded() {
    let mut grd = grd(0);
    let version = Lsn(5);
    let effects = sent(&run(&mut grd, message(1, Pcm::WriteRequest { version })));
    assert_eq!(effects, [(1, Pcm::Discard { version })], "nothing is held: storage has it");
    assert_eq!(grd.entry(&tag()), None);
}
