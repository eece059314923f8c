//! The verifier: do the page file and all transfer logs tell one story?
//!
//! Purpose: replays every transfer in the order of the page versions, from the manifest's initial
//! state, and compares the outcome with the file. Shares no state with the instances.
//!
//! ```text
//!  log 0 --> head \
//!  log 1 --> head  }-- a head both of whose pages stand at its "before" versions --> apply
//!  log 2 --> head /    none such: versions do not fit; report, go on with the lowest versions
//! ```
//! Each log holds the records of a page in the order of the page's versions, so that in a sound
//! history some head always fits; memory is one record per log and one state per page.
//!
//! Invariants: pure (readers in, [`Verification`] out); whatever the files hold, it ends and counts.

use super::{
    account::{self, Account, TransferId},
    log::{LogError, LogReader, Side, Transfer},
    manifest::{Manifest, PageKind, PageOrigin},
};
use pagewire_protocol::{InstanceId, Lsn, page};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

/// Problems that are told in words; the counters count all.
pub const PROBLEMS_MAX: usize = 20;

/// Sequences that may be ahead of a missing one before it is given up.
const SEQUENCES_AHEAD_MAX: usize = 65_536;

/// What the verifier found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verification {
    /// True when nothing at all is wrong.
    pub verified: bool,
    /// Money in all accounts at the start.
    pub total_before: i64,
    /// Money in all accounts of the page file.
    pub total_after: i64,
    /// Breaks in the chains of versions: a transfer that did not read what the one before it wrote, a
    /// version used twice, a page on storage that is not the last version.
    pub lost_updates: u64,
    /// Pages whose checksum is wrong.
    pub bad_checksums: u64,
    /// Pages whose chain of versions has a break.
    pub broken_chains: u64,
    /// Balances, transfer counts and last transfers that do not come out, in logs and on pages.
    pub wrong_balances: u64,
    /// Versions that are not greater than all that their writer had seen.
    pub wrong_versions: u64,
    /// Pages changed beyond `pd_lsn`, checksum and account.
    pub changed_pages: u64,
    /// Records and sequences that are damaged, missing, doubled or in the wrong log.
    pub damaged_logs: u64,
    /// Transfers in the logs.
    pub transfers: u64,
    /// The first [`PROBLEMS_MAX`] problems in words.
    pub problems: Vec<String>,
}

/// Why the files cannot be verified at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A log cannot be opened.
    #[error("{}: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What is wrong.
        source: LogError,
    },
    /// The page file cannot be read.
    #[error("cannot read relation file {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The page file ends early.
    #[error(
        "cannot read block {block} of the relation file: {source}; the manifest lists \
         {expected_pages} pages: give the relation file of the same run"
    )]
    Read {
        /// Block number from the relation's start.
        block: u32,
        /// Pages that the manifest lists.
        expected_pages: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens the logs at `paths`.
///
/// # Errors
/// [`VerifyError::Log`] with the path of the one that is no log.
pub fn open_logs(paths: &[PathBuf]) -> Result<Vec<LogReader<BufReader<File>>>, VerifyError> {
    let open = |path: &PathBuf| {
        LogReader::open(path).map_err(|source| VerifyError::Log { path: path.clone(), source })
    };
    paths.iter().map(open).collect()
}

/// Verifies the files of a finished run, as [`verify`].
///
/// # Errors
/// [`VerifyError`] when a file cannot be read.
pub fn verify_files(
    manifest: &Manifest,
    relation: &Path,
    logs: &[PathBuf],
    reported: Option<u64>,
) -> Result<Verification, VerifyError> {
    let file = File::open(relation)
        .map_err(|source| VerifyError::Open { path: relation.to_owned(), source })?;
    verify(manifest, BufReader::with_capacity(1 << 18, file), open_logs(logs)?, reported)
}

/// Replays `logs` from the initial state of `manifest` and compares with the page file `relation`;
/// `reported` is the number of transfers that the instances say they made.
///
/// # Errors
/// [`VerifyError::Read`] when the page file cannot be read or has too few pages. Everything else
/// that is wrong is in the [`Verification`].
pub fn verify<R: Read, L: Read>(
    manifest: &Manifest,
    relation: R,
    logs: Vec<LogReader<L>>,
    reported: Option<u64>,
) -> Result<Verification, VerifyError> {
    let mut replay = Replay::new(manifest);
    replay.run(logs);
    replay.compare(relation)?;
    let found = replay.found.transfers;
    if let Some(reported) = reported.filter(|reported| *reported != found) {
        replay.found.damaged_logs += 1;
        replay.problem(|| {
            format!("the instances reported {reported} transfers, the logs hold {found}")
        });
    }
    Ok(replay.finish())
}

/// What the replay knows of one page.
#[derive(Debug, Clone, Copy)]
struct PageState {
    version: Lsn,
    account: Account,
    is_broken: bool,
}

/// Which sequences of one instance have come up.
#[derive(Debug, Default)]
struct Sequences {
    /// All up to here have.
    whole: u64,
    /// These have, too.
    ahead: BTreeSet<u64>,
}

struct Head<L> {
    log: LogReader<L>,
    next: Option<Transfer>,
    sequences: Sequences,
}

struct Replay<'m> {
    manifest: &'m Manifest,
    states: Vec<PageState>,
    /// Of the accounts on storage.
    numbers: Vec<u32>,
    found: Verification,
}

