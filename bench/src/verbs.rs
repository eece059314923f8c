//! `verbs`: two endpoints in this process whose messages go over RDMA verbs, measured as perftest
//! measures: half a round trip as `ib_send_lat` has it, pages a second as `ib_send_bw` has them.
//!
//! ```text
//!               message                    on the wire             beside it
//!   --size 64   header, 64 B of body       48 + 64 = 112 B         ib_send_lat -s 112
//!   --size 8192 header slot, page          128 + 8192 = 8320 B     ib_send_lat -s 8320
//!   --rate      pages, one way             8320 B                  ib_send_bw -s 8320
//! ```
//! Who runs it alternates it with perftest, round by round (tests/softroce has a suite that does);
//! one run is one leg. A run whose messages were not on verbs all the time fails.

mod carried;
mod report;

use crate::{
    cores,
    error::BenchError,
    latency::{self, answer_leg, ask_leg},
    rate::{self, receive_leg, send_leg},
    report::Report,
    spin::two_ends,
    stats::Samples,
    ways::{CREDITS_MAX, Ours, Setup, Size},
};
use carried::{Carried, Cost};
use pagewire_transport::Overrides;
use report::{Latency, Rate};

/// Resident pages that page messages are sent from in turn: perftest sends from one buffer, too.
const FRAMES: u32 = 1;

/// Options of `verbs`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Name of the RDMA device
    #[arg(long)]
    device: String,
    /// Number of its port
    #[arg(long, default_value_t = 1)]
    port: u8,
    /// Index in the port's table of addresses
    #[arg(long)]
    gid_index: u32,
    /// Bytes of each message's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: Size,
    /// Pages one way instead of a round trip
    #[arg(long)]
    rate: bool,
    /// Both ends sleep until something comes, instead of spinning
    #[arg(long, conflicts_with = "rate")]
    sleep: bool,
    /// Round trips, or pages, that are measured
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Pages on their way at most, with --rate
    #[arg(
        long,
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CREDITS_MAX))
    )]
    depth: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    fn device(&self) -> Overrides {
        Overrides {
            device: Some(self.device.clone()),
            port: Some(self.port),
            gid_index: Some(self.gid_index),
        }
    }
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    if args.rate {
        let (messages_per_s, cost) = measure_rate(args)?;
        Rate { depth: args.depth, messages: args.samples, messages_per_s, cost }
            .print(args.json)?;
    } else {
        let (samples, cost) = measure_latency(args)?;
        Latency { size: args.size, sleep: args.sleep, samples, cost }.print(args.json)?;
    }
    Ok(())
}

fn setup(credits: Option<u32>) -> Setup {
    Setup { frames: FRAMES, keep: 0, page_crc: false, credits }
}

fn measure_latency(args: &Args) -> Result<(Samples, Cost), BenchError> {
    let (size, sleep, setup) = (args.size, args.sleep, setup(None));
    let plan = &latency::Plan { request: size, reply: size, sleep, setup };
    let (mut asker, mut answerer) = Ours::pair_over_verbs(&setup, &args.device())?;
    let carried = Carried::new(&asker, &answerer);
    let carried_there = carried.clone();
    two_ends(
        cores::pair()?,
        move |switch| {
            asker.establish(switch)?;
            carried.begin(&mut asker, switch)?;
            let samples = ask_leg(&mut asker, plan, args.samples, &mut 0, switch)?;
            // The other end is there until this one has ended.
            let cost = carried.end(2 * u64::from(args.samples))?;
            Ok((samples, cost))
        },
        move |switch| {
            answerer.establish(switch)?;
            carried_there.begin(&mut answerer, switch)?;
            switch.turn().map_or(Ok(()), |turn| answer_leg(&mut answerer, plan, turn, switch))
        },
    )
}

fn measure_rate(args: &Args) -> Result<(f64, Cost), BenchError> {
    let (messages, setup) = (u64::from(args.samples), setup(Some(args.depth)));
    let plan = &rate::Plan::new(Size::Page, Some(messages), rate::BATCH, setup);
    let (mut sender, mut receiver) = Ours::pair_over_verbs(&setup, &args.device())?;
    let carried = Carried::new(&sender, &receiver);
    let carried_there = carried.clone();
    two_ends(
        cores::pair()?,
        move |switch| {
            sender.establish(switch)?;
            carried.begin(&mut sender, switch)?;
            let messages_per_s = send_leg(&mut sender, plan, switch)?;
            Ok((messages_per_s, carried.end(messages)?))
        },
        move |switch| {
            receiver.establish(switch)?;
            carried_there.begin(&mut receiver, switch)?;
            let turn = switch.turn();
            receive_leg(&mut receiver, plan, switch)?;
            // Stays until the sender has heard.
            turn.into_iter().for_each(|turn| switch.spin_while(turn));
            Ok(())
        },
    )
}
