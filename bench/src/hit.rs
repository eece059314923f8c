//! `hit`: pins a page that this instance holds, reads one byte, and lets it go.
//!
//! The thread calls what an engine's backend calls (`Handle::read`, `Handle::write`); no message, no
//! lock, no allocation, no system call. One hit is shorter than two readings of the clock, so hits
//! are timed in batches and the percentiles are those of the batches' means. Beside it stands a
//! bare hash look-up of the same tags, which finds the same page in the same memory, followed by the
//! same read of one byte. It runs twice, as the control.

use crate::{
    cores,
    error::BenchError,
    options::Run,
    pairing::{Verdict, order},
    relation::Relation,
    report::Report,
    stats::{Samples, median, rounded},
};
use pagewire_node::{Handle, Node};
use pagewire_protocol::{BufferTag, PageSize};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

/// Hits that are timed together.
const BATCH: u32 = 64;
/// Hits before the first leg, so that none finds the caches and the branch predictor cold.
const WARM_UP: usize = 100_000;

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

/// Legs of a round: hit, bare, bare again.
const LEGS: usize = 3;

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    // Holes: a page of zeros is a valid one, and a million of them are 8 GiB.
    let relation = Relation::sparse(args.pages, PageSize::K8)?;
    let node = Node::start(&relation.config(0, 1, args.pages))?;
    let handle = node.handle()?;
    let tags: Vec<_> = (0..args.pages).map(Relation::tag).collect();
    for tag in &tags {
        // X, so that both kinds of guard hit.
        drop(handle.write(*tag)?);
    }
    cores::pin(cores::pair()?[0])?;
    let pages = shuffled(tags.len(), args.samples_per_round);
    let legs = compare(&handle, &tags, &pages, args.run.rounds)?;
    let mut write = Leg::new();
    for _ in 0..args.run.rounds {
        write.round(&pages, |at| hit_write(&handle, tags[at]));
    }
    Figures { args, legs, write }.print(args.run.json)
}

/// Read hits beside bare look-ups. Guards are held meanwhile, so that the bare legs may keep where
/// each page is.
fn compare(
    handle: &Handle,
    tags: &[BufferTag],
    pages: &[usize],
    rounds: u32,
) -> Result<[Leg; LEGS], BenchError> {
    let held = tags.iter().map(|tag| handle.read(*tag)).collect::<Result<Vec<_>, _>>()?;
    let map: HashMap<BufferTag, &[u8]> =
        tags.iter().copied().zip(held.iter().map(|guard| &**guard)).collect();
    let mut legs = [(); LEGS].map(|()| Leg::new());
    Leg::new().round(&pages[..pages.len().min(WARM_UP)], |at| hit_read(handle, tags[at]));
    for round in 0..rounds {
        for leg in order::<LEGS>(round) {
            match leg {
                0 => legs[leg].round(pages, |at| hit_read(handle, tags[at])),
                _ => legs[leg].round(pages, |at| map.get(&tags[at]).map_or(0, |page| page[0])),
            }
        }
    }
    Ok(legs)
}

fn hit_read(handle: &Handle, tag: BufferTag) -> u8 {
    handle.read(tag).map_or(0, |guard| guard[0])
}

fn hit_write(handle: &Handle, tag: BufferTag) -> u8 {
    handle.write(tag).map_or(0, |guard| guard[0])
}

/// Pages in a pseudo-random order, the same in every run.
fn shuffled(pages: usize, samples: u32) -> Vec<usize> {
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
    legs: [Leg; LEGS],
    write: Leg,
}

impl Figures<'_> {
    /// Median over the rounds of (mean of `leg` / mean of the bare look-up).
    fn ratio(&self, leg: usize) -> f64 {
        let pairs = self.legs[leg].means_ns.iter().zip(&self.legs[1].means_ns);
        median(&pairs.map(|(leg, bare)| leg / bare).collect::<Vec<_>>())
    }

    fn of_control(&self) -> Verdict {
        Verdict::of(self.ratio(2), self.args.run.rounds)
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let mut object = self.legs[0].json();
        object["write"] = self.write.json();
        object["bare_lookup"] = self.legs[1].json();
        object["ratio_lookup"] = json!(rounded(self.ratio(0)));
        object["control"] = json!(rounded(self.ratio(2)));
        object["pages"] = json!(self.args.pages);
        object["rounds"] = json!(self.args.run.rounds);
        object
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(self.of_control())
    }

    fn lines(&self) -> Vec<String> {
        vec![
            format!("hit on one of {} pages held locally, {BATCH} hits a batch", self.args.pages),
            format!(
                "{:<16} {:>8} {:>8} {:>8} {:>12}",
                "", "mean ns", "p50 ns", "p99 ns", "allocations"
            ),
            self.legs[0].row("read hit"),
            self.write.row("write hit"),
            self.legs[1].row("bare look-up"),
            self.legs[2].row("bare again"),
            format!("read hit to bare look-up: {:.2}", self.ratio(0)),
            self.of_control().to_string(),
        ]
    }
}
