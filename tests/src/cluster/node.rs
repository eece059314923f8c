//! One instance: its core, and what the runtime around it keeps.

use super::{Options, frame::Frame, workload::Thread};
use pagewire_node::{grd::Grd, view::View};
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
    pub(super) life: Incarnation,
    pub(super) grd: Grd,
    pub(super) frames: Vec<Frame>,
    pub(super) threads: Vec<Thread>,
    /// Greatest version seen.
    pub(super) clock: Lsn,
    pub(super) log: Log,
}

impl Node {
    pub(super) fn new(id: InstanceId, life: Incarnation, view: View, options: &Options) -> Self {
        let many = |number: u32| usize::try_from(number).unwrap_or(1);
        Self {
            id,
            life,
            grd: Grd::new(id, life, view),
            frames: std::iter::repeat_with(Frame::default).take(many(options.pages)).collect(),
            threads: std::iter::repeat_with(Thread::default).take(many(options.threads)).collect(),
            clock: Lsn::ZERO,
            log: Log::default(),
        }
    }

    /// Requests for pages that are under way.
    pub(super) fn requests(&self) -> usize {
        self.frames.iter().filter(|frame| frame.request.is_some()).count()
    }
}
