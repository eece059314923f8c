//! `broadcast`: an invalidation, from its publication to every instance's ring, and to readers in other
//! processes.
//!
//! ```text
//!   core A              core B                       reader processes, R for each instance
//!   instance 0 -------> instances 1 to N-1           attached to the ring of theirs
//!        ^------------------- SI_ACK --+                (asleep but for the visible leg)
//! ```
//! Each shard is polled inline by its thread; nobody sleeps. Beside it stands a 64 B ping-pong between
//! two endpoints on the same cores, alternated round by round. With more readers and threads than
//! cores, how soon a message is visible is the scheduler's figure: everyone yields in that leg.

mod reader;
mod world;

pub(crate) use reader::{ReaderArgs, run_reader};

use crate::{
    cores,
    error::BenchError,
    latency::{Plan, answer_leg, ask_leg},
    options::Run,
    pairing::{Paired, Verdict},
    report::Report,
    spin::{Switch, two_ends},
    stats::{Samples, Summary, median, rounded},
    ways::{Ours, Setup, Size},
};
use serde_json::{Value, json};
use world::{Others, Publishing, World};

/// Options of `broadcast`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Instances
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=16))]
    nodes: u16,
    /// Reader processes of each instance
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=16))]
    readers: u16,
    /// Publications (or round trips) measured in each leg of each round
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    samples_per_round: u32,
    /// Messages published in each leg that measures how many there are a second
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(4096..))]
    messages_per_round: u32,
    #[command(flatten)]
    run: Run,
}

/// Ways, as the switch counts them. 0 is none.
const PUBLISH: u32 = 1;
const PING: u32 = 2;
const VISIBLE: u32 = 3;
const RATE: u32 = 4;

/// Legs of a round, in the order of the pairing: the ping-pong runs twice, as the control.
const LEGS: [u32; 3] = [PUBLISH, PING, PING];
/// Messages of the batches whose rate is measured.
const BATCHES: [u32; 3] = [1, 64, 4096];
/// Publications of the visible leg: it runs at the scheduler's pace.
const VISIBLE_SAMPLES: u32 = 200;

fn ping_pong() -> Plan {
    let setup = Setup { frames: 2, keep: 0, page_crc: true, credits: None };
    Plan { request: Size::Small(64), reply: Size::Small(64), sleep: false, setup }
}

/// What came out.
#[derive(Debug)]
struct Measured {
    paired: Paired<{ LEGS.len() }>,
    visible: Samples,
    /// Messages a second, by batch, of each round.
    rates: [Vec<f64>; BATCHES.len()],
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let measured = measure(args)?;
    Figures { args, measured: &measured }.print(args.run.json)
}

fn measure(args: &Args) -> Result<Measured, BenchError> {
    let cores = cores::pair()?;
    let World { mut publishing, mut others, relation: _relation } =
        World::start(args.nodes, args.readers)?;
    let (mut asker, mut answerer) = Ours::pair(&ping_pong().setup)?;
    two_ends(
        cores,
        move |switch| ask(&mut publishing, &mut asker, args, switch),
        move |switch| answer(&mut others, &mut answerer, switch),
    )
}

fn ask(
    publishing: &mut Publishing,
    ping: &mut Ours,
    args: &Args,
    switch: &Switch,
) -> Result<Measured, BenchError> {
    publishing.establish(switch)?;
    ping.establish(switch)?;
    publishing.begin(switch)?;
    let mut visible = Samples::new();
    let mut rates = [(); BATCHES.len()].map(|()| Vec::new());
    let mut number = 0;
    let mut legs = 0;
    let paired = Paired::alternate(args.run.rounds, |leg| {
        let samples = args.samples_per_round;
        let measured = if LEGS[leg] == PUBLISH {
            switch.turn_to(PUBLISH);
            publishing.publish_leg(samples, &mut number, switch)?
        } else {
            switch.turn_to(PING);
            ask_leg(ping, &ping_pong(), samples, &mut number, switch)?
        };
        legs += 1;
        if legs % LEGS.len() == 0 {
            // Once a round, what is compared with nothing.
            switch.turn_to(VISIBLE);
            publishing.visible_leg(VISIBLE_SAMPLES, &mut visible, switch)?;
            switch.turn_to(RATE);
            for (batch, rates) in BATCHES.iter().zip(&mut rates) {
                rates.push(publishing.rate_leg(*batch, args.messages_per_round, switch)?);
            }
        }
        Ok::<_, BenchError>(measured)
    })?;
    Ok(Measured { paired, visible, rates })
}

fn answer(others: &mut Others, ping: &mut Ours, switch: &Switch) -> Result<(), BenchError> {
    others.establish(switch)?;
    ping.establish(switch)?;
    while let Some(turn) = switch.turn() {
        match turn.leg() {
            PING => answer_leg(ping, &ping_pong(), turn, switch)?,
            VISIBLE => {
                others.poll();
                std::thread::yield_now();
            }
            _ => others.poll(),
        }
    }
    Ok(())
}

/// The figures, ready to print.
#[derive(Debug)]
struct Figures<'a> {
    args: &'a Args,
    measured: &'a Measured,
}

impl Figures<'_> {
    fn publish(&self) -> Summary {
        self.measured.paired.samples(0).summary()
    }

    fn ping_pong(&self) -> Summary {
        self.measured.paired.samples(1).summary()
    }

    fn ratio(&self) -> f64 {
        self.measured.paired.ratio_p50(0, 1)
    }

    fn control(&self) -> f64 {
        self.measured.paired.ratio_p50(2, 1)
    }

    fn rates(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        BATCHES.into_iter().zip(&self.measured.rates).map(|(batch, rates)| (batch, median(rates)))
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        let rates: serde_json::Map<_, _> =
            self.rates().map(|(batch, rate)| (batch.to_string(), json!(rate.round()))).collect();
        json!({
            "nodes": self.args.nodes,
            "readers": self.args.readers,
            "publish_to_ticket": self.publish().json(),
            "publish_to_visible": self.measured.visible.summary().json(),
            "messages_per_s": rates,
            "ping_pong_p50_us": rounded(self.ping_pong().p50_us),
            "ratio_p50": rounded(self.ratio()),
            "control": rounded(self.control()),
            "rounds": self.args.run.rounds,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(Verdict::of(self.control(), self.args.run.rounds))
    }

    fn lines(&self) -> Vec<String> {
        let Args { nodes, readers, run: Run { rounds, .. }, .. } = self.args;
        let mut lines = vec![
            format!("{nodes} instances, {readers} reader processes each"),
            Summary::heading(),
            self.publish().row("ticket"),
            self.measured.visible.summary().row("visible"),
            self.ping_pong().row("ping-pong"),
            format!(
                "ticket to 64 B ping-pong, ratio of p50, median of {rounds} rounds: {:.3}",
                self.ratio()
            ),
        ];
        let rates = self.rates();
        lines.extend(rates.map(|(batch, rate)| {
            format!("messages a second, batches of {batch}: {:.2} million", rate / 1e6)
        }));
        lines.push(Verdict::of(self.control(), *rounds).to_string());
        lines
    }
}
