//! PCM messages: what instances say to each other about one page.
//!
//! All share one fixed body of 80 bytes, so that decoding is one check of one layout; fields that
//! a message does not use are zero, and a decoder refuses them otherwise.
//!
//! ```text
//!  0     20         22     23      24         32            40      48        56        64     72      74      76   80
//!  +-----+----------+------+-------+----------+-------------+-------+---------+---------+------+-------+-------+----+
//!  | tag | request  | mode |verdict| request  | request     | grant | revokes | version | mask | flags | small | -  |
//!  |     | instance |      |       | sequence | incarnation |       |         |         |      |       |       |    |
//!  +-----+----------+------+-------+----------+-------------+-------+---------+---------+------+-------+-------+----+
//! ```
//! Sets of instances are masks: bit n is instance n. Who sends what, and what answers it, is in
//! [`crate::catalog`] and docs/messages.md; what a REPORT and a STAT_REPLY put where, in
//! [`crate::guide`] and [`crate::stat`].

use crate::{
    BufferTag, DecodeError, Epoch, Fork, GrantNumber, Incarnation, InstanceId, Lane, Lsn,
    MessageKind, Mode, RequestId,
    guide::{Report, Transit},
    stat::{InstanceStat, PageStat, Stat, StatAbout},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Bytes of a PCM body.
pub const PCM_BODY_BYTES: usize = 80;

/// Message numbers. Those that users of the original know keep their values.
pub mod kind {
    use crate::MessageKind;

    /// See [`Pcm::Acquire`](super::Pcm::Acquire).
    pub const PCM_ACQUIRE: MessageKind = MessageKind(1);
    /// See [`Pcm::Ship`](super::Pcm::Ship).
    pub const PCM_SHIP: MessageKind = MessageKind(2);
    /// See [`Pcm::Invalidate`](super::Pcm::Invalidate).
    pub const PCM_INVALIDATE: MessageKind = MessageKind(3);
    /// See [`Pcm::Invalidated`](super::Pcm::Invalidated).
    pub const PCM_INVALIDATED: MessageKind = MessageKind(4);
    /// See [`Pcm::Claim`](super::Pcm::Claim).
    pub const PCM_CLAIM: MessageKind = MessageKind(5);
    /// See [`Pcm::Claimed`](super::Pcm::Claimed).
    pub const PCM_CLAIMED: MessageKind = MessageKind(6);
    /// See [`Pcm::Release`](super::Pcm::Release).
    pub const PCM_RELEASE: MessageKind = MessageKind(7);
    /// See [`Pcm::Released`](super::Pcm::Released).
    pub const PCM_RELEASED: MessageKind = MessageKind(8);
    /// See [`Pcm::Written`](super::Pcm::Written).
    pub const PCM_WRITTEN: MessageKind = MessageKind(9);
    /// See [`Pcm::Cancel`](super::Pcm::Cancel).
    pub const PCM_CANCEL_BUSY_REQUEST: MessageKind = MessageKind(13);
    /// See [`Pcm::StatRequest`](super::Pcm::StatRequest).
    pub const PCM_STAT_REQUEST: MessageKind = MessageKind(14);
    /// See [`Pcm::StatReply`](super::Pcm::StatReply).
    pub const PCM_STAT_REPLY: MessageKind = MessageKind(15);
    /// See [`Pcm::Nak`](super::Pcm::Nak).
    pub const PCM_NAK: MessageKind = MessageKind(16);
    /// See [`Pcm::NodeClear`](super::Pcm::NodeClear).
    pub const FAULT_NODE_CLEAR: MessageKind = MessageKind(17);
    /// See [`Pcm::Discard`](super::Pcm::Discard).
    pub const PCM_DISCARD: MessageKind = MessageKind(18);
    /// See [`Pcm::Discarded`](super::Pcm::Discarded).
    pub const PCM_DISCARDED: MessageKind = MessageKind(19);
    /// See [`Pcm::WriteRequest`](super::Pcm::WriteRequest).
    pub const PCM_WRITE_REQUEST: MessageKind = MessageKind(20);
    /// See [`Pcm::Refuse`](super::Pcm::Refuse).
    pub const PCM_REFUSE: MessageKind = MessageKind(21);
    /// See [`Pcm::Query`](super::Pcm::Query).
    pub const PCM_QUERY: MessageKind = MessageKind(22);
    /// See [`Pcm::Report`](super::Pcm::Report).
    pub const PCM_REPORT: MessageKind = MessageKind(23);
    /// See [`Pcm::Assign`](super::Pcm::Assign).
    pub const PCM_ASSIGN: MessageKind = MessageKind(24);
    /// See [`Pcm::Assigned`](super::Pcm::Assigned).
    pub const PCM_ASSIGNED: MessageKind = MessageKind(25);
    /// See [`Pcm::Write`](super::Pcm::Write).
    pub const PCM_WRITE: MessageKind = MessageKind(26);
    /// Shadow information in bulk: see [`crate::guide`].
    pub const PCM_LOAD_GUIDE: MessageKind = MessageKind(101);
    /// See [`Pcm::Response`](super::Pcm::Response).
    pub const PCM_RESPONSE: MessageKind = MessageKind(102);
}

/// How a request is granted, or why it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Verdict {
    /// The page comes in this message's frame.
    Page = 1,
    /// No instance holds the page: read it from storage.
    Storage = 2,
    /// The requester holds the current page already: no page comes.
    Held = 3,
    /// Over: the requester has cancelled the request before it was granted.
    Cancelled = 4,
    /// Refused: the receiver of the request does not master the page.
    NotMaster = 5,
    /// Refused: the instance that was told to ship the page does not have it.
    NotHolder = 6,
    /// The requester's own past image may be the newest there is: compare it with storage.
    OwnPastImage = 7,
    /// Nothing of the page is missing: it needs no redo. Refuses a request that is for redo; says of
    /// one that is not, and that was cancelled, that it is being granted and goes on.
    NotLost = 8,
}

