//! What every way can do.

use super::traffic::Size;
use crate::{error::BenchError, spin::Switch};

/// One way to carry messages, seen from one end.
pub(crate) trait Way {
    /// Sends a message of `size` that carries `number`.
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError>;

    /// Looks once for a message of `size`; its number if it is there, its contents checked.
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError>;

    /// Sleeps until there may be something to hear.
    fn sleep(&mut self) -> Result<(), BenchError>;

    /// As [`Way::hear`], right after [`Way::sleep`].
    fn hear_awake(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        self.hear(size)
    }

    /// Makes what was said leave, if it has not.
    fn flush(&mut self) {}
}
