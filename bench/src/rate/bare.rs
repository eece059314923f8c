//! The streams that the endpoints are measured against: nonblocking sockets, spun on, no protocol.
//!
//! One by one, each message is one write: 128 bytes, as on a link, or the 8 KiB of a page alone.
//! Batched, the wire bytes of many go in one call, pages as {header, frame} pairs. Small messages
//! are read as many as there are, pages into as many frames as an endpoint has posted.

use super::{flow::Flow, plan::BATCH_MAX};
use crate::{
    error::BenchError,
    spin::{Patience, Switch},
    ways::{
        NUMBER_BYTES, PAGE_BYTES, Pages, Size, again, number_in, put_number, read, same, write,
    },
};
use pagewire_protocol::header::{FRAME_OFFSET_BYTES, HEADER_BYTES};
use pagewire_transport::{Arena, Frame};
use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    net::TcpStream,
    ops::Range,
};

/// Bytes of a message on the wire, without its page.
const SLOT_BYTES: usize = FRAME_OFFSET_BYTES;
/// Bytes that one read of small messages asks for.
const READ_BYTES: usize = 512 * SLOT_BYTES;
/// Pages that one write takes at most.
const PAGE_BATCH: usize = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct BareFlow {
    stream: TcpStream,
    batched: bool,
    batch: usize,
    /// Slots of a batch.
    output: Box<[u8]>,
    /// Small messages, read ahead; or the header of one page.
    input: Box<[u8]>,
    /// Bytes of the present message, or of several small ones, that are there.
    got: usize,
    pages: Pages,
    /// Received into in turn.
    landing: Vec<Frame>,
    next_landing: usize,
}

impl BareFlow {
    /// A bare socket that sends `pages`, up to `batch` at once, and receives into `landing_frames`
    /// frames of `arena`.
    pub(super) fn new(
        stream: TcpStream,
        pages: Pages,
        arena: &Arena,
        landing_frames: u32,
        batch: u32,
    ) -> Result<Self, BenchError> {
        let landing = (0..landing_frames).map(|_| arena.take());
        let batch = batch.min(BATCH_MAX) as usize;
        Ok(Self {
            stream,
            batched: false,
            batch,
            output: vec![0; batch * SLOT_BYTES].into_boxed_slice(),
            input: vec![0; READ_BYTES].into_boxed_slice(),
            got: 0,
            pages,
            landing: landing.collect::<Option<_>>().ok_or(BenchError::NoFrame)?,
            next_landing: 0,
        })
    }

    /// The same socket, for the next leg: many messages a call, or one.
    pub(super) fn batched(&mut self, batched: bool) -> &mut Self {
        self.batched = batched;
        self
    }

    fn stream_small(&mut self, numbers: Range<u64>, switch: &Switch) -> Result<(), BenchError> {
        let batch = if self.batched { self.batch } else { 1 };
        let mut next = numbers.start;
        while next < numbers.end {
            let used = self.fill(next..numbers.end, batch);
            let stream = &mut self.stream;
            write(&self.output[..used * SLOT_BYTES], switch, |rest| stream.write(rest))?;
            next += used as u64;
        }
        Ok(())
    }

    /// Writes the first of `numbers` into slots, up to `batch`; returns how many.
    fn fill(&mut self, numbers: Range<u64>, batch: usize) -> usize {
        let mut used = 0;
        for (slot, number) in self.output.chunks_exact_mut(SLOT_BYTES).take(batch).zip(numbers) {
            put_number(&mut slot[HEADER_BYTES..], number);
            used += 1;
        }
        used
    }

    fn drain_small(&mut self, expected: u64) -> Result<u64, BenchError> {
        self.got += read(self.stream.read(&mut self.input[self.got..]))?;
        let mut count = 0;
        for slot in self.input[..self.got].chunks_exact(SLOT_BYTES) {
            same(
                "the number",
                expected + count,
                number_in(&slot[HEADER_BYTES..]),
                expected + count,
            )?;
            count += 1;
        }
        let rest = self.got % SLOT_BYTES;
        self.input.copy_within(self.got - rest..self.got, 0);
        self.got = rest;
        Ok(count)
    }

