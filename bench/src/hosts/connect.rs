//! The client: the asking end, and the one that says whose turn it is.

use super::control::{Benchmark, Control, PORT, Reply, Request, VERSION};
use crate::{
    cores,
    error::BenchError,
    latency,
    options::Common,
    rate,
    report::Report,
    spin::Switch,
    ways::{CREDITS_MAX, NUMBER_BYTES, Ours, Setup, Size, put_number, spinning},
};
use core_affinity::CoreId;
use pagewire_protocol::{ClusterId, InstanceId};
use std::{
    io::Write,
    net::{Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    thread,
    time::Duration,
};

/// Longest wait for a connection.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Wait for the server's first word after which the user is told what may be the matter.
const BUSY_AFTER: Duration = Duration::from_secs(3);
/// Longest wait for the server's first word: it may be busy with another client.
const BUSY_MAX: Duration = Duration::from_secs(180);
/// Longest wait for the server to turn to another leg.
const TURN_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks whether there is a session, in which the server is listened to.
const SESSION_PAUSE: Duration = Duration::from_millis(1);
/// Wait for the server's reason when something failed here.
const REASON_MAX: Duration = Duration::from_secs(1);

/// Options of `connect`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The server: HOST or HOST:PORT, where `pagewire-bench serve --listen` listens [default port: 7410]
    #[arg(value_name = "HOST:PORT")]
    server: String,
    /// Bytes of the request's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64", conflicts_with = "rate")]
    request: Size,
    /// Bytes of the reply's body: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64", conflicts_with = "rate")]
    reply: Size,
    /// Round trips measured in each leg of each round
    #[arg(
        long,
        default_value_t = latency::SAMPLES_PER_ROUND,
        conflicts_with = "rate",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    samples_per_round: u32,
    /// Messages a second one way, instead of round trips
    #[arg(long)]
    rate: bool,
    /// Bytes of each message: 8 to 80, or 8192 for a page in a frame
    #[arg(long, value_name = "BYTES", default_value = "64", requires = "rate")]
    size: Size,
    /// Messages measured in each leg of each round [default: 200000, of pages 20000]
    #[arg(
        long,
        requires = "rate",
        value_parser = clap::value_parser!(u64).range(1..=rate::PER_ROUND_MAX)
    )]
    messages_per_round: Option<u64>,
    /// Credits of the lane that carries them [default: those of an endpoint]
    #[arg(
        long,
        requires = "rate",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CREDITS_MAX))
    )]
    credits: Option<u32>,
    #[command(flatten)]
    common: Common,
}

impl Args {
    fn benchmark(&self) -> Benchmark {
        let setup = self.common.setup(self.credits);
        if self.rate {
            let messages = self.messages_per_round;
            return Benchmark::Rate(rate::Plan::new(self.size, messages, rate::BATCH, setup));
        }
        let (request, reply) = (self.request, self.reply);
        Benchmark::Latency(latency::Plan { request, reply, sleep: false, setup })
    }
}

/// Runs the benchmark with a server and prints it.
///
/// # Errors
/// [`BenchError`]; the server's reason if it has one.
pub(crate) fn run(args: &Args) -> Result<(), BenchError> {
    // Before any thread is pinned.
    let core = cores::one(cores::Side::Asker)?;
    let mut control = dial(&args.server)?;
    let result = measure(args, &mut control, core);
    match result {
        Err(error) if !matches!(error, BenchError::Remote(_) | BenchError::Control(_)) => {
            // If the server knows more, it has said so.
            match control.reply(REASON_MAX) {
                Err(reason @ BenchError::Remote(_)) => Err(reason),
                Err(BenchError::Control(gone)) if error.is_consequence() => {
                    Err(BenchError::Control(format!("{gone}: {error}")))
                }
                _ => Err(error),
            }
        }
        result => result,
    }
}

fn dial(server: &str) -> Result<Control, BenchError> {
    let failed = |why: String| {
        BenchError::Control(format!(
            "cannot reach {server}: {why}; run `pagewire-bench serve --listen IP:PORT` there with an \
             address that this host reaches, and see that its port is open"
        ))
    };
    let mut last = failed("it has no address".into());
    for address in addresses(server)? {
        match TcpStream::connect_timeout(&address, DIAL_MAX).and_then(Control::new) {
            Ok(control) => return Ok(control),
            Err(e) if address.to_string() == server => last = failed(e.to_string()),
            Err(e) => last = failed(format!("{address}: {e}")),
        }
    }
    Err(last)
}

