//! Who gets a link and who does not: every refusal has a reason and a text, is counted, and does not
//! disturb those that are linked.

mod common;

use common::{
    CLUSTER, FRAMES, Flow, Node, arena, cluster, config, introduce, link_all, nobody, pump,
    raw::{self, RawPeer},
    turns,
};
use pagewire_protocol::{
    ClusterId, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, PageSize,
    hello::{INTRO_BYTES, Intro, IntroKind, Nonce, ProofKey, Refusal},
};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, Event, SendError, TransportError,
};
use std::{io::Write, net::TcpListener, time::Instant};

/// Waits until `nodes[who]` is refused by instance `by`; the text for the operator.
fn refusal_of(nodes: &mut [Node], who: usize, by: u16, wanted: Refusal) -> String {
    let mut text = None;
    let mut flow = Flow::new(0, 1);
    pump(nodes, &format!("{wanted:?} is reported"), |nodes| {
        // The healthy pair carries on meanwhile.
        flow.send_all_lanes(nodes, u64::MAX);
        flow.take(nodes);
        for event in nodes[who].events.drain(..) {
            if let Event::Refused { peer, refusal, detail, .. } = event {
                assert_eq!((peer, refusal), (InstanceId(by), wanted), "{detail}");
                text = Some(detail);
            }
        }
        text.is_some()
    });
    pump(nodes, "the healthy pair's messages have arrived", |nodes| {
        flow.take(nodes);
        flow.got == flow.sent
    });
    text.unwrap()
}

/// Instances 1 and 2 are linked. The third node tries to reach instance 1 as `as_peer` and must be
/// refused with a text that has `parts`, and not disturb the two.
fn assert_refused(third: Node, as_peer: u16, refusal: Refusal, parts: &[&str]) {
    let mut nodes = cluster(2);
    let address = nodes[0].address();
    nodes.push(third);
    nodes[2].knows(as_peer, address);
    let text = refusal_of(&mut nodes, 2, as_peer, refusal);
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert!(nodes[0].endpoint.counters().refused.get() > 0);
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 0);
    assert!(!nodes[2].is_linked(as_peer));
    for node in &nodes[..2] {
        assert!(!node.has_event(|event| matches!(event, Event::Down { .. })), "{:?}", node.events);
    }
}

/// As above for a third node that instance 1 knows and dials as well: both sides are told.
fn assert_both_are_told(third: Node, refusal: Refusal, found: &str, expected: &str, to_do: &str) {
    let mut nodes = cluster(2);
    nodes.push(third);
    introduce(&mut nodes, 0, 2);
    for (who, by, first, second) in [(2, 1, found, expected), (0, 3, expected, found)] {
        let text = refusal_of(&mut nodes, who, by, refusal);
        for part in [&format!("instance {by} "), first, second, to_do] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        assert!(text.find(first) < text.rfind(second), "{text:?}");
        let refuser = usize::from(by - 1);
        assert!(nodes[refuser].endpoint.counters().refused.get() > 0);
    }
    assert!(!nodes[2].is_linked(1) && !nodes[0].is_linked(3));
    for node in &nodes[..2] {
        assert!(!node.has_event(|event| matches!(event, Event::Down { .. })), "{:?}", node.events);
    }
}

#[test]
fn another_cluster_is_refused_on_both_sides() {
    let third = Node::new(EndpointConfig { cluster: ClusterId(78), ..config(3) }, FRAMES);
    let to_do = "give both the same cluster id";
    assert_both_are_told(third, Refusal::Cluster, "cluster 77", "cluster 78", to_do);
}

#[test]
fn another_page_size_is_refused_on_both_sides() {
    let page_size = PageSize::K16;
    let arena = ArenaConfig { huge_pages: false, page_size, ..ArenaConfig::new(FRAMES) };
    let third = Node::with_arena(config(3), Arena::new(&arena).unwrap());
    let to_do = "set the same page size on all";
    let sizes = [PageSize::K8, PageSize::K16].map(|size| size.to_string());
    assert_both_are_told(third, Refusal::PageSize, &sizes[0], &sizes[1], to_do);
}

