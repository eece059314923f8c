//! A peer that has shaken hands and then sends what no correct peer sends: its link is closed, the
//! reason is counted and reported, and the others carry on.

mod common;

use common::{
    CREDITS, Flow, Node, Random, arena, assert_filled, cluster_in, nobody, packed_arena, pump,
    raw::{self, RawPeer},
    settle, turns,
};
use pagewire_protocol::{
    DecodeError, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, MessageKind, PageSize,
    Sequence, SessionHeader, hello::Hello,
};
use pagewire_transport::{
    Arena, Event, error::LinkError, link::tcp::CONNECTIONS, session::Violation,
};
use std::{io::Write, net::Shutdown};

const STRANGER: u16 = 3;

/// Instances 1 and 2 are linked; instance 1 also knows instance 3, which a test makes by hand.
fn town() -> Vec<Node> {
    town_in(arena)
}

/// As [`town`], in arenas of another kind.
fn town_in(arena: fn(u32) -> Arena) -> Vec<Node> {
    let mut nodes = cluster_in(2, arena);
    nodes[0].knows(STRANGER, nobody());
    nodes
}

/// Waits until the link of the stranger is down; why.
fn reason_of_down(nodes: &mut [Node]) -> LinkError {
    let mut reason = None;
    pump(nodes, "the link is down", |nodes| {
        for event in nodes[0].events.drain(..) {
            if let Event::Down { peer, reason: why } = event {
                assert_eq!(peer, InstanceId(STRANGER), "{why}");
                reason = Some(why);
            }
        }
        reason.is_some()
    });
    reason.unwrap()
}

type Bytes = fn(&RawPeer) -> Vec<u8>;
type Expected = fn(&LinkError) -> bool;

fn is_crc(error: &LinkError) -> bool {
    matches!(error, LinkError::Decode(DecodeError::Crc { .. }))
}

fn is_field(error: &LinkError) -> bool {
    matches!(error, LinkError::Decode(DecodeError::Field { .. }))
}

fn is_decode(error: &LinkError) -> bool {
    matches!(error, LinkError::Decode(_))
}

fn with_page(header: &SessionHeader) -> Vec<u8> {
    let mut bytes = raw::encode(header);
    bytes.resize(bytes.len() + PageSize::K8.bytes(), 7);
    bytes
}

fn control(peer: &RawPeer) -> SessionHeader {
    peer.header(Lane::Control)
}

fn page(peer: &RawPeer) -> SessionHeader {
    peer.header(Lane::Pages)
}

