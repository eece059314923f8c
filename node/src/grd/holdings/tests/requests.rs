//! What is asked of a master, and what comes for it: grants in pieces, answers that fit no request,
//! reads, and revocations of what is not there.

use super::{drained, has, holder, invalidate, sent, ship};
use crate::grd::{
    AcquireError, Effect, Event, GrantPath, Grd, WaiterId,
    tests::{grd, message, request, run, tag},
};
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, Pcm, pcm::Verdict};

fn wants(mode: Mode, waiter: u64) -> Event {
    Event::Acquire { tag: tag(), mode, waiter: WaiterId(waiter), recovery: false }
}

/// An answer to the request `sequence` of instance 1: version 7, written by 2.
fn answer(sequence: u64, verdict: Verdict, mode: Mode, grant: u64, acks: u64) -> Pcm {
    Pcm::Response {
        request: request(1, sequence),
        verdict,
        mode,
        grant: GrantNumber(grant),
        version: Lsn(7),
        acks,
        dirty: false,
        unsaved: false,
        past: false,
        writer: InstanceId(2),
    }
}

fn dirty(mut answer: Pcm) -> Pcm {
    if let Pcm::Response { dirty, .. } = &mut answer {
        *dirty = true;
    }
    answer
}

fn invalidated(from: u16, sequence: u64, grant: u64, dirty: bool) -> Event {
    let grant = GrantNumber(grant);
    message(from, Pcm::Invalidated { request: request(1, sequence), grant, dirty })
}

fn claim(sequence: u64, mode: Mode, grant: u64, version: u64, past: u64) -> Pcm {
    let (grant, version) = (GrantNumber(grant), Lsn(version));
    Pcm::Claim { request: request(1, sequence), mode, grant, version, past }
}

fn claims(effects: &[Effect]) -> Vec<Pcm> {
    sent(effects).into_iter().filter(|m| matches!(m, Pcm::Claim { .. })).collect()
}

/// Instance 1, of which a thread wants the page.
fn asking(mode: Mode) -> Grd {
    let mut grd = grd(1);
    run(&mut grd, wants(mode, 1));
    grd
}

/// Instance 1, which holds S and of which a thread wants X: request 2.
fn upgrading() -> Grd {
    let mut grd = holder(Mode::S, false, true);
    run(&mut grd, wants(Mode::X, 2));
    grd
}

fn read(at_least: u64) -> Effect {
    Effect::Read { tag: tag(), at_least: Lsn(at_least) }
}

fn read_done(version: u64) -> Event {
    Event::ReadDone { tag: tag(), result: Ok(Lsn(version)) }
}

fn path_of(effects: &[Effect]) -> Option<GrantPath> {
    effects.iter().find_map(|e| match e {
        Effect::Complete { path, .. } => Some(*path),
        _ => None,
    })
}

// ---- a grant in pieces -------------------------------------------------------------------------

#[test]
fn a_grant_is_taken_when_all_of_it_is_there_in_whatever_order() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let mut grd = upgrading();
        let events = [
            message(0, answer(2, Verdict::Held, Mode::X, 4, 0b101)),
            invalidated(0, 2, 4, false),
            invalidated(2, 2, 4, false),
        ];
        for at in &order[..2] {
            assert_eq!(run(&mut grd, events[*at].clone()), [], "{order:?}");
            assert_eq!(grd.holding(&tag()).unwrap().mode, Mode::S);
        }
        let effects = run(&mut grd, events[order[2]].clone());
        assert_eq!(claims(&effects), [claim(2, Mode::X, 4, 7, 0)], "{order:?}");
    }
}

