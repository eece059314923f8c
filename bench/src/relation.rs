//! Shared storage for a benchmark: one relation of empty pages in a temporary folder.

use crate::error::BenchError;
use pagewire_node::NodeConfig;
use pagewire_protocol::{BufferTag, ClusterId, Fork, InstanceId, PageSize, page};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Frames beyond the pages: what the fabric and storage need at most in these benchmarks.
const SPARE_FRAMES: u32 = 1024;

/// See the module. The folder goes with the value.
#[derive(Debug)]
pub(crate) struct Relation {
    folder: tempfile::TempDir,
}

impl Relation {
    /// A relation of `pages` valid, empty pages.
    ///
    /// # Errors
    /// [`BenchError::Storage`].
    pub(crate) fn create(pages: u32) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::Storage)?;
        let relation = Self { folder };
        let path = relation.folder.path().join("base/5");
        std::fs::create_dir_all(&path).map_err(BenchError::Storage)?;
        let mut bytes = vec![0; PageSize::K8.bytes()];
        page::init(&mut bytes);
        let mut file = Vec::with_capacity(bytes.len() * pages as usize);
        for block in 0..pages {
            let checksum = page::checksum(&bytes, block);
            page::set_checksum(&mut bytes, checksum);
            file.extend_from_slice(&bytes);
        }
        std::fs::write(path.join("16384"), file).map_err(BenchError::Storage)?;
        Ok(relation)
    }

    /// The page with number `block`.
    pub(crate) fn tag(block: u32) -> BufferTag {
        BufferTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main, block }
    }

    /// A configuration of instance `id` of `members`, with room for `pages` pages.
    pub(crate) fn config(&self, id: u16, members: u16, pages: u32) -> NodeConfig {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let storage = PathBuf::from(self.folder.path());
        let all = (0..members).map(InstanceId).collect();
        let config = NodeConfig::new(ClusterId(1), InstanceId(id), all, listen, storage);
        let frames_per_mb = (1 << 20) / PageSize::K8.bytes_u32();
        let arena_mb = (pages + SPARE_FRAMES).div_ceil(frames_per_mb);
        NodeConfig { arena_mb, ..config }
    }
}
