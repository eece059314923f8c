//! The memory an arena lives in: one memfd, mapped shared.
//!
//! Leaf module: unsafe code for `memfd_create`, `mmap` and their kin, and nothing else.
//!
//! Invariants: a mapping is never moved or resized, so that addresses in it stay valid until it is
//! dropped. The memfd is sealed at its size, so that nobody who holds it can take pages away from
//! under a mapping (touching them would be SIGBUS). Every page is allocated before the mapping is
//! handed out, for the same reason.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

/// Size of the huge pages that are asked for, in bytes, whatever the host's default is.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How often an allocation that a signal interrupted is begun again.
const INTERRUPTIONS_MAX: u32 = 64;

/// How the memory is to be had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) len_bytes: usize,
    pub(super) huge: bool,
    pub(super) dump: bool,
}

/// Some addresses that are mapped as long as this value lives.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: a region is plain memory whose mapping this value alone ends; who may access which part
// of it is decided by the arena, whose fields in it are atomics.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` only hands out a base address and a length.
unsafe impl Sync for Region {}

impl Region {
    fn map(fd: BorrowedFd<'_>, len_bytes: usize, protection: i32, flags: i32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_bytes,
                protection,
                libc::MAP_SHARED | flags,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { base, len_bytes })
    }

    /// Maps the first `len_bytes` bytes of `fd`, to be read only, and left out of core files.
    pub(super) fn read_only(fd: BorrowedFd<'_>, len_bytes: usize) -> io::Result<Self> {
        let region = Self::map(fd, len_bytes, libc::PROT_READ, 0)?;
        region.leave_out_of_core_files()?;
        Ok(region)
    }

    fn leave_out_of_core_files(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping; the advice changes no content.
        let refused = unsafe {
            libc::madvise(self.base.as_ptr().cast(), self.len_bytes, libc::MADV_DONTDUMP)
        };
        if refused < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map`; whoever borrowed from it
        // holds the arena or the view, and that holds this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// A shared mapping of a memfd of its own.
#[derive(Debug)]
pub(super) struct Mapping {
    region: Region,
    fd: OwnedFd,
    huge: bool,
}

impl Mapping {
    /// Maps bytes of zeros; on huge pages if those are wanted.
    pub(super) fn new(wanted: Wanted) -> io::Result<Self> {
        let Wanted { len_bytes, huge, dump } = wanted;
        let fd = create(huge)?;
        allocate(fd.as_fd(), len_bytes)?;
        seal(fd.as_fd())?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let region = Region::map(fd.as_fd(), len_bytes, protection, libc::MAP_POPULATE)?;
        if !dump {
            region.leave_out_of_core_files()?;
        }
        Ok(Self { region, fd, huge })
    }

    /// Keeps the pages in memory. Huge pages are never swapped and need no lock.
    pub(super) fn lock(&self) -> io::Result<()> {
        if self.huge {
            return Ok(());
        }
        // SAFETY: the range is this mapping, which stays; locking changes no content.
        let refused =
            unsafe { libc::mlock(self.region.base.as_ptr().cast(), self.region.len_bytes) };
        if refused < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_huge(&self) -> bool {
        self.huge
    }
}

fn create(huge: bool) -> io::Result<OwnedFd> {
    const NAME: &CStr = c"pagewire-arena";
    let huge = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
    // SAFETY: NAME is a valid C string; the call has no other memory argument.
    let raw = unsafe {
        libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge)
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned by memfd_create and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Gives the memfd its length and its pages: a page that cannot be had is an error here, and would
/// be SIGBUS at its first use.
fn allocate(fd: BorrowedFd<'_>, len_bytes: usize) -> io::Result<()> {
    let len = libc::off_t::try_from(len_bytes).map_err(io::Error::other)?;
    for _ in 0..INTERRUPTIONS_MAX {
        // SAFETY: plain system call on a file descriptor that is open.
        if unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

fn seal(fd: BorrowedFd<'_>) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: plain system call on a file descriptor that is open.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// True when nobody can make the file behind `fd` shorter.
pub(super) fn cannot_shrink(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: plain system call on a file descriptor that is open.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// Most bytes that this process may lock, now and at most; `None`: no limit.
pub(crate) fn lock_limits_bytes() -> io::Result<(Option<u64>, Option<u64>)> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is a valid place for the result.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limits) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = |limit| (limit != libc::RLIM_INFINITY).then_some(limit);
    Ok((bytes(limits.rlim_cur), bytes(limits.rlim_max)))
}
