//! Who may spin: never more pollers than cores, never two on one core.
//!
//! A poller that spins while another one waits for its core makes that one slower than sleeping
//! would. So when there are too many, none of those concerned spins: they sleep at once, and this is
//! said once. When enough of them have gone the others spin again.
//!
//! Only this process is seen. Where other processes spin too (several instances on one host), their
//! budgets are configured to be 0.

use super::cores;
use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The registry of all pollers of this process.
pub(super) fn of_this_process() -> &'static Arc<Registry> {
    static REGISTRY: OnceLock<Arc<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry::new(cores::usable()))
}

/// Why pollers that were told to spin may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowd {
    /// More of them than cores.
    Process { spinning: usize, cores: usize },
    /// Several pinned to one core.
    Core { core: usize, pinned: usize },
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { spinning, cores } => write!(
                f,
                "{spinning} pollers are to spin, cores for them: {cores}; all of them sleep when they \
                 are idle instead; start fewer shards, give the process more cores, or configure a \
                 spin budget of 0"
            ),
            Self::Core { core, pinned } => write!(
                f,
                "{pinned} pollers are to spin on core {core}: they sleep when they are idle \
                 instead; give each poller a core of its own, or configure a spin budget of 0"
            ),
        }
    }
}

/// What keeps the poller pinned to `mine` from spinning beside all of `pins`, itself included.
pub(super) fn crowd(cores: usize, pins: &[Option<usize>], mine: Option<usize>) -> Option<Crowd> {
    if pins.len() > cores {
        return Some(Crowd::Process { spinning: pins.len(), cores });
    }
    let core = mine?;
    let pinned = pins.iter().filter(|pin| **pin == Some(core)).count();
    (pinned > 1).then_some(Crowd::Core { core, pinned })
}

#[derive(Debug)]
struct Entry {
    core: Option<usize>,
    may_spin: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Entries {
    all: Vec<Entry>,
    told: bool,
}

/// The pollers that are to spin; see the module.
#[derive(Debug)]
pub(super) struct Registry {
    cores: usize,
    entries: Mutex<Entries>,
}

impl Registry {
    pub(super) fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self { cores, entries: Mutex::default() })
    }

    /// Enters a poller that is to spin, pinned to `core`.
    pub(super) fn sit(self: &Arc<Self>, core: Option<usize>) -> Seat {
        let may_spin = Arc::<AtomicBool>::default();
        let entry = Entry { core, may_spin: Arc::clone(&may_spin) };
        self.change(|all| all.push(entry));
        Seat { may_spin, registry: Arc::clone(self) }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut entries.all);
        let pins: Vec<_> = entries.all.iter().map(|entry| entry.core).collect();
        let mut found = None;
        for entry in &entries.all {
            let crowd = crowd(self.cores, &pins, entry.core);
            entry.may_spin.store(crowd.is_none(), Ordering::Relaxed);
            found = found.or(crowd);
        }
        if let Some(crowd) = found
            && !std::mem::replace(&mut entries.told, true)
        {
            tracing::warn!("{crowd}");
        }
    }
}

/// A poller's place in the registry; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    may_spin: Arc<AtomicBool>,
    registry: Arc<Registry>,
}

impl Seat {
    /// True when this poller may spin now.
    #[inline]
    pub(super) fn may_spin(&self) -> bool {
        self.may_spin.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mine = &self.may_spin;
        self.registry.change(|all| all.retain(|entry| !Arc::ptr_eq(&entry.may_spin, mine)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pollers_as_cores_spin() {
        assert_eq!(crowd(2, &[None, None], None), None);
        assert_eq!(crowd(2, &[Some(0), Some(1)], Some(1)), None);
        assert_eq!(crowd(1, &[Some(5)], Some(5)), None);
    }

    #[test]
    fn more_pollers_than_cores_do_not_spin() {
        let too_many = Some(Crowd::Process { spinning: 3, cores: 2 });
        assert_eq!(crowd(2, &[None, None, None], None), too_many);
        assert_eq!(crowd(2, &[Some(0), Some(1), None], Some(0)), too_many);
    }

    #[test]
    fn two_pollers_on_one_core_do_not_spin_and_the_others_do() {
        let pins = [Some(3), Some(3), Some(4), None];
        assert_eq!(crowd(8, &pins, Some(3)), Some(Crowd::Core { core: 3, pinned: 2 }));
        assert_eq!(crowd(8, &pins, Some(4)), None);
        assert_eq!(crowd(8, &pins, None), None);
    }

    #[test]
    fn what_is_said_names_counts_and_what_to_change() {
        let text = Crowd::Process { spinning: 3, cores: 2 }.to_string();
        assert!(text.contains("3 pollers") && text.contains("cores for them: 2"), "{text}");
        assert!(text.contains("fewer shards") && text.contains("spin budget of 0"), "{text}");
        let text = Crowd::Core { core: 7, pinned: 2 }.to_string();
        assert!(text.contains("2 pollers") && text.contains("core 7"), "{text}");
    }

    #[test]
    fn pollers_spin_again_when_enough_have_gone() {
        let registry = Registry::new(2);
        let seats = [registry.sit(None), registry.sit(Some(1))];
        assert!(seats.iter().all(Seat::may_spin));
        let third = registry.sit(None);
        assert!(!seats.iter().chain([&third]).any(Seat::may_spin));
        drop(third);
        assert!(seats.iter().all(Seat::may_spin));
        let [first, on_core_1] = seats;
        drop(first);
        assert!(on_core_1.may_spin());
        let same = registry.sit(Some(1));
        assert!(!on_core_1.may_spin() && !same.may_spin());
    }
}
