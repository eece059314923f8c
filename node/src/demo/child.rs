//! The demo's child processes: started, told, listened to, and never left behind.
//!
//! Threads: one reader per child feeds one channel, another passes on what it writes to standard
//! error; the coordinator's thread does all the rest.
//!
//! Invariants: every wait has a deadline and notices the death of any child; a child is killed and
//! reaped when its handle is dropped, on every path.

use super::cleanup::{Cleanup, SharedChild, lock};
use crate::agent::lines::{Command as Order, Event};
use pagewire_protocol::InstanceId;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    process::{ChildStderr, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a child that closed its output may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// After a complaint: how long to listen for the death of another instance that explains it.
const SETTLE: Duration = Duration::from_millis(300);
/// A working agent tells its progress far more often: one that is silent for so long has stopped.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the last lines of a child that has ended may take to be passed on.
const COMPLAINTS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an exit is looked for: the standard library has no wait with a deadline.
const EXIT_POLL: Duration = Duration::from_millis(2);
/// After this event an agent exits.
const LAST_EVENT: &str = "report";
/// A line of output that is told in an error is cut to so many characters.
const TOLD_CHARS: usize = 120;

/// What went wrong with a child.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// It cannot be started.
    #[error("cannot start {what}: {source}; check that the program may run and the process limit")]
    Start {
        /// Which child.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended early.
    #[error(
        "instance {instance} ended early ({status}), expected '{expected}' from it; {}",
        look(*has_lines)
    )]
    Died {
        /// The instance.
        instance: InstanceId,
        /// How it ended.
        status: String,
        /// What it should have told.
        expected: &'static str,
        /// It wrote lines to standard error.
        has_lines: bool,
    },
    /// It reported an error.
    #[error("instance {instance} failed: {message}")]
    Failed {
        /// The instance.
        instance: InstanceId,
        /// What it said.
        message: String,
    },
    /// It told something else.
    #[error(
        "instance {instance} told '{found}', expected '{expected}'; \
         check that nothing else writes to its standard output"
    )]
    Unexpected {
        /// The instance.
        instance: InstanceId,
        /// What it told.
        found: String,
        /// What is due.
        expected: &'static str,
    },
    /// It did not answer.
    #[error(
        "instance {instance} did not tell '{expected}' within {timeout_s} s; \
         look for an overloaded or paused host"
    )]
    Timeout {
        /// The instance.
        instance: InstanceId,
        /// What is due.
        expected: &'static str,
        /// How long it had.
        timeout_s: u64,
    },
    /// It did not exit well at the end.
    #[error(
        "instance {instance} finished its work but ended with {status}, expected exit status 0"
    )]
    Exit {
        /// The instance.
        instance: InstanceId,
        /// How it ended.
        status: String,
    },
    /// A helper process did not answer.
    #[error("{what} did not finish within {timeout_s} s; look for an overloaded or paused host")]
    HelperTimeout {
        /// Which process.
        what: &'static str,
        /// How long it had.
        timeout_s: u64,
    },
}

/// Where to look for the reason of an early end.
fn look(has_lines: bool) -> &'static str {
    if has_lines {
        "see its last lines above"
    } else {
        "it left no word: look for who ended it (kernel log, out of memory)"
    }
}

/// What a child writes to standard error, passed on line by line by a thread of its own.
#[derive(Debug)]
struct Complaints {
    any: Arc<AtomicBool>,
    /// Closed when all is passed on.
    end: Receiver<()>,
}

impl Complaints {
    fn pass_on(source: Option<ChildStderr>) -> Self {
        let any = Arc::<AtomicBool>::default();
        let (at_end, end) = mpsc::channel();
        let noted = Arc::clone(&any);
        thread::spawn(move || {
            let _at_end: Sender<()> = at_end;
            let Some(mut source) = source.map(BufReader::new) else { return };
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                noted.store(true, Ordering::Relaxed);
                // Nobody may be there to read it.
                let _ = io::stderr().write_all(&line);
                line.clear();
            }
        });
        Self { any, end }
    }

    /// True when there were lines. Of a child that has ended, all are passed on then.
    fn any_at_end(&self) -> bool {
        // Only what the child has started could keep it open for longer.
        let _ = self.end.recv_timeout(COMPLAINTS_TIMEOUT);
        self.any.load(Ordering::Relaxed)
    }
}

