//! Refusals by peers, and when they mean that this instance has to go.
//!
//! Two instances that do not fit (cluster id, member list, page size, ...) refuse each other, and
//! neither can see which of them is wrong. So the one that came last goes, and those that have each
//! other carry on and complain:
//!
//! ```text
//!  refusal             | this instance goes
//!  --------------------+---------------------------------------------------------------------
//!  Ended               | at once: a later life of it has been seen
//!  NoReturn            | at once: an earlier life of it took part, and cannot be recovered
//!  DuplicateInstance   | when it stands: at first it may only be that its former life has not
//!                      | been noticed dead
//!  any other           | when it stands, and this instance is a newcomer: it has no session with
//!                      | anybody, and was refused soon after it started
//! ```
//! A refusal stands when it was repeated [`STANDS`] after it came first; a session ends it.
//!
//! Only a refusal whose handshake was proven counts so. What comes without a proof (another or no
//! cluster key, another version) can come from anybody who gets between: it is told to the operator,
//! again every [`AGAIN`] while it goes on, and nobody goes for it. Pure: time is a parameter.

use pagewire_protocol::{InstanceId, hello::Refusal};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a refusal must have been repeated: peers that are being started are told of each other
/// one after the other, and a death is noticed a moment after it.
const STANDS: Duration = Duration::from_secs(2);
/// A refusal that this instance does not go for is told after so long: whoever goes says so as its
/// last word, and no more. Longer than the pauses between two attempts and [`STANDS`].
const LASTS: Duration = Duration::from_secs(5);
/// An instance that is refused for the first time this soon after its start came last.
const NEWCOMER: Duration = Duration::from_secs(10);

/// How often what goes on without a proof is told.
const AGAIN: Duration = Duration::from_secs(60);

/// Of one peer, or of somebody at its address: the last words.
#[derive(Debug)]
struct Unproven {
    detail: String,
    told: Option<Instant>,
    /// It has come again since it was told.
    is_news: bool,
}

