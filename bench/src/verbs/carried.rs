//! What carried the messages: that it was verbs all the time, and what it cost there.

use crate::{
    error::BenchError,
    spin::{Patience, Switch},
    ways::Ours,
};
use pagewire_protocol::LinkKind;
use pagewire_transport::counters::PeerCounters;
use serde_json::{Value, json};
use std::sync::Arc;

/// The counters of both ends, each of the other one.
#[derive(Debug, Clone)]
pub(super) struct Carried(Vec<Arc<PeerCounters>>);

/// Requests and calls of both ends, all messages together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    sends: u64,
    send_doorbells: u64,
    receive_doorbells: u64,
    completions: u64,
}

impl Carried {
    pub(super) fn new(one: &Ours, other: &Ours) -> Self {
        Self([one, other].into_iter().filter_map(Ours::counters).collect())
    }

    /// Polls this end until both have their messages on verbs; the other end polls itself. Where both
    /// dial at once, one of two links goes down before that: it was not measured.
    pub(super) fn begin(&self, this: &mut Ours, switch: &Switch) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "messages to move to verbs");
        while !self.0.iter().all(|end| end.on() == Some(LinkKind::Verbs)) {
            // In this order: once the other end may send, nothing is forgotten any more.
            this.forget_events();
            this.poll();
            patience.spin()?;
        }
        Ok(())
    }

    /// After `expected` messages: what they cost.
    ///
    /// # Errors
    /// [`BenchError::NotVerbs`] when some of them were elsewhere.
    pub(super) fn end(&self, expected: u64) -> Result<Cost, BenchError> {
        let sum = |count: fn(&PeerCounters) -> u64| self.0.iter().map(|end| count(end)).sum();
        let cost = Cost {
            sends: sum(|end| end.verbs.sends.get()),
            send_doorbells: sum(|end| end.verbs.send_doorbells.get()),
            receive_doorbells: sum(|end| end.verbs.receive_doorbells.get()),
            completions: sum(|end| end.verbs.completions.get()),
        };
        let moves = sum(|end| end.moves_to_verbs.get());
        let falls = sum(|end| end.falls_to_tcp.get());
        let elsewhere = self.0.iter().map(|end| end.on()).find(|on| *on != Some(LinkKind::Verbs));
        if elsewhere.is_none() && (moves, falls) == (2, 0) && cost.sends >= expected {
            return Ok(cost);
        }
        let on = elsewhere.unwrap_or(Some(LinkKind::Verbs));
        let on = on.map_or_else(|| "no link".to_owned(), |kind| kind.to_string());
        Err(BenchError::NotVerbs { on, moves, falls, sends: cost.sends, expected })
    }
}

impl Cost {
    pub(super) fn json(&self) -> Value {
        json!({
            "sends": self.sends,
            "send_doorbells": self.send_doorbells,
            "receive_doorbells": self.receive_doorbells,
            "completions": self.completions,
        })
    }

    pub(super) fn line(&self) -> String {
        format!(
            "verbs, both ends, warm-up included: {} sends with {} doorbells, {} doorbells for \
             receives, {} completions",
            self.sends, self.send_doorbells, self.receive_doorbells, self.completions
        )
    }
}
