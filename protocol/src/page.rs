//! The PostgreSQL page: header fields, free space, and the data checksum.
//!
//! ```text
//!  0        8          10       12        14        16         18           20             24
//!  +--------+----------+--------+---------+---------+----------+------------+--------------+---
//!  | pd_lsn | checksum | flags  | lower   | upper   | special  | size|vers. | prune_xid    | items
//!  +--------+----------+--------+---------+---------+----------+------------+--------------+---
//! ```
//! Source: PostgreSQL 15, bufpage.h (`PageHeaderData`) and checksum_impl.h.

use crate::{Lsn, tag::blocks_per_segment};
use std::fmt;

/// Bytes of the page header before the item pointers.
pub const HEADER_BYTES: usize = 24;

/// Layout version that PostgreSQL 8.3 and later write.
pub const LAYOUT_VERSION: u8 = 4;

/// Bytes of one page; fixed for a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// 8 KiB, PostgreSQL's default.
    #[default]
    K8,
    /// 16 KiB.
    K16,
    /// 32 KiB.
    K32,
}

impl PageSize {
    /// Bytes of one page.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::K4 => 4096,
            Self::K8 => 8192,
            Self::K16 => 16384,
            Self::K32 => 32768,
        }
    }

    /// Bytes of one page.
    #[must_use]
    pub const fn bytes_u32(self) -> u32 {
        match self {
            Self::K4 => 4096,
            Self::K8 => 8192,
            Self::K16 => 16384,
            Self::K32 => 32768,
        }
    }

    /// The page size of `bytes` bytes, if it is one of the four.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            4096 => Some(Self::K4),
            8192 => Some(Self::K8),
            16384 => Some(Self::K16),
            32768 => Some(Self::K32),
            _ => None,
        }
    }

    /// First block of segment file number `segment`, counted from the relation's start.
    #[must_use]
    pub fn first_block_of_segment(self, segment: u32) -> Option<u32> {
        segment.checked_mul(blocks_per_segment(self))
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes())
    }
}

/// Why bytes are not a PostgreSQL page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The slice is no page.
    #[error("a page has {found} bytes, expected 4096, 8192, 16384 or 32768")]
    Length {
        /// Bytes that were there.
        found: usize,
    },
    /// The header states another size or layout version.
    #[error(
        "the page header states {size} bytes, layout {version}; expected {expected} bytes, layout 4"
    )]
    SizeOrVersion {
        /// Size the header states, in bytes.
        size: u16,
        /// Layout version the header states.
        version: u8,
        /// Size of the cluster's pages, in bytes.
        expected: usize,
    },
    /// The free space pointers contradict each other.
    #[error(
        "the page header has lower {lower}, upper {upper}, special {special}; \
         expected 24 <= lower <= upper <= special <= {size}"
    )]
    Bounds {
        /// `pd_lower`.
        lower: u16,
        /// `pd_upper`.
        upper: u16,
        /// `pd_special`.
        special: u16,
        /// Bytes of the page.
        size: usize,
    },
    /// The stored checksum is not the page's.
    #[error("block {block} carries checksum {found}, computed {computed}: the page is damaged")]
    Checksum {
        /// Block number the checksum was computed for.
        block: u32,
        /// The stored checksum.
        found: u16,
        /// The computed checksum.
        computed: u16,
    },
}

fn u16_at(page: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([page[offset], page[offset + 1]])
}

/// `pd_lsn`: under Pagewire the page's version.
///
/// # Panics
/// If `page` is shorter than 8 bytes.
#[must_use]
pub fn lsn(page: &[u8]) -> Lsn {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[..8]);
    Lsn::from_page_bytes(bytes)
}

/// Greatest version that a page can have: a cluster's clock goes on from the greatest that it has seen,
/// and at a thousand million changes a second takes 292 years to get here.
pub const VERSION_MAX: Lsn = Lsn(1 << 63);

/// Sets `pd_lsn`.
///
/// # Panics
/// If `page` is shorter than 8 bytes.
pub fn set_lsn(page: &mut [u8], lsn: Lsn) {
    page[..8].copy_from_slice(&lsn.to_page_bytes());
}

/// `pd_checksum`.
///
/// # Panics
/// If `page` is shorter than 10 bytes.
#[must_use]
pub fn stored_checksum(page: &[u8]) -> u16 {
    u16_at(page, 8)
}

/// Sets `pd_checksum`.
///
/// # Panics
/// If `page` is shorter than 10 bytes.
pub fn set_checksum(page: &mut [u8], checksum: u16) {
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
}

/// True for a page that was allocated but never initialised (PostgreSQL `PageIsNew`: `pd_upper`
/// is 0). Such a page has no checksum.
///
/// # Panics
/// If `page` is shorter than a page header.
#[must_use]
pub fn is_new(page: &[u8]) -> bool {
    u16_at(page, 14) == 0
}

