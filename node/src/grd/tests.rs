//! Single exchanges, step by step; schedules are for the simulation in the tests crate.

use super::*;
use pagewire_protocol::{GrantNumber, Lsn, Mode};
use std::sync::LazyLock;

const MASTER: InstanceId = InstanceId(0);

// Made once: a view is made of thousands of hashes, and each message has a page.
static VIEW: LazyLock<View> =
    LazyLock::new(|| View::new(Epoch(1), (0..3).map(InstanceId).collect()).unwrap());
static TAG: LazyLock<BufferTag> = LazyLock::new(|| {
    let mut pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    pages.find(|tag| VIEW.master(tag) == MASTER).unwrap()
});

pub(in crate::grd) fn view() -> View {
    VIEW.clone()
}

/// A page that instance 0 masters.
pub(in crate::grd) fn tag() -> BufferTag {
    *TAG
}

pub(in crate::grd) fn grd(id: u16) -> Grd {
    Grd::new(InstanceId(id), Incarnation(1), view())
}

pub(in crate::grd) fn request(instance: u16, sequence: u64) -> RequestId {
    RequestId { instance: InstanceId(instance), incarnation: Incarnation(1), sequence }
}

pub(in crate::grd) fn run(grd: &mut Grd, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    grd.handle(event, &mut effects);
    effects
}

pub(in crate::grd) fn message(from: u16, message: Pcm) -> Event {
    Event::Message {
        from: InstanceId(from),
        incarnation: Incarnation(1),
        epoch: Epoch(1),
        tag: tag(),
        message,
    }
}

pub(in crate::grd) fn acquire(from: u16, sequence: u64, want: Mode) -> Event {
    message(from, Pcm::Acquire { request: request(from, sequence), want, recovery: false })
}

pub(in crate::grd) fn claim(from: u16, sequence: u64, grant: u64, mode: Mode) -> Event {
    let request = request(from, sequence);
    message(from, Pcm::Claim { request, mode, grant: GrantNumber(grant), version: Lsn(7), past: 0 })
}

#[test]
fn a_request_of_an_old_epoch_is_answered_not_dropped() {
    let mut master = grd(0);
    let event = match acquire(1, 1, Mode::S) {
        Event::Message { from, incarnation, tag, message, .. } => {
            Event::Message { from, incarnation, epoch: Epoch(0), tag, message }
        }
        other => other,
    };
    let effects = run(&mut master, event);
    assert!(matches!(
        effects[..],
        [Effect::Send { to: InstanceId(1), message: Pcm::Nak { view: Epoch(1), .. }, .. }]
    ));
    assert_eq!(master.fenced().stale_epoch, 1);
}

#[test]
fn an_instance_that_does_not_master_the_page_says_so() {
    let effects = run(&mut grd(1), acquire(2, 1, Mode::S));
    let Effect::Send { message: Pcm::Response { verdict, .. }, .. } = effects[0] else {
        panic!("{effects:?}")
    };
    assert_eq!(verdict, Verdict::NotMaster);
}

#[test]
fn a_repeated_request_or_claim_changes_nothing() {
    let mut master = grd(0);
    assert_eq!(run(&mut master, acquire(1, 1, Mode::X)).len(), 1);
    assert_eq!(run(&mut master, acquire(1, 1, Mode::X)), []);
    let before = run(&mut master, claim(1, 1, 1, Mode::X));
    let entry = master.entry(&tag());
    assert_eq!(run(&mut master, claim(1, 1, 1, Mode::X)), before, "claimed again");
    assert_eq!(master.entry(&tag()), entry);
}

