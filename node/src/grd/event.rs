//! What goes into the core and what comes out of it.

use pagewire_protocol::{BufferTag, Epoch, GrantNumber, InstanceId, Lsn, Mode, Pcm, pcm::Verdict};

/// Names a local thread that waits for a page; chosen by the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// How a grant came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GrantPath {
    /// Without a message: the mode was held, or this instance is the master and nobody else has a
    /// part in it.
    Local,
    /// Two messages: the page or the right came from the master, or this instance is the master.
    TwoWay,
    /// Three messages: requester, master, another holder, requester.
    ThreeWay,
    /// The page was read from storage.
    Storage,
}

impl GrantPath {
    /// All paths.
    pub const ALL: [Self; 4] = [Self::Local, Self::TwoWay, Self::ThreeWay, Self::Storage];

    /// What reports call it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Local => "local hit",
            Self::TwoWay => "2-way",
            Self::ThreeWay => "3-way",
            Self::Storage => "storage",
        }
    }
}

/// Why a page could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The master or the holder refused.
    #[error(
        "page {tag}: refused ({verdict:?}); the members' views of the cluster differ, restart \
             the instance with the current member list"
    )]
    Refused {
        /// The page.
        tag: BufferTag,
        /// The reason.
        verdict: Verdict,
    },
    /// Storage could not give the page.
    #[error("page {tag} cannot be read from storage: {reason}")]
    Storage {
        /// The page.
        tag: BufferTag,
        /// What storage said, what was expected and what to do.
        reason: String,
    },
    /// The deadline passed.
    #[error(
        "page {tag} was not granted in {limit_ms} ms; see whether an instance has stopped or \
             holds it for long"
    )]
    Deadline {
        /// The page.
        tag: BufferTag,
        /// The limit.
        limit_ms: u64,
    },
    /// An instance that has to answer is gone.
    #[error(
        "page {tag}: instance {peer} is gone and this version cannot recover its part of the \
             directory; restart the cluster"
    )]
    PeerLost {
        /// The page.
        tag: BufferTag,
        /// The instance.
        peer: InstanceId,
    },
    /// An instance granted what it did not have or send.
    #[error(
        "page {tag}: an instance broke the page protocol; see the log of this instance, and that all \
             run one version"
    )]
    Protocol {
        /// The page.
        tag: BufferTag,
    },
    /// The node has stopped.
    #[error("page {tag}: the node has stopped")]
    Stopped {
        /// The page.
        tag: BufferTag,
    },
    /// The shard that keeps the page has panicked.
    #[error(
        "page {tag}: shard {shard} of the node has panicked: {message}; this is a defect: restart \
             the cluster and report it with the log"
    )]
    Panicked {
        /// The page.
        tag: BufferTag,
        /// The shard.
        shard: u16,
        /// What the panic said.
        message: String,
    },
}

/// What happens to the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message has come. The page of a response is kept by the runtime until [`Effect::Install`]
    /// or [`Effect::Discard`].
    Message {
        /// Who sent it.
        from: InstanceId,
        /// The epoch in its header.
        epoch: Epoch,
        /// The page it speaks of.
        tag: BufferTag,
        /// What it says.
        message: Pcm,
    },
    /// A local thread wants a page that it could not pin by itself.
    Acquire {
        /// The page.
        tag: BufferTag,
        /// S or X.
        mode: Mode,
        /// Whom to complete.
        waiter: WaiterId,
    },
    /// A local thread no longer wants to wait.
    Withdraw {
        /// The page.
        tag: BufferTag,
        /// Who.
        waiter: WaiterId,
    },
    /// What [`Effect::Lower`] asked for is so: no pin beyond `to` is out. What it says of the page
    /// holds when the core takes the event, also if a [`Effect::MarkDirty`] came in between.
    Drained {
        /// The page.
        tag: BufferTag,
        /// The mode that pins were lowered to.
        to: Mode,
        /// The page has been written since it was last on storage.
        dirty: bool,
        /// The page's version.
        version: Lsn,
    },
    /// [`Effect::Read`] is done: the version that was read, or why not.
    ReadDone {
        /// The page.
        tag: BufferTag,
        /// The version, or the reason in words for the operator.
        result: Result<Lsn, String>,
    },
    /// [`Effect::Write`] is done.
    WriteDone {
        /// The page.
        tag: BufferTag,
        /// The version that was to be written.
        version: Lsn,
        /// False: it failed, the page is still dirty.
        written: bool,
    },
    /// The runtime would like the frame back.
    Evict {
        /// The page.
        tag: BufferTag,
    },
    /// The page is to be written if it is dirty, and kept.
    WriteBack {
        /// The page.
        tag: BufferTag,
    },
}

