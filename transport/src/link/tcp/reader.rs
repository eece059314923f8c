//! The receiving half of a connection: slots of 128 bytes (header and padded body), some with a
//! frame behind them.
//!
//! Reading guesses what comes next by what came last, and never copies a page that was guessed:
//!
//! ```text
//!   a page's header is there          read  {rest of its frame, next slot}
//!   after a page                      read  {slot, posted frame, next slot}    a page is one call
//!   after a few without               read  {slot}                             a page is two calls
//!   after many without                read  ahead, up to a buffer full         many are one call
//! ```
//! A frame with margins takes the slots before and behind it as well, in one piece, from where they
//! are moved to the buffer: a list of pieces costs the kernel more than that.
//!
//! Where the guess was wrong, what was read too far lies in the frame or the buffer. It goes through
//! the buffer into its place; bytes of a page that had to are counted.
//!
//! The frame that was posted last is filled first: it is the one that is still in the cache.
//!
//! Invariant: the stream's bytes that are read and not handed over are, in order: `frame_got` bytes
//! at the start of `landing` (only while `awaited` holds its header), then `buffer[start..end]`.
//! Between a read that guessed a page right and its parsing, the header is the buffer's first slot and
//! comes before the frame; a page that came whole is never awaited.

use super::Sink;
use crate::{Frame, MARGIN_BYTES, error::LinkError};
use pagewire_protocol::{
    Body, DecodeError, Lane, LaneClass, LinkControl, MessageKind, SessionHeader, crc32c,
    header::{FRAME_OFFSET_BYTES, Slot},
};
use rustix::{
    io::{Errno, readv},
    net::{RecvFlags, recv},
};
use std::{io::IoSliceMut, os::fd::AsFd};

/// Messages without a frame after which it is worth reading ahead.
const SMALL_RUN: u32 = 8;
/// Bytes that are read ahead at most.
const AHEAD_BYTES: usize = 128 * FRAME_OFFSET_BYTES;

#[derive(Debug)]
pub(super) struct Reader {
    class: LaneClass,
    page_bytes: usize,
    /// Frames to receive into, and the one that is next or being filled.
    posted: Vec<Frame>,
    landing: Option<Frame>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Header of a page whose frame is not whole yet, and the slot that it came in.
    awaited: Option<SessionHeader>,
    awaited_slot: Slot,
    frame_got: usize,
    /// Messages without a frame since the last one with.
    small_run: u32,
    /// The last read brought as much as it asked for.
    filled_up: bool,
    /// The last read asked for one slot.
    one_slot: bool,
    /// The other end spoke of the link: what came behind that waits for the next turn.
    paused: bool,
    moved_bytes: u64,
    read_bytes: u64,
}

impl Reader {
    pub(super) fn new(class: LaneClass, page_bytes: usize) -> Self {
        // A wrong guess leaves a page and a slot behind the slot that is there.
        let buffer_bytes = AHEAD_BYTES.max(page_bytes + 2 * FRAME_OFFSET_BYTES);
        Self {
            class,
            page_bytes,
            posted: Vec::with_capacity(64),
            landing: None,
            buffer: vec![0; buffer_bytes].into_boxed_slice(),
            start: 0,
            end: 0,
            awaited: None,
            awaited_slot: [0; FRAME_OFFSET_BYTES],
            frame_got: 0,
            small_run: 1,
            filled_up: false,
            one_slot: false,
            paused: false,
            moved_bytes: 0,
            read_bytes: 0,
        }
    }

    pub(super) fn post(&mut self, frame: Frame) {
        debug_assert_eq!(frame.len(), self.page_bytes);
        if self.landing.is_none() {
            self.landing = Some(frame);
        } else {
            self.posted.push(frame);
        }
    }

    /// There may be more to read.
    pub(super) fn filled_up(&self) -> bool {
        self.filled_up
    }

    /// There probably is. Not behind a slot that was read alone: while messages come one by one, a
    /// second read in the same turn would only find nothing.
    pub(super) fn reads_on(&self) -> bool {
        self.filled_up && (!self.one_slot || self.awaited.is_some())
    }

