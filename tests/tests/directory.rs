//! The directory core and the sessions under seeded schedules; `PAGEWIRE_SEED_BASE` and
//! `PAGEWIRE_SEEDS` choose which. A failure names its seed and prints the last actions, and the
//! command that repeats it.

use pagewire_tests::cluster::{Fault, Options, Summary, run};

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => otherwise,
    }
}

fn run_seeds(shape: impl Fn(u64) -> Options) -> Summary {
    let (base, seeds) = (number("PAGEWIRE_SEED_BASE", 1), number("PAGEWIRE_SEEDS", 400));
    println!("PAGEWIRE_SEED_BASE={base} PAGEWIRE_SEEDS={seeds}");
    let mut total = Summary::default();
    for seed in (0..seeds).map(|n| base.wrapping_add(n)) {
        match run(seed, &shape(seed)) {
            Ok(summary) => total = total.with(&summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{total:?}");
    total
}

#[test]
fn every_schedule_keeps_the_invariants_and_comes_to_rest() {
    let total = run_seeds(Options::mixed);
    assert!(total.hits > 0 && total.ships > 0 && total.reads > 0 && total.writes > 0, "{total:?}");
    let missing: Vec<_> =
        Fault::ALL.into_iter().filter(|fault| total.faults[*fault as usize] == 0).collect();
    assert!(missing.is_empty(), "kinds of fault that never happened: {missing:?}");
    assert!(total.lost_messages > 0 && total.duplicates > 0 && total.redone > 0, "{total:?}");
}

#[test]
fn a_storage_that_fails_now_and_then_leaves_the_directory_whole() {
    let total = run_seeds(|seed| Options::mixed(seed).with_storage_failures());
    assert!(total.failed > 0, "{total:?}");
}

#[test]
fn a_seed_names_one_schedule() {
    for seed in 1..20 {
        let options = Options::mixed(seed);
        assert_eq!(run(seed, &options), run(seed, &options));
    }
}
