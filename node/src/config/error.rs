//! Why a configuration cannot be used.

use pagewire_protocol::InstanceId;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {}: {source}; name an existing TOML file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no regular file. Others may never end, or keep a reader waiting for good.
    #[error(
        "configuration {}: found {found}, expected a regular file with TOML text (or a link to \
         one): name that",
        path.display()
    )]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// It is far larger than a configuration can be.
    #[error(
        "configuration {}: found more than {most_bytes} bytes, expected a TOML file of at most so \
         many: check that it is the right file",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that are read.
        most_bytes: u64,
    },
    /// It holds something else than text.
    #[error(
        "configuration {}: line {line}: found bytes that are not UTF-8, expected TOML text: check \
         that it is the right file, or save it as UTF-8",
        path.display()
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line with the first such byte.
        line: usize,
    },
    /// The text is no configuration.
    #[error("configuration {}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, what was found and what is expected.
        problem: String,
    },
    /// The arena is too small for the frames that have to be there.
    #[error(
        "configuration {}: arena_mb is {found_mb}, that is {frames} frames of {page_bytes} bytes, \
         expected at least {needed} for {peers} {}{}: raise `arena_mb` to {needed_mb}",
        path.display(), if *peers == 1 { "peer" } else { "peers" }, of_shards(*shards)
    )]
    ArenaTooSmall {
        /// The file.
        path: PathBuf,
        /// Size of the arena, in MiB.
        found_mb: u32,
        /// Frames that fit in there.
        frames: u32,
        /// Bytes of a frame.
        page_bytes: usize,
        /// Fewest frames.
        needed: u64,
        /// Least size that has them, in MiB.
        needed_mb: u64,
        /// Other instances.
        peers: usize,
        /// Shards, each with a share of the arena.
        shards: u16,
    },
    /// A peer's address cannot be right.
    #[error("configuration {}: peer {peer} has address {address}, {problem}", path.display())]
    PeerAddress {
        /// The file.
        path: PathBuf,
        /// The peer's id.
        peer: InstanceId,
        /// The address given for it.
        address: SocketAddr,
        /// What is wrong with it, and what is expected.
        problem: String,
    },
    /// A peer would be given up before its second keepalive.
    #[error(
        "configuration {}: peer_timeout_ms is {found_ms} with keepalive_ms {keepalive_ms}, expected \
         at least {needed_ms}, twice as long: raise `peer_timeout_ms` or lower `keepalive_ms`",
        path.display()
    )]
    PeerTimeout {
        /// The file.
        path: PathBuf,
        /// The time-out.
        found_ms: u64,
        /// Time between keepalives.
        keepalive_ms: u64,
        /// Shortest time-out.
        needed_ms: u64,
    },
    /// A value is out of range.
    #[error("configuration {}: {key} is {found}, expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl ConfigError {
    pub(super) fn value(
        path: &Path,
        key: &'static str,
        found: String,
        expected: &'static str,
    ) -> Self {
        Self::Value { path: path.to_owned(), key, found, expected }
    }
}

fn of_shards(shards: u16) -> String {
    if shards > 1 { format!(" of {shards} shards each") } else { String::new() }
}
