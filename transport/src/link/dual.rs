//! What an endpoint has to one peer: TCP connections, and queue pairs beside them when both ends can.
//!
//! Messages are on one of the two at a time ([`DualLink::on`]). The TCP connections stay for as long
//! as there is a link: on them the ends agree on the other kind, keep each other informed that they
//! live, and fall back. What is on TCP while messages are on verbs is only that; an acknowledgement
//! that is late there means nothing any more.

use super::{Link, Sink, Urgency, tcp::TcpLink, verbs::link::VerbsLink};
use crate::{Frame, SharedFrame, error::LinkError};
use mio::{Registry, Token};
use pagewire_protocol::{
    Body, Epoch, InstanceId, Lane, LaneClass, LinkControl, LinkKind, MessageKind, Sequence,
    SessionHeader, header::Slot,
};

/// See the module.
#[derive(Debug)]
pub struct DualLink {
    tcp: TcpLink,
    verbs: Option<Box<VerbsLink>>,
    on: LinkKind,
}

impl DualLink {
    /// A link that begins on TCP.
    #[must_use]
    pub fn new(tcp: TcpLink) -> Self {
        Self { tcp, verbs: None, on: LinkKind::Tcp }
    }

    /// What messages are on.
    #[inline]
    #[must_use]
    pub fn on(&self) -> LinkKind {
        self.on
    }

    /// The TCP connections.
    pub fn tcp_mut(&mut self) -> &mut TcpLink {
        &mut self.tcp
    }

    /// The queue pairs, if there are any.
    pub fn verbs_mut(&mut self) -> Option<&mut VerbsLink> {
        self.verbs.as_deref_mut()
    }

    /// Whether there are queue pairs.
    #[must_use]
    pub fn has_verbs(&self) -> bool {
        self.verbs.is_some()
    }

    /// Puts queue pairs beside the TCP connections; messages stay where they are.
    pub fn set_verbs(&mut self, verbs: VerbsLink) {
        self.verbs = Some(Box::new(verbs));
    }

    /// Takes the queue pairs away. If messages were on them, they are on nothing until
    /// [`DualLink::move_to`].
    pub fn take_verbs(&mut self) -> Option<Box<VerbsLink>> {
        self.verbs.take()
    }

    /// From now on messages are on this kind of link.
    pub fn move_to(&mut self, to: LinkKind) {
        debug_assert!(to == LinkKind::Tcp || self.verbs.is_some());
        self.on = to;
    }

    /// As after [`DualLink::take_verbs`] while messages were on verbs, for tests without a device.
    #[cfg(test)]
    pub(crate) fn be_on_nothing(&mut self) {
        (self.verbs, self.on) = (None, LinkKind::Verbs);
    }

    /// Says something about the link, on TCP. False: the queue there is full.
    #[must_use]
    pub fn say(&mut self, source: InstanceId, said: &LinkControl) -> bool {
        let body = said.encode();
        let header = SessionHeader {
            lane: Lane::Control,
            kind: MessageKind::LINK,
            body_len: u8::try_from(body.as_slice().len()).unwrap_or(0),
            frame: false,
            page_crc: None,
            epoch: Epoch(0),
            sequence: Sequence(0),
            ack: Sequence(0),
            credits: 0,
            source,
        };
        self.tcp.send(&header, &body, None, Urgency::Now)
    }

    /// As [`TcpLink::heat`], while messages are on TCP. While they are on verbs the poller reports what
    /// comes on TCP: a look at a socket in each poll turn would cost more than the turn.
    pub fn heat(&mut self, registry: &Registry, token: impl Fn(LaneClass) -> Token) {
        match self.on {
            LinkKind::Tcp => self.tcp.heat(registry, token),
            LinkKind::Verbs => self.tcp.cool_down(registry, token),
        }
    }

