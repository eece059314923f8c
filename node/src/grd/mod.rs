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

//! A view is an event like others. What it means for what is on its way: messages carry the epoch of
//! their page's partition; an older one than the receiver's is answered with a NAK, a newer one is
//! parked until the receiver has the view. See [`directory`]'s moves and repair.

mod directory;
mod event;
mod fifo;
#[cfg(feature = "planted")]
mod fingerprint;
mod hasher;
mod holdings;
mod merge;
mod out;
pub mod store;

pub use directory::EntryView;
pub use event::{AcquireError, Effect, Event, GrantPath, WaiterId};
pub(crate) use hasher::TagHasher;
pub use holdings::HoldingView;
pub use out::{Anomalies, Fenced};

use crate::{
    planted,
    view::{Standing, View},
};
use directory::Directory;
use holdings::Holdings;
use out::Out;
use pagewire_protocol::{
    BufferTag, Epoch, GuideRecord, Incarnation, InstanceId, InstanceStat, Lsn, Mode, PartitionId,
    Pcm, RequestId, Stat, StatAbout,
    pcm::{NakReason, Verdict},
    tag::PARTITIONS,
};
use std::{collections::VecDeque, sync::Arc};
use store::{Hashed, Step};

/// A batch of another instance's shadow information, of a later view than this instance has.
type ParkedGuide = (InstanceId, Incarnation, Epoch, Vec<GuideRecord>);

/// The directory core of one instance; see the module.
#[derive(Debug, Clone)]
pub struct Grd {
    me: InstanceId,
    incarnation: Incarnation,
    view: Arc<View>,
    directory: Directory,
    holdings: Holdings,
    /// Messages from this instance to itself.
    loopback: VecDeque<(Hashed, Pcm)>,
    parked_guides: Vec<ParkedGuide>,
    anomalies: Anomalies,
    fenced: Fenced,
    /// [`Effect::Again`] is out.
    will_continue: bool,
    /// The lease is lost: nothing has any effect any more.
    is_out: bool,
}

impl Grd {
    /// The core of instance `me` in its life `incarnation`, as a member of `view`. Hand in
    /// [`Event::Continue`] once, first of all: it tells the others that this instance has nothing.
    #[must_use]
    pub fn new(me: InstanceId, incarnation: Incarnation, view: impl Into<Arc<View>>) -> Self {
        let view = view.into();
        let mut directory = Directory::new();
        directory.begin(me, &view);
        let mut holdings = Holdings::new(RequestId { instance: me, incarnation, sequence: 0 });
        holdings.begin(&view);
        Self {
            me,
            incarnation,
            view,
            directory,
            holdings,
            loopback: VecDeque::with_capacity(64),
            parked_guides: Vec::new(),
            anomalies: Anomalies::default(),
            fenced: Fenced::default(),
            will_continue: false,
            is_out: false,
        }
    }

    /// The view in force.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// `GetManagerId`: who masters a page. From the view alone, so it never waits.
    #[must_use]
    pub fn manager(&self, tag: &BufferTag) -> InstanceId {
        self.view.master(tag)
    }

