//! Every message in every state of the tables: of another epoch, and late in its own. The simulator's
//! account of (state x message x fault) counts on these for what schedules reach hardly ever.

use super::*;
use crate::view::Member;
use pagewire_protocol::{Report, pcm::NakReason};

/// An instance, the page, and the epoch of its partition; what the state is called.
type At = (&'static str, Grd, BufferTag, u64);

fn says(from: u16, epoch: u64, tag: BufferTag, message: Pcm) -> Event {
    let (from, incarnation, epoch) = (InstanceId(from), Incarnation(1), Epoch(epoch));
    Event::Message { from, incarnation, epoch, tag, message }
}

/// A view without instance 0, and a page that goes from it to 1.
fn without_master() -> (View, BufferTag) {
    let first = view();
    let left: Vec<_> = first.members().iter().copied().filter(|m| m.id != MASTER).collect();
    let gone = first.members().iter().filter(|m| m.id == MASTER).map(Member::life);
    let next = first.next(left, gone.collect()).unwrap();
    let mut pages = (0..1000).map(|block| BufferTag { block, ..BufferTag::default() });
    let tag = pages.find(|tag| first.master(tag) == MASTER && next.master(tag).0 == 1).unwrap();
    (next, tag)
}

fn grd_after(events: impl IntoIterator<Item = Event>) -> Grd {
    let mut master = grd(0);
    for event in events {
        run(&mut master, event);
    }
    master
}

/// Every state of an entry. 1 has had the page, then 2 with version 9; nobody has what is lost.
fn master_states() -> Vec<At> {
    let grant = GrantNumber(2);
    let claims =
        Pcm::Claim { request: request(2, 1), mode: Mode::X, grant, version: Lsn(9), past: 0b10 };
    let exclusive = || {
        [
            acquire(1, 1, Mode::X),
            claim(1, 1, 1, Mode::X),
            acquire(2, 1, Mode::X),
            message(2, claims),
        ]
    };
    let and = |events: &[Event]| grd_after(exclusive().into_iter().chain(events.iter().cloned()));
    let version = Lsn(9);
    let left =
        [message(2, Pcm::Written { grant, version }), message(2, Pcm::Release { grant, version })];
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(3) };
    let wants = acquire(1, 2, Mode::X);
    let (next, moved) = without_master();
    let mut loading = grd(1);
    run(&mut loading, Event::View(next.into()));
    let mut lost = loading.clone();
    let batch = vec![GuideRecord::Nothing { epoch: Epoch(2) }];
    let (from, incarnation, epoch) = (InstanceId(2), Incarnation(1), Epoch(2));
    run(&mut lost, Event::LoadGuide { from, incarnation, epoch, batch, last: true });
    let asks = Pcm::Acquire { request: request(2, 1), want: Mode::S, recovery: false };
    run(&mut lost, says(2, 2, moved, asks));
    let shared = grd_after([acquire(1, 1, Mode::S), claim(1, 1, 1, Mode::S)]);
    let states: Vec<At> = vec![
        ("no entry", grd(0), tag(), 1),
        ("storage only", and(&left), tag(), 1),
        ("shared", shared, tag(), 1),
        ("exclusive", and(&[]), tag(), 1),
        ("converting", and(std::slice::from_ref(&wants)), tag(), 1),
        ("loading", loading, moved, 2),
        ("repairing", and(&[wants, message(1, refuse)]), tag(), 1),
        ("lost", lost, moved, 2),
    ];
    for (name, grd, tag, _) in &states {
        let is = grd.entry(tag).map_or("no entry", |entry| match entry {
            entry if entry.repairing => "repairing",
            entry if entry.lost => "lost",
            entry if entry.converting => "converting",
            entry if entry.exclusive => "exclusive",
            entry if entry.holders.is_empty() => "storage only",
            _ => "shared",
        });
        let loads = grd.loading().any(|partition| partition == tag.partition());
        assert_eq!(if loads { "loading" } else { is }, *name);
    }
    states
}

