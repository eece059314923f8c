//! The master's side: what everyone was granted of the pages that this instance masters.
//!
//! Invariants: one conversion per page at a time, and it ends only with the requester's claim, with
//! its release of the grant when storage could not give it the page, or with a repair; every grant
//! of a page has a greater number than the ones before; while a page is exclusive its owner is its
//! only holder; the owner holds the current version, and is the write-owner if there is one.
//!
//! ```text
//!  message \ entry | free               | converting          | repairing        | lost
//!  ----------------+--------------------+---------------------+------------------+----------------
//!  ACQUIRE         | grant ([`convert`])| queue; repeated:    | queue            | queue
//!                  |                    |   ignore            |                  |
//!   of recovery    | RESPONSE NotLost   | RESPONSE NotLost    | queue            | grant
//!  CLAIM           | repeated: CLAIMED  | this grant: record, | of an old grant: | -
//!                  |   again            |   CLAIMED, next     |   CLAIMED        |
//!  RELEASE         | holder: remove,    | this grant: over;   | when it is over; | -
//!                  |   RELEASED         | not involved: remove| of one that is to|
//!                  |                    | ships S: after claim| report or was    |
//!                  |                    | revoked: ignore     | assigned: ignore |
//!  CANCEL          | -                  | queued: RESPONSE    | the same         | queued: the same
//!                  |                    |   Cancelled; this   |                  |
//!                  |                    |   request: NotLost  |                  |
//!  WRITTEN         | note, DISCARD to whoever has a past image ([`past_images`])
//!  DISCARDED       | one past image less, unless a newer one may be there
//!  WRITE_REQUEST   | to the owner; if   | when it is over     | when it is over  | ignore
//!                  | nobody: DISCARD    |                     |                  |
//!  REFUSE          | ignore             | this grant: repair  | ignore           | -
//!  REPORT          | ignore             | ignore              | last one: merge, | -
//!                  |                    |                     | ASSIGN ([`repair`])
//!  ASSIGNED        | ignore             | ignore              | last one: next   | -
//!  ----------------+------------------------------------------------------------------------------
//!  any, of a partition that is being collected: deferred until it is complete ([`moves`])
//!  any, after which nobody has the page and storage has it whole: the entry is forgotten
//!  view: holder died | remove           | remove              | start over       | -
//!    (plain S)       |                  |                     |                  |
//!  view: party died  | repair           | repair              | start over       | find next base
//! ```

mod convert;
mod moves;
mod past_images;
mod repair;

use super::{
    fifo::{Fifo, FifoPool},
    out::Out,
    store::{Entry, Hashed, InstanceSet, Slot, Step, Store},
};
use crate::view::Life;
use moves::Moves;
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, Mode, PageStat, Pcm, RequestId, pcm::Verdict,
};
use repair::Repair;

/// What a requester wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    id: RequestId,
    want: Mode,
    /// It applies redo: it may have what is lost.
    recovery: bool,
}

/// A grant on its way, from the decision to the claim.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    request: RequestId,
    want: Mode,
    recovery: bool,
    grant: GrantNumber,
    /// Who ships the page.
    source: Option<InstanceId>,
    /// Who was told to give it up.
    invalidated: InstanceSet,
}

/// What only few entries have at a time.
#[derive(Debug, Clone, Default)]
struct Rare {
    conversion: Option<Conversion>,
    repair: Option<Box<Repair>>,
    queue: Fifo,
    /// Holders that release the page as soon as what is under way is over.
    leaving: InstanceSet,
    /// Someone wants the page written as soon as what is under way is over.
    write_wanted: bool,
    /// The current version died with an instance, and its redo is not applied yet.
    lost: bool,
    /// Nobody holds the page; this is the newest past image of it.
    base: Option<(InstanceId, Lsn)>,
}

impl Rare {
    fn is_nothing(&self) -> bool {
        self.conversion.is_none()
            && self.repair.is_none()
            && self.queue.is_empty()
            && !self.lost
            && self.base.is_none()
    }
}

/// An entry while a message is handled.
#[derive(Debug)]
struct Page {
    of: Hashed,
    slot: Slot,
    entry: Entry,
    rare: Rare,
}

/// What decides how a message is handled.
enum State {
    Free,
    Converting(Conversion),
    Repairing,
    Lost,
}

impl Page {
    fn state(&self) -> State {
        match (&self.rare.repair, self.rare.conversion) {
            (Some(_), _) => State::Repairing,
            (None, Some(conversion)) => State::Converting(conversion),
            (None, None) if self.rare.lost => State::Lost,
            (None, None) => State::Free,
        }
    }
}

