//! One TCP connection of a link: messages of 128 bytes (header and padded body), some with a frame
//! behind them.
//!
//! Reading guesses what comes next by what came last, and never copies a page that was guessed:
//!
//! ```text
//!   after a message with a frame     readv {header, posted frame}        a page is one call
//!   after a few without              read  {header}, then {frame}        a page is two calls
//!   after many without               read  ahead, up to a buffer full    many messages are one call
//! ```
//! Where the guess was wrong, what was read too far lies in the frame or the buffer. It goes through
//! the buffer into its place; bytes of a page that had to are counted.
//!
//! Writing gathers what is queued into one call, straight from the frames.

use super::{LinkEvent, Readiness, Urgency, wrong_connection};
use crate::{Frame, SharedFrame, error::LinkError};
use mio::net::TcpStream;
use pagewire_protocol::{
    Body, DecodeError, Lane, LaneClass, MessageKind, SessionHeader, crc32c,
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES, verify_crc},
};
use std::{
    collections::VecDeque,
    io::{ErrorKind, IoSlice, IoSliceMut, Read, Write},
};

/// Messages that one write takes at most.
const WRITE_BATCH: usize = 32;
/// Reads in one poll turn at most, so that other connections get theirs.
const READ_BATCH: usize = 16;
/// Messages that wait for the kernel at most: more than all credits at their defaults, so that a
/// session runs out of credit before a link runs out of room.
const QUEUE_MAX: usize = 1024;
/// Messages that are not urgent wait until there are this many.
const LATER_MAX: usize = 64;
/// Messages without a frame after which it is worth reading ahead.
const SMALL_RUN: u32 = 8;
/// Bytes that are read ahead at least.
const AHEAD_BYTES: usize = 32 * FRAME_OFFSET_BYTES;

#[derive(Debug)]
struct Outgoing {
    lane: Lane,
    header: [u8; FRAME_OFFSET_BYTES],
    frame: Option<SharedFrame>,
}

impl Outgoing {
    fn len_bytes(&self) -> usize {
        FRAME_OFFSET_BYTES + self.frame.as_ref().map_or(0, |frame| frame.len())
    }
}

/// What was read ahead and is not taken yet.
#[derive(Debug)]
struct Ahead {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Ahead {
    /// Moves bytes to the start of `to`, as many as there are and fit; returns how many.
    fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.end - self.start);
        to[..count].copy_from_slice(&self.bytes[self.start..self.start + count]);
        self.start += count;
        count
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    class: LaneClass,
    page_bytes: usize,
    page_crc: bool,
    posted: VecDeque<Frame>,
    header: [u8; FRAME_OFFSET_BYTES],
    /// Bytes of {header, first posted frame} that are there.
    got: usize,
    /// The header, once it is whole and a frame follows it.
    awaited: Option<(SessionHeader, Body)>,
    ahead: Ahead,
    /// Messages without a frame since the last one with.
    small_run: u32,
    /// The last read brought as much as it could: more may be waiting.
    backlog: bool,
    queue: VecDeque<Outgoing>,
    /// Messages that nobody waits for. They stay behind pages, and come before what is queued of
    /// their own lane, whose order they keep.
    later: VecDeque<Outgoing>,
    /// Bytes of the first queued message that the kernel has.
    sent: usize,
    writable: bool,
    /// Bytes of pages that were read too far and had to be moved.
    moved_bytes: u64,
    pub(super) readiness: Readiness,
}

impl Connection {
    /// A connection of the lanes of `class`, and with [`LaneClass::Small`] also of the pages lane.
    pub(super) fn new(
        stream: TcpStream,
        class: LaneClass,
        page_bytes: usize,
        page_crc: bool,
    ) -> Self {
        let bytes = vec![0; AHEAD_BYTES.max(page_bytes)].into_boxed_slice();
        Self {
            stream,
            class,
            page_bytes,
            page_crc,
            posted: VecDeque::with_capacity(QUEUE_MAX),
            header: [0; FRAME_OFFSET_BYTES],
            got: 0,
            awaited: None,
            ahead: Ahead { bytes, start: 0, end: 0 },
            small_run: 1,
            backlog: false,
            queue: VecDeque::with_capacity(QUEUE_MAX),
            later: VecDeque::with_capacity(LATER_MAX),
            sent: 0,
            writable: true,
            moved_bytes: 0,
            readiness: Readiness::new(),
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn ready(&mut self, readable: bool, writable: bool) {
        self.readiness.ready |= readable;
        self.writable |= writable;
    }

    pub(super) fn take_moved_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.moved_bytes)
    }

