//! What tells two states of a core apart as far as one page goes: for the exhaustive model, which must
//! not explore the same state twice. In test builds only.

use super::Grd;
use pagewire_protocol::BufferTag;
use std::{fmt::Debug, hash::Hasher};

impl Grd {
    /// Feeds everything to `hasher` that what the core does about `tag` can depend on; not its counts,
    /// and not where in memory things are.
    pub fn fingerprint(&self, tag: &BufferTag, hasher: &mut impl Hasher) {
        feed(hasher, &(self.view.epoch(), self.will_continue, self.is_out));
        feed(hasher, &(&self.loopback, &self.parked_guides));
        self.directory.fingerprint(tag, hasher);
        self.holdings.fingerprint(tag, hasher);
    }
}

/// What is printed of `what` is what it is.
pub(super) fn feed(hasher: &mut impl Hasher, what: &impl Debug) {
    struct Words<'a, H>(&'a mut H);
    impl<H: Hasher> std::fmt::Write for Words<'_, H> {
        fn write_str(&mut self, words: &str) -> std::fmt::Result {
            self.0.write(words.as_bytes());
            Ok(())
        }
    }
    // It writes to no device.
    let _ = std::fmt::write(&mut Words(hasher), format_args!("{what:?};"));
}
