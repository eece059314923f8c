//! Latency histograms: always on, cheap to record into, readable while they are written.
//!
//! Log-linear buckets: each power of two is cut into [`STEPS`] equal steps, so a bucket is at most
//! 1/32 of what it holds wide, and below 64 ns every nanosecond has its own.
//!
//! ```text
//!   value (ns)   0 .. 63    64 .. 127    128 .. 255   ...   2^36 .. 2^37 - 1   (137 s, the bound)
//!   width (ns)   1          2            4            ...   2^31
//! ```
//! A value counts as the greatest of its bucket: never less than what was recorded, and at most
//! 3.2 % more. What is beyond the bound counts as the bound.
//!
//! Memory is fixed: 8.5 KiB, allocated with the histogram; recording touches one counter of it.
//!
//! Threading: a [`Histogram`] has one writer and any number of readers; a [`Distribution`] is a
//! plain value, to be added up and asked.

use crate::counter::Counter;
use std::{fmt, time::Duration};

const STEPS_LOG2: u32 = 5;
/// Steps that a power of two is cut into.
pub const STEPS: u64 = 1 << STEPS_LOG2;
/// Greatest latency that is told apart, in nanoseconds.
pub const BOUND_NS: u64 = (1 << BOUND_LOG2) - 1;
const BOUND_LOG2: u32 = 37;
/// The first two powers share the first `2 * STEPS` buckets, the others have `STEPS` each.
const BUCKETS: usize = ((BOUND_LOG2 - STEPS_LOG2 + 1) * (1 << STEPS_LOG2)) as usize;

/// The bucket of `ns`.
#[inline]
#[allow(clippy::cast_possible_truncation)] // Less than BUCKETS, by the bound.
fn bucket(ns: u64) -> usize {
    let ns = if ns > BOUND_NS { BOUND_NS } else { ns };
    // How far the value must go right to be one of STEPS .. 2 * STEPS; 0 for the smallest.
    let shift = (63 - (ns | STEPS).leading_zeros()) - STEPS_LOG2;
    ((u64::from(shift) << STEPS_LOG2) + (ns >> shift)) as usize
}

/// The greatest value that `bucket` holds.
fn greatest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = (bucket >> STEPS_LOG2) - 1;
    (((STEPS | (bucket & (STEPS - 1))) + 1) << shift) - 1
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Latencies that one thread records and any thread may read; see the module.
pub struct Histogram(Box<[Counter; BUCKETS]>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Counter::default())))
    }
}

impl Histogram {
    /// Records `ns` nanoseconds. Only the owning thread may call it: a plain load and store.
    #[inline]
    pub fn record(&self, ns: u64) {
        self.0[bucket(ns)].add(1);
    }

    /// Records a duration.
    #[inline]
    pub fn record_duration(&self, time: Duration) {
        self.record(nanoseconds(time));
    }

    /// What was recorded so far. While the owner goes on recording, each count is of some moment of
    /// the reading.
    #[must_use]
    pub fn snapshot(&self) -> Distribution {
        let mut counts = Distribution::default();
        for (count, counter) in counts.counts.iter_mut().zip(self.0.iter()) {
            *count = counter.get();
        }
        counts
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

/// How latencies are distributed: of one histogram at one time, or of many added up.
#[derive(Clone, PartialEq, Eq)]
pub struct Distribution {
    counts: Box<[u64; BUCKETS]>,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]) }
    }
}

impl Distribution {
    /// Records `ns` nanoseconds, `times` times.
    #[inline]
    pub fn record(&mut self, ns: u64, times: u64) {
        let count = &mut self.counts[bucket(ns)];
        *count = count.saturating_add(times);
    }

