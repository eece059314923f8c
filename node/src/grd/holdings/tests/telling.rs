//! What an instance tells a master that asks for one page, or a new one of all: a cut, and nothing
//! left out or told twice.

use super::{drained, has, holder, response, sent, ship};
use crate::{
    grd::{
        Effect, Event, Grd, WaiterId,
        tests::{grd, message, request, run, tag, view},
    },
    view::{Member, View},
};
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, GuideRecord, Incarnation, InstanceId, Lsn, Mode, PartitionId,
    Pcm, Report, Transit, guide::GUIDE_RECORDS_MAX, pcm::Verdict, tag::PARTITIONS,
};
use std::{collections::BTreeMap, sync::Arc};

fn wants(tag: BufferTag, mode: Mode, waiter: u64) -> Event {
    Event::Acquire { tag, mode, waiter: WaiterId(waiter), recovery: false }
}

fn query(grd: &mut Grd, fence: u64) -> (Report, Vec<Effect>) {
    let fence = GrantNumber(fence);
    let effects = run(grd, message(0, Pcm::Query { fence }));
    let reports = sent(&effects).into_iter().filter_map(|said| match said {
        Pcm::Report { fence: of, report } => Some((of, report)),
        _ => None,
    });
    let [(of, report)] = reports.collect::<Vec<_>>()[..] else { panic!("{effects:?}") };
    assert_eq!(of, fence);
    let rest = effects
        .into_iter()
        .filter(|e| !matches!(e, Effect::Send { message: Pcm::Report { .. }, .. }));
    (report, rest.collect())
}

fn held(mode: Mode) -> Report {
    let (grant, version, writer) = (GrantNumber(3), Lsn(7), InstanceId(2));
    Report { mode, grant, version, writer, ..Report::default() }
}

// ---- one page ----------------------------------------------------------------------------------

#[test]
fn all_that_there_is_of_a_page_is_reported() {
    assert_eq!(query(&mut grd(1), 4), (Report::default(), vec![]));
    for (dirty, unsaved) in [(false, false), (true, false), (false, true)] {
        let expected = Report { dirty, unsaved, ..held(Mode::S) };
        assert_eq!(query(&mut holder(Mode::S, dirty, unsaved), 4), (expected, vec![]));
    }
    assert_eq!(query(&mut holder(Mode::X, false, false), 4).0, held(Mode::X));
    let mut grd = holder(Mode::S, false, false);
    run(&mut grd, wants(tag(), Mode::X, 2));
    assert_eq!(query(&mut grd, 4).0, Report { pending: Some(2), ..held(Mode::S) });
    let kept = query(&mut super::keeper(), 6).0;
    assert_eq!(
        (kept.past, kept.mode, kept.dirty, kept.unsaved),
        (Some(Lsn(9)), Mode::N, false, false)
    );
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::X));
    run(&mut grd, drained(Mode::N, 9, 0));
    let (grant, version) = (GrantNumber(4), Lsn(9));
    let transit =
        Transit { to: InstanceId(2), to_dead: false, request: 1, grant, version, dirty: true };
    let report = query(&mut grd, 6).0;
    assert_eq!((report.transit, report.mode, report.dirty), (Some(transit), Mode::N, false));
}

#[test]
fn revocations_that_were_not_served_are_forgotten_with_a_query() {
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::X));
    assert_eq!(query(&mut grd, 6).0.mode, Mode::X);
    let effects = run(&mut grd, drained(Mode::N, 9, 0));
    assert_eq!(effects, [Effect::Open { tag: tag(), mode: Mode::X }], "it is usable again");
    // While the log was waited for.
    let mut grd = holder(Mode::X, false, false);
    run(&mut grd, ship(Mode::X));
    run(&mut grd, drained(Mode::N, 9, 50));
    let (report, effects) = query(&mut grd, 6);
    assert_eq!((report.mode, report.version, report.dirty), (Mode::X, Lsn(9), true));
    assert_eq!(effects, [Effect::Open { tag: tag(), mode: Mode::X }]);
    assert_eq!(run(&mut grd, Event::Flushed { up_to: Lsn(50) }), []);
    // One that was parked for a grant that comes no more.
    let mut grd = super::grd(1);
    run(&mut grd, wants(tag(), Mode::S, 1));
    run(&mut grd, super::invalidate(4));
    assert_eq!(query(&mut grd, 6).0.pending, Some(1));
    let effects = run(&mut grd, message(0, response(7, Mode::S, false, false)));
    assert!(!has(&effects, |e| matches!(e, Effect::Lower { .. })), "{effects:?}");
}

