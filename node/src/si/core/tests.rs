//! Cores of several instances, with lanes that overtake each other, and a membership that changes.

use super::{Batch, Effect, FRAMES_UNDER_WAY_MAX, Odd, SiCore, UNDER_WAY_MAX};
use crate::{
    random::Random,
    view::{Life, Member, View},
};
use pagewire_protocol::{
    Epoch, Incarnation, InstanceId,
    si::wire::{SiAck, SiBegin},
};
use proptest::prelude::*;
use std::collections::VecDeque;

impl Batch for u64 {
    fn keep(self) -> Self {
        self
    }
}

type Core = SiCore<u64>;

fn life(id: u16, incarnation: u64) -> Life {
    (InstanceId(id), Incarnation(incarnation))
}

fn member((id, incarnation): Life) -> Member {
    Member { id, incarnation, leaving: false }
}

fn view(epoch: u64, lives: &[Life]) -> View {
    View::first(Epoch(epoch), lives.iter().copied().map(member).collect()).unwrap()
}

const B: InstanceId = InstanceId(1);
const C: InstanceId = InstanceId(2);

fn ack(up_to: u64, epoch: u64) -> SiAck {
    SiAck { up_to, epoch: Epoch(epoch) }
}

/// Instance 0 of 0, 1 and 2, in view 1, with a session to each.
fn of_three() -> (Core, Vec<Effect<u64>>) {
    let mut core = Core::new(life(0, 7), &view(1, &[life(0, 7), life(1, 1), life(2, 1)]));
    let mut effects = Vec::new();
    for peer in [B, C] {
        core.up(peer, Incarnation(1), &mut effects);
    }
    effects.clear();
    (core, effects)
}

#[test]
fn a_batch_is_not_delivered_while_any_member_owes_its_word() {
    let (mut core, mut effects) = of_three();
    assert_eq!(core.publish(40, false, &mut effects), 1);
    core.acknowledged(B, ack(1, 1), &mut effects).unwrap();
    // The other one has begun, and no more.
    core.acknowledged(C, ack(0, 1), &mut effects).unwrap();
    assert_eq!(effects, []);
    core.acknowledged(C, ack(1, 1), &mut effects).unwrap();
    assert_eq!(effects, [Effect::Complete { position: 40 }]);
    assert!(core.is_delivered());
}

#[test]
fn a_later_view_that_an_acknowledgement_tells_is_waited_for_with_its_new_members() {
    let (mut core, mut effects) = of_three();
    core.publish(1, false, &mut effects);
    core.acknowledged(B, ack(1, 1), &mut effects).unwrap();
    core.acknowledged(C, ack(1, 2), &mut effects).unwrap();
    assert_eq!(effects, [], "a joiner that is unknown here may cache already");
    let later = [life(0, 7), life(1, 1), life(2, 1), life(3, 1)];
    core.view(&view(2, &later), &mut effects);
    let joiner = InstanceId(3);
    core.up(joiner, Incarnation(1), &mut effects);
    let begin = SiBegin { publisher: Incarnation(7), subscriber: Incarnation(1), next: 2 };
    assert_eq!(effects, [Effect::Begin { to: joiner, begin }], "it has not reset yet");
    effects.clear();
    core.acknowledged(joiner, ack(1, 2), &mut effects).unwrap();
    assert_eq!(effects, [Effect::Complete { position: 1 }]);
}

#[test]
fn who_died_drops_out_with_the_view_and_readers_here_reset() {
    let (mut core, mut effects) = of_three();
    core.publish(5, true, &mut effects);
    core.acknowledged(B, ack(1, 1), &mut effects).unwrap();
    core.ended((C, Incarnation(1)));
    assert_eq!(effects, [], "the end of a session alone says nothing");
    core.view(&view(2, &[life(0, 7), life(1, 1)]), &mut effects);
    assert_eq!(effects, [Effect::Reset, Effect::Complete { position: 5 }]);
    effects.clear();
    // Nor does another life of it stand for the one that is a member.
    core.view(&view(3, &[life(0, 7), life(1, 1), life(2, 3)]), &mut effects);
    core.up(C, Incarnation(2), &mut effects);
    core.publish(6, false, &mut effects);
    for from in [B, C] {
        core.acknowledged(from, ack(2, 3), &mut effects).unwrap();
    }
    assert!(!effects.contains(&Effect::Complete { position: 6 }), "{effects:?}");
}

#[test]
fn an_instance_alone_delivers_at_once() {
    let mut effects: Vec<Effect<u64>> = Vec::new();
    let mut core = Core::new(life(0, 7), &view(1, &[life(0, 7)]));
    core.publish(9, true, &mut effects);
    assert_eq!(effects, [Effect::Complete { position: 9 }]);
}

