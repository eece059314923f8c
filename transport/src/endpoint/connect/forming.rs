//! A link that is being made, from either side, and the moment when it is whole.

use super::{
    attempt::{Authenticated, Forming, Posted},
    explain,
};
use crate::{
    counters::LinkFailure,
    endpoint::{Endpoint, event::Event, token::link_token},
    error::LinkError,
    link::{
        Link, Urgency,
        dual::DualLink,
        tcp::{CONNECTIONS, TcpLink},
    },
    session::Session,
};
use mio::{Interest, net::TcpStream};
use pagewire_protocol::{Incarnation, Lane, Sequence, hello::Hello};
use std::{fmt, time::Instant};

impl Endpoint {
    /// What the session expects next; without one, the first of each lane.
    pub(super) fn expected(&self, slot: usize) -> [Sequence; Lane::COUNT] {
        let session = self.peers[slot].session.as_ref();
        session.map_or([Sequence(1); Lane::COUNT], Session::expected)
    }

    /// Takes frames for the receives of a new link. Credit is given for receives that are posted,
    /// not for those that should be; those that lack a frame are posted later.
    pub(in crate::endpoint) fn post_receives(&mut self) -> Posted {
        let mut credits = self.shares;
        let mut frames = Vec::new();
        for lane in Lane::ALL.into_iter().filter(|lane| lane.class().has_frame()) {
            let wanted = credits[lane.index()];
            let before = frames.len();
            let taken = (0..wanted).map_while(|_| self.arena.take());
            frames.extend(taken.map(|frame| (lane.class(), frame)));
            let got = u32::try_from(frames.len() - before).unwrap_or(wanted);
            if got < self.config.credits.of(lane) {
                self.counters.out_of_frames.add(1);
            }
            credits[lane.index()] = got;
        }
        Posted { frames, credits }
    }

    /// Ends the session with a life of `slot` before `incarnation`.
    pub(super) fn end_older(&mut self, slot: usize, incarnation: Incarnation) {
        if self.peers[slot].incarnation.is_some_and(|known| known < incarnation) {
            self.end_life(slot);
        }
    }

    /// Ends the session with `slot`, if there is one, and hands back what is undelivered.
    pub(super) fn end_life(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        let Some(old) = peer.incarnation.take() else { return };
        peer.ended = Some(old);
        let undelivered = peer.session.take().map(Session::end).unwrap_or_default();
        self.end_reads(slot);
        let peer = &self.peers[slot];
        self.events.push_back(Event::Ended { peer: peer.id, incarnation: old, undelivered });
    }

    /// The last connection is there and both sides have stated what they expect and have posted:
    /// the session gets its link.
    pub(super) fn establish(&mut self, slot: usize, posted: Posted, theirs: &Hello) {
        let peer = &mut self.peers[slot];
        let Some(Forming { streams: [Some(main), Some(bulk)], .. }) = peer.forming.take() else {
            return;
        };
        debug_assert!(peer.link.is_none());
        let fresh = peer.session.is_none();
        let (me, id) = (self.config.instance, peer.id);
        let session = peer.session.get_or_insert_with(|| Session::new(me, id, theirs.credits));
        if let Err(violation) = session.link_up(theirs.expected, theirs.credits, posted.credits) {
            self.counters.bad_input.add(1);
            tracing::warn!("no link with instance {id}: {violation}");
            if fresh {
                peer.session = None;
            }
            peer.retry_soon(Instant::now());
            return;
        }
        let Some(mut link) = self.link_of(slot, main, bulk) else {
            let peer = &mut self.peers[slot];
            if fresh {
                peer.session = None;
            } else if let Some(session) = &mut peer.session {
                session.link_down();
            }
            return;
        };
        for (class, frame) in posted.frames {
            link.post_receive(class, frame);
        }
        let peer = &mut self.peers[slot];
        // Receives that the arena had no frame for yet.
        for lane in Lane::ALL.into_iter().filter(|lane| lane.class().has_frame()) {
            let missing = self.config.credits.of(lane) - posted.credits[lane.index()];
            peer.owed_frames[lane.class().index()] = missing;
            self.owing |= missing > 0;
        }
        peer.link = Some(DualLink::new(link));
        (peer.incarnation, peer.process) = (Some(theirs.incarnation), Some(theirs.process));
        peer.connected(self.config.keepalive_for(theirs.pause_max_ms));
        peer.counters.links_up.add(1);
        peer.counters.incarnation.set(theirs.incarnation.0);
        peer.reach.linked();
        peer.counters.no_link.set(None);
        self.agree_on_reads(slot, theirs.features);
        self.begin_on_tcp(slot);
        let peer = &mut self.peers[slot];
        for lane in Lane::ALL {
            peer.pump(lane, Urgency::Now);
        }
        self.events.push_back(if fresh {
            Event::Up { peer: id, incarnation: theirs.incarnation }
        } else {
            Event::Linked { peer: id }
        });
    }