const CASES: &[(&str, LaneClass, Bytes, Expected)] = &[
    ("random bytes", LaneClass::Small, |_| Random::new(2).bytes(3000), is_decode),
    ("random bytes", LaneClass::Bulk, |_| Random::new(4).bytes(10_000), is_decode),
    ("zeros", LaneClass::Small, |_| vec![0; 128], is_field),
    ("128 zeros, and no page behind them", LaneClass::Bulk, |_| vec![0; 128], is_field),
    (
        "a body of 81 bytes",
        LaneClass::Small,
        |peer| raw::patched(raw::encode(&control(peer)), 6, &81u16.to_le_bytes()),
        is_field,
    ),
    (
        "a body of 65,535 bytes",
        LaneClass::Page,
        |peer| raw::patched(with_page(&page(peer)), 6, &u16::MAX.to_le_bytes()),
        is_field,
    ),
    (
        "more behind a body than zeros",
        LaneClass::Small,
        |peer| raw::patched(raw::encode(&control(peer)), 127, &[1]),
        is_field,
    ),
    (
        "a lane that does not exist",
        LaneClass::Small,
        |peer| raw::patched(raw::encode(&control(peer)), 1, &[5]),
        is_field,
    ),
    (
        "another version",
        LaneClass::Small,
        |peer| raw::patched(raw::encode(&control(peer)), 0, &[1]),
        is_field,
    ),
    ("a control message among bulk", LaneClass::Bulk, |p| raw::encode(&control(p)), is_field),
    ("a page among bulk", LaneClass::Bulk, |peer| with_page(&page(peer)), is_field),
    (
        "bulk where other pages come",
        LaneClass::Page,
        |peer| with_page(&peer.header(Lane::Bulk)),
        is_field,
    ),
    (
        "an acknowledgement among bulk",
        LaneClass::Bulk,
        |peer| {
            let kind = MessageKind::ACK_ONLY;
            let ack = SessionHeader { kind, body_len: 0, frame: false, ..peer.header(Lane::Bulk) };
            raw::encode(&SessionHeader { sequence: Sequence(0), ..ack })
        },
        is_field,
    ),
    (
        "one page more than there are credits",
        LaneClass::Page,
        |peer| {
            let credits = u64::from(CREDITS.of(Lane::Pages));
            let nth = |n| SessionHeader { sequence: Sequence(n), ..page(peer) };
            (1..=credits + 1).flat_map(|n| with_page(&nth(n))).collect()
        },
        |e| is_field(e) || matches!(e, LinkError::Session(Violation::NoCredit { .. })),
    ),
    (
        "a message without a sequence",
        LaneClass::Small,
        |peer| raw::encode(&SessionHeader { sequence: Sequence(0), ..control(peer) }),
        is_field,
    ),
    (
        "an acknowledgement with a sequence",
        LaneClass::Small,
        |peer| raw::encode(&SessionHeader { kind: MessageKind::ACK_ONLY, ..control(peer) }),
        is_field,
    ),
    (
        "a gap in the sequence",
        LaneClass::Small,
        |peer| raw::encode(&SessionHeader { sequence: Sequence(2), ..control(peer) }),
        |e| matches!(e, LinkError::Session(Violation::Gap { .. })),
    ),
    (
        "a gap in the sequence of pages",
        LaneClass::Page,
        |peer| with_page(&SessionHeader { sequence: Sequence(9), ..page(peer) }),
        |e| matches!(e, LinkError::Session(Violation::Gap { .. })),
    ),
    (
        "an acknowledgement of what was not sent",
        LaneClass::Small,
        |peer| raw::encode(&SessionHeader { ack: Sequence(1), ..control(peer) }),
        |e| matches!(e, LinkError::Session(Violation::AckOfUnsent { .. })),
    ),
    (
        "the greatest acknowledgement there is",
        LaneClass::Small,
        |peer| raw::encode(&SessionHeader { ack: Sequence(u64::MAX), ..control(peer) }),
        |e| matches!(e, LinkError::Session(Violation::AckOfUnsent { .. })),
    ),
    (
        "the name of another instance",
        LaneClass::Small,
        |peer| raw::encode(&SessionHeader { source: InstanceId(2), ..control(peer) }),
        |e| matches!(e, LinkError::Session(Violation::Source { .. })),
    ),
    (
        "one message more than there are credits",
        LaneClass::Small,
        |peer| {
            let credits = u64::from(CREDITS.of(Lane::Control));
            let nth = |n| SessionHeader { sequence: Sequence(n), ..control(peer) };
            (1..=credits + 1).flat_map(|n| raw::encode(&nth(n))).collect()
        },
        |e| matches!(e, LinkError::Session(Violation::NoCredit { .. })),
    ),
    (
        "a wrong CRC",
        LaneClass::Small,
        |peer| {
            let mut bytes = raw::encode(&control(peer));
            bytes[44] ^= 1;
            bytes
        },
        is_crc,
    ),
    (
        "a changed body",
        LaneClass::Small,
        |peer| {
            let mut bytes = raw::encode(&control(peer));
            bytes[50] ^= 1;
            bytes
        },
        is_crc,
    ),
    (
        "a changed body before a page",
        LaneClass::Page,
        |peer| {
            let mut bytes = with_page(&page(peer));
            bytes[50] ^= 1;
            bytes
        },
        is_crc,
    ),
    (
        "a page with a wrong CRC",
        LaneClass::Page,
        |peer| with_page(&SessionHeader { page_crc: Some(1), ..page(peer) }),
        |e| matches!(e, LinkError::PageCrc { found: 1, .. }),
    ),
    (
        "a bulk page with a wrong CRC",
        LaneClass::Bulk,
        |peer| with_page(&SessionHeader { page_crc: Some(1), ..peer.header(Lane::Bulk) }),
        |e| matches!(e, LinkError::PageCrc { found: 1, .. }),
    ),
];

