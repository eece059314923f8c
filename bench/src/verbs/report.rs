//! What `verbs` prints.

use super::carried::Cost;
use crate::{
    pairing::Verdict,
    report::Report,
    stats::{Samples, rounded, us},
    ways::Size,
};
use pagewire_protocol::header::{FRAME_OFFSET_BYTES, HEADER_BYTES};
use serde_json::{Value, json};

/// Bytes that a message of this size is on the wire, without the network's own headers: what
/// perftest is to be given as `-s`.
fn wire_bytes(size: Size) -> usize {
    match size {
        Size::Small(body) => HEADER_BYTES + body,
        Size::Page => FRAME_OFFSET_BYTES + size.bytes(),
    }
}

/// Half round trips.
#[derive(Debug)]
pub(super) struct Latency {
    pub(super) size: Size,
    pub(super) sleep: bool,
    /// Whole round trips.
    pub(super) samples: Samples,
    pub(super) cost: Cost,
}

impl Latency {
    fn min_us(&self) -> f64 {
        us(self.samples.min_ns()) / 2.0
    }

    fn quantile_us(&self, quantile: f64) -> f64 {
        us(self.samples.quantile_ns(quantile)) / 2.0
    }
}

impl Report for Latency {
    fn json(&self) -> Value {
        json!({
            "size": self.size.bytes(),
            "wire_bytes": wire_bytes(self.size),
            "sleep": self.sleep,
            "min_us": rounded(self.min_us()),
            "p50_us": rounded(self.quantile_us(0.5)),
            "p99_us": rounded(self.quantile_us(0.99)),
            "samples": self.samples.summary().samples,
            "verbs": self.cost.json(),
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn lines(&self) -> Vec<String> {
        let manner = if self.sleep { "sleep" } else { "spin" };
        vec![
            format!(
                "half a round trip over verbs, {} B ({} B on the wire), both ends {manner}",
                self.size.bytes(),
                wire_bytes(self.size)
            ),
            format!(
                "least {:.2} us, p50 {:.2} us, p99 {:.2} us of {} round trips",
                self.min_us(),
                self.quantile_us(0.5),
                self.quantile_us(0.99),
                self.samples.summary().samples
            ),
            self.cost.line(),
        ]
    }
}

/// Pages a second, one way.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) depth: u32,
    pub(super) messages: u32,
    pub(super) messages_per_s: f64,
    pub(super) cost: Cost,
}

impl Report for Rate {
    fn json(&self) -> Value {
        json!({
            "size": Size::Page.bytes(),
            "wire_bytes": wire_bytes(Size::Page),
            "depth": self.depth,
            "messages": self.messages,
            "messages_per_s": self.messages_per_s.round(),
            "verbs": self.cost.json(),
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "one way over verbs, {} B pages ({} B on the wire), {} on their way at most",
                Size::Page.bytes(),
                wire_bytes(Size::Page),
                self.depth
            ),
            format!("{:.0} pages/s of {} pages", self.messages_per_s, self.messages),
            self.cost.line(),
        ]
    }
}
