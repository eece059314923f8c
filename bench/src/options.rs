//! Options that several benchmarks share.

use crate::{
    pairing::ROUNDS_MIN,
    ways::{FRAMES_MAX, Setup},
};

/// Of all that compare legs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Run {
    /// Rounds; each runs every leg once
    #[arg(
        long,
        default_value_t = ROUNDS_MIN,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) rounds: u32,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Of `latency` and `rate`, at home, between hosts and beside UCX.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) run: Run,
    /// Resident pages that page messages are sent from in turn
    #[arg(
        long,
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(FRAMES_MAX))
    )]
    frames: u32,
    /// Received pages that are kept before their frames are used again: 0 lands every page in a
    /// frame that is still in the cache
    #[arg(
        long,
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=i64::from(FRAMES_MAX))
    )]
    keep: u32,
    /// Leave out the CRC of each page
    #[arg(long)]
    no_page_crc: bool,
}

impl Common {
    /// What the ends are built from, with `credits` if they are not to be the default ones.
    pub(crate) fn setup(&self, credits: Option<u32>) -> Setup {
        Setup { frames: self.frames, keep: self.keep, page_crc: !self.no_page_crc, credits }
    }
}
