//! Whether all instances have the same storage before them, as far as their marks
//! ([`Marks`](crate::store::marks::Marks)) say.
//!
//! ```text
//!   a peer is up ... its mark is looked for, for PATIENCE ... not there: its storage is another one
//!   now and then     this instance's own mark             ... of another life: somebody else's storage, too
//! ```
//! Pure: lives, marks and the time come in, lines go out.

use pagewire_protocol::{Incarnation, InstanceId};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a peer's mark may take to be seen: network file systems remember for some seconds what was
/// not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a mark is looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often this instance's own mark is looked at.
const OWN_EVERY: Duration = Duration::from_secs(10);
/// How often it is told that somebody writes over it.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A life of a peer, and what came of looking for its mark.
#[derive(Debug)]
struct Peer {
    life: Incarnation,
    since: Instant,
    looked: Option<Instant>,
    is_settled: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Tell the operator: pages may be lost.
    Tell(String),
    /// This instance's mark is gone or written over: leave it again.
    LeaveAgain,
}

/// See the module.
#[derive(Debug)]
pub struct StorageWatch {
    me: InstanceId,
    life: Incarnation,
    /// Where the marks are.
    folder: PathBuf,
    peers: BTreeMap<InstanceId, Peer>,
    looked: Instant,
    told: Option<Instant>,
}

impl StorageWatch {
    /// Of `life` of instance `me`, which has left its mark in `folder`.
    #[must_use]
    pub fn new(me: InstanceId, life: Incarnation, folder: &Path, now: Instant) -> Self {
        let peers = BTreeMap::new();
        Self { me, life, folder: folder.to_owned(), peers, looked: now, told: None }
    }

    /// `lives` are the peers that there is a link with; `mark` reads an instance's mark, and is asked only
    /// for those that are due.
    pub fn observe(
        &mut self,
        lives: &[(InstanceId, Incarnation)],
        now: Instant,
        mut mark: impl FnMut(InstanceId) -> Option<Incarnation>,
    ) -> Vec<News> {
        let mut news = Vec::new();
        if now.duration_since(self.looked) >= OWN_EVERY {
            self.looked = now;
            news.extend(self.own(mark(self.me), now));
        }
        for &(id, life) in lives {
            news.extend(self.peer(id, life, now, &mut mark).map(News::Tell));
        }
        news
    }

    fn own(&mut self, found: Option<Incarnation>, now: Instant) -> Vec<News> {
        let other = match found {
            Some(found) if found == self.life => return Vec::new(),
            Some(other) => other,
            None => return vec![News::LeaveAgain],
        };
        let mut news = vec![News::LeaveAgain];
        if self.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
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

    fn peer(
        &mut self,
        id: InstanceId,
        life: Incarnation,
        now: Instant,
        mark: &mut impl FnMut(InstanceId) -> Option<Incarnation>,
    ) -> Option<String> {
        let new = || Peer { life, since: now, looked: None, is_settled: false };
        let peer = self.peers.entry(id).or_insert_with(new);
        if peer.life != life {
            *peer = new();
        }
        let is_early = |looked: Instant| now.duration_since(looked) < LOOK_EVERY;
        if peer.is_settled || peer.looked.is_some_and(is_early) {
            return None;
        }
        peer.looked = Some(now);
        let found = mark(id);
        let is_late = now.duration_since(peer.since) >= PATIENCE;
        peer.is_settled = found == Some(life) || is_late;
        if found == Some(life) || !is_late {
            return None;
        }
        let folder = self.folder.display();
        let found = match found {
            Some(found) => {
                format!("its mark in {folder} is of incarnation {found}, expected {life}")
            }
            None => format!("its mark is not in {folder}"),
        };
        Some(format!(
            "storage of instance {id} is not this storage: {found}; what one of the two writes the other \
             does not read, and pages are lost: stop all instances, and give all the same folder in \
             `storage` (see what is mounted there)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: InstanceId = InstanceId(0);
    const PEER: InstanceId = InstanceId(3);
    const LIFE: Incarnation = Incarnation(70);
    const MINE: Incarnation = Incarnation(60);

    /// Looks every second, from 0 to `last`; what is found in the peer's mark, by the second. What is
    /// told, with its second.
    fn watch(last: u64, mark: impl Fn(InstanceId, u64) -> Option<Incarnation>) -> Vec<(u64, News)> {
        let start = Instant::now();
        let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
        let mut told = Vec::new();
        for second in 0..=last {
            let now = start + Duration::from_secs(second);
            let news = watch.observe(&[(PEER, LIFE)], now, |id| mark(id, second));
            told.extend(news.into_iter().map(|news| (second, news)));
        }
        told
    }

    fn sound(id: InstanceId) -> Option<Incarnation> {
        Some(if id == ME { MINE } else { LIFE })
    }

    #[test]
    fn a_peer_whose_mark_is_there_or_comes_soon_is_no_news() {
        assert_eq!(watch(100, |id, _| sound(id)), []);
        let late = |id, second| sound(id).filter(|_| id == ME || second >= 9);
        assert_eq!(watch(100, late), []);
    }

    #[test]
    fn a_peer_whose_mark_does_not_come_has_other_storage_and_is_told_of_once() {
        for (found, words) in [
            (None, "its mark is not in /srv/pagewire"),
            (Some(Incarnation(71)), "of incarnation 71, expected 70"),
        ] {
            let told = watch(100, |id, _| if id == ME { Some(MINE) } else { found });
            let [(10, News::Tell(line))] = &told[..] else { panic!("{told:?}") };
            for words in ["storage of instance 3 is not this storage", words, "`storage`"] {
                assert!(line.contains(words), "{words} in: {line}");
            }
        }
    }

    #[test]
    fn the_next_life_of_a_peer_is_looked_for_anew() {
        let start = Instant::now();
        let mut watch = StorageWatch::new(ME, MINE, "/srv".as_ref(), start);
        let mut told = Vec::new();
        for second in 0..40 {
            let life = if second < 20 { LIFE } else { Incarnation(LIFE.0 + 1) };
            let now = start + Duration::from_secs(second);
            let news = watch.observe(&[(PEER, life)], now, sound);
            told.extend(news.into_iter().map(|_| second));
        }
        assert_eq!(told, [30], "its mark is still of the life before");
    }

    #[test]
    fn a_mark_of_this_instance_that_somebody_writes_over_is_left_again_and_told_once_a_minute() {
        let other = |id, _| if id == ME { Some(Incarnation(61)) } else { sound(id) };
        let told = watch(100, other);
        let again = told.iter().filter(|(_, news)| *news == News::LeaveAgain).count();
        let lines: Vec<_> = told.iter().filter(|(_, news)| *news != News::LeaveAgain).collect();
        assert_eq!(again, 10, "{told:?}");
        let [(10, News::Tell(line)), (70, News::Tell(_))] = lines[..] else { panic!("{lines:?}") };
        assert!(line.contains("another instance 0 was started on this storage"), "{line}");
        // One that is merely gone is put back.
        let told = watch(15, |id, _| sound(id).filter(|_| id != ME));
        assert_eq!(told, [(10, News::LeaveAgain)]);
    }
}
