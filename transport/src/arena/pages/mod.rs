//! Published pages: frames that local threads may pin by tag.
//!
//! The owner (one thread, [`PageTable`]) publishes a frame under a tag and mode, lowers what may be
//! pinned when the page is revoked, and learns when the last pin is gone. Any thread
//! ([`PageView`]) pins with one compare-exchange and no message.
//!
//! ```text
//!             publish(tag, mode)            lower(to)                    pins gone
//!   Frame --------------------> published ------------> closing ----------------------> drained
//!                                   ^                                                      |
//!                                   +------------- raise(mode) ----------------------------+
//!   SharedFrame <------------------------------------ take() ------------------------------+
//! ```
//!
//! Invariants, on which the unsafe here rests:
//! - A publication owns one reference of its frame.
//! - While the word says X, or an exclusive pin is out, that reference is the only one.
//!   ([`PageTable::share`] refuses then; [`PageTable::raise`] and [`PageTable::pin_exclusive`]
//!   refuse while there are more.)
//! - Shared pins and an exclusive pin never coexist: both change the one word.

mod pins;
#[cfg(test)]
mod tests;

pub use pins::{ExclusivePin, PageView, PinMiss, PinTicket, SharedPin};

use super::{
    FrameIndex, Inner, SharedFrame,
    frame::Frame,
    layout::{
        DIRTY, Descriptor, EXCLUSIVE, GENERATION_SHIFT, MODE, NOTIFY, PIN_ONE, PINS, REFERENCED,
        mode_bits, mode_of,
    },
};
use crate::prefetch::prefetch;
use pagewire_protocol::{BufferTag, Mode};
use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

/// What [`PageTable::lower`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// No pin stands in the way.
    Done,
    /// Pins are out; the thread that drops the last one is told to report it.
    Waiting,
}

/// The frame has other readers (a send that is not acknowledged): writing needs a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StillShared;

/// The owner's side of the published pages of one arena.
#[derive(Debug)]
pub struct PageTable {
    arena: Arc<Inner>,
}

impl PageTable {
    pub(super) fn new(arena: Arc<Inner>) -> Self {
        Self { arena }
    }

    /// A view for pinning; clone it for each thread.
    #[must_use]
    pub fn view(&self) -> PageView {
        PageView::new(Arc::clone(&self.arena))
    }

    fn descriptor(&self, index: FrameIndex) -> &Descriptor {
        self.arena.descriptor(index.0)
    }

    fn word(&self, index: FrameIndex) -> u64 {
        self.descriptor(index).word.load(Ordering::Acquire)
    }

    /// Brings what is kept of a frame, and its first bytes, nearer to the processor.
    #[inline]
    pub fn prefetch(&self, index: FrameIndex) {
        prefetch(self.descriptor(index));
        self.arena.prefetch(index.0);
        self.arena.prefetch_margin(index.0);
    }

    /// Publishes `frame` as page `tag`, to be pinned in `mode` (N: not yet).
    ///
    /// # Panics
    /// If the frame is of another arena.
    pub fn publish(&mut self, frame: Frame, tag: BufferTag, mode: Mode, dirty: bool) -> FrameIndex {
        let (arena, index) = frame.into_owned();
        assert!(Arc::ptr_eq(&arena, &self.arena), "the frame is of another arena");
        let descriptor = self.arena.descriptor(index);
        let generation = (descriptor.word.load(Ordering::Relaxed) >> GENERATION_SHIFT) + 1;
        descriptor.store_tag(tag);
        let dirty = if dirty { DIRTY } else { 0 };
        let word = (generation << GENERATION_SHIFT) | mode_bits(mode) | dirty | REFERENCED;
        descriptor.word.store(word, Ordering::Release);
        FrameIndex(index)
    }

