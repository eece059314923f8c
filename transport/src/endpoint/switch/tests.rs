//! Two ends with real sessions, between them a TCP connection in order and queue pairs that fail at
//! any moment and take with them what was under way.

use super::*;
use crate::{
    Message,
    session::{AckDue, Disposition, Session},
};
use pagewire_protocol::{Body, InstanceId, Lane, LaneClass, MessageKind, Sequence, SessionHeader};
use proptest::prelude::*;
use std::collections::VecDeque;

const CREDITS: [u32; Lane::COUNT] = [8, 4, 4, 0, 0];
const LANES: [Lane; 3] = [Lane::Control, Lane::Requests, Lane::Si];

#[derive(Debug)]
enum OnTcp {
    Message(SessionHeader, Option<u64>),
    Control(LinkControl),
}

#[derive(Debug)]
struct End {
    session: Session,
    switch: Switch,
    on: LinkKind,
    held: bool,
    /// The attempt whose queue pairs it has.
    queue_pairs: Option<u32>,
    untaken: Vec<Lane>,
    submitted: [u64; Lane::COUNT],
    delivered: [u64; Lane::COUNT],
    moves: u32,
}

impl End {
    fn new(me: usize) -> Self {
        let id = |end: usize| InstanceId(u16::try_from(end).unwrap());
        Self {
            session: Session::new(id(me), id(1 - me), CREDITS),
            switch: Switch::new(me == 1, true, Instant::now()),
            on: LinkKind::Tcp,
            held: false,
            queue_pairs: None,
            untaken: Vec::new(),
            submitted: [0; Lane::COUNT],
            delivered: [0; Lane::COUNT],
            moves: 0,
        }
    }

    fn receive(&mut self, header: &SessionHeader, number: Option<u64>) {
        match self.session.receive(header).expect("a correct peer") {
            Disposition::Deliver => {
                let lane = header.lane.index();
                self.delivered[lane] += 1;
                assert_eq!(number, Some(self.delivered[lane]), "lost, doubled or out of order");
                self.untaken.push(header.lane);
            }
            Disposition::Duplicate => self.session.posted(header.lane),
            Disposition::AckOnly => assert_eq!(number, None),
        }
    }
}

