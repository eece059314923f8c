//! `directory`: what a page costs in a master's directory, in memory and in time.
//!
//! The store is filled with pages of several relations, as the core fills it, and looked up at
//! random. Memory is told twice: as the store sums it, and as the growth of what the system says is
//! resident, which nobody can sum wrongly. Beside it stands a map of the standard library with the
//! same tags and entries, in turn, and with the same pages at random order.

use crate::{
    cores,
    error::BenchError,
    options::Run,
    pairing::{Rounds, Verdict},
    report::Report,
    stats::{Samples, median, rounded, us},
};
use pagewire_node::{
    grd::store::{Cursor, Entry, Store},
    random::Random,
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, PartitionId,
    tag::{Fork, PARTITIONS},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

/// Relations that the pages belong to.
const RELATIONS: u32 = 100;
/// Look-ups of one leg of a round.
const LOOKUPS: u32 = 500_000;
/// Entries that a walk asks for at a time.
const STEP: usize = 64;
/// Most pages of the map that look-ups are compared with: it takes twice the store's memory.
const MAP_PAGES_MAX: u32 = 16_000_000;

/// Options of `directory`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Pages that the directory keeps
    #[arg(
        long,
        default_value_t = 10_000_000,
        value_parser = clap::value_parser!(u32).range(1000..=60_000_000)
    )]
    pages: u32,
    #[command(flatten)]
    run: Run,
}

/// The page with number `number`.
pub(super) fn tag(number: u32) -> BufferTag {
    let (relation, block) = (16384 + number % RELATIONS, number / RELATIONS);
    BufferTag { tablespace: 1663, database: 5, relation, fork: Fork::Main, block }
}

/// Bytes of this process that are in memory (proc(5), `VmRSS`).
fn resident_bytes() -> Result<f64, BenchError> {
    let status = fs::read_to_string("/proc/self/status").map_err(BenchError::Storage)?;
    let kib = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok()
        })
        .ok_or_else(|| BenchError::Tool("/proc/self/status has no line VmRSS in kB".into()))?;
    Ok(kib * 1024.0)
}

/// What filling the store took.
#[derive(Debug)]
struct Filling {
    store: Store<()>,
    each: Samples,
    total: Duration,
    resident: f64,
}

/// Fills a store; each insert is timed by itself.
fn fill(pages: u32) -> Result<Filling, BenchError> {
    let mut each = Samples::new();
    let before = resident_bytes()?;
    let mut store = Store::new();
    let begin = Instant::now();
    let mut last = begin;
    for number in 0..pages {
        let slot = store.insert(&tag(number));
        let entry: &mut Entry = store.get_mut(slot);
        entry.set_owner(Some(InstanceId(1)));
        entry.holders = entry.holders.with(InstanceId(1));
        entry.version = Lsn(number.into());
        entry.set_grant(GrantNumber(1));
        let now = Instant::now();
        each.record(now - last);
        last = now;
    }
    let total = begin.elapsed();
    Ok(Filling { store, each, total, resident: resident_bytes()? - before })
}

/// Runs `look_up` for pages at random; the mean in nanoseconds.
fn look_ups(random: &mut Random, pages: u32, mut look_up: impl FnMut(&BufferTag) -> u64) -> f64 {
    let tags: Vec<_> = (0..LOOKUPS).map(|_| tag(random.below(pages))).collect();
    let begin = Instant::now();
    for tag in &tags {
        black_box(look_up(tag));
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

/// Walks all partitions in steps, each timed.
fn walk(store: &Store<()>) -> (Samples, Duration) {
    let mut steps = Samples::new();
    let begin = Instant::now();
    let mut met = 0;
    for id in (0..PARTITIONS).map(PartitionId) {
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            let step = Instant::now();
            store.walk(id, &mut cursor, STEP, |_, entry| met += entry.version.0);
            steps.record(step.elapsed());
        }
    }
    black_box(met);
    (steps, begin.elapsed())
}

/// Legs: the store; a map of the standard library; the map again, as the control.
const LEGS: usize = 3;

/// Look-ups of the same pages in turn.
fn compare(store: &Store<()>, args: &Args) -> Result<Rounds<LEGS>, BenchError> {
    let pages = args.pages.min(MAP_PAGES_MAX);
    let map: HashMap<BufferTag, [u64; 6]> = (0..pages).map(|n| (tag(n), [n.into(); 6])).collect();
    let mut legs_run = 0u64;
    Rounds::alternate(args.run.rounds, |leg| {
        // The same pages in all legs of a round.
        let mut random = Random::new(legs_run / LEGS as u64);
        legs_run += 1;
        Ok(match leg {
            0 => look_ups(&mut random, args.pages, |tag| {
                store.find(tag).map_or(0, |slot| store.get(slot).version.0)
            }),
            _ => look_ups(&mut random, pages, |tag| map.get(tag).map_or(0, |entry| entry[2])),
        })
    })
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    cores::pin(cores::pair()?[0])?;
    let filling = fill(args.pages)?;
    let absent: Vec<_> = (0..3)
        .map(|seed| {
            let absent = |tag: &BufferTag| BufferTag { database: 6, ..*tag };
            look_ups(&mut Random::new(seed), args.pages, |tag| {
                u64::from(filling.store.find(&absent(tag)).is_some())
            })
        })
        .collect();
    let walk = walk(&filling.store);
    let rounds = compare(&filling.store, args)?;
    Figures { args, filling, absent_ns: median(&absent), walk, rounds }.print(args.run.json)
}

/// The figures, ready to print.
#[derive(Debug)]
struct Figures<'a> {
    args: &'a Args,
    filling: Filling,
    absent_ns: f64,
    walk: (Samples, Duration),
    rounds: Rounds<LEGS>,
}

