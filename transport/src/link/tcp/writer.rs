//! The sending half of a connection: messages are encoded one behind the other into one buffer, and
//! leave in one call.
//!
//! ```text
//!   slots    | 128 | 128 | 128 | 128 | 128 |             one contiguous piece: a plain write
//!                        ^           ^
//!   frames               page        page                a vectored write: slots, page, slots, page
//! ```
//! A page is written straight from its frame; alone behind its header, which is the rule, in one piece
//! with it, for which the header is put before the frame ([`SharedFrame::with_header`]). Positions count bytes of slots since the link began,
//! frames excluded, so that they stay valid when the buffer is compacted.

use super::Urgency;
use crate::{SharedFrame, error::LinkError};
use pagewire_protocol::{Body, Lane, SessionHeader, header::FRAME_OFFSET_BYTES};
use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, send, sendmsg},
};
use std::{collections::VecDeque, io::IoSlice, os::fd::AsFd};

/// Messages that wait for the kernel at most: more than all credits at their defaults, so that a
/// session runs out of credit before a link runs out of room.
const QUEUE_MAX: usize = 1024;
const QUEUE_BYTES_MAX: usize = QUEUE_MAX * FRAME_OFFSET_BYTES;
/// Messages that are not urgent wait until there are this many.
const LATER_MAX: usize = 64;
const LATER_BYTES_MAX: usize = LATER_MAX * FRAME_OFFSET_BYTES;
/// Pages that one write takes at most.
const PAGES_PER_WRITE: usize = 32;
const FLAGS: SendFlags = SendFlags::NOSIGNAL;

#[derive(Debug)]
struct QueuedFrame {
    /// Bytes of slots that precede it.
    position: u64,
    frame: SharedFrame,
}

#[derive(Debug)]
pub(super) struct Writer {
    page_crc: bool,
    /// Encoded messages in `slots[start..end]`; those before are with the kernel.
    slots: Box<[u8]>,
    start: usize,
    end: usize,
    /// Position of `slots[start]`.
    position: u64,
    frames: VecDeque<QueuedFrame>,
    /// Bytes of the first queued frame that the kernel has.
    frame_sent: usize,
    /// Messages that nobody waits for. They stay behind pages, and come before what is queued of
    /// their own lane, whose order they keep.
    later: Vec<u8>,
    later_lanes: [bool; Lane::COUNT],
    writable: bool,
    written_bytes: u64,
}

