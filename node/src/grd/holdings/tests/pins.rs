//! Local threads: who is completed when, how far pins are lowered for it, and what a thread that
//! waits is worth against a revocation, a write and an eviction.

use super::{drained, has, holder, invalidate, response, sent, ship};
use crate::grd::{
    AcquireError, Effect, Event, GrantPath, Grd, WaiterId,
    tests::{grd, message, request, run, tag},
};
use pagewire_protocol::{GrantNumber, Lsn, Mode, Pcm};

fn wants(mode: Mode, waiter: u64) -> Event {
    Event::Acquire { tag: tag(), mode, waiter: WaiterId(waiter), recovery: false }
}

fn redo(waiter: u64) -> Event {
    Event::Acquire { tag: tag(), mode: Mode::X, waiter: WaiterId(waiter), recovery: true }
}

fn withdraw(waiter: u64) -> Event {
    Event::Withdraw { tag: tag(), waiter: WaiterId(waiter) }
}

fn complete(waiter: u64, mode: Mode, path: GrantPath) -> Effect {
    Effect::Complete { waiter: WaiterId(waiter), tag: tag(), mode, path }
}

fn lower(to: Mode) -> Effect {
    Effect::Lower { tag: tag(), to }
}

fn open(mode: Mode) -> Effect {
    Effect::Open { tag: tag(), mode }
}

/// Pins are lowered; the page is as it came.
fn clean(to: Mode) -> Event {
    Event::Drained { tag: tag(), to, dirty: false, version: Lsn(7), flush: Lsn::ZERO }
}

/// What is done for threads, in order.
fn for_threads(effects: Vec<Effect>) -> Vec<Effect> {
    let is_for = |e: &Effect| {
        matches!(e, Effect::Complete { .. } | Effect::Lower { .. } | Effect::Open { .. })
    };
    effects.into_iter().filter(is_for).collect()
}

/// Instance 1, whose threads want the page in these modes; then it is granted.
fn granted(mode: Mode, modes: &[Mode]) -> (Grd, Vec<Effect>) {
    let mut grd = grd(1);
    for (&wanted, waiter) in modes.iter().zip(1..) {
        run(&mut grd, wants(wanted, waiter));
    }
    let effects = run(&mut grd, message(0, response(3, mode, false, false)));
    (grd, for_threads(effects))
}

// ---- completing --------------------------------------------------------------------------------

#[test]
fn readers_are_completed_together_and_others_may_then_pin_by_themselves() {
    let (_, effects) = granted(Mode::S, &[Mode::S, Mode::S, Mode::S]);
    let two_way = |waiter| complete(waiter, Mode::S, GrantPath::TwoWay);
    assert_eq!(effects, [two_way(1), two_way(2), two_way(3), open(Mode::S)]);
}

#[test]
fn a_writer_is_completed_alone_and_those_behind_it_wait_for_its_pin() {
    let (mut grd, effects) = granted(Mode::X, &[Mode::X, Mode::S, Mode::S, Mode::X, Mode::S]);
    assert_eq!(effects, [complete(1, Mode::X, GrantPath::TwoWay), lower(Mode::S)]);
    let local = |waiter, mode| complete(waiter, mode, GrantPath::Local);
    let effects = run(&mut grd, drained(Mode::S, 8, 0));
    assert_eq!(effects, [local(2, Mode::S), local(3, Mode::S), lower(Mode::N)]);
    let effects = run(&mut grd, drained(Mode::N, 8, 0));
    assert_eq!(effects, [local(4, Mode::X), lower(Mode::S)]);
    let effects = run(&mut grd, drained(Mode::S, 9, 0));
    assert_eq!(effects, [local(5, Mode::S), open(Mode::X)]);
}

