//! The cores this process may use, and pinning a thread to one. Leaf module: the unsafe here is the
//! system calls for affinity.

use std::{io, mem, sync::OnceLock, thread};

/// Cores that this process may use at a time: its affinity mask and the CPU quota of its control
/// group allow no more. As it was when first asked.
pub(super) fn usable() -> usize {
    static USABLE: OnceLock<usize> = OnceLock::new();
    *USABLE.get_or_init(|| thread::available_parallelism().map_or(1, Into::into))
}

/// Pins the calling thread to `core`.
pub(super) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a `cpu_set_t` is an array of integers; all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if core >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such core"));
    }
    // SAFETY: `core` is within the set, as checked above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set outlives the call, its size is stated, and 0 is the calling thread.
    let failed =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores that the calling thread may run on.
    fn allowed() -> Vec<usize> {
        // SAFETY: as in `pin`.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: as in `pin`; the set is written.
        let got = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
        assert_eq!(got, 0);
        // SAFETY: every index is within the set.
        (0..8 * size_of::<libc::cpu_set_t>())
            .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
            .collect()
    }

    #[test]
    fn a_pinned_thread_stays_on_its_core_and_others_do_not_care() {
        let before = allowed();
        let last = *before.last().unwrap();
        let pinned = thread::spawn(move || {
            pin(last).unwrap();
            allowed()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused() {
        assert!(thread::spawn(|| pin(1023).is_err() && pin(usize::MAX).is_err()).join().unwrap());
    }
}
