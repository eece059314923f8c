//! Several directory cores, the sessions between them, a network, storage, logs, threads and a
//! membership, stepped in an order that a seed names.
//!
//! Each step is one thing that could happen next in the real system: a message arrives, a frame is
//! found for a request, storage goes on, a drain is reported, a thread does something, the runtime
//! evicts or writes back, an instance hears of a view; or a fault. Effects of the core are applied
//! as the doc comments of [`pagewire_node::grd::Effect`] ask, and checked against what they promise;
//! after each step the invariants are checked for the page it touched ([`invariants`]).
//!
//! ```text
//!   load and faults, `Options::steps` --> heal --> rest --> readers against a writer --> rest
//!          --> writers against a reader --> rest --> evict everything --> rest
//! ```
//! The same seed and options give the same schedule on every machine; there is no other chance, no
//! clock and no thread in here.

mod content;
mod coverage;
mod effects;
mod faults;
mod feed;
mod frame;
mod invariants;
mod membership;
mod minimise;
mod network;
mod node;
mod options;
mod pages;
mod redo;
mod report;
mod rest;
mod si;
mod step;
mod storage;
mod trace;
mod waits;
mod workload;

pub use coverage::{Coverage, coverage};
pub use faults::Fault;
pub use minimise::minimise;
pub use options::Options;
pub use report::{Failure, Summary};

use content::{Content, Page};
use faults::Due;
use membership::Membership;
use network::{Manners, Network};
use node::Node;
use pagewire_node::{
    grd::{Effect, Event, Grd, WaiterId},
    random::Random,
    view::{Member, View},
};
use pagewire_protocol::{BufferTag, Epoch, Incarnation, InstanceId, Mode, Pcm};
use redo::Redo;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use storage::Io;
use trace::Trace;
use workload::Habit;

/// `Err` says what is wrong.
type Checked<T = ()> = Result<T, String>;

/// Leaves the function with what is wrong unless `$holds`.
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}
use ensure;

/// Steps in which everything has to come to rest once nobody wants anything any more.
const SETTLE_STEPS_MAX: u64 = 40_000;
const EPOCH: Epoch = Epoch(1);

/// One page of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    node: usize,
    page: usize,
}

/// A request that waits for a frame.
#[derive(Debug, Clone, Copy)]
struct Delayed {
    place: Place,
    to: usize,
    epoch: Epoch,
    message: Pcm,
}

/// An event that is of a later view, with the page that came with it.
#[derive(Debug)]
struct Parked {
    event: Event,
    content: Option<Content>,
}

/// A simulation.
#[derive(Debug)]
struct Cluster {
    options: Options,
    random: Random,
    /// Steps, and the jumps over time in which nothing can happen.
    now: u64,
    nodes: Vec<Node>,
    pages: Vec<Page>,
    network: Network,
    requests: Vec<Delayed>,
    /// Answers to requests that were cancelled before they left.
    answers: Vec<(Place, Event)>,
    ios: Vec<Io>,
    /// Where pins are drained and the core has not been told.
    drains: Vec<Place>,
    habit: Habit,
    last_waiter: u64,
    /// Instances whose core has more to do.
    agains: Vec<usize>,
    /// Instances that have something to do about invalidations.
    si_work: Vec<usize>,
    /// What each instance has parked, the oldest first.
    parked: Vec<Vec<Parked>>,
    /// The page that came with the event that is being handled.
    incoming: Option<Content>,
    effects: Vec<Effect>,
    membership: Membership,
    redo: Option<Redo>,
    dues: Vec<(u64, Due)>,
    last_stop: u64,
    last_fault: Option<Fault>,
    /// The instance that crashes, and the effects that it still does.
    crash_at: Option<(usize, u32)>,
    /// The page that was touched last.
    focus: usize,
    summary: Summary,
    trace: Trace,
}

/// Runs the simulation that `seed` and `options` name.
///
/// # Errors
/// [`Failure`] when an invariant is broken, with the last actions.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Box<Failure>> {
    let mut quiet = Cluster::new(seed, options, false);
    let Err(first) = quiet.run_guarded() else { return Ok(quiet.summary()) };
    let summary = quiet.summary;
    // Its frames are of the arena that the second run uses.
    drop(quiet);
    // The same again, this time with a record.
    let mut told = Cluster::new(seed, options, true);
    let again = told.run_guarded().err();
    let mut what = first.clone();
    if again.as_ref() != Some(&first) || told.summary != summary {
        what = format!("{first}; NOT REPEATABLE, the second run gave {again:?}");
    }
    Err(Box::new(Failure {
        seed,
        options: *options,
        step: summary.steps,
        what,
        trace: told.trace.into_lines(told.focus),
    }))
}

/// What goes wrong, if anything does, and in which step.
#[must_use]
pub fn first_failure(seed: u64, options: &Options) -> Option<(u64, String)> {
    let mut quiet = Cluster::new(seed, options, false);
    quiet.run_guarded().err().map(|what| (quiet.summary.steps, what))
}

