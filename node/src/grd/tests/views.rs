//! Who is heard, in which epoch; what a view, a lost lease and a planned leave mean for the whole
//! instance; and what it says of itself.

use super::*;
use crate::view::Member;
use pagewire_protocol::PageStat;

fn members(lives: &[(u16, u64)]) -> Vec<Member> {
    let member = |&(id, life): &(u16, u64)| Member {
        id: InstanceId(id),
        incarnation: Incarnation(life),
        leaving: false,
    };
    lives.iter().map(member).collect()
}

static FIRST: LazyLock<View> =
    LazyLock::new(|| View::first(Epoch(1), members(&[(0, 1), (1, 2), (2, 1)])).unwrap());

/// Instances 0, 1 and 2; 1 is in its second life.
fn first() -> View {
    FIRST.clone()
}

fn instance(id: u16, life: u64) -> Grd {
    Grd::new(InstanceId(id), Incarnation(life), first())
}

/// `first` after it, with other members; who is missing has died.
fn after(lives: &[(u16, u64)]) -> View {
    let first = first();
    let next = members(lives);
    let stays = |old: &Member| next.iter().any(|new| new.life() == old.life());
    let dead = first.members().iter().filter(|old| !stays(old)).map(Member::life).collect();
    first.next(next, dead).unwrap()
}

fn says(from: u16, life: u64, epoch: u64, message: Pcm) -> Event {
    let (from, incarnation, epoch) = (InstanceId(from), Incarnation(life), Epoch(epoch));
    Event::Message { from, incarnation, epoch, tag: tag(), message }
}

fn asks(instance: u16, life: u64) -> Pcm {
    let request =
        RequestId { instance: InstanceId(instance), incarnation: Incarnation(life), sequence: 1 };
    Pcm::Acquire { request, want: Mode::S, recovery: false }
}

/// Enough of them that some are where they are wanted.
fn pages() -> impl Iterator<Item = BufferTag> {
    (0..1000).map(|block| BufferTag { block, ..BufferTag::default() })
}

/// A page that instance 0 masters, and `to` in `view`.
fn moves_to(to: u16, view: &View) -> BufferTag {
    let first = first();
    pages().find(|tag| first.master(tag).0 == 0 && view.master(tag).0 == to).unwrap()
}

/// Goes on until there is no more to do.
fn tell_all(grd: &mut Grd) -> Vec<Effect> {
    let mut all = Vec::new();
    for _ in 0..100 {
        let effects = run(grd, Event::Continue);
        let goes_on = effects.contains(&Effect::Again);
        all.extend(effects);
        if !goes_on {
            return all;
        }
    }
    panic!("it does not end: {all:?}");
}

// ---- who is heard ------------------------------------------------------------------------------

