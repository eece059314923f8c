//! One-sided reads: a page out of a region that another instance has opened. Off unless both ends
//! turn them on ([`EndpointConfig::one_sided_reads`]).
//!
//! ```text
//!            read_page
//!                |                         on verbs, key known
//!             waiting --------------------------------------------> posted: an RDMA READ
//!                |    <------------------------------------------------+
//!                |             its queue pair failed                   |
//!                | otherwise                                           | completion
//!                v                                                     v
//!             asked: READ, in the session --READ_PAGE, READ_REFUSED--> ended: the event waits
//! ```
//! A read that was asked for survives any number of links, because the session does; one that was
//! posted and lost is asked for anew, which is harmless. So each read ends exactly once: with the
//! page, with the owner's refusal, at its deadline ([`EndpointConfig::read_timeout`]) or with its
//! session. What comes after the deadline is discarded and counted; until then it is a read under way.
//!
//! A read may be **torn**: the owner may write the page meanwhile, and neither device nor kernel
//! waits. It gives no right to the page and is no grant: whoever reads checks version and checksum,
//! and reads again.
//!
//! A region is closed again by [`Endpoint::close_region`]; `regions` has how.
//!
//! Bounds: [`READS_MAX`] reads of a peer at either end, each with one frame at most. A read counts
//! until its event is taken. The owner copies a page for each answer and keeps it until that is
//! acknowledged; answers wait for frames and for the bulk lane's credit, refusals for neither.
//!
//! [`EndpointConfig::one_sided_reads`]: super::EndpointConfig::one_sided_reads
//! [`EndpointConfig::read_timeout`]: super::EndpointConfig::read_timeout

mod answers;
mod asker;
mod deadline;
mod error;
mod owner;
mod regions;

pub use error::{ReadError, ReadRefused};
pub(super) use regions::Regions;
pub use regions::{REGIONS_MAX, RegionState};

use super::{Endpoint, Event};
use crate::{
    Frame, Message,
    error::LinkError,
    link::{Urgency, verbs::RemoteMemory},
    session::AckDue,
};
use asker::Asked;
use owner::Owed;
use pagewire_protocol::{
    Body, DecodeError, Epoch, InstanceId, Lane, LaneClass, LinkKind, MessageKind, ReadMessage,
    RegionId, hello::Features, read::READS_MAX,
};
use regions::Keys;
use std::{collections::VecDeque, time::Instant};

/// Names a read of this endpoint for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub(crate) u64);

/// A read that has ended.
#[derive(Debug)]
pub struct ReadDone {
    /// What [`Endpoint::read_page`] gave.
    pub read: ReadId,
    /// The owner.
    pub peer: InstanceId,
    /// The region.
    pub region: RegionId,
    /// Which frame of it.
    pub offset_frames: u32,
    /// The page, perhaps torn, in a frame that is the caller's now; or why there is none.
    pub outcome: Result<Frame, ReadError>,
}

/// What an endpoint knows of the reads with one peer, while they have a session in which both have
/// turned them on.
#[derive(Debug, Default)]
pub(super) struct PeerReads {
    asked: Asked,
    owed: Owed,
    /// Regions of the peer's and of ours that are read with RDMA READs on the present queue pairs.
    keys: Keys,
    /// Messages that have come and are not looked at.
    arrived: VecDeque<(ReadMessage, Option<Frame>)>,
    /// An answer, or a read of ours, waits for a free frame.
    short_of_frames: bool,
}

impl PeerReads {
    /// A message about reads has come.
    #[cold]
    pub(super) fn take(
        &mut self,
        lane: Lane,
        kind: MessageKind,
        body: &Body,
        frame: Option<Frame>,
    ) -> Result<(), LinkError> {
        let message = ReadMessage::decode(kind, body.as_slice())?;
        let expected = match message {
            ReadMessage::Ask { .. } => Lane::Requests,
            ReadMessage::Page { .. } => Lane::Bulk,
            ReadMessage::Refused { .. } => Lane::Control,
        };
        if lane != expected {
            let (what, found) = ("lane of a message about a read", lane as u64);
            let expected = "1 for the question, 4 for the page, 0 for a refusal";
            return Err(DecodeError::Field { what, found, expected }.into());
        }
        self.arrived.push_back((message, frame));
        Ok(())
    }

    /// No event tells that a frame has come back.
    pub(super) fn wait_for_frames(&self) -> bool {
        self.short_of_frames
    }

    /// The queue pairs are gone, and with them the keys and the reads that they had.
    pub(super) fn queue_pairs_gone(&mut self) {
        self.keys.forget();
        self.asked.posted_are_lost();
    }
}

