//! The two ends of a round trip: the asker, which measures, and the answerer.

use super::plan::{BARE, Effort, LEGS, OURS, PLAIN, Plan, SOCKETS};
use crate::{
    error::BenchError,
    pairing::Paired,
    spin::{Patience, Switch, Turn},
    stats::Samples,
    ways::{Bare, Ours, Plain, Way, same},
};
use std::{net::TcpStream, time::Instant};

/// Round trips before those that are measured, each time a way gets its turn: caches, branch
/// predictors and the endpoint's hot connections find their state again.
const WARM_UP: u32 = 300;

/// Number of a message that ends a leg and is not answered.
const END: u64 = u64::MAX;

/// What a thread owns: its end of each way.
#[derive(Debug)]
pub(crate) struct End {
    ours: Ours,
    bare: Bare,
    plain: Plain,
}

impl End {
    /// `sockets` are connected to those of the other end, in the same order.
    pub(crate) fn new(
        ours: Ours,
        sockets: [TcpStream; SOCKETS],
        plan: &Plan,
    ) -> Result<Self, BenchError> {
        let [bare, plain] = sockets;
        let bare = Bare::new(bare, ours.pages().clone(), ours.arena(), ours.landing_frames())?;
        let plain = Plain::new(plain, ours.arena())?;
        if plan.sleep {
            let (bare, plain) = (bare.with_sleeper()?, plain.with_sleeper()?);
            return Ok(Self { ours, bare, plain });
        }
        Ok(Self { ours, bare, plain })
    }
}

/// The asker: all legs of all rounds. `turn` makes both ends turn to a leg.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn ask(
    end: &mut End,
    plan: &Plan,
    effort: Effort,
    switch: &Switch,
    mut turn: impl FnMut(u32) -> Result<(), BenchError>,
) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    end.ours.establish(switch)?;
    let mut number = 0;
    let samples = effort.samples_per_round;
    Paired::alternate(effort.rounds, |leg| {
        let way = LEGS[leg];
        turn(way)?;
        match way {
            OURS => ask_leg(&mut end.ours, plan, samples, &mut number, switch),
            BARE => ask_leg(&mut end.bare, plan, samples, &mut number, switch),
            _ => ask_leg(&mut end.plain, plan, samples, &mut number, switch),
        }
    })
}

/// One leg: round trips, after some that only warm up. Tells an answerer that sleeps of its end.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn ask_leg(
    way: &mut impl Way,
    plan: &Plan,
    count: u32,
    number: &mut u64,
    switch: &Switch,
) -> Result<Samples, BenchError> {
    let samples = sampled(count, number, |number| round_trip(way, plan, number, switch))?;
    if plan.sleep {
        way.say(plan.request, END, switch)?;
        way.flush();
    }
    Ok(samples)
}

/// `count` samples of `once`, after some that only warm up. Numbers go on from `number`.
///
/// # Errors
/// The first error of `once`.
pub(crate) fn sampled(
    count: u32,
    number: &mut u64,
    mut once: impl FnMut(u64) -> Result<(), BenchError>,
) -> Result<Samples, BenchError> {
    let mut samples = Samples::new();
    for i in 0..WARM_UP + count {
        *number += 1;
        let start = Instant::now();
        once(*number)?;
        let took = start.elapsed();
        if i >= WARM_UP {
            samples.record(took);
        }
    }
    Ok(samples)
}

#[inline(always)]
fn round_trip(
    way: &mut impl Way,
    plan: &Plan,
    number: u64,
    switch: &Switch,
) -> Result<(), BenchError> {
    way.say(plan.request, number, switch)?;
    let mut patience = Patience::new(switch, "a reply");
    let found = if plan.sleep {
        loop {
            way.sleep()?;
            if let Some(found) = way.hear_awake(plan.reply)? {
                break found;
            }
            patience.check()?;
        }
    } else {
        patience.until(|| way.hear(plan.reply))?
    };
    same("the body of a reply", number, found, number)
}

/// The answerer, until the asker stops.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn answer(end: &mut End, plan: &Plan, switch: &Switch) -> Result<(), BenchError> {
    end.ours.establish(switch)?;
    while let Some(turn) = switch.turn() {
        match turn.leg() {
            OURS => answer_leg(&mut end.ours, plan, turn, switch)?,
            BARE => answer_leg(&mut end.bare, plan, turn, switch)?,
            PLAIN => answer_leg(&mut end.plain, plan, turn, switch)?,
            _ => std::hint::spin_loop(),
        }
    }
    Ok(())
}

/// Answers until the asker turns to another way, which it does only when nothing is on the way.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn answer_leg(
    way: &mut impl Way,
    plan: &Plan,
    turn: Turn,
    switch: &Switch,
) -> Result<(), BenchError> {
    if plan.sleep {
        return answer_leg_asleep(way, plan, turn, switch);
    }
    loop {
        match way.hear(plan.request)? {
            Some(number) => way.say(plan.reply, number, switch)?,
            None if switch.turn() != Some(turn) => return Ok(()),
            None => {}
        }
    }
}

fn answer_leg_asleep(
    way: &mut impl Way,
    plan: &Plan,
    turn: Turn,
    switch: &Switch,
) -> Result<(), BenchError> {
    // Looks before it sleeps: what came together with the end of the last leg has had its edge.
    let mut heard = way.hear(plan.request)?;
    loop {
        match heard {
            Some(END) => {
                switch.spin_while(turn);
                return Ok(());
            }
            Some(number) => way.say(plan.reply, number, switch)?,
            None if switch.turn().is_none() => return Ok(()),
            None => {}
        }
        way.sleep()?;
        heard = way.hear_awake(plan.request)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ways::{Setup, Size, sockets};
    use std::{thread, time::Duration};

    #[test]
    fn a_request_that_comes_with_the_end_of_the_leg_before_is_answered() {
        let setup = Setup { frames: 2, keep: 2, page_crc: true, credits: None };
        let (request, reply) = (Size::Small(64), Size::Page);
        let plan = Plan { request, reply, sleep: true, setup };
        let (ours, _other) = Ours::pair(&plan.setup).unwrap();
        let (asker, answerer) = sockets().unwrap();
        let bare = |stream| Bare::new(stream, ours.pages().clone(), ours.arena(), 1).unwrap();
        let (mut asker, answerer) = (bare(asker), bare(answerer));
        let mut answerer = answerer.with_sleeper().unwrap();
        let switch = Switch::new();
        switch.turn_to(BARE);
        let first = switch.turn().unwrap();
        asker.say(plan.request, END, &switch).unwrap();
        asker.say(plan.request, 7, &switch).unwrap();
        switch.turn_to(BARE);
        let second = switch.turn().unwrap();
        // One edge for both, which the first leg may take.
        answer_leg(&mut answerer, &plan, first, &switch).unwrap();
        thread::scope(|scope| {
            let answered = scope.spawn(|| answer_leg(&mut answerer, &plan, second, &switch));
            let until = Instant::now() + Duration::from_secs(10);
            let mut heard = None;
            while heard.is_none() && Instant::now() < until {
                heard = asker.hear(plan.reply).unwrap();
            }
            asker.say(plan.request, END, &switch).unwrap();
            switch.turn_to(PLAIN);
            // Wakes an answerer that has missed something.
            drop(asker);
            assert_eq!(heard, Some(7));
            answered.join().unwrap().unwrap();
        });
    }
}
