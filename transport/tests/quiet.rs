//! Messages that nobody waits for: they stay behind what is urgent, keep their lane's order, and
//! arrive when the endpoint is quiet.

mod common;

use common::{Node, cluster, number_of, numbered, pump};
use pagewire_protocol::{InstanceId, Lane};

const TO: InstanceId = InstanceId(2);

/// Sends message `number` of `lane` from the first node, urgent or not.
fn send(nodes: &mut [Node], lane: Lane, number: u64, is_urgent: bool) {
    let endpoint = &mut nodes[0].endpoint;
    let message = numbered(endpoint.arena(), lane, number).unwrap();
    let sent = if is_urgent {
        endpoint.send(TO, lane, message)
    } else {
        endpoint.send_when_quiet(TO, lane, message)
    };
    sent.unwrap();
}

/// Lane and number of each of `count` messages, in the order in which they arrive at the second.
fn arrivals(nodes: &mut [Node], count: usize) -> Vec<(Lane, u64)> {
    let mut seen = Vec::new();
    pump(nodes, "all have arrived", |nodes| {
        let received = nodes[1].received.drain(..);
        seen.extend(received.map(|message| (message.lane, number_of(&message.body))));
        seen.len() >= count
    });
    seen
}

#[test]
fn a_message_nobody_waits_for_arrives_without_another_one_to_go_with() {
    let mut nodes = cluster(2);
    send(&mut nodes, Lane::Control, 1, false);
    assert_eq!(arrivals(&mut nodes, 1), [(Lane::Control, 1)]);
}

#[test]
fn a_page_overtakes_what_nobody_waits_for_and_its_own_lane_never_does() {
    let mut nodes = cluster(2);
    send(&mut nodes, Lane::Control, 1, false);
    send(&mut nodes, Lane::Control, 2, false);
    send(&mut nodes, Lane::Pages, 1, true);
    send(&mut nodes, Lane::Control, 3, true);
    send(&mut nodes, Lane::Pages, 2, true);
    let expected = [
        (Lane::Pages, 1),
        (Lane::Control, 1),
        (Lane::Control, 2),
        (Lane::Control, 3),
        (Lane::Pages, 2),
    ];
    let mut arrived = arrivals(&mut nodes, 5);
    if common::verbs().is_some() {
        // Pages have a queue pair of their own, which overtakes as it likes.
        arrived.sort_by_key(|(lane, _)| lane.index());
        let control = [1, 2, 3].map(|number| (Lane::Control, number));
        let pages = [1, 2].map(|number| (Lane::Pages, number));
        assert_eq!(arrived, [&control[..], &pages[..]].concat());
        return;
    }
    assert_eq!(arrived, expected);
}

#[test]
fn an_endpoint_that_sleeps_sends_it_all_the_same() {
    let mut nodes = cluster(2);
    send(&mut nodes, Lane::Control, 1, false);
    let limit = std::time::Duration::from_millis(50);
    for _ in 0..200 {
        // The sender only ever sleeps.
        nodes[0].endpoint.wait(limit, || false);
        nodes[1].poll();
        if !nodes[1].received.is_empty() {
            return;
        }
    }
    panic!("slept 200 times, and it did not arrive");
}
