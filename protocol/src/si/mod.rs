//! SI messages: what a backend must forget because another one, here or elsewhere, has changed it.
//!
//! These are PostgreSQL 15's `SharedInvalidationMessage` (src/include/storage/sinval.h), byte for byte
//! as a little-endian host lays them out, so that a database may hand over its own union. 16 bytes
//! each; the first is a signed id, and what follows depends on it:
//!
//! ```text
//!            0      1      2          4           8           12         16
//!            +------+------+----------+-----------+-----------+----------+
//!  catcache  | >= 0 |        -        | database  | hash      |    -     |
//!  catalog   |  -1  |        -        | database  | catalog   |    -     |
//!  relcache  |  -2  |        -        | database  | relation  |    -     |
//!  smgr      |  -3  | high | low      | space     | database  | relation |   high, low: backend
//!  relmap    |  -4  |        -        | database  |           -          |
//!  snapshot  |  -5  |        -        | database  | relation  |    -     |
//!            +------+------+----------+-----------+-----------+----------+
//! ```
//! Bytes that mean nothing are written 0 and ignored when they are read: C leaves them as they were.

use crate::DecodeError;
use std::fmt;

#[cfg(test)]
mod tests;
pub mod wire;

/// Bytes of one message.
pub const SI_MESSAGE_BYTES: usize = 16;

const CATALOG: i8 = -1;
const RELCACHE: i8 = -2;
const SMGR: i8 = -3;
const RELMAP: i8 = -4;
const SNAPSHOT: i8 = -5;

/// Number of a catalog cache (PostgreSQL: syscache id): 0 to 127, for the id byte is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CatcacheId(u8);

impl CatcacheId {
    /// The greatest one.
    pub const MAX: Self = Self(127);

    /// The cache of this number; `None` above 127.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for CatcacheId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose relation file it is: a backend's number for a temporary one, [`Backend::NONE`] otherwise.
/// A message has 24 bits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend(i32);

impl Backend {
    /// No backend's: a relation that all may use (PostgreSQL: `InvalidBackendId`).
    pub const NONE: Self = Self(-1);
    /// The least number that fits.
    pub const MIN: Self = Self(-(1 << 23));
    /// The greatest number that fits.
    pub const MAX: Self = Self((1 << 23) - 1);

    /// The backend of this number; `None` if 24 bits do not hold it.
    #[must_use]
    pub const fn new(number: i32) -> Option<Self> {
        if number >= Self::MIN.0 && number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One invalidation. Objects are PostgreSQL's OIDs; database 0 means "shared by all databases".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiMessage {
    /// The tuples of one catalog cache whose key has this hash.
    Catcache {
        /// Which cache.
        cache: CatcacheId,
        /// Of which database.
        database: u32,
        /// Hash of the key.
        hash: u32,
    },
    /// Everything cached of one system catalog.
    Catalog {
        /// Of which database.
        database: u32,
        /// The catalog.
        catalog: u32,
    },
    /// What is cached of one relation; of all relations when `relation` is 0.
    Relcache {
        /// Of which database.
        database: u32,
        /// The relation.
        relation: u32,
    },
    /// Open files and the size of one relation: it was truncated or dropped.
    Smgr {
        /// Whose file.
        backend: Backend,
        /// Tablespace.
        space: u32,
        /// Database.
        database: u32,
        /// File number of the relation.
        relation: u32,
    },
    /// The map from mapped catalogs to their files.
    Relmap {
        /// Of which database.
        database: u32,
    },
    /// Snapshots used to read one catalog.
    Snapshot {
        /// Of which database.
        database: u32,
        /// The catalog.
        relation: u32,
    },
}

impl SiMessage {
    /// The 16 bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; SI_MESSAGE_BYTES] {
        match *self {
            Self::Catcache { cache, database, hash } => {
                join([cache.0, 0, 0, 0], [database, hash, 0])
            }
            Self::Catalog { database, catalog } => join(plain(CATALOG), [database, catalog, 0]),
            Self::Relcache { database, relation } => join(plain(RELCACHE), [database, relation, 0]),
            Self::Smgr { backend, space, database, relation } => {
                // Two's complement: bits 16 to 23 are the signed high byte.
                let [low0, low1, high, _] = backend.0.to_le_bytes();
                let [id] = SMGR.to_le_bytes();
                join([id, high, low0, low1], [space, database, relation])
            }
            Self::Relmap { database } => join(plain(RELMAP), [database, 0, 0]),
            Self::Snapshot { database, relation } => join(plain(SNAPSHOT), [database, relation, 0]),
        }
    }

    /// Reads a message in PostgreSQL's layout.
    ///
    /// # Errors
    /// [`DecodeError::Field`] when the id is none of the six kinds'.
    pub fn decode(bytes: &[u8; SI_MESSAGE_BYTES]) -> Result<Self, DecodeError> {
        let [id, high, low0, low1, ..] = *bytes;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (first, second, third) = (word(4), word(8), word(12));
        if let Some(cache) = CatcacheId::new(id) {
            return Ok(Self::Catcache { cache, database: first, hash: second });
        }
        match i8::from_le_bytes([id]) {
            CATALOG => Ok(Self::Catalog { database: first, catalog: second }),
            RELCACHE => Ok(Self::Relcache { database: first, relation: second }),
            SMGR => {
                // In the upper three bytes first, so that the shift carries the sign down.
                let backend = Backend(i32::from_le_bytes([0, low0, low1, high]) >> 8);
                Ok(Self::Smgr { backend, space: first, database: second, relation: third })
            }
            RELMAP => Ok(Self::Relmap { database: first }),
            SNAPSHOT => Ok(Self::Snapshot { database: first, relation: second }),
            _ => Err(DecodeError::Field {
                what: "id byte of an SI message",
                found: id.into(),
                expected: "0 to 127 (catcache), or 251 to 255 (the other five kinds, -5 to -1)",
            }),
        }
    }

    /// The database that it is about; 0 for what all databases share.
    #[must_use]
    pub fn database(&self) -> u32 {
        match *self {
            Self::Catcache { database, .. }
            | Self::Catalog { database, .. }
            | Self::Relcache { database, .. }
            | Self::Smgr { database, .. }
            | Self::Relmap { database }
            | Self::Snapshot { database, .. } => database,
        }
    }
}

impl fmt::Display for SiMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catcache { cache, database, hash } => {
                write!(f, "catcache {cache} database {database} hash {hash:#010x}")
            }
            Self::Catalog { database, catalog } => {
                write!(f, "catalog {catalog} database {database}")
            }
            Self::Relcache { database, relation } => {
                write!(f, "relcache {relation} database {database}")
            }
            Self::Smgr { backend, space, database, relation } => {
                write!(f, "smgr {relation} database {database} space {space} backend {backend}")
            }
            Self::Relmap { database } => write!(f, "relmap database {database}"),
            Self::Snapshot { database, relation } => {
                write!(f, "snapshot {relation} database {database}")
            }
        }
    }
}

fn plain(id: i8) -> [u8; 4] {
    let [id] = id.to_le_bytes();
    [id, 0, 0, 0]
}

fn join(first: [u8; 4], words: [u32; 3]) -> [u8; SI_MESSAGE_BYTES] {
    let mut bytes = [0; SI_MESSAGE_BYTES];
    bytes[..4].copy_from_slice(&first);
    for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
