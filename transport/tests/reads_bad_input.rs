//! Peers that do with one-sided reads what no correct peer does: the link is closed with the reason,
//! and the others carry on.

mod common;

use common::{CREDITS, FRAMES, Node, config, nobody, pump, raw::RawPeer};
use pagewire_protocol::{
    InstanceId, Lane, LinkControl, MessageKind, ReadMessage, RegionId, Sequence, SessionHeader,
    hello::{Features, ProofKey},
    link_control::RegionMemory,
    read::READS_MAX,
};
use pagewire_transport::{EndpointConfig, Event, LinkPolicy, ReadDone, ReadError};

const STRANGER: u16 = 3;
const REGION: RegionId = RegionId(1);

/// An instance with reads on that has opened a region of two frames, and its link to a stranger.
fn town(life: u64, features: Features) -> (Vec<Node>, RawPeer) {
    let links = LinkPolicy::Tcp;
    let config = EndpointConfig { one_sided_reads: true, links, ..config(1) };
    let mut nodes = vec![Node::new(config, FRAMES)];
    nodes[0].knows(STRANGER, nobody());
    nodes[0].endpoint.open_region(REGION, 0..2).expect("a region");
    let peer = RawPeer::link_stating(&mut nodes, STRANGER, life, ProofKey::NONE, features);
    (nodes, peer)
}

fn reason_of_down(nodes: &mut [Node]) -> String {
    let is_down = |event: &Event| matches!(event, Event::Down { .. });
    pump(nodes, "the link is down", |nodes| nodes[0].has_event(is_down));
    let down = nodes[0].events.iter().find(|event| is_down(event));
    let Some(Event::Down { reason, .. }) = down else { unreachable!() };
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 1);
    reason.to_string()
}

/// A message about reads as the stranger would send it on `lane`, the `number`th of that lane.
fn message(peer: &RawPeer, said: &ReadMessage, lane: Lane, number: u64) -> Vec<u8> {
    let (kind, body) = said.encode();
    let body_len = u8::try_from(body.as_slice().len()).unwrap();
    let header = SessionHeader { kind, body_len, sequence: Sequence(number), ..peer.header(lane) };
    let mut bytes = header.encode_slot(&body, true).to_vec();
    if header.frame {
        bytes.resize(bytes.len() + 8192, 7);
    }
    bytes
}

#[test]
fn what_no_correct_peer_says_about_reads_closes_the_link() {
    let (region, token) = (REGION, 9);
    let ask = ReadMessage::Ask { token, region, offset_frames: 0 };
    let page = ReadMessage::Page { token };
    let refused =
        ReadMessage::Refused { token, why: pagewire_protocol::ReadRefusal::UnknownRegion };
    let cases = [
        (Features::NONE, ask, Lane::Requests, "not turned on at both ends"),
        (Features::NONE, page, Lane::Bulk, "not turned on at both ends"),
        (Features::READS, ask, Lane::Control, "lane of a message about a read"),
        (Features::READS, page, Lane::Pages, "lane of a message about a read"),
        (Features::READS, page, Lane::Bulk, "token in an answer to a read holds 9"),
        (Features::READS, refused, Lane::Control, "token in an answer to a read holds 9"),
    ];
    for (life, (features, said, lane, words)) in (1..).zip(cases) {
        let (mut nodes, mut peer) = town(life, features);
        let bytes = message(&peer, &said, lane, 1);
        peer.send(lane.class(), &bytes);
        let reason = reason_of_down(&mut nodes);
        assert!(reason.contains(words), "'{words}' in: {reason}");
    }
}

#[test]
fn a_message_about_reads_that_is_none_closes_the_link() {
    for (life, len) in (1..).zip([0u8, 15, 80]) {
        let (mut nodes, mut peer) = town(life, Features::READS);
        let header = peer.header(Lane::Requests);
        let header = SessionHeader { kind: MessageKind::READ, body_len: len, ..header };
        let body = pagewire_protocol::Body::new(&vec![1; len.into()]).unwrap();
        peer.send(Lane::Requests.class(), &header.encode_slot(&body, true));
        let reason = reason_of_down(&mut nodes);
        assert!(reason.contains(&format!("has {len} bytes, expected 16")), "{reason}");
    }
}

