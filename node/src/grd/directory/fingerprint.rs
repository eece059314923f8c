//! The directory's part of [`Grd::fingerprint`](crate::grd::Grd::fingerprint).

use super::{Directory, Rare};
use pagewire_protocol::BufferTag;
use std::fmt::{self, Write};

impl Directory {
    pub(in crate::grd) fn fingerprint(&self, tag: &BufferTag, out: &mut impl Write) -> fmt::Result {
        if let Some(slot) = self.store.find(tag) {
            write!(out, "{:?}", self.store.get(slot))?;
            if let Some(rare) = self.store.rare(slot) {
                // Where a queue's items lie says nothing.
                let queue: Vec<_> = self.pool.iter(rare.queue).collect();
                write!(out, "{:?}{queue:?}", Rare { queue: Default::default(), ..rare.clone() })?;
            }
        }
        write!(out, "{:?}{:?}{:?}", self.moves, self.unredone, self.redone)
    }
}
