//! `rate`: as many messages as go through, one way, one core a side.
//!
//! ```text
//!   sender (core A)                                      receiver (core B)
//!   stream(0 .. w)             ====================>     takes and checks w messages
//!   heard()                    <--------------------     signal(w)
//!   start = now; stream(w ..)  ====================>     takes and checks n more
//!   heard(); n / (now - start) <--------------------     signal(w + n)
//! ```
//! Messages carry their number, and a lost, doubled or reordered one ends the run. What they are
//! measured against:
//!
//! ```text
//!                  small messages                             pages
//!   bare           128-byte slots, one write each             8 KiB writes and reads, payload only
//!   bare batched   128-byte slots, many in one write          {header, frame}, many in one writev
//! ```
//! All read as much as there is. Bytes are those of the payload.

mod bare;
mod ends;
mod flow;
mod ours;
mod plan;
mod report;

pub(crate) use ends::{End, receive, receive_leg, send, send_leg};
pub(crate) use plan::{BATCH, LEGS, PER_ROUND_MAX, Plan};
pub(crate) use report::Figures;

use crate::{
    cores,
    error::BenchError,
    options::Common,
    pairing::Rounds,
    report::Report,
    spin::two_ends,
    ways::{CREDITS_MAX, Ours, Size, sockets},
};
use core_affinity::CoreId;
use plan::BATCH_MAX;

/// Options of `rate`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Bytes of each message: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: Size,
    /// Messages measured in each leg of each round [default: 200000, of pages 20000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=PER_ROUND_MAX))]
    messages_per_round: Option<u64>,
    /// Credits of the lane that carries them [default: those of an endpoint]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(CREDITS_MAX)))]
    credits: Option<u32>,
    /// Messages that the batched bare loop hands to the kernel in one call
    #[arg(
        long,
        default_value_t = BATCH,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_MAX))
    )]
    batch: u32,
    #[command(flatten)]
    common: Common,
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let setup = args.common.setup(args.credits);
    let plan = Plan::new(args.size, args.messages_per_round, args.batch, setup);
    let run = args.common.run;
    let figures = measure(&plan, run.rounds)?;
    Figures::new(&plan, run.rounds, &figures, "loopback TCP").print(run.json)
}

fn measure(plan: &Plan, rounds: u32) -> Result<Rounds<{ LEGS.len() }>, BenchError> {
    let cores = cores::pair()?;
    let (sender, receiver) = Ours::pair(&plan.setup)?;
    let sockets = sockets()?;
    let mut sender = End::new(sender, [sockets.0], plan)?;
    let mut receiver = End::new(receiver, [sockets.1], plan)?;
    two_ends(
        cores,
        move |switch| {
            send(&mut sender, plan, rounds, switch, |leg| {
                switch.turn_to(leg);
                Ok(())
            })
        },
        move |switch| receive(&mut receiver, plan, switch),
    )
}

/// One leg of ours, on fresh endpoints: both threads end with it. Messages a second.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn ours_alone(plan: &Plan, cores: [CoreId; 2]) -> Result<f64, BenchError> {
    let (mut sender, mut receiver) = Ours::pair(&plan.setup)?;
    two_ends(
        cores,
        move |switch| {
            sender.establish(switch)?;
            send_leg(&mut sender, plan, switch)
        },
        move |switch| {
            receiver.establish(switch)?;
            let turn = switch.turn();
            receive_leg(&mut receiver, plan, switch)?;
            // Stays until the sender has heard.
            turn.into_iter().for_each(|turn| switch.spin_while(turn));
            Ok(())
        },
    )
}