#[test]
fn a_writer_claims_with_the_duty_and_says_who_keeps_a_past_image() {
    let mut grd = asking(Mode::X);
    let effects = run(&mut grd, message(2, answer(1, Verdict::Page, Mode::X, 3, 0b1)));
    assert_eq!(effects, [Effect::Take { tag: tag() }]);
    let effects = run(&mut grd, invalidated(0, 1, 3, true));
    let [Effect::RequestOver { .. }, Effect::Install { dirty: true, .. }, ..] = effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(claims(&effects), [claim(1, Mode::X, 3, 7, 0b1)]);
    let view = grd.holding(&tag()).unwrap();
    assert!(view.dirty && !view.unsaved && view.grant == GrantNumber(3), "{view:?}");
    assert_eq!((view.version, view.writer), (Lsn(7), InstanceId(2)));
    // It came with the page itself.
    let mut grd = asking(Mode::X);
    let effects = run(&mut grd, message(2, dirty(answer(1, Verdict::Page, Mode::X, 3, 0))));
    assert!(effects.contains(&Effect::Install { tag: tag(), dirty: true }), "{effects:?}");
    assert_eq!(claims(&effects), [claim(1, Mode::X, 3, 7, 0b100)]);
    // And from nobody.
    let mut grd = asking(Mode::X);
    let effects = run(&mut grd, message(2, answer(1, Verdict::Page, Mode::X, 3, 0)));
    assert!(effects.contains(&Effect::Install { tag: tag(), dirty: false }), "{effects:?}");
    assert_eq!(claims(&effects), [claim(1, Mode::X, 3, 7, 0)]);
}

#[test]
fn a_reader_that_becomes_the_writer_keeps_its_page_and_takes_the_duty_over() {
    for duty in [false, true] {
        let mut grd = upgrading();
        assert_eq!(run(&mut grd, message(0, answer(2, Verdict::Held, Mode::X, 4, 0b100))), []);
        assert_eq!(grd.holding(&tag()).unwrap().mode, Mode::S, "until the acknowledgement");
        let effects = run(&mut grd, invalidated(2, 2, 4, duty));
        assert_eq!(has(&effects, |e| matches!(e, Effect::MarkDirty { .. })), duty, "{effects:?}");
        assert!(!has(&effects, |e| matches!(e, Effect::Install { .. })), "{effects:?}");
        let past = if duty { 0b100 } else { 0 };
        assert_eq!(claims(&effects), [claim(2, Mode::X, 4, 7, past)]);
        let lowered = Effect::Lower { tag: tag(), to: Mode::N };
        assert!(effects.contains(&lowered), "readers' pins are out: {effects:?}");
        let view = grd.holding(&tag()).unwrap();
        assert_eq!((view.mode, view.dirty, view.unsaved), (Mode::X, duty, false));
    }
}

#[test]
fn an_upgrade_that_nobody_waits_for_any_more_leaves_the_page_open() {
    let mut grd = upgrading();
    run(&mut grd, message(0, answer(2, Verdict::Held, Mode::X, 4, 0b100)));
    run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(2) });
    let effects = run(&mut grd, invalidated(2, 2, 4, false));
    assert!(effects.contains(&Effect::Open { tag: tag(), mode: Mode::X }), "{effects:?}");
    // The next thread's grant is its own: no message was sent for it.
    run(&mut grd, wants(Mode::X, 3));
    let effects = run(&mut grd, drained(Mode::N, 7, 0));
    assert_eq!(path_of(&effects), Some(GrantPath::Local));
}

#[test]
fn how_a_grant_came_about_is_told_by_who_sent_what() {
    use GrantPath::{Storage, ThreeWay, TwoWay};
    // Requester 1; the page is mastered by 0.
    for (from, path) in [(0, TwoWay), (2, ThreeWay)] {
        let mut grd = asking(Mode::S);
        let effects = run(&mut grd, message(from, answer(1, Verdict::Page, Mode::S, 3, 0)));
        assert_eq!(path_of(&effects), Some(path));
    }
    // Two messages brought the page, three the last right to it.
    for (acknowledges, path) in [(0, TwoWay), (2, ThreeWay)] {
        let mut grd = asking(Mode::X);
        let acks = 1 << acknowledges;
        run(&mut grd, message(0, answer(1, Verdict::Page, Mode::X, 3, acks)));
        let effects = run(&mut grd, invalidated(acknowledges, 1, 3, false));
        assert_eq!(path_of(&effects), Some(path));
    }
    let mut grd = asking(Mode::S);
    run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::S, 3, 0)));
    assert_eq!(path_of(&run(&mut grd, read_done(7))), Some(Storage));
    let mut grd = upgrading();
    run(&mut grd, message(0, answer(2, Verdict::Held, Mode::X, 4, 0)));
    assert_eq!(path_of(&run(&mut grd, drained(Mode::N, 7, 0))), Some(TwoWay));
}

// ---- answers that fit no request ---------------------------------------------------------------

