//! The agent: runs the ledger's workers on one instance, on the word of a coordinator.
//!
//! Purpose: the child side of [`lines`]; what the instance is made of comes through [`Instance`].
//!
//! Threads: the caller's thread drives; one thread reads commands; each worker has its own. All of
//! them report to the driving thread through one channel, so that a failed worker, a command and the
//! end of input (the coordinator died) are each noticed while waiting for any other.
//!
//! Invariants: whatever goes wrong, an `error` event is tried and the caller gets the error; nothing
//! waits without a deadline but for commands, and those end with the coordinator.

pub mod lines;

use crate::{
    latency::GrantLatencies,
    ledger::{
        log::{LogError, LogHeader},
        manifest::{Manifest, ManifestError},
        workload::{Ledger, Pages, WorkerError},
    },
    random::Random,
};
use lines::{Command, CommandError, Event, LinkCounts, Report};
use pagewire_protocol::{Incarnation, InstanceId};
use std::{
    io::{BufRead, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// How long the sessions to all peers may take.
const READY_TIMEOUT: Duration = Duration::from_secs(50);
/// How long workers may take to end once they are told to: longer than a grant's deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(50);
/// How long an instance may take to give up everything.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(50);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How often the directory is looked at, while it is not complete.
const SETTLED_CHECK: Duration = Duration::from_millis(5);

/// Grant latencies of the worker that holds the pages.
pub trait GrantTimes {
    /// What this worker's guards took so far.
    fn latencies(&self) -> GrantLatencies;
}

/// A running instance, as the agent needs it.
pub trait Instance {
    /// The pages as one worker thread sees them.
    type Worker: Pages + GrantTimes + Send + 'static;

    /// Which instance it is, and which life of it.
    fn identity(&self) -> (InstanceId, Incarnation);

    /// Where its peers reach it.
    fn listen_address(&self) -> SocketAddr;

    /// Tells it where every member listens, itself included.
    ///
    /// # Errors
    /// When the list does not fit the configured members.
    fn set_peers(&mut self, peers: &[(InstanceId, SocketAddr)]) -> Result<(), String>;

    /// Tells it where instances listen that may become members.
    ///
    /// # Errors
    /// When one cannot be a peer.
    fn meet(&self, peers: &[(InstanceId, SocketAddr)]) -> Result<(), String>;

    /// Returns once there are sessions to all peers.
    ///
    /// # Errors
    /// After `timeout`, naming the peers that are missing.
    fn wait_ready(&mut self, timeout: Duration) -> Result<(), String>;

    /// Puts a view in force, given as its own bytes; whoever is new in it was met before. Returns its
    /// number.
    ///
    /// # Errors
    /// When it is none, or names a member that cannot be a peer.
    fn install_view(&self, view: &[u8]) -> Result<u64, String>;

    /// True when the part of the directory that this instance keeps is complete.
    ///
    /// # Errors
    /// When the instance does not say.
    fn is_settled(&self) -> Result<bool, String>;

    /// Gives up everything: afterwards nobody misses this instance.
    ///
    /// # Errors
    /// After `timeout`.
    fn leave(&self, timeout: Duration) -> Result<(), String>;

    /// The longest wait for a page, of those that ended since this was asked last.
    fn take_longest_wait(&self) -> Duration;

    /// Pages for one more worker.
    ///
    /// # Errors
    /// When the instance has no room for another.
    fn worker(&self) -> Result<Self::Worker, String>;

    /// Writes back every dirty page that this instance must write.
    ///
    /// # Errors
    /// When a page cannot be written.
    fn flush(&self) -> Result<(), String>;

    /// Pages and bytes shipped to other instances so far.
    fn counters(&self) -> (u64, u64);

    /// What its links are on.
    fn links(&self) -> LinkCounts;

    /// Ends the instance within a bounded time. Its peers may be gone already, and where the agent
    /// failed, workers may still hold guards.
    ///
    /// # Errors
    /// When it cannot end in order.
    fn stop(self) -> Result<(), String>;
}

/// What the agent runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Manifest of the prepared relation.
    pub manifest: PathBuf,
    /// Where the instance's transfer log goes; must not exist.
    pub log: PathBuf,
    /// Workers.
    pub threads: u32,
    /// Seed of the workers' choices; every instance and thread has a stream of its own.
    pub seed: u64,
}

/// Why the agent ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The coordinator sent something else.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The coordinator sent a command out of order.
    #[error("the coordinator sent '{found}', expected '{expected}'; both must be of one build")]
    Order {
        /// What it sent.
        found: String,
        /// What is due.
        expected: &'static str,
    },
    /// The input ended.
    #[error("the input ended where '{expected}' was expected: the coordinator is gone, stopping")]
    CoordinatorGone {
        /// What is due.
        expected: &'static str,
    },
    /// The output cannot be written.
    #[error("cannot tell the coordinator '{event}': {source}; it is gone, stopping")]
    Output {
        /// The event.
        event: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The instance failed.
    #[error("instance {instance} cannot {doing}: {reason}")]
    Instance {
        /// The instance.
        instance: InstanceId,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        reason: String,
    },
    /// A worker failed.
    #[error("worker {worker} of instance {instance} ended early: {source}")]
    Worker {
        /// The instance.
        instance: InstanceId,
        /// The worker.
        worker: u32,
        /// Why.
        source: WorkerError,
    },
    /// A worker's thread cannot start, or panicked.
    #[error("worker {worker} of instance {instance} {reason}")]
    Thread {
        /// The instance.
        instance: InstanceId,
        /// The worker.
        worker: u32,
        /// What happened.
        reason: String,
    },
    /// Workers did not end.
    #[error(
        "{missing} workers of instance {instance} did not end within {timeout_s} s of 'stop'; \
         look for a peer that does not answer"
    )]
    StopTimeout {
        /// The instance.
        instance: InstanceId,
        /// Workers still at work.
        missing: usize,
        /// How long they had.
        timeout_s: u64,
    },
}

