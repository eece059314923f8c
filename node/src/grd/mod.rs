//! The Global Resource Directory of one instance: a pure core.
//!
//! Two state machines that speak only in messages, also when both ends are the same instance:
//! [`directory`] keeps what everyone was granted of the pages this instance masters; [`holdings`]
//! (shadow information) keeps what this instance holds itself. No I/O, no clock: events in,
//! effects out, in order. The runtime and the simulator drive the same code.
//!
//! ```text
//!   local threads --Acquire--> holdings --Request--> directory of the master --Ship--> holdings
//!        ^                        |  ^                    |    ^                  of the owner
//!        +------Complete----------+  +----Response--------+    +---Claim---            |
//!                                    +------------- Response + page -------------------+
//! ```

mod directory;
mod event;
mod fifo;
mod holdings;
mod out;
pub mod store;
mod table;

pub use directory::EntryView;
pub use event::{AcquireError, Effect, Event, GrantPath, WaiterId};
pub use holdings::HoldingView;
pub use out::Anomalies;
pub(crate) use table::TagMap;

use crate::{planted, view::View};
use directory::Directory;
use holdings::Holdings;
use out::Out;
use pagewire_protocol::{
    BufferTag, Incarnation, InstanceId, Pcm, RequestId,
    pcm::{NakReason, Verdict},
};
use std::{collections::VecDeque, sync::Arc};

/// The directory core of one instance; see the module.
#[derive(Debug)]
pub struct Grd {
    me: InstanceId,
    view: Arc<View>,
    directory: Directory,
    holdings: Holdings,
    /// Messages from this instance to itself.
    loopback: VecDeque<(BufferTag, Pcm)>,
    anomalies: Anomalies,
}

impl Grd {
    /// The core of instance `me` in its life `incarnation`, as a member of `view`.
    #[must_use]
    pub fn new(me: InstanceId, incarnation: Incarnation, view: impl Into<Arc<View>>) -> Self {
        Self {
            me,
            view: view.into(),
            directory: Directory::new(),
            holdings: Holdings::new(RequestId { instance: me, incarnation, sequence: 0 }),
            loopback: VecDeque::with_capacity(64),
            anomalies: Anomalies::default(),
        }
    }

    /// The view in force.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Counts of what should not happen.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        self.anomalies
    }

    /// Takes one event and appends what is to be done, in that order, to `effects`.
    pub fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let mut out = Out {
            me: self.me,
            view: &self.view,
            loopback: &mut self.loopback,
            effects,
            anomalies: &mut self.anomalies,
        };
        match event {
            Event::Message { from, epoch, tag, message, .. } => {
                if epoch == self.view.epoch_of(&tag) || planted::is("accept_any_epoch") {
                    dispatch(&mut self.directory, &mut self.holdings, from, tag, message, &mut out);
                } else {
                    refuse_epoch(from, tag, message, &mut out);
                }
            }
            Event::Acquire { tag, mode, waiter, .. } => {
                self.holdings.acquire(tag, mode, waiter, &mut out);
            }
            Event::Withdraw { tag, waiter } => self.holdings.withdraw(tag, waiter, &mut out),
            Event::Drained { tag, to, dirty, version, .. } => {
                self.holdings.drained(tag, to, dirty, version, &mut out);
            }
            Event::ReadDone { tag, result } => self.holdings.read_done(tag, result, &mut out),
            Event::WriteDone { tag, version, written } => {
                self.holdings.write_done(tag, version, written, &mut out);
            }
            Event::Evict { tag } => self.holdings.evict(tag, &mut out),
            Event::WriteBack { tag } => self.holdings.write_back(tag, &mut out),
            _ => {}
        }
        while let Some((tag, message)) = out.loopback.pop_front() {
            let me = self.me;
            dispatch(&mut self.directory, &mut self.holdings, me, tag, message, &mut out);
        }
    }

    /// What the directory says of a page this instance masters.
    #[must_use]
    pub fn entry(&self, tag: &BufferTag) -> Option<EntryView> {
        self.directory.view(tag)
    }

    /// What this instance holds of a page.
    #[must_use]
    pub fn holding(&self, tag: &BufferTag) -> Option<HoldingView> {
        self.holdings.view(tag)
    }

    /// Every page this instance has to do with as a holder.
    pub fn held_tags(&self) -> impl Iterator<Item = BufferTag> + '_ {
        self.holdings.tags()
    }

    /// Every page in the directory part of this instance.
    pub fn mastered_tags(&self) -> impl Iterator<Item = BufferTag> + '_ {
        self.directory.tags()
    }
}

/// Who handles what: the first screen to read.
fn dispatch(
    directory: &mut Directory,
    holdings: &mut Holdings,
    from: InstanceId,
    tag: BufferTag,
    message: Pcm,
    out: &mut Out<'_>,
) {
    match message {
        // To the master.
        Pcm::Acquire { request, want, .. } if out.view.master(&tag) == out.me => {
            directory.acquire(tag, request, want, out);
        }
        Pcm::Acquire { request, want, .. } => {
            out.anomalies.not_master += 1;
            out.refuse(from, tag, request, want, Verdict::NotMaster);
        }
        Pcm::Claim { request, mode, grant, version, .. } => {
            directory.claim(tag, request, mode, grant, version, out);
        }
        Pcm::Release { grant, version } => directory.release(tag, from, grant, version, out),
        Pcm::Written { version, .. } => directory.written(tag, version),
        // To a holder.
        Pcm::Ship { .. } | Pcm::Invalidate { .. } => holdings.revoke(tag, message, out),
        Pcm::Claimed { request, grant } => holdings.claimed(tag, request, grant, out),
        Pcm::Released { grant } => holdings.released(tag, grant, out),
        // To the requester.
        Pcm::Response { .. } => holdings.response(from, tag, message, out),
        Pcm::Invalidated { request, dirty, .. } => {
            holdings.invalidated(from, tag, request, dirty, out);
        }
        _ => {}
    }
}

/// A page that came with it is not taken.
fn refuse_epoch(from: InstanceId, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
    out.anomalies.stale_epoch += 1;
    let (kind, reason, view) = (message.kind(), NakReason::StaleEpoch, out.view.epoch());
    let request = message.request().unwrap_or_default();
    out.send(from, tag, Pcm::Nak { kind, request, reason, view });
}

#[cfg(test)]
mod tests;
