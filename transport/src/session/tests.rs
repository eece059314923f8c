use super::*;
use pagewire_protocol::Body;
use proptest::prelude::*;
use std::collections::VecDeque;

const WINDOWS: [u32; Lane::COUNT] = [8, 4, 4, 0, 0];

fn message(number: u64) -> Message {
    Message::new(MessageKind(1), Body::new(&number.to_le_bytes()).unwrap())
}

fn number(message: &Message) -> u64 {
    u64::from_le_bytes(message.body.as_slice().try_into().unwrap())
}

/// Two sessions and the wires between them; a wire is lost as a whole when the link goes.
struct Pair {
    sides: [Session; 2],
    wires: [VecDeque<(SessionHeader, Option<u64>)>; 2],
    /// Delivered and not yet consumed, so that no receive is posted for them yet.
    unconsumed: [Vec<Lane>; 2],
    delivered: [[Vec<u64>; Lane::COUNT]; 2],
    submitted: [[Vec<u64>; Lane::COUNT]; 2],
}

impl Pair {
    fn new() -> Self {
        let (a, b) = (InstanceId(0), InstanceId(1));
        let mut pair = Self {
            sides: [Session::new(a, b, WINDOWS), Session::new(b, a, WINDOWS)],
            wires: Default::default(),
            unconsumed: Default::default(),
            delivered: Default::default(),
            submitted: Default::default(),
        };
        pair.relink();
        pair
    }

    fn relink(&mut self) {
        for wire in &mut self.wires {
            wire.clear();
        }
        for unconsumed in &mut self.unconsumed {
            unconsumed.clear();
        }
        let expected = [self.sides[0].expected(), self.sides[1].expected()];
        for (i, side) in self.sides.iter_mut().enumerate() {
            side.link_down();
            side.link_up(expected[1 - i], WINDOWS, WINDOWS).unwrap();
        }
    }

    fn submit(&mut self, side: usize, lane: Lane) -> bool {
        let n = self.submitted[side][lane.index()].len() as u64 + 1;
        let taken = self.sides[side].submit(lane, message(n)).is_ok();
        if taken {
            self.submitted[side][lane.index()].push(n);
        }
        taken
    }

    fn transmit(&mut self, side: usize, lane: Lane) {
        let session = &mut self.sides[side];
        if let Some((header, message)) = session.next_outgoing(lane) {
            let n = number(message);
            session.transmitted(lane);
            self.wires[side].push_back((header, Some(n)));
        } else if session.ack_due(lane) != AckDue::No {
            let header = session.ack_alone(lane);
            self.wires[side].push_back((header, None));
        }
    }

    fn arrive(&mut self, from: usize) {
        let to = 1 - from;
        let Some((header, n)) = self.wires[from].pop_front() else { return };
        match self.sides[to].receive(&header).unwrap() {
            Disposition::Deliver => {
                self.delivered[to][header.lane.index()].push(n.unwrap());
                self.unconsumed[to].push(header.lane);
            }
            Disposition::Duplicate => self.unconsumed[to].push(header.lane),
            Disposition::AckOnly => assert_eq!(n, None),
        }
    }

    fn consume(&mut self, side: usize) {
        if let Some(lane) = self.unconsumed[side].pop() {
            self.sides[side].posted(lane);
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            for side in 0..2 {
                for lane in [Lane::Control, Lane::Requests, Lane::Si] {
                    self.transmit(side, lane);
                }
                self.arrive(side);
                self.consume(side);
            }
        }
    }

    fn assert_exactly_once_in_order(&self, whole: bool) {
        for side in 0..2 {
            for lane in Lane::ALL {
                let got = &self.delivered[1 - side][lane.index()];
                let sent = &self.submitted[side][lane.index()];
                assert!(sent.starts_with(got), "{lane:?}: {got:?} of {sent:?}");
                assert!(
                    !whole || sent.len() == got.len(),
                    "{lane:?}: lost {:?}",
                    &sent[got.len()..]
                );
            }
        }
    }
}

