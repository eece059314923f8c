//! Lanes and credits (T4): no lane delays another's control messages, nothing deadlocks with every
//! credit used up, and the sums of credits and frames are what they are at every moment.

mod common;

use common::{
    FRAMES, Flow, Node, Random, assert_filled, assert_is, cluster, config, fill, introduce,
    link_all, number_of, numbered, proxy::Cutter, proxy::Proxy, pump, settle,
};
use pagewire_protocol::{Body, InstanceId, Lane, MessageKind};
use pagewire_transport::{EndpointConfig, Event, Frame, LaneCredits, Message, SendError};
use std::collections::VecDeque;

fn id(at: usize) -> InstanceId {
    InstanceId(u16::try_from(at + 1).unwrap())
}

// ---- one lane does not delay another -----------------------------------------------------------

/// Two linked nodes with so many credits for pages and bulk.
fn wide_pair(pages: u32, bulk: u32) -> Vec<Node> {
    let credits = LaneCredits([16, 8, 8, pages, bulk]);
    let frames = 4 * (pages + bulk) + 16;
    let nodes = [1, 2].map(|id| Node::new(EndpointConfig { credits, ..config(id) }, frames));
    let mut nodes = Vec::from(nodes);
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    nodes
}

/// Fills `lane` in both directions until it takes no more.
fn saturate(nodes: &mut [Node], lane: Lane) {
    for (from, to) in [(0, 1), (1, 0)] {
        while let Some(frame) = nodes[from].endpoint.arena().take() {
            let body = Body::new(&[0; 8]).unwrap();
            let page =
                Message { frame: Some(frame.freeze()), ..Message::new(MessageKind(200), body) };
            if nodes[from].endpoint.send(id(to), lane, page).is_err() {
                break;
            }
        }
    }
}

/// Drops what came of `lane`, and returns how much and whether something of the control lane came.
fn drain(node: &mut Node, lane: Lane) -> (u64, bool) {
    let (mut frames, mut control) = (0, false);
    for message in node.received.drain(..) {
        frames += u64::from(message.lane == lane);
        control |= message.lane == Lane::Control;
    }
    (frames, control)
}

/// `trips` round trips on the control lane, while `lane` is kept full in both directions. Returns,
/// for each way, how many frames of `lane` arrived before the control message that was sent behind
/// a whole window of them.
fn frames_before_control(nodes: &mut [Node], lane: Lane, trips: u64) -> Vec<u64> {
    let mut before = Vec::new();
    for trip in 0..2 * trips {
        let (from, to) = if trip % 2 == 0 { (0, 1) } else { (1, 0) };
        saturate(nodes, lane);
        assert!(nodes[from].endpoint.room(id(to), lane) == 0, "{lane:?} is not full");
        let message = Message::new(MessageKind(200), Body::new(&trip.to_le_bytes()).unwrap());
        nodes[from].endpoint.send(id(to), Lane::Control, message).unwrap();
        let mut frames = 0;
        pump(nodes, "the control message arrives", |nodes| {
            saturate(nodes, lane);
            drain(&mut nodes[from], lane);
            let (more, arrived) = drain(&mut nodes[to], lane);
            frames += more;
            arrived
        });
        before.push(frames);
    }
    before
}

#[test]
fn control_overtakes_a_bulk_lane_that_is_always_full() {
    const BULK: u32 = 128;
    let mut nodes = wide_pair(4, BULK);
    let before = frames_before_control(&mut nodes, Lane::Bulk, 200);
    let total: u64 = before.iter().sum();
    // Behind the window each of them would have seen up to 128 frames first. What they do see is
    // what one turn reads beside them.
    // (A soft device works its queue pairs off in turn.)
    let part = if common::verbs().is_some() { 2 } else { 4 };
    let limit = before.len() as u64 * u64::from(BULK) / part;
    assert!(total <= limit, "{total} frames in front of {} messages", before.len());
    let bulk = nodes[0].endpoint.peer_counters(id(1)).unwrap().lane(Lane::Bulk);
    assert!(bulk.sent.get() > 4 * u64::from(BULK), "the bulk lane stood still");
}

#[test]
fn control_waits_for_a_window_of_pages_at_the_most() {
    const PAGES: u32 = 24;
    let mut nodes = wide_pair(PAGES, 2);
    for frames in frames_before_control(&mut nodes, Lane::Pages, 200) {
        assert!(frames <= PAGES.into(), "{frames} pages in front of a control message");
    }
    let pages = nodes[0].endpoint.peer_counters(id(1)).unwrap().lane(Lane::Pages);
    assert!(pages.sent.get() > 100, "the pages lane stood still");
}

