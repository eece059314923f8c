//! What the fuzz targets share: a reader that turns the fuzzer's bytes into numbers, the parties of a
//! handshake, and frames.
#![forbid(unsafe_code)]

pub mod handshake;

use pagewire_protocol::{
    Body, Epoch, InstanceId, Lane, MessageKind, PageSize, Sequence, SessionHeader,
};
use pagewire_transport::{Arena, ArenaConfig};

/// Bytes of a page: the smallest that there is, so that an input holds several.
pub const PAGE_BYTES: usize = 4096;

/// The fuzzer's bytes, read from the front; behind their end come zeros.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next four bytes as a number.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    /// The next eight bytes as a number.
    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }

    /// One of the lanes.
    pub fn lane(&mut self) -> Lane {
        Lane::ALL[usize::from(self.byte()) % Lane::COUNT]
    }
}

/// An arena of small pages.
pub fn arena(frames: u32) -> Arena {
    let small =
        ArenaConfig { page_size: PageSize::K4, huge_pages: false, ..ArenaConfig::new(frames) };
    Arena::new(&small).expect("memory for a few frames")
}

/// A header that a peer can send, its numbers from the fuzzer; and its body.
pub fn header(input: &mut Input<'_>, lane: Lane, source: InstanceId) -> (SessionHeader, Body) {
    let ack_only = input.byte().is_multiple_of(8);
    let body = if ack_only {
        Body::EMPTY
    } else {
        let length = usize::from(input.byte() % 81);
        Body::new(input.bytes(length)).expect("at most 80 bytes")
    };
    let header = SessionHeader {
        lane,
        kind: if ack_only { MessageKind::ACK_ONLY } else { MessageKind(200) },
        body_len: u8::try_from(body.as_slice().len()).expect("at most 80"),
        frame: lane.class().has_frame() && !ack_only,
        page_crc: None,
        epoch: Epoch(input.byte().into()),
        sequence: Sequence(if ack_only { 0 } else { u64::from(input.byte()).max(1) }),
        ack: Sequence(input.byte().into()),
        credits: input.word(),
        source,
    };
    (header, body)
}
