//! Pins: how any thread reads or writes a published page without a message.
//!
//! A view is of one generation of the lease ([`crate::arena::Lease`]). Once that is over it pins
//! nothing, and what was pinned through it shows no byte of the page: each access asks.
//!
//! Leaf module: the unsafe here turns a pin into a slice, as the invariants of the module above
//! allow.

use super::PageTable;
use crate::arena::{
    ArenaId, FrameIndex, Inner, LeaseExpired,
    layout::{DIRTY, EXCLUSIVE, NOTIFY, PIN_ONE, PINS, REFERENCED, mode_bits, mode_of},
};
use pagewire_protocol::{BufferTag, Mode};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering},
};

/// The page could not be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinMiss {
    /// It is not there, or not in a sufficient mode, or another pin excludes this one, or the lease
    /// is over.
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
    pub(super) fn new(index: FrameIndex, exclusive: bool, arena: ArenaId) -> Self {
        Self { index: index.0, exclusive, arena }
    }

    /// True when the pin is exclusive.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

/// Any thread's side of the published pages, under the lease as it was when the view was made.
#[derive(Debug, Clone)]
pub struct PageView {
    arena: Arc<Inner>,
    lease: u64,
}

impl PageView {
    pub(super) fn new(arena: Arc<Inner>) -> Self {
        let lease = arena.lease_generation();
        Self { arena, lease }
    }

    /// True while the lease that this view was made under lasts.
    #[inline]
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.arena.lease_generation() == self.lease
    }

    /// The bytes of a frame that is pinned through this view.
    ///
    /// # Errors
    /// [`LeaseExpired`].
    #[inline]
    fn bytes(&self, index: u32) -> Result<*mut u8, LeaseExpired> {
        if self.is_leased() { Ok(self.arena.frame_ptr(index)) } else { Err(LeaseExpired) }
    }

    /// Pins the page for reading if frame `index` now holds page `tag` in S or X and nobody writes.
    ///
    /// # Errors
    /// [`PinMiss`]; the slow way (a request to the owner) is next.
    #[inline]
    pub fn pin_shared(&self, index: FrameIndex, tag: &BufferTag) -> Result<SharedPin<'_>, PinMiss> {
        let descriptor = self.arena.descriptor(index.0);
        self.arena.prefetch(index.0);
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
        let pin = SharedPin { view: self, index: index.0 };
        // The frame may have changed its page between the look-up and the pin, and the lease may
        // have ended.
        let is_good = descriptor.has_tag(tag) && self.is_leased();
        if is_good { Ok(pin) } else { Err(miss(pin.release())) }
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
        self.arena.prefetch(index.0);
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
        let pin = ExclusivePin { view: self, index: index.0, written: false };
        let is_good = descriptor.has_tag(tag) && self.is_leased();
        if is_good { Ok(pin) } else { Err(miss(pin.release())) }
    }

    /// Turns a shared ticket into the pin it stands for.
    ///
    /// # Panics
    /// If the ticket is exclusive or of another arena.
    pub fn adopt_shared(&self, ticket: PinTicket) -> SharedPin<'_> {
        assert!(!ticket.exclusive, "the ticket is exclusive");
        assert!(ticket.arena == self.arena.id, "the ticket is of another arena");
        SharedPin { view: self, index: ticket.index }
    }

    /// Turns an exclusive ticket into the pin it stands for.
    ///
    /// # Panics
    /// If the ticket is shared or of another arena.
    pub fn adopt_exclusive(&self, ticket: PinTicket) -> ExclusivePin<'_> {
        assert!(ticket.exclusive, "the ticket is shared");
        assert!(ticket.arena == self.arena.id, "the ticket is of another arena");
        ExclusivePin { view: self, index: ticket.index, written: false }
    }
}

fn miss(tell_owner: bool) -> PinMiss {
    if tell_owner { PinMiss::TellOwner } else { PinMiss::Unavailable }
}

/// A page pinned for reading.
#[must_use = "the page is unpinned when this is dropped, and the owner is then not told"]
pub struct SharedPin<'a> {
    view: &'a PageView,
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
        let old = self.view.arena.descriptor(self.index).word.fetch_sub(PIN_ONE, Ordering::AcqRel);
        old & PINS == PIN_ONE && old & NOTIFY != 0
    }
}