#[test]
fn what_no_peer_sends_closes_its_link_only_and_is_counted() {
    let mut nodes = town();
    let mut flows = [Flow::new(0, 1), Flow::new(1, 0)];
    for (incarnation, (name, class, bytes, expected)) in (1..).zip(CASES) {
        let bad_input = nodes[0].endpoint.counters().bad_input.get();
        let mut peer = RawPeer::link(&mut nodes, STRANGER, incarnation);
        let bytes = bytes(&peer);
        // Nothing is taken, and so nothing posted again, before all of it has been judged.
        nodes[0].taking = false;
        peer.send(*class, &bytes);
        pump(&mut nodes, &format!("{name} on {class:?} is counted"), |nodes| {
            nodes[0].endpoint.counters().bad_input.get() == bad_input + 1
        });
        nodes[0].taking = true;
        let reason = reason_of_down(&mut nodes);
        assert!(expected(&reason), "{name} on {class:?}: {reason:?}");
        assert!(!nodes[0].is_linked(STRANGER));
        for stream in &mut peer.streams {
            raw::read(&mut nodes, stream, usize::MAX);
        }
        nodes[0].received.clear();
        for flow in &mut flows {
            flow.exchange(&mut nodes, 3);
        }
        settle(&mut nodes, 1);
    }
    for flow in &mut flows {
        flow.assert_all_credits_are_back(&mut nodes);
    }
    for node in &nodes {
        assert!(node.is_linked(3 - node.id().0), "the healthy pair");
    }
    let counters = nodes[0].endpoint.peer_counters(InstanceId(2)).unwrap();
    assert_eq!((counters.links_up.get(), counters.links_down.get()), (1, 0));
}

#[test]
fn correct_messages_arrive_in_any_order_and_cut_anywhere() {
    // The control of the test above: it is the fault that closes the link, not the hand. And how
    // the bytes are cut into segments, and which message follows which, makes no difference; nor
    // whether a page is read in one piece with the slots around it.
    for arena in [arena, packed_arena] {
        arrive_in_any_order_and_cut_anywhere(town_in(arena));
    }
}

fn arrive_in_any_order_and_cut_anywhere(mut nodes: Vec<Node>) {
    let mut peer = RawPeer::link(&mut nodes, STRANGER, 1);
    let mut random = Random::new(5);
    let mut sent = [0; Lane::COUNT];
    for round in 0..400 {
        let mut bytes = Vec::new();
        let before = sent;
        for _ in 0..=random.below(30) {
            let pages_first = round % 3 == 0;
            let lane =
                if pages_first || random.below(4) == 0 { Lane::Pages } else { Lane::Control };
            let i = lane.index();
            if sent[i] - before[i] < u64::from(CREDITS.of(lane)) {
                sent[i] += 1;
                let header = SessionHeader { sequence: Sequence(sent[i]), ..peer.header(lane) };
                bytes.extend(raw::encode_whole(&header, sent[i]));
            }
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [100, 300, 9000, 50_000][usize::try_from(random.below(4)).unwrap()];
            let piece = usize::try_from(1 + random.below(most)).unwrap().min(rest.len());
            let (now, later) = rest.split_at(piece);
            peer.stream(LaneClass::Small).write_all(now).unwrap();
            let polls = usize::try_from(random.below(4)).unwrap();
            turns(&mut nodes, polls);
            rest = later;
        }
        let mut got = before;
        pump(&mut nodes, "all have arrived", |nodes| {
            for received in nodes[0].received.drain(..) {
                assert_eq!(received.body, raw::body());
                let got = &mut got[received.lane.index()];
                *got += 1;
                if let Some(frame) = received.frame {
                    assert_filled(&frame, *got);
                }
            }
            got == sent
        });
    }
    assert!(nodes[0].is_linked(STRANGER));
}

