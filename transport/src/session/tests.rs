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

// ---- single numbers and edges ------------------------------------------------------------------

const WIDE: [u32; Lane::COUNT] = [64, 4, 4, 0, 0];
const FRESH: [Sequence; Lane::COUNT] = [Sequence(1); Lane::COUNT];

/// A session of instance 0 with `windows` and no link.
fn session(windows: [u32; Lane::COUNT]) -> Session {
    Session::new(InstanceId(0), InstanceId(1), windows)
}

fn submit(session: &mut Session, count: u64) {
    for n in 1..=count {
        session.submit(Lane::Control, message(n)).unwrap();
    }
}

/// Sends what may be sent; the sequences, and whether each went for the first time.
fn send_all(session: &mut Session) -> Vec<(u64, bool)> {
    let mut sent = Vec::new();
    while let Some((header, _)) = session.next_outgoing(Lane::Control) {
        sent.push((header.sequence.0, session.transmitted(Lane::Control)));
    }
    sent
}

/// What instance 1 says: message `sequence`, or only an acknowledgement for 0.
fn header(sequence: u64, ack: u64, credits: u32) -> SessionHeader {
    let mut peer = Session::new(InstanceId(1), InstanceId(0), WIDE);
    let alone = peer.ack_alone(Lane::Control);
    let kind = if sequence == 0 { MessageKind::ACK_ONLY } else { MessageKind(1) };
    SessionHeader { kind, sequence: Sequence(sequence), ack: Sequence(ack), credits, ..alone }
}

#[test]
fn the_numbers_of_a_lane_add_up() {
    let mut a = session(WINDOWS);
    assert!(!a.is_linked() && a.is_settled() && !a.has_waiting(Lane::Control));
    assert_eq!(a.room(Lane::Control), 8, "without a link: the window");
    a.link_up(FRESH, [6, 4, 4, 0, 0], WINDOWS).unwrap();
    assert!(a.is_linked());
    assert_eq!(a.room(Lane::Control), 6, "what the peer has posted");
    submit(&mut a, 3);
    assert!(a.has_waiting(Lane::Control) && a.is_settled(), "nothing is on the link");
    for _ in 0..2 {
        assert!(a.transmitted(Lane::Control));
    }
    let numbers = a.numbers(Lane::Control);
    let (kept, waiting, sent) = (numbers.kept, numbers.waiting, numbers.sent);
    assert_eq!((numbers.window, kept, waiting, sent, numbers.limit), (8, 3, 1, 2, 6));
    assert_eq!((numbers.received, numbers.posted), (0, 8));
    assert_eq!(a.room(Lane::Control), 3);
    assert_eq!((a.last_sent(Lane::Control), a.unacknowledged()), (Sequence(2), 3));
    assert!(!a.is_settled() && a.has_waiting(Lane::Control));
    assert_eq!(send_all(&mut a), [(3, true)]);
    assert!(!a.has_waiting(Lane::Control));
    a.receive(&header(0, 3, 9)).unwrap();
    assert_eq!(a.acknowledged(Lane::Control), Sequence(3));
    assert!(a.is_settled() && a.unacknowledged() == 0);
    assert_eq!(a.unused_receives(Lane::Control), 8);
    a.receive(&header(1, 3, 9)).unwrap();
    assert_eq!(a.unused_receives(Lane::Control), 7);
    assert_eq!(a.expected()[Lane::Control.index()], Sequence(2));
    a.link_down();
    assert!(!a.is_linked());
    assert_eq!(a.ack_due(Lane::Control), AckDue::No, "nobody to tell");
}

#[test]
fn a_lost_link_sends_again_what_is_not_acknowledged_and_no_more_than_credit_allows() {
    let mut a = session(WINDOWS);
    submit(&mut a, 4);
    assert_eq!(a.room(Lane::Control), 4);
    a.link_up(FRESH, [2, 4, 4, 0, 0], WINDOWS).unwrap();
    assert_eq!(send_all(&mut a), [(1, true), (2, true)]);
    a.link_down();
    let mut expected = FRESH;
    expected[Lane::Control.index()] = Sequence(2);
    a.link_up(expected, WINDOWS, WINDOWS).unwrap();
    assert_eq!(send_all(&mut a), [(2, false), (3, true), (4, true)]);
}

