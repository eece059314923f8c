//! Past images, repair and moves, at a master.

use crate::{
    grd::{
        Effect, Event, Grd,
        tests::{acquire, claim, grd, message, request, run, tag, view},
    },
    view::{Member, View},
};
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, GuideRecord, Incarnation, InstanceId, Lsn, Mode, Pcm, Report,
    Transit, pcm::Verdict,
};

fn sent(effects: &[Effect]) -> Vec<(u16, Pcm)> {
    let message = |e: &Effect| match e {
        Effect::Send { to, message, .. } => Some((to.0, *message)),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

fn claim_of(from: u16, grant: u64, version: u64, past: u64) -> Event {
    let (request, mode) = (request(from, 1), Mode::X);
    let (grant, version) = (GrantNumber(grant), Lsn(version));
    message(from, Pcm::Claim { request, mode, grant, version, past })
}

/// Instance 0 masters the page; 1 changed it and keeps a past image, 2 has it for X, version 9.
fn master() -> Grd {
    let mut grd = grd(0);
    run(&mut grd, acquire(1, 1, Mode::X));
    run(&mut grd, claim(1, 1, 1, Mode::X));
    run(&mut grd, acquire(2, 1, Mode::X));
    run(&mut grd, claim_of(2, 2, 9, 0b10));
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!(entry.past_images, [InstanceId(1)]);
    assert_eq!((entry.owner, entry.version), (Some(InstanceId(2)), Lsn(9)));
    grd
}

fn written(version: u64) -> Event {
    message(2, Pcm::Written { grant: GrantNumber(2), version: Lsn(version) })
}

#[test]
fn a_write_discards_past_images_and_they_are_forgotten_when_that_is_said() {
    let mut grd = master();
    let effects = run(&mut grd, written(9));
    assert_eq!(sent(&effects), [(1, Pcm::Discard { version: Lsn(9) })]);
    assert_eq!(grd.entry(&tag()).unwrap().stored, Lsn(9));
    run(&mut grd, message(1, Pcm::Discarded { version: Lsn(8) }));
    assert_eq!(grd.entry(&tag()).unwrap().past_images.len(), 1, "a newer one may be there");
    run(&mut grd, message(1, Pcm::Discarded { version: Lsn(9) }));
    assert_eq!(grd.entry(&tag()).unwrap().past_images, []);
    let effects = run(&mut grd, written(7));
    assert_eq!(sent(&effects), []);
    assert_eq!(grd.entry(&tag()).unwrap().stored, Lsn(9), "it does not go back");
}

#[test]
fn who_wants_a_past_image_gone_has_the_page_written_unless_it_is() {
    let mut grd = master();
    let wanted = || message(1, Pcm::WriteRequest { version: Lsn(7) });
    assert_eq!(sent(&run(&mut grd, wanted())), [(2, Pcm::Write { version: Lsn(0) })]);
    run(&mut grd, written(9));
    assert_eq!(sent(&run(&mut grd, wanted())), [(1, Pcm::Discard { version: Lsn(9) })]);
}

#[test]
fn a_write_that_is_wanted_meanwhile_is_asked_for_after_the_claim() {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::S));
    assert_eq!(sent(&run(&mut grd, message(1, Pcm::WriteRequest { version: Lsn(7) }))), []);
    let (request, mode, grant) = (request(1, 2), Mode::S, GrantNumber(3));
    let claim = Pcm::Claim { request, mode, grant, version: Lsn(9), past: 0 };
    let effects = sent(&run(&mut grd, message(1, claim)));
    assert!(effects.contains(&(2, Pcm::Write { version: Lsn(0) })), "{effects:?}");
    assert!(effects.contains(&(2, Pcm::Claimed { request, grant })), "{effects:?}");
}

// ---- repair ------------------------------------------------------------------------------------

/// 1 asks for what 2 has, and refuses what it gets: everyone is asked.
fn repairing() -> Grd {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::X));
    let refuse = Pcm::Refuse { request: request(1, 2), grant: GrantNumber(3) };
    let effects = sent(&run(&mut grd, message(1, refuse)));
    let query = Pcm::Query { fence: GrantNumber(4) };
    assert_eq!(effects, [(1, query), (2, query)]);
    grd
}

fn report(from: u16, fence: u64, report: Report) -> Event {
    message(from, Pcm::Report { fence: GrantNumber(fence), report })
}

fn holds(mode: Mode) -> Report {
    Report { mode, grant: GrantNumber(2), version: Lsn(9), dirty: true, ..Report::default() }
}

