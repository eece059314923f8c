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

mod codec;
pub mod kind;
#[cfg(test)]
mod tests;
mod wire;

use crate::{
    Epoch, GrantNumber, Incarnation, InstanceId, Lane, Lsn, MessageKind, Mode, RequestId,
    guide::{self, Report},
    stat::{Stat, StatAbout},
};

/// Bytes of a PCM body.
pub const PCM_BODY_BYTES: usize = 80;
const _: () = assert!(PCM_BODY_BYTES == guide::GUIDE_RECORD_BYTES);

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
    /// "Somebody waits for the page: tell me of its partition before all others", from a new master that
    /// is still being told what everyone has.
    GuideWanted,
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
            Self::GuideWanted => kind::PCM_GUIDE_WANTED,
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
}
