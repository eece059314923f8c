//! One-sided reads, on whatever the links are on: every read ends once, brings the page or says why
//! not, and takes nothing from the lanes. With PAGEWIRE_TEST_VERBS over verbs, as RDMA READs.

mod common;

use common::{
    FRAMES, Flow, Node, assert_filled, config, fill, introduce, link_all,
    proxy::{Cutter, Proxy},
    pump,
    reads::{OWNER, PAGES, Pair, REGION, assert_pages, collect, reads, with_reads},
    settle, verbs,
};
use pagewire_protocol::{InstanceId, Lane, MessageKind, RegionId, read::READS_MAX};
use pagewire_transport::{
    EndpointConfig, Event, Message, ReadDone, ReadError, ReadRefused, SendError,
};
use std::{collections::BTreeMap, time::Duration};

#[test]
fn pages_are_read_while_their_owner_keeps_them_and_is_told_nothing() {
    let mut pair = Pair::new();
    let before = reads(&pair.nodes);
    let offsets: Vec<_> = (0..PAGES).chain((0..PAGES).rev()).collect();
    let done = pair.read_all(&offsets);
    assert_pages(done, &offsets);
    let (posted, asked) = reads(&pair.nodes);
    let (count, device) = (offsets.len() as u64, verbs().is_some());
    let expected = if device { (count, 0) } else { (0, count) };
    assert_eq!((posted - before.0, asked - before.1), expected);
    assert_eq!(pair.nodes[1].received.len(), 0, "the owner's layer above sees nothing");
    let counters = pair.nodes[1].endpoint.peer_counters(InstanceId(1)).expect("a peer");
    assert_eq!(counters.reads.answered.get(), asked);
}

#[test]
fn what_the_owner_has_written_meanwhile_is_what_the_next_read_brings() {
    let mut pair = Pair::new();
    for version in 100..104 {
        fill(&mut pair.pages[3], version);
        let [done]: [ReadDone; 1] = pair.read_all(&[3]).try_into().expect("one");
        assert_filled(&done.outcome.expect("a page"), version);
    }
}

#[test]
fn beyond_the_region_and_in_a_region_that_is_not_open_there_is_an_error_and_the_link_stays() {
    let mut pair = Pair::new();
    let before = reads(&pair.nodes);
    let offsets = [PAGES, PAGES + 1, FRAMES - 1, FRAMES, u32::MAX];
    for (done, offset_frames) in pair.read_all(&offsets).into_iter().zip(offsets) {
        let error = done.outcome.expect_err("out of bounds");
        assert_eq!(error, ReadError::OutOfBounds { offset_frames, frames: PAGES });
        let text = error.to_string();
        assert!(text.contains(&format!("frame {offset_frames} of a region of 6")), "{text}");
    }
    if verbs().is_some() {
        assert_eq!(reads(&pair.nodes), before, "neither device nor owner was asked");
    }
    let unknown = RegionId(8);
    let read = pair.nodes[0].endpoint.read_page(OWNER, unknown, 0).expect("room");
    pump(&mut pair.nodes, "it is refused", |nodes| {
        nodes[0].has_event(|event| matches!(event, Event::Read(done) if done.read == read))
    });
    let last = pair.nodes[0].events.pop();
    let Some(Event::Read(ReadDone { outcome: Err(error), .. })) = last else { panic!("{last:?}") };
    assert_eq!(error, ReadError::UnknownRegion);
    assert!(error.to_string().contains("no region of that number"));
    let done = pair.read_all(&[1]);
    assert_pages(done, &[1]);
    for (node, peer) in [(0, 2), (1, 1)] {
        let counters = pair.nodes[node].endpoint.peer_counters(InstanceId(peer)).expect("a peer");
        assert_eq!((counters.links_down.get(), counters.falls_to_tcp.get()), (0, 0));
    }
}