#[test]
fn a_writer_waits_for_readers_pins_and_a_reader_only_for_a_writers() {
    for (wanted, to) in [(Mode::X, Mode::N), (Mode::S, Mode::S)] {
        let mut grd = holder(Mode::X, false, false);
        assert_eq!(run(&mut grd, wants(wanted, 2)), [lower(to)]);
        assert_eq!(run(&mut grd, wants(Mode::S, 3)), [], "one thing at a time");
        let effects = run(&mut grd, clean(to));
        assert_eq!(effects[0], complete(2, wanted, GrantPath::Local));
    }
}

#[test]
fn a_writer_is_completed_neither_beside_readers_nor_while_their_pins_are_out() {
    // All pins are drained, and readers are before it.
    let mut grd = grd(1);
    for (mode, waiter) in [(Mode::X, 1), (Mode::S, 2), (Mode::X, 3)] {
        run(&mut grd, wants(mode, waiter));
    }
    run(&mut grd, withdraw(1));
    let effects = run(&mut grd, message(0, response(3, Mode::X, false, false)));
    let two_way = complete(2, Mode::S, GrantPath::TwoWay);
    assert_eq!(for_threads(effects), [two_way, lower(Mode::N)]);
    // Pins were lowered for a reader that has withdrawn.
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, wants(Mode::S, 2));
    run(&mut grd, wants(Mode::X, 3));
    run(&mut grd, withdraw(2));
    assert_eq!(run(&mut grd, clean(Mode::S)), [lower(Mode::N)]);
    assert_eq!(run(&mut grd, clean(Mode::N))[0], complete(3, Mode::X, GrantPath::Local));
}

#[test]
fn who_wants_more_than_is_held_asks_for_it_once() {
    let mut grd = holder(Mode::S, false, false);
    let asks = run(&mut grd, wants(Mode::X, 2));
    let want = Mode::X;
    let expected = Pcm::Acquire { request: request(1, 2), want, recovery: false };
    let is_it = |e: &Effect| matches!(e, Effect::Request { message, .. } if *message == expected);
    assert!(asks.len() == 1 && is_it(&asks[0]), "{asks:?}");
    assert_eq!(run(&mut grd, wants(Mode::X, 3)), [], "it waits behind");
}

#[test]
fn late_news_of_pins_are_no_news() {
    let mut grd = holder(Mode::X, false, false);
    assert_eq!(run(&mut grd, drained(Mode::N, 9, 9)), []);
    let view = grd.holding(&tag()).unwrap();
    assert!(!view.dirty && view.version == Lsn(7) && !view.busy, "{view:?}");
    let mut none = super::grd(1);
    assert_eq!(run(&mut none, drained(Mode::N, 9, 9)), []);
    assert_eq!(none.holding(&tag()), None);
}

#[test]
fn a_change_makes_this_instance_the_pages_recent_writer() {
    let mut grd = holder(Mode::X, false, false);
    assert_eq!(grd.holding(&tag()).unwrap().writer.0, 2, "as it came");
    run(&mut grd, wants(Mode::S, 2));
    run(&mut grd, clean(Mode::S));
    assert_eq!(grd.holding(&tag()).unwrap().writer.0, 2, "nothing was changed");
    run(&mut grd, wants(Mode::X, 3));
    run(&mut grd, drained(Mode::N, 8, 0));
    let view = grd.holding(&tag()).unwrap();
    assert_eq!((view.writer.0, view.version, view.dirty), (1, Lsn(8), true));
}

#[test]
fn what_is_under_way_can_be_seen() {
    let mut grd = holder(Mode::X, false, false);
    let seen = |grd: &Grd| {
        let view = grd.holding(&tag()).unwrap();
        (view.activity, view.busy, view.pending, view.releasing, view.in_transit)
    };
    assert_eq!(seen(&grd), ("idle", false, false, false, false));
    run(&mut grd, Event::Evict { tag: tag() });
    assert_eq!(seen(&grd), ("draining", true, false, false, false));
    run(&mut grd, drained(Mode::N, 9, 5));
    assert_eq!(seen(&grd), ("flushing", true, false, false, false));
    run(&mut grd, Event::Flushed { up_to: Lsn(5) });
    assert_eq!(seen(&grd), ("writing", true, false, false, false));
    run(&mut grd, Event::WriteDone { tag: tag(), version: Lsn(9), written: true });
    assert_eq!(seen(&grd), ("releasing", true, false, true, false));
    run(&mut grd, wants(Mode::X, 2));
    run(&mut grd, message(0, Pcm::Released { grant: GrantNumber(3) }));
    assert_eq!(seen(&grd), ("idle", true, true, false, false));
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::X));
    run(&mut grd, clean(Mode::N));
    assert_eq!(seen(&grd), ("idle", false, false, false, true));
}

