//! What lies where in an arena's memfd. Everything is an offset, so that another process can map
//! it at another address.
//!
//! ```text
//!  0              4096                          frames_offset (page-aligned)
//!  +--------------+-----------------------------+----------------------------+
//!  | ArenaHeader  | Descriptor x frames, 64 B   | frame x frames, page_size  |
//!  +--------------+-----------------------------+----------------------------+
//!
//!  With margins, 512 bytes lie between two frames, before the first and behind the last:
//!
//!  ... frame 0 | margin of 0, 128 | unused, 256 | margin of 1, 128 | frame 1 ...
//!
//!  The margins of a frame are where the header before a page and the one behind it lie while they
//!  are sent or received with it as one piece of memory.
//!
//!  Descriptor.word
//!  63          32 31      22   21     20    19..18   17     16     15        0
//!  +-------------+----------+------+--------+------+-------+------+----------+
//!  | generation  |    -     | ref'd| notify | mode | dirty | excl | pins     |
//!  +-------------+----------+------+--------+------+-------+------+----------+
//! ```
//! `mode` is what local threads may pin *now*: the owner lowers it while it revokes. `notify` asks
//! the thread that drops the last pin to tell the owner. The generation is odd while a page is
//! published.
//!
//! For readers in C (little-endian hosts; load each field with one access, never write):
//!
//! ```c
//! struct arena_header {            /* at 0 */
//!     char     magic[7];           /* "PWARENA"; written last */
//!     uint8_t  version;            /* 3 */
//!     uint32_t page_bytes;         /* 4096, 8192, 16384 or 32768 */
//!     uint32_t frames;
//!     uint64_t frames_offset;      /* 4096 + 64 * frames, and 512 more with margins, rounded up to
//!                                     page_bytes */
//!     uint64_t free;               /* low half: top of the free stack, index + 1; high: count */
//!     uint32_t free_count;
//!     uint32_t stride_bytes;       /* from one frame to the next: page_bytes, or 512 more */
//!     uint32_t reserved[6];
//!     uint64_t lease;              /* at 64; grows when the instance has lost its lease: what it
//!                                     caches may be out of date from then on, pinned or not */
//! };
//! struct arena_descriptor {        /* at 4096 + 64 * index */
//!     uint64_t word;               /* as drawn; mode: 0 N, 1 S, 2 X */
//!     uint32_t refs;               /* 1 for a free frame */
//!     uint32_t next_free;          /* index + 1, or 0 */
//!     uint64_t tag[3];             /* tablespace<<32|database, relation<<32|fork, block */
//!     uint64_t frame_offset;
//!     uint64_t page_crc;           /* 1 << 32 | CRC-32C of the frame; 0: not known. Who writes
//!                                     to the frame sets it to 0 first */
//!     uint32_t header_taken;       /* 1 while the margin before the frame is being used */
//!     uint32_t reserved;
//! };
//! ```
//! A descriptor was read whole if the generation was the same before and after, with an acquire
//! fence behind the first load and one before the last; the tag means something only while it is
//! odd. The file has F_SEAL_SHRINK and F_SEAL_GROW. `view.rs` is such a reader.
//!
//! Leaf module: the unsafe here turns offsets of the mapping into references to its atomics.

use super::memory::Region;
use pagewire_protocol::{BufferTag, Mode, PageSize};
use std::{
    mem::offset_of,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// First 8 bytes of the memfd: "PWARENA" and the layout's version.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"PWARENA\x03");
pub(super) const DESCRIPTORS_OFFSET_BYTES: usize = 4096;
/// Bytes before a frame, and behind it, that go with it: one session header with its body.
pub const MARGIN_BYTES: usize = 128;
/// Between two frames with margins: frames stay aligned to what direct I/O needs at least.
pub(super) const GAP_BYTES: usize = 512;

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
    pub(super) stride_bytes: AtomicU32,
    reserved: [AtomicU32; 6],
    /// Generation of the instance's lease. On a cache line of its own: every hit reads it, and the
    /// stack of free frames changes all the time.
    pub(super) lease: AtomicU64,
}

/// In `Descriptor::page_crc`: the lower half holds the CRC.
pub(super) const CRC_KNOWN: u64 = 1 << 32;

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
    /// CRC-32C of the frame with [`CRC_KNOWN`], or 0 when it is not known.
    pub(super) page_crc: AtomicU64,
    /// 1 while somebody uses the margin before the frame.
    pub(super) header_taken: AtomicU32,
    reserved: AtomicU32,
}

