//! Planted bugs: each is switched on by name, and a seed has to find it.

use crate::cluster::{Options, first_failure};

/// Every bug that can be planted, with what it does.
#[must_use]
pub fn all() -> Vec<(&'static str, &'static str)> {
    let node = pagewire_node::planted::PLANTED.iter().copied();
    node.chain(pagewire_transport::planted::ALL.iter().copied()).collect()
}

/// Plants `name` for this thread; "" for none.
pub fn choose(name: &'static str) {
    pagewire_node::planted::switch_on(Some(name));
    pagewire_transport::planted::choose(name);
}

/// Runs up to `seeds` seeds, each of the shape that it is given, with the bug `name`, or with `all`
/// one after the other, and prints which seed found each. True when all were found.
///
/// # Errors
/// When there is no bug of that name.
pub fn find(
    name: &str,
    base: u64,
    seeds: u64,
    shape: impl Fn(u64) -> Options,
) -> Result<bool, String> {
    let bugs: Vec<_> = all().into_iter().filter(|bug| name == "all" || bug.0 == name).collect();
    if bugs.is_empty() {
        let names: Vec<_> = all().into_iter().map(|bug| bug.0).collect();
        return Err(format!(
            "no planted bug is called {name}; there are all, {}",
            names.join(", ")
        ));
    }
    let mut found = 0;
    for (name, what) in &bugs {
        let seed = (0..seeds).map(|n| base.wrapping_add(n)).enumerate().find_map(|(n, seed)| {
            // Every other seed: some need what is rare in these.
            let of_si = name.starts_with("si_") && n % 2 == 1;
            let shape = if of_si { shape(seed).with_many_invalidations() } else { shape(seed) };
            choose(name);
            let (_, what) = first_failure(seed, &shape)?;
            // A seed that fails without the bug, too, has not found it.
            choose("");
            first_failure(seed, &shape).is_none().then_some((n + 1, seed, what))
        });
        choose("");
        match seed {
            Some((n, seed, failure)) => {
                found += 1;
                println!("{name}: {what}\n    found by seed {seed}, the {n}th: {failure}");
            }
            None => println!("{name}: {what}\n    NOT FOUND in {seeds} seeds from {base}"),
        }
    }
    println!("{found} of {} planted bugs found", bugs.len());
    Ok(found == bugs.len())
}