// ---- withdrawing -------------------------------------------------------------------------------

#[test]
fn who_withdraws_is_told_and_the_request_goes_on_for_those_who_wait() {
    let mut grd = grd(1);
    for waiter in 1..=2 {
        run(&mut grd, wants(Mode::S, waiter));
    }
    let failed = |waiter| Effect::Fail { waiter: WaiterId(waiter), tag: tag(), error: None };
    assert_eq!(run(&mut grd, withdraw(3)), [], "nobody waits so");
    assert_eq!(run(&mut grd, withdraw(1)), [failed(1)]);
    assert_eq!(run(&mut grd, withdraw(1)), [], "it does no more");
    let effects = run(&mut grd, withdraw(2));
    assert_eq!(effects[0], failed(2));
    assert_eq!(sent(&effects), [Pcm::Cancel { request: request(1, 1) }]);
    // The grant comes nevertheless: it is kept, for whoever wants it next.
    let effects = run(&mut grd, message(0, response(3, Mode::S, false, false)));
    assert_eq!(for_threads(effects), [open(Mode::S)]);
}

#[test]
fn a_request_is_cancelled_once_and_not_when_its_grant_is_there() {
    let mut grd = grd(1);
    run(&mut grd, wants(Mode::X, 1));
    assert_eq!(sent(&run(&mut grd, withdraw(1))).len(), 1);
    run(&mut grd, wants(Mode::X, 2));
    assert_eq!(sent(&run(&mut grd, withdraw(2))), [], "it was cancelled already");
    let mut grd = super::grd(1);
    run(&mut grd, wants(Mode::X, 1));
    let mut grant = response(3, Mode::X, false, false);
    if let Pcm::Response { acks, .. } = &mut grant {
        *acks = 0b100;
    }
    run(&mut grd, message(0, grant));
    assert_eq!(sent(&run(&mut grd, withdraw(1))), [], "an acknowledgement is still to come");
    let invalidated =
        Pcm::Invalidated { request: request(1, 1), grant: GrantNumber(3), dirty: false };
    let effects = run(&mut grd, message(2, invalidated));
    assert!(sent(&effects).iter().any(|m| matches!(m, Pcm::Claim { .. })), "{effects:?}");
    assert!(has(&effects, |e| matches!(e, Effect::Open { mode: Mode::X, .. })), "{effects:?}");
}

// ---- against revocations -----------------------------------------------------------------------

#[test]
fn a_grant_is_of_use_to_its_first_waiter_before_it_is_revoked() {
    // The revocation comes while a reader's pin is lowered for the writer's upgrade.
    let mut grd = holder(Mode::S, false, false);
    run(&mut grd, wants(Mode::X, 2));
    let (version, acks, dirty, unsaved, past) = (Lsn::ZERO, 0, false, false, false);
    let held = Pcm::Response {
        request: request(1, 2),
        verdict: pagewire_protocol::pcm::Verdict::Held,
        mode: Mode::X,
        grant: GrantNumber(4),
        version,
        acks,
        dirty,
        unsaved,
        past,
        writer: pagewire_protocol::InstanceId(0),
    };
    let effects = run(&mut grd, message(0, held));
    assert_eq!(for_threads(effects), [lower(Mode::N)]);
    run(&mut grd, wants(Mode::X, 3));
    let revoked = Pcm::Ship {
        request: request(2, 1),
        want: Mode::X,
        grant: GrantNumber(5),
        revokes: GrantNumber(4),
        acks: 0,
        past: false,
    };
    assert_eq!(run(&mut grd, message(0, revoked)), []);
    let effects = run(&mut grd, clean(Mode::N));
    assert_eq!(effects, [complete(2, Mode::X, GrantPath::TwoWay), lower(Mode::N)]);
    let effects = run(&mut grd, drained(Mode::N, 8, 0));
    assert!(has(&effects, |e| matches!(e, Effect::Ship { keep: false, .. })), "{effects:?}");
    let asks = |e: &Effect| matches!(e, Effect::Request { .. });
    assert!(has(&effects, asks), "the one behind it asks anew: {effects:?}");
}

