//! What an endpoint knows of one peer.

use super::{
    arrivals::Arrivals,
    backoff::Backoff,
    connect::{attempt::Forming, reach::Reach},
    events::EventQueue,
    liveness::Liveness,
    reads::PeerReads,
    sampler::Sampler,
    switch::Switch,
};
use crate::{
    Arena, Message,
    counters::{LinkFailure, PeerCounters},
    error::LinkError,
    link::{Link, Urgency, dual::DualLink},
    message::Refusal,
    session::{AckDue, Session},
};
use pagewire_protocol::{
    Body, Incarnation, InstanceId, Lane, LaneClass, LinkControl, LinkKind, ProcessId, TcpReason,
};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the instance with the lesser id waits for the other one to dial.
const LESSER_WAITS: Duration = Duration::from_millis(500);

/// What came of posting a receive that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Post {
    Done,
    /// None is owed, or the lane has its share.
    Nothing,
    /// The arena has no free frame.
    NoFrame,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: InstanceId,
    pub(super) address: SocketAddr,
    /// Incarnation that the session is with.
    pub(super) incarnation: Option<Incarnation>,
    /// Process that the session is with: another one of the same incarnation is a duplicate.
    pub(super) process: Option<ProcessId>,
    pub(super) session: Option<Session>,
    pub(super) link: Option<DualLink>,
    /// What that link is on, and how it moves.
    pub(super) switch: Option<Switch>,
    /// No message is put on the link; see [`super::switch`].
    pub(super) held: bool,
    /// It is waited for that all that was sent is acknowledged.
    pub(super) draining: bool,
    /// What the peer has said about the link and is not yet judged.
    pub(super) heard: VecDeque<LinkControl>,
    /// Receives stated for the link that the session moves to.
    pub(super) stated: [u32; Lane::COUNT],
    /// One-sided reads, if both ends have turned them on.
    pub(super) reads: Option<Box<PeerReads>>,
    /// Why verbs is not used, in words.
    pub(super) why_tcp: String,
    /// The reason that was told last, and whether it was the peer's.
    pub(super) told_why_tcp: Option<(TcpReason, bool)>,
    /// A link whose connections are not all there yet.
    pub(super) forming: Option<Forming>,
    /// Receives that could not be posted for want of a frame, by class.
    pub(super) owed_frames: [u32; LaneClass::COUNT],
    /// Messages by lane that came on an earlier link and are not taken yet: their receives went
    /// with that link, so nothing is posted again for them.
    pub(super) stale: [u32; Lane::COUNT],
    /// The link's queue was full; what it refused is waiting.
    pub(super) blocked: bool,
    refused_acks: [bool; Lane::COUNT],
    /// The latest incarnation that is over; it and those before it do not come back.
    pub(super) ended: Option<Incarnation>,
    /// The incarnation that the membership view names.
    pub(super) admitted: Option<Incarnation>,
    /// The slot is free: its peer was removed.
    pub(super) is_vacant: bool,
    pub(super) dial_at: Instant,
    pub(super) reach: Reach,
    pub(super) liveness: Liveness,
    sampler: Sampler,
    backoff: Backoff,
    pub(super) counters: Arc<PeerCounters>,
}

impl Peer {
    pub(super) fn new(
        id: InstanceId,
        address: SocketAddr,
        counters: Arc<PeerCounters>,
        me: InstanceId,
        seed: u64,
    ) -> Self {
        let wait = if me < id { LESSER_WAITS } else { Duration::ZERO };
        Self {
            id,
            address,
            incarnation: None,
            process: None,
            session: None,
            link: None,
            switch: None,
            held: false,
            draining: false,
            heard: VecDeque::with_capacity(4),
            stated: [0; Lane::COUNT],
            reads: None,
            why_tcp: String::new(),
            told_why_tcp: None,
            forming: None,
            owed_frames: [0; LaneClass::COUNT],
            stale: [0; Lane::COUNT],
            blocked: false,
            refused_acks: [false; Lane::COUNT],
            ended: None,
            admitted: None,
            is_vacant: false,
            dial_at: Instant::now() + wait,
            reach: Reach::default(),
            liveness: Liveness::new(Instant::now(), Duration::MAX),
            sampler: Sampler::default(),
            backoff: Backoff::new(seed),
            counters,
        }
    }