#[test]
fn a_second_request_waits_for_the_first_ones_claim() {
    let mut master = grd(0);
    run(&mut master, acquire(1, 1, Mode::X));
    assert_eq!(run(&mut master, acquire(2, 1, Mode::S)), []);
    let effects = run(&mut master, claim(1, 1, 1, Mode::X));
    assert!(matches!(
        effects[..],
        [
            Effect::Send { to: InstanceId(1), message: Pcm::Claimed { .. }, .. },
            Effect::Send {
                to: InstanceId(1),
                message: Pcm::Ship {
                    want: Mode::S,
                    revokes: GrantNumber(1),
                    grant: GrantNumber(2),
                    ..
                },
                ..
            }
        ]
    ));
}

#[test]
fn a_revocation_that_overtakes_its_grant_is_parked() {
    let mut holder = grd(1);
    let waiter = WaiterId(1);
    run(&mut holder, Event::Acquire { tag: tag(), mode: Mode::S, waiter, recovery: false });
    let early =
        Pcm::Invalidate { request: request(2, 1), grant: GrantNumber(2), revokes: GrantNumber(1) };
    assert_eq!(run(&mut holder, message(0, early)), [], "not answered \"not held\"");
    let grant = Pcm::Response {
        request: request(1, 1),
        verdict: Verdict::Page,
        mode: Mode::S,
        grant: GrantNumber(1),
        version: Lsn(3),
        acks: 0,
        dirty: false,
        unsaved: false,
        past: false,
        writer: InstanceId(0),
    };
    let effects = run(&mut holder, message(0, grant));
    let completed = effects.iter().position(|e| matches!(e, Effect::Complete { .. }));
    let lowered = effects.iter().position(|e| matches!(e, Effect::Lower { to: Mode::N, .. }));
    assert!(completed.unwrap() < lowered.unwrap(), "the waiter first: {effects:?}");
    let drained =
        Event::Drained { tag: tag(), to: Mode::N, dirty: false, version: Lsn(3), flush: Lsn(0) };
    let effects = run(&mut holder, drained);
    assert!(matches!(
        effects[0],
        Effect::Send { to: InstanceId(2), message: Pcm::Invalidated { .. }, .. }
    ));
}

#[test]
fn a_revocation_of_what_is_not_held_is_answered() {
    let mut holder = grd(1);
    let invalidate =
        Pcm::Invalidate { request: request(2, 1), grant: GrantNumber(2), revokes: GrantNumber(1) };
    let effects = run(&mut holder, message(0, invalidate));
    assert!(matches!(effects[0], Effect::Send { message: Pcm::Invalidated { .. }, .. }));
    assert_eq!(holder.anomalies().not_holder, 1);
}

#[test]
fn the_release_of_a_grant_that_could_not_be_read_lets_the_next_one_in() {
    let mut master = grd(0);
    run(&mut master, acquire(1, 1, Mode::X));
    run(&mut master, acquire(2, 1, Mode::S));
    let effects =
        run(&mut master, message(1, Pcm::Release { grant: GrantNumber(1), version: Lsn::ZERO }));
    assert!(matches!(
        effects[..],
        [
            Effect::Send { to: InstanceId(1), message: Pcm::Released { .. }, .. },
            Effect::Send {
                to: InstanceId(2),
                message: Pcm::Response { verdict: Verdict::Storage, grant: GrantNumber(2), .. },
                ..
            }
        ]
    ));
    assert_eq!(master.entry(&tag()).unwrap().holders, []);
}