#[test]
fn control_goes_on_while_bulk_and_pages_have_no_credit_and_no_frame() {
    let mut nodes = cluster(2);
    // The receiver keeps every frame that comes, so that no receive can be posted again.
    let mut kept = Vec::new();
    let mut flow = Flow::new(0, 1);
    pump(&mut nodes, "no lane with frames has credit left", |nodes| {
        for lane in [Lane::Pages, Lane::Bulk] {
            flow.send(nodes, lane, u64::MAX);
        }
        kept.extend(nodes[1].received.drain(..));
        while nodes[1].endpoint.arena().free_frames() > 0 {
            kept.extend(nodes[1].endpoint.arena().take().map(empty));
        }
        [Lane::Pages, Lane::Bulk].iter().all(|&lane| {
            let state = nodes[1].endpoint.lane_state(id(0), lane).unwrap();
            state.owed == nodes[1].endpoint.config().credits.of(lane)
        })
    });
    let frames = || [Lane::Pages, Lane::Bulk].map(|lane| lane.index());
    let before = frames().map(|at| flow.sent[at]);
    for round in 1..=200 {
        let mut there = 0;
        for lane in [Lane::Control, Lane::Requests, Lane::Si] {
            flow.send(&mut nodes, lane, round);
        }
        pump(&mut nodes, "small messages pass", |nodes| {
            for lane in [Lane::Pages, Lane::Bulk] {
                flow.send(nodes, lane, u64::MAX);
            }
            there += nodes[1].received.drain(..).filter(|m| m.frame.is_none()).count();
            there == 3
        });
    }
    let window = nodes[1].endpoint.config().credits;
    let more = frames().map(|at| flow.sent[at]);
    for (at, lane) in [Lane::Pages, Lane::Bulk].into_iter().enumerate() {
        assert!(more[at] - before[at] <= window.of(lane).into(), "{lane:?} sent without credit");
    }
    assert_eq!(nodes[0].endpoint.counters().bad_input.get(), 0);
    // With its frames back it goes on where it stood.
    kept.clear();
    pump(&mut nodes, "the lanes with frames go on", |nodes| {
        for lane in [Lane::Pages, Lane::Bulk] {
            flow.send(nodes, lane, u64::MAX);
        }
        nodes[1].received.clear();
        flow.sent[Lane::Bulk.index()] > more[1] + 10
    });
}

/// A frame of the test's as a message, to be kept with those that came.
fn empty(frame: Frame) -> pagewire_transport::Received {
    pagewire_transport::Received {
        from: id(0),
        lane: Lane::Bulk,
        kind: MessageKind(200),
        epoch: pagewire_protocol::Epoch(0),
        body: Body::EMPTY,
        frame: Some(frame),
    }
}

// ---- no deadlock -------------------------------------------------------------------------------

#[test]
fn every_credit_of_every_lane_used_up_on_both_sides_at_once_is_no_deadlock() {
    let mut nodes = cluster(2);
    let mut flows = [Flow::new(0, 1), Flow::new(1, 0)];
    for _ in 0..20 {
        nodes.iter_mut().for_each(|node| node.taking = false);
        pump(&mut nodes, "both sides have used up every credit of every lane", |nodes| {
            flows.iter_mut().for_each(|flow| flow.send_all_lanes(nodes, u64::MAX));
            [(0, 1), (1, 0)].iter().all(|&(at, other)| {
                Lane::ALL.iter().all(|&lane| {
                    let state = nodes[at].endpoint.lane_state(id(other), lane).unwrap();
                    let window = nodes[at].endpoint.config().credits.of(lane);
                    state.session.sent == state.session.limit && state.untaken == window
                })
            })
        });
        // Both may go on only now, and each message is checked against the one before.
        nodes.iter_mut().for_each(|node| node.taking = true);
        let sent = flows.each_ref().map(|flow| flow.sent);
        pump(&mut nodes, "everything has arrived", |nodes| {
            flows.iter_mut().for_each(|flow| flow.take(nodes));
            flows.each_ref().map(|flow| flow.got) == sent
        });
    }
    settle(&mut nodes, 1);
    flows.iter_mut().for_each(|flow| flow.assert_all_credits_are_back(&mut nodes));
}

