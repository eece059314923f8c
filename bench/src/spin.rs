//! What two threads that spin need of each other: which leg runs now, and an end to every wait.

use crate::{cores, error::BenchError};
use core_affinity::CoreId;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);
/// Spins between two looks at the clock and at the switch: rare enough to cost nothing.
const SPINS_PER_CHECK: u32 = 4096;

/// Which leg both ends run now. One end sets it, the others follow; an end that leaves, for whatever
/// reason, stops them all ([`Switch::stop_at_end`]).
#[derive(Debug)]
pub(crate) struct Switch(AtomicU64);

/// Number of turns so far, and the leg: two legs of one kind that follow each other are two turns.
///
/// ```text
///   bits 63..32 turns    31..0 leg
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn(u64);

const STOPPED: u64 = u64::MAX;
const LEG_BITS: u32 = 32;

impl Turn {
    /// The leg that it is the turn of.
    #[inline]
    pub(crate) fn leg(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(0)
    }

    fn next(self, leg: u32) -> Self {
        let turns = ((self.0 >> LEG_BITS) + 1) % (1 << (LEG_BITS - 1));
        Self((turns << LEG_BITS) | u64::from(leg))
    }
}

impl Switch {
    /// Leg 0 is running.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Everybody goes on to `leg`, unless somebody has stopped.
    pub(crate) fn turn_to(&self, leg: u32) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now != STOPPED).then_some(Turn(now).next(leg).0)
        });
    }

    /// The turn that runs now; `None` when an end has left.
    #[inline]
    pub(crate) fn turn(&self) -> Option<Turn> {
        match self.0.load(Ordering::Acquire) {
            STOPPED => None,
            turn => Some(Turn(turn)),
        }
    }

    /// The leg that runs now; `None` when an end has left.
    #[inline]
    pub(crate) fn leg(&self) -> Option<u32> {
        self.turn().map(Turn::leg)
    }

    /// Spins until `turn` is over.
    pub(crate) fn spin_while(&self, turn: Turn) {
        while self.turn() == Some(turn) {
            std::hint::spin_loop();
        }
    }

    /// Runs one end on this thread, which stays on `core`. However it ends, it stops everybody; only
    /// then goes what `end` owns, so that nobody takes its closed connections for a failure, and
    /// whoever sleeps on them wakes and finds itself stopped.
    ///
    /// # Errors
    /// Those of `end`, and [`BenchError::Pin`].
    pub(crate) fn run<T>(
        &self,
        core: CoreId,
        mut end: impl FnMut(&Self) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let _stop = self.stop_at_end();
        cores::pin(core)?;
        end(self)
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

/// Runs both ends, each on a thread and a core of its own, to their ends. When both fail, the error is
/// that of the one that failed first.
///
/// # Errors
/// Theirs, [`BenchError::Pin`] and [`BenchError::Panicked`].
pub(crate) fn two_ends<T: Send>(
    [asker_core, answerer_core]: [CoreId; 2],
    ask: impl FnMut(&Switch) -> Result<T, BenchError> + Send,
    answer: impl FnMut(&Switch) -> Result<(), BenchError> + Send,
) -> Result<T, BenchError> {
    let switch = &Switch::new();
    let (asked, answered) = thread::scope(|scope| {
        let answered = scope.spawn(move || switch.run(answerer_core, answer));
        let asked = scope.spawn(move || switch.run(asker_core, ask));
        (asked.join(), answered.join())
    });
    let asked = asked.map_err(|_| BenchError::Panicked("asker"))?;
    let answered = answered.map_err(|_| BenchError::Panicked("answerer"))?;
    match (asked, answered) {
        (Err(consequence), Err(cause)) if consequence.is_consequence() => Err(cause),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        (Ok(result), Ok(())) => Ok(result),
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

    /// Spins until `look` finds something.
    ///
    /// # Errors
    /// Those of `look`, and of [`Patience::spin`].
    #[inline(always)] // What looks does a system call: see `Endpoint::poll_spinning`.
    pub(crate) fn until<T>(
        mut self,
        mut look: impl FnMut() -> Result<Option<T>, BenchError>,
    ) -> Result<T, BenchError> {
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            self.spin()?;
        }
    }

    /// Call once a sleep, which is longer than a spin: looks at the clock each time.
    ///
    /// # Errors
    /// As [`Patience::spin`].
    #[cold]
    pub(crate) fn check(&mut self) -> Result<(), BenchError> {
        let what = self.what;
        if self.switch.turn().is_none() {
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

    #[test]
    fn the_same_leg_again_is_another_turn() {
        let switch = Switch::new();
        switch.turn_to(2);
        let first = switch.turn().unwrap();
        switch.turn_to(2);
        let second = switch.turn().unwrap();
        assert_eq!((first.leg(), second.leg()), (2, 2));
        assert_ne!(first, second);
        assert!((0..3).all(|_| Turn(STOPPED - 1).next(u32::MAX) != Turn(STOPPED)));
    }

    #[test]
    fn of_two_failures_the_cause_is_told() {
        let Ok(cores) = cores::pair() else { return eprintln!("skipped: one core") };
        let consequence = |_: &Switch| Err(BenchError::OtherEnd { what: "a reply" });
        let failed = two_ends::<()>(cores, consequence, |_| Err(BenchError::NoFrame));
        assert!(matches!(failed, Err(BenchError::NoFrame)));
        let failed = two_ends::<()>(cores, |_| Err(BenchError::NoFrame), |_| Ok(()));
        assert!(matches!(failed, Err(BenchError::NoFrame)));
        assert_eq!(two_ends(cores, |_| Ok(5), |_| Ok(())).unwrap(), 5);
    }
}
