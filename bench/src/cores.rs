//! Which core each end runs on.

use crate::error::BenchError;
use core_affinity::CoreId;

/// Two different cores of those that this process may use. Call it before any thread is pinned: a
/// pinned thread, and every thread it starts, sees only its own core.
///
/// # Errors
/// [`BenchError::Cores`] when there are not two.
pub(crate) fn pair() -> Result<[CoreId; 2], BenchError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    match cores[..] {
        // The last ones: the first serves most of the machine's interrupts.
        [.., second, first] => Ok([first, second]),
        _ => Err(BenchError::Cores { found: cores.len() }),
    }
}

/// Which end runs here, when the other one runs on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one that asks or sends.
    Asker,
    /// The other one.
    Answerer,
}

/// The core for one end: of two ends on one host, each gets another one, as [`pair`] has it. A host
/// with one core gives that.
///
/// # Errors
/// [`BenchError::Cores`] when the system does not tell.
pub(crate) fn one(side: Side) -> Result<CoreId, BenchError> {
    match (pair(), side) {
        (Ok([asker, _]), Side::Asker) => Ok(asker),
        (Ok([_, answerer]), Side::Answerer) => Ok(answerer),
        (Err(error), _) => {
            core_affinity::get_core_ids().and_then(|cores| cores.first().copied()).ok_or(error)
        }
    }
}

/// Keeps the calling thread on `core`.
///
/// # Errors
/// [`BenchError::Pin`] when the system does not allow it.
pub(crate) fn pin(core: CoreId) -> Result<(), BenchError> {
    if core_affinity::set_for_current(core) {
        Ok(())
    } else {
        Err(BenchError::Pin { core: core.id })
    }
}