/// What the core wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a message without a page.
    Send {
        /// To whom.
        to: InstanceId,
        /// The page it speaks of.
        tag: BufferTag,
        /// What it says.
        message: Pcm,
    },
    /// Send a request once a frame is reserved for its answer; to this instance itself as an
    /// [`Event::Message`]. The reservation ends with [`Effect::RequestOver`].
    Request {
        /// To whom.
        to: InstanceId,
        /// The page.
        tag: BufferTag,
        /// The request.
        message: Pcm,
    },
    /// The request for the page is over, in whatever way.
    RequestOver {
        /// The page.
        tag: BufferTag,
    },
    /// Send a message with the page. `keep`: the page stays; otherwise it is only kept as in
    /// transit, until [`Effect::Forget`].
    Ship {
        /// To whom.
        to: InstanceId,
        /// The page.
        tag: BufferTag,
        /// The response that carries it.
        message: Pcm,
        /// Whether this instance goes on holding it.
        keep: bool,
    },
    /// The page in transit has arrived: drop the copy.
    Forget {
        /// The page.
        tag: BufferTag,
        /// The grant under which it was shipped.
        grant: GrantNumber,
    },
    /// Read the page from storage into the reserved frame; [`Event::ReadDone`] follows.
    Read {
        /// The page.
        tag: BufferTag,
        /// Least version that storage must return.
        at_least: Lsn,
    },
    /// Write the page as it is now; nobody changes it before [`Event::WriteDone`].
    Write {
        /// The page.
        tag: BufferTag,
        /// Its version.
        version: Lsn,
    },
    /// Let local threads pin at most in mode `to`; [`Event::Drained`] when no pin exceeds it.
    Lower {
        /// The page.
        tag: BufferTag,
        /// S or N.
        to: Mode,
    },
    /// The page that came (message or storage) is now held; nobody may pin it yet.
    Install {
        /// The page.
        tag: BufferTag,
        /// It is dirty, and this instance's to write.
        dirty: bool,
    },
    /// This instance's copy is to count as dirty.
    MarkDirty {
        /// The page.
        tag: BufferTag,
    },
    /// The page that came is not wanted.
    Discard {
        /// The page.
        tag: BufferTag,
    },
    /// An instance broke the page protocol: count it and tell the operator.
    Broken {
        /// The page.
        tag: BufferTag,
        /// What is wrong with it, and what was expected.
        problem: &'static str,
    },
    /// Pin the page for a waiter and tell it.
    Complete {
        /// Who waited.
        waiter: WaiterId,
        /// The page.
        tag: BufferTag,
        /// What for.
        mode: Mode,
        /// How the grant came about.
        path: GrantPath,
    },
    /// Tell a waiter that it will not have the page. `None`: it has withdrawn.
    Fail {
        /// Who waited.
        waiter: WaiterId,
        /// The page.
        tag: BufferTag,
        /// Why.
        error: Option<AcquireError>,
    },
    /// Let local threads pin the page by themselves, up to `mode`.
    Open {
        /// The page.
        tag: BufferTag,
        /// S or X.
        mode: Mode,
    },
    /// The page is no longer held: free its frame.
    Drop {
        /// The page.
        tag: BufferTag,
    },
}
