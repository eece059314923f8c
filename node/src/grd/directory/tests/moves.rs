//! Partitions that come and go, and what is known while the redo of the dead is not applied.

use super::{after, holds, member, moved, sent, told};
use crate::{
    grd::{
        Effect, Event, Grd, WaiterId,
        tests::{grd, request, run, view},
    },
    view::{Life, Member, View},
};
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, GuideRecord, Incarnation, InstanceId, Lsn, Mode, Pcm, Report,
    Stat, StatAbout, pcm::Verdict,
};
use std::sync::Arc;

const A: InstanceId = InstanceId(0);
const B: InstanceId = InstanceId(1);
const C: InstanceId = InstanceId(2);

fn says(from: u16, epoch: u64, tag: BufferTag, message: Pcm) -> Event {
    let (from, incarnation, epoch) = (InstanceId(from), Incarnation(1), Epoch(epoch));
    Event::Message { from, incarnation, epoch, tag, message }
}

fn acquire(from: u16, sequence: u64, want: Mode) -> Pcm {
    Pcm::Acquire { request: request(from, sequence), want, recovery: false }
}

fn redo(from: u16, sequence: u64) -> Pcm {
    Pcm::Acquire { request: request(from, sequence), want: Mode::X, recovery: true }
}

fn nothing(epoch: u64) -> GuideRecord {
    GuideRecord::Nothing { epoch: Epoch(epoch) }
}

fn page(tag: BufferTag, epoch: u64, report: Report) -> GuideRecord {
    GuideRecord::Page { tag, epoch: Epoch(epoch), report }
}

fn dies(view: &View, id: u16) -> View {
    let left: Vec<_> = view.members().iter().copied().filter(|m| m.id.0 != id).collect();
    let gone = view.members().iter().filter(|m| m.id.0 == id).map(Member::life);
    view.next(left, view.dead().iter().copied().chain(gone).collect()).unwrap()
}

fn joins(view: &View, id: u16) -> View {
    let members = view.members().iter().copied().chain([member(id)]).collect();
    view.next(members, view.dead().to_vec()).unwrap()
}

fn redone(id: u16) -> Event {
    Event::RedoDone { instance: InstanceId(id), incarnation: Incarnation(0) }
}

fn install(grd: &mut Grd, view: &View) -> Vec<Effect> {
    run(grd, Event::View(Arc::new(view.clone())))
}

/// Instance 1, to which `tag` has come as its master has died; 2 has told it all.
fn inherited(tag: BufferTag, report: Option<Report>) -> Grd {
    let mut grd = grd(1);
    install(&mut grd, &after(&[1, 2]));
    let pages = report.map(|report| page(tag, 2, report));
    told(&mut grd, 2, pages.into_iter().chain([nothing(2)]).collect());
    assert_eq!(grd.loading().count(), 0);
    grd
}

// ---- partitions that go --------------------------------------------------------------------------

#[test]
fn a_partition_that_goes_takes_its_entries_and_requests_with_it() {
    let first = view();
    let next = joins(&first, 3);
    let pages = |to: u16| {
        let all = (0..10_000).map(|block| BufferTag { block, ..BufferTag::default() });
        let mut all = all.filter(|tag| first.master(tag) == A);
        all.find(|tag| next.master(tag).0 == to).unwrap()
    };
    let (goes, stays) = (pages(3), pages(0));
    let mut grd = grd(0);
    for tag in [goes, stays] {
        run(&mut grd, says(1, 1, tag, acquire(1, 1, Mode::X)));
        assert_eq!(run(&mut grd, says(2, 1, tag, acquire(2, 1, Mode::X))), []);
    }
    let effects = install(&mut grd, &next);
    assert_eq!(sent(&effects), [], "whoever waits asks the new master");
    assert_eq!(grd.entry(&goes), None);
    let entry = grd.entry(&stays).unwrap();
    assert!(entry.converting && entry.queued == 1, "{entry:?}");
    assert_eq!(grd.mastered_tags().collect::<Vec<_>>(), [stays]);
    // It comes back, as one of which all has to be told.
    let back = dies(&next, 3);
    install(&mut grd, &back);
    assert!(grd.loading().any(|partition| partition == goes.partition()));
    assert!(!grd.loading().any(|partition| partition == stays.partition()));
}

