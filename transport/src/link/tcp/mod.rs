//! TCP: one connection per lane class, nonblocking, on mio.
//!
//! Reading comes first: while a connection is hot it is read in each poll turn without asking the
//! poller, which costs a system call of its own; when it has been quiet for [`HOT_TURNS`] it is
//! read only when the poller reports it. mio registers edge-triggered, so a connection that was not
//! read until `WouldBlock` stays `ready`.

mod framed;
mod small;

use super::{Link, LinkEvent};
use crate::{Frame, SharedFrame, error::LinkError};
use framed::FramedConnection;
use mio::net::TcpStream;
use pagewire_protocol::{Body, DecodeError, LaneClass, SessionHeader};
use small::SmallConnection;

/// Poll turns without a byte after which a connection is no longer read blindly.
const HOT_TURNS: u32 = 2048;

/// When a connection is worth reading.
#[derive(Debug)]
struct Readiness {
    /// The poller reported it, and it has not said `WouldBlock` since.
    ready: bool,
    hot_turns_left: u32,
}

impl Readiness {
    fn new() -> Self {
        Self { ready: true, hot_turns_left: HOT_TURNS }
    }

    fn wants_read(&self) -> bool {
        self.ready || self.hot_turns_left > 0
    }

    fn got_bytes(&mut self) {
        self.ready = true;
        self.hot_turns_left = HOT_TURNS;
    }

    fn would_block(&mut self) {
        self.ready = false;
        self.hot_turns_left = self.hot_turns_left.saturating_sub(1);
    }
}

fn wrong_connection(class: LaneClass, header: &SessionHeader) -> LinkError {
    let expected = match class {
        LaneClass::Small => "0 to 2 on this connection (or an acknowledgement)",
        LaneClass::Page => "3 on this connection",
        LaneClass::Bulk => "4 on this connection",
    };
    DecodeError::Field { what: "session header lane", found: header.lane as u64, expected }.into()
}

/// The three connections to one peer, all past their handshake.
#[derive(Debug)]
pub struct TcpLink {
    small: SmallConnection,
    framed: [FramedConnection; 2],
}

impl TcpLink {
    /// A link over `streams`, in the order of the classes; frames have `page_bytes` bytes.
    #[must_use]
    pub fn new(streams: [TcpStream; LaneClass::COUNT], page_bytes: usize, page_crc: bool) -> Self {
        let [small, page, bulk] = streams;
        Self {
            small: SmallConnection::new(small),
            framed: [
                FramedConnection::new(page, LaneClass::Page, page_bytes, page_crc),
                FramedConnection::new(bulk, LaneClass::Bulk, page_bytes, page_crc),
            ],
        }
    }

    /// The connection of `class`, for registration with a poller.
    pub fn stream_mut(&mut self, class: LaneClass) -> &mut TcpStream {
        match class {
            LaneClass::Small => self.small.stream_mut(),
            LaneClass::Page => self.framed[0].stream_mut(),
            LaneClass::Bulk => self.framed[1].stream_mut(),
        }
    }

    fn framed(&mut self, class: LaneClass) -> &mut FramedConnection {
        &mut self.framed[usize::from(class == LaneClass::Bulk)]
    }
}

impl Link for TcpLink {
    fn post_receive(&mut self, class: LaneClass, frame: Frame) {
        debug_assert!(class.has_frame());
        self.framed(class).post_receive(frame);
    }

    #[inline]
    fn send(&mut self, header: &SessionHeader, body: &Body, frame: Option<&SharedFrame>) -> bool {
        match frame {
            None => self.small.send(header, body),
            Some(frame) => self.framed(header.lane.class()).send(header, body, frame),
        }
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.small.flush()?;
        self.framed[0].flush()?;
        self.framed[1].flush()?;
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        self.small.poll(events)?;
        self.framed[0].poll(events)?;
        self.framed[1].poll(events)
    }

    fn ready(&mut self, class: LaneClass, readable: bool, writable: bool) {
        match class {
            LaneClass::Small => self.small.ready(readable, writable),
            _ => self.framed(class).ready(readable, writable),
        }
    }

    fn is_hot(&self) -> bool {
        let [page, bulk] = &self.framed;
        self.small.readiness.wants_read()
            || page.readiness.wants_read()
            || bulk.readiness.wants_read()
    }

    fn cool_down(&mut self) {
        self.small.readiness.hot_turns_left = 0;
        for connection in &mut self.framed {
            connection.readiness.hot_turns_left = 0;
        }
    }

    fn may_sleep(&self) -> bool {
        !self.small.readiness.ready && self.framed.iter().all(FramedConnection::may_sleep)
    }
}
