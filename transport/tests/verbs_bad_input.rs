//! What goes wrong over verbs: peers that do what no correct peer does, keys and addresses that are
//! not theirs, and hosts that cannot. Clear errors, nothing lost, no hang. Needs a device, as
//! `verbs.rs` says.

mod common;

use common::{
    CREDITS, FRAMES, Flow, Node, PATIENCE, arena, cluster, config, introduce, link_all, nobody,
    pump,
    stranger::{Device, Nothing, STRANGER, Stranger},
    turns, verbs,
};
use pagewire_protocol::{
    Body, InstanceId, Lane, LinkControl, LinkKind, RegionId, Sequence, TcpReason,
    header::BODY_BYTES_MAX, hello::Features,
};
use pagewire_transport::{
    Endpoint, EndpointConfig, Event, Frame, LinkPolicy, Overrides, RegionState, TransportError,
    error::LinkError,
    link::{
        Link, Urgency,
        verbs::{
            Capacity, CompletionBatch, CompletionQueue, ProtectionDomain, QueuePair,
            QueuePairOptions, ReadRegion, RemoteMemory, Status, VerbsError, device::open_all,
        },
    },
    session::Violation,
};
use std::{
    os::unix::process::CommandExt,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

const REGION: RegionId = RegionId(1);
/// Of an end that closes regions and leaves them.
fn closing() -> Features {
    Features::READS | Features::CLOSING
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

/// An instance with reads on that has opened a region for a stranger who is not there yet.
fn library() -> Vec<Node> {
    let (peer_timeout, keepalive) = (Duration::from_secs(1), Duration::from_millis(100));
    let links = LinkPolicy::Auto;
    let node = EndpointConfig { one_sided_reads: true, links, ..config(1) };
    let mut nodes = vec![Node::new(EndpointConfig { peer_timeout, keepalive, ..node }, FRAMES)];
    nodes[0].knows(STRANGER, nobody());
    nodes[0].endpoint.open_region(REGION, 0..4).expect("a region");
    nodes
}

#[test]
fn a_peer_that_has_not_turned_reads_on_reads_nothing_with_a_key_that_it_knows() {
    if verbs().is_none() {
        return;
    }
    let mut nodes = library();
    let Some(mut stranger) = Stranger::new(&mut nodes, Features::READS) else { return };
    let from = stranger.key(&mut nodes, REGION);
    assert_eq!(stranger.reads(&mut nodes, from), Ok(true), "who may read does");
    drop(stranger);
    pump(&mut nodes, "its link is down", |nodes| !nodes[0].is_linked(STRANGER));
    let Some(mut next) = Stranger::in_life(&mut nodes, 2, Features::NONE) else { return };
    let read = next.reads(&mut nodes, from);
    assert!(read.as_ref().is_err_and(|why| why.contains("Remote")), "{read:?}");
}

#[test]
fn a_peer_that_leaves_a_closed_region_keeps_its_queue_pairs_and_reads_it_no_more() {
    if verbs().is_none() {
        return;
    }
    let mut nodes = library();
    let Some(mut stranger) = Stranger::new(&mut nodes, closing()) else { return };
    let from = stranger.key(&mut nodes, REGION);
    nodes[0].endpoint.close_region(REGION).expect("it is open");
    let (attempt, region) = (1, REGION);
    assert_eq!(stranger.tcp.hear(&mut nodes), LinkControl::Close { attempt, region });
    assert_eq!(stranger.reads(&mut nodes, from), Ok(true), "it has not left");
    assert_eq!(nodes[0].endpoint.region_state(REGION), Some(RegionState::Closing));
    stranger.tcp.say(&LinkControl::Left { attempt, region });
    pump(&mut nodes, "it has left", |nodes| nodes[0].endpoint.region_state(REGION).is_none());
    assert!(nodes[0].is_on(STRANGER, LinkKind::Verbs));
    let read = stranger.reads(&mut nodes, from);
    assert!(read.as_ref().is_err_and(|why| why.contains("RemoteAccess")), "{read:?}");
}

#[test]
fn a_peer_that_does_not_leave_a_closed_region_loses_its_queue_pairs() {
    if verbs().is_none() {
        return;
    }
    for features in [closing(), Features::READS] {
        let mut nodes = library();
        let Some(mut stranger) = Stranger::new(&mut nodes, features) else { return };
        let from = stranger.key(&mut nodes, REGION);
        nodes[0].endpoint.close_region(REGION).expect("it is open");
        if features == closing() {
            assert!(nodes[0].is_on(STRANGER, LinkKind::Verbs), "it is waited for");
        } else {
            assert_eq!(nodes[0].endpoint.region_state(REGION), None, "its version cannot leave");
        }
        let mut said = Instant::now();
        pump(&mut nodes, "nobody can read the region", |nodes| {
            // It is not silent, which would take its link down.
            if said.elapsed() > Duration::from_millis(50) {
                stranger.tcp.say(&LinkControl::Alive);
                said = Instant::now();
            }
            nodes[0].endpoint.region_state(REGION).is_none()
        });
        let counters = nodes[0].endpoint.peer_counters(InstanceId(STRANGER)).expect("a peer");
        assert_eq!(counters.links_down.get(), 0, "the session has its link on TCP");
        stranger.reads(&mut nodes, from).expect_err("there is neither key nor queue pair");
    }
}

#[test]
fn a_region_is_not_left_while_the_device_may_still_read_it() {
    if verbs().is_none() {
        return;
    }
    let mut nodes = library();
    let Some(stranger) = Stranger::new(&mut nodes, closing()) else { return };
    let Stranger { mut tcp, verbs, device, .. } = stranger;
    let open = ReadRegion::new(device.region.domain(), &device.arena, 0..4).expect("registered");
    let (owner, attempt, region, memory) = (InstanceId(STRANGER), 1, RegionId(5), open.memory());
    tcp.say(&LinkControl::Region { attempt, region, memory });
    turns(&mut nodes, 1000);
    // Nobody answers there any more: the device tries again for half a second.
    verbs.discard();
    nodes[0].endpoint.read_page(owner, region, 2).expect("room");
    let posted =
        |nodes: &[Node]| nodes[0].endpoint.peer_counters(owner).expect("a peer").reads.posted.get();
    assert_eq!(posted(&nodes), 1, "it has the key");
    tcp.say(&LinkControl::Close { attempt, region });
    loop {
        match tcp.hear(&mut nodes) {
            LinkControl::Left { .. } => panic!("the device has a read of it"),
            LinkControl::Switch { to: LinkKind::Tcp, .. } => break,
            _ => {}
        }
    }
}

#[test]
fn a_peer_that_leaves_what_is_not_closed_loses_its_link() {
    if verbs().is_none() {
        return;
    }
    let mut nodes = library();
    let Some(mut stranger) = Stranger::new(&mut nodes, closing()) else { return };
    stranger.key(&mut nodes, REGION);
    // Of other queue pairs, and of a region that it was not told of: nothing that counts.
    for (attempt, region) in [(0, REGION), (2, REGION), (1, RegionId(9))] {
        stranger.tcp.say(&LinkControl::Left { attempt, region });
        stranger.tcp.say(&LinkControl::Close { attempt, region });
    }
    // What it never heard of the node has left already; of other queue pairs it says nothing.
    let mut said = stranger.tcp.hear(&mut nodes);
    while said == LinkControl::Alive {
        said = stranger.tcp.hear(&mut nodes);
    }
    assert_eq!(said, LinkControl::Left { attempt: 1, region: RegionId(9) });
    assert!(nodes[0].is_on(STRANGER, LinkKind::Verbs));
    stranger.tcp.say(&LinkControl::Left { attempt: 1, region: REGION });
    pump(&mut nodes, "the link is down", |nodes| !nodes[0].is_linked(STRANGER));
    let is_down = |event: &Event| matches!(event, Event::Down { reason, .. } if reason.to_string().contains("region that is left"));
    pump(&mut nodes, "it is told", |nodes| nodes[0].has_event(is_down));
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 1);
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
