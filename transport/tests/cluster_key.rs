//! Without the cluster's key nobody gets further than the handshake, from either side, and nobody
//! gets further with what somebody else once said.

mod common;

use common::{
    Flow, Node, config, introduce, link_all, nobody, pump,
    raw::{self, RawPeer, Talk},
    settle, turns,
};
use pagewire_protocol::{
    Incarnation, InstanceId, LaneClass, LinkNonce,
    hello::{
        Acceptor, AcceptorStep, DiallerStep, HELLO_BYTES, HandshakeError, INTRO_BYTES, Intro,
        IntroKind, Nonce, PROVEN_BYTES, ProofKey, Refusal,
    },
};
use pagewire_transport::{ClusterKey, EndpointConfig, Event, link::tcp::CONNECTIONS};
use std::{io::Write, net::TcpListener};

const KEY: &[u8] = b"the key of this test's cluster, 32 bytes and more";
const OTHER: &[u8] = b"the key of another cluster, which is as long as that";
const PROOF_KEY: ProofKey<'static> = ProofKey::new(KEY);

fn node(id: u16, key: Option<&[u8]>) -> Node {
    let cluster_key = key.map(|key| ClusterKey::from_bytes(key).unwrap());
    Node::new(EndpointConfig { cluster_key, ..config(id) }, common::FRAMES)
}

/// Instances 1 and 2, linked under [`KEY`].
fn pair() -> Vec<Node> {
    let mut nodes = vec![node(1, Some(KEY)), node(2, Some(KEY))];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    nodes
}

/// Proofs that were refused, replays that were, and refusals of other kinds.
fn refusals(node: &Node) -> (u64, u64, u64) {
    let counters = node.endpoint.counters();
    (counters.proofs_refused.get(), counters.replays_refused.get(), counters.refused.get())
}

fn assert_undisturbed(nodes: &mut [Node]) {
    for node in nodes.iter() {
        let disturbed = |event: &Event| matches!(event, Event::Down { .. } | Event::Ended { .. });
        assert!(!node.has_event(disturbed), "{:?}", node.events);
    }
    Flow::new(0, 1).exchange(nodes, 20);
}

/// Two that do not fit: each is told by the other, and `parts` are in the text of each.
fn assert_both_refused(keys: [Option<&[u8]>; 2], refusal: Refusal, parts: [&str; 2]) {
    let mut nodes = vec![node(1, keys[0]), node(2, keys[1])];
    introduce(&mut nodes, 0, 1);
    let mut texts = [None, None];
    pump(&mut nodes, "both are refused", |nodes| {
        for (node, text) in nodes.iter_mut().zip(&mut texts) {
            for event in node.events.drain(..) {
                let Event::Refused { refusal: why, detail, .. } = event else {
                    panic!("{event:?}");
                };
                assert_eq!(why, refusal, "{detail}");
                *text = Some(detail);
            }
        }
        texts.iter().all(Option::is_some)
    });
    for (text, part) in texts.into_iter().flatten().zip(parts) {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
        assert!(text.contains("same cluster key file"), "{text:?}");
    }
    let counted = |node: &Node| match refusal {
        Refusal::Proof => refusals(node).0,
        _ => refusals(node).2,
    };
    for node in &nodes {
        assert!(counted(node) > 0, "{:?}", refusals(node));
        assert!(!node.is_linked(3 - node.id().0));
    }
}

#[test]
fn instances_with_the_same_key_are_linked_and_find_each_other_again() {
    let mut nodes = pair();
    let mut flow = Flow::new(0, 1);
    flow.exchange(&mut nodes, 50);
    settle(&mut nodes, 1);
    let over = nodes[1].endpoint.config().incarnation;
    drop(nodes.pop());
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    let cluster_key = ClusterKey::from_bytes(KEY);
    let next = EndpointConfig { cluster_key, incarnation: Incarnation(over.0 + 1), ..config(2) };
    nodes.push(Node::new(next, common::FRAMES));
    let address = nodes[0].address();
    nodes[1].knows(1, address);
    link_all(&mut nodes);
    flow.got = flow.sent;
    flow.exchange(&mut nodes, 50);
}

#[test]
fn another_key_is_refused_and_both_are_told() {
    let part = "found the proof of this instance's cluster key wrong";
    assert_both_refused([Some(KEY), Some(OTHER)], Refusal::Proof, [part, part]);
}

#[test]
fn a_key_on_one_side_only_is_refused_and_both_are_told_who_has_it() {
    let (has, lacks) =
        ("has a cluster key, this one has none", "has no cluster key, this one has one");
    assert_both_refused([Some(KEY), None], Refusal::KeyMissing, [lacks, has]);
    assert_both_refused([None, Some(KEY)], Refusal::KeyMissing, [has, lacks]);
}

