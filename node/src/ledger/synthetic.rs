//! Pages of a made-up heap relation, for a run without a real one.
//!
//! Purpose: all kinds of page that a real relation has come up: pages with rows and room, pages
//! filled to the brim, and pages that were allocated but never written.
//! Layout of line pointers and tuple headers: PostgreSQL 15, itemid.h and htup_details.h.
//!
//! Invariants: pure; the same seed and block give the same page; every page that is not new has a
//! right checksum.

use super::account::FREE_BYTES_MIN;
use crate::random::Random;
use pagewire_protocol::{
    Lsn,
    page::{self, HEADER_BYTES},
};

/// Every so many pages one is all zero.
const NEW_EVERY: u32 = 32;
/// Every so many pages one has no room for an account.
const FULL_EVERY: u32 = 16;

const LINE_POINTER_BYTES: usize = 4;
const TUPLE_HEADER_BYTES: usize = 24;
const SMALL_ROW_BYTES: usize = 56;
const _: () = assert!(SMALL_ROW_BYTES + LINE_POINTER_BYTES <= FREE_BYTES_MIN);
/// `HEAP_XMIN_COMMITTED | HEAP_XMIN_INVALID`: frozen, visible to everyone.
const XMIN_FROZEN: u16 = 0x0300;
/// `HEAP_XMAX_INVALID`: nobody deleted it.
const XMAX_INVALID: u16 = 0x0800;

/// Fills `page` as block `block` of the made-up relation of `seed`.
pub fn fill(page: &mut [u8], block: u32, seed: u64) {
    page.fill(0);
    if block % NEW_EVERY == NEW_EVERY - 1 {
        return;
    }
    page::init(page);
    let mut random = Random::stream(seed, u64::from(block));
    let is_full = block % FULL_EVERY == FULL_EVERY / 2;
    // A page with room keeps between 64 bytes and a third of itself free.
    let keep_free = if is_full { 0 } else { FREE_BYTES_MIN + random.index(page.len() / 3) };
    let mut rows = Rows { page, lower: HEADER_BYTES, upper: 0, block };
    rows.upper = rows.page.len();
    while rows.add(64 + 8 * random.index(12), keep_free, &mut random) {}
    // Rows this small leave less than an account needs.
    while is_full && rows.add(SMALL_ROW_BYTES, keep_free, &mut random) {}
    rows.close();
    page::set_lsn(page, Lsn(0x100_0000 + u64::from(random.below(1 << 24))));
    let checksum = page::checksum(page, block);
    page::set_checksum(page, checksum);
}

struct Rows<'p> {
    page: &'p mut [u8],
    lower: usize,
    upper: usize,
    block: u32,
}

impl Rows<'_> {
    /// Adds a row of `bytes` (a multiple of 8); false when `keep_free` would not stay free.
    fn add(&mut self, bytes: usize, keep_free: usize, random: &mut Random) -> bool {
        if self.lower + LINE_POINTER_BYTES + bytes + keep_free > self.upper {
            return false;
        }
        let start = self.upper - bytes;
        let number = u16_of((self.lower - HEADER_BYTES) / LINE_POINTER_BYTES + 1);
        let row = &mut self.page[start..self.upper];
        row[..4].copy_from_slice(&2u32.to_le_bytes()); // t_xmin: the frozen transaction
        row[12..14].copy_from_slice(&u16_of_high(self.block).to_le_bytes()); // t_ctid: itself
        row[14..16].copy_from_slice(&u16_of_low(self.block).to_le_bytes());
        row[16..18].copy_from_slice(&number.to_le_bytes());
        row[18..20].copy_from_slice(&1u16.to_le_bytes()); // t_infomask2: one attribute
        row[20..22].copy_from_slice(&(XMIN_FROZEN | XMAX_INVALID).to_le_bytes());
        row[22] = 24; // t_hoff
        for chunk in row[TUPLE_HEADER_BYTES..].chunks_mut(8) {
            chunk.copy_from_slice(&random.next_u64().to_le_bytes()[..chunk.len()]);
        }
        // lp_off 15 bits, lp_flags 2 bits (1: LP_NORMAL), lp_len 15 bits.
        let pointer = u32::from(u16_of(start)) | 1 << 15 | u32::from(u16_of(bytes)) << 17;
        self.page[self.lower..self.lower + LINE_POINTER_BYTES]
            .copy_from_slice(&pointer.to_le_bytes());
        self.lower += LINE_POINTER_BYTES;
        self.upper = start;
        true
    }

    fn close(&mut self) {
        self.page[12..14].copy_from_slice(&u16_of(self.lower).to_le_bytes());
        self.page[14..16].copy_from_slice(&u16_of(self.upper).to_le_bytes());
    }
}

/// Offsets within a page of at most 32 KiB fit 16 bits.
fn u16_of(offset: usize) -> u16 {
    u16::try_from(offset).unwrap_or(u16::MAX)
}

fn u16_of_high(block: u32) -> u16 {
    u16::try_from(block >> 16).unwrap_or(0)
}

fn u16_of_low(block: u32) -> u16 {
    u16::try_from(block & 0xFFFF).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::account;

    #[test]
    fn all_kinds_of_page_come_up_and_each_is_valid() {
        for size in [4096, 8192, 32768] {
            let (mut new, mut full, mut usable) = (0, 0, 0);
            for block in 0..320 {
                let mut page = vec![0xAA; size];
                fill(&mut page, block, 42);
                page::verify_checksum(&page, block).expect("a right checksum");
                match (page::is_new(&page), account::is_usable(&page)) {
                    (true, Ok(false)) => new += 1,
                    (false, Ok(false)) => full += 1,
                    (false, Ok(true)) => usable += 1,
                    other => panic!("block {block}: {other:?}"),
                }
            }
            assert_eq!(new, 10, "pages of {size} bytes");
            assert_eq!(usable + full, 310);
            assert_eq!(full, 20);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_page() {
        let page = |seed| {
            let mut page = vec![0; 8192];
            fill(&mut page, 5, seed);
            page
        };
        assert_eq!(page(1), page(1));
        assert_ne!(page(1), page(2));
    }
}
