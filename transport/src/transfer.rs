//! Large transfers: many frames as one, over the bulk lane.
//!
//! A [`Transfer`] is driven by its owner's poll loop: [`Transfer::pump`] sends as many frames as the
//! lane takes, and asks for a frame only once there is room for it, so that memory is bounded by the
//! lane's credits whatever the size of the transfer. The other side gives what arrives to an
//! [`Assembly`], which checks it and hands frames on as they come.
//!
//! ```text
//!   body    0      8       16      24           28       32
//!           +------+-------+-------+------------+--------+
//!           |  id  | index | count | last bytes | status |      integers little-endian
//!           +------+-------+-------+------------+--------+
//! ```
//! `index` counts from 0 to `count - 1`; `last bytes` is how much of the last frame belongs to the
//! transfer, 1 to a whole frame; `status` is 0, or 1 for the message that ends the transfer early,
//! whose frame means nothing (the bulk lane has no message without one).
//!
//! Invariants: a transfer sends its frames in order, each once, all to one incarnation. Lost links
//! do not matter, because the session replays; when the session ends, so does the transfer.
//!
//! Several transfers may share the lane; [`PartHead::of`] tells whose a message is. Threading: as the
//! endpoint.
//!
//! ```
//! # use pagewire_protocol::{ClusterId, InstanceId, MessageKind};
//! # use pagewire_transport::{Arena, ArenaConfig, Endpoint, EndpointConfig, Event};
//! use pagewire_transport::transfer::{Assembly, Part, Progress, Transfer, TransferId};
//! # fn endpoint(id: u16) -> Endpoint {
//! #     let config = EndpointConfig::new(ClusterId(1), InstanceId(id), "127.0.0.1:0".parse().unwrap());
//! #     Endpoint::bind(config, Arena::new(&ArenaConfig::new(128)).unwrap()).unwrap()
//! # }
//! # let (mut a, mut b) = (endpoint(0), endpoint(1));
//! # a.add_peer(InstanceId(1), b.listen_address()).unwrap();
//! # b.add_peer(InstanceId(0), a.listen_address()).unwrap();
//! # while !(a.is_linked(InstanceId(1)) && b.is_linked(InstanceId(0))) { a.poll(); b.poll(); }
//! const BLOCKS: MessageKind = MessageKind(210); // a number of the owner's choice
//! let bytes = 1000 * 8192 - 100;
//! let mut transfer = Transfer::new(BLOCKS, TransferId(5), bytes, a.arena().page_size()).unwrap();
//! let mut assembly = Assembly::new(InstanceId(0), TransferId(5));
//! let mut got = 0;
//! loop {
//!     transfer
//!         .pump(&mut a, InstanceId(1), |arena, index| {
//!             let mut frame = arena.take()?; // none is free: asked again at the next pump
//!             frame.fill(index as u8);
//!             Some(frame.freeze())
//!         })
//!         .unwrap();
//!     a.poll();
//!     b.poll();
//!     while let Some(event) = b.next_event() {
//!         let Event::Message(received) = event else { continue };
//!         let Part::Frame { index, frame, used_bytes } = assembly.take(received).unwrap() else {
//!             panic!("ended early");
//!         };
//!         assert!(frame[..used_bytes].iter().all(|&byte| byte == index as u8));
//!         got += used_bytes as u64;
//!     }
//! #   while let Some(_) = a.next_event() {}
//!     if assembly.is_complete() {
//!         break;
//!     }
//! }
//! assert_eq!(got, bytes);
//! assert_eq!(transfer.progress(), Progress::Sent);
//! ```

use crate::{Arena, Endpoint, Frame, Message, Received, SendError, SharedFrame};
use pagewire_protocol::{Body, Incarnation, InstanceId, Lane, MessageKind, PageSize};

/// Bytes of the body of a transfer's message.
pub const PART_HEAD_BYTES: usize = 32;
const STATUS_FRAME: u32 = 0;
const STATUS_ENDS_EARLY: u32 = 1;

/// Names a transfer between two instances; unique among those under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