impl<'m> Replay<'m> {
    fn new(manifest: &'m Manifest) -> Self {
        let account = Account { balance: manifest.initial_balance, ..Account::default() };
        let version = Lsn(manifest.initial_version);
        let state = PageState { version, account, is_broken: false };
        let found = Verification { total_before: manifest.total(), ..Verification::default() };
        let (states, numbers) = (vec![state; manifest.pages.len()], Vec::new());
        Self { manifest, states, numbers, found }
    }

    fn problem(&mut self, text: impl FnOnce() -> String) {
        if self.found.problems.len() < PROBLEMS_MAX {
            self.found.problems.push(text());
        }
    }

    fn run<L: Read>(&mut self, logs: Vec<LogReader<L>>) {
        let mut instances = BTreeSet::new();
        let mut heads = Vec::new();
        for log in logs {
            let instance = log.header().instance;
            if !instances.insert(instance) {
                self.found.damaged_logs += 1;
                self.problem(|| format!("instance {instance} has two logs, expected one"));
            }
            let mut head = Head { log, next: None, sequences: Sequences::default() };
            self.advance(&mut head);
            heads.push(head);
        }
        loop {
            let mut has_moved = false;
            for head in &mut heads {
                while let Some(transfer) = head.next.filter(|transfer| self.fits(transfer)) {
                    self.apply(&transfer);
                    self.advance(head);
                    has_moved = true;
                }
            }
            if has_moved {
                continue;
            }
            // Nothing fits: a break. The lowest versions come first in any order that respects them.
            let lowest = heads.iter_mut().filter_map(|head| Some((order(&head.next?), head)));
            let Some((_, head)) = lowest.min_by_key(|(order, _)| *order) else { break };
            if let Some(transfer) = head.next {
                self.apply(&transfer);
            }
            self.advance(head);
        }
        for head in &mut heads {
            self.close(head.log.header().instance, &mut head.sequences);
        }
    }

    /// Reads the next good record of `head`'s log.
    fn advance<L: Read>(&mut self, head: &mut Head<L>) {
        let instance = head.log.header().instance;
        head.next = loop {
            match head.log.next() {
                None => break None,
                Some(Err(error)) => {
                    self.found.damaged_logs += 1;
                    self.problem(|| format!("log of instance {instance}: {error}"));
                }
                Some(Ok(transfer)) => {
                    self.found.transfers += 1;
                    self.check_name(instance, transfer.id, &mut head.sequences);
                    break Some(transfer);
                }
            }
        };
    }

    fn check_name(&mut self, instance: InstanceId, id: TransferId, sequences: &mut Sequences) {
        if id.instance != instance {
            self.found.damaged_logs += 1;
            self.problem(|| format!("log of instance {instance} holds {}", name(id)));
            return;
        }
        if id.sequence <= sequences.whole || !sequences.ahead.insert(id.sequence) {
            self.found.damaged_logs += 1;
            self.problem(|| format!("{} is logged twice", name(id)));
        }
        while sequences.ahead.remove(&(sequences.whole + 1)) {
            sequences.whole += 1;
        }
        if sequences.ahead.len() > SEQUENCES_AHEAD_MAX {
            self.skip_gap(instance, sequences);
        }
    }

