//! What the two ends of `latency` have to agree on, and the legs of a round.

use crate::ways::{Setup, Size};
use serde::{Deserialize, Serialize};

/// What the two ends have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) request: Size,
    pub(crate) reply: Size,
    pub(crate) sleep: bool,
    pub(crate) setup: Setup,
}

/// How much the asker measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) samples_per_round: u32,
}

/// Ways, as the switch counts them. 0 is none.
pub(super) const OURS: u32 = 1;
pub(super) const BARE: u32 = 2;
pub(super) const PLAIN: u32 = 3;

/// Legs of a round, in the order of the pairing: bare runs twice, as the control.
pub(crate) const LEGS: [u32; 4] = [OURS, BARE, BARE, PLAIN];

/// Bare connections that the legs use beside the endpoints.
pub(super) const SOCKETS: usize = 2;
