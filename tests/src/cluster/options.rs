//! The shape of one simulation: how large it is, what is likely, what goes wrong.
//!
//! All of it is numbers with names, so that a failure can be run again, and made smaller, from the
//! command line.

use pagewire_node::random::Random;

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The shape of one simulation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Options {
            $($(#[$doc])* pub $name: u32,)+
        }

        impl Options {
            /// Every number with its name.
            #[must_use]
            pub fn numbers(&self) -> Vec<(&'static str, u32)> {
                vec![$((stringify!($name), self.$name),)+]
            }

            /// Changes the number `name`; false when there is none of that name.
            pub fn set(&mut self, name: &str, number: u32) -> bool {
                match name {
                    $(stringify!($name) => self.$name = number,)+
                    _ => return false,
                }
                true
            }
        }
    };
}

options! {
    /// Instances, 2 to 16.
    instances,
    /// Of these, members at the start; the others may join.
    members,
    /// Pages.
    pages,
    /// Threads of each instance, at most 32.
    threads,
    /// Steps under load, before everything has to come to rest.
    steps,
    /// Acquires for X in a hundred.
    exclusive_percent,
    /// Steps of a thread with a guard that release it, in a hundred.
    release_percent,
    /// Steps of a thread with a guard that take one more page, in a hundred.
    nest_percent,
    /// Steps of a waiting thread that withdraw, in a hundred.
    withdraw_percent,
    /// Messages that hold up their wire for a while, in a hundred.
    stall_percent,
    /// Receives that are posted late, in a hundred.
    late_post_percent,
    /// Receives that each instance posts for each peer and lane.
    credits,
    /// Requests for pages that an instance has under way at most.
    requests_max,
    /// Reads from storage that fail, in a hundred.
    read_failure_percent,
    /// Writes to storage that fail, in a hundred.
    write_failure_percent,
    /// Steps after which an instance that cannot renew its lease has lost it, by a right clock.
    lease_steps,
    /// Reads and writes that storage takes long for, in a hundred.
    slow_io_percent,
    /// How far clocks go wrong, in a hundred.
    drift_percent,
    /// Weight of steps in which a message arrives or the network does something.
    deliver_weight,
    /// Weight of steps in which a request finds its frame and leaves.
    request_weight,
    /// Weight of steps in which storage or a log goes on.
    storage_weight,
    /// Weight of steps in which drained pins are reported.
    drain_weight,
    /// Weight of steps of local threads.
    thread_weight,
    /// Weight of steps in which the runtime evicts, writes back, or makes the log durable.
    housekeeping_weight,
    /// Weight of steps in which an instance hears of a view or of redo.
    membership_weight,
    /// Steps between two faults, on average; 0 for none.
    fault_every,
    /// Weight of links that break.
    break_weight,
    /// Weight of sessions that move to another link.
    move_weight,
    /// Weight of directions in which nothing passes for a while.
    block_weight,
    /// Weight of crashes, between two steps or two effects.
    crash_weight,
    /// Weight of pauses.
    pause_weight,
    /// Weight of instances that nobody can reach for a while.
    isolate_weight,
    /// Weight of instances that join.
    join_weight,
    /// Weight of instances that leave as planned.
    leave_weight,
    /// Views that an instance skips when a newer one is there, in a hundred.
    skip_view_percent,
    /// Weight of disks on which nothing gets done for a while.
    slow_disk_weight,
    /// Weight of lanes that stand still for a while, so that others overtake them.
    slow_lane_weight,
    /// Weight of instances that hear of views late.
    late_views_weight,
    /// Longest that a lane stands still or a view is heard late, in steps.
    lag_steps,
    /// Changes that are published as invalidations, in a hundred; 0: there are no invalidations.
    si_percent,
}

/// Sizes that a smaller failure may have less of, down to this.
pub(super) const SIZES: [(&str, u32); 4] =
    [("instances", 2), ("pages", 1), ("threads", 1), ("members", 1)];

/// Weights of faults.
pub(super) const FAULT_WEIGHTS: [&str; 12] = [
    "break_weight",
    "move_weight",
    "block_weight",
    "crash_weight",
    "pause_weight",
    "isolate_weight",
    "join_weight",
    "leave_weight",
    "slow_disk_weight",
    "slow_lane_weight",
    "late_views_weight",
    "housekeeping_weight",
];

/// What may happen, or not at all.
pub(super) const CHANCES: [&str; 11] = [
    "si_percent",
    "nest_percent",
    "withdraw_percent",
    "stall_percent",
    "late_post_percent",
    "read_failure_percent",
    "write_failure_percent",
    "slow_io_percent",
    "drift_percent",
    "skip_view_percent",
    "fault_every",
];