#[test]
fn a_message_sent_twice_is_delivered_once_and_its_receive_is_free_again() {
    let mut nodes = town();
    let mut peer = RawPeer::link(&mut nodes, STRANGER, 1);
    for lane in [Lane::Control, Lane::Pages] {
        let counted = |nodes: &[Node]| {
            let counters = nodes[0].endpoint.peer_counters(InstanceId(STRANGER)).unwrap();
            (counters.lane(lane).received.get(), counters.lane(lane).duplicates.get())
        };
        for n in [1, 2, 1, 2, 2, 3] {
            let header = SessionHeader { sequence: Sequence(n), ..peer.header(lane) };
            let bytes = if header.frame { with_page(&header) } else { raw::encode(&header) };
            let (received, duplicates) = counted(&nodes);
            peer.send(lane.class(), &bytes);
            pump(&mut nodes, "it is judged", |nodes| {
                let (now, again) = counted(nodes);
                now + again == received + duplicates + 1
            });
        }
        assert_eq!(counted(&nodes), (3, 3), "{lane:?}");
        assert_eq!(nodes[0].received.drain(..).count(), 3);
        // All credits but one are used up by the messages that follow, and none is missing.
        for n in 4..4 + u64::from(CREDITS.of(lane)) {
            let header = SessionHeader { sequence: Sequence(n), ..peer.header(lane) };
            let bytes = if header.frame { with_page(&header) } else { raw::encode(&header) };
            nodes[0].taking = false;
            peer.send(lane.class(), &bytes);
            pump(&mut nodes, "it has arrived", |nodes| counted(nodes).0 == n);
        }
        nodes[0].taking = true;
        turns(&mut nodes, 10);
        nodes[0].received.clear();
    }
    assert!(nodes[0].is_linked(STRANGER));
    pump(&mut nodes, "all frames are back but those posted for two peers", |nodes| {
        nodes[0].endpoint.arena().free_frames() == nodes[0].free_frames_at_rest(2)
    });
}

#[test]
fn one_connection_that_closes_takes_the_link_down() {
    let mut nodes = town();
    for (incarnation, class) in (1..).zip(CONNECTIONS) {
        let mut peer = RawPeer::link(&mut nodes, STRANGER, incarnation);
        peer.stream(class).shutdown(Shutdown::Write).unwrap();
        let reason = reason_of_down(&mut nodes);
        assert!(matches!(reason, LinkError::Closed), "{class:?}: {reason:?}");
        settle(&mut nodes, 1);
    }
}

#[test]
fn a_message_cut_off_by_a_close_is_no_bad_input() {
    let mut nodes = town();
    for (incarnation, lane) in (1..).zip([Lane::Control, Lane::Pages, Lane::Bulk]) {
        let mut peer = RawPeer::link(&mut nodes, STRANGER, incarnation);
        let bytes = raw::encode_whole(&peer.header(lane), 1);
        peer.send(lane.class(), &bytes[..bytes.len() - 1]);
        turns(&mut nodes, 100);
        drop(peer);
        let reason = reason_of_down(&mut nodes);
        assert!(matches!(reason, LinkError::Closed | LinkError::Io(_)), "{reason:?}");
        Flow::new(0, 1).exchange(&mut nodes, 0);
        settle(&mut nodes, 1);
    }
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 0);
}

