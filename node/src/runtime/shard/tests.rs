//! What a shard does when what it needs is not to be had.

use super::{Shard, guides::Guide};
use crate::{
    config::NodeConfig,
    grd::Event as Input,
    runtime::{
        Handle, NodeError, WriteGuard,
        si::tests::{store_pages, tags},
    },
    view::{Member, View},
};
use pagewire_protocol::{
    Body, BufferTag, ClusterId, Epoch, GuideRecord, Incarnation, InstanceId, Lane, Lsn, Mode, Pcm,
    RequestId, SiMessage, page,
    si::wire::{SI_ACK, SI_BATCH, SI_BEGIN, SI_FRAME, SiAck, SiBatch, SiBegin},
};
use pagewire_si::{SiEntry, SiRead};
use pagewire_transport::{Message, Received};
use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

const ME: InstanceId = InstanceId(0);
const PEER: InstanceId = InstanceId(1);
const NEWCOMER: InstanceId = InstanceId(2);
const TAG: BufferTag = BufferTag {
    tablespace: 1663,
    database: 5,
    relation: 16384,
    fork: pagewire_protocol::Fork::Main,
    block: 3,
};

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// One that has a peer, which nobody listens as.
pub(super) fn shard() -> (tempfile::TempDir, Shard) {
    let folder = tempfile::tempdir().unwrap();
    let (members, path) = (vec![ME, PEER], folder.path().to_owned());
    let config = NodeConfig::new(ClusterId(1), ME, members, address(0), path);
    let config = NodeConfig { arena_mb: 8, huge_pages: false, io_threads: 1, ..config };
    let mut shard = Shard::new(&config).unwrap();
    shard.add_peer(PEER, address(9)).unwrap();
    (folder, shard)
}

#[test]
fn nothing_is_the_newest_version_while_storage_cannot_be_read() {
    let (_folder, mut shard) = shard();
    let copy = |shard: &Shard, version| {
        let mut frame = shard.arena.take().unwrap();
        page::set_lsn(&mut frame, Lsn(version));
        frame
    };
    let past = copy(&shard, 5).freeze();
    shard.copies.keep(TAG, past);
    let arrival = copy(&shard, 6);
    let free = shard.arena.free_frames();
    let failed = || Err("the disk does not answer".to_owned());
    for arrival in [None, Some(arrival)] {
        let found = shard.newest_of(TAG, Lsn::ZERO, arrival, failed());
        assert_eq!(found.map(|(version, _)| version), failed().map(|(version, _)| version));
    }
    assert_eq!(shard.arena.free_frames(), free + 1, "what came is dropped");
    assert!(shard.copies.past(&TAG).is_some(), "the past image stays");
    // What can be read is compared with it.
    for (stored, newest) in [(4, 5), (7, 7)] {
        let read = Ok((Lsn(stored), copy(&shard, stored)));
        let (found, page) = shard.newest_of(TAG, Lsn::ZERO, None, read).unwrap();
        assert_eq!((found, page::lsn(&page)), (Lsn(newest), Lsn(newest)));
    }
}

#[test]
fn batches_for_a_member_without_an_address_hold_up_no_others() {
    let (_folder, mut shard) = shard();
    let batch = |to| {
        let batch = vec![GuideRecord::Nothing { epoch: Epoch(1) }];
        Guide { to, epoch: Epoch(1), batch, last: true }
    };
    for _ in 0..100 {
        shard.guides.push(batch(NEWCOMER));
    }
    shard.send_guides();
    assert!(!shard.guides.is_empty(), "they wait for it");
    shard.has_more = true;
    assert!(shard.go_on(), "the core goes on");
    assert!(!shard.has_more, "and has said all that it had to say");
}