impl Figures<'_> {
    fn per_page(&self, bytes: f64) -> f64 {
        bytes / f64::from(self.args.pages)
    }

    fn accounted(&self) -> f64 {
        // Fewer than 2^32 pages of 64 bytes: no bit is lost.
        #[allow(clippy::cast_precision_loss)]
        let bytes = self.filling.store.memory_bytes() as f64;
        self.per_page(bytes)
    }

    fn insert_ns(&self) -> f64 {
        self.filling.total.as_secs_f64() * 1e9 / f64::from(self.args.pages)
    }

    fn walk_ns(&self) -> f64 {
        self.walk.1.as_secs_f64() * 1e9 / f64::from(self.args.pages)
    }

    fn of_control(&self) -> Verdict {
        Verdict::of(self.rounds.ratio(2, 1), self.args.run.rounds)
    }

    fn max_us(samples: &Samples) -> f64 {
        us(samples.quantile_ns(1.0))
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        json!({
            "pages": self.args.pages,
            "bytes_per_page_resident": rounded(self.per_page(self.filling.resident)),
            "bytes_per_page_accounted": rounded(self.accounted()),
            "insert_ns": rounded(self.insert_ns()),
            "insert_p99_us": rounded(us(self.filling.each.quantile_ns(0.99))),
            "insert_longest_us": rounded(Self::max_us(&self.filling.each)),
            "lookup_ns": rounded(self.rounds.median(0)),
            "lookup_absent_ns": rounded(self.absent_ns),
            "map_lookup_ns": rounded(self.rounds.median(1)),
            "map_pages": self.args.pages.min(MAP_PAGES_MAX),
            "ratio_lookup": rounded(self.rounds.ratio(0, 1)),
            "control": rounded(self.rounds.ratio(2, 1)),
            "walk_ns": rounded(self.walk_ns()),
            "walk_step_longest_us": rounded(Self::max_us(&self.walk.0)),
            "rounds": self.args.run.rounds,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(self.of_control())
    }

    fn lines(&self) -> Vec<String> {
        let each = &self.filling.each;
        vec![
            format!("directory of {} pages of {RELATIONS} relations", self.args.pages),
            format!(
                "bytes a page, index included: {:.1} resident, {:.1} as accounted",
                self.per_page(self.filling.resident),
                self.accounted()
            ),
            format!(
                "insert: {:.0} ns (the clock included), p99 {:.2} us, longest {:.1} us",
                self.insert_ns(),
                us(each.quantile_ns(0.99)),
                Self::max_us(each)
            ),
            format!(
                "look-up at random: {:.0} ns, of an absent page {:.0} ns",
                self.rounds.median(0),
                self.absent_ns
            ),
            format!(
                "look-up in a map of the standard library, {} pages: {:.0} ns; ratio {:.2}",
                self.args.pages.min(MAP_PAGES_MAX),
                self.rounds.median(1),
                self.rounds.ratio(0, 1)
            ),
            format!(
                "walk of all partitions: {:.0} ns an entry; longest step of {STEP}: {:.1} us",
                self.walk_ns(),
                Self::max_us(&self.walk.0)
            ),
            self.of_control().to_string(),
        ]
    }
}
