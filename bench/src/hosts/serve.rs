//! The server: one client at a time, each for as long as its benchmark takes.

use super::control::{Benchmark, Control, PORT, Reply, Request, VERSION};
use crate::{
    cores,
    error::BenchError,
    latency, rate,
    report::say,
    spin::Switch,
    ways::{NUMBER_BYTES, Ours, number_in, spinning},
};
use core_affinity::CoreId;
use pagewire_protocol::{ClusterId, InstanceId};
use serde_json::Value;
use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for the hello of a client, and for its bare connections.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// Longest leg, and so longest silence of a client.
const LEG_MAX: Duration = Duration::from_secs(120);
/// Pause between two looks for a bare connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);

/// Options of `serve`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Address of the control connection, IP:PORT: that of this host which the other one reaches. There
    /// is no key: whoever reaches it can have this host run benchmarks. Port 0 lets the system choose
    #[arg(
        long,
        value_name = "ADDR",
        value_parser = address,
        default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
    )]
    listen: SocketAddr,
    /// Leave after so many clients [default: never]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    clients: Option<u32>,
}

/// Reads an address, and says what one is when it is none.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "expected IP:PORT, for example 10.0.0.1:{PORT} or [fd00::1]:{PORT}; names are not looked up \
             (`ip addr` tells this host's addresses)"
        )
    })
}

/// Serves until it is stopped, or `clients` were served.
///
/// # Errors
/// [`BenchError`] when it cannot listen or print; what goes wrong with one client is printed.
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    // Before any thread is pinned.
    let core = cores::one(cores::Side::Answerer)?;
    let listen = args.listen;
    let listener = TcpListener::bind(listen).map_err(|e| {
        BenchError::Control(format!(
            "cannot listen on {listen}: {e}; choose another address with --listen, or stop what \
             uses it"
        ))
    })?;
    let address = listener.local_addr()?;
    say(&format!("listening on {address}"))?;
    if let Some(notice) = notice(address) {
        eprintln!("pagewire-bench: {notice}");
    }
    let mut served = 0;
    while args.clients != Some(served) {
        let (stream, client) = listener.accept()?;
        served = served.saturating_add(1);
        match Control::new(stream).map_err(BenchError::from).and_then(|c| serve(c, core)) {
            Ok(()) => say(&format!("served {client}"))?,
            Err(error @ BenchError::Output(_)) => return Err(error),
            Err(error) => eprintln!("pagewire-bench: client {client}: {error}"),
        }
    }
    Ok(())
}

/// What whoever starts the server should know of an address that it listens on.
fn notice(address: SocketAddr) -> Option<String> {
    (!address.ip().is_loopback()).then(|| {
        format!(
            "whoever reaches {address} can have this host run benchmarks, for there is no key: end this \
             afterwards, or see that a firewall keeps others out"
        )
    })
}

fn serve(mut control: Control, core: CoreId) -> Result<(), BenchError> {
    let result = serve_client(&mut control, core);
    if let Err(error) = &result
        && let Ok(voice) = control.voice()
    {
        voice.give_up(error);
    }
    result
}

fn serve_client(control: &mut Control, core: CoreId) -> Result<(), BenchError> {
    let Some((cluster, client_endpoint, benchmark)) = hello(control)? else { return Ok(()) };
    benchmark.check()?;
    say(&format!("serving {}", control.peer()))?;
    let ip = control.local()?.ip();
    let setup = match &benchmark {
        Benchmark::Latency(plan) => &plan.setup,
        Benchmark::Rate(plan) => &plan.setup,
    };
    let mut ours = Ours::new(InstanceId(0), ClusterId(cluster), ip, setup)?;
    ours.add_peer(client_endpoint)?;
    let listener = TcpListener::bind(SocketAddr::new(ip, 0))?;
    let ready = Reply::Ready {
        endpoint_port: ours.listen_address().port(),
        bare_port: listener.local_addr()?.port(),
    };
    control.say(&ready)?;
    match &benchmark {
        Benchmark::Latency(plan) => {
            let sockets = accept(&listener, control, cluster)?;
            let mut end = latency::End::new(ours, sockets, plan)?;
            conduct(control, &benchmark, core, move |switch| {
                latency::answer(&mut end, plan, switch)
            })
        }
        Benchmark::Rate(plan) => {
            let sockets = accept(&listener, control, cluster)?;
            let mut end = rate::End::new(ours, sockets, plan)?;
            conduct(control, &benchmark, core, move |switch| rate::receive(&mut end, plan, switch))
        }
    }
}

