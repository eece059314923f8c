//! What is said of a ring, a line for each thing met: for people, or JSON.

use pagewire_protocol::SiMessage;
use pagewire_si::{SiEntry, SiReader};
use serde_json::{Value, json};
use std::path::Path;

/// What was met.
#[derive(Debug)]
pub(super) enum Met<'a> {
    /// The ring, from now on.
    Attached { path: &'a Path, reader: &'a SiReader },
    /// A message.
    Message(&'a SiEntry),
    /// Readers reset.
    Reset(&'a SiReader),
    /// The ring is replaced.
    Gone,
    /// It has no name any more, and is waited for so long, in seconds.
    Waiting { path: &'a Path, limit_s: u64 },
    /// Nobody writes it.
    NoWriter,
    /// Somebody writes it again.
    Writer(&'a SiReader),
}

impl Met<'_> {
    pub(super) fn line(&self, json: bool) -> String {
        if json { self.json().to_string() } else { self.text() }
    }

    fn text(&self) -> String {
        match self {
            Self::Attached { path, reader } => format!(
                "ring {}: instance {}, {} entries, writer {} since it was made, process {}",
                path.display(),
                reader.instance(),
                reader.entries(),
                reader.generation(),
                reader.writer_pid()
            ),
            Self::Message(entry) => {
                let about = match entry.message() {
                    Ok(message) => message.to_string(),
                    Err(_) => format!("unknown kind, {}", hex(&entry.bytes())),
                };
                format!("{} from {}: {about}", entry.sequence(), entry.publisher())
            }
            Self::Reset(reader) => format!(
                "reset: messages are missing before {}, readers forget what they cached",
                reader.cursor()
            ),
            Self::Gone => "gone: it was replaced or removed, attaching again".to_owned(),
            Self::Waiting { path, limit_s } => format!(
                "waiting: there is no {} now, which an instance makes when it starts; up to {limit_s} s",
                path.display()
            ),
            Self::NoWriter => {
                "no writer: the instance has ended; the next one resets all readers".to_owned()
            }
            Self::Writer(reader) => format!(
                "writer {}: process {}, incarnation {}",
                reader.generation(),
                reader.writer_pid(),
                reader.incarnation()
            ),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Attached { path, reader } => {
                let mut object = writer(reader, "attached");
                object["ring"] = json!(path.display().to_string());
                object["instance"] = json!(reader.instance().0);
                object["entries"] = json!(reader.entries());
                object
            }
            Self::Message(entry) => {
                let mut object = match entry.message() {
                    Ok(message) => about(&message),
                    Err(_) => json!({ "kind": "unknown", "bytes": hex(&entry.bytes()) }),
                };
                object["event"] = json!("message");
                object["sequence"] = json!(entry.sequence());
                object["publisher"] = json!(entry.publisher().0);
                object
            }
            Self::Reset(reader) => json!({ "event": "reset", "next_sequence": reader.cursor() }),
            Self::Gone => json!({ "event": "gone" }),
            Self::Waiting { limit_s, .. } => json!({ "event": "waiting", "limit_s": limit_s }),
            Self::NoWriter => json!({ "event": "no_writer" }),
            Self::Writer(reader) => writer(reader, "writer"),
        }
    }
}

fn writer(reader: &SiReader, event: &str) -> Value {
    json!({
        "event": event,
        "generation": reader.generation(),
        "incarnation": reader.incarnation().0,
        "pid": reader.writer_pid(),
        "next_sequence": reader.cursor(),
    })
}

fn about(message: &SiMessage) -> Value {
    match *message {
        SiMessage::Catcache { cache, database, hash } => {
            json!({ "kind": "catcache", "cache": cache.get(), "database": database, "hash": hash })
        }
        SiMessage::Catalog { database, catalog } => {
            json!({ "kind": "catalog", "database": database, "catalog": catalog })
        }
        SiMessage::Relcache { database, relation } => {
            json!({ "kind": "relcache", "database": database, "relation": relation })
        }
        SiMessage::Smgr { backend, space, database, relation } => json!({
            "kind": "smgr", "backend": backend.get(), "space": space, "database": database,
            "relation": relation,
        }),
        SiMessage::Relmap { database } => json!({ "kind": "relmap", "database": database }),
        SiMessage::Snapshot { database, relation } => {
            json!({ "kind": "snapshot", "database": database, "relation": relation })
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
