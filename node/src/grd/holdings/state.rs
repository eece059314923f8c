//! Shadow information of one page: what each field is for, when it is set and when it is cleared.

use crate::grd::{
    event::{GrantPath, WaiterId},
    fifo::Fifo,
};
use pagewire_protocol::{GrantNumber, Lsn, Mode, RequestId};

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Idle,
    /// [`Effect::Lower`](crate::grd::Effect::Lower) is out; the mode is what it lowers to.
    Draining(Mode, Purpose),
    /// [`Effect::Write`](crate::grd::Effect::Write) is out.
    Writing(Purpose),
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
    /// The grant, once PCM_RESPONSE has come.
    pub(super) grant: Option<GrantNumber>,
    /// Invalidations to wait for, known with the response, and those that have come.
    pub(super) acks_due: u64,
    pub(super) acks: u64,
    /// The page is there: it came with the response, was read, or was held all along.
    pub(super) page: bool,
    /// The page was held all along.
    pub(super) held: bool,
    /// The duty to write the page came with the response or an acknowledgement.
    pub(super) dirty: bool,
    pub(super) version: Lsn,
    pub(super) path: GrantPath,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) mode: Mode,
}

/// Shadow information of one page.
#[derive(Debug)]
pub(super) struct Holding {
    /// What the master has granted. Set by a grant, lowered when a revocation is served or a
    /// release confirmed.
    pub(super) mode: Mode,
    /// Number of that grant; kept after it is given up, to tell late messages.
    pub(super) grant: GrantNumber,
    /// The page has been written here, or the duty to write it came with it. Set by a grant and by
    /// `Drained`; cleared when it is written, or the duty leaves with a ship or acknowledgement.
    pub(super) dirty: bool,
    /// Version at the last grant or drain.
    pub(super) version: Lsn,
    pub(super) activity: Activity,
    /// Set by PCM_SHIP and PCM_INVALIDATE, cleared when served.
    pub(super) revocation: Option<Revocation>,
    /// A revocation of the grant that `pending` has not received yet.
    pub(super) parked: Option<Revocation>,
    pub(super) pending: Option<Pending>,
    pub(super) waiters: Fifo,
    pub(super) wants_write: bool,
    pub(super) wants_eviction: bool,
    /// How the last grant came about, until its first waiter is completed with it.
    pub(super) unused: Option<GrantPath>,
    /// Grant under which the page was shipped away and is still in transit; cleared by PCM_CLAIMED.
    pub(super) transit: Option<GrantNumber>,
}

impl Holding {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::N,
            grant: GrantNumber(0),
            dirty: false,
            version: Lsn::ZERO,
            activity: Activity::Idle,
            revocation: None,
            parked: None,
            pending: None,
            waiters: Fifo::default(),
            wants_write: false,
            wants_eviction: false,
            unused: None,
            transit: None,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.mode == Mode::N
            && self.activity == Activity::Idle
            && self.pending.is_none()
            && self.waiters.is_empty()
            && self.transit.is_none()
            && self.parked.is_none()
    }

    /// Nothing of the page is held any more.
    pub(super) fn give_up(&mut self) {
        self.mode = Mode::N;
        self.dirty = false;
        self.wants_write = false;
        self.wants_eviction = false;
        self.activity = Activity::Idle;
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
}
