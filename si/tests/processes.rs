//! Readers in processes of their own, of which some are killed, stopped and slow; a writer that is
//! killed in the middle of what it does.
//!
//! The other processes are this very test program, started again with one test chosen and an order in
//! its environment. Each message carries its number, so that what a reader makes of the ring's own
//! sequences is not believed but checked.

use pagewire_protocol::{ClusterId, Incarnation, InstanceId};
use pagewire_si::{RingConfig, RingState, RingWriter, SiEntry, SiRead, SiReader};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    hint::black_box,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

const CLUSTER: ClusterId = ClusterId(0xC1);
const PUBLISHER: InstanceId = InstanceId(1);
/// What a started process is to do, and with which ring.
const ORDER: &str = "PAGEWIRE_TEST_ORDER";
const RING: &str = "PAGEWIRE_TEST_RING";
/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

fn config(entries: u32) -> RingConfig {
    let (instance, incarnation) = (InstanceId(3), Incarnation(7));
    RingConfig { cluster: CLUSTER, instance, incarnation, entries }
}

/// A message that says its number, and which writer's it is. Not one of PostgreSQL's: the ring takes
/// any.
fn message(life: u64, number: u64) -> [u8; 16] {
    (u128::from(life) << 64 | u128::from(number)).to_le_bytes()
}

fn life_and_number(entry: &SiEntry) -> (u64, u64) {
    let all = u128::from_le_bytes(entry.bytes());
    (u64::try_from(all >> 64).unwrap(), u64::try_from(all & u128::from(u64::MAX)).unwrap())
}

fn order() -> Option<(String, PathBuf)> {
    let ring = std::env::var_os(RING)?.into();
    Some((std::env::var(ORDER).ok()?, ring))
}

/// Another process: it says lines, and ends when it is told to or when this value goes.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: Option<ChildStdin>,
}

impl Other {
    fn start(test: &str, order: &str, ring: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(ORDER, order).env(RING, ring);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let input = child.stdin.take();
        Self { child, lines, input }
    }

    /// What stands behind `key` in the next line that begins with it.
    fn line(&mut self, key: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            // The test harness says a few words of its own, without a line's end.
            if let Some(at) = line.find(key) {
                return line[at + key.len()..].trim().to_owned();
            }
        }
        panic!("it ended without {key}");
    }

    fn numbers(&mut self, key: &str) -> Vec<u64> {
        self.line(key).split(' ').map(|number| number.parse().expect("a number")).collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is there");
    }

    /// Ends it when it has nothing more to do.
    fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a reader has to say at the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    seen: u64,
    resets: u64,
    /// Messages between what was seen before a reset and what was seen after it.
    lost: u64,
    /// Messages that are missing with no reset told: the ring's failure.
    undetected: u64,
}

/// Follows the numbers of messages. The first is 0.
#[derive(Debug, Default)]
struct Follower {
    account: Account,
    next: u64,
    was_reset: bool,
}

impl Follower {
    fn take(&mut self, read: SiRead, out: &[SiEntry]) {
        match read {
            SiRead::Messages(count) => out[..count].iter().for_each(|entry| self.message(entry)),
            SiRead::Reset => {
                self.account.resets += 1;
                self.was_reset = true;
            }
            SiRead::Gone => panic!("the ring is gone"),
        }
    }

    #[inline]
    fn message(&mut self, entry: &SiEntry) {
        let (_, number) = life_and_number(entry);
        if number != self.next {
            self.gap(number);
        }
        self.account.seen += 1;
        self.next = number + 1;
    }

    #[cold]
    fn gap(&mut self, number: u64) {
        if self.was_reset && number > self.next {
            self.account.lost += number - self.next;
        } else {
            self.account.undetected += 1;
        }
        self.was_reset = false;
    }

    /// The account of one that has read to the end, of `all` messages.
    fn close(mut self, all: u64) -> Account {
        if self.next != all {
            self.gap(all);
        }
        self.account
    }
}

// ---- eight readers -----------------------------------------------------------------------------

const EIGHT: &str =
    "readers_that_are_killed_stopped_or_slow_neither_hold_up_the_writer_nor_lose_unseen";