#[test]
fn a_storage_error_fails_the_waiter_and_frees_the_page() {
    let mut holder = grd(1);
    run(
        &mut holder,
        Event::Acquire { tag: tag(), mode: Mode::X, waiter: WaiterId(9), recovery: false },
    );
    let grant = Pcm::Response {
        request: request(1, 1),
        verdict: Verdict::Storage,
        mode: Mode::X,
        grant: GrantNumber(1),
        version: Lsn(0),
        acks: 0,
        dirty: false,
        unsaved: false,
        past: false,
        writer: InstanceId(0),
    };
    let effects = run(&mut holder, message(0, grant));
    assert_eq!(effects, [Effect::Read { tag: tag(), at_least: Lsn(0) }]);
    let effects = run(&mut holder, Event::ReadDone { tag: tag(), result: Err("gone".into()) });
    let sent: Vec<_> = effects
        .iter()
        .filter_map(|e| if let Effect::Send { message, .. } = e { Some(message) } else { None })
        .collect();
    assert!(matches!(sent[..], [Pcm::Release { grant: GrantNumber(1), .. }]), "no claim: {sent:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::Fail { waiter: WaiterId(9), .. })));
}

#[test]
fn a_grant_of_another_mode_than_was_asked_for_is_counted_and_given_back() {
    for (verdict, granted) in [
        (Verdict::Page, Mode::S),
        (Verdict::Storage, Mode::S),
        (Verdict::Held, Mode::S),
        (Verdict::Page, Mode::N),
    ] {
        let mut holder = grd(1);
        run(
            &mut holder,
            Event::Acquire { tag: tag(), mode: Mode::X, waiter: WaiterId(9), recovery: false },
        );
        let grant = Pcm::Response {
            request: request(1, 1),
            verdict,
            mode: granted,
            grant: GrantNumber(4),
            version: Lsn(3),
            acks: 0,
            dirty: false,
            unsaved: false,
            past: false,
            writer: InstanceId(0),
        };
        let effects = run(&mut holder, message(0, grant));
        let has = |wanted: fn(&Effect) -> bool| effects.iter().any(wanted);
        assert!(has(|e| matches!(e, Effect::Broken { .. })), "{effects:?}");
        assert!(has(|e| matches!(e, Effect::RequestOver { .. })), "{effects:?}");
        assert!(!has(|e| matches!(e, Effect::Take { .. })), "{effects:?}");
        let error = Some(AcquireError::Protocol { tag: tag() });
        let failed = Effect::Fail { waiter: WaiterId(9), tag: tag(), error };
        assert!(effects.contains(&failed), "{effects:?}");
        let message = Pcm::Refuse { request: request(1, 1), grant: GrantNumber(4) };
        let released = Effect::Send { to: MASTER, tag: tag(), epoch: Epoch(1), message };
        assert!(effects.contains(&released), "{effects:?}");
        assert_eq!(holder.anomalies().wrong_mode, 1);
        assert_eq!(holder.held_tags().count(), 0, "nothing is left of it");
    }
}

#[test]
fn a_page_that_nobody_has_and_storage_has_whole_is_forgotten_and_its_grant_numbers_are_not() {
    let release = |version| Pcm::Release { grant: GrantNumber(1), version: Lsn(version) };
    let mut master = grd(0);
    run(&mut master, acquire(1, 1, Mode::X));
    run(&mut master, claim(1, 1, 1, Mode::X));
    assert!(matches!(
        run(&mut master, message(1, release(7)))[..],
        [Effect::Send { message: Pcm::Released { grant: GrantNumber(1) }, .. }]
    ));
    assert_eq!(master.entry(&tag()), None);
    // What comes late is of a grant that was given, and no anomaly.
    assert_eq!(run(&mut master, message(1, release(7))), []);
    assert!(matches!(
        run(&mut master, claim(1, 1, 1, Mode::X))[..],
        [Effect::Send { message: Pcm::Claimed { grant: GrantNumber(1), .. }, .. }]
    ));
    assert_eq!(master.anomalies(), Anomalies::default());
    // The next grant has a number of its own.
    assert!(matches!(
        run(&mut master, acquire(2, 1, Mode::S))[..],
        [Effect::Send { message: Pcm::Response { grant: GrantNumber(2), .. }, .. }]
    ));
}

#[test]
fn a_page_whose_newest_version_may_not_be_on_storage_is_not_forgotten() {
    let mut master = grd(0);
    run(&mut master, acquire(1, 1, Mode::S));
    run(&mut master, claim(1, 1, 1, Mode::S));
    run(&mut master, acquire(2, 1, Mode::X));
    let grant = GrantNumber(2);
    let claimed =
        Pcm::Claim { request: request(2, 1), mode: Mode::X, grant, version: Lsn(9), past: 1 << 1 };
    run(&mut master, message(2, claimed));
    run(&mut master, message(2, Pcm::Release { grant, version: Lsn(9) }));
    let entry = master.entry(&tag()).expect("a past image is kept of it");
    assert_eq!(entry.past_images, [InstanceId(1)]);
    run(&mut master, message(1, Pcm::Discarded { version: Lsn(9) }));
    assert_eq!(master.entry(&tag()), None);
}

// ---- redo does not wait for those who wait for redo ------------------------------------------------

fn wants(tag: BufferTag, mode: Mode, waiter: u64, recovery: bool) -> Event {
    Event::Acquire { tag, mode, waiter: WaiterId(waiter), recovery }
}

fn response(to: u16, sequence: u64, verdict: Verdict, mode: Mode, grant: u64) -> Pcm {
    Pcm::Response {
        request: request(to, sequence),
        verdict,
        mode,
        grant: GrantNumber(grant),
        version: Lsn(7),
        acks: 0,
        dirty: false,
        unsaved: true,
        past: false,
        writer: InstanceId(2),
    }
}

fn sent(effects: &[Effect]) -> Vec<(u16, Pcm)> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message, .. } => Some((to.0, *message)),
        _ => None,
    });
    sent.collect()
}