    fn stream_pages(&mut self, numbers: Range<u64>, switch: &Switch) -> Result<(), BenchError> {
        if !self.batched {
            let stream = &mut self.stream;
            return numbers.into_iter().try_for_each(|number| {
                write(self.pages.of(number), switch, |rest| stream.write(rest))
            });
        }
        let mut next = numbers.start;
        while next < numbers.end {
            let used = self.fill(next..numbers.end, self.batch.min(PAGE_BATCH));
            self.write_pages(next, used, switch)?;
            next += used as u64;
        }
        Ok(())
    }

    /// Writes `count` slots, each with its page behind it; the first is number `first`.
    fn write_pages(&mut self, first: u64, count: usize, switch: &Switch) -> Result<(), BenchError> {
        let mut sent = 0;
        let mut patience = Patience::new(switch, "room in a socket");
        while sent < count * (SLOT_BYTES + PAGE_BYTES) {
            let mut slices = [IoSlice::new(&[]); 2 * PAGE_BATCH];
            let mut skip = sent;
            let mut used = 0;
            for (slot, number) in self.output.chunks_exact(SLOT_BYTES).take(count).zip(first..) {
                for part in [slot, &self.pages.of(number)[..]] {
                    if skip < part.len() {
                        slices[used] = IoSlice::new(&part[skip..]);
                        used += 1;
                    }
                    skip = skip.saturating_sub(part.len());
                }
            }
            match self.stream.write_vectored(&slices[..used]) {
                Ok(n) => sent += n,
                Err(e) if again(&e) => patience.spin()?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Reads once; 1 if a page is whole.
    fn drain_page(&mut self, expected: u64) -> Result<u64, BenchError> {
        let header = if self.batched { SLOT_BYTES } else { 0 };
        let frame = &mut self.landing[self.next_landing];
        self.got += read(if self.got < header {
            let mut parts =
                [IoSliceMut::new(&mut self.input[self.got..header]), IoSliceMut::new(frame)];
            self.stream.read_vectored(&mut parts)
        } else {
            self.stream.read(&mut frame[self.got - header..])
        })?;
        if self.got < header + PAGE_BYTES {
            return Ok(0);
        }
        self.got = 0;
        if self.batched {
            same("the number", expected, number_in(&self.input[HEADER_BYTES..]), expected)?;
        }
        self.pages.check(&self.landing[self.next_landing], expected)?;
        self.next_landing = (self.next_landing + 1) % self.landing.len();
        Ok(1)
    }
}

impl Flow for BareFlow {
    fn stream(
        &mut self,
        size: Size,
        numbers: Range<u64>,
        switch: &Switch,
    ) -> Result<(), BenchError> {
        match size {
            Size::Small(_) => self.stream_small(numbers, switch),
            Size::Page => self.stream_pages(numbers, switch),
        }
    }

    fn drain(&mut self, size: Size, expected: u64) -> Result<u64, BenchError> {
        match size {
            Size::Small(_) => self.drain_small(expected),
            Size::Page => self.drain_page(expected),
        }
    }

    fn signal(&mut self, count: u64, switch: &Switch) -> Result<(), BenchError> {
        let mut bytes = [0; NUMBER_BYTES];
        put_number(&mut bytes, count);
        let stream = &mut self.stream;
        write(&bytes, switch, |rest| stream.write(rest))
    }

    fn heard(&mut self) -> Result<Option<u64>, BenchError> {
        self.got += read(self.stream.read(&mut self.input[self.got..NUMBER_BYTES]))?;
        if self.got < NUMBER_BYTES {
            return Ok(None);
        }
        self.got = 0;
        Ok(Some(number_in(&self.input)))
    }
}
