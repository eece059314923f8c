//! The RDMA device that PAGEWIRE_TEST_VERBS names: what it has counted, and a pair of nodes that use
//! it while it works.

use super::{FRAMES, Node, PATIENCE, config, introduce, link_all, pump, verbs};
use pagewire_protocol::{InstanceId, LinkKind};
use pagewire_transport::{EndpointConfig, LinkPolicy};
use std::{fs, process::Command, time::Instant};

/// Two that use verbs while it works, or `None` after a line that says why not. `change` is made to
/// the configuration of both.
pub(crate) fn pair(change: impl Fn(&mut EndpointConfig)) -> Option<Vec<Node>> {
    let Some(verbs) = verbs() else {
        println!("skipped: set PAGEWIRE_TEST_VERBS to an RDMA device (tests/softroce/run has one)");
        return None;
    };
    let auto = |id| {
        let links = LinkPolicy::Auto;
        let mut config = EndpointConfig { verbs: verbs.clone(), links, ..config(id) };
        change(&mut config);
        Node::new(config, FRAMES)
    };
    let mut nodes = vec![auto(1), auto(2)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    Some(nodes)
}

pub(crate) fn until_on(nodes: &mut [Node], kind: LinkKind) {
    pump(nodes, "both are on the other link", |nodes| {
        nodes[0].is_on(2, kind) && nodes[1].is_on(1, kind)
    });
}

/// What the device has counted; it is up to 10 ms old.
pub(crate) fn counted(name: &str) -> u64 {
    let device = verbs().and_then(|verbs| verbs.device).expect("a device");
    let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/{name}");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().expect("a number")
}

/// Waits until the device has counted so many.
pub(crate) fn has_counted(name: &str, expected: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counted(name) < expected {
        assert!(Instant::now() < deadline, "{name} is {}, expected {expected}", counted(name));
        std::thread::yield_now();
    }
}

pub(crate) fn run(command: &str) {
    let words: Vec<_> = command.split_whitespace().collect();
    let status = Command::new(words[0]).args(&words[1..]).status().expect("the program is there");
    assert!(status.success(), "{command}: {status}");
}

pub(crate) fn assert_nothing_fell(nodes: &[Node]) {
    for (node, peer) in [(0, 2), (1, 1)] {
        let counters = nodes[node].endpoint.peer_counters(InstanceId(peer)).expect("a peer");
        assert_eq!(counters.falls_to_tcp.get(), 0);
        assert_eq!(counters.links_down.get(), 0);
    }
}
