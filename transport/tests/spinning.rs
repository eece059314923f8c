//! A spinning endpoint looks for messages more often than it does everything else, and forgets nothing
//! of that.

mod common;

use common::{Node, PATIENCE, cluster};
use pagewire_protocol::{Body, InstanceId, Lane, MessageKind};
use pagewire_transport::{Endpoint, Event, Message};
use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

fn message(number: u8) -> Message {
    Message::new(MessageKind(200), Body::new(&[number; 8]).unwrap())
}

fn taken(endpoint: &mut Endpoint) -> Vec<u8> {
    let messages = std::iter::from_fn(|| endpoint.next_event()).filter_map(|event| match event {
        Event::Message(received) => Some(received.body.as_slice()[0]),
        _ => None,
    });
    messages.collect()
}

/// Two that are linked and have just spoken, so that their connections are read blindly.
fn hot_pair() -> (Endpoint, Endpoint) {
    let mut nodes: Vec<Node> = cluster(2);
    let (mut two, mut one) = (nodes.pop().unwrap().endpoint, nodes.pop().unwrap().endpoint);
    one.send(InstanceId(2), Lane::Control, message(1)).unwrap();
    two.send(InstanceId(1), Lane::Control, message(1)).unwrap();
    let start = Instant::now();
    let (mut at_one, mut at_two) = (Vec::new(), Vec::new());
    while at_one.is_empty() || at_two.is_empty() {
        one.poll();
        two.poll();
        at_one.extend(taken(&mut one));
        at_two.extend(taken(&mut two));
        assert!(start.elapsed() < PATIENCE, "the two do not hear each other");
    }
    (one, two)
}

#[test]
fn what_comes_between_two_looks_is_found_in_the_same_turn() {
    let (one, mut two) = hot_pair();
    let one = RefCell::new(one);
    for number in 2..100 {
        let looks = Cell::new(0);
        let found = two.poll_spinning(|| {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                let mut one = one.borrow_mut();
                one.send(InstanceId(2), Lane::Control, message(number)).unwrap();
                one.flush();
            }
            false
        });
        assert!(found && looks.get() >= 3, "message {number} was not found, {} looks", looks.get());
        assert_eq!(taken(&mut two), [number]);
        one.borrow_mut().poll();
    }
}

#[test]
fn it_ends_when_the_caller_has_something_to_do() {
    let (mut one, mut two) = hot_pair();
    let asked = Cell::new(0);
    let found = two.poll_spinning(|| {
        asked.set(asked.get() + 1);
        true
    });
    assert_eq!((found, asked.get()), (false, 1));
    // Nor does it ask when there is something to take.
    one.send(InstanceId(2), Lane::Control, message(9)).unwrap();
    one.flush();
    let start = Instant::now();
    while !two.poll_spinning(|| false) {
        assert!(start.elapsed() < PATIENCE, "the message does not come");
    }
    asked.set(0);
    assert!(two.poll_spinning(|| asked.replace(1) == 1));
    assert_eq!((taken(&mut two), asked.get()), (vec![9], 0));
}

#[test]
fn acknowledgements_leave_and_links_end_though_nobody_does_anything_but_spin() {
    let (mut one, mut two) = hot_pair();
    for number in 0..15 {
        one.send(InstanceId(2), Lane::Control, message(number)).unwrap();
    }
    one.flush();
    let (start, mut at_two) = (Instant::now(), Vec::new());
    let kept = |one: &Endpoint| one.lane_state(InstanceId(2), Lane::Control).unwrap().session.kept;
    while at_two.len() < 15 || kept(&one) > 0 {
        two.poll_spinning(|| false);
        at_two.extend(taken(&mut two));
        one.poll_spinning(|| false);
        assert!(start.elapsed() < PATIENCE, "{} came, {} are kept", at_two.len(), kept(&one));
    }
    assert_eq!(at_two, (0..15).collect::<Vec<_>>());
    drop(one);
    let mut is_down = false;
    while !is_down {
        two.poll_spinning(|| false);
        while let Some(event) = two.next_event() {
            is_down |= matches!(event, Event::Down { .. });
        }
        assert!(start.elapsed() < PATIENCE, "the end of the link goes unnoticed");
    }
}
