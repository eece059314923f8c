//! The session between two incarnations: a pure core, without sockets and without a clock.
//!
//! Each lane is FIFO and exactly-once across any number of links. The session owns the sequences;
//! credits belong to one generation of a link and start anew with each.
//!
//! ```text
//!            acked              cursor                next
//!   ...-------|------------------|---------------------|---->  sequences of one lane
//!             |<- on the link, -->|<- waiting for ----->|
//!             |   not acknowledged    the link         |
//!             |<------------- retained --------------->|
//! ```
//!
//! Invariants: `retained` holds exactly the sequences `acked + 1 .. next`, never more than the
//! window; the cursor lies between; at most `limit` messages are sent in one link generation, and
//! `limit` is what the peer has posted receives for; a message is delivered iff its sequence is the
//! expected one.
//!
//! Who owns what: a message's body and its reference to the frame stay here until the peer's
//! acknowledgement; a link that sends it holds another reference until the bytes are gone.

mod lane;

use crate::{Message, message::Refusal, planted};
use lane::{LaneState, Told};
use pagewire_protocol::{InstanceId, Lane, MessageKind, Sequence, SessionHeader};

/// What the peer did that no correct peer does. The link is closed; the session stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A message is missing.
    #[error("lane {lane:?} got sequence {found}, expected {expected}")]
    Gap {
        /// The lane.
        lane: Lane,
        /// Sequence that came.
        found: Sequence,
        /// Sequence that was due.
        expected: Sequence,
    },
    /// It acknowledges what was never sent.
    #[error("lane {lane:?} acknowledges {found}, but only {sent} were sent")]
    AckOfUnsent {
        /// The lane.
        lane: Lane,
        /// Sequence acknowledged.
        found: Sequence,
        /// Last sequence sent.
        sent: Sequence,
    },
    /// It expects something that was acknowledged and forgotten.
    #[error("lane {lane:?} expects {found}, but everything up to {acked} was acknowledged")]
    Forgotten {
        /// The lane.
        lane: Lane,
        /// Sequence expected.
        found: Sequence,
        /// Last sequence acknowledged.
        acked: Sequence,
    },
    /// It sent without credit.
    #[error("lane {lane:?} got a message beyond the {granted} receives posted for it")]
    NoCredit {
        /// The lane.
        lane: Lane,
        /// Receives posted on this link.
        granted: u32,
    },
    /// It speaks for another instance.
    #[error("a message says it is from instance {found}, on the link of instance {expected}")]
    Source {
        /// Instance in the header.
        found: InstanceId,
        /// Instance of the link.
        expected: InstanceId,
    },
}

/// What to do with a message that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Hand it up.
    Deliver,
    /// It was handed up before; drop it, its receive is free again.
    Duplicate,
    /// It carried only an acknowledgement; it used no receive.
    AckOnly,
}

/// Why a message was not taken; it is handed back.
#[derive(Debug)]
pub enum Rejected {
    /// The window is full, or the peer has posted no further receive: try again later.
    NoCredit(Message),
    /// The lane carries a frame and the message has none, or the other way round; or its kind is
    /// reserved.
    WrongLane(Message),
}

/// How soon an acknowledgement has to go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckDue {
    /// Nothing to say.
    No,
    /// When the lane is quiet.
    Lazy,
    /// Now: half the window is waiting for it.
    Now,
}

/// One lane of a session in numbers, both directions. Those of the present link count modulo 2^32,
/// so that a difference is right even after billions of messages.
///
/// Between two linked sessions at one moment, for what `a` sends to `b`:
///
/// ```text
///   b.posted - b.received  =  (a.limit - a.sent)      credit that a has left
///                           + (a.sent - b.received)   messages on their way
///                           + (b.posted - a.limit)    credit on its way
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneNumbers {
    /// Messages that are kept at most.
    pub window: u32,
    /// Messages that are kept until they are acknowledged.
    pub kept: u32,
    /// Of these, messages that wait for the link or for credit.
    pub waiting: u32,
    /// Messages sent on the present link.
    pub sent: u32,
    /// Messages that the peer lets us send on the present link, as far as we have heard.
    pub limit: u32,
    /// Messages received on the present link.
    pub received: u32,
    /// Receives that we have posted on the present link.
    pub posted: u32,
}

/// One session; see the module.
#[derive(Debug)]
pub struct Session {
    me: InstanceId,
    peer: InstanceId,
    lanes: [LaneState; Lane::COUNT],
    linked: bool,
}

