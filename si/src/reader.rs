//! Those that read a ring.

use crate::{
    RingError, RingFault, SiEntry,
    layout::Fixed,
    lock,
    memory::{Access, Ring},
    place,
    protocol::Copied,
};
use pagewire_protocol::{ClusterId, Incarnation, InstanceId};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// What reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiRead {
    /// So many entries at the beginning of the buffer; 0: nothing new.
    Messages(usize),
    /// Messages are lost to this reader: it was a whole ring behind, or the writer has a reason of its
    /// own (it was restarted, it joined, it lost a publisher). Forget everything that was cached before
    /// this call; what comes after it is complete again.
    Reset,
    /// As [`SiRead::Reset`], and nothing will come here any more: another ring is at the path, or will
    /// soon be. Attach again.
    Gone,
}

/// Whether anything can still come. See [`SiReader::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingState {
    /// There is a writer.
    Written,
    /// There is none now. The next one tells every reader to reset.
    NoWriter,
    /// The file has been replaced or removed: attach again.
    Gone,
}

/// Reads a ring, from a cursor of its own. Attach one for each that caches, before it caches anything.
#[derive(Debug)]
pub struct SiReader {
    ring: Ring,
    cursor: u64,
    fixed: Fixed,
    file: File,
    path: PathBuf,
    /// It had a name when it was attached, so without one it is removed.
    named: bool,
}

impl SiReader {
    /// Attaches to the ring at `path`, behind its last message. What is cached from now on is
    /// invalidated by what is read from now on.
    ///
    /// # Errors
    /// [`RingError`]: no such file, no permission, not a ring, or one that is cut, damaged, of another
    /// version or of another cluster.
    pub fn attach(path: &Path, cluster: ClusterId) -> Result<Self, RingError> {
        let file = place::open(path, Access::Read)?;
        let absent = || RingError::io(path, "open it")(io::ErrorKind::NotFound.into());
        Self::new(path, file.ok_or_else(absent)?, cluster)
    }

    /// Attaches to the ring behind a file descriptor that another process has sent.
    ///
    /// # Errors
    /// As [`SiReader::attach`].
    pub fn from_fd(fd: BorrowedFd<'_>, cluster: ClusterId) -> Result<Self, RingError> {
        Self::open_again(fd, Path::new("(file descriptor)"), cluster)
    }

    /// Opens what `fd` is open on once more, for reading: with a description of its own the writer's
    /// lock can be seen.
    pub(crate) fn open_again(
        fd: BorrowedFd<'_>,
        path: &Path,
        cluster: ClusterId,
    ) -> Result<Self, RingError> {
        let again = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let file = File::open(again).map_err(RingError::io(path, "open it again for reading"))?;
        Self::new(path, file, cluster)
    }

    fn new(path: &Path, file: File, cluster: ClusterId) -> Result<Self, RingError> {
        let (fixed, ring) = place::for_reading(path, &file, cluster)?;
        let cursor = ring.cells().head();
        // Behind the head: the cursor of a ring that is gone would never hear of it.
        if place::is_gone(&ring) {
            return Err(RingError::fault(path)(RingFault::Replaced));
        }
        place::position(&ring).map_err(RingError::fault(path))?;
        let links = file.metadata().map_err(RingError::io(path, "look at it"))?.nlink();
        Ok(Self { ring, cursor, fixed, file, path: path.to_owned(), named: links > 0 })
    }

    /// True when there is something to read, a reset included. One load of memory.
    ///
    /// It is relaxed, and that is enough: who learns of a message by another way (a page's lock that
    /// was granted after it was published) is told of it here.
    #[inline]
    #[must_use]
    pub fn has_new(&self) -> bool {
        self.ring.head().load(Ordering::Relaxed) != self.cursor
    }

    /// Reads as many messages as are there and `out` holds, in order. Never waits.
    #[inline]
    pub fn read(&mut self, out: &mut [SiEntry]) -> SiRead {
        match self.ring.cells().read(self.cursor, out) {
            Copied::Entries(count) => {
                self.cursor += count as u64;
                SiRead::Messages(count)
            }
            Copied::Lost => self.lost(),
        }
    }

    #[cold]
    fn lost(&mut self) -> SiRead {
        // First the head: whatever is published from here on is behind the cursor, and whatever was
        // before is forgotten.
        let head = self.ring.cells().head();
        if place::is_gone(&self.ring) {
            // The cursor stays: there is something to be told for ever.
            return SiRead::Gone;
        }
        self.cursor = head;
        SiRead::Reset
    }

    /// Whether there is a writer. Asks the system: for times when nothing comes, not for every look.
    ///
    /// # Errors
    /// [`RingError::Io`].
    pub fn state(&self) -> Result<RingState, RingError> {
        let io = |doing| RingError::io(&self.path, doing);
        let removed = self.named && self.file.metadata().map_err(io("look at it"))?.nlink() == 0;
        if removed || place::is_gone(&self.ring) {
            return Ok(RingState::Gone);
        }
        match lock::is_locked(&self.file).map_err(io("ask for its writer"))? {
            true => Ok(RingState::Written),
            false => Ok(RingState::NoWriter),
        }
    }

    /// The next sequence that it reads.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// How many messages the ring holds.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.fixed.entries
    }

    /// The instance whose ring it is.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.fixed.instance
    }

    /// How many writers the ring has had: when it differs after a reset, the writer was restarted.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.ring.generation().load(Ordering::Relaxed)
    }

    /// The life of the instance that wrote last.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.ring.incarnation().load(Ordering::Relaxed))
    }

    /// Process id of the writer, as it wrote it down; it may be no more.
    #[must_use]
    pub fn writer_pid(&self) -> u32 {
        self.ring.pid().load(Ordering::Relaxed)
    }
}
