//! Every message type in one table, and every exchange as a sequence; docs/messages.md is made
//! from here and a test keeps it equal.

mod exchanges;
mod messages;

pub use exchanges::{EXCHANGES, HANDSHAKE};
pub use messages::MESSAGES;

use crate::MessageKind;
use messages::EPOCH;
use std::fmt::Write as _;

/// What an engineer needs to know of one message type.
#[derive(Debug, Clone, Copy)]
pub struct MessageDoc {
    /// Its number.
    pub kind: MessageKind,
    /// Its name.
    pub name: &'static str,
    /// Lane it travels on.
    pub lane: &'static str,
    /// Who sends it to whom, and when.
    pub sent: &'static str,
    /// What answers it.
    pub answer: &'static str,
    /// What happens when it is late, doubled or of an old epoch.
    pub late: &'static str,
}

/// One exchange: steps as (from, to, text).
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// What it achieves.
    pub title: &'static str,
    /// What to know before reading the steps.
    pub note: &'static str,
    /// The steps, in order.
    pub steps: &'static [(&'static str, &'static str, &'static str)],
}

/// Numbers that are given out but not yet spoken; users of the original know them.
pub const RESERVED: &[(u16, &str)] =
    &[(99, "MAX_PCM_REQUEST_MESSAGE: the greatest number of a PCM request")];

/// The text of docs/messages.md.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "<!-- Made from protocol/src/catalog; a test keeps it equal. To renew it:\n     \
         PAGEWIRE_BLESS=1 cargo test -p pagewire-protocol catalog -->\n# Messages\n\n\
         Every message has the 48-byte session header (protocol/src/header.rs) and a body of at \
         most 80 bytes; PCM bodies have all 80 (protocol/src/pcm). Sessions deliver exactly once \
         and in order per lane, so \"late\" and \"doubled\" below speak of other lanes, of repeated \
         requests and of changed views.\n\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(out, "PCM messages {EPOCH}.\n");
    out.push_str("| number | name | lane | sent | answered by | late, doubled |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for m in MESSAGES {
        let MessageDoc { kind, name, lane, sent, answer, late } = m;
        let _ = writeln!(out, "| {kind} | {name} | {lane} | {sent} | {answer} | {late} |");
    }
    out.push_str("\nReserved numbers: ");
    let reserved: Vec<_> = RESERVED.iter().map(|(n, name)| format!("{n} ({name})")).collect();
    out.push_str(&reserved.join(", "));
    out.push_str(
        ".\n\n# Handshake\n\nBefore there is a session, without its header:\n\n\
         | name | what it is |\n| --- | --- |\n",
    );
    for (name, what) in HANDSHAKE {
        let _ = writeln!(out, "| {name} | {what} |");
    }
    out.push_str("\n# Exchanges\n");
    for exchange in EXCHANGES {
        let _ = write!(out, "\n## {}\n\n", exchange.title);
        if !exchange.note.is_empty() {
            let _ = write!(out, "{}\n\n", exchange.note);
        }
        out.push_str("```mermaid\nsequenceDiagram\n");
        for (from, to, text) in exchange.steps {
            let _ = writeln!(out, "    {from}->>{to}: {text}");
        }
        out.push_str("```\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_messages_md_is_what_the_catalog_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/messages.md");
        if std::env::var_os("PAGEWIRE_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            on_disk == markdown(),
            "docs/messages.md is stale: its first line says how to renew it"
        );
    }

    #[test]
    fn numbers_are_unique_and_every_step_names_a_message() {
        let mut numbers: Vec<u16> = MESSAGES.iter().map(|m| m.kind.0).collect();
        numbers.extend(RESERVED.iter().map(|r| r.0));
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        for (_, to, text) in EXCHANGES.iter().flat_map(|e| e.steps) {
            let word = text.split([' ', ',', ':']).next().unwrap();
            let is_known = MESSAGES.iter().any(|m| m.name == word)
                || HANDSHAKE.iter().any(|(name, _)| *name == word);
            assert!(*to == "storage" || is_known, "{text}");
        }
    }
}