#[test]
fn without_credit_the_message_is_handed_back() {
    let mut pair = Pair::new();
    for _ in 0..4 {
        assert!(pair.submit(0, Lane::Requests));
    }
    assert!(!pair.submit(0, Lane::Requests));
    assert!(pair.submit(0, Lane::Control), "another lane has its own");
    pair.settle();
    assert!(pair.submit(0, Lane::Requests));
    pair.settle();
    pair.assert_exactly_once_in_order(true);
    assert_eq!(pair.sides[0].unacknowledged(), 0);
}

#[test]
fn a_message_on_the_wrong_lane_is_handed_back() {
    let mut pair = Pair::new();
    assert!(matches!(pair.sides[0].submit(Lane::Pages, message(1)), Err(Rejected::WrongLane(_))));
    let ack = Message::new(MessageKind::ACK_ONLY, Body::EMPTY);
    assert!(matches!(pair.sides[0].submit(Lane::Control, ack), Err(Rejected::WrongLane(_))));
}

#[test]
fn what_no_correct_peer_does_is_named() {
    let mut pair = Pair::new();
    assert!(pair.submit(0, Lane::Control));
    let (header, _) = pair.sides[0].next_outgoing(Lane::Control).unwrap();
    let gap = SessionHeader { sequence: Sequence(2), ..header };
    assert!(matches!(pair.sides[1].receive(&gap), Err(Violation::Gap { .. })));
    let unsent = SessionHeader { ack: Sequence(5), ..header };
    assert!(matches!(pair.sides[1].receive(&unsent), Err(Violation::AckOfUnsent { .. })));
    let other = SessionHeader { source: InstanceId(9), ..header };
    assert!(matches!(pair.sides[1].receive(&other), Err(Violation::Source { .. })));
    for n in 1..=8 {
        let next = SessionHeader { sequence: Sequence(n), ..header };
        assert_eq!(pair.sides[1].receive(&next), Ok(Disposition::Deliver));
    }
    let ninth = SessionHeader { sequence: Sequence(9), ..header };
    assert!(matches!(pair.sides[1].receive(&ninth), Err(Violation::NoCredit { granted: 8, .. })));
}

#[test]
fn a_peer_that_expects_the_impossible_gets_no_link() {
    let mut pair = Pair::new();
    assert!(pair.submit(0, Lane::Control));
    pair.settle();
    let mut expected = pair.sides[1].expected();
    expected[0] = Sequence(1);
    let session = &mut pair.sides[0];
    assert!(matches!(
        session.link_up(expected, WINDOWS, WINDOWS),
        Err(Violation::Forgotten { .. })
    ));
    expected[0] = Sequence(9);
    let refused = session.link_up(expected, WINDOWS, WINDOWS);
    assert!(matches!(refused, Err(Violation::AckOfUnsent { .. })));
}

#[test]
fn the_end_hands_back_what_is_unacknowledged() {
    let mut pair = Pair::new();
    assert!(pair.submit(0, Lane::Control) && pair.submit(0, Lane::Si));
    let [first, _] = pair.sides;
    let back = first.end();
    assert_eq!(back.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(), [Lane::Control, Lane::Si]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_lane_is_exactly_once_and_in_order_across_lost_links(
        steps in proptest::collection::vec((0u8..20, 0usize..2, 0usize..3), 1..400)
    ) {
        let mut pair = Pair::new();
        for (action, side, lane) in steps {
            let lane = Lane::ALL[lane];
            match action {
                0..=5 => { pair.submit(side, lane); }
                6..=11 => pair.transmit(side, lane),
                12..=16 => pair.arrive(side),
                17..=18 => pair.consume(side),
                _ => pair.relink(),
            }
            pair.assert_exactly_once_in_order(false);
        }
        pair.settle();
        pair.assert_exactly_once_in_order(true);
        prop_assert_eq!(pair.sides[0].unacknowledged() + pair.sides[1].unacknowledged(), 0);
        // Conservation: at rest every lane has all its credits again.
        for side in 0..2 {
            for (lane, window) in [(Lane::Control, 8), (Lane::Requests, 4), (Lane::Si, 4)] {
                for _ in 0..window {
                    prop_assert!(pair.submit(side, lane));
                }
                prop_assert!(!pair.submit(side, lane));
            }
        }
    }
}
