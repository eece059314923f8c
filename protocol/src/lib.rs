//! What instances say to each other and what a page looks like.
//!
//! Purpose: ids, PostgreSQL's buffer tag, LSN and page header, the session header and the PCM
//! messages, each with its codec. No I/O, no clock, no unsafe: every other crate may use it.
//!
//! Invariants: every integer on the wire is little-endian; every wire size is asserted at compile
//! time; decoding allocates nothing and accepts exactly what encoding can produce.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod cluster_view;
pub mod guide;
pub mod header;
pub mod hello;
pub mod ids;
mod lane;
pub mod link_control;
pub mod lsn;
pub mod page;
pub mod pcm;
pub mod read;
pub mod si;
pub mod stat;
pub mod tag;

pub use cluster_view::ClusterView;
pub use guide::{GuideRecord, Report, Transit};
pub use header::{Body, MessageKind, SessionHeader};
pub use ids::{
    ClusterId, Epoch, GrantNumber, Incarnation, InstanceId, LinkNonce, Mode, PartitionId,
    ProcessId, RequestId, Sequence,
};
pub use lane::{Lane, LaneClass};
pub use link_control::{LinkControl, LinkKind, TcpReason};
pub use lsn::Lsn;
pub use page::PageSize;
pub use pcm::Pcm;
pub use read::{ReadMessage, ReadRefusal, RegionId};
pub use si::SiMessage;
pub use stat::{InstanceStat, PageStat, Stat, StatAbout};
pub use tag::{BufferTag, Fork};

/// Version of the session and handshake wire format spoken by this build.
///
/// Version 3 states features in the hello ([`hello::Features`]) and has one-sided reads; nothing of
/// them is said to an end of version 2. Version 4 states how long a pause an end bears
/// ([`hello::Hello::pause_max_ms`]); nothing of it is said to an end of version 3 or 2.
/// Version 5 closes regions of one-sided reads ([`hello::Features::CLOSING`]), which an end of an
/// earlier version is not told. Version 6 says which storage an end has ([`hello::Hello::storage_mark`]);
/// nothing of it is said to an end of an earlier version.
pub const PROTOCOL_VERSION: u16 = 6;

/// Oldest version this build still speaks: N speaks to N-1 at least, and version 2 differs from 3 only by
/// what is left unsaid. Version 1, whose handshake proved nothing, is spoken no more.
pub const PROTOCOL_VERSION_MIN: u16 = 2;

/// What can be wrong with bytes that came from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer or more bytes than the layout has.
    #[error("{what} has {found} bytes, expected {expected}")]
    Length {
        /// The layout.
        what: &'static str,
        /// Bytes that were there.
        found: usize,
        /// Bytes the layout has.
        expected: usize,
    },
    /// A field holds a value that no sender of this version writes.
    #[error("{what} holds {found}, expected {expected}")]
    Field {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it may hold.
        expected: &'static str,
    },
    /// The CRC-32C over the bytes does not match the one they carry.
    #[error("{what} carries CRC-32C {found:#010x}, computed {computed:#010x}: damaged on the way")]
    Crc {
        /// The layout.
        what: &'static str,
        /// The CRC in the bytes.
        found: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
}

/// CRC-32C (Castagnoli, as in iSCSI, RFC 3720 appendix B.4) of the concatenation of `parts`.
#[must_use]
#[inline]
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    if let [whole] = parts {
        return crc_fast::crc32_iscsi(whole);
    }
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    // A CRC-32 leaves the upper half of the digest's u64 empty.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32c_of_the_rfc_check_string() {
        assert_eq!(super::crc32c(&[b"1234", b"56789"]), 0xE306_9283);
    }
}
