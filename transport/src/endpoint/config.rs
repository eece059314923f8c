//! What an endpoint is told at start.

use crate::{ClusterKey, TransportError, link::verbs::Overrides};
use pagewire_protocol::{ClusterId, Epoch, Incarnation, InstanceId, Lane, hello::ProofKey};
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Longest time that a configuration may name.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Most receives of a lane.
const CREDITS_MAX: u32 = 65_536;

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
        self.of(Lane::Pages).saturating_add(self.of(Lane::Bulk)).saturating_mul(2)
    }
}

impl Default for LaneCredits {
    /// 256 control, 128 requests, 128 SI, 32 pages, 8 bulk.
    fn default() -> Self {
        Self([256, 128, 128, 32, 8])
    }
}

/// What messages may travel on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkPolicy {
    /// Verbs with peers where both ends can, TCP with the others and whenever verbs fails.
    #[default]
    Auto,
    /// Verbs; a peer with which it cannot be used gets no link. An error where this host cannot.
    Verbs,
    /// TCP.
    Tcp,
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
    /// Number of the membership view.
    pub view_epoch: Epoch,
    /// Its hash; peers with another view of the same number are refused.
    pub view_hash: u64,
    /// Which storage this end has, as [`storage_mark`](pagewire_protocol::hello::storage_mark) folds its
    /// number; peers with another one are refused. 0: not said, and fits any.
    pub storage_mark: u16,
    /// Receives posted for each peer.
    pub credits: LaneCredits,
    /// Put a CRC-32C on each page sent. On arrival a CRC is checked whenever there is one.
    pub page_crc: bool,
    /// Whether a peer that ended may come back in a new life. A layer above that cannot recover what
    /// the former life knew says no; the newcomer is then refused, and told why.
    pub peers_may_return: bool,
    /// A connection whose handshake takes longer is dropped.
    pub handshake_timeout: Duration,
    /// A link that has nothing to say says so this often; more often, down to every 10 ms, to a peer
    /// whose `peer_timeout` wants it.
    pub keepalive: Duration,
    /// A link on which nothing was heard for so long is taken down. Several times
    /// [`EndpointConfig::keepalive`], and longer than the owner may go without polling. Peers are told
    /// a third of it with each link, and keep to it, whatever their own `keepalive`; one of protocol
    /// version 3 or 2 is not, and must have a `keepalive` of at most half of it.
    pub peer_timeout: Duration,
    /// A session that has had no link for so long ends, and what was not acknowledged is handed
    /// back; the two incarnations do not speak again. When a cut outlasts it on both sides, one of
    /// them has to begin a new life. `None` leaves that to [`super::Endpoint::end_session`]: to the membership view.
    pub session_expiry: Option<Duration>,
    /// What both sides of every connection prove to have. Without one, whoever reaches the port and
    /// knows the cluster's id may speak; either all instances of a cluster have it or none.
    pub cluster_key: Option<ClusterKey>,
    /// Which of the instance's shards this endpoint is. It speaks to the same shard of its peers.
    pub shard: u16,
    /// Number of shards of the instance; the same on all instances.
    pub shards: u16,
    /// What messages may travel on.
    pub links: LinkPolicy,
    /// Which RDMA device, port and address to use, where the address of the TCP connection does not
    /// say.
    pub verbs: Overrides,
    /// One-sided reads ([`super::Endpoint::read_page`]), with peers that have turned them on, too. Such
    /// peers can read every region that [`super::Endpoint::open_region`] opens.
    pub one_sided_reads: bool,
    /// A one-sided read that has brought no page after so long ends with
    /// [`ReadError::TimedOut`](crate::ReadError::TimedOut).
    pub read_timeout: Duration,
    /// Seed of the jitter between dials; without one, from the system. For tests that repeat a run.
    pub jitter_seed: Option<u64>,
}

