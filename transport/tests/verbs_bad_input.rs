//! What goes wrong over verbs: peers that do what no correct peer does, keys and addresses that are
//! not theirs, and hosts that cannot. Clear errors, nothing lost, no hang. Needs a device, as
//! `verbs.rs` says.

mod common;

use common::{
    CREDITS, FRAMES, Flow, Node, PATIENCE, arena, cluster, config, introduce, link_all, nobody,
    packed_arena, pump,
    raw::{self, RawPeer},
    turns, verbs,
};
use pagewire_protocol::{
    Body, InstanceId, Lane, LinkControl, LinkKind, RegionId, Sequence, SessionHeader, TcpReason,
    header::{BODY_BYTES_MAX, Slot},
    hello::{Features, ProofKey},
    link_control::Statement,
};
use pagewire_transport::{
    Arena, Endpoint, EndpointConfig, Event, Frame, LinkPolicy, Overrides, TransportError,
    error::LinkError,
    link::{
        Link, Sink, Urgency,
        verbs::{
            Capacity, Choice, CompletionBatch, CompletionQueue, MemoryRegion, ProtectionDomain,
            QueuePair, QueuePairOptions, ReadRegion, RemoteMemory, Status, VerbsError, VerbsLink,
            device::open_all, link::LinkRoom, pick,
        },
    },
    session::Violation,
};
use std::{os::unix::process::CommandExt, process::Command, sync::Arc, time::Instant};

const STRANGER: u16 = 3;

/// The device of these tests with an arena, and the port to use.
struct Device {
    arena: Arena,
    region: Arc<MemoryRegion>,
    choice: Choice,
}

