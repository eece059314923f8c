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
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES},
};
use std::io;

/// Whether a receive that was taken is queued again by the link itself.
pub(super) enum Again {
    /// It is the session's, which posts another.
    No,
    Queued,
    /// Of a small message: when there is time.
    Later,
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

/// Takes one receive that has succeeded.
#[inline]
pub(super) fn take_receive(
    queue_pair: &mut QueuePair,
    completion: Completion,
    repost: bool,
    sink: &mut impl Sink,
) -> Result<Again, LinkError> {
    let class = LaneClass::ALL[usize::from(completion.tag()).min(LaneClass::COUNT - 1)];
    let arrival = queue_pair.take_receive(completion)?;
    let header = judge(class, &arrival)?;
    let unwanted = sink.message(&header, arrival.message, arrival.frame)?;
    Ok(match unwanted {
        _ if !repost => Again::No,
        None if class == LaneClass::Small => Again::Later,
        Some(_) => match queue_pair.queue_receive(unwanted) {
            Ok(()) => Again::Queued,
            Err(refused) => return Err(not_queued(queue_pair, refused.reason).into()),
        },
        None => Again::No,
    })
}

/// The header of what has arrived on a queue pair of `class`, if a correct peer sent it.
#[inline(always)] // The header stays in registers.
fn judge(class: LaneClass, arrival: &Arrival<'_>) -> Result<SessionHeader, LinkError> {
    let field = |what, found: usize, expected| {
        Err(DecodeError::Field { what, found: found as u64, expected }.into())
    };
    let header = SessionHeader::decode_slot_without_crc(arrival.message, arrival.message_bytes)?;
    let (message_bytes, frame_bytes) = match &arrival.frame {
        Some(frame) => (FRAME_OFFSET_BYTES, frame.len()),
        None => (HEADER_BYTES + usize::from(header.body_len), 0),
    };
    if arrival.message_bytes != message_bytes {
        let expected = "header and body, padded to 128 before a page";
        return field("bytes of a message over verbs", arrival.message_bytes, expected);
    }
    if arrival.frame_bytes != frame_bytes {
        return field("bytes of a page over verbs", arrival.frame_bytes, "a whole page");
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
