//! Peers that come and go while an endpoint runs, and views that move: links, frames and lives.

mod common;

use common::{
    FRAMES, Flow, Node, arena, cluster, config, introduce, link_all, numbered, pump, settle, turns,
};
use pagewire_protocol::{Epoch, Incarnation, InstanceId, Lane, hello::Refusal};
use pagewire_transport::{EndpointConfig, Event, Message, SendError};

const ONE: InstanceId = InstanceId(1);
const TWO: InstanceId = InstanceId(2);

fn is_refused(node: &Node, why: Refusal) -> bool {
    node.has_event(|event| matches!(event, Event::Refused { refusal, .. } if *refusal == why))
}

#[test]
fn a_peer_that_is_removed_leaves_its_frames_and_its_place_to_the_next() {
    let mut nodes = cluster(3);
    let mut others = Flow::new(0, 2);
    others.exchange(&mut nodes, 10);
    settle(&mut nodes, 2);
    for round in 0..5u64 {
        assert_eq!(nodes[0].endpoint.remove_peer(TWO).map(|left| left.len()), Some(0));
        assert_eq!(nodes[1].endpoint.remove_peer(ONE).map(|left| left.len()), Some(0));
        assert!(nodes[0].endpoint.remove_peer(TWO).is_none(), "gone already");
        let counters = nodes[0].endpoint.peer_counters(TWO);
        assert!(counters.is_none() && !nodes[0].is_linked(2));
        let all = nodes[0].endpoint.counters().peers();
        assert!(all.iter().any(|(id, counters)| *id == TWO && !counters.is_known()));
        let rest = nodes[0].free_frames_at_rest(1);
        pump(&mut nodes, "the frames are back", |nodes| {
            nodes[0].endpoint.arena().free_frames() == rest
        });
        let refused = nodes[0].endpoint.send(TWO, Lane::Control, message());
        assert!(matches!(refused, Err(SendError::NoSession(_))));
        others.exchange(&mut nodes, 10);

        // The same id or another one: the slot serves both.
        introduce(&mut nodes, 0, 1);
        link_all(&mut nodes);
        let mut flow = Flow::new(1, 0);
        flow.exchange(&mut nodes, 20);
        Flow::new(0, 1).exchange(&mut nodes, 20);
        settle(&mut nodes, 2);
        let counters = nodes[0].endpoint.peer_counters(TWO).expect("known again");
        assert_eq!((counters.links_up.get(), counters.is_known()), (round + 2, true));
    }
    for node in &nodes {
        assert!(!node.has_event(|event| matches!(event, Event::Refused { .. })), "{node:?}");
    }
}

fn message() -> Message {
    numbered(&arena(1), Lane::Control, 1).expect("no frame is needed")
}

#[test]
fn what_a_removed_peer_had_sent_is_not_taken_and_what_was_for_it_is_handed_back() {
    let mut nodes = cluster(2);
    nodes[0].taking = false;
    let sent = Flow::new(1, 0).sent;
    let mut flow = Flow::new(1, 0);
    flow.send(&mut nodes, Lane::Requests, 5);
    let received = |node: &Node| {
        node.endpoint.peer_counters(TWO).map(|c| c.lane(Lane::Requests).received.get())
    };
    pump(&mut nodes, "the messages are there", |nodes| received(&nodes[0]) == Some(5));
    assert_eq!(sent, [0; Lane::COUNT]);
    nodes[0].endpoint.send(TWO, Lane::Control, message()).expect("credit");
    let left = nodes[0].endpoint.remove_peer(TWO).expect("a peer");
    assert_eq!(left.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(), [Lane::Control]);
    nodes[0].taking = true;
    turns(&mut nodes[..1], 10);
    assert!(nodes[0].received.is_empty(), "{:?}", nodes[0].received);
    assert!(!nodes[0].has_event(|event| matches!(event, Event::Down { .. })));
}

#[test]
fn peers_that_come_late_get_their_share_of_the_frames_and_leave_it_to_those_that_stay() {
    // 3 peers of 2 * (4 + 2) frames each would need 36.
    let mut nodes: Vec<_> = (1..=4).map(|id| Node::new(config(id), 26)).collect();
    let mut flows = Vec::new();
    for late in 1..4 {
        introduce(&mut nodes, 0, late);
        pump(&mut nodes, "the newcomer is linked", |nodes| {
            nodes[0].is_linked(nodes[late].id().0) && nodes[late].is_linked(1)
        });
        flows.push(Flow::new(late, 0));
        for flow in &mut flows {
            flow.exchange(&mut nodes, 30);
        }
    }
    for gone in [3u16, 4] {
        nodes[0].endpoint.remove_peer(InstanceId(gone)).expect("a peer");
    }
    pump(&mut nodes, "all of one peer's receives are posted", |nodes| {
        flows[0].send_all_lanes(nodes, 2000);
        flows[0].take(nodes);
        let posted = nodes[0].endpoint.arena().frames() - nodes[0].endpoint.arena().free_frames();
        posted >= 6 && flows[0].has_got(2000)
    });
}

