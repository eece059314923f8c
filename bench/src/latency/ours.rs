//! The way under measurement: two endpoints that are polled, never waited for.
//!
//! A small request goes on the requests lane, a small reply on control, a page on the pages lane
//! from its resident frame, without a copy.

use super::{
    Args, Way,
    traffic::{self, NUMBER_BYTES, Pages, Size},
};
use crate::{
    error::BenchError,
    spin::{Patience, Switch},
};
use pagewire_protocol::{Body, ClusterId, InstanceId, Lane, MessageKind, header::BODY_BYTES_MAX};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Frame, LaneCredits, Message, Received,
    SendError, TransportError,
};
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
};

/// Message type of the round trips; no layer above gives it a meaning.
const KIND: MessageKind = MessageKind(200);

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
    /// Frames that the bare loop receives into: as many as this endpoint posts.
    landing_frames: u32,
}

impl Ours {
    /// Instance 1 asks, instance 0 answers.
    pub(crate) fn new(instance: InstanceId, args: &Args) -> Result<Self, BenchError> {
        let credits = LaneCredits::default();
        let landing_frames = credits.of(Lane::Pages).max(args.keep);
        // The endpoint's for one peer, the resident pages, what the bare loop receives into, and
        // the plain loop's one buffer, and those of a bare chain.
        let keep = args.keep;
        let frames =
            keep + credits.frames_per_peer() + args.frames + landing_frames + 1 + CHAIN_FRAMES;
        let arena = Arena::new(&ArenaConfig::new(frames))?;
        let pages = Pages::new(&arena, args.frames)?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = EndpointConfig {
            credits,
            page_crc: !args.no_page_crc,
            ..EndpointConfig::new(ClusterId(1), instance, listen)
        };
        let asks = instance == InstanceId(1);
        Ok(Self {
            endpoint: Endpoint::bind(config, arena)?,
            peer: InstanceId(u16::from(!asks)),
            lane: if asks { Lane::Requests } else { Lane::Control },
            pages,
            kept: VecDeque::new(),
            keep: keep as usize,
            landing_frames,
        })
    }

    pub(crate) fn listen_address(&self) -> SocketAddr {
        self.endpoint.listen_address()
    }

    pub(crate) fn add_peer(
        &mut self,
        peer: InstanceId,
        address: SocketAddr,
    ) -> Result<(), TransportError> {
        self.endpoint.add_peer(peer, address)
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
        let mut patience = Patience::new(switch, "the session between the two endpoints");
        loop {
            self.endpoint.poll();
            while let Some(event) = self.endpoint.next_event() {
                match event {
                    Event::Up { .. } => return Ok(()),
                    Event::Down { reason, .. } => return Err(BenchError::LinkDown(reason)),
                    _ => {}
                }
            }
            patience.spin()?;
        }
    }

    #[inline]
    fn take(&mut self, received: Received, size: Size) -> Result<u64, BenchError> {
        let body = received.body.as_slice();
        let number = traffic::number_in(body);
        let body_bytes = match size {
            Size::Small(bytes) => bytes,
            Size::Page => NUMBER_BYTES,
        };
        traffic::same("the length of a body", number, body.len() as u64, body_bytes as u64)?;
        if let Some(frame) = received.frame {
            self.pages.check(&frame, number)?;
            self.kept.push_back(frame);
            if self.kept.len() > self.keep {
                self.kept.pop_front();
            }
        }
        Ok(number)
    }
}

impl Way for Ours {
    #[inline]
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError> {
        let mut bytes = [0; BODY_BYTES_MAX];
        traffic::put_number(&mut bytes, number);
        let (lane, len, frame) = match size {
            Size::Small(len) => (self.lane, len, None),
            Size::Page => (Lane::Pages, NUMBER_BYTES, Some(self.pages.of(number).clone())),
        };
        let body = Body::new(&bytes[..len]).unwrap_or(Body::EMPTY);
        let mut message = Message { frame, ..Message::new(KIND, body) };
        let mut patience = Patience::new(switch, "credit");
        loop {
            message = match self.endpoint.send(self.peer, lane, message) {
                Ok(()) => return Ok(()),
                Err(SendError::NoCredit(message)) => message,
                Err(SendError::NoSession(_)) => return Err(BenchError::Send("no session")),
                Err(_) => return Err(BenchError::Send("the wrong lane")),
            };
            // What arrives meanwhile stays in the endpoint's queue.
            self.endpoint.poll();
            patience.spin()?;
        }
    }

    #[inline]
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        if self.endpoint.poll() {
            while let Some(event) = self.endpoint.next_event() {
                match event {
                    Event::Message(received) => return self.take(received, size).map(Some),
                    Event::Down { reason, .. } => return Err(BenchError::LinkDown(reason)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }
}
