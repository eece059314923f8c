//! Runs the directory simulation for many seeds and says what was covered.

use clap::Parser;
use pagewire_tests::cluster::{Options, Summary, run};
use std::{process::ExitCode, time::Instant};

/// Runs the directory simulation, one schedule for each seed.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// Seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed_base: u64,
    /// Steps under load, instead of those that the seed chooses.
    #[arg(long)]
    steps: Option<u32>,
    /// Let reads and writes fail now and then.
    #[arg(long)]
    storage_failures: bool,
    /// Go on after a failure, and print only what failed.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let mut total = Summary::default();
    let mut failures = 0u64;
    for seed in (0..arguments.seeds).map(|n| arguments.seed_base.wrapping_add(n)) {
        let mut options = Options::mixed(seed);
        options.steps = arguments.steps.unwrap_or(options.steps);
        if arguments.storage_failures {
            options = options.with_storage_failures();
        }
        match run(seed, &options) {
            Ok(summary) => total = total.with(&summary),
            Err(failure) if arguments.keep_going => {
                println!("seed {seed} step {}: {}", failure.step, failure.what);
                failures += 1;
            }
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("seeds {} from {}, {failures} failed", arguments.seeds, arguments.seed_base);
    println!("{total:#?}");
    println!("{seconds:.2} s");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