impl std::fmt::Display for TransferId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a transfer cannot begin or go on, or what is wrong with a message of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// There is nothing to send.
    #[error("transfer {id} has 0 bytes, expected at least 1: there is nothing to send")]
    Empty {
        /// The transfer.
        id: TransferId,
    },
    /// The kind of its messages is reserved.
    #[error(
        "transfer {id} has messages of kind {found}, expected 1 to 65531: 0 and 65532 to 65535 are \
         reserved; choose another kind"
    )]
    Kind {
        /// The transfer.
        id: TransferId,
        /// The kind.
        found: MessageKind,
    },
    /// The frame that was to be sent is of another arena, with pages of another size. It was not
    /// sent, and the transfer goes on with the next one that fits.
    #[error(
        "frame {index} of transfer {id} has {found_bytes} bytes, expected {expected_bytes}: take it \
         from the endpoint's own arena"
    )]
    FrameSize {
        /// The transfer.
        id: TransferId,
        /// Number of the frame, from 0.
        index: u64,
        /// Bytes of the frame.
        found_bytes: usize,
        /// Bytes of a page at the endpoint.
        expected_bytes: usize,
    },
    /// It was laid out for pages of another size.
    #[error(
        "transfer {id} is laid out in pages of {found}, expected {expected}, those of the arena"
    )]
    PageSize {
        /// The transfer.
        id: TransferId,
        /// Size of its pages.
        found: PageSize,
        /// Size of the endpoint's.
        expected: PageSize,
    },
    /// There is no session to send on.
    #[error("no session with instance {peer}: try again when it is up")]
    NoSession {
        /// The receiver.
        peer: InstanceId,
    },
    /// The session that the transfer began on is over: what was sent may or may not have arrived.
    #[error(
        "transfer {id} to instance {peer} broke off after {sent} frames: that life of the instance is \
         over; begin it anew under another id"
    )]
    SessionEnded {
        /// The transfer.
        id: TransferId,
        /// The receiver.
        peer: InstanceId,
        /// Frames that were sent.
        sent: u64,
    },
    /// A transfer goes to one instance.
    #[error("transfer {id} goes to instance {expected}, not to instance {found}")]
    Receiver {
        /// The transfer.
        id: TransferId,
        /// Instance it was to be pumped to.
        found: InstanceId,
        /// Instance it began with.
        expected: InstanceId,
    },
    /// The message is no part of a transfer.
    #[error("a message of a transfer has {found} as {what}, expected {expected}")]
    Field {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it may hold.
        expected: &'static str,
    },
    /// The message belongs to something else.
    #[error(
        "a part of transfer {found} from instance {from}, expected transfer {expected} from instance \
         {sender}; look up the assembly by sender and id"
    )]
    Foreign {
        /// Transfer of the message.
        found: TransferId,
        /// Its sender.
        from: InstanceId,
        /// Transfer of the assembly.
        expected: TransferId,
        /// Sender of the assembly.
        sender: InstanceId,
    },
    /// Not the frame that is due.
    #[error("transfer {id} got frame {found}, expected frame {expected}")]
    Order {
        /// The transfer.
        id: TransferId,
        /// Index that came.
        found: u64,
        /// Index that was due.
        expected: u64,
    },
    /// The size is not the one that was first stated.
    #[error("transfer {id} says it has {found} bytes, at first it said {expected}")]
    Size {
        /// The transfer.
        id: TransferId,
        /// Bytes stated now.
        found: u64,
        /// Bytes stated at first.
        expected: u64,
    },
    /// It is complete or was ended, or an error has made it useless.
    #[error("transfer {id} is over, expected nothing more of it")]
    Over {
        /// The transfer.
        id: TransferId,
    },
}

/// What a message says of its place in a transfer; see the module for the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHead {
    /// The transfer.
    pub id: TransferId,
    /// Number of the frame, from 0.
    pub index: u64,
    /// Number of frames of the whole transfer.
    pub count: u64,
    /// Bytes of the last frame that belong to it.
    pub last_bytes: u32,
    /// The transfer ends with this message, whose frame means nothing.
    pub ends_early: bool,
}

impl PartHead {
    /// The body of the message.
    #[must_use]
    pub fn body(&self) -> Body {
        let mut bytes = [0; PART_HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.last_bytes.to_le_bytes());
        let status = if self.ends_early { STATUS_ENDS_EARLY } else { STATUS_FRAME };
        bytes[28..].copy_from_slice(&status.to_le_bytes());
        Body::new(&bytes).unwrap_or(Body::EMPTY)
    }

    /// Reads what [`PartHead::body`] wrote.
    ///
    /// # Errors
    /// [`TransferError::Field`] when the body is not one of a transfer.
    pub fn of(body: &Body) -> Result<Self, TransferError> {
        let field = |what, found, expected| TransferError::Field { what, found, expected };
        let bytes = body.as_slice();
        let Some((words, [])) = bytes.split_first_chunk::<PART_HEAD_BYTES>() else {
            return Err(field("body length", bytes.len() as u64, "32"));
        };
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&words[at..at + 8]);
            u64::from_le_bytes(long)
        };
        let (index, count, ends) = (long(8), long(16), long(24));
        let last_bytes = u32::try_from(ends & u64::from(u32::MAX)).unwrap_or(0);
        let status = ends >> 32;
        if index >= count {
            return Err(field("index", index, "less than the count of frames"));
        }
        if last_bytes == 0 {
            return Err(field("bytes of the last frame", 0, "at least 1"));
        }
        if status > u64::from(STATUS_ENDS_EARLY) {
            return Err(field("status", status, "0 or 1"));
        }
        let ends_early = status == u64::from(STATUS_ENDS_EARLY);
        Ok(Self { id: TransferId(long(0)), index, count, last_bytes, ends_early })
    }

    /// Bytes of the whole transfer in frames of `page_bytes`; `None` when no transfer has so many.
    fn total_bytes(&self, page_bytes: u64) -> Option<u64> {
        let last_bytes = u64::from(self.last_bytes);
        let before = (self.count - 1).checked_mul(page_bytes)?;
        (last_bytes <= page_bytes).then(|| before.checked_add(last_bytes))?
    }
}

