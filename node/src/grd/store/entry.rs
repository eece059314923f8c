//! One page in the directory, at rest: 48 bytes.
//!
//! ```text
//!   0         4        8         16       24        32     40           44           46      47
//!   | relation | block | version | stored | holders | past | grant, low | grant, high | owner | flags |
//! ```
//! `relation` is a number that stands for (tablespace, database, relation, fork), see
//! [`Relations`](super::relations::Relations). A slot that is free has [`FREE`] set and in `block`
//! the number + 1 of the next free one.

use super::InstanceSet;
use pagewire_protocol::{GrantNumber, InstanceId, Lsn};

/// The owner holds the page exclusively.
const EXCLUSIVE: u8 = 1;
/// There is rare state in the side table.
const RARE: u8 = 2;
/// The slot is not in use.
const FREE: u8 = 8;
/// Flags that belong to the directory's rules.
const DIRECTORY: u8 = 0xF0;
/// `owner` of a page that nobody owns.
const NOBODY: u8 = u8::MAX;

/// Greatest grant number that an entry can keep: at a million grants of one page a second, reached
/// after nine years.
pub const GRANT_MAX: u64 = (1 << 48) - 1;

/// See the module.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    pub(super) relation: u32,
    pub(super) block: u32,
    /// Greatest version known.
    pub version: Lsn,
    /// Greatest version known to be on storage.
    pub stored: Lsn,
    /// Everyone who holds the page.
    pub holders: InstanceSet,
    /// Everyone who keeps a past image of it.
    pub past: InstanceSet,
    grant_low: u32,
    grant_high: u16,
    owner: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Entry>() == 48);

impl Entry {
    pub(super) fn new(relation: u32, block: u32, grant: GrantNumber) -> Self {
        let mut entry = Self {
            relation,
            block,
            version: Lsn::ZERO,
            stored: Lsn::ZERO,
            holders: InstanceSet::default(),
            past: InstanceSet::default(),
            grant_low: 0,
            grant_high: 0,
            owner: NOBODY,
            flags: 0,
        };
        entry.set_grant(grant);
        entry
    }

    /// A slot without a page; `next` is the number + 1 of the next one.
    pub(super) fn free(next: u32) -> Self {
        Self { flags: FREE, ..Self::new(0, next, GrantNumber(0)) }
    }

    pub(super) fn is_free(&self) -> bool {
        self.flags & FREE != 0
    }

    pub(super) fn has_rare(&self) -> bool {
        self.flags & RARE != 0
    }

    pub(super) fn set_rare(&mut self, on: bool) {
        self.set(RARE, on);
    }

    fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// The last grant number given.
    #[must_use]
    pub fn grant(&self) -> GrantNumber {
        GrantNumber(u64::from(self.grant_high) << 32 | u64::from(self.grant_low))
    }

    /// Sets the last grant number given.
    ///
    /// # Panics
    /// If it exceeds [`GRANT_MAX`]: numbers that came back would undo the fences that rest on them.
    pub fn set_grant(&mut self, grant: GrantNumber) {
        assert!(grant.0 <= GRANT_MAX, "grant number {grant}, expected at most {GRANT_MAX}");
        // Both halves fit: the assertion.
        self.grant_low = u32::try_from(grant.0 & u64::from(u32::MAX)).unwrap_or(0);
        self.grant_high = u16::try_from(grant.0 >> 32).unwrap_or(0);
    }

    /// Gives the next grant number.
    pub fn next_grant(&mut self) -> GrantNumber {
        let grant = self.grant().next();
        self.set_grant(grant);
        grant
    }

    /// Who holds the current version.
    #[must_use]
    pub fn owner(&self) -> Option<InstanceId> {
        (self.owner != NOBODY).then_some(InstanceId(self.owner.into()))
    }

    /// Sets who holds the current version.
    ///
    /// # Panics
    /// If the id is none of a member's (0 to 63).
    pub fn set_owner(&mut self, owner: Option<InstanceId>) {
        self.owner = match owner {
            None => NOBODY,
            Some(id) if id.0 < 64 => u8::try_from(id.0).unwrap_or(NOBODY),
            Some(id) => panic!("instance {id} is to own a page, expected an id of 0 to 63"),
        };
    }

    /// Whether the owner holds the page exclusively.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.flags & EXCLUSIVE != 0
    }

    /// Sets whether the owner holds the page exclusively.
    pub fn set_exclusive(&mut self, on: bool) {
        self.set(EXCLUSIVE, on);
    }

    /// One of four flags (0 to 3) that the directory's rules use as they like. While one is set the
    /// entry is not forgotten.
    #[must_use]
    pub fn flag(&self, number: u8) -> bool {
        self.flags & (0x10 << (number % 4)) != 0
    }

    /// Sets one of these flags.
    pub fn set_flag(&mut self, number: u8, on: bool) {
        self.set(0x10 << (number % 4), on);
    }

    /// Whether the entry says nothing that storage does not: nobody holds the page or keeps a past
    /// image of it, it is not lost, and the greatest version known is on storage.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        self.holders.is_empty()
            && self.past.is_empty()
            && self.flags & (RARE | DIRECTORY) == 0
            && self.version <= self.stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_number_of_48_bits_comes_back() {
        let mut entry = Entry::new(1, 2, GrantNumber(u64::from(u32::MAX)));
        assert_eq!(entry.next_grant(), GrantNumber(1 << 32));
        assert_eq!(entry.grant(), GrantNumber(1 << 32));
        entry.set_grant(GrantNumber(GRANT_MAX));
        assert_eq!(entry.grant(), GrantNumber(GRANT_MAX));
    }

    #[test]
    #[should_panic(expected = "expected at most")]
    fn a_grant_number_that_does_not_fit_is_refused_not_cut() {
        Entry::new(1, 2, GrantNumber(GRANT_MAX)).next_grant();
    }

    #[test]
    #[should_panic(expected = "expected an id of 0 to 63")]
    fn an_owner_that_is_no_member_is_refused_not_cut() {
        Entry::new(1, 2, GrantNumber(0)).set_owner(Some(InstanceId(64)));
    }

    #[test]
    fn flags_and_owner_do_not_disturb_each_other() {
        let mut entry = Entry::new(1, 2, GrantNumber(0));
        assert_eq!(entry.owner(), None);
        entry.set_owner(Some(InstanceId(63)));
        entry.set_exclusive(true);
        entry.set_flag(3, true);
        entry.set_exclusive(false);
        assert_eq!(entry.owner(), Some(InstanceId(63)));
        assert!(entry.flag(3) && !entry.flag(0) && !entry.is_exclusive());
        assert!(!entry.is_free() && !entry.has_rare());
    }

    #[test]
    fn only_what_says_no_more_than_storage_may_be_forgotten() {
        let empty = Entry::new(1, 2, GrantNumber(9));
        assert!(empty.is_forgettable());
        let changed = |change: fn(&mut Entry)| {
            let mut entry = empty;
            change(&mut entry);
            entry.is_forgettable()
        };
        assert!(!changed(|e| e.holders = InstanceSet::of(InstanceId(1))));
        assert!(!changed(|e| e.past = InstanceSet::of(InstanceId(1))));
        assert!(!changed(|e| e.set_flag(2, true)));
        assert!(!changed(|e| e.set_rare(true)));
        assert!(!changed(|e| e.version = Lsn(1)));
        assert!(changed(|e| (e.version, e.stored) = (Lsn(1), Lsn(1))));
    }
}
