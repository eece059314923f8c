//! One instance's end of the fabric: its listener, its peers' sessions and their links.
//!
//! The owner calls [`Endpoint::poll`] (spinning) or [`Endpoint::wait`] (sleeping), then takes
//! events. What it sends in between goes out together at the start of the next poll: messages are
//! coalesced within a turn and never held back by a timer.
//!
//! ```text
//!   send() -> session (sequence, kept) -> link buffer      poll(): flush -> read -> events
//!                                                          next_event(): receive posted again
//! ```
//!
//! Threading: one thread. [`Waker`] and the counters may be used from any.

mod arrivals;
mod backoff;
mod config;
mod connect;
mod devices;
mod event;
mod events;
mod liveness;
mod log_limit;
mod membership;
mod moving;
mod observe;
mod peer;
mod polling;
mod reads;
mod receives;
mod sampler;
mod switch;
mod token;
mod waker;

use crate::message::Refusal;
pub use crate::message::{SendError, Taken};
pub use config::{EndpointConfig, LaneCredits, LinkPolicy};
pub use event::Event;
pub use observe::LaneState;
pub use reads::{REGIONS_MAX, ReadDone, ReadError, ReadId, ReadRefused, RegionState};
pub use waker::Waker;

use crate::{
    Arena, Message, TransportError,
    counters::{EndpointCounters, PeerCounters},
    error::{LinkError, SwitchError},
    link::{Link, Urgency},
};
use connect::{Gate, Incoming, MAX_INCOMING};
use devices::Devices;
use events::EventQueue;
use mio::{Events, Poll, net::TcpListener, unix::SourceFd};
use pagewire_protocol::{InstanceId, Lane};
use peer::Peer;
use reads::Regions;
use std::{net::SocketAddr, os::fd::AsRawFd, sync::Arc, time::Instant};
use token::{LISTENER, WAKER};

/// Frames that an arena must have for each peer: one to receive into for each lane that carries them.
const FRAMES_PER_PEER_MIN: u32 = 2;

/// One instance's end of the fabric; see the module.
#[derive(Debug)]
pub struct Endpoint {
    config: EndpointConfig,
    arena: Arena,
    os: Poll,
    os_events: Option<Events>,
    listener: TcpListener,
    listen_address: SocketAddr,
    waker: Waker,
    peers: Vec<Peer>,
    /// Position in `peers` by instance id; `u16::MAX` for none.
    slots: Vec<u16>,
    gate: Gate,
    devices: Devices,
    regions: Regions,
    incoming: Vec<Option<Incoming>>,
    /// Connections wait, but the last attempt to accept one failed.
    accept_again: bool,
    events: EventQueue,
    counters: Arc<EndpointCounters>,
    /// Some connection is worth reading without asking the operating system first.
    hot: bool,
    /// Some receive is to be posted with the next poll.
    owing: bool,
    /// The arena had no frame for some of them: all that wait take turns.
    short_of_frames: bool,
    /// Receives of each lane that may be posted at once for a peer.
    shares: [u32; Lane::COUNT],
    /// Whose turn it is, in peers times lanes.
    owed_turn: usize,
    warned_of_frames: bool,
    turn: u32,
    /// Turns since the last sleep.
    awake_turns: u32,
    quiet_turns: u32,
    /// Since when an acknowledgement is owed, as far as [`Endpoint::wait`] has noticed.
    owed_since: Option<Instant>,
}

