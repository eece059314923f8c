//! The node's end: a thread that answers one question at a time.
//!
//! The socket is made under another name, closed to others, and then renamed: whoever finds it finds
//! it complete and with mode 0600. A socket that an earlier node left is replaced; one that somebody
//! listens on is not. When the server goes it takes away the socket that it made, and no other.

use super::{StatusError, place::Places, protocol};
use crate::file_kind;
use serde_json::Value;
use std::{
    fmt, fs,
    io::{self, ErrorKind, Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Longest question, in bytes.
pub const QUESTION_MAX_BYTES: usize = 4096;
/// How long a question may take to come, and its answer to be taken.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Pause after a connection that could not be accepted: out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who has the answers.
pub trait Answers: Send + fmt::Debug {
    /// Answers a question with an object.
    ///
    /// # Errors
    /// Why not, in words for whoever asks.
    fn answer(&self, query: &protocol::Query) -> Result<Value, String>;
}

/// A thread that answers; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Device and inode of the socket.
    identity: (u64, u64),
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at the best of `places`.
    ///
    /// # Errors
    /// [`StatusError::Listen`], [`StatusError::NoSocket`].
    pub fn start(places: &Places, answers: impl Answers + 'static) -> Result<Self, StatusError> {
        let first = places.paths.first().cloned().unwrap_or_default();
        let path = places.to_listen().map(Path::to_owned).ok_or_else(|| StatusError::Listen {
            path: first,
            problem:
                "neither there nor in the other usual places can a folder be had that is this \
                      user's alone: set status_socket"
                    .to_owned(),
        })?;
        make_way(&path)?;
        let refused = |error: io::Error| {
            let advice = match error.kind() {
                ErrorKind::NotFound => "; make the folder, or set status_socket to another path",
                _ => "; set status_socket to a path where this user may make a socket",
            };
            StatusError::Listen { path: path.clone(), problem: format!("{error}{advice}") }
        };
        let (listener, identity) = listen(&path).map_err(refused)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let serve = {
            let stopping = Arc::clone(&stopping);
            move || serve(&listener, &answers, &stopping)
        };
        let thread = thread::Builder::new().name("status".to_owned()).spawn(serve);
        Ok(Self { identity, stopping, thread: Some(thread.map_err(refused)?), path })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let is_ours = identity(&self.path).is_ok_and(|found| found == self.identity);
        // Wakes it, if it can still be reached.
        if is_ours && UnixStream::connect(&self.path).is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let about = fs::symlink_metadata(path)?;
    Ok((about.dev(), about.ino()))
}

/// Sees to it that nothing is at `path`, or a socket that nobody listens on.
fn make_way(path: &Path) -> Result<(), StatusError> {
    let listen = |problem: String| Err(StatusError::Listen { path: path.to_owned(), problem });
    let kind = match fs::symlink_metadata(path) {
        Ok(about) => about.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return listen(format!("{error}; check the path")),
    };
    if !kind.is_socket() {
        let found = match kind.is_file() {
            true => "a regular file",
            false if kind.is_symlink() => "a symbolic link",
            false => file_kind::in_words(kind),
        };
        return Err(StatusError::NoSocket { path: path.to_owned(), found });
    }
    match UnixStream::connect(path) {
        Ok(_) => listen(
            "another process listens there, expected none: end it, or set status_socket to a path \
             of this instance's own"
                .to_owned(),
        ),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => listen(format!("{error}; remove what is there, or set status_socket")),
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let mut making = path.as_os_str().to_owned();
    making.push(format!(".{}", process::id()));
    let making = PathBuf::from(making);
    // Of a process of this number that was killed just then.
    let _ = fs::remove_file(&making);
    let listener = UnixListener::bind(&making)?;
    let finish = || {
        fs::set_permissions(&making, fs::Permissions::from_mode(0o600))?;
        let identity = identity(&making)?;
        fs::rename(&making, path)?;
        Ok(identity)
    };
    match finish() {
        Ok(identity) => Ok((listener, identity)),
        Err(error) => {
            let _ = fs::remove_file(&making);
            Err(error)
        }
    }
}

fn serve(listener: &UnixListener, answers: &impl Answers, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        match listener.accept() {
            // Whoever has gone needs no answer.
            Ok((stream, _)) => drop(converse(stream, answers)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!("a question about the status cannot be taken: {error}");
                thread::park_timeout(ACCEPT_PAUSE);
            }
        }
    }
}

fn converse(mut stream: UnixStream, answers: &impl Answers) -> io::Result<()> {
    let answer = read_question(&mut stream)?
        .and_then(|line| protocol::Query::parse(&line))
        .and_then(|query| answers.answer(&query));
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(protocol::answer_line(&answer).as_bytes())
}

/// One line, or what is wrong with it, in words.
fn read_question(stream: &mut UnixStream) -> io::Result<Result<Vec<u8>, String>> {
    let deadline = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let mut buffer = [0; QUESTION_MAX_BYTES];
    loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok(Ok(line));
        }
        if line.len() >= QUESTION_MAX_BYTES {
            return Ok(Err(format!(
                "found no end of line in {QUESTION_MAX_BYTES} bytes, expected one"
            )));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let limit_s = PATIENCE.as_secs();
            return Ok(Err(format!("found no whole line within {limit_s} s, expected one")));
        }
        stream.set_read_timeout(Some(left))?;
        let room = QUESTION_MAX_BYTES - line.len();
        match stream.read(&mut buffer[..room]) {
            Ok(0) => return Ok(Ok(line)),
            Ok(got) => line.extend_from_slice(&buffer[..got]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}
