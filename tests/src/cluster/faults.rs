//! What goes wrong, and when it is over.
//!
//! At least one member is always up, reachable and not evicted: with nobody left there is no
//! directory to rebuild. Only what the kinds in [`Fault`] say goes wrong.

use super::{Checked, Cluster, workload::Habit};
use pagewire_protocol::{Incarnation, Lane};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A link breaks.
    Break,
    /// A session moves to another link.
    Move,
    /// Nothing passes in one direction, or in both, for a while.
    Block,
    /// An instance crashes between two steps.
    Crash,
    /// An instance crashes between two effects of one event.
    CrashInside,
    /// An instance stands still for a while.
    Pause,
    /// Nobody can reach an instance for a while, the membership neither.
    Isolate,
    /// An instance joins, or comes back in a new life.
    Join,
    /// An instance leaves as planned.
    Leave,
    /// A lease is lost.
    LeaseLost,
    /// A member is taken for dead.
    Evict,
    /// A read from storage fails.
    ReadFails,
    /// A write to storage fails.
    WriteFails,
    /// A view is skipped.
    SkipView,
    /// What an instance reads, writes or flushes stands still for a while.
    SlowDisk,
    /// One lane of a direction stands still for a while, and the others overtake it.
    SlowLane,
    /// An instance hears nothing of the membership for a while.
    LateViews,
}

impl Fault {
    /// How many kinds there are.
    pub const COUNT: usize = 17;
    /// Kinds that only [`Options::lagging`](super::Options::lagging) has.
    pub const LAGS: [Self; 2] = [Self::SlowLane, Self::LateViews];
    /// All kinds.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Break,
        Self::Move,
        Self::Block,
        Self::Crash,
        Self::CrashInside,
        Self::Pause,
        Self::Isolate,
        Self::Join,
        Self::Leave,
        Self::LeaseLost,
        Self::Evict,
        Self::ReadFails,
        Self::WriteFails,
        Self::SkipView,
        Self::SlowDisk,
        Self::SlowLane,
        Self::LateViews,
    ];
}

/// Something that is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A direction passes again.
    Unblock(usize, usize),
    /// The instance goes on, if it is still this stop.
    Resume(usize, u64),
    /// By its own clock the instance's lease is over.
    LeaseOver(usize, u64),
    /// The membership takes the instance's life for dead, if it is gone or this stop lasts.
    Evict(usize, Incarnation, Option<u64>),
    /// An instance that is absent starts again.
    Start(usize),
    /// The instance's disk goes on.
    Disk(usize),
    /// The lane passes again.
    Lane(usize, usize, Lane),
    /// The instance hears of the membership again.
    Hears(usize),
}

impl Cluster {
    pub(super) fn note(&mut self, fault: Fault, words: impl FnOnce() -> String) {
        self.summary.faults[fault as usize] += 1;
        self.last_fault = Some(fault);
        self.trace.event(self.summary.steps, words);
    }

    pub(super) fn after(&mut self, steps: u64, due: Due) {
        self.dues.push((self.now + steps, due));
    }

    /// A number of steps from 1 to `most`.
    pub(super) fn some_steps(&mut self, most: u32) -> u64 {
        u64::from(1 + self.random.below(most.max(1)))
    }

    /// Everything that is due by now happens; with `jump`, the next that will be due is due.
    pub(super) fn pass_time(&mut self, jump: bool) -> Checked<bool> {
        if jump && let Some(next) = self.dues.iter().map(|(at, _)| *at).min() {
            self.now = self.now.max(next);
        }
        let mut any = false;
        while let Some(at) = self.dues.iter().position(|(at, _)| *at <= self.now) {
            let (_, due) = self.dues.remove(at);
            any = true;
            match due {
                Due::Unblock(from, to) => {
                    self.trace.event(self.summary.steps, || format!("{from} to {to} passes again"));
                    self.network.block(from, to, false);
                }
                Due::Resume(node, stop) => self.resume(node, stop)?,
                Due::LeaseOver(node, stop) => self.lease_over(node, stop)?,
                Due::Evict(node, life, stop) => self.evict_member(node, life, stop)?,
                Due::Start(node) => self.start_again(node),
                Due::Disk(node) => self.nodes[node].slow_disk = false,
                Due::Lane(from, to, lane) => self.network.slow_lane(from, to, lane, false),
                Due::Hears(node) => self.nodes[node].hears_late = false,
            }
        }
        Ok(any)
    }

