//! What `pagewire node` tells of its peers: who is awaited, who came, who is gone.
//!
//! Pure: what is missing and the time come in, lines go out.

use pagewire_protocol::InstanceId;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How often those who never came are named again.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Roster {
    peers: usize,
    missing: BTreeSet<InstanceId>,
    /// When to name them again; never once all were there.
    remind_at: Option<Instant>,
}

impl Roster {
    /// Nobody of `peers` is there yet. The second value is the first line to tell.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = InstanceId>, now: Instant) -> (Self, String) {
        let missing: BTreeSet<_> = peers.into_iter().collect();
        let line = match missing.len() {
            0 => "there are no other instances".to_owned(),
            _ => format!("waiting for {}", names(&missing)),
        };
        let remind_at = (!missing.is_empty()).then_some(now + REMIND_EVERY);
        (Self { peers: missing.len(), missing, remind_at }, line)
    }

    /// True when every peer has been there at one time.
    #[must_use]
    pub fn was_whole(&self) -> bool {
        self.remind_at.is_none()
    }

    /// `missing` are not there at `now`: the lines that are news.
    #[must_use]
    pub fn observe(&mut self, missing: &[InstanceId], now: Instant) -> Vec<String> {
        let missing: BTreeSet<_> = missing.iter().copied().collect();
        let came = self.missing.difference(&missing).map(|id| format!("instance {id} is up"));
        let went = missing.difference(&self.missing).map(|id| format!("instance {id} is gone"));
        let mut lines: Vec<_> = came.chain(went).collect();
        self.missing = missing;
        match self.remind_at {
            Some(_) if self.missing.is_empty() => {
                self.remind_at = None;
                lines.push(match self.peers {
                    1 => "the only peer is up".to_owned(),
                    peers => format!("all {peers} peers are up"),
                });
            }
            Some(at) if now >= at => {
                self.remind_at = Some(now + REMIND_EVERY);
                lines.push(format!("still waiting for {}", names(&self.missing)));
            }
            _ => {}
        }
        lines
    }
}

fn names(ids: &BTreeSet<InstanceId>) -> String {
    let list: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let word = if list.len() == 1 { "instance" } else { "instances" };
    format!("{word} {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: InstanceId = InstanceId(1);
    const TWO: InstanceId = InstanceId(2);

    #[test]
    fn each_peer_is_told_when_it_comes_and_all_when_they_are_there() {
        let now = Instant::now();
        let (mut roster, first) = Roster::new([TWO, ONE], now);
        assert_eq!(first, "waiting for instances 1, 2");
        assert!(roster.observe(&[ONE, TWO], now).is_empty());
        assert_eq!(roster.observe(&[ONE], now), ["instance 2 is up"]);
        assert!(!roster.was_whole());
        assert_eq!(roster.observe(&[], now), ["instance 1 is up", "all 2 peers are up"]);
        assert!(roster.was_whole() && roster.observe(&[], now).is_empty());
        assert_eq!(roster.observe(&[TWO], now), ["instance 2 is gone"]);
        assert!(roster.observe(&[TWO], now + 2 * REMIND_EVERY).is_empty(), "it cannot come back");
    }

    #[test]
    fn those_who_never_came_are_named_every_half_minute() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let (mut roster, _) = Roster::new([ONE, TWO], start);
        assert!(roster.observe(&[ONE, TWO], at(29)).is_empty());
        assert_eq!(roster.observe(&[ONE, TWO], at(30)), ["still waiting for instances 1, 2"]);
        assert!(roster.observe(&[ONE, TWO], at(59)).is_empty());
        let lines = roster.observe(&[TWO], at(60));
        assert_eq!(lines, ["instance 1 is up", "still waiting for instance 2"]);
    }

    #[test]
    fn one_peer_and_none_have_words_of_their_own() {
        let now = Instant::now();
        let (mut roster, first) = Roster::new([ONE], now);
        assert_eq!(first, "waiting for instance 1");
        assert_eq!(roster.observe(&[], now), ["instance 1 is up", "the only peer is up"]);
        let (mut roster, first) = Roster::new([], now);
        assert_eq!(first, "there are no other instances");
        assert!(roster.was_whole() && roster.observe(&[], now).is_empty());
    }
}
