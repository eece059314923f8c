//! PCM messages: what instances say to each other about one page.
//!
//! All share one fixed body of 72 bytes, so that decoding is one check of one layout; fields that
//! a message does not use are zero, and a decoder refuses them otherwise.
//!
//! ```text
//!  0     20         22    23      24        32           40     48       56       64    66    68   72
//!  +-----+----------+-----+-------+---------+------------+------+--------+--------+-----+-----+----+
//!  | tag | request  |mode |verdict| request | request    |grant |revokes |version |acks |flags| -  |
//!  |     | instance |     |       | sequence| incarnation|      |        |        |     |     |    |
//!  +-----+----------+-----+-------+---------+------------+------+--------+--------+-----+-----+----+
//! ```
//! Who sends what, and what answers it, is in [`crate::catalog`] and docs/messages.md.

use crate::{
    BufferTag, DecodeError, Fork, GrantNumber, Incarnation, InstanceId, Lane, Lsn, MessageKind,
    Mode, RequestId,
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Bytes of a PCM body.
pub const PCM_BODY_BYTES: usize = 72;

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
    /// See [`Pcm::Response`](super::Pcm::Response).
    pub const PCM_RESPONSE: MessageKind = MessageKind(102);
}

/// How a request is granted, or why it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Verdict {
    /// The page comes in this message's frame.
    Page = 1,
    /// No instance holds the page: read it from storage.
    Storage = 2,
    /// The requester holds the current page already: no page comes.
    Held = 3,
    /// Refused: the request is of another epoch than the one in this message's header.
    StaleEpoch = 4,
    /// Refused: the receiver of the request does not master the page.
    NotMaster = 5,
    /// Refused: the instance that was told to ship the page does not have it.
    NotHolder = 6,
}

impl Verdict {
    fn from_wire(byte: u8) -> Option<Self> {
        use Verdict::{Held, NotHolder, NotMaster, Page, StaleEpoch, Storage};
        [Page, Storage, Held, StaleEpoch, NotMaster, NotHolder]
            .into_iter()
            .find(|v| *v as u8 == byte)
    }

    /// True when the request was not granted.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::StaleEpoch | Self::NotMaster | Self::NotHolder)
    }
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
        /// Invalidations that the requester has to wait for.
        acks: u16,
    },
    /// "Give the page up, and tell the requester when you have."
    Invalidate {
        /// The request that waits for it.
        request: RequestId,
        /// The receiver's grant that this revokes: the last one numbered up to here.
        revokes: GrantNumber,
    },
    /// "I have given it up."
    Invalidated {
        /// The request that waited for it.
        request: RequestId,
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
    },
    /// "The claim is recorded": to the claimant, and to the shipper, who may forget its copy.
    Claimed {
        /// The request.
        request: RequestId,
        /// The grant.
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
        /// Invalidations that the requester has to wait for.
        acks: u16,
        /// The page is dirty and the duty to write it is now the requester's.
        dirty: bool,
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
    acks: U16,
    flags: U16,
    reserved: U32,
}
const _: () = assert!(size_of::<WirePcm>() == PCM_BODY_BYTES);
const _: () = assert!(PCM_BODY_BYTES <= crate::header::BODY_BYTES_MAX);

