//! Latency samples and what is printed of them.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest latency told apart; longer ones count as this.
const MAX_NS: u64 = 60_000_000_000;
/// Three digits: 8 ns at 10 us.
const DIGITS: u8 = 3;

/// Latencies of one leg.
#[derive(Debug, Clone)]
pub(crate) struct Samples(Histogram<u64>);

impl Samples {
    /// None yet.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram accepts.
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_NS, DIGITS).expect("constant bounds are valid"))
    }

    /// Adds one.
    #[inline]
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(MAX_NS));
    }

    /// Adds those of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Latency that the fraction `quantile` of the samples does not exceed, in nanoseconds. 0 when
    /// there are none.
    pub(crate) fn quantile_ns(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The longest, in nanoseconds. 0 when there are none.
    pub(crate) fn max_ns(&self) -> u64 {
        self.0.max()
    }

    /// The shortest, in nanoseconds. 0 when there are none.
    pub(crate) fn min_ns(&self) -> u64 {
        self.0.min()
    }

    /// What is printed.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            p50_us: us(self.quantile_ns(0.5)),
            p99_us: us(self.quantile_ns(0.99)),
            p999_us: us(self.quantile_ns(0.999)),
            max_us: us(self.0.max()),
            samples: self.0.len(),
        }
    }
}

/// Nanoseconds in microseconds.
pub(crate) fn us(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

/// What is printed of a leg.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// Median.
    pub(crate) p50_us: f64,
    /// 99 of 100 are no longer.
    pub(crate) p99_us: f64,
    /// 999 of 1000 are no longer.
    pub(crate) p999_us: f64,
    /// The longest.
    pub(crate) max_us: f64,
    /// How many there were.
    pub(crate) samples: u64,
}

impl Summary {
    /// The object in the benchmark's JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "p50_us": rounded(self.p50_us),
            "p99_us": rounded(self.p99_us),
            "p999_us": rounded(self.p999_us),
            "max_us": rounded(self.max_us),
            "samples": self.samples,
        })
    }

    /// Names of the columns of [`Summary::row`].
    pub(crate) fn heading() -> String {
        row("", ["p50 us", "p99 us", "p99.9 us", "max us", "samples"].map(String::from))
    }

    /// One line of a table for people.
    pub(crate) fn row(&self, name: &str) -> String {
        let figures =
            [self.p50_us, self.p99_us, self.p999_us, self.max_us].map(|v| format!("{v:.2}"));
        let [p50, p99, p999, max] = figures;
        row(name, [p50, p99, p999, max, self.samples.to_string()])
    }
}

fn row(name: &str, cells: [String; 5]) -> String {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>10}")).collect();
    format!("{name:<12}{cells}")
}

/// Three decimals: nanoseconds of a figure in microseconds, thousandths of a ratio.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The middle value, or the mean of the two in the middle; NaN when there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_out_in_microseconds_to_three_digits() {
        let mut samples = Samples::new();
        for us in 1..=1000 {
            samples.record(Duration::from_micros(us));
        }
        let summary = samples.summary();
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 2e-3;
        assert!(near(summary.p50_us, 500.0), "{summary:?}");
        assert!(near(summary.p99_us, 990.0), "{summary:?}");
        assert!(near(summary.p999_us, 999.0), "{summary:?}");
        assert!(near(summary.max_us, 1000.0), "{summary:?}");
        assert_eq!(summary.samples, 1000);
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_counted_not_lost() {
        let mut samples = Samples::new();
        samples.record(Duration::from_secs(3600));
        samples.record(Duration::ZERO);
        assert_eq!(samples.summary().samples, 2);
        assert!(samples.summary().max_us >= 59e6);
    }

    #[test]
    fn merged_samples_are_those_of_both() {
        let (mut a, mut b) = (Samples::new(), Samples::new());
        a.record(Duration::from_nanos(100));
        b.record(Duration::from_nanos(300));
        a.merge(&b);
        assert_eq!((a.summary().samples, a.quantile_ns(0.5), a.quantile_ns(1.0)), (2, 100, 300));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
        assert!((median(&[9.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn rows_line_up_with_the_heading() {
        let samples = Samples::new().summary();
        assert_eq!(samples.row("bare again").len(), Summary::heading().len());
    }
}
