//! Messages between endpoints that stay linked: order, content, credits and frames.

mod common;

use common::{
    CREDITS, FRAMES, Flow, Node, arena, assert_filled, assert_is, cluster, cluster_in, config,
    fill, introduce, link_all, number_of, numbered, packed_arena, pump, settle, turns,
};
use pagewire_protocol::{Body, InstanceId, Lane, MessageKind, PageSize};
use pagewire_transport::{
    Arena, ArenaConfig, EndpointConfig, Event, Frame, LaneCredits, Message, SendError,
};
use std::collections::HashMap;

#[test]
fn every_lane_delivers_in_order_and_pages_keep_their_contents() {
    for arena in [arena, packed_arena] {
        let mut nodes = cluster_in(3, arena);
        for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 0)] {
            Flow::new(from, to).exchange(&mut nodes, 100);
        }
        settle(&mut nodes, 2);
    }
}

#[test]
fn ten_thousand_messages_each_way_on_all_lanes_at_once_are_neither_lost_nor_doubled_nor_reordered()
{
    let mut nodes = cluster(2);
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    pump(&mut nodes, "10,000 messages have arrived each way", |nodes| {
        for flow in [&mut there, &mut back] {
            flow.send_all_lanes(nodes, 10_000);
            flow.take(nodes);
        }
        there.has_got(10_000) && back.has_got(10_000)
    });
    settle(&mut nodes, 1);
    for flow in [&mut there, &mut back] {
        flow.assert_all_credits_are_back(&mut nodes);
    }
    settle(&mut nodes, 1);
    for (node, peer) in [(&nodes[0], InstanceId(2)), (&nodes[1], InstanceId(1))] {
        let counters = node.endpoint.peer_counters(peer).unwrap();
        for lane in Lane::ALL {
            let expected = 10_000 + u64::from(CREDITS.of(lane));
            let counters = counters.lane(lane);
            assert_eq!(counters.sent.get(), expected, "{lane:?}");
            assert_eq!(counters.received.get(), expected, "{lane:?}");
            assert_eq!(counters.sent_again.get() + counters.duplicates.get(), 0, "{lane:?}");
        }
        assert_eq!((counters.links_up.get(), counters.links_down.get()), (1, 0));
    }
}

#[test]
fn without_credit_the_message_comes_back_intact_and_other_lanes_go_on() {
    let mut nodes = cluster(2);
    let mut flow = Flow::new(0, 1);
    for full in Lane::ALL {
        settle(&mut nodes, 1);
        // The receiver takes nothing, so it posts nothing again.
        nodes[1].taking = false;
        flow.send(&mut nodes, full, u64::MAX);
        let next = flow.sent[full.index()] + 1;
        let message = numbered(nodes[0].endpoint.arena(), full, next).unwrap();
        let frame_at = message.frame.as_ref().map(|frame| frame.as_ptr());
        let endpoint = &mut nodes[0].endpoint;
        let Err(SendError::NoCredit(message)) = endpoint.send(InstanceId(2), full, message) else {
            panic!("{full:?} took a message beyond its credit");
        };
        assert_is(&message, full, next);
        assert_eq!(message.frame.as_ref().map(|frame| frame.as_ptr()), frame_at);
        assert!(message.frame.is_none_or(|frame| frame.try_thaw().is_ok()), "a handle is left");
        let refused = nodes[0].endpoint.peer_counters(InstanceId(2)).unwrap().lane(full);
        assert!(refused.no_credit.get() > 0);
        // The full lane does not hold up the others, not even on the same connection.
        nodes[1].taking = true;
        for other in Lane::ALL.into_iter().filter(|&lane| lane != full) {
            let last = flow.sent[other.index()] + 1;
            flow.send(&mut nodes, other, last);
            assert_eq!(flow.sent[other.index()], last, "{other:?} while {full:?} is full");
        }
        let sent = flow.sent;
        pump(&mut nodes, "all have arrived", |nodes| {
            flow.take(nodes);
            flow.got == sent
        });
    }
}