impl Verdict {
    const ALL: [Self; 8] = [
        Self::Page,
        Self::Storage,
        Self::Held,
        Self::Cancelled,
        Self::NotMaster,
        Self::NotHolder,
        Self::OwnPastImage,
        Self::NotLost,
    ];

    fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|v| *v as u8 == byte)
    }

    /// True when the request was not granted.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Cancelled | Self::NotMaster | Self::NotHolder | Self::NotLost)
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum NakReason {
    /// Its partition epoch is older than the receiver's.
    StaleEpoch = 1,
}

/// A PCM message; the page it speaks of travels beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pcm {
    /// "Give me this page in mode `want`."
    Acquire {
        /// The request, for ever unique.
        request: RequestId,
        /// S or X.
        want: Mode,
        /// The requester applies the redo of dead instances: it may have a page that is lost to others.
        recovery: bool,
    },
    /// "Ship the page to the requester and keep at most what `want` leaves you."
    Ship {
        /// The request to answer.
        request: RequestId,
        /// Mode that the requester gets: S leaves the shipper S, X leaves it N.
        want: Mode,
        /// Number of the grant that the requester gets.
        grant: GrantNumber,
        /// The shipper's grant that this revokes (or weakens): the last one numbered up to here.
        revokes: GrantNumber,
        /// Instances whose PCM_INVALIDATED the requester has to wait for.
        acks: u64,
        /// Nobody holds the page: ship the past image, and keep it.
        past: bool,
    },
    /// "Give the page up, and tell the requester when you have."
    Invalidate {
        /// The request that waits for it.
        request: RequestId,
        /// Number of the grant that the requester gets.
        grant: GrantNumber,
        /// The receiver's grant that this revokes: the last one numbered up to here.
        revokes: GrantNumber,
    },
    /// "I have given it up."
    Invalidated {
        /// The request that waited for it.
        request: RequestId,
        /// The grant it is given up for.
        grant: GrantNumber,
        /// The sender's copy was dirty: the duty to write it is now the requester's.
        dirty: bool,
    },
    /// "I hold it."
    Claim {
        /// The request that is thereby over.
        request: RequestId,
        /// Mode that is held.
        mode: Mode,
        /// Grant that is held.
        grant: GrantNumber,
        /// Version of the page that is held.
        version: Lsn,
        /// Instances that handed the duty to write over with this grant: each keeps a past image.
        past: u64,
    },
    /// "The claim is recorded": to the claimant, and to the shipper, whose copy is in transit no more.
    Claimed {
        /// The request.
        request: RequestId,
        /// Number of the grant.
        grant: GrantNumber,
    },
    /// "I want to give it up; nothing of it is left for me to write." Also of a grant that was not
    /// claimed, because storage could not give the page.
    Release {
        /// Grant to give up.
        grant: GrantNumber,
        /// Version of the page.
        version: Lsn,
    },
    /// "You no longer hold it."
    Released {
        /// Grant that was given up.
        grant: GrantNumber,
    },
    /// "I have written it; I keep it."
    Written {
        /// Grant under which it was written.
        grant: GrantNumber,
        /// Version on storage.
        version: Lsn,
    },
    /// "I do not want it any more, if it is not granted yet."
    Cancel {
        /// The request.
        request: RequestId,
    },
    /// "What do you know of it?"
    StatRequest {
        /// The page, or the whole instance.
        about: StatAbout,
    },
    /// "That."
    StatReply(
        /// What is known.
        Stat,
    ),
    /// "Not taken"; the epoch in the header is the receiver's partition epoch of the page.
    Nak {
        /// The message that was not taken.
        kind: MessageKind,
        /// Its request, if it had one.
        request: RequestId,
        /// Why not.
        reason: NakReason,
        /// Epoch of the view that the refusing instance has.
        view: Epoch,
    },
    /// "What this instance held is cleared in my part of the directory." About no page.
    NodeClear {
        /// Who has died.
        instance: InstanceId,
        /// In which life.
        incarnation: Incarnation,
    },
    /// "This version is on storage: drop your past image if it is not newer."
    Discard {
        /// Version on storage.
        version: Lsn,
    },
    /// "I have no past image up to that version."
    Discarded {
        /// The version that was named.
        version: Lsn,
    },
    /// "Have the page written": to the master.
    WriteRequest {
        /// The version that is to be superseded on storage.
        version: Lsn,
    },
    /// "Write the page": from the master to whoever has its newest version.
    Write {
        /// Version that is known to be on storage.
        version: Lsn,
    },
    /// "I cannot take this grant": the master finds out who has the page.
    Refuse {
        /// The request.
        request: RequestId,
        /// Number of the grant.
        grant: GrantNumber,
    },
    /// "Tell me what you have of the page; forget revocations and grants numbered below the fence."
    Query {
        /// Greater than every grant of the page so far.
        fence: GrantNumber,
    },
    /// "That."
    Report {
        /// The fence of the query.
        fence: GrantNumber,
        /// What the sender has.
        report: Report,
    },
    /// "This is what you have of the page now", whatever you reported.
    Assign {
        /// N: the copy in transit is one no more. S: it is held, as the current version.
        mode: Mode,
        /// Number of this assignment.
        grant: GrantNumber,
        /// The duty to write the page is with the receiver.
        dirty: bool,
    },
    /// "It is as you say."
    Assigned {
        /// The assignment.
        grant: GrantNumber,
    },
    /// The answer to a request, from the master or from the shipper.
    Response {
        /// The request.
        request: RequestId,
        /// How it is granted, or why not.
        verdict: Verdict,
        /// Mode granted.
        mode: Mode,
        /// Number of the grant.
        grant: GrantNumber,
        /// Page: its version. Storage: the least version that the read must return.
        version: Lsn,
        /// Instances whose PCM_INVALIDATED the requester has to wait for.
        acks: u64,
        /// The page is dirty and the duty to write it is now the requester's.
        dirty: bool,
        /// The page is dirty and the duty to write it stays with the shipper.
        unsaved: bool,
        /// The page is a past image: storage may have a newer one.
        past: bool,
        /// Whose change the page carries, as far as is known; the shipper itself when it is not.
        writer: InstanceId,
    },
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Default, PartialEq)]
#[repr(C)]
struct WirePcm {
    tag: [U32; 5],
    request_instance: U16,
    mode: u8,
    verdict: u8,
    request_sequence: U64,
    request_incarnation: U64,
    grant: U64,
    revokes: U64,
    version: U64,
    mask: U64,
    flags: U16,
    small: U16,
    reserved: U32,
}
const _: () = assert!(size_of::<WirePcm>() == PCM_BODY_BYTES);
const _: () = assert!(PCM_BODY_BYTES <= crate::header::BODY_BYTES_MAX);

