//! Tells states of a core apart by what it knows of one page: for models that explore all of them.

use super::Grd;
use pagewire_protocol::BufferTag;
use std::fmt::{self, Write};

impl Grd {
    /// Writes everything that can matter for `tag` to `out`, the same for states that cannot be told
    /// apart from outside.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn fingerprint(&self, tag: &BufferTag, out: &mut impl Write) -> fmt::Result {
        write!(out, "{:?}{}{}", self.view.epoch(), self.will_continue, self.is_out)?;
        write!(out, "{:?}{:?}", self.loopback, self.parked_guides)?;
        self.directory.fingerprint(tag, out)?;
        self.holdings.fingerprint(tag, out)
    }
}
