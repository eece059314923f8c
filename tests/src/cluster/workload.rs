//! What local threads do: take guards by themselves or through the core, change pages, let go.
//!
//! A thread may hold several guards; it takes pages in ascending order, as DESIGN 5.2 asks.

use super::{
    Checked, Cluster, Node, Place,
    content::{Content, Version},
    ensure,
    redo::REDO_THREAD,
    thread_of,
};
use pagewire_node::grd::{AcquireError, Event, WaiterId};
use pagewire_protocol::{Lsn, Mode};

/// Threads of one instance are numbered below this.
pub(super) const THREADS_MAX: u64 = 32;
/// Longest that a thread may wait for a guard, in steps and for each instance that there is.
pub(super) const WAIT_STEPS_PER_INSTANCE_MAX: u64 = 5_000;
/// Steps of a stream of guards before the probe joins it.
pub(super) const STREAM_STEPS: u64 = 100;

/// What threads want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Any page, any mode.
    Mixed,
    /// All but the first thread of instance `probe` want `page` in `mode`, over and over.
    Stream { page: usize, mode: Mode, probe: usize },
    /// Only to let go.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Guard {
    page: usize,
    mode: Mode,
    /// The page as the guard last saw it.
    seen: Content,
    /// Up to where invalidations were published under it.
    published: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) waiter: WaiterId,
    pub(super) page: usize,
    pub(super) mode: Mode,
    pub(super) since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Thread {
    guards: Vec<Guard>,
    pub(super) waiting: Option<Waiting>,
    /// A waiter that has ended.
    former: Option<WaiterId>,
}

impl Thread {
    /// The instance is fenced: guards that are out fail when they are used.
    pub(super) fn lose_guards(&mut self) {
        self.guards.clear();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.guards.is_empty() && self.waiting.is_none()
    }

    fn could_release(&self) -> bool {
        !self.guards.is_empty() && self.waiting.is_none()
    }
}

impl Cluster {
    pub(super) fn anyone_could_release(&self) -> bool {
        let could =
            |node: &Node| node.is_active() && node.threads.iter().any(Thread::could_release);
        self.nodes.iter().any(could)
    }

    pub(super) fn thread_step(&mut self) -> Checked {
        if self.habit == Habit::Mixed && self.random.percent(self.options.withdraw_percent) {
            return self.withdraw_any();
        }
        let found = self.find_thread(|_, thread| thread.waiting.is_none());
        let Some((node, thread)) = found else { return Ok(()) };
        match self.habit {
            Habit::Mixed => self.mixed_step(node, thread),
            Habit::Stream { page, mode, probe } => {
                if !self.nodes[node].threads[thread].is_idle() {
                    let lets_go = self.random.percent(self.options.release_percent);
                    return if lets_go { self.release(node, thread) } else { Ok(()) };
                }
                if (node, thread) == (probe, 0) {
                    return Ok(());
                }
                self.acquire(node, thread, page, mode)
            }
            Habit::Nothing => match self.find_thread(|_, thread| thread.could_release()) {
                Some((node, thread)) => self.release(node, thread),
                None => Ok(()),
            },
        }
    }

    /// One of the threads that `wanted` is true for.
    fn find_thread(&mut self, wanted: impl Fn(&Node, &Thread) -> bool) -> Option<(usize, usize)> {
        let threads = self.nodes[0].threads.len();
        let all = self.nodes.len() * threads;
        let first = self.random.index(all);
        let mut places = (first..first + all).map(|at| ((at % all) / threads, at % threads));
        places.find(|&(node, thread)| {
            let node = &self.nodes[node];
            node.is_active() && wanted(node, &node.threads[thread])
        })
    }

    /// One of those that wait withdraws, most likely while pins are being lowered for it.
    fn withdraw_any(&mut self) -> Checked {
        let any = self.random.percent(30);
        let found = self.find_thread(|node, thread| {
            thread.waiting.is_some_and(|w| any || node.frames[w.page].lowering.is_some())
        });
        found.map_or(Ok(()), |(node, thread)| self.withdraw(node, thread))
    }