/// The bits of the flags field; which of them a message uses its arm of encode says.
mod flag {
    pub(super) const DIRTY: u16 = 1;
    pub(super) const UNSAVED: u16 = 2;
    pub(super) const PAST: u16 = 4;
    pub(super) const RECOVERY: u16 = 8;
    pub(super) const TRANSIT: u16 = 16;
    pub(super) const TRANSIT_DIRTY: u16 = 32;
    pub(super) const INSTANCE: u16 = 64;
    pub(super) const EXCLUSIVE: u16 = 128;
    pub(super) const CONVERTING: u16 = 256;
    pub(super) const LOST: u16 = 512;
    pub(super) const REPAIRING: u16 = 1024;
    pub(super) const KNOWN: u16 = 2048;
    pub(super) const PENDING: u16 = 4096;
    pub(super) const TO_DEAD: u16 = 8192;
}

/// Grant numbers have 48 bits.
const GRANT_BITS: u64 = (1 << 48) - 1;

fn high_u16(word: u64) -> u32 {
    u32::try_from(word >> 48).unwrap_or(0)
}

impl WirePcm {
    fn set_request(&mut self, request: RequestId) {
        self.request_instance = U16::new(request.instance.0);
        self.request_incarnation = U64::new(request.incarnation.0);
        self.request_sequence = U64::new(request.sequence);
    }

    fn request(&self) -> RequestId {
        RequestId {
            instance: InstanceId(self.request_instance.get()),
            incarnation: Incarnation(self.request_incarnation.get()),
            sequence: self.request_sequence.get(),
        }
    }

    fn mode_or_none(&self) -> Result<Mode, DecodeError> {
        Mode::from_wire(self.mode).ok_or(DecodeError::Field {
            what: "PCM mode",
            found: self.mode.into(),
            expected: "0 (N), 1 (S) or 2 (X)",
        })
    }