    /// There is more to parse than was parsed.
    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes the posted receives back; no page has begun to come, if the peer is a correct one.
    pub(super) fn take_receives(&mut self) -> Result<Vec<Frame>, LinkError> {
        if self.awaited.is_some() {
            let what = "pages begun on TCP when the messages move to verbs";
            return Err(DecodeError::Field { what, found: 1, expected: "0" }.into());
        }
        Ok(self.landing.take().into_iter().chain(self.posted.drain(..)).collect())
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    pub(super) fn take_moved_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.moved_bytes)
    }

    /// Reads once, to where it is guessed to belong.
    #[inline(always)] // Mostly a system call that finds nothing.
    pub(super) fn read(&mut self, stream: impl AsFd) -> Result<usize, Errno> {
        let expects_page = self.awaited.is_some() || self.small_run == 0;
        let (asked, got) = if expects_page && self.landing.is_some() {
            self.one_slot = false;
            self.read_page(stream)?
        } else {
            self.compact();
            let one_slot = self.small_run < SMALL_RUN;
            let until = if one_slot { FRAME_OFFSET_BYTES } else { self.buffer.len() };
            let rest = &mut self.buffer[self.end..until];
            let asked = rest.len();
            let (got, _) = recv(stream, rest, RecvFlags::empty())?;
            self.end += got;
            self.one_slot = one_slot;
            (asked, got)
        };
        self.filled_up = got == asked;
        self.read_bytes = self.read_bytes.wrapping_add(got as u64);
        Ok(got)
    }

    /// Reads into the landing frame, and the slots before and behind it. Returns how much it asked for
    /// and how much came.
    #[inline(always)] // As `read`.
    fn read_page(&mut self, stream: impl AsFd) -> Result<(usize, usize), Errno> {
        if self.awaited.is_none() {
            self.compact();
        }
        // Part of a slot, which is there already, goes before what comes.
        let read = if self.start == self.end { self.read_one_piece(&stream) } else { None };
        read.unwrap_or_else(|| self.read_pieces(stream))
    }

    /// The slots come in the frame's margins, and are moved from there. `None`: it has none.
    #[inline(always)] // As `read`.
    fn read_one_piece(&mut self, stream: impl AsFd) -> Option<Result<(usize, usize), Errno>> {
        let awaited = self.awaited.is_some();
        let whole = self.landing.as_mut()?.with_margins()?;
        let from = if awaited { FRAME_OFFSET_BYTES + self.frame_got } else { 0 };
        let asked = whole.len() - from;
        let got = match recv(stream, &mut whole[from..], RecvFlags::empty()) {
            Ok((got, _)) => got,
            Err(error) => return Some(Err(error)),
        };
        let (slot, rest) = whole.split_at(FRAME_OFFSET_BYTES);
        let next = &rest[self.page_bytes..];
        let in_next = (from + got).saturating_sub(FRAME_OFFSET_BYTES + self.page_bytes);
        let next_at = if awaited { 0 } else { FRAME_OFFSET_BYTES };
        if in_next > 0 {
            self.buffer[next_at..next_at + in_next].copy_from_slice(&next[..in_next]);
        }
        if awaited {
            self.frame_got += got - in_next;
            (self.start, self.end) = (0, in_next);
        } else {
            // All of it, whatever has come: the copy of a known length.
            self.buffer[..FRAME_OFFSET_BYTES].copy_from_slice(slot);
            (self.start, self.end) = (0, 0);
            self.guessed_page(got, FRAME_OFFSET_BYTES);
        }
        Some(Ok((asked, got)))
    }

    /// The slots come straight to the buffer.
    #[inline(never)] // Its lists would be on the stack of every read.
    fn read_pieces(&mut self, stream: impl AsFd) -> Result<(usize, usize), Errno> {
        let Some(frame) = &mut self.landing else { return Err(Errno::AGAIN) };
        if self.awaited.is_some() {
            // `parse` has emptied the buffer into the frame.
            debug_assert_eq!(self.start, self.end);
            let rest = &mut frame[self.frame_got..];
            let missing = rest.len();
            let next = &mut self.buffer[..FRAME_OFFSET_BYTES];
            let asked = missing + next.len();
            let got = readv(stream, &mut [IoSliceMut::new(rest), IoSliceMut::new(next)])?;
            self.frame_got += got.min(missing);
            (self.start, self.end) = (0, got.saturating_sub(missing));
            return Ok((asked, got));
        }
        let (slot, behind) = self.buffer.split_at_mut(FRAME_OFFSET_BYTES);
        let slot = &mut slot[self.end..];
        let next = &mut behind[..FRAME_OFFSET_BYTES];
        let (slot_missing, page_bytes) = (slot.len(), frame.len());
        let asked = slot_missing + page_bytes + next.len();
        let pieces = &mut [IoSliceMut::new(slot), IoSliceMut::new(frame), IoSliceMut::new(next)];
        let got = readv(stream, pieces)?;
        self.guessed_page(got, slot_missing);
        Ok((asked, got))
    }

    /// Puts what is left of the buffer at its start: less than a slot.
    #[inline]
    fn compact(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// `got` bytes were read into {rest of the first slot, frame, second slot}. Sees to it that the
    /// invariant holds, whatever the first slot is.
    fn guessed_page(&mut self, got: usize, slot_missing: usize) {
        if got < slot_missing {
            self.end += got;
            return;
        }
        self.end = FRAME_OFFSET_BYTES;
        let in_frame = (got - slot_missing).min(self.page_bytes);
        let in_next = got - slot_missing - in_frame;
        if SessionHeader::claims_frame(&self.buffer[..FRAME_OFFSET_BYTES]) {
            // `parse` takes the header and leaves these bytes where they are.
            self.frame_got = in_frame;
            self.end += in_next;
        } else if in_frame > 0 {
            // The next messages lie in the frame, and perhaps behind it.
            let next_at = FRAME_OFFSET_BYTES + in_frame;
            let next = FRAME_OFFSET_BYTES..FRAME_OFFSET_BYTES + in_next;
            self.buffer.copy_within(next, next_at);
            if let Some(frame) = &self.landing {
                self.buffer[FRAME_OFFSET_BYTES..next_at].copy_from_slice(&frame[..in_frame]);
            }
            self.end = next_at + in_next;
        }
    }

    /// Hands over every message that is whole.
    #[inline]
    pub(super) fn parse(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        self.paused = false;
        loop {
            if let Some(header) = self.awaited {
                if !self.complete_frame()? {
                    return Ok(());
                }
                self.awaited = None;
                let slot = self.awaited_slot;
                self.page_landed(sink, &header, &slot)?;
                continue;
            }
            let rest = &mut self.buffer[self.start..self.end];
            let Some(slot) = rest.first_chunk_mut::<FRAME_OFFSET_BYTES>() else {
                if rest.is_empty() {
                    (self.start, self.end) = (0, 0);
                }
                return Ok(());
            };
            let header = SessionHeader::decode_slot(slot)?;
            check_connection(self.class, &header)?;
            self.start += FRAME_OFFSET_BYTES;
            if header.frame {
                let (header, slot) = (header, *slot);
                self.page_announced(sink, &header, &slot)?;
                continue;
            }
            self.small_run = self.small_run.saturating_add(1);
            if header.kind == MessageKind::LINK {
                self.paused = true;
                let body = Body::of_slot(slot, header.body_len);
                return sink.control(LinkControl::decode(body.as_slice())?);
            }
            sink.message(&header, slot, None)?;
        }
    }

    /// The header of a page has come, and with it, if it was guessed, the page.
    #[inline(never)] // Beside small messages.
    fn page_announced(
        &mut self,
        sink: &mut impl Sink,
        header: &SessionHeader,
        slot: &Slot,
    ) -> Result<(), LinkError> {
        if self.frame_got < self.page_bytes {
            (self.awaited, self.awaited_slot) = (Some(*header), *slot);
            return Ok(());
        }
        self.page_landed(sink, header, slot)
    }

    /// The landing frame is whole: judges it and hands it over. The next one takes its place.
    #[inline]
    fn page_landed(
        &mut self,
        sink: &mut impl Sink,
        header: &SessionHeader,
        slot: &Slot,
    ) -> Result<(), LinkError> {
        let frame = self.take_landed();
        if let Some(unwanted) = hand_over(sink, header, slot, frame)? {
            self.post(unwanted);
        }
        Ok(())
    }

    /// The landing frame, which is whole; the next one takes its place.
    #[inline]
    fn take_landed(&mut self) -> Option<Frame> {
        (self.frame_got, self.small_run) = (0, 0);
        std::mem::replace(&mut self.landing, self.posted.pop())
    }

    /// Moves what the buffer holds of the awaited frame into it; true when the frame is whole.
    #[inline]
    fn complete_frame(&mut self) -> Result<bool, LinkError> {
        let Some(frame) = &mut self.landing else { return Err(page_without_receive()) };
        let missing = self.page_bytes - self.frame_got;
        let moved = missing.min(self.end - self.start);
        if moved > 0 {
            frame[self.frame_got..self.frame_got + moved]
                .copy_from_slice(&self.buffer[self.start..self.start + moved]);
            self.start += moved;
            self.frame_got += moved;
            self.moved_bytes += moved as u64;
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(moved == missing)
    }
}

#[inline]
fn check_connection(class: LaneClass, header: &SessionHeader) -> Result<(), LinkError> {
    let bulk = header.lane.class() == LaneClass::Bulk;
    let fits = match class {
        LaneClass::Bulk => bulk && header.frame,
        _ => !bulk || header.kind == MessageKind::ACK_ONLY,
    };
    if fits { Ok(()) } else { Err(wrong_connection(class, header.lane)) }
}

#[cold]
fn wrong_connection(class: LaneClass, lane: Lane) -> LinkError {
    let expected = match class {
        LaneClass::Bulk => "4 on this connection",
        _ => "0 to 3 on this connection (or an acknowledgement)",
    };
    let (what, found) = ("session header lane", lane as u64);
    DecodeError::Field { what, found, expected }.into()
}

#[cold]
fn page_without_receive() -> LinkError {
    let what = "receives posted for a page that has come";
    DecodeError::Field { what, found: 0, expected: "at least 1: the peer sent it without credit" }
        .into()
}

// What a frame's margins are for.
const _: () = assert!(MARGIN_BYTES == FRAME_OFFSET_BYTES);

/// Judges a page that is whole and hands it over.
#[inline(never)] // Once, for both ways in which a page becomes whole.
fn hand_over(
    sink: &mut impl Sink,
    header: &SessionHeader,
    slot: &Slot,
    frame: Option<Frame>,
) -> Result<Option<Frame>, LinkError> {
    if let (Some(found), Some(frame)) = (header.page_crc, &frame) {
        let computed = crc32c(&[frame]);
        if found != computed {
            return Err(LinkError::PageCrc { found, computed });
        }
        frame.note_crc32c(computed);
    }
    sink.message(header, slot, frame)
}
