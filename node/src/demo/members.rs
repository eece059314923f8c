//! Who is in the cluster of a run, and how that changes in mid-run: the coordinator decides the views
//! and tells them to the agents.
//!
//! ```text
//!   join   start it with the next view -> listening -> the others meet it -> it links (ready)
//!          -> view to all -> settled
//!   leave  view with it as leaving to all -> settled -> it stops, gives up everything (left)
//!          -> view without it to the others -> settled -> it quits
//! ```
//! Invariant: an instance is started, told and ended by the same steps as any other; none of them
//! waits for the workers of the others, who go on all the time.

use super::{
    change::{Change, What},
    child::{ChildError, Fleet},
    error::DemoError,
    progress::Progress,
    stage::Stage,
};
use crate::{
    agent::lines::{Command as Order, Event, Report},
    view::{Member, View},
};
use pagewire_protocol::{Epoch, Incarnation, InstanceId};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

/// The members of a run at a time.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) view: View,
    addresses: BTreeMap<InstanceId, SocketAddr>,
}

/// A life that was never there before.
fn fresh_incarnation() -> Incarnation {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Incarnation(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

fn member(id: InstanceId) -> Member {
    Member { id, incarnation: fresh_incarnation(), leaving: false }
}

impl Members {
    /// The first members, none of which has started.
    pub(super) fn first(ids: impl Iterator<Item = InstanceId>) -> Result<Self, DemoError> {
        let view = View::first(Epoch(1), ids.map(member).collect())?;
        Ok(Self { view, addresses: BTreeMap::new() })
    }

    /// Notes where instances listen.
    pub(super) fn listen(&mut self, told: &BTreeMap<InstanceId, Event>) {
        for (id, event) in told {
            if let Event::Listening { address } = event {
                self.addresses.insert(*id, *address);
            }
        }
    }

    /// Where all of them listen, as an agent is told.
    pub(super) fn peers(&self) -> Order {
        Order::Peers(self.addresses.iter().map(|(id, address)| (*id, *address)).collect())
    }

    fn meet(&self, newcomer: InstanceId) -> Order {
        let address = self.addresses.get(&newcomer).map(|address| (newcomer, *address));
        Order::Meet(address.into_iter().collect())
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Member>)) -> Result<(), DemoError> {
        let mut members = self.view.members().to_vec();
        change(&mut members);
        self.view = self.view.next(members, self.view.dead().to_vec())?;
        Ok(())
    }
}

/// What happens to the members of a run, and when after the start of the workers.
pub(super) fn timeline(join: bool, leave: bool, whole: Duration) -> Vec<(Duration, What)> {
    match (join, leave) {
        (true, true) => vec![(whole / 3, What::Join), (whole * 2 / 3, What::Leave)],
        (true, false) => vec![(whole / 2, What::Join)],
        (false, true) => vec![(whole / 2, What::Leave)],
        (false, false) => Vec::new(),
    }
}

/// A run whose members change.
pub(super) struct Changing<'r, 'o> {
    pub(super) stage: &'r Stage<'o>,
    pub(super) fleet: &'r mut Fleet,
    pub(super) members: &'r mut Members,
    pub(super) progress: &'r mut Progress,
    /// When the workers started.
    pub(super) started: Instant,
}

impl Changing<'_, '_> {
    /// Does `what`; with the report of an instance that has left.
    pub(super) fn change(&mut self, what: What) -> Result<(Change, Option<Report>), DemoError> {
        let begun = Instant::now();
        let at = begun - self.started;
        let (instance, report) = match what {
            What::Join => (self.join()?, None),
            What::Leave => self.leave()?,
        };
        let took = begun.elapsed();
        // The waits that ended meanwhile are told with the next progress of each.
        self.wait(&self.fleet.instances(), "progress")?;
        let longest = self.progress.take_longest();
        let change = Change::new(what, instance, at, took, longest);
        self.progress.tell(&change.to_string());
        Ok((change, report))
    }

    fn wait(
        &mut self,
        those: &[InstanceId],
        expected: &'static str,
    ) -> Result<BTreeMap<InstanceId, Event>, ChildError> {
        let progress = &mut *self.progress;
        self.fleet.wait_of(those, expected, |instance, event| progress.show(instance, event))
    }

    /// Tells the view to `those`, and waits until it is in force with all of them.
    fn tell_view(&mut self, those: &[InstanceId]) -> Result<(), DemoError> {
        let order = Order::View(self.stage.write_view(&self.members.view)?);
        those.iter().for_each(|id| self.fleet.tell_one(*id, &order));
        self.wait(those, "view")?;
        Ok(())
    }

    fn join(&mut self) -> Result<InstanceId, DemoError> {
        let newcomer = self.stage.newcomer();
        self.members.change(|members| members.push(member(newcomer)))?;
        let mut command = self.stage.node_command(newcomer, &self.members.view)?;
        self.fleet.start(newcomer, &mut command)?;
        let told = self.wait(&[newcomer], "listening")?;
        self.members.listen(&told);
        // Links come first: nothing moves to whom nobody reaches.
        let all = self.fleet.instances();
        let others: Vec<_> = all.iter().copied().filter(|id| *id != newcomer).collect();
        let order = self.members.meet(newcomer);
        others.iter().for_each(|id| self.fleet.tell_one(*id, &order));
        self.wait(&others, "met")?;
        self.fleet.tell_one(newcomer, &self.members.peers());
        self.wait(&[newcomer], "ready")?;
        // The newcomer has that view; but so it says when its part of the directory is complete, too.
        self.tell_view(&all)?;
        self.fleet.tell_one(newcomer, &Order::Start);
        self.wait(&all, "settled")?;
        Ok(newcomer)
    }

    fn leave(&mut self) -> Result<(InstanceId, Option<Report>), DemoError> {
        let leaver = self.stage.leaver();
        self.members.change(|members| {
            members.iter_mut().filter(|m| m.id == leaver).for_each(|m| m.leaving = true);
        })?;
        let all = self.fleet.instances();
        self.tell_view(&all)?;
        self.wait(&all, "settled")?;
        for (order, done) in [(Order::Stop, "stopped"), (Order::Leave, "left")] {
            self.fleet.tell_one(leaver, &order);
            self.wait(&[leaver], done)?;
        }
        self.members.change(|members| members.retain(|m| m.id != leaver))?;
        let others: Vec<_> = all.into_iter().filter(|id| *id != leaver).collect();
        self.tell_view(&others)?;
        self.wait(&others, "settled")?;
        self.fleet.tell_one(leaver, &Order::Quit);
        let mut told = self.wait(&[leaver], "report")?;
        self.fleet.retire(leaver)?;
        let report = match told.remove(&leaver) {
            Some(Event::Report(report)) => Some(*report),
            _ => None,
        };
        Ok((leaver, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_and_go_with_views_that_follow_each_other() {
        let mut members = Members::first((0..3).map(InstanceId)).expect("a view");
        let first = members.view.clone();
        members.change(|all| all.push(member(InstanceId(3)))).expect("a view");
        assert_eq!((members.view.epoch(), members.view.members().len()), (Epoch(2), 4));
        members.change(|all| all[1].leaving = true).expect("a view");
        assert!(members.view.member(InstanceId(1)).is_some_and(|m| m.leaving));
        members.change(|all| all.retain(|m| m.id != InstanceId(1))).expect("a view");
        assert_eq!(first.gone(&members.view).map(|(id, _)| id.0).collect::<Vec<_>>(), [1]);
        assert_eq!(View::decode(&members.view.encode()), Ok(members.view.clone()));
    }

    #[test]
    fn changes_are_spread_over_the_run() {
        let whole = Duration::from_secs(6);
        let at = |join, leave| timeline(join, leave, whole);
        assert_eq!(at(false, false), []);
        assert_eq!(at(true, false), [(whole / 2, What::Join)]);
        assert_eq!(at(true, true), [(whole / 3, What::Join), (whole * 2 / 3, What::Leave)]);
    }
}
