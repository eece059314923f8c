//! What the integration tests share: endpoints on loopback that are polled inline on one thread, a
//! pump with a deadline, and numbered messages with the checks on them.
#![allow(dead_code)] // Each test program uses its part of it.

pub(crate) mod device;
pub(crate) mod netns;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod reads;
pub(crate) mod stranger;

use pagewire_protocol::{Body, ClusterId, Epoch, InstanceId, Lane, LinkKind, MessageKind};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Frame, LaneCredits, LinkPolicy, Message,
    Overrides, Received, SendError,
};
use std::{
    collections::VecDeque,
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

pub(crate) const CLUSTER: ClusterId = ClusterId(77);
/// How long a condition may take to come true before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Small, so that every window is full all the time.
pub(crate) const CREDITS: LaneCredits = LaneCredits([16, 8, 8, 4, 2]);
pub(crate) const FRAMES: u32 = 64;

pub(crate) fn arena(frames: u32) -> Arena {
    Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(frames) }).unwrap()
}

/// Frames side by side, without margins.
pub(crate) fn packed_arena(frames: u32) -> Arena {
    let config = ArenaConfig { huge_pages: false, margins: false, ..ArenaConfig::new(frames) };
    Arena::new(&config).unwrap()
}

pub(crate) fn config(id: u16) -> EndpointConfig {
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = EndpointConfig::new(CLUSTER, InstanceId(id), listen);
    let config = EndpointConfig { credits: CREDITS, ..config };
    match verbs() {
        Some(verbs) => EndpointConfig { links: LinkPolicy::Verbs, verbs, ..config },
        None => config,
    }
}

/// The RDMA device, port and GID index that PAGEWIRE_TEST_VERBS names, as in `rxe0/1/1`: tests then
/// run over them instead of TCP.
pub(crate) fn verbs() -> Option<Overrides> {
    let named = std::env::var("PAGEWIRE_TEST_VERBS").ok()?;
    let parts: Vec<_> = named.split('/').collect();
    let [device, port, gid_index] = parts[..] else {
        panic!("PAGEWIRE_TEST_VERBS is {named:?}, expected DEVICE/PORT/GID-INDEX");
    };
    Some(Overrides {
        device: Some(device.to_owned()),
        port: Some(port.parse().expect("a port's number")),
        gid_index: Some(gid_index.parse().expect("an index")),
    })
}

/// An address on which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One endpoint, and what came out of it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    /// Events other than messages, the oldest first.
    pub(crate) events: Vec<Event>,
    /// Messages that are taken but not yet looked at.
    pub(crate) received: VecDeque<Received>,
    /// False: events stay in the endpoint, so that no receive is posted again.
    pub(crate) taking: bool,
}

impl Node {
    pub(crate) fn new(config: EndpointConfig, frames: u32) -> Self {
        // What is read by RDMA READ lies side by side.
        let arena = if config.one_sided_reads { packed_arena(frames) } else { arena(frames) };
        Self::with_arena(config, arena)
    }

    pub(crate) fn with_arena(config: EndpointConfig, arena: Arena) -> Self {
        let endpoint = Endpoint::bind(config, arena).unwrap();
        Self { endpoint, events: Vec::new(), received: VecDeque::new(), taking: true }
    }

    pub(crate) fn id(&self) -> InstanceId {
        self.endpoint.config().instance
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.listen_address()
    }

    pub(crate) fn knows(&mut self, other: u16, address: SocketAddr) {
        self.endpoint.add_peer(InstanceId(other), address).unwrap();
    }

    pub(crate) fn poll(&mut self) {
        self.endpoint.poll();
        while self.taking
            && let Some(event) = self.endpoint.next_event()
        {
            match event {
                Event::Message(received) => self.received.push_back(received),
                other => self.events.push(other),
            }
        }
    }

    pub(crate) fn is_linked(&self, peer: u16) -> bool {
        self.endpoint.is_linked(InstanceId(peer))
    }

