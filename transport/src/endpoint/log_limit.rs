//! Keeps strangers from filling the log: pure, time comes from the caller.
//!
//! Whoever can reach the port can make this instance complain, as often as it likes. So in each
//! [`WINDOW`] only the first [`LINES`] complaints become lines; how many were left out is one line
//! after it. Counters count them all.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);
const LINES: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct LogLimit {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// True when a complaint may become a line.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines < LINES {
            self.lines += 1;
            return true;
        }
        self.left_out += 1;
        false
    }

    /// How many complaints were left out, once the window is over; 0 otherwise. Counts anew.
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

    #[test]
    fn a_flood_is_ten_lines_a_second_and_one_that_counts_the_rest() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut told = 0;
        for second in 0..3 {
            let lines = (0..500).filter(|i| limit.allows(at(1000 * second + i))).count();
            assert_eq!(lines, 10, "second {second}");
            assert_eq!(limit.take_left_out(at(1000 * second + 999)), 0, "not yet");
            told += limit.take_left_out(at(1000 * second + 1000));
            assert_eq!(limit.take_left_out(at(1000 * second + 1000)), 0, "told once");
        }
        assert_eq!(told, 3 * 490);
    }

    #[test]
    fn what_was_left_out_is_not_forgotten_when_nobody_asks_in_time() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        (0..15).for_each(|_| _ = limit.allows(start));
        (0..15).for_each(|_| _ = limit.allows(start + 2 * WINDOW));
        assert_eq!(limit.take_left_out(start + 4 * WINDOW), 10);
    }

    #[test]
    fn nothing_is_told_when_nothing_was_left_out() {
        let mut limit = LogLimit::default();
        let now = Instant::now();
        assert_eq!(limit.take_left_out(now), 0);
        assert!(limit.allows(now));
        assert_eq!(limit.take_left_out(now + 2 * WINDOW), 0);
    }
}
