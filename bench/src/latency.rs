//! `latency`: one round trip at a time between two threads, each on its own core and each spinning,
//! or with `--sleep` each asleep until the other one wakes it.
//!
//! ```text
//!   asker (core A)                                       answerer (core B)
//!   start = now; say(request, n)  ---------------------> hear(request) = n
//!   hear(reply) = n, checked; now - start  <------------ say(reply, n)
//! ```
//! Three [`ways`](crate::ways) carry it: two endpoints, bare sockets with the same wire bytes and
//! system calls, and bare sockets with the payload alone. Asker and answerer are the same code for all
//! three. Both ends turn from way to way together; the ways whose turn it is not are left alone. An
//! answerer that sleeps sees no turn: a last message, which nobody answers, tells it.

mod ends;
mod fetch;
mod plan;
mod report;

pub(crate) use ends::{End, answer, answer_leg, ask, ask_leg, sampled};
pub(crate) use fetch::{answer_fetches, fetch_leg, page_fetch};
pub(crate) use plan::{Effort, LEGS, Plan};
pub(crate) use report::Figures;

use crate::{
    cores,
    error::BenchError,
    options::Common,
    pairing::Paired,
    report::Report,
    spin::two_ends,
    stats::Samples,
    ways::{Ours, Size, sockets},
};
use core_affinity::CoreId;

/// Round trips measured in each leg of each round, unless another number is asked for.
pub(crate) const SAMPLES_PER_ROUND: u32 = 4000;

/// Options of `latency`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the request's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    request: Size,
    /// Bytes of the reply's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    reply: Size,
    /// Round trips measured in each leg of each round
    #[arg(
        long,
        default_value_t = SAMPLES_PER_ROUND,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    samples_per_round: u32,
    /// Both ends sleep until something comes, instead of spinning
    #[arg(long)]
    sleep: bool,
    #[command(flatten)]
    common: Common,
}

impl Args {
    fn plan(&self) -> Plan {
        let setup = self.common.setup(None);
        Plan { request: self.request, reply: self.reply, sleep: self.sleep, setup }
    }
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let run = args.common.run;
    let effort = Effort { rounds: run.rounds, samples_per_round: args.samples_per_round };
    let plan = args.plan();
    let paired = measure(&plan, effort)?;
    Figures::new(&plan, run.rounds, &paired, "loopback TCP").print(run.json)
}

fn measure(plan: &Plan, effort: Effort) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    let cores = cores::pair()?;
    let (asker, answerer) = Ours::pair(&plan.setup)?;
    let (bare, plain) = (sockets()?, sockets()?);
    let mut asker = End::new(asker, [bare.0, plain.0], plan)?;
    let mut answerer = End::new(answerer, [bare.1, plain.1], plan)?;
    two_ends(
        cores,
        move |switch| {
            ask(&mut asker, plan, effort, switch, |leg| {
                switch.turn_to(leg);
                Ok(())
            })
        },
        move |switch| answer(&mut answerer, plan, switch),
    )
}

/// One leg of ours, on fresh endpoints: both threads end with it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn ours_alone(
    plan: &Plan,
    samples: u32,
    cores: [CoreId; 2],
) -> Result<Samples, BenchError> {
    let (mut asker, mut answerer) = Ours::pair(&plan.setup)?;
    two_ends(
        cores,
        move |switch| {
            asker.establish(switch)?;
            ask_leg(&mut asker, plan, samples, &mut 0, switch)
        },
        move |switch| {
            answerer.establish(switch)?;
            switch.turn().map_or(Ok(()), |turn| answer_leg(&mut answerer, plan, turn, switch))
        },
    )
}