impl Device {
    /// `None` after a line that says why not.
    fn new() -> Option<Self> {
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
struct Stranger {
    tcp: RawPeer,
    verbs: VerbsLink,
    device: Device,
}

/// Whatever comes.
struct Nothing;

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
    fn new(nodes: &mut [Node], features: Features) -> Option<Self> {
        let device = Device::new()?;
        let room =
            LinkRoom { credits: CREDITS.0, page_sends: 16, reads: features.has(Features::READS) };
        let verbs = VerbsLink::new(&device.region, &device.choice, &room, &Arc::default());
        let mut verbs = verbs.expect("queue pairs");
        let mut tcp = RawPeer::link_stating(nodes, STRANGER, 1, ProofKey::NONE, features);
        tcp.say(&LinkControl::Offer { attempt: 1, queue_pairs: verbs.address() });
        let said = tcp.hear(nodes);
        let LinkControl::Accept { attempt: 1, queue_pairs } = said else { panic!("{said:?}") };
        verbs.connect(&queue_pairs).expect("connected");
        let statement = Statement { expected: [Sequence(1); Lane::COUNT], credits: CREDITS.0 };
        tcp.say(&LinkControl::Switch { attempt: 1, to: LinkKind::Verbs, statement });
        let said = tcp.hear(nodes);
        let LinkControl::Switch { to: LinkKind::Verbs, .. } = said else { panic!("{said:?}") };
        pump(nodes, "messages are on verbs", |nodes| nodes[0].is_on(STRANGER, LinkKind::Verbs));
        Some(Self { tcp, verbs, device })
    }

    /// Sends messages 1 to `count` on `lane`, all of them whatever the credit.
    fn send(&mut self, lane: Lane, count: u64) {
        for number in 1..=count {
            let body = raw::body();
            let header = SessionHeader { sequence: Sequence(number), ..self.tcp.header(lane) };
            let frame = header.frame.then(|| self.device.arena.take().expect("a frame").freeze());
            let frame = frame.as_ref();
            assert!(self.verbs.send(&header, &body, frame, Urgency::Now), "room in its queue");
        }
        self.verbs.flush().expect("posted");
    }
}

/// Two correct instances over verbs, and a stranger whom the first one knows.
fn town() -> Option<(Vec<Node>, Stranger)> {
    verbs()?;
    let mut nodes = cluster(2);
    nodes[0].knows(STRANGER, nobody());
    let stranger = Stranger::new(&mut nodes, Features::NONE)?;
    Some((nodes, stranger))
}

#[test]
fn a_peer_that_sends_small_messages_beyond_its_credit_loses_its_link_and_nobody_else_anything() {
    for lane in [Lane::Control, Lane::Requests, Lane::Si] {
        let Some((mut nodes, mut stranger)) = town() else { return };
        let mut flow = Flow::new(1, 0);
        let granted = CREDITS.of(lane);
        nodes[0].taking = false;
        stranger.send(lane, u64::from(granted) + 1);
        let counters = Arc::clone(&nodes[0].endpoint.counters());
        pump(&mut nodes, "it is found out", |_| counters.bad_input.get() == 1);
        nodes[0].taking = true;
        pump(&mut nodes, "the link is down", |nodes| !nodes[0].is_linked(STRANGER));
        nodes[0].poll();
        let down = nodes[0].events.iter().find(|event| matches!(event, Event::Down { .. }));
        let Some(Event::Down { peer, reason }) = down else { panic!("{:?}", nodes[0].events) };
        assert_eq!(*peer, InstanceId(STRANGER));
        let expected = Violation::NoCredit { lane, granted };
        assert!(matches!(reason, LinkError::Session(v) if *v == expected), "{reason}");
        assert!(reason.to_string().contains(&format!("beyond the {granted} receives")));
        // Those that it had credit for were good.
        let from = |received: &&pagewire_transport::Received| received.from.0 == STRANGER;
        assert_eq!(nodes[0].received.iter().filter(from).count(), granted as usize);
        nodes[0].received.clear();
        flow.exchange(&mut nodes, 50);
        assert!(nodes[0].is_on(2, LinkKind::Verbs));
    }
}

#[test]
fn a_peer_that_sends_pages_beyond_its_credit_finds_no_receive_and_fails_alone() {
    for lane in [Lane::Pages, Lane::Bulk] {
        let Some((mut nodes, mut stranger)) = town() else { return };
        let granted = u64::from(CREDITS.of(lane));
        // The credits of pages follow, as far as there are frames: first all are posted.
        turns(&mut nodes, 2000);
        nodes[0].taking = false;
        stranger.send(lane, granted + 1);
        let deadline = Instant::now() + PATIENCE;
        let failed = loop {
            nodes.iter_mut().for_each(Node::poll);
            match stranger.verbs.poll(&mut Nothing) {
                Ok(()) => assert!(Instant::now() < deadline, "it is told nothing"),
                Err(LinkError::Verbs(error)) => break error,
                Err(other) => panic!("{other}"),
            }
        };
        let text = failed.to_string();
        for word in ["no receive posted", "RnrRetryExceeded", "credits forbid this"] {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
        nodes[0].taking = true;
        drop(stranger);
        pump(&mut nodes, "the link is down", |nodes| !nodes[0].is_linked(STRANGER));
        let from = |received: &&pagewire_transport::Received| received.from.0 == STRANGER;
        assert_eq!(nodes[0].received.iter().filter(from).count() as u64, granted);
        nodes[0].received.clear();
        Flow::new(1, 0).exchange(&mut nodes, 50);
        assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 0, "none of it arrived");
    }
}

#[test]
fn bytes_over_verbs_that_are_no_message_close_the_link() {
    let Some((mut nodes, mut stranger)) = town() else { return };
    let mut header = stranger.tcp.header(Lane::Control);
    header.sequence = Sequence(0);
    let body = Body::new(&[7; BODY_BYTES_MAX]).expect("a body");
    header.body_len = 80;
    assert!(stranger.verbs.send(&header, &body, None, Urgency::Now));
    stranger.verbs.flush().expect("posted");
    pump(&mut nodes, "the link is down", |nodes| !nodes[0].is_linked(STRANGER));
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 1);
    Flow::new(1, 0).exchange(&mut nodes, 50);
}

#[test]
fn a_key_of_other_queue_pairs_is_not_used() {
    if verbs().is_none() {
        return;
    }
    let node = EndpointConfig { one_sided_reads: true, ..config(1) };
    let mut nodes = vec![Node::new(node, FRAMES)];
    nodes[0].knows(STRANGER, nobody());
    let Some(mut stranger) = Stranger::new(&mut nodes, Features::READS) else { return };
    let domain = stranger.device.region.domain();
    let open = ReadRegion::new(domain, &stranger.device.arena, 0..4).expect("registered");
    let (owner, region, memory) = (InstanceId(STRANGER), RegionId(1), open.memory());
    let mut reads = |attempt, nodes: &mut [Node]| {
        stranger.tcp.say(&LinkControl::Region { attempt, region, memory });
        turns(nodes, 1000);
        nodes[0].endpoint.read_page(owner, region, 2).expect("room");
        nodes[0].poll();
        let counters = nodes[0].endpoint.peer_counters(owner).expect("a peer");
        (counters.reads.posted.get(), counters.reads.asked.get())
    };
    // Of queue pairs that were before these, and of some that will be.
    assert_eq!(reads(0, &mut nodes), (0, 1));
    assert_eq!(reads(2, &mut nodes), (0, 2));
    assert_eq!(reads(1, &mut nodes), (1, 2));
}