struct Pair {
    ends: [End; 2],
    /// What end 0 and end 1 have sent.
    tcp: [VecDeque<OnTcp>; 2],
    verbs: [VecDeque<(SessionHeader, Option<u64>)>; 2],
    now: Instant,
    /// The next queue pairs cannot be made (or connected).
    refuse_make: bool,
    refuse_connect: bool,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            ends: [End::new(0), End::new(1)],
            tcp: Default::default(),
            verbs: Default::default(),
            now: Instant::now(),
            refuse_make: false,
            refuse_connect: false,
        };
        pair.tcp_link_up();
        pair
    }

    /// A new TCP link; the one before is gone with everything on it, and so are the queue pairs.
    fn tcp_link_up(&mut self) {
        self.tcp = Default::default();
        self.verbs = Default::default();
        let expected = [0, 1].map(|end: usize| self.ends[end].session.expected());
        for (me, end) in self.ends.iter_mut().enumerate() {
            end.session.link_down();
            end.session.link_up(expected[1 - me], CREDITS, CREDITS).expect("a true statement");
            end.switch = Switch::new(me == 1, true, self.now);
            (end.on, end.held, end.queue_pairs) = (LinkKind::Tcp, false, None);
            end.untaken.clear();
        }
    }

    fn queue_pairs(attempt: u32) -> QueuePairs {
        let numbers = [attempt; LaneClass::COUNT];
        QueuePairs { mtu: 3, lid: 0, gid: [0; 16], numbers, first_packets: numbers }
    }

    fn close(&mut self, me: usize) {
        if self.ends[me].queue_pairs.take().is_some() {
            // What had arrived is taken; what comes later is lost.
            let arrived: Vec<_> = self.verbs[1 - me].drain(..).collect();
            if self.ends[me].on == LinkKind::Verbs {
                for (header, number) in arrived {
                    self.ends[me].receive(&header, number);
                }
            }
        }
    }

    fn run(&mut self, me: usize, steps: Vec<Step>) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            let mut more = Vec::new();
            match step {
                Step::Say(said) => self.tcp[me].push_back(OnTcp::Control(said)),
                Step::Make => {
                    let attempt = self.ends[me].switch.attempt;
                    let made = if self.refuse_make {
                        Err(TcpReason::Setup)
                    } else {
                        self.ends[me].queue_pairs = Some(attempt);
                        Ok(Self::queue_pairs(attempt))
                    };
                    self.ends[me].switch.made(made, self.now, &mut more);
                }
                Step::Connect(theirs) => {
                    assert_eq!(Some(theirs.numbers[0]), self.ends[me].queue_pairs);
                    let connected =
                        if self.refuse_connect { Err(TcpReason::Setup) } else { Ok(()) };
                    self.ends[me].switch.connected(connected, self.now, &mut more);
                }
                Step::Close => self.close(me),
                Step::Hold => self.ends[me].held = true,
                Step::Release => self.ends[me].held = false,
                Step::SaySwitch { attempt, to, .. } => {
                    assert!(self.ends[me].held);
                    let expected = self.ends[me].session.expected();
                    let statement = Statement { expected, credits: CREDITS };
                    let said = LinkControl::Switch { attempt, to, statement };
                    self.tcp[me].push_back(OnTcp::Control(said));
                }
                Step::Move(to, theirs) => {
                    let end = &mut self.ends[me];
                    assert_ne!(end.on, to, "moves to where it is");
                    assert_eq!(to == LinkKind::Verbs, end.queue_pairs.is_some());
                    let moved = end.session.move_to_link(theirs.expected, theirs.credits, CREDITS);
                    moved.expect("a true statement");
                    end.untaken.clear();
                    (end.on, end.held) = (to, false);
                    end.moves += 1;
                }
                Step::OnTcp { .. } => {}
            }
            // What follows from a step comes before the steps behind it.
            for step in more.into_iter().rev() {
                steps.push_front(step);
            }
        }
    }

    fn with(
        &mut self,
        me: usize,
        act: impl FnOnce(&mut Switch, Instant, &mut Vec<Step>) -> Result<(), SwitchError>,
    ) {
        let mut steps = Vec::new();
        match act(&mut self.ends[me].switch, self.now, &mut steps) {
            Ok(()) => self.run(me, steps),
            Err(SwitchError::Stuck { .. }) => self.tcp_link_up(),
            Err(error) => panic!("{error}"),
        }
        let end = &mut self.ends[me];
        if end.switch.wants_drained() && end.session.is_settled() {
            let mut steps = Vec::new();
            end.switch.drained(self.now, &mut steps);
            self.run(me, steps);
        }
    }

    fn look(&mut self, me: usize) {
        self.with(me, |_, _, _| Ok(()));
    }

    fn submit(&mut self, me: usize, lane: Lane) {
        let end = &mut self.ends[me];
        let number = end.submitted[lane.index()] + 1;
        let body = Body::new(&number.to_le_bytes()).unwrap();
        if end.session.submit(lane, Message::new(MessageKind(9), body)).is_ok() {
            end.submitted[lane.index()] = number;
        }
    }

    fn transmit(&mut self, me: usize, lane: Lane) {
        let end = &mut self.ends[me];
        let next = if end.held { None } else { end.session.next_outgoing(lane) };
        let (header, number) = if let Some((header, message)) = next {
            let number = u64::from_le_bytes(message.body.as_slice().try_into().unwrap());
            end.session.transmitted(lane);
            (header, Some(number))
        } else if end.session.ack_due(lane) != AckDue::No {
            (end.session.ack_alone(lane), None)
        } else {
            return;
        };
        match end.on {
            LinkKind::Tcp => self.tcp[me].push_back(OnTcp::Message(header, number)),
            LinkKind::Verbs => {
                // Into nothing, if either end has closed.
                let attempts = [0, 1].map(|end: usize| self.ends[end].queue_pairs);
                if attempts[0].is_some() && attempts[0] == attempts[1] {
                    self.verbs[me].push_back((header, number));
                }
            }
        }
    }

    fn arrive_tcp(&mut self, from: usize) {
        let me = 1 - from;
        match self.tcp[from].pop_front() {
            Some(OnTcp::Control(said)) => {
                // As it would come from the wire.
                let said = LinkControl::decode(said.encode().as_slice()).unwrap();
                self.with(me, |switch, now, steps| switch.heard(said, now, steps));
            }
            Some(OnTcp::Message(header, number)) if self.ends[me].on == LinkKind::Tcp => {
                self.ends[me].receive(&header, number);
            }
            Some(OnTcp::Message(_, number)) => {
                assert_eq!(number, None, "a message on TCP after the switch to verbs");
            }
            None => {}
        }
        self.look(me);
    }

    fn arrive_verbs(&mut self, from: usize) {
        let me = 1 - from;
        if self.ends[me].on == LinkKind::Verbs
            && let Some((header, number)) = self.verbs[from].pop_front()
        {
            self.ends[me].receive(&header, number);
        }
    }

    fn take(&mut self, me: usize) {
        if let Some(lane) = self.ends[me].untaken.pop() {
            self.ends[me].session.posted(lane);
        }
    }

    fn fail(&mut self, me: usize) {
        if self.ends[me].queue_pairs.is_some() {
            self.with(me, |switch, now, steps| {
                switch.failed(now, steps);
                Ok(())
            });
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for me in 0..2 {
            self.with(me, Switch::tick);
        }
    }

    fn step(&mut self, action: u32, me: usize, lane: Lane) {
        match action {
            0..=19 => self.submit(me, lane),
            20..=44 => self.transmit(me, lane),
            45..=64 => self.arrive_tcp(me),
            65..=79 => self.arrive_verbs(me),
            80..=91 => self.take(me),
            92..=94 => self.pass(Duration::from_millis(700)),
            95 => self.pass(Duration::from_secs(6)),
            96 | 97 => self.fail(me),
            98 => self.refuse_make = !self.refuse_make,
            _ if lane == Lane::Si => self.tcp_link_up(),
            _ => self.refuse_connect = !self.refuse_connect,
        }
    }

    /// Without further trouble, until everything has arrived and both are on verbs.
    fn heal(&mut self) {
        (self.refuse_make, self.refuse_connect) = (false, false);
        for turn in 0..200_000 {
            for me in 0..2 {
                for lane in LANES {
                    self.transmit(me, lane);
                }
                self.arrive_tcp(me);
                self.arrive_verbs(me);
                self.take(me);
            }
            if turn % 16 == 0 {
                self.pass(Duration::from_millis(50));
            }
            let done = (0..2).all(|me| {
                let (end, other) = (&self.ends[me], &self.ends[1 - me]);
                end.on == LinkKind::Verbs
                    && end.submitted == other.delivered
                    && end.session.unacknowledged() == 0
            });
            if done {
                return;
            }
        }
        panic!("it does not heal: {:#?}", self.ends);
    }
}