const EIGHT_ENTRIES: u32 = 4096;
/// Messages while the readers are as they are, in each of the three stages.
const STAGE: u64 = 1_000_000;

#[test]
fn readers_that_are_killed_stopped_or_slow_neither_hold_up_the_writer_nor_lose_unseen() {
    if let Some((order, ring)) = order() {
        return follow(&order, &ring);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    let mut writer = RingWriter::open(&path, &config(EIGHT_ENTRIES)).unwrap();
    let start = |order: &&str| Other::start(EIGHT, order, &path);
    let mut readers: Vec<_> = ["plain", "plain", "slow", "slow", "plain", "slow", "plain", "slow"]
        .iter()
        .map(start)
        .collect();
    for reader in &mut readers {
        reader.line("attached");
    }
    let mut next = 0;
    let mut stage = || {
        let to = next + STAGE;
        while next < to {
            let batch: Vec<_> = (next..(next + 64).min(to)).map(|n| message(0, n)).collect();
            writer.write(PUBLISHER, &batch);
            next += batch.len() as u64;
            // On few cores nobody would read otherwise; the ring does not know of it.
            if next.is_multiple_of(1024) {
                thread::yield_now();
            }
        }
    };
    stage();
    for reader in &readers[4..6] {
        reader.signal(Signal::STOP);
    }
    for reader in &readers[6..] {
        reader.signal(Signal::KILL);
    }
    // Far more than the ring holds: those that are stopped are behind by all of it.
    stage();
    for reader in &readers[4..6] {
        reader.signal(Signal::CONT);
    }
    stage();
    readers.truncate(6);
    for (at, mut reader) in readers.into_iter().enumerate() {
        // It ends when it has read all that was written before.
        drop(reader.input.take());
        let account = reader.numbers("account ");
        let [seen, lost, resets, undetected] = account[..] else { panic!("{account:?}") };
        println!("reader {at}: seen {seen}, lost {lost}, resets {resets}");
        assert_eq!((undetected, seen + lost), (0, 3 * STAGE), "reader {at}");
        assert!(at < 4 || resets > 0, "reader {at} was stopped and has missed nothing");
        reader.end();
    }
}

/// A reader's process: follows the messages until its input ends, and gives account.
fn follow(order: &str, ring: &Path) {
    let mut reader = SiReader::attach(ring, CLUSTER).unwrap();
    println!("\nattached");
    let is_over = AtomicBool::new(false);
    let mut follower = Follower::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().lines().next();
            is_over.store(true, Ordering::Release);
        });
        let mut out = [SiEntry::default(); 256];
        let end = Instant::now() + PATIENCE;
        loop {
            let was_over = is_over.load(Ordering::Acquire);
            if reader.has_new() {
                follower.take(reader.read(&mut out), &out);
            } else if was_over {
                break;
            } else {
                assert!(Instant::now() < end, "the input does not end: {follower:?}");
                thread::yield_now();
            }
            if order == "slow" {
                // As one that works on what it reads.
                (0..100_000_u32).for_each(|turn| _ = black_box(turn));
            }
        }
    });
    let Account { seen, resets, lost, undetected } = follower.close(3 * STAGE);
    println!("account {seen} {lost} {resets} {undetected}");
}

// ---- a hundred million messages ----------------------------------------------------------------

/// Messages in all.
const MANY: u64 = 100_000_000;
const MANY_ENTRIES: u32 = 1 << 14;
const BATCH: usize = 1024;