#[test]
fn a_grant_for_no_request_is_given_back() {
    let refuse =
        |sequence, grant| Pcm::Refuse { request: request(1, sequence), grant: GrantNumber(grant) };
    // Of another request; of one that has been granted; of nothing that was ever asked.
    let mut other = asking(Mode::S);
    let effects = run(&mut other, message(2, answer(2, Verdict::Page, Mode::S, 4, 0)));
    assert_eq!(sent(&effects), [refuse(2, 4)]);
    assert_eq!(effects.len(), 1, "its page is not taken: {effects:?}");
    let mut granted = asking(Mode::X);
    run(&mut granted, message(2, answer(1, Verdict::Page, Mode::X, 3, 0b100)));
    let effects = run(&mut granted, message(0, answer(1, Verdict::Page, Mode::X, 4, 0)));
    assert_eq!((sent(&effects), effects.len()), (vec![refuse(1, 4)], 1));
    let mut none = grd(1);
    for count in 1..=2 {
        let effects = run(&mut none, message(2, answer(1, Verdict::Page, Mode::S, 4, 0)));
        assert_eq!((sent(&effects), effects.len()), (vec![refuse(1, 4)], 1));
        assert_eq!(none.anomalies().no_request, count);
    }
    assert_eq!(none.fenced().late, 0);
    // One that is as new as what is held.
    let mut held = holder(Mode::S, false, false);
    let effects = run(&mut held, message(2, answer(1, Verdict::Page, Mode::S, 3, 0)));
    assert_eq!(sent(&effects), [refuse(1, 3)]);
}

#[test]
fn an_answer_that_is_over_is_counted_and_dropped() {
    // An older grant than is held; a refusal of what nobody asks for.
    let mut held = holder(Mode::S, false, false);
    for (late, count) in [
        (answer(1, Verdict::Page, Mode::S, 2, 0), 1),
        (answer(1, Verdict::Cancelled, Mode::S, 5, 0), 2),
    ] {
        assert_eq!(run(&mut held, message(2, late)), []);
        assert_eq!(held.fenced().late, count);
    }
    assert_eq!(held.anomalies().no_request, 0);
}

#[test]
fn a_grant_from_before_a_repair_is_dropped_and_one_from_after_it_taken() {
    let mut grd = asking(Mode::S);
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(5) }));
    for count in 1..=2 {
        assert_eq!(run(&mut grd, message(2, answer(1, Verdict::Page, Mode::S, 4, 0))), []);
        assert_eq!(grd.fenced().late, count);
    }
    let effects = run(&mut grd, message(2, answer(1, Verdict::Page, Mode::S, 5, 0)));
    assert_eq!(claims(&effects), [claim(1, Mode::S, 5, 7, 0)]);
}

#[test]
fn acknowledgements_count_for_their_request_and_from_its_repair_on() {
    let mut grd = asking(Mode::X);
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(5) }));
    let late = [invalidated(2, 1, 4, true), invalidated(2, 9, 6, true)];
    for (event, count) in late.into_iter().zip(1..) {
        assert_eq!(run(&mut grd, event), []);
        assert_eq!(grd.fenced().late, count);
    }
    let effects = run(&mut grd, message(0, answer(1, Verdict::Page, Mode::X, 6, 0b100)));
    assert_eq!(effects, [Effect::Take { tag: tag() }], "neither was its acknowledgement");
    let effects = run(&mut grd, invalidated(2, 1, 6, false));
    assert!(effects.contains(&Effect::Install { tag: tag(), dirty: false }), "{effects:?}");
    let mut grd = asking(Mode::X);
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(5) }));
    run(&mut grd, message(0, answer(1, Verdict::Page, Mode::X, 5, 0b100)));
    let effects = run(&mut grd, invalidated(2, 1, 5, false));
    assert_eq!(claims(&effects).len(), 1, "the first grant after the fence: {effects:?}");
}

#[test]
fn who_is_refused_is_told_and_gives_the_grant_back() {
    for verdict in [Verdict::NotMaster, Verdict::NotHolder] {
        let mut grd = asking(Mode::S);
        run(&mut grd, wants(Mode::S, 2));
        let effects = run(&mut grd, message(0, answer(1, verdict, Mode::S, 4, 0)));
        let failed = |waiter| {
            let error = Some(AcquireError::Refused { tag: tag(), verdict });
            Effect::Fail { waiter: WaiterId(waiter), tag: tag(), error }
        };
        let refuse = Pcm::Refuse { request: request(1, 1), grant: GrantNumber(4) };
        assert_eq!(sent(&effects), [refuse]);
        assert_eq!(effects[1..], [failed(1), failed(2), Effect::RequestOver { tag: tag() }]);
        assert_eq!(grd.holding(&tag()), None);
    }
}

