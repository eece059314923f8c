//! The line protocol between the demo's coordinator and the agent of one instance.
//!
//! ```text
//!  coordinator                 agent
//!       |  <-- listening --      |    the address that the instance took
//!       |  -- peers 0=.. -->     |
//!       |  <-- ready --          |    sessions to all peers are up
//!       |  -- start -->          |
//!       |  <-- progress -- ...   |
//!       |  -- stop -->           |
//!       |  <-- stopped --        |    workers ended, log synced
//!       |  -- flush -->          |
//!       |  <-- flushed --        |    no dirty page is left here
//!       |  -- quit -->           |
//!       |  <-- report --         |    and the process exits 0
//! ```
//! Purpose: events are JSON objects, commands are words, one a line, over the child's stdout and
//! stdin. `error` may come at any time and is the last event. Pure: text in, values out.

use crate::latency::GrantsWire;
use pagewire_protocol::InstanceId;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

/// What the agent tells the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The instance listens.
    Listening {
        /// Where its peers reach it.
        address: SocketAddr,
    },
    /// The instance has sessions to all its peers.
    Ready,
    /// What was done so far.
    Progress {
        /// Finished transfers.
        transfers: u64,
        /// Finished audits.
        audits: u64,
        /// Pages sent to other instances.
        pages_shipped: u64,
    },
    /// The workers have ended and the log is on stable storage.
    Stopped,
    /// Every dirty page is on storage.
    Flushed,
    /// What was done in all.
    Report(Box<Report>),
    /// The instance cannot go on.
    Error {
        /// What was found, what was expected, what to do.
        message: String,
    },
}

impl Event {
    /// What the coordinator calls it when it waits for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Listening { .. } => "listening",
            Self::Ready => "ready",
            Self::Progress { .. } => "progress",
            Self::Stopped => "stopped",
            Self::Flushed => "flushed",
            Self::Report(_) => "report",
            Self::Error { .. } => "error",
        }
    }
}

/// What one instance did in all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Finished transfers.
    pub transfers: u64,
    /// Finished audits.
    pub audits: u64,
    /// Audits whose sum was wrong.
    pub audit_failures: u64,
    /// Reads of read-only pages.
    pub reads: u64,
    /// Pages sent to other instances.
    pub pages_shipped: u64,
    /// Bytes of those messages.
    pub bytes_shipped: u64,
    /// Grants by kind.
    pub grants: GrantsWire,
    /// What its links were on.
    pub links: LinkCounts,
}

/// What links were on when the workers had ended. Each link is counted by the end with the lesser id,
/// each reason by the end that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounts {
    /// Links on verbs.
    pub verbs: u64,
    /// Links on TCP.
    pub tcp: u64,
    /// Links that were down.
    pub down: u64,
    /// How often messages fell from verbs to TCP.
    pub falls_to_tcp: u64,
    /// How often verbs was not used or was given up, by the reason's name.
    pub tcp_reasons: BTreeMap<String, u64>,
}

impl LinkCounts {
    /// Adds those of another instance.
    pub fn add(&mut self, other: &Self) {
        self.verbs += other.verbs;
        self.tcp += other.tcp;
        self.down += other.down;
        self.falls_to_tcp += other.falls_to_tcp;
        for (reason, count) in &other.tcp_reasons {
            *self.tcp_reasons.entry(reason.clone()).or_default() += count;
        }
    }
}

/// What the coordinator tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Where every member listens, the agent's own instance included.
    Peers(Vec<(InstanceId, SocketAddr)>),
    /// Start the workers.
    Start,
    /// End the workers.
    Stop,
    /// Write back every dirty page.
    Flush,
    /// Report and exit.
    Quit,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peers(peers) => {
                f.write_str("peers")?;
                peers.iter().try_for_each(|(instance, address)| write!(f, " {instance}={address}"))
            }
            Self::Start => f.write_str("start"),
            Self::Stop => f.write_str("stop"),
            Self::Flush => f.write_str("flush"),
            Self::Quit => f.write_str("quit"),
        }
    }
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no command, expected one of: peers INSTANCE=ADDRESS..., start, stop, flush, quit"
)]
pub struct CommandError {
    found: String,
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let wrong = || CommandError { found: line.chars().take(200).collect() };
        let mut words = line.split_whitespace();
        let command = match words.next() {
            Some("peers") => {
                let peer = |word: &str| {
                    let (instance, address) = word.split_once('=')?;
                    Some((InstanceId(instance.parse().ok()?), address.parse().ok()?))
                };
                let peers = words.by_ref().map(peer).collect::<Option<Vec<_>>>();
                Self::Peers(peers.ok_or_else(wrong)?)
            }
            Some("start") => Self::Start,
            Some("stop") => Self::Stop,
            Some("flush") => Self::Flush,
            Some("quit") => Self::Quit,
            _ => return Err(wrong()),
        };
        if words.next().is_none() { Ok(command) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_as_written() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let peers = vec![
            (InstanceId(0), address("127.0.0.1:1")),
            (InstanceId(65535), address("[::1]:65535")),
        ];
        let commands =
            [Command::Peers(peers), Command::Start, Command::Stop, Command::Flush, Command::Quit];
        for command in commands {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
        assert_eq!("peers".parse(), Ok(Command::Peers(vec![])));
    }

    #[test]
    fn lines_that_are_no_command_are_refused() {
        for line in ["", "go", "start now", "peers 1", "peers 1=x", "peers 70000=127.0.0.1:1"] {
            assert!(line.parse::<Command>().is_err(), "{line}");
        }
    }

    #[test]
    fn events_are_json_objects_named_by_event() {
        let text = |event: &Event| serde_json::to_string(event).expect("JSON");
        let listening = Event::Listening { address: "127.0.0.1:41234".parse().expect("address") };
        assert_eq!(text(&listening), r#"{"event":"listening","address":"127.0.0.1:41234"}"#);
        assert_eq!(text(&Event::Ready), r#"{"event":"ready"}"#);
        let report = text(&Event::Report(Box::new(Report { transfers: 3, ..Report::default() })));
        assert!(report.starts_with(r#"{"event":"report","transfers":3,"#), "{report}");
        assert!(report.contains(r#""grants":{"local":{"count":0,"histogram":[]}"#), "{report}");
        let events = [
            listening,
            Event::Progress { transfers: 1, audits: 2, pages_shipped: 3 },
            Event::Report(Box::default()),
            Event::Error { message: "a \"quoted\"\nline".to_owned() },
        ];
        for event in events {
            assert_eq!(serde_json::from_str::<Event>(&text(&event)).expect("parsed"), event);
            assert!(!text(&event).contains('\n'));
        }
    }
}
