//! The membership, which knows everything: it decides views, and instances hear of them one by one.
//!
//! ```text
//!  crash, lost lease --> Due::Evict --+
//!  start -----------------------------+--> change --> decide (one view for several changes, or
//!  plan_leave ---> leaving -----------+               one after the other) --> told, to each member
//!                   gone, when nothing is left there -+
//! ```
//! An evicted life has done its last I/O, and its log has ended, when the view is decided
//! (invariant 7): the membership has waited for longer than its lease, and storage fences it.

use super::{
    Checked, Cluster, Place, ensure,
    faults::{Due, Fault},
    instance_id,
};
use pagewire_node::{
    grd::{Event, Grd},
    view::{Life, Member, View},
};
use pagewire_protocol::{Incarnation, InstanceId};
use std::{collections::VecDeque, sync::Arc};

/// What an instance is told by the membership.
#[derive(Debug, Clone)]
pub(super) enum Told {
    View(Arc<View>),
    /// The redo of this life has been applied.
    Redone(InstanceId, Incarnation),
}

/// What the membership knows.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) view: Arc<View>,
    /// Lives whose redo has not been applied, as of the latest view or later.
    pub(super) dead: Vec<Life>,
    /// Members that the next view is without.
    going: Vec<(InstanceId, Incarnation, bool)>,
    /// What each instance has not heard yet.
    pub(super) told: Vec<VecDeque<Told>>,
    /// A view has changed, or anything of an instance: nothing is as in a healthy cluster any more.
    pub(super) disturbed: bool,
}

impl Membership {
    pub(super) fn new(view: Arc<View>, instances: usize) -> Self {
        Self {
            view,
            dead: Vec::new(),
            going: Vec::new(),
            told: vec![VecDeque::new(); instances],
            disturbed: false,
        }
    }
}

impl Cluster {
    /// The membership has something to decide or to tell.
    pub(super) fn membership_waits(&self) -> bool {
        self.view_is_due() || self.listeners().next().is_some()
    }

    fn view_is_due(&self) -> bool {
        !self.membership.going.is_empty()
            || self.nodes.iter().any(|node| node.joining)
            || self.leavers_done().next().is_some()
    }

