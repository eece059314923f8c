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
//!
//! Leaf module: the unsafe here turns a pin into a slice.

use super::{
    ArenaId, FrameIndex, Inner, SharedFrame,
    frame::Frame,
    layout::{
        DIRTY, Descriptor, EXCLUSIVE, GENERATION_SHIFT, MODE, MODE_SHIFT, NOTIFY, PIN_ONE, PINS,
        REFERENCED,
    },
};
use pagewire_protocol::{BufferTag, Mode};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

fn mode_bits(mode: Mode) -> u64 {
    u64::from(mode.to_wire()) << MODE_SHIFT
}

fn mode_of(word: u64) -> u64 {
    word & MODE
}

fn store_tag(descriptor: &Descriptor, tag: BufferTag) {
    for (slot, word) in descriptor.tag.iter().zip(tag.to_words()) {
        slot.store(word, Ordering::Relaxed);
    }
}

fn has_tag(descriptor: &Descriptor, tag: &BufferTag) -> bool {
    descriptor
        .tag
        .iter()
        .zip(tag.to_words())
        .all(|(slot, word)| slot.load(Ordering::Relaxed) == word)
}

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

/// The page could not be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinMiss {
    /// It is not there, or not in a sufficient mode, or another pin excludes this one.
    Unavailable,
    /// As above; and while trying, this thread was for a moment the last pin on a page that the
    /// owner is revoking. The caller must tell the owner that frame of it.
    TellOwner,
}

/// A pin that the owner took for another thread, on its way to that thread.
#[derive(Debug)]
#[must_use = "a ticket that is not adopted leaves the page pinned for ever"]
pub struct PinTicket {
    index: u32,
    exclusive: bool,
    arena: ArenaId,
}

impl PinTicket {
    /// True when the pin is exclusive.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

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
        PageView { arena: Arc::clone(&self.arena) }
    }

    fn descriptor(&self, index: FrameIndex) -> &Descriptor {
        self.arena.descriptor(index.0)
    }

    fn word(&self, index: FrameIndex) -> u64 {
        self.descriptor(index).word.load(Ordering::Acquire)
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
        store_tag(descriptor, tag);
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

    /// Another handle on the frame, to send or write it; `None` while anyone may be writing to it.
    #[must_use]
    pub fn share(&self, index: FrameIndex) -> Option<SharedFrame> {
        let word = self.word(index);
        if mode_of(word) == mode_bits(Mode::X) || word & EXCLUSIVE != 0 {
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
        store_tag(descriptor, BufferTag::default());
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
        PinTicket { index: index.0, exclusive, arena: self.arena.id }
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

/// Any thread's side of the published pages.
#[derive(Debug, Clone)]
pub struct PageView {
    arena: Arc<Inner>,
}

impl PageView {
    /// Pins the page for reading if frame `index` now holds page `tag` in S or X and nobody writes.
    ///
    /// # Errors
    /// [`PinMiss`]; the slow way (a request to the owner) is next.
    #[inline]
    pub fn pin_shared(&self, index: FrameIndex, tag: &BufferTag) -> Result<SharedPin<'_>, PinMiss> {
        let descriptor = self.arena.descriptor(index.0);
        let mut old = descriptor.word.load(Ordering::Acquire);
        loop {
            if mode_of(old) == 0 || old & EXCLUSIVE != 0 || old & PINS == PINS {
                return Err(PinMiss::Unavailable);
            }
            let new = (old + PIN_ONE) | REFERENCED;
            match descriptor.word.compare_exchange_weak(
                old,
                new,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let pin = SharedPin { arena: &self.arena, index: index.0 };
        // The frame may have changed its page between the look-up and the pin.
        if has_tag(descriptor, tag) { Ok(pin) } else { Err(miss(pin.release())) }
    }

    /// Pins the page for writing if frame `index` now holds page `tag` in X and nobody has it
    /// pinned.
    ///
    /// # Errors
    /// [`PinMiss`]; the slow way (a request to the owner) is next.
    #[inline]
    pub fn pin_exclusive(
        &self,
        index: FrameIndex,
        tag: &BufferTag,
    ) -> Result<ExclusivePin<'_>, PinMiss> {
        let descriptor = self.arena.descriptor(index.0);
        let mut old = descriptor.word.load(Ordering::Acquire);
        loop {
            if mode_of(old) != mode_bits(Mode::X) || old & (EXCLUSIVE | PINS) != 0 {
                return Err(PinMiss::Unavailable);
            }
            let new = old | EXCLUSIVE | REFERENCED;
            match descriptor.word.compare_exchange_weak(
                old,
                new,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let pin = ExclusivePin { arena: &self.arena, index: index.0, written: false };
        if has_tag(descriptor, tag) { Ok(pin) } else { Err(miss(pin.release())) }
    }

    /// Turns a shared ticket into the pin it stands for.
    ///
    /// # Panics
    /// If the ticket is exclusive or of another arena.
    pub fn adopt_shared(&self, ticket: PinTicket) -> SharedPin<'_> {
        assert!(!ticket.exclusive, "the ticket is exclusive");
        assert!(ticket.arena == self.arena.id, "the ticket is of another arena");
        SharedPin { arena: &self.arena, index: ticket.index }
    }

    /// Turns an exclusive ticket into the pin it stands for.
    ///
    /// # Panics
    /// If the ticket is shared or of another arena.
    pub fn adopt_exclusive(&self, ticket: PinTicket) -> ExclusivePin<'_> {
        assert!(ticket.exclusive, "the ticket is shared");
        assert!(ticket.arena == self.arena.id, "the ticket is of another arena");
        ExclusivePin { arena: &self.arena, index: ticket.index, written: false }
    }
}

fn miss(tell_owner: bool) -> PinMiss {
    if tell_owner { PinMiss::TellOwner } else { PinMiss::Unavailable }
}

/// A page pinned for reading.
#[must_use = "the page is unpinned when this is dropped, and the owner is then not told"]
pub struct SharedPin<'a> {
    arena: &'a Arc<Inner>,
    index: u32,
}

impl SharedPin<'_> {
    /// Frame that is pinned.
    #[must_use]
    pub fn index(&self) -> FrameIndex {
        FrameIndex(self.index)
    }

    /// Unpins. True: this was the last pin and the owner waits to hear of it.
    #[must_use]
    pub fn release(self) -> bool {
        let told = self.unpin();
        std::mem::forget(self);
        told
    }

    fn unpin(&self) -> bool {
        let old = self.arena.descriptor(self.index).word.fetch_sub(PIN_ONE, Ordering::AcqRel);
        old & PINS == PIN_ONE && old & NOTIFY != 0
    }
}

impl Drop for SharedPin<'_> {
    fn drop(&mut self) {
        self.unpin();
    }
}

