//! Regions: opened, told to peers with their keys, and closed.
//!
//! ```text
//!   owner                                        peer that is on verbs with it
//!   open ------------- Region, key ------------> key known: reads are RDMA READs
//!     | close_region
//!   closing ---------- Close ------------------> key forgotten: reads are asked for, and refused
//!     |                                            | the last RDMA READ of it has ended
//!     |  <------------ Left -----------------------+
//!   gone: the key is taken back from the device, the number is free
//! ```
//! All of this is said on the TCP connection, in order. A key is taken back only when nobody can read
//! with it any more: each peer that was told it has left, or its queue pairs are gone. A peer that
//! does not leave within [`EndpointConfig::peer_timeout`], or whose version knows nothing of closing,
//! has its queue pairs closed, and comes back to verbs by itself. Without a key a region is gone at
//! once; an answer that is on its way is delivered.
//!
//! [`EndpointConfig::peer_timeout`]: crate::EndpointConfig::peer_timeout

#[cfg(test)]
mod tests;

use crate::{
    TransportError,
    endpoint::{Endpoint, switch::Switch},
    error::LinkError,
    link::{dual::DualLink, verbs::VerbsError},
};
use pagewire_protocol::{DecodeError, LinkControl, LinkKind, RegionId, link_control::RegionMemory};
use std::{ops::Range, time::Instant};

/// Regions that an endpoint has at most, closing ones among them, and that it takes keys of from a
/// peer.
pub const REGIONS_MAX: usize = 64;

/// What has become of a region that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionState {
    /// Peers may read it.
    Open,
    /// It is closed, and some peer may still read it with the key that it has.
    Closing,
}

/// What an endpoint knows of reads, whoever they are with.
#[derive(Debug, Default)]
pub(in crate::endpoint) struct Regions {
    open: Vec<(RegionId, Range<u32>)>,
    closing: Vec<Closing>,
    pub(super) reads: u64,
}

#[derive(Debug)]
struct Closing {
    region: RegionId,
    /// When peers that have not left are made to.
    until: Instant,
}

impl Regions {
    pub(super) fn get(&self, region: RegionId) -> Option<&Range<u32>> {
        self.open.iter().find(|(id, _)| *id == region).map(|(_, frames)| frames)
    }

    fn is_closing(&self, region: RegionId) -> bool {
        self.closing.iter().any(|closing| closing.region == region)
    }

    /// When the first of those that are closing has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.closing.iter().map(|closing| closing.until).min()
    }
}

/// Keys of regions that are good on the present queue pairs with one peer.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Both ends have stated that regions can be closed.
    pub(super) can_close: bool,
    /// Of the peer's regions.
    theirs: Vec<(RegionId, RegionMemory)>,
    /// Regions of the peer's that it closes, while the device has reads of them; and the attempt that
    /// made the queue pairs.
    leaving: Vec<(RegionId, u32)>,
    /// Of our regions, those that the peer has.
    told: Vec<RegionId>,
}

impl Keys {
    pub(super) fn of(&self, region: RegionId) -> Option<RegionMemory> {
        self.theirs.iter().find(|(id, _)| *id == region).map(|(_, memory)| *memory)
    }

    /// The queue pairs are gone, and with them what could be read over them.
    pub(super) fn forget(&mut self) {
        *self = Self { can_close: self.can_close, ..Self::default() };
    }
}

impl Endpoint {
    /// Lets every peer that has turned one-sided reads on, too, read these frames of the arena, until
    /// [`Endpoint::close_region`]: also while somebody writes them. They are numbered from 0 in the
    /// region.
    ///
    /// # Errors
    /// [`TransportError::Region`]: reads are off here, no such frames, the number is taken, or there
    /// are [`REGIONS_MAX`] already.
    pub fn open_region(
        &mut self,
        region: RegionId,
        frames: Range<u32>,
    ) -> Result<(), TransportError> {
        let refused = |problem| {
            let (first, end) = (frames.start, frames.end);
            Err(TransportError::Region { region, first, end, problem })
        };
        if !self.config.one_sided_reads {
            return refused("one-sided reads are off, expected `one_sided_reads` to be turned on");
        }
        if !self.arena.has_frames(&frames) {
            return refused("the arena has no such frames, expected at least one, all of them its");
        }
        if self.regions.get(region).is_some() {
            return refused("the number is taken, expected another");
        }
        if self.regions.is_closing(region) {
            return refused(
                "the number is that of a region which peers still read while it is closed, expected \
                 another; or poll until `region_state` knows of none",
            );
        }
        if self.regions.open.len() + self.regions.closing.len() == REGIONS_MAX {
            return refused("there are as many as can be, expected 64 at most");
        }
        self.regions.open.push((region, frames));
        for slot in 0..self.peers.len() {
            self.hand_out_keys(slot, self.regions.open.len() - 1);
        }
        Ok(())
    }

