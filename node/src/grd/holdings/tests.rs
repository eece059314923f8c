//! Past images and the log, at a holder: what is kept, what is written, and what waits for redo.

use crate::grd::{
    Effect, Event, Grd, WaiterId,
    tests::{grd, message, request, run, tag, view},
};
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict};
use std::sync::Arc;

fn response(grant: u64, mode: Mode, dirty: bool, unsaved: bool) -> Pcm {
    Pcm::Response {
        request: request(1, 1),
        verdict: Verdict::Page,
        mode,
        grant: GrantNumber(grant),
        version: Lsn(7),
        acks: 0,
        dirty,
        unsaved,
        past: false,
        writer: InstanceId(2),
    }
}

/// Instance 1, which holds the page under grant 3, version 7, and of which no pin is out.
fn holder(mode: Mode, dirty: bool, unsaved: bool) -> Grd {
    let mut grd = grd(1);
    let waiter = WaiterId(1);
    run(&mut grd, Event::Acquire { tag: tag(), mode, waiter, recovery: false });
    run(&mut grd, message(0, response(3, mode, dirty, unsaved)));
    assert_eq!(grd.holding(&tag()).unwrap().mode, mode);
    grd
}

fn invalidate(grant: u64) -> Event {
    let (grant, revokes) = (GrantNumber(grant), GrantNumber(grant - 1));
    message(0, Pcm::Invalidate { request: request(2, 1), grant, revokes })
}

fn ship(want: Mode) -> Event {
    let (grant, revokes) = (GrantNumber(4), GrantNumber(3));
    let request = request(2, 1);
    message(0, Pcm::Ship { request, want, grant, revokes, acks: 0, past: false })
}

fn drained(to: Mode, version: u64, flush: u64) -> Event {
    Event::Drained { tag: tag(), to, dirty: true, version: Lsn(version), flush: Lsn(flush) }
}

fn sent(effects: &[Effect]) -> Vec<Pcm> {
    let message =
        |e: &Effect| if let Effect::Send { message, .. } = e { Some(*message) } else { None };
    effects.iter().filter_map(message).collect()
}

fn has(effects: &[Effect], wanted: fn(&Effect) -> bool) -> bool {
    effects.iter().any(wanted)
}

/// Instance 1, which keeps a past image of version 9: it was invalidated with the page dirty.
fn keeper() -> Grd {
    let mut grd = holder(Mode::S, true, false);
    run(&mut grd, invalidate(4));
    let effects = run(&mut grd, drained(Mode::N, 9, 0));
    assert!(sent(&effects).iter().any(|m| matches!(m, Pcm::Invalidated { dirty: true, .. })));
    assert!(effects.contains(&Effect::KeepPastImage { tag: tag(), version: Lsn(9) }));
    assert_eq!(grd.holding(&tag()).unwrap().past_image, Some(Lsn(9)));
    grd
}

#[test]
fn a_past_image_goes_when_its_version_or_a_newer_one_is_on_storage() {
    for (version, goes) in [(8, false), (9, true), (10, true)] {
        let mut grd = keeper();
        let version = Lsn(version);
        let effects = run(&mut grd, message(0, Pcm::Discard { version }));
        let dropped = Effect::DropPastImage { tag: tag(), version: Lsn(9) };
        assert_eq!(effects.contains(&dropped), goes, "{effects:?}");
        assert_eq!(sent(&effects).contains(&Pcm::Discarded { version }), goes, "{effects:?}");
        assert_eq!(grd.holding(&tag()).is_none(), goes);
    }
}

#[test]
fn a_discard_of_what_is_not_kept_is_answered() {
    let effects = run(&mut grd(1), message(0, Pcm::Discard { version: Lsn(4) }));
    assert_eq!(sent(&effects), [Pcm::Discarded { version: Lsn(4) }]);
}

#[test]
fn whoever_wants_its_past_image_gone_asks_for_its_version() {
    let effects = run(&mut keeper(), Event::PastImageWanted { tag: tag() });
    assert_eq!(sent(&effects), [Pcm::WriteRequest { version: Lsn(9) }]);
    assert_eq!(run(&mut grd(1), Event::PastImageWanted { tag: tag() }), []);
}

#[test]
fn a_keeper_that_is_to_write_asks_for_the_page_first() {
    let effects = run(&mut keeper(), message(0, Pcm::Write { version: Lsn(2) }));
    let asks = |e: &Effect| {
        matches!(e, Effect::Request { message: Pcm::Acquire { want: Mode::S, .. }, .. })
    };
    assert!(has(&effects, asks), "{effects:?}");
    assert_eq!(run(&mut grd(1), message(0, Pcm::Write { version: Lsn(2) })), []);
}

