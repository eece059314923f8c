//! Regions of one-sided reads: what can be opened, how it is read where its frames have margins, and
//! that it is closed without a read that fails. With PAGEWIRE_TEST_VERBS over verbs.

mod common;

use common::{
    FRAMES, Node, assert_filled, config, fill, introduce, link_all, pump,
    reads::{OWNER, PAGES, Pair, REGION, assert_pages, collect, open, reads, with_reads},
    turns, verbs,
};
use pagewire_protocol::{InstanceId, RegionId};
use pagewire_transport::{
    EndpointConfig, Event, ReadDone, ReadError, RegionState, TransportError, endpoint::REGIONS_MAX,
};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::{Level, Metadata, Subscriber, field::Field, span};

#[test]
fn regions_that_cannot_be_are_refused_with_the_reason() {
    let mut node = with_reads(1, true);
    let mut refused = |region, frames: std::ops::Range<u32>, word: &str| {
        let error = node.endpoint.open_region(RegionId(region), frames).unwrap_err();
        assert!(matches!(error, TransportError::Region { .. }));
        let text = error.to_string();
        assert!(text.contains(word) && text.contains("expected"), "'{word}' in: {text}");
    };
    refused(0, 3..3, "no such frames");
    refused(0, 0..FRAMES + 1, "no such frames");
    refused(0, u32::MAX - 1..u32::MAX, "no such frames");
    for region in 0..u16::try_from(REGIONS_MAX).expect("few") {
        node.endpoint.open_region(RegionId(region), 0..FRAMES).expect("a region");
    }
    let error = node.endpoint.open_region(RegionId(5), 0..1).unwrap_err().to_string();
    assert!(error.contains("region 5 of frames 0 to 1") && error.contains("taken"), "{error}");
    let error = node.endpoint.open_region(RegionId(99), 0..1).unwrap_err().to_string();
    assert!(error.contains("64 at most"), "{error}");
}

/// Counts warnings of this thread that speak of a region's margins.
struct Warnings(Arc<AtomicU64>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut |_: &Field, value: &dyn Debug| {
            let text = format!("{value:?}");
            if text.contains("region 7 is asked for") && text.contains("`margins` off") {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_region_whose_frames_have_margins_is_read_by_asking_and_over_verbs_that_is_warned_of_once() {
    let warned = Arc::new(AtomicU64::new(0));
    let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warned)));
    let with_margins = |id| {
        let config = EndpointConfig { one_sided_reads: true, ..config(id) };
        Node::with_arena(config, common::arena(FRAMES))
    };
    let mut nodes = vec![with_reads(1, true), with_margins(2), with_margins(3)];
    let pages = open(&mut nodes[1], PAGES);
    introduce(&mut nodes, 0, 1);
    introduce(&mut nodes, 1, 2);
    introduce(&mut nodes, 0, 2);
    link_all(&mut nodes);
    let mut pair = Pair { nodes, pages };
    // Whatever the owner has to say about keys has come by then.
    common::turns(&mut pair.nodes, 2000);
    let offsets: Vec<_> = (0..PAGES).collect();
    let done = pair.read_all(&offsets);
    assert_pages(done, &offsets);
    assert_eq!(reads(&pair.nodes), (0, u64::from(PAGES)), "by the device, and by asking");
    let counters = pair.nodes[0].endpoint.peer_counters(OWNER).expect("a peer");
    assert_eq!((counters.links_down.get(), counters.falls_to_tcp.get()), (0, 0));
    // Once, not for each peer that may read it.
    assert_eq!(warned.load(Ordering::Relaxed), u64::from(verbs().is_some()));
}

/// That nothing of this has taken a link down, or away from verbs.
fn assert_links_stayed(pair: &Pair) {
    for (node, peer) in [(0, 2), (1, 1)] {
        let counters = pair.nodes[node].endpoint.peer_counters(InstanceId(peer)).expect("a peer");
        assert_eq!((counters.links_down.get(), counters.falls_to_tcp.get()), (0, 0));
        assert_eq!(pair.nodes[node].endpoint.counters().bad_input.get(), 0);
    }
}

fn until_gone(pair: &mut Pair) {
    pump(&mut pair.nodes, "nobody can read the region", |nodes| {
        nodes[1].endpoint.region_state(REGION).is_none()
    });
}

/// One read, which finds that there is no such region.
fn assert_unknown(pair: &mut Pair) {
    let [done]: [ReadDone; 1] = pair.read_all(&[1]).try_into().expect("one");
    assert_eq!(done.outcome.expect_err("it is closed"), ReadError::UnknownRegion);
}

