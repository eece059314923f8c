//! Whether a peer still lives, and how long its session waits for it.
//!
//! Each side says something at least every [`EndpointConfig::keepalive`], and at least as often as the
//! other has stated in its hello that its patience wants: an acknowledgement of the control lane, when
//! it has nothing else to say. A link on which nothing was heard for
//! [`EndpointConfig::peer_timeout`] is taken down, however much was said on it. So a cut without FIN
//! is found by both sides, and a cut in one direction as well: who hears nothing closes, and what
//! that side says still arrives. When one connection of a link dies alone, the other is still heard:
//! the kernel fails it, once the other host has acknowledged nothing of what was sent for as long.
//!
//! What costs time on the data path is left out: traffic is noticed by its byte counts, when the
//! clock is looked at anyway.
//!
//! [`EndpointConfig::keepalive`]: super::EndpointConfig::keepalive
//! [`EndpointConfig::peer_timeout`]: super::EndpointConfig::peer_timeout

use super::{Endpoint, event::Event};
use crate::{Message, error::LinkError};
use pagewire_protocol::{Incarnation, InstanceId, Lane};
use std::time::{Duration, Instant};

/// When a peer was last heard of, and spoken to.
#[derive(Debug)]
pub(super) struct Liveness {
    heard_bytes: u64,
    heard_at: Instant,
    said_bytes: u64,
    said_at: Instant,
    /// How often the link's other end has to hear something.
    keepalive: Duration,
    /// Since when there has been no link.
    pub(super) down_since: Option<Instant>,
}

impl Liveness {
    /// Of a link that begins `now`, on which something is to be said every `keepalive`.
    pub(super) fn new(now: Instant, keepalive: Duration) -> Self {
        let (heard_bytes, said_bytes) = (0, 0);
        let (heard_at, said_at) = (now, now);
        Self { heard_bytes, heard_at, said_bytes, said_at, keepalive, down_since: None }
    }

    /// Takes note of what the link has moved so far.
    fn look(&mut self, (heard_bytes, said_bytes): (u64, u64), now: Instant) {
        if heard_bytes != self.heard_bytes {
            (self.heard_bytes, self.heard_at) = (heard_bytes, now);
        }
        if said_bytes != self.said_bytes {
            (self.said_bytes, self.said_at) = (said_bytes, now);
        }
    }
}

/// What is due for a peer.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// Nothing before that long.
    In(Duration),
    /// Say something.
    Keepalive,
    /// Take the link down: it has been silent for that long.
    Silent(Duration),
    /// End the session: it has waited long enough for a link.
    Expired,
}

/// Judges one peer. `linked` tells whether there is a link.
fn judge(
    liveness: &Liveness,
    linked: bool,
    (peer_timeout, expiry): (Duration, Option<Duration>),
    now: Instant,
) -> Due {
    let keepalive = liveness.keepalive;
    let since = |then: Instant| now.saturating_duration_since(then);
    if linked {
        let (silent, quiet) = (since(liveness.heard_at), since(liveness.said_at));
        if silent >= peer_timeout {
            Due::Silent(silent)
        } else if quiet >= keepalive {
            Due::Keepalive
        } else {
            Due::In((peer_timeout - silent).min(keepalive - quiet))
        }
    } else {
        match (expiry, liveness.down_since.map(since)) {
            (Some(expiry), Some(down)) if down >= expiry => Due::Expired,
            (Some(expiry), Some(down)) => Due::In(expiry - down),
            _ => Due::In(Duration::MAX),
        }
    }
}

impl Endpoint {
    fn due(&self, slot: usize, now: Instant) -> Due {
        let peer = &self.peers[slot];
        if peer.session.is_none() {
            return Due::In(Duration::MAX);
        }
        let config = &self.config;
        let limits = (config.peer_timeout, config.session_expiry);
        judge(&peer.liveness, peer.link.is_some(), limits, now)
    }

    /// How long until [`Endpoint::check_liveness`] has something to do.
    pub(super) fn next_liveness(&self, now: Instant) -> Duration {
        let due = (0..self.peers.len()).map(|slot| match self.due(slot, now) {
            Due::In(wait) => wait,
            _ => Duration::ZERO,
        });
        let read = self.next_read_deadline().map(|at| at.saturating_duration_since(now));
        due.chain(read).min().unwrap_or(Duration::MAX)
    }

