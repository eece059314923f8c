//! From a bare connection to a link: dialling, accepting, the handshake, and when to try again.
//!
//! ```text
//!   dialler                                          acceptor
//!   connect, prove hello{small, link nonce} ----->   verify, judge: refuse, or begin a forming link
//!                   <----- prove hello{status}
//!   connect, prove hello{bulk, same nonce,
//!                        expected, credits} ----->   verify, judge, take the older link down
//!                   <----- prove hello{status, expected, credits}
//!   link up                                          link up
//! ```
//! Each connection makes the whole handshake of [`pagewire_protocol::hello`]; the link nonce, which
//! the proofs cover, ties the second one to the first. Before a proof has verified, nothing of a
//! connection touches a peer: no link, no forming link, no session.
//!
//! # Replacing a link
//!
//! A present link is taken down when the hello of the new link's *last* connection has been proven
//! and found good, and not before: a handshake that stops halfway disturbs nothing. At that moment,
//! and only then, the receives of the new link get their frames and both sides state which sequence
//! they expect next. Why these statements are still true when the link is switched:
//!
//! - *The dialler* dials only when it has no link. Its session delivers nothing between its last hello
//!   and the new link, so what it states stays exact. (If it accepts a link from the peer meanwhile,
//!   the attempt and its statement are dropped.)
//! - *The acceptor* may still have the older link, and may have delivered from it while the link was
//!   forming. It takes that link down first, then states, then sends: nothing arrives in between.
//!   What was still unread in the older link's sockets is not lost: it is not acknowledged, so the
//!   dialler keeps it, and the statement makes it send it again.
//! - *Acknowledgements* that the acceptor sent on the older link went to sockets that the dialler had
//!   given up, so the dialler has forgotten nothing that the statement asks for.
//! - *A hello that comes late* cannot put a dead link in the place of a newer one. A last connection
//!   fits only the forming link with its nonce, and any newer attempt from either side replaces
//!   that: an acceptor dials only when nothing is forming, and another first hello starts anew.
//!   So the link that goes is one that the dialler had lost before it began.
//!
//! # Both dial at once
//!
//! The instance with the greater id dials at once, the lesser one half a second later. If they meet
//! all the same, the greater id's link goes first: from the moment it has said its hello it answers
//! the other one "busy", and the lesser gives its own attempt up for the other's. Before that moment
//! the peer knows nothing of the attempt, so the greater one, too, gives it up. Pauses between dials
//! are jittered ([`super::backoff`]).

mod accept;
pub(super) mod attempt;
mod dial;
mod explain;
mod forming;
pub(super) mod reach;
mod wire;

pub(super) use accept::Incoming;

use wire::no_random;

use super::{
    Endpoint, EndpointConfig,
    event::Event,
    log_limit::{LogLimit, Who, Why},
    peer::Peer,
    token::{INCOMING_PLACES, Place},
};
use crate::{TransportError, error::LinkError};
use mio::event;
use pagewire_protocol::{
    InstanceId, Lane, LaneClass, LinkNonce, ProcessId, Sequence,
    hello::{Features, HandshakeError, Hello, Nonce, Refusal, Rejection, view_mark},
};
use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Connections in their handshake at the same time; for a further one the oldest is dropped.
pub(super) const MAX_INCOMING: usize = 64;
const _: () = assert!(MAX_INCOMING <= INCOMING_PLACES);
/// Diallers whose nonces are remembered, to tell a replay from a wrong key.
const REMEMBERED: usize = 256;

/// What an endpoint needs to let connections in or not.
#[derive(Debug)]
pub(super) struct Gate {
    process: ProcessId,
    jitter_seed: u64,
    /// Of the diallers that were proven last, the oldest first.
    proven: VecDeque<Nonce>,
    complaints: LogLimit,
}

impl Gate {
    /// # Errors
    /// [`TransportError::Shard`] when the configuration names one that does not exist,
    /// [`TransportError::Poller`] when the system has no random bytes.
    pub(super) fn new(config: &EndpointConfig) -> Result<Self, TransportError> {
        if config.shard >= config.shards {
            return Err(TransportError::Shard { shard: config.shard, shards: config.shards });
        }
        let random = || getrandom::u64().map_err(no_random);
        Ok(Self {
            process: ProcessId(random()?),
            jitter_seed: config.jitter_seed.map_or_else(random, Ok)?,
            proven: VecDeque::with_capacity(REMEMBERED),
            complaints: LogLimit::default(),
        })
    }

    /// Seed of the pauses between dials of `peer`.
    pub(super) fn seed_for(&self, peer: InstanceId) -> u64 {
        self.jitter_seed ^ u64::from(peer.0).rotate_left(48)
    }

    fn remember(&mut self, dialler: Nonce) {
        if self.proven.len() == REMEMBERED {
            self.proven.pop_front();
        }
        self.proven.push_back(dialler);
    }
}

impl Endpoint {
    pub(super) fn os_event(&mut self, event: &event::Event) {
        match Place::of(event.token()) {
            Place::Listener => self.accept(),
            Place::Waker | Place::Nothing => {}
            Place::Incoming(place) => self.progress_incoming(place),
            Place::Dial(slot) => self.progress_dial(slot),
            Place::Device => self.device_events(),
            Place::Link(slot, LaneClass::Page) => {
                let link = self.peers[slot].link.as_mut();
                if let Some(verbs) = link.and_then(|link| link.verbs_mut()) {
                    verbs.on_events();
                }
            }
            Place::Link(slot, class) => {
                if let Some(link) = &mut self.peers[slot].link {
                    let ended = event.is_read_closed() || event.is_error();
                    link.tcp_mut().ready(class, event.is_readable(), event.is_writable(), ended);
                }
            }
        }
    }