    /// Gives up the sequences between the last whole one and the next one known.
    fn skip_gap(&mut self, instance: InstanceId, sequences: &mut Sequences) {
        let Some(next) = sequences.ahead.pop_first() else { return };
        let (first, last) = (sequences.whole + 1, next - 1);
        self.found.damaged_logs += 1;
        self.problem(|| format!("log of instance {instance} lacks transfers {first} to {last}"));
        sequences.whole = next;
        while sequences.ahead.remove(&(sequences.whole + 1)) {
            sequences.whole += 1;
        }
    }

    fn close(&mut self, instance: InstanceId, sequences: &mut Sequences) {
        while !sequences.ahead.is_empty() {
            self.skip_gap(instance, sequences);
        }
    }

    /// The state of an account page.
    fn index_of_account(&self, block: u32) -> Option<usize> {
        let index = self.manifest.index_of(block)?;
        (self.manifest.pages[index].kind == PageKind::Account).then_some(index)
    }

    fn fits(&self, transfer: &Transfer) -> bool {
        let fits = |side: &Side| {
            self.index_of_account(side.block)
                .is_some_and(|index| self.states[index].version == side.before)
        };
        fits(&transfer.from) && fits(&transfer.to)
    }

    fn apply(&mut self, transfer: &Transfer) {
        let (from, to) = (&transfer.from, &transfer.to);
        if from.block == to.block {
            self.found.wrong_balances += 1;
            self.problem(|| {
                format!("{} moves money from block {} to itself", name(transfer.id), from.block)
            });
        }
        let seen = from.before.max(to.before);
        if from.after <= seen || to.after <= seen {
            self.found.wrong_versions += 1;
            self.problem(|| {
                format!(
                    "{} saw version {} and wrote versions {} and {}, expected greater ones",
                    name(transfer.id),
                    seen.0,
                    from.after.0,
                    to.after.0
                )
            });
        }
        self.apply_side(transfer.id, from, transfer.amount.wrapping_neg());
        self.apply_side(transfer.id, to, transfer.amount);
    }

    fn apply_side(&mut self, id: TransferId, side: &Side, delta: i64) {
        let block = side.block;
        let Some(index) = self.index_of_account(block) else {
            self.found.wrong_balances += 1;
            self.problem(|| format!("{} names block {block}, which has no account", name(id)));
            return;
        };
        let state = self.states[index];
        if state.version != side.before {
            self.break_chain(index);
            self.problem(|| {
                format!(
                    "block {block}: {} read version {} where version {} was the last: \
                     an update was lost",
                    name(id),
                    side.before.0,
                    state.version.0
                )
            });
        }
        let expected = state.account.balance.wrapping_add(delta);
        if expected != side.balance {
            self.found.wrong_balances += 1;
            self.problem(|| {
                format!(
                    "block {block}: {} left balance {}, expected {expected}",
                    name(id),
                    side.balance
                )
            });
        }
        let state = &mut self.states[index];
        state.account.transfers += 1;
        // After a break the greater version is the one that the next transfer read.
        if side.after > state.version {
            state.version = side.after;
            state.account.balance = side.balance;
            state.account.last = id;
        }
    }

    fn break_chain(&mut self, index: usize) {
        self.found.lost_updates += 1;
        if !std::mem::replace(&mut self.states[index].is_broken, true) {
            self.found.broken_chains += 1;
        }
    }

    fn compare<R: Read>(&mut self, mut relation: R) -> Result<(), VerifyError> {
        let manifest = self.manifest;
        let mut page = vec![0; manifest.page_size().bytes()];
        let mut total = 0i128;
        for (index, origin) in manifest.pages.iter().enumerate() {
            let offset = u32::try_from(index).unwrap_or(u32::MAX);
            let block = manifest.first_block.saturating_add(offset);
            relation.read_exact(&mut page).map_err(|source| VerifyError::Read {
                block,
                expected_pages: manifest.page_count,
                source,
            })?;
            total += self.compare_page(&page, index, block, origin);
        }
        let behind = relation.take(1).read(&mut page).map_err(|source| VerifyError::Read {
            block: manifest.first_block.saturating_add(manifest.page_count),
            expected_pages: manifest.page_count,
            source,
        })?;
        if behind > 0 {
            let pages = manifest.page_count;
            self.problem(|| {
                format!("the relation goes on behind its {pages} pages, expected its end there")
            });
        }
        self.check_numbers();
        let bounded = total.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        self.found.total_after = i64::try_from(bounded).unwrap_or(i64::MAX);
        if total != i128::from(self.found.total_before) {
            let before = self.found.total_before;
            self.problem(|| format!("the accounts hold {total}, expected {before}"));
        }
        Ok(())
    }

