//! What can go wrong in a benchmark; each is one line and ends it.

use pagewire_node::{NodeError, grd::AcquireError};
use pagewire_transport::{TransportError, error::LinkError};
use std::{io, time::Duration};

/// What can go wrong in a benchmark.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BenchError {
    /// An endpoint or its arena cannot be had.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An instance cannot be had.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A ring cannot be had.
    #[error(transparent)]
    Ring(#[from] pagewire_si::RingError),
    /// A reader that keeps up was told to reset.
    #[error("a reader was told to reset after {read} of {written} messages, expected all of them")]
    Reset {
        /// Messages that it had read.
        read: u64,
        /// Messages that were written.
        written: u64,
    },
    /// A page was not granted.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The temporary storage failed.
    #[error("the benchmark's temporary storage failed: {0}")]
    Storage(io::Error),
    /// A bare socket failed.
    #[error("a socket of the bare loop failed: {0}")]
    Socket(#[from] io::Error),
    /// The link between the two endpoints went down.
    #[error("the link under measurement went down: {0}")]
    LinkDown(LinkError),
    /// Too few cores for two ends that both spin.
    #[error(
        "found {found} core(s) that this process may use, expected 2: two ends that spin on one \
         core measure the scheduler; allow more with taskset or the container's cpuset"
    )]
    Cores {
        /// Cores that may be used.
        found: usize,
    },
    /// The system does not let a thread stay on a core.
    #[error("core {core} refuses a thread: run where threads may be pinned (sched_setaffinity)")]
    Pin {
        /// The core.
        core: usize,
    },
    /// Nothing happened for too long.
    #[error("waited {limit:?} for {what} in vain")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The other end stopped; its own error says more.
    #[error("the other end stopped while this one waited for {what}")]
    OtherEnd {
        /// What was waited for.
        what: &'static str,
    },
    /// Bytes arrived that were not sent.
    #[error("{what} of message {number} holds {found}, expected {expected}")]
    Content {
        /// Where.
        what: &'static str,
        /// Number of the round trip.
        number: u64,
        /// What was there.
        found: u64,
        /// What was sent.
        expected: u64,
    },
    /// A message that the endpoint does not take for another reason than back-pressure.
    #[error("the endpoint does not take a message: {0}")]
    Send(&'static str),
    /// Messages did not go over verbs all the time.
    #[error(
        "the messages are on {on}, moved to verbs {moves} time(s) and fell to TCP {falls} time(s), \
         {sends} of {expected} over verbs; expected all of them there: the figures are of another link"
    )]
    NotVerbs {
        /// What they are on at the end.
        on: String,
        /// Times they moved there.
        moves: u64,
        /// Times they fell back.
        falls: u64,
        /// Send requests.
        sends: u64,
        /// Messages that were sent.
        expected: u64,
    },
    /// The arena is smaller than the benchmark's own sum.
    #[error("the arena has no free frame left: its size was computed wrongly")]
    NoFrame,
    /// The two hosts do not understand each other.
    #[error("{0}")]
    Control(String),
    /// The other host reports what went wrong there.
    #[error("the other host reports: {0}")]
    Remote(String),
    /// The program to compare with is missing, or did not do what it should.
    #[error("{0}")]
    Tool(String),
    /// What came out cannot be printed.
    #[error("cannot write to standard output: {0}; check where it goes")]
    Output(io::Error),
    /// A thread panicked.
    #[error("the thread of the {0} panicked")]
    Panicked(&'static str),
}

impl BenchError {
    /// True when this only says that the other end has gone: the other end's error says why.
    pub(crate) fn is_consequence(&self) -> bool {
        match self {
            Self::OtherEnd { .. } | Self::LinkDown(LinkError::Closed) => true,
            Self::Socket(error) | Self::LinkDown(LinkError::Io(error)) => matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ),
            _ => false,
        }
    }
}
