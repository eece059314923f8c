//! Shared storage for a benchmark: one relation of empty pages in a temporary folder.

use crate::error::BenchError;
use pagewire_node::NodeConfig;
use pagewire_protocol::{
    BufferTag, ClusterId, Fork, InstanceId, PageSize, page, tag::blocks_per_segment,
};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
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
        Self::with(|path| write_segments(path, pages, blocks_per_segment(PageSize::K8)))
    }

    /// A relation of `pages` pages of zeros (new ones, as PostgreSQL has it), which take no room on
    /// the disk.
    ///
    /// # Errors
    /// [`BenchError::Storage`].
    pub(crate) fn sparse(pages: u32, page_size: PageSize) -> Result<Self, BenchError> {
        Self::with(|path| {
            for (name, blocks) in segments(pages, blocks_per_segment(page_size)) {
                let bytes = u64::from(blocks.end - blocks.start) * page_size.bytes() as u64;
                File::create(path.join(name))?.set_len(bytes)?;
            }
            Ok(())
        })
    }

    fn with(fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::Storage)?;
        let path = folder.path().join("base/5");
        std::fs::create_dir_all(&path).and_then(|()| fill(&path)).map_err(BenchError::Storage)?;
        Ok(Self { folder })
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

/// The relation's files and their blocks: a new one after every `per_segment` blocks, numbered from
/// the second on.
fn segments(pages: u32, per_segment: u32) -> impl Iterator<Item = (String, Range<u32>)> {
    (0..pages).step_by(per_segment as usize).map(move |first| {
        let name = match first / per_segment {
            0 => "16384".to_owned(),
            segment => format!("16384.{segment}"),
        };
        (name, first..pages.min(first.saturating_add(per_segment)))
    })
}

/// Writes the relation's files, full of empty pages.
fn write_segments(folder: &Path, pages: u32, per_segment: u32) -> io::Result<()> {
    let mut bytes = vec![0; PageSize::K8.bytes()];
    page::init(&mut bytes);
    for (name, blocks) in segments(pages, per_segment) {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join(name))?);
        for block in blocks {
            let checksum = page::checksum(&bytes, block);
            page::set_checksum(&mut bytes, checksum);
            file.write_all(&bytes)?;
        }
        file.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relation_goes_on_in_the_next_file_where_one_is_full() {
        for (pages, sizes) in [(1, &[1][..]), (4, &[4]), (5, &[4, 1]), (9, &[4, 4, 1])] {
            let folder = tempfile::tempdir().unwrap();
            write_segments(folder.path(), pages, 4).unwrap();
            let mut block = 0;
            for (segment, &size) in sizes.iter().enumerate() {
                let name = if segment == 0 { "16384".into() } else { format!("16384.{segment}") };
                let file = std::fs::read(folder.path().join(name)).unwrap();
                let found: Vec<_> = file.chunks_exact(PageSize::K8.bytes()).collect();
                assert_eq!(found.len(), size, "file {segment} of {pages} pages");
                for page in found {
                    page::verify_checksum(page, block).unwrap();
                    block += 1;
                }
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), sizes.len());
        }
    }
}
