//! Page fetches between two endpoints: what a grant is measured against.

use super::{
    ends::{answer_leg, ask_leg},
    plan::Plan,
};
use crate::{
    error::BenchError,
    spin::{Switch, Turn},
    stats::Samples,
    ways::{Ours, Setup, Size},
};

/// 64 B asked, one of `frames` resident pages back.
fn fetch_plan(frames: u32) -> Plan {
    let setup = Setup { frames, keep: frames, page_crc: true, credits: None };
    Plan { request: Size::Small(64), reply: Size::Page, sleep: false, setup }
}

/// Two endpoints, the asker's first, for page fetches.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn page_fetch(frames: u32) -> Result<(Ours, Ours), BenchError> {
    Ours::pair(&fetch_plan(frames).setup)
}

/// One leg of page fetches.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn fetch_leg(
    ours: &mut Ours,
    samples: u32,
    number: &mut u64,
    switch: &Switch,
) -> Result<Samples, BenchError> {
    ask_leg(ours, &fetch_plan(1), samples, number, switch)
}

/// Answers page fetches until the asker turns to another way.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn answer_fetches(
    ours: &mut Ours,
    turn: Turn,
    switch: &Switch,
) -> Result<(), BenchError> {
    answer_leg(ours, &fetch_plan(1), turn, switch)
}
