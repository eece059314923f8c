//! The node's end: a thread that listens, and one for each question, [`CONVERSATIONS_MAX`] at most.
//! So whoever connects and says nothing holds up nobody else; it is given up after [`PATIENCE`], and
//! sooner when its place is needed.
//!
//! The socket is made under another name, closed to others, and then renamed: whoever finds it finds
//! it complete and with mode 0600. A socket that an earlier node left is replaced; one that somebody
//! listens on is not. When the server goes it takes away the socket that it made, and no other.

use super::{
    StatusError,
    conversations::{Conversations, hang_up},
    place::Places,
    protocol,
    socket_file::{self, InTheWay, SocketFile},
};
use serde_json::Value;
use std::{
    fmt, fs,
    io::{self, ErrorKind, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Longest question, in bytes.
pub const QUESTION_MAX_BYTES: usize = 4096;
/// How long a question may take to come, and its answer to be taken.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that are listened to and answered at the same time. For who comes beyond them whoever has
/// asked nothing for longest goes; where all have asked, who comes is told so at once.
pub const CONVERSATIONS_MAX: usize = 16;
/// How often it is told that no question can be taken.
const TOLD_EVERY: Duration = Duration::from_secs(60);
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
    file: SocketFile,
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
        match socket_file::in_the_way(&path) {
            None => {}
            Some(InTheWay::NoSocket(found)) => return Err(StatusError::NoSocket { path, found }),
            Some(other) => {
                let problem = format!("{}; {}", other.found(), other.change());
                return Err(StatusError::Listen { path, problem });
            }
        }
        let refused = |error: io::Error| {
            let advice = match error.kind() {
                ErrorKind::NotFound => "; make the folder, or set status_socket to another path",
                _ => "; set status_socket to a path where this user may make a socket",
            };
            StatusError::Listen { path: path.clone(), problem: format!("{error}{advice}") }
        };
        let (listener, file) = listen(&path).map_err(refused)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let serve = {
            let stopping = Arc::clone(&stopping);
            move || serve(&listener, answers, &stopping, PATIENCE)
        };
        let thread = thread::Builder::new().name("status".to_owned()).spawn(serve);
        Ok(Self { file, stopping, thread: Some(thread.map_err(refused)?) })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The socket, for whoever takes it away when the process is ended without dropping this.
    #[must_use]
    pub fn file(&self) -> &SocketFile {
        &self.file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes it, if it can still be reached.
        if self.file.is_there() && UnixStream::connect(self.path()).is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
        self.file.remove();
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut making = path.as_os_str().to_owned();
    making.push(format!(".{}", process::id()));
    let making = PathBuf::from(making);
    // Of a process of this number that was killed just then.
    let _ = fs::remove_file(&making);
    let listener = UnixListener::bind(&making)?;
    let finish = || {
        fs::set_permissions(&making, fs::Permissions::from_mode(0o600))?;
        let file = SocketFile::new(path, &fs::symlink_metadata(&making)?);
        fs::rename(&making, path)?;
        Ok(file)
    };
    match finish() {
        Ok(file) => Ok((listener, file)),
        Err(error) => {
            let _ = fs::remove_file(&making);
            Err(error)
        }
    }
}

fn serve(
    listener: &UnixListener,
    answers: impl Answers,
    stopping: &AtomicBool,
    patience: Duration,
) {
    let (answers, open) = (Mutex::new(answers), Conversations::new(CONVERSATIONS_MAX));
    thread::scope(|scope| {
        let mut told: Option<Instant> = None;
        while !stopping.load(Ordering::Acquire) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Without descriptors it fails at each try, whoever comes or does not.
                    if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                        told = Some(Instant::now());
                        tracing::warn!("questions about the status cannot be taken: {error}");
                    }
                    thread::park_timeout(ACCEPT_PAUSE);
                    continue;
                }
            };
            let number = match open.begin(&stream) {
                Ok(Some((number, out))) => {
                    // Whoever has gone needs no answer.
                    out.into_iter().for_each(|out| drop(give_up(&out)));
                    number
                }
                Ok(None) => {
                    let busy = format!(
                        "found {CONVERSATIONS_MAX} others that have asked and wait for their answers, \
                         expected fewer: ask again in {} s",
                        patience.as_secs()
                    );
                    drop(say(&stream, &Err(busy), patience));
                    continue;
                }
                Err(error) => {
                    tracing::warn!("a question about the status cannot be taken: {error}");
                    continue;
                }
            };
            let (answers, open) = (&answers, &open);
            let converse = move || {
                drop(converse(&stream, answers, patience, || open.heard(number)));
                open.end(number);
            };
            let thread = thread::Builder::new().name("status-answer".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, converse) {
                open.end(number);
                tracing::warn!("a question about the status cannot be taken: {error}");
            }
        }
    });
}

/// Says why, and hangs up. What has said nothing has room for it.
fn give_up(stream: &UnixStream) -> io::Result<()> {
    let why = format!(
        "found {CONVERSATIONS_MAX} later connections and no question on this one, expected one line: \
         ask at once"
    );
    let said = say(stream, &Err(why), Duration::from_millis(1));
    hang_up(stream);
    said
}