    /// A link of two authenticated connections. Here their secrets end: a link that encrypts will
    /// take them together with the streams.
    fn link_of(&self, slot: usize, main: Authenticated, bulk: Authenticated) -> Option<TcpLink> {
        let Authenticated { stream: main, secret: main_secret } = main;
        let Authenticated { stream: bulk, secret: bulk_secret } = bulk;
        drop((main_secret, bulk_secret));
        let page_bytes = self.arena.page_size().bytes();
        let mut link = TcpLink::new([main, bulk], page_bytes, self.config.page_crc);
        for class in CONNECTIONS {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = link_token(slot, class);
            let registry = self.os.registry();
            let stream = link.stream_mut(class);
            if registry.reregister(stream, token, interest).is_err()
                && let Err(error) = registry.register(stream, token, interest)
            {
                tracing::warn!("no link with instance {}: {error}", self.peers[slot].id);
                return None;
            }
            self.limit_unacknowledged(stream);
        }
        Some(link)
    }

    /// Has the kernel fail a connection whose bytes the other host does not acknowledge for
    /// [`EndpointConfig::peer_timeout`]: the link's other connection may still be heard. A kernel
    /// that cannot do it takes minutes for the same.
    ///
    /// [`EndpointConfig::peer_timeout`]: crate::EndpointConfig::peer_timeout
    fn limit_unacknowledged(&self, stream: &TcpStream) {
        const MAX_MS: u32 = i32::MAX.unsigned_abs();
        let limit_ms = u32::try_from(self.config.peer_timeout.as_millis());
        // 0 would be the system's own, and much longer.
        let limit_ms = limit_ms.unwrap_or(MAX_MS).clamp(1, MAX_MS);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, limit_ms) {
            tracing::warn!("a connection that dies alone may be noticed late: {error}");
        }
    }

    /// A try to make a link has come to nothing, for a `reason` that was told elsewhere, or is none.
    pub(super) fn forming_failed(&mut self, slot: usize, reason: impl fmt::Display) {
        let peer = &mut self.peers[slot];
        tracing::debug!("no link with instance {} at {} yet: {reason}", peer.id, peer.address);
        peer.forming = None;
        peer.dial_at = peer.dial_at.max(Instant::now());
    }

    /// As [`Endpoint::forming_failed`]; whoever asks for the peer is told `reason`.
    pub(super) fn no_link(&mut self, slot: usize, reason: String) {
        self.forming_failed(slot, &reason);
        let (peer, at) = (&mut self.peers[slot], Instant::now());
        peer.reach.failed(at);
        let tries = peer.reach.tries();
        peer.counters.no_link.set(Some(LinkFailure { reason, tries, at }));
    }

    /// As [`Endpoint::no_link`]: the peer cannot be reached, which nothing else tells the operator.
    pub(super) fn unreachable(&mut self, slot: usize, error: &LinkError) {
        let (found, change) = explain::unreachable(error);
        self.no_link(slot, found.clone());
        let peer = &mut self.peers[slot];
        if let Some(failing) = peer.reach.take_due(Instant::now()) {
            let (id, address, tries) = (peer.id, peer.address, peer.reach.tries());
            tracing::warn!(
                "no link with instance {id} at {address}: {found}, tried {tries} times in {} s: \
                 {change}",
                failing.as_secs()
            );
        }
    }
}