/// Instance 0, which has an entry with its first grant of each of 600 pages that go to 3 when that
/// joins; and that view.
fn about_to_give_up() -> (Grd, Vec<BufferTag>, View) {
    let next = joins(&view(), 3);
    let pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    let goes = pages.filter(|tag| view().master(tag) == A && next.master(tag).0 == 3);
    let goes: Vec<_> = goes.take(600).collect();
    let mut grd = grd(0);
    for (&tag, sequence) in goes.iter().zip(1..) {
        run(&mut grd, says(1, 1, tag, acquire(1, sequence, Mode::X)));
        assert_eq!(grd.entry(&tag).unwrap().grant, GrantNumber(1));
    }
    (grd, goes, next)
}

#[test]
fn the_entries_of_what_goes_are_freed_bit_by_bit_when_all_is_told() {
    let (mut grd, _, next) = about_to_give_up();
    let goes_on = |effects: &[Effect]| effects.contains(&Effect::Again);
    assert!(goes_on(&install(&mut grd, &next)));
    assert_eq!(grd.mastered_tags().count(), 0);
    let tells = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::LoadGuide { .. }));
    let effects = run(&mut grd, Event::Continue);
    assert!(tells(&effects) && goes_on(&effects), "{effects:?}");
    assert!(!grd.holdings.has_to_tell());
    for more in [true, false] {
        assert!(grd.directory.is_untidy());
        let effects = run(&mut grd, Event::Continue);
        assert!(!tells(&effects) && goes_on(&effects) == more, "{effects:?}");
    }
    assert!(!grd.directory.is_untidy());
}

/// Nobody has anything of these pages, in view 3; whoever asks for one is granted the next number.
fn goes_on_with_its_grants(grd: &mut Grd, pages: impl IntoIterator<Item = BufferTag>) {
    for from in [1, 2] {
        let (from, incarnation, epoch) = (InstanceId(from), Incarnation(1), Epoch(3));
        let batch = vec![nothing(3)];
        run(grd, Event::LoadGuide { from, incarnation, epoch, batch, last: true });
    }
    run(grd, redone(3));
    for tag in pages {
        run(grd, says(2, 3, tag, acquire(2, 1, Mode::S)));
        assert_eq!(grd.entry(&tag).unwrap().grant, GrantNumber(2), "{tag}");
    }
}

#[test]
fn a_partition_that_comes_back_before_its_entries_are_freed_goes_on_with_its_grants() {
    let (mut grd, goes, next) = about_to_give_up();
    install(&mut grd, &next);
    install(&mut grd, &dies(&next, 3));
    assert_eq!(grd.mastered_tags().count(), 0);
    goes_on_with_its_grants(&mut grd, goes);
}

#[test]
fn a_partition_that_went_and_came_back_in_a_skipped_view_goes_on_with_its_grants() {
    let (mut grd, goes, next) = about_to_give_up();
    // Of the view in which it was another's this instance never hears.
    install(&mut grd, &dies(&next, 3));
    assert_eq!(grd.mastered_tags().count(), 0, "its entries are of the former epoch");
    goes_on_with_its_grants(&mut grd, goes);
}

#[test]
fn what_this_instance_holds_itself_of_a_partition_that_comes_to_it_counts() {
    let tag = moved();
    let mut grd = grd(1);
    let waiter = WaiterId(1);
    run(&mut grd, Event::Acquire { tag, mode: Mode::S, waiter, recovery: false });
    let grant = Pcm::Response {
        request: request(1, 1),
        verdict: Verdict::Page,
        mode: Mode::S,
        grant: GrantNumber(5),
        version: Lsn(7),
        acks: 0,
        dirty: false,
        unsaved: false,
        past: false,
        writer: A,
    };
    run(&mut grd, says(0, 1, tag, grant));
    install(&mut grd, &after(&[1, 2]));
    let stat = Event::Stat { to: B, tag, about: StatAbout::Instance };
    let [Effect::StatReply { stat: Stat::Instance(stat), .. }] = run(&mut grd, stat)[..] else {
        panic!("no reply")
    };
    assert_eq!(usize::from(stat.loading), grd.loading().count());
    assert!(stat.loading > 0 && stat.loading < stat.partitions);
    told(&mut grd, 2, vec![nothing(2)]);
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.owner, entry.version, entry.grant), (Some(B), Lsn(7), GrantNumber(5)));
    assert!(!entry.lost, "somebody has it");
}

