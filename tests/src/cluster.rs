//! Several directory cores, a network, storage and threads, stepped in an order that a seed names.
//!
//! Each step is one thing that could happen next in the real system: a message arrives, a frame is
//! found for a request, storage goes on, a drain is reported, a thread does something, the runtime
//! evicts or writes back. Effects of the core are applied as the doc comments of
//! [`pagewire_node::grd::Effect`] ask, and checked against what they promise; after each step the
//! invariants are checked for the page it touched ([`invariants`]).
//!
//! ```text
//!   load, `Options::steps` --> rest --> readers against a writer --> rest
//!          --> writers against a reader --> rest --> evict everything --> rest
//! ```
//! The same seed and options give the same schedule on every machine; there is no other chance, no
//! clock and no thread in here.

mod effects;
mod frame;
mod invariants;
mod network;
mod options;
mod report;
mod storage;
mod trace;
mod workload;

pub use options::{Options, Weights};
pub use report::{Failure, Summary};

use frame::Frame;
use network::{Network, Packet};
use pagewire_node::{
    grd::{Effect, Event, Grd, WaiterId},
    random::Random,
    view::View,
};
use pagewire_protocol::{
    BufferTag, Epoch, GrantNumber, Incarnation, InstanceId, Lsn, Mode, Pcm, pcm::Verdict,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use storage::Io;
use trace::{Trace, event_words};
use workload::{Habit, Thread};

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
const SETTLE_STEPS_MAX: u64 = 5_000;
/// Longest time between two attempts of a held-up message, in steps.
const STALL_STEPS_MAX: u32 = 200;
const EPOCH: Epoch = Epoch(1);

/// A page's content: the version in its header, and a value that tells two writers' work apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Content {
    version: Lsn,
    value: u64,
}

/// One page of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    node: usize,
    page: usize,
}

/// What there is of a page outside of the instances.
#[derive(Debug)]
struct Page {
    tag: BufferTag,
    master: usize,
    /// What the last writer committed.
    truth: Content,
    storage: Content,
    /// Messages on their way that carry the duty to write it.
    flying_duties: usize,
    /// Greatest grant that anyone has held, and that the directory has given.
    top_grant: GrantNumber,
    top_given: GrantNumber,
    /// Version in the directory.
    directory_version: Lsn,
}

/// One instance.
#[derive(Debug)]
struct Node {
    id: InstanceId,
    grd: Grd,
    frames: Vec<Frame>,
    threads: Vec<Thread>,
    /// Greatest version seen.
    clock: Lsn,
}

/// A request that waits for a frame.
#[derive(Debug, Clone, Copy)]
struct Delayed {
    place: Place,
    to: usize,
    message: Pcm,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Deliver,
    Request,
    Storage,
    Drain,
    Thread,
    Housekeeping,
}

/// A simulation.
#[derive(Debug)]
struct Cluster {
    options: Options,
    random: Random,
    nodes: Vec<Node>,
    pages: Vec<Page>,
    network: Network,
    requests: Vec<Delayed>,
    ios: Vec<Io>,
    /// Where pins are drained and the core has not been told.
    drains: Vec<Place>,
    habit: Habit,
    last_waiter: u64,
    /// The page that came with the event that is being handled.
    newcomer: Option<Content>,
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
        options: options.clone(),
        step: quiet.summary.steps,
        what,
        trace: told.trace.into_lines(),
    }))
}

