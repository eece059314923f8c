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
