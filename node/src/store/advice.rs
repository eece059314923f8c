//! What to do about what the system said of a folder or a file of the storage. Pure.

use std::io::{self, ErrorKind};

/// What to do, for whoever reads that `error` kept this instance from reading or writing there.
pub(crate) fn of(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull => {
            "make room there (`df` tells the space, `df -i` the inodes that are left)"
        }
        ErrorKind::QuotaExceeded => "make room there, or raise this user's quota",
        ErrorKind::ReadOnlyFilesystem => {
            "mount it so that it can be written (`findmnt -T` with its path tells how it is mounted; a file \
             system that has met an error is made read-only: the kernel's log tells that)"
        }
        ErrorKind::NotADirectory => {
            "a part of that path is a file, expected a folder: see what it is, and move it away"
        }
        ErrorKind::PermissionDenied => {
            "give this user the right to read and write there (owner and mode, or how the server exports \
             it)"
        }
        ErrorKind::NotFound => {
            "see what is mounted there: the folder is gone, or no file can be made in it"
        }
        ErrorKind::StaleNetworkFileHandle => {
            "mount it again: its server does not know that folder any more"
        }
        _ => "see that this user can read and write there, and what the kernel's log tells",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn what_the_system_said_has_advice_of_its_own_in_the_text_of_a_mark_and_of_a_folder() {
        for (code, found, advice) in [
            (libc::ENOSPC, "No space left", "`df -i`"),
            (libc::EDQUOT, "quota exceeded", "raise this user's quota"),
            (libc::EROFS, "Read-only file system", "`findmnt -T`"),
            (libc::ENOTDIR, "Not a directory", "move it away"),
            (libc::EACCES, "Permission denied", "owner and mode"),
            (libc::EPERM, "not permitted", "owner and mode"),
            (libc::ENOENT, "No such file", "what is mounted there"),
            (libc::ESTALE, "Stale file handle", "mount it again"),
            (libc::EIO, "Input/output error", "the kernel's log"),
        ] {
            let source = || io::Error::from_raw_os_error(code);
            let path = "/srv/shared/pagewire/instance-3".into();
            let mark = StoreError::Mark { path, source: source() }.to_string();
            let path = "/srv/shared".into();
            let folder = StoreError::NotWritable { path, source: source() }.to_string();
            for (text, what) in [(mark, "whose the storage is"), (folder, "cannot be written")] {
                for words in [found, advice, what, "/srv/shared"] {
                    assert!(text.contains(words), "'{words}' in: {text}");
                }
            }
        }
    }
}