#[test]
fn a_refusal_of_another_grant_repairs_nothing() {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::X));
    for (sequence, grant) in [(2, 2), (1, 3)] {
        let refuse = Pcm::Refuse { request: request(1, sequence), grant: GrantNumber(grant) };
        assert_eq!(run(&mut grd, message(1, refuse)), []);
    }
    assert!(grd.entry(&tag()).unwrap().converting);
}

#[test]
fn a_repair_waits_for_every_report_of_its_own_query() {
    let mut grd = repairing();
    let past = Report { past: Some(Lsn(7)), ..Report::default() };
    assert_eq!(run(&mut grd, report(2, 3, Report::default())), [], "of an earlier query");
    assert_eq!(run(&mut grd, report(1, 4, past)), []);
    assert_eq!(run(&mut grd, report(1, 4, past)), [], "twice");
    assert!(grd.entry(&tag()).unwrap().repairing);
    assert_eq!(run(&mut grd, acquire(1, 3, Mode::S)), [], "waits");
    let effects = sent(&run(&mut grd, report(2, 4, holds(Mode::X))));
    let entry = grd.entry(&tag()).unwrap();
    assert!(!entry.repairing && entry.exclusive);
    assert_eq!((entry.owner, entry.past_images), (Some(InstanceId(2)), vec![InstanceId(1)]));
    let [(2, Pcm::Ship { want: Mode::S, grant, .. })] = effects[..] else { panic!("{effects:?}") };
    assert!(grant > GrantNumber(4), "numbers go on after the fence");
}

#[test]
fn the_next_request_waits_until_who_is_told_has_heard() {
    let mut grd = repairing();
    run(&mut grd, acquire(1, 3, Mode::S));
    let unsaved = Report { unsaved: true, dirty: false, ..holds(Mode::S) };
    run(&mut grd, report(1, 4, Report::default()));
    let effects = sent(&run(&mut grd, report(2, 4, unsaved)));
    let (mode, grant) = (Mode::S, GrantNumber(5));
    assert_eq!(effects, [(2, Pcm::Assign { mode, grant, dirty: true })]);
    assert_eq!(run(&mut grd, message(2, Pcm::Assigned { grant: GrantNumber(4) })), []);
    let effects = sent(&run(&mut grd, message(2, Pcm::Assigned { grant })));
    assert!(matches!(effects[..], [(2, Pcm::Ship { want: Mode::S, .. })]), "{effects:?}");
}

#[test]
fn a_release_during_a_repair_waits_for_its_end() {
    let mut grd = repairing();
    let held = Report { dirty: false, ..holds(Mode::S) };
    assert_eq!(run(&mut grd, report(2, 4, held)), []);
    let release = Pcm::Release { grant: GrantNumber(2), version: Lsn(9) };
    assert_eq!(run(&mut grd, message(2, release)), [], "until all have reported");
    let effects = sent(&run(&mut grd, report(1, 4, Report::default())));
    assert!(matches!(effects[..], [(2, Pcm::Released { .. })]), "{effects:?}");
    assert_eq!(grd.entry(&tag()), None, "nobody has it, and storage has it whole");
}

#[test]
fn what_ships_to_a_reader_is_released_after_the_claim() {
    let mut grd = master();
    run(&mut grd, acquire(1, 2, Mode::S));
    let release = Pcm::Release { grant: GrantNumber(2), version: Lsn(9) };
    assert_eq!(run(&mut grd, message(2, release)), []);
    let (request, mode, grant) = (request(1, 2), Mode::S, GrantNumber(3));
    let claim = Pcm::Claim { request, mode, grant, version: Lsn(9), past: 0 };
    let effects = sent(&run(&mut grd, message(1, claim)));
    assert!(effects.contains(&(2, Pcm::Released { grant })), "{effects:?}");
    assert_eq!(grd.entry(&tag()).unwrap().holders, [InstanceId(1)]);
}

// ---- views -------------------------------------------------------------------------------------

/// The view after the first, of `members`; those who are missing have died.
fn after(members: &[u16]) -> View {
    let first = view();
    let member = |&id: &u16| Member { incarnation: Incarnation(0), ..member(id) };
    let dead = first.members().iter().filter(|m| !members.contains(&m.id.0)).map(Member::life);
    first.next(members.iter().map(member).collect(), dead.collect()).unwrap()
}

fn member(id: u16) -> Member {
    Member { id: InstanceId(id), incarnation: Incarnation(0), leaving: false }
}

