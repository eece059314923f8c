//! Encoding and decoding, one arm a message each.

use super::{
    NakReason, PCM_BODY_BYTES, Pcm, Verdict, kind,
    wire::{WirePcm, flag},
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
            kind::PCM_GUIDE_WANTED => Self::GuideWanted,
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
                    expected: "1 to 9, 13 to 27 or 102",
                });
            }
        };
        // As arrays, which are compared in place.
        if body.try_into().ok() != Some(&message.encode(tag)) {
            return Err(DecodeError::Field {
                what: "PCM field that the message does not use",
                found: kind.0.into(),
                expected: "0",
            });
        }
        Ok((tag, message))
    }
}