fn converse(
    stream: &UnixStream,
    answers: &Mutex<impl Answers>,
    patience: Duration,
    heard: impl FnOnce() -> bool,
) -> io::Result<()> {
    let question = read_question(stream, patience)?;
    if !heard() {
        return Ok(());
    }
    let answer = question.and_then(|line| protocol::Query::parse(&line)).and_then(|query| {
        // Held for the answer only, not while somebody is waited for.
        answers.lock().unwrap_or_else(PoisonError::into_inner).answer(&query)
    });
    say(stream, &answer, patience)
}

fn say(
    mut stream: &UnixStream,
    answer: &Result<Value, String>,
    patience: Duration,
) -> io::Result<()> {
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(protocol::answer_line(answer).as_bytes())
}

/// One line, or what is wrong with it, in words.
fn read_question(
    mut stream: &UnixStream,
    patience: Duration,
) -> io::Result<Result<Vec<u8>, String>> {
    let deadline = Instant::now() + patience;
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
            let limit_s = patience.as_secs();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        sync::mpsc,
    };

    #[derive(Debug)]
    struct Empty;

    impl Answers for Empty {
        fn answer(&self, _: &protocol::Query) -> Result<Value, String> {
            Err("nothing to tell".to_owned())
        }
    }

    /// The line that is said to whoever connects and says this.
    fn said(path: &Path, question: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        stream.write_all(question).expect("room in the socket");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        line
    }

    /// Has the server end, also when the test has failed.
    struct Stop<'a>(&'a AtomicBool, &'a Path);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
            drop(UnixStream::connect(self.1));
        }
    }

    #[test]
    fn connections_that_say_nothing_keep_out_nobody_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let stopping = AtomicBool::new(false);
        // Nobody who says nothing is given up because of the time.
        let patience = Duration::from_secs(3600);
        thread::scope(|scope| {
            scope.spawn(|| serve(&listener, Empty, &stopping, patience));
            let _stop = Stop(&stopping, &path);
            let connect = |_| UnixStream::connect(&path).expect("it listens");
            let mut silent: Vec<_> = (0..3 * CONVERSATIONS_MAX).map(connect).collect();
            for _ in 0..CONVERSATIONS_MAX / 2 {
                let answer = said(&path, b"what is this?\n");
                assert!(answer.contains("what is this?"), "{answer}");
            }
            // Those that are still listened to go with the test, the oldest have gone.
            for silent in &mut silent[..2 * CONVERSATIONS_MAX] {
                let mut told = String::new();
                silent.read_to_string(&mut told).expect("an end");
                assert!(told.contains("found 16 later connections"), "{told}");
            }
            let last = silent.last_mut().expect("one");
            last.write_all(b"and this?\n").expect("it is listened to");
            let mut told = String::new();
            last.read_to_string(&mut told).expect("an answer");
            assert!(told.contains("and this?"), "{told}");
        });
    }

    /// Answers when it may.
    #[derive(Debug)]
    struct Slow(mpsc::Receiver<()>);

    impl Answers for Slow {
        fn answer(&self, _: &protocol::Query) -> Result<Value, String> {
            let _ = self.0.recv();
            Err("nothing to tell".to_owned())
        }
    }

    #[test]
    fn whoever_comes_while_all_wait_for_their_answers_is_told_so_and_they_are_answered() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let stopping = AtomicBool::new(false);
        let patience = Duration::from_secs(3600);
        let (go_on, may_answer) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| serve(&listener, Slow(may_answer), &stopping, patience));
            let _stop = Stop(&stopping, &path);
            // Goes before that, so that nobody waits when the test has failed.
            let go_on = go_on;
            let ask = |_| {
                let mut stream = UnixStream::connect(&path).expect("it listens");
                // Whoever has no room for it may have closed.
                let _ = stream.write_all(protocol::Query::Status.line().as_bytes());
                stream
            };
            let mut asked: Vec<_> = (0..CONVERSATIONS_MAX).map(ask).collect();
            // Until a question is read whoever asked may be given up for another.
            let busy = loop {
                let mut last = ask(0);
                last.set_nonblocking(true).expect("it can be");
                let mut told = Vec::new();
                let end = loop {
                    match last.read_to_end(&mut told) {
                        Ok(_) => break true,
                        // Its question was not read: that is so after the last word, too.
                        Err(e) if e.kind() == ErrorKind::ConnectionReset => break true,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {
                            // It waits for its answer, or nothing has been said to it yet.
                            if asked.iter().any(|other| !is_open(other)) {
                                break false;
                            }
                            thread::yield_now();
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                if end {
                    break String::from_utf8(told).expect("text");
                }
                asked.retain(is_open);
                last.set_nonblocking(false).expect("it can be");
                asked.push(last);
            };
            assert!(busy.contains("found 16 others that have asked"), "{busy}");
            assert_eq!(asked.len(), CONVERSATIONS_MAX);
            asked.iter().for_each(|_| go_on.send(()).expect("it listens"));
            for mut asked in asked {
                let mut told = String::new();
                asked.read_to_string(&mut told).expect("an answer");
                assert!(told.contains("nothing to tell"), "{told}");
            }
        });
    }

    /// Whether nothing has been said on it, and it is not closed.
    fn is_open(stream: &UnixStream) -> bool {
        stream.set_nonblocking(true).expect("it can be");
        let mut byte = [0];
        let read = (&mut &*stream).read(&mut byte);
        stream.set_nonblocking(false).expect("it can be");
        matches!(read, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }
}
