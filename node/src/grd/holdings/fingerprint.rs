//! The holdings' part of [`Grd::fingerprint`](crate::grd::Grd::fingerprint).

use super::{Holdings, state::Holding};
use pagewire_protocol::BufferTag;
use std::fmt::{self, Write};

impl Holdings {
    pub(in crate::grd) fn fingerprint(&self, tag: &BufferTag, out: &mut impl Write) -> fmt::Result {
        write!(out, "{:?}{:?}{:?}", self.last_request, self.durable, self.flushing)?;
        write!(out, "{:?}", self.telling)?;
        let Some(holding) = self.holdings.get(tag) else { return Ok(()) };
        let waiters: Vec<_> = self.pool.iter(holding.waiters).collect();
        write!(out, "{:?}{waiters:?}", Holding { waiters: Default::default(), ..holding.clone() })
    }
}
