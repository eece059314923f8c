//! Links come and go: what is on a wire is lost, each end learns of it by itself, and sessions go
//! on with the next link.
//!
//! ```text
//!             break              both ends have noticed          connect        the other end is up
//!   up ----------------> broken -----------------------> none ------------> half -----------------> up
//!    |  what a wire still            wires are empty            sequences are exchanged
//!    |  delivers is cut at any place
//!    +-- move: sequences are exchanged while the old link goes on delivering; then the new one
//! ```

use super::{Chore, End, Network, id};
use crate::cluster::Checked;
use pagewire_node::random::Random;
use pagewire_protocol::{Incarnation, Lane, Sequence};
use pagewire_transport::session::Session;
use std::collections::VecDeque;

type Expected = [Sequence; Lane::COUNT];
/// What an end says in the handshake: next sequences, and receives that it has posted.
type Stated = (Expected, [u32; Lane::COUNT]);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    None,
    /// The lower end is up (`true`: the greater one); what each stated, the one that is up first.
    Half(bool, [Stated; 2]),
    Up,
    /// Who has noticed.
    Broken([bool; 2]),
}

/// The link of two instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Link {
    state: State,
    /// What both expected when they agreed to move.
    moving: Option<[Expected; 2]>,
    /// `Connect` is among the chores.
    connecting: bool,
}

impl Link {
    /// What is sent goes on a wire. `greater`: by the greater end.
    pub(super) fn carries(&self, greater: bool) -> bool {
        match self.state {
            State::Up => true,
            State::Half(up, ..) => up == greater,
            State::None | State::Broken(_) => false,
        }
    }
}

impl Network {
    pub(super) fn link(&self, a: usize, b: usize) -> &Link {
        &self.links[a.min(b) * self.instances + a.max(b)]
    }

    fn link_mut(&mut self, a: usize, b: usize) -> &mut Link {
        &mut self.links[a.min(b) * self.instances + a.max(b)]
    }

    // ---- lives and sessions --------------------------------------------------------------------

    /// `at` begins a new life; nobody has a session with it yet.
    pub(in crate::cluster) fn begin_life(&mut self, at: usize, life: Incarnation) {
        self.lives[at] = life;
        self.paused[at] = false;
    }

    /// `at` knows `peer` in its life `life` as a member: a session begins, unless there is one. True
    /// when it does.
    pub(in crate::cluster) fn open(&mut self, at: usize, peer: usize, life: Incarnation) -> bool {
        let end = self.end(at, peer);
        if self.ends[end].as_ref().is_some_and(|end| end.peer == life) {
            return false;
        }
        self.close(at, peer);
        let session = Session::new(id(at), id(peer), self.manners.credits);
        let outbox = std::array::from_fn(|_| VecDeque::new());
        self.ends[end] = Some(End {
            session,
            peer: life,
            outbox,
            unposted: [0; Lane::COUNT],
            ack_noted: [false; Lane::COUNT],
        });
        self.note_connect(at, peer);
        true
    }

    /// `at` has no session with `peer` any more. What it sent may still arrive, in part.
    pub(in crate::cluster) fn close(&mut self, at: usize, peer: usize) {
        let end = self.end(at, peer);
        if self.ends[end].take().is_some() {
            self.chores.retain(|chore| match *chore {
                Chore::Acknowledge(e, _) | Chore::Post(e, _) | Chore::Notice(e) => e != end,
                _ => true,
            });
            self.break_off(at, peer);
        }
    }

    /// The life of `at` is over.
    pub(in crate::cluster) fn end_life(&mut self, at: usize, random: &mut Random) {
        for peer in (0..self.instances).filter(|&peer| peer != at) {
            let end = self.end(at, peer);
            if self.ends[end].is_some() {
                self.cut(at, peer, random);
                self.close(at, peer);
            }
        }
        self.lives[at] = Incarnation(0);
        self.paused[at] = false;
    }

    pub(in crate::cluster) fn set_paused(&mut self, at: usize, paused: bool) {
        self.paused[at] = paused;
    }

    // ---- faults --------------------------------------------------------------------------------

    /// The link of `a` and `b` breaks; false when there is none.
    pub(in crate::cluster) fn break_link(
        &mut self,
        a: usize,
        b: usize,
        random: &mut Random,
    ) -> bool {
        if !matches!(self.link(a, b).state, State::Up | State::Half(..)) {
            return false;
        }
        self.cut(a, b, random);
        self.cut(b, a, random);
        self.break_off(a, b);
        true
    }

