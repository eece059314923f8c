//! The arena: every page-sized piece of memory of an instance, fixed at start.
//!
//! Invariants: a frame is free (in the stack), or owned by handles ([`Frame`], [`SharedFrame`]) and
//! at most one publication ([`PageTable`]), and `refs` counts those. Frames never move, so that a
//! device can have them registered once. The sum of free and owned frames is constant.
//!
//! Threading: frames may be taken and returned on any thread, without locks.

mod frame;
mod layout;
mod lease;
mod limits;
mod memory;
mod pages;
mod torn;
mod view;

pub use frame::{Frame, SharedFrame};
pub use layout::MARGIN_BYTES;
pub use lease::{Lease, LeaseExpired};
pub(crate) use memory::lock_limits_bytes;
pub use pages::{
    Drain, ExclusivePin, PageTable, PageView, PinMiss, PinTicket, SharedPin, StillShared,
};
pub use view::{ArenaView, FrameState, ViewError};

use crate::{TransportError, prefetch::prefetch_line};
use layout::{ArenaHeader, Descriptor, Layout, MAGIC};
use memory::{HUGE_PAGE_BYTES, Mapping, Wanted};
use pagewire_protocol::PageSize;
use std::{
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Number of a frame in its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameIndex(pub u32);

/// Which arena of this process; no two ever have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ArenaId(u64);

impl ArenaId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What an arena is made of.
#[derive(Debug, Clone)]
pub struct ArenaConfig {
    /// Number of frames.
    pub frames: u32,
    /// Size of a frame.
    pub page_size: PageSize,
    /// Ask for huge pages. If the host has too few, the arena falls back to normal pages and says
    /// so once.
    pub huge_pages: bool,
    /// Keep the memory from being swapped out (`mlock`); an error if the limit on locked memory is
    /// too low. Huge pages are never swapped, so nothing is asked of the limit for them.
    pub lock: bool,
    /// Keep room between the frames ([`MARGIN_BYTES`] before each and behind it), so that a page and
    /// its header are one piece of memory for the kernel: over TCP that makes a page's way some 4 %
    /// shorter. Frames are then aligned to 512 bytes, else to 4096, which direct I/O asks for on
    /// storage with sectors of 4096 bytes under kernels before 6.0; and they do not lie side by side,
    /// so no region of them is read by RDMA READ, but asked for.
    pub margins: bool,
    /// Leave the memory in core files. Without, a crash of a large instance writes a small file, and
    /// none of the pages it served.
    pub dump: bool,
}

impl ArenaConfig {
    /// `frames` frames of 8 KiB with margins, on huge pages if the host has them, neither locked nor
    /// dumped.
    #[must_use]
    pub fn new(frames: u32) -> Self {
        Self {
            frames,
            page_size: PageSize::K8,
            huge_pages: true,
            lock: false,
            margins: true,
            dump: false,
        }
    }

    /// Bytes that the arena takes: the frames and what describes them, in whole huge pages if those
    /// are asked for. `None`: more than can be addressed.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<usize> {
        let align_bytes = if self.huge_pages { HUGE_PAGE_BYTES } else { 4096 };
        Some(Layout::new(self.frames, self.page_size, self.margins, align_bytes)?.total_bytes)
    }
}

#[derive(Debug)]
struct Inner {
    id: ArenaId,
    mapping: Mapping,
    layout: Layout,
    table_taken: AtomicBool,
    /// What is worse than asked for.
    warning: Option<String>,
}

impl Inner {
    fn header(&self) -> &ArenaHeader {
        self.layout.header(self.mapping.region())
    }

    fn descriptor(&self, index: u32) -> &Descriptor {
        self.layout.descriptor(self.mapping.region(), index)
    }

    fn frame_ptr(&self, index: u32) -> *mut u8 {
        debug_assert!(index < self.layout.frames);
        self.mapping.region().base().as_ptr().wrapping_add(self.layout.frame_offset_bytes(index))
    }