/// A process that does not outlive its handle.
#[derive(Debug)]
struct Guarded {
    child: SharedChild,
    cleanup: Cleanup,
}

impl Guarded {
    fn start(command: &mut Command, what: &str, cleanup: &Cleanup) -> Result<Self, ChildError> {
        // A group of its own: what a terminal sends (Ctrl-C) goes to the coordinator alone.
        let child = cleanup.spawn(command.process_group(0));
        let child = child.map_err(|source| ChildError::Start { what: what.to_owned(), source })?;
        Ok(Self { child, cleanup: cleanup.clone() })
    }

    /// Its exit status, if it exits before `deadline`.
    fn wait(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            let tried = lock(&self.child).try_wait();
            match tried {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::park_timeout(EXIT_POLL),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Guarded {
    /// Ends it, if it has not ended yet.
    fn end(&self) {
        let mut child = lock(&self.child);
        // Both fail only for a child that is reaped already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
        self.cleanup.forget_child(&self.child);
    }
}

enum Incoming {
    Event(Event),
    Garbage(String),
    Closed,
}

#[derive(Debug)]
struct Member {
    process: Guarded,
    input: Option<ChildStdin>,
    complaints: Complaints,
}

impl Member {
    /// One that cannot be told is dead: the wait that follows says so.
    fn tell(&mut self, order: &Order) {
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{order}").and_then(|()| input.flush());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.process.end();
        // They come before what the coordinator says.
        self.complaints.any_at_end();
    }
}

/// The agents of all instances.
pub struct Fleet {
    members: BTreeMap<InstanceId, Member>,
    sender: Sender<(InstanceId, Incoming)>,
    receiver: Receiver<(InstanceId, Incoming)>,
    timeout: Duration,
    cleanup: Cleanup,
    /// What came while something else was waited for, of the kinds that may come at any time.
    early: Vec<(InstanceId, Event)>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Fleet {
    /// No agents yet; every wait ends after `timeout`. All that start are entered in `cleanup`.
    #[must_use]
    pub fn new(timeout: Duration, cleanup: &Cleanup) -> Self {
        let (sender, receiver) = mpsc::channel();
        let cleanup = cleanup.clone();
        Self { members: BTreeMap::new(), sender, receiver, timeout, cleanup, early: Vec::new() }
    }

    /// Starts `command` as the agent of `instance`.
    ///
    /// # Errors
    /// [`ChildError::Start`].
    pub fn start(&mut self, instance: InstanceId, command: &mut Command) -> Result<(), ChildError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = Guarded::start(command, &format!("instance {instance}"), &self.cleanup)?;
        let (input, output, errors) = {
            let mut child = lock(&process.child);
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        };
        let complaints = Complaints::pass_on(errors);
        self.members.insert(instance, Member { process, input, complaints });
        let sender = self.sender.clone();
        thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                let Ok(line) = line else { break };
                let incoming = match serde_json::from_str(&line) {
                    Ok(event) => Incoming::Event(event),
                    Err(_) => Incoming::Garbage(line.chars().take(TOLD_CHARS).collect()),
                };
                if sender.send((instance, incoming)).is_err() {
                    return;
                }
            }
            let _ = sender.send((instance, Incoming::Closed));
        });
        Ok(())
    }

    /// Sends `order` to every agent. One that cannot be told is dead: the wait that follows says so.
    pub fn tell(&mut self, order: &Order) {
        self.members.values_mut().for_each(|member| member.tell(order));
    }