#[test]
fn what_overtakes_is_held_back_also_before_its_stream_begins() {
    let (mut core, mut effects) = of_three();
    core.arrived(B, 6, 600, &mut effects).unwrap();
    core.arrived(B, 5, 500, &mut effects).unwrap();
    core.acknowledge(|_| true, &mut effects);
    assert_eq!(effects, []);
    let begin = SiBegin { publisher: Incarnation(1), subscriber: Incarnation(7), next: 4 };
    core.begun(B, begin, &mut effects).unwrap();
    core.arrived(B, 4, 400, &mut effects).unwrap();
    core.acknowledge(|_| false, &mut effects);
    assert!(core.owes());
    core.acknowledge(|_| true, &mut effects);
    let write = |batch| Effect::Write { publisher: B, batch };
    let acknowledge = Effect::Acknowledge { to: B, ack: ack(6, 1) };
    assert_eq!(effects, [Effect::Reset, write(400), write(500), write(600), acknowledge]);
    assert!(!core.owes());
}

#[test]
fn what_no_correct_peer_says_is_refused_and_changes_nothing() {
    let (mut core, mut effects) = of_three();
    let begin = SiBegin { publisher: Incarnation(1), subscriber: Incarnation(7), next: 4 };
    let stranger = InstanceId(9);
    assert_eq!(core.begun(stranger, begin, &mut effects), Err(Odd::NoStream));
    assert_eq!(core.arrived(stranger, 1, 0, &mut effects), Err(Odd::NoStream));
    assert_eq!(core.acknowledged(stranger, ack(0, 1), &mut effects), Err(Odd::NoStream));
    let other = SiBegin { publisher: Incarnation(2), ..begin };
    assert_eq!(core.begun(B, other, &mut effects), Err(Odd::Begin));
    let other = SiBegin { subscriber: Incarnation(6), ..begin };
    assert_eq!(core.begun(B, other, &mut effects), Err(Odd::Begin));
    assert_eq!(core.acknowledged(B, ack(1, 1), &mut effects), Err(Odd::Ack { found: 1, last: 0 }));
    assert_eq!(effects, []);
    core.begun(B, begin, &mut effects).unwrap();
    assert_eq!(core.begun(B, begin, &mut effects), Err(Odd::Begin));
    core.arrived(B, 5, 5, &mut effects).unwrap();
    for found in [3, 5] {
        let again = Err(Odd::Again { found, expected: 4 });
        assert_eq!(core.arrived(B, found, 0, &mut effects), again);
    }
    assert_eq!(effects, [Effect::Reset]);
}

#[test]
fn a_hole_that_is_never_filled_ends_in_a_reset_and_not_without_bound() {
    let (mut core, mut effects) = of_three();
    let begin = SiBegin { publisher: Incarnation(1), subscriber: Incarnation(7), next: 1 };
    core.begun(B, begin, &mut effects).unwrap();
    effects.clear();
    let all = u64::try_from(UNDER_WAY_MAX).unwrap();
    for number in 2..=all {
        core.arrived(B, number, number, &mut effects).unwrap();
    }
    assert_eq!(effects, []);
    let too_far = Err(Odd::TooFar { found: all + 1, expected: 1 });
    assert_eq!(core.arrived(B, all + 1, all + 1, &mut effects), too_far);
    assert_eq!(effects.len(), 1 + UNDER_WAY_MAX);
    assert_eq!(effects[0], Effect::Reset);
    effects.clear();
    core.arrived(B, all + 2, 0, &mut effects).unwrap();
    assert_eq!(effects, [Effect::Write { publisher: B, batch: 0 }]);
}

#[test]
fn more_is_not_under_way_than_a_subscriber_can_hold_back() {
    let (mut core, mut effects) = of_three();
    for position in 0.. {
        if !core.may_publish(true) {
            assert_eq!(position, FRAMES_UNDER_WAY_MAX as u64);
            break;
        }
        core.publish(position, true, &mut effects);
    }
    while core.may_publish(false) {
        core.publish(1000, false, &mut effects);
    }
    for from in [B, C] {
        core.acknowledged(from, ack(1, 1), &mut effects).unwrap();
    }
    assert!(core.may_publish(true), "one frame is acknowledged");
    core.publish(1001, true, &mut effects);
    assert!(!core.may_publish(false));
}

