//! `rate`: as many messages as go through, one way, one core a side.
//!
//! ```text
//!   sender (core A)                                      receiver (core B)
//!   stream(0 .. w)             ====================>     takes and checks w messages
//!   heard()                    <--------------------     signal(w)
//!   start = now; stream(w ..)  ====================>     takes and checks n more
//!   heard(); n / (now - start) <--------------------     signal(w + n)
//! ```
//! Messages carry their number, and a lost, doubled or reordered one ends the run. What they are
//! measured against:
//!
//! ```text
//!                  small messages                             pages
//!   bare           128-byte slots, one write each             8 KiB writes and reads, payload only
//!   bare batched   128-byte slots, many in one write          {header, frame}, many in one writev
//! ```
//! All read as much as there is. Bytes are those of the payload.

mod bare;
mod ours;
mod report;

pub(crate) use report::Figures;

use crate::{
    cores,
    error::BenchError,
    options::Common,
    pairing::Rounds,
    report::Report,
    spin::{Patience, Switch, two_ends},
    ways::{CREDITS_MAX, Ours, Setup, Size, same, sockets},
};
use bare::BareFlow;
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};
use std::{net::TcpStream, ops::Range, time::Instant};

/// Messages of a leg, unless another number is asked for.
const SMALL_PER_ROUND: u64 = 200_000;
const PAGES_PER_ROUND: u64 = 20_000;
/// Messages of a leg at most, so that a leg ends.
pub(crate) const PER_ROUND_MAX: u64 = 100_000_000;
/// Messages that the batched bare loop hands to the kernel at once, at most.
pub(crate) const BATCH_MAX: u32 = 512;
/// ... and by default.
pub(crate) const BATCH: u32 = 32;

/// Options of `rate`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Bytes of each message: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    size: Size,
    /// Messages measured in each leg of each round [default: 200000, of pages 20000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=PER_ROUND_MAX))]
    messages_per_round: Option<u64>,
    /// Credits of the lane that carries them [default: those of an endpoint]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(CREDITS_MAX)))]
    credits: Option<u32>,
    /// Messages that the batched bare loop hands to the kernel in one call
    #[arg(
        long,
        default_value_t = BATCH,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_MAX))
    )]
    batch: u32,
    #[command(flatten)]
    common: Common,
}

/// What the two ends have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) size: Size,
    /// Messages measured in a leg.
    pub(crate) messages: u64,
    pub(crate) batch: u32,
    pub(crate) setup: Setup,
}

impl Plan {
    /// A plan for `messages` messages a leg, or the usual number.
    pub(crate) fn new(size: Size, messages: Option<u64>, batch: u32, setup: Setup) -> Self {
        let usual = if size == Size::Page { PAGES_PER_ROUND } else { SMALL_PER_ROUND };
        Self { size, messages: messages.unwrap_or(usual), batch, setup }
    }

    /// An error if a value is beyond what the options allow.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        if (1..=PER_ROUND_MAX).contains(&self.messages) && (1..=BATCH_MAX).contains(&self.batch) {
            return self.setup.check();
        }
        Err(BenchError::Control(format!(
            "found {self:?}, expected messages 1 to {PER_ROUND_MAX} and batch 1 to {BATCH_MAX}"
        )))
    }

    /// Messages before those that are measured.
    fn warm_up(&self) -> u64 {
        self.messages.div_ceil(10)
    }
}

/// One way to carry a stream of messages, seen from one end.
trait Flow {
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

/// Ways, as the switch counts them. 0 is none.
const OURS: u32 = 1;
const BARE: u32 = 2;
const BATCHED: u32 = 3;

/// Legs of a round, in the order of the pairing: bare runs twice, as the control.
pub(crate) const LEGS: [u32; 4] = [OURS, BARE, BARE, BATCHED];

/// Bare connections that the legs use beside the endpoints.
pub(crate) const SOCKETS: usize = 1;

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

    /// Polls until the session with the other end has begun.
    ///
    /// # Errors
    /// [`BenchError`].
    pub(crate) fn establish(&mut self, switch: &Switch) -> Result<(), BenchError> {
        self.ours.establish(switch)
    }
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let setup = args.common.setup(args.credits);
    let plan = Plan::new(args.size, args.messages_per_round, args.batch, setup);
    let run = args.common.run;
    let figures = measure(&plan, run.rounds)?;
    Figures::new(&plan, run.rounds, &figures, "loopback TCP").print(run.json);
    Ok(())
}

fn measure(plan: &Plan, rounds: u32) -> Result<Rounds<{ LEGS.len() }>, BenchError> {
    let cores = cores::pair()?;
    let (sender, receiver) = Ours::pair(&plan.setup)?;
    let sockets = sockets()?;
    let mut sender = End::new(sender, [sockets.0], plan)?;
    let mut receiver = End::new(receiver, [sockets.1], plan)?;
    two_ends(
        cores,
        move |switch| {
            sender.establish(switch)?;
            send(&mut sender, plan, rounds, switch, |leg| {
                switch.turn_to(leg);
                Ok(())
            })
        },
        move |switch| {
            receiver.establish(switch)?;
            receive(&mut receiver, plan, switch)
        },
    )
}

/// One leg of ours, on fresh endpoints: both threads end with it. Messages a second.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn ours_alone(plan: &Plan, cores: [CoreId; 2]) -> Result<f64, BenchError> {
    let (mut sender, mut receiver) = Ours::pair(&plan.setup)?;
    two_ends(
        cores,
        move |switch| {
            sender.establish(switch)?;
            send_leg(&mut sender, plan, switch)
        },
        move |switch| {
            receiver.establish(switch)?;
            let turn = switch.turn();
            receive_leg(&mut receiver, plan, switch)?;
            // Stays until the sender has heard.
            turn.into_iter().for_each(|turn| switch.spin_while(turn));
            Ok(())
        },
    )
}

/// The sender, the session having begun: all legs of all rounds, in messages a second. `turn` makes both ends turn to a leg.
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
    Rounds::alternate(rounds, |leg| {
        let way = LEGS[leg];
        turn(way)?;
        match way {
            OURS => send_leg(&mut end.ours, plan, switch),
            _ => send_leg(end.bare.batched(way == BATCHED), plan, switch),
        }
    })
}

#[allow(clippy::cast_precision_loss)] // Far fewer messages than 2^53.
fn send_leg(flow: &mut impl Flow, plan: &Plan, switch: &Switch) -> Result<f64, BenchError> {
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

/// The receiver, the session having begun, until the sender stops.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn receive(end: &mut End, plan: &Plan, switch: &Switch) -> Result<(), BenchError> {
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

fn receive_leg(flow: &mut impl Flow, plan: &Plan, switch: &Switch) -> Result<(), BenchError> {
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
