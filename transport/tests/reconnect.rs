//! Links that are cut and made again: the session loses, doubles and reorders nothing.

mod common;

use common::{
    FRAMES, Flow, Node, Random, assert_is, config, introduce, link_all, nobody, number_of,
    proxy::{Cutter, Proxy},
    pump, raw, settle, turns,
};
use pagewire_protocol::{
    Incarnation, InstanceId, Lane, LaneClass, LinkNonce, Sequence,
    hello::{ProofKey, Refusal},
};
use pagewire_transport::{Endpoint, EndpointConfig, Event, Message, link::tcp::CONNECTIONS};
use std::{
    collections::BTreeMap,
    io::Write,
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Two nodes that reach each other through proxies only.
struct Pair {
    nodes: Vec<Node>,
    cutter: Arc<Cutter>,
    _proxies: [Proxy; 2],
}

impl Pair {
    fn new(handshake_timeout: Duration) -> Self {
        let configs = [1, 2].map(|id| EndpointConfig { handshake_timeout, ..config(id) });
        let mut nodes = configs.map(|config| Node::new(config, FRAMES));
        let cutter = Cutter::new();
        let proxies = [0, 1].map(|i| Proxy::new(nodes[i].address(), &cutter));
        nodes[0].knows(2, proxies[1].address);
        nodes[1].knows(1, proxies[0].address);
        link_all(&mut nodes);
        Self { nodes: nodes.into(), cutter, _proxies: proxies }
    }

    /// Cuts the connections and waits until both sides have noticed and are linked again.
    fn relink(&mut self) {
        let before = links(&self.nodes);
        self.cutter.cut();
        pump(&mut self.nodes, "both are linked anew", |nodes| {
            let now = links(nodes);
            (0..2).all(|i| now[i].0 > before[i].0 && now[i].0 == now[i].1 + 1)
        });
    }
}

fn peer_of(node: &Node) -> InstanceId {
    InstanceId(3 - node.id().0)
}

/// Links that came up and went down, of each node.
fn links(nodes: &[Node]) -> Vec<(u64, u64)> {
    let counters = |node: &Node| {
        let counters = node.endpoint.peer_counters(peer_of(node)).unwrap();
        (counters.links_up.get(), counters.links_down.get())
    };
    nodes.iter().map(counters).collect()
}

/// Up once, then Down and Linked in turn, as many as were counted; a link at the end.
fn assert_events_are_consistent(node: &Node) {
    let peer = peer_of(node);
    let mut linked = false;
    let (mut ups, mut downs) = (0, 0);
    for event in &node.events {
        match event {
            Event::Up { peer: p, .. } if *p == peer && ups == 0 => (linked, ups) = (true, 1),
            Event::Linked { peer: p } if *p == peer && ups > 0 && !linked => {
                (linked, ups) = (true, ups + 1);
            }
            Event::Down { peer: p, .. } if *p == peer && linked => {
                (linked, downs) = (false, downs + 1);
            }
            other => panic!("{other:?} is out of place in {:?}", node.events),
        }
    }
    assert!(linked && node.endpoint.is_linked(peer));
    let counters = node.endpoint.peer_counters(peer).unwrap();
    assert_eq!((counters.links_up.get(), counters.links_down.get()), (ups, downs));
}

#[test]
fn no_message_is_lost_doubled_or_reordered_when_links_are_cut_anywhere() {
    let mut pair = Pair::new(Duration::from_millis(500));
    let mut random = Random::new(42);
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    for cut in 1..=30 {
        // Every fourth cut falls into the handshake that follows the one before.
        let bytes = if cut % 4 == 0 { random.below(800) } else { random.below(1 << 20) };
        pair.cutter.cut_after(bytes);
        let cutter = Arc::clone(&pair.cutter);
        pump(&mut pair.nodes, "the links are cut", |nodes| {
            for flow in [&mut there, &mut back] {
                flow.send_all_lanes(nodes, u64::MAX);
                flow.take(nodes);
            }
            cutter.cuts.load(Ordering::SeqCst) >= cut
        });
    }
    let nodes = &mut pair.nodes;
    let sent = [there.sent, back.sent];
    pump(nodes, "everything has arrived", |nodes| {
        for flow in [&mut there, &mut back] {
            flow.take(nodes);
        }
        [there.got, back.got] == sent
    });
    link_all(nodes);
    settle(nodes, 1);
    let mut again = 0;
    for node in nodes.iter() {
        assert_events_are_consistent(node);
        assert_eq!(node.endpoint.counters().bad_input.get(), 0);
        let counters = node.endpoint.peer_counters(peer_of(node)).unwrap();
        again += counters.lanes.iter().map(|lane| lane.sent_again.get()).sum::<u64>();
        for (lane, sent) in Lane::ALL.iter().zip(sent[usize::from(node.id().0 - 1)]) {
            assert_eq!(counters.lane(*lane).sent.get(), sent, "{lane:?}, first time");
        }
    }
    assert!(again > 0, "a cut that hit nothing");
    assert!(sent[0].iter().chain(&sent[1]).all(|&sent| sent > 100), "{sent:?}");
    for flow in [&mut there, &mut back] {
        flow.assert_all_credits_are_back(nodes);
    }
    settle(nodes, 1);
}

#[test]
fn both_dial_at_once_and_get_one_link() {
    // Longer than the test's patience: no link may need a handshake to time out.
    let mut pair = Pair::new(Duration::from_secs(1000));
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    for round in 1..=40 {
        // Both lose the link at the same moment, and after the same pause both dial.
        pair.relink();
        for flow in [&mut there, &mut back] {
            flow.exchange(&mut pair.nodes, round % 7);
        }
    }
    // A hello that the proxy still held back may replace the link once more.
    turns(&mut pair.nodes, 2000);
    pump(&mut pair.nodes, "one link is left", |nodes| {
        links(nodes).iter().all(|(up, down)| *up == down + 1)
    });
    let links = links(&pair.nodes);
    assert!(links.iter().all(|(up, _)| *up < 2 * 40), "links flap: {links:?}");
    pair.nodes.iter().for_each(assert_events_are_consistent);
    settle(&mut pair.nodes, 1);
    for flow in [&mut there, &mut back] {
        flow.assert_all_credits_are_back(&mut pair.nodes);
    }
}

#[test]
fn the_greater_ids_link_goes_on_though_the_lesser_dials_in_the_middle_of_it() {
    // Instance 3 dials us, instance 2; we answer its first connection, and before it has connected
    // the second one, a hello arrives that we sent earlier.
    let mut nodes = vec![Node::new(config(3), FRAMES)];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[0].knows(2, listener.local_addr().unwrap());
    let mut streams = Vec::new();
    for class in CONNECTIONS {
        let mut stream = raw::accept(&mut nodes, &listener);
        let (mut acceptor, hello) = raw::hear_hello(&mut nodes, &mut stream, ProofKey::NONE);
        assert_eq!(hello.class, class);
        let mut answer = raw::hello(2, 3, class);
        answer.nonce = hello.nonce;
        stream.write_all(&acceptor.answer(&answer, ProofKey::NONE).0).unwrap();
        streams.push(stream);
        if class == LaneClass::Small {
            let address = nodes[0].address();
            let mut late = raw::hello(2, 3, class);
            late.nonce = LinkNonce(99);
            let (_, answer) = raw::greet(&mut nodes, address, &late);
            assert_eq!(answer.refusal, Some(Refusal::Busy));
        }
    }
    link_all_with(&mut nodes, 2);
}

fn link_all_with(nodes: &mut [Node], peer: u16) {
    pump(nodes, "the link is up", |nodes| nodes[0].is_linked(peer));
}

#[test]
fn messages_of_an_earlier_link_give_no_credit_on_the_next() {
    let mut pair = Pair::new(Duration::from_secs(5));
    let mut flow = Flow::new(0, 1);
    let credits = config(1).credits;
    for round in 1..=3 {
        // They arrive, and stay in the endpoint while two links go and come.
        pair.nodes[1].taking = false;
        for link in 0..2 {
            let window = |lane: Lane| u64::from(credits.of(lane));
            let last = Lane::ALL.map(|lane| flow.sent[lane.index()] + window(lane));
            // The last acknowledgements of the round before may still be in the proxy.
            pump(&mut pair.nodes, &format!("round {round}, link {link} is full"), |nodes| {
                Lane::ALL.iter().for_each(|&lane| flow.send(nodes, lane, last[lane.index()]));
                flow.sent == last
            });
            let sent = flow.sent;
            pump(&mut pair.nodes, "they have arrived", |nodes| {
                let counters = nodes[1].endpoint.peer_counters(InstanceId(1)).unwrap();
                Lane::ALL.iter().all(|&l| counters.lane(l).received.get() == sent[l.index()])
            });
            pair.relink();
        }
        pair.nodes[1].taking = true;
        let sent = flow.sent;
        pump(&mut pair.nodes, "they are taken", |nodes| {
            flow.take(nodes);
            flow.got == sent
        });
        settle(&mut pair.nodes, 1);
        flow.assert_all_credits_are_back(&mut pair.nodes);
        settle(&mut pair.nodes, 1);
    }
    link_all(&mut pair.nodes);
    pair.nodes.iter().for_each(assert_events_are_consistent);
}

#[test]
fn without_a_link_messages_wait_up_to_the_window() {
    let mut pair = Pair::new(Duration::from_secs(5));
    let mut flow = Flow::new(0, 1);
    flow.exchange(&mut pair.nodes, 10);
    // A handshake acknowledges all that has arrived.
    pair.relink();
    pair.cutter.cut();
    pump(&mut pair.nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    let before = flow.sent;
    flow.send_all_lanes(&mut pair.nodes, u64::MAX);
    let credits = config(1).credits;
    let kept = Lane::ALL.map(|lane| flow.sent[lane.index()] - before[lane.index()]);
    assert_eq!(kept, credits.0.map(u64::from));
    let sent = flow.sent;
    pump(&mut pair.nodes, "they arrive over the next link", |nodes| {
        flow.take(nodes);
        flow.got == sent
    });
    settle(&mut pair.nodes, 1);
}

/// What `Event::Ended` hands back, by lane; checks that there is one, that it comes after the link
/// has gone and before the next life is up, and whom it names.
fn ended(node: &mut Node, of: Incarnation) -> BTreeMap<Lane, Vec<Message>> {
    let at = |wanted: fn(&Event) -> bool| node.events.iter().rposition(wanted);
    let down = at(|event| matches!(event, Event::Down { .. })).expect("the link went down");
    let end = at(|event| matches!(event, Event::Ended { .. })).expect("the life ended");
    let up = at(|event| matches!(event, Event::Up { .. })).expect("the next life is up");
    assert!(down < end && end < up, "{:?}", node.events);
    let mut found = None;
    for event in node.events.drain(..) {
        if let Event::Ended { peer, incarnation, undelivered } = event {
            assert!(found.is_none(), "ended twice");
            assert_eq!((peer, incarnation), (InstanceId(2), of));
            let mut lanes: BTreeMap<Lane, Vec<Message>> = BTreeMap::new();
            for (lane, message) in undelivered {
                lanes.entry(lane).or_default().push(message);
            }
            found = Some(lanes);
        }
    }
    found.expect("an end")
}

/// Instance 2 of `nodes` dies and comes back in a later life, at another address.
fn restart(nodes: &mut Vec<Node>) -> Incarnation {
    let over = nodes[1].endpoint.config().incarnation;
    drop(nodes.pop());
    pump(nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    let next = EndpointConfig { incarnation: Incarnation(over.0 + 1), ..config(2) };
    let mut next = Node::new(next, FRAMES);
    next.knows(1, nodes[0].address());
    nodes.push(next);
    over
}

fn two() -> Vec<Node> {
    let mut nodes = vec![Node::new(config(1), FRAMES), Node::new(config(2), FRAMES)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    nodes
}

#[test]
fn the_end_of_a_life_hands_back_exactly_what_was_not_acknowledged() {
    let mut nodes = two();
    let mut flow = Flow::new(0, 1);
    flow.exchange(&mut nodes, 10);
    settle(&mut nodes, 1);
    // On the link, but the other side does not look any more; and one more when it is gone.
    flow.send_all_lanes(&mut nodes, 11);
    nodes[0].poll();
    let old = restart(&mut nodes);
    flow.send_all_lanes(&mut nodes, 12);
    link_all(&mut nodes);
    let lanes = ended(&mut nodes[0], old);
    for lane in Lane::ALL {
        let messages = &lanes[&lane];
        assert_eq!(messages.len(), 2, "{lane:?}");
        for (message, number) in messages.iter().zip(11..) {
            assert_is(message, lane, number);
        }
    }
    // Their frames are nobody else's any more.
    for message in lanes.into_values().flatten() {
        assert!(message.frame.is_none_or(|frame| frame.try_thaw().is_ok()));
    }
    settle(&mut nodes, 1);
    // The new session begins with nothing of the old one.
    flow.got = flow.sent;
    flow.exchange(&mut nodes, 30);
    Flow::new(1, 0).exchange(&mut nodes, 30);
    settle(&mut nodes, 1);
    flow.assert_all_credits_are_back(&mut nodes);
    let up = |event: &Event| matches!(event, Event::Up { .. });
    assert!(nodes[1].has_event(up), "the new life knows of no other: {:?}", nodes[1].events);
}

#[test]
fn what_the_dead_had_acknowledged_is_not_handed_back() {
    for turns_before_death in [0, 1, 2, 3, 10, 100, 400] {
        let mut nodes = two();
        let mut flow = Flow::new(0, 1);
        flow.exchange(&mut nodes, 10);
        settle(&mut nodes, 1);
        flow.send_all_lanes(&mut nodes, 12);
        turns(&mut nodes, turns_before_death);
        let taken = nodes[1].received.len();
        let old = restart(&mut nodes);
        link_all(&mut nodes);
        let lanes = ended(&mut nodes[0], old);
        let handed_back: usize = lanes.values().map(Vec::len).sum();
        for (lane, messages) in &lanes {
            // The last ones of the lane, up to the last that was sent.
            let numbers: Vec<_> = messages.iter().map(|m| number_of(&m.body)).collect();
            let expected: Vec<_> = (13 - numbers.len() as u64..=12).collect();
            assert_eq!(numbers, expected, "{lane:?}");
            assert!(numbers[0] > 10, "{lane:?}: acknowledged before");
        }
        // Whatever was not taken must be there.
        assert!(handed_back + taken >= 2 * Lane::COUNT);
        if turns_before_death == 400 {
            assert_eq!(handed_back, 0, "all were acknowledged");
        }
        drop(lanes);
        settle(&mut nodes, 1);
    }
}

#[test]
fn a_restart_that_is_found_by_dialling_ends_the_life_before() {
    // The survivor has the greater id and dials; the address stays the same.
    let mut nodes = vec![Node::new(config(3), FRAMES), Node::new(config(2), FRAMES)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let mut flow = Flow::new(0, 1);
    flow.exchange(&mut nodes, 5);
    settle(&mut nodes, 1);
    flow.send_all_lanes(&mut nodes, 6);
    let (old, listen) = (nodes[1].endpoint.config().incarnation, nodes[1].address());
    drop(nodes.pop());
    let next = EndpointConfig { incarnation: Incarnation(old.0 + 1), listen, ..config(2) };
    let mut next = Node::new(next, FRAMES);
    next.knows(3, nobody());
    nodes.push(next);
    link_all(&mut nodes);
    let lanes = ended(&mut nodes[0], old);
    assert_eq!(lanes.values().map(Vec::len).collect::<Vec<_>>(), [1; Lane::COUNT]);
    drop(lanes);
    flow.got = flow.sent;
    flow.exchange(&mut nodes, 20);
    settle(&mut nodes, 1);
}

#[test]
fn a_peer_whose_address_answers_nothing_can_still_reach_us() {
    // Ours is the greater id, and our dials end at a port that accepts and never speaks. They take
    // longer than the longest pause between two dials, so that one follows upon the other.
    let handshake_timeout = Duration::from_millis(1200);
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut nodes = vec![
        Node::new(EndpointConfig { handshake_timeout, ..config(2) }, FRAMES),
        Node::new(EndpointConfig { handshake_timeout, ..config(1) }, FRAMES),
    ];
    let address = nodes[0].address();
    nodes[0].knows(1, hole.local_addr().unwrap());
    nodes[1].knows(2, address);
    link_all(&mut nodes);
    Flow::new(0, 1).exchange(&mut nodes, 20);
    Flow::new(1, 0).exchange(&mut nodes, 20);
}

#[test]
fn a_new_link_replaces_one_that_is_half_dead() {
    // The peer has lost its link and this side has not noticed: the peer's next hello replaces it.
    let mut nodes = vec![Node::new(config(1), FRAMES)];
    nodes[0].knows(2, nobody());
    let first = raw::RawPeer::link(&mut nodes, 2, 5);
    let address = nodes[0].address();
    let mut streams = Vec::new();
    for class in CONNECTIONS {
        let mut hello = raw::hello(2, 1, class);
        (hello.incarnation, hello.nonce) = (Incarnation(5), LinkNonce(77));
        let (stream, answer) = raw::greet(&mut nodes, address, &hello);
        assert_eq!(answer.refusal, None);
        // Stated on the last connection only.
        let stated = Sequence(u64::from(class == LaneClass::Bulk));
        assert_eq!(answer.expected, [stated; Lane::COUNT]);
        assert!(nodes[0].is_linked(2), "until the last connection is there");
        streams.push(stream);
    }
    link_all_with(&mut nodes, 2);
    let names: Vec<_> = nodes[0].events.iter().map(|event| format!("{event:?}")).collect();
    let starts = |at: usize, with: &str| names.get(at).is_some_and(|name| name.starts_with(with));
    assert!(
        names.len() == 3 && starts(0, "Up") && starts(1, "Down") && starts(2, "Linked"),
        "{names:?}"
    );
    drop(first);
    turns(&mut nodes, 300);
    assert!(nodes[0].is_linked(2), "the end of the old connections is nothing to the new link");
    let endpoint: &Endpoint = &nodes[0].endpoint;
    assert_eq!(endpoint.arena().free_frames(), nodes[0].free_frames_at_rest(1));
}