    fn listeners(&self) -> impl Iterator<Item = usize> + '_ {
        let told = self.membership.told.iter().enumerate();
        told.filter(|&(node, told)| {
            let it = &self.nodes[node];
            // Who cannot be reached does not hear either.
            !told.is_empty() && it.is_live() && it.stop.is_none() && !it.hears_late
        })
        .map(|(node, _)| node)
    }

    pub(super) fn membership_step(&mut self) -> Checked {
        let listeners: Vec<_> = self.listeners().collect();
        if self.view_is_due() && (listeners.is_empty() || self.random.percent(30)) {
            return self.decide();
        }
        let at = self.random.index(listeners.len());
        match listeners.get(at) {
            Some(&node) => self.tell(node),
            None => Ok(()),
        }
    }

    // ---- changes -------------------------------------------------------------------------------

    /// The membership has waited long enough for this life; unless it is well again.
    pub(super) fn evict_member(
        &mut self,
        node: usize,
        life: Incarnation,
        stop: Option<u64>,
    ) -> Checked {
        let it = &self.nodes[node];
        let well = it.running && it.life == life && (it.stop.is_none() || it.stop != stop);
        let id = it.id;
        let member =
            self.membership.view.members().iter().any(|m| (m.id, m.incarnation) == (id, life));
        if well || !member || self.membership.going.iter().any(|g| (g.0, g.1) == (id, life)) {
            return Ok(());
        }
        if it.running && it.life == life {
            ensure!(
                self.now >= it.lease_over_at,
                "I7: instance {node} is evicted while it has its lease"
            );
            self.nodes[node].evicted = true;
            self.end_log(node);
        }
        self.note(Fault::Evict, || format!("instance {node}, life {life}, is taken for dead"));
        self.fence_storage(node, life)?;
        self.membership.going.push((id, life, true));
        Ok(())
    }

    /// The instance is to leave: its masters move away, it gives up what it holds, then it goes.
    pub(super) fn plan_leave(&mut self, node: usize) -> Checked {
        let id = self.nodes[node].id;
        let members = self.membership.view.members();
        let is_member =
            members.iter().any(|m| m.id == id && m.incarnation == self.nodes[node].life);
        if self.nodes[node].leaving || !is_member {
            return Ok(());
        }
        self.nodes[node].leaving = true;
        self.note(Fault::Leave, || format!("instance {node} is to leave"));
        self.decide()
    }

    /// Members that were to leave and have nothing left.
    fn leavers_done(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|&at| {
            let it = &self.nodes[at];
            it.leaving && it.is_live() && it.stop.is_none() && self.has_nothing_left(at)
        })
    }

    // ---- views ---------------------------------------------------------------------------------

    /// The next view, with some or all of the changes that are due.
    fn decide(&mut self) -> Checked {
        let mut members: Vec<Member> = self.membership.view.members().to_vec();
        let mut going = std::mem::take(&mut self.membership.going);
        if going.len() > 1 && self.random.percent(30) {
            self.membership.going = going.split_off(1);
        }
        for leaver in self.leavers_done().collect::<Vec<_>>() {
            going.push((self.nodes[leaver].id, self.nodes[leaver].life, false));
        }
        for &(id, life, died) in &going {
            members.retain(|m| (m.id, m.incarnation) != (id, life));
            if died {
                self.membership.dead.push((id, life));
            }
            let node = usize::from(id.0);
            if !died {
                self.leave(node)?;
            }
        }
        for member in &mut members {
            member.leaving = self.nodes[usize::from(member.id.0)].leaving;
        }
        let mut joined = Vec::new();
        for node in 0..self.nodes.len() {
            let (id, life) = (self.nodes[node].id, self.nodes[node].life);
            // A life that the membership still takes for a member is over first, or with it.
            let older = members.iter().position(|m| m.id == id);
            if !self.nodes[node].joining || self.random.percent(20) {
                continue;
            }
            if let Some(older) = older {
                let old = members.remove(older);
                self.fence_storage(node, old.incarnation)?;
                self.membership.dead.push((id, old.incarnation));
                self.membership.going.retain(|g| (g.0, g.1) != (id, old.incarnation));
            }
            members.push(Member { id, incarnation: life, leaving: false });
            joined.push(node);
        }
        members.sort_unstable_by_key(|member| member.id);
        self.publish(members, &joined)
    }

    fn publish(&mut self, members: Vec<Member>, joined: &[usize]) -> Checked {
        let old = Arc::clone(&self.membership.view);
        if old.members() == members {
            return Ok(());
        }
        let dead = self.membership.dead.clone();
        let next = old.next(members, dead).map_err(|error| format!("no view: {error}"))?;
        // It travels as bytes.
        let next = View::decode(&next.encode()).map_err(|error| format!("no view: {error}"))?;
        let next = Arc::new(next);
        ensure!(next.epoch() > old.epoch(), "I6: the epoch goes back");
        self.membership.disturbed = true;
        self.trace.event(self.summary.steps, || super::trace::view_words(&next));
        self.membership.view = Arc::clone(&next);
        self.summary.views += 1;
        for &node in joined {
            self.join(node, &next)?;
        }
        for member in next.members() {
            let node = usize::from(member.id.0);
            if !joined.contains(&node) {
                self.membership.told[node].push_back(Told::View(Arc::clone(&next)));
            }
        }
        for page in &mut self.pages {
            page.master = usize::from(next.master(&page.tag).0);
        }
        Ok(())
    }

    /// An instance begins its life with the view that it is a member of.
    pub(super) fn join(&mut self, node: usize, view: &Arc<View>) -> Checked {
        let life = self.nodes[node].life;
        self.nodes[node].begin(Grd::new(instance_id_of(node), life, Arc::clone(view)));
        self.membership.told[node].clear();
        self.network.begin_life(node, life);
        self.begin_si(node, view);
        self.meet(node, view)?;
        self.feed_all(node, Event::Continue)
    }

    /// Sessions as the view has members.
    fn meet(&mut self, node: usize, view: &View) -> Checked {
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
            let member = view.members().iter().find(|m| usize::from(m.id.0) == peer);
            match member {
                Some(member) => {
                    if self.network.open(node, peer, member.incarnation) {
                        self.si_up(node, peer, member.incarnation)?;
                    }
                }
                None => {
                    self.network.close(node, peer);
                    self.si_ended(node, peer)?;
                }
            }
        }
        Ok(())
    }

    /// The instance hears the next thing; of several views perhaps only the last.
    fn tell(&mut self, node: usize) -> Checked {
        let skip = self.random.percent(self.options.skip_view_percent);
        let told = &mut self.membership.told[node];
        let views = told.iter().filter(|told| matches!(told, Told::View(_))).count();
        if skip && views > 1 && matches!(told.front(), Some(Told::View(_))) {
            told.pop_front();
            self.note(Fault::SkipView, || format!("instance {node} skips a view"));
            return Ok(());
        }
        match told.pop_front() {
            Some(Told::View(view)) => {
                // Before anything of it is used: readers reset for those that are gone.
                self.si_view(node, &view)?;
                self.meet(node, &view)?;
                self.feed_all(node, Event::View(view))
            }
            Some(Told::Redone(instance, incarnation)) => {
                self.feed_all(node, Event::RedoDone { instance, incarnation })
            }
            None => Ok(()),
        }
    }

    /// Gives an event that is not about one page.
    pub(super) fn feed_all(&mut self, node: usize, event: Event) -> Checked {
        self.feed(Place { node, page: 0 }, event)?;
        for page in 0..self.pages.len() {
            self.check_page(page)?;
        }
        Ok(())
    }

    // ---- the end of a life ---------------------------------------------------------------------

    /// The lease is over: first of all nothing is touched any more, then everyone is told.
    pub(super) fn lose_lease(&mut self, node: usize) -> Checked {
        self.note(Fault::LeaseLost, || format!("instance {node} has lost its lease"));
        self.feed(Place { node, page: 0 }, Event::LeaseLost)?;
        ensure!(
            !self.nodes[node].running || self.nodes[node].fenced,
            "a lost lease without a fence"
        );
        let waits = self.nodes[node].threads.iter().any(|thread| thread.waiting.is_some());
        ensure!(!waits, "I5: the lease of {node} is lost, and a thread still waits");
        self.crash(node)
    }

    /// The process is gone: what was in its memory, and what of its log is not durable.
    pub(super) fn crash(&mut self, node: usize) -> Checked {
        if !self.nodes[node].running {
            return Ok(());
        }
        if !self.nodes[node].evicted {
            self.end_log(node);
        }
        self.stop(node);
        self.membership.disturbed = true;
        let life = self.nodes[node].life;
        let patience = self.some_steps(2 * self.options.lease_steps);
        self.after(patience, Due::Evict(node, life, None));
        if self.random.percent(70) {
            let pause = self.some_steps(4 * self.options.lease_steps);
            self.after(pause, Due::Start(node));
        }
        Ok(())
    }

    /// An instance that left as planned is gone for good, until it joins again.
    fn leave(&mut self, node: usize) -> Checked {
        let log = self.nodes[node].log;
        ensure!(log.durable == log.end, "instance {node} leaves with a log that is not durable");
        self.stop(node);
        if self.random.percent(70) {
            let pause = self.some_steps(4 * self.options.lease_steps);
            self.after(pause, Due::Start(node));
        }
        Ok(())
    }

    fn stop(&mut self, node: usize) {
        self.network.end_life(node, &mut self.random);
        self.requests.retain(|request| request.place.node != node);
        self.drains.retain(|place| place.node != node);
        self.agains.retain(|&again| again != node);
        self.si_work.retain(|&work| work != node);
        self.orphan_io(node);
        self.membership.told[node].clear();
        self.parked[node].clear();
        self.nodes[node].end();
        if self.redo.as_ref().is_some_and(|redo| redo.by == node) {
            self.redo = None;
        }
    }
}

fn instance_id_of(node: usize) -> InstanceId {
    instance_id(u32::try_from(node).unwrap_or(u32::MAX))
}