#[test]
fn a_revocation_comes_before_threads_that_the_grant_was_not_for() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, wants(Mode::X, 2));
    run(&mut grd, ship(Mode::X));
    let effects = run(&mut grd, drained(Mode::N, 8, 0));
    assert!(!has(&effects, |e| matches!(e, Effect::Complete { .. })), "{effects:?}");
    assert!(has(&effects, |e| matches!(e, Effect::Ship { keep: false, .. })), "{effects:?}");
}

#[test]
fn pins_are_lowered_as_far_as_a_revocation_needs() {
    // A reader leaves the page readable here; what was lowered for a reader is not enough for X.
    for (mode, revocation, first) in [
        (Mode::X, ship(Mode::S), Some(Mode::S)),
        (Mode::X, ship(Mode::X), Some(Mode::N)),
        (Mode::S, ship(Mode::S), None),
        (Mode::S, invalidate(4), Some(Mode::N)),
    ] {
        let mut grd = holder(mode, false, false);
        let effects = run(&mut grd, revocation);
        match first {
            Some(to) => assert_eq!(effects, [lower(to)]),
            None => {
                assert!(has(&effects, |e| matches!(e, Effect::Ship { keep: true, .. })));
            }
        }
    }
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, wants(Mode::S, 2));
    run(&mut grd, ship(Mode::X));
    assert_eq!(run(&mut grd, clean(Mode::S)), [lower(Mode::N)]);
}

// ---- redo --------------------------------------------------------------------------------------

#[test]
fn redo_of_a_page_that_is_held_and_on_storage_is_not_needed() {
    let not_lost = |waiter| {
        let error = Some(AcquireError::NotLost { tag: tag() });
        Effect::Fail { waiter: WaiterId(waiter), tag: tag(), error }
    };
    for (mode, dirty) in [(Mode::S, false), (Mode::S, true), (Mode::X, true)] {
        assert_eq!(run(&mut holder(mode, dirty, false), redo(2)), [not_lost(2)]);
    }
}

#[test]
fn redo_comes_before_those_who_would_see_the_page_without_it() {
    let mut grd = grd(1);
    run(&mut grd, redo(1));
    run(&mut grd, wants(Mode::S, 2));
    run(&mut grd, redo(3));
    let effects = run(&mut grd, message(0, response(3, Mode::X, false, false)));
    let effects = for_threads(effects);
    assert_eq!(effects, [complete(3, Mode::X, GrantPath::TwoWay), lower(Mode::N)]);
}

// ---- writing and evicting ----------------------------------------------------------------------

#[test]
fn a_page_that_is_written_back_is_as_usable_as_before() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, Event::WriteBack { tag: tag() });
    run(&mut grd, drained(Mode::S, 9, 0));
    let done = Event::WriteDone { tag: tag(), version: Lsn(9), written: true };
    let effects = run(&mut grd, done);
    let written = Pcm::Written { grant: GrantNumber(3), version: Lsn(9) };
    assert_eq!(sent(&effects), [written]);
    assert_eq!(for_threads(effects), [open(Mode::X)]);
    assert!(!grd.holding(&tag()).unwrap().dirty);
    // Nothing is to be written of a clean page, and nothing of one that is not held.
    assert_eq!(run(&mut grd, Event::WriteBack { tag: tag() }), [lower(Mode::S)]);
    let effects = run(
        &mut grd,
        Event::Drained { tag: tag(), to: Mode::S, dirty: false, version: Lsn(9), flush: Lsn::ZERO },
    );
    assert_eq!(effects, [open(Mode::X)]);
    assert_eq!(run(&mut holder(Mode::S, false, false), Event::WriteBack { tag: tag() }), []);
    let mut none = super::grd(1);
    run(&mut none, wants(Mode::S, 1));
    assert_eq!(run(&mut none, Event::WriteBack { tag: tag() }), []);
}

