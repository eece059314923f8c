//! What an endpoint is told at start.

use crate::ClusterKey;
use pagewire_protocol::{ClusterId, Incarnation, InstanceId, Lane, hello::ProofKey};
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Receives that are posted for each peer, by lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneCredits(pub [u32; Lane::COUNT]);

impl LaneCredits {
    /// Receives posted for `lane`.
    #[must_use]
    pub fn of(&self, lane: Lane) -> u32 {
        self.0[lane.index()]
    }

    /// Frames that an endpoint needs of its arena for each peer: the receives of the lanes that
    /// carry frames, and as many again, because what was sent stays until it is acknowledged.
    #[must_use]
    pub fn frames_per_peer(&self) -> u32 {
        2 * (self.of(Lane::Pages) + self.of(Lane::Bulk))
    }
}

impl Default for LaneCredits {
    /// 256 control, 128 requests, 128 SI, 32 pages, 8 bulk.
    fn default() -> Self {
        Self([256, 128, 128, 32, 8])
    }
}

/// What an endpoint is told at start.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub instance: InstanceId,
    /// Its life; must be greater than that of every life before.
    pub incarnation: Incarnation,
    /// Address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Hash of the membership view; peers with another one are refused.
    pub view_hash: u64,
    /// Receives posted for each peer.
    pub credits: LaneCredits,
    /// Put a CRC-32C on each page sent. On arrival a CRC is checked whenever there is one.
    pub page_crc: bool,
    /// Whether a peer that ended may come back in a new life. A layer above that cannot recover what
    /// the former life knew says no; the newcomer is then refused, and told why.
    pub peers_may_return: bool,
    /// A connection whose handshake takes longer is dropped.
    pub handshake_timeout: Duration,
    /// A link that has nothing to say says so this often.
    pub keepalive: Duration,
    /// A link on which nothing was heard for so long is taken down. Several times
    /// [`EndpointConfig::keepalive`], and longer than the owner may go without polling.
    pub peer_timeout: Duration,
    /// A session that has had no link for so long ends, and what was not acknowledged is handed
    /// back. `None` leaves that to [`super::Endpoint::end_session`]: to the membership view.
    pub session_expiry: Option<Duration>,
    /// What both sides of every connection prove to have. Without one, whoever reaches the port and
    /// knows the cluster's id may speak; either all instances of a cluster have it or none.
    pub cluster_key: Option<ClusterKey>,
    /// Which of the instance's shards this endpoint is. It speaks to the same shard of its peers.
    pub shard: u16,
    /// Number of shards of the instance; the same on all instances.
    pub shards: u16,
    /// Seed of the jitter between dials; without one, from the system. For tests that repeat a run.
    pub jitter_seed: Option<u64>,
}

impl EndpointConfig {
    /// A configuration with defaults: the incarnation is the time of day in microseconds, page CRCs
    /// are on, the handshake may take 5 s, a keepalive goes out every second, a link may be silent
    /// for 10 s, and a session waits for a new link for 60 s; there is no cluster key and one shard.
    #[must_use]
    pub fn new(cluster: ClusterId, instance: InstanceId, listen: SocketAddr) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let incarnation = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        Self {
            cluster,
            instance,
            incarnation: Incarnation(incarnation),
            listen,
            view_hash: 0,
            credits: LaneCredits::default(),
            page_crc: true,
            peers_may_return: true,
            handshake_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(1),
            peer_timeout: Duration::from_secs(10),
            session_expiry: Some(Duration::from_secs(60)),
            cluster_key: None,
            shard: 0,
            shards: 1,
            jitter_seed: None,
        }
    }

    pub(super) fn proof_key(&self) -> ProofKey<'_> {
        self.cluster_key.as_ref().map_or(ProofKey::NONE, ClusterKey::proof_key)
    }

    /// Says that anybody may come in, when that is so.
    pub(super) fn warn_if_open(&self) {
        if let Some(text) = self.open_to_all() {
            tracing::warn!("{text}");
        }
    }

    fn open_to_all(&self) -> Option<String> {
        let is_open = self.cluster_key.is_none() && !self.listen.ip().is_loopback();
        is_open.then(|| {
            format!(
                "listening on {} without a cluster key: whoever reaches this port can speak as any \
                 instance; give all instances a cluster key file, or listen on a loopback address",
                self.listen
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_to_the_network_without_a_key_is_warned_of() {
        let key = ClusterKey::from_bytes(&[1; 32]);
        let warned = |listen: &str, cluster_key: &Option<ClusterKey>| {
            let listen = listen.parse().unwrap();
            let config = EndpointConfig::new(ClusterId(1), InstanceId(1), listen);
            EndpointConfig { cluster_key: cluster_key.clone(), ..config }.open_to_all()
        };
        for listen in ["0.0.0.0:7400", "10.0.0.1:7400", "[::]:7400"] {
            let text = warned(listen, &None).unwrap();
            assert!(text.contains(listen) && text.contains("cluster key file"), "{text}");
            assert_eq!(warned(listen, &key), None);
        }
        for listen in ["127.0.0.1:7400", "[::1]:7400"] {
            assert_eq!(warned(listen, &None), None);
        }
    }
}
