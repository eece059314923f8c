//! The session header that precedes every message, 48 bytes, and the body behind it.
//!
//! ```text
//!  0    1    2      4       6      8       16         24     32        36       38    40      44   48
//!  +----+----+------+-------+------+-------+----------+------+---------+--------+-----+-------+----+
//!  |ver |lane| kind | flags | body | epoch | sequence | ack  | credits | source | -   | page  |crc |
//!  |    |    |      |       | len  |       |          |      |         |        |     | crc   |    |
//!  +----+----+------+-------+------+-------+----------+------+---------+--------+-----+-------+----+
//! ```
//! The body (at most 80 bytes) follows, padded with zeros to 80 on TCP and before a frame, so that
//! a frame begins at a fixed offset of 128 and can be received in place.
//!
//! `ack` is the sequence up to which the sender has everything of the same lane in the other
//! direction. `credits` is how many receives it has posted for that lane since the link came up
//! (modulo 2^32): the other side may have sent that many. Both therefore may be repeated, and the
//! greatest wins. `crc` is CRC-32C of the header, this field as zero, and of the padded body.

use crate::{DecodeError, Epoch, InstanceId, Lane, PROTOCOL_VERSION_MIN, Sequence, crc32c};
use std::fmt;

/// Bytes of the session header.
pub const HEADER_BYTES: usize = 48;
/// Most bytes a body has.
pub const BODY_BYTES_MAX: usize = 80;
/// Header and padded body before a frame: two cache lines.
pub const FRAME_OFFSET_BYTES: usize = HEADER_BYTES + BODY_BYTES_MAX;

/// Header and padded body, as they travel before a frame and on TCP.
pub type Slot = [u8; FRAME_OFFSET_BYTES];

/// Message type. Numbers are given out in [`crate::catalog`]; those of messages are 1 to 65531. The
/// transport keeps 0 and 65532 to 65535 for itself ([`MessageKind::is_reserved`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKind(pub u16);

impl MessageKind {
    /// Carries nothing but `ack` and `credits`: without sequence, never acknowledged itself.
    pub const ACK_ONLY: Self = Self(0);
    /// Is about the link itself ([`LinkControl`](crate::LinkControl)): on the control lane, without
    /// sequence, acknowledgement and credits.
    pub const LINK: Self = Self(u16::MAX);

    /// True for the kinds that the transport keeps for itself, and that no message to send may have:
    /// 0 ([`MessageKind::ACK_ONLY`]), 65532 to 65534 (one-sided reads, [`MessageKind::is_of_reads`])
    /// and 65535 ([`MessageKind::LINK`]).
    #[inline]
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.has_no_sequence() || self.is_of_reads()
    }

    /// True for the reserved kinds 0 and 65535, whose messages have no sequence.
    #[inline]
    #[must_use]
    pub const fn has_no_sequence(self) -> bool {
        self.0 == Self::ACK_ONLY.0 || self.0 == Self::LINK.0
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// At most 80 bytes, held in place.
#[derive(Clone, Copy, PartialEq, Eq)]
// Aligned and in this order, so that a copy moves the words that were written.
#[repr(C, align(16))]
pub struct Body {
    bytes: [u8; BODY_BYTES_MAX],
    len: u8,
}

impl Body {
    /// No bytes.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; BODY_BYTES_MAX] };

    /// A copy of `bytes`, or `None` when there are more than 80.
    #[inline]
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut body = Self { len: u8::try_from(bytes.len()).ok()?, ..Self::EMPTY };
        copy_short(body.bytes.get_mut(..bytes.len())?, bytes);
        Some(body)
    }

    /// `len` zeros, at most 80, to be written where they lie ([`Body::as_mut_slice`]): what is built there
    /// is not copied from somewhere else.
    #[inline]
    #[must_use]
    pub fn zeros(len: u8) -> Self {
        Self { len: len.min(80), ..Self::EMPTY }
    }

    /// The body of a slot that [`SessionHeader::decode_slot`] found right, and whose header says
    /// that it has `len` bytes.
    #[inline]
    #[must_use]
    pub fn of_slot(slot: &Slot, len: u8) -> Self {
        let mut body = Self::EMPTY;
        body.set_from_slot(slot, len);
        body
    }

    /// As [`Body::of_slot`], where the body is to lie.
    #[inline]
    pub fn set_from_slot(&mut self, slot: &Slot, len: u8) {
        self.len = len.min(80);
        self.bytes.copy_from_slice(&slot[HEADER_BYTES..]);
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes, to be changed.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }

    /// How many bytes it has, at most 80.
    #[inline]
    #[must_use]
    pub fn count_bytes(&self) -> u8 {
        self.len
    }

    /// The bytes, zeros behind them up to 80.
    #[must_use]
    pub fn padded(&self) -> &[u8; BODY_BYTES_MAX] {
        &self.bytes
    }
}

