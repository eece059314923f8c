//! Reads that have waited long enough, and what comes for them afterwards.

use super::{ReadError, ReadId, asker};
use crate::{endpoint::Endpoint, error::LinkError};
use std::time::Instant;

impl Endpoint {
    /// Ends the reads, and the closing of regions, whose deadline has passed.
    pub(in crate::endpoint) fn expire_reads(&mut self, now: Instant) {
        let limit_ms = self.config.read_timeout.as_millis();
        for slot in 0..self.peers.len() {
            loop {
                let peer = &mut self.peers[slot];
                let Some(reads) = &mut peer.reads else { break };
                let Some((read, what, waited_for)) = reads.asked.expire(now) else { break };
                peer.counters.reads.timed_out.add(1);
                let why = ReadError::TimedOut { limit_ms, waited_for };
                self.read_ended(slot, read, what, Err(why));
            }
        }
        self.expire_closing(now);
    }

    /// When [`Endpoint::expire_reads`] has something to do.
    pub(in crate::endpoint) fn next_read_deadline(&self) -> Option<Instant> {
        let reads = self.peers.iter().filter_map(|peer| peer.reads.as_ref());
        let ends = reads.filter_map(|reads| reads.asked.next_deadline());
        ends.chain(self.regions.next_deadline()).min()
    }

    /// An answer that no read waits for: its deadline has passed, or it was not asked for.
    pub(super) fn late_answer(&mut self, slot: usize, token: u64) -> Result<(), LinkError> {
        let peer = &mut self.peers[slot];
        let Some(reads) = &mut peer.reads else { return Ok(()) };
        if !reads.asked.late_ended(ReadId(token)) {
            return Err(asker::not_asked(token));
        }
        peer.counters.reads.late.add(1);
        Ok(())
    }
}
