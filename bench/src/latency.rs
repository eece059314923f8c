//! `latency`: one round trip at a time between two threads, each on its own core and each spinning,
//! or with `--sleep` each asleep until the other one wakes it.
//!
//! ```text
//!   asker (core A)                                       answerer (core B)
//!   start = now; say(request, n)  ---------------------> hear(request) = n
//!   hear(reply) = n, checked; now - start  <------------ say(reply, n)
//! ```
//! Three [`Way`]s carry it: two endpoints, bare sockets with the same wire bytes and system calls, and
//! bare sockets with the payload alone. Asker and answerer are the same code for all three. Both ends
//! turn from way to way together; the ways whose turn it is not are left alone. An answerer that
//! sleeps sees no turn: a last message ([`END`]), which nobody answers, tells it.

mod report;

pub(crate) use report::Figures;

use crate::{
    cores,
    error::BenchError,
    options::Common,
    pairing::Paired,
    report::Report,
    spin::{Patience, Switch, Turn, two_ends},
    stats::Samples,
    ways::{Bare, Ours, Plain, Setup, Size, Way, same, sockets},
};
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};
use std::{net::TcpStream, time::Instant};

/// Round trips before those that are measured, each time a way gets its turn: caches, branch
/// predictors and the endpoint's hot connections find their state again.
const WARM_UP: u32 = 300;

/// Number of a message that ends a leg and is not answered.
const END: u64 = u64::MAX;

/// Options of `latency`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the request's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    request: Size,
    /// Bytes of the reply's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    reply: Size,
    /// Round trips measured in each leg of each round
    #[arg(
        long,
        default_value_t = SAMPLES_PER_ROUND,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    samples_per_round: u32,
    /// Both ends sleep until something comes, instead of spinning
    #[arg(long)]
    sleep: bool,
    #[command(flatten)]
    common: Common,
}

/// Round trips measured in each leg of each round, unless another number is asked for.
pub(crate) const SAMPLES_PER_ROUND: u32 = 4000;

/// What the two ends have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) request: Size,
    pub(crate) reply: Size,
    pub(crate) sleep: bool,
    pub(crate) setup: Setup,
}

impl Args {
    fn plan(&self) -> Plan {
        let setup = self.common.setup(None);
        Plan { request: self.request, reply: self.reply, sleep: self.sleep, setup }
    }
}

/// How much the asker measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) samples_per_round: u32,
}

/// Ways, as the switch counts them. 0 is none.
const OURS: u32 = 1;
const BARE: u32 = 2;
const PLAIN: u32 = 3;

/// Legs of a round, in the order of the pairing: bare runs twice, as the control.
pub(crate) const LEGS: [u32; 4] = [OURS, BARE, BARE, PLAIN];

/// Bare connections that the legs use beside the endpoints.
pub(crate) const SOCKETS: usize = 2;

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

    /// Polls until the session with the other end has begun.
    ///
    /// # Errors
    /// [`BenchError`].
    pub(crate) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        self.ours.establish(switch)
    }
}

// ---- page fetches, for the benchmark of grants ---------------------------------------------------

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

// ---- both ends -----------------------------------------------------------------------------------

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let run = args.common.run;
    let effort = Effort { rounds: run.rounds, samples_per_round: args.samples_per_round };
    let plan = args.plan();
    let paired = measure(&plan, effort)?;
    Figures::new(&plan, run.rounds, &paired, "loopback TCP").print(run.json);
    Ok(())
}

fn measure(plan: &Plan, effort: Effort) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    let cores = cores::pair()?;
    let (asker, answerer) = Ours::pair(&plan.setup)?;
    let (bare, plain) = (sockets()?, sockets()?);
    let mut asker = End::new(asker, [bare.0, plain.0], plan)?;
    let mut answerer = End::new(answerer, [bare.1, plain.1], plan)?;
    two_ends(
        cores,
        move |switch| {
            asker.establish(switch)?;
            ask(&mut asker, plan, effort, switch, |leg| {
                switch.turn_to(leg);
                Ok(())
            })
        },
        move |switch| {
            answerer.establish(switch)?;
            answer(&mut answerer, plan, switch)
        },
    )
}

/// One leg of ours, on fresh endpoints: both threads end with it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn ours_alone(
    plan: &Plan,
    samples: u32,
    cores: [CoreId; 2],
) -> Result<Samples, BenchError> {
    let (mut asker, mut answerer) = Ours::pair(&plan.setup)?;
    two_ends(
        cores,
        move |switch| {
            asker.establish(switch)?;
            ask_leg(&mut asker, plan, samples, &mut 0, switch)
        },
        move |switch| {
            answerer.establish(switch)?;
            switch.turn().map_or(Ok(()), |turn| answer_leg(&mut answerer, plan, turn, switch))
        },
    )
}

/// The asker, the session having begun: all legs of all rounds. `turn` makes both ends turn to a leg.
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

fn ask_leg(
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

#[inline]
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

/// The answerer, the session having begun, until the asker stops.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn answer(end: &mut End, plan: &Plan, switch: &Switch) -> Result<(), BenchError> {
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
fn answer_leg(
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
    use std::{thread, time::Duration};

    #[test]
    fn a_request_that_comes_with_the_end_of_the_leg_before_is_answered() {
        let plan = Plan { sleep: true, ..fetch_plan(2) };
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