#[test]
fn another_member_list_is_refused_on_both_sides() {
    let third = Node::new(EndpointConfig { view_hash: 0xAB, ..config(3) }, FRAMES);
    let to_do = "configure the same members";
    let (ours, theirs) = ("0000000000000000", "00000000000000ab");
    assert_both_are_told(third, Refusal::View, ours, theirs, to_do);
}

#[test]
fn another_storage_is_refused_on_both_sides_and_one_that_is_not_said_fits_any() {
    let has = |id, storage_mark| EndpointConfig { storage_mark, ..config(id) };
    let mut nodes: Vec<_> =
        [has(1, 0xAB), has(2, 0)].map(|config| Node::new(config, FRAMES)).into();
    introduce(&mut nodes, 0, 1);
    pump(&mut nodes, "a link with the one that is silent", |nodes| {
        nodes[0].is_linked(2) && nodes[1].is_linked(1)
    });
    nodes.push(Node::new(has(3, 0xAC), FRAMES));
    introduce(&mut nodes, 0, 2);
    for (who, by, marks) in [(2, 1, ["bits is 00ab", "00ac"]), (0, 3, ["bits is 00ac", "00ab"])] {
        let text = refusal_of(&mut nodes, who, by, Refusal::Storage);
        for part in [&format!("instance {by} has another storage"), marks[0], marks[1]] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        assert!(text.contains("same storage") && text.contains("mounted"), "{text}");
    }
    assert!(!nodes[2].is_linked(1) && !nodes[0].is_linked(3));
}

#[test]
fn an_address_of_another_instance_is_refused() {
    let third = Node::new(config(3), FRAMES);
    let parts = ["is instance 1", "expected instance 9", "mend the peer's address"];
    assert_refused(third, 9, Refusal::WrongTarget, &parts);
}

#[test]
fn an_instance_that_is_not_configured_is_refused() {
    let third = Node::new(config(3), FRAMES);
    let parts = ["instance 1 has no peer 3", "add it there or mend the id here"];
    assert_refused(third, 1, Refusal::UnknownInstance, &parts);
}

#[test]
fn a_second_process_with_the_id_of_a_linked_one_is_refused() {
    let mut twin = config(2);
    twin.incarnation = Incarnation(u64::MAX);
    let parts = ["instance id 2 is in use", "expected one process per id", "stop one of them"];
    assert_refused(Node::new(twin, FRAMES), 1, Refusal::DuplicateInstance, &parts);
}

