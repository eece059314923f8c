//! The connection of messages without a frame: one contiguous buffer each way, one system call for
//! all messages of a poll turn.

use super::{LinkEvent, Readiness, wrong_connection};
use crate::error::LinkError;
use mio::net::TcpStream;
use pagewire_protocol::{
    Body, LaneClass, MessageKind, SessionHeader,
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES, verify_crc},
};
use std::io::{ErrorKind, Read, Write};

/// Bytes of each buffer. More than all credits of the small lanes at the longest message, at the
/// default credits: a session runs out of credit before a link runs out of buffer.
const BUFFER_BYTES: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct SmallConnection {
    stream: TcpStream,
    input: Box<[u8]>,
    /// Unread bytes of `input`.
    start: usize,
    end: usize,
    output: Vec<u8>,
    /// Bytes of `output` that the kernel has.
    sent: usize,
    writable: bool,
    pub(super) readiness: Readiness,
}

impl SmallConnection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::with_capacity(BUFFER_BYTES),
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

    pub(super) fn send(&mut self, header: &SessionHeader, body: &Body) -> bool {
        if self.output.len() + FRAME_OFFSET_BYTES > BUFFER_BYTES {
            self.output.drain(..self.sent);
            self.sent = 0;
            if self.output.len() + FRAME_OFFSET_BYTES > BUFFER_BYTES {
                return false;
            }
        }
        self.output.extend_from_slice(&header.encode(body, true));
        self.output.extend_from_slice(body.as_slice());
        true
    }

    #[inline]
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while self.writable && self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        Ok(())
    }

    #[inline]
    pub(super) fn poll(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        if !self.readiness.wants_read() {
            return Ok(());
        }
        match self.stream.read(&mut self.input[self.end..]) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(n) => {
                self.end += n;
                self.readiness.got_bytes();
                self.parse(events)?;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readiness.would_block(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn parse(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        while self.end - self.start >= HEADER_BYTES {
            let bytes = &self.input[self.start..self.end];
            let header = SessionHeader::decode(bytes)?;
            if header.lane.class() != LaneClass::Small && header.kind != MessageKind::ACK_ONLY {
                return Err(wrong_connection(LaneClass::Small, &header));
            }
            let Some(body) = bytes.get(HEADER_BYTES..header.wire_len()) else { break };
            verify_crc(&bytes[..HEADER_BYTES], body)?;
            let body = Body::new(body).unwrap_or(Body::EMPTY);
            self.start += header.wire_len();
            events.push(LinkEvent::Received { header, body, frame: None });
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.input.len() - self.end < FRAME_OFFSET_BYTES {
            // Keep room for one whole message behind a part of one.
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        Ok(())
    }
}