/// Every state of what is held, at instance 1 under grant 3 or after it.
fn holder_states() -> Vec<At> {
    let held = |mode, duty: bool| {
        let mut holder = grd(1);
        run(&mut holder, wants(tag(), mode, 1, false));
        let mut grant = response(1, 1, Verdict::Page, mode, 3);
        if let Pcm::Response { dirty, unsaved, .. } = &mut grant {
            (*dirty, *unsaved) = (duty, false);
        }
        run(&mut holder, message(0, grant));
        holder
    };
    let and = |mut holder: Grd, events: Vec<Event>| {
        for event in events {
            run(&mut holder, event);
        }
        holder
    };
    let (of, grant, revokes) = (request(2, 1), GrantNumber(4), GrantNumber(3));
    let drained = |dirty| {
        let (to, version, flush) = (Mode::N, Lsn(8), Lsn::ZERO);
        Event::Drained { tag: tag(), to, dirty, version, flush }
    };
    let evict = || Event::Evict { tag: tag() };
    let ship = Pcm::Ship { request: of, want: Mode::X, grant, revokes, acks: 0, past: false };
    let invalidate = message(0, Pcm::Invalidate { request: of, grant, revokes });
    let states = [
        ("nothing", grd(1)),
        ("S", held(Mode::S, false)),
        ("S busy", and(held(Mode::S, false), vec![wants(tag(), Mode::X, 2, false)])),
        ("X", held(Mode::X, true)),
        ("X busy", and(held(Mode::X, true), vec![Event::WriteBack { tag: tag() }])),
        ("requesting", and(grd(1), vec![wants(tag(), Mode::X, 2, false)])),
        ("in transit", and(held(Mode::X, true), vec![message(0, ship), drained(true)])),
        ("releasing", and(held(Mode::S, false), vec![evict(), drained(false)])),
        ("past image", and(held(Mode::S, true), vec![invalidate, drained(true)])),
    ];
    for (name, grd) in &states {
        let is = grd.holding(&tag()).map_or("nothing", |held| held.row());
        assert_eq!(is, *name);
    }
    states.into_iter().map(|(name, grd)| (name, grd, tag(), 1)).collect()
}

/// Every message that is of an epoch; from instance 2, and about a request of it where there is one.
fn messages() -> Vec<Pcm> {
    let (request, grant, revokes) = (request(2, 1), GrantNumber(3), GrantNumber(2));
    let (want, mode, version, dirty) = (Mode::X, Mode::X, Lsn(9), true);
    vec![
        Pcm::Acquire { request, want, recovery: false },
        Pcm::Ship { request, want, grant, revokes, acks: 0, past: false },
        Pcm::Invalidate { request, grant, revokes },
        Pcm::Invalidated { request, grant, dirty },
        Pcm::Claim { request, mode, grant, version, past: 0 },
        Pcm::Claimed { request, grant },
        Pcm::Release { grant, version },
        Pcm::Released { grant },
        Pcm::Written { grant, version },
        Pcm::Cancel { request },
        Pcm::Discard { version },
        Pcm::Discarded { version },
        Pcm::WriteRequest { version },
        Pcm::Write { version },
        Pcm::Refuse { request, grant },
        Pcm::Query { fence: grant },
        Pcm::GuideWanted,
        Pcm::Report { fence: grant, report: Report::default() },
        Pcm::Assign { mode: Mode::S, grant, dirty },
        Pcm::Assigned { grant },
        response(1, 2, Verdict::Page, Mode::X, 5),
    ]
}

fn all_states() -> impl Iterator<Item = At> {
    master_states().into_iter().chain(holder_states())
}

/// What it has and knows of the page, and what it has counted that should not happen.
fn known(grd: &Grd, tag: &BufferTag) -> (Option<EntryView>, Option<HoldingView>, Anomalies, usize) {
    (grd.entry(tag), grd.holding(tag), grd.anomalies(), grd.loading().count())
}