    /// Ends reads at their deadline, sends keepalives, takes silent links down, ends sessions that have expired.
    pub(super) fn check_liveness(&mut self, now: Instant) {
        self.expire_reads(now);
        for slot in 0..self.peers.len() {
            let peer = &mut self.peers[slot];
            if let Some(link) = &mut peer.link {
                peer.liveness.look(link.tcp_mut().traffic_bytes(), now);
            }
            match self.due(slot, now) {
                Due::In(_) => {}
                Due::Keepalive => {
                    let me = self.config.instance;
                    let peer = &mut self.peers[slot];
                    // Once an interval, even while the link takes no bytes.
                    peer.liveness.said_at = now;
                    peer.keep_alive(me);
                    // It leaves now and is noted now: at the next look it would pass for something said
                    // then, and every second keepalive be left out.
                    self.flush();
                    let peer = &mut self.peers[slot];
                    if let Some(link) = &mut peer.link {
                        peer.liveness.look(link.tcp_mut().traffic_bytes(), now);
                    }
                }
                Due::Silent(silent) => {
                    let (silent_ms, limit_ms) =
                        (silent.as_millis(), self.config.peer_timeout.as_millis());
                    self.link_down(slot, LinkError::Silent { silent_ms, limit_ms });
                }
                Due::Expired => {
                    if let Some((incarnation, undelivered)) = self.end(slot) {
                        let peer = self.peers[slot].id;
                        self.events.push_back(Event::Ended { peer, incarnation, undelivered });
                    }
                }
            }
        }
    }

    /// Ends the session with `peer`: the membership view says that this incarnation is over. It may
    /// not come back; a later one may, if [`EndpointConfig::peers_may_return`] says so. Hands back
    /// what was not acknowledged, with unknown outcome, together with the incarnation; `None` when
    /// there is no session. Events that were there before are still taken, then comes the end of
    /// its link as [`Event::Down`].
    ///
    /// [`EndpointConfig::peers_may_return`]: super::EndpointConfig::peers_may_return
    pub fn end_session(&mut self, peer: InstanceId) -> Option<(Incarnation, Vec<(Lane, Message)>)> {
        let slot = self.slot(peer)?;
        self.end(slot)
    }

    pub(super) fn end(&mut self, slot: usize) -> Option<(Incarnation, Vec<(Lane, Message)>)> {
        self.link_down(slot, LinkError::Ended);
        let peer = &mut self.peers[slot];
        let session = peer.session.take()?;
        let incarnation = peer.incarnation.take()?;
        peer.forming = None;
        peer.liveness.down_since = None;
        peer.ended = Some(incarnation);
        self.end_reads(slot);
        Some((incarnation, session.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPALIVE: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(5);
    const EXPIRY: Duration = Duration::from_secs(20);

    fn at(liveness: &Liveness, linked: bool, now: Instant) -> Due {
        judge(liveness, linked, (TIMEOUT, Some(EXPIRY)), now)
    }

    #[test]
    fn a_quiet_link_gets_a_keepalive_each_interval_and_a_busy_one_none() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, KEEPALIVE);
        assert_eq!(at(&liveness, true, start), Due::In(KEEPALIVE));
        assert_eq!(at(&liveness, true, start + KEEPALIVE), Due::Keepalive);
        liveness.look((0, 128), start + KEEPALIVE);
        assert_eq!(at(&liveness, true, start + KEEPALIVE), Due::In(KEEPALIVE));
    }

    #[test]
    fn a_link_is_silent_when_nothing_was_heard_for_the_timeout_however_much_was_said() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, KEEPALIVE);
        for second in 1..5 {
            let now = start + Duration::from_secs(second);
            liveness.look((0, second * 128), now);
            assert_eq!(at(&liveness, true, now), Due::In(KEEPALIVE.min(start + TIMEOUT - now)));
        }
        liveness.look((0, 999), start + TIMEOUT);
        assert_eq!(at(&liveness, true, start + TIMEOUT), Due::Silent(TIMEOUT));
        liveness.look((128, 999), start + TIMEOUT);
        assert_eq!(at(&liveness, true, start + TIMEOUT), Due::In(KEEPALIVE));
    }

    #[test]
    fn a_session_expires_only_without_a_link_and_only_if_configured() {
        let start = Instant::now();
        let late = start + EXPIRY;
        let mut liveness = Liveness::new(start, KEEPALIVE);
        assert_eq!(at(&liveness, false, late), Due::In(Duration::MAX));
        liveness.down_since = Some(start);
        assert_eq!(at(&liveness, false, late), Due::Expired);
        assert_eq!(at(&liveness, false, start), Due::In(EXPIRY));
        let never = judge(&liveness, false, (TIMEOUT, None), late);
        assert_eq!(never, Due::In(Duration::MAX));
    }
}