#[test]
fn the_first_request_for_a_page_that_has_to_wait_hurries_those_who_have_not_told() {
    let next = after(&[1, 2, 3]);
    let mut pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    let tag = pages.find(|tag| view().master(tag) == A && next.master(tag) == B).unwrap();
    let mut grd = grd(1);
    install(&mut grd, &next);
    told(&mut grd, 3, vec![nothing(2)]);
    let dirty = Pcm::Written { grant: GrantNumber(1), version: Lsn(7) };
    assert_eq!(run(&mut grd, says(2, 2, tag, dirty)), [], "nobody waits for it");
    let effects = run(&mut grd, says(3, 2, tag, acquire(3, 1, Mode::S)));
    assert_eq!(sent(&effects), [(2, Pcm::GuideWanted)], "the other one has told");
    assert_eq!(run(&mut grd, says(2, 2, tag, acquire(2, 1, Mode::S))), [], "once");
    assert!(grd.loading().any(|partition| partition == tag.partition()));
}

#[test]
fn what_is_told_out_of_turn_ends_one_partition_and_leaves_those_before_it() {
    let tag = moved();
    let mut grd = grd(1);
    let next = after(&[1, 2]);
    install(&mut grd, &next);
    run(&mut grd, says(2, 2, tag, acquire(2, 1, Mode::S)));
    let before: Vec<_> = grd.loading().collect();
    assert!(before.iter().any(|partition| *partition < tag.partition()), "{tag}");
    let whole = |epoch| GuideRecord::Whole { partition: tag.partition(), epoch: Epoch(epoch) };
    told(&mut grd, 2, vec![page(tag, 2, holds(Mode::S)), whole(1)]);
    assert_eq!(grd.loading().collect::<Vec<_>>(), before, "of an older epoch");
    let effects = told(&mut grd, 2, vec![whole(2)]);
    assert!(effects.contains(&Effect::PartitionReady { partition: tag.partition() }));
    let left = before.iter().copied().filter(|partition| *partition != tag.partition());
    assert_eq!(grd.loading().collect::<Vec<_>>(), left.collect::<Vec<_>>());
    let entry = grd.entry(&tag).unwrap();
    assert!(entry.converting && entry.holders == [C], "the request goes on: {entry:?}");
    // Said again it changes nothing.
    assert_eq!(told(&mut grd, 2, vec![whole(2)]), []);
}

#[test]
fn what_is_told_of_an_older_epoch_or_after_the_end_does_not_count() {
    let tag = moved();
    for (epoch, counts) in [(1, false), (2, true)] {
        let mut grd = grd(1);
        install(&mut grd, &after(&[1, 2]));
        told(&mut grd, 2, vec![page(tag, epoch, holds(Mode::S)), nothing(2)]);
        assert_eq!(grd.entry(&tag).is_some_and(|entry| entry.holders == [C]), counts);
        // Everything was told.
        told(&mut grd, 2, vec![page(tag, 2, holds(Mode::X)), nothing(2)]);
        assert!(!grd.entry(&tag).is_some_and(|entry| entry.exclusive));
    }
}

#[test]
fn what_was_asked_while_a_partition_was_collected_is_answered_unless_who_asked_has_died() {
    let first = joins(&view(), 3);
    let without_a = dies(&first, 0);
    let mut pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    let tag = pages.find(|tag| first.master(tag) == A && without_a.master(tag) == B).unwrap();
    let mut grd = grd(1);
    install(&mut grd, &first);
    install(&mut grd, &without_a);
    let epoch = without_a.epoch_of(&tag).0;
    for from in [2, 3] {
        let effects = sent(&run(&mut grd, says(from, epoch, tag, acquire(from, 1, Mode::S))));
        // Others are awaited, and asked with the first request.
        assert_eq!(effects.is_empty(), from != 2, "{effects:?}");
        assert!(effects.iter().all(|(_, m)| *m == Pcm::GuideWanted), "{effects:?}");
    }
    let then = dies(&without_a, 3);
    install(&mut grd, &then);
    let batch = vec![GuideRecord::Nothing { epoch: then.epoch() }];
    let (from, incarnation, epoch) = (C, Incarnation(1), then.epoch());
    run(&mut grd, Event::LoadGuide { from, incarnation, epoch, batch, last: true });
    assert_eq!(grd.loading().count(), 0);
    // What is lost waits for redo; the dead one's request does not.
    assert_eq!(grd.entry(&tag).map_or(0, |entry| entry.queued), 1);
    run(&mut grd, redone(0));
    let effects = sent(&run(&mut grd, redone(3)));
    let answers = |of: u16| move |(to, _): &&(u16, Pcm)| *to == of;
    assert_eq!(effects.iter().filter(answers(2)).count(), 1, "{effects:?}");
    assert_eq!(effects.iter().filter(answers(3)).count(), 0, "{effects:?}");
}

