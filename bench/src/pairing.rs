//! How legs are compared: alternated, paired by round, and checked against a control.
//!
//! ```text
//!   round 0   ours  bare  again  plain        ratio 0 = ours p50 / bare p50
//!   round 1   plain again bare   ours         ratio 1 = ...        (backwards)
//!   round 2   bare  again plain  ours         ...                  (begun one further on)
//!                                             figure  = median of the ratios
//! ```
//! Legs of one round meet the same machine; what changes between rounds cancels in the ratios. The
//! control compares a leg with itself: if it is off, so is everything else.

use crate::stats::{Samples, median};
use std::fmt;

/// Fewest rounds whose median is worth quoting.
pub(crate) const ROUNDS_MIN: u32 = 15;
/// How far the control may lie from 1.
const CONTROL_TOLERANCE: f64 = 0.02;

/// One figure of each of `L` legs in each round.
#[derive(Debug)]
pub(crate) struct Rounds<const L: usize>([Vec<f64>; L]);

impl<const L: usize> Rounds<L> {
    /// Runs every leg in every round. `run` gets the number of the leg.
    ///
    /// # Errors
    /// The first error of `run`.
    pub(crate) fn alternate<E>(
        rounds: u32,
        mut run: impl FnMut(usize) -> Result<f64, E>,
    ) -> Result<Self, E> {
        let mut figures = [(); L].map(|()| Vec::new());
        for round in 0..rounds {
            for leg in order::<L>(round) {
                figures[leg].push(run(leg)?);
            }
        }
        Ok(Self(figures))
    }

    /// Median over the rounds of the figure of `leg`.
    pub(crate) fn median(&self, leg: usize) -> f64 {
        median(&self.0[leg])
    }

    /// Median over the rounds of (figure of `leg` / figure of `reference`).
    pub(crate) fn ratio(&self, leg: usize, reference: usize) -> f64 {
        let pairs = self.0[leg].iter().zip(&self.0[reference]);
        median(&pairs.map(|(leg, reference)| leg / reference).collect::<Vec<_>>())
    }
}

/// The samples of `L` legs, all rounds together, and the medians of each round.
#[derive(Debug)]
pub(crate) struct Paired<const L: usize> {
    p50_ns: Rounds<L>,
    samples: [Samples; L],
}

impl<const L: usize> Paired<L> {
    /// Runs every leg in every round. `run` gets the number of the leg.
    ///
    /// # Errors
    /// The first error of `run`.
    pub(crate) fn alternate<E>(
        rounds: u32,
        mut run: impl FnMut(usize) -> Result<Samples, E>,
    ) -> Result<Self, E> {
        let mut all = [(); L].map(|()| Samples::new());
        #[allow(clippy::cast_precision_loss)] // Latencies stay far below 2^53 ns.
        let p50_ns = Rounds::alternate(rounds, |leg| {
            let samples = run(leg)?;
            all[leg].merge(&samples);
            Ok(samples.quantile_ns(0.5) as f64)
        })?;
        Ok(Self { p50_ns, samples: all })
    }

    /// All samples of `leg`.
    pub(crate) fn samples(&self, leg: usize) -> &Samples {
        &self.samples[leg]
    }

    /// Median over the rounds of (p50 of `leg` / p50 of `reference`).
    pub(crate) fn ratio_p50(&self, leg: usize, reference: usize) -> f64 {
        self.p50_ns.ratio(leg, reference)
    }
}

/// The legs of `round`: begun one leg further on every second round, backwards in the odd ones, so
/// that each leg comes before and after each other one equally often.
pub(crate) fn order<const L: usize>(round: u32) -> [usize; L] {
    let round = usize::try_from(round).unwrap_or(0);
    let mut order = std::array::from_fn(|i| (i + round / 2) % L);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// What the control says of the figures beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// They may be quoted.
    Steady {
        /// The control.
        control: f64,
    },
    /// The machine was too restless.
    Inconclusive {
        /// The control.
        control: f64,
    },
    /// Too few rounds to say.
    TooFewRounds {
        /// How many there were.
        rounds: u32,
    },
}

impl Verdict {
    /// Judges a run of `rounds` rounds whose control came out as `control`.
    pub(crate) fn of(control: f64, rounds: u32) -> Self {
        if rounds < ROUNDS_MIN {
            Self::TooFewRounds { rounds }
        } else if (control - 1.0).abs() <= CONTROL_TOLERANCE {
            Self::Steady { control }
        } else {
            Self::Inconclusive { control }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steady { control } => write!(f, "control {control:.3}: steady"),
            Self::Inconclusive { control } => {
                write!(f, "control {control:.3}, expected 0.98 to 1.02: inconclusive, run again")
            }
            Self::TooFewRounds { rounds } => {
                write!(f, "only {rounds} rounds: run at least {ROUNDS_MIN} for a figure to quote")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{convert::Infallible, time::Duration};

    fn of_us(us: u64) -> Samples {
        let mut samples = Samples::new();
        samples.record(Duration::from_micros(us));
        samples
    }

    #[test]
    fn a_machine_that_slows_down_between_rounds_leaves_the_ratio_alone() {
        let mut calls = 0;
        let paired = Paired::<2>::alternate(15, |leg| {
            let round = calls / 2;
            calls += 1;
            Ok::<_, Infallible>(of_us((1 + round) * if leg == 0 { 30 } else { 20 }))
        })
        .unwrap();
        assert!((paired.ratio_p50(0, 1) - 1.5).abs() < 2e-3);
        assert_eq!(paired.samples(0).summary().samples, 15);
    }

    #[test]
    fn one_bad_round_does_not_move_the_ratio() {
        let mut calls = 0;
        let paired = Paired::<2>::alternate(15, |leg| {
            calls += 1;
            Ok::<_, Infallible>(of_us(if calls == 7 && leg == 0 { 9000 } else { 10 }))
        })
        .unwrap();
        assert!((paired.ratio_p50(0, 1) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn every_round_runs_every_leg_and_each_leg_takes_every_place() {
        let mut places = [[0; 4]; 4];
        for round in 0..8 {
            for (place, leg) in order::<4>(round).into_iter().enumerate() {
                places[leg][place] += 1;
            }
        }
        assert_eq!(places, [[2; 4]; 4]);
    }

    #[test]
    fn each_leg_comes_before_each_other_one_as_often_as_after() {
        let before = (0..8).filter(|&round| {
            let order = order::<4>(round);
            order.iter().position(|&leg| leg == 0) < order.iter().position(|&leg| leg == 1)
        });
        assert_eq!(before.count(), 4);
    }

    #[test]
    fn the_first_error_ends_the_run() {
        let mut calls = 0;
        let result = Paired::<3>::alternate(15, |_| {
            calls += 1;
            if calls == 5 { Err("broken") } else { Ok(of_us(1)) }
        });
        assert_eq!((result.unwrap_err(), calls), ("broken", 5));
    }

    #[test]
    fn a_control_off_by_more_than_two_percent_either_way_is_inconclusive() {
        assert_eq!(Verdict::of(1.019, 15), Verdict::Steady { control: 1.019 });
        assert_eq!(Verdict::of(1.021, 15), Verdict::Inconclusive { control: 1.021 });
        assert_eq!(Verdict::of(0.979, 15), Verdict::Inconclusive { control: 0.979 });
        assert!(Verdict::of(f64::NAN, 15).to_string().ends_with("inconclusive, run again"));
        assert_eq!(Verdict::of(1.0, 14), Verdict::TooFewRounds { rounds: 14 });
    }
}
