//! Runs the directory simulation for many seeds and says what was covered.

use clap::Parser;
use pagewire_tests::{
    cluster::{Fault, Options, Summary, minimise, run},
    planted,
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

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
    /// Numbers of the shape in place of those that the seed chooses: `pages=1,threads=2`.
    #[arg(long, value_delimiter = ',')]
    shape: Vec<String>,
    /// Go on after a failure, and print only what failed.
    #[arg(long)]
    keep_going: bool,
    /// Print the first failure as it is, without looking for a smaller one.
    #[arg(long)]
    as_is: bool,
    /// Longest search for a smaller failure, in seconds.
    #[arg(long, default_value_t = 60)]
    minimise_seconds: u64,
    /// Every second block of eight seeds is of few instances that come and go all the time, every second
    /// one of these faster than the others hear of it.
    #[arg(long)]
    search: bool,
    /// Print which cells of (state x message x fault) were reached, and which never; with --search,
    /// and blocks in which lanes overtake each other by far and views are heard late. A cell that is held impossible and is reached is a failure.
    #[arg(long)]
    coverage: bool,
    /// Plant this bug, or `all` one after the other, and say which seed finds it; with --search.
    #[arg(long)]
    planted: Option<String>,
}

impl Arguments {
    fn options(&self, seed: u64) -> Result<Options, String> {
        let mut options = match (self.coverage, self.search || self.planted.is_some()) {
            (true, _) => Options::covering(seed),
            (false, true) => Options::searching(seed),
            (false, false) => Options::mixed(seed),
        };
        for word in &self.shape {
            let (name, number) =
                word.split_once('=').ok_or(format!("{word}: expected name=number"))?;
            let number = number.parse().map_err(|error| format!("{word}: {error}"))?;
            if !options.set(name, number) {
                let names: Vec<_> = options.numbers().into_iter().map(|(name, _)| name).collect();
                return Err(format!("{name} is none of {}", names.join(", ")));
            }
        }
        options.members = options.members.clamp(1, options.instances);
        Ok(options)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic is a failure that is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let done = match &arguments.planted {
        Some(name) => arguments.options(1).and_then(|_| {
            let shape = |seed| arguments.options(seed).unwrap_or_else(|_| Options::searching(seed));
            planted::find(name, arguments.seed_base, arguments.seeds.max(2000), shape)
        }),
        None => simulate(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn simulate(arguments: &Arguments) -> Result<bool, String> {
    if arguments.coverage {
        // It counts from now on.
        drop(pagewire_tests::cluster::coverage());
    }
    let start = Instant::now();
    let mut total = Summary::default();
    let mut failures = 0u64;
    for seed in (0..arguments.seeds).map(|n| arguments.seed_base.wrapping_add(n)) {
        match run(seed, &arguments.options(seed)?) {
            Ok(summary) => total = total.with(&summary),
            Err(failure) if arguments.keep_going => {
                println!("seed {seed} step {}: {}", failure.step, failure.what);
                failures += 1;
            }
            Err(failure) => {
                eprintln!("seed {seed} step {}: {}", failure.step, failure.what);
                let limit = Duration::from_secs(arguments.minimise_seconds);
                let told = if arguments.as_is { *failure } else { minimise(*failure, limit) };
                eprintln!("{told}");
                return Ok(false);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("seeds {} from {}, {failures} failed", arguments.seeds, arguments.seed_base);
    for (name, number) in total.numbers() {
        println!("{name:>20} {number}");
    }
    println!("faults injected:");
    for fault in Fault::ALL {
        println!("{:>20} {}", format!("{fault:?}"), total.faults[fault as usize]);
    }
    #[allow(clippy::cast_precision_loss)] // A speed to look at.
    let speed = total.steps as f64 / seconds;
    println!("{seconds:.2} s, {speed:.0} steps per second");
    if arguments.coverage {
        let coverage = pagewire_tests::cluster::coverage();
        print!("{coverage}");
        failures += coverage.contradictions();
    }
    Ok(failures == 0)
}
