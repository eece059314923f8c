//! What a simulation has to say when it is over.

use super::{Options, faults::Fault};
use std::fmt;

macro_rules! summary {
    ($(#[$doc:meta] $name:ident: $how:ident,)+) => {
        /// What a simulation did.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Summary {
            $(#[$doc] pub $name: u64,)+
            /// Faults, by [`Fault`].
            pub faults: [u64; Fault::COUNT],
        }

        impl Summary {
            /// Both together: counts are added, longest waits compared.
            #[must_use]
            pub fn with(self, other: &Self) -> Self {
                let mut faults = self.faults;
                faults.iter_mut().zip(other.faults).for_each(|(sum, more)| *sum += more);
                Self { $($name: summary!(@$how self.$name, other.$name),)+ faults }
            }

            /// Every number with its name, faults aside.
            #[must_use]
            pub fn numbers(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)+]
            }
        }
    };
    (@sum $a:expr, $b:expr) => { $a + $b };
    (@max $a:expr, $b:expr) => { $a.max($b) };
}

summary! {
    /// Steps taken, in all phases.
    steps: sum,
    /// Messages delivered, those of an instance to itself not counted.
    messages: sum,
    /// Guards that threads took by themselves.
    hits: sum,
    /// Guards that the core completed.
    completed: sum,
    /// Waiters that the core failed.
    failed: sum,
    /// Waiters that withdrew.
    withdrawn: sum,
    /// Pages read from storage.
    reads: sum,
    /// Pages written to storage.
    writes: sum,
    /// Pages shipped between instances.
    ships: sum,
    /// Times that a page was changed.
    changes: sum,
    /// Of these, changes that were published as invalidations.
    invalidations: sum,
    /// Versions whose redo was not durable in a crash.
    lost_versions: sum,
    /// Past images that instances kept, and that were shipped for redo.
    past_images: sum,
    /// Past images that were shipped as a base for redo.
    past_images_shipped: sum,
    /// Copies in transit that were held again.
    reinstated: sum,
    /// Messages that waited for a view.
    parked: sum,
    /// Records of shadow information.
    guides: sum,
    /// Views decided.
    views: sum,
    /// Redos of dead instances that were finished.
    redos: sum,
    /// Pages that redo changed.
    redone: sum,
    /// Messages that were lost with their link.
    lost_messages: sum,
    /// Messages that came again after a link was lost.
    duplicates: sum,
    /// Acknowledgements that went alone.
    acks_alone: sum,
    /// Messages that waited for credit.
    waited: sum,
    /// Messages for instances that the sender has no session with.
    unaddressed: sum,
    /// Longest wait for a guard, in steps.
    longest_wait_steps: max,
    /// Steps from the end of the load until everything was at rest.
    settle_steps: max,
    /// Longest wait of one thread against a stream of the other mode, in steps.
    starvation_steps: max,
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
    /// The last actions that have to do with it, oldest first.
    pub trace: Vec<String>,
}

impl Failure {
    /// The command that runs exactly this again.
    #[must_use]
    pub fn command(&self) -> String {
        let chosen = Options::mixed(self.seed).numbers();
        let differs =
            self.options.numbers().into_iter().zip(chosen).filter(|(own, was)| own != was);
        let shape: Vec<_> = differs.map(|((name, number), _)| format!("{name}={number}")).collect();
        let shape =
            if shape.is_empty() { String::new() } else { format!(" --shape {}", shape.join(",")) };
        format!(
            "cargo run -p pagewire-tests --release --bin simulate -- --seeds 1 --seed-base {}{shape}",
            self.seed
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} fails in step {}: {}", self.seed, self.step, self.what)?;
        writeln!(f, "the last actions:")?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let all: Vec<_> =
            self.options.numbers().iter().map(|(name, n)| format!("{name}={n}")).collect();
        writeln!(f, "shape: {}", all.join(" "))?;
        writeln!(f, "again: {}", self.command())
    }
}

impl std::error::Error for Failure {}
