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
mod effects;
mod frame;
mod invariants;
mod network;
mod node;
mod options;
mod report;
mod rest;
mod step;
mod storage;
mod trace;
mod waits;
mod workload;

pub use options::Options;
pub use report::{Failure, Summary};

use content::{Content, Page};
use network::{Manners, Network};
use node::Node;
use pagewire_node::{
    grd::{Effect, Event, WaiterId},
    random::Random,
    view::View,
};
use pagewire_protocol::{BufferTag, Epoch, Incarnation, InstanceId, Pcm, pcm::Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use storage::Io;
use trace::{Trace, event_words};
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
const SETTLE_STEPS_MAX: u64 = 20_000;
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
    message: Pcm,
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
    ios: Vec<Io>,
    /// Where pins are drained and the core has not been told.
    drains: Vec<Place>,
    habit: Habit,
    last_waiter: u64,
    effects: Vec<Effect>,
    summary: Summary,
    trace: Trace,
}

/// Runs the simulation that `seed` and `options` name.
///
/// # Errors
/// [`Failure`] when an invariant is broken, with the last actions.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Box<Failure>> {
    let mut quiet = Cluster::new(seed, options, false);
    let Err(first) = quiet.run_guarded() else { return Ok(quiet.summary) };
    // The same again, this time with a record.
    let mut told = Cluster::new(seed, options, true);
    let again = told.run_guarded().err();
    let mut what = first.clone();
    if again.as_ref() != Some(&first) || told.summary != quiet.summary {
        what = format!("{first}; NOT REPEATABLE, the second run gave {again:?}");
    }
    Err(Box::new(Failure {
        seed,
        options: *options,
        step: quiet.summary.steps,
        what,
        trace: told.trace.into_lines(),
    }))
}

impl Cluster {
    fn new(seed: u64, options: &Options, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let ids: Vec<_> = (0..options.instances).map(instance_id).collect();
        let view = View::new(EPOCH, ids.clone()).expect("2 to 16 instances are a view");
        let first = random.below(100_000);
        let credits = {
            let page = options.credits;
            let small = 2 * page;
            [small, page, page, page, page]
        };
        let manners = Manners {
            credits,
            stall_percent: options.stall_percent,
            late_post_percent: options.late_post_percent,
        };
        let pages = usize::try_from(options.pages).unwrap_or(1);
        let page = |block: u32| {
            let tag = BufferTag { relation: 16_384, block, ..BufferTag::default() };
            Page::new(tag, usize::from(view.master(&tag).0))
        };
        let node = |&id: &InstanceId| Node::new(id, Incarnation(1), view.clone(), options);
        let mut network = Network::new(ids.len(), manners);
        for at in 0..ids.len() {
            network.begin_life(at, Incarnation(1));
        }
        for at in 0..ids.len() {
            for peer in (0..ids.len()).filter(|&peer| peer != at) {
                network.open(at, peer, Incarnation(1));
            }
        }
        Self {
            nodes: ids.iter().map(node).collect(),
            pages: (first..).map(page).take(pages).collect(),
            network,
            now: 0,
            requests: Vec::new(),
            ios: Vec::new(),
            drains: Vec::new(),
            habit: Habit::Mixed,
            last_waiter: 0,
            effects: Vec::new(),
            summary: Summary::default(),
            trace: Trace::new(traced),
            options: *options,
            random,
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
        for wanted in [pagewire_protocol::Mode::X, pagewire_protocol::Mode::S] {
            self.probe_starvation(wanted)?;
            self.settle()?;
        }
        self.evict_everything()
    }

    // ---- phases --------------------------------------------------------------------------------

    /// Lets everything that is under way end, and checks that it does.
    fn settle(&mut self) -> Checked {
        self.habit = Habit::Nothing;
        self.network.heal();
        let start = self.summary.steps;
        while self.step()? {
            let waited = self.summary.steps - start;
            ensure!(waited < SETTLE_STEPS_MAX, "I5: not at rest {waited} steps after the load");
        }
        let waited = self.summary.steps - start;
        self.summary.settle_steps = self.summary.settle_steps.max(waited);
        self.check_rest()
    }

    /// Evicts every page everywhere: nothing is held then, and storage, sound again, has everything.
    fn evict_everything(&mut self) -> Checked {
        self.options.write_failure_percent = 0;
        for page in 0..self.pages.len() {
            for node in 0..self.nodes.len() {
                let tag = self.pages[page].tag;
                self.feed(Place { node, page }, Event::Evict { tag })?;
            }
        }
        self.settle()?;
        self.check_empty()
    }

    /// Gives `event` to the core, does what it wants done, and checks the page.
    fn feed(&mut self, place: Place, event: Event) -> Checked {
        let Place { node, page } = place;
        self.trace.action(self.summary.steps, || {
            format!("instance {node} page {page} {}", event_words(&event))
        });
        let mut effects = std::mem::take(&mut self.effects);
        self.nodes[node].grd.handle(event, &mut effects);
        for effect in effects.drain(..) {
            self.trace.detail(|| trace::effect_words(&effect));
            self.apply(place, effect)?;
        }
        self.effects = effects;
        self.check_page(page)
    }
}

/// The request whose requester gets the duty to write the page with this message.
fn carried_duty(message: &Pcm) -> Option<pagewire_protocol::RequestId> {
    match *message {
        Pcm::Response { request, dirty: true, .. } | Pcm::Invalidated { request, dirty: true } => {
            Some(request)
        }
        _ => None,
    }
}

/// Whether a message has to travel with the page.
fn carries_page(message: &Pcm) -> bool {
    matches!(message, Pcm::Response { verdict: Verdict::Page, .. })
}

/// The number of the thread that a waiter is of.
fn thread_of(waiter: WaiterId) -> usize {
    usize::try_from(waiter.0 % workload::THREADS_MAX).unwrap_or(0)
}

fn instance_id(number: u32) -> InstanceId {
    InstanceId(u16::try_from(number).unwrap_or(u16::MAX))
}