#[test]
fn both_move_to_verbs_back_to_tcp_when_it_fails_and_up_again() {
    for fails_first in 0..2 {
        let mut pair = Pair::new();
        pair.heal();
        for lane in LANES {
            pair.submit(0, lane);
            pair.submit(1, lane);
            pair.transmit(0, lane);
            pair.transmit(1, lane);
        }
        pair.fail(fails_first);
        assert!(pair.ends[fails_first].held);
        pair.arrive_tcp(fails_first);
        assert_eq!(pair.ends[1 - fails_first].on, LinkKind::Tcp, "it follows at once");
        pair.heal();
        assert_eq!([0, 1].map(|me: usize| pair.ends[me].moves), [3, 3]);
        pair.fail(0);
        pair.fail(1);
        pair.heal();
        assert_eq!([0, 1].map(|me: usize| pair.ends[me].moves), [5, 5], "both at once");
    }
}

#[test]
fn an_end_without_verbs_declines_and_messages_go_on() {
    let mut pair = Pair::new();
    pair.refuse_make = true;
    for _ in 0..50 {
        pair.pass(Duration::from_secs(1));
        pair.submit(0, Lane::Control);
        for me in [0, 1, 0, 1] {
            pair.transmit(me, Lane::Control);
            pair.arrive_tcp(me);
            pair.arrive_tcp(me);
            pair.take(me);
        }
        assert!(!pair.ends[0].held && !pair.ends[1].held);
    }
    assert_eq!(pair.ends[1].delivered[0], 50);
    // 1, 2, 4, ... seconds apart.
    assert!(pair.ends[1].switch.attempt <= 6, "{} tries", pair.ends[1].switch.attempt);
    pair.heal();
}