#[test]
fn a_cancelled_request_is_over_and_whoever_came_meanwhile_asks_anew() {
    let mut grd = asking(Mode::X);
    run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(1) });
    run(&mut grd, wants(Mode::S, 2));
    let effects = run(&mut grd, message(0, answer(1, Verdict::Cancelled, Mode::X, 0, 0)));
    assert_eq!(effects[0], Effect::RequestOver { tag: tag() });
    let asks = Pcm::Acquire { request: request(1, 2), want: Mode::S, recovery: false };
    let is_it = |e: &Effect| matches!(e, Effect::Request { message, .. } if *message == asks);
    assert!(effects.len() == 2 && is_it(&effects[1]), "{effects:?}");
    // Nobody came: nothing is left.
    let mut grd = asking(Mode::X);
    run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(1) });
    let effects = run(&mut grd, message(0, answer(1, Verdict::Cancelled, Mode::X, 0, 0)));
    assert_eq!(effects, [Effect::RequestOver { tag: tag() }]);
    assert_eq!(grd.holding(&tag()), None);
}

#[test]
fn a_request_for_redo_is_over_when_nothing_is_lost() {
    let mut grd = grd(1);
    let redo = Event::Acquire { tag: tag(), mode: Mode::X, waiter: WaiterId(1), recovery: true };
    run(&mut grd, redo);
    run(&mut grd, wants(Mode::S, 2));
    let effects = run(&mut grd, message(0, answer(1, Verdict::NotLost, Mode::X, 0, 0)));
    let error = Some(AcquireError::NotLost { tag: tag() });
    assert_eq!(effects[0], Effect::Fail { waiter: WaiterId(1), tag: tag(), error });
    assert_eq!(effects[1], Effect::RequestOver { tag: tag() });
    let asks = Pcm::Acquire { request: request(1, 2), want: Mode::S, recovery: false };
    let is_it = |e: &Effect| matches!(e, Effect::Request { message, .. } if *message == asks);
    assert!(effects.len() == 3 && is_it(&effects[2]), "the other asks for itself: {effects:?}");
}

// ---- storage -----------------------------------------------------------------------------------

#[test]
fn a_page_of_storage_is_claimed_with_the_version_that_was_found() {
    let mut grd = asking(Mode::X);
    let effects = run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::X, 3, 0b100)));
    assert_eq!(effects, [read(7)]);
    assert_eq!(
        run(&mut grd, read_done(9)),
        [Effect::Take { tag: tag() }],
        "one is still to give it up"
    );
    let effects = run(&mut grd, invalidated(2, 1, 3, false));
    assert_eq!(claims(&effects), [claim(1, Mode::X, 3, 9, 0)]);
    assert!(effects.contains(&Effect::Install { tag: tag(), dirty: false }), "{effects:?}");
    assert_eq!(run(&mut grd, read_done(9)), [], "it was read once");
}

#[test]
fn what_is_newer_than_storage_has_to_be_written() {
    // Storage has less than the past image, the same, more.
    for (found, dirty) in [(6, true), (7, true), (8, false)] {
        let mut grd = asking(Mode::X);
        let mut page = answer(1, Verdict::Page, Mode::X, 3, 0);
        if let Pcm::Response { past, .. } = &mut page {
            *past = true;
        }
        let newest = Effect::ReadNewer { tag: tag(), at_least: Lsn::ZERO };
        assert_eq!(run(&mut grd, message(2, page)), [Effect::Take { tag: tag() }, newest]);
        let effects = run(&mut grd, read_done(found));
        assert!(effects.contains(&Effect::Install { tag: tag(), dirty }), "{effects:?}");
        assert_eq!(claims(&effects), [claim(1, Mode::X, 3, found, 0)]);
        assert_eq!(path_of(&effects), Some(GrantPath::Storage));
    }
}