impl Deref for SharedPin<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: while this shared pin is counted in the word no exclusive pin is given out, and
        // the publication owns a reference, so there is no `Frame`; nobody can write.
        unsafe {
            std::slice::from_raw_parts(self.arena.frame_ptr(self.index), self.arena.page_bytes())
        }
    }
}

impl fmt::Debug for SharedPin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPin({})", self.index)
    }
}

/// A page pinned for writing.
#[must_use = "the page is unpinned when this is dropped, and the owner is then not told"]
pub struct ExclusivePin<'a> {
    arena: &'a Arc<Inner>,
    index: u32,
    written: bool,
}

impl ExclusivePin<'_> {
    /// Frame that is pinned.
    #[must_use]
    pub fn index(&self) -> FrameIndex {
        FrameIndex(self.index)
    }

    /// Unpins, and marks the page dirty if it was borrowed mutably. True: the owner waits to hear
    /// of it.
    #[must_use]
    pub fn release(self) -> bool {
        let told = self.unpin();
        std::mem::forget(self);
        told
    }

    fn unpin(&self) -> bool {
        let dirty = if self.written { DIRTY } else { 0 };
        let word = &self.arena.descriptor(self.index).word;
        if self.written {
            // Before the pin goes, so that whoever sees it gone sees the page dirty.
            word.fetch_or(dirty, Ordering::Relaxed);
        }
        word.fetch_and(!EXCLUSIVE, Ordering::AcqRel) & NOTIFY != 0
    }
}

impl Drop for ExclusivePin<'_> {
    fn drop(&mut self) {
        self.unpin();
    }
}

impl Deref for ExclusivePin<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the exclusive bit is ours, so there is no other pin; the reference of the
        // publication is the only one (module invariant), so there is no other handle.
        unsafe {
            std::slice::from_raw_parts(self.arena.frame_ptr(self.index), self.arena.page_bytes())
        }
    }
}

impl DerefMut for ExclusivePin<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.written = true;
        self.arena.descriptor(self.index).page_crc.store(0, Ordering::Relaxed);
        // SAFETY: as in `deref`, and this pin is borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.arena.frame_ptr(self.index),
                self.arena.page_bytes(),
            )
        }
    }
}

