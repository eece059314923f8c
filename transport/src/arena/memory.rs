//! The memory an arena lives in: one memfd, mapped shared.
//!
//! Leaf module: unsafe code for `memfd_create`, `mmap` and `munmap`, and nothing else. A mapping is
//! never moved or resized, so that addresses in it stay valid until it is dropped.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

/// Size of the huge pages that are asked for, in bytes (the x86-64 and arm64 default).
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A shared mapping of a memfd.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
    fd: OwnedFd,
    huge: bool,
}

// SAFETY: the mapping is plain memory, owned by this value alone in this process; who may access
// which part of it is decided by the arena, whose fields in it are atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` only hands out a base address and a length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len_bytes` bytes of zeros; on huge pages if asked for and there are enough.
    pub(super) fn new(len_bytes: usize, huge: bool) -> io::Result<Self> {
        const NAME: &CStr = c"pagewire-arena";
        let flags = libc::MFD_CLOEXEC | if huge { libc::MFD_HUGETLB } else { 0 };
        // SAFETY: NAME is a valid C string; the call has no other memory argument.
        let raw = unsafe { libc::memfd_create(NAME.as_ptr(), flags) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by memfd_create and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let len_file = libc::off_t::try_from(len_bytes).map_err(io::Error::other)?;
        // SAFETY: plain system call on a file descriptor that is open.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len_file) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { base, len_bytes, fd, huge })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `new`; whoever borrowed from it
        // holds the arena, and the arena holds this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}