impl Endpoint {
    /// Listens, and is ready for [`Endpoint::add_peer`].
    ///
    /// # Errors
    /// [`TransportError::Config`] or [`TransportError::Shard`] when the configuration cannot work,
    /// [`TransportError::Listen`] when the address cannot be used, [`TransportError::Poller`] when
    /// the operating system gives no event queue.
    pub fn bind(config: EndpointConfig, arena: Arena) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Listen { address: config.listen, source };
        config.check()?;
        let gate = Gate::new(&config)?;
        let os = Poll::new()?;
        let devices = Devices::new(&config, &arena, os.registry())?;
        let mut listener = TcpListener::bind(config.listen).map_err(failed)?;
        let listen_address = listener.local_addr().map_err(failed)?;
        os.registry().register(&mut listener, LISTENER, mio::Interest::READABLE)?;
        config.warn_if_open();
        let waker = Waker::new(mio::Waker::new(os.registry(), WAKER)?);
        let shares = config.credits.0;
        Ok(Self {
            config,
            arena,
            os,
            os_events: Some(Events::with_capacity(256)),
            listener,
            listen_address,
            waker,
            peers: Vec::new(),
            slots: Vec::new(),
            gate,
            devices,
            regions: Regions::default(),
            incoming: (0..MAX_INCOMING).map(|_| None).collect(),
            accept_again: false,
            events: EventQueue::with_capacity(1024),
            counters: Arc::default(),
            hot: false,
            owing: false,
            short_of_frames: false,
            shares,
            owed_turn: 0,
            warned_of_frames: false,
            turn: 0,
            awake_turns: 0,
            quiet_turns: 0,
            owed_since: None,
        })
    }

    /// Address that peers dial: with the port that the system chose, if the configuration left it 0.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.listen_address
    }

    /// The arena that pages arrive in.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// This endpoint's configuration.
    #[must_use]
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// Counters, readable from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<EndpointCounters> {
        Arc::clone(&self.counters)
    }

    /// Wakes this endpoint from [`Endpoint::wait`]; usable from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Makes `peer` known; from now on the two try to reach each other.
    ///
    /// # Errors
    /// [`TransportError::Peer`] when it is this instance itself or known already, or the address is
    /// none to dial (port 0, 0.0.0.0 or ::),
    /// [`TransportError::FramesForPeers`] when the arena has too few frames to receive from it, too.
    pub fn add_peer(
        &mut self,
        peer: InstanceId,
        address: SocketAddr,
    ) -> Result<(), TransportError> {
        let refused = |problem| Err(TransportError::Peer { peer, address, problem });
        if peer == self.config.instance {
            return refused("has the id of this very instance; give each instance its own");
        }
        if address.port() == 0 || address.ip().is_unspecified() {
            return refused(
                "is no address to dial, expected a host's and a port of 1 to 65535; give the one \
                 that the peer listens on",
            );
        }
        if self.slot(peer).is_some() {
            return refused("is configured twice; name each peer once");
        }
        let vacant = self.peers.iter().position(|peer| peer.is_vacant);
        let at = vacant.unwrap_or(self.peers.len());
        let Ok(slot) = u16::try_from(at) else {
            return refused("is one peer too many");
        };
        self.check_frames_for(self.known_peers() + 1)?;
        let id = usize::from(peer.0);
        if self.slots.len() <= id {
            self.slots.resize(id + 1, u16::MAX);
        }
        self.slots[id] = slot;
        let counters = self.counters.add_peer(peer);
        let seed = self.gate.seed_for(peer);
        let peer = Peer::new(peer, address, counters, self.config.instance, seed);
        match self.peers.get_mut(at) {
            Some(place) => *place = peer,
            None => self.peers.push(peer),
        }
        self.divide_frames();
        Ok(())
    }

    /// Refuses peers that nothing could be received from, and warns of those that wait for frames.
    fn check_frames_for(&mut self, peers: usize) -> Result<(), TransportError> {
        let frames = self.arena.frames();
        let peers = u32::try_from(peers).unwrap_or(u32::MAX);
        let wanted = self.config.credits.frames_per_peer().saturating_mul(peers);
        let least = FRAMES_PER_PEER_MIN.saturating_mul(peers);
        if frames < least {
            return Err(TransportError::FramesForPeers { frames, peers, least, wanted });
        }
        if frames < wanted && !self.warned_of_frames {
            self.warned_of_frames = true;
            tracing::warn!(
                "the arena has {frames} frames, expected {wanted} for receiving from and sending to \
                 {peers} peers at once ({} a peer): with fewer, pages wait for frames; ask for a \
                 larger arena or lower the credits",
                self.config.credits.frames_per_peer()
            );
        }
        Ok(())
    }

    fn slot(&self, peer: InstanceId) -> Option<usize> {
        self.slots.get(usize::from(peer.0)).filter(|&&s| s != u16::MAX).map(|&s| usize::from(s))
    }

    /// Counters of `peer`.
    #[must_use]
    pub fn peer_counters(&self, peer: InstanceId) -> Option<&PeerCounters> {
        self.slot(peer).map(|slot| &*self.peers[slot].counters)
    }

    /// True while there is a link to `peer`.
    #[must_use]
    pub fn is_linked(&self, peer: InstanceId) -> bool {
        self.slot(peer).is_some_and(|slot| self.peers[slot].link.is_some())
    }

    /// Sends a message; it leaves with the next [`Endpoint::poll`], [`Endpoint::flush`] or
    /// [`Endpoint::wait`].
    ///
    /// # Errors
    /// [`SendError`] with the message: without credit, on the wrong lane, with a page of the wrong
    /// size, or without a session.
    #[inline]
    #[allow(clippy::result_large_err)] // Back-pressure hands the message back by value.
    pub fn send(&mut self, to: InstanceId, lane: Lane, message: Message) -> Result<(), SendError> {
        self.submit(to, lane, message, Urgency::Now)
    }

    /// Sends a message that nobody waits for: it leaves with the next one of its lane that
    /// [`Endpoint::send`] takes (over verbs of any lane), when 64 of them wait, or when the endpoint is
    /// quiet.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    #[allow(clippy::result_large_err)] // As above.
    pub fn send_when_quiet(
        &mut self,
        to: InstanceId,
        lane: Lane,
        message: Message,
    ) -> Result<(), SendError> {
        self.submit(to, lane, message, Urgency::WhenQuiet)
    }

    #[inline]
    #[allow(clippy::result_large_err)] // As above.
    fn submit(
        &mut self,
        to: InstanceId,
        lane: Lane,
        mut message: Message,
        urgency: Urgency,
    ) -> Result<(), SendError> {
        // Where it lies: it is moved to be handed back alone.
        match self.try_submit(to, lane, &mut message, urgency) {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.hand_back(message, refusal)),
        }
    }

    #[inline(always)] // As `submit`, whose part it is.
    fn try_submit(
        &mut self,
        to: InstanceId,
        lane: Lane,
        message: &mut Message,
        urgency: Urgency,
    ) -> Result<(), Refusal> {
        let slot = self.slot(to).ok_or(Refusal::NoSession)?;
        if lane.class().has_frame() {
            return self.submit_page(slot, lane, message, urgency);
        }
        if message.kind.is_of_reads() {
            return Err(Refusal::WrongLane);
        }
        self.peers[slot].submit::<false>(lane, message, urgency)
    }

    #[inline(never)] // A page costs more than the call.
    fn submit_page(
        &mut self,
        slot: usize,
        lane: Lane,
        message: &mut Message,
        urgency: Urgency,
    ) -> Result<(), Refusal> {
        if let Some(frame) = &message.frame
            && frame.len() != self.arena.page_size().bytes()
        {
            return Err(Refusal::WrongPageSize);
        }
        if message.kind.is_of_reads() {
            return Err(Refusal::WrongLane);
        }
        self.peers[slot].submit::<true>(lane, message, urgency)
    }

    #[cold]
    #[inline(never)] // What is given to a call is not taken to pieces before it.
    fn hand_back(&self, message: Message, refusal: Refusal) -> SendError {
        match refusal {
            Refusal::NoCredit => SendError::NoCredit(message),
            Refusal::WrongLane => SendError::WrongLane(message),
            Refusal::NoSession => SendError::NoSession(message),
            Refusal::WrongPageSize => {
                let found_bytes = message.frame.as_ref().map_or(0, |frame| frame.len());
                let expected_bytes = self.arena.page_size().bytes();
                SendError::WrongPageSize { message, found_bytes, expected_bytes }
            }
        }
    }

    /// Hands everything queued to the kernel without waiting for the next poll.
    #[inline(always)] // As `read_links`.
    pub fn flush(&mut self) {
        self.flush_all();
    }

    #[inline(always)] // As `read_links`.
    fn flush_all(&mut self) {
        for slot in 0..self.peers.len() {
            let peer = &mut self.peers[slot];
            let Some(link) = &mut peer.link else { continue };
            if link.has_output() {
                let flushed = link.flush();
                if flushed.is_err() || peer.blocked {
                    self.flushed_not_all(slot, flushed);
                }
            }
        }
    }

    /// The link has failed, or it had turned messages away.
    #[cold]
    fn flushed_not_all(&mut self, slot: usize, mut flushed: Result<(), LinkError>) {
        let mut failed_before = false;
        loop {
            let failed = flushed.is_err();
            if let Err(reason) = flushed {
                self.link_failed(slot, reason);
            }
            let peer = &mut self.peers[slot];
            // What a failure gave cause to say on TCP leaves now, too: the next turn may be a sleep away.
            let goes_on = if failed { !failed_before } else { peer.blocked && peer.unblock() };
            let Some(link) = peer.link.as_mut().filter(|_| goes_on) else { return };
            failed_before |= failed;
            flushed = link.flush();
        }
    }

    /// The next event. A message's receive is posted again as it is taken.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        if self.events.has_others()
            && let Some(event) = self.next_other()
        {
            return Some(event);
        }
        let (from, lane) = self.events.next_message()?;
        if let Some(slot) = self.slot(from) {
            self.consumed(slot, lane);
        }
        self.events.pop_message()
    }

    /// As [`Endpoint::next_event`], of a message alone, which is read where it lies: what it costs to move
    /// an event is saved. `None`: there is no event, or the next one is none of a message.
    ///
    /// ```no_run
    /// # fn take(endpoint: &mut pagewire_transport::Endpoint) {
    /// loop {
    ///     if let Some(message) = endpoint.next_message() {
    ///         println!("{} bytes from {}", message.body.as_slice().len(), message.from);
    ///     } else if let Some(event) = endpoint.next_event() {
    ///         println!("{event:?}");
    ///     } else {
    ///         break;
    ///     }
    /// }
    /// # }
    /// ```
    #[inline]
    pub fn next_message(&mut self) -> Option<Taken<'_>> {
        if self.events.has_others() && self.events.is_other_next() {
            return None;
        }
        let (from, lane) = self.events.next_message()?;
        if let Some(slot) = self.slot(from) {
            self.consumed(slot, lane);
        }
        self.events.take_message()
    }

    #[inline(never)] // Rare, and it would be moved once more with every message.
    fn next_other(&mut self) -> Option<Event> {
        let event = self.events.pop_other()?;
        if let Event::Read(done) = &event {
            self.read_taken(done);
        }
        Some(event)
    }

    #[cold]
    fn link_down(&mut self, slot: usize, reason: LinkError) {
        let peer = &mut self.peers[slot];
        let Some(mut link) = peer.link.take() else { return };
        if let Some(verbs) = link.take_verbs()
            && let Some(fd) = verbs.events_fd()
        {
            let _ = self.os.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
            verbs.discard();
        }
        if matches!(
            reason,
            LinkError::Decode(_)
                | LinkError::PageCrc { .. }
                | LinkError::Session(_)
                | LinkError::Switch(SwitchError::Unexpected { .. })
        ) {
            self.counters.bad_input.add(1);
            let (id, address) = (peer.id, peer.address);
            tracing::warn!("link to instance {id} at {address} closed: {reason}");
        }
        peer.counters.links_down.add(1);
        peer.note_down(&reason);
        peer.liveness.down_since = Some(Instant::now());
        peer.forget_link();
        peer.note_stale(&self.events);
        peer.retry_soon(Instant::now());
        if let Some(session) = &mut peer.session {
            session.link_down();
        }
        self.events.push_back(Event::Down { peer: peer.id, reason });
        self.finish_closing();
    }
}
