//! Whoever answers at a peer's address without knowing the cluster key: nothing that it says ends an
//! instance, which goes on looking for the peer.

mod support;

use pagewire_node::{Node, NodeConfig, config::PeerConfig};
use pagewire_protocol::{
    ClusterId, InstanceId,
    hello::{Acceptor, Nonce, Refusal},
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};
use support::process::wait_for;

const ME: InstanceId = InstanceId(0);
const PEER: InstanceId = InstanceId(1);

/// For longer than a refusal has to stand before it is final.
const GOES_ON: Duration = Duration::from_secs(3);

#[test]
fn what_a_stranger_refuses_at_a_peers_address_is_counted_and_ends_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = folder.path().join("cluster.key");
    fs::write(&key, [b'7'; 40]).expect("a key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = stranger.local_addr().expect("an address");
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let (members, path) = (vec![ME, PEER], folder.path().to_owned());
    let config = NodeConfig::new(ClusterId(80), ME, members, any_port, path);
    let config = NodeConfig {
        arena_mb: 8,
        huge_pages: false,
        cluster_key: Some(key),
        peers: vec![PeerConfig { instance: PEER, address }],
        ..config
    };
    let node = Node::start(&config).expect("a node");
    let refused = || node.endpoint_counters()[0].refused_unproven.get();
    for refusal in [Refusal::KeyMissing, Refusal::Proof, Refusal::Version] {
        let first = Instant::now();
        while first.elapsed() < GOES_ON {
            let before = refused();
            let (mut connection, _) = stranger.accept().expect("it tries again");
            connection.read_exact(&mut [0; 1]).expect("an introduction");
            let mut shake = Acceptor::new(true, Nonce([7; 32]));
            connection.write_all(shake.refuse(refusal).as_slice()).expect("room in the socket");
            // Until the node has taken it in and hung up.
            let _ = connection.read_to_end(&mut Vec::new());
            wait_for("a count of it", || refused() > before);
            let missing = node.peers_missing().expect("it goes on");
            assert_eq!(missing, [PEER], "after {refusal:?}");
        }
    }
    // Whoever waits for the peer is told why it does not come.
    let why = node.wait_for_peers(Duration::ZERO).expect_err("it is not there").to_string();
    assert!(why.contains("protocol versions"), "{why}");
}
