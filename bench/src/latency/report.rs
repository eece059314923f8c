//! What `latency` prints.

use super::plan::{LEGS, Plan};
use crate::{
    pairing::{Paired, Verdict},
    report::Report,
    stats::{Summary, rounded},
};
use serde_json::{Value, json};

/// See the module.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    plan: &'a Plan,
    rounds: u32,
    /// Where it was measured.
    over: &'a str,
    ours: Summary,
    bare: Summary,
    plain: Summary,
    ratio_p50: f64,
    ratio_plain_p50: f64,
    control: f64,
}

impl<'a> Figures<'a> {
    /// `paired` was measured in `rounds` rounds over `over`.
    pub(crate) fn new(
        plan: &'a Plan,
        rounds: u32,
        paired: &Paired<{ LEGS.len() }>,
        over: &'a str,
    ) -> Self {
        let [ours, bare, again, plain] = [0, 1, 2, 3];
        Self {
            plan,
            rounds,
            over,
            ours: paired.samples(ours).summary(),
            bare: paired.samples(bare).summary(),
            plain: paired.samples(plain).summary(),
            ratio_p50: paired.ratio_p50(ours, bare),
            ratio_plain_p50: paired.ratio_p50(ours, plain),
            control: paired.ratio_p50(again, bare),
        }
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        json!({
            "request": self.plan.request.bytes(),
            "reply": self.plan.reply.bytes(),
            "sleep": self.plan.sleep,
            "ours": self.ours.json(),
            "bare": self.bare.json(),
            "plain": self.plain.json(),
            "ratio_p50": rounded(self.ratio_p50),
            "ratio_plain_p50": rounded(self.ratio_plain_p50),
            "control": rounded(self.control),
            "rounds": self.rounds,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(Verdict::of(self.control, self.rounds))
    }

    fn lines(&self) -> Vec<String> {
        let (request, reply) = (self.plan.request.bytes(), self.plan.reply.bytes());
        let manner = if self.plan.sleep { "sleep" } else { "spin" };
        let verdict = Verdict::of(self.control, self.rounds);
        vec![
            format!(
                "round trip over {}, {request} B request, {reply} B reply, both ends {manner}",
                self.over
            ),
            Summary::heading(),
            self.ours.row("ours"),
            self.bare.row("bare"),
            self.plain.row("plain"),
            format!(
                "ratio of p50, median of {} rounds: {:.3} to bare (same bytes and calls), {:.3} to \
                 plain (payload alone)",
                self.rounds, self.ratio_p50, self.ratio_plain_p50
            ),
            verdict.to_string(),
        ]
    }
}
