//! What a node says of itself. Other parts of the node that have something to say get a field of
//! their own here, with `#[serde(default)]`, so that versions understand each other.

use super::{
    Answers,
    members::{self, MemberStatus},
    page,
    protocol::Query,
};
use crate::{
    NodeConfig,
    runtime::{End, Node, PeerLinks},
    storage_watch::{Found, Watched},
};
use pagewire_protocol::{Incarnation, InstanceId, LinkKind, TcpReason};
use pagewire_transport::{
    LinkPolicy,
    counters::{EndpointCounters, LaneCounters, PeerCounters},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

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
    /// What is wrong with that storage, and what to do; nothing where it is as it was.
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

    fn add(&mut self, counters: &EndpointCounters) {
        self.accepted += counters.accepted.get();
        self.not_a_hello += counters.not_a_hello.get();
        self.refused += counters.refused.get();
        self.proofs_refused += counters.proofs_refused.get();
        self.replays_refused += counters.replays_refused.get();
        self.handshakes_dropped += counters.handshakes_dropped.get();
        self.refused_unproven += counters.refused_unproven.get();
    }
}

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

/// Answers for a running node.
#[derive(Debug)]
pub struct NodeFacts {
    node: Arc<Node>,
    cluster: u64,
    transport: LinkPolicy,
    started: Instant,
    watched: Watched,
}

impl NodeFacts {
    /// For the node that was just started with `config`, whose storage somebody watches.
    #[must_use]
    pub fn new(node: Arc<Node>, config: &NodeConfig, watched: Watched) -> Self {
        let (cluster, transport) = (config.cluster.0, config.transport);
        Self { node, cluster, transport, started: Instant::now(), watched }
    }

    fn status(&self) -> Status {
        let (instance, incarnation) = self.node.identity();
        let found = self.watched.get();
        let peers: Vec<_> =
            self.node.links().iter().map(|links| self.peer(links, &found)).collect();
        let mut members = members::of(&self.node);
        members.iter_mut().for_each(|member| member.note_links(&peers));
        let mut connections = Connections::default();
        self.node.endpoint_counters().iter().for_each(|shard| connections.add(shard));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.cluster,
            instance: instance.0,
            incarnation: incarnation.0,
            listen: self.node.listen_addresses().iter().map(ToString::to_string).collect(),
            transport: match self.transport {
                LinkPolicy::Auto => "auto",
                LinkPolicy::Verbs => "verbs",
                LinkPolicy::Tcp => "tcp",
            }
            .to_owned(),
            storage_id: format!("{:016x}", self.node.marks().storage_id()),
            storage_problem: found.storage,
            up_s: self.started.elapsed().as_secs(),
            view: self.node.view().epoch().0,
            members,
            connections,
            invalidations: self.invalidations(),
            peers,
        }
    }

    fn invalidations(&self) -> Invalidations {
        let counters = self.node.counters();
        Invalidations {
            published: counters.si_published.get(),
            acknowledged: counters.si_acknowledged.get(),
            waiting: self.node.si_waiting(),
            delivered: counters.si_delivered.get(),
            resets: counters.si_resets.get(),
        }
    }

    fn peer(&self, links: &PeerLinks, found: &Found) -> PeerStatus {
        let name = |on: &Option<LinkKind>| match on {
            Some(LinkKind::Verbs) => Some("verbs".to_owned()),
            Some(LinkKind::Tcp) => Some("tcp".to_owned()),
            None => None,
        };
        let mut status = PeerStatus {
            instance: links.peer.0,
            links: links.on.iter().map(name).collect(),
            tcp_reasons: reasons(links, End::This),
            tcp_reasons_theirs: reasons(links, End::Other),
            falls_to_tcp: links.falls_to_tcp,
            ..PeerStatus::default()
        };
        for shard in self.node.endpoint_counters() {
            let of_peer = shard.peers().into_iter().filter(|(id, _)| *id == links.peer);
            of_peer.for_each(|(_, counters)| add(&mut status, &counters));
        }
        if let Some(later) = found.later.get(&links.peer)
            && status.links.iter().all(Option::is_none)
        {
            let no_link = status.no_link.get_or_insert_default();
            (no_link.reason, no_link.is_final) = (over(links.peer, *later), true);
        }
        status
    }
}

/// Of a peer whose life is over because it was started again.
fn over(peer: InstanceId, later: Incarnation) -> String {
    format!(
        "instance {peer} was started again, as incarnation {later}, and cannot take the place of its \
         earlier life, whose part of the directory is lost: stop all instances and start them together"
    )
}

/// Peers that there was a link with and is none, in the life that it was with last.
#[must_use]
pub fn gone_lives(node: &Node) -> Vec<(InstanceId, Incarnation)> {
    let mut gone = BTreeMap::new();
    for (id, counters) in node.endpoint_counters().iter().flat_map(|shard| shard.peers()) {
        let life = Incarnation(counters.incarnation.get());
        let is_gone = counters.is_known() && counters.on().is_none();
        // A link of any shard's says that it lives; a shard that never had one says nothing.
        let known = gone.entry(id).or_insert(Some(life));
        *known = known.filter(|_| is_gone).map(|known: Incarnation| known.max(life));
    }
    let met = |(id, life): (_, Option<Incarnation>)| Some((id, life.filter(|life| life.0 != 0)?));
    gone.into_iter().filter_map(met).collect()
}

fn reasons(links: &PeerLinks, end: End) -> BTreeMap<String, u64> {
    let of_end = links.all_reasons().filter(|(why, _)| why.end == end);
    of_end.map(|(why, count)| (TcpReason::name(why.reason).to_owned(), count)).collect()
}

/// With what a shard without a link has found; the words are those of the last one.
fn add_failure(no_link: &mut Option<NoLink>, counters: &PeerCounters) {
    let Some(failure) = counters.no_link.get() else { return };
    let last_s = failure.at.elapsed().as_secs();
    let before = no_link.take().unwrap_or(NoLink { last_s: u64::MAX, ..NoLink::default() });
    let tries = before.tries + failure.tries;
    let is_later = last_s <= before.last_s;
    let (reason, last_s) =
        if is_later { (failure.reason, last_s) } else { (before.reason, before.last_s) };
    *no_link = Some(NoLink { reason, tries, last_s, is_final: false });
}

fn add(status: &mut PeerStatus, counters: &PeerCounters) {
    add_failure(&mut status.no_link, counters);
    let lanes = |count: fn(&LaneCounters) -> u64| counters.lanes.iter().map(count).sum::<u64>();
    status.links_up += counters.links_up.get();
    status.links_down += counters.links_down.get();
    status.moves_to_verbs += counters.moves_to_verbs.get();
    status.messages_sent += lanes(|lane| lane.sent.get());
    status.messages_sent_again += lanes(|lane| lane.sent_again.get());
    status.messages_received += lanes(|lane| lane.received.get());
    status.page_bytes += lanes(|lane| lane.frame_bytes.get());
}

impl Answers for NodeFacts {
    fn answer(&self, query: &Query) -> Result<Value, String> {
        match query {
            Query::Status => serde_json::to_value(self.status()).map_err(|e| e.to_string()),
            Query::Page(tag) => {
                let peer = |links: &PeerLinks| self.peer(links, &self.watched.get());
                page::can_be_asked(&self.node, *tag, peer)?;
                let status = page::of(&self.node, self.cluster, *tag)?;
                serde_json::to_value(status).map_err(|e| e.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