#[test]
fn an_own_past_image_is_compared_with_storage() {
    for (found, dirty) in [(9, true), (10, false)] {
        let mut grd = super::keeper();
        run(&mut grd, wants(Mode::S, 2));
        let effects = run(&mut grd, message(0, answer(2, Verdict::OwnPastImage, Mode::S, 5, 0)));
        assert_eq!(effects, [Effect::ReadNewer { tag: tag(), at_least: Lsn::ZERO }]);
        let effects = run(&mut grd, read_done(found));
        assert!(effects.contains(&Effect::Install { tag: tag(), dirty }), "{effects:?}");
        assert_eq!(path_of(&effects), Some(GrantPath::Storage));
    }
}

#[test]
fn a_read_for_a_grant_that_was_cut_off_is_not_used_for_the_next() {
    let mut grd = asking(Mode::S);
    run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::S, 3, 0)));
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(4) }));
    assert_eq!(run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::S, 5, 0))), []);
    assert_eq!(run(&mut grd, read_done(3)), [read(7)], "it may be older than what is granted now");
    let effects = run(&mut grd, read_done(8));
    assert_eq!(claims(&effects), [claim(1, Mode::S, 5, 8, 0)]);
}

#[test]
fn a_page_that_comes_while_a_read_of_no_use_is_under_way_is_taken_when_that_is_done() {
    let mut grd = asking(Mode::S);
    run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::S, 3, 0)));
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(4) }));
    let effects = run(&mut grd, message(2, answer(1, Verdict::Page, Mode::S, 5, 0)));
    assert_eq!(effects, [Effect::Take { tag: tag() }], "the read has the request's frame");
    let effects = run(&mut grd, read_done(3));
    assert_eq!(claims(&effects), [claim(1, Mode::S, 5, 7, 0)], "the page, not what was read");
}

#[test]
fn a_request_that_is_over_while_it_reads_keeps_its_frame_until_the_read_is_done() {
    let mut grd = asking(Mode::S);
    run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::S, 3, 0)));
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(4) }));
    run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(1) });
    let effects = run(&mut grd, message(0, answer(1, Verdict::Cancelled, Mode::S, 0, 0)));
    assert_eq!(effects, []);
    // It cannot be cancelled, granted or reported any more.
    assert_eq!(run(&mut grd, wants(Mode::S, 2)), []);
    assert_eq!(sent(&run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(2) })), []);
    let effects = run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(6) }));
    let [Pcm::Report { report, .. }] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(report.pending, None);
    let effects = run(&mut grd, message(2, answer(1, Verdict::Page, Mode::S, 7, 0)));
    assert!(matches!(sent(&effects)[..], [Pcm::Refuse { .. }]), "{effects:?}");
    assert_eq!(run(&mut grd, read_done(3)), [Effect::RequestOver { tag: tag() }]);
    assert_eq!(grd.holding(&tag()), None);
}

#[test]
fn a_storage_error_gives_the_grant_back_and_tells_everyone() {
    let mut grd = asking(Mode::S);
    run(&mut grd, wants(Mode::S, 2));
    run(&mut grd, message(0, answer(1, Verdict::Storage, Mode::S, 3, 0)));
    let result = Err("gone".to_owned());
    let effects = run(&mut grd, Event::ReadDone { tag: tag(), result });
    let (grant, version) = (GrantNumber(3), Lsn::ZERO);
    assert_eq!(sent(&effects), [Pcm::Release { grant, version }]);
    let failed = |waiter| {
        let error = Some(AcquireError::Storage { tag: tag(), reason: "gone".to_owned() });
        Effect::Fail { waiter: WaiterId(waiter), tag: tag(), error }
    };
    assert_eq!(effects[1..], [failed(1), failed(2), Effect::RequestOver { tag: tag() }]);
    assert_eq!(grd.holding(&tag()), None);
}

// ---- revocations -------------------------------------------------------------------------------

#[test]
fn a_ship_of_what_is_not_held_is_refused_to_the_requester_under_its_grant() {
    let refusal = Pcm::Response {
        request: request(2, 1),
        verdict: Verdict::NotHolder,
        mode: Mode::X,
        grant: GrantNumber(4),
        version: Lsn::ZERO,
        acks: 0,
        dirty: false,
        unsaved: false,
        past: false,
        writer: InstanceId(1),
    };
    let mut grd = grd(1);
    for count in 1..=2 {
        let effects = run(&mut grd, ship(Mode::X));
        assert_eq!(sent(&effects), [refusal]);
        assert_eq!(grd.anomalies().not_holder, count);
        let past = Pcm::Ship {
            request: request(2, 1),
            want: Mode::X,
            grant: GrantNumber(4),
            revokes: GrantNumber(3),
            acks: 0,
            past: true,
        };
        let mut keeps_none = super::grd(1);
        assert_eq!(sent(&run(&mut keeps_none, message(0, past))), [refusal]);
        assert_eq!(keeps_none.anomalies().not_holder, 1);
        assert_eq!(keeps_none.holding(&tag()), None, "nothing is left of it");
    }
}

