//! What the watch has found and what still stands: written by the thread that looks at the storage, read
//! by the one that answers `pagewire status`, which so never waits for storage.

use super::peers;
use pagewire_protocol::{Incarnation, InstanceId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// What is wrong with this instance's storage, and what to do.
    pub storage: Option<String>,
    /// Peers with a link whose storage is another one than this instance's: what was found in place of
    /// their marks, and what was expected.
    pub others: BTreeMap<InstanceId, String>,
    /// Peers without a link that have been started again since there was one, with their later life.
    pub later: BTreeMap<InstanceId, Incarnation>,
}

impl Found {
    /// What is wrong with the storage, of this instance or of all together, and what to do.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let others = || self.others.iter().map(|(id, found)| (*id, found.as_str()));
        let of_others = || (!self.others.is_empty()).then(|| peers::in_words(others()));
        self.storage.clone().or_else(of_others)
    }
}

/// The same for other threads.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<Found>>);

impl Watched {
    /// It is as `found` says.
    pub fn set(&self, found: &Found) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != *found {
            known.clone_from(found);
        }
    }

    /// What was found last.
    #[must_use]
    pub fn get(&self) -> Found {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
