//! What the two ends of `rate` have to agree on, and the legs of a round.

use crate::{
    error::BenchError,
    ways::{Setup, Size},
};
use serde::{Deserialize, Serialize};

/// Messages of a leg, unless another number is asked for.
const SMALL_PER_ROUND: u64 = 200_000;
const PAGES_PER_ROUND: u64 = 20_000;
/// Messages of a leg at most, so that a leg ends.
pub(crate) const PER_ROUND_MAX: u64 = 100_000_000;
/// Messages that the batched bare loop hands to the kernel at once, at most.
pub(super) const BATCH_MAX: u32 = 512;
/// ... and by default.
pub(crate) const BATCH: u32 = 32;

/// What the two ends have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) size: Size,
    /// Messages measured in a leg.
    pub(crate) messages: u64,
    pub(crate) batch: u32,
    pub(crate) setup: Setup,
}

impl Plan {
    /// A plan for `messages` messages a leg, or the usual number.
    pub(crate) fn new(size: Size, messages: Option<u64>, batch: u32, setup: Setup) -> Self {
        let usual = if size == Size::Page { PAGES_PER_ROUND } else { SMALL_PER_ROUND };
        Self { size, messages: messages.unwrap_or(usual), batch, setup }
    }

    /// An error if a value is beyond what the options allow.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        if (1..=PER_ROUND_MAX).contains(&self.messages) && (1..=BATCH_MAX).contains(&self.batch) {
            return self.setup.check();
        }
        Err(BenchError::Control(format!(
            "found {self:?}, expected messages 1 to {PER_ROUND_MAX} and batch 1 to {BATCH_MAX}"
        )))
    }

    /// Messages before those that are measured.
    pub(super) fn warm_up(&self) -> u64 {
        self.messages.div_ceil(10)
    }
}

/// Ways, as the switch counts them. 0 is none.
pub(super) const OURS: u32 = 1;
pub(super) const BARE: u32 = 2;
pub(super) const BATCHED: u32 = 3;

/// Legs of a round, in the order of the pairing: bare runs twice, as the control.
pub(crate) const LEGS: [u32; 4] = [OURS, BARE, BARE, BATCHED];

/// Bare connections that the legs use beside the endpoints.
pub(super) const SOCKETS: usize = 1;
