//! What the runtime of one instance keeps of one page: frame, word, pins, copies on their way.

use super::{Checked, content::Content, ensure};
use pagewire_node::grd::WaiterId;
use pagewire_protocol::{GrantNumber, Mode, RequestId};

/// A copy that was shipped away and is kept until its claim is confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transit {
    pub(super) to: usize,
    pub(super) grant: GrantNumber,
    pub(super) content: Content,
}

#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) held: Option<Content>,
    /// Written since it was last on storage, and this instance's to write.
    pub(super) dirty: bool,
    /// Up to which mode local threads may pin by themselves.
    pub(super) word: Mode,
    /// Opened for readers only, because a send still held the frame.
    pub(super) opened_short: bool,
    pub(super) shared: u32,
    pub(super) exclusive: bool,
    /// `Effect::Lower` that is not yet answered.
    pub(super) lowering: Option<Mode>,
    pub(super) writing: bool,
    pub(super) reading: bool,
    /// The request that a frame is reserved for.
    pub(super) request: Option<(RequestId, Mode)>,
    /// The request has its frame and has left, at least once.
    pub(super) sent: bool,
    /// Who is to be completed with the last grant before it may be revoked.
    pub(super) owed: Option<WaiterId>,
    /// The duty to write the page has arrived and is not yet taken up.
    pub(super) duty: bool,
    /// A page that was taken and is neither installed nor discarded.
    pub(super) arrival: Option<Content>,
    pub(super) transit: Vec<Transit>,
    pub(super) past: Option<Content>,
    /// Greatest grant held so far.
    pub(super) top_grant: GrantNumber,
}

impl Frame {
    /// Whether a pin of `mode` goes together with the pins that are out.
    fn admits(&self, mode: Mode) -> bool {
        !self.exclusive && (mode == Mode::S || self.shared == 0)
    }

    /// Whether a thread may pin by itself: the fast path.
    pub(super) fn may_pin(&self, mode: Mode) -> bool {
        self.word >= mode && self.admits(mode)
    }

    /// No pin exceeds what is being lowered to.
    pub(super) fn is_drained(&self) -> bool {
        match self.lowering {
            Some(Mode::N) => !self.exclusive && self.shared == 0,
            Some(_) => !self.exclusive,
            None => false,
        }
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.exclusive || self.shared > 0
    }

    pub(super) fn pin(&mut self, mode: Mode) -> Checked<Content> {
        ensure!(self.admits(mode), "pinned for {mode} against {}S {}", self.shared, self.exclusive);
        let Some(content) = self.held else { return Err("pinned without a page".to_owned()) };
        match mode {
            Mode::X => self.exclusive = true,
            Mode::S | Mode::N => self.shared += 1,
        }
        Ok(content)
    }

    pub(super) fn unpin(&mut self, mode: Mode) {
        match mode {
            Mode::X => self.exclusive = false,
            Mode::S | Mode::N => self.shared -= 1,
        }
    }

    /// There is nothing of the page.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_none()
            && self.past.is_none()
            && self.transit.is_empty()
            && self.request.is_none()
            && self.arrival.is_none()
    }

    /// The page goes away: nothing may use it any more.
    pub(super) fn take(&mut self) -> Checked<Content> {
        ensure!(self.owed.is_none(), "given up before waiter {:?} had it", self.owed);
        ensure!(!self.is_pinned(), "given up with pins out");
        ensure!(!self.writing, "given up while it is being written");
        ensure!(self.lowering.is_none(), "given up while pins are being lowered");
        self.word = Mode::N;
        self.dirty = false;
        self.held.take().ok_or_else(|| "given up, but not there".to_owned())
    }
}