    /// Accounts exchange their numbers: none is lost, none is there twice.
    fn check_numbers(&mut self) {
        let blocks = (self.manifest.first_block..).zip(&self.manifest.pages);
        let expected = blocks.filter(|(_, page)| page.kind == PageKind::Account);
        let expected: BTreeSet<u32> = expected.map(|(block, _)| block).collect();
        let mut missing = expected.clone();
        for number in std::mem::take(&mut self.numbers) {
            if !missing.remove(&number) {
                self.found.wrong_balances += 1;
                let is_known = expected.contains(&number);
                let problem = if is_known { "is there twice" } else { "is no account's" };
                self.problem(|| format!("account number {number} {problem}"));
            }
        }
    }

    /// Compares one page with its replayed state; returns the balance it holds.
    fn compare_page(&mut self, page: &[u8], index: usize, block: u32, was: &PageOrigin) -> i128 {
        if was.kind == PageKind::New {
            if page.iter().any(|byte| *byte != 0) {
                self.found.changed_pages += 1;
                self.problem(|| format!("block {block} was all zero and is not any more"));
            }
            return 0;
        }
        let (found, computed) = (page::stored_checksum(page), page::checksum(page, block));
        if found != computed {
            self.found.bad_checksums += 1;
            self.problem(|| format!("block {block} carries checksum {found}, computed {computed}"));
        }
        let record = account::find(page).ok().filter(|_| was.kind == PageKind::Account);
        if account::contents_crc32c(page, record) != was.contents_crc32c {
            self.found.changed_pages += 1;
            self.problem(|| format!("block {block} was changed outside its account"));
        }
        let (version, expected) = (page::lsn(page), self.states[index].version);
        if version != expected {
            self.break_chain(index);
            self.problem(|| {
                format!(
                    "block {block} is on storage in version {}, its last is {}",
                    version.0, expected.0
                )
            });
        }
        if was.kind == PageKind::Account { self.compare_account(page, index, block) } else { 0 }
    }

    fn compare_account(&mut self, page: &[u8], index: usize, block: u32) -> i128 {
        let expected = self.states[index].account;
        match account::read(page) {
            Ok(found) => {
                // The log says nothing of numbers; each has to be there once.
                let expected = Account { number: found.number, ..expected };
                self.numbers.push(found.number);
                if found != expected {
                    self.found.wrong_balances += 1;
                    self.problem(|| {
                        format!("block {block} holds {}, expected {}", tell(found), tell(expected))
                    });
                }
                i128::from(found.balance)
            }
            Err(error) => {
                self.found.wrong_balances += 1;
                self.problem(|| format!("block {block}: {error}"));
                0
            }
        }
    }

    fn finish(self) -> Verification {
        let mut found = self.found;
        let wrong = [
            found.lost_updates,
            found.bad_checksums,
            found.broken_chains,
            found.wrong_balances,
            found.wrong_versions,
            found.changed_pages,
            found.damaged_logs,
        ];
        found.verified = wrong.iter().all(|count| *count == 0)
            && found.problems.is_empty()
            && found.total_before == found.total_after;
        found
    }
}

/// Where a transfer stands among those that do not fit.
fn order(transfer: &Transfer) -> (Lsn, TransferId) {
    (transfer.from.after.min(transfer.to.after), transfer.id)
}

fn name(id: TransferId) -> String {
    format!("transfer {} of instance {}", id.sequence, id.instance)
}

fn tell(account: Account) -> String {
    let Account { balance, transfers, last, .. } = account;
    format!("balance {balance} after {transfers} transfers, the last {}", name(last))
}

#[cfg(test)]
mod tests;
