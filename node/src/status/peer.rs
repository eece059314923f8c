//! What a node says of a peer.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its id.
    pub instance: u16,
    /// What messages with it go over, by shard: `verbs`, `tcp` or nothing.
    pub links: Vec<Option<String>>,
    /// Why there is none, where a shard has none and something was found.
    pub no_link: Option<NoLink>,
    /// That its storage is another one than the node's, with what was found; the node's own problem has
    /// what to do.
    pub storage_problem: Option<String>,
    /// Links that came up, of all shards together, as all that follow.
    pub links_up: u64,
    /// Links that went down.
    pub links_down: u64,
    /// Times that messages moved from TCP to verbs.
    pub moves_to_verbs: u64,
    /// Times that they fell back.
    pub falls_to_tcp: u64,
    /// How often verbs was not used, or was given up, for a reason of this end's, by the reason's name:
    /// each try counts, and each fall, however few links there were. Verbs is tried again on the same
    /// link after 1 s, and after ever longer up to 60 s.
    pub tcp_reasons: BTreeMap<String, u64>,
    /// The same for reasons of the other end's.
    pub tcp_reasons_theirs: BTreeMap<String, u64>,
    /// Messages sent for the first time.
    pub messages_sent: u64,
    /// Messages sent again on a later link.
    pub messages_sent_again: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Of pages sent and received, in bytes.
    pub page_bytes: u64,
}

/// Why there is no link with a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoLink {
    /// What the last try found, in words, or what the last link ended with.
    pub reason: String,
    /// Tries that have failed since there was a link, of all shards together.
    pub tries: u64,
    /// How long ago the last one failed, in seconds.
    pub last_s: u64,
    /// The life that there was a link with is over, and no link is tried any more: `reason` says what to do.
    pub is_final: bool,
}
