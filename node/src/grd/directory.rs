//! The master's side: what everyone was granted of the pages that this instance masters.
//!
//! Invariants: one conversion per page at a time, and it ends only with the requester's claim, or
//! with its release of the grant when storage could not give it the page; every grant of a page has
//! a greater number than the ones before; while a page is exclusive its owner is its only holder;
//! the owner holds the current version, and is the write-owner if there is one.
//!
//! ```text
//!  event \ entry | free                          | converting
//!  --------------+-------------------------------+---------------------------------------------
//!  ACQUIRE S     | owner: SHIP(S) to it          | queue; a repeated request: ignore
//!                | nobody: RESPONSE Storage      |
//!                | requester has it: Held        |
//!  ACQUIRE X     | requester has S: Held         | queue
//!                |   + INVALIDATE the others     |
//!                | owner: SHIP(X) to it          |
//!                |   + INVALIDATE the others     |
//!                | nobody: RESPONSE Storage      |
//!  CLAIM         | repeated: CLAIMED again       | this grant: record, CLAIMED, next in queue
//!  RELEASE       | holder: remove, RELEASED      | this grant: over, RELEASED, next in queue
//!                |                               | not involved: remove, RELEASED
//!                | otherwise: ignore             | ships S: when the claim is there
//!                |                               | being revoked: ignore, the revocation decides
//!  WRITTEN       | note the version              | note the version
//! ```

use super::{
    fifo::{Fifo, FifoPool},
    out::Out,
    table::TagMap,
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict,
};

/// A set of instances with ids below 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct InstanceSet(u64);

impl InstanceSet {
    fn of(id: InstanceId) -> Self {
        Self(1 << (id.0 % 64))
    }

    fn has(self, id: InstanceId) -> bool {
        self.0 & Self::of(id).0 != 0
    }

    fn with(self, id: InstanceId) -> Self {
        Self(self.0 | Self::of(id).0)
    }

    fn without(self, id: InstanceId) -> Self {
        Self(self.0 & !Self::of(id).0)
    }

    fn iter(self) -> impl Iterator<Item = InstanceId> {
        (0..64).map(InstanceId).filter(move |id| self.has(*id))
    }
}

/// A grant on its way, from the decision to the claim.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    request: RequestId,
    want: Mode,
    grant: GrantNumber,
    /// Who ships the page.
    source: Option<InstanceId>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The last grant number given.
    grant: GrantNumber,
    /// Greatest version known; when nobody holds the page, storage has at least this one.
    version: Lsn,
    holders: InstanceSet,
    owner: Option<InstanceId>,
    exclusive: bool,
    conversion: Option<Conversion>,
    queue: Fifo,
    /// Holders that release the page as soon as the conversion is over.
    leaving: InstanceSet,
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
    /// Greatest version known to the master.
    pub version: Lsn,
    /// The last grant number given.
    pub grant: GrantNumber,
    /// Whether a grant is on its way.
    pub converting: bool,
    /// Requests that wait.
    pub queued: usize,
}

/// All entries of one master.
#[derive(Debug)]
pub(super) struct Directory {
    entries: TagMap<Entry>,
    pool: FifoPool<(RequestId, Mode)>,
}

impl Directory {
    pub(super) fn new() -> Self {
        Self { entries: TagMap::default(), pool: FifoPool::new() }
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = BufferTag> + '_ {
        self.entries.keys().copied()
    }

    pub(super) fn view(&self, tag: &BufferTag) -> Option<EntryView> {
        self.entries.get(tag).map(|entry| EntryView {
            owner: entry.owner,
            exclusive: entry.exclusive,
            holders: entry.holders.iter().collect(),
            version: entry.version,
            grant: entry.grant,
            converting: entry.conversion.is_some(),
            queued: self.pool.iter(entry.queue).count(),
        })
    }

    pub(super) fn acquire(
        &mut self,
        tag: BufferTag,
        request: RequestId,
        want: Mode,
        out: &mut Out<'_>,
    ) {
        let entry = self.entries.entry(tag).or_default();
        match entry.conversion {
            None => start(entry, tag, request, want, out),
            Some(c) if c.request == request => {}
            Some(_) if self.pool.iter(entry.queue).any(|(queued, _)| *queued == request) => {}
            Some(_) => self.pool.push(&mut entry.queue, (request, want)),
        }
    }