    fn mode(&self) -> Result<Mode, DecodeError> {
        self.mode_or_none().ok().filter(|&m| m != Mode::N).ok_or(DecodeError::Field {
            what: "PCM mode",
            found: self.mode.into(),
            expected: "1 (S) or 2 (X)",
        })
    }

    fn set(&mut self, flag: u16, on: bool) {
        if on {
            self.flags = U16::new(self.flags.get() | flag);
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    fn set_report(&mut self, report: &Report) {
        let Report { mode, grant, version, dirty, unsaved, writer, transit, past, pending } =
            *report;
        self.mode = mode.to_wire();
        self.grant = U64::new(grant.0 & GRANT_BITS);
        if let Some(request) = pending {
            self.set(flag::PENDING, true);
            self.reserved = U32::new(request);
        }
        self.version = U64::new(version.0);
        self.small = U16::new(writer.0);
        self.set(flag::DIRTY, dirty);
        self.set(flag::UNSAVED, unsaved);
        if let Some(Transit { to, to_dead, request, grant, version, dirty }) = transit {
            // Its request fits in where grant numbers are never: above their 48 bits.
            let halves = (u64::from(request & 0xFFFF) << 48, u64::from(request >> 16) << 48);
            self.grant = U64::new(self.grant.get() | halves.0);
            self.set(flag::TO_DEAD, to_dead);
            self.set(flag::TRANSIT, true);
            self.set(flag::TRANSIT_DIRTY, dirty);
            self.request_instance = U16::new(to.0);
            self.request_sequence = U64::new(grant.0 & GRANT_BITS | halves.1);
            self.request_incarnation = U64::new(version.0);
        }
        if let Some(version) = past {
            self.set(flag::PAST, true);
            self.mask = U64::new(version.0);
        }
    }

    fn report(&self) -> Result<Report, DecodeError> {
        Ok(Report {
            mode: self.mode_or_none()?,
            grant: GrantNumber(self.grant.get() & GRANT_BITS),
            version: Lsn(self.version.get()),
            dirty: self.has(flag::DIRTY),
            unsaved: self.has(flag::UNSAVED),
            writer: InstanceId(self.small.get()),
            transit: self.has(flag::TRANSIT).then(|| Transit {
                to: InstanceId(self.request_instance.get()),
                to_dead: self.has(flag::TO_DEAD),
                request: high_u16(self.grant.get()) | high_u16(self.request_sequence.get()) << 16,
                grant: GrantNumber(self.request_sequence.get() & GRANT_BITS),
                version: Lsn(self.request_incarnation.get()),
                dirty: self.has(flag::TRANSIT_DIRTY),
            }),
            past: self.has(flag::PAST).then(|| Lsn(self.mask.get())),
            pending: self.has(flag::PENDING).then(|| self.reserved.get()),
        })
    }

    fn set_stat(&mut self, stat: &Stat) {
        match *stat {
            Stat::Page(page) => {
                let owner = page.owner.map_or(u16::MAX, |owner| owner.0);
                self.request_instance = U16::new(owner);
                self.request_sequence = U64::new(page.holders);
                self.request_incarnation = U64::new(page.past_images);
                self.grant = U64::new(page.grant.0);
                self.revokes = U64::new(page.stored.0);
                self.version = U64::new(page.version.0);
                self.small = U16::new(page.queued);
                self.set(flag::KNOWN, page.known);
                self.set(flag::EXCLUSIVE, page.exclusive);
                self.set(flag::CONVERTING, page.converting);
                self.set(flag::LOST, page.lost);
                self.set(flag::REPAIRING, page.repairing);
            }
            Stat::Instance(it) => {
                self.set(flag::INSTANCE, true);
                self.request_sequence = U64::new(it.entries);
                self.request_incarnation = U64::new(it.held_shared);
                self.grant = U64::new(it.held_exclusive);
                self.revokes = U64::new(it.dirty);
                self.version = U64::new(it.past_images);
                self.mask = U64::new(it.requests);
                self.small = U16::new(it.partitions);
                self.reserved = U32::new(it.loading.into());
            }
        }
    }

    fn stat(&self) -> Stat {
        if self.has(flag::INSTANCE) {
            return Stat::Instance(InstanceStat {
                entries: self.request_sequence.get(),
                partitions: self.small.get(),
                loading: u16::try_from(self.reserved.get()).unwrap_or(u16::MAX),
                held_shared: self.request_incarnation.get(),
                held_exclusive: self.grant.get(),
                dirty: self.revokes.get(),
                past_images: self.version.get(),
                requests: self.mask.get(),
            });
        }
        let owner = self.request_instance.get();
        Stat::Page(PageStat {
            known: self.has(flag::KNOWN),
            owner: (owner != u16::MAX).then_some(InstanceId(owner)),
            exclusive: self.has(flag::EXCLUSIVE),
            holders: self.request_sequence.get(),
            past_images: self.request_incarnation.get(),
            version: Lsn(self.version.get()),
            stored: Lsn(self.revokes.get()),
            queued: self.small.get(),
            grant: GrantNumber(self.grant.get()),
            converting: self.has(flag::CONVERTING),
            repairing: self.has(flag::REPAIRING),
            lost: self.has(flag::LOST),
        })
    }
}

impl Pcm {
    /// The message's number.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Acquire { .. } => kind::PCM_ACQUIRE,
            Self::Ship { .. } => kind::PCM_SHIP,
            Self::Invalidate { .. } => kind::PCM_INVALIDATE,
            Self::Invalidated { .. } => kind::PCM_INVALIDATED,
            Self::Claim { .. } => kind::PCM_CLAIM,
            Self::Claimed { .. } => kind::PCM_CLAIMED,
            Self::Release { .. } => kind::PCM_RELEASE,
            Self::Released { .. } => kind::PCM_RELEASED,
            Self::Written { .. } => kind::PCM_WRITTEN,
            Self::Cancel { .. } => kind::PCM_CANCEL_BUSY_REQUEST,
            Self::StatRequest { .. } => kind::PCM_STAT_REQUEST,
            Self::StatReply(_) => kind::PCM_STAT_REPLY,
            Self::Nak { .. } => kind::PCM_NAK,
            Self::NodeClear { .. } => kind::FAULT_NODE_CLEAR,
            Self::Discard { .. } => kind::PCM_DISCARD,
            Self::Discarded { .. } => kind::PCM_DISCARDED,
            Self::WriteRequest { .. } => kind::PCM_WRITE_REQUEST,
            Self::Refuse { .. } => kind::PCM_REFUSE,
            Self::Query { .. } => kind::PCM_QUERY,
            Self::Report { .. } => kind::PCM_REPORT,
            Self::Assign { .. } => kind::PCM_ASSIGN,
            Self::Assigned { .. } => kind::PCM_ASSIGNED,
            Self::Write { .. } => kind::PCM_WRITE,
            Self::Response { .. } => kind::PCM_RESPONSE,
        }
    }