#[test]
fn more_questions_than_reads_may_be_under_way_close_the_link() {
    let mut credits = CREDITS;
    credits.0[Lane::Requests.index()] = 64;
    let links = LinkPolicy::Tcp;
    let config = EndpointConfig { one_sided_reads: true, links, credits, ..config(1) };
    let mut nodes = vec![Node::new(config, FRAMES)];
    nodes[0].knows(STRANGER, nobody());
    nodes[0].endpoint.open_region(REGION, 0..2).expect("a region");
    let mut peer = RawPeer::link_stating(&mut nodes, STRANGER, 1, ProofKey::NONE, Features::READS);
    // It takes no answer: those of its bulk credit leave, the others wait.
    let answered = u64::from(CREDITS.of(Lane::Bulk));
    let ask = |token| ReadMessage::Ask { token, region: REGION, offset_frames: 1 };
    for number in 1..=READS_MAX as u64 + answered {
        let bytes = message(&peer, &ask(number), Lane::Requests, number);
        peer.send(Lane::Requests.class(), &bytes);
    }
    let counters = nodes[0].endpoint.counters().peers()[0].1.clone();
    pump(&mut nodes, "all are taken", |_| {
        counters.lane(Lane::Requests).received.get() == READS_MAX as u64 + answered
    });
    assert_eq!(counters.reads.answered.get(), answered);
    assert!(nodes[0].is_linked(STRANGER));
    let number = READS_MAX as u64 + answered + 1;
    let bytes = message(&peer, &ask(number), Lane::Requests, number);
    peer.send(Lane::Requests.class(), &bytes);
    let reason = reason_of_down(&mut nodes);
    assert!(reason.contains("reads of a peer under way holds 33, expected 32 at most"), "{reason}");
}

#[test]
fn keys_of_regions_from_a_peer_without_reads_and_impossible_ones_close_the_link() {
    let memory = RegionMemory { address: 0x7000_0000, key: 5, frames: 4 };
    let beyond = RegionMemory { address: u64::MAX - 8192, ..memory };
    for (life, (features, memory, words)) in (1..).zip([
        (Features::NONE, memory, "key of a region"),
        (Features::READS, beyond, "address of a region"),
    ]) {
        let (mut nodes, mut peer) = town(life, features);
        peer.say(&LinkControl::Region { attempt: 1, region: REGION, memory });
        let reason = reason_of_down(&mut nodes);
        assert!(reason.contains(words), "'{words}' in: {reason}");
    }
}

#[test]
fn closing_of_regions_by_a_peer_that_has_not_stated_it_closes_the_link() {
    let (attempt, region) = (1, REGION);
    let said = [LinkControl::Close { attempt, region }, LinkControl::Left { attempt, region }];
    for (life, (features, said)) in
        (1..).zip([Features::NONE, Features::READS].iter().flat_map(|f| said.map(|s| (*f, s))))
    {
        let (mut nodes, mut peer) = town(life, features);
        peer.say(&said);
        let reason = reason_of_down(&mut nodes);
        assert!(reason.contains("closing of a region holds 1, expected none"), "{reason}");
    }
    // Where it is stated it is nothing that counts: on TCP there are no keys.
    let (mut nodes, mut peer) = town(9, Features::READS | Features::CLOSING);
    said.iter().for_each(|said| peer.say(said));
    common::turns(&mut nodes, 1000);
    assert!(nodes[0].is_linked(STRANGER));
}

#[test]
fn a_key_of_queue_pairs_that_are_not_there_is_not_used() {
    let (mut nodes, mut peer) = town(1, Features::READS);
    let memory = RegionMemory { address: 0x7000_0000, key: 5, frames: 4 };
    for attempt in [0, 1, 7] {
        peer.say(&LinkControl::Region { attempt, region: REGION, memory });
    }
    let owner = InstanceId(STRANGER);
    let read = nodes[0].endpoint.read_page(owner, REGION, 3).expect("room");
    // It is asked for, as on any TCP link.
    let (ask, token) = (nodes[0].endpoint.counters().peers()[0].1.clone(), 0);
    pump(&mut nodes, "it is asked for", |_| ask.lane(Lane::Requests).sent.get() == 1);
    assert_eq!((ask.reads.posted.get(), ask.reads.asked.get()), (0, 1));
    let why = pagewire_protocol::ReadRefusal::OutOfBounds { frames: 2 };
    let bytes = message(&peer, &ReadMessage::Refused { token, why }, Lane::Control, 1);
    peer.send(Lane::Control.class(), &bytes);
    pump(&mut nodes, "it has ended", |nodes| {
        nodes[0].has_event(|event| matches!(event, Event::Read(done) if done.read == read))
    });
    let last = nodes[0].events.pop();
    let Some(Event::Read(ReadDone { outcome: Err(error), .. })) = last else { panic!("{last:?}") };
    assert_eq!(error, ReadError::OutOfBounds { offset_frames: 3, frames: 2 });
    assert!(nodes[0].is_linked(STRANGER));
}
