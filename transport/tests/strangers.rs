//! Strangers at the port: what they say or do not say is bounded in time and memory, counted, and
//! disturbs nobody.

mod common;

use common::{
    FRAMES, Flow, Node, Random, cluster, config, introduce, link_all, pump,
    raw::{self, Talk},
    settle, turns,
};
use pagewire_protocol::{
    LaneClass,
    hello::{Dialler, DiallerStep, INTRO_BYTES, PROVEN_BYTES, ProofKey},
};
use pagewire_transport::EndpointConfig;
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The first message of a dialler without a cluster key.
fn opening() -> [u8; INTRO_BYTES] {
    Dialler::new(false, raw::nonce()).opening()
}

#[test]
fn a_truncated_handshake_is_counted_and_the_others_carry_on() {
    let mut nodes = cluster(2);
    let counted = |nodes: &[Node]| nodes[0].endpoint.counters().not_a_hello.get();
    for length in [0, 1, 7, 8, 20, INTRO_BYTES - 1] {
        let before = counted(&nodes);
        let mut stream = raw::connect(nodes[0].address());
        stream.write_all(&opening()[..length]).unwrap();
        turns(&mut nodes, 100);
        drop(stream);
        pump(&mut nodes, "it is counted", |nodes| counted(nodes) == before + 1);
    }
    for length in [0, 1, 100, PROVEN_BYTES - 1] {
        let before = counted(&nodes);
        let mut talk = Talk::new(raw::connect(nodes[0].address()), ProofKey::NONE);
        talk.open(&mut nodes).unwrap();
        let hello = talk.dialler.speak(&raw::hello(2, 1, LaneClass::Small), ProofKey::NONE);
        talk.stream.write_all(&hello[..length]).unwrap();
        turns(&mut nodes, 100);
        drop(talk);
        pump(&mut nodes, "it is counted", |nodes| counted(nodes) == before + 1);
    }
    Flow::new(0, 1).exchange(&mut nodes, 20);
    settle(&mut nodes, 1);
}

#[test]
fn a_connection_that_says_nothing_is_dropped_in_time() {
    let handshake_timeout = Duration::from_millis(100);
    let configs = [1, 2].map(|id| EndpointConfig { handshake_timeout, ..config(id) });
    let mut nodes = configs.map(|config| Node::new(config, FRAMES));
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let mut silent = raw::connect(nodes[0].address());
    let mut half = raw::connect(nodes[0].address());
    half.write_all(&opening()[..24]).unwrap();
    let mut introduced = Talk::new(raw::connect(nodes[0].address()), ProofKey::NONE);
    introduced.open(&mut nodes).unwrap();
    for stream in [&mut silent, &mut half, &mut introduced.stream] {
        assert_eq!(raw::read(&mut nodes, stream, 1), [0; 0]);
    }
    assert_eq!(nodes[0].endpoint.counters().handshakes_dropped.get(), 3);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn random_bytes_are_refused_and_the_others_carry_on() {
    let mut nodes = cluster(2);
    let mut flow = Flow::new(0, 1);
    let mut random = Random::new(1);
    for round in 1..=120 {
        let length = usize::try_from(1 + random.below(5000)).unwrap();
        let mut bytes = random.bytes(length.max(INTRO_BYTES + PROVEN_BYTES));
        match round % 3 {
            // Behind the right first bytes.
            1 => bytes.splice(..8, *b"PAGEWIRE").for_each(drop),
            // Behind a right introduction.
            2 => bytes.splice(..INTRO_BYTES, opening()).for_each(drop),
            _ => {}
        }
        let mut stream = raw::connect(nodes[0].address());
        let _ = stream.write(&bytes);
        let most = INTRO_BYTES + PROVEN_BYTES;
        let answer = raw::read(&mut nodes, &mut stream, most + 1);
        assert!(answer.len() <= most, "round {round}: {} bytes", answer.len());
        let counters = nodes[0].endpoint.counters();
        let [strange, refused, unproven] =
            [&counters.not_a_hello, &counters.refused, &counters.proofs_refused].map(|c| c.get());
        assert_eq!(strange + refused + unproven, round, "{strange} {refused} {unproven}");
        flow.exchange(&mut nodes, 1);
    }
    let counters = nodes[0].endpoint.counters();
    assert_eq!(counters.proofs_refused.get(), 40);
    assert!(counters.not_a_hello.get() >= 40);
    assert_eq!(counters.bad_input.get(), 0);
    settle(&mut nodes, 1);
}

#[test]
fn two_hundred_silent_connections_do_not_keep_a_peer_out() {
    let handshake_timeout = Duration::from_millis(500);
    let mut nodes = vec![Node::new(EndpointConfig { handshake_timeout, ..config(1) }, FRAMES)];
    // The listener's backlog is not made for so many at once.
    let mut silent: Vec<TcpStream> = Vec::new();
    for round in 1..=4 {
        silent.extend((0..50).map(|_| raw::connect(nodes[0].address())));
        pump(&mut nodes, "they are accepted", |nodes| {
            nodes[0].endpoint.counters().accepted.get() == 50 * round
        });
    }
    // 64 at most are in their handshake.
    assert!(nodes[0].endpoint.counters().handshakes_dropped.get() >= 200 - 64);
    nodes.push(Node::new(config(2), FRAMES));
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    Flow::new(0, 1).exchange(&mut nodes, 20);
    // Every one of them is closed in the end.
    pump(&mut nodes, "all are closed", |_| {
        silent.retain_mut(
            |stream| matches!(stream.read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock),
        );
        silent.is_empty()
    });
    assert!(nodes[0].endpoint.counters().handshakes_dropped.get() >= 200);
}

#[test]
fn connections_that_stay_silent_for_ever_do_not_keep_a_peer_out() {
    // Longer than the test's patience: no place becomes free by time.
    let handshake_timeout = Duration::from_secs(1000);
    let mut nodes = vec![Node::new(EndpointConfig { handshake_timeout, ..config(1) }, FRAMES)];
    let mut silent = Vec::new();
    for round in 1..=3 {
        silent.extend((0..50).map(|_| raw::connect(nodes[0].address())));
        pump(&mut nodes, "they are accepted", |nodes| {
            nodes[0].endpoint.counters().accepted.get() == 50 * round
        });
    }
    // One that has introduced itself is not the first to go.
    let mut talk = Talk::new(raw::connect(nodes[0].address()), ProofKey::NONE);
    talk.open(&mut nodes).unwrap();
    silent.extend((0..70).map(|_| raw::connect(nodes[0].address())));
    nodes.push(Node::new(config(2), FRAMES));
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    talk.speak(&raw::hello(3, 1, LaneClass::Small));
    let answer = talk.hear(&mut nodes, PROVEN_BYTES);
    assert!(matches!(answer, Ok(DiallerStep::Proven(_))), "{answer:?}");
    Flow::new(0, 1).exchange(&mut nodes, 20);
}
