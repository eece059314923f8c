//! What PCM_STAT_REPLY says: one page's directory entry, or counts of a whole instance.

use crate::{GrantNumber, InstanceId, Lsn};

/// What PCM_STAT_REQUEST asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatAbout {
    /// The page that the message names, as its master knows it.
    Page,
    /// The receiver.
    Instance,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// About a page.
    Page(PageStat),
    /// About an instance.
    Instance(InstanceStat),
}

/// A directory entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageStat {
    /// The directory has an entry of the page.
    pub known: bool,
    /// Who holds the current version.
    pub owner: Option<InstanceId>,
    /// The owner holds it exclusively.
    pub exclusive: bool,
    /// Everyone who holds it, a mask.
    pub holders: u64,
    /// Everyone who keeps a past image of it, a mask.
    pub past_images: u64,
    /// Greatest version known.
    pub version: Lsn,
    /// Greatest version known to be on storage.
    pub stored: Lsn,
    /// Requests that wait.
    pub queued: u16,
    /// The last grant number given.
    pub grant: GrantNumber,
    /// A grant is on its way.
    pub converting: bool,
    /// The master is finding out who has the page.
    pub repairing: bool,
    /// It waits for the redo of an instance that has died.
    pub lost: bool,
}

/// Counts of one instance (of one shard of it, where it has several).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceStat {
    /// Directory entries that it keeps.
    pub entries: u64,
    /// Partitions that it masters.
    pub partitions: u16,
    /// Those of them whose entries are still being collected.
    pub loading: u16,
    /// Pages held S.
    pub held_shared: u64,
    /// Pages held X.
    pub held_exclusive: u64,
    /// Pages with the duty to write them, as far as the core has been told.
    pub dirty: u64,
    /// Past images kept.
    pub past_images: u64,
    /// Requests that are not answered yet.
    pub requests: u64,
}