/// Start and end of the free space between `pd_lower` and `pd_upper`, in bytes from the page's
/// start.
///
/// # Errors
/// [`PageError`] when the slice is no page or its header contradicts itself; the free space of a
/// page that [`is_new`] is empty.
pub fn free_space(page: &[u8]) -> Result<std::ops::Range<usize>, PageError> {
    let size = page.len();
    if PageSize::from_bytes(size as u64).is_none() {
        return Err(PageError::Length { found: size });
    }
    if is_new(page) {
        return Ok(0..0);
    }
    let (lower, upper, special) = (u16_at(page, 12), u16_at(page, 14), u16_at(page, 16));
    let size_and_version = u16_at(page, 18);
    let (stated, version) = (size_and_version & 0xFF00, (size_and_version & 0xFF) as u8);
    if usize::from(stated) != size || version != LAYOUT_VERSION {
        return Err(PageError::SizeOrVersion { size: stated, version, expected: size });
    }
    let ordered = HEADER_BYTES <= usize::from(lower)
        && lower <= upper
        && upper <= special
        && usize::from(special) <= size;
    if !ordered {
        return Err(PageError::Bounds { lower, upper, special, size });
    }
    Ok(usize::from(lower)..usize::from(upper))
}

/// Makes `page` an empty heap page: header only, all the rest free space.
///
/// # Panics
/// If `page` is no page size.
pub fn init(page: &mut [u8]) {
    let size = PageSize::from_bytes(page.len() as u64).expect("a page size");
    page.fill(0);
    let bytes = u16::try_from(size.bytes()).expect("32 KiB fits 16 bits");
    page[12..14].copy_from_slice(&24u16.to_le_bytes());
    page[14..16].copy_from_slice(&bytes.to_le_bytes());
    page[16..18].copy_from_slice(&bytes.to_le_bytes());
    page[18..20].copy_from_slice(&(bytes | u16::from(LAYOUT_VERSION)).to_le_bytes());
}

/// Lanes of the checksum: the page is read as rows of 32 words.
const SUMS: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// Start values of the lanes (PostgreSQL checksum_impl.h, `checksumBaseOffsets`).
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

fn round(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17)
}

fn add_row(sums: &mut [u32; SUMS], row: &[u8]) {
    for (sum, word) in sums.iter_mut().zip(row.chunks_exact(4)) {
        *sum = round(*sum, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    }
}

/// The data checksum of `page` as block `block` of its relation, the stored checksum left out
/// (PostgreSQL `pg_checksum_page`). Never 0: a stored 0 means that checksums are off.
///
/// # Panics
/// If `page` is no page size.
#[must_use]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    assert!(PageSize::from_bytes(page.len() as u64).is_some(), "{} is no page size", page.len());
    let mut sums = BASE_OFFSETS;
    let mut rows = page.chunks_exact(SUMS * 4);
    if let Some(first) = rows.next() {
        let mut row = [0; SUMS * 4];
        row.copy_from_slice(first);
        set_checksum(&mut row, 0);
        add_row(&mut sums, &row);
    }
    for row in rows {
        add_row(&mut sums, row);
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = round(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

/// Checks the stored checksum of a page that came from storage. A page that [`is_new`], or that
/// stores 0 (a cluster without checksums), passes.
///
/// # Errors
/// [`PageError::Checksum`] when it does not match.
pub fn verify_checksum(page: &[u8], block: u32) -> Result<(), PageError> {
    let found = stored_checksum(page);
    if is_new(page) || found == 0 {
        return Ok(());
    }
    let computed = checksum(page, block);
    if found == computed { Ok(()) } else { Err(PageError::Checksum { block, found, computed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_is_all_free_space() {
        let mut page = vec![1; 8192];
        init(&mut page);
        assert_eq!(free_space(&page), Ok(24..8192));
        assert!(!is_new(&page));
        assert_eq!(lsn(&page), Lsn::ZERO);
    }

    #[test]
    fn a_zero_page_is_new_and_has_no_free_space() {
        let page = vec![0; 8192];
        assert!(is_new(&page));
        assert_eq!(free_space(&page), Ok(0..0));
        assert_eq!(verify_checksum(&page, 7), Ok(()));
    }

    #[test]
    fn a_contradicting_header_is_refused() {
        let mut page = vec![0; 8192];
        init(&mut page);
        page[12..14].copy_from_slice(&9000u16.to_le_bytes());
        assert!(matches!(free_space(&page), Err(PageError::Bounds { lower: 9000, .. })));
        init(&mut page);
        assert!(matches!(free_space(&page[..4096]), Err(PageError::SizeOrVersion { .. })));
        assert!(matches!(free_space(&page[..100]), Err(PageError::Length { found: 100 })));
    }

    #[test]
    fn every_bit_and_the_block_number_change_the_checksum() {
        let mut page = vec![0; 8192];
        init(&mut page);
        let clean = checksum(&page, 3);
        assert_ne!(clean, checksum(&page, 4));
        for bit in [0, 100, 8 * 12, 8 * 8191 + 7] {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(clean, checksum(&page, 3), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        set_checksum(&mut page, 0xABCD);
        assert_eq!(clean, checksum(&page, 3), "the stored checksum is left out");
        assert!(verify_checksum(&page, 3).is_err());
        set_checksum(&mut page, clean);
        assert_eq!(verify_checksum(&page, 3), Ok(()));
    }

    #[test]
    fn segments_count_blocks_from_the_relations_start() {
        assert_eq!(PageSize::K8.first_block_of_segment(1), Some(131_072));
        assert_eq!(PageSize::K32.first_block_of_segment(2), Some(65_536));
        assert_eq!(PageSize::K4.first_block_of_segment(40_000), None);
    }
}
