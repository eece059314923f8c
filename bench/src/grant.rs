//! `grant`: a page of another instance, from the request to the pinned page.
//!
//! ```text
//!   core A            core B                       2 hops: instance 1 masters and owns the page
//!   instance 0 -----> instance 1 [-----> 2]        3 hops: 1 masters it, 2 owns it and ships it
//!        ^----------------+--------------+
//! ```
//! Each shard is polled inline by its thread; nobody sleeps. Every page is granted once, then the
//! owner takes all of them back, unmeasured. Beside it stand a page fetch between two endpoints
//! (64 B request, a page back, on the same cores) and a bare chain of sockets of the same topology
//! that moves the same bytes ([`chain`]).

mod chain;
mod shards;

use crate::{
    cores,
    error::BenchError,
    latency,
    options::Run,
    pairing::{Paired, Verdict},
    report::Report,
    spin::{Switch, two_ends},
    stats::{Samples, Summary, rounded},
    ways::Ours,
};
use chain::{Asker as ChainAsker, Relays};
use pagewire_protocol::Mode;
use serde_json::{Value, json};
use shards::{Asker as ShardAsker, Grants, Owner};
use std::sync::atomic::{AtomicU32, Ordering};

/// Options of `grant`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Hops from the request to the page: 2 (the master owns it) or 3 (a third instance does)
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
    hops: u8,
    /// Mode that is asked for
    #[arg(long, value_enum, default_value_t = Wanted::X)]
    mode: Wanted,
    /// Pages that are granted in turn
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pages: u32,
    /// Grants (or fetches) measured in each leg of each round
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    samples_per_round: u32,
    #[command(flatten)]
    run: Run,
}

/// A mode that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wanted {
    /// Shared.
    S,
    /// Exclusive.
    X,
}

impl Wanted {
    fn mode(self) -> Mode {
        match self {
            Self::S => Mode::S,
            Self::X => Mode::X,
        }
    }
}

/// Ways, as the switch counts them. 0 is none.
const GRANT: u32 = 1;
const FETCH: u32 = 2;
const CHAIN: u32 = 3;
/// The owner takes its pages back; not a leg.
const RESET: u32 = 4;

/// Legs of a round, in the order of the pairing: the chain runs twice, as the control.
const LEGS: [u32; 4] = [GRANT, FETCH, CHAIN, CHAIN];

/// What the asking thread owns.
#[derive(Debug)]
struct AskingEnd {
    grants: ShardAsker,
    fetch: Ours,
    chain: ChainAsker,
}

/// What the answering thread owns.
#[derive(Debug)]
struct AnsweringEnd {
    grants: Owner,
    fetch: Ours,
    chain: Relays,
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let paired = measure(args)?;
    Figures::new(args, &paired).print(args.run.json)
}

fn measure(args: &Args) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    let cores = cores::pair()?;
    let Grants { asker, owner, relation: _relation } = shards::connect(args.hops, args.pages)?;
    let (asking_fetch, answering_fetch) = latency::page_fetch(args.pages)?;
    let (asking_chain, relays) =
        chain::connect(args.hops, asking_fetch.pages(), asking_fetch.arena())?;
    let mut asking = AskingEnd { grants: asker, fetch: asking_fetch, chain: asking_chain };
    let mut answering = AnsweringEnd { grants: owner, fetch: answering_fetch, chain: relays };
    // Times that the owner has taken all pages back.
    let resets = &AtomicU32::new(0);
    two_ends(
        cores,
        move |switch| ask(&mut asking, args, switch, resets),
        move |switch| answer(&mut answering, switch, resets),
    )
}

fn ask(
    end: &mut AskingEnd,
    args: &Args,
    switch: &Switch,
    resets: &AtomicU32,
) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    end.grants.establish(switch)?;
    end.fetch.establish(switch)?;
    let mut number = 0;
    Paired::alternate(args.run.rounds, |leg| {
        let samples = args.samples_per_round;
        match LEGS[leg] {
            GRANT => ask_grants(&mut end.grants, args, switch, resets),
            FETCH => {
                switch.turn_to(FETCH);
                latency::fetch_leg(&mut end.fetch, samples, &mut number, switch)
            }
            _ => {
                switch.turn_to(CHAIN);
                end.chain.leg(samples, &mut number, switch)
            }
        }
    })
}

