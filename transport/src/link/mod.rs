//! What a session needs of a link: post receives, send, and poll for what completed.
//!
//! The interface has the shape of verbs (messages and completions, receives posted beforehand), so
//! that a queue pair fits behind it as well as a TCP connection.
//!
//! Who owns what: a frame that is posted belongs to the link until it comes back in
//! [`LinkEvent::Received`] or the link is dropped; a frame that is sent is shared with the link
//! until its bytes are gone (TCP: in the kernel; verbs: send completion).
//!
//! Threading: a link belongs to the thread of its endpoint.

pub mod tcp;

use crate::{Frame, SharedFrame, error::LinkError};
use pagewire_protocol::{Body, LaneClass, SessionHeader};

/// What a link has done since the last poll.
#[derive(Debug)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A message has arrived, its header checked and, where it has one, its CRC.
    Received {
        /// The header.
        header: SessionHeader,
        /// The body.
        body: Body,
        /// The posted frame, now filled.
        frame: Option<Frame>,
    },
}

/// How soon a message has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// With the next flush.
    Now,
    /// With the next message that is urgent, or when the endpoint is quiet: a system call and a
    /// wake-up of the peer are more than it is worth.
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

    /// Appends what has completed to `events`.
    ///
    /// # Errors
    /// [`LinkError`]: the link is dead; events appended before are good.
    fn poll(&mut self, events: &mut Vec<LinkEvent>) -> Result<(), LinkError>;

    /// The operating system says that a connection of the link may be read or written.
    fn ready(&mut self, class: LaneClass, readable: bool, writable: bool);

    /// True while polling without asking the operating system first is worth it.
    fn is_hot(&self) -> bool;

    /// Stops polling blindly: the endpoint goes to sleep.
    fn cool_down(&mut self);

    /// True when nothing is left to do before the operating system reports readiness again.
    fn may_sleep(&self) -> bool;
}