/// Copies `from` to `to`, which is as long, at most 80 bytes: as two pieces of a fixed length that may
/// overlap, which costs less than a call of `memcpy`.
#[inline(always)] // Mostly the length is known.
fn copy_short(to: &mut [u8], from: &[u8]) {
    let copied = match from.len() {
        64.. => copy_ends::<64, 16>(to, from),
        32.. => copy_ends::<32, 32>(to, from),
        16.. => copy_ends::<16, 16>(to, from),
        8.. => copy_ends::<8, 8>(to, from),
        _ => None,
    };
    if copied.is_none() {
        to.copy_from_slice(from);
    }
}

/// Copies the first `FIRST` and the last `LAST` bytes, if there are so many.
#[inline(always)] // As above.
fn copy_ends<const FIRST: usize, const LAST: usize>(to: &mut [u8], from: &[u8]) -> Option<()> {
    *to.first_chunk_mut::<FIRST>()? = *from.first_chunk()?;
    *to.last_chunk_mut::<LAST>()? = *from.last_chunk()?;
    Some(())
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len)
    }
}

/// The protocol version that this header came with; all that are spoken have it.
const HEADER_VERSION: u8 = 2;
const _: () = assert!(HEADER_VERSION as u16 <= PROTOCOL_VERSION_MIN);
const FLAG_FRAME: u16 = 1;
const FLAG_PAGE_CRC: u16 = 2;
/// Where the CRC lies: the last field of the header.
const CRC_AT: usize = HEADER_BYTES - 4;

/// A decoded session header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHeader {
    /// Lane the message belongs to, or (acknowledgement only) the lane it speaks of.
    pub lane: Lane,
    /// Message type.
    pub kind: MessageKind,
    /// Bytes of the body, at most 80.
    pub body_len: u8,
    /// One frame follows.
    pub frame: bool,
    /// CRC-32C of the frame, if the sender computed one.
    pub page_crc: Option<u32>,
    /// Epoch the sender acted in.
    pub epoch: Epoch,
    /// Position in the lane; 0 in an acknowledgement.
    pub sequence: Sequence,
    /// Everything up to here has arrived, of this lane in the other direction.
    pub ack: Sequence,
    /// Receives posted for this lane since the link came up, modulo 2^32.
    pub credits: u32,
    /// The sender.
    pub source: InstanceId,
}

