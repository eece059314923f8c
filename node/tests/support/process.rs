//! Child processes: read line by line with a deadline, and gone when their handle is.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that is only slow when the host is: a test that waits as long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How often an exit is looked for; the standard library has no wait with a deadline.
const EXIT_POLL: Duration = Duration::from_millis(2);

/// A child process; dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Lines that were read before the one that was waited for.
    told: Vec<String>,
    complained: Vec<String>,
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}: {}{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Asserts a non-zero exit with one line on standard error and nothing on standard output, and
    /// returns that line.
    pub(crate) fn refused(self) -> String {
        let Self { status, stdout, stderr } = self;
        assert!(status.code().is_some_and(|code| code != 0), "{status}: {stdout}{stderr}");
        assert_eq!(stdout, "", "nothing is printed as a result");
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        stderr.trim_end().to_owned()
    }
}

impl Process {
    /// Starts `pagewire` with `arguments`.
    pub(crate) fn pagewire<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::start(&mut Self::command(arguments))
    }

    /// `pagewire` with `arguments`, in another environment.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pagewire"));
        command.args(arguments);
        command
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let stdout = lines(child.stdout.take().expect("piped"));
        let stderr = lines(child.stderr.take().expect("piped"));
        Self { child, stdin, stdout, stderr, told: Vec::new(), complained: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line to its standard input; it may be gone.
    pub(crate) fn say(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        }
    }

    /// Closes its standard input.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Passes over what it has told on standard output up to now.
    pub(crate) fn skip_told(&mut self) {
        self.told.extend(self.stdout.try_iter());
    }

    /// The first line of standard output, from now on, that `wanted` takes.
    pub(crate) fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match until(&self.stdout, &mut self.told, &wanted) {
            Some(line) => line,
            None => panic!("no {what}; {}", self.history()),
        }
    }

    /// The first line of standard error, from now on, that `wanted` takes.
    pub(crate) fn complaint(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match until(&self.stderr, &mut self.complained, &wanted) {
            Some(line) => line,
            None => panic!("no {what}; {}", self.history()),
        }
    }

    /// All that it has told so far.
    pub(crate) fn history(&mut self) -> String {
        self.told.extend(self.stdout.try_iter());
        self.complained.extend(self.stderr.try_iter());
        format!("told {:#?}, complained {:#?}", self.told, self.complained)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() < deadline => thread::park_timeout(EXIT_POLL),
                None => panic!("still running; {}", self.history()),
            }
        };
        // Both end with the process, or with a child of it that was left behind.
        while until(&self.stdout, &mut self.told, &|_| false).is_some() {}
        while until(&self.stderr, &mut self.complained, &|_| false).is_some() {}
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect();
        Ended { status, stdout: text(&self.told), stderr: text(&self.complained) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends the lines of `source` to a channel, which closes with it.
fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Reads lines until `wanted` takes one; `None` at the end, or when it takes too long.
fn until(
    lines: &Receiver<String>,
    seen: &mut Vec<String>,
    wanted: &impl Fn(&str) -> bool,
) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left).ok()?;
        seen.push(line.clone());
        if wanted(&line) {
            return Some(line);
        }
    }
}

/// Says something to whoever runs the tests; `println` of a test that passes is not shown.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Waits for `condition` with [`PATIENCE`].
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::park_timeout(EXIT_POLL);
    }
}