#[test]
fn an_end_that_has_not_turned_reads_on_neither_reads_nor_is_read() {
    for on in [[false, true], [true, false], [false, false]] {
        let mut nodes = vec![with_reads(1, on[0]), with_reads(2, on[1])];
        introduce(&mut nodes, 0, 1);
        link_all(&mut nodes);
        let refused = nodes[0].endpoint.read_page(OWNER, REGION, 0).unwrap_err();
        let expected = if on[0] { ReadRefused::OffAtPeer } else { ReadRefused::Off };
        assert_eq!(refused, expected, "{on:?}");
        assert!(refused.to_string().contains("turn them on"), "{refused}");
        assert_eq!(nodes[0].endpoint.read_room(OWNER), 0);
        if !on[1] {
            let error = nodes[1].endpoint.open_region(REGION, 0..1).unwrap_err().to_string();
            assert!(error.contains("off") && error.contains("one_sided_reads"), "{error}");
        }
    }
    let mut alone = with_reads(1, true);
    assert_eq!(alone.endpoint.read_page(OWNER, REGION, 0), Err(ReadRefused::NoSession));
    alone.knows(2, common::nobody());
    assert_eq!(alone.endpoint.read_page(OWNER, REGION, 0), Err(ReadRefused::NoSession));
}

#[test]
fn more_reads_than_may_be_under_way_are_handed_back_until_an_event_is_taken() {
    let mut pair = Pair::new();
    pair.nodes[0].taking = false;
    for _ in 0..READS_MAX {
        pair.nodes[0].endpoint.read_page(OWNER, REGION, 2).expect("room");
    }
    let full = Err(ReadRefused::TooMany);
    assert_eq!(pair.nodes[0].endpoint.read_page(OWNER, REGION, 2), full);
    let free = |nodes: &[Node]| nodes[0].endpoint.arena().free_frames();
    let rest = pair.nodes[0].free_frames_at_rest(1) - u32::try_from(READS_MAX).expect("few");
    pump(&mut pair.nodes, "all have ended and hold a frame each", |nodes| free(nodes) == rest);
    assert_eq!(pair.nodes[0].endpoint.read_page(OWNER, REGION, 2), full, "the events wait");
    let (mut taken, mut again) = (0, 0);
    pump(&mut pair.nodes, "all have ended", |nodes| {
        let endpoint = &mut nodes[0].endpoint;
        while let Some(event) = endpoint.next_event() {
            let Event::Read(done) = event else { continue };
            assert_filled(&done.outcome.expect("a page"), if taken < READS_MAX { 2 } else { 3 });
            taken += 1;
            assert_eq!(endpoint.read_room(OWNER), taken - again);
            if again == 0 {
                again = 1;
                endpoint.read_page(OWNER, REGION, 3).expect("room for one");
                endpoint.read_page(OWNER, REGION, 3).expect_err("for no more");
            }
        }
        taken == READS_MAX + 1
    });
}

#[test]
fn reads_beside_all_lanes_take_no_credit_and_no_frame_from_them() {
    let mut pair = Pair::new();
    drop(std::mem::take(&mut pair.pages));
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    let (mut begun, mut ended, wanted) = (0, 0, 300);
    pump(&mut pair.nodes, "all reads have ended", |nodes| {
        let (sent, room) = (there.sent[0], nodes[0].endpoint.read_room(OWNER).min(3));
        for _ in 0..room.min(wanted - begun) {
            let offset = u32::try_from(begun).expect("few") % PAGES;
            nodes[0].endpoint.read_page(OWNER, REGION, offset).expect("room");
            begun += 1;
        }
        there.send_all_lanes(nodes, sent + 3);
        back.send_all_lanes(nodes, sent + 3);
        there.take(nodes);
        back.take(nodes);
        // Their frames go back at once: the arena is small.
        let mut now = BTreeMap::new();
        collect(nodes, &mut now);
        assert!(now.values().all(|done| done.outcome.is_ok()));
        ended += now.len();
        ended == wanted
    });
    let sent = [there.sent, back.sent];
    pump(&mut pair.nodes, "all has arrived", |nodes| {
        there.take(nodes);
        back.take(nodes);
        [there.got, back.got] == sent
    });
    settle(&mut pair.nodes, 1);
    there.assert_all_credits_are_back(&mut pair.nodes);
    back.assert_all_credits_are_back(&mut pair.nodes);
    settle(&mut pair.nodes, 1);
    // Every receive is posted, waits for its message to be taken or for a frame: none twice.
    for (node, peer) in [(0, 2), (1, 1)] {
        for lane in Lane::ALL {
            let endpoint = &pair.nodes[node].endpoint;
            let state = endpoint.lane_state(InstanceId(peer), lane).expect("a session");
            let unused = state.session.posted - state.session.received;
            let all = unused + state.untaken + state.owed;
            assert_eq!(all, endpoint.config().credits.of(lane), "{lane:?}: {state:?}");
        }
    }
}