/// The addresses of HOST:PORT, or of a host or IP address alone.
fn addresses(server: &str) -> Result<Vec<SocketAddr>, BenchError> {
    let alone = !server.contains(':') || server.parse::<Ipv6Addr>().is_ok();
    let found = if alone {
        (server, PORT).to_socket_addrs().map(Iterator::collect)
    } else {
        server.to_socket_addrs().map(Iterator::collect)
    };
    found.map_err(|e| {
        BenchError::Control(format!(
            "{server:?} is no HOST:PORT that can be found: {e}; expected a name that this host can look up \
             or an IP address, and a port from 1 to 65535: 10.0.0.2:{PORT}, [fd00::2]:{PORT}, or without \
             the port"
        ))
    })
}

fn measure(args: &Args, control: &mut Control, core: CoreId) -> Result<(), BenchError> {
    let benchmark = args.benchmark();
    let cluster = getrandom::u64().map_err(|e| BenchError::Control(format!("no random: {e}")))?;
    let over = format!("TCP between {} and {}", control.local()?.ip(), control.peer());
    let rounds = args.common.run.rounds;
    match &benchmark {
        Benchmark::Latency(plan) => {
            let (ours, sockets) = meet(control, cluster, &benchmark, &plan.setup)?;
            let mut end = latency::End::new(ours, sockets, plan)?;
            let effort = latency::Effort { rounds, samples_per_round: args.samples_per_round };
            let paired = conduct(control, core, |switch, turn| {
                latency::ask(&mut end, plan, effort, switch, turn)
            })?;
            latency::Figures::new(plan, rounds, &paired, &over).print(args.common.run.json)
        }
        Benchmark::Rate(plan) => {
            let (ours, sockets) = meet(control, cluster, &benchmark, &plan.setup)?;
            let mut end = rate::End::new(ours, sockets, plan)?;
            let figures = conduct(control, core, |switch, turn| {
                rate::send(&mut end, plan, rounds, switch, turn)
            })?;
            rate::Figures::new(plan, rounds, &figures, &over).print(args.common.run.json)
        }
    }
}

/// Says hello, and has an endpoint with a session with the server's, and the bare connections.
fn meet<const N: usize>(
    control: &mut Control,
    cluster: u64,
    benchmark: &Benchmark,
    setup: &Setup,
) -> Result<(Ours, [TcpStream; N]), BenchError> {
    let ip = control.local()?.ip();
    let mut ours = Ours::new(InstanceId(1), ClusterId(cluster), ip, setup)?;
    let endpoint_port = ours.listen_address().port();
    let benchmark = *benchmark;
    control.say(&Request::Hello { version: VERSION, cluster, endpoint_port, benchmark })?;
    let (endpoint, bare) = match first_reply(control)? {
        Reply::Ready { endpoint_port, bare_port } => {
            let at = |port| SocketAddr::new(control.peer().ip(), port);
            (at(endpoint_port), at(bare_port))
        }
        other => return Err(unexpected(&other, "ready")),
    };
    ours.add_peer(endpoint)?;
    let mut place = 0;
    let sockets = [(); N].map(|()| {
        place += 1;
        ticketed(bare, cluster, place - 1)
    });
    let sockets: Result<Vec<_>, _> = sockets.into_iter().collect();
    let sockets = sockets?.try_into().map_err(|_| BenchError::NoFrame)?;
    ours.establish_watching(|| still_there(control))?;
    Ok((ours, sockets))
}

/// An error when the server has gone, or says why it goes: it has nothing else to say before it is
/// asked for a turn.
fn still_there(control: &mut Control) -> Result<(), BenchError> {
    if !control.is_heard(SESSION_PAUSE) {
        return Ok(());
    }
    let has_left = control.has_left(SESSION_PAUSE);
    match control.reply(REASON_MAX) {
        Ok(other) => Err(unexpected(&other, "nothing before a turn")),
        Err(BenchError::Control(why)) if has_left => {
            Err(BenchError::Control(format!("{why}: the server is gone; start it again")))
        }
        Err(reason) => Err(reason),
    }
}

