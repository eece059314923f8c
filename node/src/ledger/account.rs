//! The account record in the free space of a PostgreSQL page.
//!
//! ```text
//!         pd_lower   aligned up to 8                               pd_upper
//!  items ----|-------|===== account record, 40 bytes =====|-----------|---- tuples
//!            <------------------ at least 64 bytes ------------------->
//!  record: magic 4 | crc 4 | balance 8 | transfers 8 | last sequence 8 | last instance 2 | number 4 | 0 x 2
//! ```
//! Invariants: PostgreSQL never reads the hole between `pd_lower` and `pd_upper`, so the record
//! changes nothing for it; the record is written only under an exclusive guard, and `pd_lower` does
//! not move meanwhile, so the record's place is fixed. Pure: bytes in, bytes out.

use pagewire_protocol::{
    InstanceId, crc32c,
    page::{self, PageError},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{I64, U16, U32, U64},
};

/// Free space a page must have to carry an account, in bytes.
pub const FREE_BYTES_MIN: usize = 64;

/// Bytes of the record.
pub const RECORD_BYTES: usize = 40;

const ALIGN_BYTES: usize = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"PWAC");
/// What the record's CRC leaves out: magic and the CRC itself.
const CRC_FROM_BYTE: usize = 8;

/// Page type in the last two bytes of a BRIN range map page (PostgreSQL, brin_page.h).
const BRIN_REVMAP: u16 = 0xF092;
const BRIN_SPECIAL_BYTES: usize = 8;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Record {
    magic: U32,
    crc: U32,
    balance: I64,
    transfers: U64,
    last_sequence: U64,
    last_instance: U16,
    number: U32,
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<Record>() == RECORD_BYTES);
const _: () = assert!(RECORD_BYTES + ALIGN_BYTES <= FREE_BYTES_MIN);

/// Names one transfer of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TransferId {
    /// The instance that made it.
    pub instance: InstanceId,
    /// Counts that instance's transfers from 1; 0 is "none yet".
    pub sequence: u64,
}

/// What one page's account holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Money in the account; may be negative.
    pub balance: i64,
    /// Transfers that touched it.
    pub transfers: u64,
    /// The last transfer that touched it.
    pub last: TransferId,
    /// By which the account is known: at first that of its block. Two accounts exchange theirs now and
    /// then, so that instances cache which page has which.
    pub number: u32,
}

/// Why a page has no readable account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The page header is damaged.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The page's free space is too small.
    #[error(
        "the page has {found_bytes} bytes of free space, an account needs {FREE_BYTES_MIN}: \
         only read this page"
    )]
    NoRoom {
        /// Free space of the page, in bytes.
        found_bytes: usize,
    },
    /// There is something else where the record should be.
    #[error(
        "no account at byte {offset}: found {found:#010x}, expected {MAGIC:#010x}; \
         prepare the relation again"
    )]
    Magic {
        /// Where the record should start, in bytes from the page's start.
        offset: usize,
        /// What stands there.
        found: u32,
    },
    /// The record's bytes do not match its CRC.
    #[error(
        "the account at byte {offset} carries CRC-32C {found:#010x}, computed {computed:#010x}: \
         damaged; prepare the relation again"
    )]
    Crc {
        /// Where the record starts, in bytes from the page's start.
        offset: usize,
        /// The CRC in the record.
        found: u32,
        /// The CRC of the record's bytes.
        computed: u32,
    },
}

/// True when the page may carry an account: it has the room, and its kind keeps nothing in the hole.
///
/// # Errors
/// [`PageError`] when the header contradicts itself.
pub fn is_usable(page: &[u8]) -> Result<bool, PageError> {
    let free = page::free_space(page)?;
    // BRIN's range map keeps its entries between pd_lower and pd_upper without moving pd_lower.
    let special = usize::from(u16::from_le_bytes([page[16], page[17]]));
    let tail = &page[page.len() - 2..];
    let is_revmap = special + BRIN_SPECIAL_BYTES == page.len()
        && u16::from_le_bytes([tail[0], tail[1]]) == BRIN_REVMAP;
    Ok(free.len() >= FREE_BYTES_MIN && !is_revmap)
}

/// Where the account record of `page` starts, in bytes from the page's start.
///
/// # Errors
/// [`AccountError::NoRoom`] when the page has less than [`FREE_BYTES_MIN`] of free space (a new
/// page has none), [`AccountError::Page`] when its header is damaged.
pub fn find(page: &[u8]) -> Result<usize, AccountError> {
    let free = page::free_space(page)?;
    if free.len() < FREE_BYTES_MIN {
        return Err(AccountError::NoRoom { found_bytes: free.len() });
    }
    Ok(free.start.next_multiple_of(ALIGN_BYTES))
}

