//! The network: the real session core between every two lives, over links that are simulated.
//!
//! Each lane of each direction is a wire of its own, first in first out; wires overtake each other.
//! What waits for credit waits in an outbox for each peer and lane, as in the runtime. A page travels
//! in a real frame until the session has it acknowledged, and what a link sends, again and again, is
//! read from that frame.
//!
//! ```text
//!   send -> outbox -> Session (retained) -> wire, lost with its link -> Session -> deliver
//!                        ^                                                 |
//!                        +---- acknowledgements, credits <-----------------+
//! ```
//! Here is how messages travel; how links come and go stands in [`links`].

mod links;

use super::{Checked, content::Content, ensure};
use links::Link;
use pagewire_node::random::Random;
use pagewire_protocol::{
    Body, Epoch, Incarnation, InstanceId, Lane, Lsn, MessageKind, PageSize, SessionHeader,
    guide::{GUIDE_RECORD_BYTES, GuideHeader},
    si::wire::{SI_FRAME, SiFrame},
};
use pagewire_transport::{
    Arena, ArenaConfig, Message, SharedFrame,
    session::{AckDue, Disposition, Rejected, Session},
};
use std::collections::VecDeque;

/// Frames for pages that are on their way or not acknowledged.
const FRAMES: u32 = 32_768;

/// What the core of an instance hands to the network.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) lane: Lane,
    pub(super) kind: MessageKind,
    pub(super) epoch: Epoch,
    pub(super) body: Body,
    pub(super) payload: Payload,
}

/// What travels in a message's frame.
#[derive(Debug, Clone, Default)]
pub(super) enum Payload {
    #[default]
    None,
    /// The page, on the lane of pages.
    Page(Content),
    /// What is at the beginning of the frame, on the bulk lane: records of PCM_LOAD_GUIDE, or
    /// invalidations.
    Bytes(Vec<u8>),
}

/// A message that has arrived, exactly once and in the order of its lane.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The sender's life.
    pub(super) life: Incarnation,
    pub(super) kind: MessageKind,
    pub(super) epoch: Epoch,
    pub(super) body: Body,
    pub(super) payload: Payload,
}

/// A message on a wire.
#[derive(Debug)]
struct Flying {
    header: SessionHeader,
    body: Body,
    payload: Payload,
    /// Not delivered before this step while there is anything else to do.
    not_before: u64,
}

/// One end of a session.
#[derive(Debug)]
struct End {
    session: Session,
    /// The life of the peer that the session is with.
    peer: Incarnation,
    outbox: [VecDeque<Message>; Lane::COUNT],
    /// Messages that were delivered, and whose receive is not posted again yet.
    unposted: [u32; Lane::COUNT],
    /// An acknowledgement is among the chores.
    ack_noted: [bool; Lane::COUNT],
}

/// Something that the network does by itself, some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chore {
    /// End, lane: what is due is told alone.
    Acknowledge(usize, Lane),
    /// End, lane: a receive is posted.
    Post(usize, Lane),
    /// End: it finds that its link is gone.
    Notice(usize),
    /// Lower and greater instance: they connect.
    Connect(usize, usize),
    /// The second end hears that the first is up.
    Complete(usize, usize),
    /// The session goes on with another link.
    Move(usize, usize),
}

/// How links behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manners {
    /// Receives that each instance posts for each peer, by lane.
    pub(super) credits: [u32; Lane::COUNT],
    /// Messages that hold up their wire for a while, in a hundred.
    pub(super) stall_percent: u32,
    /// Receives that are posted late, in a hundred.
    pub(super) late_post_percent: u32,
}

/// What went wrong with links, and what sessions did about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) acks_alone: u64,
    pub(super) waited: u64,
    pub(super) unaddressed: u64,
    pub(super) moved: u64,
    pub(super) connected: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    instances: usize,
    manners: Manners,
    arena: Arena,
    /// `[at * instances + peer]`
    ends: Vec<Option<End>>,
    /// `[(from * instances + to) * lanes + lane]`
    wires: Vec<VecDeque<Flying>>,
    /// Wires that are not empty, and where each stands in that list.
    ready: Vec<usize>,
    position: Vec<usize>,
    /// `[lower * instances + greater]`
    links: Vec<Link>,
    /// `[from * instances + to]`: nothing passes in this direction now.
    blocked: Vec<bool>,
    /// By wire: it stands still now.
    slow: Vec<bool>,
    /// Instances that take nothing now.
    paused: Vec<bool>,
    /// The present life of each instance.
    lives: Vec<Incarnation>,
    chores: Vec<Chore>,
    pub(super) counts: Counts,
}