impl Cluster {
    fn new(seed: u64, options: &Options, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let ids: Vec<_> = (0..options.instances).map(InstanceId).collect();
        let view = View::new(EPOCH, ids.clone()).expect("2 to 5 instances are a view");
        let first = random.below(100_000);
        let page = |block: u32| {
            let tag = BufferTag { relation: 16_384, block, ..BufferTag::default() };
            Page {
                tag,
                master: usize::from(view.master(&tag).0),
                truth: Content::default(),
                storage: Content::default(),
                flying_duties: 0,
                top_grant: GrantNumber(0),
                top_given: GrantNumber(0),
                directory_version: Lsn::ZERO,
            }
        };
        let node = |&id: &InstanceId| Node {
            id,
            grd: Grd::new(id, Incarnation(1), view.clone()),
            frames: std::iter::repeat_with(Frame::default).take(options.pages).collect(),
            threads: std::iter::repeat_with(Thread::default).take(options.threads).collect(),
            clock: Lsn::ZERO,
        };
        Self {
            nodes: ids.iter().map(node).collect(),
            pages: (first..).map(page).take(options.pages).collect(),
            network: Network::new(ids.len()),
            requests: Vec::new(),
            ios: Vec::new(),
            drains: Vec::new(),
            habit: Habit::Mixed,
            last_waiter: 0,
            newcomer: None,
            effects: Vec::new(),
            summary: Summary::default(),
            trace: Trace::new(traced),
            options: options.clone(),
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
        while self.summary.steps < self.options.steps {
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

    // ---- steps ---------------------------------------------------------------------------------

    /// Takes one step; false when nothing is left to do.
    fn step(&mut self) -> Checked<bool> {
        self.summary.steps += 1;
        if self.summary.steps.is_multiple_of(256) {
            self.check_waits()?;
        }
        let Some(kind) = self.choose() else { return Ok(false) };
        match kind {
            Kind::Deliver => self.deliver()?,
            Kind::Request => self.send_request()?,
            Kind::Storage => self.storage_step()?,
            Kind::Drain => self.report_drain()?,
            Kind::Thread => self.thread_step()?,
            Kind::Housekeeping => self.housekeeping()?,
        }
        Ok(true)
    }

    fn choose(&mut self) -> Option<Kind> {
        let weights = self.options.weights;
        let loaded = self.habit != Habit::Nothing;
        let possible = [
            (Kind::Deliver, weights.deliver, !self.network.is_empty()),
            (Kind::Request, weights.request, !self.requests.is_empty()),
            (Kind::Storage, weights.storage, !self.ios.is_empty()),
            (Kind::Drain, weights.drain, !self.drains.is_empty()),
            (Kind::Thread, weights.thread, loaded || self.anyone_could_release()),
            (Kind::Housekeeping, weights.housekeeping, self.habit == Habit::Mixed),
        ];
        let weight = |&(_, weight, possible): &(Kind, u32, bool)| if possible { weight } else { 0 };
        let total: u32 = possible.iter().map(weight).sum();
        let mut at = self.random.below(total);
        for choice in &possible {
            if at < weight(choice) {
                return Some(choice.0);
            }
            at -= weight(choice);
        }
        None
    }

    fn deliver(&mut self) -> Checked {
        // A message may be held up, but not for ever: in the end there is nothing else to wait for.
        let now = if self.habit == Habit::Nothing { u64::MAX } else { self.summary.steps };
        let Some((from, to, packet)) = self.network.take(&mut self.random, now) else {
            return Ok(());
        };
        self.summary.messages += 1;
        let Packet { page, message, content, .. } = packet;
        let place = Place { node: to, page };
        let node = &mut self.nodes[to];
        let frame = &mut node.frames[page];
        if let Some(request) = carried_duty(&message) {
            self.pages[page].flying_duties -= 1;
            let asked = frame.request.map(|(request, _)| request);
            ensure!(asked == Some(request), "a duty to write came to nobody's request");
            frame.duty = true;
        }
        if let Some(content) = content {
            ensure!(frame.request.is_some(), "a page came without a reservation");
            self.newcomer = Some(content);
            node.clock = node.clock.max(content.version);
        }
        let (from, tag) = (self.nodes[from].id, self.pages[page].tag);
        self.feed(
            place,
            Event::Message { from, incarnation: Incarnation(1), epoch: EPOCH, tag, message },
        )
    }

    fn send_request(&mut self) -> Checked {
        let at = self.random.index(self.requests.len());
        let Delayed { place, to, message } = self.requests.swap_remove(at);
        let Place { node, page } = place;
        if to != node {
            self.trace.action(self.summary.steps, || format!("{node} sends its request {page}"));
            self.send(node, to, page, message, None);
            return Ok(());
        }
        let (from, tag) = (self.nodes[node].id, self.pages[page].tag);
        self.feed(
            place,
            Event::Message { from, incarnation: Incarnation(1), epoch: EPOCH, tag, message },
        )
    }

    fn report_drain(&mut self) -> Checked {
        let at = self.random.index(self.drains.len());
        let place = self.drains.swap_remove(at);
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.is_drained(), "pins came back after they were drained");
        let (Some(to), Some(content)) = (frame.lowering.take(), frame.held) else {
            return Err("pins are drained of a page that is not there".to_owned());
        };
        let (dirty, version) = (frame.dirty, content.version);
        let tag = self.pages[place.page].tag;
        self.feed(place, Event::Drained { tag, to, dirty, version, flush: Lsn::ZERO })
    }

    fn housekeeping(&mut self) -> Checked {
        let node = self.random.index(self.nodes.len());
        let page = self.random.index(self.pages.len());
        let tag = self.pages[page].tag;
        let evict = self.random.percent(50);
        let event = if evict { Event::Evict { tag } } else { Event::WriteBack { tag } };
        self.feed(Place { node, page }, event)
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
        self.newcomer = None;
        self.check_page(page)
    }

    fn send(
        &mut self,
        from: usize,
        to: usize,
        page: usize,
        message: Pcm,
        content: Option<Content>,
    ) {
        let stalled = self.random.percent(self.options.stall_percent);
        let stall = if stalled { self.random.below(STALL_STEPS_MAX) } else { 0 };
        let not_before = self.summary.steps + u64::from(stall);
        self.pages[page].flying_duties += usize::from(carried_duty(&message).is_some());
        self.network.send(from, to, Packet { page, message, content, not_before });
    }

    // ---- phases --------------------------------------------------------------------------------

    /// Lets everything that is under way end, and checks that it does.
    fn settle(&mut self) -> Checked {
        self.habit = Habit::Nothing;
        let start = self.summary.steps;
        while self.step()? {
            let waited = self.summary.steps - start;
            ensure!(waited < SETTLE_STEPS_MAX, "not at rest {waited} steps after the load ended");
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
}

/// The request whose requester gets the duty to write the page with this message.
fn carried_duty(message: &Pcm) -> Option<pagewire_protocol::RequestId> {
    match *message {
        Pcm::Response { request, dirty: true, .. }
        | Pcm::Invalidated { request, dirty: true, .. } => Some(request),
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
