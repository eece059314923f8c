//! Frames and who owns them.
//!
//! A [`Frame`] is the only handle on its memory and may be written. [`Frame::freeze`] gives it up
//! for a [`SharedFrame`], which may be cloned and only read. A shared frame that is the last one
//! thaws into a `Frame` again. The last handle that is dropped returns the memory to the arena.
//!
//! Leaf module: the unsafe here turns a handle into a slice, as its ownership allows.

use super::{
    FrameIndex, Inner,
    layout::{CRC_KNOWN, MARGIN_BYTES},
};
use bytes::Bytes;
use pagewire_protocol::crc32c;
use std::{
    fmt,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
};

/// One page-sized piece of the arena, owned by whoever holds this value; aligned to 512 bytes, and to
/// 4096 in an arena without margins.
///
/// Its content is what the frame last held.
pub struct Frame {
    arena: Arc<Inner>,
    index: u32,
}

impl Frame {
    /// Wraps a frame whose only reference the caller owns.
    pub(super) fn from_owned(arena: Arc<Inner>, index: u32) -> Self {
        debug_assert_eq!(arena.descriptor(index).refs.load(Ordering::Relaxed), 1);
        Self { arena, index }
    }

    /// Gives up the reference without returning the frame to the arena.
    pub(super) fn into_owned(self) -> (Arc<Inner>, u32) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the Arc is moved out exactly once.
        (unsafe { std::ptr::read(&raw const this.arena) }, this.index)
    }

    /// Which frame of the arena this is.
    #[must_use]
    pub fn index(&self) -> FrameIndex {
        FrameIndex(self.index)
    }

    /// The frame with the [`MARGIN_BYTES`] before it and those behind it, which nobody else uses:
    /// a page can be received there together with the header before it and the next one. `None` in an
    /// arena without margins.
    #[must_use]
    pub fn with_margins(&mut self) -> Option<&mut [u8]> {
        let start = self.arena.margin_ptr(self.index)?;
        self.arena.descriptor(self.index).page_crc.store(0, Ordering::Relaxed);
        // SAFETY: both margins lie inside the mapping and belong to this frame alone (`Layout::new`);
        // this value is the frame's only handle and is borrowed mutably, so no shared handle is in
        // `with_header` either.
        Some(unsafe {
            std::slice::from_raw_parts_mut(start, self.arena.page_bytes() + 2 * MARGIN_BYTES)
        })
    }

    /// Notes the CRC-32C that the frame was found to have, so that whoever sends it on need not
    /// compute it. The next write forgets it.
    pub(crate) fn note_crc32c(&self, crc: u32) {
        debug_assert_eq!(crc, crc32c(&[self]));
        let known = CRC_KNOWN | u64::from(crc);
        self.arena.descriptor(self.index).page_crc.store(known, Ordering::Relaxed);
    }

    /// A device is about to write to the frame, which no reference of this program's tells.
    pub(crate) fn forget_crc32c(&self) {
        self.arena.descriptor(self.index).page_crc.store(0, Ordering::Relaxed);
    }

    /// Makes the frame immutable and shareable.
    #[must_use]
    pub fn freeze(self) -> SharedFrame {
        let (arena, index) = self.into_owned();
        SharedFrame { arena, index }
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: this value is the frame's only handle, so nobody writes while it is borrowed.
        unsafe {
            std::slice::from_raw_parts(self.arena.frame_ptr(self.index), self.arena.page_bytes())
        }
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.arena.descriptor(self.index).page_crc.store(0, Ordering::Relaxed);
        // SAFETY: this value is the frame's only handle and is borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.arena.frame_ptr(self.index),
                self.arena.page_bytes(),
            )
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.arena.free(self.index);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({})", self.index)
    }
}

impl From<Frame> for Bytes {
    fn from(frame: Frame) -> Self {
        Self::from_owner(frame)
    }
}

/// A frame that several may read and nobody may write.
pub struct SharedFrame {
    arena: Arc<Inner>,
    index: u32,
}

impl SharedFrame {
    /// Wraps a frame of whose references the caller owns one.
    pub(super) fn from_counted(arena: Arc<Inner>, index: u32) -> Self {
        Self { arena, index }
    }

    /// CRC-32C of the frame: computed once, and known already for a page that came with it and was
    /// not changed since. So it also tells when memory changed a page that nobody wrote to.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        let place = &self.arena.descriptor(self.index).page_crc;
        let known = place.load(Ordering::Relaxed);
        if known & CRC_KNOWN != 0 {
            return (known & u64::from(u32::MAX)).try_into().unwrap_or(0);
        }
        let crc = crc32c(&[self]);
        place.store(CRC_KNOWN | u64::from(crc), Ordering::Relaxed);
        crc
    }

    /// Puts `header` before the frame and calls `send` with both as one piece of memory. `None`, and
    /// no call: the arena has no margins, or somebody else is just doing the same with this frame.
    pub fn with_header<R>(
        &self,
        header: &[u8; MARGIN_BYTES],
        send: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let start = self.arena.margin_ptr(self.index)?;
        let taken = &self.arena.descriptor(self.index).header_taken;
        taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // SAFETY: the margin lies inside the mapping and belongs to this frame alone
        // (`Layout::new`). While this handle lives nobody has a `Frame` of it, and of the shared
        // handles only the one that has set `header_taken` comes here. The frame itself is not
        // written, as for `deref`.
        let whole = unsafe {
            start.copy_from_nonoverlapping(header.as_ptr(), MARGIN_BYTES);
            std::slice::from_raw_parts(start, MARGIN_BYTES + self.arena.page_bytes())
        };
        // Also when the call panics.
        let _taken = Taken(taken);
        Some(send(whole))
    }

    fn refs(&self) -> &AtomicU32 {
        &self.arena.descriptor(self.index).refs
    }

    /// Which frame of the arena this is.
    #[must_use]
    pub fn index(&self) -> FrameIndex {
        FrameIndex(self.index)
    }

    /// Makes the frame writable again if this is the last handle on it.
    ///
    /// # Errors
    /// Hands the value back while somebody else (a send that is not acknowledged, say) holds the
    /// frame; the caller then takes a new frame and copies.
    pub fn try_thaw(self) -> Result<Frame, Self> {
        if self.refs().load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the Arc is moved out exactly once. The one reference
        // that is left is ours, and only a holder of a reference can make another.
        Ok(Frame::from_owned(unsafe { std::ptr::read(&raw const this.arena) }, this.index))
    }
}

/// The place before a frame, in use until this is dropped.
struct Taken<'a>(&'a AtomicU32);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Clone for SharedFrame {
    fn clone(&self) -> Self {
        let before = self.refs().fetch_add(1, Ordering::Relaxed);
        assert!(before < u32::MAX / 2, "frame {} has too many references", self.index);
        Self { arena: Arc::clone(&self.arena), index: self.index }
    }
}

impl Deref for SharedFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: while a shared handle lives nobody has a `Frame` or an exclusive pin on it, and
        // those are the only ways to write (see `PageTable` for the latter).
        unsafe {
            std::slice::from_raw_parts(self.arena.frame_ptr(self.index), self.arena.page_bytes())
        }
    }
}

impl AsRef<[u8]> for SharedFrame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        if self.refs().fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            self.refs().store(1, Ordering::Relaxed);
            self.arena.free(self.index);
        }
    }
}

impl fmt::Debug for SharedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedFrame({})", self.index)
    }
}

impl From<SharedFrame> for Bytes {
    fn from(frame: SharedFrame) -> Self {
        Self::from_owner(frame)
    }
}
