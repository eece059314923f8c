//! What the two hosts say to each other beside what is measured: JSON objects, one a line.
//!
//! A line has a greatest length and each wait a limit, so that neither a stranger nor a host that
//! has gone away holds the other one up for good.

use crate::{error::BenchError, latency, rate};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fmt,
    io::{self, BufRead, BufReader, ErrorKind, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Port of the control connection, unless another one is given.
pub(super) const PORT: u16 = 7410;
/// Version of this conversation. Both hosts have to speak the same one.
pub(super) const VERSION: u32 = 1;
/// Longest line.
const LINE_BYTES_MAX: usize = 4096;
/// Longest excerpt of a stranger's line in an error.
const EXCERPT_CHARS: usize = 120;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Benchmark {
    /// Round trips.
    Latency(latency::Plan),
    /// One way.
    Rate(rate::Plan),
}

impl Benchmark {
    /// An error if the other host asks for more than the options allow.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        match self {
            Self::Latency(plan) if plan.sleep => {
                Err(BenchError::Control("found sleep, expected ends that spin".into()))
            }
            Self::Latency(plan) => plan.setup.check(),
            Self::Rate(plan) => plan.check(),
        }
    }

    /// Legs that it has.
    pub(super) fn legs(&self) -> &'static [u32] {
        match self {
            Self::Latency(_) => &latency::LEGS,
            Self::Rate(_) => &rate::LEGS,
        }
    }
}

/// What the client says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Request {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Cluster id of this session.
        cluster: u64,
        /// Where the client's endpoint listens, at the address that this connection comes from.
        endpoint_port: u16,
        /// What to measure.
        benchmark: Benchmark,
    },
    /// Both ends go on to this leg.
    Turn {
        /// The leg.
        leg: u32,
    },
    /// All is measured.
    End,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Reply {
    /// To a hello.
    Ready {
        /// Where the server's endpoint listens, at the address that the client has connected to.
        endpoint_port: u16,
        /// Where the bare sockets are accepted.
        bare_port: u16,
    },
    /// To a turn.
    Turned {
        /// The leg.
        leg: u32,
    },
    /// It is over, and why.
    Error {
        /// For people.
        text: String,
    },
}

/// One end of the control connection.
#[derive(Debug)]
pub(super) struct Control {
    reader: BufReader<TcpStream>,
    peer: SocketAddr,
}

impl Control {
    /// Speaks over `stream`.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let peer = stream.peer_addr()?;
        Ok(Self { reader: BufReader::new(stream), peer })
    }

    /// Another handle on the connection, to say something from another thread.
    pub(super) fn voice(&self) -> io::Result<Voice> {
        self.reader.get_ref().try_clone().map(Voice)
    }

    /// The other host's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This host's address on the connection.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        self.reader.get_ref().local_addr()
    }

    /// Says `what`.
    pub(super) fn say(&self, what: &impl Serialize) -> Result<(), BenchError> {
        say(self.reader.get_ref(), what).map_err(|e| self.failed(e))
    }

    /// The next line; `None` when the other host has closed the connection.
    pub(super) fn hear(&mut self, limit: Duration) -> Result<Option<Value>, BenchError> {
        let Some(line) = self.line(limit)? else { return Ok(None) };
        match serde_json::from_slice::<Value>(&line) {
            Ok(value) if value.is_object() => Ok(Some(value)),
            _ => {
                let excerpt: String =
                    String::from_utf8_lossy(&line).trim_end().chars().take(EXCERPT_CHARS).collect();
                Err(BenchError::Control(format!(
                    "{} is no pagewire-bench: found {excerpt:?}, expected a JSON object on one line",
                    self.peer
                )))
            }
        }
    }

    /// The next line, or as much of it as a line may have. `None` when the connection is closed.
    fn line(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, BenchError> {
        let until = Instant::now() + limit;
        let mut line = Vec::new();
        loop {
            // A timeout of 0 would mean none.
            let left =
                until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let bytes = match self.fill(left) {
                Ok([]) if line.is_empty() => return Ok(None),
                Ok([]) => return Ok(Some(line)),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if is_timeout(&e) => {
                    let peer = self.peer;
                    return Err(BenchError::Control(format!(
                        "{peer} said nothing for {limit:?} on the control connection"
                    )));
                }
                Err(e) => return Err(self.failed(e)),
            };
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let count = end.map_or(bytes.len(), |at| at + 1);
            line.extend_from_slice(&bytes[..count]);
            self.reader.consume(count);
            // Whoever sends a byte at a time does not win time by it.
            if end.is_some() || line.len() >= LINE_BYTES_MAX || Instant::now() > until {
                return Ok(Some(line));
            }
        }
    }

    /// Bytes that are there, waiting for them up to `limit`; none at the end of the connection.
    fn fill(&mut self, limit: Duration) -> io::Result<&[u8]> {
        self.reader.get_ref().set_read_timeout(Some(limit))?;
        self.reader.fill_buf()
    }

    /// Waits for the first bytes of a line, and calls `told` once if they take longer than `limit`.
    pub(super) fn silence(&mut self, limit: Duration, told: impl FnOnce()) {
        // Whatever else happened, whoever reads next finds it, too.
        if self.fill(limit).is_err_and(|e| is_timeout(&e)) {
            told();
        }
    }

    /// Waits up to `limit` for the other host to say something or to close the connection, which
    /// whoever reads next finds. True if it has done either.
    pub(super) fn is_heard(&mut self, limit: Duration) -> bool {
        match self.fill(limit) {
            Ok(_) => true,
            Err(e) => !is_timeout(&e) && e.kind() != ErrorKind::Interrupted,
        }
    }

    /// Waits for the other host to close the connection, or to say something, up to `limit`. True
    /// if it has closed it.
    pub(super) fn has_left(&mut self, limit: Duration) -> bool {
        match self.fill(limit) {
            Ok(bytes) => bytes.is_empty(),
            Err(e) => !is_timeout(&e) && e.kind() != ErrorKind::Interrupted,
        }
    }

    /// The next reply of the server; what it reports as an error is one.
    pub(super) fn reply(&mut self, limit: Duration) -> Result<Reply, BenchError> {
        let Some(value) = self.hear(limit)? else {
            return Err(BenchError::Control(format!(
                "{} closed the control connection",
                self.peer
            )));
        };
        match self.understood(value)? {
            Reply::Error { text } => Err(BenchError::Remote(text)),
            reply => Ok(reply),
        }
    }

    /// `value` as what it is meant to be.
    pub(super) fn understood<T: for<'a> Deserialize<'a>>(
        &self,
        value: Value,
    ) -> Result<T, BenchError> {
        serde_json::from_value(value).map_err(|e| self.not_understood(&e))
    }

    fn not_understood(&self, why: &dyn fmt::Display) -> BenchError {
        BenchError::Control(format!(
            "{} said on the control connection what this build does not understand: {why}; use the \
             same build on both hosts",
            self.peer
        ))
    }

    fn failed(&self, error: io::Error) -> BenchError {
        BenchError::Control(format!("the control connection to {} failed: {error}", self.peer))
    }
}