    /// Lets local threads pin the page in at most mode `to` from now on. [`Drain::Done`]: no pin
    /// that exceeds `to` is out. Otherwise the one who drops the last pin is told
    /// ([`SharedPin::release`] returns true), and `lower` may be called again.
    pub fn lower(&mut self, index: FrameIndex, to: Mode) -> Drain {
        let word = &self.descriptor(index).word;
        let mut old = word.load(Ordering::Acquire);
        loop {
            let in_the_way = match to {
                Mode::N => old & (PINS | EXCLUSIVE),
                Mode::S => old & EXCLUSIVE,
                Mode::X => 0,
            };
            let mut new = (old & !MODE) | mode_bits(to).min(mode_of(old));
            if in_the_way == 0 {
                new &= !NOTIFY;
            } else {
                new |= NOTIFY;
            }
            match word.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if in_the_way == 0 => return Drain::Done,
                Ok(_) => return Drain::Waiting,
                Err(now) => old = now,
            }
        }
    }

    /// Lets local threads pin the page in modes up to `to` again.
    ///
    /// # Errors
    /// [`StillShared`] when `to` is X and the frame has other references.
    pub fn raise(&mut self, index: FrameIndex, to: Mode) -> Result<(), StillShared> {
        let descriptor = self.descriptor(index);
        if to == Mode::X && descriptor.refs.load(Ordering::Acquire) != 1 {
            return Err(StillShared);
        }
        let set = |old: u64| Some((old & !(MODE | NOTIFY)) | mode_bits(to));
        let _ = descriptor.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, set);
        Ok(())
    }

    /// Anyone but this table's owner may be writing to the frame, or begin to.
    fn may_be_written(&self, index: FrameIndex) -> bool {
        let word = self.word(index);
        // Publications begin and end with the next generation: those under way have odd ones.
        let is_published = (word >> GENERATION_SHIFT) & 1 == 1;
        !is_published || mode_of(word) == mode_bits(Mode::X) || word & EXCLUSIVE != 0
    }

    /// Another handle on the frame, to send or write it; `None` while anyone may be writing to it.
    #[must_use]
    pub fn share(&self, index: FrameIndex) -> Option<SharedFrame> {
        if self.may_be_written(index) {
            return None;
        }
        // With X excluded in the word, only this owner can take exclusive pins: see below.
        self.descriptor(index).refs.fetch_add(1, Ordering::Relaxed);
        Some(SharedFrame::from_counted(Arc::clone(&self.arena), index.0))
    }

    /// Ends the publication of a page that was lowered to N and is drained.
    ///
    /// # Panics
    /// If a pin is out or may still be taken.
    pub fn take(&mut self, index: FrameIndex) -> SharedFrame {
        let word = self.word(index);
        assert!(
            mode_of(word) == 0 && word & (PINS | EXCLUSIVE) == 0,
            "frame {} is taken while it is pinned or open: {word:#x}",
            index.0
        );
        let generation = (word >> GENERATION_SHIFT) + 1;
        let descriptor = self.descriptor(index);
        descriptor.word.store(generation << GENERATION_SHIFT, Ordering::Release);
        // Whoever sees the tag go sees the new generation, too (`ArenaView`).
        fence(Ordering::Release);
        descriptor.store_tag(BufferTag::default());
        SharedFrame::from_counted(Arc::clone(&self.arena), index.0)
    }

    /// Pins the page for another thread to read, whatever the word's mode; `None` while an
    /// exclusive pin is out.
    pub fn pin_shared(&mut self, index: FrameIndex) -> Option<PinTicket> {
        self.pin(index, PIN_ONE, |old| old & EXCLUSIVE == 0 && old & PINS < PINS)
            .then(|| self.ticket(index, false))
    }

    /// Pins the page for another thread to write, whatever the word's mode; `None` while any pin
    /// is out or the frame has other references.
    pub fn pin_exclusive(&mut self, index: FrameIndex) -> Option<PinTicket> {
        if self.descriptor(index).refs.load(Ordering::Acquire) != 1 {
            return None;
        }
        self.pin(index, EXCLUSIVE, |old| old & (EXCLUSIVE | PINS) == 0)
            .then(|| self.ticket(index, true))
    }

    fn pin(&self, index: FrameIndex, add: u64, allowed: impl Fn(u64) -> bool) -> bool {
        let set = |old: u64| allowed(old).then_some((old + add) | REFERENCED);
        self.descriptor(index).word.fetch_update(Ordering::AcqRel, Ordering::Acquire, set).is_ok()
    }

    fn ticket(&self, index: FrameIndex, exclusive: bool) -> PinTicket {
        PinTicket::new(index, exclusive, self.arena.id)
    }

    /// True when the page has been written since it was last marked clean.
    #[must_use]
    pub fn is_dirty(&self, index: FrameIndex) -> bool {
        self.word(index) & DIRTY != 0
    }

    /// Marks the page dirty or clean.
    pub fn set_dirty(&mut self, index: FrameIndex, dirty: bool) {
        let word = &self.descriptor(index).word;
        if dirty {
            word.fetch_or(DIRTY, Ordering::AcqRel);
        } else {
            word.fetch_and(!DIRTY, Ordering::AcqRel);
        }
    }

    /// Reads and clears the mark that a pin leaves: the second-chance bit of a clock sweep.
    pub fn take_referenced(&mut self, index: FrameIndex) -> bool {
        self.descriptor(index).word.fetch_and(!REFERENCED, Ordering::Relaxed) & REFERENCED != 0
    }

    /// True while somebody may be writing to the page.
    #[must_use]
    pub fn is_being_written(&self, index: FrameIndex) -> bool {
        self.word(index) & EXCLUSIVE != 0
    }

    /// True when any pin is out.
    #[must_use]
    pub fn is_pinned(&self, index: FrameIndex) -> bool {
        self.word(index) & (PINS | EXCLUSIVE) != 0
    }
}
