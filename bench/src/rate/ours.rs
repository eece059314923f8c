//! The stream between two endpoints: send until there is no credit, then poll.

use super::flow::Flow;
use crate::{
    error::BenchError,
    spin::Switch,
    ways::{NUMBER_BYTES, Ours, Size, Way, same},
};
use std::ops::Range;

/// A signal is a message that carries the count alone, on the control lane.
const SIGNAL: Size = Size::Small(NUMBER_BYTES);

impl Flow for Ours {
    fn stream(
        &mut self,
        size: Size,
        numbers: Range<u64>,
        switch: &Switch,
    ) -> Result<(), BenchError> {
        numbers.into_iter().try_for_each(|number| self.send(size, number, switch))
    }

    fn drain(&mut self, size: Size, expected: u64) -> Result<u64, BenchError> {
        let mut count = 0;
        if self.poll() {
            while let Some(number) = self.next(size)? {
                same("the number", expected + count, number, expected + count)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn signal(&mut self, count: u64, switch: &Switch) -> Result<(), BenchError> {
        self.send(SIGNAL, count, switch)?;
        self.flush();
        Ok(())
    }

    fn heard(&mut self) -> Result<Option<u64>, BenchError> {
        self.hear(SIGNAL)
    }
}
