//! Messages as the layer above gives and gets them.

use crate::{Frame, SharedFrame};
use pagewire_protocol::{Body, Epoch, InstanceId, Lane, MessageKind};

/// A message to send.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its type; none of those that [`MessageKind::is_reserved`] names.
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

/// Why [`Endpoint::send`](crate::Endpoint::send) did not take a message; it is handed back.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The lane has no credit or its window is full: back-pressure, try again after a poll.
    NoCredit(Message),
    /// The lane needs a frame and there is none, or the other way round; or the kind is reserved.
    WrongLane(Message),
    /// There is no session with that instance.
    NoSession(Message),
    /// The frame is of another arena, with pages of another size.
    WrongPageSize {
        /// The message, unsent.
        message: Message,
        /// Bytes of its frame.
        found_bytes: usize,
        /// Bytes of a page here.
        expected_bytes: usize,
    },
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
