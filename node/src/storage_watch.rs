//! Whether all instances have the same storage before them, as far as their marks
//! ([`Marks`](crate::store::marks::Marks)) say, and still the one that they started with.
//!
//! ```text
//!   a peer is up ... its mark is looked for, for PATIENCE ... not there: its storage is another one
//!   it is gone ..... its mark again                       ... of a later life: the one it had is over
//!   now and then     the storage itself                   ... gone, or another one in its place
//!                    this instance's own mark             ... of another life: somebody else's storage, too
//! ```
//! Pure: lives, marks and the time come in, lines go out; [`Found`] is what stands, for who asks later.

mod found;

pub use found::{Found, Watched};

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
/// How often the mark of a peer that is gone is looked at.
const GONE_EVERY: Duration = Duration::from_secs(2);
/// How often it is told that somebody writes over this instance's mark, or that the storage is gone.
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
    peers: BTreeMap<InstanceId, Peer>,
    looked: Instant,
    looked_for_gone: Instant,
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
            peers: BTreeMap::new(),
            looked: now,
            looked_for_gone: now,
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
        for &(id, life) in linked {
            // Marks say something of others while the storage is there.
            if self.found.storage.is_some() {
                return news;
            }
            let Some(line) = self.peer(id, life, now, look) else { continue };
            match look.storage() {
                Ok(()) => news.push(News::Tell(line)),
                Err(found) => {
                    news.extend(self.storage(Err(found), now));
                    // It is looked for anew when the storage is back.
                    self.peers.remove(&id);
                }
            }
        }
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
        look: &mut impl Look,
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
        let found = look.mark(id);
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

    /// Marks and storage as these say.
    struct Sees<M, S>(M, S);

    impl<M, S> Look for Sees<M, S>
    where
        M: FnMut(InstanceId) -> Option<Incarnation>,
        S: FnMut() -> Result<(), String>,
    {
        fn mark(&mut self, instance: InstanceId) -> Option<Incarnation> {
            self.0(instance)
        }

        fn storage(&mut self) -> Result<(), String> {
            self.1()
        }
    }

    /// Looks every second, from 0 to `last`; what is found in the peer's mark, by the second. What is
    /// told, with its second.
    fn watch(last: u64, mark: impl Fn(InstanceId, u64) -> Option<Incarnation>) -> Vec<(u64, News)> {
        let start = Instant::now();
        let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
        let mut told = Vec::new();
        for second in 0..=last {
            let now = start + Duration::from_secs(second);
            let news = watch.observe(
                &[(PEER, LIFE)],
                &[],
                now,
                &mut Sees(|id| mark(id, second), || Ok(())),
            );
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
            let news = watch.observe(&[(PEER, life)], &[], now, &mut Sees(sound, || Ok(())));
            told.extend(news.into_iter().map(|_| second));
        }
        assert_eq!(told, [30], "its mark is still of the life before");
    }

    #[test]
    fn while_this_instance_has_no_storage_no_peer_is_blamed_and_all_are_looked_for_when_it_is_back()
    {
        let start = Instant::now();
        let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
        let mut told = Vec::new();
        // It goes just after it was looked at, and the peer comes.
        for second in 11..=60 {
            let storage = || if second < 30 { Err("gone".to_owned()) } else { Ok(()) };
            let mark = |id| if id == ME { Some(MINE) } else { None };
            let now = start + Duration::from_secs(second);
            let later = [(InstanceId(4), LIFE)];
            let news = watch.observe(&[(PEER, LIFE)], &later, now, &mut Sees(mark, storage));
            told.extend(news.into_iter().map(|news| (second, news)));
            assert!(second >= 30 || watch.found().later.is_empty());
        }
        let [(11, News::Tell(gone)), (over, News::Over(_)), (blamed, News::Tell(peer))] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert!(gone.contains("is not what this instance started with"), "{gone}");
        assert!(peer.contains("storage of instance 3 is not this storage"), "{peer}");
        assert!(30 <= *over && *over + 10 <= *blamed, "{told:?}");
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

    #[test]
    fn a_storage_that_is_gone_is_told_each_minute_and_gets_no_mark_until_it_is_back() {
        let start = Instant::now();
        let mut watch = StorageWatch::new(ME, MINE, "/srv/shared/pagewire".as_ref(), start);
        let mut told = Vec::new();
        for second in 0..=130 {
            let storage = || match second {
                20..100 => Err("it is not there".to_owned()),
                100..120 => Err("it is another one".to_owned()),
                _ => Ok(()),
            };
            let mark = |id: InstanceId| sound(id).filter(|_| id != ME || second < 20);
            let now = start + Duration::from_secs(second);
            let news = watch.observe(&[], &[], now, &mut Sees(mark, storage));
            assert_eq!(watch.found().storage.is_some(), (20..120).contains(&second), "{second}");
            told.extend(news.into_iter().map(|news| (second, news)));
        }
        let [
            (20, News::Tell(gone)),
            (80, News::Tell(still)),
            (100, News::Tell(other)),
            (120, News::Over(back)),
            (120 | 130, News::LeaveAgain),
            (130, News::LeaveAgain),
        ] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!(gone, still);
        for words in [
            "storage /srv/shared is not what this instance started with",
            "it is not there",
            "put it back",
        ] {
            assert!(gone.contains(words), "{words} in: {gone}");
        }
        assert!(other.contains("it is another one"), "{other}");
        assert_eq!(back, "storage /srv/shared is there again");
    }

    #[test]
    fn a_peer_that_is_gone_and_was_started_again_is_known_to_be_over_until_there_is_a_link() {
        let start = Instant::now();
        let mut watch = StorageWatch::new(ME, MINE, "/srv/pagewire".as_ref(), start);
        let mut later = |second, linked: &Lives, gone: &Lives, found| {
            let mark = |id| if id == ME { Some(MINE) } else { found };
            let now = start + Duration::from_secs(second);
            watch.observe(linked, gone, now, &mut Sees(mark, || Ok(())));
            watch.found().later.get(&PEER).copied()
        };
        let next = Incarnation(LIFE.0 + 5);
        assert_eq!(later(3, &[], &[(PEER, LIFE)], Some(LIFE)), None, "it may come back");
        assert_eq!(later(6, &[], &[(PEER, LIFE)], Some(next)), Some(next));
        assert_eq!(later(9, &[], &[(PEER, LIFE)], None), Some(next), "it was seen");
        assert_eq!(later(12, &[(PEER, next)], &[], Some(next)), None);
    }
}
