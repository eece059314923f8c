//! A link that is being made, from either side: what is there of it so far.

use super::wire::{position, read_some, write_whole};
use crate::{Frame, error::LinkError, link::tcp::CONNECTIONS};
use mio::net::TcpStream;
use pagewire_protocol::{
    Incarnation, Lane, LaneClass, LinkNonce, ProcessId,
    hello::{Dialler, DiallerStep, Hello, ProofKey, TrafficSecret},
};
use std::{io::ErrorKind, time::Instant};

/// A connection on which both sides have proven themselves.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) stream: TcpStream,
    /// What encryption of this connection will start from; not used yet.
    pub(super) secret: TrafficSecret,
}

impl Authenticated {
    pub(super) fn new(stream: TcpStream, secret: TrafficSecret) -> Self {
        Self { stream, secret }
    }
}

/// Frames for the receives of a link that is about to be.
#[derive(Debug)]
pub(in crate::endpoint) struct Posted {
    pub(in crate::endpoint) frames: Vec<(LaneClass, Frame)>,
    pub(in crate::endpoint) credits: [u32; Lane::COUNT],
}

/// See the module.
#[derive(Debug)]
pub(in crate::endpoint) struct Forming {
    pub(super) is_ours: bool,
    pub(super) nonce: LinkNonce,
    pub(super) deadline: Instant,
    /// Who has proven itself on the first connection.
    pub(super) with: Option<(Incarnation, ProcessId)>,
    /// In the order of [`CONNECTIONS`].
    pub(super) streams: [Option<Authenticated>; CONNECTIONS.len()],
    /// The connection that is being dialled.
    pub(super) dial: Option<Dial>,
}

impl Forming {
    pub(super) fn ours(nonce: LinkNonce, deadline: Instant) -> Self {
        let streams = [const { None }; CONNECTIONS.len()];
        Self { is_ours: true, nonce, deadline, with: None, streams, dial: None }
    }

    pub(super) fn theirs(hello: &Hello, deadline: Instant) -> Self {
        let with = Some((hello.incarnation, hello.process));
        Self { is_ours: false, with, ..Self::ours(hello.nonce, deadline) }
    }

    /// Ours, and nobody has answered yet.
    pub(super) fn is_connecting(&self) -> bool {
        self.is_ours && self.dial.as_ref().is_some_and(|dial| !dial.is_connected)
    }

    pub(super) fn nonce(&self) -> LinkNonce {
        self.nonce
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ours, and the peer may have a link forming for it.
    pub(super) fn is_ours_and_told(&self) -> bool {
        self.is_ours && (self.with.is_some() || self.dial.as_ref().is_some_and(Dial::has_spoken))
    }

    /// True when `hello` is of the further connection that this link still lacks.
    pub(super) fn awaits(&self, hello: &Hello) -> bool {
        !self.is_ours
            && self.nonce == hello.nonce
            && self.is_with(hello.incarnation, hello.process)
            && position(hello.class).is_some_and(|at| {
                let (before, rest) = self.streams.split_at(at);
                before.iter().all(Option::is_some) && rest.iter().all(Option::is_none)
            })
    }

    pub(super) fn is_with(&self, incarnation: Incarnation, process: ProcessId) -> bool {
        self.with == Some((incarnation, process))
    }

    pub(super) fn meet(&mut self, incarnation: Incarnation, process: ProcessId) {
        self.with = Some((incarnation, process));
    }

    pub(super) fn add(&mut self, class: LaneClass, connection: Authenticated) {
        if let Some(place) = position(class).and_then(|at| self.streams.get_mut(at)) {
            *place = Some(connection);
        }
    }

    /// True when the dialler has closed a connection before the link was whole: it will not be.
    pub(super) fn is_abandoned(&self) -> bool {
        let is_closed = |connection: &Authenticated| match connection.stream.peek(&mut [0]) {
            Ok(count) => count == 0,
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        self.streams.iter().flatten().any(is_closed)
    }
}

/// A connection that is being dialled.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) class: LaneClass,
    pub(super) stream: TcpStream,
    pub(super) shake: Dialler,
    pub(super) is_connected: bool,
    /// What was said; from then on the peer may know of the attempt.
    pub(super) said: Option<Hello>,
    /// On the last connection: what the hello stated.
    pub(super) posted: Option<Posted>,
}

impl Dial {
    pub(super) fn has_spoken(&self) -> bool {
        self.said.is_some()
    }

    /// Goes on with the handshake, to the next step that is not reading.
    pub(super) fn progress(&mut self, key: ProofKey<'_>) -> Result<DiallerStep, LinkError> {
        if !self.is_connected {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            match self.stream.peer_addr() {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotConnected => return Ok(DiallerStep::More),
                Err(e) => return Err(e.into()),
            }
            let _ = self.stream.set_nodelay(true);
            write_whole(&mut self.stream, &self.shake.opening())?;
            self.is_connected = true;
        }
        loop {
            let Some(count) = read_some(&mut self.stream, self.shake.room())? else {
                return Ok(DiallerStep::More);
            };
            let step = self.shake.filled(count, key)?;
            if step != DiallerStep::More {
                return Ok(step);
            }
        }
    }
}