    /// Closes a region: no read of it begins any more, and whoever asks for a page of it is told
    /// [`ReadError::UnknownRegion`](super::ReadError::UnknownRegion). RDMA READs that peers have under
    /// way are finished and bring their pages. Until the last one has, the region is
    /// [`RegionState::Closing`], and its frames may be read: poll until [`Endpoint::region_state`] is
    /// `None`. That takes [`EndpointConfig::peer_timeout`](crate::EndpointConfig::peer_timeout) at
    /// most; without RDMA it is so at once. A peer that does not let go in that time, or is of a version that
    /// knows nothing of closing, loses its queue pairs; under
    /// [`LinkPolicy::Verbs`](crate::LinkPolicy::Verbs) that is the link, which then comes up anew.
    ///
    /// # Errors
    /// [`TransportError::RegionNotOpen`]: there is nothing to close.
    pub fn close_region(&mut self, region: RegionId) -> Result<(), TransportError> {
        let Some(at) = self.regions.open.iter().position(|(id, _)| *id == region) else {
            return Err(TransportError::RegionNotOpen { region });
        };
        self.regions.open.remove(at);
        let until = Instant::now() + self.config.peer_timeout;
        self.regions.closing.push(Closing { region, until });
        for slot in 0..self.peers.len() {
            self.have_left(slot, region, false);
            // What has been asked for and not yet answered is refused.
            self.answer_reads(slot);
        }
        self.finish_closing();
        Ok(())
    }

    /// What has become of a region; `None`: it was not opened, or is closed and nobody can read it.
    #[must_use]
    pub fn region_state(&self, region: RegionId) -> Option<RegionState> {
        if self.regions.get(region).is_some() {
            return Some(RegionState::Open);
        }
        self.regions.is_closing(region).then_some(RegionState::Closing)
    }

    /// Has a peer that has the key of a region leave it; at once, whatever it does, if `now`.
    fn have_left(&mut self, slot: usize, region: RegionId, now: bool) {
        let peer = &self.peers[slot];
        let Some(keys) = peer.reads.as_ref().map(|reads| &reads.keys) else { return };
        if !keys.told.contains(&region) {
            return;
        }
        match peer.switch.as_ref().map(Switch::attempt) {
            Some(attempt) if keys.can_close && !now => {
                self.say(slot, &LinkControl::Close { attempt, region });
            }
            _ => self.verbs_failed(slot, &VerbsError::RegionKept { region }),
        }
    }

    /// Takes back the keys of regions that are closed and that no peer can read any more.
    pub(in crate::endpoint) fn finish_closing(&mut self) {
        if self.regions.closing.is_empty() {
            return;
        }
        let (peers, devices) = (&self.peers, &mut self.devices);
        self.regions.closing.retain(|&Closing { region, .. }| {
            let reads = || peers.iter().filter_map(|peer| peer.reads.as_ref());
            let is_told = reads().any(|reads| reads.keys.told.contains(&region));
            if !is_told {
                devices.forget_region(region);
            }
            is_told
        });
    }

    /// Closes the queue pairs of peers that have not left in time.
    pub(super) fn expire_closing(&mut self, now: Instant) {
        let due = |closing: &&Closing| closing.until <= now;
        while let Some(&Closing { region, .. }) = self.regions.closing.iter().find(due) {
            for slot in 0..self.peers.len() {
                self.have_left(slot, region, true);
            }
            self.finish_closing();
            if self.regions.is_closing(region) {
                // It cannot be: without queue pairs nobody has a key.
                tracing::error!(
                    "region {region} is kept by a peer without queue pairs; it is closed"
                );
                self.devices.forget_region(region);
                self.regions.closing.retain(|closing| closing.region != region);
            }
        }
    }

    /// Messages are on verbs: the peer may read what is open.
    pub(in crate::endpoint) fn hand_out_all_keys(&mut self, slot: usize) {
        for at in 0..self.regions.open.len() {
            self.hand_out_keys(slot, at);
        }
    }

    fn hand_out_keys(&mut self, slot: usize, at: usize) {
        let (region, frames) = self.regions.open[at].clone();
        let peer = &mut self.peers[slot];
        let attempt = peer.switch.as_ref().map(Switch::attempt);
        let Some((link, attempt)) = peer.link.as_mut().zip(attempt) else { return };
        let (Some(reads), LinkKind::Verbs) = (&mut peer.reads, link.on()) else { return };
        let Some(device) = link.verbs_mut().map(|verbs| verbs.device().to_owned()) else { return };
        let memory = self.devices.readable(&device, &self.arena, region, &frames);
        if let Some(memory) = memory {
            reads.keys.told.push(region);
            self.say(slot, &LinkControl::Region { attempt, region, memory });
        }
    }

