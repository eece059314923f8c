//! Every kind of damage must be found; a sound history must pass.

use super::*;
use crate::ledger::{
    log::{self, HEADER_BYTES, RECORD_BYTES},
    workload::tests::{Run, run},
};
use std::fs;

/// A sound run in memory, to be damaged.
struct History {
    manifest: Manifest,
    relation: Vec<u8>,
    logs: Vec<Vec<u8>>,
    transfers: u64,
}

impl History {
    fn new() -> Self {
        // One thread an instance: its log stands in version order, so that breaks count exactly.
        let Run { folder, manifest, relation, logs, transfers } = run(70, 3, 1, 1500);
        let read = |path: &PathBuf| fs::read(path).expect("a file of the run");
        let logs = logs.iter().map(read).collect();
        let relation = read(&relation);
        drop(folder);
        Self { manifest, relation, logs, transfers }
    }

    fn verify(&self) -> Verification {
        let logs = self.logs.iter().map(|log| LogReader::new(&log[..]).expect("a log")).collect();
        verify(&self.manifest, &self.relation[..], logs, Some(self.transfers)).expect("readable")
    }

    fn record(&self, log: usize, number: usize) -> Transfer {
        let from = HEADER_BYTES + number * RECORD_BYTES;
        let bytes: Vec<u8> = [&self.logs[log][..HEADER_BYTES], &self.logs[log][from..]].concat();
        LogReader::new(&bytes[..]).expect("a log").next().expect("a record").expect("undamaged")
    }

    fn set_record(&mut self, log: usize, number: usize, transfer: &Transfer) {
        let from = HEADER_BYTES + number * RECORD_BYTES;
        self.logs[log][from..from + RECORD_BYTES].copy_from_slice(&log::encode(transfer));
    }

    /// Changes the page of `block`; its checksum is made right again.
    fn change_page(&mut self, block: u32, change: impl FnOnce(&mut [u8])) {
        let index = usize::try_from(block).expect("a small block");
        let page = &mut self.relation[index * 8192..(index + 1) * 8192];
        change(page);
        let checksum = page::checksum(page, block);
        page::set_checksum(page, checksum);
    }
}

#[test]
fn a_sound_history_verifies() {
    let found = History::new().verify();
    assert!(found.verified, "{found:#?}");
    assert!(found.transfers > 3000);
    assert_eq!(found.total_after, found.total_before);
    let json = serde_json::to_string(&found).expect("JSON");
    assert_eq!(serde_json::from_str::<Verification>(&json).expect("parsed"), found);
}

#[test]
fn a_dropped_record_is_found() {
    let mut history = History::new();
    let at = HEADER_BYTES + 100 * RECORD_BYTES;
    history.logs[1].drain(at..at + RECORD_BYTES);
    let found = history.verify();
    assert!(!found.verified && found.lost_updates == 2 && found.broken_chains == 2, "{found:#?}");
    assert!(found.damaged_logs >= 2, "the sequence and the reported number: {found:#?}");
}

#[test]
fn records_dropped_from_the_end_are_found_on_storage() {
    let mut history = History::new();
    for log in &mut history.logs {
        log.truncate(log.len() - RECORD_BYTES);
    }
    history.transfers -= 3;
    let found = history.verify();
    assert!(!found.verified && found.lost_updates > 0, "{found:#?}");
}

#[test]
fn a_doubled_record_is_found() {
    let mut history = History::new();
    let at = HEADER_BYTES + 100 * RECORD_BYTES;
    let record = history.logs[1][at..at + RECORD_BYTES].to_vec();
    history.logs[1].splice(at..at, record);
    let found = history.verify();
    assert!(!found.verified && found.lost_updates == 2, "{found:#?}");
    assert!(found.problems.iter().any(|text| text.contains("is logged twice")), "{found:#?}");
}

#[test]
fn a_record_in_the_wrong_log_is_found() {
    let mut history = History::new();
    let strange = history.record(0, 7);
    history.set_record(1, 7, &strange);
    let found = history.verify();
    assert!(!found.verified && found.damaged_logs >= 2, "{found:#?}");
}

#[test]
fn a_damaged_record_is_found() {
    let mut history = History::new();
    history.logs[2][HEADER_BYTES + 33 * RECORD_BYTES + 50] ^= 4;
    let found = history.verify();
    assert!(!found.verified && found.damaged_logs >= 1 && found.lost_updates == 2, "{found:#?}");
}

#[test]
fn a_changed_balance_is_found() {
    let mut history = History::new();
    let block = history.manifest.groups[2][3];
    history.change_page(block, |page| {
        let mut account = account::read(page).expect("an account");
        account.balance += 1;
        account::write(page, &account).expect("room");
    });
    let found = history.verify();
    assert!(!found.verified && found.wrong_balances == 1 && found.bad_checksums == 0, "{found:#?}");
    assert_eq!(found.total_after, found.total_before + 1);
}

#[test]
fn money_moved_behind_the_logs_is_found_though_the_total_holds() {
    let mut history = History::new();
    for (position, change) in [(0, 5), (1, -5)] {
        let block = history.manifest.groups[0][position];
        history.change_page(block, |page| {
            let mut account = account::read(page).expect("an account");
            account.balance += change;
            account::write(page, &account).expect("room");
        });
    }
    let found = history.verify();
    assert_eq!((found.verified, found.wrong_balances), (false, 2), "{found:#?}");
    assert_eq!(found.total_after, found.total_before);
}

