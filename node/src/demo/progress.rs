//! What a terminal shows of a run.

use super::report::grouped;
use crate::agent::lines::Event;
use pagewire_protocol::InstanceId;
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// The line that a terminal shows while the workers work.
pub(super) struct Progress {
    started: Instant,
    is_shown: bool,
    /// Standard error is for complaints only.
    is_quiet: bool,
    last: BTreeMap<InstanceId, [u64; 3]>,
    /// The longest wait for a page that was told since [`Progress::take_longest`], in microseconds.
    longest_us: u64,
}

impl Progress {
    /// `is_quiet`: whoever runs it reads the result alone.
    pub(super) fn new(started: Instant, is_quiet: bool) -> Self {
        Self {
            started,
            is_shown: io::stderr().is_terminal(),
            is_quiet,
            last: BTreeMap::new(),
            longest_us: 0,
        }
    }

    pub(super) fn show(&mut self, instance: InstanceId, event: &Event) {
        let Event::Progress { transfers, audits, pages_shipped, longest_us } = event else {
            return;
        };
        self.longest_us = self.longest_us.max(*longest_us);
        self.last.insert(instance, [*transfers, *audits, *pages_shipped]);
        if self.is_shown {
            eprint!("\r\x1b[K{}", self.line(self.started.elapsed()));
        }
    }

    /// The longest wait for a page that any instance has told since this was asked last.
    pub(super) fn take_longest(&mut self) -> Duration {
        Duration::from_micros(std::mem::take(&mut self.longest_us))
    }

    /// A line for the terminal, and for whoever reads the log of a run.
    pub(super) fn tell(&self, line: &str) {
        if !self.is_quiet {
            self.clear();
            eprintln!("pagewire: {line}");
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let sum = |field: usize| grouped(self.last.values().map(|counts| counts[field]).sum());
        let (transfers, audits, pages) = (sum(0), sum(1), sum(2));
        let elapsed_s = elapsed.as_secs_f64();
        format!("{elapsed_s:5.1} s  {transfers} transfers  {audits} audits  {pages} pages shipped")
    }

    pub(super) fn clear(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up_what_the_instances_told_last() {
        let mut progress = Progress {
            started: Instant::now(),
            is_shown: false,
            is_quiet: true,
            last: [].into(),
            longest_us: 0,
        };
        for (instance, transfers) in [(0, 1000), (1, 5), (0, 2000)] {
            let longest_us = transfers;
            let event = Event::Progress { transfers, audits: 1, pages_shipped: 2, longest_us };
            progress.show(InstanceId(instance), &event);
        }
        let line = progress.line(Duration::from_millis(1500));
        assert_eq!(line, "  1.5 s  2,005 transfers  2 audits  4 pages shipped");
        assert_eq!(progress.take_longest(), Duration::from_micros(2000));
        assert_eq!(progress.take_longest(), Duration::ZERO);
    }
}
