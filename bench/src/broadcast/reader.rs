//! Reader processes: this program once more, with a subcommand that help does not show.
//!
//! ```text
//!   bench --"200\n"--> reader       reads "ready", then so many stamped messages from the ring
//!         <--"812 1304 ..."         how old each was, in nanoseconds, when it was read
//! ```
//! Both read the same monotonic clock; a message carries the time of its publication.

use crate::{error::BenchError, stats::Samples};
use pagewire_protocol::{ClusterId, SiMessage};
use pagewire_si::{SiEntry, SiRead, SiReader};
use rustix::time::{ClockId, clock_gettime};
use std::{
    env,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest that a reader waits for what is published.
const LIMIT: Duration = Duration::from_secs(60);

/// Options of the hidden subcommand.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReaderArgs {
    /// The ring
    #[arg(long)]
    ring: PathBuf,
    /// Its cluster
    #[arg(long)]
    cluster: u64,
}

/// The monotonic clock of the system, the same for all processes.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let ns = |number: i64| u64::try_from(number).unwrap_or(0);
    ns(now.tv_sec) * 1_000_000_000 + ns(now.tv_nsec)
}

/// A message that carries a number.
pub(super) fn stamped(number: u64) -> SiMessage {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    let (database, relation) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    SiMessage::Relcache { database, relation }
}

fn number_of(message: &SiMessage) -> Option<u64> {
    let SiMessage::Relcache { database, relation } = message else { return None };
    Some(u64::from(*relation) << 32 | u64::from(*database))
}

/// A reader process; it ends with this value.
#[derive(Debug)]
pub(super) struct Reader {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Reader {
    pub(super) fn start(ring: &Path, cluster: ClusterId) -> Result<Self, BenchError> {
        let program = env::current_exe()?;
        let mut child = Command::new(program)
            .args(["broadcast-reader", "--cluster", &cluster.0.to_string(), "--ring"])
            .arg(ring)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let gone = || BenchError::Tool("a reader process has no pipes".to_owned());
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        Ok(Self { child, stdin, stdout })
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(BenchError::Tool("a reader process has ended; see its words above".into()));
        }
        Ok(line)
    }

    /// It reads so many messages from now on.
    pub(super) fn begin(&mut self, count: u32) -> Result<(), BenchError> {
        writeln!(self.stdin, "{count}")?;
        self.line().map(drop)
    }

    /// How old they were when it read them.
    pub(super) fn end(&mut self, count: u32, into: &mut Samples) -> Result<(), BenchError> {
        let line = self.line()?;
        let ages = line.split_whitespace().filter_map(|word| word.parse().ok());
        let before = into.count();
        ages.for_each(|age_ns| into.record(Duration::from_nanos(age_ns)));
        let found = into.count() - before;
        if found == u64::from(count) {
            return Ok(());
        }
        Err(BenchError::Tool(format!("a reader read {found} messages, expected {count}")))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reader process.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run_reader(args: &ReaderArgs) -> Result<(), BenchError> {
    let failed = |error: &dyn std::error::Error| BenchError::Tool(error.to_string());
    let mut reader =
        SiReader::attach(&args.ring, ClusterId(args.cluster)).map_err(|e| failed(&e))?;
    let mut entries = [SiEntry::default(); 64];
    for line in io::stdin().lock().lines() {
        let count: usize = line?.trim().parse().map_err(|e| failed(&e))?;
        // What was published in other legs is not looked at.
        while reader.has_new() {
            reader.read(&mut entries);
        }
        println!("ready");
        let (mut ages, deadline) = (Vec::with_capacity(count), Instant::now() + LIMIT);
        while ages.len() < count {
            if !reader.has_new() {
                if Instant::now() > deadline {
                    let found = format!("a reader found {} of {count} messages", ages.len());
                    return Err(BenchError::Tool(found));
                }
                thread::yield_now();
                continue;
            }
            if let SiRead::Messages(read) = reader.read(&mut entries) {
                let now = now_ns();
                let numbers = entries[..read].iter().filter_map(|entry| entry.message().ok());
                let stamps = numbers.filter_map(|message| number_of(&message));
                ages.extend(stamps.map(|stamp| now.saturating_sub(stamp)));
            }
        }
        let mut text = String::new();
        for age in ages {
            // Writing to a String cannot fail.
            let _ = write!(text, "{age} ");
        }
        println!("{text}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_from_its_message() {
        for number in [0, 1, u64::from(u32::MAX) + 5, u64::MAX] {
            assert_eq!(number_of(&stamped(number)), Some(number));
        }
        assert_eq!(number_of(&SiMessage::Relmap { database: 1 }), None);
    }
}
