//! How long a poller has been idle, told cheaply: the clock is read once in [`TURNS_PER_LOOK`] turns.
//! Pure: the clock is a parameter.

use std::time::{Duration, Instant};

/// Idle turns between two looks at the clock: one of several looks for messages takes some ten
/// microseconds.
const TURNS_PER_LOOK: u32 = 4;

/// A row of idle turns.
#[derive(Debug, Default)]
pub(super) struct Idle {
    turns: u32,
    /// At the first look.
    since: Option<Instant>,
}

impl Idle {
    /// Counts an idle turn: true when the row has lasted for `budget`, up to one look late. Stays
    /// true until a new row begins.
    #[inline]
    pub(super) fn is_over(&mut self, budget: Duration, now: impl FnOnce() -> Instant) -> bool {
        if budget.is_zero() {
            return true;
        }
        self.turns += 1;
        if self.turns < TURNS_PER_LOOK {
            return false;
        }
        let now = now();
        let is_over = now.saturating_duration_since(*self.since.get_or_insert(now)) >= budget;
        // Once over, every further turn asks again: after a sleep that brought nothing the next one
        // follows at once.
        self.turns = if is_over { TURNS_PER_LOOK } else { 0 };
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const BUDGET: Duration = Duration::from_micros(50);

    /// Turns of 1 us each until the row is over, and how often the clock was read.
    fn row(idle: &mut Idle, budget: Duration) -> (u32, u32) {
        let start = Instant::now();
        let looks = Cell::new(0);
        let turns = (1..).find(|turn| {
            idle.is_over(budget, || {
                looks.set(looks.get() + 1);
                start + Duration::from_micros(u64::from(*turn))
            })
        });
        (turns.unwrap(), looks.get())
    }

    #[test]
    fn the_budget_is_spent_with_few_looks_at_the_clock() {
        let (turns, looks) = row(&mut Idle::default(), BUDGET);
        assert!((50..=50 + 2 * TURNS_PER_LOOK).contains(&turns), "{turns}");
        assert!(looks <= turns / TURNS_PER_LOOK, "{looks} looks in {turns} turns");
    }

    #[test]
    fn without_a_budget_the_first_idle_turn_is_the_last() {
        assert_eq!(row(&mut Idle::default(), Duration::ZERO), (1, 0));
    }

    #[test]
    fn a_sleep_that_brought_nothing_is_followed_by_the_next_at_once() {
        let mut idle = Idle::default();
        row(&mut idle, BUDGET);
        let late = Instant::now() + Duration::from_secs(1);
        assert!(idle.is_over(BUDGET, || late));
        assert!(idle.is_over(BUDGET, || late));
    }
}