/// See `planted::BY_UNIT_TESTS`.
#[cfg(feature = "planted")]
#[test]
fn a_planted_bug_that_no_schedule_finds_fails_a_test_of_the_core() {
    use crate::planted::{BY_UNIT_TESTS, switch_on};
    let tests = [
        a_later_view_that_an_acknowledgement_tells_is_waited_for_with_its_new_members as fn(),
        what_overtakes_is_held_back_also_before_its_stream_begins,
    ];
    assert_eq!(BY_UNIT_TESTS.len(), tests.len());
    for (&(name, _), test) in BY_UNIT_TESTS.iter().zip(tests) {
        test();
        assert!(switch_on(Some(name)));
        let found = std::panic::catch_unwind(test).is_err();
        switch_on(None);
        assert!(found, "{name} is planted, and its test does not fail");
    }
}

// ---- several instances -----------------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
enum Said {
    Begin(SiBegin),
    Batch(u64),
    Ack(SiAck),
}

/// One instance of the world.
#[derive(Debug)]
struct One {
    life: Incarnation,
    core: Core,
    /// Per publisher's life since the last reset: the first and the last batch that it has.
    ring: Vec<(Life, u64, u64)>,
    /// Views that it has not heard of.
    views: VecDeque<View>,
    published: u64,
    delivered: u64,
}

