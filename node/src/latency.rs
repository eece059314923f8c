//! How long grants took, by the way they came.
//!
//! Purpose: each worker records its own; the agent adds them up and reports them; the coordinator
//! adds the instances up and computes percentiles.
//!
//! Invariants: nanoseconds, as [`pagewire_transport::histogram`] tells them apart (at most 3.2 %
//! too great); a value beyond its bound counts as the bound; memory is fixed at start. A local hit
//! takes less time than two clock readings, so only a sample of them is timed: the others are in
//! `local_untimed`.

use crate::grd::GrantPath;
use pagewire_transport::histogram::Distribution;
use serde::{Deserialize, Serialize};

/// Grant latencies of one worker, or of many added up. Values in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct GrantLatencies {
    /// Timed local hits.
    pub local: Distribution,
    /// Local hits that were not timed.
    pub local_untimed: u64,
    /// Grants by the master.
    pub two_way: Distribution,
    /// Grants by another owner.
    pub three_way: Distribution,
    /// Grants with a read from storage.
    pub storage: Distribution,
}

impl GrantLatencies {
    /// Records one grant that took `nanoseconds`.
    pub fn record(&mut self, kind: GrantPath, nanoseconds: u64) {
        self.of_mut(kind).record(nanoseconds, 1);
    }

    /// Adds what `other` recorded.
    pub fn add(&mut self, other: &Self) {
        for kind in GrantPath::ALL {
            self.of_mut(kind).add(other.of(kind));
        }
        self.local_untimed += other.local_untimed;
    }

    /// The latencies of one kind.
    #[must_use]
    pub fn of(&self, kind: GrantPath) -> &Distribution {
        match kind {
            GrantPath::Local => &self.local,
            GrantPath::TwoWay => &self.two_way,
            GrantPath::ThreeWay => &self.three_way,
            GrantPath::Storage => &self.storage,
        }
    }

    fn of_mut(&mut self, kind: GrantPath) -> &mut Distribution {
        match kind {
            GrantPath::Local => &mut self.local,
            GrantPath::TwoWay => &mut self.two_way,
            GrantPath::ThreeWay => &mut self.three_way,
            GrantPath::Storage => &mut self.storage,
        }
    }

    /// Grants of one kind, untimed ones included.
    #[must_use]
    pub fn count(&self, kind: GrantPath) -> u64 {
        let untimed = if kind == GrantPath::Local { self.local_untimed } else { 0 };
        self.of(kind).count() + untimed
    }

    /// Count and percentiles of one kind.
    #[must_use]
    pub fn summary(&self, kind: GrantPath) -> GrantSummary {
        let histogram = self.of(kind);
        let at = |quantile| microseconds(histogram.quantile_ns(quantile));
        GrantSummary {
            count: self.count(kind),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: microseconds(histogram.max_ns()),
        }
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn to_wire(&self) -> GrantsWire {
        let of = |kind| KindWire {
            count: self.count(kind),
            histogram: self.of(kind).recorded().collect(),
        };
        GrantsWire {
            local: of(GrantPath::Local),
            two_way: of(GrantPath::TwoWay),
            three_way: of(GrantPath::ThreeWay),
            storage: of(GrantPath::Storage),
        }
    }

    /// Adds what came over the wire.
    pub fn add_wire(&mut self, wire: &GrantsWire) {
        for kind in GrantPath::ALL {
            let wire = match kind {
                GrantPath::Local => &wire.local,
                GrantPath::TwoWay => &wire.two_way,
                GrantPath::ThreeWay => &wire.three_way,
                GrantPath::Storage => &wire.storage,
            };
            let mut timed = 0u64;
            for (nanoseconds, count) in &wire.histogram {
                self.of_mut(kind).record(*nanoseconds, *count);
                timed = timed.saturating_add(*count);
            }
            if kind == GrantPath::Local {
                self.local_untimed += wire.count.saturating_sub(timed);
            }
        }
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    // Below 2^53 ns, as the bound is, exact to the nanosecond.
    nanoseconds as f64 / 1000.0
}

/// Count and percentiles of one kind of grant; all 0 where there was none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GrantSummary {
    /// Grants.
    pub count: u64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// 99.9th percentile, in microseconds.
    pub p999_us: f64,
    /// Greatest, in microseconds.
    pub max_us: f64,
}

/// One kind of grant on the wire between agent and coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KindWire {
    /// Grants, untimed ones included.
    pub count: u64,
    /// Latency in nanoseconds, and how many grants took it.
    pub histogram: Vec<(u64, u64)>,
}

/// All kinds of grant on the wire between agent and coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GrantsWire {
    /// Local hits.
    pub local: KindWire,
    /// Grants by the master.
    pub two_way: KindWire,
    /// Grants by another owner.
    pub three_way: KindWire,
    /// Grants with a read from storage.
    pub storage: KindWire,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> GrantLatencies {
        let mut latencies = GrantLatencies::default();
        for nanoseconds in 1..=1000 {
            latencies.record(GrantPath::Local, nanoseconds);
            latencies.record(GrantPath::ThreeWay, 1000 * nanoseconds);
        }
        latencies.local_untimed = 15_000;
        latencies.record(GrantPath::Storage, u64::MAX);
        latencies
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let summary = sample().summary(GrantPath::ThreeWay);
        assert_eq!(summary.count, 1000);
        for (told, right) in
            [(summary.p50_us, 500.0), (summary.p99_us, 990.0), (summary.max_us, 1000.0)]
        {
            assert!((right..=right * 1.032).contains(&told), "{summary:?}");
        }
        assert_eq!(sample().summary(GrantPath::Local).count, 16_000);
        assert_eq!(sample().summary(GrantPath::TwoWay), GrantSummary::default());
    }

    #[test]
    fn a_latency_beyond_the_bound_counts_as_the_bound() {
        let summary = sample().summary(GrantPath::Storage);
        assert_eq!(summary.count, 1);
        assert!(summary.max_us >= 1e8, "{summary:?}");
    }

    #[test]
    fn two_instances_over_the_wire_are_as_added_up_in_place() {
        let (mut direct, mut wired) = (sample(), GrantLatencies::default());
        direct.add(&sample());
        for _ in 0..2 {
            let text = serde_json::to_string(&sample().to_wire()).expect("JSON");
            wired.add_wire(&serde_json::from_str(&text).expect("parsed"));
        }
        for kind in GrantPath::ALL {
            assert_eq!(direct.summary(kind), wired.summary(kind), "{kind:?}");
        }
    }
}
