//! The cluster in memory: who passes what to whom, and the clients.

use super::{
    Change, INSTANCES,
    instance::{Instance, Told},
    spent::Spent,
    tag,
};
use crate::{error::BenchError, stats::Samples};
use pagewire_node::{
    NodeError,
    grd::{Event, Grd, WaiterId},
    random::Random,
    view::{Member, View},
};
use pagewire_protocol::{BufferTag, Epoch, Incarnation, InstanceId, Mode};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What a message takes from one instance to another.
pub(super) const LINK: Duration = Duration::from_micros(10);
/// Requests that each instance has under way while pages are first cached.
const POPULATING: u32 = 64;
/// Events between two looks at whether to go on.
const EVENTS: u32 = 16;

/// A client: it asks for a page, and when it has it for the next.
#[derive(Debug)]
struct Client {
    at: usize,
    asked: Option<Duration>,
    random: Random,
}

/// What clients do when they have a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Stop,
    /// The page that comes next among all that are to be cached here.
    Populate { pages: u32 },
    /// Any page that the dead one does not hold.
    Random { pages: u32 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    instances: Vec<Instance>,
    dead: Option<Instance>,
    view: Arc<View>,
    clients: Vec<Client>,
    next: Next,
    /// By instance: the page that it caches next.
    populated: Vec<u32>,
    requests: Samples,
    failed: u64,
    ready: Vec<Duration>,
    spent: Spent,
    told: Vec<Told>,
    /// Instance n is on processor n modulo this.
    processors: u16,
}

fn incarnation(id: u16) -> Incarnation {
    Incarnation(u64::from(id) + 100)
}

impl World {
    pub(super) fn new(instances: u16, processors: u16) -> Result<Self, BenchError> {
        let member =
            |id| Member { id: InstanceId(id), incarnation: incarnation(id), leaving: false };
        let view = View::first(Epoch(1), (0..instances).map(member).collect());
        let view = Arc::new(view.map_err(NodeError::from)?);
        let instance = |id| {
            let grd = Grd::new(InstanceId(id), incarnation(id), Arc::clone(&view));
            Instance::new(InstanceId(id), incarnation(id), grd)
        };
        Ok(Self {
            instances: (0..instances).map(instance).collect(),
            dead: None,
            view,
            clients: Vec::new(),
            next: Next::Stop,
            populated: (0..instances.into()).collect(),
            requests: Samples::new(),
            failed: 0,
            ready: Vec::new(),
            spent: Spent::default(),
            told: Vec::new(),
            processors,
        })
    }

    // ---- requests -------------------------------------------------------------------------------

    /// Has every page cached exclusively by one instance, in turn.
    pub(super) fn populate(&mut self, pages: u32, limit: Duration) -> Result<(), BenchError> {
        self.make_clients(POPULATING, &mut Random::new(1));
        self.next = Next::Populate { pages };
        (0..self.clients.len()).for_each(|client| self.ask_next(client));
        self.run_while("the pages to be cached", limit, |world| world.is_waiting())?;
        self.take_requests();
        Ok(())
    }

    fn make_clients(&mut self, each: u32, random: &mut Random) {
        let client = |at| Client { at, asked: None, random: Random::new(random.next_u64()) };
        let places = (0..each).flat_map(|_| 0..self.instances.len());
        self.clients = places.map(client).collect();
    }

    /// Starts clients that ask for pages at random, half of them for S.
    pub(super) fn start_clients(&mut self, each: u32, pages: u32, random: &mut Random) {
        self.make_clients(each, random);
        self.next = Next::Random { pages };
        (0..self.clients.len()).for_each(|client| self.ask_next(client));
    }

    /// Lets the clients end, and everything else that is under way.
    pub(super) fn stop_clients(&mut self, limit: Duration) -> Result<(), BenchError> {
        self.next = Next::Stop;
        self.run_while("requests to end", limit, |world| world.is_waiting())?;
        let busy = |world: &mut Self| world.instances.iter().any(|i| i.next_at().is_some());
        self.run_while("the instances to come to rest", limit, busy)?;
        self.take_requests();
        Ok(())
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.clients.iter().any(|client| client.asked.is_some())
    }

    fn ask_next(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.asked = None;
        let (tag, mode) = match self.next {
            Next::Stop => return,
            Next::Populate { pages } => {
                let block = &mut self.populated[client.at];
                let tag = tag(*block);
                if *block >= pages {
                    return;
                }
                *block += u32::from(INSTANCES);
                (tag, Mode::X)
            }
            Next::Random { pages } => {
                let tag = loop {
                    let tag = tag(client.random.below(pages));
                    if self.dead.as_ref().is_none_or(|dead| dead.grd.holding(&tag).is_none()) {
                        break tag;
                    }
                };
                (tag, if client.random.percent(50) { Mode::S } else { Mode::X })
            }
        };
        self.ask(number, tag, mode);
    }

    fn ask(&mut self, number: usize, tag: BufferTag, mode: Mode) {
        let client = &mut self.clients[number];
        let instance = &mut self.instances[client.at];
        client.asked = Some(instance.clock);
        let waiter = WaiterId(u64::try_from(number).unwrap_or(u64::MAX));
        let event = Event::Acquire { tag, mode, waiter, recovery: false };
        instance.put(instance.clock, event);
    }

