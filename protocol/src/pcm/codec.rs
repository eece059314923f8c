//! Encoding and decoding, one arm a message each.

use super::{
    NakReason, PCM_BODY_BYTES, Pcm, Verdict, kind,
    wire::{
        WirePcm,
        field::{GRANT, MASK, MODE, NONE, REQUEST, REVOKES, SMALL, VERDICT, VERSION},
        flag,
    },
};
use crate::{
    BufferTag, DecodeError, Epoch, Fork, GrantNumber, InstanceId, Lsn, MessageKind, stat::StatAbout,
};
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64},
};

impl Pcm {
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
            Self::GuideWanted => {}
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
        // Each arm says beside the message what it has used: the rest has to be 0.
        let (message, is_clean) = match kind {
            kind::PCM_ACQUIRE => (
                Self::Acquire { request, want: wire.mode()?, recovery: wire.has(flag::RECOVERY) },
                wire.has_only(REQUEST | MODE, flag::RECOVERY),
            ),
            kind::PCM_SHIP => (
                Self::Ship { request, want: wire.mode()?, grant, revokes, acks: mask, past },
                wire.has_only(REQUEST | MODE | GRANT | REVOKES | MASK, flag::PAST),
            ),
            kind::PCM_INVALIDATE => (
                Self::Invalidate { request, grant, revokes },
                wire.has_only(REQUEST | GRANT | REVOKES, 0),
            ),
            kind::PCM_INVALIDATED => (
                Self::Invalidated { request, grant, dirty },
                wire.has_only(REQUEST | GRANT, flag::DIRTY),
            ),
            kind::PCM_CLAIM => (
                Self::Claim { request, mode: wire.mode()?, grant, version, past: mask },
                wire.has_only(REQUEST | MODE | GRANT | VERSION | MASK, 0),
            ),
            kind::PCM_CLAIMED => {
                (Self::Claimed { request, grant }, wire.has_only(REQUEST | GRANT, 0))
            }
            kind::PCM_RELEASE => {
                (Self::Release { grant, version }, wire.has_only(GRANT | VERSION, 0))
            }
            kind::PCM_RELEASED => (Self::Released { grant }, wire.has_only(GRANT, 0)),
            kind::PCM_WRITTEN => {
                (Self::Written { grant, version }, wire.has_only(GRANT | VERSION, 0))
            }
            kind::PCM_CANCEL_BUSY_REQUEST => (Self::Cancel { request }, wire.has_only(REQUEST, 0)),
            kind::PCM_STAT_REQUEST => {
                let whole = wire.has(flag::INSTANCE);
                let about = if whole { StatAbout::Instance } else { StatAbout::Page };
                (Self::StatRequest { about }, wire.has_only(NONE, flag::INSTANCE))
            }
            kind::PCM_STAT_REPLY => {
                let message = Self::StatReply(wire.stat());
                (message, message.is_encoded_as(tag, body))
            }
            kind::PCM_NAK => {
                if wire.verdict != NakReason::StaleEpoch as u8 {
                    let (what, found) = ("PCM_NAK reason", wire.verdict.into());
                    return Err(DecodeError::Field { what, found, expected: "1" });
                }
                let kind = MessageKind(wire.small.get());
                let view = Epoch(version.0);
                (
                    Self::Nak { kind, request, reason: NakReason::StaleEpoch, view },
                    wire.has_only(REQUEST | VERDICT | VERSION | SMALL, 0),
                )
            }
            kind::FAULT_NODE_CLEAR => (
                Self::NodeClear { instance: request.instance, incarnation: request.incarnation },
                wire.has_only(REQUEST, 0) && request.sequence == 0,
            ),
            kind::PCM_DISCARD => (Self::Discard { version }, wire.has_only(VERSION, 0)),
            kind::PCM_DISCARDED => (Self::Discarded { version }, wire.has_only(VERSION, 0)),
            kind::PCM_WRITE_REQUEST => (Self::WriteRequest { version }, wire.has_only(VERSION, 0)),
            kind::PCM_WRITE => (Self::Write { version }, wire.has_only(VERSION, 0)),
            kind::PCM_REFUSE => {
                (Self::Refuse { request, grant }, wire.has_only(REQUEST | GRANT, 0))
            }
            kind::PCM_QUERY => (Self::Query { fence: grant }, wire.has_only(GRANT, 0)),
            kind::PCM_REPORT => {
                let message = Self::Report { fence: revokes, report: wire.report()? };
                (message, message.is_encoded_as(tag, body))
            }
            kind::PCM_ASSIGN => (
                Self::Assign { mode: wire.mode_or_none()?, grant, dirty },
                wire.has_only(MODE | GRANT, flag::DIRTY),
            ),
            kind::PCM_ASSIGNED => (Self::Assigned { grant }, wire.has_only(GRANT, 0)),
            kind::PCM_GUIDE_WANTED => (Self::GuideWanted, wire.has_only(NONE, 0)),
            kind::PCM_RESPONSE => {
                let verdict = Verdict::from_wire(wire.verdict).ok_or(DecodeError::Field {
                    what: "PCM_RESPONSE verdict",
                    found: wire.verdict.into(),
                    expected: "1 to 8",
                })?;
                let message = Self::Response {
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
                };
                let fields = REQUEST | VERDICT | MODE | GRANT | VERSION | MASK | SMALL;
                (message, wire.has_only(fields, flag::DIRTY | flag::UNSAVED | flag::PAST))
            }
            MessageKind(other) => {
                return Err(DecodeError::Field {
                    what: "PCM message number",
                    found: other.into(),
                    expected: "1 to 9, 13 to 27 or 102",
                });
            }
        };
        debug_assert_eq!(
            is_clean,
            message.is_encoded_as(tag, body),
            "{kind} has other fields than its arm of decode says"
        );
        if !is_clean {
            return Err(DecodeError::Field {
                what: "PCM field that the message does not use",
                found: kind.0.into(),
                expected: "0",
            });
        }
        Ok((tag, message))
    }

    /// Whether `body` is exactly what a sender of this message writes.
    fn is_encoded_as(&self, tag: BufferTag, body: &[u8]) -> bool {
        // As arrays, which are compared in place.
        body.try_into().ok() == Some(&self.encode(tag))
    }
}
