//! Who writes a ring: a lock on its file, which goes with the writer however it ends.
//!
//! Leaf module: unsafe code for `fcntl`, and nothing else.
//!
//! It is a lock of the open file description (`F_OFD_SETLK`), on the first byte. Unlike `flock`, it
//! cannot be taken through a descriptor that is open for reading only, so no reader keeps a writer out;
//! and it can be asked about without being taken, so readers find out whether their writer lives.

use std::{fs::File, io, os::fd::AsRawFd};

fn first_byte(kind: libc::c_int) -> libc::flock {
    // Both are small constants, in types that differ between targets.
    #[allow(clippy::cast_possible_truncation)]
    let (kind, from) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    // The process id stays 0, as locks of a description demand.
    libc::flock { l_type: kind, l_whence: from, l_start: 0, l_len: 1, l_pid: 0 }
}

/// Takes the writer's lock; false when somebody else has it. `file` is open for writing.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    let lock = first_byte(libc::F_WRLCK);
    // SAFETY: `lock` is a valid place that lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// True while a writer has the lock through another description than `file`'s.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = first_byte(libc::F_RDLCK);
    // SAFETY: `lock` is a valid place for the answer that lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}