fn not_lost(effects: &[Effect], waiter: u64) -> bool {
    let error = Some(AcquireError::NotLost { tag: tag() });
    effects.contains(&Effect::Fail { waiter: WaiterId(waiter), tag: tag(), error })
}

#[test]
fn a_cancel_of_what_is_being_granted_is_answered_not_lost() {
    let mut master = grd(0);
    run(&mut master, acquire(1, 1, Mode::X));
    let effects = run(&mut master, message(1, Pcm::Cancel { request: request(1, 1) }));
    let answers = sent(&effects);
    let is_answer = |answer: &(u16, Pcm)| {
        matches!(answer, (1, Pcm::Response { verdict: Verdict::NotLost, request: of, .. })
            if *of == request(1, 1))
    };
    assert!(answers.len() == 1 && is_answer(&answers[0]), "{effects:?}");
    assert!(master.entry(&tag()).unwrap().converting, "it goes on");
}

#[test]
fn redo_goes_when_its_page_is_being_granted_and_the_request_goes_on() {
    let mut holder = grd(1);
    run(&mut holder, wants(tag(), Mode::S, 1, false));
    let effects = run(&mut holder, wants(tag(), Mode::X, 2, true));
    assert_eq!(sent(&effects), [(0, Pcm::Cancel { request: request(1, 1) })]);
    let effects = run(&mut holder, message(0, response(1, 1, Verdict::NotLost, Mode::S, 0)));
    assert!(not_lost(&effects, 2), "{effects:?}");
    assert!(!effects.iter().any(|e| matches!(e, Effect::RequestOver { .. })), "{effects:?}");
    let effects = run(&mut holder, message(0, response(1, 1, Verdict::Page, Mode::S, 1)));
    assert!(effects.iter().any(|e| matches!(e, Effect::Complete { waiter: WaiterId(1), .. })));
}

#[test]
fn what_was_asked_before_redo_began_is_no_answer_for_it() {
    let mut holder = grd(1);
    run(&mut holder, wants(tag(), Mode::S, 1, false));
    let effects = run(&mut holder, Event::Withdraw { tag: tag(), waiter: WaiterId(1) });
    assert_eq!(sent(&effects).len(), 1, "cancelled: {effects:?}");
    let effects = run(&mut holder, wants(tag(), Mode::X, 2, true));
    assert_eq!(sent(&effects).len(), 1, "asked anew: {effects:?}");
    let answer = response(1, 1, Verdict::NotLost, Mode::S, 0);
    assert!(!not_lost(&run(&mut holder, message(0, answer)), 2), "the answer to the first cancel");
    assert!(not_lost(&run(&mut holder, message(0, answer)), 2));
}

