//! The shape of one simulation: how large, and what is likely.

use pagewire_node::random::Random;

/// How often each kind of step is taken when several are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// A message is delivered.
    pub deliver: u32,
    /// A request finds its frame and leaves.
    pub request: u32,
    /// Storage goes on.
    pub storage: u32,
    /// Pins that were drained are reported.
    pub drain: u32,
    /// A local thread acquires, changes, releases, withdraws.
    pub thread: u32,
    /// The runtime evicts or writes back.
    pub housekeeping: u32,
}

/// The shape of one simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Instances, 2 to 5.
    pub instances: u16,
    /// Pages, 1 to 6.
    pub pages: usize,
    /// Threads of each instance, at most 32.
    pub threads: usize,
    /// Steps under load, before everything has to come to rest.
    pub steps: u64,
    /// Acquires for X in a hundred.
    pub exclusive_percent: u32,
    /// Steps of a thread with a guard that release it, in a hundred.
    pub release_percent: u32,
    /// Steps of a thread with a guard that take one more page, in a hundred.
    pub nest_percent: u32,
    /// Steps of a waiting thread that withdraw, in a hundred.
    pub withdraw_percent: u32,
    /// Messages that hold up their queue for a while, in a hundred.
    pub stall_percent: u32,
    /// Reads from storage that fail, in a hundred.
    pub read_failure_percent: u32,
    /// Writes to storage that fail, in a hundred.
    pub write_failure_percent: u32,
    /// What is likely.
    pub weights: Weights,
}

impl Options {
    /// A shape chosen by `seed`, so that many seeds cover many shapes. Storage never fails.
    #[must_use]
    pub fn mixed(seed: u64) -> Self {
        // Another stream than the schedule's.
        let random = &mut Random::new(seed ^ 0x5EED_0F5A_9E00_0001);
        let weight = |random: &mut Random| random.pick(&[1, 3, 10, 30]);
        Self {
            instances: random.pick(&[2, 3, 3, 4, 5]),
            pages: 1 + random.index(6),
            threads: 1 + random.index(4),
            steps: u64::from(random.between(500, 3000)),
            exclusive_percent: random.pick(&[5, 20, 50, 80]),
            release_percent: random.pick(&[10, 30, 60]),
            nest_percent: random.pick(&[0, 5, 15]),
            withdraw_percent: random.pick(&[0, 1, 5, 20]),
            stall_percent: random.pick(&[0, 2, 10]),
            read_failure_percent: 0,
            write_failure_percent: 0,
            weights: Weights {
                deliver: weight(random),
                request: weight(random),
                storage: weight(random),
                drain: weight(random),
                thread: weight(random),
                housekeeping: random.pick(&[0, 1, 3, 10]),
            },
        }
    }

    /// The same shape with a storage that now and then fails.
    #[must_use]
    pub fn with_storage_failures(self) -> Self {
        Self { read_failure_percent: 10, write_failure_percent: 10, ..self }
    }
}