    /// The lane it travels on. A response with a page has a frame and goes with the pages; a cancel
    /// stays behind the request it cancels.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Acquire { .. } | Self::Cancel { .. } | Self::StatRequest { .. } => Lane::Requests,
            Self::Response { verdict: Verdict::Page, .. } => Lane::Pages,
            _ => Lane::Control,
        }
    }

    /// True when nobody waits for it: it need not leave before something else does.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(
            self,
            Self::Claimed { .. }
                | Self::Written { .. }
                | Self::Discard { .. }
                | Self::Discarded { .. }
        )
    }

    /// True when it speaks of a page, and its header's epoch is the partition epoch of that page.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        !matches!(
            self,
            Self::Nak { .. }
                | Self::NodeClear { .. }
                | Self::StatRequest { .. }
                | Self::StatReply(_)
        )
    }

    /// The request it speaks of, if it does.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        match *self {
            Self::Acquire { request, .. }
            | Self::Ship { request, .. }
            | Self::Invalidate { request, .. }
            | Self::Invalidated { request, .. }
            | Self::Claim { request, .. }
            | Self::Claimed { request, .. }
            | Self::Cancel { request }
            | Self::Refuse { request, .. }
            | Self::Response { request, .. } => Some(request),
            _ => None,
        }
    }

    /// The 80 bytes of this message about page `tag`.
    #[must_use]
    pub fn encode(&self, tag: BufferTag) -> [u8; PCM_BODY_BYTES] {
        let mut wire = WirePcm {
            tag: [tag.tablespace, tag.database, tag.relation, tag.fork as u32, tag.block]
                .map(U32::new),
            ..WirePcm::default()
        };
        match *self {
            Self::Acquire { request, want, recovery } => {
                wire.set_request(request);
                wire.mode = want.to_wire();
                wire.set(flag::RECOVERY, recovery);
            }
            Self::Ship { request, want, grant, revokes, acks, past } => {
                wire.set_request(request);
                wire.mode = want.to_wire();
                wire.grant = U64::new(grant.0);
                wire.revokes = U64::new(revokes.0);
                wire.mask = U64::new(acks);
                wire.set(flag::PAST, past);
            }
            Self::Invalidate { request, grant, revokes } => {
                wire.set_request(request);
                wire.grant = U64::new(grant.0);
                wire.revokes = U64::new(revokes.0);
            }
            Self::Invalidated { request, grant, dirty } => {
                wire.set_request(request);
                wire.grant = U64::new(grant.0);
                wire.set(flag::DIRTY, dirty);
            }
            Self::Claim { request, mode, grant, version, past } => {
                wire.set_request(request);
                wire.mode = mode.to_wire();
                wire.grant = U64::new(grant.0);
                wire.version = U64::new(version.0);
                wire.mask = U64::new(past);
            }
            Self::Claimed { request, grant } | Self::Refuse { request, grant } => {
                wire.set_request(request);
                wire.grant = U64::new(grant.0);
            }
            Self::Release { grant, version } | Self::Written { grant, version } => {
                wire.grant = U64::new(grant.0);
                wire.version = U64::new(version.0);
            }
            Self::Released { grant } | Self::Assigned { grant } => wire.grant = U64::new(grant.0),
            Self::Cancel { request } => wire.set_request(request),
            Self::StatRequest { about } => {
                wire.set(flag::INSTANCE, about == StatAbout::Instance);
            }
            Self::StatReply(ref stat) => wire.set_stat(stat),
            Self::Nak { kind, request, reason, view } => {
                wire.set_request(request);
                wire.small = U16::new(kind.0);
                wire.verdict = reason as u8;
                wire.version = U64::new(view.0);
            }
            Self::NodeClear { instance, incarnation } => {
                wire.request_instance = U16::new(instance.0);
                wire.request_incarnation = U64::new(incarnation.0);
            }
            Self::Discard { version }
            | Self::Discarded { version }
            | Self::WriteRequest { version }
            | Self::Write { version } => wire.version = U64::new(version.0),
            Self::Query { fence } => wire.grant = U64::new(fence.0),
            Self::Report { fence, ref report } => {
                wire.set_report(report);
                wire.revokes = U64::new(fence.0);
            }
            Self::Assign { mode, grant, dirty } => {
                wire.mode = mode.to_wire();
                wire.grant = U64::new(grant.0);
                wire.set(flag::DIRTY, dirty);
            }
            Self::Response {
                request,
                verdict,
                mode,
                grant,
                version,
                acks,
                dirty,
                unsaved,
                past,
                writer,
            } => {
                wire.set_request(request);
                wire.verdict = verdict as u8;
                wire.mode = mode.to_wire();
                wire.grant = U64::new(grant.0);
                wire.version = U64::new(version.0);
                wire.mask = U64::new(acks);
                wire.set(flag::DIRTY, dirty);
                wire.set(flag::UNSAVED, unsaved);
                wire.set(flag::PAST, past);
                wire.small = U16::new(writer.0);
            }
        }
        let mut bytes = [0; PCM_BODY_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads the body of a message numbered `kind`.
    ///
    /// # Errors
    /// [`DecodeError`] when the number is no PCM message's, the length is not 80 bytes, or a field
    /// holds what no sender writes.
    pub fn decode(kind: MessageKind, body: &[u8]) -> Result<(BufferTag, Self), DecodeError> {
        let wire = WirePcm::ref_from_bytes(body).map_err(|_| DecodeError::Length {
            what: "PCM body",
            found: body.len(),
            expected: PCM_BODY_BYTES,
        })?;
        let fork = wire.tag[3].get();
        let fork = Fork::from_number(fork).ok_or(DecodeError::Field {
            what: "buffer tag fork",
            found: fork.into(),
            expected: "0 to 3",
        })?;
        let tag = BufferTag {
            tablespace: wire.tag[0].get(),
            database: wire.tag[1].get(),
            relation: wire.tag[2].get(),
            fork,
            block: wire.tag[4].get(),
        };
        let request = wire.request();
        let grant = GrantNumber(wire.grant.get());
        let revokes = GrantNumber(wire.revokes.get());
        let version = Lsn(wire.version.get());
        let mask = wire.mask.get();
        let (dirty, past) = (wire.has(flag::DIRTY), wire.has(flag::PAST));
        let message = match kind {
            kind::PCM_ACQUIRE => {
                Self::Acquire { request, want: wire.mode()?, recovery: wire.has(flag::RECOVERY) }
            }
            kind::PCM_SHIP => {
                Self::Ship { request, want: wire.mode()?, grant, revokes, acks: mask, past }
            }
            kind::PCM_INVALIDATE => Self::Invalidate { request, grant, revokes },
            kind::PCM_INVALIDATED => Self::Invalidated { request, grant, dirty },
            kind::PCM_CLAIM => {
                Self::Claim { request, mode: wire.mode()?, grant, version, past: mask }
            }
            kind::PCM_CLAIMED => Self::Claimed { request, grant },
            kind::PCM_RELEASE => Self::Release { grant, version },
            kind::PCM_RELEASED => Self::Released { grant },
            kind::PCM_WRITTEN => Self::Written { grant, version },
            kind::PCM_CANCEL_BUSY_REQUEST => Self::Cancel { request },
            kind::PCM_STAT_REQUEST => {
                let whole = wire.has(flag::INSTANCE);
                let about = if whole { StatAbout::Instance } else { StatAbout::Page };
                Self::StatRequest { about }
            }
            kind::PCM_STAT_REPLY => Self::StatReply(wire.stat()),
            kind::PCM_NAK => {
                if wire.verdict != NakReason::StaleEpoch as u8 {
                    let (what, found) = ("PCM_NAK reason", wire.verdict.into());
                    return Err(DecodeError::Field { what, found, expected: "1" });
                }
                let kind = MessageKind(wire.small.get());
                let view = Epoch(version.0);
                Self::Nak { kind, request, reason: NakReason::StaleEpoch, view }
            }
            kind::FAULT_NODE_CLEAR => {
                Self::NodeClear { instance: request.instance, incarnation: request.incarnation }
            }
            kind::PCM_DISCARD => Self::Discard { version },
            kind::PCM_DISCARDED => Self::Discarded { version },
            kind::PCM_WRITE_REQUEST => Self::WriteRequest { version },
            kind::PCM_WRITE => Self::Write { version },
            kind::PCM_REFUSE => Self::Refuse { request, grant },
            kind::PCM_QUERY => Self::Query { fence: grant },
            kind::PCM_REPORT => Self::Report { fence: revokes, report: wire.report()? },
            kind::PCM_ASSIGN => Self::Assign { mode: wire.mode_or_none()?, grant, dirty },
            kind::PCM_ASSIGNED => Self::Assigned { grant },
            kind::PCM_RESPONSE => {
                let verdict = Verdict::from_wire(wire.verdict).ok_or(DecodeError::Field {
                    what: "PCM_RESPONSE verdict",
                    found: wire.verdict.into(),
                    expected: "1 to 8",
                })?;
                Self::Response {
                    request,
                    verdict,
                    mode: wire.mode()?,
                    grant,
                    version,
                    acks: mask,
                    dirty,
                    unsaved: wire.has(flag::UNSAVED),
                    past,
                    writer: InstanceId(wire.small.get()),
                }
            }
            MessageKind(other) => {
                return Err(DecodeError::Field {
                    what: "PCM message number",
                    found: other.into(),
                    expected: "1 to 9, 13 to 26 or 102",
                });
            }
        };
        if message.encode(tag) != *body {
            return Err(DecodeError::Field {
                what: "PCM field that the message does not use",
                found: kind.0.into(),
                expected: "0",
            });
        }
        Ok((tag, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = RequestId> {
        any::<(u16, u64, u64)>().prop_map(|(instance, incarnation, sequence)| RequestId {
            instance: InstanceId(instance),
            incarnation: Incarnation(incarnation),
            sequence,
        })
    }

    fn mode() -> impl Strategy<Value = Mode> {
        prop_oneof![Just(Mode::S), Just(Mode::X)]
    }

    fn report() -> impl Strategy<Value = Report> {
        let transit = proptest::option::of(any::<(u16, bool, u32, u64, u64, bool)>());
        let past = proptest::option::of(any::<u64>());
        let held = any::<(u64, u64, bool, bool, u16)>();
        (0u8..3, held, transit, past, any::<Option<u32>>()).prop_map(
            |(mode, (grant, version, dirty, unsaved, writer), transit, past, pending)| Report {
                mode: Mode::from_wire(mode).unwrap(),
                grant: GrantNumber(grant & GRANT_BITS),
                version: Lsn(version),
                dirty,
                unsaved,
                writer: InstanceId(writer),
                transit: transit.map(|(to, to_dead, request, grant, version, dirty)| Transit {
                    to: InstanceId(to),
                    to_dead,
                    request,
                    grant: GrantNumber(grant & GRANT_BITS),
                    version: Lsn(version),
                    dirty,
                }),
                past: past.map(Lsn),
                pending,
            },
        )
    }

    fn steady() -> impl Strategy<Value = Pcm> {
        let grant = || any::<u64>().prop_map(GrantNumber);
        let version = || any::<u64>().prop_map(Lsn);
        let verdict = (1u8..=8).prop_map(|b| Verdict::from_wire(b).unwrap());
        let flags = any::<(u64, bool, bool, bool, u16)>();
        prop_oneof![
            (request(), mode(), any::<bool>()).prop_map(|(request, want, recovery)| Pcm::Acquire {
                request,
                want,
                recovery
            }),
            (request(), mode(), grant(), grant(), any::<u64>(), any::<bool>()).prop_map(
                |(request, want, grant, revokes, acks, past)| Pcm::Ship {
                    request,
                    want,
                    grant,
                    revokes,
                    acks,
                    past
                }
            ),
            (request(), grant(), grant()).prop_map(|(request, grant, revokes)| Pcm::Invalidate {
                request,
                grant,
                revokes
            }),
            (request(), grant(), any::<bool>())
                .prop_map(|(request, grant, dirty)| Pcm::Invalidated { request, grant, dirty }),
            (request(), mode(), grant(), version(), any::<u64>()).prop_map(
                |(request, mode, grant, version, past)| Pcm::Claim {
                    request,
                    mode,
                    grant,
                    version,
                    past
                }
            ),
            (request(), grant()).prop_map(|(request, grant)| Pcm::Claimed { request, grant }),
            (grant(), version()).prop_map(|(grant, version)| Pcm::Release { grant, version }),
            grant().prop_map(|grant| Pcm::Released { grant }),
            (grant(), version()).prop_map(|(grant, version)| Pcm::Written { grant, version }),
            (request(), verdict, mode(), grant(), version(), flags).prop_map(
                |(request, verdict, mode, grant, version, (acks, dirty, unsaved, past, writer))| {
                    Pcm::Response {
                        request,
                        verdict,
                        mode,
                        grant,
                        version,
                        acks,
                        dirty,
                        unsaved,
                        past,
                        writer: InstanceId(writer),
                    }
                }
            ),
        ]
    }

    fn rare() -> impl Strategy<Value = Pcm> {
        let grant = || any::<u64>().prop_map(GrantNumber);
        let version = || any::<u64>().prop_map(Lsn);
        prop_oneof![
            request().prop_map(|request| Pcm::Cancel { request }),
            any::<bool>().prop_map(|whole| Pcm::StatRequest {
                about: if whole { StatAbout::Instance } else { StatAbout::Page }
            }),
            (any::<u16>(), request(), any::<u64>()).prop_map(|(kind, request, view)| Pcm::Nak {
                kind: MessageKind(kind),
                request,
                reason: NakReason::StaleEpoch,
                view: Epoch(view)
            }),
            (any::<u16>(), any::<u64>()).prop_map(|(instance, incarnation)| Pcm::NodeClear {
                instance: InstanceId(instance),
                incarnation: Incarnation(incarnation)
            }),
            version().prop_map(|version| Pcm::Discard { version }),
            version().prop_map(|version| Pcm::Discarded { version }),
            version().prop_map(|version| Pcm::WriteRequest { version }),
            version().prop_map(|version| Pcm::Write { version }),
            (request(), grant()).prop_map(|(request, grant)| Pcm::Refuse { request, grant }),
            grant().prop_map(|fence| Pcm::Query { fence }),
            (grant(), report()).prop_map(|(fence, report)| Pcm::Report { fence, report }),
            (0u8..3, grant(), any::<bool>()).prop_map(|(mode, grant, dirty)| Pcm::Assign {
                mode: Mode::from_wire(mode).unwrap(),
                grant,
                dirty
            }),
            grant().prop_map(|grant| Pcm::Assigned { grant }),
            any::<[u64; 6]>().prop_map(|n| Pcm::StatReply(Stat::Instance(InstanceStat {
                entries: n[0],
                partitions: 7,
                loading: 3,
                held_shared: n[1],
                held_exclusive: n[2],
                dirty: n[3],
                past_images: n[4],
                requests: n[5],
            }))),
            (any::<[u64; 5]>(), any::<[bool; 5]>(), proptest::option::of(0u16..64)).prop_map(
                |(n, [known, exclusive, converting, repairing, lost], owner)| {
                    Pcm::StatReply(Stat::Page(PageStat {
                        known,
                        owner: owner.map(InstanceId),
                        exclusive,
                        holders: n[0],
                        past_images: n[1],
                        version: Lsn(n[2]),
                        stored: Lsn(n[3]),
                        queued: 9,
                        grant: GrantNumber(n[4]),
                        converting,
                        repairing,
                        lost,
                    }))
                }
            ),
        ]
    }

    fn message() -> impl Strategy<Value = Pcm> {
        prop_oneof![steady(), rare()]
    }

    fn tag() -> impl Strategy<Value = BufferTag> {
        (any::<(u32, u32, u32, u32)>(), 0u32..4).prop_map(|((a, b, c, block), fork)| BufferTag {
            tablespace: a,
            database: b,
            relation: c,
            fork: Fork::from_number(fork).unwrap(),
            block,
        })
    }

    proptest! {
        #[test]
        fn every_message_survives_the_wire(tag in tag(), message in message()) {
            let body = message.encode(tag);
            prop_assert_eq!(Pcm::decode(message.kind(), &body), Ok((tag, message)));
        }

        #[test]
        fn any_bytes_decode_without_panic(kind in 0u16..110, body in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok((tag, message)) = Pcm::decode(MessageKind(kind), &body) {
                prop_assert_eq!(&message.encode(tag)[..], &body[..]);
            }
        }
    }

    #[test]
    fn a_field_the_message_does_not_use_must_be_zero() {
        let message = Pcm::Released { grant: GrantNumber(4) };
        let mut body = message.encode(BufferTag::default());
        body[24] = 1;
        assert!(Pcm::decode(message.kind(), &body).is_err());
    }
}