    /// True when messages with `peer` are on this kind of link.
    pub(crate) fn is_on(&self, peer: u16, kind: LinkKind) -> bool {
        let counters = self.endpoint.peer_counters(InstanceId(peer));
        counters.is_some_and(|counters| counters.on() == Some(kind))
    }

    /// True when messages to `peer` go on a link, and do not wait for it to move to verbs.
    pub(crate) fn may_send_to(&self, peer: u16) -> bool {
        match self.endpoint.config().links {
            LinkPolicy::Verbs => self.is_on(peer, LinkKind::Verbs),
            _ => self.is_linked(peer),
        }
    }

    /// True when each lane to `peer` would take as many messages as it has credits.
    pub(crate) fn has_all_room(&self, peer: u16) -> bool {
        let credits = self.endpoint.config().credits;
        let room = |lane| self.endpoint.room(InstanceId(peer), lane);
        Lane::ALL.into_iter().all(|lane| room(lane) == u64::from(credits.of(lane)))
    }

    pub(crate) fn has_event(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(wanted)
    }

    /// Frames that are free when nothing is on its way and the test holds none: all but the
    /// receives that are posted for each linked peer on the lanes that carry frames.
    pub(crate) fn free_frames_at_rest(&self, linked_peers: u32) -> u32 {
        let credits = self.endpoint.config().credits;
        let posted_per_peer = credits.of(Lane::Pages) + credits.of(Lane::Bulk);
        self.endpoint.arena().frames() - linked_peers * posted_per_peer
    }
}

/// Makes each of the two known to the other.
pub(crate) fn introduce(nodes: &mut [Node], one: usize, other: usize) {
    for (a, b) in [(one, other), (other, one)] {
        let (id, address) = (nodes[b].id().0, nodes[b].address());
        nodes[a].knows(id, address);
    }
}

/// Nodes with the ids 1 to `count`, all linked with each other.
pub(crate) fn cluster(count: u16) -> Vec<Node> {
    cluster_in(count, arena)
}

/// As [`cluster`], each in the arena that `arena` makes of a number of frames.
pub(crate) fn cluster_in(count: u16, arena: fn(u32) -> Arena) -> Vec<Node> {
    let node = |id| Node::with_arena(config(id), arena(FRAMES));
    let mut nodes: Vec<_> = (1..=count).map(node).collect();
    for one in 0..nodes.len() {
        for other in one + 1..nodes.len() {
            introduce(&mut nodes, one, other);
        }
    }
    link_all(&mut nodes);
    nodes
}

pub(crate) fn link_all(nodes: &mut [Node]) {
    let ids: Vec<u16> = nodes.iter().map(|node| node.id().0).collect();
    pump(nodes, "all are linked", |nodes| {
        let linked = |node: &Node| ids.iter().all(|&id| id == node.id().0 || node.may_send_to(id));
        nodes.iter().all(linked)
    });
    if verbs().is_some() {
        // Credits of pages follow, as far as there are frames.
        for _ in 0..20_000 {
            if nodes.iter().all(|n| ids.iter().all(|&id| id == n.id().0 || n.has_all_room(id))) {
                break;
            }
            nodes.iter_mut().for_each(Node::poll);
        }
    }
}

