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

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes without optimisation: cargo test --release --test model"
)]
fn all_orders_of_one_request_each_with_a_crash_of_anyone() {
    use Mode::{S, X};
    for crash in 0..3 {
        explored([&[X], &[X], &[S]], 0, Some(crash));
        explored([&[S], &[X], &[S]], 0, Some(crash));
    }
}