#[test]
fn an_owner_without_a_free_frame_answers_when_it_has_one() {
    if verbs().is_some() {
        // The device needs no frame of the owner's.
        return;
    }
    let mut pair = Pair::new();
    let arena = pair.nodes[1].endpoint.arena().clone();
    let held: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    let read = pair.nodes[0].endpoint.read_page(OWNER, REGION, 4).expect("room");
    common::turns(&mut pair.nodes, 2000);
    assert!(!pair.nodes[0].has_event(|event| matches!(event, Event::Read(_))));
    // A refusal needs no frame, and does not wait behind the page.
    let beyond = pair.nodes[0].endpoint.read_page(OWNER, REGION, PAGES).expect("room");
    let mut ended = BTreeMap::new();
    pump(&mut pair.nodes, "it is refused", |nodes| {
        collect(nodes, &mut ended);
        ended.contains_key(&beyond)
    });
    let [refused]: [ReadDone; 1] =
        ended.into_values().collect::<Vec<_>>().try_into().expect("only that one");
    let why = ReadError::OutOfBounds { offset_frames: PAGES, frames: PAGES };
    assert_eq!(refused.outcome.expect_err("out of bounds"), why);
    let counters = pair.nodes[1].endpoint.peer_counters(InstanceId(1)).expect("a peer");
    assert_eq!(counters.reads.waited_for_frames.get(), 1, "once, however often it was tried");
    assert_eq!(counters.reads.answered.get(), 1);
    drop(held);
    let mut ended = BTreeMap::new();
    pump(&mut pair.nodes, "it is answered", |nodes| {
        collect(nodes, &mut ended);
        ended.contains_key(&read)
    });
    assert_pages(ended.into_values().collect(), &[4]);
}