    pub(super) fn claim(
        &mut self,
        tag: BufferTag,
        request: RequestId,
        mode: Mode,
        grant: GrantNumber,
        version: Lsn,
        out: &mut Out<'_>,
    ) {
        let claimed = Pcm::Claimed { request, grant };
        let claimant = request.instance;
        let entry = self.entries.entry(tag).or_default();
        let Some(conversion) =
            entry.conversion.filter(|c| c.request == request && c.grant == grant)
        else {
            // Repeated, or of nothing that was ever granted.
            if grant <= entry.grant {
                out.send(claimant, tag, claimed);
            } else {
                out.anomalies.no_grant += 1;
            }
            return;
        };
        entry.version = entry.version.max(version);
        match mode {
            Mode::X => {
                entry.holders = InstanceSet::of(claimant);
                entry.owner = Some(claimant);
                entry.exclusive = true;
            }
            Mode::S | Mode::N => {
                entry.holders = entry.holders.with(claimant);
                entry.owner = entry.owner.or(Some(claimant));
                entry.exclusive = false;
            }
        }
        out.send(claimant, tag, claimed);
        if let Some(source) = conversion.source
            && source != claimant
        {
            out.send(source, tag, claimed);
        }
        self.next(tag, out);
    }

    /// A conversion is over: who was leaving leaves, and the next request is granted.
    fn next(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let entry = self.entries.entry(tag).or_default();
        entry.conversion = None;
        for leaver in std::mem::take(&mut entry.leaving).iter() {
            if entry.holders.has(leaver) {
                remove(entry, tag, leaver, entry.grant, out);
            }
        }
        if let Some((request, want)) = self.pool.pop(&mut entry.queue) {
            start(entry, tag, request, want, out);
        }
    }

    pub(super) fn release(
        &mut self,
        tag: BufferTag,
        from: InstanceId,
        grant: GrantNumber,
        version: Lsn,
        out: &mut Out<'_>,
    ) {
        let Some(entry) = self.entries.get_mut(&tag) else {
            out.anomalies.no_grant += 1;
            return;
        };
        entry.version = entry.version.max(version);
        if entry.conversion.is_some_and(|c| c.request.instance == from && c.grant == grant) {
            // What storage was to give it could not be read, so nobody holds it.
            out.send(from, tag, Pcm::Released { grant });
            self.next(tag, out);
            return;
        }
        if !entry.holders.has(from) {
            return;
        }
        match entry.conversion {
            Some(c) if c.source == Some(from) && c.want == Mode::S => {
                entry.leaving = entry.leaving.with(from);
            }
            Some(c) if c.want == Mode::X && c.request.instance != from => {}
            _ => remove(entry, tag, from, grant, out),
        }
    }

    pub(super) fn written(&mut self, tag: BufferTag, version: Lsn) {
        if let Some(entry) = self.entries.get_mut(&tag) {
            entry.version = entry.version.max(version);
        }
    }
}

/// Decides how a request is granted. The entry is not converting.
fn start(entry: &mut Entry, tag: BufferTag, request: RequestId, want: Mode, out: &mut Out<'_>) {
    let requester = request.instance;
    let revokes = entry.grant;
    let grant = entry.grant.next();
    entry.grant = grant;
    let has_it = entry.holders.has(requester);
    let source = entry.owner.filter(|_| !has_it);
    let others = entry.holders.without(requester);
    let invalidate = match want {
        Mode::X => source.map_or(others, |source| others.without(source)),
        Mode::S | Mode::N => InstanceSet::default(),
    };
    let acks = invalidate.0;
    entry.conversion = Some(Conversion { request, want, grant, source });
    for holder in invalidate.iter() {
        out.send(holder, tag, Pcm::Invalidate { request, grant, revokes });
    }
    if let Some(source) = source {
        out.send(source, tag, Pcm::Ship { request, want, grant, revokes, acks, past: false });
        return;
    }
    let verdict = if has_it { Verdict::Held } else { Verdict::Storage };
    let version = entry.version;
    let response = Pcm::Response {
        request,
        verdict,
        mode: want,
        grant,
        version,
        acks,
        dirty: false,
        unsaved: false,
        past: false,
        writer: out.me,
    };
    out.send(requester, tag, response);
}

/// `leaver` no longer holds the page; another holder becomes owner if it was.
fn remove(
    entry: &mut Entry,
    tag: BufferTag,
    leaver: InstanceId,
    grant: GrantNumber,
    out: &mut Out<'_>,
) {
    entry.holders = entry.holders.without(leaver);
    if entry.owner == Some(leaver) {
        entry.owner = entry.holders.iter().next();
        entry.exclusive = false;
    }
    out.send(leaver, tag, Pcm::Released { grant });
}
