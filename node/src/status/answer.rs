//! What a node says of itself as a whole. Other parts of the node that have something to say get a field
//! of their own here, with `#[serde(default)]`, so that versions understand each other.

use super::{members::MemberStatus, peer::PeerStatus};
use pagewire_transport::counters::EndpointCounters;
use serde::{Deserialize, Deserializer, Serialize};

/// A node as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its program's version.
    pub version: String,
    /// Its cluster.
    pub cluster: u64,
    /// Its id.
    pub instance: u16,
    /// Its life.
    pub incarnation: u64,
    /// Where its shards listen.
    pub listen: Vec<String>,
    /// What the configuration lets messages travel on: `auto`, `verbs` or `tcp`.
    pub transport: String,
    /// The number of the storage that it has before it, the same on all instances, in 16 hexadecimal
    /// digits: as a number many a reader of JSON would round it.
    #[serde(default, deserialize_with = "hex_or_number")]
    pub storage_id: String,
    /// What is wrong with that storage, and what to do: it is gone or replaced, or peers have another one.
    /// Nothing where it is as it was, and theirs, too.
    #[serde(default)]
    pub storage_problem: Option<String>,
    /// How long it runs, in seconds.
    pub up_s: u64,
    /// Number of the membership view that is in force.
    #[serde(default)]
    pub view: u64,
    /// The members of that view, this instance included, by id.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// Connections and handshakes, of all shards together.
    #[serde(default)]
    pub connections: Connections,
    /// Invalidations, published and received.
    #[serde(default)]
    pub invalidations: Invalidations,
    /// Its peers, by id.
    pub peers: Vec<PeerStatus>,
}

/// A node of an earlier version says a number.
fn hex_or_number<'a, D: Deserializer<'a>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Hex(String),
        Number(u64),
    }
    Ok(match Either::deserialize(from)? {
        Either::Hex(hex) => hex,
        Either::Number(number) => format!("{number:016x}"),
    })
}

/// Invalidations, in messages, since the instance started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Invalidations {
    /// Published here, and in the own ring.
    pub published: u64,
    /// Those of them that every member has.
    pub acknowledged: u64,
    /// Published here, and not acknowledged by all: tickets wait for them.
    pub waiting: u64,
    /// Of other instances, written into the own ring.
    pub delivered: u64,
    /// Times that the ring's readers were told to reset.
    pub resets: u64,
    /// What is wrong with the ring's file, and what to do; nothing where it is there and whole.
    pub ring_problem: Option<String>,
}

/// Connections that came in or were dialled, before they are links. Of those that were turned away the
/// log has no more than a few lines a second; here they are all counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Connections that came in.
    pub accepted: u64,
    /// Whose bytes were no handshake, or that ended in the middle of it.
    pub not_a_hello: u64,
    /// Refused for what the other side stated.
    pub refused: u64,
    /// Whose proof of the cluster key was wrong.
    pub proofs_refused: u64,
    /// That repeated an earlier handshake.
    pub replays_refused: u64,
    /// Dropped because the handshake took too long, or newer ones needed the place.
    pub handshakes_dropped: u64,
    /// Refusals by whoever answered at a peer's address, without a proof.
    pub refused_unproven: u64,
}

impl Connections {
    /// All that this instance turned away.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.not_a_hello
            + self.refused
            + self.proofs_refused
            + self.replays_refused
            + self.handshakes_dropped
    }

    pub(super) fn add(&mut self, counters: &EndpointCounters) {
        self.accepted += counters.accepted.get();
        self.not_a_hello += counters.not_a_hello.get();
        self.refused += counters.refused.get();
        self.proofs_refused += counters.proofs_refused.get();
        self.replays_refused += counters.replays_refused.get();
        self.handshakes_dropped += counters.handshakes_dropped.get();
        self.refused_unproven += counters.refused_unproven.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_storage_id_is_text_that_no_reader_rounds_and_that_of_an_older_node_is_read() {
        let status = |storage_id: Value| {
            let status = json!({
                "version": "0", "cluster": 1, "instance": 0, "incarnation": 1, "listen": [],
                "transport": "auto", "storage_id": storage_id, "up_s": 0, "peers": [],
            });
            Status::deserialize(status).unwrap()
        };
        let older = status(json!(u64::MAX - 1));
        assert_eq!(older.storage_id, "fffffffffffffffe");
        let newer = serde_json::to_value(&older).unwrap();
        assert_eq!(newer["storage_id"], "fffffffffffffffe");
        assert_eq!(status(newer["storage_id"].clone()), older);
    }
}