#[test]
fn the_master_of_a_page_is_known_from_the_view_alone() {
    let grd = instance(1, 2);
    assert_eq!(grd.view(), &first());
    let masters = pages().take(40).map(|tag| {
        assert_eq!(grd.manager(&tag), first().master(&tag));
        grd.manager(&tag)
    });
    assert_eq!(masters.collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[test]
fn what_a_life_that_is_over_says_has_no_effect() {
    let mut grd = instance(0, 1);
    for count in 1..=2 {
        assert_eq!(run(&mut grd, says(1, 1, 1, asks(1, 1))), []);
        assert_eq!(grd.fenced().not_member, count);
    }
    assert_eq!(grd.entry(&tag()), None);
    assert_eq!(run(&mut grd, says(1, 2, 1, asks(1, 2))).len(), 1, "its present life is heard");
}

#[test]
fn what_is_of_a_later_view_waits_whole() {
    let mut grd = instance(0, 1);
    // A life that no view has yet; a page of a partition that has moved on; a grant for one who is
    // no member yet.
    let unknown = says(1, 3, 1, asks(1, 3));
    let moved = says(2, 1, 2, asks(2, 1));
    let request = RequestId { instance: InstanceId(1), incarnation: Incarnation(3), sequence: 1 };
    let (grant, revokes) = (GrantNumber(2), GrantNumber(1));
    let ship = Pcm::Ship { request, want: Mode::S, grant, revokes, acks: 0, past: false };
    let invalidate = Pcm::Invalidate { request, grant, revokes };
    let all = [unknown, moved, says(2, 1, 1, ship), says(2, 1, 1, invalidate)];
    for (event, count) in all.into_iter().zip(1..) {
        assert_eq!(run(&mut grd, event), [Effect::Park]);
        assert_eq!(grd.fenced().parked, count);
    }
    assert_eq!((grd.entry(&tag()), grd.holding(&tag())), (None, None));
}

#[test]
fn an_older_epoch_is_named_in_the_refusal_with_the_request_that_it_is_about() {
    let mut grd = instance(0, 1);
    run(&mut grd, Event::View(after(&[(0, 1), (1, 2)]).into()));
    let tag = pages()
        .find(|tag| grd.view().epoch_of(tag) == Epoch(2) && grd.manager(tag).0 == 0)
        .unwrap();
    let message = asks(1, 2);
    let (from, incarnation, epoch) = (InstanceId(1), Incarnation(2), Epoch(1));
    for count in 1..=2 {
        let effects = run(&mut grd, Event::Message { from, incarnation, epoch, tag, message });
        let (kind, request) = (message.kind(), message.request().unwrap());
        let (reason, view) = (NakReason::StaleEpoch, Epoch(2));
        let message = Pcm::Nak { kind, request, reason, view };
        assert_eq!(effects, [Effect::Send { to: from, tag, epoch: Epoch(2), message }]);
        assert_eq!(grd.fenced().stale_epoch, count);
    }
    assert_eq!(grd.entry(&tag), None);
    // Its own request that waited for a frame: there is nobody to tell, it asks again by itself.
    let (from, incarnation) = (InstanceId(0), Incarnation(1));
    assert_eq!(run(&mut grd, Event::Message { from, incarnation, epoch, tag, message }), []);
    assert_eq!((grd.fenced().stale_epoch, grd.entry(&tag)), (3, None));
}

#[test]
fn refusals_and_cleared_instances_are_counted_whatever_their_epoch() {
    let mut grd = instance(0, 1);
    let (kind, request) = (asks(0, 1).kind(), RequestId::default());
    let nak = Pcm::Nak { kind, request, reason: NakReason::StaleEpoch, view: Epoch(2) };
    let clear = Pcm::NodeClear { instance: InstanceId(2), incarnation: Incarnation(1) };
    for (epoch, count) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(run(&mut grd, says(1, 2, epoch, nak)), []);
        assert_eq!(run(&mut grd, says(1, 2, epoch, clear)), []);
        assert_eq!((grd.fenced().naks, grd.fenced().node_clears), (count, count));
    }
}

#[test]
fn who_is_not_the_master_counts_it_each_time() {
    let mut grd = grd(1);
    for count in 1..=2 {
        run(&mut grd, acquire(2, count, Mode::S));
        assert_eq!(grd.anomalies().not_master, count);
    }
}

// ---- one instance is both ends -----------------------------------------------------------------

#[test]
fn a_page_of_its_own_is_granted_without_a_message_to_anybody() {
    let mut grd = grd(0);
    let tag = tag();
    let asks = run(&mut grd, wants(tag, Mode::X, 1, false));
    let message = Pcm::Acquire { request: request(0, 1), want: Mode::X, recovery: false };
    assert_eq!(asks, [Effect::Request { to: MASTER, tag, epoch: Epoch(1), message }]);
    let effects = run(&mut grd, super::message(0, message));
    assert_eq!(effects, [Effect::Read { tag, at_least: Lsn::ZERO }]);
    let effects = run(&mut grd, Event::ReadDone { tag, result: Ok(Lsn(4)) });
    let (waiter, mode, path) = (WaiterId(1), Mode::X, GrantPath::Storage);
    let expected = [
        Effect::Take { tag },
        Effect::RequestOver { tag },
        Effect::Install { tag, dirty: false },
        Effect::Complete { waiter, tag, mode, path },
        Effect::Open { tag, mode },
    ];
    assert_eq!(effects, expected);
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.owner, entry.exclusive, entry.version), (Some(MASTER), true, Lsn(4)));
    assert!(!entry.converting, "claimed");
    assert_eq!(grd.held_tags().collect::<Vec<_>>(), [tag]);
    assert_eq!(grd.mastered_tags().collect::<Vec<_>>(), [tag]);
}