// ---- who has to tell ----------------------------------------------------------------------------

#[test]
fn an_end_is_of_its_partition_and_lesser_ones_of_its_epoch_from_who_is_awaited() {
    let mut grd = grd(1);
    install(&mut grd, &after(&[1, 2]));
    let all: Vec<_> = grd.loading().collect();
    let (least, middle) = (all[0], all[all.len() / 2]);
    let end = |partition, epoch| GuideRecord::End { partition, epoch: Epoch(epoch) };
    told(&mut grd, 2, vec![end(middle, 1)]);
    assert_eq!(grd.loading().count(), all.len(), "of another epoch");
    told(&mut grd, 2, vec![nothing(1)]);
    assert_eq!(grd.loading().count(), all.len(), "of the view before");
    let effects = told(&mut grd, 2, vec![end(least, 2)]);
    assert_eq!(effects, [Effect::PartitionReady { partition: least }]);
    told(&mut grd, 2, vec![end(middle, 2)]);
    assert!(grd.loading().all(|partition| partition > middle));
    assert_eq!(grd.loading().count(), all.len() - all.len() / 2 - 1);
    told(&mut grd, 2, vec![nothing(2)]);
    assert_eq!(grd.loading().count(), 0);
}

#[test]
fn what_one_told_and_asked_before_it_died_does_not_count() {
    let second = after(&[1, 2, 3]);
    let second = view().next(second.members().to_vec(), vec![(A, Incarnation(0))]).unwrap();
    let pages = (0..10_000).map(|block| BufferTag { block, ..BufferTag::default() });
    let mut pages = pages.filter(|tag| view().master(tag) == A && second.master(tag) == B);
    let tag = pages.next().unwrap();
    let mut grd = grd(1);
    install(&mut grd, &second);
    told(&mut grd, 2, vec![page(tag, 2, holds(Mode::X))]);
    let past = Report { past: Some(Lsn(7)), ..Report::default() };
    told(&mut grd, 3, vec![page(tag, 2, past), nothing(2)]);
    run(&mut grd, says(2, 2, tag, acquire(2, 9, Mode::S)));
    run(&mut grd, says(3, 2, tag, acquire(3, 9, Mode::S)));
    assert_eq!(grd.entry(&tag), None, "2 has not told all");
    let third = dies(&second, 2);
    let effects = install(&mut grd, &third);
    assert!(effects.contains(&Effect::PartitionReady { partition: tag.partition() }));
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.holders, entry.past_images), (vec![], vec![InstanceId(3)]));
    assert!(entry.lost, "redo of 2 has to come first");
    assert_eq!(entry.queued, 1, "3 waits, and 2 no more");
}

#[test]
fn one_that_came_back_in_a_view_that_was_skipped_is_waited_for() {
    let life = |id: u16, life| Member { incarnation: Incarnation(life), ..member(id) };
    let first = View::first(Epoch(1), vec![life(0, 1), life(1, 1), life(2, 1)]).unwrap();
    let dead = vec![(A, Incarnation(1))];
    let without = first.next(vec![life(1, 1), life(2, 1)], dead).unwrap();
    // 0 is back, and is granted pages of 2; then 2 leaves, and its pages come to 1.
    let back = without.next(vec![life(0, 2), life(1, 1), life(2, 1)], Vec::new()).unwrap();
    let leaving = Member { leaving: true, ..life(2, 1) };
    let last = back.next(vec![life(0, 2), life(1, 1), leaving], Vec::new()).unwrap();
    let mut pages = (0..10_000).map(|block| BufferTag { block, ..BufferTag::default() });
    let tag = pages.find(|tag| first.master(tag) == C && last.master(tag) == B).unwrap();
    let mut grd = Grd::new(B, Incarnation(1), first);
    install(&mut grd, &last);
    let guide = |from: u16, life, batch: Vec<GuideRecord>| Event::LoadGuide {
        from: InstanceId(from),
        incarnation: Incarnation(life),
        epoch: Epoch(4),
        batch,
        last: true,
    };
    run(&mut grd, guide(2, 1, vec![nothing(4)]));
    assert!(grd.loading().any(|partition| partition == tag.partition()), "0 has not told");
    let held = Report { writer: A, ..holds(Mode::X) };
    run(&mut grd, guide(0, 2, vec![page(tag, 4, held), nothing(4)]));
    assert_eq!(grd.loading().count(), 0);
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.owner, entry.exclusive), (Some(A), true));
}

