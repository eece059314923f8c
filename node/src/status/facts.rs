//! Where a running node's answers come from.

use super::{
    Answers,
    answer::{Connections, Invalidations, Status},
    members, page,
    peer::{NoLink, PeerStatus},
    protocol::Query,
};
use crate::{
    NodeConfig,
    ring_watch::RingProblem,
    runtime::{End, Node, PeerLinks},
    storage_watch::{Found, Watched},
};
use pagewire_protocol::{Incarnation, InstanceId, LinkKind, TcpReason};
use pagewire_transport::{
    LinkPolicy,
    counters::{LaneCounters, PeerCounters},
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Answers for a running node.
#[derive(Debug)]
pub struct NodeFacts {
    node: Arc<Node>,
    cluster: u64,
    transport: LinkPolicy,
    started: Instant,
    watched: Watched,
    ring: RingProblem,
}

impl NodeFacts {
    /// For the node that was just started with `config`, whose storage and ring somebody watches.
    #[must_use]
    pub fn new(node: Arc<Node>, config: &NodeConfig, watched: Watched, ring: RingProblem) -> Self {
        let (cluster, transport) = (config.cluster.0, config.transport);
        Self { node, cluster, transport, started: Instant::now(), watched, ring }
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
            storage_problem: found.problem(),
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
            ring_problem: self.ring.get(),
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
        let problem = |found| format!("its storage is not this one: {found}");
        status.storage_problem = found.others.get(&links.peer).map(problem);
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
