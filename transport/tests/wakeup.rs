//! An endpoint that sleeps is woken, by messages and by other threads, and no wake-up is lost.

mod common;

use common::{FRAMES, Node, PATIENCE, Random, cluster, config, introduce, link_all};
use pagewire_protocol::{Body, InstanceId, Lane, MessageKind};
use pagewire_transport::{Endpoint, Event, Message, Received, SendError};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

const WAKE_UPS: u64 = 10_000;

/// Sleeps once. A lost wake-up shows as a sleep that lasts as long as a test may.
fn sleep(endpoint: &mut Endpoint, work_waits: impl FnOnce() -> bool) {
    let start = Instant::now();
    endpoint.wait(PATIENCE, work_waits);
    assert!(start.elapsed() < PATIENCE, "a wake-up was lost");
}

fn sleep_until_message(endpoint: &mut Endpoint) -> Received {
    loop {
        while let Some(event) = endpoint.next_event() {
            if let Event::Message(received) = event {
                return received;
            }
        }
        sleep(endpoint, || false);
    }
}

/// Passes a little time, so that what comes next meets the sleeper at another point: while it
/// sleeps, or while it is about to.
fn dawdle(random: &mut Random) {
    let most = [30, 100, 3000][usize::from(random.next().to_le_bytes()[3] % 3)];
    for _ in 0..random.below(most) {
        std::hint::spin_loop();
    }
}

fn message(number: u64) -> Message {
    Message::new(MessageKind(200), Body::new(&number.to_le_bytes()).unwrap())
}

#[test]
fn a_message_wakes_a_sleeper_every_time() {
    let mut nodes = cluster(2);
    let mut two = nodes.pop().unwrap().endpoint;
    let mut one = nodes.pop().unwrap().endpoint;
    let counters = [one.counters(), two.counters()];
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut random = Random::new(1);
            for number in 0..WAKE_UPS {
                let received = sleep_until_message(&mut two);
                assert_eq!(received.body.as_slice(), number.to_le_bytes());
                dawdle(&mut random);
                two.send(InstanceId(1), Lane::Control, message(number)).unwrap();
            }
            // The last answer still has to leave.
            two.flush();
        });
        let mut random = Random::new(2);
        for number in 0..WAKE_UPS {
            dawdle(&mut random);
            one.send(InstanceId(2), Lane::Requests, message(number)).unwrap();
            let received = sleep_until_message(&mut one);
            assert_eq!(received.body.as_slice(), number.to_le_bytes());
        }
    });
    for counters in counters {
        assert!(counters.sleeps.get() >= WAKE_UPS / 2, "hardly slept: {}", counters.sleeps.get());
    }
}

#[test]
fn a_burst_is_read_to_its_end_by_one_that_sleeps() {
    let mut nodes = cluster(2);
    let receiver = nodes.pop().unwrap();
    let mut receiver = receiver.endpoint;
    let mut sender = nodes.pop().unwrap().endpoint;
    const BURSTS: u64 = 2000;
    // 4 pages, 2 bulk pages and 5 small ones: the kernel reports each connection once.
    const BURST: [(Lane, u64); 3] = [(Lane::Pages, 4), (Lane::Bulk, 2), (Lane::Si, 5)];
    thread::scope(|scope| {
        scope.spawn(move || {
            for burst in 0..BURSTS {
                for _ in 0..BURST.iter().map(|(_, count)| count).sum() {
                    let received = sleep_until_message(&mut receiver);
                    assert_eq!(common::number_of(&received.body), burst);
                }
                receiver.send(InstanceId(1), Lane::Control, message(burst)).unwrap();
            }
            receiver.flush();
        });
        for burst in 0..BURSTS {
            for (lane, count) in BURST {
                for _ in 0..count {
                    let arena = sender.arena().clone();
                    let mut message = common::numbered(&arena, lane, burst).unwrap();
                    while let Err(SendError::NoCredit(back)) =
                        sender.send(InstanceId(2), lane, message)
                    {
                        message = back;
                        sleep(&mut sender, || false);
                    }
                }
            }
            sleep_until_message(&mut sender);
        }
    });
}