    /// Adds what `other` holds.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*more);
        }
    }

    /// Takes away what an `earlier` snapshot of the same histogram holds: what is left was recorded
    /// in between.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut between = self.clone();
        for (count, less) in between.counts.iter_mut().zip(earlier.counts.iter()) {
            *count = count.saturating_sub(*less);
        }
        between
    }

    /// Values recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value in nanoseconds that a share `quantile` (0 to 1) of those recorded does not exceed;
    /// 0 where nothing was recorded.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to `count`, both exact.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let count = self.count();
        let wanted = (quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64;
        let mut seen = 0u64;
        for (ns, count) in self.recorded() {
            seen = seen.saturating_add(count);
            if seen >= wanted {
                return ns;
            }
        }
        self.max_ns()
    }

    /// The greatest value in nanoseconds; 0 where nothing was recorded.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.recorded().last().map_or(0, |(ns, _)| ns)
    }

    /// Every value in nanoseconds that occurs, rising, and how often it does. Recorded into another
    /// distribution they give the same counts.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let at = self.counts.iter().enumerate();
        at.filter(|(_, count)| **count > 0).map(|(at, count)| (greatest(at), *count))
    }
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distribution")
            .field("count", &self.count())
            .field("p50_ns", &self.quantile_ns(0.5))
            .field("p99_ns", &self.quantile_ns(0.99))
            .field("max_ns", &self.max_ns())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        assert_eq!(bucket(0), 0);
        for at in 0..BUCKETS {
            assert_eq!(bucket(greatest(at)), at, "the greatest of a bucket is in it");
            assert_eq!(bucket(greatest(at) + 1), (at + 1).min(BUCKETS - 1), "the next is not");
        }
        assert_eq!(greatest(BUCKETS - 1), BOUND_NS);
    }

    proptest! {
        #[test]
        fn a_value_is_told_at_most_a_32nd_too_great(ns in 0u64..=BOUND_NS, shift in 0u32..37) {
            let ns = ns >> shift;
            let told = greatest(bucket(ns));
            prop_assert!(told >= ns && told - ns <= ns / STEPS, "{ns} told as {told}");
        }

        #[test]
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to 200.
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0u64..10_000_000, 1..200),
            quantile in 0.0f64..=1.0,
        ) {
            let histogram = Histogram::default();
            for &ns in &values {
                histogram.record(ns);
            }
            values.sort_unstable();
            let rank = (quantile * values.len() as f64).ceil().max(1.0) as usize;
            let told = histogram.snapshot().quantile_ns(quantile);
            prop_assert_eq!(told, greatest(bucket(values[rank - 1])));
        }
    }

    #[test]
    fn what_is_beyond_the_bound_counts_as_the_bound() {
        let histogram = Histogram::default();
        histogram.record(u64::MAX);
        histogram.record_duration(Duration::MAX);
        let told = histogram.snapshot();
        assert_eq!((told.count(), told.max_ns()), (2, BOUND_NS));
        assert!(
            u128::from(BOUND_NS) > Duration::from_secs(100).as_nanos(),
            "longer than any deadline"
        );
    }

    #[test]
    fn an_empty_one_tells_zeros() {
        let none = Distribution::default();
        assert_eq!((none.count(), none.quantile_ns(0.5), none.max_ns()), (0, 0, 0));
    }

    #[test]
    fn parts_add_up_and_can_be_taken_away_again() {
        let histogram = Histogram::default();
        (0..1000).for_each(|ns| histogram.record(ns * 100));
        let before = histogram.snapshot();
        (0..1000).for_each(|ns| histogram.record(ns * 7));
        let after = histogram.snapshot();
        let mut sum = after.since(&before);
        assert_eq!(sum.count(), 1000);
        assert_eq!(sum.max_ns(), greatest(bucket(6993)));
        sum.add(&before);
        assert_eq!(sum, after);
        let mut told = Distribution::default();
        after.recorded().for_each(|(ns, times)| told.record(ns, times));
        assert_eq!(told, after, "the values that are told stand for their buckets");
    }

    #[test]
    fn a_reader_sees_what_another_thread_records() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..10_000).for_each(|ns| histogram.record(ns)));
            let mut last = 0;
            while last < 10_000 {
                let count = histogram.snapshot().count();
                assert!(count >= last, "{count} after {last}");
                last = count;
                std::thread::yield_now();
            }
        });
        assert_eq!(histogram.snapshot().max_ns(), greatest(bucket(9999)));
    }
}