#[test]
fn an_end_that_does_not_go_on_is_given_up_before_the_switch_and_cut_off_after_it() {
    let now = Instant::now();
    let mut steps = Vec::new();
    let mut leader = Switch::new(true, true, now);
    leader.tick(now, &mut steps).unwrap();
    leader.made(Ok(Pair::queue_pairs(1)), now, &mut steps);
    steps.clear();
    leader.tick(now + STEP_MAX, &mut steps).unwrap();
    let reason = TcpReason::Timeout;
    assert_eq!(steps[0], Step::Say(LinkControl::Decline { attempt: 1, reason }));
    assert!(steps.contains(&Step::Close) && steps.contains(&Step::Release));

    let mut leader = Switch::new(true, true, now);
    leader.tick(now, &mut steps).unwrap();
    leader.connected(Ok(()), now, &mut steps);
    leader.drained(now, &mut steps);
    let stuck = leader.tick(now + SWITCH_MAX, &mut steps).unwrap_err();
    assert!(stuck.to_string().contains("did not move to verbs within 15000 ms"), "{stuck}");
}

#[test]
fn what_does_not_fit_is_an_error_that_says_where_this_end_was() {
    let now = Instant::now();
    let queue_pairs = Pair::queue_pairs(1);
    let statement = Statement { expected: Default::default(), credits: CREDITS };
    let statement = Statement {
        expected: statement
            .expected
            .map(|_: pagewire_protocol::Sequence| pagewire_protocol::Sequence(1)),
        ..statement
    };
    let to_verbs = LinkControl::Switch { attempt: 0, to: LinkKind::Verbs, statement };
    let to_tcp = LinkControl::Switch { attempt: 0, to: LinkKind::Tcp, statement };
    let of_another = LinkControl::Switch { attempt: 9, to: LinkKind::Verbs, statement };
    let accept = LinkControl::Accept { attempt: 1, queue_pairs };
    let offer = LinkControl::Offer { attempt: 1, queue_pairs };
    for (leads, said) in [
        (true, offer),
        (true, accept),
        (true, to_verbs),
        (true, to_tcp),
        (true, of_another),
        (false, accept),
        (false, to_tcp),
        (false, of_another),
    ] {
        let mut switch = Switch::new(leads, true, now);
        let mut steps = Vec::new();
        let error = switch.heard(said, now, &mut steps).unwrap_err();
        assert!(error.to_string().contains("while this end was on TCP"), "{error}");
        assert!(steps.is_empty());
    }
}

#[test]
fn a_leader_whose_switch_is_declined_stays_on_tcp_and_goes_on_at_once() {
    let now = Instant::now();
    let mut steps = Vec::new();
    let mut leader = Switch::new(true, true, now);
    leader.tick(now, &mut steps).unwrap();
    leader.connected(Ok(()), now, &mut steps);
    leader.drained(now, &mut steps);
    steps.clear();
    let reason = TcpReason::Timeout;
    leader.heard(LinkControl::Decline { attempt: 1, reason }, now, &mut steps).unwrap();
    let told = Step::OnTcp { reason, theirs: true };
    assert_eq!(steps, [Step::Close, Step::Release, told]);
    assert_eq!(leader.next_tick(), Some(now + RETRY_FIRST), "and offers again later");
}

