//! Mappings of a ring, and memfds.
//!
//! Leaf module: unsafe code for `mmap` and `memfd_create`, and for atomics in what is mapped.
//!
//! Invariants: a mapping is page-aligned, holds the whole ring that [`crate::layout`] draws, and stays
//! where it is until it is dropped. Every word that is used after the header's fixed part was judged is
//! accessed as an atomic, by this process and by all others. A file's owner may cut it: then its
//! mappings raise SIGBUS where they are touched. The mode keeps everybody else from it, a memfd is
//! sealed.

use crate::{
    entry::WORDS,
    layout::{
        GENERATION_AT, HEAD_AT, HEADER_BYTES, INCARNATION_AT, PID_AT, RESERVED_AT, STATE_AT,
        ring_bytes,
    },
    protocol::Cells,
};
use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

/// How often an allocation that a signal interrupted is begun again.
const INTERRUPTIONS_MAX: u32 = 64;

/// What may be done with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A ring, or its header alone, mapped.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    len_bytes: usize,
    /// 0 when only the header is mapped.
    entries: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and this value alone ends it; what is in
// it is accessed through atomics only.
unsafe impl Send for Ring {}
// SAFETY: as above; `&Ring` hands out references to atomics and nothing else.
unsafe impl Sync for Ring {}

impl Ring {
    /// Maps the ring of `entries` entries in `file`, which is that long.
    pub(crate) fn map(file: &File, entries: u32, access: Access) -> io::Result<Self> {
        Self::map_bytes(file, ring_bytes(entries), entries as usize, access)
    }

    /// Maps the header alone of a file that is at least that long.
    pub(crate) fn map_header(file: &File) -> io::Result<Self> {
        Self::map_bytes(file, HEADER_BYTES, 0, Access::Write)
    }

    fn map_bytes(
        file: &File,
        len_bytes: usize,
        entries: usize,
        access: Access,
    ) -> io::Result<Self> {
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // All pages at once: a page fault in the middle of a batch would be a pause in it.
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), len_bytes, protection, flags, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { base, len_bytes, entries })
    }

    #[inline]
    fn u64_at(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= HEADER_BYTES);
        // SAFETY: `at` is one of the layout's offsets: inside the header, which every mapping holds, and
        // aligned, for the base is page-aligned. The word is only ever accessed as an atomic, and the
        // reference borrows the mapping. Read-only mappings are only loaded from, relaxed.
        unsafe { self.base.add(at).cast::<AtomicU64>().as_ref() }
    }

    fn u32_at(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4) && at + 4 <= HEADER_BYTES);
        // SAFETY: as in `u64_at`.
        unsafe { self.base.add(at).cast::<AtomicU32>().as_ref() }
    }

    pub(crate) fn generation(&self) -> &AtomicU64 {
        self.u64_at(GENERATION_AT)
    }

    pub(crate) fn incarnation(&self) -> &AtomicU64 {
        self.u64_at(INCARNATION_AT)
    }

    pub(crate) fn pid(&self) -> &AtomicU32 {
        self.u32_at(PID_AT)
    }

    pub(crate) fn state(&self) -> &AtomicU32 {
        self.u32_at(STATE_AT)
    }

    #[inline]
    pub(crate) fn head(&self) -> &AtomicU64 {
        self.u64_at(HEAD_AT)
    }

    pub(crate) fn reserved(&self) -> &AtomicU64 {
        self.u64_at(RESERVED_AT)
    }

    /// Number of entries.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.entries
    }

    /// What the protocol works on.
    #[inline]
    pub(crate) fn cells(&self) -> Cells<'_, WORDS> {
        // SAFETY: the mapping holds `entries` entries of WORDS words behind the header, 8-aligned, for
        // the header is a whole page; they are only ever accessed as atomics (of the same size and
        // alignment as u64), and the slice borrows the mapping.
        let entries = unsafe {
            let first = self.base.add(HEADER_BYTES).cast::<[AtomicU64; WORDS]>();
            std::slice::from_raw_parts(first.as_ptr(), self.entries)
        };
        Cells { head: self.head(), reserved: self.u64_at(RESERVED_AT), entries }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map_bytes`; whoever borrowed from
        // it holds this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// A file in memory that has no name.
pub(crate) fn memfd() -> io::Result<File> {
    const NAME: &CStr = c"pagewire-si";
    // SAFETY: NAME is a valid C string; the call has no other memory argument.
    let raw =
        unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned by memfd_create and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(raw) })
}

/// Keeps everybody from changing the size of a memfd.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: plain system call on a file descriptor that is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the file its length and its pages: a page that cannot be had is an error here, and would be
/// SIGBUS at its first use.
pub(crate) fn allocate(file: &File, len_bytes: usize) -> io::Result<()> {
    let len = libc::off_t::try_from(len_bytes).map_err(io::Error::other)?;
    for _ in 0..INTERRUPTIONS_MAX {
        // SAFETY: plain system call on a file descriptor that is open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// The user that this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: the call has no argument and cannot fail.
    unsafe { libc::geteuid() }
}