#[test]
fn the_end_of_a_life_that_nobody_met_takes_nothing_from_the_next_one_that_is_linked_already() {
    let member = |id, life| Member { id, incarnation: Incarnation(life), leaving: false };
    let first = View::first(Epoch(1), vec![member(ME, 1), member(PEER, 1)]).unwrap();
    let dead = vec![(PEER, Incarnation(1))];
    let second = first.next(vec![member(ME, 1), member(PEER, 2)], dead).unwrap();
    let (first, second) = (Arc::new(first), Arc::new(second));
    let folder = tempfile::tempdir().unwrap();
    let start = |id, life, view: &Arc<View>| {
        let path = folder.path().to_owned();
        let config = NodeConfig::new(ClusterId(1), id, vec![id], address(0), path);
        let (incarnation, first_view) = (Some(Incarnation(life)), Some(Arc::clone(view)));
        let config = NodeConfig { members_max: Some(2), incarnation, first_view, ..config };
        let config = NodeConfig { arena_mb: 8, huge_pages: false, io_threads: 1, ..config };
        Shard::new(&config).unwrap()
    };
    // The other one's first life has come and gone before this one ever heard of it.
    let (mut shard, mut other) = (start(ME, 1, &first), start(PEER, 2, &second));
    shard.add_peer(PEER, other.listen_address()).unwrap();
    other.add_peer(ME, shard.listen_address()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while shard.peers_up() == 0 {
        assert!(Instant::now() < deadline, "no session");
        shard.poll();
        other.poll();
    }
    // More than its lane has room for.
    let (publisher, subscriber, next) = (Incarnation(1), Incarnation(2), 1);
    let begin = SiBegin { publisher, subscriber, next };
    for _ in 0..10_000 {
        if shard.outbox.waiting() > 0 {
            break;
        }
        let message = Message::new(SI_BEGIN, begin.encode());
        shard.outbox.send(&mut shard.endpoint, PEER, Lane::Si, message, false);
    }
    assert_eq!(shard.outbox.waiting(), 1);
    shard.install_view(&second, &[]).unwrap();
    assert!(shard.outbox.waiting() >= 1, "what waits is for the life that is here");
    assert_eq!((shard.peers_up(), shard.peers_missing()), (1, vec![]));
}

#[test]
fn a_view_that_cannot_be_put_in_force_changes_nothing() {
    let (_folder, mut shard) = shard();
    let next = |members: &[InstanceId]| {
        let first = View::new(Epoch(1), vec![ME, PEER]).unwrap();
        let view = View::new(Epoch(2), members.to_vec()).unwrap();
        Arc::new(first.next(view.members().to_vec(), Vec::new()).unwrap())
    };
    let unchanged = |shard: &Shard| {
        assert_eq!(shard.grd.view().epoch(), Epoch(1));
        assert!(shard.outbox.knows(PEER) && shard.endpoint.peer_counters(PEER).is_some());
        assert!(!shard.outbox.knows(NEWCOMER));
    };
    // Nobody can dial it.
    let none = SocketAddr::from(([0, 0, 0, 0], 7400));
    for no_address in [address(0), none] {
        let error = shard.install_view(&next(&[ME, NEWCOMER]), &[(NEWCOMER, no_address)]);
        assert!(matches!(error, Err(NodeError::Transport(_))), "{error:?}");
        unchanged(&shard);
    }
    // There is no memory for it beside a peer that is no member, and stays.
    let other = InstanceId(3);
    shard.peers_max = 2;
    shard.add_peer(other, address(10)).unwrap();
    let error =
        shard.install_view(&next(&[ME, PEER, NEWCOMER]), &[(NEWCOMER, address(11))]).unwrap_err();
    assert!(matches!(error, NodeError::TooManyPeers { peer: NEWCOMER, most: 2 }), "{error}");
    unchanged(&shard);
    // In the place of one that goes there is.
    shard.install_view(&next(&[ME, NEWCOMER]), &[(NEWCOMER, address(11))]).unwrap();
    assert!(shard.outbox.knows(NEWCOMER) && !shard.outbox.knows(PEER));
    assert_eq!(shard.grd.view().epoch(), Epoch(2));
}

#[test]
fn what_is_no_invalidation_is_counted_and_readers_forget_everything() {
    let (_folder, mut shard) = shard();
    let mut reader = shard.si_reader().unwrap();
    let mut entries = [SiEntry::default(); 8];
    let received = |kind, body: Body| {
        let (lane, frame) = (Lane::Si, None);
        Received { from: PEER, lane, kind, epoch: Epoch(0), body, frame }
    };
    let (life, me) = (Incarnation(1), shard.identity().1);
    shard.si_up(PEER, life);
    let begin = SiBegin { publisher: life, subscriber: me, next: 1 };
    shard.on_message(&mut received(SI_BEGIN, begin.encode()));
    assert_eq!(reader.read(&mut entries), SiRead::Reset);
    assert_eq!(shard.counters.bad_messages.get(), 0);
    // Bodies of other lengths, a frame that is not there, a message of no kind.
    let odd = SiBatch::new(1, &[[0x80; 16]]).unwrap().encode();
    let odd = [(SI_BATCH, Body::EMPTY), (SI_FRAME, begin.encode()), (SI_BATCH, odd)];
    for (times, (kind, body)) in (1..).zip(odd) {
        shard.on_message(&mut received(kind, body));
        assert_eq!(shard.counters.bad_messages.get(), times);
        assert_eq!(reader.read(&mut entries), SiRead::Reset, "{kind}");
    }
    // It counts as batch 1: the stream goes on.
    let next = SiMessage::Relmap { database: 5 };
    let next = SiBatch::new(2, &[next.encode()]).unwrap();
    shard.on_message(&mut received(SI_BATCH, next.encode()));
    assert_eq!(reader.read(&mut entries), SiRead::Messages(1));
    // What was never published is not acknowledged.
    let ack = SiAck { up_to: 3, epoch: Epoch(1) };
    shard.on_message(&mut received(SI_ACK, ack.encode()));
    assert_eq!(shard.counters.bad_messages.get(), 4);
}

#[test]
fn what_is_acknowledged_is_in_the_ring_already() {
    let (_folder, mut shard) = shard();
    let (life, me) = (Incarnation(1), shard.identity().1);
    let mut reader = shard.si_reader().unwrap();
    let mut entries = [SiEntry::default(); 8];
    let received = |kind, body: Body| {
        let (lane, frame) = (Lane::Si, None);
        Received { from: PEER, lane, kind, epoch: Epoch(0), body, frame }
    };
    shard.si_up(PEER, life);
    let begin = SiBegin { publisher: life, subscriber: me, next: 1 };
    shard.on_message(&mut received(SI_BEGIN, begin.encode()));
    assert_eq!(reader.read(&mut entries), SiRead::Reset);
    let batch = SiBatch::new(1, &[SiMessage::Relmap { database: 5 }.encode()]).unwrap();
    shard.on_message(&mut received(SI_BATCH, batch.encode()));
    // All of it is owed, and none of it has left.
    assert!(reader.has_new(), "it would be acknowledged before anybody can read it");
    assert_eq!(reader.read(&mut entries), SiRead::Messages(1));
    assert!(shard.acknowledge_si() && !shard.acknowledge_si());
}

/// Lets the shard go to sleep, and does `what` at the last moment. True when it slept all the same.
fn sleeps_over(shard: &mut Shard, what: impl Fn()) -> bool {
    let counters = shard.endpoint_counters();
    for _ in 0..10_000 {
        shard.poll();
        let (before, mut has_asked) = (counters.sleeps.get(), false);
        shard.wait(Duration::from_millis(20), || {
            has_asked = true;
            what();
            false
        });
        if has_asked {
            return counters.sleeps.get() > before;
        }
    }
    panic!("it never goes to sleep");
}

#[test]
fn a_shard_about_to_sleep_sees_what_is_published_and_delivered_at_that_moment() {
    let (folder, mut shard) = shard();
    store_pages(folder.path());
    let (shared, message) = (Arc::clone(&shard.shared), SiMessage::Relmap { database: 5 });
    // As a thread does whose look finds the shard awake: it wakes nobody.
    let publish = || assert!(shared.si.queue.push([message.encode()].into_iter()).is_ok());
    assert!(!sleeps_over(&mut shard, publish), "it sleeps over what was published");
    assert_eq!(shard.counters.si_published.get(), 1);

    let handle = shard.handle();
    let (mine, mut guard) = page_of_its_own(&mut shard, &handle);
    let ticket = guard.publish(&shard.si_publisher(), &[message]).unwrap();
    drop(guard);
    shard.poll();
    assert_eq!(shard.kept.len(), 1);
    assert!(handle.try_read(&mine).is_none(), "a local hit before the ticket");
    let complete = || shared.si.complete(ticket.position());
    assert!(!sleeps_over(&mut shard, complete), "it sleeps over a pin that may go");
    assert!(shard.kept.is_empty() && handle.try_read(&mine).is_some());
}

/// A page that this instance masters, pinned for writing.
fn page_of_its_own<'a>(shard: &mut Shard, handle: &'a Handle) -> (BufferTag, WriteGuard<'a>) {
    let mine = tags().find(|tag| shard.grd.view().master(tag) == ME).unwrap();
    handle.begin(mine, Mode::X);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        shard.poll();
        if let Some(granted) = handle.finish_write() {
            return (mine, granted.unwrap());
        }
        assert!(Instant::now() < deadline, "no grant");
        thread::yield_now();
    }
}

