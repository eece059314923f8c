//! What goes into the core and what comes out of it.

use crate::view::View;
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, GuideRecord, Incarnation, InstanceId, Lsn, Mode, PartitionId,
    Pcm, Stat, StatAbout, pcm::Verdict,
};
use std::sync::Arc;

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
    /// This instance may no longer act: its lease is over.
    #[error(
        "page {tag}: this instance has lost its lease and is out of the cluster; it comes back when \
             it is started again"
    )]
    LeaseExpired {
        /// The page.
        tag: BufferTag,
    },
    /// It was wanted for redo, and nothing of it is missing.
    #[error("page {tag} needs no redo: a member has its current version, or storage has it")]
    NotLost {
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
    /// A message has come. A page that came with it is kept by the runtime if [`Effect::Take`] is
    /// among the effects, or with the whole message if [`Effect::Park`] is; otherwise it is dropped.
    Message {
        /// Who sent it.
        from: InstanceId,
        /// In which life; 0 where sessions alone vouch for the sender.
        incarnation: Incarnation,
        /// The epoch in its header: the sender's epoch of the page's partition.
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
        /// The thread applies the redo of dead instances: it may have what is lost to others, and
        /// gets [`AcquireError::NotLost`] for what is not. X only.
        recovery: bool,
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
        /// Where in this instance's log the redo of the page's changes ends; 0 if it is clean or
        /// nothing of it was changed here.
        flush: Lsn,
    },
    /// [`Effect::Read`] or [`Effect::ReadNewer`] is done: the version that was found, or why not. The
    /// page is kept if [`Effect::Take`] is among the effects, otherwise dropped.
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
    /// The membership layer has decided a view. One that is not newer than the present one is
    /// ignored; numbers may be skipped.
    View(Arc<View>),
    /// This instance's log is durable up to here.
    Flushed {
        /// Position in the log.
        up_to: Lsn,
    },
    /// This instance may no longer act. It is the last event that has any effect.
    LeaseLost,
    /// All redo of an instance that has died is applied; told to every member.
    RedoDone {
        /// Who has died.
        instance: InstanceId,
        /// In which life.
        incarnation: Incarnation,
    },
    /// PCM_LOAD_GUIDE has come: shadow information of another instance.
    LoadGuide {
        /// Who sent it.
        from: InstanceId,
        /// In which life; 0 where sessions alone vouch for the sender.
        incarnation: Incarnation,
        /// The epoch in its header: that of the sender's view.
        epoch: Epoch,
        /// The records in its frame.
        batch: Vec<GuideRecord>,
        /// The sender has no more for now.
        last: bool,
    },
    /// The frame of a past image is wanted back, or the redo before it. May be repeated, and should be
    /// after a while: a view change forgets it.
    PastImageWanted {
        /// The page.
        tag: BufferTag,
    },
    /// What [`Effect::Again`] asked for.
    Continue,
    /// A tool wants to know; [`Effect::StatReply`] answers.
    Stat {
        /// Whom to ask; [`Grd::manager`](super::Grd::manager) about a page.
        to: InstanceId,
        /// The page.
        tag: BufferTag,
        /// The page or the whole instance.
        about: StatAbout,
    },
}