impl Descriptor {
    /// Notes which page the frame holds.
    pub(super) fn store_tag(&self, tag: BufferTag) {
        for (slot, word) in self.tag.iter().zip(tag.to_words()) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn has_tag(&self, tag: &BufferTag) -> bool {
        let mut words = self.tag.iter().zip(tag.to_words());
        words.all(|(slot, word)| slot.load(Ordering::Relaxed) == word)
    }
}

/// `mode` where a descriptor's word has it.
#[inline]
pub(super) fn mode_bits(mode: Mode) -> u64 {
    u64::from(mode.to_wire()) << MODE_SHIFT
}

/// The mode in a descriptor's word, as [`mode_bits`] has it.
#[inline]
pub(super) fn mode_of(word: u64) -> u64 {
    word & MODE
}

const _: () = assert!(size_of::<Descriptor>() == 64 && offset_of!(Descriptor, tag) == 16);
const _: () = assert!(size_of::<ArenaHeader>() <= DESCRIPTORS_OFFSET_BYTES);
const _: () = assert!(offset_of!(ArenaHeader, frames_offset) == 16);
const _: () = assert!(offset_of!(ArenaHeader, free_count) == 32);
const _: () = assert!(offset_of!(ArenaHeader, stride_bytes) == 36);
const _: () = assert!(2 * MARGIN_BYTES <= GAP_BYTES && GAP_BYTES <= DESCRIPTORS_OFFSET_BYTES);
const _: () = assert!(offset_of!(ArenaHeader, lease) == 64);

/// Sizes and offsets of an arena, computed once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) frames: u32,
    pub(super) page_size: PageSize,
    pub(super) margins: bool,
    pub(super) frames_offset_bytes: usize,
    pub(super) stride_bytes: usize,
    pub(super) total_bytes: usize,
}

impl Layout {
    /// The layout of `frames` frames, with margins or without; `None` when its size overflows.
    pub(super) fn new(
        frames: u32,
        page_size: PageSize,
        margins: bool,
        align_bytes: usize,
    ) -> Option<Self> {
        let count = usize::try_from(frames).ok()?;
        let gap_bytes = if margins { GAP_BYTES } else { 0 };
        let stride_bytes = page_size.bytes() + gap_bytes;
        let descriptors = count.checked_mul(size_of::<Descriptor>())?;
        let frames_offset_bytes = DESCRIPTORS_OFFSET_BYTES
            .checked_add(descriptors)?
            .checked_add(gap_bytes)?
            .checked_next_multiple_of(page_size.bytes())?;
        let total_bytes = frames_offset_bytes
            .checked_add(count.checked_mul(stride_bytes)?)?
            .checked_next_multiple_of(align_bytes)?;
        Some(Self { frames, page_size, margins, frames_offset_bytes, stride_bytes, total_bytes })
    }

    pub(super) fn header<'a>(&self, region: &'a Region) -> &'a ArenaHeader {
        debug_assert!(region.len_bytes() >= self.frames_offset_bytes);
        // SAFETY: the region is page-aligned and begins with at least `frames_offset_bytes` bytes of
        // the arena (all of it for the owner, the part before the frames for a view); every field
        // of the header is an atomic, for which any bits are valid. A view only loads, relaxed.
        unsafe { region.base().cast::<ArenaHeader>().as_ref() }
    }

    pub(super) fn descriptor<'a>(&self, region: &'a Region, index: u32) -> &'a Descriptor {
        assert!(index < self.frames, "frame {index} of an arena of {} frames", self.frames);
        // SAFETY: `index` is within the table, which starts 4096-aligned and lies wholly before the
        // frames (`new`), so inside the region; every field is an atomic, for which any bits are
        // valid. A view only loads, relaxed.
        unsafe {
            region
                .base()
                .byte_add(DESCRIPTORS_OFFSET_BYTES)
                .cast::<Descriptor>()
                .add(index as usize)
                .as_ref()
        }
    }

    pub(super) fn frame_offset_bytes(&self, index: u32) -> usize {
        self.frames_offset_bytes + index as usize * self.stride_bytes
    }
}