#[test]
fn messages_that_are_read_where_they_lie_come_in_order_and_give_credits_and_frames_back() {
    let mut nodes = cluster(2);
    nodes[1].taking = false;
    let each = 3 * u64::from(CREDITS.of(Lane::Control));
    let (mut sent, mut got) = ([0; Lane::COUNT], [0; Lane::COUNT]);
    pump(&mut nodes, "more than all credits of each lane", |nodes| {
        for lane in Lane::ALL {
            let sent = &mut sent[lane.index()];
            while *sent < each
                && let Some(message) = numbered(nodes[0].endpoint.arena(), lane, *sent + 1)
                && nodes[0].endpoint.send(InstanceId(2), lane, message).is_ok()
            {
                *sent += 1;
            }
        }
        nodes[1].endpoint.poll();
        while let Some(message) = nodes[1].endpoint.next_message() {
            let got = &mut got[message.lane.index()];
            *got += 1;
            assert_eq!(number_of(&message.body), *got);
            if let Some(frame) = &message.frame {
                assert_filled(frame, *got);
            }
        }
        got == [each; Lane::COUNT]
    });
    nodes[1].taking = true;
    settle(&mut nodes, 1);
    Flow::new(1, 0).exchange(&mut nodes, 3);
}

#[test]
fn a_message_that_is_read_where_it_lies_waits_for_the_event_before_it() {
    let mut nodes = [1, 2].map(|id| Node::new(config(id), FRAMES));
    nodes[1].taking = false;
    introduce(&mut nodes, 0, 1);
    pump(&mut nodes, "a session", |nodes| nodes[0].may_send_to(2));
    let message = Message::new(MessageKind(200), Body::EMPTY);
    nodes[0].endpoint.send(InstanceId(2), Lane::Control, message).unwrap();
    pump(&mut nodes, "the message is there", |nodes| {
        let counters = nodes[1].endpoint.peer_counters(InstanceId(1)).unwrap();
        counters.lane(Lane::Control).received.get() == 1
    });
    let endpoint = &mut nodes[1].endpoint;
    assert!(endpoint.next_message().is_none());
    let first = endpoint.next_event();
    assert!(matches!(first, Some(Event::Up { .. })), "{first:?}");
    assert_eq!(endpoint.next_message().map(|message| message.kind), Some(MessageKind(200)));
    assert!(endpoint.next_message().is_none());
}

#[test]
fn a_message_on_the_wrong_lane_or_to_a_stranger_comes_back() {
    let mut nodes = cluster(2);
    let endpoint = &mut nodes[0].endpoint;
    let plain = || Message::new(MessageKind(200), Body::EMPTY);
    let page = numbered(endpoint.arena(), Lane::Pages, 1).unwrap();
    for (lane, message) in [(Lane::Pages, plain()), (Lane::Bulk, plain()), (Lane::Si, page)] {
        let sent = endpoint.send(InstanceId(2), lane, message);
        assert!(matches!(sent, Err(SendError::WrongLane(_))), "{lane:?}: {sent:?}");
    }
    let ack = Message::new(MessageKind::ACK_ONLY, Body::EMPTY);
    assert!(matches!(
        endpoint.send(InstanceId(2), Lane::Control, ack),
        Err(SendError::WrongLane(_))
    ));
    for stranger in [1, 3, u16::MAX] {
        let sent = endpoint.send(InstanceId(stranger), Lane::Control, plain());
        assert!(matches!(sent, Err(SendError::NoSession(_))), "{stranger}: {sent:?}");
    }
    settle(&mut nodes, 1);
}

#[test]
fn a_page_of_another_size_comes_back_and_nothing_of_it_is_sent() {
    let mut nodes = cluster(2);
    for page_size in [PageSize::K4, PageSize::K32] {
        let config = ArenaConfig { huge_pages: false, page_size, ..ArenaConfig::new(2) };
        let frame = Arena::new(&config).unwrap().take().unwrap().freeze();
        let message = Message::new(MessageKind(200), Body::EMPTY);
        let message = Message { frame: Some(frame), ..message };
        let sent = nodes[0].endpoint.send(InstanceId(2), Lane::Pages, message);
        let Err(SendError::WrongPageSize { message, found_bytes, expected_bytes }) = sent else {
            panic!("{page_size}: {sent:?}");
        };
        assert_eq!((found_bytes, expected_bytes), (page_size.bytes(), 8192));
        assert_eq!(message.frame.map(|frame| frame.len()), Some(found_bytes));
    }
    settle(&mut nodes, 1);
    let mut flow = Flow::new(0, 1);
    flow.exchange(&mut nodes, 3);
    assert!(!nodes[1].has_event(|event| matches!(event, Event::Down { .. })));
}

