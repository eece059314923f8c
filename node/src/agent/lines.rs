//! The line protocol between the demo's coordinator and the agent of one instance.
//!
//! ```text
//!  coordinator                 agent
//!       |  <-- listening --      |    the address that the instance took
//!       |  -- peers 0=.. -->     |
//!       |  <-- ready --          |    sessions to all peers are up
//!       |  -- start -->          |
//!       |  <-- progress -- ...   |
//!       |  -- meet 3=.. -->      |    an instance that may join; this and views at any time
//!       |  <-- met --            |    it is known, and may link
//!       |  -- view FILE -->      |    members come or go
//!       |  <-- view --           |    it is in force
//!       |  <-- settled --        |    the directory of this instance is complete again
//!       |  -- stop -->           |
//!       |  <-- stopped --        |    workers ended, log synced
//!       |  -- flush -->          |    or: leave
//!       |  <-- flushed --        |    no dirty page is left here; or left: nothing at all is
//!       |  -- quit -->           |
//!       |  <-- report --         |    and the process exits 0
//! ```
//! Purpose: events are JSON objects, commands are words, one a line, over the child's stdout and
//! stdin. `error` may come at any time and is the last event. Pure: text in, values out.

use crate::latency::GrantsWire;
use pagewire_protocol::InstanceId;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, str::FromStr};

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
        /// The longest wait for a page of those that ended since the last time, in microseconds.
        #[serde(default)]
        longest_us: u64,
    },
    /// Instances that may join are known.
    Met,
    /// A view is in force.
    View {
        /// Its number.
        epoch: u64,
    },
    /// The part of the directory that this instance keeps is complete.
    Settled {
        /// The view since which it was not.
        epoch: u64,
    },
    /// The workers have ended and the log is on stable storage.
    Stopped,
    /// Every dirty page is on storage.
    Flushed,
    /// Nothing is left here: no page, no past image, no part of the directory.
    Left,
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
            Self::Left => "left",
            Self::Met => "met",
            Self::View { .. } => "view",
            Self::Settled { .. } => "settled",
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
    /// Invalidations that it published.
    pub invalidations: u64,
    /// Times that a cache was used which an invalidation should have cleared.
    pub stale_uses: u64,
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
    /// Where instances listen that may join.
    Meet(Vec<(InstanceId, SocketAddr)>),
    /// The file with the bytes of a view, to put it in force. (On a line it would be longer than a
    /// pipe holds, and the coordinator would wait for each agent in turn.)
    View(PathBuf),
    /// Start the workers.
    Start,
    /// End the workers.
    Stop,
    /// Write back every dirty page.
    Flush,
    /// Give up everything, to be no member any more.
    Leave,
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
            Self::Meet(peers) => {
                f.write_str("meet")?;
                peers.iter().try_for_each(|(instance, address)| write!(f, " {instance}={address}"))
            }
            Self::View(file) => write!(f, "view {}", file.display()),
            Self::Start => f.write_str("start"),
            Self::Stop => f.write_str("stop"),
            Self::Flush => f.write_str("flush"),
            Self::Leave => f.write_str("leave"),
            Self::Quit => f.write_str("quit"),
        }
    }
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no command, expected one of: peers INSTANCE=ADDRESS..., meet INSTANCE=ADDRESS..., \
     view FILE, start, stop, flush, leave, quit"
)]
pub struct CommandError {
    found: String,
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let wrong = || CommandError { found: line.chars().take(200).collect() };
        if let Some(file) = line.strip_prefix("view ") {
            return if file.is_empty() { Err(wrong()) } else { Ok(Self::View(file.into())) };
        }
        let mut words = line.split_whitespace();
        let peer = |word: &str| {
            let (instance, address) = word.split_once('=')?;
            Some((InstanceId(instance.parse().ok()?), address.parse().ok()?))
        };
        let command = match words.next() {
            Some("peers") => {
                let peers = words.by_ref().map(peer).collect::<Option<Vec<_>>>();
                Self::Peers(peers.ok_or_else(wrong)?)
            }
            Some("meet") => {
                let peers = words.by_ref().map(peer).collect::<Option<Vec<_>>>();
                Self::Meet(peers.ok_or_else(wrong)?)
            }
            Some("start") => Self::Start,
            Some("stop") => Self::Stop,
            Some("flush") => Self::Flush,
            Some("leave") => Self::Leave,
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
        let commands = [
            Command::View("/tmp/a folder/view-2".into()),
            Command::Meet(peers.clone()),
            Command::Peers(peers),
            Command::Start,
            Command::Stop,
            Command::Flush,
            Command::Leave,
            Command::Quit,
        ];
        for command in commands {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
        assert_eq!("peers".parse(), Ok(Command::Peers(vec![])));
    }

    #[test]
    fn lines_that_are_no_command_are_refused() {
        let lines = ["", "go", "start now", "peers 1", "peers 1=x", "peers 70000=127.0.0.1:1"];
        for line in lines.into_iter().chain(["view", "view ", "meet 0"]) {
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
            Event::Progress { transfers: 1, audits: 2, pages_shipped: 3, longest_us: 4 },
            Event::Settled { epoch: 7 },
            Event::Report(Box::default()),
            Event::Error { message: "a \"quoted\"\nline".to_owned() },
        ];
        for event in events {
            assert_eq!(serde_json::from_str::<Event>(&text(&event)).expect("parsed"), event);
            assert!(!text(&event).contains('\n'));
        }
    }
}