#[test]
fn queue_pairs_that_fail_before_the_session_is_on_them_are_left_at_once() {
    let now = Instant::now();
    let mut steps = Vec::new();
    let mut leader = Switch::new(true, true, now);
    leader.tick(now, &mut steps).unwrap();
    leader.connected(Ok(()), now, &mut steps);
    leader.drained(now, &mut steps);
    steps.clear();
    // Its own switch is said, and holds until the other one is there. Nobody tells of it again.
    leader.failed(now, &mut steps);
    assert_eq!(steps, []);
    let statement = Statement { expected: [Sequence(1); Lane::COUNT], credits: [8; Lane::COUNT] };
    let said = |to| LinkControl::Switch { attempt: 1, to, statement };
    leader.heard(said(LinkKind::Verbs), now, &mut steps).unwrap();
    let back = Step::SaySwitch { attempt: 1, to: LinkKind::Tcp, tcp_still_receives: false };
    let told = Step::OnTcp { reason: TcpReason::Failed, theirs: false };
    let moved = Step::Move(LinkKind::Verbs, statement);
    assert_eq!(steps, [moved, Step::Hold, Step::Close, back, told]);
    steps.clear();
    leader.heard(said(LinkKind::Tcp), now, &mut steps).unwrap();
    assert_eq!(steps, [Step::Move(LinkKind::Tcp, statement)]);
    // The next attempt begins anew.
    let mut later = Vec::new();
    leader.tick(now + RETRY_FIRST, &mut later).unwrap();
    leader.connected(Ok(()), now, &mut later);
    leader.drained(now, &mut later);
    later.clear();
    let said = LinkControl::Switch { attempt: 2, to: LinkKind::Verbs, statement };
    leader.heard(said, now, &mut later).unwrap();
    assert_eq!(later, [Step::Move(LinkKind::Verbs, statement)]);
}

#[test]
fn a_follower_learns_why_its_leader_does_not_offer() {
    let now = Instant::now();
    let (mut said, mut steps) = (Vec::new(), Vec::new());
    let mut leader = Switch::new(true, true, now);
    leader.tick(now, &mut said).unwrap();
    leader.made(Err(TcpReason::NoDevice), now, &mut said);
    let decline = said.iter().find_map(|step| match step {
        Step::Say(said) => Some(*said),
        _ => None,
    });
    let mut follower = Switch::new(false, true, now);
    follower.heard(decline.unwrap(), now, &mut steps).unwrap();
    assert_eq!(steps, [Step::OnTcp { reason: TcpReason::NoDevice, theirs: true }]);
}

#[test]
fn an_offer_is_answered_once() {
    let now = Instant::now();
    let mut steps = Vec::new();
    let mut follower = Switch::new(false, true, now);
    let offer = |attempt| LinkControl::Offer { attempt, queue_pairs: Pair::queue_pairs(attempt) };
    follower.heard(offer(2), now, &mut steps).unwrap();
    follower.made(Err(TcpReason::Setup), now, &mut steps);
    assert!(follower.heard(offer(2), now, &mut steps).is_err(), "the same again");
    assert!(follower.heard(offer(1), now, &mut steps).is_err(), "an earlier one");
    assert!(follower.heard(offer(3), now, &mut steps).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nothing_is_lost_doubled_or_reordered_whatever_fails_when(
        steps in proptest::collection::vec((0u32..100, 0usize..2, 0usize..3), 1..1500)
    ) {
        let mut pair = Pair::new();
        for (action, me, lane) in steps {
            pair.step(action, me, LANES[lane]);
        }
        pair.heal();
    }
}
