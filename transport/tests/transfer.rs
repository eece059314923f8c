//! Large transfers: many frames as one over the bulk lane, through small arenas and lost links.

mod common;

use common::{
    Node, PATIENCE, assert_filled, cluster, config, fill, introduce, link_all, proxy::Cutter,
    proxy::Proxy, pump,
};
use pagewire_protocol::{Body, Epoch, Incarnation, InstanceId, Lane, MessageKind, PageSize};
use pagewire_transport::{
    Arena, ArenaConfig, Event, Frame, Received,
    transfer::{Assembly, Part, PartHead, Progress, Transfer, TransferError, TransferId},
};
use std::time::Instant;

const KIND: MessageKind = MessageKind(210);
const ID: TransferId = TransferId(5);
const PAGE_BYTES: u64 = 8192;
const SENDER: InstanceId = InstanceId(1);
const RECEIVER: InstanceId = InstanceId(2);

fn transfer(id: TransferId, bytes: u64) -> Transfer {
    Transfer::new(KIND, id, bytes, PageSize::K8).unwrap()
}

/// Frame `index` of a transfer whose pages begin with number `base`.
fn page(arena: &Arena, number: u64) -> Option<pagewire_transport::SharedFrame> {
    let mut frame = arena.take()?;
    fill(&mut frame, number);
    Some(frame.freeze())
}

/// A message as it would arrive from the sender.
fn received(arena: &Arena, head: PartHead) -> Received {
    let body = head.body();
    raw(arena, body)
}

fn raw(arena: &Arena, body: Body) -> Received {
    let frame = arena.take();
    Received { from: SENDER, lane: Lane::Bulk, kind: KIND, epoch: Epoch(0), body, frame }
}

fn head(index: u64) -> PartHead {
    PartHead { id: ID, index, count: 4, last_bytes: 100, ends_early: false }
}

#[test]
fn ten_thousand_frames_pass_through_64_while_links_are_cut() {
    const COUNT: u64 = 10_000;
    let mut nodes = [1, 2].map(|id| Node::new(config(id), 64));
    let cutter = Cutter::new();
    let proxies = [0, 1].map(|i| Proxy::new(nodes[i].address(), &cutter));
    nodes[0].knows(2, proxies[1].address);
    nodes[1].knows(1, proxies[0].address);
    link_all(&mut nodes);

    let total_bytes = COUNT * PAGE_BYTES - 1000;
    let mut transfer = transfer(ID, total_bytes);
    let mut assembly = Assembly::new(SENDER, ID);
    let (mut got, mut got_bytes, mut asked) = (0, 0, 0);
    pump(&mut nodes, "the transfer is complete", |nodes| {
        transfer
            .pump(&mut nodes[0].endpoint, RECEIVER, |arena, index| {
                assert!(index == asked || index + 1 == asked, "asked for {index} after {asked}");
                asked = index + 1;
                page(arena, index)
            })
            .unwrap();
        // Ahead of what has arrived by no more than what the lane keeps.
        let window = u64::from(config(1).credits.of(Lane::Bulk));
        assert!(asked <= got + 2 * window + 1, "{asked} were asked for when {got} had arrived");
        while let Some(message) = nodes[1].received.pop_front() {
            let Part::Frame { index, frame, used_bytes } = assembly.take(message).unwrap() else {
                panic!("ended early");
            };
            assert_eq!(index, got);
            assert_filled(&frame, index);
            got += 1;
            got_bytes += used_bytes as u64;
            if got % 1000 == 500 {
                cutter.cut();
            }
        }
        assembly.is_complete()
    });
    assert_eq!((got, got_bytes), (COUNT, total_bytes));
    assert_eq!(assembly.progress(), (COUNT, Some(COUNT)));
    assert_eq!(assembly.total_bytes(), Some(total_bytes));
    assert_eq!(transfer.progress(), Progress::Sent);
    let counters = nodes[0].endpoint.peer_counters(RECEIVER).unwrap();
    assert!(counters.links_up.get() > 5, "{} links", counters.links_up.get());
    assert_eq!(counters.lane(Lane::Bulk).sent.get(), COUNT);
}