#[test]
fn a_past_image_is_shipped_as_one_and_kept() {
    let mut grd = super::keeper();
    let (request, want, grant) = (request(2, 7), Mode::X, GrantNumber(6));
    let ship = Pcm::Ship { request, want, grant, revokes: GrantNumber(5), acks: 0b1, past: true };
    let effects = run(&mut grd, message(0, ship));
    let message = Pcm::Response {
        request,
        verdict: Verdict::Page,
        mode: want,
        grant,
        version: Lsn(9),
        acks: 0b1,
        dirty: false,
        unsaved: false,
        past: true,
        writer: InstanceId(1),
    };
    let (to, epoch) = (InstanceId(2), pagewire_protocol::Epoch(1));
    assert_eq!(effects, [Effect::ShipPastImage { to, tag: tag(), epoch, message }]);
    assert_eq!(grd.holding(&tag()).unwrap().past_image, Some(Lsn(9)));
}

#[test]
fn a_revocation_of_a_grant_that_has_been_superseded_is_answered_from_what_it_named() {
    // It names grant 2; grant 3 is held, and stays.
    let mut grd = holder(Mode::S, false, false);
    let effects = run(&mut grd, invalidate(3));
    let gone = Pcm::Invalidated { request: request(2, 1), grant: GrantNumber(3), dirty: false };
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert_eq!(sent(&effects), [gone]);
    assert_eq!(grd.holding(&tag()).unwrap().mode, Mode::S);
    assert_eq!(grd.anomalies().not_holder, 1);
}

#[test]
fn a_parked_revocation_is_answered_when_the_request_ends_without_a_grant() {
    let mut grd = asking(Mode::S);
    assert_eq!(run(&mut grd, invalidate(4)), []);
    run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(1) });
    let effects = run(&mut grd, message(0, answer(1, Verdict::Cancelled, Mode::S, 0, 0)));
    let gone = Pcm::Invalidated { request: request(2, 1), grant: GrantNumber(4), dirty: false };
    assert_eq!(sent(&effects), [gone]);
    assert_eq!(grd.holding(&tag()), None);
}

#[test]
fn a_shipped_page_is_in_transit_until_its_own_claim_is_confirmed() {
    let mut grd = holder(Mode::X, true, false);
    run(&mut grd, ship(Mode::X));
    let effects = run(&mut grd, drained(Mode::N, 9, 0));
    let expected = Pcm::Response {
        request: request(2, 1),
        verdict: Verdict::Page,
        mode: Mode::X,
        grant: GrantNumber(4),
        version: Lsn(9),
        acks: 0,
        dirty: true,
        unsaved: false,
        past: false,
        writer: InstanceId(1),
    };
    let (to, epoch) = (InstanceId(2), pagewire_protocol::Epoch(1));
    let shipped = Effect::Ship { to, tag: tag(), epoch, message: expected, keep: false };
    assert_eq!(effects, [shipped]);
    let claimed = |sequence, grant| {
        message(0, Pcm::Claimed { request: request(2, sequence), grant: GrantNumber(grant) })
    };
    assert_eq!(run(&mut grd, claimed(2, 4)), []);
    assert_eq!(run(&mut grd, claimed(1, 5)), []);
    assert!(grd.holding(&tag()).unwrap().in_transit);
    let effects = run(&mut grd, claimed(1, 4));
    assert_eq!(effects, [Effect::ToPastImage { tag: tag(), grant: GrantNumber(4) }]);
    assert_eq!(grd.holding(&tag()).unwrap().past_image, Some(Lsn(9)));
    // A clean one is of no use any more.
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::X));
    let (dirty, version, flush) = (false, Lsn(7), Lsn::ZERO);
    run(&mut grd, Event::Drained { tag: tag(), to: Mode::N, dirty, version, flush });
    let effects = run(&mut grd, claimed(1, 4));
    assert_eq!(effects, [Effect::Forget { tag: tag(), grant: GrantNumber(4) }]);
    assert_eq!(grd.holding(&tag()), None);
}
