//! A node as whoever publishes and reads invalidations sees it.

use super::{error::NodeError, node::Node, shards::Control};
use crate::si::Publisher;
use pagewire_si::SiReader;
use std::{path::Path, sync::Arc};

impl Node {
    /// Publishes invalidations of this instance, from any thread.
    #[must_use]
    pub fn si_publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.si))
    }

    /// A reader of this instance's ring, which begins behind the last message.
    ///
    /// # Errors
    /// [`NodeError::SiRing`]; [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn si_reader(&self) -> Result<SiReader, NodeError> {
        let first = self.shards.first().ok_or(NodeError::Stopped)?;
        first.ask(Control::SiReader)?.wait()?
    }

    /// The file that the ring is in, for readers in other processes; `None` where it has no name.
    #[must_use]
    pub fn si_ring_path(&self) -> Option<&Path> {
        self.si_ring.as_deref()
    }

    /// Invalidations that were published here and that not every member has.
    #[must_use]
    pub fn si_waiting(&self) -> u64 {
        self.si.waiting()
    }
}

#[cfg(test)]
pub(in crate::runtime) mod tests {
    use super::*;
    use crate::{config::NodeConfig, si::TicketError};
    use pagewire_protocol::{BufferTag, ClusterId, Fork, InstanceId, SiMessage, page};
    use std::{fs, time::Duration};

    const PATIENCE: Duration = Duration::from_secs(30);
    const BLOCKS: u32 = 64;

    pub(in crate::runtime) fn tags() -> impl Iterator<Item = BufferTag> {
        let (tablespace, database, relation, fork) = (1663, 5, 16384, Fork::Main);
        (0..BLOCKS).map(move |block| BufferTag { tablespace, database, relation, fork, block })
    }

    /// A relation with the pages of [`tags`].
    pub(in crate::runtime) fn store_pages(storage: &Path) {
        let mut pages = Vec::new();
        for block in 0..BLOCKS {
            let mut page = vec![0; 8192];
            page::init(&mut page);
            let checksum = page::checksum(&page, block);
            page::set_checksum(&mut page, checksum);
            pages.extend(page);
        }
        fs::create_dir_all(storage.join("base/5")).unwrap();
        fs::write(storage.join("base/5/16384"), pages).unwrap();
    }

    #[test]
    fn a_page_stays_where_the_shard_is_gone_that_should_have_delivered_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        store_pages(folder.path());
        // The other member is not there: nothing is ever delivered.
        let (me, members) = (InstanceId(0), vec![InstanceId(0), InstanceId(1)]);
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = NodeConfig::new(ClusterId(1), me, members, listen, folder.path().to_owned());
        let config = NodeConfig { arena_mb: 16, huge_pages: false, shards: 2, ..config };
        let node = Node::start(&config).unwrap();
        let (handle, publisher) = (node.handle().unwrap(), node.si_publisher());
        let mut mine = tags().filter(|tag| tag.shard(2) == 1 && node.view().master(tag) == me);
        let (before, after) = (mine.next().unwrap(), mine.next().unwrap());
        let messages = [SiMessage::Relmap { database: 5 }];
        let mut guards = [before, after].map(|tag| handle.write(tag).unwrap()).into_iter();
        let mut publish = || {
            let mut guard = guards.next().unwrap();
            let ticket = guard.publish(&publisher, &messages).unwrap();
            (guard, ticket)
        };
        let ((first, _), (second, ticket)) = (publish(), publish());
        drop(first);
        let asked = node.shards[0].ask(|reply| Control::Panic("out of luck", reply)).unwrap();
        asked.wait().unwrap_err();
        assert_eq!(ticket.wait(PATIENCE), Err(TicketError::Stopped));
        drop(second);
        // The other shard goes on, and has had its turns.
        for _ in 0..3 {
            node.shards[1].ask(Control::Loading).unwrap().wait().unwrap();
        }
        for tag in [before, after] {
            assert!(handle.try_read(&tag).is_none(), "{tag} was let go, and nobody can read why");
        }
    }
}