#[test]
fn a_stranger_who_knows_all_but_the_key_changes_nothing() {
    let mut nodes = pair();
    let address = nodes[0].address();
    let mut hello = raw::hello(2, 1, LaneClass::Small);
    // Of a later life, which would end the one that is linked if it were believed.
    hello.incarnation = Incarnation(u64::MAX);
    for key in [OTHER, b"", &KEY[..KEY.len() - 1]] {
        let (mut stream, answer) = raw::greet_with(&mut nodes, address, &hello, ProofKey::new(key));
        let refused = |error| matches!(error, HandshakeError::RefusedByPeer(r) if r.refusal == Refusal::Proof);
        assert!(answer.is_err_and(refused));
        assert_eq!(raw::read(&mut nodes, &mut stream, 1), [0; 0], "closed");
    }
    let (_, answer) = raw::greet_with(&mut nodes, address, &hello, ProofKey::NONE);
    let refused = |error| matches!(error, HandshakeError::RefusedByPeer(r) if r.refusal == Refusal::KeyMissing);
    assert!(answer.is_err_and(refused));
    assert_eq!(refusals(&nodes[0]), (3, 0, 1));
    assert_undisturbed(&mut nodes);
}

#[test]
fn a_recorded_handshake_is_refused_and_counted_as_a_replay() {
    let mut nodes = pair();
    nodes[0].knows(3, nobody());
    let address = nodes[0].address();
    // A good link of instance 3, every byte of its handshakes recorded.
    let mut recordings = Vec::new();
    let mut streams = Vec::new();
    for class in CONNECTIONS {
        let mut hello = raw::hello(3, 1, class);
        (hello.incarnation, hello.nonce) = (Incarnation(10), LinkNonce(10));
        let mut talk = Talk::new(raw::connect(address), PROOF_KEY);
        assert_eq!(talk.greet(&mut nodes, &hello).unwrap().refusal, None);
        recordings.push(talk.said);
        streams.push(talk.stream);
    }
    let play = |nodes: &mut [Node], to: usize, recording: &[Vec<u8>]| {
        let mut stream = raw::connect(nodes[to].address());
        for message in recording {
            stream.write_all(message).unwrap();
        }
        let answer = raw::read(nodes, &mut stream, usize::MAX);
        assert_eq!(answer.len(), INTRO_BYTES + PROVEN_BYTES);
        let refusal = answer[INTRO_BYTES..][..INTRO_BYTES].try_into().unwrap();
        let refusal = Intro::decode(refusal, 2, 2).unwrap();
        assert_eq!(refusal.kind, IntroKind::Refusal(Refusal::Proof));
    };
    // While the link is up, when it is gone, and when that life is long over.
    for recording in &recordings {
        play(&mut nodes, 0, recording);
    }
    assert!(nodes[0].is_linked(3));
    drop(streams);
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(3));
    for recording in &recordings {
        play(&mut nodes, 0, recording);
    }
    nodes[0].events.clear();
    let later = RawPeer::link_with_key(&mut nodes, 3, 11, PROOF_KEY);
    nodes[0].events.clear();
    for recording in &recordings {
        play(&mut nodes, 0, recording);
    }
    assert_eq!(refusals(&nodes[0]), (0, 6, 0));
    assert!(nodes[0].is_linked(3));
    // Where it was never heard before, it is a wrong proof.
    play(&mut nodes, 1, &recordings[0]);
    assert_eq!(refusals(&nodes[1]), (1, 0, 0));
    assert_undisturbed(&mut nodes);
    drop(later);
}

#[test]
fn a_dialler_whose_bytes_are_changed_anywhere_is_refused() {
    let mut nodes = pair();
    nodes[0].knows(3, nobody());
    let address = nodes[0].address();
    let hello = raw::hello(3, 1, LaneClass::Small);
    for message in [1, 3] {
        let length = if message == 1 { INTRO_BYTES } else { PROVEN_BYTES };
        for at in 0..length {
            let mut talk = Talk::new(raw::connect(address), PROOF_KEY);
            let mut opening = talk.dialler.opening();
            if message == 1 {
                opening[at] ^= 0x40;
            }
            talk.stream.write_all(&opening).unwrap();
            // What it makes of the answer is its own business: here it goes on in any case.
            if matches!(talk.hear(&mut nodes, INTRO_BYTES), Ok(DiallerStep::Speak)) {
                let mut bytes = talk.dialler.speak(&hello, PROOF_KEY);
                if message == 3 {
                    bytes[at] ^= 0x40;
                }
                talk.stream.write_all(&bytes).unwrap();
                let answer = talk.hear(&mut nodes, PROVEN_BYTES);
                assert!(
                    !matches!(answer, Ok(DiallerStep::Proven(_))),
                    "byte {at} of message {message}: {answer:?}"
                );
            }
            assert_eq!(raw::read(&mut nodes, &mut talk.stream, 1), [0; 0], "closed");
        }
    }
    let counters = nodes[0].endpoint.counters();
    let strange = counters.not_a_hello.get();
    let (unproven, replayed, refused) = refusals(&nodes[0]);
    // Every byte of a hello and its proof, and every byte of a nonce, is found by the proof.
    assert!(unproven >= (PROVEN_BYTES + 32) as u64, "{unproven}");
    assert_eq!((strange + unproven + refused, replayed), ((INTRO_BYTES + PROVEN_BYTES) as u64, 0));
    assert!(!nodes[0].is_linked(3));
    assert_undisturbed(&mut nodes);
    // The hand does it right: unchanged bytes make a link.
    RawPeer::link_with_key(&mut nodes, 3, 1, PROOF_KEY);
}