    /// Sends `order` to one agent.
    pub fn tell_one(&mut self, instance: InstanceId, order: &Order) {
        self.members.get_mut(&instance).into_iter().for_each(|member| member.tell(order));
    }

    /// The instances whose agents there are.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceId> {
        self.members.keys().copied().collect()
    }

    /// Waits until every agent has told the event that is called `expected`.
    ///
    /// # Errors
    /// [`ChildError`] of the agent that died, failed, told something else or said nothing.
    pub fn wait_all(
        &mut self,
        expected: &'static str,
    ) -> Result<BTreeMap<InstanceId, Event>, ChildError> {
        self.wait_of(&self.instances(), expected, |_, _| {})
    }

    /// Waits until each of `those` has told the event that is called `expected`, while the others
    /// work; `show` gets every progress event.
    ///
    /// # Errors
    /// As [`Fleet::wait_all`].
    pub fn wait_of(
        &mut self,
        those: &[InstanceId],
        expected: &'static str,
        mut show: impl FnMut(InstanceId, &Event),
    ) -> Result<BTreeMap<InstanceId, Event>, ChildError> {
        let deadline = Instant::now() + self.timeout;
        let mut told = BTreeMap::new();
        let is_due =
            |id: &InstanceId, event: &Event| event.name() == expected && those.contains(id);
        for (id, event) in self.early.extract_if(.., |(id, event)| is_due(id, event)) {
            told.entry(id).or_insert(event);
        }
        while let Some(missing) = those.iter().find(|id| !told.contains_key(*id)) {
            let timeout = ChildError::Timeout {
                instance: *missing,
                expected,
                timeout_s: self.timeout.as_secs(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((instance, incoming)) = self.receiver.recv_timeout(left) else {
                return Err(timeout);
            };
            match incoming {
                Incoming::Event(event @ Event::Progress { .. }) => {
                    show(instance, &event);
                    if is_due(&instance, &event) {
                        told.entry(instance).or_insert(event);
                    }
                }
                // Whoever has told its last event may go while the others still speak.
                Incoming::Closed if expected == LAST_EVENT && told.contains_key(&instance) => {}
                Incoming::Event(event)
                    if is_due(&instance, &event) && !told.contains_key(&instance) =>
                {
                    told.insert(instance, event);
                }
                Incoming::Event(
                    event @ (Event::Met | Event::View { .. } | Event::Settled { .. }),
                ) => {
                    self.early.push((instance, event));
                }
                // Of one that has left, whose output ends with it.
                Incoming::Closed if !self.members.contains_key(&instance) => {}
                other => return Err(self.failure(instance, other, expected)),
            }
        }
        Ok(told)
    }

    /// Lets the agents work for `duration`; `show` gets every progress event.
    ///
    /// # Errors
    /// As [`Fleet::wait_all`]; an agent may be silent for [`SILENCE`].
    pub fn watch(
        &mut self,
        duration: Duration,
        mut show: impl FnMut(InstanceId, &Event),
    ) -> Result<(), ChildError> {
        let start = Instant::now();
        let end = start + duration;
        let mut heard: BTreeMap<_, _> = self.members.keys().map(|id| (*id, start)).collect();
        loop {
            let now = Instant::now();
            let quietest = heard.iter().min_by_key(|(_, at)| **at);
            let patience = quietest.map_or(end, |(_, at)| *at + SILENCE).min(end);
            match self.receiver.recv_timeout(patience.saturating_duration_since(now)) {
                Ok((instance, Incoming::Event(event @ Event::Progress { .. }))) => {
                    heard.insert(instance, Instant::now());
                    show(instance, &event);
                }
                // Of a view that was not waited for any more.
                Ok((_, Incoming::Event(Event::View { .. } | Event::Settled { .. }))) => {}
                // Of one that has left, whose output ends with it.
                Ok((instance, Incoming::Closed)) if !self.members.contains_key(&instance) => {}
                Ok((instance, other)) => return Err(self.failure(instance, other, "progress")),
                Err(_) if Instant::now() >= end => return Ok(()),
                Err(_) => {
                    let instance = quietest.map_or(InstanceId(0), |(id, _)| *id);
                    let timeout_s = SILENCE.as_secs();
                    return Err(ChildError::Timeout { instance, expected: "progress", timeout_s });
                }
            }
        }
    }

    /// Waits for the exit of one agent, which is none of the fleet any more.
    ///
    /// # Errors
    /// [`ChildError::Exit`] when it does not exit, or not with status 0.
    pub fn retire(&mut self, instance: InstanceId) -> Result<(), ChildError> {
        let deadline = Instant::now() + self.timeout;
        let Some(mut member) = self.members.remove(&instance) else { return Ok(()) };
        member.input = None;
        let status = member.process.wait(deadline);
        self.early.retain(|(id, _)| *id != instance);
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        Err(ChildError::Exit { instance, status: tell(status) })
    }

    /// Waits for the exit of every agent.
    ///
    /// # Errors
    /// [`ChildError::Exit`] for one that does not exit, or not with status 0.
    pub fn finish(mut self) -> Result<(), ChildError> {
        let deadline = Instant::now() + self.timeout;
        for (instance, member) in &mut self.members {
            member.input = None;
            let status = member.process.wait(deadline);
            if !status.is_some_and(|status| status.success()) {
                return Err(ChildError::Exit { instance: *instance, status: tell(status) });
            }
        }
        Ok(())
    }

    /// The error for what `instance` told, or for the death of another that explains it.
    fn failure(
        &mut self,
        instance: InstanceId,
        incoming: Incoming,
        expected: &'static str,
    ) -> ChildError {
        let first = match incoming {
            Incoming::Closed => return self.death(instance, expected),
            Incoming::Event(Event::Error { message }) => ChildError::Failed { instance, message },
            Incoming::Event(event) => {
                let found = event.name().to_owned();
                return ChildError::Unexpected { instance, found, expected };
            }
            Incoming::Garbage(found) => {
                return ChildError::Unexpected { instance, found, expected };
            }
        };
        // An instance that complains may only be the first to notice that another has died.
        let mut complained = BTreeSet::from([instance]);
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok((other, Incoming::Event(Event::Error { .. }))) => {
                    complained.insert(other);
                }
                Ok((other, Incoming::Closed)) if !complained.contains(&other) => {
                    return self.death(other, expected);
                }
                Ok(_) => {}
                Err(_) => return first,
            }
        }
    }

    fn death(&mut self, instance: InstanceId, expected: &'static str) -> ChildError {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let member = self.members.get_mut(&instance);
        let (status, has_lines) = member.map_or((None, false), |member| {
            (member.process.wait(deadline), member.complaints.any_at_end())
        });
        ChildError::Died { instance, status: tell(status), expected, has_lines }
    }
}

fn tell(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "its output closed".to_owned(), |status| status.to_string())
}

/// Runs `command` to its end and returns its status and standard output.
///
/// # Errors
/// [`ChildError::Start`], or [`ChildError::HelperTimeout`] after `timeout`; it is killed then.
pub fn run_helper(
    command: &mut Command,
    what: &'static str,
    timeout: Duration,
    cleanup: &Cleanup,
) -> Result<(ExitStatus, String), ChildError> {
    let deadline = Instant::now() + timeout;
    let late = || ChildError::HelperTimeout { what, timeout_s: timeout.as_secs() };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = Guarded::start(command, what, cleanup)?;
    let (sender, receiver) = mpsc::channel();
    let output = lock(&process.child).stdout.take();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut output) = output {
            let _ = output.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    let text = receiver.recv_timeout(timeout).map_err(|_| late())?;
    let status = process.wait(deadline).ok_or_else(late)?;
    Ok((status, text))
}

#[cfg(test)]
mod tests;