impl Session {
    /// A session of `me` with `peer` that has not had a link yet. `windows` is how many messages a
    /// lane retains at most: the credits the peer gives.
    #[must_use]
    pub fn new(me: InstanceId, peer: InstanceId, windows: [u32; Lane::COUNT]) -> Self {
        Self {
            me,
            peer,
            lanes: Lane::ALL.map(|lane| LaneState::new(lane, windows[lane.index()])),
            linked: false,
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneState {
        &mut self.lanes[lane.index()]
    }

    /// Next sequence expected on each lane: what the handshake of a new link states.
    #[must_use]
    pub fn expected(&self) -> [Sequence; Lane::COUNT] {
        let behind = u64::from(planted::is("session_state_behind"));
        Lane::ALL.map(|lane| Sequence((self.lanes[lane.index()].expected.0 - behind).max(1)))
    }

    /// A link is up: the peer expects `peer_expected` next and has posted `peer_credits` receives,
    /// we have posted `own_credits`. What it has is forgotten, the rest will be sent again.
    ///
    /// # Errors
    /// [`Violation`] when the peer expects what was never sent or is forgotten; nothing is changed.
    pub fn link_up(
        &mut self,
        peer_expected: [Sequence; Lane::COUNT],
        peer_credits: [u32; Lane::COUNT],
        own_credits: [u32; Lane::COUNT],
    ) -> Result<(), Violation> {
        for lane in Lane::ALL {
            self.lanes[lane.index()].check_expected(lane, peer_expected[lane.index()])?;
        }
        for lane in Lane::ALL {
            let i = lane.index();
            self.lanes[i].link_up(peer_expected[i], peer_credits[i], own_credits[i]);
        }
        self.linked = true;
        Ok(())
    }

    /// The session goes on with another link, while the one before it still stood or had failed. As
    /// [`Session::link_up`]; but the peer may have acknowledged more since it stated what it expects.
    ///
    /// # Errors
    /// As [`Session::link_up`].
    pub fn move_to_link(
        &mut self,
        peer_expected: [Sequence; Lane::COUNT],
        peer_credits: [u32; Lane::COUNT],
        own_credits: [u32; Lane::COUNT],
    ) -> Result<(), Violation> {
        let mut expected = peer_expected;
        for (stated, lane) in expected.iter_mut().zip(&self.lanes) {
            if !planted::is("session_move_forgets_acks") {
                *stated = (*stated).max(lane.acked.next());
            }
        }
        self.link_up(expected, peer_credits, own_credits)
    }

    /// True when nothing is on the link that the peer has not acknowledged.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.lanes.iter().all(LaneState::is_settled)
    }

    /// The link is gone. Everything unacknowledged stays.
    pub fn link_down(&mut self) {
        self.linked = false;
    }

    /// True while there is a link.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// Takes a message to send, gives it its sequence and keeps it until it is acknowledged.
    /// Without a link it is kept for the next one, up to the window.
    ///
    /// # Errors
    /// [`Rejected`], with the message.
    #[allow(clippy::result_large_err)] // Back-pressure hands the message back by value.
    pub fn submit(&mut self, lane: Lane, mut message: Message) -> Result<(), Rejected> {
        let submitted = match lane.class().has_frame() {
            true => self.submit_next::<true>(lane, &mut message),
            false => self.submit_next::<false>(lane, &mut message),
        };
        match submitted {
            Ok(_) => Ok(()),
            Err(Refusal::NoCredit) => Err(Rejected::NoCredit(message)),
            Err(_) => Err(Rejected::WrongLane(message)),
        }
    }

    /// As [`Session::submit`], of a message whose frame is taken and which is then of no use any more.
    /// Hands back what [`Session::next_outgoing`] gives now, if it is this message. `FRAME`: the lane
    /// carries frames; of one that does not, nothing has to look for a frame.
    ///
    /// # Errors
    /// [`Refusal`]; the message is as it was.
    #[inline(always)] // The header stays in registers.
    pub(crate) fn submit_next<const FRAME: bool>(
        &mut self,
        lane: Lane,
        message: &mut Message,
    ) -> Result<Option<(SessionHeader, &Message)>, Refusal> {
        debug_assert_eq!(lane.class().has_frame(), FRAME);
        if message.frame.is_some() != FRAME || message.kind.has_no_sequence() {
            return Err(Refusal::WrongLane);
        }
        let (source, linked) = (self.me, self.linked);
        let next = self.lanes[lane.index()].submit::<FRAME>(message, linked)?;
        Ok(next.map(|(sequence, message, told)| {
            (header_of(lane, sequence, (message, FRAME), told, source), message)
        }))
    }

    /// How many messages of `lane` would be taken now.
    #[inline]
    #[must_use]
    pub fn room(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].room(self.linked)
    }

    /// `lane` in numbers.
    #[must_use]
    pub fn numbers(&self, lane: Lane) -> LaneNumbers {
        self.lanes[lane.index()].numbers()
    }