    /// Counts of what should not happen.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        self.anomalies
    }

    /// Counts of what view changes and repairs refused.
    #[must_use]
    pub fn fenced(&self) -> Fenced {
        self.fenced
    }

    /// Takes one event and appends what is to be done, in that order, to `effects`.
    pub fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.is_out {
            return;
        }
        match event {
            Event::View(view) => self.change_view(view, effects),
            Event::LeaseLost => self.lose_lease(effects),
            Event::LoadGuide { from, incarnation, epoch, batch, .. } => {
                self.guide((from, incarnation, epoch, batch), effects);
            }
            Event::Message { from, incarnation, epoch, tag, message } => {
                return self.message(
                    (from, incarnation, epoch),
                    &Hashed::of(tag),
                    &message,
                    effects,
                );
            }
            local => self.local(local, effects),
        }
        self.finish(effects);
    }

    /// Whether the page is the last one that this instance had to do with as a holder.
    #[inline]
    #[must_use]
    pub fn was_last(&self, tag: &BufferTag) -> bool {
        self.holdings.was_last(tag)
    }

    /// Brings what is known of a page that an event is about nearer to the processor, all of it at the same
    /// time: looked up when it is needed, each piece would be waited for. It changes nothing.
    #[inline(always)] // As `Shard::approach_by`.
    pub fn approach(&self, page: &mut Hashed, step: Step) {
        let partition = page.partition();
        if step == Step::Partition {
            self.view.approach(partition);
        }
        if step == Step::Partition || self.view.master_of(partition) == self.me {
            self.directory.approach(page, step);
        }
        self.holdings.approach(page, step);
    }

    /// As [`Grd::handle`] of [`Event::Message`]: from whom, of which life of its, and of which epoch.
    pub fn message(
        &mut self,
        (from, incarnation, epoch): (InstanceId, Incarnation, Epoch),
        page: &Hashed,
        message: &Pcm,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_out {
            return;
        }
        let (me, is_fenced) = (self.me, message.is_fenced());
        let present = self.view.partition_epoch(page.partition());
        let standing = self.view.standing(from, incarnation);
        let (_, _, mut out) = self.parts(effects);
        match standing {
            Standing::Past => out.fenced.not_member += 1,
            Standing::Unknown => park(&mut out),
            // What it asks for goes to somebody who is a member of a later view.
            Standing::Member if is_for_unknown(out.view, message) => park(&mut out),
            Standing::Member if is_fenced && epoch > present => park(&mut out),
            Standing::Member if is_fenced && epoch < present => {
                if planted::is("accept_any_epoch") {
                    self.dispatch(from, page, message, effects);
                } else {
                    refuse_epoch(from, me, page.tag, message, &mut out);
                }
            }
            Standing::Member => self.dispatch(from, page, message, effects),
        }
        self.finish(effects);
    }

    /// As [`Grd::handle`] of [`Event::Acquire`] for a thread that is not about redo.
    pub fn acquire(
        &mut self,
        page: &Hashed,
        mode: Mode,
        waiter: WaiterId,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_out {
            return;
        }
        let (_, holdings, mut out) = self.parts(effects);
        holdings.of_any(page, &mut out, |page| page.acquire(mode, waiter, false));
        self.finish(effects);
    }

    /// As [`Grd::handle`] of [`Event::Drained`]: whether the page is dirty, its version, and where its
    /// redo ends.
    pub fn drained(
        &mut self,
        tag: BufferTag,
        to: Mode,
        (dirty, version, flush): (bool, Lsn, Lsn),
        effects: &mut Vec<Effect>,
    ) {
        if self.is_out {
            return;
        }
        let (_, holdings, mut out) = self.parts(effects);
        let page = Hashed::of(tag);
        holdings.of(&page, &mut out, |page| page.drained(to, dirty, version, flush));
        self.finish(effects);
    }

    /// What is said to this instance by itself, and whether there is more to do.
    fn finish(&mut self, effects: &mut Vec<Effect>) {
        while let Some((page, message)) = self.loopback.pop_front() {
            self.dispatch(self.me, &page, &message, effects);
        }
        let is_done = !self.holdings.has_to_tell() && !self.directory.is_untidy();
        if !is_done && !self.will_continue {
            self.will_continue = true;
            effects.push(Effect::Again);
        }
    }

    fn out<'a>(&'a mut self, view: &'a View, effects: &'a mut Vec<Effect>) -> Out<'a> {
        Out {
            me: self.me,
            view,
            loopback: &mut self.loopback,
            effects,
            anomalies: &mut self.anomalies,
            fenced: &mut self.fenced,
        }
    }

    /// The state machines, and where they put what they want done.
    fn parts<'a>(
        &'a mut self,
        effects: &'a mut Vec<Effect>,
    ) -> (&'a mut Directory, &'a mut Holdings, Out<'a>) {
        let out = Out {
            me: self.me,
            view: &self.view,
            loopback: &mut self.loopback,
            effects,
            anomalies: &mut self.anomalies,
            fenced: &mut self.fenced,
        };
        (&mut self.directory, &mut self.holdings, out)
    }

    /// What local threads, pins, storage, log and tools say.
    fn local(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let (directory, holdings, mut out) = self.parts(effects);
        let out = &mut out;
        match event {
            Event::Acquire { tag, mode, waiter, recovery } => {
                let page = Hashed::of(tag);
                holdings.of_any(&page, out, |page| page.acquire(mode, waiter, recovery));
            }
            Event::Withdraw { tag, waiter } => {
                holdings.of(&Hashed::of(tag), out, |page| page.withdraw(waiter));
            }
            Event::Drained { tag, to, dirty, version, flush } => {
                let page = Hashed::of(tag);
                holdings.of(&page, out, |page| page.drained(to, dirty, version, flush));
            }
            Event::ReadDone { tag, result } => {
                holdings.of(&Hashed::of(tag), out, |page| page.read_done(result));
            }
            Event::WriteDone { tag, version, written } => {
                holdings.of(&Hashed::of(tag), out, |page| page.write_done(version, written));
            }
            Event::Evict { tag } => holdings.of(&Hashed::of(tag), out, |page| page.evict()),
            Event::WriteBack { tag } => {
                holdings.of(&Hashed::of(tag), out, |page| page.write_back());
            }
            Event::PastImageWanted { tag } => {
                holdings.of(&Hashed::of(tag), out, |page| page.past_image_wanted());
            }
            Event::Flushed { up_to } => holdings.flushed(up_to, out),
            Event::RedoDone { instance, incarnation } => {
                directory.redo_done((instance, incarnation), out);
            }
            Event::Stat { to, tag, about } => out.send(to, tag, Pcm::StatRequest { about }),
            Event::Continue => {
                self.will_continue = false;
                // Others wait for what is told; nobody waits for memory.
                if self.holdings.has_to_tell() {
                    self.holdings.tell_some(self.me, &self.view, effects);
                } else {
                    self.directory.tidy();
                }
            }
            Event::Message { .. } | Event::View(_) | Event::LeaseLost | Event::LoadGuide { .. } => {
            }
        }
    }

    /// Who handles what: the first screen to read.
    fn dispatch(
        &mut self,
        from: InstanceId,
        page: &Hashed,
        message: &Pcm,
        effects: &mut Vec<Effect>,
    ) {
        let tag = page.tag;
        let (directory, holdings, mut out) = self.parts(effects);
        let out = &mut out;
        match *message {
            // To the master.
            Pcm::Acquire { request, want, .. }
                if out.view.master_of(page.partition()) != out.me =>
            {
                out.anomalies.not_master += 1;
                out.refuse(from, tag, request, want, Verdict::NotMaster);
            }
            // Its cancel was said to a former master, or has come before it.
            Pcm::Acquire { request, want, .. }
                if from == out.me && holdings.has_cancelled(&tag, request) =>
            {
                out.refuse(from, tag, request, want, Verdict::Cancelled);
            }
            Pcm::Acquire { .. }
            | Pcm::Claim { .. }
            | Pcm::Release { .. }
            | Pcm::Cancel { .. }
            | Pcm::Written { .. }
            | Pcm::Discarded { .. }
            | Pcm::WriteRequest { .. }
            | Pcm::Refuse { .. }
            | Pcm::Report { .. }
            | Pcm::Assigned { .. } => directory.handle(from, page, message, out),
            // To a holder.
            Pcm::Ship { .. } | Pcm::Invalidate { .. } => {
                holdings.of_any(page, out, |page| page.revoke(message));
            }
            Pcm::Claimed { request, grant } => {
                holdings.of(page, out, |page| page.claimed(request, grant));
            }
            Pcm::Released { grant } => holdings.of(page, out, |page| page.released(grant)),
            Pcm::Write { .. } => holdings.of(page, out, |page| page.write_asked()),
            Pcm::Discard { version } => holdings.of_any(page, out, |page| page.discard(version)),
            Pcm::Query { fence } => holdings.of_any(page, out, |page| page.query(from, fence)),
            Pcm::GuideWanted => holdings.guide_wanted(&page.tag, out.view),
            Pcm::Assign { mode, grant, dirty } => {
                holdings.of_any(page, out, |page| page.assign(from, mode, grant, dirty));
            }
            // To the requester.
            Pcm::Response { .. } => {
                holdings.of_any(page, out, |page| page.response(from, message));
            }
            Pcm::Invalidated { request, grant, dirty } => {
                holdings.of_any(page, out, |page| page.invalidated(from, request, grant, dirty));
            }
            // About no page's state.
            Pcm::Nak { .. } => out.fenced.naks += 1,
            Pcm::NodeClear { .. } => out.fenced.node_clears += 1,
            Pcm::StatRequest { about } => {
                let stat = self.stat(&tag, about);
                let view = Arc::clone(&self.view);
                self.out(&view, effects).send(from, tag, Pcm::StatReply(stat));
            }
            Pcm::StatReply(stat) => out.effect(Effect::StatReply { from, tag, stat }),
        }
    }

    // ---- views ---------------------------------------------------------------------------------

    fn change_view(&mut self, view: Arc<View>, effects: &mut Vec<Effect>) {
        if view.epoch() <= self.view.epoch() {
            return;
        }
        let is_member = view.standing(self.me, self.incarnation) == Standing::Member;
        if !is_member {
            self.lose_lease(effects);
            return;
        }
        let epoch = view.epoch();
        let old = std::mem::replace(&mut self.view, view);
        let (directory, holdings, mut out) = self.parts(effects);
        directory.change_view(&old, &mut out);
        holdings.change_view(&old, &mut out);
        for partition in out.view.changed(&old) {
            if out.view.master_of(partition) == out.me {
                let me = out.me;
                holdings
                    .tell_own(partition, out.view, |record| directory.guide(me, record, &mut out));
            }
        }
        // Of whatever is being collected this instance has told what it has.
        directory.guide(out.me, GuideRecord::Nothing { epoch }, &mut out);
        effects.push(Effect::ViewInstalled { epoch });
        for guide in std::mem::take(&mut self.parked_guides) {
            self.guide(guide, effects);
        }
    }

    fn guide(&mut self, guide: ParkedGuide, effects: &mut Vec<Effect>) {
        let (from, incarnation, epoch, _) = guide;
        let standing = self.view.standing(from, incarnation);
        if standing == Standing::Unknown || epoch > self.view.epoch() {
            self.fenced.parked += 1;
            self.parked_guides.push(guide);
            return;
        }
        if standing == Standing::Past {
            self.fenced.not_member += 1;
            return;
        }
        let (directory, _, mut out) = self.parts(effects);
        for record in guide.3 {
            directory.guide(from, record, &mut out);
        }
    }

    /// This instance is out: it answers nothing any more.
    fn lose_lease(&mut self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Fence);
        let (_, holdings, mut out) = self.parts(effects);
        holdings.fail_all(&mut out);
        self.is_out = true;
    }

    // ---- to look at ----------------------------------------------------------------------------

    fn stat(&self, tag: &BufferTag, about: StatAbout) -> Stat {
        match about {
            StatAbout::Page => Stat::Page(self.directory.stat(tag)),
            StatAbout::Instance => {
                let mine = |p: &u16| self.view.master_of(PartitionId(*p)) == self.me;
                let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
                Stat::Instance(InstanceStat {
                    entries: self.directory.len() as u64,
                    partitions: count((0..PARTITIONS).filter(mine).count()),
                    loading: count(self.directory.loading().count()),
                    ..self.holdings.stat()
                })
            }
        }
    }

    /// Partitions that this instance masters and that are not usable yet.
    pub fn loading(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.directory.loading()
    }

    /// Whether this instance, which masters nothing any more, can leave: it holds nothing, keeps
    /// nothing for others, and has told new masters everything.
    #[must_use]
    pub fn may_go(&self) -> bool {
        let masters = |p: u16| self.view.master_of(PartitionId(p)) == self.me;
        self.holdings.is_empty() && !self.holdings.has_to_tell() && !(0..PARTITIONS).any(masters)
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

fn park(out: &mut Out<'_>) {
    out.fenced.parked += 1;
    out.effect(Effect::Park);
}

/// A page that came with it is not taken. A NAK changes nothing where it comes: requests are sent
/// again, and all else follows, when the sender has the view.
fn refuse_epoch(
    from: InstanceId,
    me: InstanceId,
    tag: BufferTag,
    message: &Pcm,
    out: &mut Out<'_>,
) {
    out.fenced.stale_epoch += 1;
    if from == me {
        return;
    }
    let (kind, reason, view) = (message.kind(), NakReason::StaleEpoch, out.view.epoch());
    let request = message.request().unwrap_or_default();
    out.send(from, tag, Pcm::Nak { kind, request, reason, view });
}

/// Whether the message asks for an answer to a requester that is no member yet.
fn is_for_unknown(view: &View, message: &Pcm) -> bool {
    let (Pcm::Ship { request, .. } | Pcm::Invalidate { request, .. }) = message else {
        return false;
    };
    view.standing(request.instance, request.incarnation) == Standing::Unknown
}

#[cfg(test)]
mod tests;