    /// The link, and where what it hands over goes.
    #[inline(always)] // In each look at the peer.
    pub(super) fn receiving<'a>(
        &'a mut self,
        events: &'a mut EventQueue,
    ) -> Option<(&'a mut DualLink, Arrivals<'a>)> {
        let (link, session) = (self.link.as_mut()?, self.session.as_mut()?);
        let arrivals = Arrivals {
            from: self.id,
            session,
            counters: &self.counters,
            events,
            heard: &mut self.heard,
            reads: self.reads.as_deref_mut(),
            sampler: &self.sampler,
            any: false,
            lanes: 0,
        };
        Some((link, arrivals))
    }

    /// Remembers which messages wait in the queue that came over a link that is no more: their receives
    /// are not posted again.
    pub(super) fn note_stale(&mut self, events: &EventQueue) {
        self.stale = [0; Lane::COUNT];
        for lane in events.lanes_from(self.id) {
            self.stale[lane.index()] += 1;
        }
    }

    /// Takes a message for the session, and puts it on the link if both allow it. `FRAME`: the lane
    /// carries frames.
    #[inline(always)] // As the session's part.
    pub(super) fn submit<const FRAME: bool>(
        &mut self,
        lane: Lane,
        message: &mut Message,
        urgency: Urgency,
    ) -> Result<(), Refusal> {
        let Some(session) = &mut self.session else { return Err(Refusal::NoSession) };
        let counters = self.counters.lane(lane);
        let next = session.submit_next::<FRAME>(lane, message).inspect_err(|refusal| {
            counters.no_credit.add(u64::from(*refusal == Refusal::NoCredit));
        })?;
        let (Some((header, message)), Some(link), false) = (next, &mut self.link, self.held) else {
            // Others wait before it, or it has to wait itself.
            self.pump(lane, urgency);
            return Ok(());
        };
        let frame = if FRAME { message.frame.as_ref() } else { None };
        if !link.send(&header, &message.body, frame, urgency) {
            self.blocked = true;
            return Ok(());
        }
        if let Some(frame) = frame {
            counters.frame_bytes.add(frame.len() as u64);
        }
        session.transmitted(lane);
        counters.sent.add(1);
        self.sampler.sent(lane, header.sequence);
        Ok(())
    }

    /// Moves messages of `lane` from the session to the link while both allow it. True if there
    /// were any.
    #[inline(never)]
    pub(super) fn pump(&mut self, lane: Lane, urgency: Urgency) -> bool {
        let Some(session) = &mut self.session else { return false };
        let Some(link) = &mut self.link else { return false };
        if self.held {
            return false;
        }
        let counters = self.counters.lane(lane);
        let mut any = false;
        while let Some((header, message)) = session.next_outgoing(lane) {
            if !link.send(&header, &message.body, message.frame.as_ref(), urgency) {
                self.blocked = true;
                break;
            }
            any = true;
            if let Some(frame) = &message.frame {
                counters.frame_bytes.add(frame.len() as u64);
            }
            let sequence = header.sequence;
            if session.transmitted(lane) {
                counters.sent.add(1);
                self.sampler.sent(lane, sequence);
            } else {
                counters.sent_again.add(1);
            }
            if !session.has_waiting(lane) {
                break;
            }
        }
        any
    }

    /// Gives the link what it refused while its queue was full. True if it took any of it.
    pub(super) fn unblock(&mut self) -> bool {
        self.blocked = false;
        let mut any = false;
        for lane in Lane::ALL {
            if std::mem::take(&mut self.refused_acks[lane.index()]) {
                any |= self.acknowledge_alone(lane);
            }
            any |= self.pump(lane, Urgency::Now);
        }
        any
    }

    /// True when that life of the peer has been ended, or comes before the one that the view names.
    pub(super) fn is_over(&self, incarnation: Incarnation) -> bool {
        self.ended.is_some_and(|ended| incarnation <= ended)
            || self.admitted.is_some_and(|admitted| incarnation < admitted)
    }

    /// What its link has ended with, for whoever asks before another try has failed.
    pub(super) fn note_down(&self, reason: &LinkError) {
        let (reason, at) = (reason.to_string(), Instant::now());
        self.counters.no_link.set(Some(LinkFailure { reason, tries: 0, at }));
    }

    /// The link is gone, and with it all that was meant for it.
    pub(super) fn forget_link(&mut self) {
        self.owed_frames = [0; LaneClass::COUNT];
        self.switch = None;
        (self.held, self.draining) = (false, false);
        self.heard.clear();
        self.reads.iter_mut().for_each(|reads| reads.queue_pairs_gone());
        self.counters.link.set(0);
        self.forget_sent();
    }

    /// What waited for the link, and what was sent on it.
    pub(super) fn forget_sent(&mut self) {
        self.blocked = false;
        self.refused_acks = [false; Lane::COUNT];
        self.sampler.forget();
    }

    /// True when an acknowledgement of `lane`, or credits, wait to be told.
    pub(super) fn owes_ack(&self, lane: Lane) -> bool {
        self.ack_due(lane) != AckDue::No
    }

    /// How soon they have to be.
    pub(super) fn ack_due(&self, lane: Lane) -> AckDue {
        self.session.as_ref().map_or(AckDue::No, |session| session.ack_due(lane))
    }

    /// Sends an acknowledgement of `lane` alone if it is due.
    #[inline]
    pub(super) fn acknowledge_if(&mut self, lane: Lane, at_least: AckDue) {
        if self.session.as_ref().is_some_and(|s| s.ack_due(lane) >= at_least.max(AckDue::Lazy)) {
            self.acknowledge_alone(lane);
        }
    }

    /// Says that this side is there: on TCP, because on verbs a peer that is gone is found only when
    /// something is sent to it.
    pub(super) fn keep_alive(&mut self, me: InstanceId) {
        match &mut self.link {
            // A full queue has something to say already.
            Some(link) if link.on() == LinkKind::Verbs => drop(link.say(me, &LinkControl::Alive)),
            _ => drop(self.acknowledge_alone(Lane::Control)),
        }
    }

    #[inline(never)] // Beside some messages, and not to lie in the way of all.
    pub(super) fn acknowledge_alone(&mut self, lane: Lane) -> bool {
        let (Some(session), Some(link)) = (&mut self.session, &mut self.link) else { return false };
        let header = session.ack_alone(lane);
        let taken = link.send(&header, &Body::EMPTY, None, Urgency::Now);
        if taken {
            self.counters.lane(lane).acks_alone.add(1);
        } else {
            self.blocked = true;
            self.refused_acks[lane.index()] = true;
        }
        taken
    }

    /// Messages have arrived: counts what that has moved.
    #[inline]
    pub(super) fn count_moved(&mut self) {
        let Some(link) = self.link.as_mut().filter(|link| link.on() == LinkKind::Tcp) else {
            return;
        };
        let moved_bytes = link.tcp_mut().take_moved_bytes();
        if moved_bytes > 0 {
            self.counters.moved_bytes.add(moved_bytes);
        }
    }

    /// Messages of `lanes` (bit by bit) have arrived, on which a round trip is timed, or messages wait
    /// that may go now.
    #[inline]
    pub(super) fn arrived(&mut self, mut lanes: u32) {
        while lanes != 0 {
            let lane = Lane::ALL[lanes.trailing_zeros() as usize];
            lanes &= lanes - 1;
            if let Some(session) = &self.session
                && let Some(took) = self.sampler.acknowledged(lane, session.acknowledged(lane))
            {
                self.counters.lane(lane).round_trip.record_duration(took);
            }
            if self.session.as_ref().is_some_and(|session| session.has_waiting(lane)) {
                self.pump(lane, Urgency::Now);
            }
        }
    }

    /// Posts receives of `lane` that are owed, as far as there are frames, and no more than `share`.
    #[inline]
    pub(super) fn post_owed(&mut self, lane: Lane, arena: &Arena, share: u32) {
        while self.post_one_owed(lane, arena, share) == Post::Done {}
    }

    /// Posts one receive of `lane` that is owed. With no more than `share` of them posted at once, a
    /// quiet lane keeps nobody from the frames of an arena that has too few for all.
    #[inline]
    pub(super) fn post_one_owed(&mut self, lane: Lane, arena: &Arena, share: u32) -> Post {
        let owed = &mut self.owed_frames[lane.class().index()];
        let (Some(session), Some(link)) = (&mut self.session, &mut self.link) else {
            // The next link posts its own.
            *owed = 0;
            return Post::Nothing;
        };
        if *owed == 0 || session.unused_receives(lane) >= share {
            return Post::Nothing;
        }
        let Some(frame) = arena.take() else { return Post::NoFrame };
        link.post_receive(lane.class(), frame);
        session.posted(lane);
        *owed -= 1;
        Post::Done
    }

    pub(super) fn retry_soon(&mut self, now: Instant) {
        self.dial_at = now + self.backoff.next_pause();
    }

    /// There is a link; its other end has to hear something every `keepalive`.
    pub(super) fn connected(&mut self, keepalive: Duration) {
        self.liveness = Liveness::new(Instant::now(), keepalive);
        self.backoff.reset();
    }
}
