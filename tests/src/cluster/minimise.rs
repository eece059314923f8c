//! A smaller simulation that fails too: fewer faults, fewer instances, pages, threads and steps.
//!
//! Each change alters the whole schedule, so for each a few seeds are tried. What is left names one
//! schedule again: a seed and a shape.

use super::{Failure, Options, first_failure};
use std::time::{Duration, Instant};

/// Seeds that are tried for each change.
const SEEDS: u64 = 40;

/// The smallest failure that is found in `limit`.
#[must_use]
pub fn minimise(failure: Failure, limit: Duration) -> Failure {
    let start = Instant::now();
    let mut best = (failure.seed, failure.options);
    let mut changed = true;
    while changed {
        changed = false;
        for change in changes(&best.1) {
            if start.elapsed() > limit {
                return told(best, failure);
            }
            let (seed, options) = best;
            let seeds = std::iter::once(seed).chain((1..SEEDS).map(|n| seed.wrapping_add(n)));
            let still = seeds.take_while(|_| start.elapsed() <= limit).find_map(|seed| {
                first_failure(seed, &change).map(|(step, _)| (seed, cut(change, step)))
            });
            if let Some(smaller) = still
                && smaller.1 != options
            {
                best = smaller;
                changed = true;
                break;
            }
        }
    }
    told(best, failure)
}

/// No load beyond the step that failed.
fn cut(options: Options, step: u64) -> Options {
    let step = u32::try_from(step).unwrap_or(u32::MAX);
    Options { steps: options.steps.min(step.saturating_add(1)), ..options }
}

fn told((seed, options): (u64, Options), otherwise: Failure) -> Failure {
    super::run(seed, &options).err().map_or(otherwise, |failure| *failure)
}

/// Shapes that are smaller in one respect.
fn changes(options: &Options) -> Vec<Options> {
    let mut shapes = Vec::new();
    let mut push = |name: &str, number: u32| {
        let mut smaller = *options;
        smaller.set(name, number);
        smaller.members = smaller.members.min(smaller.instances);
        if smaller != *options {
            shapes.push(smaller);
        }
    };
    for (name, number) in options.numbers() {
        let is_fault = name.ends_with("_weight") && super::options::FAULT_WEIGHTS.contains(&name);
        let is_chance = super::options::CHANCES.contains(&name);
        if (is_fault || is_chance) && number > 0 {
            push(name, 0);
        }
    }
    for (name, least) in super::options::SIZES {
        let number = options.numbers().into_iter().find(|(n, _)| *n == name).map_or(0, |(_, n)| n);
        for smaller in [least, least + 1, number.saturating_sub(1)] {
            if smaller < number && smaller >= least {
                push(name, smaller);
            }
        }
    }
    if options.steps > 40 {
        push("steps", options.steps / 2);
        push("steps", options.steps * 4 / 5);
    }
    shapes
}
