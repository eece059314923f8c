//! The two ends of a stream: the sender, which measures, and the receiver.

use super::{
    bare::BareFlow,
    flow::Flow,
    plan::{BATCHED, LEGS, OURS, Plan, SOCKETS},
};
use crate::{
    error::BenchError,
    pairing::Rounds,
    spin::{Patience, Switch},
    ways::{Ours, same},
};
use std::{net::TcpStream, time::Instant};

/// What a thread owns: its end of each way.
#[derive(Debug)]
pub(crate) struct End {
    ours: Ours,
    /// Carries both bare legs.
    bare: BareFlow,
}

impl End {
    /// `sockets` are connected to those of the other end.
    pub(crate) fn new(
        ours: Ours,
        [stream]: [TcpStream; SOCKETS],
        plan: &Plan,
    ) -> Result<Self, BenchError> {
        let pages = ours.pages().clone();
        let bare = BareFlow::new(stream, pages, ours.arena(), ours.landing_frames(), plan.batch)?;
        Ok(Self { ours, bare })
    }
}

/// The sender: all legs of all rounds, in messages a second. `turn` makes both ends turn to a leg.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn send(
    end: &mut End,
    plan: &Plan,
    rounds: u32,
    switch: &Switch,
    mut turn: impl FnMut(u32) -> Result<(), BenchError>,
) -> Result<Rounds<{ LEGS.len() }>, BenchError> {
    end.ours.establish(switch)?;
    Rounds::alternate(rounds, |leg| {
        let way = LEGS[leg];
        turn(way)?;
        match way {
            OURS => send_leg(&mut end.ours, plan, switch),
            _ => send_leg(end.bare.batched(way == BATCHED), plan, switch),
        }
    })
}

/// One leg, warmed up: messages a second.
///
/// # Errors
/// [`BenchError`].
#[allow(clippy::cast_precision_loss)] // Far fewer messages than 2^53.
pub(crate) fn send_leg(
    flow: &mut impl Flow,
    plan: &Plan,
    switch: &Switch,
) -> Result<f64, BenchError> {
    let warm_up = plan.warm_up();
    let all = warm_up + plan.messages;
    flow.stream(plan.size, 0..warm_up, switch)?;
    hear(flow, warm_up, switch)?;
    let start = Instant::now();
    flow.stream(plan.size, warm_up..all, switch)?;
    hear(flow, all, switch)?;
    Ok(plan.messages as f64 / start.elapsed().as_secs_f64())
}

fn hear(flow: &mut impl Flow, expected: u64, switch: &Switch) -> Result<(), BenchError> {
    let patience = Patience::new(switch, "the receiver to take everything");
    let found = patience.until(|| flow.heard())?;
    same("the receiver's count", expected, found, expected)
}

/// The receiver, until the sender stops.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn receive(end: &mut End, plan: &Plan, switch: &Switch) -> Result<(), BenchError> {
    end.ours.establish(switch)?;
    let none = switch.turn().filter(|turn| turn.leg() == 0);
    none.into_iter().for_each(|turn| switch.spin_while(turn));
    while let Some(turn) = switch.turn() {
        match turn.leg() {
            OURS => receive_leg(&mut end.ours, plan, switch)?,
            way => receive_leg(end.bare.batched(way == BATCHED), plan, switch)?,
        }
        // The messages of this turn are all here.
        switch.spin_while(turn);
    }
    Ok(())
}

/// The other end of a leg: takes all of its messages, and says so.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn receive_leg(
    flow: &mut impl Flow,
    plan: &Plan,
    switch: &Switch,
) -> Result<(), BenchError> {
    let mut taken = 0;
    for target in [plan.warm_up(), plan.warm_up() + plan.messages] {
        let mut patience = Patience::new(switch, "messages");
        while taken < target {
            match flow.drain(plan.size, taken)? {
                0 => patience.spin()?,
                count => {
                    taken += count;
                    patience = Patience::new(switch, "messages");
                }
            }
        }
        flow.signal(taken, switch)?;
    }
    Ok(())
}