/// Reads the account of `page`.
///
/// # Errors
/// [`AccountError`] when there is no room, no record, or a damaged one.
pub fn read(page: &[u8]) -> Result<Account, AccountError> {
    let offset = find(page)?;
    let bytes = &page[offset..offset + RECORD_BYTES];
    let Ok(record) = Record::ref_from_bytes(bytes) else {
        return Err(AccountError::NoRoom { found_bytes: bytes.len() });
    };
    if record.magic.get() != MAGIC {
        return Err(AccountError::Magic { offset, found: record.magic.get() });
    }
    let (found, computed) = (record.crc.get(), crc32c(&[&bytes[CRC_FROM_BYTE..]]));
    if found != computed {
        return Err(AccountError::Crc { offset, found, computed });
    }
    Ok(Account {
        balance: record.balance.get(),
        transfers: record.transfers.get(),
        last: TransferId {
            instance: InstanceId(record.last_instance.get()),
            sequence: record.last_sequence.get(),
        },
        number: record.number.get(),
    })
}

/// Writes the account of `page`, whether or not it had one before.
///
/// # Errors
/// [`AccountError::NoRoom`] or [`AccountError::Page`] as [`find`]; the page is then unchanged.
pub fn write(page: &mut [u8], account: &Account) -> Result<(), AccountError> {
    let offset = find(page)?;
    let mut record = Record {
        magic: MAGIC.into(),
        crc: 0.into(),
        balance: account.balance.into(),
        transfers: account.transfers.into(),
        last_sequence: account.last.sequence.into(),
        last_instance: account.last.instance.0.into(),
        number: account.number.into(),
        reserved: [0; 2],
    };
    record.crc = crc32c(&[&record.as_bytes()[CRC_FROM_BYTE..]]).into();
    page[offset..offset + RECORD_BYTES].copy_from_slice(record.as_bytes());
    Ok(())
}

/// Opens account `number` with `balance` on `page`.
///
/// # Errors
/// As [`write()`].
pub fn init(page: &mut [u8], number: u32, balance: i64) -> Result<(), AccountError> {
    write(page, &Account { number, balance, ..Account::default() })
}

/// CRC-32C of everything that a run must leave alone: all bytes behind `pd_lsn` and `pd_checksum`,
/// without the account record that starts at `record`, if the page has one.
#[must_use]
pub fn contents_crc32c(page: &[u8], record: Option<usize>) -> u32 {
    /// `pd_lsn` and `pd_checksum`.
    const SKIP_BYTES: usize = 10;
    match record {
        Some(offset) => crc32c(&[&page[SKIP_BYTES..offset], &page[offset + RECORD_BYTES..]]),
        None => crc32c(&[&page[SKIP_BYTES..]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with(lower: u16, upper: u16) -> Vec<u8> {
        let mut page = vec![0; 8192];
        page::init(&mut page);
        page[12..14].copy_from_slice(&lower.to_le_bytes());
        page[14..16].copy_from_slice(&upper.to_le_bytes());
        page
    }

    #[test]
    fn an_account_reads_as_written_and_touches_only_its_place() {
        let mut page = page_with(29, 29 + 64);
        page[29..93].fill(0xEE);
        let before = page.clone();
        let account = Account {
            balance: -7,
            transfers: 3,
            last: TransferId { instance: InstanceId(2), sequence: 99 },
            number: 7,
        };
        write(&mut page, &account).expect("room for an account");
        assert_eq!(find(&page), Ok(32));
        assert_eq!(read(&page), Ok(account));
        assert_eq!(page[..32], before[..32]);
        assert_eq!(page[72..], before[72..]);
        assert_eq!(contents_crc32c(&page, Some(32)), contents_crc32c(&before, Some(32)));
    }

    #[test]
    fn sixty_three_bytes_of_free_space_are_too_few() {
        let mut page = page_with(24, 24 + 63);
        assert_eq!(is_usable(&page), Ok(false));
        assert_eq!(init(&mut page, 7, 1), Err(AccountError::NoRoom { found_bytes: 63 }));
        assert_eq!(is_usable(&page_with(31, 31 + 64)), Ok(true));
    }

    #[test]
    fn a_new_page_carries_no_account() {
        assert_eq!(is_usable(&vec![0; 8192]), Ok(false));
        assert_eq!(read(&vec![0; 8192]), Err(AccountError::NoRoom { found_bytes: 0 }));
    }

    #[test]
    fn a_brin_range_map_is_left_alone() {
        let mut page = page_with(24, 8184);
        page[16..18].copy_from_slice(&8184u16.to_le_bytes());
        assert_eq!(is_usable(&page), Ok(true));
        page[8190..].copy_from_slice(&BRIN_REVMAP.to_le_bytes());
        assert_eq!(is_usable(&page), Ok(false));
    }

    #[test]
    fn a_missing_or_damaged_record_is_refused() {
        let mut page = page_with(24, 8192);
        assert_eq!(read(&page), Err(AccountError::Magic { offset: 24, found: 0 }));
        init(&mut page, 7, 1000).expect("room for an account");
        for byte in [32, 40, 48, 56, 58] {
            page[byte] ^= 1;
            assert!(matches!(read(&page), Err(AccountError::Crc { offset: 24, .. })), "{byte}");
            page[byte] ^= 1;
        }
        assert_eq!(read(&page).map(|account| account.balance), Ok(1000));
    }
}