impl SessionHeader {
    /// The 48 bytes of this header in front of `body`.
    #[must_use]
    pub fn encode(&self, body: &Body, with_crc: bool) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&self.encode_slot(body, with_crc)[..HEADER_BYTES]);
        bytes
    }

    /// Header and body as they travel: 128 bytes, zeros behind the body. The CRC covers all of them,
    /// its own field as zero.
    #[must_use]
    pub fn encode_slot(&self, body: &Body, with_crc: bool) -> Slot {
        let mut slot = [0; FRAME_OFFSET_BYTES];
        self.encode_into(&mut slot, body, with_crc);
        slot
    }

    /// As [`SessionHeader::encode_slot`], where the bytes are to leave from.
    #[inline(always)] // The header stays in registers.
    pub fn encode_into(&self, slot: &mut Slot, body: &Body, with_crc: bool) {
        debug_assert_eq!(self.body_len, body.len);
        let flags =
            u16::from(self.frame) * FLAG_FRAME + u16::from(self.page_crc.is_some()) * FLAG_PAGE_CRC;
        // Words, not fields: what is written in pieces and read as a word is read late.
        let words = [
            u64::from(HEADER_VERSION)
                | u64::from(self.lane as u8) << 8
                | u64::from(self.kind.0) << 16
                | u64::from(flags) << 32
                | u64::from(self.body_len) << 48,
            self.epoch.0,
            self.sequence.0,
            self.ack.0,
            u64::from(self.credits) | u64::from(self.source.0) << 32,
            u64::from(self.page_crc.unwrap_or(0)),
        ];
        let (header, padded) = slot.split_at_mut(HEADER_BYTES);
        for (place, word) in header.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        padded.copy_from_slice(&body.bytes);
        if with_crc {
            let crc = crc32c(&[slot]);
            slot[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// Whether the header at the start of `slot` says that a frame follows; to be believed only once
    /// it has been decoded.
    #[inline]
    #[must_use]
    pub fn claims_frame(slot: &[u8]) -> bool {
        slot.get(4).is_some_and(|flags| u16::from(*flags) & FLAG_FRAME != 0)
    }

    /// Reads what [`SessionHeader::encode_slot`] wrote: checks every field, the padding and the CRC,
    /// whose place it leaves zero. The body is [`Body::of_slot`].
    ///
    /// # Errors
    /// [`DecodeError`] when a field or the padding holds what no sender writes, or the CRC is wrong.
    #[inline(always)] // The header stays in registers.
    pub fn decode_slot(slot: &mut Slot) -> Result<Self, DecodeError> {
        let header = Self::of_words(&Words::of(header_of(slot)))?;
        let found = take_crc(slot);
        let computed = crc32c(&[slot]);
        if found != computed {
            return Err(wrong_crc(found, computed));
        }
        check_padding(slot, header.body_len)?;
        Ok(header)
    }

    /// Reads a slot that has no CRC, because what carried it checks its bytes itself (verbs): every
    /// field, the padding, and that the CRC's place is zero. The first `len_bytes` of it have come,
    /// those behind are zeros. The body is [`Body::of_slot`].
    ///
    /// # Errors
    /// [`DecodeError`] when a field or the padding holds what no sender writes.
    #[inline(always)] // The header stays in registers.
    pub fn decode_slot_without_crc(slot: &Slot, len_bytes: usize) -> Result<Self, DecodeError> {
        let header = Self::of_words(&Words::of(header_of(slot)))?;
        if len_bytes > HEADER_BYTES + usize::from(header.body_len) {
            check_padding(slot, header.body_len)?;
        }
        if slot[CRC_AT..HEADER_BYTES] != [0; 4] {
            let (what, found) = ("CRC of a header that has none", slot[CRC_AT].into());
            return Err(DecodeError::Field { what, found, expected: "0" });
        }
        Ok(header)
    }

    /// Reads a slot without a CRC as [`SessionHeader::decode_slot_without_crc`] does, if it is what most
    /// are: a message of a lane without frames, of which just header and body have come. `None`: it is
    /// something else, or wrong, and that function tells.
    #[inline(always)] // The header stays in registers.
    #[must_use]
    pub fn decode_message(slot: &Slot, len_bytes: usize) -> Option<Self> {
        // Version, flags, and the upper half of the body's length.
        const FIXED: u64 = 0xFF00_FFFF_0000_00FF;
        let words = Words::of(header_of(slot));
        let lane = Lane::without_frame(words.lane())?;
        let [first, epoch, sequence, ack, fifth, sixth] = words.0;
        let body_len = first.to_le_bytes()[6];
        // All in one: what is wrong with any of them is no matter here.
        let strange = (first & FIXED) ^ u64::from(HEADER_VERSION) | fifth >> 48 | sixth;
        let is_whole = len_bytes == HEADER_BYTES + usize::from(body_len);
        let is_message = strange == 0
            && is_whole
            && len_bytes <= FRAME_OFFSET_BYTES
            && sequence != 0
            && !words.kind().has_no_sequence();
        is_message.then(|| Self {
            lane,
            kind: words.kind(),
            body_len,
            frame: false,
            page_crc: None,
            epoch: Epoch(epoch),
            sequence: Sequence(sequence),
            ack: Sequence(ack),
            credits: low_u32(fifth),
            source: InstanceId(low_u16(fifth >> 32)),
        })
    }

    /// Reads the header at the start of `bytes`, which may be followed by anything. Checks every
    /// field but not the CRC, which needs the body: see [`verify_crc`].
    ///
    /// # Errors
    /// [`DecodeError`] when bytes are missing or a field holds what no sender writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(header) = bytes.first_chunk() else { return Err(header_length(bytes.len())) };
        Self::of_words(&Words::of(header))
    }

    #[inline(always)] // The header stays in registers.
    fn of_words(words: &Words) -> Result<Self, DecodeError> {
        // All at once first: the rule is that everything is right.
        let Some(lane) = Lane::from_wire(words.lane()) else { return Err(words.complaint()) };
        let (flags, body_len, sequence) = (words.flags(), words.body_len(), words.0[2]);
        let (frame, has_page_crc) = (flags & FLAG_FRAME != 0, flags & FLAG_PAGE_CRC != 0);
        let (reserved, ack_only) =
            (words.kind().has_no_sequence(), words.kind() == MessageKind::ACK_ONLY);
        let Ok(len) = u8::try_from(body_len) else { return Err(words.complaint()) };
        let right = words.version() == HEADER_VERSION
            && flags & !(FLAG_FRAME | FLAG_PAGE_CRC) == 0
            && frame == (lane.class().has_frame() && !ack_only)
            && (ack_only || !reserved || words.is_link_control(lane))
            && (frame || !has_page_crc)
            && (has_page_crc || words.page_crc() == 0)
            && usize::from(len) <= BODY_BYTES_MAX
            && reserved == (sequence == 0)
            && !(ack_only && len != 0)
            && words.reserved() == 0;
        if !right {
            return Err(words.complaint());
        }
        Ok(Self {
            lane,
            kind: words.kind(),
            body_len: len,
            frame,
            page_crc: has_page_crc.then(|| words.page_crc()),
            epoch: Epoch(words.0[1]),
            sequence: Sequence(sequence),
            ack: Sequence(words.0[3]),
            credits: low_u32(words.0[4]),
            source: InstanceId(low_u16(words.0[4] >> 32)),
        })
    }
}

/// An encoded header as six little-endian words, in the order of the drawing above.
struct Words([u64; HEADER_BYTES / 8]);

impl Words {
    #[inline(always)] // As the header.
    fn of(header: &[u8; HEADER_BYTES]) -> Self {
        let (words, _) = header.as_chunks::<8>();
        Self(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
    }

    fn version(&self) -> u8 {
        self.0[0].to_le_bytes()[0]
    }

    fn lane(&self) -> u8 {
        self.0[0].to_le_bytes()[1]
    }

    fn kind(&self) -> MessageKind {
        MessageKind(low_u16(self.0[0] >> 16))
    }

    fn flags(&self) -> u16 {
        low_u16(self.0[0] >> 32)
    }

    fn body_len(&self) -> u16 {
        low_u16(self.0[0] >> 48)
    }

    /// What a message about the link has beside its kind.
    fn is_link_control(&self, lane: Lane) -> bool {
        lane == Lane::Control && self.0[3] == 0 && low_u32(self.0[4]) == 0
    }

    fn page_crc(&self) -> u32 {
        low_u32(self.0[5])
    }

    fn reserved(&self) -> u16 {
        low_u16(self.0[4] >> 48)
    }

    /// What is wrong with a header with which something is.
    #[cold]
    fn complaint(&self) -> DecodeError {
        let field = |what, found: u64, expected| DecodeError::Field { what, found, expected };
        if self.version() != HEADER_VERSION {
            return field("session header version", self.version().into(), "2");
        }
        let Some(lane) = Lane::from_wire(self.lane()) else {
            return field("session header lane", self.lane().into(), "0 to 4");
        };
        let ack_only = self.kind() == MessageKind::ACK_ONLY;
        let flags = self.flags();
        if flags & !(FLAG_FRAME | FLAG_PAGE_CRC) != 0 {
            return field("session header flags", flags.into(), "bits 0 and 1 only");
        }
        let frame = flags & FLAG_FRAME != 0;
        if frame != (lane.class().has_frame() && !ack_only) {
            let expected = "1 on the pages and bulk lanes, 0 elsewhere and on acknowledgements";
            return field("session header frame flag", frame.into(), expected);
        }
        if flags & FLAG_PAGE_CRC != 0 && !frame {
            return field("session header flags", flags.into(), "a page CRC only with a frame");
        }
        if flags & FLAG_PAGE_CRC == 0 && self.page_crc() != 0 {
            let found = self.page_crc().into();
            return field(
                "session header page CRC",
                found,
                "0 without the flag that says it is there",
            );
        }
        let body_len = self.body_len();
        if usize::from(body_len) > BODY_BYTES_MAX {
            return field("session header body length", body_len.into(), "0 to 80");
        }
        let sequence = self.0[2];
        if self.kind().has_no_sequence() != (sequence == 0) {
            let expected = "0 in an acknowledgement or about the link, 1 or more in a message";
            return field("session header sequence", sequence, expected);
        }
        if self.kind() == MessageKind::LINK && !self.is_link_control(lane) {
            let expected = "the control lane (0), without acknowledgement and credits";
            return field("lane of a message about the link", lane as u64, expected);
        }
        if ack_only && body_len != 0 {
            return field("acknowledgement body length", body_len.into(), "0");
        }
        field("session header reserved", self.reserved().into(), "0")
    }
}

#[inline]
fn low_u32(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[inline]
fn low_u16(word: u64) -> u16 {
    let [a, b, ..] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

#[cold]
fn wrong_crc(found: u32, computed: u32) -> DecodeError {
    DecodeError::Crc { what: "session header", found, computed }
}

/// Behind a body of `body_len` bytes, at most 80, there are zeros up to the end of the slot.
#[inline]
fn check_padding(slot: &Slot, body_len: u8) -> Result<(), DecodeError> {
    const ZEROS: [u8; BODY_BYTES_MAX] = [0; BODY_BYTES_MAX];
    let len = usize::from(body_len);
    let is_zero = slot[HEADER_BYTES..].get(len..) == ZEROS.get(len..);
    if is_zero { Ok(()) } else { Err(wrong_padding(slot, body_len)) }
}

#[cold]
fn wrong_padding(slot: &Slot, body_len: u8) -> DecodeError {
    let mut padding = slot.iter().skip(HEADER_BYTES + usize::from(body_len));
    let found = padding.find(|byte| **byte != 0).copied().unwrap_or(0).into();
    DecodeError::Field { what: "padding behind a body", found, expected: "0" }
}

#[inline(always)] // Nothing is left of it.
fn header_of(slot: &Slot) -> &[u8; HEADER_BYTES] {
    match slot.first_chunk() {
        Some(header) => header,
        None => const { &[0; HEADER_BYTES] },
    }
}

/// Takes the CRC out of a slot and leaves zeros there, as they were when it was computed.
fn take_crc(slot: &mut Slot) -> u32 {
    let mut crc = [0; 4];
    crc.copy_from_slice(&slot[CRC_AT..HEADER_BYTES]);
    slot[CRC_AT..HEADER_BYTES].fill(0);
    u32::from_le_bytes(crc)
}

/// Checks the CRC of an encoded header against header and body.
///
/// # Errors
/// [`DecodeError::Crc`] when they do not match, [`DecodeError::Length`] when `header` is not 48
/// bytes or `body` has more than 80.
pub fn verify_crc(header: &[u8], body: &[u8]) -> Result<(), DecodeError> {
    let mut slot = [0; FRAME_OFFSET_BYTES];
    if header.len() != HEADER_BYTES {
        return Err(header_length(header.len()));
    }
    let Some(place) = slot.get_mut(HEADER_BYTES..HEADER_BYTES + body.len()) else {
        return Err(DecodeError::Length {
            what: "body",
            found: body.len(),
            expected: BODY_BYTES_MAX,
        });
    };
    place.copy_from_slice(body);
    slot[..HEADER_BYTES].copy_from_slice(header);
    let found = take_crc(&mut slot);
    let computed = crc32c(&[&slot]);
    if found == computed { Ok(()) } else { Err(wrong_crc(found, computed)) }
}

fn header_length(found: usize) -> DecodeError {
    DecodeError::Length { what: "session header", found, expected: HEADER_BYTES }
}

#[cfg(test)]
mod tests;
