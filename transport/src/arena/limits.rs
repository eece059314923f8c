//! What the host has for an arena, asked for when one is made.
//!
//! Purpose: refuse an arena that would only be cut down by the kernel's out-of-memory killer, and
//! say which setting gives it huge pages or the right to be locked. Control path only.

use super::memory::{self, HUGE_PAGE_BYTES};
use crate::TransportError;
use std::{fs, io};

/// Where the host's stock of huge pages of [`HUGE_PAGE_BYTES`] is set.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Bytes that the host can give without taking them from somebody else: available memory and free
/// swap space. `None` when it does not say.
pub(super) fn available_bytes() -> Option<u64> {
    available_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let swap_kib = kib("SwapFree:").unwrap_or(0);
    kib("MemAvailable:")?.checked_add(swap_kib)?.checked_mul(1024)
}

/// That the arena is on normal pages, and what to set.
pub(super) fn without_huge_pages(needed_bytes: usize, error: &io::Error) -> String {
    let count = |name| fs::read_to_string(format!("{HUGE_PAGES}/{name}")).ok();
    let count = |name| count(name)?.trim().parse::<u64>().ok();
    let stock = count("nr_hugepages").zip(count("free_hugepages"));
    let advice = huge_pages_advice(needed_bytes, stock);
    format!("no huge pages for the arena ({error}): using normal pages; {advice}")
}

/// Says `warning` if it is the first of this process.
pub(super) fn warn_once(warning: &str) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| tracing::warn!("{warning}"));
}

/// `stock`: how many there are, and how many of those are free.
fn huge_pages_advice(needed_bytes: usize, stock: Option<(u64, u64)>) -> String {
    let needed = needed_bytes.div_ceil(HUGE_PAGE_BYTES) as u64;
    let Some((total, free)) = stock else {
        return format!(
            "it needs {needed} huge pages of 2 MiB, and this kernel has none of that size"
        );
    };
    // What others use has to stay.
    let set = total.saturating_sub(free).saturating_add(needed);
    format!(
        "it needs {needed} huge pages of 2 MiB, {free} of {total} are free: set vm.nr_hugepages to \
         at least {set} (sysctl -w vm.nr_hugepages={set}) to have them"
    )
}

/// Why `needed_bytes` could not be locked.
pub(super) fn lock_refused(needed_bytes: usize, source: io::Error) -> TransportError {
    let (soft_bytes, hard_bytes) = memory::lock_limits_bytes().unwrap_or((None, None));
    TransportError::ArenaLock { needed_bytes, soft_bytes, hard_bytes, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_can_give_counts_swap_and_survives_odd_text() {
        let text = "MemTotal: 9 kB\nMemAvailable:    1000 kB\nSwapFree:   24 kB\n";
        assert_eq!(available_in(text), Some(1024 * 1024));
        assert_eq!(available_in("MemAvailable: 2 kB\n"), Some(2048));
        for odd in ["", "MemAvailable: many kB\n", "MemAvailable: 1\n"] {
            assert_eq!(available_in(odd), None, "{odd}");
        }
        let huge = format!("MemAvailable: {} kB\n", u64::MAX);
        assert_eq!(available_in(&huge), None);
    }

    #[test]
    fn the_advice_names_the_setting_and_leaves_others_their_pages() {
        let advice = huge_pages_advice(65 << 20, Some((10, 4)));
        assert!(advice.contains("needs 33 huge pages"), "{advice}");
        assert!(advice.contains("vm.nr_hugepages=39"), "6 in use and 33 more: {advice}");
        assert!(huge_pages_advice(1, None).contains("none of that size"));
    }

    #[test]
    fn a_lock_that_is_refused_says_what_was_found_and_needed_and_how_to_raise_it() {
        let denied = || io::Error::from_raw_os_error(libc::ENOMEM);
        let error = TransportError::ArenaLock {
            needed_bytes: 64 << 20,
            soft_bytes: Some(8 << 20),
            hard_bytes: None,
            source: denied(),
        };
        let text = error.to_string();
        for word in
            ["67108864 bytes", "8388608 bytes", "no limit", "ulimit -l 65536", "LimitMEMLOCK"]
        {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
    }
}