#[derive(Debug)]
struct Standing {
    refusal: Refusal,
    detail: String,
    first: Instant,
    last: Instant,
    is_told: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Refusals {
    started: Instant,
    by_peer: BTreeMap<InstanceId, Standing>,
    unproven: BTreeMap<InstanceId, Unproven>,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, by_peer: BTreeMap::new(), unproven: BTreeMap::new() }
    }

    /// `peer` refuses this instance. True when that is news.
    pub(super) fn note(
        &mut self,
        peer: InstanceId,
        refusal: Refusal,
        detail: String,
        now: Instant,
    ) -> bool {
        match self.by_peer.get_mut(&peer) {
            Some(standing) if standing.refusal == refusal => {
                (standing.detail, standing.last) = (detail, now);
                false
            }
            _ => {
                let standing = Standing { refusal, detail, first: now, last: now, is_told: false };
                self.by_peer.insert(peer, standing);
                true
            }
        }
    }

    /// Somebody who says that it is `peer`, and has not proven it, refuses this instance.
    pub(super) fn note_unproven(&mut self, peer: InstanceId, detail: String) {
        let told = self.unproven.get(&peer).and_then(|unproven| unproven.told);
        self.unproven.insert(peer, Unproven { detail, told, is_news: true });
    }

    /// There is a session with `peer`.
    pub(super) fn over(&mut self, peer: InstanceId) {
        self.by_peer.remove(&peer);
        self.unproven.remove(&peer);
    }

    /// The refusal that this instance has to go for, in words.
    pub(super) fn verdict(&self, has_session: bool) -> Option<&str> {
        let is_final = |s: &&Standing| {
            let stands = s.last.duration_since(s.first) >= STANDS;
            let newcomer = !has_session && s.first.duration_since(self.started) < NEWCOMER;
            match s.refusal {
                Refusal::Ended | Refusal::NoReturn => true,
                Refusal::DuplicateInstance => stands,
                _ => stands && newcomer,
            }
        };
        self.by_peer.values().find(is_final).map(|s| s.detail.as_str())
    }

    /// Refusals that are to be told now, each once: at once where this instance has a session with
    /// somebody, otherwise when it turns out not to go. Of those without a proof, what is due.
    pub(super) fn untold(&mut self, has_session: bool, now: Instant) -> Vec<String> {
        if self.verdict(has_session).is_some() {
            return Vec::new();
        }
        let is_due =
            |s: &&mut Standing| !s.is_told && (has_session || now.duration_since(s.first) >= LASTS);
        let tell = |s: &mut Standing| {
            s.is_told = true;
            s.detail.clone()
        };
        let mut all: Vec<_> = self.by_peer.values_mut().filter(is_due).map(tell).collect();
        let is_due = |u: &&mut Unproven| {
            u.is_news && u.told.is_none_or(|told| now.duration_since(told) >= AGAIN)
        };
        all.extend(self.unproven.values_mut().filter(is_due).map(|unproven| {
            (unproven.told, unproven.is_news) = (Some(now), false);
            format!("{} (nobody has proven to say so: tried again)", unproven.detail)
        }));
        all
    }

    /// Any refusal, final or not, in words.
    pub(super) fn any(&self) -> Option<&str> {
        let proven = self.by_peer.values().map(|s| s.detail.as_str());
        proven.chain(self.unproven.values().map(|u| u.detail.as_str())).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: InstanceId = InstanceId(4);

    /// Whether an instance goes, refused from `first_ms` after its start to `last_ms`.
    fn goes(refusal: Refusal, first_ms: u64, last_ms: u64, has_session: bool) -> bool {
        let start = Instant::now();
        let mut refusals = Refusals::new(start);
        for ms in [first_ms, last_ms] {
            refusals.note(PEER, refusal, "why".to_owned(), start + Duration::from_millis(ms));
        }
        assert_eq!(refusals.any(), Some("why"));
        refusals.verdict(has_session).is_some()
    }

    #[test]
    fn a_newcomer_that_does_not_fit_goes_when_the_refusal_stands() {
        for refusal in [Refusal::Cluster, Refusal::View, Refusal::UnknownInstance] {
            assert!(!goes(refusal, 500, 2400, false), "{refusal:?}: it may be told of us yet");
            assert!(goes(refusal, 500, 2600, false), "{refusal:?}");
        }
    }

    #[test]
    fn an_instance_that_others_have_stays_when_a_stranger_refuses_it() {
        assert!(!goes(Refusal::Cluster, 500, 60_000, true));
        assert!(!goes(Refusal::WrongTarget, 500, 60_000, true));
    }

    #[test]
    fn an_instance_that_waits_alone_stays_when_a_newcomer_refuses_it() {
        assert!(!goes(Refusal::Cluster, 11_000, 60_000, false));
    }

    #[test]
    fn a_duplicate_goes_when_its_namesake_is_still_there() {
        assert!(!goes(Refusal::DuplicateInstance, 500, 2400, true), "it may be about to be missed");
        assert!(goes(Refusal::DuplicateInstance, 500, 2600, true));
    }

    #[test]
    fn an_instance_whose_later_life_was_seen_goes_at_once() {
        assert!(goes(Refusal::Ended, 90_000, 90_000, true));
        assert!(goes(Refusal::NoReturn, 90_000, 90_000, true));
    }

    #[test]
    fn nobody_goes_for_what_is_not_proven_and_a_flood_of_it_is_a_line_a_minute() {
        let start = Instant::now();
        let mut refusals = Refusals::new(start);
        let mut told = Vec::new();
        for second in 0..130 {
            refusals.note_unproven(PEER, format!("why {second}"));
            assert_eq!(refusals.verdict(false), None);
            told.extend(refusals.untold(false, start + Duration::from_secs(second)));
        }
        let seconds: Vec<_> = told.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(seconds, ["0", "60", "120"], "{told:?}");
        assert!(refusals.untold(false, start + Duration::from_secs(999)).len() == 1, "the last");
        assert_eq!(
            refusals.untold(false, start + Duration::from_secs(9999)),
            [""; 0],
            "it is over"
        );
        assert_eq!(refusals.any(), Some("why 129"));
        // It neither hides nor renews one that is proven.
        let at = |ms| start + Duration::from_millis(ms);
        refusals.note(PEER, Refusal::View, "proven".to_owned(), at(0));
        refusals.note_unproven(PEER, "why".to_owned());
        refusals.note(PEER, Refusal::View, "proven".to_owned(), at(2100));
        assert_eq!(refusals.verdict(false), Some("proven"));
        refusals.over(PEER);
        assert_eq!(refusals.any(), None);
    }

    #[test]
    fn a_refusal_that_it_does_not_go_for_is_told_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let note = |refusals: &mut Refusals, ms| {
            refusals.note(PEER, Refusal::View, "why".to_owned(), at(ms));
        };
        let mut refusals = Refusals::new(start);
        note(&mut refusals, 100);
        assert_eq!(refusals.untold(false, at(5000)), [""; 0], "it may go yet");
        assert_eq!(refusals.untold(false, at(5100)), ["why"]);
        note(&mut refusals, 5200);
        assert_eq!(refusals.untold(true, at(5300)), [""; 0], "told");
        let mut refusals = Refusals::new(start);
        note(&mut refusals, 100);
        assert_eq!(refusals.untold(true, at(100)), ["why"], "it does not go when it has others");
        let mut refusals = Refusals::new(start);
        note(&mut refusals, 100);
        note(&mut refusals, 2100);
        assert_eq!(refusals.untold(false, at(9000)), [""; 0], "its last word says it");
    }

    #[test]
    fn a_session_ends_a_refusal_and_another_one_starts_anew() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut refusals = Refusals::new(start);
        assert!(refusals.note(PEER, Refusal::Cluster, String::new(), at(0)));
        assert!(!refusals.note(PEER, Refusal::Cluster, String::new(), at(1999)));
        assert!(refusals.note(PEER, Refusal::View, String::new(), at(2500)));
        assert_eq!(refusals.verdict(false), None);
        refusals.over(PEER);
        assert_eq!(refusals.any(), None);
        assert!(refusals.note(PEER, Refusal::View, String::new(), at(5000)));
        assert_eq!(refusals.verdict(false), None);
    }
}
