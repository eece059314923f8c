//! Whether all instances have the same storage before them, as far as their marks
//! ([`Marks`](crate::store::marks::Marks)) say, and still the one that they started with.
//!
//! ```text
//!   a peer is up ... its mark is looked for, for PATIENCE ... not there: its storage is another one, until
//!                                                             the mark is there after all
//!   it is gone ..... its mark again                       ... of a later life: the one it had is over
//!   now and then     the storage itself                   ... gone, or another one in its place
//!                    this instance's own mark             ... of another life, twice: somebody else's
//!                                                             storage, too; once: of one that was refused
//! ```
//! Pure: lives, marks and the time come in, lines go out; [`Found`] is what stands, for who asks later.

mod found;
mod peers;

pub use found::{Found, Watched};

use pagewire_protocol::{Incarnation, InstanceId};
use peers::Peers;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often this instance's own mark is looked at.
const OWN_EVERY: Duration = Duration::from_secs(10);
/// How often the mark of a peer that is gone is looked at.
const GONE_EVERY: Duration = Duration::from_secs(2);
/// How often it is told that somebody writes over this instance's mark, or that the storage is gone or not
/// the same on all.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Tell the operator: pages may be lost.
    Tell(String),
    /// Tell the operator: that is over.
    Over(String),
    /// This instance's mark is gone or written over: leave it again.
    LeaveAgain,
}

/// Peers and their lives.
pub type Lives = [(InstanceId, Incarnation)];

/// What looks at the storage. It is asked only for what is due.
pub trait Look {
    /// The life in an instance's mark.
    fn mark(&mut self, instance: InstanceId) -> Option<Incarnation>;

    /// Whether the storage is still the one that this instance started with.
    ///
    /// # Errors
    /// What was found instead, in words.
    fn storage(&mut self) -> Result<(), String>;
}

/// See the module.
#[derive(Debug)]
pub struct StorageWatch {
    me: InstanceId,
    life: Incarnation,
    /// Where the marks are.
    folder: PathBuf,
    peers: Peers,
    looked: Instant,
    looked_for_gone: Instant,
    /// Its own mark was of another life when it was looked at last.
    was_written_over: bool,
    told: Option<Instant>,
    told_of_storage: Option<Instant>,
    found: Found,
}

impl StorageWatch {
    /// Of `life` of instance `me`, which has left its mark in `folder`.
    #[must_use]
    pub fn new(me: InstanceId, life: Incarnation, folder: &Path, now: Instant) -> Self {
        Self {
            me,
            life,
            folder: folder.to_owned(),
            peers: Peers::default(),
            looked: now,
            looked_for_gone: now,
            was_written_over: false,
            told: None,
            told_of_storage: None,
            found: Found::default(),
        }
    }

    /// What stands.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// `linked` are the peers that there is a link with, `gone` those that there was one with, in the life
    /// that it was with.
    pub fn observe(
        &mut self,
        linked: &Lives,
        gone: &Lives,
        now: Instant,
        look: &mut impl Look,
    ) -> Vec<News> {
        let mut news = Vec::new();
        if now.duration_since(self.looked) >= OWN_EVERY {
            self.looked = now;
            news.extend(self.storage(look.storage(), now));
            // No mark is left where pages are not: it would say that all is well.
            if self.found.storage.is_none() {
                news.extend(self.own(look.mark(self.me), now));
            }
        }
        self.same_as_peers(linked, now, look, &mut news);
        self.found.later.retain(|id, _| linked.iter().all(|(other, _)| other != id));
        if now.duration_since(self.looked_for_gone) >= GONE_EVERY {
            self.looked_for_gone = now;
            for &(id, life) in gone {
                let later = look.mark(id).filter(|found| *found > life);
                self.found.later.extend(later.map(|found| (id, found)));
            }
        }
        news
    }

    fn storage(&mut self, state: Result<(), String>, now: Instant) -> Option<News> {
        let root = self.folder.parent().unwrap_or(&self.folder).display();
        let Err(found) = state else {
            self.told_of_storage = None;
            let over = || News::Over(format!("storage {root} is there again"));
            return self.found.storage.take().map(|_| over());
        };
        let line = format!(
            "storage {root} is not what this instance started with: {found}; page files that are open \
             here stay in use, others are looked for in what is there now, so pages may be lost: put it \
             back (see what is mounted there); if it is gone for good, stop all instances and restore it \
             from a backup"
        );
        let is_news = self.found.storage.as_ref() != Some(&line);
        self.found.storage = Some(line.clone());
        let is_due = |told: Instant| now.duration_since(told) >= TOLD_EVERY;
        (is_news || self.told_of_storage.is_none_or(is_due)).then(|| {
            self.told_of_storage = Some(now);
            News::Tell(line)
        })
    }

    fn own(&mut self, found: Option<Incarnation>, now: Instant) -> Vec<News> {
        let other = match found {
            Some(found) if found == self.life => {
                self.was_written_over = false;
                return Vec::new();
            }
            Some(other) => other,
            None => return vec![News::LeaveAgain],
        };
        let mut news = vec![News::LeaveAgain];
        // One that is started beside this one leaves its mark and is refused by the peers. Only one that
        // runs puts its mark back.
        let is_again = std::mem::replace(&mut self.was_written_over, true);
        if is_again && self.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
            self.told = Some(now);
            let (me, life, folder) = (self.me, self.life, self.folder.display());
            news.push(News::Tell(format!(
                "the mark of instance {me} in {folder} is of incarnation {other}, expected {life}, this \
                 one: another instance {me} was started on this storage, perhaps of another cluster with \
                 the same id, and both write to the same page files: stop one of them, and give each \
                 cluster an id (`cluster`) and a folder (`storage`) of its own"
            )));
        }
        news
    }

    /// Whether the peers have this storage, too. Marks say something of others while it is there.
    fn same_as_peers(
        &mut self,
        linked: &Lives,
        now: Instant,
        look: &mut impl Look,
        news: &mut Vec<News>,
    ) {
        if self.found.storage.is_none() {
            let about_peers = self.peers.observe(linked, &self.folder, now, look);
            if about_peers.iter().any(|news| matches!(news, News::Tell(_)))
                && let Err(found) = look.storage()
            {
                news.extend(self.storage(Err(found), now));
            } else {
                news.extend(about_peers);
            }
        }
        if self.found.storage.is_some() {
            // They are looked for anew when it is back.
            self.peers.forget_the_unsettled();
        }
        self.found.others = self.peers.others();
    }
}

#[cfg(test)]
mod tests;
