//! What something is that was expected to be a regular file, in words. A leaf.

use std::{fs::FileType, os::unix::fs::FileTypeExt};

/// `file_type`, which is no regular file's, in words.
pub(crate) fn in_words(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