impl Writer {
    pub(super) fn new(page_crc: bool) -> Self {
        Self {
            page_crc,
            slots: vec![0; QUEUE_BYTES_MAX].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
            frames: VecDeque::with_capacity(QUEUE_MAX),
            frame_sent: 0,
            later: Vec::with_capacity(LATER_BYTES_MAX),
            later_lanes: [false; Lane::COUNT],
            writable: true,
            written_bytes: 0,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end && self.frames.is_empty()
    }

    pub(super) fn may_write(&mut self) {
        self.writable = true;
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    pub(super) fn is_waiting_for_quiet(&self) -> bool {
        !self.later.is_empty()
    }

    /// Makes what nobody waits for urgent.
    pub(super) fn hurry(&mut self) {
        if !self.later.is_empty() {
            self.make_room(self.later.len());
            let until = self.end + self.later.len();
            self.slots[self.end..until].copy_from_slice(&self.later);
            self.end = until;
            self.later.clear();
            self.later_lanes = [false; Lane::COUNT];
        }
    }

    /// Takes a message; false when there is no room.
    #[inline(always)] // The header stays in registers.
    pub(super) fn push(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        let queued_bytes = self.end - self.start + self.later.len();
        if queued_bytes + FRAME_OFFSET_BYTES > QUEUE_BYTES_MAX {
            return false;
        }
        if urgency == Urgency::WhenQuiet && frame.is_none() && self.later.len() < LATER_BYTES_MAX {
            self.push_later(header, body);
            return true;
        }
        if !self.later.is_empty()
            && (self.later_lanes[header.lane.index()] || self.later.len() == LATER_BYTES_MAX)
        {
            self.hurry();
        }
        self.make_room(FRAME_OFFSET_BYTES);
        let Some(slot) = self.slots[self.end..].first_chunk_mut() else { return false };
        self.end += FRAME_OFFSET_BYTES;
        let Some(frame) = frame else {
            header.encode_into(slot, body, true);
            return true;
        };
        let page_crc = self.page_crc.then(|| frame.crc32c());
        SessionHeader { page_crc, ..*header }.encode_into(slot, body, true);
        let position = self.position + (self.end - self.start) as u64;
        self.frames.push_back(QueuedFrame { position, frame: frame.clone() });
        true
    }

    #[inline(never)] // Rare beside the others, and it would be among them.
    fn push_later(&mut self, header: &SessionHeader, body: &Body) {
        self.later.extend_from_slice(&header.encode_slot(body, true));
        self.later_lanes[header.lane.index()] = true;
    }

    /// Moves what is left to the start of the buffer when its end is near: the buffer has room for
    /// all that may wait.
    #[inline]
    fn make_room(&mut self, wanted: usize) {
        if self.slots.len() - self.end < wanted {
            self.compact();
        }
    }

    #[cold]
    fn compact(&mut self) {
        self.slots.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Writes until all is with the kernel or it takes no more.
    #[inline(always)] // Mostly one system call with a few slots, or nothing.
    pub(super) fn flush(&mut self, stream: impl AsFd) -> Result<(), LinkError> {
        if !self.writable || self.is_empty() {
            return Ok(());
        }
        if !self.frames.is_empty() {
            let first = self.write_page(&stream);
            return if first.is_none() { Ok(()) } else { self.write_on(first, stream) };
        }
        let slots = &self.slots[self.start..self.end];
        let written = send(&stream, slots, FLAGS);
        if written != Ok(slots.len()) {
            return self.write_on(Some(written), stream);
        }
        self.written_all();
        Ok(())
    }

    /// Writes once where there are pages: mostly there is one, the last thing queued. `None`: it was
    /// that, and all of it is with the kernel.
    #[inline(always)] // As `flush`.
    fn write_page(&mut self, stream: impl AsFd) -> Option<Result<usize, Errno>> {
        let slots = &self.slots[self.start..self.end];
        let page = match self.frames.front() {
            Some(page) if self.frames.len() == 1 && self.frame_sent == 0 => page,
            _ => return Some(self.write(stream)),
        };
        if page.position != self.position + slots.len() as u64 {
            return Some(self.write(stream));
        }
        let bytes = slots.len() + page.frame.len();
        // One piece costs the kernel less than two. The header stays in its slot all the same: the rest
        // of what is not written at once is written from there.
        let in_one_piece = match slots.try_into() {
            Ok(slot) => page.frame.with_header(slot, |whole| send(&stream, whole, FLAGS)),
            Err(_) => None,
        };
        let written = in_one_piece.unwrap_or_else(|| {
            let pieces = [IoSlice::new(slots), IoSlice::new(&page.frame)];
            sendmsg(stream, &pieces, &mut SendAncillaryBuffer::default(), FLAGS)
        });
        if written != Ok(bytes) {
            return Some(written);
        }
        self.written_bytes = self.written_bytes.wrapping_add(page.frame.len() as u64);
        self.frames.clear();
        self.written_all();
        None
    }

    /// The same after a first write that was not all.
    #[inline(never)]
    fn write_on(
        &mut self,
        mut last: Option<Result<usize, Errno>>,
        stream: impl AsFd,
    ) -> Result<(), LinkError> {
        while self.writable && !self.is_empty() {
            let written = last.take().unwrap_or_else(|| self.write(&stream));
            match written {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.written(n),
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write(&self, stream: impl AsFd) -> Result<usize, Errno> {
        if self.frames.is_empty() {
            return send(stream, &self.slots[self.start..self.end], FLAGS);
        }
        // One page is the rule, and a long empty list is not free.
        if self.frames.len() == 1 {
            self.gather::<3>(stream)
        } else {
            self.gather::<{ 2 * PAGES_PER_WRITE + 1 }>(stream)
        }
    }

    /// Writes up to `PIECES / 2` pages with the slots before, between and behind them.
    #[inline]
    fn gather<const PIECES: usize>(&self, stream: impl AsFd) -> Result<usize, Errno> {
        let slots = &self.slots[self.start..self.end];
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let (mut used, mut taken, mut skip) = (0, 0, self.frame_sent);
        for queued in self.frames.iter().take(PIECES / 2) {
            let until = offset(queued.position - self.position);
            for piece in [&slots[taken..until], &queued.frame[skip..]] {
                if !piece.is_empty() {
                    pieces[used] = IoSlice::new(piece);
                    used += 1;
                }
            }
            (taken, skip) = (until, 0);
        }
        if self.frames.len() <= PIECES / 2 && taken < slots.len() {
            pieces[used] = IoSlice::new(&slots[taken..]);
            used += 1;
        }
        sendmsg(stream, &pieces[..used], &mut SendAncillaryBuffer::default(), FLAGS)
    }

    /// The kernel has all slots, and there are no pages.
    #[inline]
    fn written_all(&mut self) {
        let count = (self.end - self.start) as u64;
        self.written_bytes = self.written_bytes.wrapping_add(count);
        self.position += count;
        (self.start, self.end) = (0, 0);
    }

    /// The kernel has `count` more bytes.
    fn written(&mut self, mut count: usize) {
        self.written_bytes = self.written_bytes.wrapping_add(count as u64);
        loop {
            let first = self.frames.front().map(|queued| (queued.position, queued.frame.len()));
            let until = first
                .map_or(self.end - self.start, |(position, _)| offset(position - self.position));
            let slots = count.min(until);
            self.start += slots;
            self.position += slots as u64;
            count -= slots;
            let Some((_, frame_bytes)) = first.filter(|_| slots == until) else { break };
            let part = count.min(frame_bytes - self.frame_sent);
            self.frame_sent += part;
            count -= part;
            if self.frame_sent < frame_bytes {
                break;
            }
            self.frame_sent = 0;
            self.frames.pop_front();
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

/// A distance inside the buffer, which is far below 2^32.
fn offset(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}
