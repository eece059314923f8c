//! The instances under measurement, each a shard that its thread polls, and their readers.

use super::reader::{Reader, now_ns, stamped};
use crate::{
    error::BenchError,
    latency::sampled,
    relation::Relation,
    spin::{Patience, Switch},
    stats::Samples,
};
use pagewire_node::{
    Shard,
    si::{PublishError, Publisher, Ticket},
};
use pagewire_protocol::{InstanceId, SiMessage};
use std::{thread, time::Duration, time::Instant};

/// Between two publications of the visible leg: readers are asleep at none of them.
const PAUSE: Duration = Duration::from_micros(100);

/// Everything, before it is given to its threads.
#[derive(Debug)]
pub(super) struct World {
    pub(super) publishing: Publishing,
    pub(super) others: Others,
    /// The storage; the folder, with the rings in it, lives as long as this.
    pub(super) relation: Relation,
}

/// The instance that publishes, and all reader processes.
#[derive(Debug)]
pub(super) struct Publishing {
    shard: Shard,
    publisher: Publisher,
    readers: Vec<Reader>,
}

/// The instances on the other thread.
#[derive(Debug)]
pub(super) struct Others(Vec<Shard>);

impl World {
    pub(super) fn start(nodes: u16, readers: u16) -> Result<Self, BenchError> {
        let relation = Relation::create(1)?;
        let (mut shards, mut all_readers) = (Vec::new(), Vec::new());
        for id in 0..nodes {
            let mut config = relation.config(id, nodes, 64);
            let ring = config.storage.join(format!("si-ring-{id}"));
            config.si_ring = Some(ring.clone());
            shards.push(Shard::new(&config)?);
            for _ in 0..readers {
                all_readers.push(Reader::start(&ring, config.cluster)?);
            }
        }
        let addresses: Vec<_> = shards.iter().map(Shard::listen_address).collect();
        for (id, shard) in (0..nodes).zip(&mut shards) {
            for (peer, address) in (0..nodes).zip(&addresses).filter(|(peer, _)| *peer != id) {
                shard.add_peer(InstanceId(peer), *address)?;
            }
        }
        let shard = shards.remove(0);
        let publisher = shard.si_publisher();
        let publishing = Publishing { shard, publisher, readers: all_readers };
        Ok(Self { publishing, others: Others(shards), relation })
    }
}

fn is_up(shard: &Shard) -> bool {
    shard.peers_up() + 1 == shard.grd().view().members().len()
}

impl Others {
    pub(super) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "the sessions between the instances");
        while !self.0.iter().all(is_up) {
            self.poll();
            patience.spin()?;
        }
        Ok(())
    }

    #[inline]
    pub(super) fn poll(&mut self) {
        for shard in &mut self.0 {
            shard.poll();
        }
    }
}

impl Publishing {
    /// Polls until all peers are up.
    pub(super) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "the sessions between the instances");
        while !is_up(&self.shard) {
            self.shard.poll();
            patience.spin()?;
        }
        Ok(())
    }

    /// Publishes once, while the others are polled: all have the beginning of the stream.
    pub(super) fn begin(&mut self, switch: &Switch) -> Result<(), BenchError> {
        let ticket = self.publish(&[SiMessage::Relmap { database: 1 }], switch)?;
        self.complete(&ticket, switch, false)
    }

    /// Publishes, polling while there is no room.
    fn publish(&mut self, messages: &[SiMessage], switch: &Switch) -> Result<Ticket, BenchError> {
        let mut patience = Patience::new(switch, "room for one more batch");
        loop {
            match self.publisher.publish(messages) {
                Ok(ticket) => return Ok(ticket),
                Err(PublishError::Full { .. }) => {
                    self.shard.poll();
                    patience.spin()?;
                }
                Err(error) => return Err(BenchError::Tool(error.to_string())),
            }
        }
    }

    fn complete(
        &mut self,
        ticket: &Ticket,
        switch: &Switch,
        yields: bool,
    ) -> Result<(), BenchError> {
        let mut patience = Patience::new(switch, "all acknowledgements of what was published");
        while !ticket.is_complete() {
            self.shard.poll();
            if yields {
                thread::yield_now();
            }
            patience.spin()?;
        }
        Ok(())
    }

    /// One message at a time, from its publication to the completion of its ticket.
    pub(super) fn publish_leg(
        &mut self,
        samples: u32,
        number: &mut u64,
        switch: &Switch,
    ) -> Result<Samples, BenchError> {
        sampled(samples, number, |number| {
            let ticket = self.publish(&[stamped(number)], switch)?;
            self.complete(&ticket, switch, false)
        })
    }

    /// One message at a time, until every reader process has seen all of them.
    pub(super) fn visible_leg(
        &mut self,
        samples: u32,
        into: &mut Samples,
        switch: &Switch,
    ) -> Result<(), BenchError> {
        if self.readers.is_empty() {
            return Ok(());
        }
        self.readers.iter_mut().try_for_each(|reader| reader.begin(samples))?;
        for _ in 0..samples {
            let pause = Instant::now();
            while pause.elapsed() < PAUSE {
                self.shard.poll();
                thread::yield_now();
            }
            let ticket = self.publish(&[stamped(now_ns())], switch)?;
            self.complete(&ticket, switch, true)?;
        }
        self.readers.iter_mut().try_for_each(|reader| reader.end(samples, into))
    }

    /// Batches of `batch` messages, as many at a time as there is room for: messages a second.
    pub(super) fn rate_leg(
        &mut self,
        batch: u32,
        messages: u32,
        switch: &Switch,
    ) -> Result<f64, BenchError> {
        let of_batch: Vec<_> = (0..batch).map(|number| stamped(number.into())).collect();
        let start = Instant::now();
        let mut last = None;
        for _ in 0..messages / batch {
            last = Some(self.publish(&of_batch, switch)?);
            self.shard.poll();
        }
        if let Some(ticket) = last {
            self.complete(&ticket, switch, false)?;
        }
        let published = messages - messages % batch;
        Ok(f64::from(published) / start.elapsed().as_secs_f64())
    }
}