#[test]
fn a_page_that_waits_for_acknowledgements_is_held_s_from_the_query_on() {
    let mut grd = grd(1);
    run(&mut grd, wants(tag(), Mode::X, 1));
    let mut page = response(3, Mode::X, true, false);
    if let Pcm::Response { acks, .. } = &mut page {
        *acks = 0b1;
    }
    run(&mut grd, message(2, page));
    let (report, effects) = query(&mut grd, 6);
    assert_eq!(report, Report { dirty: true, pending: Some(1), ..held(Mode::S) });
    let expected =
        [Effect::Install { tag: tag(), dirty: true }, Effect::Open { tag: tag(), mode: Mode::S }];
    assert_eq!(effects, expected);
    let late = Pcm::Invalidated { request: request(1, 1), grant: GrantNumber(3), dirty: false };
    assert_eq!(run(&mut grd, message(0, late)), [], "the request was cut off");
    // The same request is granted anew, as that of one who holds the page.
    let mut again = response(7, Mode::X, false, false);
    if let Pcm::Response { verdict, .. } = &mut again {
        *verdict = Verdict::Held;
    }
    let effects = run(&mut grd, message(0, again));
    let (request, mode, grant) = (request(1, 1), Mode::X, GrantNumber(7));
    let claim = Pcm::Claim { request, mode, grant, version: Lsn(7), past: 0 };
    assert_eq!(sent(&effects), [claim]);
    assert!(grd.holding(&tag()).unwrap().dirty, "the duty stays here");
}

#[test]
fn the_duty_that_an_acknowledgement_brought_is_not_lost_with_a_query() {
    let mut grd = holder(Mode::S, false, true);
    run(&mut grd, wants(tag(), Mode::X, 2));
    let duty = Pcm::Invalidated { request: request(1, 2), grant: GrantNumber(4), dirty: true };
    run(&mut grd, message(2, duty));
    let (report, effects) = query(&mut grd, 6);
    assert_eq!(report, Report { dirty: true, pending: Some(2), ..held(Mode::S) });
    assert!(effects.contains(&Effect::MarkDirty { tag: tag() }), "{effects:?}");
    // Where the page itself was not there its sender keeps a past image.
    let mut grd = super::grd(1);
    run(&mut grd, wants(tag(), Mode::X, 1));
    let duty = Pcm::Invalidated { request: request(1, 1), grant: GrantNumber(4), dirty: true };
    run(&mut grd, message(2, duty));
    assert_eq!(query(&mut grd, 6), (Report { pending: Some(1), ..Report::default() }, vec![]));
    let effects = run(&mut grd, message(2, response(7, Mode::X, false, false)));
    assert!(effects.contains(&Effect::Install { tag: tag(), dirty: false }), "{effects:?}");
}

#[test]
fn a_page_that_no_read_has_goes_with_a_query() {
    let mut grd = grd(1);
    run(&mut grd, wants(tag(), Mode::X, 1));
    let mut storage = response(3, Mode::X, false, false);
    if let Pcm::Response { verdict, .. } = &mut storage {
        *verdict = Verdict::Storage;
    }
    run(&mut grd, message(0, storage));
    assert_eq!(query(&mut grd, 4).1, [], "nothing came");
    let mut image = response(5, Mode::X, false, false);
    if let Pcm::Response { past, .. } = &mut image {
        *past = true;
    }
    assert_eq!(run(&mut grd, message(2, image)), [Effect::Take { tag: tag() }]);
    assert_eq!(query(&mut grd, 6).1, [Effect::Discard { tag: tag() }]);
}

