//! Over RDMA verbs: which link messages are on, what a message costs, and that nothing is lost when
//! queue pairs fail. Needs a device: PAGEWIRE_TEST_VERBS names it, as `rxe0/1/1` (device, port, GID
//! index); those that break it need root and the device on `eth0`, as in the soft-RoCE lab.

mod common;

use common::{
    Flow, Node, PATIENCE, config, introduce, link_all, numbered, pump, settle, turns, verbs,
};
use pagewire_protocol::{InstanceId, Lane, LinkKind};
use pagewire_transport::{EndpointConfig, LinkPolicy};
use std::{fs, process::Command, time::Instant};

/// Frames of an arena: enough for both ends' receives and what is sent.
const FRAMES: u32 = 64;

/// Two that use verbs while it works, or `None` after a line that says why not.
fn pair() -> Option<Vec<Node>> {
    let Some(verbs) = verbs() else {
        println!("skipped: set PAGEWIRE_TEST_VERBS to an RDMA device (tests/softroce/run has one)");
        return None;
    };
    let auto = |id| {
        let config = EndpointConfig { verbs: verbs.clone(), ..config(id) };
        Node::new(EndpointConfig { links: LinkPolicy::Auto, ..config }, FRAMES)
    };
    let mut nodes = vec![auto(1), auto(2)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    until_on(&mut nodes, LinkKind::Verbs);
    Some(nodes)
}

fn until_on(nodes: &mut [Node], kind: LinkKind) {
    pump(nodes, "both are on the other link", |nodes| {
        nodes[0].is_on(2, kind) && nodes[1].is_on(1, kind)
    });
}

/// What the device has counted.
fn counted(name: &str) -> u64 {
    let device = verbs().and_then(|verbs| verbs.device).expect("a device");
    let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/{name}");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().expect("a number")
}

/// Waits until the device has counted so many: what it shows is up to 10 ms old.
fn has_counted(name: &str, expected: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counted(name) < expected {
        assert!(Instant::now() < deadline, "{name} is {}, expected {expected}", counted(name));
        std::thread::yield_now();
    }
}

fn run(command: &str) {
    let words: Vec<_> = command.split_whitespace().collect();
    let status = Command::new(words[0]).args(&words[1..]).status().expect("the program is there");
    assert!(status.success(), "{command}: {status}");
}

fn assert_nothing_fell(nodes: &[Node]) {
    for (node, peer) in [(0, 2), (1, 1)] {
        let counters = nodes[node].endpoint.peer_counters(InstanceId(peer)).expect("a peer");
        assert_eq!(counters.falls_to_tcp.get(), 0);
        assert_eq!(counters.links_down.get(), 0);
    }
}

#[test]
fn messages_move_to_verbs_and_the_device_carries_all_of_them() {
    let Some(mut nodes) = pair() else { return };
    let (sends, before) = (counted("rdma_sends"), counted("sent_pkts"));
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    let each = 500;
    for _ in 0..5 {
        there.exchange(&mut nodes, each / 5);
        back.exchange(&mut nodes, each / 5);
    }
    let messages = 2 * each * Lane::COUNT as u64;
    // Repeated packets, and acknowledgements, come on top.
    has_counted("rdma_sends", sends + messages);
    has_counted("sent_pkts", before + messages);
    assert_nothing_fell(&nodes);
    settle(&mut nodes, 1);
    there.assert_all_credits_are_back(&mut nodes);
    settle(&mut nodes, 1);
}

#[test]
fn nothing_is_lost_when_the_interface_goes_down_under_load_and_verbs_comes_back() {
    let Some(mut nodes) = pair() else { return };
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    for round in 1..=3 {
        there.exchange(&mut nodes, 200);
        // With messages under way.
        there.send_all_lanes(&mut nodes, there.sent[0] + 20);
        back.send_all_lanes(&mut nodes, back.sent[0] + 20);
        run("ip link set eth0 down");
        let (last, last_back) = (1000 * round, 1000 * round);
        pump(&mut nodes, "all has arrived over TCP", |nodes| {
            there.send_all_lanes(nodes, last);
            back.send_all_lanes(nodes, last_back);
            there.take(nodes);
            back.take(nodes);
            there.has_got(last) && back.has_got(last_back)
        });
        until_on(&mut nodes, LinkKind::Tcp);
        run("ip link set eth0 up");
        until_on(&mut nodes, LinkKind::Verbs);
    }
    there.exchange(&mut nodes, 100);
    for (node, peer) in [(0, 2), (1, 1)] {
        let counters = nodes[node].endpoint.peer_counters(InstanceId(peer)).expect("a peer");
        assert_eq!((counters.falls_to_tcp.get(), counters.moves_to_verbs.get()), (3, 4));
        assert_eq!(counters.links_down.get(), 0, "TCP stayed");
    }
    settle(&mut nodes, 1);
    there.assert_all_credits_are_back(&mut nodes);
    settle(&mut nodes, 1);
}

#[test]
fn a_device_that_is_removed_under_load_is_let_go_and_taken_up_again() {
    let Some(mut nodes) = pair() else { return };
    let mut there = Flow::new(0, 1);
    for _ in 0..2 {
        there.exchange(&mut nodes, 200);
        // It waits until every process has closed the device.
        let removal = Command::new("rdma").args(["link", "delete", "rxe0"]).spawn();
        let mut removal = removal.expect("the program is there");
        let mut last = there.sent[0];
        pump(&mut nodes, "the device is gone and messages are on TCP", |nodes| {
            last += 1;
            there.send_all_lanes(nodes, last);
            there.take(nodes);
            removal.try_wait().expect("a child").is_some() && nodes[0].is_on(2, LinkKind::Tcp)
        });
        pump(&mut nodes, "all has arrived", |nodes| {
            there.send_all_lanes(nodes, last);
            there.take(nodes);
            there.has_got(last)
        });
        run("rdma link add rxe0 type rxe netdev eth0");
        until_on(&mut nodes, LinkKind::Verbs);
    }
    there.exchange(&mut nodes, 100);
    settle(&mut nodes, 1);
}

#[test]
fn a_message_costs_one_request_and_a_batch_one_doorbell() {
    let Some(mut nodes) = pair() else { return };
    settle(&mut nodes, 1);
    turns(&mut nodes, 500);
    let work = |nodes: &[Node]| {
        let counters = nodes[0].endpoint.peer_counters(InstanceId(2)).expect("a peer");
        let verbs = &counters.verbs;
        (verbs.sends.get(), verbs.send_doorbells.get(), verbs.completions.get())
    };
    for (lane, batch) in
        [(Lane::Control, 1), (Lane::Control, 8), (Lane::Pages, 1), (Lane::Pages, 4)]
    {
        let before = work(&nodes);
        let sent = counted("sent_pkts");
        for number in 1..=batch {
            let message = numbered(nodes[0].endpoint.arena(), lane, number).expect("a frame");
            nodes[0].endpoint.send(InstanceId(2), lane, message).expect("credit");
        }
        nodes[0].endpoint.flush();
        let after = work(&nodes);
        assert_eq!(after.0 - before.0, batch, "work requests of {batch} on {lane:?}");
        assert_eq!(after.1 - before.1, 1, "doorbells of {batch} on {lane:?}");
        pump(&mut nodes, "they have arrived", |nodes| nodes[1].received.len() as u64 >= batch);
        // 128 + 8192 bytes at an MTU of 4096, and one packet for what is small; repeated packets
        // come on top.
        let packets = if lane == Lane::Pages { 3 } else { 1 };
        has_counted("sent_pkts", sent + batch * packets);
        nodes[1].received.clear();
        settle(&mut nodes, 1);
        turns(&mut nodes, 500);
    }
}