/// A message about reads has come on a link whose ends have not both turned them on.
#[cold]
pub(super) fn not_agreed(kind: MessageKind) -> LinkError {
    let (what, found) = ("message kind", kind.0.into());
    let expected = "less than 65532: one-sided reads are not turned on at both ends";
    DecodeError::Field { what, found, expected }.into()
}

impl Endpoint {
    /// Reads one frame of a region that `peer` has opened. It ends with exactly one [`Event::Read`],
    /// unless it is refused here.
    ///
    /// # Errors
    /// [`ReadRefused`]: it was not begun, and there will be no event.
    pub fn read_page(
        &mut self,
        peer: InstanceId,
        region: RegionId,
        offset_frames: u32,
    ) -> Result<ReadId, ReadRefused> {
        if !self.config.one_sided_reads {
            return Err(ReadRefused::Off);
        }
        let slot = self.slot(peer).ok_or(ReadRefused::NoSession)?;
        let of_peer = &mut self.peers[slot];
        if of_peer.session.is_none() {
            return Err(ReadRefused::NoSession);
        }
        let reads = of_peer.reads.as_mut().ok_or(ReadRefused::OffAtPeer)?;
        let read = ReadId(self.regions.reads);
        let deadline = Instant::now() + self.config.read_timeout;
        if !reads.asked.begin(read, (region, offset_frames), deadline) {
            return Err(ReadRefused::TooMany);
        }
        self.regions.reads += 1;
        self.begin_reads(slot);
        Ok(read)
    }

    /// Reads of `peer` that [`Endpoint::read_page`] would take now.
    #[must_use]
    pub fn read_room(&self, peer: InstanceId) -> usize {
        let reads = self.slot(peer).and_then(|slot| self.peers[slot].reads.as_ref());
        reads.map_or(0, |reads| reads.asked.room())
    }

    /// The event of a read was taken.
    pub(super) fn read_taken(&mut self, done: &ReadDone) {
        let slot = self.slot(done.peer);
        if let Some(reads) = slot.and_then(|slot| self.peers[slot].reads.as_mut()) {
            reads.asked.taken(done.read);
        }
    }

    /// A link has come up with a peer that states whether it has turned reads on.
    pub(super) fn agree_on_reads(&mut self, slot: usize, theirs: Features) {
        if !(self.config.one_sided_reads && theirs.has(Features::READS)) {
            return self.end_reads(slot);
        }
        let reads = self.peers[slot].reads.get_or_insert_default();
        reads.keys.can_close = theirs.has(Features::CLOSING);
    }

    /// The session is over: so are its reads.
    pub(super) fn end_reads(&mut self, slot: usize) {
        let Some(mut reads) = self.peers[slot].reads.take() else { return };
        while let Some((read, region, offset_frames)) = reads.asked.end_any() {
            let (peer, outcome) = (self.peers[slot].id, Err(ReadError::SessionEnded));
            let done = ReadDone { read, peer, region, offset_frames, outcome };
            self.events.push_back(Event::Read(done));
        }
    }

    /// The link was polled. As without reads, but what has come about them is taken first.
    #[inline(never)]
    pub(super) fn polled_with_reads(&mut self, slot: usize, polled: Result<(), LinkError>) {
        self.take_read_messages(slot);
        if let Err(reason) = polled {
            self.link_failed(slot, reason);
        } else if !self.peers[slot].heard.is_empty() {
            self.hear(slot);
        } else if self.peers[slot].draining {
            self.check_drained(slot);
        }
        self.go_on_with_reads(slot);
    }

    /// Takes what has come about reads. At once, while the receives are those of the link that it came
    /// on: they are posted again.
    pub(super) fn take_read_messages(&mut self, slot: usize) {
        loop {
            let peer = &mut self.peers[slot];
            let Some(reads) = &mut peer.reads else { return };
            let Some((message, frame)) = reads.arrived.pop_front() else { return };
            let lane = match message {
                ReadMessage::Ask { .. } => Lane::Requests,
                ReadMessage::Page { .. } => Lane::Bulk,
                ReadMessage::Refused { .. } => Lane::Control,
            };
            let taken = match message {
                ReadMessage::Ask { token, region, offset_frames } => {
                    reads.owed.push(token, region, offset_frames)
                }
                ReadMessage::Page { token } => match (reads.asked.answered(ReadId(token)), frame) {
                    (Some((region, offset)), Some(frame)) => {
                        self.read_ended(slot, ReadId(token), (region, offset), Ok(frame));
                        Ok(())
                    }
                    _ => self.late_answer(slot, token),
                },
                ReadMessage::Refused { token, why } => match reads.asked.answered(ReadId(token)) {
                    Some((region, offset)) => {
                        let why = ReadError::of(why, offset);
                        self.peers[slot].counters.reads.refused.add(1);
                        self.read_ended(slot, ReadId(token), (region, offset), Err(why));
                        Ok(())
                    }
                    None => self.late_answer(slot, token),
                },
            };
            if let Err(error) = taken {
                return self.link_down(slot, error);
            }
            self.post_again(slot, lane);
        }
    }