#[test]
fn redo_that_waited_for_a_repair_is_answered_before_others_have_their_turn() {
    let mut master = grd(0);
    run(&mut master, acquire(1, 1, Mode::S));
    run(&mut master, claim(1, 1, 1, Mode::S));
    run(&mut master, acquire(1, 2, Mode::X));
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(2) };
    let effects = run(&mut master, message(1, refuse));
    assert_eq!(sent(&effects), [(1, Pcm::Query { fence: GrantNumber(3) })]);
    run(&mut master, acquire(2, 1, Mode::X));
    run(&mut master, acquire(1, 3, Mode::S));
    let redo = Pcm::Acquire { request: request(2, 2), want: Mode::X, recovery: true };
    run(&mut master, message(2, redo));
    let report = pagewire_protocol::Report {
        mode: Mode::S,
        grant: GrantNumber(1),
        version: Lsn(7),
        ..Default::default()
    };
    let report = Pcm::Report { fence: GrantNumber(3), report };
    let answers = sent(&run(&mut master, message(1, report)));
    let is_told = |(to, answer): &(u16, Pcm)| {
        matches!(answer, Pcm::Response { verdict: Verdict::NotLost, request: of, .. }
            if *to == 2 && *of == request(2, 2))
    };
    assert!(answers.iter().any(is_told), "{answers:?}");
}

#[test]
fn redo_asks_the_master_about_a_copy_that_storage_may_lack_while_pins_are_drained() {
    let mut holder = grd(1);
    run(&mut holder, wants(tag(), Mode::S, 1, false));
    run(&mut holder, message(0, response(1, 1, Verdict::Page, Mode::S, 1)));
    let effects = run(&mut holder, Event::Evict { tag: tag() });
    assert_eq!(effects, [Effect::Lower { tag: tag(), to: Mode::N }], "its thread has a guard");
    let effects = run(&mut holder, wants(tag(), Mode::X, 2, true));
    let asks = |e: &Effect| {
        matches!(e, Effect::Request { message: Pcm::Acquire { recovery: true, .. }, .. })
    };
    assert!(!not_lost(&effects, 2) && effects.iter().any(asks), "{effects:?}");
    let effects = run(&mut holder, message(0, response(1, 2, Verdict::NotLost, Mode::X, 0)));
    assert!(not_lost(&effects, 2), "{effects:?}");
}

#[test]
fn a_page_that_comes_while_an_earlier_one_is_compared_is_compared_anew() {
    let mut holder = grd(1);
    let past = |grant| {
        let mut response = response(1, 1, Verdict::Page, Mode::X, grant);
        if let Pcm::Response { unsaved, past, .. } = &mut response {
            (*unsaved, *past) = (false, true);
        }
        response
    };
    let newest = Effect::ReadNewer { tag: tag(), at_least: Lsn::ZERO };
    run(&mut holder, wants(tag(), Mode::X, 1, false));
    let effects = run(&mut holder, message(0, past(1)));
    assert_eq!(effects, [Effect::Take { tag: tag() }, newest.clone()]);
    let effects = run(&mut holder, message(0, Pcm::Query { fence: GrantNumber(2) }));
    assert!(!effects.contains(&Effect::Discard { tag: tag() }), "the read has it: {effects:?}");
    assert_eq!(run(&mut holder, message(0, past(3))), [Effect::Take { tag: tag() }]);
    let done = || Event::ReadDone { tag: tag(), result: Ok(Lsn(7)) };
    assert_eq!(run(&mut holder, done()), [newest], "the first read was for the first grant");
    let effects = run(&mut holder, done());
    assert!(effects.contains(&Effect::Install { tag: tag(), dirty: true }), "{effects:?}");
}

mod cells;
mod views;
