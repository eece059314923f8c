//! The way under measurement: two endpoints, polled, or waited for when the ends are to sleep.
//!
//! A small request goes on the requests lane, a small reply on control, a page on the pages lane
//! from its resident frame, without a copy.

use super::{
    setup::Setup,
    traffic::{self, NUMBER_BYTES, Pages, Size},
    way::Way,
};
use crate::{
    error::BenchError,
    spin::{Patience, Switch},
};
use pagewire_protocol::{Body, ClusterId, InstanceId, Lane, MessageKind};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Frame, LinkPolicy, Message, Overrides,
    Received, SendError, TransportError, counters::PeerCounters,
};
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Message type of the round trips; no layer above gives it a meaning.
const KIND: MessageKind = MessageKind(200);

/// What is waited for before anything is measured.
const SESSION: &str = "the session between the two endpoints";

/// Longest sleep before the end looks whether the other one is still there.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Frames that a bare chain of three ends receives into.
const CHAIN_FRAMES: u32 = 5;

/// One endpoint and the pages it sends.
#[derive(Debug)]
pub(crate) struct Ours {
    endpoint: Endpoint,
    peer: InstanceId,
    /// Lane of the small messages that this end sends.
    lane: Lane,
    pages: Pages,
    /// Received pages that are kept, the oldest first, so that each lands in another frame.
    kept: VecDeque<Frame>,
    keep: usize,
    /// The session has begun.
    is_up: bool,
    /// Frames that the bare loop receives into: as many as this endpoint posts.
    landing_frames: u32,
}

impl Ours {
    /// Instance 1 asks, instance 0 answers, over TCP.
    pub(crate) fn new(
        instance: InstanceId,
        cluster: ClusterId,
        listen: IpAddr,
        setup: &Setup,
    ) -> Result<Self, BenchError> {
        let policy = (LinkPolicy::Tcp, Overrides::default());
        Self::with_links(instance, SocketAddr::new(listen, 0), cluster, setup, policy)
    }

    fn with_links(
        instance: InstanceId,
        listen: SocketAddr,
        cluster: ClusterId,
        setup: &Setup,
        (links, verbs): (LinkPolicy, Overrides),
    ) -> Result<Self, BenchError> {
        let credits = setup.lane_credits();
        let keep = setup.keep;
        let landing_frames = credits.of(Lane::Pages).max(keep);
        // The endpoint's for one peer, the received pages that are kept, the resident pages, what
        // the bare loop receives into, the plain loop's one buffer, and those of a bare chain.
        let frames =
            credits.frames_per_peer() + keep + setup.frames + landing_frames + 1 + CHAIN_FRAMES;
        let arena = Arena::new(&ArenaConfig::new(frames))?;
        let pages = Pages::new(&arena, setup.frames)?;
        let config = EndpointConfig {
            credits,
            page_crc: setup.page_crc,
            links,
            verbs,
            ..EndpointConfig::new(cluster, instance, listen)
        };
        let asks = instance == InstanceId(1);
        Ok(Self {
            endpoint: Endpoint::bind(config, arena)?,
            peer: InstanceId(u16::from(!asks)),
            lane: if asks { Lane::Requests } else { Lane::Control },
            pages,
            kept: VecDeque::new(),
            keep: keep as usize,
            is_up: false,
            landing_frames,
        })
    }

    /// Two on loopback that know each other: the asker (or sender) first.
    pub(crate) fn pair(setup: &Setup) -> Result<(Self, Self), BenchError> {
        Self::pair_with_links(setup, &(LinkPolicy::Tcp, Overrides::default()))
    }

    /// The same, with all messages over verbs on the device that is named.
    pub(crate) fn pair_over_verbs(
        setup: &Setup,
        device: &Overrides,
    ) -> Result<(Self, Self), BenchError> {
        Self::pair_with_links(setup, &(LinkPolicy::Verbs, device.clone()))
    }

