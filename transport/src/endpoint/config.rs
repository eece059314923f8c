//! What an endpoint is told at start.

use pagewire_protocol::{ClusterId, Incarnation, InstanceId, Lane};
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
}

impl EndpointConfig {
    /// A configuration with defaults: the incarnation is the time of day in microseconds, page CRCs
    /// are on, the handshake may take 5 s, a keepalive goes out every second, a link may be silent
    /// for 10 s, and a session waits for a new link for 60 s.
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
        }
    }
}
