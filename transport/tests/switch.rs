//! A new link takes the place of an older one: when the last connection has proven itself and not
//! before, and nothing is lost, doubled or reordered whatever arrives in between.

mod common;

use common::{
    CREDITS, FRAMES, Flow, Node, assert_filled, cluster, config, nobody, pump,
    raw::{self, RawPeer, Talk},
    settle, turns,
};
use pagewire_protocol::{
    InstanceId, Lane, LaneClass, LinkNonce, ProcessId, Sequence, SessionHeader,
    hello::{Hello, ProofKey, Refusal},
};
use pagewire_transport::{Event, link::tcp::CONNECTIONS};

/// What instance 2 of `nodes` would say to instance 1: its process is in every hello it gives.
fn hello_of_two(nodes: &mut [Node]) -> Hello {
    let address = nodes[1].address();
    let (_, answer) = raw::greet(nodes, address, &raw::hello(9, 2, LaneClass::Small));
    assert_eq!(answer.refusal, Some(Refusal::UnknownInstance));
    let mut hello = raw::hello(2, 1, LaneClass::Small);
    (hello.incarnation, hello.process) = (answer.incarnation, answer.process);
    hello
}

#[test]
fn half_done_handshakes_do_not_disturb_a_linked_pair_under_traffic() {
    let mut nodes = cluster(2);
    let mut hello = hello_of_two(&mut nodes);
    let address = nodes[0].address();
    let mut flows = [Flow::new(0, 1), Flow::new(1, 0)];
    let mut kept = Vec::new();
    for round in 1..=40 {
        for flow in &mut flows {
            flow.send_all_lanes(&mut nodes, u64::MAX);
        }
        hello.nonce = LinkNonce(round);
        let mut talk = Talk::new(raw::connect(address), ProofKey::NONE);
        match round % 4 {
            0 => {}
            1 => talk.open(&mut nodes).unwrap(),
            _ => {
                // All that the true instance 2 could say on its first connection, and no more.
                let answer = talk.greet(&mut nodes, &hello).unwrap();
                assert_eq!(answer.refusal, None);
            }
        }
        if round % 2 == 0 {
            kept.push(talk);
        }
        for flow in &mut flows {
            flow.take(&mut nodes);
        }
    }
    for flow in &mut flows {
        let last = *flow.sent.iter().max().unwrap();
        pump(&mut nodes, "all lanes have delivered", |nodes| {
            flow.send_all_lanes(nodes, last);
            flow.take(nodes);
            flow.has_got(last)
        });
    }
    settle(&mut nodes, 1);
    for node in &nodes {
        assert!(!node.has_event(|event| matches!(event, Event::Down { .. })), "{:?}", node.events);
        let counters = node.endpoint.peer_counters(InstanceId(3 - node.id().0)).unwrap();
        assert_eq!((counters.links_up.get(), counters.links_down.get()), (1, 0));
    }
    for flow in &mut flows {
        flow.assert_all_credits_are_back(&mut nodes);
    }
}

fn number(header: SessionHeader, n: u64) -> Vec<u8> {
    raw::encode_whole(&SessionHeader { sequence: Sequence(n), ..header }, n)
}

#[test]
fn what_arrives_on_the_old_link_while_the_new_one_forms_is_stated_as_received() {
    let mut nodes = vec![Node::new(config(1), FRAMES)];
    nodes[0].knows(2, nobody());
    let address = nodes[0].address();
    let mut old = RawPeer::link(&mut nodes, 2, 5);
    let received = |nodes: &[Node], lane: Lane| {
        let counters = nodes[0].endpoint.peer_counters(InstanceId(2)).unwrap();
        counters.lane(lane).received.get()
    };
    let mut expected = 1;
    for round in 1..=20 {
        let mut hello = raw::hello(2, 1, LaneClass::Small);
        (hello.incarnation.0, hello.nonce) = (5, LinkNonce(100 + round));
        let mut streams = Vec::new();
        for class in CONNECTIONS {
            hello.class = class;
            if class == LaneClass::Bulk {
                // Between the two connections the old link delivers.
                for lane in [Lane::Control, Lane::Pages] {
                    old.send(lane.class(), &number(old.header(lane), expected));
                    pump(&mut nodes, "it is delivered", |nodes| received(nodes, lane) == expected);
                }
                expected += 1;
            }
            let (stream, answer) = raw::greet(&mut nodes, address, &hello);
            assert_eq!(answer.refusal, None);
            if class == LaneClass::Bulk {
                for lane in [Lane::Control, Lane::Pages] {
                    assert_eq!(answer.expected[lane.index()], Sequence(expected), "{lane:?}");
                }
                assert_eq!(answer.credits, CREDITS.0);
            }
            streams.push(stream);
        }
        // The old link has gone, and says nothing any more to the session.
        old.send(LaneClass::Small, &number(old.header(Lane::Control), expected));
        old = RawPeer { id: 2, streams };
        // One that had arrived comes again, then the next one.
        for lane in [Lane::Control, Lane::Pages] {
            for n in [expected - 1, expected] {
                old.send(lane.class(), &number(old.header(lane), n));
            }
            pump(&mut nodes, "it is delivered", |nodes| received(nodes, lane) == expected);
        }
        expected += 1;
        turns(&mut nodes, 20);
        assert!(nodes[0].is_linked(2));
    }
    // Each once and in order.
    let mut last = [0; Lane::COUNT];
    for message in &nodes[0].received {
        let last = &mut last[message.lane.index()];
        *last += 1;
        if let Some(frame) = &message.frame {
            assert_filled(frame, *last);
        }
    }
    assert_eq!(last[Lane::Control.index()], expected - 1);
    assert_eq!(last[Lane::Pages.index()], expected - 1);
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 0);
}