/// Two queue pairs connected to each other, of which the second lets itself be read.
fn queue_pairs(device: &Device) -> (QueuePair, QueuePair, Arc<CompletionQueue>) {
    let capacity = Capacity { receives: 4, sends: 4 };
    let context = device.region.domain().context();
    let completions =
        CompletionQueue::new(context, 2 * capacity.completions(), None).expect("a queue");
    let end = |tag| {
        let options = QueuePairOptions {
            tag,
            capacity,
            carries_frames: true,
            remote_reads: true,
            inline: false,
        };
        QueuePair::new(&device.region, &completions, &device.choice, options).expect("an end")
    };
    let (mut reader, mut owner) = (end(0), end(1));
    let (to_reader, to_owner) = (reader.address(), owner.address());
    reader.connect(&to_owner).expect("connected");
    owner.connect(&to_reader).expect("connected");
    (reader, owner, completions)
}

/// How a read of that memory ends, and the frame.
fn read(device: &Device, from: RemoteMemory) -> (Status, Frame) {
    let (mut reader, _owner, completions) = queue_pairs(device);
    let mut frame = device.arena.take().expect("a frame");
    frame.fill(0xEE);
    reader.queue_read(frame, from).expect("room");
    reader.post_sends().expect("posted");
    let mut batch = CompletionBatch::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        completions.poll(&mut batch).expect("polled");
        if let Some(completion) = batch.drain().next() {
            let status = completion.status();
            let sent = reader.take_sent(completion).expect("its own");
            return (status, sent.read.expect("the frame comes back"));
        }
        assert!(Instant::now() < deadline, "a read ends");
    }
}

#[test]
fn the_key_of_a_region_opens_the_region_and_no_byte_beside_it() {
    let Some(device) = Device::new() else { return };
    let mut frames: Vec<_> = (0..4).map(|_| device.arena.take().expect("a frame")).collect();
    for (frame, fill) in frames.iter_mut().zip(10u8..) {
        frame.fill(fill);
    }
    // The two in the middle.
    let domain = device.region.domain();
    let region = ReadRegion::new(domain, &device.arena, 1..3).expect("registered");
    let memory = region.memory();
    assert_eq!((memory.frames, memory.address), (2, frames[1].as_ptr().addr() as u64));
    for (offset, fill) in [(0, 11), (8192, 12)] {
        let from = RemoteMemory { address: memory.address + offset, key: memory.key };
        let (status, page) = read(&device, from);
        assert_eq!(status, Status::Success);
        assert!(page.iter().all(|byte| *byte == fill));
    }
    let beside = [1, 4096, 8192, 2 * 8192, 1 << 40];
    let before = beside.map(|bytes: u64| memory.address.wrapping_sub(bytes));
    let behind = beside.map(|bytes: u64| memory.address.wrapping_add(8192 + bytes));
    for address in before.into_iter().chain(behind) {
        let (status, page) = read(&device, RemoteMemory { address, key: memory.key });
        assert_eq!(status, Status::RemoteAccess, "{address:#x} beside {:#x}", memory.address);
        assert!(!page.iter().any(|byte| (10..14).contains(byte)), "nothing was read");
    }
    let (status, _) = read(&device, RemoteMemory { address: memory.address, key: memory.key ^ 1 });
    assert_eq!(status, Status::RemoteAccess);
    assert!(status.remedy().contains("one-sided reads"));
    drop(region);
    let (status, _) = read(&device, RemoteMemory { address: memory.address, key: memory.key });
    assert_eq!(status, Status::RemoteAccess, "a region that is closed");
}

/// An endpoint with this policy on this device; its error.
fn refused(links: LinkPolicy, verbs: Overrides) -> String {
    let config = EndpointConfig { links, verbs, ..config(1) };
    let error = Endpoint::bind(config, arena(FRAMES)).unwrap_err();
    assert!(matches!(error, TransportError::Verbs(_)), "{error}");
    error.to_string()
}