#[test]
fn a_new_instance_collects_what_is_not_its_own_from_the_beginning() {
    // 1 comes back: all it masters has to be told, by the two others.
    let third = after(&[0, 2]).next(vec![member(0), member(1), member(2)], Vec::new()).unwrap();
    let mut grd = Grd::new(B, Incarnation(2), third.clone());
    let mine = |view: &View| {
        let all = (0..pagewire_protocol::tag::PARTITIONS).map(pagewire_protocol::PartitionId);
        all.filter(|p| view.master_of(*p) == B).count()
    };
    assert_eq!(grd.loading().count(), mine(&third));
    run(&mut grd, Event::Continue);
    let guide = |from: u16| Event::LoadGuide {
        from: InstanceId(from),
        incarnation: Incarnation(1),
        epoch: Epoch(3),
        batch: vec![nothing(3)],
        last: true,
    };
    assert_eq!(run(&mut grd, guide(0)), []);
    let ready = run(&mut grd, guide(2));
    assert_eq!(ready.len(), mine(&third));
    assert_eq!(grd.loading().count(), 0);
    // In a new cluster there is nothing to collect.
    assert_eq!(crate::grd::tests::grd(1).loading().count(), 0);
}

#[test]
fn an_instance_that_comes_back_to_a_cluster_of_none_knows_what_may_be_lost() {
    let tag = BufferTag::default();
    let alone = |dead: Vec<Life>| {
        let first = View::new(Epoch(1), vec![A]).unwrap();
        let mut member = member(0);
        member.incarnation = Incarnation(2);
        Grd::new(A, Incarnation(2), first.next(vec![member], dead).unwrap())
    };
    let asks = Event::Acquire { tag, mode: Mode::S, waiter: WaiterId(1), recovery: false };
    for (dead, lost) in [(vec![(A, Incarnation(1))], true), (vec![], false)] {
        let mut grd = alone(dead);
        assert_eq!(grd.loading().count(), 0, "there is nobody to ask");
        let effects = run(&mut grd, asks.clone());
        let [Effect::Request { message, .. }] = effects[..] else { panic!("{effects:?}") };
        let (from, incarnation, epoch) = (A, Incarnation(2), Epoch(2));
        let effects = run(&mut grd, Event::Message { from, incarnation, epoch, tag, message });
        let reads = effects.iter().any(|e| matches!(e, Effect::Read { .. }));
        assert_eq!((reads, grd.entry(&tag).unwrap().lost), (!lost, lost));
    }
}

// ---- redo ---------------------------------------------------------------------------------------

#[test]
fn what_is_lost_waits_for_the_redo_of_all_who_have_died() {
    let tag = moved();
    let mut grd = grd(1);
    let both = dies(&after(&[1, 2]), 2);
    install(&mut grd, &both);
    // Nobody else is left to tell anything.
    assert_eq!(grd.loading().count(), 0);
    let waiter = WaiterId(1);
    run(&mut grd, Event::Acquire { tag, mode: Mode::S, waiter, recovery: false });
    run(&mut grd, says(1, 2, tag, acquire(1, 1, Mode::S)));
    assert!(grd.entry(&tag).unwrap().lost);
    assert_eq!(run(&mut grd, redone(2)), []);
    assert_eq!(run(&mut grd, redone(2)), [], "said twice");
    assert!(grd.entry(&tag).unwrap().lost, "0 has died, too");
    let effects = run(&mut grd, redone(0));
    assert_eq!(effects, [Effect::Read { tag, at_least: Lsn::ZERO }]);
    let entry = grd.entry(&tag).unwrap();
    assert!(!entry.lost && entry.converting, "{entry:?}");
}

#[test]
fn redo_that_was_done_before_the_view_was_heard_of_is_not_waited_for() {
    let tag = moved();
    let mut grd = grd(1);
    assert_eq!(run(&mut grd, redone(0)), []);
    install(&mut grd, &after(&[1, 2]));
    told(&mut grd, 2, vec![nothing(2)]);
    let effects = sent(&run(&mut grd, says(2, 2, tag, acquire(2, 1, Mode::S))));
    let storage = |(to, m): &(u16, Pcm)| {
        *to == 2 && matches!(m, Pcm::Response { verdict: Verdict::Storage, .. })
    };
    assert!(effects.len() == 1 && storage(&effects[0]), "{effects:?}");
}