    /// Something may go wrong before the next step.
    pub(super) fn inject(&mut self) -> Checked {
        let o = self.options;
        if self.habit != Habit::Mixed || o.fault_every == 0 {
            return Ok(());
        }
        if self.random.below(o.fault_every) != 0 {
            return Ok(());
        }
        let kinds = [
            (Fault::Break, o.break_weight),
            (Fault::Move, o.move_weight),
            (Fault::Block, o.block_weight),
            (Fault::Crash, o.crash_weight),
            (Fault::CrashInside, o.crash_weight),
            (Fault::Pause, o.pause_weight),
            (Fault::Isolate, o.isolate_weight),
            (Fault::Join, o.join_weight),
            (Fault::Leave, o.leave_weight),
            (Fault::SlowDisk, o.slow_disk_weight),
            (Fault::SlowLane, o.slow_lane_weight),
            (Fault::LateViews, o.late_views_weight),
        ];
        let total: u32 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total);
        for (kind, weight) in kinds {
            if at < weight {
                return self.happen(kind);
            }
            at -= weight;
        }
        Ok(())
    }

    fn happen(&mut self, fault: Fault) -> Checked {
        let (mut a, b) = (self.random.index(self.nodes.len()), self.random.index(self.nodes.len()));
        if self.options.lag_steps > 0
            && matches!(fault, Fault::Join | Fault::Leave)
            && self.random.percent(60)
        {
            // One comes and goes, and pages with it: see `Cluster::new`.
            a = self.nodes.len() - 1;
        }
        match fault {
            Fault::Break if a != b && self.network.break_link(a, b, &mut self.random) => {
                self.note(fault, || format!("the link of {a} and {b} breaks"));
            }
            Fault::Move if a != b && self.network.begin_move(a, b) => {
                self.note(fault, || format!("the session of {a} and {b} moves"));
            }
            Fault::Block if a != b => {
                let both = self.random.percent(50);
                let breaks = self.random.percent(50);
                self.note(fault, || format!("{a} to {b} is cut, both ways {both}"));
                self.cut_direction(a, b);
                if both {
                    self.cut_direction(b, a);
                }
                if breaks {
                    self.network.break_link(a, b, &mut self.random);
                }
            }
            Fault::Crash if self.can_lose(a) => {
                self.note(fault, || format!("instance {a} crashes"));
                self.crash(a)?;
            }
            Fault::CrashInside if self.can_lose(a) => {
                self.crash_at = Some((a, self.random.below(12)));
            }
            Fault::Pause if self.can_lose(a) && self.nodes[a].stop.is_none() => self.pause(a),
            Fault::Isolate if self.can_lose(a) && self.nodes[a].stop.is_none() => self.isolate(a),
            Fault::Join => self.start_again(a),
            Fault::Leave if self.can_lose(a) => self.plan_leave(a)?,
            Fault::SlowDisk if !self.nodes[a].slow_disk => {
                self.note(fault, || format!("the disk of {a} stands still"));
                self.nodes[a].slow_disk = true;
                // Longer than a lease, now and then.
                let steps = self.some_steps(2 * self.options.lease_steps);
                self.after(steps, Due::Disk(a));
            }
            Fault::SlowLane if a != b => {
                // Not bulk: its being behind the others is what is usual.
                let lane = self.random.pick(&[Lane::Control, Lane::Requests, Lane::Pages]);
                self.note(fault, || format!("{lane:?} of {a} to {b} stands still"));
                self.network.slow_lane(a, b, lane, true);
                let steps = self.some_steps(self.options.lag_steps);
                self.after(steps, Due::Lane(a, b, lane));
            }
            Fault::LateViews if self.nodes[a].is_live() && !self.nodes[a].hears_late => {
                self.note(fault, || format!("instance {a} hears of views late"));
                self.nodes[a].hears_late = true;
                let steps = self.some_steps(self.options.lag_steps);
                self.after(steps, Due::Hears(a));
            }
            _ => {}
        }
        Ok(())
    }

    fn cut_direction(&mut self, from: usize, to: usize) {
        let steps = self.some_steps(self.options.lease_steps);
        self.network.block(from, to, true);
        self.after(steps, Due::Unblock(from, to));
    }

    /// Another member would be left that is up, reachable and stays.
    pub(super) fn can_lose(&self, node: usize) -> bool {
        let stays = |at: usize| {
            let it = &self.nodes[at];
            it.is_live() && it.stop.is_none() && !it.leaving
        };
        self.nodes[node].is_live()
            && self.crash_at.is_none()
            && (0..self.nodes.len()).any(|at| at != node && stays(at))
    }

    /// The process stands still. Its lease runs out meanwhile.
    fn pause(&mut self, node: usize) {
        let steps = self.some_steps(3 * self.options.lease_steps);
        self.note(Fault::Pause, || format!("instance {node} stands still for {steps} steps"));
        let stop = self.stop_renewing(node);
        self.nodes[node].paused = true;
        self.network.set_paused(node, true);
        self.after(steps, Due::Resume(node, stop));
    }

    /// Nothing passes to or from the instance, and it cannot renew its lease.
    fn isolate(&mut self, node: usize) {
        let steps = self.some_steps(3 * self.options.lease_steps);
        self.note(Fault::Isolate, || format!("nobody reaches instance {node} for {steps} steps"));
        let stop = self.stop_renewing(node);
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            self.network.block(node, other, true);
            self.network.block(other, node, true);
            self.after(steps, Due::Unblock(node, other));
            self.after(steps, Due::Unblock(other, node));
        }
        self.after(steps, Due::Resume(node, stop));
    }

    /// From now on the lease runs: by the instance's clock, and by the membership's, which waits
    /// for longer than any clock can be wrong.
    fn stop_renewing(&mut self, node: usize) -> u64 {
        let lease = u64::from(self.options.lease_steps);
        let drift = self.options.drift_percent;
        let rate = u64::from(100 - drift + self.random.below(2 * drift + 1));
        let longest = lease * 100 / u64::from(100 - drift);
        self.last_stop += 1;
        let stop = self.last_stop;
        self.nodes[node].stop = Some(stop);
        self.nodes[node].lease_over_at = self.now + lease * 100 / rate;
        self.after(lease * 100 / rate, Due::LeaseOver(node, stop));
        let patience = longest + 1 + self.some_steps(self.options.lease_steps);
        self.after(patience, Due::Evict(node, self.nodes[node].life, Some(stop)));
        stop
    }

    fn resume(&mut self, node: usize, stop: u64) -> Checked {
        if self.nodes[node].stop != Some(stop) || !self.nodes[node].running {
            return Ok(());
        }
        self.nodes[node].paused = false;
        self.network.set_paused(node, false);
        // The first thing it does is to look at its clock.
        if self.now >= self.nodes[node].lease_over_at || self.nodes[node].evicted {
            return self.lose_lease(node);
        }
        self.nodes[node].stop = None;
        self.trace.event(self.summary.steps, || format!("instance {node} goes on"));
        Ok(())
    }

    fn lease_over(&mut self, node: usize, stop: u64) -> Checked {
        let it = &self.nodes[node];
        if it.stop != Some(stop) || !it.running || it.paused {
            return Ok(());
        }
        self.lose_lease(node)
    }

    fn start_again(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.running || it.joining {
            return;
        }
        it.joining = true;
        it.life = Incarnation(it.life.0 + 1);
        let life = it.life;
        self.note(Fault::Join, || format!("instance {node} starts, in its life {life}"));
    }
}