/// Says the hellos of a link, each changed by `change`.
fn link_with(nodes: &mut [Node], nonce: u64, change: fn(&mut Hello)) -> RawPeer {
    let address = nodes[0].address();
    let mut streams = Vec::new();
    for class in CONNECTIONS {
        let mut hello = raw::hello(STRANGER, 1, class);
        (hello.incarnation, hello.nonce) = (Incarnation(1), LinkNonce(nonce));
        change(&mut hello);
        streams.push(raw::greet(nodes, address, &hello).0);
    }
    RawPeer { id: STRANGER, streams }
}

#[test]
fn a_peer_that_claims_endless_credits_gets_no_endless_memory() {
    let mut nodes = town();
    let peer = link_with(&mut nodes, 1, |hello| hello.credits = [u32::MAX; Lane::COUNT]);
    pump(&mut nodes, "the link is up", |nodes| nodes[0].is_linked(STRANGER));
    // It never reads: what is kept for it is bounded.
    let kept = |nodes: &mut [Node]| {
        let message = || pagewire_transport::Message::new(MessageKind(200), raw::body());
        let endpoint = &mut nodes[0].endpoint;
        (0..100_000)
            .take_while(|_| endpoint.send(InstanceId(STRANGER), Lane::Si, message()).is_ok())
            .count()
    };
    assert!(kept(&mut nodes) < 10_000);
    turns(&mut nodes, 1000);
    assert_eq!(kept(&mut nodes), 0, "nothing was acknowledged");
    drop(peer);
    reason_of_down(&mut nodes);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn a_peer_that_expects_the_impossible_gets_no_link_and_leaves_no_session() {
    let mut nodes = town();
    let changes: [fn(&mut Hello); 3] = [
        |hello| hello.expected = [Sequence(99); Lane::COUNT],
        |hello| hello.expected[2] = Sequence(0),
        |hello| hello.expected[4] = Sequence(u64::MAX),
    ];
    for (nonce, change) in (1..).zip(changes) {
        let mut peer = link_with(&mut nodes, nonce, change);
        assert_eq!(raw::read(&mut nodes, &mut peer.streams[0], 1), [0; 0], "closed");
        assert_eq!(nodes[0].endpoint.counters().bad_input.get(), nonce);
        assert!(!nodes[0].is_linked(STRANGER));
    }
    nodes[0].events.clear();
    let _peer = RawPeer::link(&mut nodes, STRANGER, 1);
    let up = |event: &Event| matches!(event, Event::Up { peer, .. } if peer.0 == STRANGER);
    assert!(nodes[0].has_event(up), "a session that never had a link: {:?}", nodes[0].events);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn bytes_sent_before_the_link_is_whole_do_no_harm() {
    let mut nodes = town();
    let address = nodes[0].address();
    for nonce in 1..=20 {
        let mut hello = raw::hello(STRANGER, 1, LaneClass::Small);
        hello.nonce = LinkNonce(nonce);
        let (mut small, answer) = raw::greet(&mut nodes, address, &hello);
        assert_eq!(answer.refusal, None);
        small.write_all(&Random::new(nonce).bytes(500)).unwrap();
        turns(&mut nodes, 20);
        // A connection of a link that does not exist, and one of a class twice.
        hello.class = LaneClass::Bulk;
        hello.nonce = LinkNonce(nonce + 1000);
        let (_, answer) = raw::greet(&mut nodes, address, &hello);
        assert!(answer.refusal.is_some());
    }
    assert!(!nodes[0].is_linked(STRANGER));
    let _peer = RawPeer::link(&mut nodes, STRANGER, 2);
    Flow::new(0, 1).exchange(&mut nodes, 20);
    pump(&mut nodes, "all frames are back but those posted for two peers", |nodes| {
        nodes[0].endpoint.arena().free_frames() == nodes[0].free_frames_at_rest(2)
    });
}
