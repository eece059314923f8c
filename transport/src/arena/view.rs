//! Another process's look at an arena: read only, and nothing in the file is trusted.
//!
//! Purpose: tools and backends of an instance map its memfd and see which frames hold which pages,
//! in which mode, with how many pins. They see no page content: that takes a pin, which writes.
//!
//! Invariants: every value that decides an address is copied out of the file once, checked against
//! the file's real length, and never read again. A file that somebody could still cut off is
//! refused, because touching a page that is gone ends the process.
//!
//! Threading: any; the owner changes descriptors meanwhile. Loads are relaxed, the only kind that
//! may be done on memory that is mapped read-only, and ordered by fences.

use super::{
    FrameIndex,
    layout::{
        DESCRIPTORS_OFFSET_BYTES, DIRTY, Descriptor, EXCLUSIVE, GAP_BYTES, GENERATION_SHIFT,
        Layout, MAGIC, MODE, MODE_SHIFT, PINS,
    },
    memory::{self, Region},
};
use pagewire_protocol::{BufferTag, Mode, PageSize};
use std::{
    fs::File,
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    sync::atomic::{Ordering, fence},
};

/// Unit of every mapping, in bytes.
const MAP_PAGE_BYTES: usize = 4096;
/// How often a descriptor that changes while it is read is read again.
const READS_MAX: u32 = 1000;

/// Why a file is not taken for an arena.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The file is too short.
    #[error(
        "the arena file has {found_bytes} bytes, expected at least {expected_bytes}: it is cut off \
         or no arena; pass the memfd of a running instance"
    )]
    Truncated {
        /// Its length.
        found_bytes: u64,
        /// The length that its header asks for, or that of a header.
        expected_bytes: u64,
    },
    /// It does not begin like an arena.
    #[error(
        "the file begins with {found:02x?}, expected {expected:02x?}: it is no arena; pass the memfd \
         of a running instance"
    )]
    Magic {
        /// Its first 7 bytes.
        found: [u8; 7],
        /// Those of an arena.
        expected: [u8; 7],
    },
    /// It is an arena of another build.
    #[error(
        "the arena has layout version {found}, expected {expected}: use the tools of the instance's \
         own build"
    )]
    Version {
        /// Its version.
        found: u8,
        /// The one that this build reads.
        expected: u8,
    },
    /// A number in the header cannot be.
    #[error("the arena's header says {field} {found}, expected {expected}: the file is damaged")]
    Header {
        /// Which number.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// Somebody could cut the file off.
    #[error(
        "the arena file is not sealed against shrinking, expected a memfd with F_SEAL_SHRINK: pass \
         the memfd of a running instance, not a copy"
    )]
    Unsealed,
    /// The system refused.
    #[error("cannot {doing} the arena file: {source}; pass an open memfd of a running instance")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What one frame is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameState {
    /// Grows whenever a page is published in the frame or leaves it.
    pub generation: u32,
    /// The page that is published in it.
    pub tag: Option<BufferTag>,
    /// What local threads may pin now.
    pub mode: Mode,
    /// Shared pins that are out.
    pub pins: u32,
    /// True while a writer has it pinned.
    pub exclusive: bool,
    /// True when the page was written and is not on storage yet.
    pub dirty: bool,
    /// Owners of the frame; a free frame counts 1, for whoever takes it next.
    pub references: u32,
}

/// A read-only map of an arena, usually another process's.
#[derive(Debug)]
pub struct ArenaView {
    region: Region,
    layout: Layout,
}

impl ArenaView {
    /// Maps the arena behind `fd` (see [`super::Arena::fd`]) after everything in it was checked.
    ///
    /// # Errors
    /// [`ViewError`]: too short, no arena, another version, sizes that cannot be, not sealed.
    pub fn map(fd: impl AsFd) -> Result<Self, ViewError> {
        let failed = |doing| move |source| ViewError::Io { doing, source };
        let file = File::from(fd.as_fd().try_clone_to_owned().map_err(failed("keep"))?);
        let found_bytes = file.metadata().map_err(failed("measure"))?.len();
        let header_bytes = DESCRIPTORS_OFFSET_BYTES as u64;
        if found_bytes < header_bytes {
            return Err(ViewError::Truncated { found_bytes, expected_bytes: header_bytes });
        }
        // Read, not mapped: a read of a file that is cut off meanwhile is an error, no signal.
        let mut header = [0; 40];
        file.read_exact_at(&mut header, 0).map_err(failed("read"))?;
        let layout = layout_of(&header)?;
        let expected_bytes = layout.total_bytes as u64;
        if found_bytes < expected_bytes {
            return Err(ViewError::Truncated { found_bytes, expected_bytes });
        }
        if !memory::cannot_shrink(file.as_fd()) {
            return Err(ViewError::Unsealed);
        }
        // The length that is sealed, and so the one that holds from now on.
        let found_bytes = file.metadata().map_err(failed("measure"))?.len();
        if found_bytes < expected_bytes {
            return Err(ViewError::Truncated { found_bytes, expected_bytes });
        }
        // Only what lies before the frames is read; in whole blocks of the file, which are huge pages
        // if it lies on such.
        let block_bytes = usize::try_from(file.metadata().map_err(failed("measure"))?.blksize());
        let block_bytes = block_bytes.unwrap_or(0).max(MAP_PAGE_BYTES);
        let map_bytes = layout.frames_offset_bytes.next_multiple_of(block_bytes);
        let region = Region::read_only(file.as_fd(), map_bytes).map_err(failed("map"))?;
        Ok(Self { region, layout })
    }

