//! `move` and `rebuild`: what a view change does to requests while many pages are cached.
//!
//! Eight directory cores in one process pass messages in memory. Each has a clock of its own, which
//! goes on by the processor time that its core takes for an event, and messages take a fixed time
//! ([`LINK`]): as if each instance had a processor to itself, or `--processors` were shared by all,
//! each event in its turn. Nothing else of a runtime is in it,
//! neither system calls nor storage: what is measured is what the directory's own work does to
//! requests.
//!
//! ```text
//!   every page is held by one instance       clients of every instance ask for pages at random
//!   move      one of eight is leaving: its eighth of the partitions gets other masters
//!   rebuild   one of eight is dead: the same, and its pages wait for RedoDone
//! ```
//! With `--nodes` there are eight whole nodes instead: see [`nodes`].
//!
//! A request's stall is the time from when its client asks to when it has the page.

mod instance;
mod nodes;
mod report;
mod spent;
mod world;

use crate::{cores, error::BenchError, report::Report, stats::Samples};
use pagewire_node::random::Random;
use pagewire_protocol::{BufferTag, InstanceId, Mode};
use report::Figures;
use std::time::{Duration, Instant};
use world::{LINK, World};

/// Instances of the cluster.
const INSTANCES: u16 = 8;
/// The one that goes.
const GOES: InstanceId = InstanceId(INSTANCES - 1);
/// How long requests are watched before the view changes, and after it is done.
const CALM: Duration = Duration::from_millis(500);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(50);
/// Pages of the dead one that are asked for when its redo is done.
const RECOVERED: usize = 1000;

/// Options of `move` and `rebuild`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Pages that are cached, each by one of eight instances
    #[arg(
        long,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1000..=8_000_000)
    )]
    pages: u32,
    /// Requests that each instance has under way; each is followed by the next at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// Processors that the modelled instances share; with 8 each has one to itself
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=8))]
    processors: u16,
    /// Whole nodes over loopback that share this host's processors, instead of modelled cores; takes 5
    /// KiB of memory a page
    #[arg(long)]
    nodes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Why the view changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// An instance is leaving.
    Leave,
    /// An instance has died.
    Crash,
}

/// Requests of one stretch of time.
#[derive(Debug)]
struct Stretch {
    requests: Samples,
    took: Duration,
}

/// Runs `move` or `rebuild` and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args, change: Change) -> Result<(), BenchError> {
    if args.nodes {
        return nodes::run(args, change);
    }
    cores::pin(cores::pair()?[0])?;
    let mut random = Random::new(args.pages.into());
    let mut world = World::new(INSTANCES, args.processors)?;
    let begin = Instant::now();
    world.populate(args.pages, LIMIT)?;
    let populated = begin.elapsed();
    world.start_clients(args.clients, args.pages, &mut random);
    let before = calm(&mut world)?;
    if change == Change::Crash {
        // Pages on their way to or from the dead one would blur which it held.
        world.stop_clients(LIMIT)?;
    }
    let moved = change_view(&mut world, args, change, &mut random)?;
    let after = calm(&mut world)?;
    world.stop_clients(LIMIT)?;
    let recovered = if change == Change::Crash { Some(recover(&mut world)?) } else { None };
    let failed = world.failed();
    Figures { args, change, populated, before, moved, after, recovered, failed }.print(args.json)
}

/// What a view change was like.
#[derive(Debug)]
struct Moved {
    during: Stretch,
    partitions: usize,
    /// When each partition could be used again.
    ready: Samples,
    spent: spent::Spent,
}

fn calm(world: &mut World) -> Result<Stretch, BenchError> {
    let begin = world.now();
    world.run_while("requests", LIMIT, |world| world.now() < begin + CALM)?;
    Ok(Stretch { requests: world.take_requests(), took: world.now() - begin })
}

fn change_view(
    world: &mut World,
    args: &Args,
    change: Change,
    random: &mut Random,
) -> Result<Moved, BenchError> {
    let partitions = world.change_view(GOES, change)?;
    world.take_spent();
    world.take_ready();
    let begin = world.now();
    world.announce();
    if change == Change::Crash {
        world.start_clients(args.clients, args.pages, random);
    }
    let mut ready = Samples::new();
    world.run_while("all partitions to be usable again", LIMIT, |world| {
        for at in world.take_ready() {
            ready.record(at - begin);
        }
        usize::try_from(ready.count()).unwrap_or(usize::MAX) < partitions || world.has_more()
    })?;
    let took = world.now() - begin;
    let during = Stretch { requests: world.take_requests(), took };
    Ok(Moved { during, partitions, ready, spent: world.take_spent() })
}

/// The dead one's redo is applied: how long its pages then take, and how many there were.
fn recover(world: &mut World) -> Result<(Samples, usize), BenchError> {
    let held = world.held_by_dead();
    world.redo_done();
    world.ask_once(held.iter().take(RECOVERED), Mode::S);
    world.run_while("the dead one's pages", LIMIT, |world| world.is_waiting())?;
    Ok((world.take_requests(), held.len()))
}

/// The page with number `block`.
fn tag(block: u32) -> BufferTag {
    BufferTag { tablespace: 1663, database: 5, relation: 16384, block, ..BufferTag::default() }
}