    /// Nothing passes from `from` to `to`, or again everything.
    pub(in crate::cluster) fn block(&mut self, from: usize, to: usize, blocked: bool) {
        let direction = self.end(from, to);
        self.blocked[direction] = blocked;
        if !blocked {
            self.note_connect(from, to);
        }
    }

    /// One lane of a direction stands still, or goes on.
    pub(in crate::cluster) fn slow_lane(&mut self, from: usize, to: usize, lane: Lane, slow: bool) {
        let wire = self.end(from, to) * Lane::COUNT + lane.index();
        self.slow[wire] = slow;
    }

    /// All directions and lanes pass again.
    pub(in crate::cluster) fn heal(&mut self) {
        self.slow.fill(false);
        for from in 0..self.instances {
            for to in (0..self.instances).filter(|&to| to != from) {
                self.block(from, to, false);
            }
        }
    }

    /// The session of `a` and `b` begins to move to another link.
    pub(in crate::cluster) fn begin_move(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (a.min(b), a.max(b));
        let expected = [self.end(a, b), self.end(b, a)]
            .map(|end| self.ends[end].as_ref().map(|end| end.session.expected()));
        let [Some(lower), Some(greater)] = expected else { return false };
        let link = self.link_mut(a, b);
        if link.state != State::Up || link.moving.is_some() {
            return false;
        }
        link.moving = Some([lower, greater]);
        self.chores.push(Chore::Move(a, b));
        true
    }

    /// What is on the wires from `from` to `to` is lost from some place on.
    fn cut(&mut self, from: usize, to: usize, random: &mut Random) {
        for lane in Lane::ALL {
            let wire = self.end(from, to) * Lane::COUNT + lane.index();
            if !self.wires[wire].is_empty() {
                let kept = random.index(self.wires[wire].len() + 1);
                self.counts.lost += (self.wires[wire].len() - kept) as u64;
                self.wires[wire].truncate(kept);
                if kept == 0 {
                    self.not_ready(wire);
                }
            }
        }
    }

    fn clear(&mut self, from: usize, to: usize) {
        for lane in Lane::ALL {
            let wire = self.end(from, to) * Lane::COUNT + lane.index();
            self.counts.lost += self.wires[wire].len() as u64;
            self.wires[wire].clear();
            self.not_ready(wire);
        }
    }

    /// The link is of no use any more; its ends, where there are any, have to find out.
    fn break_off(&mut self, a: usize, b: usize) {
        let (a, b) = (a.min(b), a.max(b));
        if self.link(a, b).state == State::None {
            return;
        }
        let linked = [self.end(a, b), self.end(b, a)]
            .map(|end| self.ends[end].as_ref().is_some_and(|end| end.session.is_linked()));
        self.link_mut(a, b).state = State::Broken([!linked[0], !linked[1]]);
        self.link_mut(a, b).moving = None;
        for (end, (from, to), linked) in
            [(self.end(a, b), (b, a), linked[0]), (self.end(b, a), (a, b), linked[1])]
        {
            if linked {
                self.chores.push(Chore::Notice(end));
            } else {
                self.clear(from, to);
            }
        }
        self.over_if_noticed(a, b);
    }

    fn over_if_noticed(&mut self, a: usize, b: usize) {
        if self.link(a, b).state == State::Broken([true, true]) {
            self.link_mut(a, b).state = State::None;
            self.note_connect(a, b);
        }
    }

    // ---- chores --------------------------------------------------------------------------------

    pub(super) fn do_chore(&mut self, chore: Chore, random: &mut Random, now: u64) -> Checked {
        match chore {
            Chore::Acknowledge(end, lane) => self.acknowledge(end, lane, random, now),
            Chore::Post(at, lane) => {
                let Some(end) = &mut self.ends[at] else { return Ok(()) };
                if end.unposted[lane.index()] > 0 {
                    end.unposted[lane.index()] -= 1;
                    end.session.posted(lane);
                }
                self.note_ack(at, lane, random, now)
            }
            Chore::Notice(end) => {
                self.notice(end);
                Ok(())
            }
            Chore::Connect(a, b) => self.connect(a, b, random, now),
            Chore::Complete(a, b) => self.complete(a, b, random, now),
            Chore::Move(a, b) => self.finish_move(a, b, random, now),
        }
    }

    fn notice(&mut self, end: usize) {
        let (at, peer) = (end / self.instances, end % self.instances);
        let lower = at.min(peer) == at;
        let State::Broken(mut noticed) = self.link(at, peer).state else { return };
        noticed[usize::from(!lower)] = true;
        self.link_mut(at, peer).state = State::Broken(noticed);
        if let Some(end) = &mut self.ends[end] {
            end.session.link_down();
        }
        self.clear(peer, at);
        self.over_if_noticed(at, peer);
    }

