//! What two threads that spin need of each other: which leg runs now, and an end to every wait.

use crate::error::BenchError;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);
/// Spins between two looks at the clock and at the switch: rare enough to cost nothing.
const SPINS_PER_CHECK: u32 = 4096;

/// Which leg both ends run now. One end sets it, the others follow; an end that leaves, for whatever
/// reason, stops them all ([`Switch::stop_at_end`]).
#[derive(Debug)]
pub(crate) struct Switch(AtomicU32);

const STOPPED: u32 = u32::MAX;

impl Switch {
    /// Leg 0 is running.
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Everybody goes on to `leg`, unless somebody has stopped.
    pub(crate) fn turn_to(&self, leg: u32) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now != STOPPED).then_some(leg)
        });
    }

    /// The leg that runs now; `None` when an end has left.
    #[inline]
    pub(crate) fn leg(&self) -> Option<u32> {
        match self.0.load(Ordering::Acquire) {
            STOPPED => None,
            leg => Some(leg),
        }
    }

    /// Stops everybody when the value is dropped.
    pub(crate) fn stop_at_end(&self) -> StopAtEnd<'_> {
        StopAtEnd(self)
    }
}

/// See [`Switch::stop_at_end`].
#[derive(Debug)]
pub(crate) struct StopAtEnd<'a>(&'a Switch);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.store(STOPPED, Ordering::Release);
    }
}

/// One wait: bounded, and over when the other end has left.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    switch: &'a Switch,
    what: &'static str,
    spins: u32,
    until: Option<Instant>,
}

impl<'a> Patience<'a> {
    /// Patience for `what`.
    #[inline]
    pub(crate) fn new(switch: &'a Switch, what: &'static str) -> Self {
        Self { switch, what, spins: 0, until: None }
    }

    /// Call once a spin.
    ///
    /// # Errors
    /// [`BenchError::Deadline`] when the wait was too long, [`BenchError::OtherEnd`] when the other
    /// end has left.
    #[inline]
    pub(crate) fn spin(&mut self) -> Result<(), BenchError> {
        self.spins = self.spins.wrapping_add(1);
        if self.spins.is_multiple_of(SPINS_PER_CHECK) { self.check() } else { Ok(()) }
    }

    #[cold]
    fn check(&mut self) -> Result<(), BenchError> {
        let what = self.what;
        if self.switch.leg().is_none() {
            return Err(BenchError::OtherEnd { what });
        }
        let now = Instant::now();
        if now > *self.until.get_or_insert(now + LIMIT) {
            return Err(BenchError::Deadline { what, limit: LIMIT });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_leaves_stops_the_others_for_good() {
        let switch = Switch::new();
        switch.turn_to(2);
        assert_eq!(switch.leg(), Some(2));
        drop(switch.stop_at_end());
        switch.turn_to(3);
        assert_eq!(switch.leg(), None);
        let mut patience = Patience::new(&switch, "an answer");
        let spun = (0..=SPINS_PER_CHECK).try_for_each(|_| patience.spin());
        assert!(matches!(spun, Err(BenchError::OtherEnd { what: "an answer" })));
    }
}