/// One instance of a ring: it asks the next one for pages; who is asked has the third ship them, as
/// a master has an owner. At most as many are asked for as pages may come from one peer.
struct Station {
    at: usize,
    asked: u64,
    got: u64,
    /// Work that had no credit yet; the number of requests bounds it.
    forward: VecDeque<u64>,
    ship: VecDeque<u64>,
    /// Frames that the station has to ship with: what it gets it uses again.
    pool: Vec<Frame>,
}

impl Station {
    fn step(&mut self, nodes: &mut [Node], last: u64) {
        let (next, before) = ((self.at + 1) % 3, (self.at + 2) % 3);
        let credits = nodes[self.at].endpoint.config().credits;
        let outstanding_max = u64::from(credits.of(Lane::Pages));
        while let Some(message) = nodes[self.at].received.pop_front() {
            let number = number_of(&message.body);
            match message.lane {
                Lane::Requests => self.forward.push_back(number),
                Lane::Control => self.ship.push_back(number),
                _ => {
                    self.got += 1;
                    assert_eq!(number, self.got, "pages of one shipper come in order");
                    let frame = message.frame.unwrap();
                    assert_filled(&frame, number);
                    self.pool.push(frame);
                }
            }
        }
        assert!(
            self.forward.len() + self.ship.len() <= 2 * usize::try_from(outstanding_max).unwrap()
        );
        let endpoint = &mut nodes[self.at].endpoint;
        while self.asked < last && self.asked - self.got < outstanding_max {
            let request = Message::new(MessageKind(200), body(self.asked + 1));
            if endpoint.send(id(next), Lane::Requests, request).is_err() {
                break;
            }
            self.asked += 1;
        }
        // Asked by the one before: the one after is to ship it there.
        while let Some(&number) = self.forward.front() {
            let order = Message::new(MessageKind(201), body(number));
            if endpoint.send(id(next), Lane::Control, order).is_err() {
                break;
            }
            self.forward.pop_front();
        }
        // Told by the one before, for the one before that: the one after.
        let requester = (before + 2) % 3;
        while let Some(&number) = self.ship.front() {
            let Some(mut frame) = self.pool.pop().or_else(|| endpoint.arena().take()) else {
                break;
            };
            fill(&mut frame, number);
            let frame = Some(frame.freeze());
            let page = Message { frame, ..Message::new(MessageKind(202), body(number)) };
            match endpoint.send(id(requester), Lane::Pages, page) {
                Ok(()) => drop(self.ship.pop_front()),
                Err(error @ SendError::NoCredit(_)) => {
                    let frame = error.into_message().frame.unwrap();
                    self.pool.push(frame.try_thaw().expect("the only handle"));
                    break;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

fn body(number: u64) -> Body {
    Body::new(&number.to_le_bytes()).unwrap()
}

/// Three instances in a ring, saturated, until each has `pages` pages; every other lane is saturated
/// too where `flood` says so. Each keeps `reserve` of its `frames` frames for shipping.
fn ring(frames: u32, reserve: usize, flood: bool, pages: u64) -> Vec<Node> {
    let mut nodes: Vec<_> = (1..=3).map(|id| Node::new(config(id), frames)).collect();
    let mut stations: Vec<_> = (0..3)
        .map(|at| Station {
            at,
            asked: 0,
            got: 0,
            forward: VecDeque::new(),
            ship: VecDeque::new(),
            pool: (0..reserve).map_while(|_| nodes[at].endpoint.arena().take()).collect(),
        })
        .collect();
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        introduce(&mut nodes, one, other);
    }
    link_all(&mut nodes);
    let ways = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)];
    let mut floods: Vec<_> = ways.iter().map(|&(from, to)| Flow::new(from, to)).collect();
    pump(&mut nodes, "every instance of the ring has its pages", |nodes| {
        if flood {
            for flow in &mut floods {
                flow.send(nodes, Lane::Si, u64::MAX);
                flow.send(nodes, Lane::Bulk, u64::MAX);
            }
        }
        for node in nodes.iter_mut() {
            node.received.retain(|message| !matches!(message.lane, Lane::Si | Lane::Bulk));
        }
        stations.iter_mut().for_each(|station| station.step(nodes, pages));
        stations.iter().all(|station| station.got == pages)
    });
    nodes
}

#[test]
fn a_ring_of_three_that_answer_for_each_other_does_not_deadlock_when_saturated() {
    let mut nodes = ring(FRAMES, 0, false, 2000);
    settle(&mut nodes, 2);
    let nodes = ring(FRAMES, 0, true, 2000);
    let si = nodes[0].endpoint.peer_counters(id(1)).unwrap().lane(Lane::Si).sent.get();
    assert!(si > 1000, "the other lanes stood still: {si}");
}

#[test]
fn a_ring_with_too_few_frames_for_its_receives_does_not_deadlock() {
    // Receives for two peers take 2 x (4 + 2) frames, and two are kept to ship with. What is posted on
    // lanes that are quiet here, 4 + 2 x 2 frames, does not come back; so one receive is left for
    // the pages at the least, and it and the two have to go round.
    for frames in [11, 12, 13] {
        let nodes = ring(frames, 2, false, 300);
        for node in &nodes {
            assert!(node.endpoint.counters().out_of_frames.get() > 0, "{frames} were enough");
            assert_eq!(node.endpoint.counters().bad_input.get(), 0);
            assert!(!node.has_event(|event| matches!(event, Event::Down { .. })));
        }
    }
}

#[test]
fn a_busy_peer_does_not_keep_every_frame_from_another_one() {
    // Enough for the receives of one peer, and that one sends without end.
    let mut nodes: Vec<_> = (1..=3).map(|id| Node::new(config(id), FRAMES)).collect();
    nodes[0] = Node::new(config(1), 6);
    introduce(&mut nodes, 0, 1);
    pump(&mut nodes, "the first is linked", |nodes| nodes[0].is_linked(2) && nodes[1].is_linked(1));
    introduce(&mut nodes, 0, 2);
    pump(&mut nodes, "the second is linked", |nodes| {
        nodes[0].is_linked(3) && nodes[2].is_linked(1)
    });
    assert!(nodes[0].endpoint.lane_state(id(2), Lane::Pages).unwrap().owed > 0);
    let (mut busy, mut other) = (Flow::new(1, 0), Flow::new(2, 0));
    pump(&mut nodes, "both have delivered", |nodes| {
        for flow in [&mut busy, &mut other] {
            flow.send(nodes, Lane::Pages, u64::MAX);
            flow.send(nodes, Lane::Bulk, u64::MAX);
            flow.take(nodes);
        }
        [&busy, &other].iter().all(|flow| [3, 4].iter().all(|&lane: &usize| flow.got[lane] >= 50))
    });
}

#[test]
fn lanes_and_peers_that_are_quiet_do_not_keep_the_last_frames_from_a_busy_one() {
    let wide = |id| EndpointConfig { credits: LaneCredits::default(), ..config(id) };
    // From the fewest that there may be, to more than the receives of one peer.
    for frames in [4, 5, 8, 16, 41] {
        let mut nodes: Vec<_> = (1..=3).map(|id| Node::new(wide(id), 512)).collect();
        nodes[0] = Node::new(wide(1), frames);
        introduce(&mut nodes, 0, 1);
        introduce(&mut nodes, 0, 2);
        pump(&mut nodes, "both are linked", |nodes| {
            nodes[0].is_linked(2) && nodes[0].is_linked(3) && nodes[1].is_linked(1)
        });
        // Bulk of the one and all of the other stay quiet.
        let mut busy = Flow::new(1, 0);
        pump(&mut nodes, "all pages have arrived", |nodes| {
            busy.send(nodes, Lane::Pages, 500);
            busy.take(nodes);
            busy.got[Lane::Pages.index()] == 500
        });
        let mut other = Flow::new(2, 0);
        pump(&mut nodes, "the quiet one's turn has come", |nodes| {
            other.send(nodes, Lane::Bulk, 50);
            other.take(nodes);
            other.got[Lane::Bulk.index()] == 50
        });
    }
}

#[test]
fn a_peer_that_no_frame_is_left_for_is_refused_with_what_it_takes() {
    let mut node = Node::new(EndpointConfig { credits: LaneCredits::default(), ..config(1) }, 3);
    node.knows(2, common::nobody());
    let refused = node.endpoint.add_peer(id(3), common::nobody()).unwrap_err().to_string();
    for part in ["3 frames for 2 peers", "at least 4", "and 160 to", "larger arena"] {
        assert!(refused.contains(part), "{refused:?} lacks {part:?}");
    }
}

// ---- sums --------------------------------------------------------------------------------------

/// For what `from` sends to `to` on `lane`: each term is a small number, and they add up.
fn assert_credits(nodes: &[Node], from: usize, to: usize, lane: Lane) {
    let window = nodes[to].endpoint.config().credits.of(lane);
    let ours = nodes[from].endpoint.lane_state(id(to), lane).unwrap();
    let theirs = nodes[to].endpoint.lane_state(id(from), lane).unwrap();
    let left = ours.session.limit.wrapping_sub(ours.session.sent);
    let moving = ours.session.sent.wrapping_sub(theirs.session.received);
    let returning = theirs.session.posted.wrapping_sub(ours.session.limit);
    let terms = [left, moving, returning, theirs.untaken, theirs.owed];
    let context = || format!("{from} to {to} on {lane:?}: {terms:?}\n{ours:?}\n{theirs:?}");
    // Those that are differences modulo 2^32 would be far greater if they were negative.
    assert!(terms.iter().all(|&term| term <= window), "{}", context());
    assert_eq!(terms.iter().sum::<u32>(), window, "{}", context());
    assert!(ours.session.kept <= ours.session.window, "{}", context());
    // Over verbs the credits of a new link may follow it.
    let to_come = if common::verbs().is_some() { window } else { 0 };
    assert!(ours.session.waiting <= left + to_come, "{}", context());
}

/// Every frame of the arena is in one of the places it can be in.
fn assert_frames(nodes: &[Node], at: usize, peers: &[usize], held: usize) {
    let node = &nodes[at];
    let mut posted = 0;
    let mut waiting = 0;
    let mut in_sessions = 0;
    for &peer in peers {
        for lane in [Lane::Pages, Lane::Bulk] {
            let state = node.endpoint.lane_state(id(peer), lane).unwrap();
            posted += state.session.posted.wrapping_sub(state.session.received);
            waiting += state.untaken + state.stale;
            in_sessions += state.session.kept;
        }
    }
    let free = node.endpoint.arena().free_frames();
    let held = u32::try_from(held).unwrap();
    let sum = free + posted + waiting + in_sessions + held;
    let terms = [free, posted, waiting, in_sessions, held];
    assert_eq!(sum, node.endpoint.arena().frames(), "instance {at}: {terms:?}");
}

/// Random sends, polls, takes, and keeps in a cluster of `count`, with the sums checked after each: until
/// they were looked at in so many steps, a message has arrived for each four of them, and
/// `now_and_then`, which is told how many have, says that it is enough. How many steps that takes
/// depends on when what carries the messages is given a core.
fn random_load(
    nodes: &mut [Node],
    seed: u64,
    steps: u64,
    mut now_and_then: impl FnMut(&[Node], u64) -> bool,
) {
    let mut random = Random::new(seed);
    let count = nodes.len();
    let mut held: Vec<Vec<Frame>> = nodes.iter().map(|_| Vec::new()).collect();
    let mut sent = vec![[0_u64; Lane::COUNT]; count * count];
    let mut got = sent.clone();
    let wanted = steps * count as u64 * (count as u64 - 1);
    let (mut checked, mut arrived, mut is_enough) = (0, 0, false);
    let deadline = std::time::Instant::now() + common::PATIENCE;
    let mut step = 0;
    while checked < wanted || arrived <= steps / 4 || !is_enough {
        step += 1;
        let late = std::time::Instant::now() >= deadline;
        assert!(
            !late,
            "{step} steps: {checked} of {wanted} sums, {arrived} arrived, enough: {is_enough}"
        );
        let below = |random: &mut Random, limit: usize| {
            usize::try_from(random.below(limit as u64)).unwrap()
        };
        let at = below(&mut random, count);
        let other = (at + 1 + below(&mut random, count - 1)) % count;
        let lane = Lane::ALL[below(&mut random, Lane::COUNT)];
        match random.below(10) {
            0..=3 => {
                for _ in 0..random.below(12) {
                    let number = sent[at * count + other][lane.index()] + 1;
                    let Some(message) = numbered(nodes[at].endpoint.arena(), lane, number) else {
                        break;
                    };
                    if nodes[at].endpoint.send(id(other), lane, message).is_err() {
                        break;
                    }
                    sent[at * count + other][lane.index()] = number;
                }
            }
            4..=6 => drop(nodes[at].endpoint.poll()),
            // Without a link what has come stays, and is stale on the next one.
            7 | 8 if nodes[at].is_linked(id(other).0) => {
                for _ in 0..random.below(20) {
                    let Some(Event::Message(message)) = nodes[at].endpoint.next_event() else {
                        break;
                    };
                    let from = usize::from(message.from.0 - 1);
                    let got = &mut got[from * count + at][message.lane.index()];
                    *got += 1;
                    assert_eq!(number_of(&message.body), *got, "{:?} of {from}", message.lane);
                    arrived += 1;
                    held[at].extend(message.frame);
                }
            }
            _ => {
                let keep = below(&mut random, 8);
                held[at].truncate(keep);
            }
        }
        if step % 100 == 0 {
            is_enough = now_and_then(nodes, arrived);
        }
        let all = 0..count;
        let linked = |at: usize| all.clone().all(|p| p == at || nodes[at].is_linked(id(p).0));
        for at in all.clone().filter(|&at| linked(at)) {
            let peers: Vec<_> = all.clone().filter(|&peer| peer != at).collect();
            assert_frames(nodes, at, &peers, held[at].len());
            for &peer in &peers {
                assert_receives(nodes, at, peer);
                if same_link(nodes, at, peer) {
                    Lane::ALL.into_iter().for_each(|lane| assert_credits(nodes, at, peer, lane));
                    checked += 1;
                }
            }
        }
    }
}

/// Every receive that is configured is posted, waits for the owner, or for a frame.
fn assert_receives(nodes: &[Node], at: usize, peer: usize) {
    for lane in Lane::ALL {
        let state = nodes[at].endpoint.lane_state(id(peer), lane).unwrap();
        let posted = state.session.posted.wrapping_sub(state.session.received);
        let window = nodes[at].endpoint.config().credits.of(lane);
        assert_eq!(posted + state.untaken + state.owed, window, "{lane:?} {state:?}");
    }
}

/// Both ends have had as many links, so that their numbers are of the same one.
fn same_link(nodes: &[Node], at: usize, peer: usize) -> bool {
    let links = |at: usize, peer: usize| {
        let counters = nodes[at].endpoint.peer_counters(id(peer)).unwrap();
        (counters.links_up.get(), counters.links_down.get())
    };
    nodes[peer].is_linked(id(at).0) && links(at, peer) == links(peer, at)
}

#[test]
fn credits_and_frames_add_up_at_every_moment_of_a_random_load() {
    for seed in 1..=4 {
        let mut nodes = cluster(3);
        settle(&mut nodes, 2);
        random_load(&mut nodes, seed, 6000, |_, _| true);
    }
}

#[test]
fn credits_and_frames_add_up_with_too_few_frames() {
    for (seed, frames) in [(5, 13), (6, 16), (7, 20)] {
        let mut nodes: Vec<_> = (1..=2).map(|id| Node::new(config(id), frames)).collect();
        introduce(&mut nodes, 0, 1);
        link_all(&mut nodes);
        random_load(&mut nodes, seed, 6000, |_, _| true);
    }
}

#[test]
fn credits_and_frames_add_up_across_links_that_are_cut() {
    let mut nodes = Vec::from([1, 2].map(|id| Node::new(config(id), FRAMES)));
    let cutter = Cutter::new();
    let proxies = [0, 1].map(|at| Proxy::new(nodes[at].address(), &cutter));
    nodes[0].knows(2, proxies[1].address);
    nodes[1].knows(1, proxies[0].address);
    link_all(&mut nodes);
    let waiting_max: u64 = common::CREDITS.0.into_iter().map(u64::from).sum();
    let (mut turn, mut arrived_before) = (0, 0);
    random_load(&mut nodes, 8, 20_000, |nodes, arrived| {
        turn += u64::from(nodes.iter().all(|node| node.may_send_to(3 - node.id().0)));
        // More than can have waited at the last cut: each link has carried something, whatever the
        // threads of the proxies are given.
        if turn >= 10 && arrived > arrived_before + 2 * waiting_max {
            (turn, arrived_before) = (0, arrived);
            cutter.cut();
        }
        cutter.cuts.load(std::sync::atomic::Ordering::SeqCst) > 5
    });
}

#[test]
fn a_message_that_is_refused_for_want_of_credit_is_the_one_that_was_given() {
    let mut nodes = cluster(2);
    let mut flow = Flow::new(0, 1);
    nodes[1].taking = false;
    flow.send_all_lanes(&mut nodes, u64::MAX);
    for lane in Lane::ALL {
        assert_eq!(nodes[0].endpoint.room(id(1), lane), 0, "{lane:?}");
        let number = flow.sent[lane.index()] + 1;
        let message = numbered(nodes[0].endpoint.arena(), lane, number).unwrap();
        let refused = nodes[0].endpoint.send(id(1), lane, message).unwrap_err();
        assert_is(&refused.into_message(), lane, number);
    }
}