    fn note_connect(&mut self, a: usize, b: usize) {
        let (a, b) = (a.min(b), a.max(b));
        let can = self.link(a, b).state == State::None && self.know_each_other(a, b);
        if can && !std::mem::replace(&mut self.link_mut(a, b).connecting, true) {
            self.chores.push(Chore::Connect(a, b));
        }
    }

    /// Both have a session with the other's present life, and bytes pass both ways.
    fn know_each_other(&self, a: usize, b: usize) -> bool {
        let know = |at: usize, peer: usize| {
            let end = self.ends[self.end(at, peer)].as_ref();
            end.is_some_and(|end| end.peer == self.lives[peer])
        };
        let passes = |from, to| !self.blocked[self.end(from, to)];
        know(a, b) && know(b, a) && passes(a, b) && passes(b, a)
    }

    /// Credits that `end` states: all that are posted.
    fn credits(&self, end: usize) -> [u32; Lane::COUNT] {
        let unposted = self.ends[end].as_ref().map_or([0; Lane::COUNT], |end| end.unposted);
        std::array::from_fn(|lane| self.manners.credits[lane] - unposted[lane])
    }

    fn connect(&mut self, a: usize, b: usize, random: &mut Random, now: u64) -> Checked {
        self.link_mut(a, b).connecting = false;
        if self.link(a, b).state != State::None || !self.know_each_other(a, b) {
            return Ok(());
        }
        if self.paused[a] || self.paused[b] {
            // Tried again and again.
            self.note_connect(a, b);
            return Ok(());
        }
        let greater_first = random.percent(50);
        let (first, second) = if greater_first { (b, a) } else { (a, b) };
        let stated = [self.state_of(first, second), self.state_of(second, first)];
        self.link_mut(a, b).state = State::Half(greater_first, stated);
        self.up(first, second, stated, random, now)?;
        if random.percent(50) {
            self.chores.push(Chore::Complete(a, b));
            return Ok(());
        }
        self.complete(a, b, random, now)
    }

    fn complete(&mut self, a: usize, b: usize, random: &mut Random, now: u64) -> Checked {
        let State::Half(greater_first, [first_stated, second_stated]) = self.link(a, b).state
        else {
            return Ok(());
        };
        let (first, second) = if greater_first { (b, a) } else { (a, b) };
        self.link_mut(a, b).state = State::Up;
        self.counts.connected += 1;
        self.up(second, first, [second_stated, first_stated], random, now)
    }

    fn state_of(&self, at: usize, peer: usize) -> Stated {
        let end = self.end(at, peer);
        let expected = self.ends[end].as_ref().map(|end| end.session.expected());
        (expected.unwrap_or([Sequence(1); Lane::COUNT]), self.credits(end))
    }

    /// `at` has a link with `peer`; both have stated what they expect.
    fn up(
        &mut self,
        at: usize,
        peer: usize,
        [own, theirs]: [Stated; 2],
        random: &mut Random,
        now: u64,
    ) -> Checked {
        let at_end = self.end(at, peer);
        let posted_now = self.credits(at_end);
        let Some(end) = &mut self.ends[at_end] else { return Ok(()) };
        let up = end.session.link_up(theirs.0, theirs.1, own.1);
        up.map_err(|violation| format!("session: {at} refuses {peer}'s link: {violation}"))?;
        for lane in Lane::ALL {
            // Receives that were posted since it stated them.
            for _ in own.1[lane.index()]..posted_now[lane.index()] {
                end.session.posted(lane);
            }
        }
        for lane in Lane::ALL {
            self.note_ack(at_end, lane, random, now)?;
        }
        self.pump_all(at_end, random, now)
    }

    /// What is still on the old link's wires is lost; both go on with the new one.
    fn finish_move(&mut self, a: usize, b: usize, random: &mut Random, now: u64) -> Checked {
        let Some(stated) = self.link_mut(a, b).moving.take() else { return Ok(()) };
        self.clear(a, b);
        self.clear(b, a);
        let ends = [self.end(a, b), self.end(b, a)];
        let credits = ends.map(|end| self.credits(end));
        for (side, at) in ends.into_iter().enumerate() {
            let Some(end) = &mut self.ends[at] else { continue };
            let moved =
                end.session.move_to_link(stated[1 - side], credits[1 - side], credits[side]);
            moved.map_err(|violation| format!("session: a move is refused: {violation}"))?;
        }
        self.counts.moved += 1;
        for at in ends {
            self.pump_all(at, random, now)?;
        }
        Ok(())
    }
}