    /// Asks for each of `tags` once, from all instances in turn.
    pub(super) fn ask_once<'a>(&mut self, tags: impl Iterator<Item = &'a BufferTag>, mode: Mode) {
        let tags: Vec<_> = tags.copied().collect();
        self.next = Next::Stop;
        let each = u32::try_from(tags.len().div_ceil(self.instances.len())).unwrap_or(u32::MAX);
        self.make_clients(each, &mut Random::new(2));
        for (number, tag) in tags.into_iter().enumerate() {
            self.ask(number, tag, mode);
        }
    }

    // ---- time -----------------------------------------------------------------------------------

    /// The time of the cluster: what is to happen next happens then or later.
    pub(super) fn now(&self) -> Duration {
        let next = self.instances.iter().filter_map(Instance::next_at).min();
        next.unwrap_or_else(|| self.instances.iter().map(|i| i.clock).max().unwrap_or_default())
    }

    /// Lets what is to happen next happen, while `goes_on`. `limit` is of real time.
    pub(super) fn run_while(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut goes_on: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), BenchError> {
        let begin = Instant::now();
        while goes_on(self) {
            for _ in 0..EVENTS {
                self.turn();
            }
            if begin.elapsed() > limit {
                return Err(BenchError::Deadline { what, limit });
            }
        }
        Ok(())
    }

    fn turn(&mut self) {
        let next = |at: &usize| self.instances[*at].next_at();
        let due = (0..self.instances.len()).filter(|at| next(at).is_some());
        let Some(at) = due.min_by_key(|at| (next(at), self.instances[*at].first_at())) else {
            return;
        };
        let mut told = std::mem::take(&mut self.told);
        self.instances[at].turn(&mut self.spent, &mut told);
        let clock = self.instances[at].clock;
        let busy = self.instances[at].id.0 % self.processors;
        for other in self.instances.iter_mut().filter(|other| other.id.0 % self.processors == busy)
        {
            other.clock = other.clock.max(clock);
        }
        for told in told.drain(..) {
            self.hear(at, clock, told);
        }
        self.told = told;
    }

    fn hear(&mut self, from: usize, now: Duration, told: Told) {
        match told {
            Told::To(to, event) => {
                let link = if self.instances[from].id == to { Duration::ZERO } else { LINK };
                if let Some(to) = self.instances.iter_mut().find(|i| i.id == to) {
                    to.put(now + link, event);
                }
            }
            Told::Granted(waiter) | Told::Failed(waiter) => {
                self.failed += u64::from(matches!(told, Told::Failed(_)));
                let number = usize::try_from(waiter.0).unwrap_or(usize::MAX);
                let Some(client) = self.clients.get(number) else { return };
                if let Some(asked) = client.asked {
                    self.requests.record(now - asked);
                    self.ask_next(number);
                }
            }
            Told::Ready => self.ready.push(now),
        }
    }

    // ---- views ----------------------------------------------------------------------------------

    /// Decides the view without `goes`, or with it as leaving, and tells nobody yet. A dead one stops
    /// here. Partitions that change their master.
    pub(super) fn change_view(
        &mut self,
        goes: InstanceId,
        change: Change,
    ) -> Result<usize, BenchError> {
        let mut members = self.view.members().to_vec();
        let mut dead = Vec::new();
        match change {
            Change::Leave => {
                members.iter_mut().filter(|m| m.id == goes).for_each(|m| m.leaving = true);
            }
            Change::Crash => {
                dead.extend(members.iter().filter(|m| m.id == goes).map(Member::life));
                members.retain(|m| m.id != goes);
                let at = self.instances.iter().position(|i| i.id == goes);
                self.dead = at.map(|at| self.instances.remove(at));
                self.clients.clear();
            }
        }
        let view = self.view.next(members, dead).map_err(NodeError::from)?;
        let changed = view.changed(&self.view).count();
        self.view = Arc::new(view);
        Ok(changed)
    }

    /// Tells everybody of the view.
    pub(super) fn announce(&mut self) {
        let now = self.now();
        for instance in &mut self.instances {
            instance.put(now, Event::View(Arc::clone(&self.view)));
        }
    }

    /// Tells everybody that the dead one's redo is applied.
    pub(super) fn redo_done(&mut self) {
        let Some(dead) = &self.dead else { return };
        let (instance, incarnation) = (dead.id, dead.incarnation);
        let now = self.now();
        for i in &mut self.instances {
            i.put(now, Event::RedoDone { instance, incarnation });
        }
    }

    pub(super) fn held_by_dead(&self) -> Vec<BufferTag> {
        self.dead.iter().flat_map(|dead| dead.grd.held_tags()).collect()
    }

    /// Whether a core still has a part of a view change to do.
    pub(super) fn has_more(&self) -> bool {
        self.instances.iter().any(|i| i.more)
    }

    // ---- figures --------------------------------------------------------------------------------

    pub(super) fn take_requests(&mut self) -> Samples {
        std::mem::replace(&mut self.requests, Samples::new())
    }

    pub(super) fn take_ready(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.ready)
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    pub(super) fn take_spent(&mut self) -> Spent {
        std::mem::take(&mut self.spent)
    }
}