#[test]
fn what_is_being_released_is_gone_when_the_master_asks() {
    let mut grd = holder(Mode::S, false, false);
    run(&mut grd, Event::Evict { tag: tag() });
    let (to, dirty, version, flush) = (Mode::N, false, Lsn(7), Lsn::ZERO);
    run(&mut grd, Event::Drained { tag: tag(), to, dirty, version, flush });
    let (report, effects) = query(&mut grd, 6);
    assert!(report.is_nothing(), "{report:?}");
    assert_eq!(effects, [Effect::Drop { tag: tag() }]);
    assert_eq!(run(&mut grd, message(0, Pcm::Released { grant: GrantNumber(3) })), []);
    assert_eq!(grd.holding(&tag()), None);
}

#[test]
fn who_gets_the_duty_while_it_gives_the_page_up_writes_it_first() {
    let mut grd = holder(Mode::S, false, true);
    query(&mut grd, 6);
    run(&mut grd, Event::Evict { tag: tag() });
    let (to, dirty, version, flush) = (Mode::N, false, Lsn(7), Lsn::ZERO);
    run(&mut grd, Event::Drained { tag: tag(), to, dirty, version, flush });
    assert!(grd.holding(&tag()).unwrap().releasing);
    let (mode, grant) = (Mode::S, GrantNumber(7));
    let effects = run(&mut grd, message(0, Pcm::Assign { mode, grant, dirty: true }));
    assert_eq!(sent(&effects), [Pcm::Assigned { grant }]);
    assert!(effects.contains(&Effect::MarkDirty { tag: tag() }), "{effects:?}");
    assert_eq!(effects.last(), Some(&Effect::Lower { tag: tag(), to: Mode::N }), "it goes on");
    let effects = run(&mut grd, drained(Mode::N, 7, 0));
    assert_eq!(effects, [Effect::Write { tag: tag(), version: Lsn(7) }]);
}

#[test]
fn an_assignment_that_changes_nothing_is_answered() {
    let mut grd = holder(Mode::S, true, false);
    let (mode, grant) = (Mode::S, GrantNumber(7));
    let effects = run(&mut grd, message(0, Pcm::Assign { mode, grant, dirty: true }));
    assert_eq!(sent(&effects), [Pcm::Assigned { grant }]);
    assert_eq!(effects.len(), 1, "it has the duty: {effects:?}");
    let mut none = super::grd(1);
    let effects = run(&mut none, message(0, Pcm::Assign { mode: Mode::N, grant, dirty: false }));
    assert_eq!(sent(&effects), [Pcm::Assigned { grant }]);
    assert_eq!((effects.len(), none.holding(&tag())), (1, None));
}

// ---- whole partitions --------------------------------------------------------------------------

fn members(ids: &[u16]) -> Vec<Member> {
    let member =
        |&id: &u16| Member { id: InstanceId(id), incarnation: Incarnation(0), leaving: false };
    ids.iter().map(member).collect()
}

/// The view after `old`, of these; who is missing has died.
fn after(old: &View, ids: &[u16]) -> Arc<View> {
    let gone = old.members().iter().filter(|m| !ids.contains(&m.id.0)).map(Member::life);
    let dead = old.dead().iter().copied().chain(gone).collect();
    Arc::new(old.next(members(ids), dead).unwrap())
}

/// Pages that instance 0 masters.
fn pages_of_0() -> impl Iterator<Item = BufferTag> {
    let first = view();
    let pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    pages.filter(move |tag| first.master(tag).0 == 0)
}

/// Instance 1 holds as many pages S, which instance 0 masters.
fn holds_many(count: usize) -> (Grd, Vec<BufferTag>) {
    let pages: Vec<_> = pages_of_0().take(count).collect();
    (holder_of(&pages), pages)
}

/// Instance 1 holds these pages S, which instance 0 masters.
fn holder_of(pages: &[BufferTag]) -> Grd {
    let mut grd = grd(1);
    for (&tag, sequence) in pages.iter().zip(1..) {
        run(&mut grd, wants(tag, Mode::S, sequence));
        let mut message = response(3, Mode::S, false, false);
        if let Pcm::Response { request: of, .. } = &mut message {
            *of = request(1, sequence);
        }
        let (from, incarnation, epoch) = (InstanceId(0), Incarnation(1), Epoch(1));
        run(&mut grd, Event::Message { from, incarnation, epoch, tag, message });
    }
    grd
}

