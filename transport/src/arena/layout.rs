//! What lies where in an arena's memfd. Everything is an offset, so that another process can map
//! it at another address.
//!
//! ```text
//!  0              4096                          frames_offset (page-aligned)
//!  +--------------+-----------------------------+----------------------------+
//!  | ArenaHeader  | Descriptor x frames, 64 B   | frame x frames, page_size  |
//!  +--------------+-----------------------------+----------------------------+
//!
//!  Descriptor.word
//!  63          32 31      22   21     20    19..18   17     16     15        0
//!  +-------------+----------+------+--------+------+-------+------+----------+
//!  | generation  |    -     | ref'd| notify | mode | dirty | excl | pins     |
//!  +-------------+----------+------+--------+------+-------+------+----------+
//! ```
//! `mode` is what local threads may pin *now*: the owner lowers it while it revokes. `notify` asks
//! the thread that drops the last pin to tell the owner.
//!
//! Leaf module: the unsafe here turns offsets of the mapping into references to its atomics.

use super::memory::Mapping;
use pagewire_protocol::PageSize;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// First 8 bytes of the memfd: "PWARENA" and the layout's version.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"PWARENA\x01");
pub(super) const DESCRIPTORS_OFFSET_BYTES: usize = 4096;

pub(super) const PIN_ONE: u64 = 1;
pub(super) const PINS: u64 = 0xFFFF;
pub(super) const EXCLUSIVE: u64 = 1 << 16;
pub(super) const DIRTY: u64 = 1 << 17;
pub(super) const MODE_SHIFT: u32 = 18;
pub(super) const MODE: u64 = 0b11 << MODE_SHIFT;
pub(super) const NOTIFY: u64 = 1 << 20;
pub(super) const REFERENCED: u64 = 1 << 21;
pub(super) const GENERATION_SHIFT: u32 = 32;

/// Start of the memfd.
#[repr(C)]
#[derive(Debug)]
pub(super) struct ArenaHeader {
    pub(super) magic: AtomicU64,
    pub(super) page_bytes: AtomicU32,
    pub(super) frames: AtomicU32,
    pub(super) frames_offset: AtomicU64,
    /// Free frames as a stack: low half index + 1 of the top (0: empty), high half a count that
    /// changes with every operation, so that a stale compare-exchange fails.
    pub(super) free: AtomicU64,
    pub(super) free_count: AtomicU32,
}

/// State of one frame, 64 bytes: one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) word: AtomicU64,
    /// Owners of the frame: 1 for a `Frame`, n for its `SharedFrame`s and its publication.
    pub(super) refs: AtomicU32,
    /// Below it in the stack of free frames: index + 1, or 0.
    pub(super) next_free: AtomicU32,
    /// The buffer tag of a published page (`BufferTag::to_words`).
    pub(super) tag: [AtomicU64; 3],
    /// Of the frame, from the start of the memfd, in bytes.
    pub(super) frame_offset: AtomicU64,
    reserved: [AtomicU64; 2],
}
const _: () = assert!(size_of::<Descriptor>() == 64);
const _: () = assert!(size_of::<ArenaHeader>() <= DESCRIPTORS_OFFSET_BYTES);

/// Sizes and offsets of an arena, computed once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) frames: u32,
    pub(super) page_size: PageSize,
    pub(super) frames_offset_bytes: usize,
    pub(super) total_bytes: usize,
}

impl Layout {
    /// The layout of `frames` frames; `None` when its size overflows.
    pub(super) fn new(frames: u32, page_size: PageSize, align_bytes: usize) -> Option<Self> {
        let count = usize::try_from(frames).ok()?;
        let descriptors = count.checked_mul(size_of::<Descriptor>())?;
        let frames_offset_bytes = DESCRIPTORS_OFFSET_BYTES
            .checked_add(descriptors)?
            .checked_next_multiple_of(page_size.bytes())?;
        let total_bytes = frames_offset_bytes
            .checked_add(count.checked_mul(page_size.bytes())?)?
            .checked_next_multiple_of(align_bytes)?;
        Some(Self { frames, page_size, frames_offset_bytes, total_bytes })
    }

    pub(super) fn header<'a>(&self, mapping: &'a Mapping) -> &'a ArenaHeader {
        debug_assert!(mapping.len_bytes() >= self.total_bytes);
        // SAFETY: the mapping is page-aligned, at least `total_bytes` long and zero-initialised;
        // every field of the header is an atomic, for which any bits are valid.
        unsafe { mapping.base().cast::<ArenaHeader>().as_ref() }
    }

    pub(super) fn descriptor<'a>(&self, mapping: &'a Mapping, index: u32) -> &'a Descriptor {
        assert!(index < self.frames, "frame {index} of an arena of {} frames", self.frames);
        // SAFETY: `index` is within the table, which starts 4096-aligned and lies wholly inside
        // the mapping (`new`); every field is an atomic, for which any bits are valid.
        unsafe {
            mapping
                .base()
                .byte_add(DESCRIPTORS_OFFSET_BYTES)
                .cast::<Descriptor>()
                .add(index as usize)
                .as_ref()
        }
    }

    pub(super) fn frame_offset_bytes(&self, index: u32) -> usize {
        self.frames_offset_bytes + index as usize * self.page_size.bytes()
    }
}
