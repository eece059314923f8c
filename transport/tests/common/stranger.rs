//! A peer made by hand whose messages are on verbs, and the device that it uses.

use super::{
    CREDITS, FRAMES, Node, PATIENCE, packed_arena, pump,
    raw::{self, RawPeer},
    verbs,
};
use pagewire_protocol::{
    Lane, LinkControl, LinkKind, RegionId, Sequence, SessionHeader,
    header::Slot,
    hello::{Features, ProofKey},
    link_control::Statement,
};
use pagewire_transport::{
    Arena, Frame,
    error::LinkError,
    link::{
        Link, Sink, Urgency,
        verbs::{
            Choice, MemoryRegion, ProtectionDomain, RemoteMemory, VerbsLink, device::open_all,
            link::LinkRoom, pick,
        },
    },
};
use std::{mem, sync::Arc, time::Instant};

pub(crate) const STRANGER: u16 = 3;

/// The device of these tests with an arena, and the port to use.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) arena: Arena,
    pub(crate) region: Arc<MemoryRegion>,
    pub(crate) choice: Choice,
}

impl Device {
    /// `None` after a line that says why not.
    pub(crate) fn new() -> Option<Self> {
        let Some(overrides) = verbs() else {
            println!("skipped: set PAGEWIRE_TEST_VERBS to an RDMA device");
            return None;
        };
        let devices = open_all().expect("devices");
        let facts: Vec<_> = devices.iter().map(|device| device.facts().expect("facts")).collect();
        let choice = pick(&facts, "127.0.0.1".parse().unwrap(), &overrides).expect("a port");
        let context = devices.iter().find(|device| device.name() == choice.device).expect("open");
        let arena = packed_arena(FRAMES);
        let domain = ProtectionDomain::new(context).expect("a domain");
        let region = MemoryRegion::new(&domain, &arena, false).expect("registered");
        Some(Self { arena, region, choice })
    }
}

/// A peer made by hand whose messages are on verbs.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) tcp: RawPeer,
    pub(crate) verbs: VerbsLink,
    pub(crate) device: Device,
    room: LinkRoom,
}

/// Whatever comes.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Sink for Nothing {
    fn message(
        &mut self,
        _header: &SessionHeader,
        _slot: &Slot,
        frame: Option<Frame>,
    ) -> Result<Option<Frame>, LinkError> {
        Ok(frame)
    }

    fn control(&mut self, _said: LinkControl) -> Result<(), LinkError> {
        Ok(())
    }
}

impl Stranger {
    /// Makes a link with `nodes[0]` and moves it to verbs. Its id is the greater one: it leads.
    pub(crate) fn new(nodes: &mut [Node], features: Features) -> Option<Self> {
        Self::in_life(nodes, 1, features)
    }

    /// The same in that incarnation.
    pub(crate) fn in_life(nodes: &mut [Node], life: u64, features: Features) -> Option<Self> {
        let device = Device::new()?;
        let room =
            LinkRoom { credits: CREDITS.0, page_sends: 16, reads: features.has(Features::READS) };
        let mut tcp = RawPeer::link_stating(nodes, STRANGER, life, ProofKey::NONE, features);
        let expected = [Sequence(1); Lane::COUNT];
        let verbs = move_to_verbs(&mut tcp, nodes, &device, &room, 1, expected);
        Some(Self { tcp, verbs, device, room })
    }

    /// Moves messages from TCP to other queue pairs; the ones before are gone. It has had all messages
    /// before those that it expects.
    pub(crate) fn move_to_verbs(
        &mut self,
        nodes: &mut [Node],
        attempt: u32,
        expected: [Sequence; Lane::COUNT],
    ) {
        let (tcp, device) = (&mut self.tcp, &self.device);
        self.verbs = move_to_verbs(tcp, nodes, device, &self.room, attempt, expected);
    }

    /// Its queue pairs are gone, of which it tells nobody.
    pub(crate) fn lose_queue_pairs(&mut self) {
        let device = &self.device;
        let others = VerbsLink::new(&device.region, &device.choice, &self.room, &Arc::default());
        mem::replace(&mut self.verbs, others.expect("queue pairs")).discard();
    }

    /// Sends messages 1 to `count` on `lane`, all of them whatever the credit.
    pub(crate) fn send(&mut self, lane: Lane, count: u64) {
        for number in 1..=count {
            let body = raw::body();
            let header = SessionHeader { sequence: Sequence(number), ..self.tcp.header(lane) };
            let frame = header.frame.then(|| self.device.arena.take().expect("a frame").freeze());
            let frame = frame.as_ref();
            assert!(self.verbs.send(&header, &body, frame, Urgency::Now), "room in its queue");
        }
        self.verbs.flush().expect("posted");
    }

    /// Whether it is given a page when it reads there; the error of its queue pairs.
    pub(crate) fn reads(&mut self, nodes: &mut [Node], from: RemoteMemory) -> Result<bool, String> {
        let frame = self.device.arena.take().expect("a frame");
        self.verbs.read(9, frame, from).expect("room");
        self.verbs.flush().expect("posted");
        let deadline = Instant::now() + PATIENCE;
        loop {
            nodes.iter_mut().for_each(Node::poll);
            match self.verbs.poll(&mut Nothing) {
                Ok(()) => assert!(Instant::now() < deadline, "it is told nothing"),
                Err(error) => {
                    // The frame that it was to be read into has no page in it.
                    let done = self.verbs.take_read();
                    assert!(done.is_none_or(|done| done.frame.is_none()), "nothing was read");
                    return Err(error.to_string());
                }
            }
            if let Some(done) = self.verbs.take_read() {
                return Ok(done.frame.is_some());
            }
        }
    }

    /// Where that region is, of which it is told next.
    pub(crate) fn key(&mut self, nodes: &mut [Node], region: RegionId) -> RemoteMemory {
        let said = self.tcp.hear(nodes);
        let LinkControl::Region { region: told, memory, .. } = said else { panic!("{said:?}") };
        assert_eq!(told, region);
        RemoteMemory { address: memory.address, key: memory.key }
    }
}

fn move_to_verbs(
    tcp: &mut RawPeer,
    nodes: &mut [Node],
    device: &Device,
    room: &LinkRoom,
    attempt: u32,
    expected: [Sequence; Lane::COUNT],
) -> VerbsLink {
    let verbs = VerbsLink::new(&device.region, &device.choice, room, &Arc::default());
    let mut verbs = verbs.expect("queue pairs");
    tcp.say(&LinkControl::Offer { attempt, queue_pairs: verbs.address() });
    let said = tcp.hear(nodes);
    let LinkControl::Accept { attempt: accepted, queue_pairs } = said else { panic!("{said:?}") };
    assert_eq!(accepted, attempt);
    verbs.connect(&queue_pairs).expect("connected");
    let statement = Statement { expected, credits: CREDITS.0 };
    tcp.say(&LinkControl::Switch { attempt, to: LinkKind::Verbs, statement });
    let said = tcp.hear(nodes);
    let LinkControl::Switch { to: LinkKind::Verbs, .. } = said else { panic!("{said:?}") };
    pump(nodes, "messages are on verbs", |nodes| nodes[0].is_on(STRANGER, LinkKind::Verbs));
    verbs
}