/// Polls all nodes in turn until `done`.
///
/// # Panics
/// When that takes longer than [`PATIENCE`].
pub(crate) fn pump(nodes: &mut [Node], what: &str, mut done: impl FnMut(&mut [Node]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(nodes) {
        if Instant::now() > deadline {
            let events: Vec<_> = nodes.iter().map(|node| (node.id().0, &node.events)).collect();
            let lanes = lane_states(nodes);
            panic!("waited {PATIENCE:?} in vain until {what}; events: {events:?}; lanes: {lanes}");
        }
        nodes.iter_mut().for_each(Node::poll);
    }
}

fn lane_states(nodes: &[Node]) -> String {
    let ids: Vec<u16> = nodes.iter().map(|node| node.id().0).collect();
    let mut text = String::new();
    for node in nodes {
        for id in &ids {
            for lane in Lane::ALL {
                if let Some(state) = node.endpoint.lane_state(InstanceId(*id), lane) {
                    let _ = write!(text, "\n{} to {id} on {lane:?}: {state:?}", node.id());
                }
            }
        }
    }
    text
}

/// Polls all nodes so often that acknowledgements which wait for a quiet lane have gone out.
pub(crate) fn turns(nodes: &mut [Node], count: usize) {
    for _ in 0..count {
        nodes.iter_mut().for_each(Node::poll);
    }
}

/// Waits until every node has all frames back but those it has posted.
pub(crate) fn settle(nodes: &mut [Node], linked_peers: u32) {
    pump(nodes, "all frames are back", |nodes| {
        nodes.iter().all(|node| {
            node.endpoint.arena().free_frames() == node.free_frames_at_rest(linked_peers)
        })
    });
    turns(nodes, 500);
    if verbs().is_some() {
        // The device works beside the turns.
        let ids: Vec<u16> = nodes.iter().map(|node| node.id().0).collect();
        pump(nodes, "all credits are back", |nodes| {
            let linked = |node: &Node, id| id != node.id().0 && node.is_linked(id);
            nodes.iter().all(|n| ids.iter().all(|&id| !linked(n, id) || n.has_all_room(id)))
        });
    }
}

/// Content of page `number`: not the same in any two neighbouring ones, and different at each end.
pub(crate) fn fill(frame: &mut [u8], number: u64) {
    frame.fill(number.wrapping_mul(31).to_le_bytes()[0]);
    frame[..8].copy_from_slice(&number.to_le_bytes());
    let end = frame.len() - 8;
    frame[end..].copy_from_slice(&(!number).to_le_bytes());
}

pub(crate) fn assert_filled(frame: &[u8], number: u64) {
    let end = frame.len() - 8;
    assert_eq!(frame[..8], number.to_le_bytes(), "start of page {number}");
    assert_eq!(frame[end..], (!number).to_le_bytes(), "end of page {number}");
    let middle = number.wrapping_mul(31).to_le_bytes()[0];
    assert!(frame[8..end].iter().all(|&byte| byte == middle), "middle of page {number}");
}

/// Message `number` of `lane`, with its page where the lane carries one; `None` without a frame.
pub(crate) fn numbered(arena: &Arena, lane: Lane, number: u64) -> Option<Message> {
    let frame = if lane.class().has_frame() {
        let mut frame: Frame = arena.take()?;
        fill(&mut frame, number);
        Some(frame.freeze())
    } else {
        None
    };
    // The length of the body varies from 8 bytes to the longest there is.
    let mut body = [lane as u8; 80];
    body[..8].copy_from_slice(&number.to_le_bytes());
    let length = 8 + usize::try_from(number % 73).unwrap();
    let kind = MessageKind(200 + u16::from(lane as u8));
    Some(Message {
        epoch: Epoch(number),
        frame,
        ..Message::new(kind, Body::new(&body[..length]).unwrap())
    })
}

pub(crate) fn number_of(body: &Body) -> u64 {
    u64::from_le_bytes(body.as_slice()[..8].try_into().unwrap())
}

/// Checks that `message` is [`numbered`]`(lane, number)`, byte for byte.
pub(crate) fn assert_is(message: &Message, lane: Lane, number: u64) {
    assert_eq!(number_of(&message.body), number, "{lane:?}");
    let scratch = arena(1);
    let expected = numbered(&scratch, lane, number).unwrap();
    assert_eq!(message.body, expected.body, "{lane:?} {number}");
    assert_eq!((message.kind, message.epoch), (expected.kind, expected.epoch));
    assert_eq!(message.frame.is_some(), lane.class().has_frame());
    if let Some(frame) = &message.frame {
        assert_filled(frame, number);
    }
}

pub(crate) fn assert_received(received: &Received, number: u64) {
    let lane = received.lane;
    assert_eq!(number_of(&received.body), number, "next on {lane:?} from {}", received.from);
    assert_eq!(received.epoch, Epoch(number));
    assert_eq!(received.kind, MessageKind(200 + u16::from(lane as u8)));
    let (head, tail) = received.body.as_slice().split_at(8);
    assert_eq!(head.len() + tail.len(), 8 + usize::try_from(number % 73).unwrap());
    assert!(tail.iter().all(|&byte| byte == lane as u8));
    assert_eq!(received.frame.is_some(), lane.class().has_frame());
    if let Some(frame) = &received.frame {
        assert_filled(frame, number);
    }
}

/// Numbered messages from one node to another; knows what was sent and checks what arrives.
#[derive(Debug)]
pub(crate) struct Flow {
    from: usize,
    to: usize,
    pub(crate) sent: [u64; Lane::COUNT],
    pub(crate) got: [u64; Lane::COUNT],
}

impl Flow {
    pub(crate) fn new(from: usize, to: usize) -> Self {
        Self { from, to, sent: [0; Lane::COUNT], got: [0; Lane::COUNT] }
    }

    /// Sends on `lane` up to number `last`, as far as credits and frames allow.
    pub(crate) fn send(&mut self, nodes: &mut [Node], lane: Lane, last: u64) {
        let to = nodes[self.to].id();
        let endpoint = &mut nodes[self.from].endpoint;
        let sent = &mut self.sent[lane.index()];
        let before = *sent;
        while *sent < last {
            assert!(*sent - before < 5000, "{lane:?} takes messages without end");
            let Some(message) = numbered(endpoint.arena(), lane, *sent + 1) else { return };
            match endpoint.send(to, lane, message) {
                Ok(()) => *sent += 1,
                Err(SendError::NoCredit(_) | SendError::NoSession(_)) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn send_all_lanes(&mut self, nodes: &mut [Node], last: u64) {
        for lane in Lane::ALL {
            self.send(nodes, lane, last);
        }
    }

    /// Takes what has arrived and checks that each message is the next of its lane and whole.
    pub(crate) fn take(&mut self, nodes: &mut [Node]) {
        let from = nodes[self.from].id();
        let received = &mut nodes[self.to].received;
        for _ in 0..received.len() {
            let Some(message) = received.pop_front() else { break };
            if message.from == from {
                let got = &mut self.got[message.lane.index()];
                *got += 1;
                assert_received(&message, *got);
            } else {
                received.push_back(message);
            }
        }
    }

    pub(crate) fn has_got(&self, last: u64) -> bool {
        self.got.iter().all(|&got| got == last)
    }

    /// Sends `more` messages on each lane, and waits until they have arrived.
    pub(crate) fn exchange(&mut self, nodes: &mut [Node], more: u64) {
        let last = self.sent[0] + more;
        pump(nodes, "all lanes have delivered", |nodes| {
            self.send_all_lanes(nodes, last);
            self.take(nodes);
            self.has_got(last)
        });
    }

    /// At rest each lane takes exactly the configured number of messages while the receiver takes
    /// none. Leaves them delivered.
    pub(crate) fn assert_all_credits_are_back(&mut self, nodes: &mut [Node]) {
        let credits = nodes[self.to].endpoint.config().credits;
        let before = self.sent;
        let deadline = Instant::now() + PATIENCE;
        let sent_now = |flow: &Self, lane: Lane| flow.sent[lane.index()] - before[lane.index()];
        // Acknowledgements may still be on their way to the sender: it goes on polling.
        while Lane::ALL.iter().any(|&l| sent_now(self, l) < u64::from(credits.of(l))) {
            assert!(Instant::now() < deadline, "credits are lost: {:?} of {credits:?}", {
                Lane::ALL.map(|lane| sent_now(self, lane))
            });
            self.send_all_lanes(nodes, u64::MAX);
            nodes[self.from].poll();
        }
        for _ in 0..500 {
            self.send_all_lanes(nodes, u64::MAX);
            nodes[self.from].poll();
        }
        let sent = Lane::ALL.map(|lane| sent_now(self, lane));
        assert_eq!(sent, credits.0.map(u64::from), "messages without credit");
        let sent = self.sent;
        pump(nodes, "what was sent has arrived", |nodes| {
            self.take(nodes);
            self.got == sent
        });
    }
}

/// Pseudo-random numbers, the same at each run (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[7]).collect()
    }
}