impl fmt::Debug for ExclusivePin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExclusivePin({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaConfig};

    fn table() -> (Arena, PageTable) {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let table = arena.page_table().unwrap();
        (arena, table)
    }

    fn tag(block: u32) -> BufferTag {
        BufferTag { block, ..BufferTag::default() }
    }

    #[test]
    fn there_is_one_owner_of_the_page_table() {
        let (arena, _table) = table();
        assert!(arena.page_table().is_err());
    }

    #[test]
    fn pins_follow_the_mode_and_the_tag() {
        let (arena, mut table) = table();
        let index = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
        let view = table.view();
        assert!(view.pin_shared(index, &tag(2)).is_err());
        assert!(view.pin_exclusive(index, &tag(1)).is_err());
        let first = view.pin_shared(index, &tag(1)).unwrap();
        let second = view.pin_shared(index, &tag(1)).unwrap();
        table.raise(index, Mode::X).unwrap();
        assert!(view.pin_exclusive(index, &tag(1)).is_err(), "readers are in");
        assert!(!first.release() && !second.release());
        let mut writer = view.pin_exclusive(index, &tag(1)).unwrap();
        writer[0] = 1;
        assert!(view.pin_shared(index, &tag(1)).is_err(), "a writer is in");
        assert!(!table.is_dirty(index));
        assert!(!writer.release());
        assert!(table.is_dirty(index));
    }

    #[test]
    fn a_revocation_waits_for_the_last_pin_and_only_for_it() {
        let (arena, mut table) = table();
        let index = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
        let view = table.view();
        let first = view.pin_shared(index, &tag(1)).unwrap();
        let second = view.pin_shared(index, &tag(1)).unwrap();
        assert_eq!(table.lower(index, Mode::N), Drain::Waiting);
        assert!(view.pin_shared(index, &tag(1)).is_err(), "closed");
        assert!(!first.release());
        assert!(second.release(), "the last one is told");
        assert_eq!(table.lower(index, Mode::N), Drain::Done);
        drop(table.take(index));
        assert_eq!(arena.free_frames(), 4);
        assert!(view.pin_shared(index, &tag(1)).is_err(), "gone");
    }

    #[test]
    fn a_page_that_is_being_sent_is_not_written() {
        let (arena, mut table) = table();
        let index = table.publish(arena.take().unwrap(), tag(1), Mode::X, false);
        assert!(table.share(index).is_none(), "open for writing");
        assert_eq!(table.lower(index, Mode::S), Drain::Done);
        let sent = table.share(index).unwrap();
        assert_eq!(table.raise(index, Mode::X), Err(StillShared));
        assert!(table.pin_exclusive(index).is_none());
        drop(sent);
        assert_eq!(table.raise(index, Mode::X), Ok(()));
    }

    #[test]
    fn a_ticket_carries_the_pin_to_another_thread() {
        let (arena, mut table) = table();
        let index = table.publish(arena.take().unwrap(), tag(1), Mode::N, false);
        let view = table.view();
        let ticket = table.pin_exclusive(index).unwrap();
        assert!(table.pin_shared(index).is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut pin = view.adopt_exclusive(ticket);
                pin[7] = 7;
                assert!(!pin.release());
            });
        });
        assert!(table.is_dirty(index));
        assert_eq!(table.share(index).unwrap()[7], 7);
    }

    #[test]
    #[should_panic(expected = "the ticket is of another arena")]
    fn a_ticket_of_another_arena_is_refused_even_at_the_same_address() {
        // The second arena most likely lies where the first one lay.
        let (arena, mut table) = table();
        let index = table.publish(arena.take().unwrap(), tag(1), Mode::N, false);
        let ticket = table.pin_shared(index).unwrap();
        drop((arena, table));
        let (_arena, mut table) = self::table();
        table.publish(_arena.take().unwrap(), tag(1), Mode::N, false);
        let _ = table.view().adopt_shared(ticket);
    }

    #[test]
    fn readers_never_see_a_half_written_page() {
        let (arena, mut table) = table();
        let index = table.publish(arena.take().unwrap(), tag(1), Mode::X, false);
        let view = table.view();
        std::thread::scope(|scope| {
            for id in 1..=2u8 {
                let view = view.clone();
                scope.spawn(move || {
                    for round in 0..20_000u32 {
                        let Ok(mut pin) = view.pin_exclusive(index, &tag(1)) else { continue };
                        pin[..64].fill(id ^ round.to_le_bytes()[0]);
                        let _ = pin.release();
                    }
                });
            }
            for _ in 0..40_000 {
                if let Ok(pin) = view.pin_shared(index, &tag(1)) {
                    assert!(pin[..64].iter().all(|&b| b == pin[0]));
                    let _ = pin.release();
                }
            }
        });
    }
}
