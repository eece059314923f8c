//! What the drivers do differently.
//!
//! A driver is known by its provider: the library from which the functions of an opened context
//! come (`librxe-rdmav34.so`). A device's own name says nothing certain, since `rdma link add NAME`
//! and udev rules choose it; its prefix counts where the provider cannot be seen.

/// How a driver differs from what the verbs manual says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Most bytes of a send that travel in the work request itself, to be asked for when a queue
    /// pair is made; 0: none. What the driver grants is what counts.
    pub inline_bytes_max: u32,
    /// Its queue pairs must have completed (or flushed) all their work before they are destroyed.
    pub drain_before_destroy: bool,
    /// Reports the last work request of a queue pair that shares its receives
    /// (IBV_EVENT_QP_LAST_WQE_REACHED).
    pub reports_last_work_request: bool,
    /// Steps in which its timers count, in microseconds; 0: as the verbs manual says.
    pub timer_step_us: u32,
}

/// A driver nobody has measured: nothing that may not work.
///
/// Inline 0 is what perftest asks of vendors it does not know (`perftest_parameters.c`). To drain
/// is right everywhere and costs one work request.
const UNKNOWN: Quirks = Quirks {
    inline_bytes_max: 0,
    drain_before_destroy: true,
    reports_last_work_request: false,
    timer_step_us: 0,
};

/// Provider or prefix of the device's name, and what is known of it.
const KNOWN: [(&str, Quirks); 3] = [
    // Inline: perftest's figures of least latency, 236 bytes a send and 220 a write
    // (`perftest_parameters.h`, DEF_INLINE_SEND_RC_UC and DEF_INLINE_WRITE); the lesser suits both.
    ("mlx5", Quirks { inline_bytes_max: 220, reports_last_work_request: true, ..UNKNOWN }),
    ("mlx4", Quirks { inline_bytes_max: 220, reports_last_work_request: true, ..UNKNOWN }),
    // Linux 6.1, drivers/infiniband/sw/rxe: a message that lies in the request needs no look for the
    // memory region that its key names, which is 0.5 us of 15.3 in the lab's guest (112 B, bare loop;
    // a slot is the most that a message has); no LAST_WQE event; a timer that fires during the
    // destruction of a queue pair with work outstanding uses freed memory (fixed upstream by
    // 87bf64692143, January 2026); acknowledgement and RNR timers are rounded up to a jiffy, 4 ms at
    // HZ=250.
    ("rxe", Quirks { inline_bytes_max: 128, timer_step_us: 4000, ..UNKNOWN }),
];

impl Quirks {
    /// What is known of the driver `provider`, or of a device of that name where the provider is
    /// not known.
    #[must_use]
    pub fn of(provider: Option<&str>, device: &str) -> Self {
        let fits = |prefix: &str| match provider {
            Some(provider) => provider == prefix,
            None => device.starts_with(prefix),
        };
        KNOWN.iter().find(|(prefix, _)| fits(prefix)).map_or(UNKNOWN, |(_, quirks)| *quirks)
    }
}

/// The provider that a library belongs to: `.../librxe-rdmav34.so` is `rxe`.
pub(super) fn provider_of(library_path: &str) -> Option<&str> {
    let file = library_path.rsplit('/').next()?;
    let (provider, _) = file.strip_prefix("lib")?.split_once("-rdmav")?;
    (!provider.is_empty()).then_some(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_known_by_its_provider_whatever_the_device_is_called() {
        assert_eq!(provider_of("/usr/lib/libibverbs/librxe-rdmav34.so"), Some("rxe"));
        assert_eq!(provider_of("/usr/lib/libibverbs.so.1"), None);
        assert_eq!(provider_of("lib-rdmav34.so"), None);
        assert_eq!(Quirks::of(Some("mlx5"), "rxe0").inline_bytes_max, 220);
        assert_eq!(Quirks::of(Some("rxe"), "mlx5_0").inline_bytes_max, 128);
        assert_eq!(Quirks::of(None, "rxe7").timer_step_us, 4000);
    }

    #[test]
    fn an_unknown_driver_gets_nothing_that_may_not_work() {
        let quirks = Quirks::of(Some("acme"), "acme_0");
        assert_eq!((quirks.inline_bytes_max, quirks.drain_before_destroy), (0, true));
        assert_eq!(Quirks::of(None, "ibp3s0"), quirks);
    }
}