/// What the core wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a message without a page.
    Send {
        /// To whom; this instance itself for PCM_CANCEL alone, of which the runtime knows whether the request
        /// has left.
        to: InstanceId,
        /// The page it speaks of.
        tag: BufferTag,
        /// What its header says: the partition epoch in which it was decided.
        epoch: Epoch,
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
        /// What its header says.
        epoch: Epoch,
        /// The request.
        message: Pcm,
    },
    /// The request for the page goes (also) here, under the reservation that it has: one that still
    /// waits for its frame goes here instead, one that is on its way is sent again.
    RequestAgain {
        /// To whom.
        to: InstanceId,
        /// The page.
        tag: BufferTag,
        /// What its header says.
        epoch: Epoch,
        /// The request, with the id it had.
        message: Pcm,
    },
    /// The request for the page is over, in whatever way.
    RequestOver {
        /// The page.
        tag: BufferTag,
    },
    /// Send a message with the page. `keep`: the page stays; otherwise it is only kept as in
    /// transit, until [`Effect::Forget`], [`Effect::ToPastImage`] or [`Effect::Reinstate`].
    Ship {
        /// To whom.
        to: InstanceId,
        /// The page.
        tag: BufferTag,
        /// What its header says.
        epoch: Epoch,
        /// The response that carries it.
        message: Pcm,
        /// Whether this instance goes on holding it.
        keep: bool,
    },
    /// Send a message with the past image, which is kept.
    ShipPastImage {
        /// To whom.
        to: InstanceId,
        /// The page.
        tag: BufferTag,
        /// What its header says.
        epoch: Epoch,
        /// The response that carries it.
        message: Pcm,
    },
    /// The page in transit has arrived and was clean, or is of no use: drop the copy.
    Forget {
        /// The page.
        tag: BufferTag,
        /// The grant under which it was shipped.
        grant: GrantNumber,
    },
    /// The page in transit becomes the past image, in place of an older one.
    ToPastImage {
        /// The page.
        tag: BufferTag,
        /// The grant under which it was shipped.
        grant: GrantNumber,
    },
    /// The page in transit is held again; nobody may pin it yet.
    Reinstate {
        /// The page.
        tag: BufferTag,
        /// The grant under which it was shipped.
        grant: GrantNumber,
        /// It is dirty, and this instance's to write.
        dirty: bool,
    },
    /// The page is no longer held: it becomes the past image, in place of an older one.
    KeepPastImage {
        /// The page.
        tag: BufferTag,
        /// Its version.
        version: Lsn,
    },
    /// A newer version is on storage: drop the past image.
    DropPastImage {
        /// The page.
        tag: BufferTag,
        /// Its version.
        version: Lsn,
    },
    /// The page that came with this event is wanted: keep it until [`Effect::Install`] or
    /// [`Effect::Discard`]. (A page without it is dropped when the effects are done.)
    Take {
        /// The page.
        tag: BufferTag,
    },
    /// This event is of a later view: hand it in again, page and all, once there has been an
    /// [`Effect::ViewInstalled`], before anything that came after it.
    Park,
    /// Read the page from storage, and keep the newest of what is there, the page that was taken if
    /// there is one, and the own past image if there is one; [`Event::ReadDone`] follows with that
    /// one's version. The page that was taken belongs to the read from now on, and goes with it; one
    /// that is taken later is for a later read.
    ReadNewer {
        /// The page.
        tag: BufferTag,
        /// Least version that storage must return.
        at_least: Lsn,
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
    /// The page that was taken is not wanted after all.
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
    /// Make this instance's log durable up to here; [`Event::Flushed`] follows. Positions go up.
    Flush {
        /// A page that waits for it.
        tag: BufferTag,
        /// Position in the log.
        to: Lsn,
    },
    /// This instance is out: hits and live guards fail from now on, no I/O is started. The first
    /// effect of [`Event::LeaseLost`].
    Fence,
    /// Send PCM_LOAD_GUIDE on the bulk lane.
    LoadGuide {
        /// To whom.
        to: InstanceId,
        /// What its header says: the epoch of the view.
        epoch: Epoch,
        /// At most [`GUIDE_RECORDS_MAX`](pagewire_protocol::guide::GUIDE_RECORDS_MAX) records.
        batch: Vec<GuideRecord>,
        /// There are no more for now.
        last: bool,
    },
    /// There is more to do, in pieces so that nobody waits for it: hand in [`Event::Continue`] soon.
    Again,
    /// The view is in force: what was parked comes again.
    ViewInstalled {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The directory entries of a partition that this instance has come to master are complete.
    PartitionReady {
        /// The partition.
        partition: PartitionId,
    },
    /// What [`Event::Stat`] asked for.
    StatReply {
        /// Who says so.
        from: InstanceId,
        /// The page.
        tag: BufferTag,
        /// What it says.
        stat: Stat,
    },
}