#[test]
fn a_last_connection_that_comes_late_replaces_nothing() {
    let mut nodes = vec![Node::new(config(1), FRAMES)];
    nodes[0].knows(2, nobody());
    let address = nodes[0].address();
    let mut hello = raw::hello(2, 1, LaneClass::Small);
    hello.nonce = LinkNonce(77);
    let (_first, answer) = raw::greet(&mut nodes, address, &hello);
    assert_eq!(answer.refusal, None);
    let _link = RawPeer::link(&mut nodes, 2, 1);
    nodes[0].events.clear();
    // Of the attempt that was given up, of the link that is there, and of none; first while nothing
    // forms, then while another link does.
    let mut late = Hello { class: LaneClass::Bulk, ..hello };
    let mut newer = None;
    for _ in 0..2 {
        for nonce in [77, 1, 3] {
            late.nonce = LinkNonce(nonce);
            let (_, answer) = raw::greet(&mut nodes, address, &late);
            assert_eq!(answer.refusal, Some(Refusal::Busy), "link nonce {nonce}");
        }
        hello.nonce = LinkNonce(500);
        newer = Some(raw::greet(&mut nodes, address, &hello));
    }
    let (_newer, answer) = newer.unwrap();
    assert_eq!(answer.refusal, None);
    // Of another process.
    let other = Hello { process: ProcessId(99), nonce: LinkNonce(500), ..late };
    let (_, answer) = raw::greet(&mut nodes, address, &other);
    assert_eq!(answer.refusal, Some(Refusal::DuplicateInstance));
    turns(&mut nodes, 300);
    assert_eq!(nodes[0].events.len(), 0, "{:?}", nodes[0].events);
    assert!(nodes[0].is_linked(2));
}

#[test]
fn a_forming_link_takes_no_frames_and_the_next_link_has_those_of_the_one_before() {
    // Frames for the receives of one link, and none more.
    let frames = CREDITS.of(Lane::Pages) + CREDITS.of(Lane::Bulk);
    let mut nodes = vec![Node::new(config(1), frames + 1)];
    nodes[0].knows(2, nobody());
    let address = nodes[0].address();
    let mut links = vec![RawPeer::link(&mut nodes, 2, 1)];
    for nonce in 10..20 {
        let mut hello = raw::hello(2, 1, LaneClass::Small);
        hello.nonce = LinkNonce(nonce);
        let (small, _) = raw::greet(&mut nodes, address, &hello);
        assert_eq!(nodes[0].endpoint.arena().free_frames(), 1);
        hello.class = LaneClass::Bulk;
        let (bulk, answer) = raw::greet(&mut nodes, address, &hello);
        assert_eq!((answer.refusal, answer.credits), (None, CREDITS.0));
        links.push(RawPeer { id: 2, streams: vec![small, bulk] });
        turns(&mut nodes, 50);
        assert_eq!(nodes[0].endpoint.arena().free_frames(), 1);
    }
    assert_eq!(nodes[0].endpoint.counters().out_of_frames.get(), 0);
}

#[test]
fn an_attempt_that_the_peer_has_given_up_does_not_keep_us_from_dialling() {
    // Longer than the test's patience: it must not take a time-out.
    let handshake_timeout = std::time::Duration::from_secs(1000);
    let config = pagewire_transport::EndpointConfig { handshake_timeout, ..config(3) };
    let mut nodes = vec![Node::new(config, FRAMES)];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[0].knows(2, listener.local_addr().unwrap());
    let address = nodes[0].address();
    let link = RawPeer::link(&mut nodes, 2, 1);
    let mut hello = raw::hello(2, 3, LaneClass::Small);
    hello.nonce = LinkNonce(5);
    let (half, answer) = raw::greet(&mut nodes, address, &hello);
    assert_eq!(answer.refusal, None);
    drop((half, link));
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_ok() {}
    raw::accept(&mut nodes, &listener);
}