    fn mixed_step(&mut self, node: usize, thread: usize) -> Checked {
        let it = &self.nodes[node].threads[thread];
        let Some(last) = it.guards.iter().map(|guard| guard.page).max() else {
            if self.nodes[node].leaving {
                return Ok(());
            }
            let page = self.random.index(self.pages.len());
            return self.acquire_any(node, thread, page);
        };
        if self.random.percent(self.options.release_percent) {
            return self.release(node, thread);
        }
        if last + 1 < self.pages.len() && self.random.percent(self.options.nest_percent) {
            let page = last + 1 + self.random.index(self.pages.len() - last - 1);
            return self.acquire_any(node, thread, page);
        }
        self.change(node, thread)
    }

    // ---- taking a guard ------------------------------------------------------------------------

    fn acquire_any(&mut self, node: usize, thread: usize, page: usize) -> Checked {
        let writes = self.random.percent(self.options.exclusive_percent);
        self.acquire(node, thread, page, if writes { Mode::X } else { Mode::S })
    }

    pub(super) fn acquire(
        &mut self,
        node: usize,
        thread: usize,
        page: usize,
        mode: Mode,
    ) -> Checked {
        let place = Place { node, page };
        if self.nodes[node].frames[page].may_pin(mode) {
            self.trace.action(page, self.summary.steps, || {
                format!("instance {node} thread {thread} pins {mode} by itself")
            });
            let seen = self.grant(place, mode)?;
            self.nodes[node].threads[thread].guards.push(Guard {
                page,
                mode,
                seen,
                published: None,
            });
            self.summary.hits += 1;
            return self.check_page(page);
        }
        self.last_waiter += 1;
        let waiter = WaiterId(self.last_waiter * THREADS_MAX + u64::try_from(thread).unwrap_or(0));
        let since = self.summary.steps;
        let it = &mut self.nodes[node].threads[thread];
        it.waiting = Some(Waiting { waiter, page, mode, since });
        let tag = self.pages[page].tag;
        self.feed(place, Event::Acquire { tag, mode, waiter, recovery: false })
    }

    /// The thread gives up waiting. Now and then a former waiter does: nothing must happen.
    fn withdraw(&mut self, node: usize, thread: usize) -> Checked {
        let it = &self.nodes[node].threads[thread];
        let (Some(waiting), former) = (it.waiting, it.former) else { return Ok(()) };
        let place = Place { node, page: waiting.page };
        let tag = self.pages[waiting.page].tag;
        if let Some(waiter) = former.filter(|_| self.random.percent(20)) {
            return self.feed(place, Event::Withdraw { tag, waiter });
        }
        self.feed(place, Event::Withdraw { tag, waiter: waiting.waiter })?;
        let still = self.nodes[node].threads[thread].waiting;
        ensure!(still.is_none(), "a waiter that withdrew waits on");
        self.summary.withdrawn += 1;
        Ok(())
    }

    /// Who has waited longest for the page on this instance, and what for.
    pub(super) fn first_waiter(&self, place: Place) -> Option<(WaiterId, Mode)> {
        let waiting = self.nodes[place.node].threads.iter().filter_map(|thread| thread.waiting);
        let here = waiting.filter(|waiting| waiting.page == place.page);
        let first = here.map(|waiting| (waiting.waiter, waiting.mode)).min();
        // Whoever applies redo comes first.
        self.redo_waiter(place).map(|waiter| (waiter, Mode::X)).or(first)
    }

    /// The wait that `waiter` stands for is over: it must be going on until now.
    fn end_wait(&mut self, place: Place, waiter: WaiterId) -> Checked<Waiting> {
        let Some(it) = self.nodes[place.node].threads.get_mut(at(waiter)) else {
            return Err(format!("I5: waiter {} ends, which is of no thread", waiter.0));
        };
        let waiting = it.waiting.filter(|w| w.waiter == waiter && w.page == place.page);
        let Some(waiting) = waiting else {
            return Err(format!("I5: waiter {} ends, but nobody waits so", waiter.0));
        };
        (it.waiting, it.former) = (None, Some(waiter));
        self.clear_owed(place, waiter);
        let waited = self.summary.steps - waiting.since;
        self.summary.longest_wait_steps = self.summary.longest_wait_steps.max(waited);
        Ok(waiting)
    }