#[test]
fn a_request_that_was_cancelled_before_it_found_a_frame_is_over_when_it_comes() {
    let mut grd = grd(0);
    run(&mut grd, wants(tag(), Mode::X, 1, false));
    let withdrawn = run(&mut grd, Event::Withdraw { tag: tag(), waiter: WaiterId(1) });
    let failed = Effect::Fail { waiter: WaiterId(1), tag: tag(), error: None };
    // The runtime knows whether the request has left. Had it not, its answer would be the end.
    assert_eq!(withdrawn, [failed, cancel_to_itself(1)]);
    // What others ask for meanwhile is not what was cancelled.
    assert_eq!(run(&mut grd, acquire(1, 1, Mode::S)).len(), 1);
    run(&mut grd, claim(1, 1, 1, Mode::S));
    let effects = run(&mut grd, acquire(0, 1, Mode::X));
    assert_eq!(effects, [Effect::RequestOver { tag: tag() }]);
    let entry = grd.entry(&tag()).unwrap();
    assert!(!entry.converting && entry.holders == [InstanceId(1)], "{entry:?}");
    assert_eq!(grd.holding(&tag()), None);
}

/// What the core says after its own request, where it is the master as well.
fn cancel_to_itself(sequence: u64) -> Effect {
    let request = RequestId { instance: InstanceId(0), incarnation: Incarnation(1), sequence };
    let (to, tag, epoch) = (InstanceId(0), tag(), Epoch(1));
    Effect::Send { to, tag, epoch, message: Pcm::Cancel { request } }
}

#[test]
fn a_request_that_waits_for_a_frame_makes_way_for_redo_at_its_own_master_too() {
    let mut grd = grd(0);
    run(&mut grd, wants(tag(), Mode::X, 1, false));
    assert_eq!(run(&mut grd, wants(tag(), Mode::X, 2, true)), [cancel_to_itself(1)]);
    // It leaves at last, and is over: redo asks in its place.
    let effects = run(&mut grd, acquire(0, 1, Mode::X));
    let [Effect::RequestOver { .. }, Effect::Request { message, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(matches!(message, Pcm::Acquire { recovery: true, .. }), "{message:?}");
}

// ---- views -------------------------------------------------------------------------------------

#[test]
fn a_view_that_is_not_newer_changes_nothing() {
    let mut grd = instance(0, 1);
    let next = Arc::new(after(&[(0, 1), (1, 2)]));
    let effects = run(&mut grd, Event::View(Arc::clone(&next)));
    assert!(effects.contains(&Effect::ViewInstalled { epoch: Epoch(2) }), "{effects:?}");
    for old in [Arc::new(first()), next] {
        assert_eq!(run(&mut grd, Event::View(old)), []);
        assert_eq!(grd.view().epoch(), Epoch(2));
    }
}

#[test]
fn who_is_out_tells_those_who_wait_and_does_nothing_more() {
    // By a view without it, by one with a later life of it, and by its lease.
    let out = [
        Event::View(after(&[(0, 1), (2, 1)]).into()),
        Event::View(after(&[(0, 1), (1, 3), (2, 1)]).into()),
        Event::LeaseLost,
    ];
    for event in out {
        let mut grd = instance(1, 2);
        run(&mut grd, wants(tag(), Mode::S, 1, false));
        run(&mut grd, wants(tag(), Mode::S, 2, false));
        let error = Some(AcquireError::LeaseExpired { tag: tag() });
        let fail = |id| Effect::Fail { waiter: WaiterId(id), tag: tag(), error: error.clone() };
        assert_eq!(run(&mut grd, event), [Effect::Fence, fail(1), fail(2)]);
        assert_eq!(run(&mut grd, wants(tag(), Mode::S, 3, false)), []);
        assert_eq!(run(&mut grd, says(0, 1, 1, Pcm::Discard { version: Lsn(1) })), []);
    }
}

#[test]
fn every_member_is_told_of_each_life_that_was_cleared() {
    let mut grd = instance(0, 1);
    let effects = run(&mut grd, Event::View(after(&[(0, 1), (1, 2)]).into()));
    let message = Pcm::NodeClear { instance: InstanceId(2), incarnation: Incarnation(1) };
    let told = sent(&effects).into_iter().filter(|(_, said)| *said == message);
    assert_eq!(told.map(|(to, _)| to).collect::<Vec<_>>(), [1]);
    assert_eq!(grd.fenced().node_clears, 1, "itself, too");
}

#[test]
fn shadow_information_of_a_later_view_waits_for_it_and_of_a_life_that_is_over_is_dropped() {
    let next = after(&[(1, 2), (2, 1)]);
    let tag = moves_to(1, &next);
    let mut grd = instance(1, 2);
    let guide = |from, life, epoch, record| Event::LoadGuide {
        from: InstanceId(from),
        incarnation: Incarnation(life),
        epoch: Epoch(epoch),
        batch: vec![record],
        last: true,
    };
    let report = pagewire_protocol::Report {
        mode: Mode::S,
        grant: GrantNumber(4),
        version: Lsn(9),
        ..Default::default()
    };
    let page = GuideRecord::Page { tag, epoch: Epoch(2), report };
    let nothing = GuideRecord::Nothing { epoch: Epoch(2) };
    assert_eq!(run(&mut grd, guide(2, 1, 2, page)), []);
    assert_eq!(grd.fenced().parked, 1);
    // Of a life that no view has yet.
    assert_eq!(run(&mut grd, guide(2, 2, 1, nothing)), []);
    assert_eq!(grd.fenced().parked, 2);
    run(&mut grd, Event::View(next.into()));
    assert_eq!(grd.fenced().parked, 3, "that one waits on");
    for count in 1..=2 {
        assert_eq!(run(&mut grd, guide(0, 1, 2, nothing)), [], "of one that has died");
        assert_eq!(grd.fenced().not_member, count);
    }
    assert!(grd.loading().any(|partition| partition == tag.partition()));
    let effects = run(&mut grd, guide(2, 1, 2, nothing));
    assert!(effects.contains(&Effect::PartitionReady { partition: tag.partition() }));
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.holders, entry.version), (vec![InstanceId(2)], Lsn(9)));
}