#[test]
fn a_life_that_the_view_has_ended_is_not_heard_again_and_the_next_one_is_let_in() {
    let strict = |id, incarnation| EndpointConfig {
        peers_may_return: false,
        incarnation: Incarnation(incarnation),
        ..config(id)
    };
    let mut nodes = vec![Node::new(strict(1, 5), FRAMES), Node::new(strict(2, 7), FRAMES)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    nodes[0].taking = false;
    Flow::new(1, 0).send(&mut nodes, Lane::Requests, 3);
    let received = |node: &Node| {
        node.endpoint.peer_counters(TWO).map(|c| c.lane(Lane::Requests).received.get())
    };
    pump(&mut nodes, "the messages are there", |nodes| received(&nodes[0]) == Some(3));
    assert!(nodes[0].endpoint.end_incarnation(TWO, Incarnation(6)).is_none(), "not that one");
    assert!(nodes[0].endpoint.end_incarnation(TWO, Incarnation(7)).is_some());
    nodes[0].taking = true;
    pump(&mut nodes, "the old life is refused", |nodes| is_refused(&nodes[1], Refusal::Ended));
    assert!(nodes[0].received.is_empty(), "{:?}", nodes[0].received);
    assert!(nodes[0].has_event(|event| matches!(event, Event::Down { .. })));

    // A later life may come once the view names it, and none in between.
    let address = nodes[0].address();
    nodes.truncate(1);
    nodes.push(Node::new(strict(2, 8), FRAMES));
    nodes[1].knows(1, address);
    pump(&mut nodes, "it is refused", |nodes| is_refused(&nodes[1], Refusal::NoReturn));
    assert!(nodes[0].endpoint.admit(TWO, Incarnation(9)).is_none(), "no session to end");
    nodes[1].events.clear();
    pump(&mut nodes, "it is over", |nodes| is_refused(&nodes[1], Refusal::Ended));
    nodes.truncate(1);
    nodes.push(Node::new(strict(2, 9), FRAMES));
    nodes[1].knows(1, address);
    link_all(&mut nodes);
    Flow::new(1, 0).exchange(&mut nodes, 20);
    Flow::new(0, 1).exchange(&mut nodes, 20);
}

#[test]
fn a_life_that_is_over_before_it_came_is_refused() {
    let mut nodes: Vec<_> = (1..=2).map(|id| Node::new(config(id), FRAMES)).collect();
    let incarnation = nodes[1].endpoint.config().incarnation;
    introduce(&mut nodes, 0, 1);
    assert!(nodes[0].endpoint.end_incarnation(TWO, incarnation).is_none(), "no session yet");
    pump(&mut nodes, "it is refused", |nodes| is_refused(&nodes[1], Refusal::Ended));
    assert!(!nodes[0].is_linked(2));
}

#[test]
fn admitting_a_life_ends_the_session_with_the_one_before() {
    let mut nodes = cluster(2);
    let first = nodes[1].endpoint.config().incarnation;
    nodes[0].endpoint.send(TWO, Lane::Control, message()).expect("credit");
    assert!(nodes[0].endpoint.admit(TWO, first).is_none(), "the present one");
    assert!(nodes[0].is_linked(2));
    let left = nodes[0].endpoint.admit(TWO, Incarnation(first.0 + 1)).expect("a session");
    assert_eq!(left.len(), 1);
    assert!(!nodes[0].is_linked(2));
}

#[test]
fn ends_with_views_of_different_numbers_link_and_with_two_of_one_number_do_not() {
    let view =
        |id, epoch, view_hash| EndpointConfig { view_epoch: Epoch(epoch), view_hash, ..config(id) };
    let mut nodes = vec![Node::new(view(1, 3, 10), FRAMES), Node::new(view(2, 4, 11), FRAMES)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    Flow::new(0, 1).exchange(&mut nodes, 20);

    // The view moves under the link, and the link stays; a newcomer finds what is stated then.
    nodes[0].endpoint.set_view(Epoch(4), 11);
    Flow::new(1, 0).exchange(&mut nodes, 20);
    nodes.push(Node::new(view(3, 4, 12), FRAMES));
    introduce(&mut nodes, 0, 2);
    pump(&mut nodes, "another view of one number is refused", |nodes| {
        is_refused(&nodes[2], Refusal::View)
    });
    nodes[2].endpoint.set_view(Epoch(5), 13);
    pump(&mut nodes, "a later one is not", |nodes| nodes[0].is_linked(3) && nodes[2].is_linked(1));
}
