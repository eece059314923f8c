use super::*;
use crate::{Arena, ArenaConfig, Endpoint, EndpointConfig};
use pagewire_protocol::{ClusterId, InstanceId};
use std::sync::{
    atomic::AtomicU64,
    mpsc::{self, Receiver, Sender},
};

const PATIENCE: Duration = Duration::from_secs(30);
const FOREVER: Duration = Duration::from_secs(3600);
const PANIC: u64 = u64::MAX;
const DONE: u64 = u64::MAX - 1;

/// Gives every number back that it is given.
#[derive(Debug)]
struct Echo {
    endpoint: Endpoint,
    asked: Arc<AtomicU64>,
    taken: u64,
    numbers: Receiver<u64>,
    answers: Sender<u64>,
    done: bool,
    /// Times that it was asked to spin.
    spins: u64,
}

/// The other end of an [`Echo`].
struct Asker {
    waker: Waker,
    /// Numbers put in so far.
    asked: Arc<AtomicU64>,
    numbers: Sender<u64>,
    answers: Receiver<u64>,
}

fn echo() -> (Asker, Echo) {
    let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let config = EndpointConfig::new(ClusterId(1), InstanceId(1), any_port);
    let endpoint = Endpoint::bind(config, arena).unwrap();
    let (numbers, numbers_out) = mpsc::channel();
    let (answers_in, answers) = mpsc::channel();
    let asked = Arc::<AtomicU64>::default();
    let asker = Asker { waker: endpoint.waker(), asked: Arc::clone(&asked), numbers, answers };
    let (numbers, answers, done) = (numbers_out, answers_in, false);
    (asker, Echo { endpoint, asked, taken: 0, numbers, answers, done, spins: 0 })
}

impl Asker {
    fn ask(&self, number: u64) {
        self.numbers.send(number).unwrap();
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.waker.wake();
    }
}

impl Echo {
    fn answer(&mut self, busy: bool) -> Progress {
        let mut busy = busy;
        while let Ok(number) = self.numbers.try_recv() {
            busy = true;
            self.taken += 1;
            assert!(number != PANIC, "asked to panic");
            self.done |= number == DONE;
            self.answers.send(number).unwrap();
        }
        if self.done {
            return Progress::Done;
        }
        if busy { Progress::Worked } else { Progress::Idle }
    }
}

impl Shard for Echo {
    fn turn(&mut self) -> Progress {
        let busy = self.endpoint.poll();
        self.answer(busy)
    }

    fn spin(&mut self) -> Progress {
        self.spins += 1;
        self.turn()
    }

    /// For ever: what ends it is a wake-up, or the test fails.
    fn sleep(&mut self, _: Duration, work_waits: &dyn Fn() -> bool) -> Progress {
        let waits = || self.asked.load(Ordering::Relaxed) > self.taken;
        let start = Instant::now();
        let busy = self.endpoint.wait(2 * PATIENCE, || waits() || work_waits());
        assert!(start.elapsed() < PATIENCE, "a wake-up was lost");
        self.answer(busy)
    }

    fn waker(&self) -> Waker {
        self.endpoint.waker()
    }
}

fn config(spin_budget: Duration) -> PollerConfig {
    PollerConfig { name: "echo".to_owned(), core: None, spin_budget }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what}");
        thread::yield_now();
    }
}

#[test]
fn a_local_producer_wakes_a_poller_that_sleeps_every_time() {
    let (asker, shard) = echo();
    let poller = Poller::start(config(Duration::ZERO), shard).unwrap();
    let counters = poller.counters();
    let mut sleeps = 0;
    for number in 0..2000 {
        // Now and then it is surely asleep, or about to be.
        if number % 4 == 0 {
            wait_for("sleep", || counters.sleeps.get() > sleeps);
        }
        sleeps = counters.sleeps.get();
        asker.ask(number);
        assert_eq!(asker.answers.recv_timeout(PATIENCE), Ok(number));
    }
    assert!(counters.wake_ups.get() >= 500, "{counters:?}");
    assert!(counters.turns.get() >= counters.idle_turns.get());
}

#[test]
fn a_poller_within_its_budget_does_not_sleep() {
    let (asker, shard) = echo();
    let poller = Poller::start_in(&Registry::new(1), config(FOREVER), shard).unwrap();
    let counters = poller.counters();
    wait_for("turns", || counters.turns.get() > 1000);
    asker.ask(1);
    assert_eq!(asker.answers.recv_timeout(PATIENCE), Ok(1));
    assert_eq!(counters.sleeps.get(), 0);
    assert!(counters.spin_share() > 0.5, "{}", counters.spin_share());
    asker.ask(DONE);
    assert!(poller.join().unwrap().spins > 1000, "it spins");
}

#[test]
fn more_pollers_than_cores_sleep_whatever_their_budget() {
    let registry = Registry::new(1);
    let [(one, first), (_two, second)] = [echo(), echo()];
    let first = Poller::start_in(&registry, config(FOREVER), first).unwrap();
    let turns = first.counters();
    wait_for("turns", || turns.turns.get() > 1000);
    assert_eq!(turns.sleeps.get(), 0);
    let second = Poller::start_in(&registry, config(FOREVER), second).unwrap();
    wait_for("sleep", || turns.sleeps.get() > 0 && second.counters().sleeps.get() > 0);
    // The first spins again when the second has gone; a wake-up is what makes it look.
    drop(second);
    one.ask(1);
    assert_eq!(one.answers.recv_timeout(PATIENCE), Ok(1));
    let (sleeps, before) = (turns.sleeps.get(), turns.turns.get());
    wait_for("turns", || turns.turns.get() > before + 1000);
    assert_eq!(turns.sleeps.get(), sleeps);
}

#[test]
fn a_shard_that_panics_ends_its_poller_with_what_it_said() {
    let registry = Registry::new(1);
    let (asker, shard) = echo();
    let poller = Poller::start_in(&registry, config(FOREVER), shard).unwrap();
    asker.ask(PANIC);
    wait_for("end", || poller.is_finished());
    let error = poller.join().unwrap_err();
    assert!(matches!(error, TransportError::PollerPanicked { .. }));
    assert_eq!(error.to_string(), "the shard of poller echo has panicked: asked to panic");
    assert!(registry.sit(None).may_spin(), "its seat is free again");
}

#[test]
fn a_shard_that_is_done_comes_back() {
    let (asker, shard) = echo();
    let poller = Poller::start(config(Duration::ZERO), shard).unwrap();
    asker.ask(DONE);
    let mut shard = poller.join().unwrap();
    assert!(shard.done);
    assert_eq!(shard.spins, 0, "it may not spin");
    assert!(!shard.endpoint.poll(), "it can be driven by hand");
}

#[test]
fn stopping_and_dropping_end_a_poller_that_sleeps() {
    for by_drop in [false, true] {
        let (_asker, shard) = echo();
        let poller = Poller::start(config(Duration::ZERO), shard).unwrap();
        let counters = poller.counters();
        wait_for("sleep", || counters.sleeps.get() > 0);
        if by_drop {
            drop(poller);
        } else {
            poller.stop();
            assert!(!poller.join().unwrap().done);
        }
    }
}

#[test]
fn a_core_that_cannot_be_had_does_not_keep_a_poller_from_running() {
    let (asker, shard) = echo();
    let config = PollerConfig { core: Some(usize::MAX), ..config(Duration::ZERO) };
    let _poller = Poller::start(config, shard).unwrap();
    asker.ask(1);
    assert_eq!(asker.answers.recv_timeout(PATIENCE), Ok(1));
}
