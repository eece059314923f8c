//! A peer that no link can be made with: its counters say what the last try found, until there is a link.

mod common;

use common::{FRAMES, Node, cluster, config, link_all, nobody, pump, raw};
use pagewire_protocol::{
    Incarnation, InstanceId, LaneClass,
    hello::{ProofKey, Refusal},
};
use pagewire_transport::{EndpointConfig, counters::LinkFailure};
use std::{io::Write, net::TcpListener, time::Duration};

const TWO: InstanceId = InstanceId(2);

fn failure(node: &Node) -> Option<LinkFailure> {
    node.endpoint.peer_counters(TWO).expect("a peer").no_link.get()
}

/// Instance 3, which dials instance 2 at once.
fn dialler(handshake_timeout: Duration) -> Vec<Node> {
    vec![Node::new(EndpointConfig { handshake_timeout, ..config(3) }, FRAMES)]
}

/// Until a try has found what `word` says.
fn finds(nodes: &mut [Node], word: &str) {
    pump(nodes, word, |nodes| failure(&nodes[0]).is_some_and(|f| f.reason.contains(word)));
}

#[test]
fn an_address_that_nobody_listens_on_is_told_with_the_number_of_tries() {
    let mut nodes = dialler(Duration::from_secs(5));
    nodes[0].knows(2, nobody());
    assert_eq!(failure(&nodes[0]), None, "not tried yet");
    finds(&mut nodes, "nobody listens there");
    let first = failure(&nodes[0]).expect("it has failed");
    pump(&mut nodes, "it is tried again", |nodes| {
        failure(&nodes[0]).is_some_and(|f| f.tries >= first.tries + 2 && f.at > first.at)
    });
}

#[test]
fn who_listens_and_says_nothing_is_told_from_who_is_not_there() {
    let mut nodes = dialler(Duration::from_millis(50));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("it can be");
    nodes[0].knows(2, listener.local_addr().expect("an address"));
    finds(&mut nodes, "did not finish the handshake within 50 ms");
    // One that closes at once.
    pump(&mut nodes, "it is said to have closed", |nodes| {
        drop(listener.accept());
        failure(&nodes[0]).is_some_and(|failure| failure.reason.contains("closed the connection"))
    });
}

#[test]
fn a_refusal_is_told_in_full() {
    let mut nodes = dialler(Duration::from_secs(5));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    nodes[0].knows(2, listener.local_addr().expect("an address"));
    let mut stream = raw::accept(&mut nodes, &listener);
    let (mut acceptor, hello) = raw::hear_hello(&mut nodes, &mut stream, ProofKey::NONE);
    assert_eq!(hello.class, LaneClass::Small);
    let mut answer = raw::hello(2, 3, hello.class);
    answer.nonce = hello.nonce;
    answer.refusal = Some(Refusal::UnknownInstance);
    let (bytes, _) = acceptor.answer(&answer, ProofKey::NONE);
    stream.write_all(&bytes).expect("room in the socket");
    finds(&mut nodes, "instance 2 has no peer 3 in its configuration");
}

#[test]
fn a_link_ends_the_failure_and_what_it_ends_with_is_the_next_one() {
    let mut nodes = cluster(2);
    assert_eq!(failure(&nodes[0]), None);
    let gone = nodes.pop().expect("two");
    let next = gone.endpoint.config().clone();
    drop(gone);
    pump(&mut nodes, "the link is gone", |nodes| failure(&nodes[0]).is_some());
    let down = failure(&nodes[0]).expect("it is there");
    assert_eq!(down.tries, 0, "{down:?}");
    assert!(down.reason.contains("closed") || down.reason.contains("reset"), "{down:?}");
    finds(&mut nodes, "nobody listens there");
    let incarnation = Incarnation(next.incarnation.0 + 1);
    nodes.push(Node::new(EndpointConfig { incarnation, ..next }, FRAMES));
    // It listens elsewhere, and dials.
    let address = nodes[0].address();
    nodes[1].knows(1, address);
    link_all(&mut nodes);
    assert_eq!(failure(&nodes[0]), None);
}
