//! What a completion brings to the link: a message that a correct peer sent, or the end of a send or
//! read.

use super::Reads;
use crate::{
    error::LinkError,
    link::{
        Sink,
        verbs::{Arrival, Completion, QueuePair, RefusedReason, VerbsError, completion::Work},
    },
};
use pagewire_protocol::{
    DecodeError, LaneClass, MessageKind, SessionHeader,
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES, Slot},
};
use std::io;

/// Whether a receive that was taken is queued again by the link itself.
pub(super) enum Again {
    /// It is the session's, which posts another.
    No,
    Queued,
}

/// Takes what is no receive that has brought something: a send, a read, or work that failed. Failures
/// count while the link is not being closed.
#[inline(never)] // Beside each message, and rarer.
pub(super) fn take_other(
    queue_pair: &mut QueuePair,
    completion: Completion,
    is_open: bool,
    reads: &mut Reads,
) -> Result<(), LinkError> {
    let ended = completion.result();
    if let Work::Receive { .. } = completion.work() {
        queue_pair.take_receive(completion)?;
    } else if let Some(frame) = queue_pair.take_sent(completion)?.read {
        reads.ended(frame, ended.is_ok());
    }
    match ended {
        Err(error) if is_open => Err(VerbsError::from(error).into()),
        _ => Ok(()),
    }
}

/// Takes a small message: the first `bytes` of `slot`, zeros behind them. Its receive is the link's.
#[inline(always)] // The header stays in registers.
pub(super) fn take_message(
    slot: &Slot,
    bytes: usize,
    sink: &mut impl Sink,
) -> Result<(), LinkError> {
    match SessionHeader::decode_message(slot, bytes) {
        Some(header) => sink.message(&header, slot, None).map(|_| ()),
        None => take_unusual(slot, bytes, sink),
    }
}

/// As [`take_message`], of an acknowledgement alone, or of what no correct peer has sent.
#[inline(never)] // Rarer.
fn take_unusual(slot: &Slot, bytes: usize, sink: &mut impl Sink) -> Result<(), LinkError> {
    let header = judge(LaneClass::Small, (slot, bytes), None)?;
    sink.message(&header, slot, None).map(|_| ())
}

/// Takes one receive of a page that has succeeded.
#[inline]
pub(super) fn take_receive(
    queue_pair: &mut QueuePair,
    completion: Completion,
    repost: bool,
    sink: &mut impl Sink,
) -> Result<Again, LinkError> {
    let class = LaneClass::ALL[usize::from(completion.tag()).min(LaneClass::COUNT - 1)];
    let Arrival { message, message_bytes, frame, frame_bytes } =
        queue_pair.take_receive(completion)?;
    let frame_found = frame.as_ref().map(|frame| (frame.len(), frame_bytes));
    let header = judge(class, (message, message_bytes), frame_found)?;
    let unwanted = sink.message(&header, message, frame)?;
    if unwanted.is_none() || !repost {
        return Ok(Again::No);
    }
    match queue_pair.queue_receive(unwanted) {
        Ok(()) => Ok(Again::Queued),
        Err(refused) => Err(not_queued(queue_pair, refused.reason).into()),
    }
}

/// The header of what has arrived on a queue pair of `class`, if a correct peer sent it: `message_bytes`
/// in `slot`, and in a frame, with its length, so many.
#[inline(always)] // The header stays in registers.
fn judge(
    class: LaneClass,
    (slot, message_bytes): (&Slot, usize),
    frame: Option<(usize, usize)>,
) -> Result<SessionHeader, LinkError> {
    let field = |what, found: usize, expected| {
        Err(DecodeError::Field { what, found: found as u64, expected }.into())
    };
    let header = SessionHeader::decode_slot_without_crc(slot, message_bytes)?;
    let (whole_bytes, page_bytes, frame_bytes) = match frame {
        Some((len, bytes)) => (FRAME_OFFSET_BYTES, len, bytes),
        None => (HEADER_BYTES + usize::from(header.body_len), 0, 0),
    };
    if message_bytes != whole_bytes {
        let expected = "header and body, padded to 128 before a page";
        return field("bytes of a message over verbs", message_bytes, expected);
    }
    if frame_bytes != page_bytes {
        return field("bytes of a page over verbs", frame_bytes, "a whole page");
    }
    if header.kind == MessageKind::LINK {
        let expected = "on TCP, where all is said about the link";
        return field("kind of a message over verbs", header.kind.0.into(), expected);
    }
    let fits = if header.frame { header.lane.class() == class } else { class == LaneClass::Small };
    if !fits {
        let expected = "that of the queue pair it came on";
        return field("lane of a message over verbs", header.lane.index(), expected);
    }
    Ok(header)
}

/// A receive that the queue pair does not take.
#[cold]
pub(super) fn not_queued(queue_pair: &QueuePair, reason: RefusedReason) -> VerbsError {
    let source = io::Error::other(reason.to_string());
    VerbsError::Post { queue: "receive", queue_pair: queue_pair.number(), source }
}