#[test]
fn a_page_that_is_shipped_is_put_away_when_it_has_left_or_at_once_where_no_message_asked() {
    for by_message in [true, false] {
        let (folder, mut shard) = shard();
        store_pages(folder.path());
        let handle = shard.handle();
        let (tag, guard) = page_of_its_own(&mut shard, &handle);
        drop(guard);
        let request = RequestId { instance: PEER, incarnation: Incarnation(1), sequence: 1 };
        let message = Pcm::Acquire { request, want: Mode::X, recovery: false };
        let epoch = shard.grd.view().epoch_of(&tag);
        if by_message {
            let (kind, lane) = (message.kind(), message.lane());
            let body = Body::new(&message.encode(tag)).unwrap();
            let mut received = Received { from: PEER, lane, kind, epoch, body, frame: None };
            shard.on_message(&mut received);
            assert!(shard.shipped.is_some() && !shard.pool.is_empty(), "not yet");
            assert!(handle.try_read(&tag).is_none(), "nobody may pin it");
            shard.poll();
        } else {
            let (from, incarnation) = (PEER, Incarnation(1));
            shard.input(Input::Message { from, incarnation, epoch, tag, message });
            shard.run();
        }
        assert_eq!((shard.shipped, shard.copies.frames()), (None, 1));
        assert!(shard.pool.is_empty());
        assert_eq!(shard.counters.pages_shipped.get(), 1);
    }
}

#[test]
fn a_turn_ends_however_much_is_published() {
    let (_folder, mut shard) = shard();
    let many = vec![SiMessage::Relmap { database: 5 }; 1 << 14];
    let _ticket = shard.si_publisher().publish(&many).unwrap();
    assert!(shard.publish());
    let first = shard.counters.si_published.get();
    assert!(0 < first && first < 1 << 14, "{first} at once");
    while shard.publish() {}
    assert_eq!(shard.counters.si_published.get(), 1 << 14);
}

#[test]
fn what_nobody_waits_for_is_left_to_the_next_turn_once_and_not_for_ever() {
    let (_folder, mut shard) = shard();
    for owes_rest in [true, false, true, false] {
        shard.has_answered = true;
        shard.poll();
        assert_eq!(shard.owes_rest, owes_rest);
    }
    shard.has_answered = true;
    shard.poll();
    // It does not sleep over it.
    shard.wait(Duration::from_secs(3600), || false);
    assert!(!shard.owes_rest);
}