#[test]
fn a_region_that_is_closed_under_reads_ends_each_with_its_page_or_a_refusal() {
    let mut pair = Pair::new();
    for round in 0..5u64 {
        assert_eq!(pair.nodes[1].endpoint.region_state(REGION), Some(RegionState::Open));
        let mut begun = BTreeMap::new();
        for offset in (0..PAGES).cycle().take(20) {
            let read = pair.nodes[0].endpoint.read_page(OWNER, REGION, offset).expect("room");
            begun.insert(read, offset);
        }
        // They have begun, whether they are with the device yet or not.
        pair.nodes[1].endpoint.close_region(REGION).expect("it is open");
        let (mut ended, mut whole) = (BTreeMap::new(), 0);
        pump(&mut pair.nodes, "all have ended", |nodes| {
            collect(nodes, &mut ended);
            ended.len() == begun.len()
        });
        for (read, done) in ended {
            match done.outcome {
                Ok(frame) => {
                    assert_filled(&frame, u64::from(begun[&read]) + 100 * round);
                    whole += 1;
                }
                Err(why) => assert_eq!(why, ReadError::UnknownRegion),
            }
        }
        if verbs().is_some() {
            assert_eq!(whole, begun.len(), "what the device has is finished");
        }
        until_gone(&mut pair);
        assert_unknown(&mut pair);
        // The number is free; what is read is what it stands for now.
        for (page, number) in pair.pages.iter_mut().zip(0..) {
            fill(page, number + 100 * (round + 1));
        }
        pair.nodes[1].endpoint.open_region(REGION, 0..PAGES).expect("the number is free");
        pair.until_keys();
    }
    assert_links_stayed(&pair);
}

#[test]
fn a_region_is_closing_until_those_who_have_its_key_have_left() {
    let mut pair = Pair::new();
    pair.nodes[1].endpoint.close_region(REGION).expect("it is open");
    // The peer does not poll. Where it has no key, that is nothing to wait for.
    turns(&mut pair.nodes[1..], 2000);
    let state = pair.nodes[1].endpoint.region_state(REGION);
    assert_eq!(state, verbs().map(|_| RegionState::Closing));
    let again = pair.nodes[1].endpoint.close_region(REGION).unwrap_err();
    assert!(matches!(again, TransportError::RegionNotOpen { region: REGION }), "{again}");
    assert!(again.to_string().contains("region 7 is not open, expected"), "{again}");
    if verbs().is_some() {
        let taken = pair.nodes[1].endpoint.open_region(REGION, 0..1).unwrap_err().to_string();
        assert!(taken.contains("while it is closed") && taken.contains("expected"), "{taken}");
        // A device needs nobody's word: the peer may still read, and gets the page.
        let [done]: [ReadDone; 1] = pair.read_all(&[2]).try_into().expect("one");
        assert_filled(&done.outcome.expect("it was begun before the peer heard"), 2);
    }
    until_gone(&mut pair);
    assert_unknown(&mut pair);
    assert_links_stayed(&pair);
}

#[test]
fn what_is_closed_makes_room_for_another_region() {
    let mut node = with_reads(1, true);
    let regions = u16::try_from(REGIONS_MAX).expect("few");
    for _ in 0..2 {
        for region in 0..regions {
            node.endpoint.open_region(RegionId(region), 0..FRAMES).expect("a region");
        }
        node.endpoint.open_region(RegionId(regions), 0..1).expect_err("as many as can be");
        for region in 0..regions {
            node.endpoint.close_region(RegionId(region)).expect("it is open");
            assert_eq!(node.endpoint.region_state(RegionId(region)), None);
        }
    }
}

#[test]
fn a_region_that_is_closed_for_one_peer_and_another_s_stays_read() {
    let mut pair = Pair::new();
    let other = RegionId(8);
    pair.nodes[1].endpoint.open_region(other, 1..3).expect("a region");
    pair.nodes[1].endpoint.close_region(REGION).expect("it is open");
    until_gone(&mut pair);
    let read = pair.nodes[0].endpoint.read_page(OWNER, other, 1).expect("room");
    pump(&mut pair.nodes, "it has ended", |nodes| {
        nodes[0].has_event(|event| matches!(event, Event::Read(done) if done.read == read))
    });
    let last = pair.nodes[0].events.pop();
    let Some(Event::Read(done)) = last else { panic!("{last:?}") };
    assert_filled(&done.outcome.expect("a page"), 2);
    assert_unknown(&mut pair);
    assert_links_stayed(&pair);
}
