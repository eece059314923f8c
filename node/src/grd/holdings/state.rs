//! Shadow information of one page: what each field is for, when it is set and when it is cleared.

use crate::grd::{
    event::{GrantPath, WaiterId},
    fifo::Fifo,
    store::{Counted, InstanceSet},
};
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, RequestId};

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Idle,
    /// [`Effect::Lower`](crate::grd::Effect::Lower) is out; the mode is what it lowers to.
    Draining(Mode, Purpose),
    /// [`Effect::Write`](crate::grd::Effect::Write) is out.
    Writing(Purpose),
    /// [`Effect::Flush`](crate::grd::Effect::Flush) is out; pins are lowered to the mode.
    Flushing(Mode, Purpose),
    /// PCM_RELEASE is out.
    Releasing,
}

/// What it is under way for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Waiters,
    Revocation,
    WriteBack,
    Eviction,
}

/// PCM_SHIP or PCM_INVALIDATE, as it waits to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) request: RequestId,
    pub(super) grant: GrantNumber,
    pub(super) revokes: GrantNumber,
    pub(super) ship: Option<Ship>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ship {
    pub(super) want: Mode,
    pub(super) grant: GrantNumber,
    pub(super) acks: u64,
    pub(super) past: bool,
}

impl Revocation {
    /// What the holder may keep.
    pub(super) fn leaves(&self) -> Mode {
        match self.ship {
            Some(Ship { want: Mode::S, .. }) => Mode::S,
            _ => Mode::N,
        }
    }
}

/// A request that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) request: RequestId,
    pub(super) want: Mode,
    pub(super) recovery: bool,
    /// PCM_CANCELs that are out and not answered.
    pub(super) cancels: u32,
    /// It was answered without a grant, and is over once the read that is under way is done: its
    /// frame is in use until then.
    pub(super) ended: bool,
    /// The grant, once PCM_RESPONSE has come.
    pub(super) grant: Option<GrantNumber>,
    /// Whose invalidations to wait for, known with the response, and whose have come.
    pub(super) acks_due: InstanceSet,
    pub(super) acks: InstanceSet,
    /// Who handed the duty to write the page over with this grant.
    pub(super) handed: InstanceSet,
    /// The page is there: it came with the response, was read, or was held all along.
    pub(super) page: bool,
    /// The page was held all along.
    pub(super) held: bool,
    /// The duty to write the page came with the response or an acknowledgement.
    pub(super) dirty: bool,
    /// The duty to write the page stayed with the shipper.
    pub(super) unsaved: bool,
    /// Storage is to be read once an earlier read, that is of no use, is over: at least this version.
    pub(super) reads: Reads,
    /// The runtime keeps the page that came, and no read has it.
    pub(super) taken: bool,
    pub(super) version: Lsn,
    pub(super) writer: InstanceId,
    pub(super) path: GrantPath,
}

/// What a request reads from storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    Nothing,
    /// The page, of at least this version.
    Page(Lsn),
    /// The newest of storage and a past image of this version.
    Newest(Lsn),
}

impl Pending {
    pub(super) fn new(request: RequestId, want: Mode, recovery: bool) -> Self {
        Self {
            request,
            want,
            recovery,
            cancels: 0,
            ended: false,
            grant: None,
            acks_due: InstanceSet::default(),
            acks: InstanceSet::default(),
            handed: InstanceSet::default(),
            page: false,
            held: false,
            dirty: false,
            unsaved: false,
            reads: Reads::Nothing,
            taken: false,
            version: Lsn::ZERO,
            writer: request.instance,
            path: GrantPath::Local,
        }
    }
}

/// A copy that was shipped away.
#[derive(Debug, Clone, Copy)]
pub(super) struct InTransit {
    pub(super) request: RequestId,
    pub(super) grant: GrantNumber,
    pub(super) version: Lsn,
    pub(super) dirty: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) mode: Mode,
    pub(super) recovery: bool,
}