#[test]
fn a_source_without_a_free_frame_is_asked_again_for_the_same_one() {
    let mut nodes = cluster(2);
    let mut transfer = transfer(ID, 3 * PAGE_BYTES);
    let mut asked = Vec::new();
    for give in [false, false, true] {
        let pumped = transfer.pump(&mut nodes[0].endpoint, RECEIVER, |arena, index| {
            asked.push(index);
            if give { page(arena, index) } else { None }
        });
        assert!(pumped.is_ok());
    }
    // Two at once: the lane's window.
    assert_eq!(asked, [0, 0, 0, 1]);
    assert_eq!(transfer.progress(), Progress::Going { sent: 2, count: 3 });
    // Without room nothing is asked for.
    let pumped = transfer.pump(&mut nodes[0].endpoint, RECEIVER, |_, index| panic!("{index}"));
    assert_eq!(pumped, Ok(Progress::Going { sent: 2, count: 3 }));
}

#[test]
fn a_cancelled_transfer_ends_early_on_both_sides_and_another_takes_its_place() {
    let mut nodes = cluster(2);
    let (mut first, mut second) = (transfer(ID, 100 * PAGE_BYTES), transfer(TransferId(6), 1));
    let mut assemblies = [Assembly::new(SENDER, ID), Assembly::new(SENDER, TransferId(6))];
    let mut ended = None;
    pump(&mut nodes, "one is cancelled and the other complete", |nodes| {
        for transfer in [&mut first, &mut second] {
            transfer.pump(&mut nodes[0].endpoint, RECEIVER, page).unwrap();
        }
        while let Some(message) = nodes[1].received.pop_front() {
            let at = usize::from(PartHead::of(&message.body).unwrap().id != ID);
            match assemblies[at].take(message).unwrap() {
                Part::Frame { used_bytes, .. } => {
                    assert_eq!(used_bytes as u64, if at == 0 { PAGE_BYTES } else { 1 });
                }
                Part::EndedEarly { frames } => ended = Some((at, frames)),
            }
            if assemblies[0].progress().0 == 10 {
                first.cancel();
            }
        }
        ended.is_some() && assemblies[1].is_complete()
    });
    assert_eq!((first.progress(), second.progress()), (Progress::Cancelled, Progress::Sent));
    let frames = assemblies[0].progress().0;
    assert!((10..100).contains(&frames) && ended == Some((0, frames)), "{ended:?}");
    assert!(!assemblies[0].is_complete());
    let again = assemblies[0].take(received(nodes[1].endpoint.arena(), head(0)));
    assert!(matches!(again, Err(TransferError::Over { id: ID })), "{again:?}");
    // What has not begun tells nobody, what is sent stays sent.
    let mut third = transfer(TransferId(7), 1);
    third.cancel();
    second.cancel();
    assert_eq!((third.progress(), second.progress()), (Progress::Cancelled, Progress::Sent));
}

#[test]
fn a_part_that_is_not_the_next_is_an_error_and_ends_the_assembly() {
    let arena = common::arena(8);
    let begun = || {
        let mut assembly = Assembly::new(SENDER, ID);
        assert!(matches!(assembly.take(received(&arena, head(0))), Ok(Part::Frame { .. })));
        assembly
    };
    let order = |found| TransferError::Order { id: ID, found, expected: 1 };
    let size = |found| TransferError::Size { id: ID, found, expected: 3 * PAGE_BYTES + 100 };
    let cases = [
        (PartHead { index: 2, ..head(0) }, order(2)),
        (PartHead { index: 0, ..head(0) }, order(0)),
        (PartHead { index: 3, ends_early: true, ..head(0) }, order(3)),
        (PartHead { count: 5, ..head(1) }, size(4 * PAGE_BYTES + 100)),
        (PartHead { last_bytes: 99, ..head(1) }, size(3 * PAGE_BYTES + 99)),
    ];
    for (wrong, expected) in cases {
        let mut assembly = begun();
        assert_eq!(assembly.take(received(&arena, wrong)).unwrap_err(), expected);
        // It does not go on as if nothing had been.
        let after = assembly.take(received(&arena, head(1))).unwrap_err();
        assert_eq!(after, TransferError::Over { id: ID });
    }
    assert_eq!(arena.free_frames(), 8, "frames of refused parts are free again");
}

