//! CLUSTER_VIEW: which membership view the sender has put in force.
//!
//! Said to every peer whenever a view is put in force. Two views of one number that differ are the
//! work of two membership layers that do not know of each other: whoever finds that out takes no page
//! message of the other any more, until one of them has a later view.
//!
//! ```text
//!   0 epoch      8 hash     16
//! ```

use crate::{DecodeError, Epoch, MessageKind};

/// Number of the message.
pub const CLUSTER_VIEW: MessageKind = MessageKind(110);
/// Bytes of its body.
pub const CLUSTER_VIEW_BYTES: usize = 16;

/// What the sender has put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterView {
    /// The view's number.
    pub epoch: Epoch,
    /// Its hash: of its members, their lives, and who masters what since when.
    pub hash: u64,
}

impl ClusterView {
    /// The 16 bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; CLUSTER_VIEW_BYTES] {
        (u128::from(self.hash) << 64 | u128::from(self.epoch.0)).to_le_bytes()
    }

    /// Reads what [`ClusterView::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError::Length`].
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let (what, expected) = ("CLUSTER_VIEW body", CLUSTER_VIEW_BYTES);
        let wrong = DecodeError::Length { what, found: body.len(), expected };
        let (epoch, rest) = body.split_first_chunk().ok_or(wrong)?;
        let hash = rest.try_into().map_err(|_| wrong)?;
        Ok(Self { epoch: Epoch(u64::from_le_bytes(*epoch)), hash: u64::from_le_bytes(hash) })
    }

    /// True when the two cannot both be the view of one cluster.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.hash != other.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_survives_its_body_and_contradicts_another_of_its_number_alone() {
        let view = ClusterView { epoch: Epoch(7), hash: 0x0123_4567_89AB_CDEF };
        let bytes = view.encode();
        assert_eq!((bytes[0], bytes[8], bytes[15]), (7, 0xEF, 1));
        assert_eq!(ClusterView::decode(&bytes), Ok(view));
        for odd in [&bytes[..15], &[0; 17], &[]] {
            assert!(ClusterView::decode(odd).is_err());
        }
        let other = ClusterView { hash: 1, ..view };
        assert!(view.contradicts(&other) && !view.contradicts(&view));
        assert!(!view.contradicts(&ClusterView { epoch: Epoch(8), ..other }));
    }
}