/// The server's answer to the hello, which it gives when it is done with its other clients.
fn first_reply(control: &mut Control) -> Result<Reply, BenchError> {
    control.silence(BUSY_AFTER, || {
        eprintln!("pagewire-bench: the server does not answer yet: it may serve another client");
    });
    control.reply(BUSY_MAX)
}

fn unexpected(found: &Reply, expected: &str) -> BenchError {
    BenchError::Control(format!("the server said {found:?}, expected {expected}"))
}

/// A bare connection that says which one it is.
fn ticketed(address: SocketAddr, cluster: u64, place: u64) -> Result<TcpStream, BenchError> {
    let mut stream = TcpStream::connect_timeout(&address, DIAL_MAX).map_err(|e| {
        BenchError::Control(format!(
            "the server's port for bare connections, {address}, cannot be reached: {e}; its \
             firewall has to let all ports pass"
        ))
    })?;
    let mut ticket = [0; 2 * NUMBER_BYTES];
    put_number(&mut ticket, cluster);
    put_number(&mut ticket[NUMBER_BYTES..], place);
    stream.write_all(&ticket)?;
    spinning(&stream)?;
    Ok(stream)
}

/// Runs the asking end on a thread of its own. What it is given turns both ends to a leg. The end
/// itself outlives it, so that the server hears of the end before its connections are gone.
fn conduct<T: Send>(
    control: &mut Control,
    core: CoreId,
    mut ask: impl FnMut(
        &Switch,
        &mut (dyn FnMut(u32) -> Result<(), BenchError> + Send),
    ) -> Result<T, BenchError>
    + Send,
) -> Result<T, BenchError> {
    let switch = Switch::new();
    let mut turn = |leg| {
        control.say(&Request::Turn { leg })?;
        match control.reply(TURN_MAX)? {
            Reply::Turned { leg: found } if found == leg => {
                switch.turn_to(leg);
                Ok(())
            }
            other => Err(unexpected(&other, &format!("turned to leg {leg}"))),
        }
    };
    let result = thread::scope(|scope| {
        let asker = scope.spawn(|| switch.run(core, |switch| ask(switch, &mut turn)));
        asker.join().map_err(|_| BenchError::Panicked("asker"))
    })??;
    control.say(&Request::End)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_address_without_a_port_gets_the_usual_one() {
        let of = |server| addresses(server).map(|found| found[0].to_string());
        assert_eq!(of("127.0.0.1").unwrap(), "127.0.0.1:7410");
        assert_eq!(of("127.0.0.1:80").unwrap(), "127.0.0.1:80");
        assert_eq!(of("::1").unwrap(), "[::1]:7410");
        assert_eq!(of("[::1]:80").unwrap(), "[::1]:80");
        for wrong in ["127.0.0.1:99999", "127.0.0.1:"] {
            let told = of(wrong).unwrap_err().to_string();
            for words in ["no HOST:PORT", wrong, "1 to 65535", "10.0.0.2:7410"] {
                assert!(told.contains(words), "'{words}' in: {told}");
            }
        }
    }

    /// What an end is told whose server does `then` while the session is being set up.
    fn while_set_up(then: impl FnOnce(TcpStream)) -> BenchError {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut control = Control::new(client).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(still_there(&mut control).is_ok(), "it has not said anything");
        let setup = Setup { frames: 2, keep: 0, page_crc: true, credits: None };
        let ip = "127.0.0.1".parse().unwrap();
        let mut ours = Ours::new(InstanceId(1), ClusterId(1), ip, &setup).unwrap();
        // Accepts, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        ours.add_peer(silent.local_addr().unwrap()).unwrap();
        then(server);
        ours.establish_watching(|| still_there(&mut control)).unwrap_err()
    }

    #[test]
    fn a_server_that_goes_while_the_session_is_set_up_ends_the_wait() {
        let error = while_set_up(drop).to_string();
        assert!(error.contains("closed the control connection"), "{error}");
        assert!(error.contains("the server is gone"), "{error}");
        let reason = b"{\"say\":\"error\",\"text\":\"out of luck\"}\n";
        let error = while_set_up(|mut server| server.write_all(reason).unwrap());
        assert!(matches!(&error, BenchError::Remote(text) if text == "out of luck"), "{error}");
        let early = b"{\"say\":\"turned\",\"leg\":1}\n";
        let error = while_set_up(|mut server| server.write_all(early).unwrap()).to_string();
        assert!(error.contains("expected nothing before a turn"), "{error}");
    }
}
