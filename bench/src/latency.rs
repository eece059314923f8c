//! `latency`: one round trip at a time between two threads, each on its own core and each spinning.
//!
//! ```text
//!   asker (core A)                                       answerer (core B)
//!   start = now; say(request, n)  ---------------------> hear(request) = n
//!   hear(reply) = n, checked; now - start  <------------ say(reply, n)
//! ```
//! Three ways carry it, over loopback TCP: two endpoints ([`ours`]), bare sockets with the same wire
//! bytes and system calls, and bare sockets with the payload alone (both in [`bare`]). Asker and
//! answerer are the same code for all three. Both ends turn from way to way together; the ways
//! whose turn it is not are left alone.

mod bare;
mod ours;
mod traffic;

pub(crate) use bare::Bare;
pub(crate) use ours::Ours;
pub(crate) use traffic::{Pages, Size, same};

use crate::{
    cores,
    error::BenchError,
    pairing::{Paired, Verdict},
    spin::{Patience, Switch},
    stats::{Samples, Summary, rounded},
};
use bare::Plain;
use core_affinity::CoreId;
use pagewire_protocol::InstanceId;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

/// Round trips before those that are measured, each time a way gets its turn: caches, branch
/// predictors and the endpoint's hot connections find their state again.
pub(crate) const WARM_UP: u32 = 300;

/// Options of `latency`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the request's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    request: Size,
    /// Bytes of the reply's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64")]
    reply: Size,
    /// Rounds; each runs every leg once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Round trips measured in each leg of each round
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..))]
    samples_per_round: u32,
    /// Resident pages that page messages are sent from in turn
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    frames: u32,
    /// Received pages that are kept before their frames are used again: 0 lands every page in a
    /// frame that is still in the cache
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=65536))]
    keep: u32,
    /// Leave out the CRC of each page
    #[arg(long)]
    no_page_crc: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One way to carry messages, seen from one end.
pub(crate) trait Way {
    /// Sends a message of `size` that carries `number`.
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError>;

    /// Looks once for a message of `size`; its number if it is there, its contents checked.
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError>;
}

/// Ways, as the switch counts them. 0 is none.
const OURS: u32 = 1;
const BARE: u32 = 2;
const PLAIN: u32 = 3;

/// Legs of a round, in the order of the pairing: bare runs twice, as the control.
const LEGS: [u32; 4] = [OURS, BARE, BARE, PLAIN];

/// Both sides of what a thread owns: its end of each way.
#[derive(Debug)]
struct End {
    ours: Ours,
    bare: Bare,
    plain: Plain,
}

/// Two endpoints, the asker's first, for page fetches: 64 B asked, one of `frames` resident pages
/// back.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn page_fetch(frames: u32) -> Result<(Ours, Ours), BenchError> {
    let args = fetch_args(frames, 1);
    let (mut asker, mut answerer) =
        (Ours::new(InstanceId(1), &args)?, Ours::new(InstanceId(0), &args)?);
    let (at_asker, at_answerer) = (asker.listen_address(), answerer.listen_address());
    asker.add_peer(InstanceId(0), at_answerer)?;
    answerer.add_peer(InstanceId(1), at_asker)?;
    Ok((asker, answerer))
}

fn fetch_args(frames: u32, samples_per_round: u32) -> Args {
    let (request, reply) = (Size::Small(64), Size::Page);
    let (rounds, no_page_crc, json) = (1, false, false);
    Args { request, reply, rounds, samples_per_round, frames, keep: frames, no_page_crc, json }
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
    ask_leg(ours, &fetch_args(1, samples), number, switch)
}

/// Answers page fetches until the asker turns to another way than `leg`.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn answer_fetches(ours: &mut Ours, leg: u32, switch: &Switch) -> Result<(), BenchError> {
    answer_leg(ours, &fetch_args(1, 1), leg, switch)
}

/// Runs the benchmark and prints it.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    let paired = measure(args)?;
    let report = Report::new(args, &paired);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    let [asker_core, answerer_core] = cores::pair()?;
    let (asker, answerer) = connect(args)?;
    let switch = Switch::new();
    let (asked, answered) = thread::scope(|scope| {
        let answered = scope.spawn(|| answer(answerer, args, answerer_core, &switch));
        let asked = scope.spawn(|| ask(asker, args, asker_core, &switch));
        (asked.join(), answered.join())
    });
    let asked = asked.map_err(|_| BenchError::Panicked("asker"))?;
    let answered = answered.map_err(|_| BenchError::Panicked("answerer"))?;
    match (asked, answered) {
        (Err(consequence), Err(cause)) if consequence.is_consequence() => Err(cause),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        (Ok(paired), Ok(())) => Ok(paired),
    }
}

