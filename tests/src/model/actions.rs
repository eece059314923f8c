//! What can happen next, and what it does.

use super::world::{INSTANCES, Load, Packet, Redo, World, id_of};
use pagewire_node::{
    grd::{Event, WaiterId},
    view::Member,
};
use pagewire_protocol::{Incarnation, Lane, Mode};
use std::sync::Arc;

/// One thing that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// An instance asks for what it wants next.
    Ask(usize),
    /// The oldest message of a lane arrives.
    Deliver(usize, usize, Lane),
    /// An instance's core goes on.
    GoOn(usize),
    /// An instance is told to give the page up.
    Evict(usize),
    /// The one that may crashes.
    Crash,
    /// A survivor hears of the view after the crash.
    Hear(usize),
    /// Redo begins at the lowest survivor.
    Redo,
    /// A survivor hears that redo is done.
    Redone(usize),
}

impl World {
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for at in 0..INSTANCES {
            let Some(it) = &self.instances[at] else { continue };
            if it.waiting.is_none() && !it.to_do.is_empty() {
                actions.push(Action::Ask(at));
            }
            if it.again {
                actions.push(Action::GoOn(at));
            }
            if it.evictable && it.held.is_some() {
                actions.push(Action::Evict(at));
            }
            if self.next_view.is_some() && !it.heard {
                actions.push(Action::Hear(at));
            }
            if self.redo == Redo::Done && it.heard && !it.redone {
                actions.push(Action::Redone(at));
            }
        }
        for (from, lanes) in self.lanes.iter().enumerate() {
            for (to, lanes) in lanes.iter().enumerate() {
                for lane in Lane::ALL.into_iter().filter(|lane| !lanes[lane.index()].is_empty()) {
                    actions.push(Action::Deliver(from, to, lane));
                }
            }
        }
        if self.crash.is_some() {
            actions.push(Action::Crash);
        }
        if self.redo == Redo::NotYet && self.recoverer().is_some() {
            actions.push(Action::Redo);
        }
        actions
    }

    /// The lowest survivor, when it has heard of the crash.
    fn recoverer(&self) -> Option<usize> {
        let lowest = self.instances.iter().position(Option::is_some)?;
        let heard = self.instances[lowest].as_ref().is_some_and(|it| it.heard);
        (self.next_view.is_some() && heard).then_some(lowest)
    }

    pub(super) fn act(&mut self, action: Action) -> Result<(), String> {
        let tag = self.tag;
        match action {
            Action::Ask(at) => {
                let it = self.instance(at)?;
                let Some(mode) = it.to_do.pop_front() else { return Ok(()) };
                self.ask(at, mode, false)
            }
            Action::Deliver(from, to, lane) => self.deliver(from, to, lane),
            Action::GoOn(at) => {
                self.instance(at)?.again = false;
                self.feed(at, Event::Continue, None)
            }
            Action::Evict(at) => {
                self.instance(at)?.evictable = false;
                self.feed(at, Event::Evict { tag }, None)
            }
            Action::Crash => self.crash_now(),
            Action::Hear(at) => {
                self.instance(at)?.heard = true;
                let Some(view) = self.next_view.clone() else { return Ok(()) };
                if let Some(gone) = self.crashed {
                    // The session with the one that is gone is over.
                    self.lanes[gone][at] = Default::default();
                    self.lanes[at][gone] = Default::default();
                }
                self.feed(at, Event::View(view), None)
            }
            Action::Redo => {
                let Some(at) = self.recoverer() else { return Ok(()) };
                self.redo = Redo::Asked(at);
                self.ask(at, Mode::X, true)
            }
            Action::Redone(at) => {
                self.instance(at)?.redone = true;
                let gone = id_of(self.crashed.unwrap_or_default());
                let event = Event::RedoDone { instance: gone, incarnation: Incarnation(1) };
                self.feed(at, event, None)
            }
        }
    }

    fn ask(&mut self, at: usize, mode: Mode, recovery: bool) -> Result<(), String> {
        let tag = self.tag;
        let it = self.instance(at)?;
        // Names are per instance, so that states do not differ by who asked first.
        let number = 1 + it.to_do.len() as u64 + if recovery { 100 } else { 0 };
        if recovery {
            it.recovering = Some(number);
        } else {
            it.waiting = Some((number, mode));
        }
        if !recovery && it.open >= mode {
            return self.granted(at, number, mode);
        }
        self.feed(at, Event::Acquire { tag, mode, waiter: WaiterId(number), recovery }, None)
    }

    fn deliver(&mut self, from: usize, to: usize, lane: Lane) -> Result<(), String> {
        let tag = self.tag;
        let Some(Packet { epoch, load }) = self.lanes[from][to][lane.index()].pop_front() else {
            return Ok(());
        };
        let (from, incarnation) = (id_of(from), Incarnation(1));
        match load {
            Load::Pcm(message, content) => {
                let message = *message;
                self.feed(to, Event::Message { from, incarnation, epoch, tag, message }, content)
            }
            Load::Guide(batch, last) => {
                self.feed(to, Event::LoadGuide { from, incarnation, epoch, batch, last }, None)
            }
        }
    }

    /// The instance is gone, and with it what of its log is not durable. What it sent may arrive
    /// until the receiver hears of the view; of what it has not read nothing is left.
    fn crash_now(&mut self) -> Result<(), String> {
        let Some(gone) = self.crash.take() else { return Ok(()) };
        let Some(it) = self.instances[gone].take() else { return Ok(()) };
        let lost = &it.log[it.durable..];
        while self
            .history
            .last()
            .is_some_and(|(version, writer)| *writer == gone && lost.contains(version))
        {
            self.history.pop();
        }
        for from in 0..INSTANCES {
            self.lanes[from][gone] = Default::default();
        }
        self.crashed = Some(gone);
        let stays = |member: &&Member| member.id != id_of(gone);
        let members = self.view.members().iter().filter(stays).copied().collect();
        let dead = vec![(id_of(gone), Incarnation(1))];
        let next = self.view.next(members, dead).map_err(|error| error.to_string())?;
        self.next_view = Some(Arc::new(next));
        Ok(())
    }
}
