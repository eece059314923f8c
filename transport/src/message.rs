//! Messages as the layer above gives and gets them.

use crate::{Frame, SharedFrame, ring::Vacant};
use pagewire_protocol::{Body, Epoch, InstanceId, Lane, MessageKind};
use std::ops::{Deref, DerefMut};

/// A message to send.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its type, 1 to 65531: none of those that [`MessageKind::is_reserved`] names.
    pub kind: MessageKind,
    /// Epoch it belongs to.
    pub epoch: Epoch,
    /// Up to 80 bytes.
    pub body: Body,
    /// The page, on the lanes that carry one; none on the others.
    pub frame: Option<SharedFrame>,
}

impl Message {
    /// A message without a page, of epoch 0.
    #[must_use]
    pub fn new(kind: MessageKind, body: Body) -> Self {
        Self { kind, epoch: Epoch(0), body, frame: None }
    }
}

impl Vacant for Message {
    fn vacant() -> Self {
        Self::new(MessageKind::ACK_ONLY, Body::EMPTY)
    }
}

/// A message that arrived: exactly once, in the order of its lane.
#[derive(Debug)]
pub struct Received {
    /// Who sent it.
    pub from: InstanceId,
    /// The lane it came on.
    pub lane: Lane,
    /// Its type.
    pub kind: MessageKind,
    /// Epoch it belongs to.
    pub epoch: Epoch,
    /// Up to 80 bytes.
    pub body: Body,
    /// The page, on the lanes that carry one. It is the caller's now.
    pub frame: Option<Frame>,
}

impl Vacant for Received {
    fn vacant() -> Self {
        let (from, kind) = (InstanceId(0), MessageKind::ACK_ONLY);
        Self { from, lane: Lane::Control, kind, epoch: Epoch(0), body: Body::EMPTY, frame: None }
    }
}

/// A message that was taken ([`Endpoint::next_message`](crate::Endpoint::next_message)), to be read where
/// it lies. A frame that is left in it goes back to the arena with it.
#[derive(Debug)]
pub struct Taken<'a>(pub(crate) &'a mut Received);

impl Taken<'_> {
    /// Moves it out, with its frame.
    #[inline(always)] // So that it is written where the caller's caller wants it.
    #[must_use]
    pub fn take(&mut self) -> Received {
        let Received { from, lane, kind, epoch, body, ref mut frame } = *self.0;
        Received { from, lane, kind, epoch, body, frame: frame.take() }
    }
}

impl Deref for Taken<'_> {
    type Target = Received;

    #[inline]
    fn deref(&self) -> &Received {
        self.0
    }
}

impl DerefMut for Taken<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Received {
        self.0
    }
}

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        // Its place is written again who knows when.
        self.0.frame = None;
    }
}

/// Why [`Endpoint::send`](crate::Endpoint::send) did not take a message; it is handed back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane has no credit or its window is full: back-pressure, try again after a poll.
    #[error(
        "the lane has no credit or its window is full, expected the peer to take what was sent \
         before: poll and try again"
    )]
    NoCredit(Message),
    /// The lane needs a frame and there is none, or the other way round; or the kind is reserved.
    #[error(
        "the message is of kind {} and has {} frame, expected a kind of 1 to 65531 (0 and 65532 to \
         65535 are reserved) and a frame on the lanes of pages and bulk only: choose another kind, \
         or a lane that fits",
        .0.kind.0, if .0.frame.is_some() { "a" } else { "no" }
    )]
    WrongLane(Message),
    /// There is no session with that instance.
    #[error(
        "there is no session with that instance, expected one: make it known with `add_peer` and \
         poll until `Event::Up`"
    )]
    NoSession(Message),
    /// The frame is of another arena, with pages of another size.
    #[error(
        "the frame has {found_bytes} bytes, expected {expected_bytes}, the size of this endpoint's \
         pages: take it from the endpoint's own arena"
    )]
    WrongPageSize {
        /// The message, unsent.
        message: Message,
        /// Bytes of its frame.
        found_bytes: usize,
        /// Bytes of a page here.
        expected_bytes: usize,
    },
}

/// As [`SendError`], of a message that its owner still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoCredit,
    WrongLane,
    NoSession,
    WrongPageSize,
}

impl SendError {
    /// The message, unsent.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::NoCredit(m) | Self::WrongLane(m) | Self::NoSession(m) => m,
            Self::WrongPageSize { message, .. } => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_is_told_with_what_to_do() {
        let message = || Message::new(MessageKind(7), Body::EMPTY);
        let size =
            |message| SendError::WrongPageSize { message, found_bytes: 4096, expected_bytes: 8192 };
        for (error, words) in [
            (SendError::NoCredit(message()), ["no credit", "poll and try again"]),
            (SendError::WrongLane(message()), ["kind 7 and has no frame", "a lane that fits"]),
            (SendError::NoSession(message()), ["no session", "`Event::Up`"]),
            (size(message()), ["4096 bytes, expected 8192", "own arena"]),
        ] {
            let error: Box<dyn std::error::Error> = Box::new(error);
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
        }
    }
}