/// What the directory says of one page, for tools and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryView {
    /// Who holds the current version.
    pub owner: Option<InstanceId>,
    /// Whether the owner holds it exclusively.
    pub exclusive: bool,
    /// Everyone who holds it.
    pub holders: Vec<InstanceId>,
    /// Everyone who keeps a past image of it.
    pub past_images: Vec<InstanceId>,
    /// Greatest version known to the master.
    pub version: Lsn,
    /// Greatest version that the master knows to be on storage.
    pub stored: Lsn,
    /// The last grant number given.
    pub grant: GrantNumber,
    /// Whether a grant is on its way.
    pub converting: bool,
    /// Whether the master is finding out who has the page.
    pub repairing: bool,
    /// Whether it waits for the redo of an instance that has died.
    pub lost: bool,
    /// Requests that wait.
    pub queued: usize,
}

/// All entries of one master.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    store: Store<Rare>,
    pool: FifoPool<Request>,
    moves: Moves,
    /// Instances that have died and whose redo is not applied yet.
    unredone: Vec<Life>,
    /// Those whose redo was applied, while the view still names them.
    redone: Vec<Life>,
}

#[cfg(feature = "planted")]
impl Directory {
    /// See [`Grd::fingerprint`](super::Grd::fingerprint).
    pub(super) fn fingerprint(&self, tag: &BufferTag, hasher: &mut impl std::hash::Hasher) {
        use super::fingerprint::feed;
        let partition = tag.partition();
        feed(
            hasher,
            &(&self.unredone, &self.redone, self.store.floor(partition), self.store.is_untidy()),
        );
        feed(hasher, &(self.moves.of(partition), self.may_be_lost(tag)));
        feed(hasher, &self.view(tag));
        if let Some(rare) = self.store.find(tag).and_then(|slot| self.store.rare(slot)) {
            feed(
                hasher,
                &(rare.conversion, &rare.repair, rare.leaving, rare.write_wanted, rare.base),
            );
            for request in self.pool.iter(rare.queue) {
                feed(hasher, request);
            }
        }
    }
}

impl Directory {
    pub(super) fn new() -> Self {
        Self {
            store: Store::new(),
            pool: FifoPool::new(),
            moves: Moves::default(),
            unredone: Vec::new(),
            redone: Vec::new(),
        }
    }

    /// Brings what is known of a page nearer to the processor.
    #[inline(always)] // As `Shard::approach_by`.
    pub(super) fn approach(&self, page: &mut Hashed, step: Step) {
        self.store.approach(page, step);
    }

    // ---- entries -------------------------------------------------------------------------------

    fn load(&mut self, tag: BufferTag) -> Page {
        let of = Hashed::of(tag);
        let slot = self.store.insert_hashed(&of).0;
        self.load_slot(&of, slot)
    }

    fn load_slot(&mut self, of: &Hashed, slot: Slot) -> Page {
        let rare = self.store.take_rare(slot).unwrap_or_default();
        Page { of: *of, slot, entry: *self.store.get(slot), rare }
    }

    fn save(&mut self, page: Page) {
        debug_assert!(
            !page.entry.is_exclusive() || page.entry.holders.count() == 1,
            "exclusive, and {:?} hold it",
            page.entry.holders
        );
        *self.store.get_mut(page.slot) = page.entry;
        if !page.rare.is_nothing() {
            self.store.put_rare(page.slot, page.rare);
        } else if page.entry.holders.is_empty() {
            // A page that nobody has and that storage has whole: what is asked for it next is answered as
            // if it had never been asked for, with later grant numbers.
            self.store.forget(page.slot);
        }
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = BufferTag> + '_ {
        self.slots(|_, _| true).into_iter().map(|slot| self.store.tag(slot))
    }

    /// The entries that `wanted` is true for; it is told whether there is rare state.
    fn slots(&self, wanted: impl Fn(&Entry, bool) -> bool) -> Vec<Slot> {
        let wanted =
            |(slot, entry): &(Slot, &Entry)| wanted(entry, self.store.rare(*slot).is_some());
        self.store.iter().filter(wanted).map(|(slot, _)| slot).collect()
    }

    pub(super) fn view(&self, tag: &BufferTag) -> Option<EntryView> {
        let slot = self.store.find(tag)?;
        let (entry, rare) = (self.store.get(slot), self.store.rare(slot));
        let is = |what: fn(&Rare) -> bool| rare.is_some_and(what);
        Some(EntryView {
            owner: entry.owner(),
            exclusive: entry.is_exclusive(),
            holders: entry.holders.iter().collect(),
            past_images: entry.past.iter().collect(),
            version: entry.version,
            stored: entry.stored,
            grant: entry.grant(),
            converting: is(|rare| rare.conversion.is_some()),
            repairing: is(|rare| rare.repair.is_some()),
            lost: is(|rare| rare.lost),
            queued: rare.map_or(0, |rare| self.pool.iter(rare.queue).count()),
        })
    }