#[test]
fn a_read_without_an_answer_ends_at_its_deadline_and_the_late_page_is_discarded() {
    if verbs().is_some() {
        // As above.
        return;
    }
    let read_timeout = Duration::from_millis(50);
    let config = EndpointConfig { one_sided_reads: true, read_timeout, ..config(1) };
    let mut pair = Pair::of(Node::new(config, FRAMES)).linked();
    let arena = pair.nodes[1].endpoint.arena().clone();
    let held: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    let [done]: [ReadDone; 1] = pair.read_all(&[4]).try_into().expect("one");
    let error = done.outcome.expect_err("there is no frame for the page");
    assert!(matches!(error, ReadError::TimedOut { limit_ms: 50, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("within 50 ms") && text.contains("the owner"), "{text}");
    let counts = |pair: &Pair| {
        let of_peer = &pair.nodes[0].endpoint.peer_counters(OWNER).expect("a peer");
        (of_peer.reads.timed_out.get(), of_peer.reads.late.get())
    };
    assert_eq!(counts(&pair), (1, 0));
    assert_eq!(pair.nodes[0].endpoint.read_room(OWNER), READS_MAX - 1, "the owner has it still");
    drop(held);
    pump(&mut pair.nodes, "the late page is discarded", |nodes| {
        nodes[0].endpoint.read_room(OWNER) == READS_MAX
    });
    assert_eq!(counts(&pair), (1, 1));
    assert!(!pair.nodes[0].has_event(|event| matches!(event, Event::Read(_))), "it ended once");
    settle_kept(&mut pair);
    let counters = pair.nodes[0].endpoint.peer_counters(OWNER).expect("a peer");
    assert_eq!(counters.links_down.get(), 0, "a late page is no offence");
}

#[test]
fn reads_under_way_survive_links_that_are_cut_and_end_once() {
    let mut pair = Pair::unlinked();
    let cutter = Cutter::new();
    let proxies = [0, 1].map(|at| Proxy::new(pair.nodes[at].address(), &cutter));
    pair.nodes[0].knows(2, proxies[1].address);
    pair.nodes[1].knows(1, proxies[0].address);
    link_all(&mut pair.nodes);
    let (mut ended, mut begun) = (0, 0);
    for cut in 0..10 {
        let target = begun + READS_MAX;
        // Over verbs the pages do not pass there, only what is said about the link.
        let bytes = if verbs().is_some() { 0 } else { cut * 30_000 };
        cutter.cut_after(bytes);
        pump(&mut pair.nodes, "reads have ended", |nodes| {
            while begun < target {
                let offset = u32::try_from(begun).expect("few") % PAGES;
                match nodes[0].endpoint.read_page(OWNER, REGION, offset) {
                    Ok(_) => begun += 1,
                    Err(ReadRefused::TooMany) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            let mut now = BTreeMap::new();
            collect(nodes, &mut now);
            ended += now.len();
            for done in now.into_values() {
                assert_filled(&done.outcome.expect("a page"), done.offset_frames.into());
            }
            ended == target
        });
        cutter.cut();
        link_all(&mut pair.nodes);
    }
    assert_eq!(pair.nodes[1].endpoint.counters().bad_input.get(), 0);
    assert_eq!(pair.nodes[0].endpoint.counters().bad_input.get(), 0);
    settle_kept(&mut pair);
}

/// Frames but those that are posted and the owner's pages.
fn settle_kept(pair: &mut Pair) {
    pump(&mut pair.nodes, "all frames are back", |nodes| {
        let free = |node: &Node| node.endpoint.arena().free_frames();
        free(&nodes[0]) == nodes[0].free_frames_at_rest(1)
            && free(&nodes[1]) == nodes[1].free_frames_at_rest(1) - PAGES
    });
}

#[test]
fn reads_that_are_under_way_when_the_session_ends_end_with_it() {
    let mut pair = Pair::new();
    // The owner does not poll: nothing is answered. Over verbs its device answers all the same.
    let begun: Vec<_> = (0..5)
        .map(|offset| pair.nodes[0].endpoint.read_page(OWNER, REGION, offset).expect("room"))
        .collect();
    pair.nodes[0].endpoint.end_session(OWNER).expect("a session");
    pair.nodes[0].poll();
    let mut ended = BTreeMap::new();
    collect(&mut pair.nodes, &mut ended);
    assert_eq!(ended.keys().copied().collect::<Vec<_>>(), begun);
    for done in ended.values() {
        assert_eq!(done.outcome.as_ref().err(), Some(&ReadError::SessionEnded));
    }
    assert_eq!(pair.nodes[0].endpoint.read_page(OWNER, REGION, 0), Err(ReadRefused::NoSession));
}

#[test]
fn the_kinds_of_reads_are_no_kinds_of_messages() {
    let mut pair = Pair::new();
    for kind in [65_532, 65_533, 65_534] {
        let message = Message::new(MessageKind(kind), common::raw::body());
        let sent = pair.nodes[0].endpoint.send(OWNER, Lane::Control, message);
        assert!(matches!(sent, Err(SendError::WrongLane(_))), "{sent:?}");
    }
}