/// A writer and a reader at full speed; `keeps_pace`: the test holds the writer back, so that the
/// reader is never behind by a ring. The ring itself knows nothing of that.
fn hundred_million(keeps_pace: bool) -> Account {
    let mut writer = RingWriter::in_memory(&config(MANY_ENTRIES)).unwrap();
    let mut reader = writer.reader().unwrap();
    let (progress, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut follower = Follower::default();
            let mut out = [SiEntry::default(); BATCH];
            let end = Instant::now() + PATIENCE;
            loop {
                let was_over = is_over.load(Ordering::Acquire);
                match reader.read(&mut out) {
                    SiRead::Messages(0) if was_over => return follower.close(MANY),
                    SiRead::Messages(0) => {
                        assert!(Instant::now() < end, "the writer does not end: {follower:?}");
                        thread::yield_now();
                    }
                    read => {
                        follower.take(read, &out);
                        progress.store(follower.next, Ordering::Release);
                    }
                }
            }
        });
        let mut batch = [[0; 16]; BATCH];
        for first in (0..MANY).step_by(BATCH) {
            let wanted = first.saturating_sub(u64::from(MANY_ENTRIES) / 2);
            while keeps_pace && progress.load(Ordering::Acquire) < wanted && !reader.is_finished() {
                thread::yield_now();
            }
            let batch = &mut batch[..usize::try_from(MANY - first).unwrap().min(BATCH)];
            for (number, place) in (first..).zip(batch.iter_mut()) {
                *place = message(0, number);
            }
            writer.write(PUBLISHER, batch);
            if first.is_multiple_of(u64::from(MANY_ENTRIES) / 2) {
                thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Release);
        reader.join().expect("the reader ends")
    })
}

#[test]
fn of_a_hundred_million_messages_a_reader_that_keeps_up_misses_none() {
    let account = hundred_million(true);
    assert_eq!(account, Account { seen: MANY, ..Account::default() });
}

#[test]
fn of_a_hundred_million_messages_none_is_lost_that_is_not_told() {
    let account = hundred_million(false);
    println!("{account:?}");
    assert_eq!((account.undetected, account.seen + account.lost), (0, MANY));
}

// ---- a writer that is killed -------------------------------------------------------------------

const KILLED: &str = "readers_of_a_writer_that_is_killed_reset_before_the_next_one_is_heard";
const KILLED_ENTRIES: u32 = 1024;
const LIVES: u64 = 12;
/// Messages of one life that are read before it is killed.
const READ_BEFORE: u64 = 20_000;

#[test]
fn readers_of_a_writer_that_is_killed_reset_before_the_next_one_is_heard() {
    if let Some((order, ring)) = order() {
        return write_for_ever(order.parse().unwrap(), &ring);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    let mut reader = None;
    let (mut heard, mut next, mut was_reset) = (0, 0, true);
    for life in 1..=LIVES {
        let mut writer = Other::start(KILLED, &life.to_string(), &path);
        writer.line("writes");
        let reader = reader.get_or_insert_with(|| SiReader::attach(&path, CLUSTER).unwrap());
        let mut out = [SiEntry::default(); 128];
        let (mut seen, mut is_dead) = (0, false);
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "life {life}: {seen} messages");
            match reader.read(&mut out) {
                SiRead::Messages(0) if is_dead => break,
                SiRead::Messages(count) => {
                    for entry in &out[..count] {
                        let (from, number) = life_and_number(entry);
                        let goes_on = from == heard && number == next;
                        assert!(goes_on || was_reset, "{from} {number} after {heard} {next}");
                        // A message of a life that is over comes only before its end was told.
                        assert!(from >= heard && (from == life || seen == 0), "of life {from}");
                        (heard, next, was_reset) = (from, number + 1, false);
                        seen += u64::from(from == life);
                    }
                }
                SiRead::Reset => was_reset = true,
                SiRead::Gone => panic!("the ring is gone"),
            }
            if seen >= READ_BEFORE && !is_dead {
                // In the middle of a batch, as a rule: it does nothing else.
                writer.signal(Signal::KILL);
                writer.child.wait().unwrap();
                is_dead = true;
            }
        }
        assert_eq!(reader.state().unwrap(), RingState::NoWriter);
        assert_eq!((reader.generation(), heard), (life, life));
    }
}

/// A writer's process.
fn write_for_ever(life: u64, ring: &Path) {
    let mut writer = RingWriter::open(ring, &config(KILLED_ENTRIES)).unwrap();
    println!("\nwrites");
    std::io::stdout().flush().unwrap();
    let end = Instant::now() + PATIENCE;
    let mut first = 0;
    while Instant::now() < end {
        let batch: Vec<_> = (first..first + 100).map(|number| message(life, number)).collect();
        writer.write(PUBLISHER, &batch);
        first += 100;
    }
}