/// Somebody waits for a page, says instance 2, its master in that view.
fn wanted(grd: &mut Grd, tag: BufferTag, epoch: u64) -> Vec<Effect> {
    let (from, incarnation, epoch) = (InstanceId(2), Incarnation(1), Epoch(epoch));
    run(grd, Event::Message { from, incarnation, epoch, tag, message: Pcm::GuideWanted })
}

/// What is told in these effects, record by record, and to whom.
fn records(effects: &[Effect]) -> Vec<(u16, GuideRecord)> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::LoadGuide { to, batch, .. } => Some(batch.iter().map(|record| (to.0, *record))),
        _ => None,
    });
    told.flatten().collect()
}

/// Whether they say, at their end, that this partition is told, and it alone.
fn is_whole(records: &[(u16, GuideRecord)], id: PartitionId) -> bool {
    let whole = |record: &GuideRecord| matches!(record, GuideRecord::Whole { partition, .. } if *partition == id);
    records.last().is_some_and(|(_, record)| whole(record))
}

/// What was told: pages with the epoch they were told in, and ends, by who was told.
#[derive(Default)]
struct Told {
    pages: BTreeMap<(u16, BufferTag, Epoch), usize>,
    ends: Vec<(u16, PartitionId, Epoch)>,
    wholes: Vec<(u16, PartitionId, Epoch)>,
    lasts: Vec<u16>,
}

impl Told {
    /// Hears the effects of one turn; true when there is more to do.
    fn hear(&mut self, effects: Vec<Effect>) -> bool {
        let mut more = false;
        for effect in effects {
            match effect {
                Effect::LoadGuide { to, batch, last, .. } => {
                    assert!(batch.len() <= GUIDE_RECORDS_MAX, "{} records", batch.len());
                    for record in batch {
                        self.note(to.0, record);
                    }
                    if last {
                        self.lasts.push(to.0);
                    }
                }
                Effect::Again => more = true,
                _ => {}
            }
        }
        more
    }

    fn note(&mut self, to: u16, record: GuideRecord) {
        match record {
            GuideRecord::Page { tag, epoch, report } => {
                assert_eq!(report, held(Mode::S));
                let is_told = |(of, p, e): &(u16, PartitionId, Epoch)| {
                    *of == to && *p >= tag.partition() && *e == epoch
                };
                assert!(!self.ends.iter().any(is_told), "after the end of its partition");
                let whole = (to, tag.partition(), epoch);
                assert!(!self.wholes.contains(&whole), "after its partition was whole");
                *self.pages.entry((to, tag, epoch)).or_default() += 1;
            }
            GuideRecord::End { partition, epoch } => self.ends.push((to, partition, epoch)),
            GuideRecord::Whole { partition, epoch } => self.wholes.push((to, partition, epoch)),
            GuideRecord::Nothing { .. } => panic!("only who has just started has nothing"),
        }
    }

    /// All that `view` makes necessary was told, pages once.
    fn check(&self, view: &View, pages: &[BufferTag]) {
        for tag in pages {
            let to = view.master(tag).0;
            let times = self.pages.get(&(to, *tag, view.epoch_of(tag))).copied();
            assert_eq!(times, (to != 1).then_some(1), "{tag} to {to}");
        }
        let moved = (0..PARTITIONS).map(PartitionId).filter(|p| !view.is_original(*p));
        for partition in moved {
            let (to, epoch) = (view.master_of(partition).0, view.partition_epoch(partition));
            let ends = |(of, p, e): &(u16, PartitionId, Epoch)| {
                *of == to && *p >= partition && *e == epoch
            };
            let is_told =
                self.ends.iter().any(ends) || self.wholes.contains(&(to, partition, epoch));
            assert!(to == 1 || is_told, "{partition:?} has no end");
        }
    }
}