    pub(super) fn stat(&self, tag: &BufferTag) -> PageStat {
        let Some(it) = self.view(tag) else { return PageStat::default() };
        let mask =
            |ids: &[InstanceId]| ids.iter().fold(InstanceSet::default(), |set, id| set.with(*id)).0;
        PageStat {
            known: true,
            owner: it.owner,
            exclusive: it.exclusive,
            holders: mask(&it.holders),
            past_images: mask(&it.past_images),
            version: it.version,
            stored: it.stored,
            queued: u16::try_from(it.queued).unwrap_or(u16::MAX),
            grant: it.grant,
            converting: it.converting,
            repairing: it.repairing,
            lost: it.lost,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.store.len()
    }

    // ---- messages ------------------------------------------------------------------------------

    /// Handles what is said to a master: the table above.
    pub(super) fn handle(
        &mut self,
        from: InstanceId,
        of: &Hashed,
        message: &Pcm,
        out: &mut Out<'_>,
    ) {
        if self.defers(from, of, message, out) {
            return;
        }
        if let Pcm::Acquire { request, want, recovery } = *message {
            self.acquire(of, Request { id: request, want, recovery }, out);
            return;
        }
        let Some(slot) = self.store.find_hashed(of) else {
            self.unknown(from, of.tag, message, out);
            return;
        };
        let mut page = self.load_slot(of, slot);
        match *message {
            Pcm::Claim { .. } => self.claim(&mut page, message, out),
            Pcm::Release { grant, version } => self.release(&mut page, from, grant, version, out),
            Pcm::Cancel { request } => self.cancel(&mut page, request, out),
            Pcm::Written { version, .. } => past_images::written(&mut page, version, out),
            Pcm::Discarded { version } => past_images::discarded(&mut page, from, version),
            Pcm::WriteRequest { version } => {
                past_images::write_request(&mut page, from, version, out);
            }
            Pcm::Refuse { request, grant } => self.refuse(&mut page, request, grant, out),
            Pcm::Report { fence, report } => self.report(&mut page, from, fence, report, out),
            Pcm::Assigned { grant } => self.assigned(&mut page, from, grant, out),
            _ => {}
        }
        self.save(page);
    }

    /// What is said of a page that has no entry: it was never asked for, or is forgotten.
    fn unknown(&mut self, from: InstanceId, tag: BufferTag, message: &Pcm, out: &mut Out<'_>) {
        let given = self.store.floor(tag.partition());
        match *message {
            // Of a grant that was given, and is over: as for an entry that is there.
            Pcm::Claim { request, grant, .. } if grant <= given => {
                out.send(request.instance, tag, Pcm::Claimed { request, grant });
            }
            Pcm::Release { grant, .. } if grant <= given => {}
            Pcm::Claim { .. } | Pcm::Release { .. } => out.anomalies.no_grant += 1,
            // A master that came later has not heard of it, because nothing was held: then storage
            // has the newest version.
            Pcm::WriteRequest { version } if !self.may_be_lost(&tag) => {
                out.send(from, tag, Pcm::Discard { version });
            }
            _ => {}
        }
    }

    fn acquire(&mut self, of: &Hashed, request: Request, out: &mut Out<'_>) {
        let tag = of.tag;
        let (slot, is_new) = self.store.insert_hashed(of);
        let mut page = self.load_slot(of, slot);
        page.rare.lost |= is_new && self.may_be_lost(&tag);
        match page.state() {
            State::Lost if request.recovery => convert::start(&mut page, request, out),
            State::Converting(c) if c.request == request.id => {}
            State::Free | State::Converting(_) if request.recovery && !page.rare.lost => {
                out.refuse(request.id.instance, tag, request.id, request.want, Verdict::NotLost);
            }
            State::Free => convert::start(&mut page, request, out),
            _ if self.pool.iter(page.rare.queue).any(|queued| queued.id == request.id) => {}
            _ => self.pool.push(&mut page.rare.queue, request),
        }
        self.save(page);
    }

    /// Who cancels may do so because redo needs the page, which must not wait for the guards of threads
    /// that wait for redo. What is being granted is not lost.
    fn cancel(&mut self, page: &mut Page, request: RequestId, out: &mut Out<'_>) {
        if let State::Converting(c) = page.state()
            && c.request == request
            && !page.rare.lost
        {
            out.refuse(request.instance, page.of.tag, request, c.want, Verdict::NotLost);
            return;
        }
        let is_it = |queued: &Request| queued.id == request;
        let want = self.pool.iter(page.rare.queue).find(|q| is_it(q)).map(|queued| queued.want);
        let Some(want) = want else { return };
        self.pool.remove(&mut page.rare.queue, is_it);
        out.refuse(request.instance, page.of.tag, request, want, Verdict::Cancelled);
    }

    fn refuse(
        &mut self,
        page: &mut Page,
        request: RequestId,
        grant: GrantNumber,
        out: &mut Out<'_>,
    ) {
        match page.state() {
            State::Converting(c) if c.request == request && c.grant == grant => {
                self.repair(page, InstanceSet::default(), Some(grant), out);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
