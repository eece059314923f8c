//! What preparing accepts and refuses, and that putting back undoes it.

use super::*;
use crate::{ledger::synthetic, random::Random};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes a file of `pages` pages, block numbers from `first_block`.
fn write_pages(path: &Path, pages: u32, first_block: u32, change: impl Fn(&mut [u8], u32)) {
    let mut bytes = Vec::new();
    for block in first_block..first_block + pages {
        let mut page = vec![0; 8192];
        synthetic::fill(&mut page, block, 3);
        change(&mut page, block);
        bytes.extend(page);
    }
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_prepared_page_has_version_checksum_and_account() {
    let storage = folder();
    let prepared = prepare_synthetic(storage.path(), PageSize::K8, 100, 7).expect("prepared");
    assert_eq!(prepared.path, storage.path().join("base/5/16384"));
    let manifest = prepared.manifest;
    let bytes = fs::read(prepared.path).expect("read");
    assert_eq!(bytes.len(), 100 * 8192);
    for (block, page) in (0..).zip(bytes.chunks(8192)) {
        let is_account = manifest.groups.iter().flatten().any(|account| *account == block);
        assert_ne!(is_account, manifest.read_only.contains(&block));
        if page::is_new(page) {
            assert!(page.iter().all(|byte| *byte == 0) && !is_account);
            continue;
        }
        assert_eq!(page::lsn(page), INITIAL_VERSION);
        assert_eq!(page::stored_checksum(page), page::checksum(page, block));
        let balance = account::read(page).ok().map(|account| account.balance);
        assert_eq!(balance, is_account.then_some(INITIAL_BALANCE), "block {block}");
    }
    assert!(manifest.account_count() > 80 && manifest.read_only.len() > 5);
}

#[test]
fn putting_back_restores_every_byte_but_the_account_and_the_checksum() {
    let folder = folder();
    let file = folder.path().join("20000.1");
    // Block 131_074 stores checksum 0, as from a cluster without checksums.
    write_pages(&file, 40, 131_072, |page, block| {
        if block == 131_074 {
            page::set_checksum(page, 0);
        }
    });
    let prepared = prepare_file(folder.path(), PageSize::K8, &file).expect("prepared");
    let (manifest, path) = (prepared.manifest, prepared.path);
    assert_eq!(path, folder.path().join("base/5/20000.1"));
    assert_eq!(manifest.first_block, 131_072);
    assert_eq!(manifest.tag(131_074).to_string(), "1663/5/20000:131074");
    let prepared = fs::read(&path).expect("read");
    let zeroed = &prepared[2 * 8192..3 * 8192];
    assert_eq!(page::stored_checksum(zeroed), page::checksum(zeroed, 131_074));

    let out = folder.path().join("out");
    finish(&path, &manifest, &out).expect("put back");
    let (before, after) = (fs::read(&file).expect("read"), fs::read(&out).expect("read"));
    for (block, (before, after)) in (131_072..).zip(before.chunks(8192).zip(after.chunks(8192))) {
        assert_eq!(page::lsn(before), page::lsn(after));
        page::verify_checksum(after, block).expect("a right checksum");
        assert_eq!(page::stored_checksum(after) == 0, page::stored_checksum(before) == 0);
        let record = account::find(before).ok();
        assert_eq!(
            account::contents_crc32c(before, record),
            account::contents_crc32c(after, record)
        );
    }
    fs::write(&path, &prepared[8192..]).expect("written");
    let error = finish(&path, &manifest, &out).expect_err("one page is missing");
    assert!(matches!(error, RelationError::ResultSize { .. }), "{error}");
}

#[test]
fn no_page_and_one_page_are_relations_too() {
    let folder = folder();
    for pages in [0, 1, 2] {
        let file = folder.path().join("table");
        write_pages(&file, pages, 0, |_, _| {});
        let prepared = prepare_file(folder.path(), PageSize::K8, &file).expect("prepared");
        assert_eq!(prepared.manifest.account_count() as u64, u64::from(pages));
        assert_eq!(prepared.manifest.relation, DEFAULT_RELATION);
        finish(&prepared.path, &prepared.manifest, &folder.path().join("out")).expect("put back");
    }
}

#[test]
fn a_size_that_is_no_multiple_of_a_page_is_refused_with_the_remainder() {
    let folder = folder();
    let file = folder.path().join("16384");
    fs::write(&file, vec![0; 8192 + 100]).expect("written");
    let error = prepare_file(folder.path(), PageSize::K8, &file).expect_err("refused").to_string();
    for part in ["16384 has 8292 bytes", "page size of 8192 bytes", "100 bytes are left over"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_damaged_page_is_refused_with_its_block() {
    let folder = folder();
    let file = folder.path().join("16384");
    let refuse = |change: &dyn Fn(&mut [u8], u32)| {
        write_pages(&file, 34, 0, change);
        prepare_file(folder.path(), PageSize::K8, &file).expect_err("refused")
    };
    let flipped = refuse(&|page, block| page[5000] ^= u8::from(block == 9));
    assert!(flipped.to_string().contains("block 9 of"), "{flipped}");
    let header = refuse(&|page, block| {
        if block == 10 {
            page[12..14].copy_from_slice(&9000u16.to_le_bytes());
            page::set_checksum(page, 0);
        }
    });
    assert!(
        matches!(header, RelationError::Page { block: 10, source: PageError::Bounds { .. }, .. }),
        "{header}"
    );
    let dirt = refuse(&|page, block| page[8000] |= u8::from(block == 31));
    assert!(matches!(dirt, RelationError::NotZero { block: 31, .. }), "{dirt}");
}

#[test]
fn names_say_relation_and_segment() {
    let name = |name: &str| parse_name(Path::new(name), PageSize::K8);
    let of = |relation, segment, first_block| Name { relation, segment, first_block };
    assert_eq!(name("/d/16402").ok(), Some(of(16402, 0, 0)));
    assert_eq!(name("/d/16402.2").ok(), Some(of(16402, 2, 262_144)));
    assert_eq!(name("/d/accounts.copy").ok(), Some(of(DEFAULT_RELATION, 0, 0)));
    assert_eq!(name("/d/relfile.1").ok(), Some(of(DEFAULT_RELATION, 1, 131_072)));
    assert_eq!(name("/d/99999999999").ok(), Some(of(DEFAULT_RELATION, 0, 0)));
    assert!(matches!(name("a.99999"), Err(RelationError::Segment { segment: 99_999, .. })));
    assert!(matches!(name("16402_vm"), Err(RelationError::Fork { suffix: "_vm", .. })));
    assert!(matches!(name("16402_fsm.1"), Err(RelationError::Fork { .. })));
}

#[test]
fn missing_files_folders_and_overlong_relations_are_refused() {
    let folder = folder();
    let missing = check_file(&folder.path().join("none"), PageSize::K8).expect_err("refused");
    assert!(missing.to_string().starts_with("cannot read"), "{missing}");
    let is_folder = check_file(folder.path(), PageSize::K8).expect_err("refused");
    assert!(matches!(is_folder, RelationError::NotAFile { .. }));
    let long = prepare_synthetic(folder.path(), PageSize::K32, 32_769, 1).expect_err("refused");
    assert!(matches!(long, RelationError::TooLong { expected_pages: 32_768, .. }), "{long}");
}

#[test]
fn random_bytes_are_never_taken_for_pages() {
    let folder = folder();
    let file = folder.path().join("16384");
    let mut random = Random::new(11);
    for _ in 0..20 {
        let bytes: Vec<u8> = (0..1024).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        fs::write(&file, bytes).expect("written");
        let error = prepare_file(folder.path(), PageSize::K8, &file).expect_err("refused");
        assert!(matches!(error, RelationError::Page { block: 0, .. }), "{error}");
    }
}