#[test]
fn a_new_master_is_told_every_page_once_and_then_that_it_was_all() {
    let (mut grd, pages) = holds_many(900);
    let next = after(&view(), &[1, 2]);
    let mut told = Told::default();
    assert!(told.hear(run(&mut grd, Event::View(Arc::clone(&next)))), "in pieces");
    assert_eq!(told.pages.len(), 0, "nobody waits for them");
    let mut turns = 0;
    while told.hear(run(&mut grd, Event::Continue)) {
        turns += 1;
        assert!(turns < 50, "it ends");
    }
    assert!(turns > 1, "{turns} turns");
    told.check(&next, &pages);
    assert_eq!(told.lasts, [2], "said with the last batch");
    // Its own directory has heard, too.
    let nothing = GuideRecord::Nothing { epoch: Epoch(2) };
    let (from, incarnation, epoch) = (InstanceId(2), Incarnation(1), Epoch(2));
    run(&mut grd, Event::LoadGuide { from, incarnation, epoch, batch: vec![nothing], last: true });
    for tag in &pages {
        let owner = grd.entry(tag).and_then(|entry| entry.owner);
        let expected = (next.master(tag).0 == 1).then_some(InstanceId(1));
        assert_eq!(owner, expected, "{tag}");
    }
}

#[test]
fn a_view_in_between_has_told_anew_what_it_moves_and_the_rest_once() {
    for turns in [0, 1, 2] {
        let (mut grd, pages) = holds_many(900);
        let second = after(&view(), &[1, 2]);
        let third = after(&second, &[1, 2, 3]);
        let mut told = Told::default();
        told.hear(run(&mut grd, Event::View(Arc::clone(&second))));
        for _ in 0..turns {
            assert!(told.hear(run(&mut grd, Event::Continue)));
        }
        // Of these some move on, and some are wanted still.
        for tag in pages.iter().rev().take(100).filter(|tag| second.master(tag).0 == 2) {
            wanted(&mut grd, *tag, 2);
        }
        told.hear(run(&mut grd, Event::View(Arc::clone(&third))));
        let before: Vec<_> = told.pages.keys().copied().collect();
        let mut turns = 0;
        while told.hear(run(&mut grd, Event::Continue)) {
            turns += 1;
            assert!(turns < 50, "it ends");
        }
        assert!(told.wholes.iter().any(|(_, p, _)| third.partition_epoch(*p) == Epoch(2)));
        for (to, tag, epoch) in told.pages.keys().filter(|page| !before.contains(page)) {
            assert_eq!((*to, *epoch), (third.master(tag).0, third.epoch_of(tag)), "{tag}");
        }
        told.check(&third, &pages);
    }
}

#[test]
fn a_partition_that_somebody_waits_for_is_told_before_all_others() {
    let (mut grd, pages) = holds_many(900);
    let next = after(&view(), &[1, 2]);
    let mut told = Told::default();
    told.hear(run(&mut grd, Event::View(Arc::clone(&next))));
    let of_2 = pages.iter().copied().filter(|tag| next.master(tag).0 == 2);
    let mut of_2: Vec<_> = of_2.collect();
    of_2.sort_by_key(BufferTag::partition);
    // Asked for the other way round than their numbers are.
    let asked = [of_2[of_2.len() - 1], of_2[of_2.len() / 2]];
    for tag in asked {
        assert_eq!(wanted(&mut grd, tag, 2), []);
    }
    let effects = run(&mut grd, Event::Continue);
    let first = records(&effects);
    let mut at = 0;
    for tag in asked {
        let id = tag.partition();
        let count = pages.iter().filter(|tag| tag.partition() == id).count();
        let (of_it, whole) = (&first[at..at + count], &first[at..=at + count]);
        let is_page = |record: &GuideRecord| matches!(record, GuideRecord::Page { tag, .. } if tag.partition() == id);
        assert!(of_it.iter().all(|(to, record)| *to == 2 && is_page(record)), "{of_it:?}");
        assert!(is_whole(whole, id), "{whole:?}");
        at += count + 1;
    }
    assert!(first.len() > at, "and then the others");
    told.hear(effects);
    let mut turns = 0;
    while told.hear(run(&mut grd, Event::Continue)) {
        turns += 1;
        assert!(turns < 50, "it ends");
    }
    told.check(&next, &pages);
    assert_eq!(told.wholes.len(), 2);
    assert_eq!(told.lasts, [2], "said with the last batch");
    // What has been told is told no more.
    assert_eq!(wanted(&mut grd, asked[0], 2), []);
}