fn told(grd: &mut Grd, from: u16, batch: Vec<GuideRecord>) -> Vec<Effect> {
    let (from, incarnation, epoch) = (InstanceId(from), Incarnation(1), Epoch(2));
    run(grd, Event::LoadGuide { from, incarnation, epoch, batch, last: true })
}

#[test]
fn the_death_of_a_reader_is_noted_and_of_the_owner_repaired() {
    let mut grd = master();
    let effects = sent(&run(&mut grd, Event::View(after(&[0, 2]).into())));
    assert!(effects.iter().all(|(_, m)| matches!(m, Pcm::NodeClear { .. })), "{effects:?}");
    let entry = grd.entry(&tag()).unwrap();
    assert_eq!((entry.past_images, entry.repairing), (vec![], false));

    let mut grd = master();
    let effects = sent(&run(&mut grd, Event::View(after(&[0, 1]).into())));
    assert!(effects.contains(&(1, Pcm::Query { fence: GrantNumber(3) })), "{effects:?}");
    let past = Report { past: Some(Lsn(7)), ..Report::default() };
    run(&mut grd, report(1, 3, past));
    let entry = grd.entry(&tag()).unwrap();
    assert!(entry.lost && entry.holders.is_empty() && !entry.repairing, "{entry:?}");
    assert_eq!(run(&mut grd, acquire(1, 2, Mode::S)), [], "redo comes first");
    let done = Event::RedoDone { instance: InstanceId(2), incarnation: Incarnation(0) };
    let effects = sent(&run(&mut grd, done));
    let is_base = |verdict: Verdict| verdict == Verdict::OwnPastImage;
    assert!(
        matches!(effects[..], [(1, Pcm::Response { verdict, .. })] if is_base(verdict)),
        "{effects:?}"
    );
}

/// A page that instance 0 masters, and instance 1 when 0 has died.
fn moved() -> BufferTag {
    let later = after(&[1, 2]);
    let pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    let mut moved = pages.filter(|tag| view().master(tag).0 == 0 && later.master(tag).0 == 1);
    moved.next().unwrap()
}

#[test]
fn a_new_master_answers_when_everyone_alive_has_told_all_it_has() {
    let (tag, epoch) = (moved(), Epoch(2));
    let mut grd = grd(1);
    run(&mut grd, Event::View(after(&[1, 2]).into()));
    assert!(grd.loading().any(|partition| partition == tag.partition()));
    let (from, incarnation) = (InstanceId(2), Incarnation(1));
    let acquire = Pcm::Acquire { request: request(2, 9), want: Mode::X, recovery: false };
    let asks = Event::Message { from, incarnation, epoch, tag, message: acquire };
    assert_eq!(sent(&run(&mut grd, asks)), [(2, Pcm::GuideWanted)], "deferred");
    let page = |epoch, version| {
        let report = Report { version: Lsn(version), dirty: true, ..holds(Mode::S) };
        GuideRecord::Page { tag, epoch, report }
    };
    let effects = told(&mut grd, 2, vec![page(epoch, 8), page(Epoch(1), 7), page(epoch, 9)]);
    assert_eq!(effects, [], "it has not told all");
    let nobody = told(&mut grd, 0, vec![GuideRecord::Nothing { epoch }]);
    assert_eq!(nobody, [], "the dead tell nothing");
    let end = GuideRecord::End { partition: tag.partition(), epoch };
    let effects = told(&mut grd, 2, vec![end]);
    let ready = Effect::PartitionReady { partition: tag.partition() };
    assert!(effects.contains(&ready), "{effects:?}");
    assert!(!grd.loading().any(|partition| partition <= tag.partition()));
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.owner, entry.version), (Some(InstanceId(2)), Lsn(9)), "the last word");
    let held = |verdict: Verdict| verdict == Verdict::Held;
    let answers = |(to, m): &(u16, Pcm)| {
        *to == 2 && matches!(m, Pcm::Response { verdict, mode: Mode::X, .. } if held(*verdict))
    };
    assert!(sent(&effects).iter().any(answers), "{effects:?}");
}

