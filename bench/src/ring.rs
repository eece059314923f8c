//! `ring`: invalidations through the SI ring, from one core to another.
//!
//! ```text
//!   has_new     a look when nothing is new, and while the other core writes
//!   write       batches into the ring, nobody reading
//!   read        a ring that the other core has just filled, read to the end in batches
//!   stream      both at once, the writer held back so that nothing is lost
//!   load        a steady stream and a reader that looks now and then: how often it has to reset with a
//!               ring of 4,096 entries, as PostgreSQL's sinval queue has, and with ours
//! ```
//! Each is run once a round, the cores alternate in what they hold; figures are medians of the rounds.
//! A look is shorter than a reading of the clock, so looks and messages are timed by the thousand.

mod flow;
mod load;

use crate::{
    cores,
    error::BenchError,
    options::Run,
    pairing::Verdict,
    report::Report,
    stats::{median, rounded},
};
use flow::Flow;
use load::Load;
use pagewire_protocol::{ClusterId, Incarnation, InstanceId};
use pagewire_si::{RingConfig, RingWriter};
use serde_json::{Value, json};

/// Slots of PostgreSQL's sinval queue (`MAXNUMMESSAGES`).
const SINVAL_ENTRIES: u32 = 4096;

/// Options of `ring`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Entries of the ring: a power of two
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..))]
    entries: u32,
    /// Messages written or read at once
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Messages streamed in each round
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Looks timed in each round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    looks: u32,
    /// Messages of the load, with each size of ring
    #[arg(long, default_value_t = 20_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    load_messages: u64,
    /// Messages a second of the load
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    load_rate: u64,
    /// The load's reader looks this often on average, in microseconds: a backend in its transactions
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    load_pause_us: u32,
    #[command(flatten)]
    run: Run,
}

/// A ring in memory.
fn ring(entries: u32) -> Result<RingWriter, BenchError> {
    let (cluster, instance, incarnation) = (ClusterId(1), InstanceId(0), Incarnation(1));
    Ok(RingWriter::in_memory(&RingConfig { cluster, instance, incarnation, entries })?)
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let cores = cores::pair()?;
    let flow = Flow::measure(args, cores)?;
    let loads = [SINVAL_ENTRIES, args.entries].map(|entries| Load::measure(args, entries, cores));
    let [sinval, ours] = loads;
    Figures { args, flow, loads: [sinval?, ours?] }.print(args.run.json)
}

/// The figures, ready to print.
#[derive(Debug)]
struct Figures<'a> {
    args: &'a Args,
    flow: Flow,
    loads: [Load; 2],
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let flow = &self.flow;
        let figure = |samples: &Vec<f64>| json!(rounded(median(samples)));
        json!({
            "entries": self.args.entries,
            "batch": self.args.batch,
            "rounds": self.args.run.rounds,
            "has_new_ns": figure(&flow.has_new_ns),
            "has_new_while_written_ns": figure(&flow.has_new_busy_ns),
            "written_per_s": figure(&flow.write_per_s),
            "read_per_s": figure(&flow.read_per_s),
            "streamed_per_s": figure(&flow.stream_per_s),
            "allocations": flow.allocations,
            "load": {
                "messages": self.args.load_messages,
                "rate_per_s": self.args.load_rate,
                "pause_us": self.args.load_pause_us,
                "rings": self.loads.iter().map(Load::json).collect::<Vec<_>>(),
            },
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn lines(&self) -> Vec<String> {
        let flow = &self.flow;
        let (entries, batch) = (self.args.entries, self.args.batch);
        let mega = |samples: &Vec<f64>| median(samples) / 1e6;
        let mut lines = vec![
            format!("SI ring of {entries} entries, from one core to another, {batch} a batch"),
            format!("has_new, nothing new      {:>8.2} ns", median(&flow.has_new_ns)),
            format!("has_new, while written    {:>8.2} ns", median(&flow.has_new_busy_ns)),
            format!("written                   {:>8.1} M/s", mega(&flow.write_per_s)),
            format!("read                      {:>8.1} M/s", mega(&flow.read_per_s)),
            format!("written and read at once  {:>8.1} M/s", mega(&flow.stream_per_s)),
            format!("allocations               {:>8}", flow.allocations),
            format!(
                "load of {} messages a second, a look every {} us on average:",
                self.args.load_rate, self.args.load_pause_us
            ),
        ];
        lines.extend(self.loads.iter().map(Load::line));
        lines
    }
}