#[test]
fn a_partition_that_is_told_in_part_gives_way_and_goes_on_where_it_was() {
    let next = after(&view(), &[1, 2]);
    let mut tags = pages_of_0().filter(|tag| next.master(tag).0 == 2);
    let first = tags.find(|tag| tag.partition().0 < 1000).unwrap();
    let other = tags.find(|tag| tag.partition().0 > 3000).unwrap();
    let large = pages_of_0().filter(|tag| tag.partition() == first.partition());
    let pages: Vec<_> = large.take(400).chain([other]).collect();
    for wants_both in [false, true] {
        let mut grd = holder_of(&pages);
        let mut told = Told::default();
        told.hear(run(&mut grd, Event::View(Arc::clone(&next))));
        assert!(told.hear(run(&mut grd, Event::Continue)));
        let before = told.pages.len();
        assert!((100..300).contains(&before), "{before} pages in one turn");
        if wants_both {
            wanted(&mut grd, first, 2);
        }
        wanted(&mut grd, other, 2);
        let effects = run(&mut grd, Event::Continue);
        let said = records(&effects);
        let is_other =
            |record: &GuideRecord| matches!(record, GuideRecord::Page { tag, .. } if *tag == other);
        let at = said.iter().position(|(_, record)| is_other(record));
        if wants_both {
            assert!(told.hear(effects), "asked for first, told first");
        } else {
            assert_eq!(at, Some(0), "{said:?}");
            assert!(is_whole(&said[..2], other.partition()), "{said:?}");
            assert!(told.hear(effects));
        }
        while told.hear(run(&mut grd, Event::Continue)) {}
        told.check(&next, &pages);
        assert_eq!(told.wholes.len(), 1 + usize::from(wants_both));
    }
}

#[test]
fn whoever_has_just_started_says_that_it_has_nothing_unless_all_have() {
    let mut grd = super::grd(1);
    assert_eq!(run(&mut grd, Event::Continue), [], "a new cluster");
    let third = after(&after(&view(), &[0, 2]), &[0, 1, 2]);
    let mut grd = Grd::new(InstanceId(1), Incarnation(2), third);
    let effects = run(&mut grd, Event::Continue);
    let tells = |to| Effect::LoadGuide {
        to: InstanceId(to),
        epoch: Epoch(3),
        batch: vec![GuideRecord::Nothing { epoch: Epoch(3) }],
        last: true,
    };
    assert_eq!(effects, [tells(0), tells(2)]);
}

#[test]
fn a_request_goes_to_the_new_master_under_the_id_it_had() {
    let mut grd = grd(1);
    run(&mut grd, wants(tag(), Mode::S, 1));
    let next = after(&view(), &[1, 2]);
    let (to, epoch) = (next.master(&tag()), Epoch(2));
    let effects = run(&mut grd, Event::View(next));
    let message = Pcm::Acquire { request: request(1, 1), want: Mode::S, recovery: false };
    assert!(effects.contains(&Effect::RequestAgain { to, tag: tag(), epoch, message }));
    // A repair keeps it at the master that asks.
    let mut grd = super::grd(1);
    run(&mut grd, wants(tag(), Mode::S, 1));
    let (_, effects) = query(&mut grd, 6);
    assert_eq!(effects, []);
}

#[test]
fn the_fence_of_a_repair_goes_with_the_move_of_a_page_that_nothing_is_under_way_of() {
    for moves in [false, true] {
        let mut grd = holder(Mode::X, false, false);
        query(&mut grd, 6);
        let mut epoch = Epoch(1);
        let mut from = InstanceId(0);
        if moves {
            // Instance 0 goes, and with it the partition moves.
            let next = after(&view(), &[1, 2]);
            (from, epoch) = (next.master(&tag()), Epoch(2));
            let effects = run(&mut grd, Event::View(next));
            assert!(!has(&effects, |e| matches!(e, Effect::Lower { .. } | Effect::Open { .. })));
        }
        // Grant 4 is below the fence.
        let (request, grant, revokes) = (request(2, 1), GrantNumber(4), GrantNumber(3));
        let message = Pcm::Ship { request, want: Mode::X, grant, revokes, acks: 0, past: false };
        let incarnation = Incarnation(1);
        let effects =
            run(&mut grd, Event::Message { from, incarnation, epoch, tag: tag(), message });
        let lowers = has(&effects, |e| matches!(e, Effect::Lower { to: Mode::N, .. }));
        assert_eq!(lowers, moves, "{effects:?}");
    }
}
