//! From a link to the owner: the session judges what has come, the queue gets what is delivered.

use super::{
    events::EventQueue,
    reads::{self, PeerReads},
    sampler::Sampler,
};
use crate::{
    Frame,
    counters::PeerCounters,
    error::LinkError,
    link::Sink,
    session::{Disposition, Session},
};
use pagewire_protocol::{Body, InstanceId, LinkControl, SessionHeader, header::Slot};
use std::collections::VecDeque;

/// Takes what a link hands over: the session judges it, the queue gets what is to be delivered.
pub(super) struct Arrivals<'a> {
    pub(super) from: InstanceId,
    pub(super) session: &'a mut Session,
    pub(super) counters: &'a PeerCounters,
    pub(super) events: &'a mut EventQueue,
    /// What the peer says about the link.
    pub(super) heard: &'a mut VecDeque<LinkControl>,
    /// Where what is about reads goes; `None`: it is not agreed that there are any.
    pub(super) reads: Option<&'a mut PeerReads>,
    pub(super) sampler: &'a Sampler,
    /// Something came.
    pub(super) any: bool,
    /// Bit by bit, the lanes of which something came that [`Peer::arrived`](super::peer::Peer::arrived)
    /// has to do with.
    pub(super) lanes: u32,
}

impl Sink for Arrivals<'_> {
    #[inline(always)] // The header stays in registers on its way from the slot to the queue.
    fn message(
        &mut self,
        header: &SessionHeader,
        slot: &Slot,
        frame: Option<Frame>,
    ) -> Result<Option<Frame>, LinkError> {
        let disposition = self.session.receive(header)?;
        self.any = true;
        if self.session.has_waiting(header.lane) || self.sampler.is_timed(header.lane) {
            self.lanes |= 1 << header.lane.index();
        }
        let counters = self.counters.lane(header.lane);
        match disposition {
            Disposition::AckOnly => Ok(None),
            Disposition::Deliver => {
                counters.received.add(1);
                if let Some(frame) = &frame {
                    counters.frame_bytes.add(frame.len() as u64);
                }
                if header.kind.is_of_reads() {
                    let Some(of_peer) = &mut self.reads else {
                        return Err(reads::not_agreed(header.kind));
                    };
                    let body = Body::of_slot(slot, header.body_len);
                    of_peer.take(header.lane, header.kind, &body, frame)?;
                } else {
                    self.events.push_message(self.from, header, slot, frame);
                }
                Ok(None)
            }
            Disposition::Duplicate => {
                counters.duplicates.add(1);
                self.session.posted(header.lane);
                Ok(frame)
            }
        }
    }

    #[cold]
    fn control(&mut self, said: LinkControl) -> Result<(), LinkError> {
        self.heard.push_back(said);
        Ok(())
    }
}
