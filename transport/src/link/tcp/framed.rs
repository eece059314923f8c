//! A connection on which every message is 128 bytes (header and padded body) and one frame.
//!
//! One vectored read fills {header, frame}, straight into the posted frame; one vectored write
//! sends several messages straight from theirs.

use super::{LinkEvent, Readiness, wrong_connection};
use crate::{Frame, SharedFrame, error::LinkError};
use mio::net::TcpStream;
use pagewire_protocol::{
    Body, DecodeError, LaneClass, SessionHeader, crc32c,
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES, verify_crc},
};
use std::{
    collections::VecDeque,
    io::{ErrorKind, IoSlice, IoSliceMut, Read, Write},
};

/// Messages that one vectored write takes at most.
const BATCH: usize = 16;
/// Messages that are read in one poll turn at most, so that other connections get theirs.
const READ_BATCH: usize = 16;
/// Messages that wait for the kernel at most; sessions have fewer credits than this.
const QUEUE_MAX: usize = 256;

#[derive(Debug)]
struct Outgoing {
    header: [u8; FRAME_OFFSET_BYTES],
    frame: SharedFrame,
}

#[derive(Debug)]
pub(super) struct FramedConnection {
    stream: TcpStream,
    class: LaneClass,
    page_bytes: usize,
    page_crc: bool,
    posted: VecDeque<Frame>,
    header: [u8; FRAME_OFFSET_BYTES],
    /// Bytes of {header, first posted frame} that are there.
    got: usize,
    /// The last read completed a message: more may be waiting behind it.
    backlog: bool,
    queue: VecDeque<Outgoing>,
    /// Bytes of the first queued message that the kernel has.
    sent: usize,
    writable: bool,
    pub(super) readiness: Readiness,
}

impl FramedConnection {
    pub(super) fn new(
        stream: TcpStream,
        class: LaneClass,
        page_bytes: usize,
        page_crc: bool,
    ) -> Self {
        Self {
            stream,
            class,
            page_bytes,
            page_crc,
            posted: VecDeque::with_capacity(QUEUE_MAX),
            header: [0; FRAME_OFFSET_BYTES],
            got: 0,
            backlog: false,
            queue: VecDeque::with_capacity(QUEUE_MAX),
            sent: 0,
            writable: true,
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

    /// Without a posted frame there is nothing to do even if bytes wait.
    pub(super) fn may_sleep(&self) -> bool {
        !self.readiness.ready || self.posted.is_empty()
    }

    pub(super) fn post_receive(&mut self, frame: Frame) {
        debug_assert_eq!(frame.len(), self.page_bytes);
        self.posted.push_back(frame);
    }

    pub(super) fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: &SharedFrame,
    ) -> bool {
        if self.queue.len() == QUEUE_MAX {
            return false;
        }
        let header = SessionHeader { page_crc: self.page_crc.then(|| crc32c(&[frame])), ..*header };
        let mut bytes = [0; FRAME_OFFSET_BYTES];
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode(body, true));
        bytes[HEADER_BYTES..].copy_from_slice(body.padded());
        self.queue.push_back(Outgoing { header: bytes, frame: frame.clone() });
        true
    }

    #[inline]
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while self.writable && !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2 * BATCH];
            let mut skip = self.sent;
            let mut used = 0;
            for outgoing in self.queue.iter().take(BATCH) {
                for part in [&outgoing.header[..], &outgoing.frame[..]] {
                    slices[used] = IoSlice::new(&part[skip.min(part.len())..]);
                    skip = skip.saturating_sub(part.len());
                    used += 1;
                }
            }
            match self.stream.write_vectored(&slices[..used]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            let message_bytes = FRAME_OFFSET_BYTES + self.page_bytes;
            while self.sent >= message_bytes && self.queue.pop_front().is_some() {
                self.sent -= message_bytes;
            }
        }
        Ok(())
    }

    #[inline]
    pub(super) fn poll(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        if !self.readiness.wants_read() {
            return Ok(());
        }
        // One message a turn while they come one by one: a second read would only find nothing.
        let batch = if self.backlog { READ_BATCH } else { 1 };
        for _ in 0..batch {
            let Some(frame) = self.posted.front_mut() else { break };
            let read = if self.got < FRAME_OFFSET_BYTES {
                let mut parts =
                    [IoSliceMut::new(&mut self.header[self.got..]), IoSliceMut::new(frame)];
                self.stream.read_vectored(&mut parts)
            } else {
                self.stream.read(&mut frame[self.got - FRAME_OFFSET_BYTES..])
            };
            match read {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.got += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readiness.would_block();
                    self.backlog = false;
                    break;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            self.readiness.got_bytes();
            if self.got < FRAME_OFFSET_BYTES + self.page_bytes {
                // A short read: the rest is not there yet.
                self.backlog = false;
                self.check_header_early()?;
                break;
            }
            self.got = 0;
            self.backlog = true;
            let Some(frame) = self.posted.pop_front() else { break };
            events.push(self.complete(frame)?);
        }
        Ok(())
    }

    /// Garbage must not wait for a whole page of more garbage before it is noticed.
    fn check_header_early(&self) -> Result<(), LinkError> {
        if self.got >= FRAME_OFFSET_BYTES {
            self.decode_header()?;
        }
        Ok(())
    }

    fn decode_header(&self) -> Result<(SessionHeader, Body), LinkError> {
        let (header_bytes, body) = self.header.split_at(HEADER_BYTES);
        let header = SessionHeader::decode(header_bytes)?;
        if header.lane.class() != self.class || !header.frame {
            return Err(wrong_connection(self.class, &header));
        }
        let body = &body[..usize::from(header.body_len)];
        verify_crc(header_bytes, body)?;
        let too_long = DecodeError::Length { what: "body", found: body.len(), expected: 80 };
        Ok((header, Body::new(body).ok_or(too_long)?))
    }

    fn complete(&self, frame: Frame) -> Result<LinkEvent, LinkError> {
        let (header, body) = self.decode_header()?;
        if let Some(found) = header.page_crc {
            let computed = crc32c(&[&frame]);
            if found != computed {
                return Err(LinkError::PageCrc { found, computed });
            }
        }
        Ok(LinkEvent::Received { header, body, frame: Some(frame) })
    }
}