#[test]
fn what_is_dirty_and_held_s_is_written_while_it_is_read() {
    let mut grd = holder(Mode::S, true, false);
    let effects = run(&mut grd, Event::WriteBack { tag: tag() });
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(7) }]);
    assert_eq!(run(&mut grd, wants(Mode::S, 2)), [], "behind the write");
    assert_eq!(run(&mut grd, invalidate(4)), [], "an old version never lands on a newer one");
    let done = Event::WriteDone { tag: tag(), version: Lsn(7), written: true };
    let effects = run(&mut grd, done);
    assert!(effects.contains(&lower(Mode::N)), "{effects:?}");
    assert!(!has(&effects, |e| matches!(e, Effect::Open { .. })), "{effects:?}");
    let effects = run(&mut grd, clean(Mode::N));
    let gone = Pcm::Invalidated { request: request(2, 1), grant: GrantNumber(4), dirty: false };
    assert!(sent(&effects).contains(&gone), "{effects:?}");
}

#[test]
fn a_page_that_somebody_wants_is_not_evicted() {
    // Wanted while pins are drained, and while it is written.
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, Event::Evict { tag: tag() });
    run(&mut grd, wants(Mode::S, 2));
    let effects = run(&mut grd, clean(Mode::N));
    assert_eq!(effects, [complete(2, Mode::S, GrantPath::Local), open(Mode::X)]);
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, Event::Evict { tag: tag() });
    run(&mut grd, drained(Mode::N, 9, 0));
    run(&mut grd, wants(Mode::S, 2));
    let done = Event::WriteDone { tag: tag(), version: Lsn(9), written: true };
    let effects = run(&mut grd, done);
    assert!(!sent(&effects).iter().any(|m| matches!(m, Pcm::Release { .. })), "{effects:?}");
    assert_eq!(grd.holding(&tag()).unwrap().mode, Mode::X);
}

#[test]
fn a_page_whose_write_failed_is_not_evicted() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, Event::Evict { tag: tag() });
    run(&mut grd, drained(Mode::N, 9, 0));
    let done = Event::WriteDone { tag: tag(), version: Lsn(9), written: false };
    assert_eq!(run(&mut grd, done), [open(Mode::X)]);
    let view = grd.holding(&tag()).unwrap();
    assert!(view.dirty && view.mode == Mode::X && !view.busy, "{view:?}");
}

#[test]
fn only_a_page_that_is_held_and_at_rest_is_evicted() {
    let evict = || Event::Evict { tag: tag() };
    assert_eq!(run(&mut grd(1), evict()), []);
    let mut asking = grd(1);
    run(&mut asking, wants(Mode::S, 1));
    assert_eq!(run(&mut asking, evict()), []);
    let effects = run(&mut asking, message(0, response(3, Mode::S, false, false)));
    assert!(!effects.contains(&lower(Mode::N)), "it is not remembered: {effects:?}");
    let mut upgrading = holder(Mode::S, false, false);
    run(&mut upgrading, wants(Mode::X, 2));
    assert_eq!(run(&mut upgrading, evict()), []);
    let mut busy = holder(Mode::S, true, false);
    run(&mut busy, Event::WriteBack { tag: tag() });
    assert_eq!(run(&mut busy, evict()), []);
    let done = Event::WriteDone { tag: tag(), version: Lsn(7), written: true };
    assert!(!run(&mut busy, done).contains(&lower(Mode::N)));
}