impl Drop for SharedPin<'_> {
    fn drop(&mut self) {
        self.unpin();
    }
}

impl SharedPin<'_> {
    /// The page.
    ///
    /// # Errors
    /// [`LeaseExpired`]: it may be out of date.
    #[inline]
    pub fn page(&self) -> Result<&[u8], LeaseExpired> {
        let bytes = self.view.bytes(self.index)?;
        // SAFETY: `bytes` is the start of a frame of `page_bytes` bytes. While this shared pin is
        // counted in the word no exclusive pin is given out, and the publication owns a reference,
        // so there is no `Frame`; nobody can write.
        Ok(unsafe { std::slice::from_raw_parts(bytes, self.view.arena.page_bytes()) })
    }
}

/// The page; nothing once the lease is over, as [`SharedPin::page`] says with an error.
impl Deref for SharedPin<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.page().unwrap_or(&[])
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
    view: &'a PageView,
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

    /// Hands the pin on: the page stays pinned, and counts as written if it was borrowed mutably.
    pub fn into_ticket(self) -> PinTicket {
        if self.written {
            let word = &self.view.arena.descriptor(self.index).word;
            // Whoever takes the pin releases it later, and with it this.
            word.fetch_or(DIRTY, Ordering::Release);
        }
        let ticket = PinTicket { index: self.index, exclusive: true, arena: self.view.arena.id };
        std::mem::forget(self);
        ticket
    }

    fn unpin(&self) -> bool {
        let dirty = if self.written { DIRTY } else { 0 };
        let word = &self.view.arena.descriptor(self.index).word;
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

impl ExclusivePin<'_> {
    /// The page.
    ///
    /// # Errors
    /// [`LeaseExpired`]: it may be out of date.
    #[inline]
    pub fn page(&self) -> Result<&[u8], LeaseExpired> {
        let bytes = self.view.bytes(self.index)?;
        // SAFETY: `bytes` is the start of a frame of `page_bytes` bytes. The exclusive bit is ours,
        // so there is no other pin; the reference of the publication is the only one (module
        // invariant), so there is no other handle.
        Ok(unsafe { std::slice::from_raw_parts(bytes, self.view.arena.page_bytes()) })
    }

    /// The page, to be changed: it counts as written.
    ///
    /// # Errors
    /// [`LeaseExpired`]: nobody may change it any more.
    #[inline]
    pub fn page_mut(&mut self) -> Result<&mut [u8], LeaseExpired> {
        let bytes = self.view.bytes(self.index)?;
        self.written = true;
        self.view.arena.descriptor(self.index).page_crc.store(0, Ordering::Relaxed);
        // SAFETY: as in `page`, and this pin is borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes, self.view.arena.page_bytes()) })
    }
}

/// The page; nothing once the lease is over, as [`ExclusivePin::page`] says with an error.
impl Deref for ExclusivePin<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.page().unwrap_or(&[])
    }
}

/// As [`ExclusivePin::page_mut`].
impl DerefMut for ExclusivePin<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.page_mut().unwrap_or(&mut [])
    }
}

impl PageTable {
    /// The page of a frame, to look at; `None` while anyone may be writing to it.
    #[inline]
    #[must_use]
    pub fn page(&self, index: FrameIndex) -> Option<&[u8]> {
        if self.may_be_written(index) {
            return None;
        }
        // What lets anyone write again (`raise`, `pin_exclusive`, `take`) needs this table mutably,
        // which is borrowed as long as the slice is.
        // SAFETY: the frame is the arena's (`may_be_written` has looked at its descriptor), of
        // `page_bytes` bytes, and published, so that nobody has the frame itself; its word says neither
        // X nor that an exclusive pin is out.
        Some(unsafe {
            std::slice::from_raw_parts(self.arena.frame_ptr(index.0), self.arena.page_bytes())
        })
    }
}

impl fmt::Debug for ExclusivePin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExclusivePin({})", self.index)
    }
}
