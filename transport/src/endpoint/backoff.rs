//! How long to wait before the next dial: pure, time and seed come from the caller.
//!
//! Equal jitter: each pause is one half fixed and one half random, and the range doubles with each
//! failure up to a limit. So the pauses of instances that lost their links at the same moment spread
//! out, and none is shorter than [`PAUSE_MIN`]: no storm.
//!
//! ```text
//!   failure   1          2          3           4  ...         6 and later
//!   pause     20..40 ms  40..80 ms  80..160 ms  160..320 ms    500..1000 ms
//! ```

use std::time::Duration;

/// Shortest pause.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Backoff {
    /// Longest of the next pause.
    range: Duration,
    random: SplitMix,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { range: 2 * PAUSE_MIN, random: SplitMix(seed) }
    }

    /// The next pause, and a longer one after it.
    pub(super) fn next_pause(&mut self) -> Duration {
        let half = self.range / 2;
        self.range = (self.range * 2).min(PAUSE_MAX);
        // Of 65,536 steps: fine enough, and no rounding to think about.
        let step = u32::try_from(self.random.next() >> 48).unwrap_or(0);
        half + half * step / (1 << 16)
    }

    /// There was success: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.range = 2 * PAUSE_MIN;
    }
}

/// Steele, Lea and Flood's SplitMix64: not for secrets.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts within `window`, when each fails at once.
    fn attempts(backoff: &mut Backoff, window: Duration) -> u32 {
        let mut now = Duration::ZERO;
        let mut count = 0;
        while now < window {
            count += 1;
            now += backoff.next_pause();
        }
        count
    }

    #[test]
    fn every_pause_is_within_its_bounds_and_the_bounds_double_up_to_the_limit() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(seed);
            let mut longest = 2 * PAUSE_MIN;
            for failure in 0..12 {
                let pause = backoff.next_pause();
                assert!(pause >= longest / 2 && pause <= longest, "{failure}: {pause:?}");
                assert!((PAUSE_MIN..=PAUSE_MAX).contains(&pause));
                longest = (2 * longest).min(PAUSE_MAX);
            }
            backoff.reset();
            assert!(backoff.next_pause() <= 2 * PAUSE_MIN);
        }
    }

    #[test]
    fn an_hour_of_a_dead_address_makes_no_storm() {
        for seed in 0..20 {
            let hour = attempts(&mut Backoff::new(seed), Duration::from_secs(3600));
            // One a second at the least, two at the most, and the short pauses at first.
            assert!((3600..=7200 + 6).contains(&hour), "{hour}");
            assert!(attempts(&mut Backoff::new(seed), Duration::from_secs(1)) <= 7);
        }
    }

    #[test]
    fn instances_that_fail_together_do_not_try_again_together() {
        let mut first: Vec<_> = (0..100).map(|seed| Backoff::new(seed).next_pause()).collect();
        first.sort_unstable();
        first.dedup();
        assert!(first.len() > 90, "{} of 100 pauses differ", first.len());
        // Spread over the range, not at one end of it.
        let (low, high) = (PAUSE_MIN * 5 / 4, PAUSE_MIN * 7 / 4);
        assert!(first.iter().any(|pause| *pause < low) && first.iter().any(|pause| *pause > high));
    }

    #[test]
    fn a_seed_gives_the_same_pauses_again() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..10).map(|_| backoff.next_pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(5), pauses(5));
        assert_ne!(pauses(5), pauses(6));
    }
}