    /// First byte of the margin before a frame, if frames have margins.
    fn margin_ptr(&self, index: u32) -> Option<*mut u8> {
        self.layout.margins.then(|| self.frame_ptr(index).wrapping_sub(MARGIN_BYTES))
    }

    /// Begins to fetch the first bytes of a frame, for somebody who is about to read them: what
    /// stands in between, an atomic change of its descriptor, would hold the fetch up.
    #[inline]
    fn prefetch(&self, index: u32) {
        prefetch_line(self.frame_ptr(index));
    }

    /// As [`Inner::prefetch`], of the margin before a frame: its header is about to be written there.
    #[inline]
    fn prefetch_margin(&self, index: u32) {
        if let Some(margin) = self.margin_ptr(index) {
            prefetch_line(margin);
            prefetch_line(margin.wrapping_add(MARGIN_BYTES / 2));
        }
    }

    fn page_bytes(&self) -> usize {
        self.layout.page_size.bytes()
    }

    /// Puts a frame on the stack. The caller owned its last reference; `refs` stays 1, for the
    /// handle that the next taker makes.
    fn free(&self, index: u32) {
        let header = self.header();
        let descriptor = self.descriptor(index);
        // Before the frame can be taken again, so that the number never falls below 0.
        header.free_count.fetch_add(1, Ordering::Relaxed);
        let mut top = header.free.load(Ordering::Relaxed);
        loop {
            let below = u32::try_from(top & 0xFFFF_FFFF).unwrap_or(0);
            descriptor.next_free.store(below, Ordering::Relaxed);
            let new = next_stack_word(top, index + 1);
            match header.free.compare_exchange_weak(top, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn take(&self) -> Option<u32> {
        let header = self.header();
        let mut top = header.free.load(Ordering::Acquire);
        loop {
            let index = u32::try_from(top & 0xFFFF_FFFF).unwrap_or(0).checked_sub(1)?;
            let below = self.descriptor(index).next_free.load(Ordering::Relaxed);
            let new = next_stack_word(top, below);
            match header.free.compare_exchange_weak(top, new, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => {
                    header.free_count.fetch_sub(1, Ordering::Relaxed);
                    return Some(index);
                }
                Err(now) => top = now,
            }
        }
    }
}

fn next_stack_word(old: u64, top: u32) -> u64 {
    ((old >> 32).wrapping_add(1) << 32) | u64::from(top)
}

/// All frames of an instance. Cloning gives another handle on the same arena.
#[derive(Debug, Clone)]
pub struct Arena {
    inner: Arc<Inner>,
}

impl Arena {
    /// Maps the memory and makes every frame free.
    ///
    /// # Errors
    /// [`TransportError`] when the size cannot be, or the memory cannot be had or locked.
    pub fn new(config: &ArenaConfig) -> Result<Self, TransportError> {
        let arena = Self::unwarned(config)?;
        arena.warn();
        Ok(arena)
    }

    /// As [`Arena::new`], but says nothing of what is worse than asked for until [`Arena::warn`]:
    /// for whoever may yet be refused something, and is to tell of that alone.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn unwarned(config: &ArenaConfig) -> Result<Self, TransportError> {
        let (mapping, layout, warning) = map(config)?;
        if config.lock {
            let refused = |source| limits::lock_refused(layout.total_bytes, source);
            mapping.lock().map_err(refused)?;
        }
        let table_taken = AtomicBool::new(false);
        let inner = Inner { id: ArenaId::next(), mapping, layout, table_taken, warning };
        inner.initialise();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says what is worse than asked for, if anything is; once in a process.
    pub fn warn(&self) {
        self.inner.warning.iter().for_each(|warning| limits::warn_once(warning));
    }

    /// Takes a free frame; `None` is back-pressure: try again when one has been returned.
    #[must_use]
    pub fn take(&self) -> Option<Frame> {
        self.inner.take().map(|index| Frame::from_owned(Arc::clone(&self.inner), index))
    }

    /// Number of free frames now.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.inner.header().free_count.load(Ordering::Relaxed)
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.inner.layout.frames
    }

    /// Size of a frame.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.inner.layout.page_size
    }

    /// True when the memory is on huge pages.
    #[must_use]
    pub fn on_huge_pages(&self) -> bool {
        self.inner.mapping.is_huge()
    }

    /// The memfd, for another process to map; `arena/layout.rs` says what lies where in it.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.mapping.fd()
    }