/// Two with this device that may use TCP: they do, for this reason of both, and lose nothing.
fn goes_over_tcp(verbs: &Overrides, reason: TcpReason) {
    let auto = |id| {
        let links = LinkPolicy::Auto;
        Node::new(EndpointConfig { links, verbs: verbs.clone(), ..config(id) }, FRAMES)
    };
    let mut nodes = vec![auto(1), auto(2)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let (mut there, mut back) = (Flow::new(0, 1), Flow::new(1, 0));
    there.exchange(&mut nodes, 100);
    back.exchange(&mut nodes, 100);
    let counted = |nodes: &[Node]| {
        // The leader is asked first, and tells the other.
        let leader = nodes[1].endpoint.peer_counters(InstanceId(1)).expect("a peer");
        let other = nodes[0].endpoint.peer_counters(InstanceId(2)).expect("a peer");
        let at = reason.index();
        leader.tcp_reasons[at].get() > 0 && other.tcp_reasons_theirs[at].get() > 0
    };
    pump(&mut nodes, "both know why", |nodes| counted(nodes));
    assert!(nodes[0].is_on(2, LinkKind::Tcp) && nodes[1].is_on(1, LinkKind::Tcp));
}

#[test]
fn a_gid_index_that_is_not_there_is_an_error_or_a_reason_for_tcp() {
    let Some(verbs) = verbs() else { return };
    let verbs = Overrides { gid_index: Some(77), ..verbs };
    let text = refused(LinkPolicy::Verbs, verbs.clone());
    for word in ["demands verbs", "no GID with index 77", "found rxe0/1 ", "GID index in the"] {
        assert!(text.contains(word), "'{word}' in: {text}");
    }
    goes_over_tcp(&verbs, TcpReason::NoPort);
    let port = Overrides { port: Some(9), gid_index: None, ..verbs.clone() };
    assert!(refused(LinkPolicy::Verbs, port.clone()).contains("no port 9, found rxe0/1"));
    goes_over_tcp(&port, TcpReason::NoPort);
}

#[test]
fn verbs_that_is_demanded_of_a_peer_that_has_none_is_told_at_both_ends_and_nothing_is_lost() {
    let Some(verbs) = verbs() else { return };
    for demanding in [0, 1] {
        let mut nodes: Vec<_> = [1, 2].map(config).into();
        nodes[1 - demanding].links = LinkPolicy::Tcp;
        nodes[demanding].verbs = verbs.clone();
        let mut nodes: Vec<_> = nodes.into_iter().map(|c| Node::new(c, FRAMES)).collect();
        introduce(&mut nodes, 0, 1);
        let is_told = |event: &Event| {
            let Event::Down { reason: LinkError::VerbsDemanded { reason, whose }, .. } = event
            else {
                return false;
            };
            *reason == TcpReason::Configured && *whose == "the other"
        };
        pump(&mut nodes, "the reason is told", |nodes| nodes[demanding].has_event(is_told));
        let event = nodes[demanding].events.iter().find(|event| is_told(event));
        let Some(Event::Down { reason, .. }) = event else { unreachable!() };
        let text = reason.to_string();
        assert!(text.contains("demands verbs") && text.contains("`auto`"), "{text}");
        // What was sent meanwhile is kept, and none of it went over TCP.
        let mut flow = Flow::new(demanding, 1 - demanding);
        flow.send_all_lanes(&mut nodes, u64::MAX);
        turns(&mut nodes, 3000);
        flow.take(&mut nodes);
        assert_eq!(flow.got, [0; Lane::COUNT]);
        let other = nodes[1 - demanding].id();
        let kept = nodes[demanding].endpoint.unacknowledged(other) as u64;
        assert_eq!(kept, flow.sent.iter().sum::<u64>());
    }
}

const CHILD: &str = "PAGEWIRE_TEST_MEMLOCK";

#[test]
fn a_limit_on_locked_memory_that_is_too_low_is_an_error_or_a_reason_for_tcp() {
    let Some(verbs) = verbs() else { return };
    if std::env::var_os(CHILD).is_some() {
        let text = refused(LinkPolicy::Verbs, verbs.clone());
        for word in ["may lock 262144 bytes", "ulimit -l", "LimitMEMLOCK", "`auto`"] {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
        goes_over_tcp(&verbs, TcpReason::NotRegistered);
        let error = ReadRegion::new(
            &ProtectionDomain::new(&open_all().expect("devices")[0]).expect("a domain"),
            &arena(FRAMES),
            0..FRAMES,
        );
        assert!(matches!(error, Err(VerbsError::Memory { .. })), "{error:?}");
        println!("too little memory may be locked");
        return;
    }
    // Root may lock what it likes: another user, who may open the device.
    let program = std::env::current_exe().expect("a path");
    let test = "a_limit_on_locked_memory_that_is_too_low_is_an_error_or_a_reason_for_tcp";
    let script = r#"ulimit -l 256 && exec "$0" "$@""#;
    let mut child = Command::new("/bin/sh");
    child.args(["-c", script]).arg(&program).args(["--exact", test, "--nocapture"]);
    let ended = child.env(CHILD, "1").uid(65534).gid(65534).output().expect("a shell");
    let (out, err) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{}: {out}{err}", ended.status);
    assert!(out.contains("too little memory may be locked"), "{out}{err}");
}