thread_local! {
    /// Mapping memory takes longer than a simulation; the frames of one that is over are free again.
    static ARENA: Arena = Arena::new(&ArenaConfig {
        page_size: PageSize::K4,
        huge_pages: false,
        ..ArenaConfig::new(FRAMES)
    })
    .expect("memory for a few frames");
}

const NOWHERE: usize = usize::MAX;

impl Network {
    pub(super) fn new(instances: usize, manners: Manners) -> Self {
        let wires = instances * instances * Lane::COUNT;
        Self {
            instances,
            manners,
            arena: ARENA.with(Arena::clone),
            ends: (0..instances * instances).map(|_| None).collect(),
            wires: std::iter::repeat_with(VecDeque::new).take(wires).collect(),
            ready: Vec::with_capacity(wires),
            position: vec![NOWHERE; wires],
            links: vec![Link::default(); instances * instances],
            blocked: vec![false; instances * instances],
            slow: vec![false; wires],
            paused: vec![false; instances],
            lives: vec![Incarnation(0); instances],
            chores: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn end(&self, at: usize, peer: usize) -> usize {
        at * self.instances + peer
    }

    fn other(&self, end: usize) -> usize {
        self.end(end % self.instances, end / self.instances)
    }

    // ---- sending -------------------------------------------------------------------------------

    /// Takes a message of `from` for `to`; false when there is no session with it.
    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        what: Outgoing,
        random: &mut Random,
        now: u64,
    ) -> Checked<bool> {
        let Outgoing { lane, kind, epoch, body, payload } = what;
        let at = self.end(from, to);
        if self.ends[at].is_none() {
            self.counts.unaddressed += 1;
            return Ok(false);
        }
        let frame = self.frame(&payload)?;
        let message = Message { kind, epoch, body, frame };
        let Some(end) = &mut self.ends[at] else { return Ok(false) };
        end.outbox[lane.index()].push_back(message);
        self.pump(at, lane, random, now)?;
        let waits = self.ends[at].as_ref().is_some_and(|end| !end.outbox[lane.index()].is_empty());
        self.counts.waited += u64::from(waits);
        Ok(true)
    }

    fn frame(&self, payload: &Payload) -> Checked<Option<SharedFrame>> {
        if matches!(payload, Payload::None) {
            return Ok(None);
        }
        let mut frame = self.arena.take().ok_or("no frame is free: pages on their way leak")?;
        match payload {
            Payload::Page(content) => {
                frame[..8].copy_from_slice(&content.version.0.to_le_bytes());
                frame[8..16].copy_from_slice(&content.value.to_le_bytes());
            }
            Payload::Bytes(bytes) => frame[..bytes.len()].copy_from_slice(bytes),
            Payload::None => {}
        }
        Ok(Some(frame.freeze()))
    }

    /// Moves what can go: from the outbox to the session, from the session to the wire.
    fn pump(&mut self, at: usize, lane: Lane, random: &mut Random, now: u64) -> Checked {
        let Self { ends, links, manners, .. } = self;
        let Some(end) = &mut ends[at] else { return Ok(()) };
        let queue = &mut end.outbox[lane.index()];
        while let Some(message) = queue.pop_front() {
            match end.session.submit(lane, message) {
                Ok(()) => {}
                Err(Rejected::NoCredit(message)) => {
                    queue.push_front(message);
                    break;
                }
                Err(Rejected::WrongLane(message)) => {
                    return Err(format!("{message:?} does not belong on lane {lane:?}"));
                }
            }
        }
        let (from, to) = (at / self.instances, at % self.instances);
        let alive = links[from.min(to) * self.instances + from.max(to)].carries(from > to);
        let wire = at * Lane::COUNT + lane.index();
        while let Some((header, message)) = end.session.next_outgoing(lane) {
            let payload = payload_of(lane, message);
            let stall = if random.percent(manners.stall_percent) { random.below(200) } else { 0 };
            let not_before = now.saturating_add(u64::from(stall));
            let flying = Flying { header, body: message.body, payload, not_before };
            end.session.transmitted(lane);
            if alive {
                self.wires[wire].push_back(flying);
                if self.position[wire] == NOWHERE {
                    self.position[wire] = self.ready.len();
                    self.ready.push(wire);
                }
            } else {
                self.counts.lost += 1;
            }
        }
        Ok(())
    }

    fn pump_all(&mut self, at: usize, random: &mut Random, now: u64) -> Checked {
        for lane in Lane::ALL {
            self.pump(at, lane, random, now)?;
        }
        Ok(())
    }

    // ---- arriving ------------------------------------------------------------------------------

    /// Something can arrive, or the network has something to do by itself.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.chores.is_empty()
    }