/// The client's hello: cluster id, where its endpoint listens, and what it wants. `None` if it left
/// without a word.
fn hello(control: &mut Control) -> Result<Option<(u64, SocketAddr, Benchmark)>, BenchError> {
    let Some(value) = control.hear(HELLO_MAX)? else { return Ok(None) };
    // Of another version nothing but the version can be relied on.
    let version = value.get("version").and_then(Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        let found = version.map_or("no version".into(), |version| format!("version {version}"));
        return Err(BenchError::Control(format!(
            "found {found} of the benchmark's control protocol, expected version {VERSION}: use the \
             same build on both hosts"
        )));
    }
    match control.understood(value)? {
        Request::Hello { cluster, endpoint_port, benchmark, .. } => {
            let endpoint = SocketAddr::new(control.peer().ip(), endpoint_port);
            Ok(Some((cluster, endpoint, benchmark)))
        }
        other => Err(BenchError::Control(format!("found {other:?}, expected a hello"))),
    }
}

/// Runs the answering end on its own thread, and turns it when the client says so.
fn conduct(
    control: &mut Control,
    benchmark: &Benchmark,
    core: CoreId,
    answer: impl FnMut(&Switch) -> Result<(), BenchError> + Send,
) -> Result<(), BenchError> {
    let switch = Switch::new();
    let voice = control.voice()?;
    thread::scope(|scope| {
        let switch = &switch;
        let answerer = scope.spawn(move || {
            let result = switch.run(core, answer);
            if let Err(error) = &result
                && !error.is_consequence()
            {
                voice.give_up(error);
            }
            result
        });
        let turned = turn(control, benchmark, switch);
        // However it ended: the answerer does not wait any longer.
        drop(switch.stop_at_end());
        let answered = answerer.join().map_err(|_| BenchError::Panicked("answerer"))?;
        match (turned, answered) {
            (Ok(Ended::Regularly), _) => Ok(()),
            (_, Err(error)) if !error.is_consequence() => Err(error),
            (Ok(Ended::Left), _) => Err(left()),
            (Err(error), _) => Err(error),
        }
    })
}

fn left() -> BenchError {
    BenchError::Control("left before the end".into())
}

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It said so.
    Regularly,
    /// Without a word.
    Left,
}

fn turn(
    control: &mut Control,
    benchmark: &Benchmark,
    switch: &Switch,
) -> Result<Ended, BenchError> {
    loop {
        let Some(value) = control.hear(LEG_MAX)? else { return Ok(Ended::Left) };
        match control.understood(value)? {
            Request::Turn { leg } if benchmark.legs().contains(&leg) => {
                switch.turn_to(leg);
                control.say(&Reply::Turned { leg })?;
            }
            Request::End => return Ok(Ended::Regularly),
            other => {
                let legs = benchmark.legs();
                return Err(BenchError::Control(format!(
                    "found {other:?}, expected a turn to one of the legs {legs:?}, or the end"
                )));
            }
        }
    }
}

/// The bare connections, each with its ticket: the cluster id and its place.
fn accept<const N: usize>(
    listener: &TcpListener,
    control: &mut Control,
    cluster: u64,
) -> Result<[TcpStream; N], BenchError> {
    let client = control.peer().ip();
    let mut places = [(); N].map(|()| None);
    listener.set_nonblocking(true)?;
    let until = Instant::now() + HELLO_MAX;
    while places.iter().any(Option::is_none) {
        match listener.accept() {
            // A stranger's connection is dropped.
            Ok((stream, peer)) if peer.ip() == client => {
                if let Some((found, place)) = ticket(&stream)
                    && found == cluster
                    && let Some(place) = places.get_mut(place)
                {
                    spinning(&stream)?;
                    *place = Some(stream);
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if control.has_left(ACCEPT_PAUSE) {
                    return Err(left());
                }
            }
            Err(e) => return Err(e.into()),
        }
        if Instant::now() > until {
            return Err(BenchError::Deadline { what: "the bare connections", limit: HELLO_MAX });
        }
    }
    let sockets: Vec<_> = places.into_iter().flatten().collect();
    sockets.try_into().map_err(|_| BenchError::NoFrame)
}

/// What a bare connection begins with.
fn ticket(mut stream: &TcpStream) -> Option<(u64, usize)> {
    let mut bytes = [0; 2 * NUMBER_BYTES];
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.read_exact(&mut bytes).ok()?;
    let place = usize::try_from(number_in(&bytes[NUMBER_BYTES..])).ok()?;
    Some((number_in(&bytes), place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_other_hosts_reach_says_that_there_is_no_key() {
        for address in ["0.0.0.0:7410", "10.0.0.1:7410", "[::]:7410"] {
            let notice = notice(address.parse().unwrap()).unwrap();
            assert!(notice.contains(address) && notice.contains("no key"), "{notice}");
        }
        for address in ["127.0.0.1:7410", "[::1]:7410"] {
            assert_eq!(notice(address.parse().unwrap()), None);
        }
    }
}
