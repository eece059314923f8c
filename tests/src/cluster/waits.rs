//! Nobody waits for ever.

use super::{
    Checked, Cluster, ensure,
    workload::{Habit, STREAM_STEPS, Thread, WAIT_STEPS_PER_INSTANCE_MAX, Waiting},
};
use pagewire_protocol::Mode;

impl Cluster {
    /// As long as nothing is disturbed; otherwise everyone has what it wants after the heal.
    pub(super) fn check_waits(&self) -> Checked {
        if self.membership.disturbed {
            return Ok(());
        }
        // A page goes around among all who want it, and each hop takes its messages' turns.
        let longest = WAIT_STEPS_PER_INSTANCE_MAX * self.nodes.len().max(4) as u64;
        for (node, thread) in self.threads() {
            if let Some(waiting) = thread.waiting {
                let waited = self.summary.steps - waiting.since;
                let Waiting { page, mode, .. } = waiting;
                ensure!(
                    waited < longest,
                    "I5: instance {node} has waited {waited} steps for page {page} in {mode}"
                );
            }
        }
        Ok(())
    }

    pub(super) fn threads(&self) -> impl Iterator<Item = (usize, &Thread)> {
        self.nodes.iter().enumerate().flat_map(|(n, node)| node.threads.iter().map(move |t| (n, t)))
    }

    /// One thread wants a page in `wanted` while all others stream through it in the other mode.
    pub(super) fn probe_starvation(&mut self, wanted: Mode) -> Checked {
        let page = self.random.index(self.pages.len());
        let active: Vec<_> =
            (0..self.nodes.len()).filter(|&at| self.nodes[at].is_active()).collect();
        let probe = active[self.random.index(active.len())];
        let mode = if wanted == Mode::X { Mode::S } else { Mode::X };
        self.habit = Habit::Stream { page, mode, probe };
        for _ in 0..STREAM_STEPS {
            self.step()?;
        }
        let start = self.summary.steps;
        self.acquire(probe, 0, page, wanted)?;
        while self.nodes[probe].threads[0].waiting.is_some() {
            self.step()?;
        }
        let waited = self.summary.steps - start;
        self.summary.starvation_steps = self.summary.starvation_steps.max(waited);
        Ok(())
    }
}