    /// A message arrives, or the network does one of its chores. `None`: nothing for the instances.
    pub(super) fn step(&mut self, random: &mut Random, now: u64) -> Checked<Option<Arrived>> {
        let at = random.index(self.ready.len() + self.chores.len());
        if at < self.ready.len() {
            return self.arrive(self.ready[at], random, now);
        }
        let at = at - self.ready.len();
        if at < self.chores.len() {
            let chore = self.chores.swap_remove(at);
            self.do_chore(chore, random, now)?;
        }
        Ok(None)
    }

    fn arrive(&mut self, wire: usize, random: &mut Random, now: u64) -> Checked<Option<Arrived>> {
        let direction = wire / Lane::COUNT;
        let (from, to) = (direction / self.instances, direction % self.instances);
        if self.blocked[direction] || self.slow[wire] || self.paused[to] {
            return Ok(None);
        }
        let at = self.end(to, from);
        // Nobody listens yet: the other end of the link is not up.
        if self.ends[at].as_ref().is_some_and(|end| !end.session.is_linked()) {
            return Ok(None);
        }
        if self.wires[wire].front().is_none_or(|head| head.not_before > now) {
            return Ok(None);
        }
        let Some(head) = self.wires[wire].pop_front() else { return Ok(None) };
        if self.wires[wire].is_empty() {
            self.not_ready(wire);
        }
        self.receive(at, head, random, now)
    }

    fn not_ready(&mut self, wire: usize) {
        let at = std::mem::replace(&mut self.position[wire], NOWHERE);
        if at != NOWHERE {
            self.ready.swap_remove(at);
            if let Some(&moved) = self.ready.get(at) {
                self.position[moved] = at;
            }
        }
    }

    fn receive(
        &mut self,
        at: usize,
        head: Flying,
        random: &mut Random,
        now: u64,
    ) -> Checked<Option<Arrived>> {
        let Flying { header, body, payload, .. } = head;
        let lane = header.lane;
        let Some(end) = &mut self.ends[at] else { return Ok(None) };
        let judged = end.session.receive(&header);
        let disposition = judged.map_err(|violation| {
            format!("session: {} finds that its peer {violation}", at / self.instances)
        })?;
        if disposition != Disposition::AckOnly {
            if random.percent(self.manners.late_post_percent) {
                end.unposted[lane.index()] += 1;
                self.chores.push(Chore::Post(at, lane));
            } else {
                end.session.posted(lane);
            }
            self.note_ack(at, lane, random, now)?;
        }
        // The acknowledgement in its header may have made room.
        self.pump(at, lane, random, now)?;
        if disposition == Disposition::Duplicate {
            self.counts.duplicates += 1;
        }
        if disposition != Disposition::Deliver {
            return Ok(None);
        }
        let life = self.ends[at].as_ref().map_or(Incarnation(0), |end| end.peer);
        let (to, from) = (at / self.instances, at % self.instances);
        let SessionHeader { kind, epoch, .. } = header;
        Ok(Some(Arrived { from, to, life, kind, epoch, body, payload }))
    }

    /// An acknowledgement leaves at once, or when the lane has been quiet for a while.
    fn note_ack(&mut self, at: usize, lane: Lane, random: &mut Random, now: u64) -> Checked {
        let Some(end) = &mut self.ends[at] else { return Ok(()) };
        match end.session.ack_due(lane) {
            AckDue::No => {}
            AckDue::Now => self.acknowledge(at, lane, random, now)?,
            AckDue::Lazy => {
                if !std::mem::replace(&mut end.ack_noted[lane.index()], true) {
                    self.chores.push(Chore::Acknowledge(at, lane));
                }
            }
        }
        Ok(())
    }