/// See [`Control::voice`].
#[derive(Debug)]
pub(super) struct Voice(TcpStream);

impl Voice {
    /// Says why it is over, and wakes whoever listens on this side.
    pub(super) fn give_up(&self, why: &BenchError) {
        // If the other host does not hear it, it sees the connection end.
        let _ = say(&self.0, &Reply::Error { text: why.to_string() });
        let _ = self.0.shutdown(Shutdown::Read);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn say(mut stream: &TcpStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ways::{Setup, Size};

    fn hello() -> Request {
        let setup = Setup { frames: 64, keep: 0, page_crc: true, credits: None };
        let plan =
            latency::Plan { request: Size::Small(64), reply: Size::Page, sleep: false, setup };
        let benchmark = Benchmark::Latency(plan);
        Request::Hello { version: VERSION, cluster: u64::MAX, endpoint_port: 1, benchmark }
    }

    #[test]
    fn a_hello_survives_the_wire_to_the_last_bit() {
        let text = serde_json::to_string(&hello()).unwrap();
        assert!(text.contains(r#""say":"hello""#) && text.contains(r#""reply":8192"#), "{text}");
        assert!(text.len() < LINE_BYTES_MAX);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), hello());
    }

    #[test]
    fn a_host_that_sends_a_byte_at_a_time_does_not_hold_the_other_one_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut control = Control::new(listener.accept().unwrap().0).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let sender = std::thread::spawn(move || {
            // Far longer than the limit, if nobody stops it.
            for _ in 0..2000 {
                slow.write_all(b"x").unwrap();
                if stopped.recv_timeout(Duration::from_millis(5)).is_ok() {
                    return true;
                }
            }
            false
        });
        assert!(control.hear(Duration::from_millis(50)).is_err());
        stop.send(()).unwrap();
        assert!(sender.join().unwrap(), "it was heard to the end");
    }

    #[test]
    fn a_size_that_no_message_has_is_refused_from_another_host_too() {
        let text = serde_json::to_string(&hello()).unwrap().replace("8192", "4096");
        let error = serde_json::from_str::<Request>(&text).unwrap_err().to_string();
        assert!(error.contains("8 to 80"), "{error}");
    }

    #[test]
    fn more_than_the_options_allow_is_refused_from_another_host_too() {
        let setup = Setup { frames: 64, keep: 0, page_crc: true, credits: None };
        let rate = |messages, batch, setup| {
            Benchmark::Rate(rate::Plan { size: Size::Page, messages, batch, setup }).check()
        };
        rate(1, 1, setup).unwrap();
        for broken in [
            rate(0, 1, setup),
            rate(u64::MAX, 1, setup),
            rate(1, 0, setup),
            rate(1, 1, Setup { frames: 0, ..setup }),
            rate(1, 1, Setup { frames: u32::MAX, ..setup }),
            rate(1, 1, Setup { keep: u32::MAX, ..setup }),
            rate(1, 1, Setup { credits: Some(0), ..setup }),
        ] {
            assert!(broken.unwrap_err().to_string().contains("expected"));
        }
    }
}
