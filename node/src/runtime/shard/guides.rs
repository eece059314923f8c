//! Shadow information in bulk: PCM_LOAD_GUIDE, a batch of records in one frame on the bulk lane.
//!
//! The core hands over batch after batch, and says that there is more. It is asked for more only
//! when what it has said has left, so that however much is told, few batches wait here, and nobody
//! else waits long: a batch leaves when its lane has room for it. Batches for a member that there is
//! no link with (it has no address yet, or is not up) wait for it and hold up nobody: there are no
//! more of them than tell once, for each view, what this instance has.

use super::{Shard, arrival::Arrival};
use crate::grd::Event as Input;
use pagewire_protocol::{
    Body, Epoch, GuideRecord, InstanceId, Lane,
    guide::{GuideHeader, decode_batch, encode_batch},
    pcm::kind::PCM_LOAD_GUIDE,
};
use pagewire_transport::{Message, Received};
use std::collections::VecDeque;

/// Batches that may wait before the core is asked for more.
const WAITING_MAX: usize = 8;

/// A batch that has not left.
#[derive(Debug)]
pub(super) struct Guide {
    pub(super) to: InstanceId,
    pub(super) epoch: Epoch,
    pub(super) batch: Vec<GuideRecord>,
    pub(super) last: bool,
}

/// Batches that wait for their lane.
#[derive(Debug, Default)]
pub(super) struct Guides(VecDeque<Guide>);

impl Guides {
    pub(super) fn push(&mut self, guide: Guide) {
        self.0.push_back(guide);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops what is for a life that is over.
    pub(super) fn forget(&mut self, id: InstanceId) {
        self.0.retain(|guide| guide.to != id);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Shard {
    /// Sends the batches whose lane has room; others keep their order and wait.
    pub(super) fn send_guides(&mut self) {
        let mut full: Vec<InstanceId> = Vec::new();
        for _ in 0..self.guides.0.len() {
            let Some(guide) = self.guides.0.pop_front() else { return };
            let has_room = !full.contains(&guide.to)
                && self.outbox.is_clear(guide.to, Lane::Bulk)
                && self.endpoint.room(guide.to, Lane::Bulk) > 0;
            let frame = if has_room { self.arena.take() } else { None };
            let Some(mut frame) = frame else {
                full.push(guide.to);
                self.guides.0.push_back(guide);
                continue;
            };
            let Guide { to, epoch, batch, last } = guide;
            encode_batch(&batch, &mut frame);
            let records = u16::try_from(batch.len()).unwrap_or(u16::MAX);
            let body = Body::new(&GuideHeader { records, last }.encode()).unwrap_or(Body::EMPTY);
            let frame = Some(frame.freeze());
            let message = Message { kind: PCM_LOAD_GUIDE, epoch, body, frame };
            self.counters.guides_sent.add(1);
            self.outbox.send(&mut self.endpoint, to, Lane::Bulk, message, false);
        }
    }

    /// Lets the core go on with what it has been doing piece by piece, if what it said has left. True
    /// when it did.
    pub(super) fn go_on(&mut self) -> bool {
        let leaves = |guide: &&Guide| self.linked.contains(&guide.to);
        if !self.has_more || self.guides.0.iter().filter(leaves).count() > WAITING_MAX {
            return false;
        }
        self.has_more = false;
        self.input(Input::Continue);
        self.run();
        true
    }

    /// A batch has come.
    pub(super) fn on_guide(&mut self, received: &Received) {
        let Received { from, epoch, body, frame, .. } = received;
        let (from, epoch) = (*from, *epoch);
        let read = GuideHeader::decode(body.as_slice()).and_then(|header| {
            let records = decode_batch(header, frame.as_deref().unwrap_or(&[]))?;
            Ok((header, records))
        });
        match read {
            Ok((header, batch)) => {
                let (incarnation, last) = (self.life_of(from), header.last);
                let input = Input::LoadGuide { from, incarnation, epoch, batch, last };
                self.inputs.push_back(Arrival::from(input));
                self.run();
            }
            Err(error) => {
                self.counters.bad_messages.add(1);
                tracing::warn!("instance {from} sent what is no PCM_LOAD_GUIDE: {error}");
            }
        }
    }
}