    /// Where the memory lies, to be registered with a device: first byte and length in bytes. Valid
    /// as long as any handle on the arena.
    pub(crate) fn memory(&self) -> (NonNull<u8>, usize) {
        let region = self.inner.mapping.region();
        (region.base(), region.len_bytes())
    }

    /// The arena's page table; there is one, and one thread owns it.
    ///
    /// # Errors
    /// [`TransportError::PageTableTaken`] the second time.
    pub fn page_table(&self) -> Result<PageTable, TransportError> {
        if self.inner.table_taken.swap(true, Ordering::AcqRel) {
            return Err(TransportError::PageTableTaken);
        }
        Ok(PageTable::new(Arc::clone(&self.inner)))
    }
}

impl Inner {
    fn initialise(&self) {
        let header = self.header();
        header.page_bytes.store(self.layout.page_size.bytes_u32(), Ordering::Relaxed);
        header.frames.store(self.layout.frames, Ordering::Relaxed);
        let stride_bytes = u32::try_from(self.layout.stride_bytes).unwrap_or(0);
        header.stride_bytes.store(stride_bytes, Ordering::Relaxed);
        header.frames_offset.store(self.layout.frames_offset_bytes as u64, Ordering::Relaxed);
        for index in (0..self.layout.frames).rev() {
            let descriptor = self.descriptor(index);
            descriptor.refs.store(1, Ordering::Relaxed);
            let offset = self.layout.frame_offset_bytes(index) as u64;
            descriptor.frame_offset.store(offset, Ordering::Relaxed);
            self.free(index);
        }
        header.magic.store(MAGIC, Ordering::Release);
    }
}