#[test]
fn only_who_knows_its_copy_on_storage_says_that_it_is_written() {
    let asked = || message(0, Pcm::Write { version: Lsn(2) });
    let effects = run(&mut holder(Mode::S, false, true), asked());
    assert_eq!(sent(&effects), [Pcm::WriteRequest { version: Lsn(7) }], "another has to write it");
    let effects = run(&mut holder(Mode::S, false, false), asked());
    let written = Pcm::Written { grant: GrantNumber(3), version: Lsn(7) };
    assert_eq!(sent(&effects), [written]);
    let mut dirty = holder(Mode::S, true, false);
    let effects = run(&mut dirty, asked());
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(7) }]);
    let done = Event::WriteDone { tag: tag(), version: Lsn(7), written: true };
    assert_eq!(sent(&run(&mut dirty, done)), [written]);
}

#[test]
fn a_write_that_failed_leaves_the_page_dirty() {
    let mut grd = holder(Mode::S, true, false);
    run(&mut grd, Event::WriteBack { tag: tag() });
    let failed = Event::WriteDone { tag: tag(), version: Lsn(7), written: false };
    assert_eq!(sent(&run(&mut grd, failed)), []);
    assert!(grd.holding(&tag()).unwrap().dirty);
}

#[test]
fn a_dirty_page_is_shipped_when_its_redo_is_durable() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::X));
    let effects = run(&mut grd, drained(Mode::N, 9, 50));
    assert_eq!(effects, [Effect::Flush { tag: tag(), to: Lsn(50) }]);
    assert_eq!(run(&mut grd, Event::Flushed { up_to: Lsn(49) }), []);
    let effects = run(&mut grd, Event::Flushed { up_to: Lsn(50) });
    let ships = |e: &Effect| {
        let whole = |version: Lsn, dirty: bool| version == Lsn(9) && dirty;
        matches!(e, Effect::Ship { keep: false, message: Pcm::Response { version, dirty, .. }, .. }
            if whole(*version, *dirty))
    };
    assert!(has(&effects, ships), "{effects:?}");
    assert!(grd.holding(&tag()).unwrap().in_transit);
}

#[test]
fn a_page_that_is_shipped_to_a_reader_stays_dirty_here_and_is_unsaved_there() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::S));
    let effects = run(&mut grd, drained(Mode::S, 9, 0));
    let ships = |e: &Effect| {
        let reads = |dirty: bool, unsaved: bool| unsaved && !dirty;
        matches!(e, Effect::Ship { keep: true, message: Pcm::Response { dirty, unsaved, .. }, .. }
            if reads(*dirty, *unsaved))
    };
    assert!(has(&effects, ships), "{effects:?}");
    let view = grd.holding(&tag()).unwrap();
    assert_eq!((view.mode, view.dirty, view.version), (Mode::S, true, Lsn(9)));
}

#[test]
fn a_page_is_evicted_in_the_order_log_storage_master() {
    let mut grd = holder(Mode::X, false, false);
    let effects = run(&mut grd, Event::Evict { tag: tag() });
    assert_eq!(effects, [Effect::Lower { tag: tag(), to: Mode::N }]);
    let effects = run(&mut grd, drained(Mode::N, 9, 50));
    assert_eq!(effects, [Effect::Flush { tag: tag(), to: Lsn(50) }]);
    let effects = run(&mut grd, Event::Flushed { up_to: Lsn(60) });
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(9) }]);
    let done = Event::WriteDone { tag: tag(), version: Lsn(9), written: true };
    let (grant, version) = (GrantNumber(3), Lsn(9));
    let expected = [Pcm::Written { grant, version }, Pcm::Release { grant, version }];
    assert_eq!(sent(&run(&mut grd, done)), expected);
    assert!(grd.holding(&tag()).unwrap().releasing);
    let old = message(0, Pcm::Released { grant: GrantNumber(2) });
    assert_eq!(run(&mut grd, old), [], "of an earlier release");
    let effects = run(&mut grd, message(0, Pcm::Released { grant }));
    assert_eq!(effects, [Effect::Drop { tag: tag() }]);
    assert_eq!(grd.holding(&tag()), None);
}

#[test]
fn a_page_is_written_back_when_its_redo_is_durable() {
    let mut grd = holder(Mode::X, false, false);
    let effects = run(&mut grd, Event::WriteBack { tag: tag() });
    assert_eq!(effects, [Effect::Lower { tag: tag(), to: Mode::S }]);
    let effects = run(&mut grd, drained(Mode::S, 9, 50));
    assert_eq!(effects, [Effect::Flush { tag: tag(), to: Lsn(50) }]);
    let effects = run(&mut grd, Event::Flushed { up_to: Lsn(50) });
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(9) }]);
}

#[test]
fn a_query_is_a_cut_and_what_is_below_its_fence_is_refused() {
    let mut grd = holder(Mode::S, true, false);
    let effects = run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(6) }));
    let [Pcm::Report { fence: GrantNumber(6), report }] = sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((report.mode, report.dirty, report.version), (Mode::S, true, Lsn(7)));
    assert_eq!(run(&mut grd, invalidate(5)), [], "of before the query");
    assert_eq!(grd.fenced().late, 1);
    let effects = run(&mut grd, invalidate(7));
    assert_eq!(effects, [Effect::Lower { tag: tag(), to: Mode::N }]);
}