/// Instances, and lanes between them: `[from][to]` three queues, in order each.
struct World {
    random: Random,
    ones: Vec<Option<One>>,
    lanes: Vec<Vec<[VecDeque<Said>; 3]>>,
    view: View,
    next_life: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let lives: Vec<_> = (0..3).map(|id| life(id, 1)).collect();
        let lanes = (0..3).map(|_| (0..3).map(|_| Default::default()).collect()).collect();
        let view = view(1, &lives);
        let ones = vec![];
        let mut world = Self { random: Random::new(seed), ones, lanes, view, next_life: 2 };
        world.ones = lives.iter().map(|life| Some(One::new(*life, &world.view))).collect();
        (0..3).for_each(|at| world.meet(at));
        world
    }

    /// Sessions of `at` with all that have it in their view, and that it has.
    fn meet(&mut self, at: usize) {
        for peer in 0..3 {
            let (Some(one), Some(other)) = (&self.ones[at], &self.ones[peer]) else { continue };
            let has = |view: &Core, of: &One, id: usize| {
                view.members.contains(&life(u16::try_from(id).unwrap(), of.life.0))
            };
            let both = has(&one.core, other, peer) && has(&other.core, one, at);
            let is_up = one.core.subscribers().any(|id| usize::from(id.0) == peer);
            if peer == at || !both || is_up {
                continue;
            }
            for (me, it) in [(at, peer), (peer, at)] {
                self.lanes[me][it] = Default::default();
                let with = self.ones[it].as_ref().map(|one| one.life).unwrap();
                let id = InstanceId(u16::try_from(it).unwrap());
                self.doing(me, |core, effects| core.up(id, with, effects));
            }
        }
    }

    /// Both ends have a stream with the present life of the other.
    fn is_session(&self, at: usize, peer: usize) -> bool {
        let has = |at: usize, peer: usize| {
            let (Some(one), Some(other)) = (&self.ones[at], &self.ones[peer]) else { return false };
            let it = life(u16::try_from(peer).unwrap(), other.life.0);
            one.core.subscriber.life_of(it.0) == Some(it)
        };
        has(at, peer) && has(peer, at)
    }

    fn doing(&mut self, at: usize, what: impl FnOnce(&mut Core, &mut Vec<Effect<u64>>)) {
        let mut effects = Vec::new();
        let Some(one) = &mut self.ones[at] else { return };
        what(&mut one.core, &mut effects);
        for effect in effects {
            let mut say = |to: InstanceId, lane: usize, said| {
                self.lanes[at][usize::from(to.0)][lane].push_back(said);
            };
            let one = self.ones[at].as_mut().unwrap();
            match effect {
                Effect::Begin { to, begin } => say(to, 0, Said::Begin(begin)),
                Effect::Acknowledge { to, ack } => say(to, 2, Said::Ack(ack)),
                Effect::Reset => one.ring.clear(),
                Effect::Write { publisher, batch } => one.write(publisher, batch),
                Effect::Complete { position } => {
                    one.delivered = position;
                    self.is_everywhere(at, position);
                }
            }
        }
    }

    /// Every member of the view in force at `at` has batch `number` of it, or has reset since.
    fn is_everywhere(&self, at: usize, number: u64) {
        let publisher = self.ones[at].as_ref().unwrap();
        for member in &publisher.core.members {
            let Some(one) = &self.ones[usize::from(member.0.0)] else { continue };
            if one.life != member.1 {
                continue;
            }
            let from = life(u16::try_from(at).unwrap(), publisher.life.0);
            let next = one.core.subscriber.next_of(from);
            assert!(next.is_some_and(|next| next > number), "{member:?} lacks {number} of {at}");
        }
    }

    fn step(&mut self) {
        let (at, peer) = (self.random.index(3), self.random.index(3));
        let peer_id = InstanceId(u16::try_from(peer).unwrap());
        match self.random.below(100) {
            0..50 => {
                let lane = self.random.index(3);
                let said = self.lanes[peer][at][lane].pop_front();
                if let Some(said) = said.filter(|_| self.is_session(at, peer)) {
                    self.doing(at, |core, effects| match said {
                        Said::Begin(begin) => core.begun(peer_id, begin, effects).unwrap(),
                        Said::Ack(ack) => core.acknowledged(peer_id, ack, effects).unwrap(),
                        Said::Batch(number) => {
                            core.arrived(peer_id, number, number, effects).unwrap();
                        }
                    });
                }
            }
            50..70 => {
                let lane = self.random.index(2);
                let Some(one) = &mut self.ones[at] else { return };
                if !one.core.may_publish(lane == 1) {
                    return;
                }
                one.published += 1;
                let number = one.published;
                let to: Vec<_> = one.core.subscribers().map(|id| usize::from(id.0)).collect();
                to.iter().for_each(|to| self.lanes[at][*to][lane].push_back(Said::Batch(number)));
                self.doing(at, |core, effects| {
                    assert_eq!(core.publish(number, lane == 1, effects), number);
                });
            }
            70..85 => self.doing(at, |core, effects| core.acknowledge(|_| true, effects)),
            85..97 => {
                let Some(one) = &mut self.ones[at] else { return };
                if let Some(view) = one.views.pop_front() {
                    self.doing(at, |core, effects| core.view(&view, effects));
                    self.meet(at);
                }
            }
            // One dies; a later view has its next life, or nobody.
            _ => self.change(at),
        }
    }

    fn change(&mut self, at: usize) {
        let id = InstanceId(u16::try_from(at).unwrap());
        let mut members: Vec<_> = self.view.members().to_vec();
        members.retain(|member| member.id != id);
        self.ones[at] = None;
        if members.is_empty() || self.random.percent(70) {
            let life = (id, Incarnation(self.next_life));
            self.next_life += 1;
            members.push(member(life));
            self.view = self.view.next(members, Vec::new()).unwrap();
            self.ones[at] = Some(One::new(life, &self.view));
        } else {
            self.view = self.view.next(members, Vec::new()).unwrap();
        }
        for one in self.ones.iter_mut().flatten() {
            one.views.push_back(self.view.clone());
        }
        self.meet(at);
    }

    /// Everything is heard and delivered.
    fn rest(&mut self) {
        for at in 0..3 {
            while let Some(view) = self.ones[at].as_mut().and_then(|one| one.views.pop_front()) {
                self.doing(at, |core, effects| core.view(&view, effects));
            }
            self.meet(at);
        }
        for _ in 0..8 {
            for at in 0..3 {
                for peer in 0..3 {
                    for lane in 0..3 {
                        while let Some(said) = self.lanes[peer][at][lane].pop_front() {
                            if !self.is_session(at, peer) {
                                continue;
                            }
                            let from = InstanceId(u16::try_from(peer).unwrap());
                            self.doing(at, |core, effects| {
                                let _ = match said {
                                    Said::Begin(begin) => core.begun(from, begin, effects),
                                    Said::Ack(ack) => core.acknowledged(from, ack, effects),
                                    Said::Batch(n) => core.arrived(from, n, n, effects),
                                };
                            });
                        }
                    }
                }
                self.doing(at, |core, effects| core.acknowledge(|_| true, effects));
            }
        }
        for one in self.ones.iter().flatten() {
            assert_eq!(one.delivered, one.published, "not delivered in the end: {one:?}");
            assert!(one.core.is_delivered() && !one.core.owes());
        }
    }
}

impl One {
    fn new((id, incarnation): Life, view: &View) -> Self {
        let core = Core::new((id, incarnation), view);
        let (ring, views) = (Vec::new(), VecDeque::new());
        Self { life: incarnation, core, ring, views, published: 0, delivered: 0 }
    }

    fn write(&mut self, publisher: InstanceId, number: u64) {
        let from = self.core.subscriber.life_of(publisher).unwrap();
        match self.ring.iter_mut().find(|(of, ..)| *of == from) {
            Some((_, _, last)) => {
                assert_eq!(number, *last + 1, "lost, doubled or out of order");
                *last = number;
            }
            None => self.ring.push((from, number, number)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nothing_is_lost_doubled_or_delivered_before_all_have_it(seed in any::<u64>()) {
        let mut world = World::new(seed);
        (0..400).for_each(|_| world.step());
        world.rest();
    }
}
