//! The ledger's workers: transfers, audits and reads through page guards.
//!
//! ```text
//!  80 %  transfer: X on two pages of a group, move money, give both their next version, log it
//!  15 %  audit:    S on every page of a group, the sum must be what it started with
//!   5 %  read:     S on one read-only page, its checksum must be right
//! ```
//! Invariants: guards of one action are taken in tag order; a transfer is in the log before its
//! guards drop; a page without an account is never written. Now and then the two accounts of a
//! transfer exchange their numbers: every worker caches which page has the account of which number,
//! and has nothing but invalidations to know when that is stale. An audit that finds the account of a
//! number on another page than its map says counts it: there must be none. A worker belongs to one
//! thread; what the workers of an instance share is in [`Ledger`].

use super::{
    account::{self, Account, AccountError, TransferId},
    log::{LogError, LogHeader, LogWriter, Side, Transfer},
    manifest::Manifest,
};
use crate::random::Random;
use pagewire_protocol::{
    BufferTag, InstanceId, Lsn,
    page::{self, PageError},
};
use pagewire_transport::arena::LeaseExpired;
use std::{
    collections::BTreeMap,
    fmt::Display,
    ops::Deref,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The pages of the cluster, as one thread sees them.
pub trait Pages {
    /// A page held shared; dropping it releases it.
    type Read<'a>: Deref<Target = [u8]>
    where
        Self: 'a;
    /// A page held exclusively; dropping it releases it.
    type Write<'a>: PageWrite
    where
        Self: 'a;
    /// Why a page could not be had.
    type Error: Display;

    /// Holds `tag` shared: nobody in the cluster changes it meanwhile.
    ///
    /// # Errors
    /// When the page cannot be had before the runtime's deadline.
    fn read(&self, tag: BufferTag) -> Result<Self::Read<'_>, Self::Error>;

    /// Holds `tag` exclusively: nobody else in the cluster reads or changes it meanwhile.
    ///
    /// # Errors
    /// As [`Pages::read`].
    fn write(&self, tag: BufferTag) -> Result<Self::Write<'_>, Self::Error>;

    /// Whether [`PageWrite::publish_moved`] reaches everyone.
    fn can_publish(&self) -> bool {
        false
    }

    /// Tells what was published since this thread asked last: the number of an account that is on another
    /// page now, or `None` for all of them.
    fn moved(&self, forget: &mut dyn FnMut(Option<u32>)) {
        let _ = forget;
    }
}

/// A page held exclusively.
pub trait PageWrite: Deref<Target = [u8]> {
    /// Runs `change` on the page, gives the page its next cluster-wide version in `pd_lsn`, marks it
    /// dirty, and returns the new version: greater than every version this instance has seen.
    ///
    /// # Errors
    /// [`LeaseExpired`]: nothing was changed that counts.
    fn update(&mut self, change: &mut dyn FnMut(&mut [u8])) -> Result<Lsn, LeaseExpired>;

    /// Publishes that the accounts of `numbers`, of which this page has had one, are on other pages now:
    /// whoever gets this page afterwards can know.
    ///
    /// # Errors
    /// When it cannot be published, in words.
    fn publish_moved(&mut self, numbers: &[u32]) -> Result<(), String> {
        Err(format!("nobody would hear that the accounts {numbers:?} have moved"))
    }
}

/// Of a hundred actions so many are transfers.
pub const TRANSFER_PERCENT: u32 = 80;
/// Of a hundred actions so many are audits; the rest are reads.
pub const AUDIT_PERCENT: u32 = 15;

/// In one of so many transfers of an instance the accounts exchange their numbers.
pub const TRANSFERS_PER_MOVE: u64 = 16;

/// Greatest amount of one transfer.
const AMOUNT_MAX: u32 = 100;
/// How long a worker without anything to do waits before it looks at the stop flag again.
const IDLE_WAIT: Duration = Duration::from_millis(5);

/// Why a worker ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A page could not be had.
    #[error("cannot hold page {tag} {mode}: {reason}")]
    Pages {
        /// The page.
        tag: BufferTag,
        /// `shared` or `exclusively`.
        mode: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// An account page has no readable account.
    #[error("page {tag}: {source}")]
    Account {
        /// The page.
        tag: BufferTag,
        /// What is wrong.
        source: AccountError,
    },
    /// A read-only page is damaged.
    #[error("read-only page {tag}: {source}")]
    ReadOnly {
        /// The page.
        tag: BufferTag,
        /// What is wrong.
        source: PageError,
    },
    /// The log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What the workers of one instance did so far; readable while they run.
#[derive(Debug, Default)]
pub struct Counts {
    /// Finished transfers.
    pub transfers: AtomicU64,
    /// Finished audits.
    pub audits: AtomicU64,
    /// Audits whose sum was wrong.
    pub audit_failures: AtomicU64,
    /// Reads of read-only pages.
    pub reads: AtomicU64,
    /// Invalidations that were published.
    pub invalidations: AtomicU64,
    /// Entries of a map that were stale when they were used.
    pub stale_uses: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a worker has cached: by an account's number, the block that has it.
type AccountMap = BTreeMap<u32, u32>;

/// What the workers of one instance share.
#[derive(Debug)]
pub struct Ledger {
    manifest: Manifest,
    instance: InstanceId,
    log: Mutex<LogWriter>,
    last_sequence: AtomicU64,
    is_skewed: bool,
    counts: Counts,
}

impl Ledger {
    /// The ledger of `manifest` at one instance, whose log starts at `log_path`. With `is_skewed` the
    /// first groups are used more often than the last.
    ///
    /// # Errors
    /// [`LogError::Io`] when the log cannot be created.
    pub fn create(
        manifest: Manifest,
        log_path: &Path,
        header: LogHeader,
        is_skewed: bool,
    ) -> Result<Self, LogError> {
        Ok(Self {
            manifest,
            instance: header.instance,
            log: Mutex::new(LogWriter::create(log_path, header)?),
            last_sequence: AtomicU64::new(0),
            is_skewed,
            counts: Counts::default(),
        })
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Brings the log to stable storage, once the workers have ended.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn finish_log(&self) -> Result<(), LogError> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).finish()
    }

    /// Works on `pages` until `stop` is set.
    ///
    /// # Errors
    /// [`WorkerError`] of the first action that failed. A wrong sum is counted, not an error.
    pub fn work<P: Pages>(
        &self,
        pages: &P,
        random: &mut Random,
        stop: &AtomicBool,
    ) -> Result<(), WorkerError> {
        let mut map = AccountMap::new();
        while !stop.load(Ordering::Relaxed) {
            match self.choose(random) {
                Some(Action::Transfer { from, to, amount }) => {
                    self.transfer(pages, from, to, amount)?;
                }
                Some(Action::Audit(group)) => self.audit(pages, group, &mut map)?,
                Some(Action::Read(block)) => self.read(pages, block)?,
                None => std::thread::park_timeout(IDLE_WAIT),
            }
        }
        Ok(())
    }

    /// The next action; where the relation does not allow it, the next best; none on an empty one.
    fn choose(&self, random: &mut Random) -> Option<Action<'_>> {
        let (groups, read_only) = (&self.manifest.groups, &self.manifest.read_only);
        let ticket = random.below(100);
        let wants_read = ticket >= TRANSFER_PERCENT + AUDIT_PERCENT;
        if groups.is_empty() || (wants_read && !read_only.is_empty()) {
            return read_only.get(random.index(read_only.len())).map(|block| Action::Read(*block));
        }
        let mut group = random.index(groups.len());
        if self.is_skewed {
            group = group.min(random.index(groups.len()));
        }
        let group = &groups[group];
        if ticket >= TRANSFER_PERCENT || group.len() < 2 {
            return Some(Action::Audit(group));
        }
        let from = random.index(group.len());
        let to = (from + 1 + random.index(group.len() - 1)) % group.len();
        let amount = i64::from(1 + random.below(AMOUNT_MAX));
        Some(Action::Transfer { from: group[from], to: group[to], amount })
    }

    fn transfer<P: Pages>(
        &self,
        pages: &P,
        from: u32,
        to: u32,
        amount: i64,
    ) -> Result<(), WorkerError> {
        let mut low = self.hold_for_write(pages, from.min(to))?;
        let mut high = self.hold_for_write(pages, from.max(to))?;
        let (from_page, to_page) =
            if from < to { (&mut low, &mut high) } else { (&mut high, &mut low) };
        let from_before = self.account(from_page, from)?;
        let to_before = self.account(to_page, to)?;
        // Only now, so that a sequence is never lost to a page that could not be had.
        let sequence = self.last_sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let id = TransferId { instance: self.instance, sequence };
        let moves = pages.can_publish() && sequence.is_multiple_of(TRANSFERS_PER_MOVE);
        let mut numbers = [from_before.number, to_before.number];
        if moves {
            numbers.reverse();
        }
        let from_before = Account { number: numbers[0], ..from_before };
        let to_before = Account { number: numbers[1], ..to_before };
        let transfer = Transfer {
            id,
            amount,
            from: self.post(from_page, from, from_before, -amount, id)?,
            to: self.post(to_page, to, to_before, amount, id)?,
        };
        if moves {
            // Under both: whoever gets one of the pages has to know.
            let published = from_page.publish_moved(&numbers);
            let published = published.and_then(|()| to_page.publish_moved(&numbers));
            published.map_err(|error| refused(self.manifest.tag(from), "for a move", &error))?;
            let messages = 2 * numbers.len() as u64;
            self.counts.invalidations.fetch_add(messages, Ordering::Relaxed);
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).append(&transfer)?;
        drop((low, high));
        Counts::add(&self.counts.transfers);
        Ok(())
    }

    /// Adds `delta` to the account that `page` holds.
    fn post(
        &self,
        page: &mut impl PageWrite,
        block: u32,
        account: Account,
        delta: i64,
        last: TransferId,
    ) -> Result<Side, WorkerError> {
        let before = page::lsn(page);
        let balance = account.balance.wrapping_add(delta);
        let account = Account { balance, transfers: account.transfers + 1, last, ..account };
        let mut written = Ok(());
        let tag = self.manifest.tag(block);
        let after = page.update(&mut |page| written = account::write(page, &account));
        let after = after.map_err(|error| refused(tag, "exclusively", &error))?;
        written.map_err(|source| WorkerError::Account { tag, source })?;
        Ok(Side { block, before, after, balance })
    }

    fn audit<P: Pages>(
        &self,
        pages: &P,
        group: &[u32],
        map: &mut AccountMap,
    ) -> Result<(), WorkerError> {
        let mut guards = Vec::with_capacity(group.len());
        for block in group {
            guards.push(self.hold_for_read(pages, *block)?);
        }
        // Once the pages are held: not before.
        pages.moved(&mut |number| match number {
            Some(number) => drop(map.remove(&number)),
            None => map.clear(),
        });
        let (mut sum, mut expected) = (0, 0);
        for (page, block) in guards.iter().zip(group) {
            let account = self.account(page, *block)?;
            if map.insert(account.number, *block).is_some_and(|mapped| mapped != *block) {
                Counts::add(&self.counts.stale_uses);
            }
            sum += i128::from(account.balance);
            expected += i128::from(self.manifest.initial_balance);
        }
        if sum != expected {
            Counts::add(&self.counts.audit_failures);
        }
        Counts::add(&self.counts.audits);
        Ok(())
    }

    fn read<P: Pages>(&self, pages: &P, block: u32) -> Result<(), WorkerError> {
        let page = self.hold_for_read(pages, block)?;
        let tag = self.manifest.tag(block);
        page::verify_checksum(&page, block)
            .map_err(|source| WorkerError::ReadOnly { tag, source })?;
        Counts::add(&self.counts.reads);
        Ok(())
    }

    fn hold_for_read<'p, P: Pages>(
        &self,
        pages: &'p P,
        block: u32,
    ) -> Result<P::Read<'p>, WorkerError> {
        let tag = self.manifest.tag(block);
        pages.read(tag).map_err(|error| refused(tag, "shared", &error))
    }

    fn hold_for_write<'p, P: Pages>(
        &self,
        pages: &'p P,
        block: u32,
    ) -> Result<P::Write<'p>, WorkerError> {
        let tag = self.manifest.tag(block);
        pages.write(tag).map_err(|error| refused(tag, "exclusively", &error))
    }

    fn account(&self, page: &[u8], block: u32) -> Result<Account, WorkerError> {
        let tag = self.manifest.tag(block);
        account::read(page).map_err(|source| WorkerError::Account { tag, source })
    }
}

fn refused(tag: BufferTag, mode: &'static str, error: &impl Display) -> WorkerError {
    WorkerError::Pages { tag, mode, reason: error.to_string() }
}

#[derive(Debug, PartialEq, Eq)]
enum Action<'m> {
    Transfer { from: u32, to: u32, amount: i64 },
    Audit(&'m [u32]),
    Read(u32),
}

#[cfg(test)]
pub(crate) mod tests;
