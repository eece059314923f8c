//! What a session needs of a link: post receives, send, and poll for what has arrived.
//!
//! The interface has the shape of verbs (messages and completions, receives posted beforehand), so
//! that a queue pair fits behind it as well as a TCP connection.
//!
//! Who owns what: a frame that is posted belongs to the link until it is handed to the [`Sink`] or
//! the link is dropped; a frame that is sent is shared with the link until its bytes are gone (TCP:
//! in the kernel; verbs: send completion).
//!
//! Threading: a link belongs to the thread of its endpoint.

pub mod dual;
pub mod tcp;
pub mod verbs;

use crate::{Frame, SharedFrame, error::LinkError};
use pagewire_protocol::{Body, LaneClass, LinkControl, SessionHeader, header::Slot};

/// Where a link puts what has arrived: the session and the queue behind it.
pub trait Sink {
    /// A message has arrived, its header checked and, where it has one, its CRC; its body is still in
    /// `slot`. Returns the frame when the message is not wanted; it is then posted again.
    ///
    /// # Errors
    /// [`LinkError`] when no correct peer sends this: the link is dead.
    fn message(
        &mut self,
        header: &SessionHeader,
        slot: &Slot,
        frame: Option<Frame>,
    ) -> Result<Option<Frame>, LinkError>;

    /// The other end has said something about the link. What came behind it is handed over at the
    /// next poll, because it may have to be read differently.
    ///
    /// # Errors
    /// [`LinkError`] when no correct peer says this: the link is dead.
    fn control(&mut self, said: LinkControl) -> Result<(), LinkError>;
}

/// How soon a message has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// With the next flush.
    Now,
    /// With the next urgent message of its lane at the latest, or when the endpoint is quiet: a system
    /// call and a wake-up of the peer are more than it is worth.
    WhenQuiet,
}

/// One way to a peer; see the module.
pub trait Link: std::fmt::Debug {
    /// Gives the link a frame for the next message of a class that carries frames.
    fn post_receive(&mut self, class: LaneClass, frame: Frame);

    /// Queues a message. False: the link's queue is full, try again after [`Link::flush`]. A
    /// message with a frame is always urgent.
    fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool;

    /// True while something urgent is queued.
    fn has_output(&self) -> bool;

    /// Hands what is queued to the kernel or device, as far as it takes it; what is not urgent only
    /// together with what is.
    ///
    /// # Errors
    /// [`LinkError`]: the link is dead.
    fn flush(&mut self) -> Result<(), LinkError>;

    /// Makes everything that is queued urgent.
    fn hurry(&mut self);

    /// True while something waits that is not urgent.
    fn is_waiting_for_quiet(&self) -> bool;

    /// Hands what has arrived to `sink`.
    ///
    /// # Errors
    /// [`LinkError`]: the link is dead; what was handed over before is good.
    fn poll(&mut self, sink: &mut impl Sink) -> Result<(), LinkError>;

    /// True while polling without asking the operating system first is worth it.
    fn is_hot(&self) -> bool;

    /// True when nothing is left to do before the operating system reports readiness again.
    fn may_sleep(&self) -> bool;
}
