//! What every way to carry a stream can do.

use crate::{error::BenchError, spin::Switch, ways::Size};
use std::ops::Range;

/// One way to carry a stream of messages, seen from one end.
pub(crate) trait Flow {
    /// Sends the messages with these numbers.
    fn stream(
        &mut self,
        size: Size,
        numbers: Range<u64>,
        switch: &Switch,
    ) -> Result<(), BenchError>;

    /// Takes what has come, checked: the first one is to be number `expected`. Returns how many.
    fn drain(&mut self, size: Size, expected: u64) -> Result<u64, BenchError>;

    /// The receiver has taken `count` messages.
    fn signal(&mut self, count: u64, switch: &Switch) -> Result<(), BenchError>;

    /// Looks once for a signal.
    fn heard(&mut self) -> Result<Option<u64>, BenchError>;
}