#[test]
fn every_flipped_bit_of_a_page_is_found() {
    let history = History::new();
    let block = history.manifest.groups[1][0];
    let start = usize::try_from(block).expect("a small block") * 8192;
    let one = |page: &[u8]| {
        let mut replay = Replay::new(&history.manifest);
        let logs = history.logs.iter().map(|log| LogReader::new(&log[..]).expect("a log"));
        replay.run(logs.collect());
        let index = usize::try_from(block).expect("a small block");
        replay.compare_page(page, index, block, &history.manifest.pages[index]);
        replay.found.bad_checksums
    };
    let mut page = history.relation[start..start + 8192].to_vec();
    assert_eq!(one(&page), 0);
    for bit in (0..8192 * 8).step_by(8 * 397 + 1) {
        page[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(one(&page), 1, "bit {bit}");
        page[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn swapped_versions_are_found() {
    let mut history = History::new();
    let mut record = history.record(0, 200);
    std::mem::swap(&mut record.from.after, &mut record.to.after);
    history.set_record(0, 200, &record);
    let found = history.verify();
    assert!(!found.verified && found.lost_updates > 0, "{found:#?}");
}

#[test]
fn a_version_behind_one_already_seen_is_found() {
    let mut history = History::new();
    let mut record = history.record(0, 0);
    record.from.after = record.from.before.max(record.to.before);
    history.set_record(0, 0, &record);
    let found = history.verify();
    assert!(!found.verified && found.wrong_versions == 1, "{found:#?}");
}

#[test]
fn a_stale_page_on_storage_is_found() {
    let mut history = History::new();
    let block = history.manifest.groups[0][0];
    let index = usize::try_from(block).expect("a small block");
    let initial = history.manifest.initial_balance;
    history.change_page(block, |page| {
        account::init(page, block, initial).expect("room");
        page::set_lsn(page, Lsn(1));
    });
    assert!(history.manifest.pages[index].kind == PageKind::Account);
    let found = history.verify();
    assert_eq!((found.verified, found.lost_updates, found.broken_chains), (false, 1, 1));
    assert_eq!(found.wrong_balances, 1, "{found:#?}");
}

#[test]
fn accounts_may_exchange_their_numbers_and_each_has_to_be_there_once() {
    let numbered = |history: &mut History, block: u32, number: u32| {
        history.change_page(block, |page| {
            let account = account::read(page).expect("an account");
            account::write(page, &Account { number, ..account }).expect("room");
        });
    };
    let mut history = History::new();
    let (one, other) = (history.manifest.groups[0][0], history.manifest.groups[0][1]);
    numbered(&mut history, one, other);
    let found = history.verify();
    assert!(!found.verified && found.wrong_balances == 1, "{found:#?}");
    assert!(found.problems[0].contains("is there twice"), "{found:#?}");
    numbered(&mut history, other, one);
    assert!(history.verify().verified);
    numbered(&mut history, one, u32::MAX);
    assert!(history.verify().problems[0].contains("is no account's"));
}

#[test]
fn two_writers_of_one_version_are_a_lost_update() {
    let mut history = History::new();
    let mut record = history.record(0, 300);
    // The forged transfer read the same pages and wrote others: its log is sound in itself.
    let log_2_records = (history.logs[2].len() - HEADER_BYTES) / RECORD_BYTES;
    record.id = TransferId { instance: InstanceId(2), sequence: log_2_records as u64 + 1 };
    history.logs[2].extend(log::encode(&record));
    history.transfers += 1;
    let found = history.verify();
    assert!(!found.verified && found.lost_updates == 2 && found.damaged_logs == 0, "{found:#?}");
}

#[test]
fn a_page_changed_outside_its_account_is_found() {
    for kind in [PageKind::ReadOnly, PageKind::New, PageKind::Account] {
        let mut history = History::new();
        let pages = (0..).zip(&history.manifest.pages);
        let mut of_kind = pages.filter(|(_, origin)| origin.kind == kind);
        let (block, _) = of_kind.next().expect("a page of each kind");
        history.change_page(block, |page| page[8191] ^= 1);
        let found = history.verify();
        assert_eq!((found.verified, found.changed_pages), (false, 1), "{kind:?} {found:#?}");
    }
}

#[test]
fn a_missing_page_or_log_cannot_be_verified() {
    let history = History::new();
    let logs = Vec::<LogReader<&[u8]>>::new();
    let short = &history.relation[..history.relation.len() - 1];
    let error = verify(&history.manifest, short, logs, None).expect_err("a page is missing");
    assert!(error.to_string().contains("block 69 of the relation file"), "{error}");
    let path = PathBuf::from("/nonexistent/log");
    let error = open_logs(&[path]).expect_err("no such log").to_string();
    assert!(error.contains("/nonexistent/log"), "{error}");
}

#[test]
fn two_logs_of_one_instance_are_found() {
    let mut history = History::new();
    let log = history.logs[0][..HEADER_BYTES].to_vec();
    history.logs.push(log);
    let found = history.verify();
    assert_eq!((found.verified, found.damaged_logs), (false, 1), "{found:#?}");
}

#[test]
fn damage_everywhere_ends_and_tells_only_the_first_problems() {
    let mut history = History::new();
    for log in &mut history.logs {
        let records = log.len() / RECORD_BYTES - 1;
        for number in (0..records).step_by(3) {
            log[HEADER_BYTES + number * RECORD_BYTES + 9] ^= 1;
        }
    }
    history.relation.fill(0xA5);
    let found = history.verify();
    assert!(!found.verified && found.lost_updates > 100);
    assert_eq!(found.problems.len(), PROBLEMS_MAX);
}

#[test]
fn a_relation_that_goes_on_behind_its_pages_is_a_problem() {
    for extra in [2, 8192] {
        let mut history = History::new();
        assert!(history.verify().verified);
        history.relation.extend(vec![0; extra]);
        let found = history.verify();
        assert!(!found.verified);
        assert!(found.problems[0].contains("goes on behind its"), "{:?}", found.problems);
    }
}
