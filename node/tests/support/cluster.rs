//! Instances in one process, with caches too small for the relation, over real sockets and a real
//! page file whose pages each hold a counter.

use super::{
    pages::{counter, read_pages, relation_path, set_counter, storage, tag},
    process::PATIENCE,
};
use pagewire_node::{Handle, Node, NodeConfig, grd::AcquireError, runtime::NodeCounters};
use pagewire_protocol::{ClusterId, InstanceId, page};
use std::path::{Path, PathBuf};

/// Fewest pages that a node caches.
pub(crate) const SMALL_CACHE: u32 = 32;

/// Instances in one process, over one storage folder; a test may stop and add some.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// `nodes` instances with small caches over `pages` pages.
    pub(crate) fn start(nodes: u16, pages: u32) -> Self {
        Self::with(nodes, pages, |_| {})
    }

    pub(crate) fn with(nodes: u16, pages: u32, adjust: impl Fn(&mut NodeConfig)) -> Self {
        let folder = storage(pages);
        let members: Vec<_> = (0..nodes).map(InstanceId).collect();
        let start = |id: &InstanceId| {
            let any_port = "127.0.0.1:0".parse().expect("an address");
            let path = folder.path().to_owned();
            let mut config = NodeConfig::new(ClusterId(77), *id, members.clone(), any_port, path);
            config.arena_mb = 8;
            config.cache_pages = Some(SMALL_CACHE);
            adjust(&mut config);
            Node::start(&config).expect("a node")
        };
        let nodes: Vec<_> = members.iter().map(start).collect();
        for node in &nodes {
            for other in &nodes {
                let (id, address) = (other.identity().0, other.listen_address());
                if id != node.identity().0 {
                    node.add_peer(id, address).expect("a new peer");
                }
            }
        }
        for node in &nodes {
            node.wait_for_peers(PATIENCE).expect("all are there");
        }
        Self { folder, nodes }
    }

    pub(crate) fn handle(&self, node: usize) -> Handle {
        self.nodes[node].handle().expect("a handle")
    }

    pub(crate) fn flush(&self) {
        for node in &self.nodes {
            node.flush().expect("written back");
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        relation_path(self.folder.path())
    }

    pub(crate) fn sum(&self, counters: impl Fn(&NodeCounters) -> u64) -> u64 {
        self.nodes.iter().map(|node| counters(&node.counters())).sum()
    }
}

/// Adds 1 to the counter of block `block`.
pub(crate) fn add_one(handle: &Handle, block: u32) -> Result<u64, AcquireError> {
    let mut page = handle.write(tag(block))?;
    let value = counter(&page) + 1;
    page.update(|page| set_counter(page, value)).expect("a lease");
    Ok(value)
}

pub(crate) fn read_counter(handle: &Handle, block: u32) -> Result<u64, AcquireError> {
    Ok(counter(&handle.read(tag(block))?))
}

/// Asserts that the file holds `expected` for each page, with right checksums.
pub(crate) fn assert_file_holds(file: &Path, expected: &[u64]) {
    let pages = read_pages(file, 0);
    assert_eq!(pages.len(), expected.len());
    for ((block, page), expected) in pages.iter().zip(expected) {
        page::verify_checksum(page, *block).expect("a right checksum");
        assert_ne!(page::stored_checksum(page), 0, "block {block} has a checksum");
        assert_eq!(counter(page), *expected, "block {block}");
    }
}
