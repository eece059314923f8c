//! What `rate` prints.

use super::plan::{LEGS, Plan};
use crate::{
    pairing::{Rounds, Verdict},
    report::Report,
    stats::rounded,
};
use serde_json::{Value, json};

/// See the module.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    plan: &'a Plan,
    rounds: u32,
    /// Where it was measured.
    over: &'a str,
    ours: f64,
    bare: f64,
    batched: f64,
    ratio: f64,
    ratio_batched: f64,
    control: f64,
}

impl<'a> Figures<'a> {
    /// `figures` were measured in `rounds` rounds over `over`.
    pub(crate) fn new(
        plan: &'a Plan,
        rounds: u32,
        figures: &Rounds<{ LEGS.len() }>,
        over: &'a str,
    ) -> Self {
        let [ours, bare, again, batched] = [0, 1, 2, 3];
        Self {
            plan,
            rounds,
            over,
            ours: figures.median(ours),
            bare: figures.median(bare),
            batched: figures.median(batched),
            ratio: figures.ratio(ours, bare),
            ratio_batched: figures.ratio(ours, batched),
            control: figures.ratio(again, bare),
        }
    }

    #[allow(clippy::cast_precision_loss)] // At most a page.
    fn bytes_per_s(&self, messages_per_s: f64) -> f64 {
        messages_per_s * self.plan.size.bytes() as f64
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let leg = |messages_per_s: f64| {
            json!({
                "messages_per_s": messages_per_s.round(),
                "bytes_per_s": self.bytes_per_s(messages_per_s).round(),
            })
        };
        json!({
            "size": self.plan.size.bytes(),
            "ours": leg(self.ours),
            "bare": leg(self.bare),
            "bare_batched": leg(self.batched),
            "ratio": rounded(self.ratio),
            "ratio_batched": rounded(self.ratio_batched),
            "control": rounded(self.control),
            "rounds": self.rounds,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(Verdict::of(self.control, self.rounds))
    }

    fn lines(&self) -> Vec<String> {
        let row = |name: &str, rate: f64| {
            format!("{name:<12} {rate:>12.0} {:>10.1}", self.bytes_per_s(rate) / 1e6)
        };
        vec![
            format!("one way over {}, {} B messages", self.over, self.plan.size.bytes()),
            format!("{:<12} {:>12} {:>10}", "", "messages/s", "MB/s"),
            row("ours", self.ours),
            row("bare", self.bare),
            row("bare batched", self.batched),
            format!(
                "ratio, median of {} rounds: {:.3} to bare (one write a message), {:.3} to bare \
                 batched (the same wire bytes, {} a call)",
                self.rounds, self.ratio, self.ratio_batched, self.plan.batch
            ),
            Verdict::of(self.control, self.rounds).to_string(),
        ]
    }
}