#[test]
fn at_rest_every_credit_and_every_frame_is_back() {
    let mut nodes = cluster(3);
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    let mut flows = pairs.map(|(from, to)| Flow::new(from, to));
    for round in 1..=20 {
        for flow in &mut flows {
            flow.exchange(&mut nodes, round);
        }
    }
    // Frames at rest: all 64, less 2 peers x (4 page + 2 bulk receives) that are posted.
    settle(&mut nodes, 2);
    for node in &nodes {
        assert_eq!(node.endpoint.arena().free_frames(), FRAMES - 2 * (4 + 2));
    }
    for flow in &mut flows {
        flow.assert_all_credits_are_back(&mut nodes);
    }
    settle(&mut nodes, 2);
}

#[test]
fn a_received_page_lies_in_the_receivers_arena_and_is_the_receivers() {
    let mut nodes = [Node::new(config(1), FRAMES), Node::new(config(2), FRAMES)];
    // Where each frame of the receiver lies.
    let frames: Vec<Frame> = std::iter::from_fn(|| nodes[1].endpoint.arena().take()).collect();
    let places: HashMap<_, _> = frames.iter().map(|f| (f.index(), f.as_ptr() as usize)).collect();
    assert_eq!(places.len(), usize::try_from(FRAMES).unwrap());
    drop(frames);
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    settle(&mut nodes, 1);
    for lane in [Lane::Pages, Lane::Bulk] {
        let message = numbered(nodes[0].endpoint.arena(), lane, 5).unwrap();
        nodes[0].endpoint.send(InstanceId(2), lane, message).unwrap();
        pump(&mut nodes, "the page is there", |nodes| !nodes[1].received.is_empty());
        let mut frame = nodes[1].received.pop_front().unwrap().frame.unwrap();
        assert_filled(&frame, 5);
        assert_eq!(places.get(&frame.index()), Some(&(frame.as_ptr() as usize)));
        // Another one is posted in its place, and this one may be written, shared and thawed.
        turns(&mut nodes, 200);
        let at_rest = nodes[1].free_frames_at_rest(1);
        assert_eq!(nodes[1].endpoint.arena().free_frames(), at_rest - 1);
        fill(&mut frame, 6);
        let mut frame = frame.freeze().try_thaw().expect("the only handle");
        frame[0] = 0;
        drop(frame);
        settle(&mut nodes, 1);
    }
}

#[test]
fn a_sent_frame_does_not_thaw_before_the_acknowledgement_and_does_after_it() {
    let mut nodes = cluster(2);
    for lane in [Lane::Pages, Lane::Bulk] {
        let message = numbered(nodes[0].endpoint.arena(), lane, 9).unwrap();
        let mut kept = message.frame.clone().unwrap();
        nodes[0].endpoint.send(InstanceId(2), lane, message).unwrap();
        // The sender's kernel has all the bytes long ago; the other side has not even looked.
        for _ in 0..2000 {
            nodes[0].poll();
            kept = kept.try_thaw().expect_err("not acknowledged");
        }
        let mut kept = Some(kept);
        let mut thawed = None;
        pump(&mut nodes, "the frame thaws", |_| {
            match kept.take().unwrap().try_thaw() {
                Ok(frame) => thawed = Some(frame),
                Err(shared) => kept = Some(shared),
            }
            thawed.is_some()
        });
        assert_filled(&thawed.unwrap(), 9);
        let arrived = nodes[1].received.pop_front().expect("acknowledged, so it has arrived");
        assert_filled(&arrived.frame.unwrap(), 9);
    }
    settle(&mut nodes, 1);
}

#[test]
fn a_page_is_acknowledged_though_other_lanes_are_never_quiet() {
    let mut nodes = cluster(2);
    let mut chatter = [Flow::new(0, 1), Flow::new(1, 0)];
    let message = numbered(nodes[0].endpoint.arena(), Lane::Pages, 1).unwrap();
    let mut kept = message.frame.clone();
    nodes[0].endpoint.send(InstanceId(2), Lane::Pages, message).unwrap();
    let mut page = None;
    // Each side answers each message with the next at once: no turn is without an event.
    pump(&mut nodes, "the frame of the quiet lane thaws", |nodes| {
        let is_page = |r: &pagewire_transport::Received| r.lane == Lane::Pages;
        if let Some(at) = nodes[1].received.iter().position(is_page) {
            page = nodes[1].received.remove(at);
        }
        for flow in &mut chatter {
            flow.take(nodes);
            let next = flow.got[Lane::Control.index()] + 1;
            flow.send(nodes, Lane::Control, next);
        }
        match kept.take().unwrap().try_thaw() {
            Ok(_) => true,
            Err(shared) => {
                kept = Some(shared);
                false
            }
        }
    });
    assert_filled(&page.expect("the page").frame.unwrap(), 1);
}