    pub(super) fn post_receive(&mut self, frame: Frame) {
        debug_assert_eq!(frame.len(), self.page_bytes);
        self.posted.push_back(frame);
    }

    // ---- writing -------------------------------------------------------------------------------

    pub(super) fn hurry(&mut self) {
        self.queue.append(&mut self.later);
    }

    pub(super) fn is_waiting_for_quiet(&self) -> bool {
        !self.later.is_empty()
    }

    #[inline]
    pub(super) fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        if self.queue.len() + self.later.len() == QUEUE_MAX {
            return false;
        }
        let page_crc = frame.filter(|_| self.page_crc).map(|frame| crc32c(&[frame]));
        let mut bytes = [0; FRAME_OFFSET_BYTES];
        bytes[..HEADER_BYTES]
            .copy_from_slice(&SessionHeader { page_crc, ..*header }.encode(body, true));
        bytes[HEADER_BYTES..].copy_from_slice(body.padded());
        let outgoing = Outgoing { lane: header.lane, header: bytes, frame: frame.cloned() };
        if urgency == Urgency::WhenQuiet && frame.is_none() && self.later.len() < LATER_MAX {
            self.later.push_back(outgoing);
            return true;
        }
        if self.later.len() == LATER_MAX || self.later.iter().any(|l| l.lane == header.lane) {
            self.queue.append(&mut self.later);
        }
        self.queue.push_back(outgoing);
        true
    }

    #[inline]
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while self.writable && !self.queue.is_empty() {
            match self.write() {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            while let Some(first) = self.queue.front().map(Outgoing::len_bytes)
                && self.sent >= first
            {
                self.sent -= first;
                self.queue.pop_front();
            }
        }
        Ok(())
    }

    fn write(&mut self) -> std::io::Result<usize> {
        if let [Outgoing { header, frame: None, .. }] = self.queue.as_slices().0
            && self.queue.len() == 1
        {
            // A vector of one costs more than a plain write.
            return self.stream.write(&header[self.sent..]);
        }
        let mut slices = [IoSlice::new(&[]); 2 * WRITE_BATCH];
        let mut skip = self.sent;
        let mut used = 0;
        for outgoing in self.queue.iter().take(WRITE_BATCH) {
            let parts = [Some(&outgoing.header[..]), outgoing.frame.as_deref()];
            for part in parts.into_iter().flatten() {
                slices[used] = IoSlice::new(&part[skip.min(part.len())..]);
                skip = skip.saturating_sub(part.len());
                used += 1;
            }
        }
        self.stream.write_vectored(&slices[..used])
    }

    // ---- reading -------------------------------------------------------------------------------

    #[inline]
    pub(super) fn poll(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        if !self.readiness.wants_read() {
            return Ok(());
        }
        // One read a turn while messages come one by one: a second would only find nothing.
        let was_backlog = self.backlog;
        for _ in 0..READ_BATCH {
            let (read, asked) = self.read();
            match read {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => {
                    self.readiness.got_bytes();
                    self.backlog = n == asked;
                    self.parse(events)?;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readiness.would_block();
                    self.backlog = false;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            let goes_on = was_backlog || self.awaited.is_some();
            if !(self.backlog && goes_on) {
                break;
            }
        }
        Ok(())
    }

    /// Reads once, to where it is guessed to belong; also returns how many bytes it asked for.
    #[inline]
    fn read(&mut self) -> (std::io::Result<usize>, usize) {
        let got = self.got;
        if self.awaited.is_some()
            && let Some(frame) = self.posted.front_mut()
        {
            let rest = &mut frame[got - FRAME_OFFSET_BYTES..];
            let asked = rest.len();
            let read = self.stream.read(rest);
            self.got += read.as_ref().copied().unwrap_or(0);
            return (read, asked);
        }
        if self.small_run == 0
            && let Some(frame) = self.posted.front_mut()
        {
            let asked = FRAME_OFFSET_BYTES - got + frame.len();
            let mut parts = [IoSliceMut::new(&mut self.header[got..]), IoSliceMut::new(frame)];
            let read = self.stream.read_vectored(&mut parts);
            self.got += read.as_ref().copied().unwrap_or(0);
            return (read, asked);
        }
        if self.small_run >= SMALL_RUN {
            debug_assert!(self.ahead.is_empty());
            let read = self.stream.read(&mut self.ahead.bytes);
            (self.ahead.start, self.ahead.end) = (0, read.as_ref().copied().unwrap_or(0));
            return (read, self.ahead.bytes.len());
        }
        let rest = &mut self.header[got..];
        let asked = rest.len();
        let read = self.stream.read(rest);
        self.got += read.as_ref().copied().unwrap_or(0);
        (read, asked)
    }

    /// Takes every message that is whole.
    #[inline]
    fn parse(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        loop {
            if self.got < FRAME_OFFSET_BYTES {
                self.got += self.ahead.take(&mut self.header[self.got..]);
                if self.got < FRAME_OFFSET_BYTES {
                    return Ok(());
                }
            }
            let (header, body) = match self.awaited {
                Some(awaited) => awaited,
                None => self.decode()?,
            };
            if header.frame {
                self.awaited = Some((header, body));
                let Some(frame) = self.posted.front_mut() else {
                    return Err(page_without_receive());
                };
                let moved = self.ahead.take(&mut frame[self.got - FRAME_OFFSET_BYTES..]);
                self.moved_bytes += moved as u64;
                self.got += moved;
                if self.got < FRAME_OFFSET_BYTES + self.page_bytes {
                    return Ok(());
                }
                let frame = self.posted.pop_front();
                check_page_crc(&header, frame.as_deref())?;
                self.awaited = None;
                self.small_run = 0;
                events.push(LinkEvent::Received { header, body, frame });
            } else {
                self.small_run = self.small_run.saturating_add(1);
                events.push(LinkEvent::Received { header, body, frame: None });
                self.give_back(self.got - FRAME_OFFSET_BYTES);
            }
            self.got = 0;
        }
    }

    /// `count` bytes behind a message without a frame were read into the posted frame: they are the
    /// next messages.
    fn give_back(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        debug_assert!(self.ahead.is_empty());
        if let Some(frame) = self.posted.front() {
            self.ahead.bytes[..count].copy_from_slice(&frame[..count]);
            (self.ahead.start, self.ahead.end) = (0, count);
        }
    }

    fn decode(&self) -> Result<(SessionHeader, Body), LinkError> {
        let (header_bytes, padded) = self.header.split_at(HEADER_BYTES);
        let header = SessionHeader::decode(header_bytes)?;
        let fits = match self.class {
            LaneClass::Bulk => header.lane.class() == LaneClass::Bulk && header.frame,
            _ => header.lane.class() != LaneClass::Bulk || header.kind == MessageKind::ACK_ONLY,
        };
        if !fits {
            return Err(wrong_connection(self.class, &header));
        }
        let (body, padding) = padded.split_at(usize::from(header.body_len));
        verify_crc(header_bytes, body)?;
        if let Some(byte) = padding.iter().find(|byte| **byte != 0) {
            let found = u64::from(*byte);
            let what = "padding behind a body";
            return Err(DecodeError::Field { what, found, expected: "0" }.into());
        }
        Ok((header, Body::new(body).unwrap_or(Body::EMPTY)))
    }
}

fn page_without_receive() -> LinkError {
    let what = "receives posted for a page that has come";
    DecodeError::Field { what, found: 0, expected: "at least 1: the peer sent it without credit" }
        .into()
}

fn check_page_crc(header: &SessionHeader, frame: Option<&[u8]>) -> Result<(), LinkError> {
    let (Some(found), Some(frame)) = (header.page_crc, frame) else { return Ok(()) };
    let computed = crc32c(&[frame]);
    if found == computed { Ok(()) } else { Err(LinkError::PageCrc { found, computed }) }
}
