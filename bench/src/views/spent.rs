//! Where the time of a view change goes.

use pagewire_node::grd::Event;
use std::time::Duration;

/// What the cores did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Took the view.
    View,
    /// Found out and told what they have there.
    Report,
    /// Packed and unpacked it.
    Ship,
    /// Made entries of what others told.
    Merge,
    /// Everything else: requests, and what is said about single pages.
    Other,
}

impl Work {
    pub(super) const ALL: [Self; 5] =
        [Self::View, Self::Report, Self::Ship, Self::Merge, Self::Other];

    pub(super) fn of(event: &Event) -> Self {
        match event {
            Event::View(_) => Self::View,
            Event::Continue => Self::Report,
            Event::LoadGuide { .. } => Self::Merge,
            _ => Self::Other,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::View => "take the view",
            Self::Report => "report",
            Self::Ship => "ship",
            Self::Merge => "merge",
            Self::Other => "requests",
        }
    }
}

/// Time by work, and the longest single event of each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent([(Duration, Duration); Work::ALL.len()]);

impl Spent {
    pub(super) fn add(&mut self, work: Work, took: Duration) {
        let (sum, longest) = &mut self.0[work as usize];
        *sum += took;
        *longest = took.max(*longest);
    }

    pub(super) fn sum(&self, work: Work) -> Duration {
        self.0[work as usize].0
    }

    pub(super) fn longest(&self, work: Work) -> Duration {
        self.0[work as usize].1
    }
}