#[test]
fn nothing_of_another_epoch_is_acted_on_in_any_state() {
    for (state, mut grd, tag, epoch) in all_states() {
        let before = known(&grd, &tag);
        for (message, count) in messages().into_iter().zip(1..) {
            // Of an older one: its sender hears so.
            let effects = run(&mut grd, says(2, epoch - 1, tag, message));
            let (kind, request) = (message.kind(), message.request().unwrap_or_default());
            let (reason, view) = (NakReason::StaleEpoch, Epoch(epoch));
            let nak = Pcm::Nak { kind, request, reason, view };
            assert_eq!(sent(&effects), [(2, nak)], "{state}, {message:?}");
            assert_eq!(effects.len(), 1, "a page that came is not taken: {state}, {message:?}");
            // Of a newer one: it waits.
            let effects = run(&mut grd, says(2, epoch + 1, tag, message));
            assert_eq!(effects, [Effect::Park], "{state}, {message:?}");
            assert_eq!(known(&grd, &tag), before, "{state}, {message:?}");
            assert_eq!((grd.fenced().stale_epoch, grd.fenced().parked), (count, count));
        }
    }
}

#[test]
fn what_is_over_changes_nothing_at_a_master_in_any_state() {
    let over = request(2, 77);
    let late = [
        Pcm::Refuse { request: over, grant: GrantNumber(1) },
        Pcm::Cancel { request: over },
        Pcm::Assigned { grant: GrantNumber(1) },
        Pcm::Report { fence: GrantNumber(1), report: Report::default() },
        Pcm::Discarded { version: Lsn::ZERO },
    ];
    for (state, mut grd, tag, epoch) in master_states() {
        let before = known(&grd, &tag);
        for message in late {
            assert_eq!(run(&mut grd, says(2, epoch, tag, message)), [], "{state}, {message:?}");
            assert_eq!(known(&grd, &tag), before, "{state}, {message:?}");
        }
        // A release that crossed a revocation, of one that holds nothing since.
        if matches!(state, "storage only" | "shared" | "lost") {
            let release = Pcm::Release { grant: GrantNumber(1), version: Lsn(9) };
            assert_eq!(run(&mut grd, says(2, epoch, tag, release)), [], "{state}");
            assert_eq!(known(&grd, &tag), before, "{state}");
        }
    }
}

#[test]
fn what_is_over_changes_nothing_at_a_holder_in_any_state() {
    let over = request(1, 77);
    let old = GrantNumber(2);
    for (state, mut grd, tag, epoch) in holder_states() {
        let before = known(&grd, &tag);
        let invalidated = Pcm::Invalidated { request: over, grant: old, dirty: true };
        // The last: all that is to be told was told long ago.
        let (released, claimed) =
            (Pcm::Released { grant: old }, Pcm::Claimed { request: over, grant: old });
        for message in [invalidated, released, claimed, Pcm::GuideWanted] {
            assert_eq!(run(&mut grd, says(0, epoch, tag, message)), [], "{state}, {message:?}");
            assert_eq!(known(&grd, &tag), before, "{state}, {message:?}");
        }
        let (kind, request) = (Pcm::Discard { version: Lsn(1) }.kind(), RequestId::default());
        let nak = Pcm::Nak { kind, request, reason: NakReason::StaleEpoch, view: Epoch(epoch) };
        for of in [epoch - 1, epoch, epoch + 1] {
            assert_eq!(run(&mut grd, says(0, of, tag, nak)), [], "{state}, epoch {of}");
            assert_eq!(known(&grd, &tag), before, "{state}, epoch {of}");
        }
        // A grant that was cut off: given back, or dropped where a greater one was held since.
        let late = response(1, 77, Verdict::Page, Mode::S, 2);
        let effects = run(&mut grd, says(2, epoch, tag, late));
        let gives_back = matches!(state, "nothing" | "requesting");
        let refuse = Pcm::Refuse { request: over, grant: old };
        let expected: &[_] = if gives_back { &[(0, refuse)] } else { &[] };
        assert_eq!(sent(&effects), expected, "{state}");
        assert_eq!(effects.len(), expected.len(), "its page is not taken: {state}");
        assert_eq!(grd.holding(&tag), before.1, "{state}");
    }
}
