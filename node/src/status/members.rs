//! What a node knows of all members: who masters what, and what each says that it has.

use super::peer::{NoLink, PeerStatus};
use crate::runtime::Node;
use pagewire_protocol::{InstanceStat, PartitionId, tag::PARTITIONS};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long members may take to answer, all together.
const LIMIT: Duration = Duration::from_millis(500);

/// One member of the view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Its id.
    pub instance: u16,
    /// It is about to go.
    pub leaving: bool,
    /// Partitions of the directory that it masters.
    pub partitions: u16,
    /// What it says that it has; nothing where it did not answer.
    pub counts: Option<MemberCounts>,
    /// Why pages in its partitions cannot be had now, and until when; nothing where they can.
    pub problem: Option<String>,
}

impl MemberStatus {
    /// `peers` are all others, with their links.
    pub(super) fn note_links(&mut self, peers: &[PeerStatus]) {
        let of_member = peers.iter().find(|peer| peer.instance == self.instance);
        let problem = of_member.filter(|_| self.partitions > 0).and_then(problem);
        self.problem = problem
            .map(|until| format!("requests for pages in its partitions are not granted {until}"));
    }
}

/// Until when a peer answers nothing; `None`: it can.
pub(super) fn problem(peer: &PeerStatus) -> Option<&'static str> {
    let is_final = peer.no_link.as_ref().is_some_and(|NoLink { is_final, .. }| *is_final);
    match peer.links.iter().flatten().count() {
        0 if is_final => Some("until all instances are stopped and started together"),
        0 => Some("until there is a link with it again"),
        some if some < peer.links.len() => {
            Some("where their shard has no link with it, until it has one")
        }
        _ => None,
    }
}

/// What one member has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberCounts {
    /// Pages in its part of the directory.
    pub entries: u64,
    /// Its partitions whose entries are still being collected.
    pub loading: u16,
    /// Pages that it holds S.
    pub shared: u64,
    /// Pages that it holds X.
    pub exclusive: u64,
    /// Those of them that it has to write.
    pub dirty: u64,
    /// Past images that it keeps.
    pub past_images: u64,
    /// Requests of it that are not answered.
    pub requests: u64,
}

impl From<InstanceStat> for MemberCounts {
    fn from(stat: InstanceStat) -> Self {
        let InstanceStat { entries, loading, dirty, past_images, requests, .. } = stat;
        let (shared, exclusive) = (stat.held_shared, stat.held_exclusive);
        Self { entries, loading, shared, exclusive, dirty, past_images, requests }
    }
}

/// All members of the view that `node` has.
pub(super) fn of(node: &Node) -> Vec<MemberStatus> {
    let view = node.view();
    let ids: Vec<_> = view.members().iter().map(|member| member.id).collect();
    let stats = node.instance_stats(&ids, LIMIT);
    let member = |(member, stat): (&crate::view::Member, Option<InstanceStat>)| {
        let is_its = |partition: &u16| view.master_of(PartitionId(*partition)) == member.id;
        MemberStatus {
            instance: member.id.0,
            leaving: member.leaving,
            partitions: u16::try_from((0..PARTITIONS).filter(is_its).count()).unwrap_or(PARTITIONS),
            counts: stat.map(MemberCounts::from),
            problem: None,
        }
    };
    view.members().iter().zip(stats).map(member).collect()
}