    /// Tells alone what is due: it has a way of its own and overtakes, but is lost with the link.
    fn acknowledge(&mut self, at: usize, lane: Lane, random: &mut Random, now: u64) -> Checked {
        let (from, to) = (at / self.instances, at % self.instances);
        let alive = self.link(from, to).carries(from > to);
        let Some(end) = &mut self.ends[at] else { return Ok(()) };
        end.ack_noted[lane.index()] = false;
        if end.session.ack_due(lane) == AckDue::No {
            return Ok(());
        }
        let header = end.session.ack_alone(lane);
        self.counts.acks_alone += 1;
        let there = self.other(at);
        let linked = self.ends[there].as_ref().is_some_and(|end| end.session.is_linked());
        if alive && linked && !self.blocked[at] && !self.paused[to] {
            let flying =
                Flying { header, body: Body::EMPTY, payload: Payload::None, not_before: 0 };
            self.receive(there, flying, random, now)?;
        } else if alive {
            let wire = at * Lane::COUNT + lane.index();
            let not_before = now;
            self.wires[wire].push_back(Flying {
                header,
                body: Body::EMPTY,
                payload: Payload::None,
                not_before,
            });
            if self.position[wire] == NOWHERE {
                self.position[wire] = self.ready.len();
                self.ready.push(wire);
            }
        }
        Ok(())
    }

    /// Nothing of `from` for `to` waits for credit on this lane.
    pub(super) fn is_clear(&self, from: usize, to: usize, lane: Lane) -> bool {
        let end = self.ends[self.end(from, to)].as_ref();
        end.is_none_or(|end| end.outbox[lane.index()].is_empty())
    }

    /// `at` waits for no acknowledgement and has nothing to send.
    pub(super) fn has_told_everything(&self, at: usize) -> bool {
        let ends = self.ends[at * self.instances..][..self.instances].iter().flatten();
        ends.clone().all(|end| {
            end.session.unacknowledged() == 0 && end.outbox.iter().all(VecDeque::is_empty)
        })
    }

    // ---- conservation --------------------------------------------------------------------------

    /// Nothing is under way; then all frames are free and every lane has all its credit.
    pub(super) fn check_rest(&self) -> Checked {
        ensure!(self.ready.is_empty(), "I10: at rest with messages on their way");
        for (at, end) in self.ends.iter().enumerate() {
            let Some(end) = end else { continue };
            let (me, peer) = (at / self.instances, at % self.instances);
            let there = self.ends[self.other(at)].is_some();
            ensure!(there, "at rest, but {me} has a session with {peer}, which has none");
            let linked = end.session.is_linked();
            ensure!(linked, "at rest, but {me} has no link with {peer}");
            let kept = end.session.unacknowledged();
            ensure!(kept == 0, "I10: at rest, but {me} keeps {kept} messages for {peer}");
            for lane in Lane::ALL {
                let waiting = end.outbox[lane.index()].len();
                ensure!(waiting == 0, "I10: at rest, {waiting} messages of {me} wait for credit");
                let unused = end.session.unused_receives(lane);
                let credit = self.manners.credits[lane.index()];
                ensure!(
                    unused == credit,
                    "I10: at rest {me} has {unused} receives posted for {peer} on {lane:?} of \
                     {credit}"
                );
            }
        }
        let (free, all) = (self.arena.free_frames(), self.arena.frames());
        ensure!(free == all, "I10: at rest, but of {all} frames {free} are free");
        Ok(())
    }
}

/// What a link sends: read anew from the frame each time.
fn payload_of(lane: Lane, message: &Message) -> Payload {
    let Some(frame) = &message.frame else { return Payload::None };
    if lane == Lane::Bulk {
        let body = message.body.as_slice();
        if message.kind == SI_FRAME {
            let messages = SiFrame::decode(body, frame).map_or(&[][..], |(_, messages)| messages);
            return Payload::Bytes(messages.as_flattened().to_vec());
        }
        let records = GuideHeader::decode(body).map_or(0, |header| usize::from(header.records));
        return Payload::Bytes(frame[..records * GUIDE_RECORD_BYTES].to_vec());
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&frame[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    Payload::Page(Content { version: Lsn(word(0)), value: word(8) })
}

fn id(instance: usize) -> InstanceId {
    InstanceId(u16::try_from(instance).unwrap_or(u16::MAX))
}
