//! One TCP connection of a link: a [`Reader`], a [`Writer`], and when it is worth a system call.
//!
//! mio registers edge-triggered: a connection that may hold more than was read stays `ready`. A read
//! that brought less than it asked for has taken everything, so it needs no second one that finds
//! nothing; unless the other side has ended, which is reported once and seen by reading zero bytes.

use super::{Sink, Urgency, reader::Reader, writer::Writer};
use crate::{Frame, SharedFrame, error::LinkError};
use mio::{Interest, Registry, Token, net::TcpStream};
use pagewire_protocol::{Body, LaneClass, SessionHeader};
use rustix::io::Errno;

/// Poll turns without a byte after which a connection is no longer read blindly.
const HOT_TURNS: u32 = 2048;
/// Reads in one poll turn at most, so that other connections get theirs.
const READ_BATCH: u32 = 16;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    reader: Reader,
    writer: Writer,
    /// There may be more to read than was read.
    ready: bool,
    /// The other side has ended, or the connection has failed: read until that shows.
    ended: bool,
    hot_turns_left: u32,
    registered: bool,
    /// Bytes that came, when [`Connection::heat`] last looked.
    seen_bytes: u64,
}

impl Connection {
    /// A connection of the lanes of `class`, and with [`LaneClass::Small`] also of the pages lane.
    pub(super) fn new(
        stream: TcpStream,
        class: LaneClass,
        page_bytes: usize,
        page_crc: bool,
    ) -> Self {
        Self {
            stream,
            reader: Reader::new(class, page_bytes),
            writer: Writer::new(page_crc),
            ready: true,
            ended: false,
            hot_turns_left: HOT_TURNS,
            registered: true,
            seen_bytes: 0,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn post_receive(&mut self, frame: Frame) {
        self.reader.post(frame);
    }

    pub(super) fn take_receives(&mut self) -> Result<Vec<Frame>, LinkError> {
        self.reader.take_receives()
    }

    pub(super) fn take_moved_bytes(&mut self) -> u64 {
        self.reader.take_moved_bytes()
    }

    pub(super) fn traffic_bytes(&self) -> (u64, u64) {
        (self.reader.read_bytes(), self.writer.written_bytes())
    }

    // ---- readiness -----------------------------------------------------------------------------

    pub(super) fn ready(&mut self, readable: bool, writable: bool, ended: bool) {
        self.ready |= readable || ended;
        self.ended |= ended;
        if writable {
            self.writer.may_write();
        }
    }

    /// The other side has ended, or the connection has failed.
    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    #[inline]
    pub(super) fn wants_read(&self) -> bool {
        self.ready || !self.registered || self.hot_turns_left > 0 || self.reader.is_paused()
    }

    pub(super) fn may_sleep(&self) -> bool {
        !self.ready && !self.reader.is_paused()
    }

    pub(super) fn heat(&mut self, registry: &Registry, token: Token) {
        let read_bytes = self.reader.read_bytes();
        let busy = read_bytes != self.seen_bytes;
        self.seen_bytes = read_bytes;
        if busy && self.registered {
            self.registered = registry.deregister(&mut self.stream).is_err();
        } else if self.hot_turns_left == 0 {
            self.register(registry, token);
        }
    }

    pub(super) fn cool_down(&mut self, registry: &Registry, token: Token) {
        self.hot_turns_left = 0;
        self.register(registry, token);
    }

    fn register(&mut self, registry: &Registry, token: Token) {
        if self.registered {
            return;
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        match registry.register(&mut self.stream, token, interest) {
            // The poller reports what is there already.
            Ok(()) => (self.registered, self.ready) = (true, self.ended),
            // It goes on being read in each turn, and the endpoint does not sleep.
            Err(error) => {
                tracing::warn!("a connection cannot be given to the poller: {error}");
                self.ready = true;
            }
        }
    }

    // ---- traffic -------------------------------------------------------------------------------

    #[inline(always)] // As the writer.
    pub(super) fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        self.writer.push(header, body, frame, urgency)
    }

    pub(super) fn hurry(&mut self) {
        self.writer.hurry();
    }

    pub(super) fn is_waiting_for_quiet(&self) -> bool {
        self.writer.is_waiting_for_quiet()
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        !self.writer.is_empty()
    }

    #[inline(always)] // As the writer.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        if self.writer.is_empty() {
            return Ok(());
        }
        if !self.registered {
            self.writer.may_write();
        }
        self.writer.flush(&self.stream)
    }

    #[inline(always)] // As the reader.
    pub(super) fn poll(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        if self.wants_read() { self.read(sink) } else { Ok(()) }
    }

    /// As [`Connection::poll`], of a connection on which something is the exception.
    #[inline]
    pub(super) fn poll_idle(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        #[inline(never)]
        fn read(connection: &mut Connection, sink: &mut impl Sink) -> Result<(), LinkError> {
            connection.read(sink)
        }
        if self.wants_read() { read(self, sink) } else { Ok(()) }
    }

    /// As [`Connection::flush`], of such a connection.
    #[inline]
    pub(super) fn flush_idle(&mut self) -> Result<(), LinkError> {
        #[inline(never)]
        fn flush(connection: &mut Connection) -> Result<(), LinkError> {
            connection.flush()
        }
        if self.has_output() { flush(self) } else { Ok(()) }
    }

    /// As [`Connection::poll`], but not blindly: once the poller has reported something.
    #[inline]
    pub(super) fn poll_when_reported(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        if self.ready || !self.registered || self.reader.is_paused() {
            self.read(sink)
        } else {
            Ok(())
        }
    }

    #[inline(always)] // As the reader.
    fn read(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        if self.reader.is_paused() {
            return self.resume(sink);
        }
        match self.reader.read(&self.stream) {
            Err(Errno::AGAIN) => {
                self.found_nothing();
                Ok(())
            }
            read => self.take(read, sink),
        }
    }

    /// Goes on behind what was said about the link, now that it is judged.
    #[cold]
    fn resume(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        self.reader.parse(sink)?;
        if self.reader.is_paused() {
            return Ok(());
        }
        let read = self.reader.read(&self.stream);
        self.take(read, sink)
    }

    #[inline]
    fn found_nothing(&mut self) {
        self.ready = false;
        self.hot_turns_left = self.hot_turns_left.saturating_sub(1);
    }

    /// A read has brought something, or has failed: hands it over, and reads on while it is worth it.
    #[inline(never)]
    fn take(
        &mut self,
        mut read: Result<usize, Errno>,
        sink: &mut impl Sink,
    ) -> Result<(), LinkError> {
        for reads in 1.. {
            match read {
                Ok(0) => return Err(LinkError::Closed),
                Ok(_) => {
                    self.hot_turns_left = HOT_TURNS;
                    self.ready = self.ended || self.reader.filled_up();
                    self.reader.parse(sink)?;
                    if !self.reader.reads_on() || self.reader.is_paused() {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN) => {
                    self.found_nothing();
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if reads == READ_BATCH {
                break;
            }
            read = self.reader.read(&self.stream);
        }
        Ok(())
    }
}