/// Each producer has a queue of its own: what it has put in, and what was taken.
fn wake_ups_of(queues: &[(AtomicU64, AtomicU64)]) {
    let mut sleeper = Node::new(config(1), 8).endpoint;
    let counters = sleeper.counters();
    let waker = sleeper.waker();
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        for (queue, seed) in queues.iter().zip(1..) {
            let (waker, failed) = (waker.clone(), &failed);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for number in 1..=WAKE_UPS {
                    dawdle(&mut random);
                    // Relaxed: that the sleeper sees it is the waker's business.
                    queue.0.store(number, Ordering::Relaxed);
                    waker.wake();
                    for turn in 0u64.. {
                        if queue.1.load(Ordering::Relaxed) == number {
                            break;
                        }
                        if turn < 100 {
                            std::hint::spin_loop();
                            continue;
                        }
                        if failed.load(Ordering::Relaxed) {
                            return;
                        }
                        thread::yield_now();
                    }
                }
            });
        }
        let mut random = Random::new(9);
        let waiting = |queue: &(AtomicU64, AtomicU64)| {
            let put = queue.0.load(Ordering::Relaxed);
            (put > queue.1.load(Ordering::Relaxed)).then_some(put)
        };
        while queues.iter().any(|queue| queue.1.load(Ordering::Relaxed) < WAKE_UPS) {
            for queue in queues {
                if let Some(put) = waiting(queue) {
                    queue.1.store(put, Ordering::Relaxed);
                }
            }
            if queues.iter().all(|queue| queue.1.load(Ordering::Relaxed) == WAKE_UPS) {
                break;
            }
            // Between the look into the queues and the sleep the next one may be put in.
            dawdle(&mut random);
            let start = Instant::now();
            sleeper.wait(PATIENCE, || queues.iter().any(|queue| waiting(queue).is_some()));
            if start.elapsed() >= PATIENCE {
                failed.store(true, Ordering::Relaxed);
                panic!("a wake-up was lost");
            }
        }
    });
    assert!(counters.sleeps.get() > 100, "hardly slept: {}", counters.sleeps.get());
}

#[test]
fn a_waker_wakes_a_sleeper_every_time() {
    // One alone: no second wake-up makes good for one that is lost.
    wake_ups_of(&[const { (AtomicU64::new(0), AtomicU64::new(0)) }]);
}

#[test]
fn wakers_on_several_threads_wake_a_sleeper_every_time() {
    wake_ups_of(&[const { (AtomicU64::new(0), AtomicU64::new(0)) }; 2]);
}

#[test]
fn work_that_waits_keeps_an_endpoint_awake() {
    let mut endpoint = Node::new(config(1), 8).endpoint;
    sleep(&mut endpoint, || true);
    assert_eq!(endpoint.counters().sleeps.get(), 0);
    // A wake-up that came while it was awake belongs to work that it has yet to look at.
    endpoint.waker().wake();
    sleep(&mut endpoint, || true);
    assert_eq!(endpoint.counters().sleeps.get(), 0);
}

#[test]
fn a_peer_that_goes_wakes_a_sleeper() {
    let mut nodes = cluster(2);
    let mut two = nodes.pop().unwrap().endpoint;
    let (asleep, goes) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            goes.recv().unwrap();
            drop(nodes);
        });
        asleep.send(()).unwrap();
        loop {
            if let Some(Event::Down { .. }) = two.next_event() {
                break;
            }
            sleep(&mut two, || false);
        }
    });
}

#[test]
fn a_sleeper_gives_credit_when_another_thread_returns_its_frames() {
    // The receiver has two frames beyond its receives, and its pages are read on another thread.
    let mut nodes = [Node::new(config(1), FRAMES), Node::new(config(2), 4 + 2 + 2)];
    introduce(&mut nodes, 0, 1);
    link_all(&mut nodes);
    let [mut sender, Node { endpoint: mut receiver, .. }] = nodes;
    let arena = receiver.arena().clone();
    let (hand_over, taken) = mpsc::channel::<Received>();
    const PAGES: u64 = 120;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = Vec::new();
            for page in taken {
                held.push(page);
                // All six are here and the receiver has nothing to do but sleep.
                if held.len() == 6 {
                    assert_eq!(arena.free_frames(), 0);
                    held.clear();
                }
            }
        });
        scope.spawn(|| {
            let hand_over = hand_over;
            for _ in 0..PAGES {
                hand_over.send(sleep_until_message(&mut receiver)).unwrap();
            }
            done.store(true, Ordering::Release);
            receiver.flush();
        });
        let start = Instant::now();
        let mut number = 1;
        let mut waiting = None;
        while !done.load(Ordering::Acquire) {
            assert!(start.elapsed() < 2 * PATIENCE, "stuck before page {number}");
            if number <= PAGES {
                let arena = sender.endpoint.arena().clone();
                waiting = waiting.or_else(|| common::numbered(&arena, Lane::Pages, number));
                if let Some(message) = waiting.take() {
                    match sender.endpoint.send(InstanceId(2), Lane::Pages, message) {
                        Ok(()) => number += 1,
                        Err(SendError::NoCredit(message)) => waiting = Some(message),
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
            sender.poll();
            thread::yield_now();
        }
    });
}
