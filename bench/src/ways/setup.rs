//! What both ends are built from, and how much of it they may ask for.

use crate::error::BenchError;
use pagewire_protocol::Lane;
use pagewire_transport::LaneCredits;
use serde::{Deserialize, Serialize};

/// Resident pages, and received pages that are kept, at most.
pub(crate) const FRAMES_MAX: u32 = 65_536;
/// Credits of a lane at most: what a session keeps.
pub(crate) const CREDITS_MAX: u32 = 4096;

/// What both ends have to agree on before they can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// Resident pages that page messages are sent from in turn.
    pub(crate) frames: u32,
    /// Received pages that are kept before their frames are used again.
    pub(crate) keep: u32,
    /// Each page carries its CRC.
    pub(crate) page_crc: bool,
    /// Credits of the requests and the pages lane, if not the default ones.
    pub(crate) credits: Option<u32>,
}

impl Setup {
    /// An error if a value is beyond what the options of the command line allow: it may have come
    /// from another host.
    ///
    /// # Errors
    /// [`BenchError::Control`].
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        let fits = (1..=FRAMES_MAX).contains(&self.frames)
            && self.keep <= FRAMES_MAX
            && self.credits.is_none_or(|credits| (1..=CREDITS_MAX).contains(&credits));
        if fits {
            return Ok(());
        }
        Err(BenchError::Control(format!(
            "found {self:?}, expected frames 1 to {FRAMES_MAX}, keep up to {FRAMES_MAX} and \
             credits 1 to {CREDITS_MAX}"
        )))
    }

    pub(super) fn lane_credits(&self) -> LaneCredits {
        let mut credits = LaneCredits::default();
        if let Some(count) = self.credits {
            credits.0[Lane::Requests.index()] = count;
            credits.0[Lane::Pages.index()] = count;
        }
        credits
    }
}