#[test]
fn clean_pages_are_released_without_a_write() {
    let mut grd = holder(Mode::S, false, false);
    run(&mut grd, Event::Evict { tag: tag() });
    let effects = run(&mut grd, clean(Mode::N));
    let (grant, version) = (GrantNumber(3), Lsn(7));
    assert_eq!(sent(&effects), [Pcm::Release { grant, version }]);
    assert_eq!(effects.len(), 1, "{effects:?}");
    // Threads that come now wait, and ask anew once it is gone.
    assert_eq!(run(&mut grd, wants(Mode::S, 2)), []);
    let effects = run(&mut grd, message(0, Pcm::Released { grant }));
    assert_eq!(effects[0], Effect::Drop { tag: tag() });
    assert!(has(&effects, |e| matches!(e, Effect::Request { .. })), "{effects:?}");
}

#[test]
fn a_page_that_is_being_released_is_served_to_whoever_has_it_revoked() {
    for (revocation, ships) in
        [(ship(Mode::X), true), (ship(Mode::S), true), (invalidate(4), false)]
    {
        let mut grd = holder(Mode::S, false, false);
        run(&mut grd, Event::Evict { tag: tag() });
        run(&mut grd, clean(Mode::N));
        let effects = run(&mut grd, revocation);
        assert_eq!(has(&effects, |e| matches!(e, Effect::Ship { .. })), ships, "{effects:?}");
        let gone = |m: &Pcm| matches!(m, Pcm::Invalidated { dirty: false, .. });
        assert_eq!(sent(&effects).iter().any(gone), !ships, "{effects:?}");
        assert!(
            !has(&effects, |e| matches!(e, Effect::Open { .. })),
            "nobody may pin: {effects:?}"
        );
    }
}

#[test]
fn redo_that_is_durable_already_is_not_waited_for() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, Event::Flushed { up_to: Lsn(50) });
    run(&mut grd, Event::Flushed { up_to: Lsn(40) });
    run(&mut grd, Event::WriteBack { tag: tag() });
    let effects = run(&mut grd, drained(Mode::S, 9, 50));
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(9) }]);
    // One more change: its redo is not.
    run(&mut grd, Event::WriteDone { tag: tag(), version: Lsn(9), written: true });
    run(&mut grd, Event::WriteBack { tag: tag() });
    let effects = run(&mut grd, drained(Mode::S, 10, 51));
    assert_eq!(effects, [Effect::Flush { tag: tag(), to: Lsn(51) }]);
}

#[test]
fn a_page_held_s_waits_for_its_redo_too() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::S));
    run(&mut grd, Event::Flushed { up_to: Lsn(50) });
    run(&mut grd, drained(Mode::S, 9, 50));
    // The log's own account of the page stays: written later, it needs no more.
    let effects = run(&mut grd, Event::WriteBack { tag: tag() });
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(9) }]);
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, wants(Mode::S, 2));
    run(&mut grd, drained(Mode::S, 9, 50));
    run(&mut grd, ship(Mode::S));
    let effects = run(&mut grd, drained(Mode::S, 9, 50));
    assert_eq!(effects, [Effect::Flush { tag: tag(), to: Lsn(50) }]);
    let effects = run(&mut grd, Event::Flushed { up_to: Lsn(50) });
    assert!(has(&effects, |e| matches!(e, Effect::Ship { keep: true, .. })), "{effects:?}");
}

#[test]
fn each_page_that_waits_for_the_log_goes_on_when_its_own_redo_is_durable() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, Event::WriteBack { tag: tag() });
    run(&mut grd, drained(Mode::S, 9, 50));
    assert_eq!(run(&mut grd, Event::Flushed { up_to: Lsn(30) }), []);
    assert_eq!(run(&mut grd, Event::Flushed { up_to: Lsn(49) }), []);
    let effects = run(&mut grd, Event::Flushed { up_to: Lsn(51) });
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(9) }]);
    assert_eq!(run(&mut grd, Event::Flushed { up_to: Lsn(60) }), [], "once");
}