/// Shadow information of one page.
#[derive(Debug, Clone)]
pub(super) struct Holding {
    /// What the master has granted. Set by a grant, lowered when a revocation is served or a
    /// release confirmed.
    pub(super) mode: Mode,
    /// Number of that grant; kept after it is given up, to tell late messages.
    pub(super) grant: GrantNumber,
    /// The page has been written here, or the duty to write it came with it. Set by a grant and by
    /// `Drained`; cleared when it is written, or the duty leaves with a ship or acknowledgement.
    pub(super) dirty: bool,
    /// Held S, and the duty to write this version was elsewhere when it came: who holds it may be the
    /// last one to know that storage has not got it. Set by a grant; cleared by a grant of X and by
    /// PCM_ASSIGN.
    pub(super) unsaved: bool,
    /// Version at the last grant or drain.
    pub(super) version: Lsn,
    /// Where the redo of this instance's changes to the page ends. Set by `Drained`; of no account
    /// while the page is clean.
    pub(super) flush: Lsn,
    /// Recent writer: whose change the copy carries. Set by a response, and by `Drained` to this
    /// instance.
    pub(super) writer: InstanceId,
    pub(super) activity: Activity,
    /// Messages about grants below it are of no account: the page has been repaired since. Set by
    /// PCM_QUERY, cleared when the partition moves.
    pub(super) fence: GrantNumber,
    /// Set by PCM_SHIP and PCM_INVALIDATE, cleared when served.
    pub(super) revocation: Option<Revocation>,
    /// A revocation of the grant that `pending` has not received yet.
    pub(super) parked: Option<Revocation>,
    pub(super) pending: Option<Pending>,
    pub(super) waiters: Fifo,
    pub(super) wants_write: bool,
    /// The master wants to hear of it when the page is on storage. Set by PCM_WRITE, cleared when it
    /// is told.
    pub(super) asked: bool,
    pub(super) wants_eviction: bool,
    /// How the last grant came about, until its first waiter is completed with it.
    pub(super) unused: Option<GrantPath>,
    /// The page was shipped away and is still in transit; cleared by PCM_CLAIMED and PCM_ASSIGN.
    pub(super) transit: Option<InTransit>,
    /// Version of the past image that is kept: set when the duty to write leaves, cleared by
    /// PCM_DISCARD.
    pub(super) past: Option<Lsn>,
    /// Reads from storage that are under way, and whether their request still wants the page.
    pub(super) reading: bool,
    pub(super) stale_read: bool,
    /// No pin is out and nobody may pin, though nothing is under way: set while a cut is made.
    pub(super) reopen: bool,
}

impl Holding {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::N,
            grant: GrantNumber(0),
            dirty: false,
            unsaved: false,
            version: Lsn::ZERO,
            flush: Lsn::ZERO,
            writer: InstanceId(0),
            activity: Activity::Idle,
            fence: GrantNumber(0),
            revocation: None,
            parked: None,
            pending: None,
            waiters: Fifo::default(),
            wants_write: false,
            asked: false,
            wants_eviction: false,
            unused: None,
            transit: None,
            past: None,
            reading: false,
            stale_read: false,
            reopen: false,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.mode == Mode::N
            && self.activity == Activity::Idle
            && self.pending.is_none()
            && self.waiters.is_empty()
            && self.transit.is_none()
            && self.past.is_none()
            && !self.reading
            && self.parked.is_none()
    }

    /// Something is held or kept, nothing is under way, and nothing is to be begun.
    pub(super) fn is_quiet(&self) -> bool {
        self.activity == Activity::Idle
            && self.revocation.is_none()
            && self.parked.is_none()
            && self.pending.is_none()
            && self.waiters.is_empty()
            && !(self.wants_write || self.wants_eviction || self.reopen)
            && !self.is_nothing()
    }

    /// Nothing of the page is held any more.
    pub(super) fn give_up(&mut self) {
        self.mode = Mode::N;
        self.dirty = false;
        self.unsaved = false;
        self.wants_write = false;
        self.asked = false;
        self.wants_eviction = false;
        self.activity = Activity::Idle;
    }
}

impl Counted for Holding {
    /// In the order in which `Holdings::stat` reads them.
    fn kinds(&self) -> u8 {
        u8::from(self.mode == Mode::S)
            | u8::from(self.mode == Mode::X) << 1
            | u8::from(self.dirty) << 2
            | u8::from(self.past.is_some()) << 3
            | u8::from(self.pending.is_some()) << 4
    }
}

/// What an instance holds of one page, for tools and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldingView {
    /// Mode granted.
    pub mode: Mode,
    /// Number of the grant.
    pub grant: GrantNumber,
    /// Dirty, and this instance's to write, as far as the core has been told.
    pub dirty: bool,
    /// Something is under way: a request, a revocation, a write, a release.
    pub busy: bool,
    /// PCM_RELEASE is out: the mode is of no use any more, and the master may have given it on.
    pub releasing: bool,
    /// Shipped away and not yet claimed.
    pub in_transit: bool,
    /// Version of the past image that is kept.
    pub past_image: Option<Lsn>,
    /// A request is under way.
    pub pending: bool,
    /// What is under way besides: idle, draining, flushing, writing or releasing.
    pub activity: &'static str,
    /// Held S, and not known to be on storage.
    pub unsaved: bool,
    /// Version at the last grant or drain.
    pub version: Lsn,
    /// Whose change it carries.
    pub writer: InstanceId,
}

impl HoldingView {
    /// The row of the holder's decision table that it stands in; "nothing" is also that of a page of
    /// which nothing is known.
    #[must_use]
    pub fn row(&self) -> &'static str {
        match self.mode {
            _ if self.releasing => "releasing",
            Mode::X if self.busy => "X busy",
            Mode::X => "X",
            Mode::S if self.busy => "S busy",
            Mode::S => "S",
            Mode::N if self.in_transit => "in transit",
            Mode::N if self.busy => "requesting",
            Mode::N if self.past_image.is_some() => "past image",
            Mode::N => "nothing",
        }
    }
}
