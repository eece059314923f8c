//! Page files as tests need them.

use pagewire_protocol::{BufferTag, Fork, Lsn, page};
use std::path::{Path, PathBuf};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 8192;

/// Where [`counter`] and [`set_counter`] keep their number: in the free space of [`sound_page`].
const COUNTER_AT: usize = 64;

/// The tag of block `block` of the relation that [`relation_path`] names.
pub(crate) fn tag(block: u32) -> BufferTag {
    BufferTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main, block }
}

/// The relation's file below a storage folder.
pub(crate) fn relation_path(storage: &Path) -> PathBuf {
    storage.join("base/5/16384")
}

/// An empty page with a right checksum.
pub(crate) fn sound_page(block: u32, lsn: Lsn) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    page::init(&mut page);
    page::set_lsn(&mut page, lsn);
    put_checksum(&mut page, block);
    page
}

/// A sound page without any free space.
pub(crate) fn full_page(block: u32, lsn: Lsn) -> Vec<u8> {
    let mut page = sound_page(block, lsn);
    let upper = [page[14], page[15]];
    page[12..14].copy_from_slice(&upper);
    page[HEADER_BYTES..].fill(u8::try_from(block % 251).expect("a byte") + 1);
    put_checksum(&mut page, block);
    page
}

const HEADER_BYTES: usize = page::HEADER_BYTES;

/// Makes the checksum of `page` right.
pub(crate) fn put_checksum(page: &mut [u8], block: u32) {
    let checksum = page::checksum(page, block);
    page::set_checksum(page, checksum);
}

/// The number that a test counts on a page.
pub(crate) fn counter(page: &[u8]) -> u64 {
    let bytes = page[COUNTER_AT..COUNTER_AT + 8].try_into().expect("8 bytes");
    u64::from_le_bytes(bytes)
}

/// Sets the number that a test counts on a page.
pub(crate) fn set_counter(page: &mut [u8], value: u64) {
    page[COUNTER_AT..COUNTER_AT + 8].copy_from_slice(&value.to_le_bytes());
}

/// A storage folder with a relation of `pages` sound pages.
pub(crate) fn storage(pages: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = relation_path(folder.path());
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    let bytes: Vec<u8> = (0..pages).flat_map(|block| sound_page(block, Lsn(1))).collect();
    std::fs::write(path, bytes).expect("a page file");
    folder
}

/// Pages of a file, numbered from `first_block`.
pub(crate) fn read_pages(path: &Path, first_block: u32) -> Vec<(u32, Vec<u8>)> {
    let bytes = std::fs::read(path).expect("a page file");
    assert!(bytes.len().is_multiple_of(PAGE_BYTES), "{} bytes are no whole pages", bytes.len());
    (first_block..).zip(bytes.chunks(PAGE_BYTES).map(<[u8]>::to_vec)).collect()
}
