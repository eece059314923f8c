//! Pagewire's benchmarks. Each runs beside what it is measured against, on the same cores,
//! alternated round by round: a ratio survives a noisy machine, a figure in microseconds does not.
//!
//! ```text
//!   latency  one round trip between two endpoints     against bare sockets, same bytes and calls
//!   rate     messages a second, one way               against bare sockets, one by one and batched
//!   serve    latency and rate between two hosts:      the same, ours and bare in turn
//!   connect    the answering and the asking end
//!   ucx      latency or rate                          against ucx_perftest, on the same cores
//!   verbs    latency or rate over RDMA verbs          alone: perftest takes turns with it
//!   grant    a page of another instance               against a page fetch, and a bare chain
//!   hit      a page that is held locally              against a bare hash look-up
//!   directory  memory and time of a directory entry   against a map of the standard library
//!   broadcast  an invalidation to every instance      against a 64 B ping-pong
//!   move     requests while partitions are moved       alone: no request over 100 ms
//!   ring     invalidations through shared memory      alone; and two sizes of ring at one load
//!   rebuild  requests while a master's share is rebuilt   alone: seconds, and where they go
//! ```
//! What carries the messages is in [`ways`], how legs alternate in [`pairing`].
#![forbid(unsafe_code)]

mod broadcast;
mod cores;
mod directory;
mod error;
mod grant;
mod hit;
mod hosts;
mod latency;
mod options;
mod pairing;
mod rate;
mod relation;
mod report;
mod ring;
mod spin;
mod stats;
mod ucx;
mod verbs;
mod views;
mod ways;

use clap::{Parser, Subcommand};
use error::BenchError;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Measures Pagewire, each figure beside the bare loop it is compared with.
#[derive(Debug, Parser)]
#[command(name = "pagewire-bench", version)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// A round trip between two endpoints, against bare sockets that move the same bytes.
    Latency(latency::Args),
    /// Messages a second one way, against bare sockets.
    Rate(rate::Args),
    /// The other end of latency and rate between two hosts.
    Serve(hosts::ServeArgs),
    /// Latency or rate between this host and one that runs `serve`.
    Connect(hosts::ConnectArgs),
    /// The same measurement by ucx_perftest and by ours, on the same cores.
    Ucx(ucx::Args),
    /// Latency or rate over RDMA verbs, to be alternated with perftest.
    Verbs(verbs::Args),
    /// A page of another instance, from the request to the pinned page.
    Grant(grant::Args),
    /// A page that is held locally, against a bare hash look-up.
    Hit(hit::Args),
    /// What a page costs in the directory: memory, look-up, insert.
    Directory(directory::Args),
    /// An invalidation, to every instance's ring and to readers in other processes.
    Broadcast(broadcast::Args),
    /// A reader process of `broadcast`.
    #[command(hide = true)]
    BroadcastReader(broadcast::ReaderArgs),
    /// Requests while an eighth of the partitions moves to other masters.
    Move(views::Args),
    /// Requests while the share of a dead master is rebuilt.
    Rebuild(views::Args),
    /// The SI ring: a look, messages a second, and who has to reset at which size.
    Ring(ring::Args),
}

impl Benchmark {
    fn run(&self) -> Result<(), BenchError> {
        match self {
            Self::Latency(args) => latency::run(args),
            Self::Rate(args) => rate::run(args),
            Self::Serve(args) => hosts::serve(args),
            Self::Connect(args) => hosts::connect(args),
            Self::Ucx(args) => ucx::run(args),
            Self::Verbs(args) => verbs::run(args),
            Self::Grant(args) => grant::run(args),
            Self::Hit(args) => hit::run(args),
            Self::Directory(args) => directory::run(args),
            Self::Broadcast(args) => broadcast::run(args),
            Self::BroadcastReader(args) => broadcast::run_reader(args),
            Self::Move(args) => views::run(args, views::Change::Leave),
            Self::Rebuild(args) => views::run(args, views::Change::Crash),
            Self::Ring(args) => ring::run(args),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().benchmark.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "pagewire-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