#[test]
fn there_is_more_to_do_is_said_once_until_it_goes_on() {
    let mut grd = instance(1, 2);
    let again = |effects: &[Effect]| effects.iter().filter(|e| **e == Effect::Again).count();
    // Partitions of the dead have come to others.
    let effects = run(&mut grd, Event::View(after(&[(1, 2), (2, 1)]).into()));
    assert_eq!(again(&effects), 1);
    assert_eq!(again(&run(&mut grd, wants(tag(), Mode::S, 1, false))), 0);
    let told = tell_all(&mut grd);
    let ends = told.iter().filter(|e| matches!(e, Effect::LoadGuide { last: true, .. }));
    assert_eq!(ends.count(), 1, "to the one other member");
    assert_eq!(run(&mut grd, Event::Continue), []);
}

#[test]
fn whoever_leaves_may_go_when_it_masters_holds_and_owes_nothing() {
    let mut grd = instance(1, 2);
    assert!(!grd.may_go(), "it masters pages");
    run(&mut grd, wants(tag(), Mode::S, 1, false));
    let mut grant = response(1, 1, Verdict::Page, Mode::S, 1);
    if let Pcm::Response { request, unsaved, .. } = &mut grant {
        (request.incarnation, *unsaved) = (Incarnation(2), false);
    }
    run(&mut grd, says(0, 1, 1, grant));
    let mut leaving = members(&[(0, 1), (1, 2), (2, 1)]);
    leaving[1].leaving = true;
    let leaving = first().next(leaving, Vec::new()).unwrap();
    run(&mut grd, Event::View(leaving.into()));
    assert!(!grd.may_go(), "it has to tell, and holds a page");
    tell_all(&mut grd);
    assert!(!grd.may_go(), "it holds a page");
    run(&mut grd, Event::Evict { tag: tag() });
    let (to, dirty, version, flush) = (Mode::N, false, Lsn(7), Lsn::ZERO);
    run(&mut grd, Event::Drained { tag: tag(), to, dirty, version, flush });
    assert!(!grd.may_go(), "the master has not heard");
    run(&mut grd, says(0, 1, 1, Pcm::Released { grant: GrantNumber(1) }));
    assert!(grd.may_go());

    let mut grd = instance(1, 2);
    let mut leaving = members(&[(0, 1), (1, 2), (2, 1)]);
    leaving[1].leaving = true;
    run(&mut grd, Event::View(first().next(leaving, Vec::new()).unwrap().into()));
    assert!(!grd.may_go(), "it has to tell that it has nothing");
    tell_all(&mut grd);
    assert!(grd.may_go());
}

// ---- what it says of itself --------------------------------------------------------------------

