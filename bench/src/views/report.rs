//! What `move` and `rebuild` print.

use super::{Args, Change, INSTANCES, LINK, Moved, Stretch, spent::Work};
use crate::{
    pairing::Verdict,
    report::Report,
    stats::{Samples, rounded, us},
};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest stall of a request that a planned move may cause.
const STALL_LIMIT_MS: f64 = 100.0;

/// The figures, ready to print.
#[derive(Debug)]
pub(super) struct Figures<'a> {
    pub(super) args: &'a Args,
    pub(super) change: Change,
    pub(super) populated: Duration,
    pub(super) before: Stretch,
    pub(super) moved: Moved,
    pub(super) after: Stretch,
    /// Requests for pages that the dead one held, once its redo was done, and how many it held.
    pub(super) recovered: Option<(Samples, usize)>,
    /// Requests that were refused.
    pub(super) failed: u64,
}

fn longest_ms(samples: &Samples) -> f64 {
    us(samples.max_ns()) / 1e3
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

impl Stretch {
    fn json(&self) -> Value {
        let mut object = self.requests.summary().json();
        object["ms"] = json!(rounded(ms(self.took)));
        object["longest_ms"] = json!(rounded(longest_ms(&self.requests)));
        object
    }

    fn line(&self, name: &str) -> String {
        let summary = self.requests.summary();
        format!(
            "{name:<8} {:>9.1} ms: {:>8} requests, p50 {:>7.2} us, p99 {:>8.2} us, longest {:>7.2} ms",
            ms(self.took),
            summary.samples,
            summary.p50_us,
            summary.p99_us,
            longest_ms(&self.requests),
        )
    }
}

impl Change {
    fn what(self) -> &'static str {
        match self {
            Self::Leave => "move",
            Self::Crash => "rebuild",
        }
    }
}

/// The same of whole nodes.
#[derive(Debug)]
pub(super) struct NodeFigures<'a> {
    pub(super) args: &'a Args,
    pub(super) change: Change,
    pub(super) populated: Duration,
    pub(super) partitions: usize,
    pub(super) before: Stretch,
    pub(super) during: Stretch,
    pub(super) after: Stretch,
    pub(super) failed: u64,
}

impl Report for NodeFigures<'_> {
    fn json(&self) -> Value {
        json!({
            "what": self.change.what(),
            "pages": self.args.pages,
            "nodes": INSTANCES,
            "partitions": self.partitions,
            "before": self.before.json(),
            "during": self.during.json(),
            "after": self.after.json(),
            "failed": self.failed,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn lines(&self) -> Vec<String> {
        let longest = longest_ms(&self.during.requests);
        let mut lines = vec![
            format!(
                "{}: {} of 4096 partitions, {} pages of 4 KiB cached by {INSTANCES} nodes in {:.1} s",
                self.change.what(),
                self.partitions,
                self.args.pages,
                self.populated.as_secs_f64()
            ),
            self.before.line("before"),
            self.during.line("during"),
            self.after.line("after"),
            format!("{} requests failed", self.failed),
        ];
        if self.change == Change::Leave {
            let verdict = if longest <= STALL_LIMIT_MS { "kept" } else { "missed" };
            lines.push(format!("no request over {STALL_LIMIT_MS} ms: {verdict}"));
        }
        lines
    }
}

impl Figures<'_> {
    fn where_it_went(&self) -> Vec<String> {
        let spent = &self.moved.spent;
        let line = |work: Work| {
            format!(
                "  {:<14} {:>9.1} ms, longest piece {:>7.3} ms",
                work.label(),
                ms(spent.sum(work)),
                ms(spent.longest(work))
            )
        };
        Work::ALL.map(line).into()
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let spent = &self.moved.spent;
        let of_work = |work: Work| {
            let figures = json!({
                "ms": rounded(ms(spent.sum(work))),
                "longest_ms": rounded(ms(spent.longest(work))),
            });
            (work.label().to_owned(), figures)
        };
        let work: serde_json::Map<_, _> = Work::ALL.into_iter().map(of_work).collect();
        json!({
            "what": self.change.what(),
            "pages": self.args.pages,
            "instances": INSTANCES,
            "partitions": self.moved.partitions,
            "before": self.before.json(),
            "during": self.moved.during.json(),
            "after": self.after.json(),
            "first_partition_ms": rounded(us(self.moved.ready.min_ns()) / 1e3),
            "median_partition_ms": rounded(us(self.moved.ready.quantile_ns(0.5)) / 1e3),
            "last_partition_ms": rounded(longest_ms(&self.moved.ready)),
            "work": work,
            "recovered_longest_ms": self.recovered.as_ref().map(|(r, _)| rounded(longest_ms(r))),
            "failed": self.failed,
            "link_us": us(u64::try_from(LINK.as_nanos()).unwrap_or(0)),
            "held_by_dead": self.recovered.as_ref().map(|(_, held)| held),
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn lines(&self) -> Vec<String> {
        let Self { args, moved, .. } = self;
        let mut lines = vec![
            format!(
                "{}: {} of 4096 partitions, {} pages cached by {INSTANCES} instances in {:.1} s",
                self.change.what(),
                moved.partitions,
                args.pages,
                self.populated.as_secs_f64()
            ),
            self.before.line("before"),
            moved.during.line("during"),
            self.after.line("after"),
            format!(
                "partitions usable again after {:.1} ms (first), {:.1} ms (median), {:.1} ms (last)",
                us(moved.ready.min_ns()) / 1e3,
                us(moved.ready.quantile_ns(0.5)) / 1e3,
                longest_ms(&moved.ready)
            ),
            format!("{} requests failed; processor time of all instances together:", self.failed),
        ];
        lines.extend(self.where_it_went());
        if let Some((recovered, held)) = &self.recovered {
            lines.push(format!(
                "redo done: {} of the {held} pages that the dead one held, longest {:.2} ms",
                recovered.count(),
                longest_ms(recovered)
            ));
        } else {
            // Those that were asked for during the move and granted after it as well.
            let longest = longest_ms(&moved.during.requests).max(longest_ms(&self.after.requests));
            let verdict = if longest <= STALL_LIMIT_MS { "kept" } else { "missed" };
            lines.push(format!("no request over {STALL_LIMIT_MS} ms: {verdict}"));
        }
        lines
    }
}