impl AgentError {
    /// True when the coordinator was told and tells it to the user: nobody else need.
    #[must_use]
    pub fn is_told(&self) -> bool {
        !matches!(self, Self::CoordinatorGone { .. } | Self::Output { .. })
    }
}

/// Boxed: four histograms' headers would make every input large.
type WorkerResult = Result<Box<GrantLatencies>, WorkerError>;

enum Input {
    Line(String),
    WorkerEnded { worker: u32, result: WorkerResult },
    WorkerPanicked { worker: u32 },
    End,
}

/// Drives `instance` by the commands of `input` until `quit`, telling events to `output`.
///
/// # Errors
/// [`AgentError`] of what went wrong first; it was told to the coordinator as an `error` event, if
/// that still listens.
pub fn run<I: Instance>(
    instance: I,
    options: &Options,
    input: impl BufRead + Send + 'static,
    output: impl Write,
) -> Result<(), AgentError> {
    let (sender, receiver) = mpsc::channel();
    let lines = sender.clone();
    // Detached: it ends with the input, at the latest with the process.
    thread::spawn(move || {
        for line in input.lines() {
            let Ok(line) = line else { break };
            if lines.send(Input::Line(line)).is_err() {
                return;
            }
        }
        let _ = lines.send(Input::End);
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (id, incarnation) = instance.identity();
    let mut agent = Agent {
        instance,
        id,
        incarnation,
        output,
        receiver,
        sender,
        stop: Arc::clone(&stop),
        unsettled: None,
    };
    let result = agent.drive(options);
    // Workers that are still there see the flag at their next action; the process need not wait.
    stop.store(true, Ordering::Relaxed);
    if let Err(error) = &result {
        let _ = agent.tell(&Event::Error { message: error.to_string() });
    }
    let stopped = agent.instance.stop();
    result?;
    stopped.map_err(|reason| AgentError::Instance { instance: id, doing: "stop", reason })
}

/// Tells the coordinator that there is no instance to run.
///
/// # Errors
/// [`AgentError::Output`] when it does not listen.
pub fn refuse(message: String, output: impl Write) -> Result<(), AgentError> {
    tell(&Event::Error { message }, output)
}

fn tell(event: &Event, mut output: impl Write) -> Result<(), AgentError> {
    let mut line = serde_json::to_string(event).unwrap_or_default();
    line.push('\n');
    let sent = output.write_all(line.as_bytes()).and_then(|()| output.flush());
    sent.map_err(|source| AgentError::Output { event: event.name(), source })
}

struct Agent<I, W> {
    instance: I,
    id: InstanceId,
    incarnation: Incarnation,
    output: W,
    receiver: Receiver<Input>,
    sender: Sender<Input>,
    stop: Arc<AtomicBool>,
    /// The view since which the directory was not found complete.
    unsettled: Option<u64>,
}

impl<I: Instance, W: Write> Agent<I, W> {
    fn drive(&mut self, options: &Options) -> Result<(), AgentError> {
        let manifest = Manifest::load(&options.manifest)?;
        let header = LogHeader { instance: self.id, incarnation: self.incarnation };
        let ledger = Arc::new(Ledger::create(manifest, &options.log, header, false)?);
        self.tell(&Event::Listening { address: self.instance.listen_address() })?;

        let peers = match self.command("peers")? {
            Command::Peers(peers) => peers,
            other => return Err(out_of_order(&other, "peers")),
        };
        self.instance.set_peers(&peers).map_err(self.failed("take its peers"))?;
        self.instance.wait_ready(READY_TIMEOUT).map_err(self.failed("reach its peers"))?;
        self.tell(&Event::Ready)?;

        self.expect(&Command::Start, "start")?;
        let latencies = self.work(options, &ledger)?;
        ledger.finish_log()?;
        self.tell(&Event::Stopped)?;

        let links = match self.command("flush")? {
            Command::Flush => {
                self.instance.flush().map_err(self.failed("write back its dirty pages"))?;
                // Once all have told that they are done, the first of them goes, and its links with
                // it.
                let links = self.instance.links();
                self.tell(&Event::Flushed)?;
                links
            }
            Command::Leave => {
                self.instance.leave(LEAVE_TIMEOUT).map_err(self.failed("leave"))?;
                self.tell(&Event::Left)?;
                // Its links are gone at the end, and told by nobody.
                LinkCounts::default()
            }
            other => return Err(out_of_order(&other, "flush")),
        };

        self.expect(&Command::Quit, "quit")?;
        let report = self.report(&ledger, &latencies, links);
        self.tell(&Event::Report(Box::new(report)))
    }

    /// Runs the workers until `stop` comes; returns their latencies.
    fn work(
        &mut self,
        options: &Options,
        ledger: &Arc<Ledger>,
    ) -> Result<GrantLatencies, AgentError> {
        for worker in 0..options.threads {
            let pages = self.instance.worker().map_err(self.failed("start a worker"))?;
            self.start(worker, pages, ledger, options)?;
        }
        let mut next_progress = Instant::now() + PROGRESS_EVERY;
        loop {
            let left = next_progress.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left.min(self.patience())) {
                Ok(input) => match self.attend(input, "stop")? {
                    Some(Command::Stop) => break,
                    Some(other) => return Err(out_of_order(&other, "stop")),
                    None => {}
                },
                Err(_) => self.look_at_directory()?,
            }
            if Instant::now() >= next_progress {
                self.tell_progress(ledger)?;
                next_progress = Instant::now() + PROGRESS_EVERY;
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        self.collect(options.threads)
    }

    fn start(
        &self,
        worker: u32,
        pages: I::Worker,
        ledger: &Arc<Ledger>,
        options: &Options,
    ) -> Result<(), AgentError> {
        let stream = u64::from(self.id.0) << 32 | u64::from(worker);
        let mut random = Random::stream(options.seed, stream);
        let (ledger, stop) = (Arc::clone(ledger), Arc::clone(&self.stop));
        let mut ended = Ended { worker, sender: self.sender.clone(), result: None };
        let spawned = thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
            let result = ledger.work(&pages, &mut random, &stop);
            ended.with(result.map(|()| Box::new(pages.latencies())));
        });
        let reason = |error| format!("cannot start: {error}; lower --threads");
        spawned.map(drop).map_err(|error| AgentError::Thread {
            instance: self.id,
            worker,
            reason: reason(error),
        })
    }

    /// Waits for the end of all workers.
    fn collect(&mut self, threads: u32) -> Result<GrantLatencies, AgentError> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut latencies = GrantLatencies::default();
        let mut missing = usize::try_from(threads).unwrap_or(usize::MAX);
        while missing > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = |_: RecvTimeoutError| AgentError::StopTimeout {
                instance: self.id,
                missing,
                timeout_s: STOP_TIMEOUT.as_secs(),
            };
            match self.receiver.recv_timeout(left).map_err(timeout)? {
                Input::WorkerEnded { result: Ok(part), .. } => {
                    latencies.add(&part);
                    missing -= 1;
                }
                other => {
                    if let Some(command) = self.attend(other, "flush")? {
                        return Err(out_of_order(&command, "flush"));
                    }
                }
            }
        }
        Ok(latencies)
    }

    fn tell_progress(&mut self, ledger: &Ledger) -> Result<(), AgentError> {
        let counts = ledger.counts();
        self.tell(&Event::Progress {
            transfers: counts.transfers.load(Ordering::Relaxed),
            audits: counts.audits.load(Ordering::Relaxed),
            pages_shipped: self.instance.counters().0,
            longest_us: u64::try_from(self.instance.take_longest_wait().as_micros())
                .unwrap_or(u64::MAX),
        })
    }

    /// How long to wait before the directory is looked at.
    fn patience(&self) -> Duration {
        if self.unsettled.is_some() { SETTLED_CHECK } else { Duration::MAX }
    }

    /// Tells when the directory is complete, once for each time that it was not.
    fn look_at_directory(&mut self) -> Result<(), AgentError> {
        let Some(epoch) = self.unsettled else { return Ok(()) };
        if self.instance.is_settled().map_err(self.failed("say what it keeps"))? {
            self.unsettled = None;
            self.tell(&Event::Settled { epoch })?;
        }
        Ok(())
    }

    /// Does what may be asked at any time; the rest is the caller's.
    fn attend(
        &mut self,
        input: Input,
        expected: &'static str,
    ) -> Result<Option<Command>, AgentError> {
        match self.parse(input, expected)? {
            Command::View(file) => {
                let view = std::fs::read(&file);
                let view = view.map_err(|error| format!("{}: {error}", file.display()));
                let installed = view.and_then(|view| self.instance.install_view(&view));
                let epoch = installed.map_err(self.failed("take a view"))?;
                self.unsettled = Some(epoch);
                self.tell(&Event::View { epoch })?;
                Ok(None)
            }
            Command::Meet(peers) => {
                self.instance.meet(&peers).map_err(self.failed("take a peer"))?;
                self.tell(&Event::Met)?;
                Ok(None)
            }
            other => Ok(Some(other)),
        }
    }

    fn report(&self, ledger: &Ledger, latencies: &GrantLatencies, links: LinkCounts) -> Report {
        let counts = ledger.counts();
        let (pages_shipped, bytes_shipped) = self.instance.counters();
        Report {
            transfers: counts.transfers.load(Ordering::Relaxed),
            audits: counts.audits.load(Ordering::Relaxed),
            audit_failures: counts.audit_failures.load(Ordering::Relaxed),
            reads: counts.reads.load(Ordering::Relaxed),
            invalidations: counts.invalidations.load(Ordering::Relaxed),
            stale_uses: counts.stale_uses.load(Ordering::Relaxed),
            pages_shipped,
            bytes_shipped,
            grants: latencies.to_wire(),
            links,
        }
    }

    fn tell(&mut self, event: &Event) -> Result<(), AgentError> {
        tell(event, &mut self.output)
    }

    fn expect(&mut self, expected: &Command, name: &'static str) -> Result<(), AgentError> {
        let found = self.command(name)?;
        if found == *expected { Ok(()) } else { Err(out_of_order(&found, name)) }
    }

    fn command(&mut self, expected: &'static str) -> Result<Command, AgentError> {
        loop {
            let input = match self.receiver.recv_timeout(self.patience()) {
                Ok(input) => input,
                Err(RecvTimeoutError::Timeout) => {
                    self.look_at_directory()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => Input::End,
            };
            if let Some(command) = self.attend(input, expected)? {
                return Ok(command);
            }
        }
    }

    fn parse(&self, input: Input, expected: &'static str) -> Result<Command, AgentError> {
        let instance = self.id;
        let panicked = |worker, reason: &str| {
            Err(AgentError::Thread { instance, worker, reason: reason.to_owned() })
        };
        match input {
            Input::Line(line) => Ok(line.parse()?),
            Input::End => Err(AgentError::CoordinatorGone { expected }),
            Input::WorkerEnded { worker, result: Err(source) } => {
                Err(AgentError::Worker { instance, worker, source })
            }
            Input::WorkerEnded { worker, result: Ok(_) } => panicked(worker, "ended unasked"),
            Input::WorkerPanicked { worker } => {
                panicked(worker, "panicked; its message stands above")
            }
        }
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(String) -> AgentError + use<I, W> {
        let instance = self.id;
        move |reason| AgentError::Instance { instance, doing, reason }
    }
}

fn out_of_order(found: &Command, expected: &'static str) -> AgentError {
    AgentError::Order { found: found.to_string(), expected }
}

/// Reports the end of a worker's thread, also when it panics.
struct Ended {
    worker: u32,
    sender: Sender<Input>,
    result: Option<WorkerResult>,
}

impl Ended {
    fn with(&mut self, result: WorkerResult) {
        self.result = Some(result);
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let worker = self.worker;
        let input = match self.result.take() {
            Some(result) => Input::WorkerEnded { worker, result },
            None => Input::WorkerPanicked { worker },
        };
        let _ = self.sender.send(input);
    }
}

#[cfg(test)]
mod tests;