#[test]
fn a_message_that_comes_again_is_not_delivered_again() {
    let mut a = session(WINDOWS);
    a.link_up(FRESH, WINDOWS, WINDOWS).unwrap();
    assert_eq!(a.receive(&header(1, 0, 8)), Ok(Disposition::Deliver));
    assert_eq!(a.receive(&header(1, 0, 8)), Ok(Disposition::Duplicate));
    assert_eq!(a.expected()[Lane::Control.index()], Sequence(2));
    assert_eq!(a.receive(&header(2, 0, 8)), Ok(Disposition::Deliver));
}

#[test]
fn one_header_may_acknowledge_many() {
    let mut a = session(WIDE);
    a.link_up(FRESH, WIDE, WIDE).unwrap();
    submit(&mut a, 40);
    assert_eq!(send_all(&mut a).len(), 40);
    a.receive(&header(0, 35, 64)).unwrap();
    assert_eq!((a.acknowledged(Lane::Control), a.unacknowledged()), (Sequence(35), 5));
}

#[test]
fn credits_that_come_late_change_nothing() {
    let mut a = session(WINDOWS);
    a.link_up(FRESH, WINDOWS, WINDOWS).unwrap();
    a.receive(&header(0, 0, 12)).unwrap();
    a.receive(&header(0, 0, 10)).unwrap();
    assert_eq!(a.numbers(Lane::Control).limit, 12);
}

#[test]
fn the_window_grows_with_the_receives_that_the_peer_posts() {
    let mut a = session(WINDOWS);
    a.link_up(FRESH, [20, 4, 4, 0, 0], WINDOWS).unwrap();
    assert_eq!(a.numbers(Lane::Control).window, 20);
    a.receive(&header(0, 0, 30)).unwrap();
    assert_eq!(a.numbers(Lane::Control).window, 30);
    submit(&mut a, 30);
    assert_eq!(send_all(&mut a).len(), 30);
    a.receive(&header(0, 30, 31)).unwrap();
    assert_eq!(a.numbers(Lane::Control).window, 30, "it does not shrink");
}

#[test]
fn an_acknowledgement_is_due_at_half_of_the_credits_or_when_the_peer_has_none_left() {
    let mut a = session(WINDOWS);
    a.link_up(FRESH, WINDOWS, WINDOWS).unwrap();
    let mut due = |sequence, posts: bool| {
        if sequence > 0 {
            a.receive(&header(sequence, 0, 8)).unwrap();
        }
        if posts {
            a.posted(Lane::Control);
        }
        let due = a.ack_due(Lane::Control);
        if due == AckDue::Now || sequence == 0 {
            let _ = a.ack_alone(Lane::Control);
        }
        due
    };
    assert_eq!(due(0, false), AckDue::No);
    assert_eq!([1, 2, 3, 4].map(|n| due(n, false)), {
        use AckDue::{Lazy, Now};
        [Lazy, Lazy, Lazy, Now]
    });
    assert_eq!(due(0, false), AckDue::No, "it has been told");
    assert_eq!([5, 6, 7].map(|n| due(n, false))[2], AckDue::Lazy);
    assert_eq!(due(0, false), AckDue::Lazy);
    assert_eq!(due(8, false), AckDue::Lazy, "no receive is posted that it could be told of");
    assert_eq!(due(0, false), AckDue::Lazy);
    assert_eq!(due(0, true), AckDue::Now, "one receive, but the peer knows of no other");
    assert_eq!(due(9, true), AckDue::Now, "again the only one");
    assert_eq!(due(0, true), AckDue::Lazy, "the peer has one left that it knows of");
}

#[test]
fn a_move_goes_on_after_what_was_acknowledged_since_it_was_agreed() {
    let mut a = session(WINDOWS);
    a.link_up(FRESH, WINDOWS, WINDOWS).unwrap();
    submit(&mut a, 3);
    assert_eq!(send_all(&mut a).len(), 3);
    a.receive(&header(0, 2, 8)).unwrap();
    a.move_to_link(FRESH, WINDOWS, WINDOWS).unwrap();
    assert_eq!(a.numbers(Lane::Control).sent, 0, "credit is the new link's");
    assert_eq!(send_all(&mut a), [(3, false)]);
}
