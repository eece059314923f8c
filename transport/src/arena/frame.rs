//! Frames and who owns them.
//!
//! A [`Frame`] is the only handle on its memory and may be written. [`Frame::freeze`] gives it up
//! for a [`SharedFrame`], which may be cloned and only read. A shared frame that is the last one
//! thaws into a `Frame` again. The last handle that is dropped returns the memory to the arena.
//!
//! Leaf module: the unsafe here turns a handle into a slice, as its ownership allows.

use super::{FrameIndex, Inner, layout::CRC_KNOWN};
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

/// One page-sized, page-aligned piece of the arena, owned by whoever holds this value.
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

    /// Notes the CRC-32C that the frame was found to have, so that whoever sends it on need not
    /// compute it. The next write forgets it.
    pub(crate) fn note_crc32c(&self, crc: u32) {
        debug_assert_eq!(crc, crc32c(&[self]));
        let known = CRC_KNOWN | u64::from(crc);
        self.arena.descriptor(self.index).page_crc.store(known, Ordering::Relaxed);
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
