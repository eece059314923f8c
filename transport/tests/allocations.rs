//! In the steady state nothing is allocated, neither for small messages nor for pages.

mod common;

use common::{Node, config, introduce, link_all};
use pagewire_protocol::{Body, InstanceId, Lane, MessageKind};
use pagewire_transport::{Event, LaneCredits, Message, Received};
use std::time::{Duration, Instant};

const WARM_UP: u32 = 5_000;
const ROUND_TRIPS: u32 = 10_000;

fn pair() -> [Node; 2] {
    let nodes = [1, 2].map(|id| {
        let mut config = config(id);
        config.credits = LaneCredits::default();
        Node::new(config, 256)
    });
    let mut nodes = nodes;
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    nodes
}

/// Polls both until the node at `at` has a message. Events stay with the endpoint until then.
fn next(nodes: &mut [Node; 2], at: usize) -> Received {
    let start = Instant::now();
    loop {
        for node in nodes.iter_mut() {
            node.endpoint.poll();
        }
        match nodes[at].endpoint.next_event() {
            Some(Event::Message(received)) => return received,
            Some(other) => panic!("{other:?}"),
            None => assert!(start.elapsed() < Duration::from_secs(30), "no answer"),
        }
    }
}

fn round_trip(nodes: &mut [Node; 2], number: u32, with_page: bool) {
    let message =
        |number: u32| Message::new(MessageKind(200), Body::new(&number.to_le_bytes()).unwrap());
    nodes[0].endpoint.send(InstanceId(2), Lane::Requests, message(number)).unwrap();
    assert_eq!(next(nodes, 1).body.as_slice(), number.to_le_bytes());
    let mut answer = message(number + 1);
    let lane = if with_page { Lane::Pages } else { Lane::Control };
    if with_page {
        let mut frame = nodes[1].endpoint.arena().take().expect("a frame");
        frame[..4].copy_from_slice(&number.to_le_bytes());
        answer.frame = Some(frame.freeze());
    }
    nodes[1].endpoint.send(InstanceId(1), lane, answer).unwrap();
    let received = next(nodes, 0);
    assert_eq!(received.body.as_slice(), (number + 1).to_le_bytes());
    if let Some(frame) = received.frame {
        assert_eq!(frame[..4], number.to_le_bytes());
    }
}

fn allocations_of(with_page: bool) -> u64 {
    let mut nodes = pair();
    for number in 0..WARM_UP {
        round_trip(&mut nodes, number, with_page);
    }
    let counted = allocation_counter::measure(|| {
        for number in 0..ROUND_TRIPS {
            round_trip(&mut nodes, number, with_page);
        }
    });
    counted.count_total
}

#[test]
fn a_small_request_and_its_answer_allocate_nothing() {
    assert_eq!(allocations_of(false), 0, "allocations in {ROUND_TRIPS} round trips");
}

#[test]
fn a_page_request_and_its_answer_allocate_nothing() {
    assert_eq!(allocations_of(true), 0, "allocations in {ROUND_TRIPS} round trips");
}

#[test]
fn the_counter_does_count() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(counted.count_total, 1);
}