    /// Size of a frame.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.layout.page_size
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.layout.frames
    }

    /// Number of free frames now.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.layout.header(&self.region).free_count.load(Ordering::Relaxed)
    }

    /// Generation of the owner's lease: once it is another than it was, nothing that the owner caches
    /// counts as current any more.
    #[must_use]
    pub fn lease_generation(&self) -> u64 {
        let generation = self.layout.header(&self.region).lease.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        generation
    }

    /// What frame `index` is used for; `None` if there is no such frame, or if it changes its page
    /// faster than it can be read.
    #[must_use]
    pub fn frame(&self, index: FrameIndex) -> Option<FrameState> {
        if index.0 >= self.layout.frames {
            return None;
        }
        let descriptor = self.layout.descriptor(&self.region, index.0);
        (0..READS_MAX).find_map(|_| read(descriptor))
    }
}

/// One consistent reading. Publication and its end each add 1 to the generation, before the tag may
/// change: so an odd generation has a page, and the same one before and after means the same tag.
fn read(descriptor: &Descriptor) -> Option<FrameState> {
    let before = descriptor.word.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    let words = [0, 1, 2].map(|at: usize| descriptor.tag[at].load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    let word = descriptor.word.load(Ordering::Relaxed);
    let generation = word >> GENERATION_SHIFT;
    if before >> GENERATION_SHIFT != generation {
        return None;
    }
    let is_published = generation % 2 == 1;
    Some(FrameState {
        generation: u32::try_from(generation).unwrap_or(u32::MAX),
        tag: if is_published { BufferTag::from_words(words) } else { None },
        mode: Mode::from_wire(u8::try_from((word & MODE) >> MODE_SHIFT).unwrap_or(0))
            .unwrap_or(Mode::N),
        pins: u32::try_from(word & PINS).unwrap_or(u32::MAX),
        exclusive: word & EXCLUSIVE != 0,
        dirty: word & DIRTY != 0,
        references: descriptor.refs.load(Ordering::Relaxed),
    })
}

/// The layout that the first bytes of the file describe.
fn layout_of(header: &[u8; 40]) -> Result<Layout, ViewError> {
    let number = |at: usize, bytes: usize| {
        header[at..at + bytes].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let [expected @ .., expected_version] = MAGIC.to_le_bytes();
    let [found @ .., found_version] = number(0, 8).to_le_bytes();
    if found != expected {
        return Err(ViewError::Magic { found, expected });
    }
    if found_version != expected_version {
        return Err(ViewError::Version { found: found_version, expected: expected_version });
    }
    let wrong = |field, found, expected| ViewError::Header { field, found, expected };
    let page_bytes = number(8, 4);
    let page_size = PageSize::from_bytes(page_bytes)
        .ok_or_else(|| wrong("page size", page_bytes, "4096, 8192, 16384 or 32768"))?;
    let frames = number(12, 4);
    let stride = number(36, 4);
    let margins = stride != page_bytes;
    if margins && stride != page_bytes + GAP_BYTES as u64 {
        return Err(wrong("frame stride", stride, "the page size, or 512 more"));
    }
    let layout = u32::try_from(frames)
        .ok()
        .filter(|frames| *frames > 0)
        .and_then(|frames| Layout::new(frames, page_size, margins, MAP_PAGE_BYTES))
        .ok_or_else(|| wrong("frame count", frames, "at least 1, and no more than fit"))?;
    let frames_offset = number(16, 8);
    if frames_offset != layout.frames_offset_bytes as u64 {
        let expected = "the first page boundary behind the descriptors";
        return Err(wrong("frames offset", frames_offset, expected));
    }
    Ok(layout)
}