#[test]
fn a_tool_is_told_what_the_master_knows_of_a_page() {
    let mut master = grd(0);
    let ask = |about| Event::Stat { to: MASTER, tag: tag(), about };
    let answer = |grd: &mut Grd, about| match &run(grd, ask(about))[..] {
        [Effect::StatReply { from: MASTER, stat, .. }] => *stat,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(&mut master, StatAbout::Page), Stat::Page(PageStat::default()));
    run(&mut master, acquire(1, 1, Mode::S));
    run(&mut master, claim(1, 1, 1, Mode::S));
    run(&mut master, acquire(2, 1, Mode::X));
    let (request, mode, grant) = (request(2, 1), Mode::X, GrantNumber(2));
    let claims = Pcm::Claim { request, mode, grant, version: Lsn(9), past: 0b10 };
    run(&mut master, message(2, claims));
    run(&mut master, message(2, Pcm::Written { grant, version: Lsn(8) }));
    run(&mut master, acquire(1, 2, Mode::X));
    run(&mut master, acquire(0, 1, Mode::S));
    let expected = PageStat {
        known: true,
        owner: Some(InstanceId(2)),
        exclusive: true,
        holders: 0b100,
        past_images: 0b10,
        version: Lsn(9),
        stored: Lsn(8),
        queued: 1,
        grant: GrantNumber(3),
        converting: true,
        repairing: false,
        lost: false,
    };
    assert_eq!(answer(&mut master, StatAbout::Page), Stat::Page(expected));
    let Stat::Instance(all) = answer(&mut master, StatAbout::Instance) else { panic!() };
    let mastered = (0..PARTITIONS).filter(|p| view().master_of(PartitionId(*p)) == MASTER);
    let partitions = u16::try_from(mastered.count()).unwrap();
    assert_eq!((all.entries, all.partitions, all.loading), (1, partitions, 0));
    // Asked from elsewhere, in whatever epoch.
    for epoch in [0, 1, 2] {
        let asks = says(1, 2, epoch, Pcm::StatRequest { about: StatAbout::Page });
        let reply = Pcm::StatReply(Stat::Page(expected));
        assert_eq!(sent(&run(&mut master, asks)), [(1, reply)]);
        let came = run(&mut grd(1), says(0, 1, epoch, reply));
        let stat = Stat::Page(expected);
        assert_eq!(came, [Effect::StatReply { from: MASTER, tag: tag(), stat }]);
    }
}

#[test]
fn a_tool_is_told_how_much_an_instance_holds() {
    let mut grd = grd(1);
    let pages: Vec<_> = pages().filter(|tag| view().master(tag) == MASTER).take(4).collect();
    let grants = [(Mode::S, false), (Mode::S, true), (Mode::X, true)];
    for ((&tag, (want, duty)), sequence) in pages.iter().zip(grants).zip(1..) {
        run(&mut grd, wants(tag, want, sequence, false));
        let mut message = response(1, sequence, Verdict::Page, want, 1);
        if let Pcm::Response { dirty, .. } = &mut message {
            *dirty = duty;
        }
        let (from, incarnation, epoch) = (MASTER, Incarnation(1), Epoch(1));
        run(&mut grd, Event::Message { from, incarnation, epoch, tag, message });
    }
    run(&mut grd, wants(pages[3], Mode::S, 4, false));
    let effects =
        run(&mut grd, Event::Stat { to: InstanceId(1), tag: tag(), about: StatAbout::Instance });
    let [Effect::StatReply { stat: Stat::Instance(stat), .. }] = effects[..] else {
        panic!("{effects:?}")
    };
    let held = (stat.held_shared, stat.held_exclusive, stat.dirty, stat.requests);
    assert_eq!(held, (2, 1, 2, 1));
    assert_eq!((stat.entries, stat.past_images), (0, 0));
    // The second is invalidated with the duty to write: a past image is kept of it.
    let invalidate =
        Pcm::Invalidate { request: request(2, 1), grant: GrantNumber(2), revokes: GrantNumber(1) };
    let (from, incarnation, epoch) = (MASTER, Incarnation(1), Epoch(1));
    let tag = pages[1];
    run(&mut grd, Event::Message { from, incarnation, epoch, tag, message: invalidate });
    let (to, dirty, version, flush) = (Mode::N, true, Lsn(7), Lsn::ZERO);
    run(&mut grd, Event::Drained { tag, to, dirty, version, flush });
    let effects = run(&mut grd, Event::Stat { to: InstanceId(1), tag, about: StatAbout::Instance });
    let [Effect::StatReply { stat: Stat::Instance(stat), .. }] = effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((stat.held_shared, stat.dirty, stat.past_images), (1, 1, 1));
}
