//! A pair of which one reads what the other has opened, one-sided.

use super::{FRAMES, Node, assert_filled, config, fill, introduce, link_all, pump, verbs};
use pagewire_protocol::{InstanceId, RegionId};
use pagewire_transport::{EndpointConfig, Event, Frame, ReadDone, ReadId};
use std::collections::BTreeMap;

pub(crate) const REGION: RegionId = RegionId(7);
/// Frames of the region: the first of the owner's arena, which it keeps.
pub(crate) const PAGES: u32 = 6;
pub(crate) const OWNER: InstanceId = InstanceId(2);

pub(crate) fn with_reads(id: u16, on: bool) -> Node {
    Node::new(EndpointConfig { one_sided_reads: on, ..config(id) }, FRAMES)
}

/// Instance 1 and instance 2, which has opened a region of pages that are filled with their place in
/// it and keeps them, as it would a page that it may write.
pub(crate) struct Pair {
    pub(crate) nodes: Vec<Node>,
    pub(crate) pages: Vec<Frame>,
}

impl Pair {
    pub(crate) fn unlinked() -> Self {
        Self::of(with_reads(1, true))
    }

    pub(crate) fn of(asker: Node) -> Self {
        let mut nodes = vec![asker, with_reads(2, true)];
        let pages = open(&mut nodes[1], PAGES);
        Self { nodes, pages }
    }

    pub(crate) fn new() -> Self {
        Self::unlinked().linked()
    }

    pub(crate) fn linked(mut self) -> Self {
        let pair = &mut self;
        introduce(&mut pair.nodes, 0, 1);
        link_all(&mut pair.nodes);
        pair.until_keys();
        self
    }

    /// Over verbs: until reads need no question. Those that are asked before are told apart.
    pub(crate) fn until_keys(&mut self) {
        if verbs().is_some() {
            pump(&mut self.nodes, "the region's key is there", |nodes| {
                let before = reads(nodes).0;
                let read = nodes[0].endpoint.read_page(OWNER, REGION, 0).expect("room");
                let mut events = BTreeMap::new();
                pump(nodes, "it has ended", |nodes| {
                    collect(nodes, &mut events);
                    events.contains_key(&read)
                });
                reads(nodes).0 > before
            });
        }
    }

    /// Reads these frames, and waits until all reads have ended.
    pub(crate) fn read_all(&mut self, offsets: &[u32]) -> Vec<ReadDone> {
        let mut events = BTreeMap::new();
        let mut begin = |offset: &u32| self.nodes[0].endpoint.read_page(OWNER, REGION, *offset);
        let begun: Vec<_> = offsets.iter().map(|offset| begin(offset).expect("room")).collect();
        pump(&mut self.nodes, "every read has ended", |nodes| {
            collect(nodes, &mut events);
            begun.iter().all(|read| events.contains_key(read))
        });
        assert_eq!(events.len(), begun.len(), "none ends that was not begun");
        begun.iter().map(|read| events.remove(read).expect("once")).collect()
    }
}

/// Fills the first frames of the node's arena with their numbers, and opens them.
pub(crate) fn open(node: &mut Node, count: u32) -> Vec<Frame> {
    let arena = node.endpoint.arena().clone();
    let mut pages: Vec<_> = (0..count).filter_map(|_| arena.take()).collect();
    for (page, number) in pages.iter_mut().zip(0u32..) {
        assert_eq!(page.index().0, number, "the first frames, in order");
        fill(page, number.into());
    }
    node.endpoint.open_region(REGION, 0..count).expect("a region");
    pages
}

/// Takes the reads that have ended; each is the only one of its number.
pub(crate) fn collect(nodes: &mut [Node], into: &mut BTreeMap<ReadId, ReadDone>) {
    let (ended, others) = std::mem::take(&mut nodes[0].events)
        .into_iter()
        .partition(|event| matches!(event, Event::Read(_)));
    nodes[0].events = others;
    for event in ended {
        let Event::Read(done) = event else { unreachable!() };
        assert_eq!((done.peer, done.region), (OWNER, REGION));
        assert!(into.insert(done.read, done).is_none(), "a read ended twice");
    }
}

/// Reads of instance 1 that the device had, and that the owner was asked for.
pub(crate) fn reads(nodes: &[Node]) -> (u64, u64) {
    let counters = &nodes[0].endpoint.peer_counters(OWNER).expect("a peer").reads;
    (counters.posted.get(), counters.asked.get())
}

pub(crate) fn assert_pages(done: Vec<ReadDone>, offsets: &[u32]) {
    assert_eq!(done.len(), offsets.len());
    for (done, offset) in done.into_iter().zip(offsets) {
        assert_eq!(done.offset_frames, *offset);
        let frame = done.outcome.unwrap_or_else(|why| panic!("frame {offset}: {why}"));
        assert_filled(&frame, (*offset).into());
    }
}