#[test]
fn a_part_of_another_transfer_or_sender_is_told_and_changes_nothing() {
    let arena = common::arena(8);
    let mut assembly = Assembly::new(SENDER, ID);
    let other_id = received(&arena, PartHead { id: TransferId(9), ..head(0) });
    let other_sender = Received { from: InstanceId(3), ..received(&arena, head(0)) };
    for foreign in [other_id, other_sender] {
        let error = assembly.take(foreign).unwrap_err();
        assert!(matches!(error, TransferError::Foreign { .. }), "{error}");
    }
    for index in 0..4 {
        let Ok(Part::Frame { used_bytes, .. }) = assembly.take(received(&arena, head(index)))
        else {
            panic!("part {index}");
        };
        assert_eq!(used_bytes as u64, if index == 3 { 100 } else { PAGE_BYTES });
    }
    assert!(assembly.is_complete());
    let more = assembly.take(received(&arena, head(3))).unwrap_err();
    assert_eq!(more, TransferError::Over { id: ID });
}

#[test]
fn a_body_that_no_transfer_sends_is_refused() {
    let arena = common::arena(2);
    let change = |at: usize, with: &[u8]| {
        let mut bytes = head(0).body().as_slice().to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let bodies = [
        vec![],
        head(0).body().as_slice()[..31].to_vec(),
        [head(0).body().as_slice(), &[0]].concat(),
        change(16, &[0; 8]),                 // no frames at all
        change(8, &4_u64.to_le_bytes()),     // an index behind the last
        change(24, &[0; 4]),                 // an empty last frame
        change(24, &8193_u32.to_le_bytes()), // more than a frame holds
        change(28, &[2]),                    // an unknown status
        change(16, &u64::MAX.to_le_bytes()), // more bytes than can be counted
        [&[0xFF; 24][..], &1_u32.to_le_bytes(), &[0; 4]].concat(), // index and count at their end
    ];
    for body in bodies {
        let message = raw(&arena, Body::new(&body).unwrap());
        let taken = Assembly::new(SENDER, ID).take(message);
        assert!(matches!(taken, Err(TransferError::Field { .. })), "{body:?}: {taken:?}");
    }
    let mut without_frame = received(&arena, head(0));
    without_frame.frame = None;
    assert!(Assembly::new(SENDER, ID).take(without_frame).is_err());
    for head in [head(0), PartHead { ends_early: true, ..head(2) }] {
        assert_eq!(PartHead::of(&head.body()), Ok(head));
    }
}

#[test]
fn a_transfer_of_any_size_has_as_many_frames_as_it_needs() {
    let count = |bytes| match transfer(ID, bytes).progress() {
        Progress::Going { sent: 0, count } => count,
        other => panic!("{other:?}"),
    };
    let sizes = [1, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES, u64::MAX];
    assert_eq!(sizes.map(count), [1, 1, 1, 2, 3, 1 << 51]);
    let empty = Transfer::new(KIND, ID, 0, PageSize::K8);
    assert!(matches!(empty, Err(TransferError::Empty { id: ID })));
}

#[test]
fn a_transfer_does_not_go_on_with_another_life_or_another_instance() {
    let mut nodes = cluster(2);
    let mut transfer = transfer(ID, 1000 * PAGE_BYTES);
    transfer.pump(&mut nodes[0].endpoint, RECEIVER, page).unwrap();
    let elsewhere = transfer.pump(&mut nodes[0].endpoint, InstanceId(3), page);
    assert!(matches!(elsewhere, Err(TransferError::Receiver { .. })), "{elsewhere:?}");
    // The receiver comes back in a new life at another port.
    let old = nodes.remove(1);
    let listen = old.address();
    let incarnation = Incarnation(old.endpoint.config().incarnation.0 + 1);
    drop(old);
    let mut config = config(2);
    (config.listen, config.incarnation) = (listen, incarnation);
    let deadline = Instant::now() + PATIENCE;
    let endpoint = loop {
        match pagewire_transport::Endpoint::bind(config.clone(), common::arena(64)) {
            Ok(endpoint) => break endpoint,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let mut reborn = Node::new(common::config(9), 1);
    reborn.endpoint = endpoint;
    reborn.knows(1, nodes[0].address());
    nodes.push(reborn);
    pump(&mut nodes, "the former life has ended", |nodes| {
        nodes[0].has_event(|event| matches!(event, Event::Ended { .. }))
    });
    link_all(&mut nodes);
    let pumped = transfer.pump(&mut nodes[0].endpoint, RECEIVER, |_, _| panic!("asked for more"));
    assert_eq!(pumped, Err(TransferError::SessionEnded { id: ID, peer: RECEIVER, sent: 2 }));
    let mut never = self::transfer(TransferId(8), 1);
    let nobody = never.pump(&mut nodes[0].endpoint, InstanceId(77), page);
    assert_eq!(nobody, Err(TransferError::NoSession { peer: InstanceId(77) }));
}

#[test]
fn a_transfer_in_pages_of_another_size_or_of_a_reserved_kind_does_not_begin() {
    let mut nodes = cluster(2);
    let mut other = Transfer::new(KIND, ID, 40_000, PageSize::K32).unwrap();
    let pumped = other.pump(&mut nodes[0].endpoint, RECEIVER, page);
    let (found, expected) = (PageSize::K32, PageSize::K8);
    assert_eq!(pumped, Err(TransferError::PageSize { id: ID, found, expected }));
    for found in [0, 65_532, 65_533, 65_534, 65_535].map(MessageKind) {
        let reserved = Transfer::new(found, ID, 1, PageSize::K8).unwrap_err();
        assert_eq!(reserved, TransferError::Kind { id: ID, found });
        let text = reserved.to_string();
        assert!(text.contains(&format!("kind {found}, expected 1 to 65531")), "{text}");
    }
    for kind in [1, 65_531].map(MessageKind) {
        Transfer::new(kind, ID, 1, PageSize::K8).unwrap();
    }
}

#[test]
fn a_frame_of_another_arena_is_told_as_such_and_the_transfer_goes_on_with_one_that_fits() {
    let mut nodes = cluster(2);
    let config = ArenaConfig { page_size: PageSize::K4, ..ArenaConfig::new(4) };
    let foreign = Arena::new(&config).unwrap();
    let mut sending = transfer(ID, 2 * PAGE_BYTES);
    let pumped = sending.pump(&mut nodes[0].endpoint, RECEIVER, |arena, index| match index {
        0 => page(arena, 0),
        _ => foreign.take().map(Frame::freeze),
    });
    let (found_bytes, expected_bytes) = (4096, 8192);
    let wrong = TransferError::FrameSize { id: ID, index: 1, found_bytes, expected_bytes };
    assert_eq!(pumped, Err(wrong));
    assert_eq!(foreign.free_frames(), 4, "the frame that was not sent is free again");
    assert_eq!(sending.progress(), Progress::Going { sent: 1, count: 2 });
    assert_eq!(sending.pump(&mut nodes[0].endpoint, RECEIVER, page), Ok(Progress::Sent));
    let (mut assembly, mut got) = (Assembly::new(SENDER, ID), Vec::new());
    pump(&mut nodes, "both frames are there", |nodes| {
        for received in std::mem::take(&mut nodes[1].received) {
            let Part::Frame { index, frame, .. } = assembly.take(received).unwrap() else {
                panic!("ended early");
            };
            assert_filled(&frame, index);
            got.push(index);
        }
        assembly.is_complete()
    });
    assert_eq!(got, [0, 1]);
}

#[test]
fn a_saturated_transfer_lets_the_other_lanes_through() {
    let mut nodes = vec![Node::new(config(1), 64), Node::new(config(2), 64)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let mut transfer = transfer(ID, u64::MAX);
    let mut flow = common::Flow::new(0, 1);
    let mut frames = 0;
    pump(&mut nodes, "100 messages have passed a transfer without end", |nodes| {
        transfer.pump(&mut nodes[0].endpoint, RECEIVER, page).unwrap();
        nodes[1].received.retain(|message| {
            frames += u64::from(message.lane == Lane::Bulk);
            message.lane != Lane::Bulk
        });
        for lane in [Lane::Control, Lane::Requests, Lane::Si, Lane::Pages] {
            flow.send(nodes, lane, 100);
        }
        flow.take(nodes);
        flow.got[..4] == [100; 4]
    });
    assert!(frames > 0, "the transfer stood still");
}