    /// Stops polling blindly: the endpoint goes to sleep, and the operating system has to report.
    pub fn cool_down(&mut self, registry: &Registry, token: impl Fn(LaneClass) -> Token) {
        self.tcp.cool_down(registry, token);
        if let (LinkKind::Verbs, Some(verbs)) = (self.on, &mut self.verbs) {
            verbs.arm();
        }
    }
}

impl Link for DualLink {
    fn post_receive(&mut self, class: LaneClass, frame: Frame) {
        match (self.on, &mut self.verbs) {
            (LinkKind::Tcp, _) => self.tcp.post_receive(class, frame),
            (LinkKind::Verbs, Some(verbs)) => verbs.post_receive(class, frame),
            // Between two links: it is of no use, and goes back to the arena.
            (LinkKind::Verbs, None) => drop(frame),
        }
    }

    #[inline(always)] // As the writer.
    fn send(
        &mut self,
        header: &SessionHeader,
        body: &Body,
        frame: Option<&SharedFrame>,
        urgency: Urgency,
    ) -> bool {
        match (self.on, &mut self.verbs) {
            // A copy: what TCP's calls are given lies in memory, and verbs' is to stay in registers.
            (LinkKind::Tcp, _) => self.tcp.send(&{ *header }, body, frame, urgency),
            (LinkKind::Verbs, Some(verbs)) => verbs.send(header, body, frame, urgency),
            // Between two links: acknowledgements only, which the next one makes up for.
            (LinkKind::Verbs, None) => true,
        }
    }

    #[inline]
    fn has_output(&self) -> bool {
        self.verbs.as_ref().is_some_and(|verbs| verbs.has_output()) || self.tcp.has_output()
    }

    #[inline(always)] // As the writer.
    fn flush(&mut self) -> Result<(), LinkError> {
        if let Some(verbs) = &mut self.verbs {
            verbs.flush()?;
        }
        self.tcp.flush()
    }

    fn hurry(&mut self) {
        self.tcp.hurry();
        if let Some(verbs) = &mut self.verbs {
            verbs.hurry();
        }
    }

    fn is_waiting_for_quiet(&self) -> bool {
        self.tcp.is_waiting_for_quiet()
            || self.verbs.as_ref().is_some_and(|verbs| verbs.is_waiting_for_quiet())
    }

    #[inline(always)] // As the reader.
    fn poll(&mut self, sink: &mut impl Sink) -> Result<(), LinkError> {
        if self.on == LinkKind::Tcp {
            return self.tcp.poll(sink);
        }
        if let Some(verbs) = &mut self.verbs {
            verbs.poll(sink)?;
        }
        // When the other end falls back, its first pages may be there before it has said so: they
        // have a connection of their own.
        self.tcp.poll_main_when_reported(&mut ControlOnly(sink))
    }

    #[inline]
    fn is_hot(&self) -> bool {
        self.on == LinkKind::Verbs || self.tcp.is_hot()
    }

    fn may_sleep(&self) -> bool {
        match self.on {
            LinkKind::Tcp => self.tcp.may_sleep(),
            LinkKind::Verbs => {
                self.tcp.main_may_sleep() && self.verbs.as_ref().is_none_or(|v| v.may_sleep())
            }
        }
    }
}

/// Lets through what is about the link, while messages are on verbs.
struct ControlOnly<'a, S>(&'a mut S);

impl<S: Sink> Sink for ControlOnly<'_, S> {
    fn message(
        &mut self,
        header: &SessionHeader,
        _slot: &Slot,
        frame: Option<Frame>,
    ) -> Result<Option<Frame>, LinkError> {
        if header.kind == MessageKind::ACK_ONLY {
            return Ok(frame);
        }
        let (what, found) = ("kind of a message on TCP", header.kind.0.into());
        let expected = "about the link or an acknowledgement, while messages are on verbs";
        Err(pagewire_protocol::DecodeError::Field { what, found, expected }.into())
    }

    fn control(&mut self, said: LinkControl) -> Result<(), LinkError> {
        self.0.control(said)
    }
}
