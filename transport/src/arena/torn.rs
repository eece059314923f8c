//! Frames as they lie there, whoever owns them: for one-sided reads.
//!
//! The copy is the kernel's, out of the memfd: no reference to memory that somebody else may be
//! writing is made, just as a device makes none. What comes out may be torn.

use super::{Arena, Frame};
use rustix::io::{Errno, pread};
use std::{io, ops::Range, ptr::NonNull};

impl Arena {
    /// Copies frame `number` into `into` as it is now, or partly was a moment ago.
    ///
    /// # Errors
    /// What the system says; then `into` holds anything.
    pub(crate) fn copy_torn(&self, number: u32, into: &mut Frame) -> io::Result<()> {
        debug_assert!(number < self.frames());
        let mut at = self.inner.layout.frame_offset_bytes(number) as u64;
        let mut rest = &mut into[..];
        while !rest.is_empty() {
            match pread(self.fd(), &mut *rest, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => {
                    at += got as u64;
                    rest = &mut rest[got..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// True when there are frames with these numbers, and at least one.
    pub(crate) fn has_frames(&self, frames: &Range<u32>) -> bool {
        !frames.is_empty() && frames.end <= self.frames()
    }

    /// Where these frames lie side by side, to be registered with a device: first byte and length in
    /// bytes, as [`Arena::memory`]. `None`: there are no such frames, or they have margins.
    pub(crate) fn memory_of(&self, frames: &Range<u32>) -> Option<(NonNull<u8>, usize)> {
        if !self.has_frames(frames) || self.inner.layout.margins {
            return None;
        }
        let first = NonNull::new(self.inner.frame_ptr(frames.start))?;
        Some((first, frames.len() * self.page_size().bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ArenaConfig;

    #[test]
    fn a_frame_is_copied_while_it_is_owned_and_no_other_is() {
        let config = ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) };
        let arena = Arena::new(&config).unwrap();
        let mut frames: Vec<_> = (0..3).filter_map(|_| arena.take()).collect();
        for frame in &mut frames {
            let fill = u8::try_from(frame.index().0 + 1).unwrap();
            frame.fill(fill);
        }
        let mut into = arena.take().unwrap();
        for frame in &frames {
            arena.copy_torn(frame.index().0, &mut into).unwrap();
            assert_eq!(*into, **frame);
        }
    }

    #[test]
    fn the_memory_of_frames_is_theirs_and_that_of_none_is_none() {
        let margins = ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) };
        let config = ArenaConfig { margins: false, ..margins.clone() };
        let apart = Arena::new(&margins).unwrap();
        assert!(apart.has_frames(&(1..3)));
        assert_eq!(apart.memory_of(&(1..3)), None);
        let arena = Arena::new(&config).unwrap();
        let (first, len) = arena.memory_of(&(1..3)).unwrap();
        assert_eq!((first.as_ptr(), len), (arena.inner.frame_ptr(1), 2 * 8192));
        let (backwards, beyond) = (Range { start: 3, end: 2 }, 0..5);
        for frames in [2..2, backwards, beyond] {
            assert_eq!(arena.memory_of(&frames), None, "{frames:?}");
            assert!(!arena.has_frames(&frames), "{frames:?}");
        }
    }
}
