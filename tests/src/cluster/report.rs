//! What a simulation has to say when it is over.

use super::Options;
use std::fmt;

/// What a simulation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps taken, in all phases.
    pub steps: u64,
    /// Messages delivered, those of an instance to itself not counted.
    pub messages: u64,
    /// Guards that threads took by themselves.
    pub hits: u64,
    /// Guards that the core completed.
    pub completed: u64,
    /// Waiters that the core failed because storage did.
    pub failed: u64,
    /// Waiters that withdrew.
    pub withdrawn: u64,
    /// Pages read from storage.
    pub reads: u64,
    /// Pages written to storage.
    pub writes: u64,
    /// Pages shipped between instances.
    pub ships: u64,
    /// Times that a page was changed.
    pub changes: u64,
    /// Longest wait for a guard, in steps.
    pub longest_wait_steps: u64,
    /// Steps from the end of the load until everything was at rest.
    pub settle_steps: u64,
    /// Longest wait of one thread against a stream of the other mode, in steps.
    pub starvation_steps: u64,
}

impl Summary {
    /// Both together: counts are added, longest waits compared.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            messages: self.messages + other.messages,
            hits: self.hits + other.hits,
            completed: self.completed + other.completed,
            failed: self.failed + other.failed,
            withdrawn: self.withdrawn + other.withdrawn,
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            ships: self.ships + other.ships,
            changes: self.changes + other.changes,
            longest_wait_steps: self.longest_wait_steps.max(other.longest_wait_steps),
            settle_steps: self.settle_steps.max(other.settle_steps),
            starvation_steps: self.starvation_steps.max(other.starvation_steps),
        }
    }
}

/// A broken invariant, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed: the same seed and options fail again in the same way.
    pub seed: u64,
    /// The shape of the simulation.
    pub options: Options,
    /// The step that broke it.
    pub step: u64,
    /// What is wrong.
    pub what: String,
    /// The last actions, oldest first.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} fails in step {}: {}", self.seed, self.step, self.what)?;
        writeln!(f, "{:?}", self.options)?;
        writeln!(f, "the last actions:")?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
