//! The instances under measurement, each a shard that its thread polls.

use crate::{
    error::BenchError,
    relation::Relation,
    spin::{Patience, Switch},
    stats::Samples,
};
use pagewire_node::{Handle, NodeError, Shard, view::View};
use pagewire_protocol::{BufferTag, Epoch, InstanceId, Mode};
use std::time::Instant;

const ASKER: u16 = 0;
const MASTER: u16 = 1;

/// Everything, before it is given to its threads.
#[derive(Debug)]
pub(super) struct Grants {
    pub(super) asker: Asker,
    pub(super) owner: Owner,
    /// The storage; the folder lives as long as this.
    pub(super) relation: Relation,
}

/// The instance that asks.
#[derive(Debug)]
pub(super) struct Asker {
    shard: Shard,
    handle: Handle,
    tags: Vec<BufferTag>,
}

/// The instances on the other thread: the master, and over 3 hops the owner.
#[derive(Debug)]
pub(super) struct Owner {
    /// The owner is the last.
    shards: Vec<Shard>,
    handle: Handle,
    tags: Vec<BufferTag>,
}

/// Starts the instances over a relation of which `pages` pages are mastered by instance 1.
pub(super) fn connect(hops: u8, pages: u32) -> Result<Grants, BenchError> {
    let members = u16::from(hops);
    let view =
        View::new(Epoch(1), (0..members).map(InstanceId).collect()).map_err(NodeError::from)?;
    let mastered = |block: &u32| view.master(&Relation::tag(*block)) == InstanceId(MASTER);
    let blocks: Vec<_> = (0..).filter(mastered).take(pages as usize).collect();
    let relation = Relation::create(blocks.last().map_or(1, |last| last + 1))?;
    let tags: Vec<_> = blocks.into_iter().map(Relation::tag).collect();
    let mut shards = (0..members)
        .map(|id| Shard::new(&relation.config(id, members, pages)))
        .collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = shards.iter().map(Shard::listen_address).collect();
    for (id, shard) in (0..members).zip(&mut shards) {
        for (peer, address) in (0..members).zip(&addresses).filter(|(peer, _)| *peer != id) {
            shard.add_peer(InstanceId(peer), *address)?;
        }
    }
    let mut asker = shards.remove(usize::from(ASKER));
    let handle = asker.handle();
    let asker = Asker { shard: asker, handle, tags: tags.clone() };
    let handle = shards.last_mut().map(Shard::handle).ok_or(BenchError::NoFrame)?;
    Ok(Grants { asker, owner: Owner { shards, handle, tags }, relation })
}

impl Asker {
    /// Polls until all peers are up.
    pub(super) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "the sessions between the instances");
        while self.shard.peers_up() + 1 < self.shard.grd().view().members().len() {
            self.shard.poll();
            patience.spin()?;
        }
        Ok(())
    }

    /// Serves the others until `done`.
    pub(super) fn serve_until(
        &mut self,
        switch: &Switch,
        done: impl Fn() -> bool,
    ) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "the owner to take its pages back");
        while !done() {
            self.shard.poll();
            patience.spin()?;
        }
        Ok(())
    }

    /// Takes the first `pages` pages, one after the other.
    pub(super) fn take(
        &mut self,
        pages: u32,
        mode: Mode,
        samples: &mut Samples,
        switch: &Switch,
    ) -> Result<(), BenchError> {
        for tag in self.tags.iter().copied().take(pages as usize) {
            let start = Instant::now();
            acquire(std::slice::from_mut(&mut self.shard), &self.handle, tag, mode, switch)?;
            samples.record(start.elapsed());
        }
        Ok(())
    }
}

impl Owner {
    /// Polls until all peers of all instances here are up, then takes every page from storage.
    pub(super) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "the sessions between the instances");
        let all_up = |shards: &[Shard]| {
            shards.iter().all(|s| s.peers_up() + 1 == s.grd().view().members().len())
        };
        while !all_up(&self.shards) {
            self.poll();
            patience.spin()?;
        }
        self.take_back(switch)
    }

    #[inline(always)] // As `Shard::poll`.
    pub(super) fn poll(&mut self) {
        for shard in &mut self.shards {
            shard.poll();
        }
    }

    /// Makes the owner hold every page exclusively again.
    pub(super) fn take_back(&mut self, switch: &Switch) -> Result<(), BenchError> {
        for tag in self.tags.iter().copied() {
            acquire(&mut self.shards, &self.handle, tag, Mode::X, switch)?;
        }
        Ok(())
    }
}

/// Takes a page as an engine's thread would: a hit if there is one, else a request; and touches it.
#[inline(always)] // As `Shard::poll`.
fn acquire(
    shards: &mut [Shard],
    handle: &Handle,
    tag: BufferTag,
    mode: Mode,
    switch: &Switch,
) -> Result<u8, BenchError> {
    let hit = match mode {
        Mode::X => handle.try_write(&tag).map(|guard| guard[0]),
        Mode::S | Mode::N => handle.try_read(&tag).map(|guard| guard[0]),
    };
    if let Some(byte) = hit {
        return Ok(byte);
    }
    handle.begin(tag, mode);
    let mut patience = Patience::new(switch, "a grant");
    loop {
        for shard in &mut *shards {
            shard.poll();
        }
        let granted = match mode {
            Mode::X => handle.finish_write().map(|result| result.map(|guard| guard[0])),
            Mode::S | Mode::N => handle.finish_read().map(|result| result.map(|guard| guard[0])),
        };
        if let Some(byte) = granted {
            return Ok(byte?);
        }
        patience.spin()?;
    }
}