impl Options {
    /// A shape chosen by `seed`, so that many seeds cover many shapes: two of eight are of a
    /// cluster in which nothing goes wrong, the others of one with faults of some kinds.
    #[must_use]
    pub fn mixed(seed: u64) -> Self {
        // Another stream than the schedule's.
        let random = &mut Random::new(seed ^ 0x5EED_0F5A_9E00_0001);
        let healthy = Self::healthy(random);
        let it = match seed % 8 {
            0 => healthy,
            1 => healthy.with_storage_failures(),
            _ => healthy.with_faults(random),
        };
        it.with_invalidations(seed)
    }

    /// The same shape with invalidations, in every other seed.
    fn with_invalidations(self, seed: u64) -> Self {
        // A stream of its own: schedules without them stay what they are.
        let random = &mut Random::new(seed ^ 0x5EED_0F5A_9E00_0005);
        Self { si_percent: random.pick(&[0, 0, 10, 40]), ..self }
    }

    fn healthy(random: &mut Random) -> Self {
        let weight = |random: &mut Random| random.pick(&[1, 3, 10, 30]);
        let instances = random.pick(&[2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 12, 16]);
        let threads = 1 + random.below(4);
        Self {
            instances,
            members: instances,
            pages: 1 + random.below(6),
            threads,
            steps: random.between(500, 3000),
            exclusive_percent: random.pick(&[5, 20, 50, 80]),
            release_percent: random.pick(&[10, 30, 60]),
            nest_percent: random.pick(&[0, 5, 15]),
            withdraw_percent: random.pick(&[0, 1, 5, 20]),
            stall_percent: random.pick(&[0, 2, 10]),
            late_post_percent: random.pick(&[0, 10, 50]),
            credits: random.pick(&[1, 2, 4, 16]),
            // A thread that waits holds guards: with fewer, instances could wait for each other.
            requests_max: threads + random.pick(&[0, 1, 8]),
            read_failure_percent: 0,
            write_failure_percent: 0,
            slow_io_percent: 0,
            lease_steps: random.pick(&[100, 400]),
            drift_percent: random.pick(&[0, 10]),
            deliver_weight: weight(random),
            request_weight: weight(random),
            storage_weight: weight(random),
            drain_weight: weight(random),
            thread_weight: weight(random),
            housekeeping_weight: random.pick(&[0, 1, 3, 10]),
            membership_weight: weight(random),
            fault_every: 0,
            break_weight: 0,
            move_weight: 0,
            block_weight: 0,
            crash_weight: 0,
            pause_weight: 0,
            isolate_weight: 0,
            join_weight: 0,
            leave_weight: 0,
            skip_view_percent: 0,
            slow_disk_weight: 0,
            slow_lane_weight: 0,
            late_views_weight: 0,
            lag_steps: 0,
            si_percent: 0,
        }
    }