impl EndpointConfig {
    /// A configuration with defaults: the incarnation is the time of day in microseconds, page CRCs
    /// are on, the handshake may take 5 s, a keepalive goes out every second, a link may be silent
    /// for 10 s, and a session waits for a new link for 60 s; there is no cluster key and one shard,
    /// and one-sided reads are off; where they are turned on, one may take 10 s.
    #[must_use]
    pub fn new(cluster: ClusterId, instance: InstanceId, listen: SocketAddr) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let incarnation = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        Self {
            cluster,
            instance,
            incarnation: Incarnation(incarnation),
            listen,
            view_epoch: Epoch(0),
            view_hash: 0,
            storage_mark: 0,
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
            links: LinkPolicy::Auto,
            verbs: Overrides::default(),
            one_sided_reads: false,
            read_timeout: Duration::from_secs(10),
            jitter_seed: None,
        }
    }

    /// Refuses what cannot work, before anybody waits for it in vain.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        let refuse = |what, found, expected| Err(TransportError::Config { what, found, expected });
        let times = [
            ("handshake_timeout", self.handshake_timeout),
            ("keepalive", self.keepalive),
            ("read_timeout", self.read_timeout),
        ];
        for (what, time) in times {
            if time < Duration::from_millis(1) || time > TIME_MAX {
                return refuse(what, format!("{time:?}"), "1 ms to 1 day");
            }
        }
        let silent = self.peer_timeout;
        if silent < 2 * self.keepalive || silent > TIME_MAX {
            let expected = "at least twice `keepalive`, at most 1 day: links would be taken down";
            return refuse("peer_timeout", format!("{silent:?}"), expected);
        }
        for lane in Lane::ALL {
            let credits = self.credits.of(lane);
            if credits == 0 || credits > CREDITS_MAX {
                let found = format!("{credits} for {lane:?}");
                return refuse("credits", found, "1 to 65536: a lane without any never sends");
            }
        }
        if self.shards == 0 {
            return refuse("shards", "0".into(), "at least 1");
        }
        Ok(())
    }

    /// What a peer is told of [`EndpointConfig::peer_timeout`], in milliseconds: pauses of a third of it
    /// leave room for one late keepalive and for the time that it travels.
    pub(super) fn pause_max_ms(&self) -> u16 {
        let pause_ms = (self.peer_timeout / 3).as_millis().max(1);
        u16::try_from(pause_ms).unwrap_or(u16::MAX)
    }

    /// How often to say something to a peer that has stated that it bears pauses of `pause_max_ms`
    /// (0: it has not): as often as configured or as that wants, but for no peer's sake more often
    /// than every 10 ms.
    pub(super) fn keepalive_for(&self, pause_max_ms: u16) -> Duration {
        const FASTEST: Duration = Duration::from_millis(10);
        match Duration::from_millis(pause_max_ms.into()) {
            Duration::ZERO => self.keepalive,
            wanted => self.keepalive.min(wanted.max(FASTEST)),
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
    fn a_configuration_that_cannot_work_is_refused_with_the_value_and_what_it_may_be() {
        let good = EndpointConfig::new(ClusterId(1), InstanceId(1), "127.0.0.1:0".parse().unwrap());
        good.check().unwrap();
        let ms = Duration::from_millis;
        let mut one_lane_without = LaneCredits::default();
        one_lane_without.0[2] = 0;
        let bad = [
            (EndpointConfig { keepalive: ms(0), ..good.clone() }, "keepalive is 0ns"),
            (EndpointConfig { handshake_timeout: ms(0), ..good.clone() }, "handshake_timeout"),
            (EndpointConfig { read_timeout: ms(0), ..good.clone() }, "read_timeout is 0ns"),
            (EndpointConfig { handshake_timeout: Duration::MAX, ..good.clone() }, "1 ms to 1 day"),
            (EndpointConfig { peer_timeout: ms(1999), ..good.clone() }, "twice `keepalive`"),
            (EndpointConfig { credits: one_lane_without, ..good.clone() }, "0 for Si"),
            (EndpointConfig { credits: LaneCredits([u32::MAX; 5]), ..good.clone() }, "1 to 65536"),
            (EndpointConfig { shards: 0, ..good.clone() }, "shards is 0, expected at least 1"),
        ];
        for (config, part) in bad {
            let text = config.check().unwrap_err().to_string();
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        assert_eq!(LaneCredits([u32::MAX; 5]).frames_per_peer(), u32::MAX);
    }

    #[test]
    fn a_peer_with_less_patience_hears_more_often_but_not_more_than_every_10_ms() {
        let base = EndpointConfig::new(ClusterId(1), InstanceId(1), "127.0.0.1:0".parse().unwrap());
        let ms = Duration::from_millis;
        let of = |keepalive, timeout| EndpointConfig {
            keepalive: ms(keepalive),
            peer_timeout: ms(timeout),
            ..base.clone()
        };
        let stated = |timeout| of(1, timeout).pause_max_ms();
        assert_eq!([2, 3, 300, 10_000].map(stated), [1, 1, 100, 3333]);
        assert_eq!(stated(86_400_000), u16::MAX);
        let slow = of(60_000, 120_000);
        let pauses = [(0, 60_000), (1, 10), (10, 10), (100, 100), (u16::MAX, 60_000)];
        for (pause_max_ms, keepalive) in pauses {
            assert_eq!(slow.keepalive_for(pause_max_ms), ms(keepalive), "{pause_max_ms}");
        }
        assert_eq!(of(5, 10).keepalive_for(1), ms(5), "as configured");
        assert_eq!(of(5, 10).keepalive_for(3000), ms(5), "as configured");
    }

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