    fn pair_with_links(
        setup: &Setup,
        links: &(LinkPolicy, Overrides),
    ) -> Result<(Self, Self), BenchError> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let new = |id| Self::with_links(InstanceId(id), listen, ClusterId(1), setup, links.clone());
        let (mut asker, mut answerer) = (new(1)?, new(0)?);
        asker.add_peer(answerer.listen_address())?;
        answerer.add_peer(asker.listen_address())?;
        Ok((asker, answerer))
    }

    pub(crate) fn listen_address(&self) -> SocketAddr {
        self.endpoint.listen_address()
    }

    /// Tells it where the other end listens.
    pub(crate) fn add_peer(&mut self, address: SocketAddr) -> Result<(), TransportError> {
        self.endpoint.add_peer(self.peer, address)
    }

    /// What is counted of the other end; `None` before it is known.
    pub(crate) fn counters(&self) -> Option<Arc<PeerCounters>> {
        let peers = self.endpoint.counters().peers();
        peers.into_iter().find(|(id, _)| *id == self.peer).map(|(_, counters)| counters)
    }

    /// The arena, for the frames of the bare loops: the same memory under all ways.
    pub(crate) fn arena(&self) -> &Arena {
        self.endpoint.arena()
    }

    pub(crate) fn landing_frames(&self) -> u32 {
        self.landing_frames
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Polls until the session with the other end has begun.
    pub(crate) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, SESSION);
        while !self.is_established()? {
            patience.spin()?;
        }
        Ok(())
    }

    /// Polls until the session has begun, with a call of `watch` between two polls: it may wait a
    /// little, and its error ends this.
    pub(crate) fn establish_watching(
        &mut self,
        mut watch: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let switch = Switch::new();
        let mut patience = Patience::new(&switch, SESSION);
        while !self.is_established()? {
            watch()?;
            patience.check()?;
        }
        Ok(())
    }

    /// One turn towards a session; true when there is one.
    fn is_established(&mut self) -> Result<bool, BenchError> {
        if self.is_up {
            return Ok(true);
        }
        self.endpoint.poll();
        while let Some(event) = self.endpoint.next_event() {
            match event {
                Event::Up { .. } => {
                    self.is_up = true;
                    return Ok(true);
                }
                Event::Down { reason, .. } => return Err(BenchError::LinkDown(reason)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Takes what has happened so far, before anything is measured.
    pub(crate) fn forget_events(&mut self) {
        while self.endpoint.next_event().is_some() {}
    }

    /// The message of `size` that carries `number`, and its lane.
    #[inline]
    fn message(&self, size: Size, number: u64) -> (Lane, Message) {
        let (lane, len, frame) = match size {
            Size::Small(len) => (self.lane, len, None),
            Size::Page => (Lane::Pages, NUMBER_BYTES, Some(self.pages.of(number).clone())),
        };
        let mut body = Body::zeros(u8::try_from(len).unwrap_or(u8::MAX));
        traffic::put_number(body.as_mut_slice(), number);
        (lane, Message { frame, ..Message::new(KIND, body) })
    }

    /// Sends a message, polling while there is no credit. It leaves with the next poll or flush.
    #[inline]
    pub(crate) fn send(
        &mut self,
        size: Size,
        number: u64,
        switch: &Switch,
    ) -> Result<(), BenchError> {
        let (lane, message) = self.message(size, number);
        match self.endpoint.send(self.peer, lane, message) {
            Ok(()) => Ok(()),
            Err(refused) => self.send_again(lane, refused, switch),
        }
    }

    #[cold]
    #[inline(never)] // A message that may come back is moved about; most do not.
    fn send_again(
        &mut self,
        lane: Lane,
        mut refused: SendError,
        switch: &Switch,
    ) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "credit");
        loop {
            let message = match refused {
                SendError::NoCredit(message) => message,
                SendError::NoSession(_) => return Err(BenchError::Send("no session")),
                _ => return Err(BenchError::Send("the wrong lane")),
            };
            // What arrives meanwhile stays in the endpoint's queue.
            self.endpoint.poll();
            patience.spin()?;
            match self.endpoint.send(self.peer, lane, message) {
                Ok(()) => return Ok(()),
                Err(again) => refused = again,
            }
        }
    }

    /// One turn of the endpoint; true when there is something to take.
    #[inline]
    pub(crate) fn poll(&mut self) -> bool {
        self.endpoint.poll()
    }

    /// The next message that has come, which is to be of `size`: its number, its contents checked.
    #[inline]
    pub(crate) fn next(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        loop {
            let received = self.endpoint.next_message();
            let taken = received.map(|mut received| taken(&mut received, size)).transpose()?;
            if let Some((number, frame)) = taken {
                if let Some(frame) = frame {
                    self.keep(frame, number)?;
                }
                return Ok(Some(number));
            }
            match self.endpoint.next_event() {
                Some(Event::Down { reason, .. }) => return Err(BenchError::LinkDown(reason)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Keeps a page that has come, its contents checked, for as long as `keep` others come.
    fn keep(&mut self, frame: Frame, number: u64) -> Result<(), BenchError> {
        self.pages.check(&frame, number)?;
        self.kept.push_back(frame);
        if self.kept.len() > self.keep {
            self.kept.pop_front();
        }
        Ok(())
    }
}

/// Number and page of a message that is to be of `size`.
#[inline]
fn taken(received: &mut Received, size: Size) -> Result<(u64, Option<Frame>), BenchError> {
    let body = received.body.as_slice();
    let number = traffic::number_in(body);
    let body_bytes = match size {
        Size::Small(bytes) => bytes,
        Size::Page => NUMBER_BYTES,
    };
    traffic::same("the length of a body", number, body.len() as u64, body_bytes as u64)?;
    Ok((number, received.frame.take()))
}

impl Way for Ours {
    #[inline]
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError> {
        self.send(size, number, switch)
    }

    #[inline(always)] // So that the turn is part of the loop, as its documentation asks.
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        if self.endpoint.poll_spinning(|| false) { self.next(size) } else { Ok(None) }
    }

    #[inline]
    fn sleep(&mut self) -> Result<(), BenchError> {
        self.endpoint.wait(SLEEP_MAX, || false);
        Ok(())
    }

    #[inline]
    fn hear_awake(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        // The wait has polled.
        self.next(size)
    }

    fn flush(&mut self) {
        self.endpoint.flush();
    }
}
