//! TCP: two nonblocking connections to a peer, on mio.
//!
//! Small messages and pages share one, bulk has the other. A request and the page that answers it
//! then travel on one connection, and the kernel's acknowledgements travel with them; on two it
//! sends them as segments of their own, at 2 us each on loopback. Verbs has no such cost and will
//! give each lane class a queue pair.
//!
//! Reading comes first: while a connection is hot it is read in each poll turn without asking the
//! poller, which costs a system call of its own; when it has been quiet for [`HOT_TURNS`] it is
//! read only when the poller reports it. mio registers edge-triggered, so a connection that was not
//! read until `WouldBlock` stays `ready`.

mod connection;

use super::{Link, LinkEvent, Urgency};
use crate::{Frame, SharedFrame, error::LinkError};
use connection::Connection;
use mio::net::TcpStream;
use pagewire_protocol::{Body, DecodeError, LaneClass, SessionHeader};

/// The connections of a link, by the class that their hello names; pages go with the small
/// messages.
pub const CONNECTIONS: [LaneClass; 2] = [LaneClass::Small, LaneClass::Bulk];

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
        LaneClass::Bulk => "4 on this connection",
        _ => "0 to 3 on this connection (or an acknowledgement)",
    };
    DecodeError::Field { what: "session header lane", found: header.lane as u64, expected }.into()
}

/// The connections to one peer, past their handshake.
#[derive(Debug)]
pub struct TcpLink {
    main: Connection,
    bulk: Connection,
}

impl TcpLink {
    /// A link over `streams`, in the order of [`CONNECTIONS`]; frames have `page_bytes` bytes.
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

    /// Bytes of pages that were read too far, because something else was expected, and had to be
    /// moved into their frame, since this was last asked.
    pub fn take_moved_bytes(&mut self) -> u64 {
        self.main.take_moved_bytes() + self.bulk.take_moved_bytes()
    }
}

impl Link for TcpLink {
    fn post_receive(&mut self, class: LaneClass, frame: Frame) {
        debug_assert!(class.has_frame());
        self.connection(class).post_receive(frame);
    }

    #[inline]
    fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        // Acknowledgements of the bulk lane, too, go where they are not behind bulk.
        let class = if frame.is_some() { header.lane.class() } else { LaneClass::Small };
        self.connection(class).send(header, body, frame, urgency)
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.main.flush()?;
        self.bulk.flush()
    }

    fn hurry(&mut self) {
        self.main.hurry();
        self.bulk.hurry();
    }

    fn is_waiting_for_quiet(&self) -> bool {
        self.main.is_waiting_for_quiet()
    }

    fn poll(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        self.main.poll(events)?;
        self.bulk.poll(events)
    }

    fn ready(&mut self, class: LaneClass, readable: bool, writable: bool) {
        self.connection(class).ready(readable, writable);
    }

    fn is_hot(&self) -> bool {
        self.main.readiness.wants_read() || self.bulk.readiness.wants_read()
    }

    fn cool_down(&mut self) {
        self.main.readiness.hot_turns_left = 0;
        self.bulk.readiness.hot_turns_left = 0;
    }

    fn may_sleep(&self) -> bool {
        !self.main.readiness.ready && !self.bulk.readiness.ready
    }
}