#[test]
fn out_of_frames_is_back_pressure_and_nothing_is_lost_when_they_come_back() {
    // The receiver has two frames beyond its receives: it can hold 6 pages.
    let mut nodes = [Node::new(config(1), FRAMES), Node::new(config(2), 4 + 2 + 2)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let mut flow = Flow::new(0, 1);
    let pages = Lane::Pages.index();
    for round in 1..=20 {
        let before = flow.sent[pages];
        for _ in 0..2000 {
            flow.send(&mut nodes, Lane::Pages, u64::MAX);
            nodes.iter_mut().for_each(Node::poll);
        }
        assert_eq!(flow.sent[pages] - before, 6, "sent while the receiver holds all");
        assert_eq!(nodes[1].received.len(), 6);
        assert_eq!(nodes[1].endpoint.arena().free_frames(), 0);
        assert!(nodes[1].endpoint.counters().out_of_frames.get() > 0);
        flow.send(&mut nodes, Lane::Si, round);
        pump(&mut nodes, "another lane delivers", |nodes| nodes[1].received.len() == 7);
        // One frame that comes back lets one more page through, however long both have been quiet.
        turns(&mut nodes, 500);
        let first = nodes[1].received.pop_front().unwrap();
        assert_filled(first.frame.as_deref().unwrap(), before + 1);
        flow.got[pages] += 1;
        // The sender has no credit left, so that it is told in the very next turn.
        let acks_alone = |node: &Node| {
            let counters = node.endpoint.peer_counters(InstanceId(1)).unwrap();
            counters.lane(Lane::Pages).acks_alone.get()
        };
        let told = acks_alone(&nodes[1]);
        drop(first);
        nodes[1].poll();
        assert_eq!(acks_alone(&nodes[1]), told + 1);
        pump(&mut nodes, "one more page has come", |nodes| {
            flow.send(nodes, Lane::Pages, before + 7);
            nodes[1].received.len() == 7
        });
        flow.take(&mut nodes);
        assert_eq!(flow.got, flow.sent, "nothing is lost");
        settle(&mut nodes, 1);
    }
    flow.assert_all_credits_are_back(&mut nodes);
    settle(&mut nodes, 1);
}

#[test]
fn a_link_that_begins_without_frames_gets_all_its_credits_later() {
    let mut nodes = [Node::new(config(1), FRAMES), Node::new(config(2), FRAMES)];
    let held: Vec<Frame> = std::iter::from_fn(|| nodes[1].endpoint.arena().take()).collect();
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let mut flow = Flow::new(0, 1);
    for _ in 0..2000 {
        flow.send(&mut nodes, Lane::Pages, 1);
        nodes.iter_mut().for_each(Node::poll);
    }
    assert!(nodes[1].received.is_empty(), "a page without a frame to put it in");
    drop(held);
    flow.exchange(&mut nodes, 50);
    settle(&mut nodes, 1);
    flow.assert_all_credits_are_back(&mut nodes);
    settle(&mut nodes, 1);
}

#[test]
fn more_credits_than_the_links_buffers_hold_stall_no_lane() {
    let credits = LaneCredits([3000, 3000, 3000, 600, 300]);
    let configs = [1, 2].map(|id| EndpointConfig { credits, ..config(id) });
    let mut nodes = configs.map(|config| Node::new(config, 4000));
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    // Every window is filled before either side looks; then nothing new is sent.
    for _ in 0..3 {
        let last = there.sent.map(|sent| sent + 3000);
        for flow in [&mut there, &mut back] {
            for lane in Lane::ALL {
                let window = u64::from(credits.of(lane));
                let last = last[lane.index()] - 3000 + window;
                flow.send(&mut nodes, lane, last);
            }
        }
        let sent = [there.sent, back.sent];
        pump(&mut nodes, "everything has arrived", |nodes| {
            there.take(nodes);
            back.take(nodes);
            [there.got, back.got] == sent
        });
        settle(&mut nodes, 1);
    }
    there.assert_all_credits_are_back(&mut nodes);
}