/// How far a transfer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// So many frames have been sent, others are to come.
    Going {
        /// Frames sent.
        sent: u64,
        /// Frames of the whole transfer.
        count: u64,
    },
    /// Everything has been sent; the session delivers it.
    Sent,
    /// It was cancelled, and the receiver is told.
    Cancelled,
}

/// The sending side of a transfer; see the module.
#[derive(Debug)]
pub struct Transfer {
    kind: MessageKind,
    page_size: PageSize,
    /// Of the frame that is next.
    head: PartHead,
    /// Whom it goes to, once it has begun.
    to: Option<(InstanceId, Incarnation)>,
    progress: Progress,
}

impl Transfer {
    /// A transfer of `total_bytes` in frames of `page_size`, as messages of `kind`.
    ///
    /// # Errors
    /// [`TransferError::Empty`], or [`TransferError::Kind`] for a reserved kind.
    pub fn new(
        kind: MessageKind,
        id: TransferId,
        total_bytes: u64,
        page_size: PageSize,
    ) -> Result<Self, TransferError> {
        if kind.is_reserved() {
            return Err(TransferError::Kind { id, found: kind });
        }
        let page_bytes = page_size.bytes_u32();
        let Some(before_last) = total_bytes.checked_sub(1) else {
            return Err(TransferError::Empty { id });
        };
        let count = before_last / u64::from(page_bytes) + 1;
        let last = before_last % u64::from(page_bytes) + 1;
        let last_bytes = u32::try_from(last).unwrap_or(page_bytes);
        let head = PartHead { id, index: 0, count, last_bytes, ends_early: false };
        Ok(Self { kind, page_size, head, to: None, progress: Progress::Going { sent: 0, count } })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TransferId {
        self.head.id
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Sends frames as long as the lane takes them and `next` has them: it gets the arena and the
    /// index of the frame, and says `None` when it has none yet. It is asked for each index until it
    /// gives one, and not for the next before. Never blocks; call it once a turn.
    ///
    /// # Errors
    /// [`TransferError::NoSession`] before it has begun, [`TransferError::SessionEnded`] after,
    /// [`TransferError::Receiver`] for another `peer` than at first,
    /// [`TransferError::PageSize`] for an endpoint with pages of another size, and
    /// [`TransferError::FrameSize`] for such a frame.
    pub fn pump(
        &mut self,
        endpoint: &mut Endpoint,
        peer: InstanceId,
        mut next: impl FnMut(&Arena, u64) -> Option<SharedFrame>,
    ) -> Result<Progress, TransferError> {
        let (found, expected) = (self.page_size, endpoint.arena().page_size());
        if found != expected {
            return Err(TransferError::PageSize { id: self.head.id, found, expected });
        }
        let receiver = self.receiver(endpoint, peer)?;
        while let Progress::Going { count, .. } = self.progress
            && endpoint.room(peer, Lane::Bulk) > 0
        {
            let frame = if self.head.ends_early {
                endpoint.arena().take().map(Frame::freeze)
            } else {
                next(endpoint.arena(), self.head.index)
            };
            let Some(frame) = frame else { break };
            let message =
                Message { frame: Some(frame), ..Message::new(self.kind, self.head.body()) };
            match endpoint.send(peer, Lane::Bulk, message) {
                Ok(()) => {}
                Err(SendError::NoCredit(_)) => break,
                Err(error) => return Err(self.not_sent(peer, &error)),
            }
            self.to = Some((peer, receiver));
            self.head.index += 1;
            self.progress = match self.head.index {
                _ if self.head.ends_early => Progress::Cancelled,
                sent if sent == count => Progress::Sent,
                sent => Progress::Going { sent, count },
            };
        }
        Ok(self.progress)
    }

    /// Ends the transfer before it is complete; [`Transfer::pump`] tells the receiver. What has been
    /// sent completely is not cancelled any more.
    pub fn cancel(&mut self) {
        if let Progress::Going { sent, .. } = self.progress {
            self.head.ends_early = true;
            if sent == 0 {
                // The receiver knows nothing of it.
                self.progress = Progress::Cancelled;
            }
        }
    }

    fn receiver(
        &self,
        endpoint: &Endpoint,
        peer: InstanceId,
    ) -> Result<Incarnation, TransferError> {
        let now = endpoint.incarnation_of(peer);
        match self.to {
            None => now.ok_or(TransferError::NoSession { peer }),
            Some((expected, _)) if expected != peer => {
                Err(TransferError::Receiver { id: self.id(), found: peer, expected })
            }
            Some((_, receiver)) if now == Some(receiver) => Ok(receiver),
            // All of it went to the session, which handed back what did not arrive.
            Some(_) => Err(self.broken_off(peer)),
        }
    }

    /// In the words of a transfer, why its next frame was not taken.
    fn not_sent(&self, peer: InstanceId, error: &SendError) -> TransferError {
        let (id, index) = (self.id(), self.head.index);
        match *error {
            SendError::WrongPageSize { found_bytes, expected_bytes, .. } => {
                TransferError::FrameSize { id, index, found_bytes, expected_bytes }
            }
            // Every message has a frame, as the lane wants: it is the kind.
            SendError::WrongLane(_) => TransferError::Kind { id, found: self.kind },
            SendError::NoSession(_) if self.to.is_none() => TransferError::NoSession { peer },
            SendError::NoSession(_) | SendError::NoCredit(_) => self.broken_off(peer),
        }
    }

    fn broken_off(&self, peer: InstanceId) -> TransferError {
        TransferError::SessionEnded { id: self.id(), peer, sent: self.head.index }
    }
}

/// What a message brought.
#[derive(Debug)]
pub enum Part {
    /// The next frame.
    Frame {
        /// Its number, from 0.
        index: u64,
        /// The frame; it is the caller's.
        frame: Frame,
        /// Bytes of it that belong to the transfer: all but in the last one.
        used_bytes: usize,
    },
    /// The sender has cancelled the transfer after so many frames.
    EndedEarly {
        /// Frames that came.
        frames: u64,
    },
}

/// The receiving side of a transfer; see the module.
#[derive(Debug)]
pub struct Assembly {
    from: InstanceId,
    id: TransferId,
    /// Frames and bytes of the whole, once the first message has told.
    size: Option<(u64, u64)>,
    /// Frames that came.
    got: u64,
    is_over: bool,
}

impl Assembly {
    /// Waits for transfer `id` from instance `from`.
    #[must_use]
    pub fn new(from: InstanceId, id: TransferId) -> Self {
        Self { from, id, size: None, got: 0, is_over: false }
    }

    /// Frames that came, and of how many once that is known.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.got, self.size.map(|(count, _)| count))
    }

    /// Bytes of the whole transfer, once its first message has told.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.size.map(|(_, bytes)| bytes)
    }

