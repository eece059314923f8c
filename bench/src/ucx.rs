//! `ucx`: the same measurement by `ucx_perftest` and by two endpoints, alternated on the same two
//! cores.
//!
//! ```text
//!   round 0   ours   ucx    again        ratio 0 = ours / ucx
//!   round 1   again  ucx    ours         ...
//! ```
//! Both begin anew in each leg, as UCX has to: two processes (`-c`, one core each) and a connection
//! over the loopback device; for ours two threads on the same cores, two endpoints and a session.
//! No thread of ours is left over while UCX runs. What is compared: half a round trip at the median,
//! as UCX prints it; and messages a second.

mod output;
mod process;
mod test;

use crate::{
    cores,
    error::BenchError,
    latency,
    options::{Common, Run},
    pairing::{Rounds, Verdict},
    rate,
    report::Report,
    stats::rounded,
    ways::{CREDITS_MAX, Size},
};
use core_affinity::CoreId;
use serde_json::{Value, json};
use test::{Figure, Test};

/// Options of `ucx`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What is measured, in UCX's words
    #[arg(long, value_enum, default_value_t = Test::TagLat)]
    test: Test,
    /// Bytes of each message: 8 to 80, or 8192 for a page in a frame (and a page back)
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: Size,
    /// Messages (or round trips) measured in each leg of each round [default: 20000 round trips,
    /// 200000 messages one way, of pages 20000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    samples_per_round: Option<u32>,
    /// Credits of the lane that carries our messages [default: those of an endpoint]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(CREDITS_MAX)))]
    credits: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Round trips of a leg, unless another number is asked for.
const ROUND_TRIPS: u32 = 20_000;

/// Legs of a round: UCX runs twice, as the control.
const OURS: usize = 0;
const UCX: usize = 1;
const AGAIN: usize = 2;

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let program = process::find()?;
    let cores = cores::pair()?;
    let count = count(args);
    let rounds = Rounds::<3>::alternate(args.common.run.rounds, |leg| match leg {
        OURS => ours(args, count, cores),
        _ => {
            let (test, size) = (args.test.of_ucx(), args.size.bytes());
            let lines = process::run(&program, test, size, count, cores.map(|core| core.id))?;
            output::figure(&lines, args.test.figure())
        }
    })?;
    Figures { args, count, rounds }.print(args.common.run.json)
}

fn count(args: &Args) -> u32 {
    args.samples_per_round.unwrap_or_else(|| match args.test.figure() {
        Figure::HalfRoundTrip => ROUND_TRIPS,
        Figure::Rate => {
            let plan = rate_plan(args, None);
            u32::try_from(plan.messages).unwrap_or(u32::MAX)
        }
    })
}

fn rate_plan(args: &Args, count: Option<u32>) -> rate::Plan {
    let setup = args.common.setup(args.credits);
    rate::Plan::new(args.size, count.map(u64::from), rate::BATCH, setup)
}

fn ours(args: &Args, count: u32, cores: [CoreId; 2]) -> Result<f64, BenchError> {
    match args.test.figure() {
        Figure::HalfRoundTrip => {
            let (size, setup) = (args.size, args.common.setup(args.credits));
            let plan = latency::Plan { request: size, reply: size, sleep: false, setup };
            let samples = latency::ours_alone(&plan, count, cores)?;
            Ok(samples.summary().p50_us / 2.0)
        }
        Figure::Rate => rate::ours_alone(&rate_plan(args, Some(count)), cores),
    }
}

/// The figures, ready to print.
#[derive(Debug)]
struct Figures<'a> {
    args: &'a Args,
    count: u32,
    rounds: Rounds<3>,
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let key = self.args.test.figure().key();
        let leg = |leg| json!({ key: rounded(self.rounds.median(leg)) });
        json!({
            "test": self.args.test.name(),
            "size": self.args.size.bytes(),
            "samples_per_round": self.count,
            "ours": leg(OURS),
            "ucx": leg(UCX),
            "ratio": rounded(self.rounds.ratio(OURS, UCX)),
            "control": rounded(self.rounds.ratio(AGAIN, UCX)),
            "rounds": self.args.common.run.rounds,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(Verdict::of(self.rounds.ratio(AGAIN, UCX), self.args.common.run.rounds))
    }

    fn lines(&self) -> Vec<String> {
        let Run { rounds, .. } = self.args.common.run;
        let (test, figure) = (self.args.test.name(), self.args.test.figure());
        let row = |name: &str, leg| format!("{name:<12} {:>12.2}", self.rounds.median(leg));
        let control = self.rounds.ratio(AGAIN, UCX);
        vec![
            format!("{test} over loopback TCP, {} B", self.args.size.bytes()),
            format!("{:<12} {:>12}", "", figure.key()),
            row("ours", OURS),
            row("ucx", UCX),
            format!(
                "ratio to UCX, median of {rounds} rounds: {:.3} ({})",
                self.rounds.ratio(OURS, UCX),
                figure.better()
            ),
            Verdict::of(control, rounds).to_string(),
        ]
    }
}
