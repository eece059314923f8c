//! One instance: its core, and what the runtime around it keeps.

use super::{Options, frame::Frame, si::Si, workload::Thread};
use pagewire_node::grd::Grd;
use pagewire_protocol::{Incarnation, InstanceId, Lsn};

/// The log of one life: records are counted, and a prefix of them is durable.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Log {
    pub(super) end: Lsn,
    pub(super) durable: Lsn,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: InstanceId,
    /// The present life, or the last one, or the one that is about to begin.
    pub(super) life: Incarnation,
    pub(super) grd: Grd,
    /// Where invalidations are part of the simulation.
    pub(super) si: Option<Si>,
    pub(super) frames: Vec<Frame>,
    pub(super) threads: Vec<Thread>,
    /// Greatest version seen.
    pub(super) clock: Lsn,
    pub(super) log: Log,
    /// The process is there.
    pub(super) running: bool,
    /// It stands still.
    pub(super) paused: bool,
    /// The membership has decided that it is no member any more, and it does not know.
    pub(super) evicted: bool,
    /// `Effect::Fence` was done.
    pub(super) fenced: bool,
    /// It is to leave.
    pub(super) leaving: bool,
    /// It waits for a view that it is a member of.
    pub(super) joining: bool,
    /// It cannot renew its lease since this stop, and has lost it at that time.
    pub(super) stop: Option<u64>,
    pub(super) lease_over_at: u64,
    /// Nothing of what it reads, writes or flushes gets done.
    pub(super) slow_disk: bool,
    /// It hears nothing of the membership.
    pub(super) hears_late: bool,
    /// When a leaver asks again for its past images to be superseded.
    pub(super) asks_again_at: u64,
}

impl Node {
    /// An instance that is not there yet.
    pub(super) fn new(id: InstanceId, grd: Grd, options: &Options) -> Self {
        let many = |number: u32| usize::try_from(number).unwrap_or(1);
        Self {
            id,
            life: Incarnation(0),
            grd,
            si: None,
            frames: std::iter::repeat_with(Frame::default).take(many(options.pages)).collect(),
            threads: std::iter::repeat_with(Thread::default).take(many(options.threads)).collect(),
            clock: Lsn::ZERO,
            log: Log::default(),
            running: false,
            paused: false,
            evicted: false,
            fenced: false,
            leaving: false,
            joining: false,
            stop: None,
            lease_over_at: 0,
            slow_disk: false,
            hears_late: false,
            asks_again_at: 0,
        }
    }

    /// Its life begins with this core.
    pub(super) fn begin(&mut self, grd: Grd) {
        self.grd = grd;
        (self.running, self.joining) = (true, false);
        (self.clock, self.log) = (Lsn::ZERO, Log::default());
    }

    /// Its life is over; nothing is left of what was in its memory.
    pub(super) fn end(&mut self) {
        self.frames.iter_mut().for_each(|frame| *frame = Frame::default());
        self.threads.iter_mut().for_each(|thread| *thread = Thread::default());
        self.si = None;
        (self.running, self.paused, self.evicted, self.fenced) = (false, false, false, false);
        (self.leaving, self.joining, self.stop) = (false, false, None);
    }

    /// Nothing of it is touched any more: guards that are out fail.
    pub(super) fn fence(&mut self) {
        self.fenced = true;
        self.threads.iter_mut().for_each(Thread::lose_guards);
        for frame in &mut self.frames {
            frame.word = pagewire_protocol::Mode::N;
        }
    }

    /// It is a member as far as anyone knows, and may touch pages.
    pub(super) fn is_live(&self) -> bool {
        self.running && !self.evicted && !self.fenced
    }

    /// It does something now.
    pub(super) fn is_active(&self) -> bool {
        self.is_live() && !self.paused
    }
}
