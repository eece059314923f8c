//! A thousand links lost and made again under load, in one session; and bits that change on the way
//! between two healthy peers.

mod common;

use common::{
    FRAMES, Flow, Node, Random, config, link_all,
    proxy::{Cutter, Proxy},
    pump, settle,
};
use pagewire_protocol::{InstanceId, Lane};
use pagewire_transport::{EndpointConfig, counters::PeerCounters};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const RECONNECTS: u64 = 1000;
const FLIPS: u64 = 100;

/// Two peers that reach each other through proxies only, and send on all lanes all the time.
struct Loaded {
    nodes: [Node; 2],
    flows: [Flow; 2],
    cutter: Arc<Cutter>,
    _proxies: [Proxy; 2],
}

impl Loaded {
    fn new() -> Self {
        let handshake_timeout = Duration::from_millis(500);
        let config = |id| EndpointConfig { handshake_timeout, ..config(id) };
        let mut nodes = [1, 2].map(|id| Node::new(config(id), FRAMES));
        let cutter = Cutter::new();
        let proxies = [0, 1].map(|i| Proxy::new(nodes[i].address(), &cutter));
        nodes[0].knows(2, proxies[1].address);
        nodes[1].knows(1, proxies[0].address);
        link_all(&mut nodes);
        Self { nodes, flows: [Flow::new(0, 1), Flow::new(1, 0)], cutter, _proxies: proxies }
    }

    fn counters(&self, node: usize) -> &PeerCounters {
        let peer = InstanceId(self.nodes[1 - node].id().0);
        self.nodes[node].endpoint.peer_counters(peer).unwrap()
    }

    fn load_until(&mut self, what: &str, done: impl Fn(&Cutter) -> bool) {
        pump(&mut self.nodes, what, |nodes| {
            for flow in &mut self.flows {
                flow.send_all_lanes(nodes, u64::MAX);
                flow.take(nodes);
            }
            done(&self.cutter)
        });
        self.nodes.iter_mut().for_each(|node| node.events.clear());
    }

    /// Stops the load; nothing may be lost, neither messages nor frames nor credits.
    fn finish(&mut self) {
        let sent = self.flows.each_ref().map(|flow| flow.sent);
        pump(&mut self.nodes, "everything has arrived", |nodes| {
            self.flows.iter_mut().for_each(|flow| flow.take(nodes));
            self.flows.each_ref().map(|flow| flow.got) == sent
        });
        link_all(&mut self.nodes);
        settle(&mut self.nodes, 1);
        for i in 0..2 {
            let counters = self.counters(i);
            assert_eq!(counters.links_up.get(), counters.links_down.get() + 1);
            for lane in Lane::ALL {
                let counters = counters.lane(lane);
                assert_eq!(counters.sent.get(), sent[i][lane.index()], "{lane:?}, first time");
                assert_eq!(counters.received.get(), sent[1 - i][lane.index()], "{lane:?}");
            }
        }
        for flow in &mut self.flows {
            flow.assert_all_credits_are_back(&mut self.nodes);
        }
        settle(&mut self.nodes, 1);
    }

    fn bad_input(&self) -> u64 {
        self.nodes.iter().map(|node| node.endpoint.counters().bad_input.get()).sum()
    }
}

#[test]
fn a_thousand_forced_reconnects_lose_double_and_reorder_nothing() {
    let mut pair = Loaded::new();
    let mut random = Random::new(7);
    while (0..2).any(|i| pair.counters(i).links_down.get() < RECONNECTS) {
        let cuts = pair.cutter.cuts.load(Ordering::SeqCst);
        // Anywhere in a message or a page; every third time in the handshake or soon after it.
        let at_most = if cuts.is_multiple_of(3) { 10_000 } else { 1_000_000 };
        pair.cutter.cut_after(random.below(at_most));
        pair.load_until("the links are cut", |cutter| cutter.cuts.load(Ordering::SeqCst) > cuts);
    }
    pair.finish();
    assert_eq!(pair.bad_input(), 0);
    for i in 0..2 {
        for lane in Lane::ALL {
            let counters = pair.counters(i).lane(lane);
            assert!(counters.sent.get() > RECONNECTS, "{lane:?}: hardly loaded");
            assert!(counters.sent_again.get() > 0, "{lane:?}: no cut hit it");
        }
    }
}

#[test]
fn a_bit_that_changes_on_the_way_costs_the_link_and_no_message() {
    let mut pair = Loaded::new();
    let mut random = Random::new(11);
    for flips in 0..FLIPS {
        // Some of them in the handshake that the one before has made necessary.
        let at_most = if flips.is_multiple_of(4) { 2_000 } else { 300_000 };
        pair.cutter.flip_after(random.below(at_most));
        pair.load_until("a bit is flipped", |cutter| cutter.flips.load(Ordering::SeqCst) > flips);
    }
    pair.finish();
    // What fills a message up to its slot may change unnoticed.
    assert!(pair.bad_input() > FLIPS / 2, "{} of {FLIPS} were seen", pair.bad_input());
}