fn connect(args: &Args) -> Result<(End, End), BenchError> {
    let (mut asker, mut answerer) =
        (Ours::new(InstanceId(1), args)?, Ours::new(InstanceId(0), args)?);
    let (at_asker, at_answerer) = (asker.listen_address(), answerer.listen_address());
    asker.add_peer(InstanceId(0), at_answerer)?;
    answerer.add_peer(InstanceId(1), at_asker)?;
    let (bare, plain) = (sockets()?, sockets()?);
    let end = |ours: Ours, bare, plain| {
        let bare = Bare::new(bare, ours.pages().clone(), ours.arena(), ours.landing_frames())?;
        let plain = Plain::new(plain, ours.arena())?;
        Ok::<_, BenchError>(End { ours, bare, plain })
    };
    Ok((end(asker, bare.0, plain.0)?, end(answerer, bare.1, plain.1)?))
}

/// Two connected, nonblocking sockets on loopback.
pub(crate) fn sockets() -> Result<(TcpStream, TcpStream), BenchError> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let dialled = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for stream in [&dialled, &accepted] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    Ok((dialled, accepted))
}

fn ask(
    mut end: End,
    args: &Args,
    core: CoreId,
    switch: &Switch,
) -> Result<Paired<{ LEGS.len() }>, BenchError> {
    let _stop = switch.stop_at_end();
    cores::pin(core)?;
    end.ours.establish(switch)?;
    let mut number = 0;
    Paired::alternate(args.rounds, |leg| {
        let way = LEGS[leg];
        switch.turn_to(way);
        match way {
            OURS => ask_leg(&mut end.ours, args, &mut number, switch),
            BARE => ask_leg(&mut end.bare, args, &mut number, switch),
            _ => ask_leg(&mut end.plain, args, &mut number, switch),
        }
    })
}

fn ask_leg(
    way: &mut impl Way,
    args: &Args,
    number: &mut u64,
    switch: &Switch,
) -> Result<Samples, BenchError> {
    let mut samples = Samples::new();
    for i in 0..WARM_UP + args.samples_per_round {
        *number += 1;
        let start = Instant::now();
        round_trip(way, args, *number, switch)?;
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
    args: &Args,
    number: u64,
    switch: &Switch,
) -> Result<(), BenchError> {
    way.say(args.request, number, switch)?;
    let mut patience = Patience::new(switch, "a reply");
    loop {
        if let Some(found) = way.hear(args.reply)? {
            return same("the body of a reply", number, found, number);
        }
        patience.spin()?;
    }
}

fn answer(mut end: End, args: &Args, core: CoreId, switch: &Switch) -> Result<(), BenchError> {
    let _stop = switch.stop_at_end();
    cores::pin(core)?;
    end.ours.establish(switch)?;
    while let Some(way) = switch.leg() {
        match way {
            OURS => answer_leg(&mut end.ours, args, way, switch)?,
            BARE => answer_leg(&mut end.bare, args, way, switch)?,
            PLAIN => answer_leg(&mut end.plain, args, way, switch)?,
            _ => std::hint::spin_loop(),
        }
    }
    Ok(())
}

/// Answers until the asker turns to another way, which it does only when nothing is on the way.
fn answer_leg(
    way: &mut impl Way,
    args: &Args,
    leg: u32,
    switch: &Switch,
) -> Result<(), BenchError> {
    loop {
        match way.hear(args.request)? {
            Some(number) => way.say(args.reply, number, switch)?,
            None if switch.leg() != Some(leg) => return Ok(()),
            None => {}
        }
    }
}

/// The figures, ready to print.
#[derive(Debug)]
struct Report<'a> {
    args: &'a Args,
    ours: Summary,
    bare: Summary,
    plain: Summary,
    ratio_p50: f64,
    ratio_plain_p50: f64,
    control: f64,
}

impl<'a> Report<'a> {
    fn new(args: &'a Args, paired: &Paired<{ LEGS.len() }>) -> Self {
        let [ours, bare, again, plain] = [0, 1, 2, 3];
        Self {
            args,
            ours: paired.samples(ours).summary(),
            bare: paired.samples(bare).summary(),
            plain: paired.samples(plain).summary(),
            ratio_p50: paired.ratio_p50(ours, bare),
            ratio_plain_p50: paired.ratio_p50(ours, plain),
            control: paired.ratio_p50(again, bare),
        }
    }

    fn json(&self) -> Value {
        json!({
            "request": self.args.request.bytes(),
            "reply": self.args.reply.bytes(),
            "ours": self.ours.json(),
            "bare": self.bare.json(),
            "plain": self.plain.json(),
            "ratio_p50": rounded(self.ratio_p50),
            "ratio_plain_p50": rounded(self.ratio_plain_p50),
            "control": rounded(self.control),
            "rounds": self.args.rounds,
        })
    }

    fn text(&self) -> String {
        let (request, reply) = (self.args.request.bytes(), self.args.reply.bytes());
        let verdict = Verdict::of(self.control, self.args.rounds);
        let lines = [
            format!("round trip over loopback TCP, {request} B request, {reply} B reply"),
            Summary::heading(),
            self.ours.row("ours"),
            self.bare.row("bare"),
            self.plain.row("plain"),
            format!(
                "ratio of p50, median of {} rounds: {:.3} to bare (same bytes and calls), {:.3} to \
                 plain (payload alone)",
                self.args.rounds, self.ratio_p50, self.ratio_plain_p50
            ),
            verdict.to_string(),
        ];
        lines.map(|line| line + "\n").concat()
    }
}
