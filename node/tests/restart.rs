//! An instance that comes back in a new life, while the directory of its former one is lost.

mod support;

use pagewire_node::{Node, NodeConfig, NodeError, grd::AcquireError, view::View};
use pagewire_protocol::{ClusterId, Epoch, InstanceId};
use std::path::Path;
use support::{
    pages::{storage, tag},
    process::PATIENCE,
};

const PAGES: u32 = 64;
const MEMBERS: [InstanceId; 2] = [InstanceId(0), InstanceId(1)];

fn start(id: InstanceId, folder: &Path) -> Node {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let config = NodeConfig::new(ClusterId(7), id, MEMBERS.to_vec(), any_port, folder.to_owned());
    Node::start(&NodeConfig { arena_mb: 8, huge_pages: false, ..config }).expect("a node")
}

#[test]
fn a_restarted_instance_is_refused_and_never_hands_out_stale_pages() {
    let folder = storage(PAGES);
    let (stays, goes) = (start(MEMBERS[0], folder.path()), start(MEMBERS[1], folder.path()));
    stays.add_peer(MEMBERS[1], goes.listen_address()).expect("a new peer");
    goes.add_peer(MEMBERS[0], stays.listen_address()).expect("a new peer");
    for node in [&stays, &goes] {
        node.wait_for_peers(PATIENCE).expect("a session");
    }
    // The survivor holds the only current copies, of pages mastered on both sides.
    let handle = stays.handle().expect("a handle");
    for block in 0..PAGES {
        handle.write(tag(block)).expect("a page").update(|page| page[4000] = 9).expect("a lease");
    }
    drop(goes);

    let back = start(MEMBERS[1], folder.path());
    back.add_peer(MEMBERS[0], stays.listen_address()).expect("a new peer");
    let refused = back.wait_for_peers(PATIENCE).expect_err("its former life is not recovered");
    let NodeError::Refused(why) = refused else { panic!("{refused:?}") };
    assert!(why.contains("start them together"), "{why}");

    // What the survivor holds it goes on working with; what the lost one mastered fails in words.
    let view = View::new(Epoch(1), MEMBERS.to_vec()).expect("a view");
    for block in 0..PAGES {
        assert_eq!(handle.read(tag(block)).expect("held")[4000], 9);
    }
    let lost = (PAGES..).map(tag).find(|tag| view.master(tag) == MEMBERS[1]).expect("some");
    let error = handle.read(lost).expect_err("its master is lost");
    assert!(matches!(error, AcquireError::PeerLost { peer: InstanceId(1), .. }), "{error}");
}