#[test]
fn whoever_applies_redo_has_what_is_lost_before_others() {
    let tag = moved();
    let mut grd = inherited(tag, None);
    assert_eq!(run(&mut grd, says(2, 2, tag, acquire(2, 1, Mode::S))), []);
    let effects = sent(&run(&mut grd, says(2, 2, tag, redo(2, 2))));
    let granted = |(to, m): &(u16, Pcm), id| {
        *to == 2
            && matches!(m, Pcm::Response { verdict: Verdict::Storage, request: of, .. } if *of == id)
    };
    assert!(effects.len() == 1 && granted(&effects[0], request(2, 2)), "{effects:?}");
    // A second one waits behind it; who cancels is not told that nothing is lost.
    assert_eq!(run(&mut grd, says(1, 2, tag, redo(1, 7))), []);
    let cancel = Pcm::Cancel { request: request(2, 2) };
    assert_eq!(run(&mut grd, says(2, 2, tag, cancel)), []);
    let cancel = Pcm::Cancel { request: request(2, 1) };
    let effects = sent(&run(&mut grd, says(2, 2, tag, cancel)));
    let cancelled = |m: &Pcm| matches!(m, Pcm::Response { verdict: Verdict::Cancelled, .. });
    assert!(effects.len() == 1 && cancelled(&effects[0].1), "{effects:?}");
    let mode = Mode::X;
    let grant = grd.entry(&tag).unwrap().grant;
    let claim = Pcm::Claim { request: request(2, 2), mode, grant, version: Lsn(5), past: 0 };
    run(&mut grd, says(2, 2, tag, claim));
    let entry = grd.entry(&tag).unwrap();
    assert!(!entry.lost && entry.owner == Some(C) && entry.version == Lsn(5), "{entry:?}");
    assert!(!entry.converting && entry.queued == 0, "the other redo is told that it is not needed");
}

#[test]
fn a_past_image_of_what_may_be_lost_is_not_discarded() {
    let tag = moved();
    let wanted = |version| Pcm::WriteRequest { version: Lsn(version) };
    let mut grd = inherited(tag, None);
    assert_eq!(run(&mut grd, says(2, 2, tag, wanted(5))), []);
    run(&mut grd, redone(0));
    let effects = sent(&run(&mut grd, says(2, 2, tag, wanted(5))));
    assert_eq!(effects, [(2, Pcm::Discard { version: Lsn(5) })]);
    // It is the newest there is: redo is applied to it.
    let past = Report { past: Some(Lsn(7)), ..Report::default() };
    let mut grd = inherited(tag, Some(past));
    assert!(grd.entry(&tag).unwrap().lost);
    assert_eq!(run(&mut grd, says(2, 2, tag, wanted(7))), []);
    assert_eq!(grd.entry(&tag).unwrap().past_images, [C]);
    run(&mut grd, redone(0));
    let effects = sent(&run(&mut grd, says(2, 2, tag, wanted(7))));
    assert_eq!(effects, [(2, Pcm::Write { version: Lsn::ZERO })], "then it is written");
}

#[test]
fn a_base_is_shipped_as_a_past_image_to_whoever_wants_the_page() {
    let tag = moved();
    let past = |version| Report { past: Some(Lsn(version)), ..Report::default() };
    let mut grd = inherited(tag, Some(past(7)));
    run(&mut grd, redone(0));
    let effects = sent(&run(&mut grd, says(1, 2, tag, acquire(1, 1, Mode::X))));
    let [(2, Pcm::Ship { request: of, want, acks, past: true, .. })] = effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((of, want, acks), (request(1, 1), Mode::X, 0));
    // It is on storage: there is no need of it.
    let mut grd = inherited(tag, Some(past(7)));
    run(&mut grd, redone(0));
    let written = Pcm::Written { grant: GrantNumber(1), version: Lsn(7) };
    let effects = sent(&run(&mut grd, says(2, 2, tag, written)));
    assert_eq!(effects, [(2, Pcm::Discard { version: Lsn(7) })]);
    let effects = sent(&run(&mut grd, says(2, 2, tag, acquire(2, 1, Mode::X))));
    let storage =
        |m: &Pcm| matches!(m, Pcm::Response { verdict: Verdict::Storage, version: Lsn(7), .. });
    assert!(effects.len() == 1 && storage(&effects[0].1), "{effects:?}");
}