#[test]
fn an_acceptor_whose_bytes_are_changed_anywhere_is_refused_by_the_dialler() {
    // (Message, byte): one peer for each, with a lesser id than ours: dialled at once.
    let second = [0, 7, 8, 12, 13, 14, 15, 16, 30, 47].map(|at| (2, at));
    let fourth = [0, 8, 12, 13, 14, 16, 24, 40, 60, 100, 127, 128, 140, 159].map(|at| (4, at));
    let mut nodes = vec![node(100, Some(KEY))];
    let cases: Vec<_> = second.into_iter().chain(fourth).collect();
    for (id, (message, at)) in (10..).zip(cases) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        nodes[0].knows(id, listener.local_addr().unwrap());
        let mut stream = raw::accept(&mut nodes, &listener);
        let mut acceptor = Acceptor::new(true, raw::nonce());
        for bytes in [INTRO_BYTES, PROVEN_BYTES] {
            let heard = raw::read(&mut nodes, &mut stream, bytes);
            if heard.len() < bytes {
                break;
            }
            acceptor.room().copy_from_slice(&heard);
            match acceptor.filled(heard.len(), PROOF_KEY) {
                Ok(AcceptorStep::Reply(mut reply)) => {
                    if message == 2 {
                        reply[at] ^= 0x40;
                    }
                    stream.write_all(&reply).unwrap();
                }
                Ok(AcceptorStep::Proven(hello)) => {
                    assert_eq!(message, 4, "byte {at}: the dialler should not have got so far");
                    let mut answer = raw::hello(id, 100, hello.class);
                    answer.nonce = hello.nonce;
                    let (mut bytes, _) = acceptor.answer(&answer, PROOF_KEY);
                    bytes[at] ^= 0x40;
                    stream.write_all(&bytes).unwrap();
                }
                // A dialler that got other bytes than were sent: its proof is of another talk.
                Err(error) => assert!(message == 2, "{error}"),
                Ok(step) => panic!("{step:?}"),
            }
        }
        drop(listener);
        turns(&mut nodes, 300);
        assert!(!nodes[0].is_linked(id), "byte {at} of message {message}");
    }
    let (unproven, _, refused) = refusals(&nodes[0]);
    assert!(unproven >= 14, "every change of a proven answer: {unproven}, {refused}");
}

#[test]
fn an_acceptor_that_cannot_prove_the_key_is_refused_by_the_dialler() {
    let mut nodes = vec![node(3, Some(KEY))];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[0].knows(2, listener.local_addr().unwrap());
    let mut stream = raw::accept(&mut nodes, &listener);
    // It hears all, agrees with all, and has not the key.
    let (mut acceptor, hello) = raw::hear_hello(&mut nodes, &mut stream, PROOF_KEY);
    let mut answer = raw::hello(2, 3, hello.class);
    answer.nonce = hello.nonce;
    let (bytes, _) = acceptor.answer(&answer, ProofKey::new(OTHER));
    stream.write_all(&bytes).unwrap();
    assert_eq!(raw::read(&mut nodes, &mut stream, 1), [0; 0], "closed");
    assert_eq!(refusals(&nodes[0]), (1, 0, 0));
    assert!(!nodes[0].is_linked(2));
    assert_eq!(nodes[0].events.len(), 0, "nobody refused us: {:?}", nodes[0].events);
}

#[test]
fn a_refusal_without_proof_ends_no_session() {
    let mut nodes = vec![node(3, Some(KEY))];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[0].knows(2, listener.local_addr().unwrap());
    drop(RawPeer::link_with_key(&mut nodes, 2, 10, PROOF_KEY));
    pump(&mut nodes, "the link is gone", |nodes| !nodes[0].is_linked(2));
    nodes[0].events.clear();
    // In either of the places where a refusal may come without a proof.
    for late in [false, true] {
        let mut stream = raw::accept(&mut nodes, &listener);
        let kind = IntroKind::Refusal(Refusal::Ended);
        let nonce = Nonce([0; 32]);
        let refusal = Intro { version_min: 2, version_max: 2, kind, has_key: true, nonce }.encode();
        if late {
            raw::hear_hello(&mut nodes, &mut stream, PROOF_KEY);
            stream.write_all(&[&refusal[..], &[0; HELLO_BYTES - 16]].concat()).unwrap();
        } else {
            stream.write_all(&refusal).unwrap();
        }
        raw::read(&mut nodes, &mut stream, usize::MAX);
    }
    assert_eq!(nodes[0].events.len(), 0, "{:?}", nodes[0].events);
    let _link = RawPeer::link_with_key(&mut nodes, 2, 10, PROOF_KEY);
    let linked = |event: &Event| matches!(event, Event::Linked { peer } if *peer == InstanceId(2));
    assert!(nodes[0].has_event(linked), "the session goes on: {:?}", nodes[0].events);
}