    pub(super) fn apply_complete(&mut self, place: Place, waiter: WaiterId, mode: Mode) -> Checked {
        if thread_of(waiter) == REDO_THREAD {
            self.clear_owed(place, waiter);
            return self.redo_granted(place, waiter);
        }
        let waiting = self.end_wait(place, waiter)?;
        ensure!(waiting.mode == mode, "waits for {}, gets {mode}", waiting.mode);
        let seen = self.grant(place, mode)?;
        let it = &mut self.nodes[place.node].threads[at(waiter)];
        it.guards.push(Guard { page: place.page, mode, seen, published: None });
        self.summary.completed += 1;
        Ok(())
    }

    pub(super) fn apply_fail(
        &mut self,
        place: Place,
        waiter: WaiterId,
        error: Option<&AcquireError>,
    ) -> Checked {
        if thread_of(waiter) == REDO_THREAD {
            self.clear_owed(place, waiter);
            if matches!(error, Some(AcquireError::NotLost { .. })) {
                self.redo_not_needed(place);
                return Ok(());
            }
            self.redo_failed(place);
        } else {
            self.end_wait(place, waiter)?;
        }
        let fenced = self.nodes[place.node].fenced;
        match error {
            None => Ok(()),
            Some(AcquireError::Storage { .. }) if self.options.read_failure_percent > 0 => {
                self.summary.failed += 1;
                Ok(())
            }
            Some(AcquireError::LeaseExpired { .. }) if fenced => {
                self.summary.failed += 1;
                Ok(())
            }
            Some(error) => Err(format!("I5: a waiter fails though nothing is wrong: {error}")),
        }
    }

    fn clear_owed(&mut self, place: Place, waiter: WaiterId) {
        let frame = &mut self.nodes[place.node].frames[place.page];
        frame.owed = frame.owed.filter(|&owed| owed != waiter);
    }

    // ---- with a guard --------------------------------------------------------------------------

    /// Changes a page that the thread holds X, if it holds one.
    fn change(&mut self, node: usize, thread: usize) -> Checked {
        let it = &self.nodes[node].threads[thread];
        let Some(at) = it.guards.iter().position(|guard| guard.mode == Mode::X) else {
            return Ok(());
        };
        let page = it.guards[at].page;
        let others = self.nodes.iter().enumerate().any(|(other, node_)| {
            let frame = &node_.frames[page];
            if other == node { frame.shared > 0 } else { node_.is_live() && frame.is_pinned() }
        });
        ensure!(!others, "I1: instance {node} changes page {page} while others have guards of it");
        let value = self.random.next_u64();
        let it = &mut self.nodes[node];
        it.clock = Lsn(it.clock.0 + 1);
        let content = Content { version: it.clock, value };
        self.trace.action(page, self.summary.steps, || {
            format!("instance {node} thread {thread} makes v{}", content.version.0)
        });
        it.frames[page].held = Some(content);
        it.frames[page].dirty = true;
        it.threads[thread].guards[at].seen = content;
        it.log.end = Lsn(it.log.end.0 + 1);
        let (life, redo) = (it.life, it.log.end);
        let position = self.si_change(Place { node, page }, content.version)?;
        let published = position.is_some();
        let guard = &mut self.nodes[node].threads[thread].guards[at];
        guard.published = position.or(guard.published);
        let made = Version { content, writer: node, life, redo, published };
        let truth = self.pages[page].truth();
        ensure!(truth.version < content.version, "a version goes back to v{}", content.version);
        self.pages[page].history.push(made);
        self.summary.changes += 1;
        self.check_page(page)
    }

    /// Lets one of the thread's guards go; what it sees must not have changed under it.
    fn release(&mut self, node: usize, thread: usize) -> Checked {
        let guards = &mut self.nodes[node].threads[thread].guards;
        let Guard { page, mode, seen, published } =
            guards.swap_remove(self.random.index(guards.len()));
        self.trace.action(page, self.summary.steps, || {
            format!("instance {node} thread {thread} unpins {mode}")
        });
        ensure!(seen == self.pages[page].truth(), "I2: the page changed under a guard");
        if self.si_keeps(Place { node, page }, published) {
            return self.check_page(page);
        }
        self.nodes[node].frames[page].unpin(mode);
        self.note_drained(Place { node, page });
        self.check_page(page)
    }
}

fn at(waiter: WaiterId) -> usize {
    usize::try_from(thread_of(waiter)).unwrap_or(usize::MAX)
}