    /// Whether this is the attempt that made the present queue pairs. While an end falls back to TCP its
    /// messages are still to be on verbs, and there are no queue pairs any more.
    fn is_present(&self, slot: usize, attempt: u32) -> bool {
        let peer = &self.peers[slot];
        let is_on_verbs = |link: &DualLink| link.on() == LinkKind::Verbs && link.has_verbs();
        peer.switch.as_ref().is_some_and(|switch| switch.attempt() == attempt)
            && peer.link.as_ref().is_some_and(is_on_verbs)
    }

    /// The peer has said how a region of its can be read.
    ///
    /// # Errors
    /// [`LinkError`]: no correct peer says this.
    pub(in crate::endpoint) fn key_heard(
        &mut self,
        slot: usize,
        attempt: u32,
        (region, memory): (RegionId, RegionMemory),
    ) -> Result<(), LinkError> {
        let page_bytes = self.arena.page_size().bytes() as u64;
        let is_present = self.is_present(slot, attempt);
        let Some(reads) = &mut self.peers[slot].reads else {
            let expected = "none: one-sided reads are not turned on at both ends";
            return wrong("key of a region", region.0.into(), expected);
        };
        let end = u64::from(memory.frames).checked_mul(page_bytes);
        if end.and_then(|bytes| memory.address.checked_add(bytes)).is_none() {
            return wrong("address of a region", memory.address, "one that it fits behind");
        }
        // Of queue pairs that are gone meanwhile, or told before.
        if !is_present || reads.keys.of(region).is_some() {
            return Ok(());
        }
        if reads.keys.theirs.len() + reads.keys.leaving.len() == REGIONS_MAX {
            return wrong("regions of a peer", REGIONS_MAX as u64 + 1, "64 at most");
        }
        reads.keys.theirs.push((region, memory));
        Ok(())
    }

    /// The keys of a link whose ends have both stated that regions can be closed; `None`: what was said
    /// is about queue pairs that are gone meanwhile.
    ///
    /// # Errors
    /// [`LinkError`]: the ends have not both stated so, and no correct peer says anything of it.
    fn closable(
        &mut self,
        slot: usize,
        attempt: u32,
        region: RegionId,
    ) -> Result<Option<&mut Keys>, LinkError> {
        let is_present = self.is_present(slot, attempt);
        let keys = self.peers[slot].reads.as_mut().map(|reads| &mut reads.keys);
        let Some(keys) = keys.filter(|keys| keys.can_close) else {
            let expected = "none: the ends have not both stated that regions can be closed";
            return wrong("closing of a region", region.0.into(), expected);
        };
        Ok(is_present.then_some(keys))
    }

    /// The peer closes a region of its: its key is not used from now on.
    ///
    /// # Errors
    /// [`LinkError`]: no correct peer says this.
    pub(in crate::endpoint) fn close_heard(
        &mut self,
        slot: usize,
        attempt: u32,
        region: RegionId,
    ) -> Result<(), LinkError> {
        let Some(keys) = self.closable(slot, attempt, region)? else { return Ok(()) };
        // Heard before.
        if keys.leaving.iter().any(|(id, _)| *id == region) {
            return Ok(());
        }
        match keys.theirs.iter().position(|(id, _)| *id == region) {
            Some(at) => {
                keys.theirs.swap_remove(at);
                keys.leaving.push((region, attempt));
                self.leave_regions(slot);
            }
            // It was never taken note of: nothing is under way.
            None => self.say(slot, &LinkControl::Left { attempt, region }),
        }
        Ok(())
    }

    /// Says so of regions that the peer closes, and that the device has no read of any more.
    pub(super) fn leave_regions(&mut self, slot: usize) {
        let mut at = 0;
        while let Some(reads) = &mut self.peers[slot].reads
            && let Some(&(region, attempt)) = reads.keys.leaving.get(at)
        {
            if reads.asked.has_posted(region) {
                at += 1;
                continue;
            }
            reads.keys.leaving.swap_remove(at);
            self.say(slot, &LinkControl::Left { attempt, region });
        }
    }

    /// The peer has left a region of ours.
    ///
    /// # Errors
    /// [`LinkError`]: no correct peer says this.
    pub(in crate::endpoint) fn left_heard(
        &mut self,
        slot: usize,
        attempt: u32,
        region: RegionId,
    ) -> Result<(), LinkError> {
        let is_closing = self.regions.is_closing(region);
        let Some(keys) = self.closable(slot, attempt, region)? else { return Ok(()) };
        // Not told there, or left before.
        let Some(at) = keys.told.iter().position(|id| *id == region) else { return Ok(()) };
        if !is_closing {
            return wrong("region that is left", region.0.into(), "one that is closed");
        }
        keys.told.swap_remove(at);
        self.finish_closing();
        Ok(())
    }
}

fn wrong<T>(what: &'static str, found: u64, expected: &'static str) -> Result<T, LinkError> {
    Err(DecodeError::Field { what, found, expected }.into())
}
