//! The exhaustive model: all orders for one page, three instances, and a crash.

use pagewire_protocol::Mode;
use pagewire_tests::model::{Bounds, explore};

/// More states than any of these has.
const LIMIT: u64 = 3_000_000;

fn explored(requests: [&[Mode]; 3], master: u16, crash: Option<u16>) -> u64 {
    let requests = requests.map(<[Mode]>::to_vec);
    let bounds = Bounds { requests, master, crash, evictions: false };
    match explore(&bounds, LIMIT) {
        Ok(explored) => {
            println!("{bounds:?}: {explored:?}");
            assert!(!explored.cut, "more states than {LIMIT}");
            assert!(explored.ends > 0);
            explored.states
        }
        Err(what) => panic!("{bounds:?}\n{what}"),
    }
}

#[test]
fn all_orders_of_two_requests_each_without_a_crash() {
    use Mode::{S, X};
    explored([&[X, S], &[X, S], &[S, X]], 0, None);
}

/// Each instance asks twice, and `crash` dies at any moment.
fn two_requests_each_and_a_crash(crash: u16) {
    use Mode::{S, X};
    explored([&[X, S], &[X, S], &[S, X]], 0, Some(crash));
}

// Minutes without optimisation: cargo test --release -p pagewire-tests --test model

#[test]
#[cfg_attr(debug_assertions, ignore = "runs optimised")]
fn all_orders_of_two_requests_each_with_a_crash_of_the_master() {
    two_requests_each_and_a_crash(0);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "runs optimised")]
fn all_orders_of_two_requests_each_with_a_crash_of_one_that_writes_first() {
    two_requests_each_and_a_crash(1);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "runs optimised")]
fn all_orders_of_two_requests_each_with_a_crash_of_one_that_reads_first() {
    two_requests_each_and_a_crash(2);
}