    /// True while messages of `lane` wait for the link or for credit.
    #[inline]
    #[must_use]
    pub fn has_waiting(&self, lane: Lane) -> bool {
        self.lanes[lane.index()].has_waiting()
    }

    /// The next message of `lane` for the link, with its header, if there is one and the peer has
    /// posted a receive for it. Call [`Session::transmitted`] once the link has taken it.
    #[inline]
    #[must_use]
    pub fn next_outgoing(&self, lane: Lane) -> Option<(SessionHeader, &Message)> {
        if !self.linked {
            return None;
        }
        let state = &self.lanes[lane.index()];
        let (sequence, message) = state.next_outgoing()?;
        let told = (state.last_received(), state.granted);
        let frame = message.frame.is_some();
        Some((header_of(lane, sequence, (message, frame), told, self.me), message))
    }

    /// The link has taken what [`Session::next_outgoing`] gave. True: for the first time.
    #[inline]
    pub fn transmitted(&mut self, lane: Lane) -> bool {
        self.lane(lane).transmitted()
    }

    /// Judges a header that arrived and takes its acknowledgement and credits.
    ///
    /// # Errors
    /// [`Violation`]: close the link.
    #[inline(always)] // The header is in registers.
    pub fn receive(&mut self, header: &SessionHeader) -> Result<Disposition, Violation> {
        if header.source != self.peer {
            return Err(Violation::Source { found: header.source, expected: self.peer });
        }
        let state = self.lane(header.lane);
        state.acknowledge(header.lane, header.ack, header.credits)?;
        if header.kind == MessageKind::ACK_ONLY {
            return Ok(Disposition::AckOnly);
        }
        state.receive(header.lane, header.sequence)
    }

    /// A receive has been posted (again) for `lane`.
    #[inline]
    pub fn posted(&mut self, lane: Lane) {
        self.lane(lane).posted();
    }

    /// Receives of `lane` that are posted and that nothing has come for.
    #[inline]
    #[must_use]
    pub fn unused_receives(&self, lane: Lane) -> u32 {
        self.lanes[lane.index()].unused_receives()
    }

    /// How soon `lane` has to acknowledge or give credits.
    #[inline]
    #[must_use]
    pub fn ack_due(&self, lane: Lane) -> AckDue {
        if self.linked { self.lanes[lane.index()].ack_due() } else { AckDue::No }
    }

    /// Whether [`Session::ack_due`] is [`AckDue::Now`].
    #[inline]
    #[must_use]
    pub fn is_ack_due_now(&self, lane: Lane) -> bool {
        self.linked && self.lanes[lane.index()].is_ack_due_now()
    }

    /// An acknowledgement that goes out alone; it counts as told.
    pub fn ack_alone(&mut self, lane: Lane) -> SessionHeader {
        let source = self.me;
        let state = self.lane(lane);
        state.told();
        SessionHeader {
            lane,
            kind: MessageKind::ACK_ONLY,
            body_len: 0,
            frame: false,
            page_crc: None,
            epoch: pagewire_protocol::Epoch(0),
            sequence: Sequence(0),
            ack: state.last_received(),
            credits: state.granted,
            source,
        }
    }

    /// Up to which sequence the peer has acknowledged `lane`.
    #[must_use]
    pub fn acknowledged(&self, lane: Lane) -> Sequence {
        self.lanes[lane.index()].acked
    }

    /// Sequence that was last on a link for the first time.
    #[must_use]
    pub fn last_sent(&self, lane: Lane) -> Sequence {
        self.lanes[lane.index()].high_water
    }

    /// Number of messages that are not acknowledged, on all lanes.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.lanes.iter().map(|state| state.retained.len()).sum()
    }

    /// Ends the session: hands back what is unacknowledged, whose outcome is unknown.
    #[must_use]
    pub fn end(self) -> Vec<(Lane, Message)> {
        let lanes = Lane::ALL.into_iter().zip(self.lanes);
        let kept = lanes.flat_map(|(lane, state)| {
            state.retained.into_vec().into_iter().map(move |message| (lane, message))
        });
        // One-sided reads end by themselves; what they say is not the upper layer's.
        kept.filter(|(_, message)| !message.kind.is_of_reads()).collect()
    }
}

/// The header that a message goes out with, with a frame or without.
#[inline(always)] // It stays in registers.
fn header_of(
    lane: Lane,
    sequence: Sequence,
    (message, frame): (&Message, bool),
    (ack, credits): Told,
    source: InstanceId,
) -> SessionHeader {
    SessionHeader {
        lane,
        kind: message.kind,
        body_len: message.body.count_bytes(),
        frame,
        page_crc: None,
        epoch: message.epoch,
        sequence,
        ack,
        credits,
        source,
    }
}

#[cfg(test)]
mod tests;