    /// True when everything is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.size.is_some_and(|(count, _)| self.got == count)
    }

    /// Takes a message of the transfer and hands its frame on.
    ///
    /// # Errors
    /// [`TransferError`] when it is not what comes next. After anything but
    /// [`TransferError::Foreign`] the transfer is over.
    pub fn take(&mut self, received: Received) -> Result<Part, TransferError> {
        let part = self.judge(received);
        self.is_over |= match &part {
            Ok(Part::Frame { .. }) => self.is_complete(),
            Ok(Part::EndedEarly { .. }) => true,
            Err(error) => !matches!(error, TransferError::Foreign { .. }),
        };
        part
    }

    fn judge(&mut self, received: Received) -> Result<Part, TransferError> {
        let head = PartHead::of(&received.body)?;
        let id = self.id;
        if (head.id, received.from) != (id, self.from) {
            let (found, from, expected, sender) = (head.id, received.from, id, self.from);
            return Err(TransferError::Foreign { found, from, expected, sender });
        }
        if self.is_over {
            return Err(TransferError::Over { id });
        }
        let Some(frame) = received.frame else {
            let (what, expected) = ("number of frames", "1: it travels on the bulk lane");
            return Err(TransferError::Field { what, found: 0, expected });
        };
        let Some(total_bytes) = head.total_bytes(frame.len() as u64) else {
            let (what, found) = ("bytes of the last frame", head.last_bytes.into());
            let expected = "at most a frame, and in all less than 2^64";
            return Err(TransferError::Field { what, found, expected });
        };
        let (_, expected) = *self.size.get_or_insert((head.count, total_bytes));
        if total_bytes != expected {
            return Err(TransferError::Size { id, found: total_bytes, expected });
        }
        if head.index != self.got {
            return Err(TransferError::Order { id, found: head.index, expected: self.got });
        }
        if head.ends_early {
            return Ok(Part::EndedEarly { frames: self.got });
        }
        self.got += 1;
        let last_bytes = usize::try_from(head.last_bytes).unwrap_or(usize::MAX);
        let used_bytes = if self.is_complete() { last_bytes } else { frame.len() };
        Ok(Part::Frame { index: head.index, frame, used_bytes })
    }
}