    /// A shape chosen by `seed` of few instances and pages of which somebody dies, leaves or joins
    /// all the time, and of a storage that may be slow: for what takes several deaths in a row.
    #[must_use]
    pub fn churning(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x5EED_0F5A_9E00_0002);
        let healthy = Self::healthy(random);
        let instances = random.pick(&[3, 4, 5, 5, 5, 6]);
        Self {
            instances,
            members: instances - random.below(2),
            pages: random.pick(&[1, 1, 1, 2]),
            threads: 2,
            steps: random.between(2000, 4000),
            requests_max: 64,
            housekeeping_weight: random.pick(&[3, 10]),
            slow_io_percent: random.pick(&[0, 10, 30]),
            fault_every: random.pick(&[40, 60, 80]),
            break_weight: 1,
            move_weight: 1,
            block_weight: 3,
            crash_weight: random.pick(&[3, 5]),
            isolate_weight: random.pick(&[0, 1]),
            join_weight: random.pick(&[5, 10]),
            leave_weight: random.pick(&[1, 3]),
            skip_view_percent: random.pick(&[0, 20, 50]),
            ..healthy
        }
        .with_invalidations(seed)
    }

    /// A shape chosen by `seed` like [`Options::churning`] in which instances die and come back faster
    /// than the others hear of it: several views at a time are under way, and skipped.
    #[must_use]
    pub fn storming(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x5EED_0F5A_9E00_0003);
        Self {
            steps: random.between(3000, 6000),
            membership_weight: random.pick(&[1, 1, 3]),
            fault_every: random.pick(&[20, 30]),
            crash_weight: random.pick(&[5, 10]),
            pause_weight: random.pick(&[0, 1, 3]),
            join_weight: random.pick(&[10, 20]),
            skip_view_percent: random.pick(&[20, 50]),
            slow_io_percent: random.pick(&[10, 30, 50]),
            slow_disk_weight: random.pick(&[0, 1]),
            ..Self::churning(seed)
        }
    }

    /// A shape chosen by `seed` in which lanes overtake each other by far and instances hear of views
    /// late, while others join and leave all the time: for what meets an older or a newer epoch.
    #[must_use]
    pub fn lagging(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x5EED_0F5A_9E00_0004);
        let healthy = Self::healthy(random);
        // Few, of whom one comes and goes and takes partitions with it; or more, of whom some die in
        // the middle of something.
        let instances = random.pick(&[3, 3, 4, 5, 6]);
        let dies = random.pick(&[0, 1, 10]);
        let it = if random.percent(30) { healthy.with_storage_failures() } else { healthy };
        Self {
            instances,
            members: instances - 1,
            pages: random.pick(&[1, 1, 2]),
            threads: 2,
            steps: random.between(2000, 4000),
            release_percent: random.pick(&[30, 60]),
            withdraw_percent: random.pick(&[1, 5, 20]),
            credits: random.pick(&[4, 16]),
            requests_max: 64,
            lease_steps: 30,
            deliver_weight: random.pick(&[10, 30]),
            housekeeping_weight: random.pick(&[3, 10, 30]),
            membership_weight: random.pick(&[10, 30]),
            fault_every: random.pick(&[10, 20, 40]),
            crash_weight: dies,
            join_weight: random.pick(&[10, 20]),
            leave_weight: random.pick(&[1, 5, 10]),
            skip_view_percent: random.pick(&[0, 0, 20]),
            slow_lane_weight: random.pick(&[3, 10, 20]),
            late_views_weight: random.pick(&[1, 3, 10]),
            lag_steps: random.pick(&[200, 600]),
            ..it
        }
        .with_invalidations(seed)
    }

    /// What coverage is looked for in: half of all blocks of eight seeds are of
    /// [`Options::searching`], the others of [`Options::lagging`].
    #[must_use]
    pub fn covering(seed: u64) -> Self {
        match seed / 8 % 8 {
            4..=7 => Self::lagging(seed),
            _ => Self::searching(seed),
        }
    }

    /// What planted bugs are looked for in: of four blocks of eight seeds one is of
    /// [`Options::churning`] and one of [`Options::storming`], the others of [`Options::mixed`].
    /// Requests have room.
    #[must_use]
    pub fn searching(seed: u64) -> Self {
        match seed / 8 % 4 {
            1 => Self::churning(seed),
            3 => Self::storming(seed),
            _ => Self { requests_max: 64, ..Self::mixed(seed) },
        }
    }

    /// The same shape with a storage that now and then fails.
    #[must_use]
    pub fn with_storage_failures(self) -> Self {
        Self { read_failure_percent: 10, write_failure_percent: 10, ..self }
    }

    /// The same shape with faults of some kinds, often or rarely.
    fn with_faults(self, random: &mut Random) -> Self {
        let weight = |random: &mut Random| random.pick(&[0, 0, 1, 3, 10]);
        let failing = random.percent(20);
        let it = if failing { self.with_storage_failures() } else { self };
        let absent = if self.instances > 2 { random.below(self.instances / 2) } else { 0 };
        Self {
            members: self.instances - absent,
            fault_every: random.pick(&[30, 100, 300, 1000]),
            break_weight: weight(random),
            move_weight: weight(random),
            block_weight: weight(random),
            crash_weight: weight(random),
            pause_weight: weight(random),
            isolate_weight: weight(random),
            join_weight: weight(random) + 1,
            leave_weight: weight(random),
            skip_view_percent: random.pick(&[0, 20, 50]),
            slow_disk_weight: weight(random),
            ..it
        }
    }

    /// The same shape with few instances that die and join all the time, and change what a page says as
    /// often: what planted bugs of invalidations are looked for in.
    #[must_use]
    pub fn with_many_invalidations(self) -> Self {
        Self {
            instances: 3,
            members: 3,
            pages: 1,
            steps: 3000,
            exclusive_percent: 50,
            fault_every: 30,
            crash_weight: 10,
            join_weight: 20,
            si_percent: 60,
            ..self
        }
    }

    /// Faults that change who is a member.
    #[must_use]
    pub fn changes_members(&self) -> bool {
        let weights = [
            self.crash_weight,
            self.pause_weight,
            self.isolate_weight,
            self.join_weight,
            self.leave_weight,
        ];
        self.fault_every > 0 && weights.iter().any(|&weight| weight > 0)
    }
}
