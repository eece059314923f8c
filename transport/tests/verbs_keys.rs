//! Keys of regions are good on the queue pairs that they were told for, and on no others: neither on
//! earlier or later ones, nor when they are told while an end falls back. Needs a device, as `verbs.rs`
//! says.

mod common;

use common::{
    CREDITS, FRAMES, Node, assert_filled, config, fill, nobody, pump,
    stranger::{STRANGER, Stranger},
    turns, verbs,
};
use pagewire_protocol::{
    Body, InstanceId, Lane, LinkControl, LinkKind, MessageKind, RegionId, Sequence,
    hello::Features, link_control::Statement,
};
use pagewire_transport::{
    EndpointConfig, Event, Frame, LinkPolicy, Message, link::verbs::ReadRegion,
};

const OWNER: InstanceId = InstanceId(STRANGER);
const REGION: RegionId = RegionId(1);

/// An instance with reads on that knows a stranger.
fn reader() -> Vec<Node> {
    let links = LinkPolicy::Auto;
    let node = EndpointConfig { one_sided_reads: true, links, ..config(1) };
    let mut nodes = vec![Node::new(node, FRAMES)];
    nodes[0].knows(STRANGER, nobody());
    nodes
}

/// Reads that the device had, and that the owner was asked for.
fn reads(nodes: &[Node]) -> (u64, u64) {
    let counters = nodes[0].endpoint.peer_counters(OWNER).expect("a peer");
    (counters.reads.posted.get(), counters.reads.asked.get())
}

#[test]
fn a_key_of_other_queue_pairs_is_not_used() {
    if verbs().is_none() {
        return;
    }
    let mut nodes = reader();
    let Some(mut stranger) = Stranger::new(&mut nodes, Features::READS) else { return };
    let domain = stranger.device.region.domain();
    let open = ReadRegion::new(domain, &stranger.device.arena, 0..4).expect("registered");
    let (region, memory) = (REGION, open.memory());
    let mut told = |attempt, nodes: &mut [Node]| {
        stranger.tcp.say(&LinkControl::Region { attempt, region, memory });
        turns(nodes, 1000);
        nodes[0].endpoint.read_page(OWNER, region, 2).expect("room");
        nodes[0].poll();
        reads(nodes)
    };
    // Of queue pairs that were before these, and of some that will be.
    assert_eq!(told(0, &mut nodes), (0, 1));
    assert_eq!(told(2, &mut nodes), (0, 2));
    assert_eq!(told(1, &mut nodes), (1, 2));
}

#[test]
fn a_key_that_is_told_while_an_end_falls_back_is_not_used_on_the_next_queue_pairs() {
    if verbs().is_none() {
        return;
    }
    let mut nodes = reader();
    let features = Features::READS | Features::CLOSING;
    let Some(mut stranger) = Stranger::new(&mut nodes, features) else { return };
    let (domain, arena) = (stranger.device.region.domain(), &stranger.device.arena);
    let mut pages: Vec<Frame> = (0..4).filter_map(|_| arena.take()).collect();
    for (page, number) in pages.iter_mut().zip(0u32..) {
        assert_eq!(page.index().0, number, "the first frames, in order");
        fill(page, number.into());
    }
    let open = || ReadRegion::new(domain, arena, 0..4).expect("registered");
    let (earlier, later) = (open(), open());
    let (stale, memory) = (earlier.memory(), later.memory());
    assert_ne!(stale.key, memory.key);
    drop(earlier);
    // Nobody answers there any more: the device tries again for half a second.
    stranger.lose_queue_pairs();
    let message = Message::new(MessageKind(200), Body::EMPTY);
    nodes[0].endpoint.send(OWNER, Lane::Control, message).expect("credit");
    let region = REGION;
    while !matches!(stranger.tcp.hear(&mut nodes), LinkControl::Switch { to: LinkKind::Tcp, .. }) {}
    // It has said so, and waits for the stranger, who knows nothing of it yet.
    let attempt = 1;
    stranger.tcp.say(&LinkControl::Region { attempt, region, memory: stale });
    stranger.tcp.say(&LinkControl::Close { attempt, region: RegionId(9) });
    let mut expected = [Sequence(1); Lane::COUNT];
    expected[Lane::Control.index()] = Sequence(2);
    let statement = Statement { expected, credits: CREDITS.0 };
    stranger.tcp.say(&LinkControl::Switch { attempt, to: LinkKind::Tcp, statement });
    pump(&mut nodes, "messages are on TCP", |nodes| nodes[0].is_on(STRANGER, LinkKind::Tcp));
    // Of what was said about those queue pairs nothing is answered: the next thing is the accepting.
    stranger.move_to_verbs(&mut nodes, 2, expected);
    stranger.tcp.say(&LinkControl::Region { attempt: 2, region, memory });
    turns(&mut nodes, 1000);
    nodes[0].endpoint.read_page(OWNER, region, 2).expect("room");
    let is_read = |event: &Event| matches!(event, Event::Read(_));
    pump(&mut nodes, "the read has ended", |nodes| nodes[0].has_event(is_read));
    let done = nodes[0].events.iter().find(|event| is_read(event));
    let Some(Event::Read(done)) = done else { unreachable!() };
    let page = done.outcome.as_ref().unwrap_or_else(|why| panic!("with the key of now: {why}"));
    assert_filled(page, 2);
    assert_eq!(reads(&nodes), (1, 0));
    assert!(nodes[0].is_on(STRANGER, LinkKind::Verbs));
}
