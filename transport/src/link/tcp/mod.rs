//! TCP: two nonblocking connections to a peer, on mio.
//!
//! Small messages and pages share one, bulk has the other. A request and the page that answers it
//! then travel on one connection, and the kernel's acknowledgements travel with them; on two it
//! sends them as segments of their own, at 2 us each on loopback. Verbs has no such cost and will
//! give each lane class a queue pair.
//!
//! A connection is in one of three states, by how often something comes:
//!
//! ```text
//!   cold   registered with the poller, read when that reports it
//!   hot    registered, and read in each poll turn all the same: asking first costs a system call
//!   free   hot, and not registered: the kernel does not tell the poller of each arrival, either
//! ```
//! An endpoint that spins heats its connections ([`TcpLink::heat`]); before it sleeps they are all
//! cold ([`TcpLink::cool_down`]). Registering reports what is there already, so nothing is missed.

mod connection;
mod reader;
mod writer;

use super::{Link, Sink, Urgency};
use crate::{Frame, SharedFrame, error::LinkError};
use connection::Connection;
use mio::{Registry, Token, net::TcpStream};
use pagewire_protocol::{Body, LaneClass, SessionHeader};
use std::net::SocketAddr;

/// The connections of a link, by the class that their hello names; pages go with the small
/// messages.
pub const CONNECTIONS: [LaneClass; 2] = [LaneClass::Small, LaneClass::Bulk];

/// The connections to one peer, past their handshake.
#[derive(Debug)]
pub struct TcpLink {
    main: Connection,
    bulk: Connection,
}

impl TcpLink {
    /// A link over `streams`, in the order of [`CONNECTIONS`] and registered with a poller; frames
    /// have `page_bytes` bytes.
    #[must_use]
    pub fn new(streams: [TcpStream; CONNECTIONS.len()], page_bytes: usize, page_crc: bool) -> Self {
        let [main, bulk] = streams;
        Self {
            main: Connection::new(main, LaneClass::Small, page_bytes, page_crc),
            bulk: Connection::new(bulk, LaneClass::Bulk, page_bytes, page_crc),
        }
    }

    /// The connection of `class`, for registration with a poller.
    pub fn stream_mut(&mut self, class: LaneClass) -> &mut TcpStream {
        self.connection(class).stream_mut()
    }

    fn connection(&mut self, class: LaneClass) -> &mut Connection {
        match class {
            LaneClass::Small | LaneClass::Page => &mut self.main,
            LaneClass::Bulk => &mut self.bulk,
        }
    }

    /// The operating system reports that a connection may be read or written; `ended`: that the
    /// other side has closed it, or that it has failed.
    pub fn ready(&mut self, class: LaneClass, readable: bool, writable: bool, ended: bool) {
        self.connection(class).ready(readable, writable, ended);
    }

    /// Called now and then while the endpoint spins: connections that are busy leave the poller,
    /// those that have become quiet go back.
    pub fn heat(&mut self, registry: &Registry, token: impl Fn(LaneClass) -> Token) {
        self.main.heat(registry, token(LaneClass::Small));
        self.bulk.heat(registry, token(LaneClass::Bulk));
    }

    /// Stops polling blindly: the endpoint goes to sleep, and the poller has to report.
    pub fn cool_down(&mut self, registry: &Registry, token: impl Fn(LaneClass) -> Token) {
        self.main.cool_down(registry, token(LaneClass::Small));
        self.bulk.cool_down(registry, token(LaneClass::Bulk));
    }

    /// As [`Link::poll`], of the small messages' connection alone, and only when the poller has
    /// reported something there. What comes on the other one stays in its socket; only that it has
    /// ended is noticed.
    ///
    /// # Errors
    /// As [`Link::poll`].
    #[inline]
    pub fn poll_main_when_reported(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        if self.bulk.has_ended() {
            return Err(LinkError::Closed);
        }
        self.main.poll_when_reported(sink)
    }

    /// As [`Link::may_sleep`], of the connection that [`TcpLink::poll_main_when_reported`] reads.
    pub fn main_may_sleep(&self) -> bool {
        self.main.may_sleep()
    }

    /// Takes the posted receives back, of a link on which no page is on its way any more.
    ///
    /// # Errors
    /// [`LinkError::Decode`] when the peer has sent part of one.
    pub fn take_receives(&mut self) -> Result<Vec<Frame>, LinkError> {
        let mut frames = self.main.take_receives()?;
        frames.extend(self.bulk.take_receives()?);
        Ok(frames)
    }

    /// The address of this end.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&mut self) -> std::io::Result<SocketAddr> {
        self.main.stream_mut().local_addr()
    }

    /// Bytes of pages that were read too far, because something else was expected, and had to be
    /// moved into their frame, since this was last asked.
    pub fn take_moved_bytes(&mut self) -> u64 {
        self.main.take_moved_bytes() + self.bulk.take_moved_bytes()
    }

    /// Bytes that have come and gone, to see whether the link lives.
    #[must_use]
    pub fn traffic_bytes(&self) -> (u64, u64) {
        let (a, b) = (self.main.traffic_bytes(), self.bulk.traffic_bytes());
        (a.0.wrapping_add(b.0), a.1.wrapping_add(b.1))
    }
}

impl Link for TcpLink {
    fn post_receive(&mut self, class: LaneClass, frame: Frame) {
        debug_assert!(class.has_frame());
        self.connection(class).post_receive(frame);
    }

    #[inline(always)] // As the writer.
    fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        // Acknowledgements of the bulk lane, too, go where they are not behind bulk.
        let bulk = frame.is_some() && header.lane.class() == LaneClass::Bulk;
        let connection = if bulk { &mut self.bulk } else { &mut self.main };
        connection.send(header, body, frame, urgency)
    }

    #[inline]
    fn has_output(&self) -> bool {
        self.main.has_output() || self.bulk.has_output()
    }

    #[inline(always)] // As the writer.
    fn flush(&mut self) -> Result<(), LinkError> {
        self.main.flush()?;
        self.bulk.flush_idle()
    }

    fn hurry(&mut self) {
        self.main.hurry();
        self.bulk.hurry();
    }

    fn is_waiting_for_quiet(&self) -> bool {
        self.main.is_waiting_for_quiet()
    }

    #[inline(always)] // As the reader.
    fn poll(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        self.main.poll(sink)?;
        self.bulk.poll_idle(sink)
    }

    #[inline]
    fn is_hot(&self) -> bool {
        self.main.wants_read() || self.bulk.wants_read()
    }

    fn may_sleep(&self) -> bool {
        self.main.may_sleep() && self.bulk.may_sleep()
    }
}

#[cfg(test)]
mod tests;
