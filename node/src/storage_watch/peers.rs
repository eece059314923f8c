//! Whether the peers have the same storage: each leaves its mark before it has a link, so that a mark
//! that is not there was left somewhere else. Pure, as the rest of the watch.
//!
//! Peers that say that they have another storage are refused at the handshake. Here is found out what that
//! misses: a peer that does not say it (wire versions before 6), a storage that was copied with the number
//! in it, and two whose numbers fold alike, one pair in 65,535.

use super::{Lives, Look, News, TOLD_EVERY};
use pagewire_protocol::{Incarnation, InstanceId};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// How long a peer's mark may take to be seen: network file systems remember for some seconds what was
/// not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a mark is looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for once it was missed.
const AGAIN_EVERY: Duration = Duration::from_secs(10);

/// A life of a peer, and what came of looking for its mark.
#[derive(Debug)]
struct Peer {
    life: Incarnation,
    since: Instant,
    looked: Option<Instant>,
    told: Option<Instant>,
    state: State,
}

/// What is known of a peer's storage.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Its mark was not found yet.
    Looking,
    /// It is this one.
    Same,
    /// It is another one: what was found in place of its mark, and what was expected.
    Other(String),
}

/// All peers that there was a link with.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<InstanceId, Peer>);

impl Peers {
    /// `linked` are those that there is a link with; their marks are looked for in `folder`.
    pub(super) fn observe(
        &mut self,
        linked: &Lives,
        folder: &Path,
        now: Instant,
        look: &mut impl Look,
    ) -> Vec<News> {
        for (id, peer) in &mut self.0 {
            // Who has no link does nothing now. It is looked for at once when there is one again.
            if peer.state != State::Same && linked.iter().all(|(other, _)| other != id) {
                (peer.state, peer.looked) = (State::Looking, None);
            }
        }
        let observe = |&(id, life)| self.peer(id, life, folder, now, look);
        linked.iter().filter_map(observe).collect()
    }

    /// Those whose storage is another one, with what was found.
    pub(super) fn others(&self) -> BTreeMap<InstanceId, String> {
        let other = |(id, peer): (&InstanceId, &Peer)| match &peer.state {
            State::Other(found) => Some((*id, found.clone())),
            State::Looking | State::Same => None,
        };
        self.0.iter().filter_map(other).collect()
    }

    /// They are given time again.
    pub(super) fn forget_the_unsettled(&mut self) {
        self.0.retain(|_, peer| peer.state == State::Same);
    }

    fn peer(
        &mut self,
        id: InstanceId,
        life: Incarnation,
        folder: &Path,
        now: Instant,
        look: &mut impl Look,
    ) -> Option<News> {
        let new = || Peer { life, since: now, looked: None, told: None, state: State::Looking };
        let peer = self.0.entry(id).or_insert_with(new);
        if peer.life != life {
            *peer = new();
        }
        let every = match peer.state {
            State::Same => return None,
            State::Looking => LOOK_EVERY,
            State::Other(_) => AGAIN_EVERY,
        };
        if peer.looked.is_some_and(|looked| now.duration_since(looked) < every) {
            return None;
        }
        peer.looked = Some(now);
        let folder = folder.display();
        let found = match look.mark(id) {
            Some(found) if found == life => {
                let was_told = peer.told.is_some();
                peer.state = State::Same;
                let over =
                    || format!("storage of instance {id} is this storage: its mark is there");
                return was_told.then(|| News::Over(over()));
            }
            _ if now.duration_since(peer.since) < PATIENCE => return None,
            Some(found) => {
                format!("its mark in {folder} is of incarnation {found}, expected {life}")
            }
            None => format!("its mark is not in {folder}, expected one of incarnation {life}"),
        };
        peer.state = State::Other(found.clone());
        let is_due = peer.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY);
        is_due.then(|| {
            peer.told = Some(now);
            News::Tell(in_words([(id, found.as_str())]))
        })
    }
}

/// That peers have other storage, and what to do; `peers` with what was found of each.
pub(super) fn in_words<'a>(peers: impl IntoIterator<Item = (InstanceId, &'a str)>) -> String {
    let one = |(id, found)| format!("storage of instance {id} is not this storage: {found}");
    let all: Vec<_> = peers.into_iter().map(one).collect();
    format!(
        "{}; what one of the two writes the other does not read, and pages are lost: stop all instances, \
         and give all the same folder in `storage` (see what is mounted there)",
        all.join(", and ")
    )
}
