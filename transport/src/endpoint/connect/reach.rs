//! A peer that no link can be made with: since when, how often it was tried, and when the operator hears
//! of it. Pure: time comes from the caller.
//!
//! ```text
//!   a try fails ... [GRACE] ... a warning ... [AGAIN] ... a warning ...     a link: all is forgotten
//! ```
//! Instances are started one after the other, and one that is not there yet is nothing to warn of: hence
//! [`GRACE`]. What went wrong last is in the peer's counters, where any thread can read it.

use std::time::{Duration, Instant};

/// How long tries may fail before the first warning.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is warned of, while they go on failing.
const AGAIN: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::endpoint) struct Reach {
    /// The first try that failed since there was a link.
    since: Option<Instant>,
    tries: u64,
    told: Option<Instant>,
}

impl Reach {
    /// A try has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.tries += 1;
    }

    /// Tries that have failed, since there was a link.
    pub(super) fn tries(&self) -> u64 {
        self.tries
    }

    /// Whether a warning is due; then for how long the tries have failed. It counts as given.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Duration> {
        let failing = now.duration_since(self.since?);
        let is_news = self.told.is_none_or(|told| now.duration_since(told) >= AGAIN);
        let is_due = is_news && failing >= GRACE;
        is_due.then(|| {
            self.told = Some(now);
            failing
        })
    }

    /// There is a link. A warning that was given a moment ago still counts: a link that comes and goes
    /// does not fill the log either.
    pub(super) fn linked(&mut self) {
        (self.since, self.tries) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every second from `first` to `last` after `start`; the seconds with a warning.
    fn warned(reach: &mut Reach, start: Instant, first: u64, last: u64) -> Vec<u64> {
        let fails = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            reach.failed(now);
            reach.take_due(now).is_some()
        };
        (first..=last).filter(fails).collect()
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_warned_of_after_a_while_and_then_every_minute() {
        let mut reach = Reach::default();
        let start = Instant::now();
        assert_eq!(warned(&mut reach, start, 0, 130), [5, 65, 125]);
        assert_eq!(reach.tries(), 131);
    }

    #[test]
    fn one_that_is_only_started_later_is_not_warned_of() {
        let mut reach = Reach::default();
        let start = Instant::now();
        assert_eq!(warned(&mut reach, start, 0, 4), [0; 0]);
        reach.linked();
        assert_eq!((reach.tries(), reach.take_due(start + GRACE)), (0, None));
        assert_eq!(warned(&mut reach, start, 100, 105), [105], "another time");
    }

    #[test]
    fn a_link_that_comes_and_goes_is_no_line_each_time() {
        let mut reach = Reach::default();
        let start = Instant::now();
        let mut all = Vec::new();
        for round in 0..12 {
            all.extend(warned(&mut reach, start, 10 * round, 10 * round + 8));
            reach.linked();
        }
        assert_eq!(all, [5, 65], "every 10 s there is a link");
        assert_eq!(warned(&mut reach, start, 200, 206), [205], "each time after a while");
    }
}
