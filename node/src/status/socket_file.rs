//! The file of a node's socket: what is in its place before it is made, and how it goes.

use crate::{file_kind, signals};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use std::{
    fs::{self, Metadata},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
};

/// What keeps a socket from being made at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InTheWay {
    /// Something that is no socket, in words.
    NoSocket(&'static str),
    /// A process that listens.
    Listener,
    /// Something that cannot be looked at or reached, and why.
    Unknown(String),
}

impl InTheWay {
    /// What was found, in words.
    pub(crate) fn found(&self) -> String {
        match self {
            Self::NoSocket(kind) => (*kind).to_owned(),
            Self::Listener => "another process listens there, expected none".to_owned(),
            Self::Unknown(error) => error.clone(),
        }
    }

    /// What to do about it.
    pub(crate) fn change(&self) -> &'static str {
        match self {
            Self::NoSocket(_) => "name another path in status_socket, or move that away",
            Self::Listener => "end it, or set status_socket to a path of this instance's own",
            Self::Unknown(_) => "check the path, remove what is there, or set status_socket",
        }
    }
}

/// What is at `path` unless it is nothing, or a socket that nobody listens on.
pub(crate) fn in_the_way(path: &Path) -> Option<InTheWay> {
    let kind = match fs::symlink_metadata(path) {
        Ok(about) => about.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some(InTheWay::Unknown(error.to_string())),
    };
    if !kind.is_socket() {
        return Some(InTheWay::NoSocket(match kind.is_file() {
            true => "a regular file",
            false if kind.is_symlink() => "a symbolic link",
            false => file_kind::in_words(kind),
        }));
    }
    match UnixStream::connect(path) {
        Ok(_) => Some(InTheWay::Listener),
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => None,
        Err(error) => Some(InTheWay::Unknown(error.to_string())),
    }
}

/// A socket that this process has made: what is removed is that one, and no other in its place.
#[derive(Debug, Clone)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    pub(super) fn new(path: &Path, about: &Metadata) -> Self {
        Self { path: path.to_owned(), identity: (about.dev(), about.ino()) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_there(&self) -> bool {
        let found = fs::symlink_metadata(&self.path);
        found.is_ok_and(|about| (about.dev(), about.ino()) == self.identity)
    }

    pub(super) fn remove(&self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Removes it when SIGHUP, SIGINT or SIGTERM ends this process, which then ends as without this: by the
    /// signal. One that this process was started to ignore stays ignored.
    ///
    /// # Errors
    /// When the system has no room for a handler or a thread.
    pub fn remove_at_signals(&self) -> io::Result<()> {
        let all = [SIGHUP, SIGINT, SIGTERM].into_iter();
        let wanted = all.filter(|signal| !signals::is_ignored(*signal));
        let mut signals = Signals::new(wanted)?;
        let file = self.clone();
        let end = move || {
            for signal in signals.forever() {
                file.remove();
                let _ = emulate_default_handler(signal);
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(end).map(drop)
    }
}
