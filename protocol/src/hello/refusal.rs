//! Why a connection is refused.

use crate::DecodeError;

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Refusal {
    /// No protocol version in common.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// The connection was meant for another instance.
    WrongTarget = 3,
    /// An instance that the configuration does not name.
    UnknownInstance = 4,
    /// Another living process has this instance id.
    DuplicateInstance = 5,
    /// Another page size.
    PageSize = 6,
    /// Another member list.
    View = 7,
    /// Both sides opened a link at once and the other one's goes first: wait for it.
    Busy = 8,
    /// The incarnation has been declared ended here; start the instance anew.
    Ended = 9,
    /// A former life of the instance took part here, and what it knew cannot be recovered: the
    /// cluster has to be started anew as a whole.
    NoReturn = 10,
    /// A link has no connection of the lane class that the hello names.
    Class = 11,
    /// Another shard, or another number of shards.
    Shard = 12,
    /// One side has a cluster key and the other has none.
    KeyMissing = 13,
    /// The proof of the cluster key does not verify.
    Proof = 14,
    /// Another storage.
    Storage = 15,
}

impl Refusal {
    /// Status byte of a hello that refuses nothing.
    pub const NONE: u8 = 0;

    /// All reasons.
    pub const ALL: [Self; 15] = [
        Self::Version,
        Self::Cluster,
        Self::WrongTarget,
        Self::UnknownInstance,
        Self::DuplicateInstance,
        Self::PageSize,
        Self::View,
        Self::Busy,
        Self::Ended,
        Self::NoReturn,
        Self::Class,
        Self::Shard,
        Self::KeyMissing,
        Self::Proof,
        Self::Storage,
    ];

    pub(super) fn from_wire(status: u8) -> Result<Option<Self>, DecodeError> {
        if status == Self::NONE {
            return Ok(None);
        }
        Self::ALL.into_iter().find(|r| *r as u8 == status).map(Some).ok_or(DecodeError::Field {
            what: "handshake status",
            found: status.into(),
            expected: "0 to 15",
        })
    }

    /// True when trying again cannot help until the operator has changed something.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Busy | Self::DuplicateInstance)
    }

    /// True for what is said before any proof, so that anybody on the way may have said it. Only
    /// such reasons are believed without a proof; nothing but a message to the operator and another
    /// attempt may follow from them.
    #[must_use]
    pub fn needs_no_proof(self) -> bool {
        matches!(self, Self::Version | Self::KeyMissing | Self::Proof)
    }
}