#[test]
fn a_shipped_copy_is_held_again_when_the_master_says_so_else_it_is_a_past_image() {
    for (mode, again) in [(Mode::S, true), (Mode::N, false)] {
        let mut grd = holder(Mode::X, false, false);
        run(&mut grd, ship(Mode::X));
        run(&mut grd, drained(Mode::N, 9, 0));
        let effects = run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(6) }));
        let [Pcm::Report { report, .. }] = sent(&effects)[..] else { panic!("{effects:?}") };
        let transit = report.transit.unwrap();
        assert_eq!((transit.to, transit.version, transit.dirty), (InstanceId(2), Lsn(9), true));
        let grant = GrantNumber(7);
        let effects = run(&mut grd, message(0, Pcm::Assign { mode, grant, dirty: again }));
        assert!(sent(&effects).contains(&Pcm::Assigned { grant }), "{effects:?}");
        assert_eq!(has(&effects, |e| matches!(e, Effect::Reinstate { dirty: true, .. })), again);
        assert_eq!(has(&effects, |e| matches!(e, Effect::ToPastImage { .. })), !again);
        let view = grd.holding(&tag()).unwrap();
        assert_eq!((view.mode, view.dirty, view.in_transit), (mode, again, false));
        assert_eq!(view.past_image, (!again).then_some(Lsn(9)));
    }
}

#[test]
fn whoever_is_told_the_duty_to_write_has_it() {
    let mut grd = holder(Mode::S, false, true);
    run(&mut grd, message(0, Pcm::Query { fence: GrantNumber(6) }));
    let (mode, grant) = (Mode::S, GrantNumber(7));
    let effects = run(&mut grd, message(0, Pcm::Assign { mode, grant, dirty: true }));
    assert!(effects.contains(&Effect::MarkDirty { tag: tag() }), "{effects:?}");
    let view = grd.holding(&tag()).unwrap();
    assert!(view.dirty && !view.unsaved);
}

#[test]
fn the_duty_that_is_assigned_is_of_the_copy_that_is_held_beside_one_in_transit() {
    let mut grd = holder(Mode::X, true, false);
    run(&mut grd, ship(Mode::X));
    let effects = run(&mut grd, drained(Mode::N, 8, 0));
    assert!(has(&effects, |e| matches!(e, Effect::Ship { .. })), "{effects:?}");
    // Whoever has it shares it again, and dies with the duty before it claims the first copy.
    run(
        &mut grd,
        Event::Acquire { tag: tag(), mode: Mode::S, waiter: WaiterId(2), recovery: false },
    );
    let mut again = response(5, Mode::S, false, true);
    if let Pcm::Response { request: of, version, .. } = &mut again {
        (*of, *version) = (request(1, 2), Lsn(9));
    }
    run(&mut grd, message(0, again));
    let held = grd.holding(&tag()).unwrap();
    assert!(held.in_transit && held.mode == Mode::S && !held.dirty, "{held:?}");
    let assign = Pcm::Assign { mode: Mode::S, grant: GrantNumber(6), dirty: true };
    let effects = run(&mut grd, message(0, assign));
    assert!(has(&effects, |e| matches!(e, Effect::ToPastImage { .. })), "{effects:?}");
    assert!(has(&effects, |e| matches!(e, Effect::MarkDirty { .. })), "{effects:?}");
    let held = grd.holding(&tag()).unwrap();
    assert!(held.dirty && !held.unsaved && !held.in_transit, "{held:?}");
}

#[test]
fn nothing_is_given_up_for_one_that_has_died() {
    let first = view();
    let dead = first.member(InstanceId(2)).unwrap().life();
    let request = RequestId { instance: dead.0, incarnation: dead.1, sequence: 1 };
    let left = first.members().iter().copied().filter(|member| member.id != dead.0);
    let without = Arc::new(first.next(left.collect(), vec![dead]).unwrap());
    let (grant, revokes) = (GrantNumber(4), GrantNumber(3));
    let ship = |want| message(0, Pcm::Ship { request, want, grant, revokes, acks: 0, past: false });
    let invalidate = message(0, Pcm::Invalidate { request, grant, revokes });
    // What comes after the view.
    let mut grd = holder(Mode::X, true, false);
    run(&mut grd, Event::View(Arc::clone(&without)));
    for late in [ship(Mode::X), ship(Mode::S), invalidate] {
        assert_eq!(run(&mut grd, late), []);
    }
    assert_eq!(grd.holding(&tag()).unwrap().mode, Mode::X);
    // What was being served when the view came.
    let mut grd = holder(Mode::X, true, false);
    let effects = run(&mut grd, ship(Mode::X));
    assert!(has(&effects, |e| matches!(e, Effect::Lower { to: Mode::N, .. })), "{effects:?}");
    run(&mut grd, Event::View(without));
    let effects = run(&mut grd, drained(Mode::N, 8, 0));
    assert_eq!(effects, [Effect::Open { tag: tag(), mode: Mode::X }]);
    assert!(grd.holding(&tag()).unwrap().dirty);
}

mod pins;
mod requests;
mod telling;