#[test]
fn what_nobody_told_of_waits_for_redo() {
    let tag = moved();
    let mut grd = grd(1);
    run(&mut grd, Event::View(after(&[1, 2]).into()));
    told(&mut grd, 2, vec![GuideRecord::Nothing { epoch: Epoch(2) }]);
    assert_eq!(grd.loading().count(), 0);
    let (from, incarnation, epoch) = (InstanceId(2), Incarnation(1), Epoch(2));
    let acquire = Pcm::Acquire { request: request(2, 9), want: Mode::S, recovery: false };
    let asks = Event::Message { from, incarnation, epoch, tag, message: acquire };
    assert_eq!(run(&mut grd, asks), []);
    assert!(grd.entry(&tag).unwrap().lost);
    let done = Event::RedoDone { instance: InstanceId(0), incarnation: Incarnation(0) };
    let effects = sent(&run(&mut grd, done));
    let storage = |verdict: Verdict| verdict == Verdict::Storage;
    assert!(
        matches!(effects[..], [(2, Pcm::Response { verdict, .. })] if storage(verdict)),
        "{effects:?}"
    );
}

// ---- views that are skipped --------------------------------------------------------------------

fn lives(members: &[(u16, u64)]) -> Vec<Member> {
    let life = |&(id, life): &(u16, u64)| Member { incarnation: Incarnation(life), ..member(id) };
    members.iter().map(life).collect()
}

/// Instance 1 hears of the first view and then of the third. Instance 0 goes with the second, and the
/// page of the result is instance 1's; instance 2 is in another life with each of them, and instance 4
/// has its first with the second and another with the third.
fn skips_a_view() -> (Grd, BufferTag) {
    let first = View::first(Epoch(1), lives(&[(0, 1), (1, 1), (2, 1), (3, 1)])).unwrap();
    let dead = |id, life| (InstanceId(id), Incarnation(life));
    let second = lives(&[(1, 1), (2, 2), (3, 1), (4, 1)]);
    let second = first.next(second, vec![dead(0, 1), dead(2, 1)]).unwrap();
    let third = lives(&[(1, 1), (2, 3), (3, 1), (4, 2)]);
    let third = second.next(third, vec![dead(0, 1), dead(2, 1), dead(2, 2), dead(4, 1)]).unwrap();
    let pages = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
    let mut moved = pages.filter(|tag| first.master(tag).0 == 0 && third.master(tag).0 == 1);
    let tag = moved.next().unwrap();
    assert_eq!(third.epoch_of(&tag), Epoch(2), "its master stays with the third");
    let mut grd = Grd::new(InstanceId(1), Incarnation(1), first);
    run(&mut grd, Event::View(third.into()));
    (grd, tag)
}

/// Instance `from` says that this is all it has, in a batch of view `epoch`.
fn has_only(grd: &mut Grd, tag: BufferTag, from: (u16, u64), epoch: u64, report: Report) {
    let of = Epoch(2);
    let page = GuideRecord::Page { tag, epoch: of, report };
    let batch = vec![page, GuideRecord::End { partition: tag.partition(), epoch: of }];
    let (from, incarnation) = (InstanceId(from.0), Incarnation(from.1));
    run(grd, Event::LoadGuide { from, incarnation, epoch: Epoch(epoch), batch, last: true });
}

#[test]
fn an_instance_that_came_back_with_a_skipped_view_is_waited_for() {
    let (mut grd, tag) = skips_a_view();
    has_only(&mut grd, tag, (3, 1), 3, Report::default());
    has_only(&mut grd, tag, (4, 2), 3, Report::default());
    assert!(grd.loading().any(|partition| partition == tag.partition()), "2 has not told");
    has_only(&mut grd, tag, (2, 3), 3, holds(Mode::X));
    assert!(!grd.loading().any(|partition| partition == tag.partition()));
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.owner, entry.exclusive, entry.lost), (Some(InstanceId(2)), true, false));
}

#[test]
fn a_copy_that_was_shipped_to_a_life_of_a_skipped_view_is_not_on_its_way_to_the_next_one() {
    let (mut grd, tag) = skips_a_view();
    // Told in the second view: who it is for was alive then, and may have changed it since.
    let transit = Transit {
        to: InstanceId(4),
        to_dead: false,
        request: 1,
        grant: GrantNumber(4),
        version: Lsn(7),
        dirty: true,
    };
    let shipped = Report { transit: Some(transit), ..Report::default() };
    has_only(&mut grd, tag, (3, 1), 2, shipped);
    // The next life counts its requests anew.
    has_only(&mut grd, tag, (4, 2), 3, Report { pending: Some(1), ..Report::default() });
    has_only(&mut grd, tag, (2, 3), 3, Report::default());
    let entry = grd.entry(&tag).unwrap();
    assert_eq!((entry.owner, entry.past_images), (None, vec![InstanceId(3)]), "a past image of it");
    assert!(entry.lost, "its redo comes first");
}

mod grants;
mod moves;
mod repairs;