/// All pages in turn, the owner taking them back in between; the first turn only warms up.
fn ask_grants(
    asker: &mut ShardAsker,
    args: &Args,
    switch: &Switch,
    resets: &AtomicU32,
) -> Result<Samples, BenchError> {
    let mut samples = Samples::new();
    let mut warm_up = Samples::new();
    let mut left = args.samples_per_round;
    let mut warm = false;
    while left > 0 {
        let done = resets.load(Ordering::Acquire);
        switch.turn_to(RESET);
        asker.serve_until(switch, || resets.load(Ordering::Acquire) != done)?;
        switch.turn_to(GRANT);
        let pages = if warm { left.min(args.pages) } else { args.pages };
        let into = if warm { &mut samples } else { &mut warm_up };
        asker.take(pages, args.mode.mode(), into, switch)?;
        if warm {
            left -= pages;
        }
        warm = true;
    }
    Ok(samples)
}

fn answer(end: &mut AnsweringEnd, switch: &Switch, resets: &AtomicU32) -> Result<(), BenchError> {
    end.grants.establish(switch)?;
    end.fetch.establish(switch)?;
    let mut reset_done = false;
    while let Some(turn) = switch.turn() {
        let way = turn.leg();
        match way {
            RESET if !reset_done => {
                end.grants.take_back(switch)?;
                resets.fetch_add(1, Ordering::Release);
                reset_done = true;
            }
            RESET | GRANT => {
                reset_done &= way == RESET;
                end.grants.poll();
            }
            FETCH => latency::answer_fetches(&mut end.fetch, turn, switch)?,
            CHAIN => end.chain.relay(way, switch)?,
            _ => std::hint::spin_loop(),
        }
    }
    Ok(())
}

/// The figures, ready to print.
#[derive(Debug)]
struct Figures<'a> {
    args: &'a Args,
    grant: Summary,
    page_fetch: Summary,
    bare_chain: Summary,
    ratio_fetch: f64,
    ratio_chain: f64,
    control: f64,
}

impl<'a> Figures<'a> {
    fn new(args: &'a Args, paired: &Paired<{ LEGS.len() }>) -> Self {
        let [grant, fetch, chain, again] = [0, 1, 2, 3];
        Self {
            args,
            grant: paired.samples(grant).summary(),
            page_fetch: paired.samples(fetch).summary(),
            bare_chain: paired.samples(chain).summary(),
            ratio_fetch: paired.ratio_p50(grant, fetch),
            ratio_chain: paired.ratio_p50(grant, chain),
            control: paired.ratio_p50(again, chain),
        }
    }

    /// What the grant is held against: the page fetch over 2 hops, the bare chain over 3.
    fn ratio(&self) -> f64 {
        if self.args.hops == 2 { self.ratio_fetch } else { self.ratio_chain }
    }
}

impl Report for Figures<'_> {
    fn json(&self) -> Value {
        json!({
            "hops": self.args.hops,
            "grant": self.grant.json(),
            "page_fetch": self.page_fetch.json(),
            "bare_chain": self.bare_chain.json(),
            "ratio_p50": rounded(self.ratio()),
            "ratio_page_fetch_p50": rounded(self.ratio_fetch),
            "ratio_bare_chain_p50": rounded(self.ratio_chain),
            "control": rounded(self.control),
            "rounds": self.args.run.rounds,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        Some(Verdict::of(self.control, self.args.run.rounds))
    }

    fn lines(&self) -> Vec<String> {
        let verdict = Verdict::of(self.control, self.args.run.rounds);
        let Args { hops, mode, pages, run: Run { rounds, .. }, .. } = self.args;
        let mode = mode.mode();
        vec![
            format!("{hops}-way grant of {mode} with the page, {pages} pages in turn"),
            Summary::heading(),
            self.grant.row("grant"),
            self.page_fetch.row("page fetch"),
            self.bare_chain.row("bare chain"),
            format!(
                "ratio of p50, median of {rounds} rounds: {:.3} to the page fetch (2 hops), {:.3} \
                 to the bare chain ({hops} hops)",
                self.ratio_fetch, self.ratio_chain
            ),
            verdict.to_string(),
        ]
    }
}