impl Cluster {
    fn new(seed: u64, options: &Options, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let ids: Vec<_> = (0..options.instances).map(instance_id).collect();
        let member = |&id: &InstanceId| Member { id, incarnation: Incarnation(1), leaving: false };
        let members = ids.iter().take(count(options.members)).map(member).collect();
        let view = View::first(EPOCH, members).expect("1 to 16 instances are a view");
        let view = Arc::new(view);
        let mut first = random.below(100_000);
        if options.lag_steps > 0 {
            // The last instance takes the first page with it whenever it comes or goes.
            let all = ids.iter().map(member).collect();
            let all = View::first(EPOCH, all).expect("1 to 16 instances are a view");
            while Some(all.master(&tag(first))) != ids.last().copied() {
                first += 1;
            }
        }
        let (page, small) = (options.credits, 2 * options.credits);
        let manners = Manners {
            credits: [small, page, page, page, page],
            stall_percent: options.stall_percent,
            late_post_percent: options.late_post_percent,
        };
        let page = |block| Page::new(tag(block), usize::from(view.master(&tag(block)).0));
        let absent = |&id: &InstanceId| {
            Node::new(id, Grd::new(id, Incarnation(0), Arc::clone(&view)), options)
        };
        let mut cluster = Self {
            nodes: ids.iter().map(absent).collect(),
            pages: (first..).map(page).take(count(options.pages)).collect(),
            network: Network::new(ids.len(), manners),
            now: 0,
            requests: Vec::new(),
            answers: Vec::new(),
            ios: Vec::new(),
            drains: Vec::new(),
            habit: Habit::Mixed,
            last_waiter: 0,
            agains: Vec::new(),
            si_work: Vec::new(),
            parked: ids.iter().map(|_| Vec::new()).collect(),
            incoming: None,
            effects: Vec::new(),
            membership: Membership::new(Arc::clone(&view), ids.len()),
            redo: None,
            dues: Vec::new(),
            last_stop: 0,
            last_fault: None,
            crash_at: None,
            focus: 0,
            summary: Summary::default(),
            trace: Trace::new(traced),
            options: *options,
            random,
        };
        for at in 0..count(options.members) {
            cluster.nodes[at].life = Incarnation(1);
            cluster.join(at, &view).expect("a first view is no fault");
        }
        cluster
    }

    fn summary(&self) -> Summary {
        let links = self.network.counts;
        Summary {
            lost_messages: links.lost,
            duplicates: links.duplicates,
            acks_alone: links.acks_alone,
            waited: links.waited,
            unaddressed: links.unaddressed,
            ..self.summary
        }
    }

    /// A panic in the core is a failure like any other.
    fn run_guarded(&mut self) -> Checked {
        catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    }

    fn run(&mut self) -> Checked {
        while self.summary.steps < u64::from(self.options.steps) {
            self.step()?;
        }
        self.check_waits()?;
        self.settle()?;
        for wanted in [Mode::X, Mode::S] {
            self.probe_starvation(wanted)?;
            self.settle()?;
        }
        self.evict_everything()
    }

    // ---- phases --------------------------------------------------------------------------------

    /// Nothing more goes wrong. Lets everything that is under way end, and checks that it does.
    fn settle(&mut self) -> Checked {
        self.habit = Habit::Nothing;
        self.crash_at = None;
        self.network.heal();
        let start = self.summary.steps;
        while self.step()? || self.pass_time(true)? {
            let waited = self.summary.steps - start;
            if waited >= SETTLE_STEPS_MAX {
                let left = self.what_is_left();
                return Err(format!("I5: not at rest {waited} steps after the load: {left}"));
            }
        }
        let waited = self.summary.steps - start;
        self.summary.settle_steps = self.summary.settle_steps.max(waited);
        self.check_rest()
    }

    fn evict_all(&mut self) -> Checked {
        for page in 0..self.pages.len() {
            for node in 0..self.nodes.len() {
                if self.nodes[node].is_active() {
                    let tag = self.pages[page].tag;
                    self.feed(Place { node, page }, Event::Evict { tag })?;
                }
            }
        }
        self.settle()
    }

    /// Evicts every page everywhere: nothing is held then, and storage, sound again, has everything.
    fn evict_everything(&mut self) -> Checked {
        (self.options.write_failure_percent, self.options.read_failure_percent) = (0, 0);
        self.evict_all()?;
        // Only the runtime knows that it wants the frames of past images back. Whoever has one that
        // may be newer than storage takes the page to write it.
        for page in 0..self.pages.len() {
            for node in 0..self.nodes.len() {
                let it = &self.nodes[node];
                if it.is_active() && it.frames[page].past.is_some() {
                    let tag = self.pages[page].tag;
                    self.feed(Place { node, page }, Event::PastImageWanted { tag })?;
                }
            }
        }
        self.settle()?;
        self.evict_all()?;
        self.check_empty()
    }
}

/// The number of the thread that a waiter is of.
fn thread_of(waiter: WaiterId) -> u64 {
    waiter.0 % workload::THREADS_MAX
}

/// One of the simulation's pages.
fn tag(block: u32) -> BufferTag {
    BufferTag { relation: 16_384, block, ..BufferTag::default() }
}

fn instance_id(number: u32) -> InstanceId {
    InstanceId(u16::try_from(number).unwrap_or(u16::MAX))
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