    fn read_ended(
        &mut self,
        slot: usize,
        read: ReadId,
        (region, offset_frames): (RegionId, u32),
        outcome: Result<Frame, ReadError>,
    ) {
        let peer = self.peers[slot].id;
        let done = ReadDone { read, peer, region, offset_frames, outcome };
        self.events.push_back(Event::Read(done));
    }

    /// Goes on with what waits: RDMA READs that are done, reads to begin, answers to give.
    fn go_on_with_reads(&mut self, slot: usize) {
        if let Some(reads) = &mut self.peers[slot].reads {
            reads.short_of_frames = false;
        }
        loop {
            let peer = &mut self.peers[slot];
            let (Some(reads), Some(link)) = (&mut peer.reads, &mut peer.link) else { break };
            let Some(done) = link.verbs_mut().and_then(|verbs| verbs.take_read()) else { break };
            let read = ReadId(done.token);
            match done.frame {
                Some(frame) => {
                    if reads.asked.late_ended(read) {
                        peer.counters.reads.late.add(1);
                    } else if let Some(what) = reads.asked.completed(read) {
                        self.read_ended(slot, read, what, Ok(frame));
                    }
                }
                None => reads.asked.lost(read),
            }
        }
        self.leave_regions(slot);
        self.begin_reads(slot);
        self.answer_reads(slot);
    }

    /// Begins reads that wait: over the device where there is a key for them, otherwise by asking.
    fn begin_reads(&mut self, slot: usize) {
        loop {
            let peer = &mut self.peers[slot];
            let Some(reads) = &mut peer.reads else { return };
            let Some((read, region, offset)) = reads.asked.next_waiting() else { return };
            let key = reads.keys.of(region);
            let verbs = match &mut peer.link {
                Some(link) if link.on() == LinkKind::Verbs => link.verbs_mut(),
                _ => None,
            };
            if let (Some(memory), Some(verbs)) = (key, verbs) {
                // Before the device is given anything.
                if offset >= memory.frames {
                    reads.asked.refused(read);
                    let why =
                        ReadError::OutOfBounds { offset_frames: offset, frames: memory.frames };
                    peer.counters.reads.refused.add(1);
                    self.read_ended(slot, read, (region, offset), Err(why));
                    continue;
                }
                let Some(frame) = self.arena.take() else {
                    reads.short_of_frames = true;
                    return;
                };
                let address = memory.address + u64::from(offset) * frame.len() as u64;
                let from = RemoteMemory { address, key: memory.key };
                if verbs.read(read.0, frame, from).is_err() {
                    return;
                }
                reads.asked.posted(read);
                peer.counters.reads.posted.add(1);
                continue;
            }
            let (token, offset_frames) = (read.0, offset);
            let ask = ReadMessage::Ask { token, region, offset_frames };
            let Some(session) = &mut peer.session else { return };
            if session.submit(Lane::Requests, message(&ask, None)).is_err() {
                return;
            }
            reads.asked.asked(read);
            peer.counters.reads.asked.add(1);
            peer.pump(Lane::Requests, Urgency::Now);
        }
    }

    /// As the owner's taking of a message does, for one that never reaches the owner: its receive is
    /// posted again.
    fn post_again(&mut self, slot: usize, lane: Lane) {
        let peer = &mut self.peers[slot];
        if lane.class() == LaneClass::Bulk {
            peer.owed_frames[LaneClass::Bulk.index()] += 1;
            self.owing = true;
            return;
        }
        if let Some(session) = &mut peer.session {
            session.posted(lane);
        }
        peer.acknowledge_if(lane, AckDue::Now);
    }
}

fn message(about: &ReadMessage, frame: Option<Frame>) -> Message {
    let (kind, body) = about.encode();
    Message { kind, epoch: Epoch(0), body, frame: frame.map(Frame::freeze) }
}

const _: () = assert!(READS_MAX <= 255);