const FLAG_DIRTY: u16 = 1;

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

    fn mode(&self) -> Result<Mode, DecodeError> {
        Mode::from_wire(self.mode).filter(|&m| m != Mode::N).ok_or(DecodeError::Field {
            what: "PCM mode",
            found: self.mode.into(),
            expected: "1 (S) or 2 (X)",
        })
    }

    fn dirty(&self) -> bool {
        self.flags.get() & FLAG_DIRTY != 0
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
            Self::Response { .. } => kind::PCM_RESPONSE,
        }
    }

    /// The lane it travels on. A response with a page has a frame and goes with the pages.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Acquire { .. } => Lane::Requests,
            Self::Response { verdict: Verdict::Page, .. } => Lane::Pages,
            _ => Lane::Control,
        }
    }

    /// True when nobody waits for it: it need not leave before something else does.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(self, Self::Claimed { .. } | Self::Written { .. })
    }

    /// The 72 bytes of this message about page `tag`.
    #[must_use]
    pub fn encode(&self, tag: BufferTag) -> [u8; PCM_BODY_BYTES] {
        let mut wire = WirePcm {
            tag: [tag.tablespace, tag.database, tag.relation, tag.fork as u32, tag.block]
                .map(U32::new),
            ..WirePcm::default()
        };
        let flag = |dirty: bool| U16::new(if dirty { FLAG_DIRTY } else { 0 });
        match *self {
            Self::Acquire { request, want } => {
                wire.set_request(request);
                wire.mode = want.to_wire();
            }
            Self::Ship { request, want, grant, revokes, acks } => {
                wire.set_request(request);
                wire.mode = want.to_wire();
                wire.grant = U64::new(grant.0);
                wire.revokes = U64::new(revokes.0);
                wire.acks = U16::new(acks);
            }
            Self::Invalidate { request, revokes } => {
                wire.set_request(request);
                wire.revokes = U64::new(revokes.0);
            }
            Self::Invalidated { request, dirty } => {
                wire.set_request(request);
                wire.flags = flag(dirty);
            }
            Self::Claim { request, mode, grant, version } => {
                wire.set_request(request);
                wire.mode = mode.to_wire();
                wire.grant = U64::new(grant.0);
                wire.version = U64::new(version.0);
            }
            Self::Claimed { request, grant } => {
                wire.set_request(request);
                wire.grant = U64::new(grant.0);
            }
            Self::Release { grant, version } | Self::Written { grant, version } => {
                wire.grant = U64::new(grant.0);
                wire.version = U64::new(version.0);
            }
            Self::Released { grant } => wire.grant = U64::new(grant.0),
            Self::Response { request, verdict, mode, grant, version, acks, dirty } => {
                wire.set_request(request);
                wire.verdict = verdict as u8;
                wire.mode = mode.to_wire();
                wire.grant = U64::new(grant.0);
                wire.version = U64::new(version.0);
                wire.acks = U16::new(acks);
                wire.flags = flag(dirty);
            }
        }
        let mut bytes = [0; PCM_BODY_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads the body of a message numbered `kind`.
    ///
    /// # Errors
    /// [`DecodeError`] when the number is no PCM message's, the length is not 72 bytes, or a field
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
        let (acks, dirty) = (wire.acks.get(), wire.dirty());
        let message = match kind {
            kind::PCM_ACQUIRE => Self::Acquire { request, want: wire.mode()? },
            kind::PCM_SHIP => Self::Ship { request, want: wire.mode()?, grant, revokes, acks },
            kind::PCM_INVALIDATE => Self::Invalidate { request, revokes },
            kind::PCM_INVALIDATED => Self::Invalidated { request, dirty },
            kind::PCM_CLAIM => Self::Claim { request, mode: wire.mode()?, grant, version },
            kind::PCM_CLAIMED => Self::Claimed { request, grant },
            kind::PCM_RELEASE => Self::Release { grant, version },
            kind::PCM_RELEASED => Self::Released { grant },
            kind::PCM_WRITTEN => Self::Written { grant, version },
            kind::PCM_RESPONSE => {
                let verdict = Verdict::from_wire(wire.verdict).ok_or(DecodeError::Field {
                    what: "PCM_RESPONSE verdict",
                    found: wire.verdict.into(),
                    expected: "1 to 6",
                })?;
                Self::Response { request, verdict, mode: wire.mode()?, grant, version, acks, dirty }
            }
            MessageKind(other) => {
                return Err(DecodeError::Field {
                    what: "PCM message number",
                    found: other.into(),
                    expected: "1 to 9 or 102",
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

    fn message() -> impl Strategy<Value = Pcm> {
        let grant = || any::<u64>().prop_map(GrantNumber);
        let version = || any::<u64>().prop_map(Lsn);
        let verdict = (1u8..=6).prop_map(|b| Verdict::from_wire(b).unwrap());
        prop_oneof![
            (request(), mode()).prop_map(|(request, want)| Pcm::Acquire { request, want }),
            (request(), mode(), grant(), grant(), any::<u16>()).prop_map(
                |(request, want, grant, revokes, acks)| Pcm::Ship {
                    request,
                    want,
                    grant,
                    revokes,
                    acks
                }
            ),
            (request(), grant())
                .prop_map(|(request, revokes)| Pcm::Invalidate { request, revokes }),
            (request(), any::<bool>())
                .prop_map(|(request, dirty)| Pcm::Invalidated { request, dirty }),
            (request(), mode(), grant(), version()).prop_map(|(request, mode, grant, version)| {
                Pcm::Claim { request, mode, grant, version }
            }),
            (request(), grant()).prop_map(|(request, grant)| Pcm::Claimed { request, grant }),
            (grant(), version()).prop_map(|(grant, version)| Pcm::Release { grant, version }),
            grant().prop_map(|grant| Pcm::Released { grant }),
            (grant(), version()).prop_map(|(grant, version)| Pcm::Written { grant, version }),
            (request(), verdict, mode(), grant(), version(), any::<u16>(), any::<bool>()).prop_map(
                |(request, verdict, mode, grant, version, acks, dirty)| Pcm::Response {
                    request,
                    verdict,
                    mode,
                    grant,
                    version,
                    acks,
                    dirty
                }
            ),
        ]
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
