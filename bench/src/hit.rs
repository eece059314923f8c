//! `hit`: pins a page that this instance holds, reads one byte, and lets it go.
//!
//! The thread calls what an engine's backend calls (`Handle::read`, `Handle::write`); no message, no
//! lock, no allocation, no system call. One hit is shorter than two readings of the clock, so hits
//! are timed in batches and the percentiles are those of the batches' means. Beside it stands a
//! bare hash look-up of the same tags followed by the same read of one byte.

use crate::{
    cores,
    error::BenchError,
    options::Run,
    relation::Relation,
    report::Report,
    stats::{Samples, median, rounded},
};
use pagewire_node::{Handle, Node};
use pagewire_protocol::BufferTag;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

/// Hits that are timed together.
const BATCH: u32 = 64;

/// Options of `hit`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Pages that are hit in a pseudo-random order
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pages: u32,
    /// Hits measured in each leg of each round
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(64..))]
    samples_per_round: u32,
    #[command(flatten)]
    run: Run,
}

/// Batches of one leg, all rounds together.
#[derive(Debug)]
struct Leg {
    /// Of batches: mean of a hit, in picoseconds, so that three digits are kept.
    batches: Samples,
    means_ns: Vec<f64>,
    allocations: u64,
}

impl Leg {
    fn new() -> Self {
        Self { batches: Samples::new(), means_ns: Vec::new(), allocations: 0 }
    }

    /// Runs `hit` over `order`, in batches.
    fn round(&mut self, order: &[usize], mut hit: impl FnMut(usize) -> u8) {
        let mut total = Duration::ZERO;
        let mut hits = 0u32;
        let batches = &mut self.batches;
        let info = allocation_counter::measure(|| {
            for batch in order.chunks_exact(BATCH as usize) {
                let start = Instant::now();
                for &at in batch {
                    black_box(hit(at));
                }
                let took = start.elapsed();
                batches.record(took * 1000 / BATCH);
                total += took;
                hits += BATCH;
            }
        });
        self.allocations += info.count_total;
        self.means_ns.push(total.as_secs_f64() * 1e9 / f64::from(hits));
    }

    fn mean_ns(&self) -> f64 {
        median(&self.means_ns)
    }

    fn quantile_ns(&self, quantile: f64) -> f64 {
        // The histogram counts picoseconds as if they were nanoseconds.
        Duration::from_nanos(self.batches.quantile_ns(quantile)).as_secs_f64() * 1e6
    }

    fn json(&self) -> Value {
        json!({
            "mean_ns": rounded(self.mean_ns()),
            "p50_ns": rounded(self.quantile_ns(0.5)),
            "p99_ns": rounded(self.quantile_ns(0.99)),
            "allocations": self.allocations,
        })
    }

    fn row(&self, name: &str) -> String {
        let (p50, p99) = (self.quantile_ns(0.5), self.quantile_ns(0.99));
        let (mean, allocations) = (self.mean_ns(), self.allocations);
        format!("{name:<16} {mean:>8.1} {p50:>8.1} {p99:>8.1} {allocations:>12}")
    }
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let relation = Relation::create(args.pages)?;
    let node = Node::start(&relation.config(0, 1, args.pages))?;
    let handle = node.handle()?;
    let tags: Vec<_> = (0..args.pages).map(Relation::tag).collect();
    for tag in &tags {
        // X, so that both kinds of guard hit.
        drop(handle.write(*tag)?);
    }
    cores::pin(cores::pair()?[0])?;
    let order = order(tags.len(), args.samples_per_round);
    let bytes = vec![1u8; tags.len()];
    let map: HashMap<BufferTag, usize> = tags.iter().copied().zip(0..).collect();
    let (mut read, mut write, mut lookup) = (Leg::new(), Leg::new(), Leg::new());
    for _ in 0..args.run.rounds {
        read.round(&order, |at| hit_read(&handle, tags[at]));
        lookup.round(&order, |at| map.get(&tags[at]).map_or(0, |&found| bytes[found]));
        write.round(&order, |at| hit_write(&handle, tags[at]));
    }
    Figures { args, read, write, lookup }.print(args.run.json)
}

fn hit_read(handle: &Handle, tag: BufferTag) -> u8 {
    handle.read(tag).map_or(0, |guard| guard[0])
}

fn hit_write(handle: &Handle, tag: BufferTag) -> u8 {
    handle.write(tag).map_or(0, |guard| guard[0])
}

/// Pages in a pseudo-random order, the same in every run.
fn order(pages: usize, samples: u32) -> Vec<usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % pages
    };
    (0..samples).map(|_| next()).collect()
}

/// The figures, ready to print.
#[derive(Debug)]
struct Figures<'a> {
    args: &'a Args,
    read: Leg,
    write: Leg,
    lookup: Leg,
}

impl Figures<'_> {
    fn ratio(&self) -> f64 {
        self.read.mean_ns() / self.lookup.mean_ns()
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let mut object = self.read.json();
        object["write"] = self.write.json();
        object["bare_lookup"] = self.lookup.json();
        object["ratio_lookup"] = json!(rounded(self.ratio()));
        object["pages"] = json!(self.args.pages);
        object["rounds"] = json!(self.args.run.rounds);
        object
    }

    fn lines(&self) -> Vec<String> {
        vec![
            format!("hit on one of {} pages held locally, {BATCH} hits a batch", self.args.pages),
            format!(
                "{:<16} {:>8} {:>8} {:>8} {:>12}",
                "", "mean ns", "p50 ns", "p99 ns", "allocations"
            ),
            self.read.row("read hit"),
            self.write.row("write hit"),
            self.lookup.row("bare look-up"),
            format!("read hit to bare look-up: {:.2}", self.ratio()),
        ]
    }
}