#[test]
fn a_second_process_is_let_in_once_the_first_is_gone() {
    let mut nodes = cluster(2);
    let first = nodes[1].endpoint.config().incarnation;
    let twin = EndpointConfig { incarnation: Incarnation(first.0 + 1), ..config(2) };
    nodes.push(Node::new(twin, FRAMES));
    let address = nodes[0].address();
    nodes[2].knows(1, address);
    refusal_of(&mut nodes, 2, 1, Refusal::DuplicateInstance);
    drop(nodes.remove(1));
    pump(&mut nodes, "the second process is linked", |nodes| {
        nodes[0].is_linked(2) && nodes[1].is_linked(1)
    });
    let ended =
        |event: &Event| matches!(event, Event::Ended { incarnation, .. } if *incarnation == first);
    assert!(nodes[0].has_event(ended), "{:?}", nodes[0].events);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn a_peer_with_this_very_id_is_refused() {
    // In this process's own configuration ...
    let mut alone = Endpoint::bind(config(1), arena(8)).unwrap();
    let error = alone.add_peer(InstanceId(1), nobody()).unwrap_err();
    assert!(matches!(error, TransportError::Peer { .. }));
    assert!(error.to_string().contains("give each instance its own"), "{error}");
    alone.add_peer(InstanceId(2), nobody()).unwrap();
    assert!(alone.add_peer(InstanceId(2), nobody()).is_err(), "configured twice");
    for address in ["0.0.0.0:0", "127.0.0.1:0", "0.0.0.0:7400", "[::]:7400"] {
        let error = alone.add_peer(InstanceId(3), address.parse().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(address) && text.contains("no address to dial"), "{text}");
    }
    alone.add_peer(InstanceId(3), nobody()).unwrap();
    // ... and on the wire.
    let mut nodes = cluster(2);
    let address = nodes[0].address();
    let twin = raw::hello(1, 1, LaneClass::Small);
    let (_, answer) = raw::greet(&mut nodes, address, &twin);
    assert_eq!(answer.refusal, Some(Refusal::DuplicateInstance));
    assert_eq!(nodes[0].endpoint.counters().refused.get(), 1);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn a_process_of_the_same_id_at_the_peers_address_is_refused() {
    // Both are instance 1; one of them takes the other for instance 2.
    let third = Node::new(config(1), FRAMES);
    assert_refused(third, 2, Refusal::WrongTarget, &["is instance 1", "expected instance 2"]);
}

/// An introduction of a build that speaks versions 7 to 9 only.
fn of_the_future(kind: IntroKind) -> [u8; INTRO_BYTES] {
    let nonce = Nonce([1; 32]);
    Intro { version_min: 7, version_max: 9, kind, has_key: false, nonce }.encode()
}

#[test]
fn a_dialler_of_another_version_is_refused_and_told_which_are_spoken() {
    let mut nodes = cluster(2);
    let mut bytes = of_the_future(IntroKind::Dialler);
    // What else it says is not for this version to judge.
    bytes[13] = 0xFF;
    let mut stream = raw::connect(nodes[0].address());
    stream.write_all(&bytes).unwrap();
    let answer = raw::read(&mut nodes, &mut stream, INTRO_BYTES);
    let answer = Intro::decode(&answer.try_into().unwrap(), 2, 2).unwrap();
    assert_eq!(answer.kind, IntroKind::Refusal(Refusal::Version));
    assert_eq!((answer.version_min, answer.version_max), (2, 6));
    assert_eq!(raw::read(&mut nodes, &mut stream, 1), [0; 0], "closed behind the answer");
    assert_eq!(nodes[0].endpoint.counters().refused.get(), 1);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn a_peer_that_speaks_another_version_is_reported() {
    let mut nodes = cluster(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[0].knows(3, listener.local_addr().unwrap());
    let mut stream = raw::accept(&mut nodes, &listener);
    assert_eq!(raw::read(&mut nodes, &mut stream, INTRO_BYTES).len(), INTRO_BYTES);
    let refusal = of_the_future(IntroKind::Refusal(Refusal::Version));
    stream.write_all(&refusal).unwrap();
    let text = refusal_of(&mut nodes, 0, 3, Refusal::Version);
    for part in ["instance 3", "versions 7 to 9", "this one 2 to 6", "at most one version apart"] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn a_hello_of_a_class_that_no_connection_has_is_refused_for_that() {
    let mut nodes = cluster(2);
    let address = nodes[0].address();
    let (_, answer) = raw::greet(&mut nodes, address, &raw::hello(2, 1, LaneClass::Page));
    assert_eq!(answer.refusal, Some(Refusal::Class));
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn another_shard_or_number_of_shards_is_refused_on_both_sides() {
    let third = Node::new(EndpointConfig { shard: 1, shards: 4, ..config(3) }, FRAMES);
    let to_do = "the same number of shards on all";
    assert_both_are_told(third, Refusal::Shard, "shard 0 of 1", "shard 1 of 4", to_do);
    for (shard, shards) in [(0, 2), (1, 2)] {
        let third = Node::new(EndpointConfig { shard, shards, ..config(3) }, FRAMES);
        let theirs = format!("shard {shard} of {shards}");
        assert_both_are_told(third, Refusal::Shard, "shard 0 of 1", &theirs, to_do);
    }
    // Those that agree are linked.
    let configs = [1, 2].map(|id| EndpointConfig { shard: 1, shards: 2, ..config(id) });
    let mut nodes = configs.map(|config| Node::new(config, FRAMES));
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
}

#[test]
fn a_second_process_of_the_same_incarnation_is_refused_and_takes_no_link_down() {
    let first = EndpointConfig { incarnation: Incarnation(10), ..config(2) };
    let twin = first.clone();
    let mut nodes = vec![Node::new(config(1), FRAMES), Node::new(first, FRAMES)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    nodes.push(Node::new(twin, FRAMES));
    let address = nodes[0].address();
    nodes[2].knows(1, address);
    let text = refusal_of(&mut nodes, 2, 1, Refusal::DuplicateInstance);
    assert!(text.contains("instance id 2 is in use"), "{text}");
    for node in &nodes[..2] {
        assert!(!node.has_event(|event| matches!(event, Event::Down { .. })), "{:?}", node.events);
    }
    // The session of the first is not the second one's, even when the first has gone.
    drop(nodes.remove(1));
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    nodes[1].events.clear();
    pump(&mut nodes, "it is refused again", |nodes| {
        let duplicate = Refusal::DuplicateInstance;
        nodes[1].has_event(|e| matches!(e, Event::Refused { refusal, .. } if *refusal == duplicate))
    });
}

#[test]
fn refusals_that_nobody_takes_do_not_pile_up() {
    let mut nodes = vec![Node::new(config(1), FRAMES)];
    let third = Node::new(EndpointConfig { cluster: ClusterId(78), ..config(3) }, FRAMES);
    nodes.push(third);
    let address = nodes[0].address();
    nodes[1].knows(1, address);
    nodes[1].taking = false;
    pump(&mut nodes, "it was refused four times", |nodes| {
        nodes[0].endpoint.counters().refused.get() == 4
    });
    turns(&mut nodes, 300);
    let mut refused = 0;
    while let Some(event) = nodes[1].endpoint.next_event() {
        assert!(matches!(event, Event::Refused { .. }), "{event:?}");
        refused += 1;
    }
    assert_eq!(refused, 1);
}

#[test]
fn a_session_ends_when_the_peer_says_that_our_life_is_over() {
    let mut nodes = vec![Node::new(config(3), FRAMES)];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[0].knows(2, listener.local_addr().unwrap());
    // Instance 2 links to us, goes, and refuses us when we dial.
    drop(RawPeer::link(&mut nodes, 2, 10));
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    let message = common::numbered(nodes[0].endpoint.arena(), Lane::Si, 1);
    let to = InstanceId(2);
    nodes[0].endpoint.send(to, Lane::Si, message.unwrap()).unwrap();
    let refuse = |nodes: &mut [Node], instance: u16| {
        let mut stream = raw::accept(nodes, &listener);
        let (mut acceptor, theirs) = raw::hear_hello(nodes, &mut stream, ProofKey::NONE);
        let mut answer = raw::hello(instance, 3, theirs.class);
        (answer.nonce, answer.incarnation) = (theirs.nonce, Incarnation(10));
        answer.refusal = Some(Refusal::Ended);
        stream.write_all(&acceptor.answer(&answer, ProofKey::NONE).0).unwrap();
        pump(nodes, "the refusal is told", |nodes| {
            nodes[0].has_event(|e| matches!(e, Event::Refused { refusal: Refusal::Ended, .. }))
        });
    };
    let ended = |node: &Node| node.has_event(|event| matches!(event, Event::Ended { .. }));
    // Another instance at that address has no say in it.
    refuse(&mut nodes, 7);
    assert!(!ended(&nodes[0]), "{:?}", nodes[0].events);
    nodes[0].events.clear();
    refuse(&mut nodes, 2);
    assert!(ended(&nodes[0]), "{:?}", nodes[0].events);
    for event in nodes[0].events.drain(..) {
        if let Event::Ended { peer, incarnation, undelivered } = event {
            assert_eq!((peer, incarnation), (to, Incarnation(10)));
            assert_eq!(undelivered.len(), 1, "what was not acknowledged is handed back");
        }
    }
    let message = common::numbered(nodes[0].endpoint.arena(), Lane::Si, 2);
    let sent = nodes[0].endpoint.send(to, Lane::Si, message.unwrap());
    assert!(matches!(sent, Err(SendError::NoSession(_))));
}

#[test]
fn a_dead_address_is_dialled_ever_more_slowly() {
    let seeded = EndpointConfig { jitter_seed: Some(7), ..config(2) };
    let mut nodes = vec![Node::new(seeded, FRAMES)];
    nodes[0].knows(1, nobody());
    let start = Instant::now();
    pump(&mut nodes, "it was dialled five times", |nodes| {
        nodes[0].endpoint.counters().dials.get() == 5
    });
    // A storm would dial in each of these turns; no pause is shorter than 20 ms.
    turns(&mut nodes, 20_000);
    let dials = u128::from(nodes[0].endpoint.counters().dials.get());
    let most = start.elapsed().as_millis() / 20 + 1;
    assert!(dials <= most, "{dials} dials where {most} are the most");
    assert_eq!(nodes[0].events.len(), 0, "{:?}", nodes[0].events);
}

#[test]
fn an_older_life_of_an_instance_is_refused() {
    let mut nodes = cluster(2);
    let known = nodes[1].endpoint.config().incarnation;
    let old = EndpointConfig { incarnation: Incarnation(known.0 - 1), ..config(2) };
    nodes.push(Node::new(old, FRAMES));
    let address = nodes[0].address();
    nodes[2].knows(1, address);
    let text = refusal_of(&mut nodes, 2, 1, Refusal::Ended);
    let parts = [format!("incarnation {} of instance 2 is over", known.0 - 1), "restart".into()];
    for part in parts {
        assert!(text.contains(&part), "{text:?} lacks {part:?}");
    }
    // No more when the later one has gone.
    drop(nodes.remove(1));
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    nodes[1].events.clear();
    pump(&mut nodes, "it is refused again", |nodes| {
        nodes[1].has_event(|e| matches!(e, Event::Refused { refusal: Refusal::Ended, .. }))
    });
    assert!(!nodes[0].is_linked(2));
}

#[test]
fn a_life_that_was_declared_ended_does_not_come_back() {
    let mut nodes = vec![Node::new(config(1), FRAMES)];
    nodes[0].knows(2, nobody());
    drop(RawPeer::link(&mut nodes, 2, 10));
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    // A later life begins, which ends the earlier one, and dies before it has a link.
    let address = nodes[0].address();
    let mut later = raw::hello(2, 1, LaneClass::Small);
    (later.incarnation, later.nonce) = (Incarnation(11), LinkNonce(11));
    let (stream, answer) = raw::greet(&mut nodes, address, &later);
    assert_eq!(answer.refusal, None);
    drop(stream);
    pump(&mut nodes, "the end is reported", |nodes| {
        nodes[0].has_event(|e| matches!(e, Event::Ended { incarnation: Incarnation(10), .. }))
    });
    let mut earlier = later;
    (earlier.incarnation, earlier.nonce) = (Incarnation(10), LinkNonce(12));
    let (_, answer) = raw::greet(&mut nodes, address, &earlier);
    assert_eq!(answer.refusal, Some(Refusal::Ended));
    RawPeer::link(&mut nodes, 2, 11);
}

#[test]
fn a_shard_beyond_the_number_of_shards_is_refused_at_the_start() {
    for (shard, shards) in [(1, 1), (5, 4)] {
        let config = EndpointConfig { shard, shards, ..config(1) };
        let text = Endpoint::bind(config, arena(8)).unwrap_err().to_string();
        for part in [format!("shard {shard} of {shards}"), "set `shards`".to_owned()] {
            assert!(text.contains(&part), "{text:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_busy_port_is_named_with_what_to_do() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = other.local_addr().unwrap();
    let config = EndpointConfig::new(CLUSTER, InstanceId(1), listen);
    let error = Endpoint::bind(config, arena(8)).unwrap_err();
    assert!(matches!(error, TransportError::Listen { address, .. } if address == listen));
    let text = error.to_string();
    for part in [&format!("cannot listen on {listen}"), "in use", "choose another address"] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert!(!text.contains('\n'));
}
