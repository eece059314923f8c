//! The network: one FIFO queue for each sender, receiver and lane; queues overtake each other.

use super::Content;
use pagewire_node::random::Random;
use pagewire_protocol::{Lane, Pcm};
use std::collections::VecDeque;

/// A message on its way.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) page: usize,
    pub(super) message: Pcm,
    /// The page, when the message carries it.
    pub(super) content: Option<Content>,
    /// Not delivered before this step while there is anything else to do.
    pub(super) not_before: u64,
}

#[derive(Debug)]
pub(super) struct Network {
    instances: usize,
    queues: Vec<VecDeque<Packet>>,
    /// Queues that are not empty.
    ready: Vec<usize>,
}

impl Network {
    pub(super) fn new(instances: usize) -> Self {
        let queues = instances * instances * Lane::COUNT;
        Self {
            instances,
            queues: std::iter::repeat_with(VecDeque::new).take(queues).collect(),
            ready: Vec::with_capacity(queues),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let lane = packet.message.lane().index();
        let queue = (from * self.instances + to) * Lane::COUNT + lane;
        if self.queues[queue].is_empty() {
            self.ready.push(queue);
        }
        self.queues[queue].push_back(packet);
    }

    /// The head of one of the queues, with sender and receiver; `None` when it is held up.
    pub(super) fn take(&mut self, random: &mut Random, now: u64) -> Option<(usize, usize, Packet)> {
        let at = random.index(self.ready.len());
        let queue = *self.ready.get(at)?;
        self.queues[queue].front().filter(|packet| packet.not_before <= now)?;
        let packet = self.queues[queue].pop_front()?;
        if self.queues[queue].is_empty() {
            self.ready.swap_remove(at);
        }
        let link = queue / Lane::COUNT;
        Some((link / self.instances, link % self.instances, packet))
    }
}