/// Memory for `config`, on huge pages if they are wanted and there are enough; else with a warning.
fn map(config: &ArenaConfig) -> Result<(Mapping, Layout, Option<String>), TransportError> {
    let (frames, page_bytes) = (config.frames, config.page_size.bytes());
    let size = |problem| TransportError::ArenaSize { frames, page_bytes, problem };
    if frames == 0 {
        return Err(size("expected at least 1 frame"));
    }
    let layout = |align| {
        Layout::new(frames, config.page_size, config.margins, align)
            .ok_or_else(|| size("that is more than this platform can address, ask for fewer"))
    };
    let wanted =
        |layout: &Layout, huge| Wanted { len_bytes: layout.total_bytes, huge, dump: config.dump };
    let mut without_huge_pages = None;
    if config.huge_pages {
        let layout = layout(HUGE_PAGE_BYTES)?;
        match Mapping::new(wanted(&layout, true)) {
            Ok(mapping) => return Ok((mapping, layout, None)),
            Err(error) => without_huge_pages = Some((layout.total_bytes, error)),
        }
    }
    let layout = layout(4096)?;
    let needed_bytes = layout.total_bytes as u64;
    if let Some(available_bytes) = limits::available_bytes()
        && available_bytes < needed_bytes
    {
        return Err(TransportError::ArenaTooLarge { needed_bytes, available_bytes });
    }
    let warning =
        without_huge_pages.map(|(bytes, error)| limits::without_huge_pages(bytes, &error));
    let failed = |source| TransportError::Arena { frames, page_bytes, source };
    Ok((Mapping::new(wanted(&layout, false)).map_err(failed)?, layout, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(frames: u32) -> Arena {
        Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(frames) }).unwrap()
    }

    #[test]
    fn an_empty_arena_gives_no_frame_until_one_is_returned() {
        let arena = arena(2);
        let (first, second) = (arena.take().unwrap(), arena.take().unwrap());
        assert_ne!(first.index(), second.index());
        assert!(arena.take().is_none());
        drop(first);
        assert_eq!(arena.free_frames(), 1);
        assert!(arena.take().is_some());
        drop(second);
        assert_eq!(arena.free_frames(), 2);
    }

    #[test]
    fn an_arena_takes_as_many_bytes_as_it_says_beforehand() {
        let config = ArenaConfig { huge_pages: false, ..ArenaConfig::new(100) };
        let arena = Arena::new(&config).unwrap();
        let file = std::fs::File::from(arena.fd().try_clone_to_owned().unwrap());
        assert_eq!(config.memory_bytes(), usize::try_from(file.metadata().unwrap().len()).ok());
        // 64 MiB of frames and their descriptors: one huge page more than the frames alone.
        let packed = ArenaConfig { margins: false, ..ArenaConfig::new(8192) };
        assert_eq!(packed.memory_bytes(), Some(33 << 21));
        // 8192 times 512 bytes more.
        assert_eq!(ArenaConfig::new(8192).memory_bytes(), Some(35 << 21));
    }

    #[test]
    fn a_shared_frame_thaws_only_when_nobody_else_holds_it() {
        let arena = arena(1);
        let mut frame = arena.take().unwrap();
        frame[0] = 9;
        let shared = frame.freeze();
        let other = shared.clone();
        let shared = shared.try_thaw().unwrap_err();
        assert_eq!(other[0], 9);
        drop(other);
        let mut frame = shared.try_thaw().unwrap();
        frame[0] = 10;
        drop(frame);
        assert_eq!(arena.free_frames(), 1);
    }

    #[test]
    fn a_crc_is_forgotten_with_every_write() {
        let arena = arena(2);
        let mut frame = arena.take().unwrap();
        frame.fill(1);
        let ones = frame.freeze();
        let crc = pagewire_protocol::crc32c(&[&ones]);
        assert_eq!((ones.crc32c(), ones.crc32c()), (crc, crc));
        let mut frame = ones.try_thaw().unwrap();
        frame[8191] = 2;
        let changed = frame.freeze();
        assert_ne!(changed.crc32c(), crc);
        assert_eq!(changed.crc32c(), pagewire_protocol::crc32c(&[&changed]));
        drop(changed);
        let mut reused = arena.take().unwrap();
        reused.fill(1);
        assert_eq!(reused.freeze().crc32c(), crc);
    }

    #[test]
    fn the_crc_of_what_a_device_has_written_over_is_forgotten_with_the_frame_s_posting() {
        let arena = arena(1);
        let mut frame = arena.take().unwrap();
        frame.fill(1);
        let ones = frame.freeze();
        let crc = ones.crc32c();
        let frame = ones.try_thaw().unwrap();
        // As a device does it: past every reference.
        frame.forget_crc32c();
        let file = std::fs::File::from(arena.fd().try_clone_to_owned().unwrap());
        let at = arena.inner.layout.frame_offset_bytes(frame.index().0) as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, &[2; 8192], at).unwrap();
        let twos = frame.freeze();
        assert_eq!(twos[0], 2);
        assert_ne!(twos.crc32c(), crc);
        assert_eq!(twos.crc32c(), pagewire_protocol::crc32c(&[&twos]));
    }

    #[test]
    fn bytes_are_the_frame_itself_and_return_it() {
        let arena = arena(1);
        let mut frame = arena.take().unwrap();
        frame.fill(3);
        let address = frame.as_ptr();
        let bytes = bytes::Bytes::from(frame.freeze());
        assert_eq!(bytes.as_ptr(), address);
        let tail = bytes.slice(8000..);
        drop(bytes);
        assert_eq!(arena.free_frames(), 0);
        assert!(tail.iter().all(|&b| b == 3));
        drop(tail);
        assert_eq!(arena.free_frames(), 1);
    }

    #[test]
    fn frames_are_aligned_and_neither_they_nor_their_margins_overlap() {
        for (margins, align, stride) in [(false, 4096, 8192), (true, 512, 8192 + 512)] {
            let config = ArenaConfig { huge_pages: false, margins, ..ArenaConfig::new(8) };
            let arena = Arena::new(&config).unwrap();
            let mut addresses: Vec<_> =
                std::iter::from_fn(|| arena.take()).map(|f| (f.as_ptr() as usize, f)).collect();
            addresses.sort_by_key(|(address, _)| *address);
            assert_eq!(addresses.len(), 8);
            for pair in addresses.windows(2) {
                assert!(pair[1].0 - pair[0].0 >= stride);
            }
            assert!(addresses.iter().all(|(address, _)| address % align == 0));
        }
    }

    #[test]
    fn what_is_written_around_a_frame_changes_no_other_and_no_descriptor() {
        let arena = arena(3);
        let mut frames: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
        for (fill, frame) in (1..).zip(&mut frames) {
            frame.fill(fill);
        }
        for fill in 100..103 {
            let frame = &mut frames[usize::from(fill) - 100];
            let own = frame[0];
            let whole = frame.with_margins().unwrap();
            assert_eq!(whole.len(), 8192 + 2 * MARGIN_BYTES);
            whole[..MARGIN_BYTES].fill(fill);
            whole[MARGIN_BYTES + 8192..].fill(fill);
            assert!(whole[MARGIN_BYTES..MARGIN_BYTES + 8192].iter().all(|byte| *byte == own));
        }
        for (fill, frame) in (1..).zip(&frames) {
            assert!(frame.iter().all(|byte| *byte == fill));
        }
        drop(frames);
        assert_eq!(arena.free_frames(), 3);
    }

    #[test]
    fn a_header_is_put_before_a_shared_frame_by_one_at_a_time() {
        let arena = arena(1);
        let mut frame = arena.take().unwrap();
        frame.fill(7);
        let page = frame.freeze();
        let header = [9; MARGIN_BYTES];
        let seen = page.with_header(&header, |whole| {
            // Its place is taken: whoever comes now sends two pieces.
            assert!(page.clone().with_header(&[8; MARGIN_BYTES], |_| ()).is_none());
            (whole.len(), whole[..MARGIN_BYTES] == header, whole[MARGIN_BYTES..] == page[..])
        });
        assert_eq!(seen, Some((MARGIN_BYTES + 8192, true, true)));
        let panics = || page.with_header(&header, |_| panic!("as it is to"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(page.with_header(&header, |_| ()).is_some());
        let packed = ArenaConfig { huge_pages: false, margins: false, ..ArenaConfig::new(1) };
        let mut frame = Arena::new(&packed).unwrap().take().unwrap();
        assert!(frame.with_margins().is_none());
        assert!(frame.freeze().with_header(&header, |_| ()).is_none());
    }

    #[test]
    fn threads_that_put_headers_before_one_frame_see_each_its_own() {
        let arena = arena(1);
        let page = arena.take().unwrap().freeze();
        std::thread::scope(|scope| {
            for me in 1..=4 {
                let page = page.clone();
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let header = [me; MARGIN_BYTES];
                        let own =
                            page.with_header(&header, |whole| whole[..MARGIN_BYTES] == header);
                        assert_ne!(own, Some(false));
                    }
                });
            }
        });
    }

    #[test]
    fn threads_that_take_and_return_lose_no_frame() {
        let arena = arena(16);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000u32 {
                        let Some(mut frame) = arena.take() else { continue };
                        frame[..4].copy_from_slice(&round.to_le_bytes());
                        let shared = frame.freeze();
                        let other = shared.clone();
                        drop(shared);
                        assert_eq!(other[..4], round.to_le_bytes());
                    }
                });
            }
        });
        assert_eq!(arena.free_frames(), 16);
        let all: std::collections::HashSet<_> =
            std::iter::from_fn(|| arena.take().map(|f| f.freeze()))
                .map(|f| (f.index(), f))
                .map(|(i, f)| {
                    std::mem::forget(f);
                    i
                })
                .collect();
        assert_eq!(all.len(), 16);
    }
}
