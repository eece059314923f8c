//! Keeps strangers from filling the log: pure, time comes from the caller.
//!
//! Whoever can reach the port can make this instance complain, as often as it likes. So the same
//! complaint is a line once in [`AGAIN`], with the number of those in between; and in each [`WINDOW`]
//! only the first [`LINES`] complaints of any kind become lines; how many were left out is one line
//! after it. Counters count them all.

use pagewire_protocol::{InstanceId, hello::Refusal};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

const WINDOW: Duration = Duration::from_secs(1);
const LINES: u32 = 10;
/// How often the same is told of the same.
const AGAIN: Duration = Duration::from_secs(60);
/// Complaints that are remembered. With more, the one that was told first is forgotten, and becomes a
/// line again: no more of them than [`LINES`] in a [`WINDOW`].
const REMEMBERED: usize = 256;

/// Of whom something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// This very instance.
    This,
    /// Whoever has that address, on any of its ports.
    Address(IpAddr),
    /// A peer: who was dialled as such, or has proven to be one.
    Peer(InstanceId),
}

/// What is told, in kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Connections cannot be made, or taken in.
    NoConnection,
    /// A connection had to go for a newer one.
    Crowded,
    /// A handshake was not over in time.
    Slow,
    /// A connection ended in its handshake.
    Cut,
    /// What was said was no handshake.
    NoHandshake,
    /// This end refuses what was said, proven or not.
    Refused(Refusal),
    /// What was said had been said before.
    Replay,
}

#[derive(Debug)]
struct Told {
    who: Who,
    why: Why,
    at: Instant,
    /// The same, since then.
    again: u64,
}

#[derive(Debug, Default)]
pub(super) struct LogLimit {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
    told: Vec<Told>,
}

impl LogLimit {
    /// Whether a complaint may become a line now; then how many of its kind have come since the last one
    /// that did.
    pub(super) fn allows(&mut self, who: Who, why: Why, now: Instant) -> Option<u64> {
        let known = self.told.iter().position(|told| (told.who, told.why) == (who, why));
        if let Some(told) = known.map(|at| &mut self.told[at])
            && now < told.at + AGAIN
        {
            told.again += 1;
            return None;
        }
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        // In the order in which they were told, so that the first is the oldest.
        let again = known.map_or(0, |at| self.told.remove(at).again);
        if self.told.len() == REMEMBERED {
            self.told.remove(0);
        }
        self.told.push(Told { who, why, at: now, again: 0 });
        Some(again)
    }

    /// How many complaints were left out for want of room, once the window is over; 0 otherwise. Counts
    /// anew.
    pub(super) fn take_left_out(&mut self, now: Instant) -> u64 {
        if self.since.is_some_and(|since| now >= since + WINDOW) {
            std::mem::take(&mut self.left_out)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Of somebody else each time.
    fn stranger(number: u32) -> Who {
        Who::Address(IpAddr::from(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn a_flood_is_ten_lines_a_second_and_one_that_counts_the_rest() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut told = 0;
        for second in 0..3u32 {
            let ms = 1000 * u64::from(second);
            let allows =
                |i: &u32| limit.allows(stranger(500 * second + i), Why::Cut, at(ms)).is_some();
            let lines = (0..500).filter(allows).count();
            assert_eq!(lines, 10, "second {second}");
            assert_eq!(limit.take_left_out(at(ms + 999)), 0, "not yet");
            told += limit.take_left_out(at(ms + 1000));
            assert_eq!(limit.take_left_out(at(ms + 1000)), 0, "told once");
        }
        assert_eq!(told, 3 * 490);
    }

    #[test]
    fn what_was_left_out_is_not_forgotten_when_nobody_asks_in_time() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        (0..15).for_each(|i| _ = limit.allows(stranger(i), Why::Slow, start));
        (0..15).for_each(|i| _ = limit.allows(stranger(20 + i), Why::Slow, start + 2 * WINDOW));
        assert_eq!(limit.take_left_out(start + 4 * WINDOW), 10);
    }

    #[test]
    fn nothing_is_told_when_nothing_was_left_out() {
        let mut limit = LogLimit::default();
        let now = Instant::now();
        assert_eq!(limit.take_left_out(now), 0);
        assert_eq!(limit.allows(Who::This, Why::NoConnection, now), Some(0));
        assert_eq!(limit.take_left_out(now + 2 * WINDOW), 0);
    }

    #[test]
    fn the_same_of_the_same_is_told_once_a_minute_with_the_number_in_between() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let (one, wrong) = (stranger(1), Why::Refused(Refusal::Proof));
        let mut lines = Vec::new();
        for second in 0..=120 {
            let now = start + Duration::from_secs(second);
            // Three a second, as of a peer with another key.
            for _ in 0..3 {
                lines.extend(limit.allows(one, wrong, now).map(|again| (second, again)));
            }
            assert_eq!(limit.take_left_out(now + WINDOW), 0, "they are no flood");
        }
        assert_eq!(lines, [(0, 0), (60, 179), (120, 179)]);
        let now = start + Duration::from_secs(121);
        let others = [
            (stranger(2), wrong),
            (one, Why::Replay),
            (one, Why::Refused(Refusal::KeyMissing)),
            (Who::Peer(InstanceId(1)), wrong),
        ];
        for (who, why) in others {
            assert_eq!(limit.allows(who, why, now), Some(0), "{who:?}, {why:?} is news");
        }
    }

    #[test]
    fn as_many_as_can_be_reached_are_remembered_in_bounds() {
        let mut limit = LogLimit::default();
        let mut now = Instant::now();
        let first = now;
        for number in 0..=u32::try_from(REMEMBERED).expect("few") {
            assert_eq!(limit.allows(stranger(number), Why::Cut, now), Some(0), "{number}");
            now += Duration::from_millis(101);
        }
        assert!(now < first + AGAIN && limit.told.len() == REMEMBERED);
        assert_eq!(limit.allows(stranger(1), Why::Cut, now), None, "remembered");
        assert_eq!(limit.allows(stranger(0), Why::Cut, now), Some(0), "forgotten");
    }
}