    /// How long [`Endpoint::wait`] may sleep before [`Endpoint::timers`] has something to do.
    pub(super) fn next_timer(&self) -> Duration {
        let now = Instant::now();
        let dials = self.peers.iter().filter_map(|peer| match &peer.forming {
            Some(forming) => Some(forming.deadline()),
            None => (peer.link.is_none() && self.may_dial(peer)).then_some(peer.dial_at),
        });
        let hellos = self.incoming.iter().flatten().map(Incoming::deadline);
        // No event tells that a frame has come back or that a connection can be accepted now.
        let waits = |peer: &Peer| peer.reads.as_ref().is_some_and(|reads| reads.wait_for_frames());
        let retry = self.owing || self.accept_again || self.peers.iter().any(waits);
        let retry = retry.then_some(now);
        dials
            .chain(hellos)
            .chain(retry)
            .chain(self.next_switch())
            .min()
            .map_or(Duration::from_secs(60), |at| at.saturating_duration_since(now))
            .max(Duration::from_millis(1))
    }

    /// A newcomer that may not return learns it when it dials.
    fn may_dial(&self, peer: &Peer) -> bool {
        let is_admitted = |ended| peer.admitted.is_some_and(|admitted| admitted > ended);
        let may_return = self.config.peers_may_return || peer.ended.is_none_or(is_admitted);
        !peer.is_vacant && may_return
    }

    pub(super) fn timers(&mut self, now: Instant) {
        if self.accept_again {
            self.accept();
        }
        self.drop_slow_incoming(now);
        for slot in 0..self.peers.len() {
            let peer = &self.peers[slot];
            match &peer.forming {
                Some(forming) if forming.deadline() <= now => {
                    let limit_ms = self.config.handshake_timeout.as_millis();
                    let is_connecting = forming.is_connecting();
                    let error = match is_connecting {
                        true => LinkError::ConnectTimeout { limit_ms },
                        false => LinkError::HandshakeTimeout { limit_ms },
                    };
                    self.unreachable(slot, &error);
                    // Meanwhile the other side, to which this one was busy, gets its turn.
                    self.peers[slot].retry_soon(now);
                }
                Some(forming) if forming.is_abandoned() => {
                    self.unreachable(slot, &LinkError::Closed);
                }
                Some(_) => {}
                None if peer.link.is_none() && peer.dial_at <= now && self.may_dial(peer) => {
                    self.dial(slot, now);
                }
                None => {}
            }
        }
        let left_out = self.gate.complaints.take_left_out(now);
        if left_out > 0 {
            tracing::warn!(
                "{left_out} more connections were turned away and not logged; the counters have \
                 them all"
            );
        }
    }

    /// A warning that somebody outside can cause: not more of them than a log can bear.
    fn complain(&mut self, who: Who, why: Why, text: fmt::Arguments<'_>) {
        match self.gate.complaints.allows(who, why, Instant::now()) {
            None => {}
            Some(0) => tracing::warn!("{text}"),
            Some(again) => tracing::warn!("{text} ({again} times more since it was told last)"),
        }
    }

    /// Our hello for one connection, without what is stated on the last one only.
    fn hello(&self, to: InstanceId, class: LaneClass, nonce: LinkNonce) -> Hello {
        Hello {
            shard: self.config.shard,
            shards: self.config.shards,
            class,
            refusal: None,
            cluster: self.config.cluster,
            instance: self.config.instance,
            to,
            page_size: self.arena.page_size(),
            storage_mark: self.config.storage_mark,
            incarnation: self.config.incarnation,
            process: self.gate.process,
            nonce,
            view_hash: self.config.view_hash,
            view_mark: view_mark(self.config.view_epoch),
            expected: [Sequence(0); Lane::COUNT],
            credits: [0; Lane::COUNT],
            features: match self.config.one_sided_reads {
                true => Features::READS | Features::CLOSING,
                false => Features::NONE,
            },
            pause_max_ms: self.config.pause_max_ms(),
        }
    }

    /// Counts a refusal of ours that came before a proof, and says what it is for.
    fn count_unproven(&self, rejection: &Rejection, dialler: Option<Nonce>) -> Why {
        let counters = &self.counters;
        let (counter, why) = match rejection.refusal {
            Refusal::Proof if dialler.is_some_and(|d| self.gate.proven.contains(&d)) => {
                (&counters.replays_refused, Why::Replay)
            }
            Refusal::Proof => (&counters.proofs_refused, Why::Refused(Refusal::Proof)),
            other => (&counters.refused, Why::Refused(other)),
        };
        counter.add(1);
        why
    }

    /// Tells the owner that `slot` refuses us, proven or not; at most one such event of each kind waits
    /// for each peer.
    fn refused_by(&mut self, slot: usize, refusal: Refusal, is_proven: bool, detail: String) {
        let (peer, address) = (self.peers[slot].id, self.peers[slot].address);
        let event = Event::Refused { peer, is_proven, address, refusal, detail };
        let waits = |event: &&mut Event| {
            matches!(event, Event::Refused { peer: p, is_proven: proven, .. }
                if (*p, *proven) == (peer, is_proven))
        };
        if let Some(earlier) = self.events.others_mut().find(waits) {
            *earlier = event;
        } else {
            self.events.push_back(event);
        }
    }
}

/// The refusal in an error of the handshake, if it is one of ours.
fn refused_by_us(error: &LinkError) -> Option<Rejection> {
    match error {
        LinkError::Handshake(HandshakeError::Refused(rejection)) => Some(*rejection),
        _ => None,
    }
}
