//! Ends with different patience: each hears the other as often as its own `peer_timeout` wants.

mod common;

use common::{FRAMES, Flow, Node, config, introduce, link_all, pump};
use pagewire_protocol::{InstanceId, Lane, LinkKind};
use pagewire_transport::{EndpointConfig, Event};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// Short for a network, and long for a test program that shares its cores with others.
const PATIENCE_MS: u64 = 1500;

#[test]
fn a_peer_timeout_below_the_other_ends_keepalive_keeps_the_link() {
    let peer_timeout = Duration::from_millis(PATIENCE_MS);
    let impatient = EndpointConfig { peer_timeout, keepalive: peer_timeout / 2, ..config(1) };
    let patient = EndpointConfig { peer_timeout: 3 * HOUR, keepalive: HOUR, ..config(2) };
    let mut nodes = vec![Node::new(impatient, FRAMES), Node::new(patient, FRAMES)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);

    let mut flow = Flow::new(1, 0);
    flow.exchange(&mut nodes, 20);
    // Six pauses of a third of the timeout are twice the timeout. Over verbs they are not counted as
    // acknowledgements; the bytes of the TCP connections are not to be seen from here.
    let kept = |nodes: &[Node]| {
        let counters = nodes[1].endpoint.peer_counters(InstanceId(1)).expect("known");
        counters.lane(Lane::Control).acks_alone.get()
    };
    if nodes[0].is_on(2, LinkKind::Tcp) {
        let before = kept(&nodes);
        pump(&mut nodes, "six keepalives were said", |nodes| {
            assert!(!nodes[0].has_event(is_down), "{:?}", nodes[0].events);
            kept(nodes) >= before + 6
        });
    }
    flow.exchange(&mut nodes, 20);
    Flow::new(0, 1).exchange(&mut nodes, 20);
    for (node, peer) in nodes.iter().zip([2, 1]) {
        let counters = node.endpoint.peer_counters(InstanceId(peer)).expect("known");
        assert_eq!((counters.links_up.get(), counters.links_down.get()), (1, 0));
        assert!(!node.has_event(is_down), "{:?}", node.events);
    }
}

fn is_down(event: &Event) -> bool {
    matches!(event, Event::Down { .. })
}
