//! A thousand links lost and made again under load, in one session.

mod common;

use common::{
    FRAMES, Flow, Node, Random, config, link_all,
    proxy::{Cutter, Proxy},
    pump, settle,
};
use pagewire_protocol::{InstanceId, Lane};
use pagewire_transport::EndpointConfig;
use std::{sync::atomic::Ordering, time::Duration};

const RECONNECTS: u64 = 1000;

fn links_down(nodes: &[Node]) -> [u64; 2] {
    [0, 1].map(|i: usize| {
        let peer = InstanceId(nodes[1 - i].id().0);
        nodes[i].endpoint.peer_counters(peer).unwrap().links_down.get()
    })
}

#[test]
fn a_thousand_forced_reconnects_lose_double_and_reorder_nothing() {
    let handshake_timeout = Duration::from_millis(500);
    let config = |id| EndpointConfig { handshake_timeout, ..config(id) };
    let mut nodes = [1, 2].map(|id| Node::new(config(id), FRAMES));
    let cutter = Cutter::new();
    let proxies = [0, 1].map(|i| Proxy::new(nodes[i].address(), &cutter));
    nodes[0].knows(2, proxies[1].address);
    nodes[1].knows(1, proxies[0].address);
    link_all(&mut nodes);

    let mut random = Random::new(7);
    let mut flows = [Flow::new(0, 1), Flow::new(1, 0)];
    while links_down(&nodes).iter().any(|down| *down < RECONNECTS) {
        let cuts = cutter.cuts.load(Ordering::SeqCst);
        // Anywhere in a message or a page; every third time in the handshake or soon after it.
        let at_most = if cuts % 3 == 0 { 10_000 } else { 1_000_000 };
        cutter.cut_after(random.below(at_most));
        pump(&mut nodes, "the links are cut", |nodes| {
            for flow in &mut flows {
                flow.send_all_lanes(nodes, u64::MAX);
                flow.take(nodes);
            }
            cutter.cuts.load(Ordering::SeqCst) > cuts
        });
        for node in &mut nodes {
            node.events.clear();
        }
    }
    let sent = flows.each_ref().map(|flow| flow.sent);
    pump(&mut nodes, "everything has arrived", |nodes| {
        flows.iter_mut().for_each(|flow| flow.take(nodes));
        flows.each_ref().map(|flow| flow.got) == sent
    });
    link_all(&mut nodes);
    settle(&mut nodes, 1);
    for (i, node) in nodes.iter().enumerate() {
        let counters = node.endpoint.peer_counters(InstanceId(nodes[1 - i].id().0)).unwrap();
        assert_eq!(node.endpoint.counters().bad_input.get(), 0);
        assert_eq!(counters.links_up.get(), counters.links_down.get() + 1);
        for lane in Lane::ALL {
            let counters = counters.lane(lane);
            assert_eq!(counters.sent.get(), sent[i][lane.index()], "{lane:?}, for the first time");
            assert_eq!(counters.received.get(), sent[1 - i][lane.index()], "{lane:?}");
            assert!(counters.sent.get() > RECONNECTS, "{lane:?}: hardly loaded");
            assert!(counters.sent_again.get() > 0, "{lane:?}: no cut hit it");
        }
    }
    for flow in &mut flows {
        flow.assert_all_credits_are_back(&mut nodes);
    }
    settle(&mut nodes, 1);
}
