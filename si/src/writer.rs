//! The one that writes a ring.

use crate::{
    RingError, SiEntry, SiReader,
    layout::{Fixed, RING_MODE, STATE_IN_USE, check_entries},
    memory::Ring,
    place::{self, Place},
};
use pagewire_protocol::{ClusterId, Incarnation, InstanceId, si::SI_MESSAGE_BYTES};
use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// What a ring is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingConfig {
    /// Whose rings; readers of another cluster are refused.
    pub cluster: ClusterId,
    /// The instance that writes it.
    pub instance: InstanceId,
    /// Its life; readers may ask for it.
    pub incarnation: Incarnation,
    /// Messages that it holds: a power of two from [`crate::ENTRIES_MIN`] to [`crate::ENTRIES_MAX`]. Of
    /// 32 bytes each. A reader further behind than that is told to reset.
    pub entries: u32,
}

/// Writes a ring. One at a time: it has the lock on the file until it is dropped.
#[derive(Debug)]
pub struct RingWriter {
    ring: Ring,
    /// Holds the lock.
    file: File,
    path: PathBuf,
    in_memory: bool,
    cluster: ClusterId,
    /// The same as the ring's head, which nobody else writes.
    head: u64,
}

impl RingWriter {
    /// Takes over the ring at `path`, or makes one, with the mode [`RING_MODE`]. Readers of a ring that
    /// was there are told to reset, those of one that had to be replaced that it is gone.
    ///
    /// # Errors
    /// [`RingError`]: another writer, a ring of another cluster or instance, something that is no ring,
    /// a number of entries that cannot be, or what the system says.
    pub fn open(path: &Path, config: &RingConfig) -> Result<Self, RingError> {
        Self::open_with_mode(path, config, RING_MODE)
    }

    /// As [`RingWriter::open`]; a file that is made gets the permission bits `mode`, whatever the
    /// process's mask. Whoever may write it can crash readers and writer, by cutting it.
    ///
    /// # Errors
    /// As [`RingWriter::open`].
    pub fn open_with_mode(path: &Path, config: &RingConfig, mode: u32) -> Result<Self, RingError> {
        check_entries(config.entries).map_err(RingError::fault(path))?;
        let (file, ring, found) = match place::for_writing(path, config, mode)? {
            Place::New(file, ring) => (file, ring, false),
            Place::Found(file, ring) => (file, ring, true),
        };
        let mut writer = Self::new(path, file, ring, config)?;
        if found {
            writer.reset();
        }
        Ok(writer)
    }

    /// A ring without a name, in a memfd. [`RingWriter::reader`] makes readers in this process,
    /// [`RingWriter::as_fd`] is for others.
    ///
    /// # Errors
    /// [`RingError`]: a number of entries that cannot be, or what the system says.
    pub fn in_memory(config: &RingConfig) -> Result<Self, RingError> {
        let path = Path::new("(in memory)");
        check_entries(config.entries).map_err(RingError::fault(path))?;
        let (file, ring) = place::in_memory(path, config)?;
        if !crate::lock::try_lock(&file).map_err(RingError::io(path, "lock it"))? {
            return Err(RingError::InUse { path: path.to_owned(), pid: 0 });
        }
        let writer = Self::new(path, file, ring, config)?;
        Ok(Self { in_memory: true, ..writer })
    }

    fn new(path: &Path, file: File, ring: Ring, config: &RingConfig) -> Result<Self, RingError> {
        debug_assert_eq!(ring.capacity(), Fixed::of(config).entries as usize);
        let head = place::position(&ring).map_err(RingError::fault(path))?;
        ring.incarnation().store(config.incarnation.0, Ordering::Relaxed);
        ring.pid().store(std::process::id(), Ordering::Relaxed);
        ring.state().store(STATE_IN_USE, Ordering::Relaxed);
        let generation = ring.generation().load(Ordering::Relaxed).wrapping_add(1);
        ring.generation().store(generation, Ordering::Relaxed);
        let (path, cluster) = (path.to_owned(), config.cluster);
        Ok(Self { ring, file, path, in_memory: false, cluster, head })
    }

    /// Writes messages of `publisher`, in order. Readers see all of them at once. More messages than
    /// the ring holds are not written: every reader is told to reset instead.
    ///
    /// Takes time for the messages only, however many readers there are and whatever they do.
    pub fn write(&mut self, publisher: InstanceId, messages: &[[u8; SI_MESSAGE_BYTES]]) {
        if messages.is_empty() {
            return;
        }
        if messages.len() > self.ring.capacity() {
            return self.jump(messages.len() as u64);
        }
        let words = |sequence, message: &_| SiEntry::words_of(sequence, publisher, message);
        self.head = self.ring.cells().write(self.head, messages, words);
    }

    /// Tells every reader to reset: it finds itself a whole ring behind.
    pub fn reset(&mut self) {
        self.jump(self.ring.capacity() as u64 + 1);
    }

    fn jump(&mut self, by: u64) {
        self.head += by;
        self.ring.cells().jump(self.head);
    }

    /// A reader in this process, which begins behind the last message.
    ///
    /// # Errors
    /// [`RingError`], as [`SiReader::attach`].
    pub fn reader(&self) -> Result<SiReader, RingError> {
        SiReader::open_again(self.file.as_fd(), &self.path, self.cluster)
    }

    /// Where it is; `None` in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        (!self.in_memory).then_some(&self.path)
    }

    /// Sequence of the next message.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// How many writers the ring has had, this one included.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.ring.generation().load(Ordering::Relaxed)
    }
}

impl AsFd for RingWriter {
    /// To be sent to another process, for [`SiReader::from_fd`]. It is open for writing: give it to
    /// whom you trust, or let them open the path.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
