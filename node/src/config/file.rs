//! The TOML file: its keys, what each may be, and what is said when one is not.

use super::{ConfigError, NodeConfig, PeerConfig};
use crate::status::place::PATH_MAX_BYTES;
use pagewire_protocol::{ClusterId, InstanceId, PageSize};
use pagewire_si::{ENTRIES_MAX, ENTRIES_MIN};
use pagewire_transport::{LinkPolicy, link::verbs::Overrides};
use serde::Deserialize;
use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// What the keys take that a wrong number or type may be given for.
pub(super) const RANGES: &[(&str, &str)] = &[
    ("storage", "the path of a folder"),
    ("cluster_key", "the path of a file"),
    ("si_ring", "the path of a file"),
    ("rdma_device", "the name of an RDMA device, such as \"mlx5_0\""),
    ("cluster", "a number from 0 to 18446744073709551615"),
    ("instance", "a number from 0 to 63"),
    ("members", "a list of instance ids, each 0 to 63"),
    ("members_max", "1 to 64"),
    ("page_size", "4096, 8192, 16384 or 32768"),
    ("arena_mb", "1 to 1048576"),
    ("cache_pages", "a number from 32 to 4294967295"),
    ("huge_pages", "true or false"),
    ("lock_memory", "true or false"),
    ("dump_memory", "true or false"),
    ("page_crc", "true or false"),
    ("shards", "1 to 64"),
    ("poller_cores", "a list of core numbers"),
    ("spin_us", "0 to 1000000"),
    ("io_threads", "1 to 64"),
    ("acquire_timeout_ms", "1 to 86400000"),
    ("keepalive_ms", "1 to 3600000"),
    ("peer_timeout_ms", "2 to 86400000"),
    ("transport", "\"auto\", \"verbs\" or \"tcp\""),
    ("rdma_port", "1 to 255"),
    ("rdma_gid_index", "0 to 255"),
    ("si_ring_entries", "a power of two from 16 to 16777216"),
    ("status_socket", SOCKET),
];

const SOCKET: &str = "an absolute path of at most 96 bytes, with a name at its end and no control \
                      characters";
const _: () = assert!(PATH_MAX_BYTES == 96);

/// The numbers that are taken, as [`RANGES`] has them in words.
pub(super) const ARENA_MB: RangeInclusive<u32> = 1..=1 << 20;
const MEMBERS_MAX: RangeInclusive<u16> = 1..=crate::view::MEMBERS_MAX;
const SHARDS: RangeInclusive<u16> = 1..=64;
/// A second: who wants to spin for longer wants a thread that never sleeps.
const SPIN_US: RangeInclusive<u64> = 0..=1_000_000;
const IO_THREADS: RangeInclusive<u32> = 1..=64;
/// A day at most: a clock can add it to any time.
const ACQUIRE_TIMEOUT_MS: RangeInclusive<u64> = 1..=86_400_000;
const KEEPALIVE_MS: RangeInclusive<u64> = 1..=3_600_000;
const PEER_TIMEOUT_MS: RangeInclusive<u64> = 2..=86_400_000;
const RDMA_PORT: RangeInclusive<u8> = 1..=u8::MAX;

const SI_RING_ENTRIES: RangeInclusive<u32> = ENTRIES_MIN..=ENTRIES_MAX;
const _: () = assert!(ENTRIES_MIN == 16 && ENTRIES_MAX == 16_777_216);

fn range_of(key: &str) -> &'static str {
    RANGES.iter().find(|(known, _)| *known == key).map_or("another value", |(_, range)| range)
}

/// What is wrong in line `line` (from 1) if the value of a key in [`RANGES`] is: TOML's own `message`
/// knows types, not keys.
fn out_of_range(text: &str, line: usize, message: &str) -> Option<String> {
    let is_of_a_value = [
        "invalid value",
        "invalid type",
        "unknown variant",
        "wanted",
        "number",
        "overflow",
        "integer",
    ];
    if !is_of_a_value.iter().any(|words| message.contains(words)) {
        return None;
    }
    let line = text.lines().nth(line.checked_sub(1)?)?;
    if line.trim() == "[peers]" {
        return Some("found [peers], expected [[peers]] for each other instance".to_owned());
    }
    let (key, rest) = line.split_once('=')?;
    let (key, range) = RANGES.iter().find(|(known, _)| *known == key.trim())?;
    let found = rest.split('#').next().unwrap_or(rest).trim();
    Some(format!("{key} is {found}, expected {range}"))
}

/// What is said of a key that is there twice; `found` is the second one, as it is written.
fn second_key(found: &str, message: &str) -> Option<String> {
    if !message.contains("duplicate key") {
        return None;
    }
    let found = found.trim();
    let peer = match found {
        "instance" | "address" => ", or begin another peer above it with [[peers]]",
        _ => "",
    };
    Some(format!("found a second `{found}`, expected each key once: take one out{peer}"))
}

/// Reads an address, and says what one is when it is none.
fn address<'de, D: serde::Deserializer<'de>>(source: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(source)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "'{text}' is no socket address, expected IP:PORT, for example 10.0.0.2:7400 or \
             [fd00::2]:7400; host names are not looked up"
        ))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    cluster: u64,
    instance: u16,
    #[serde(deserialize_with = "address")]
    listen: SocketAddr,
    storage: PathBuf,
    members: Option<Vec<u16>>,
    members_max: Option<u16>,
    #[serde(default)]
    peers: Vec<FilePeer>,
    page_size: Option<u64>,
    arena_mb: Option<u32>,
    cache_pages: Option<u32>,
    huge_pages: Option<bool>,
    lock_memory: Option<bool>,
    dump_memory: Option<bool>,
    shards: Option<u16>,
    #[serde(default)]
    poller_cores: Vec<usize>,
    spin_us: Option<u64>,
    io_threads: Option<u32>,
    acquire_timeout_ms: Option<u64>,
    keepalive_ms: Option<u64>,
    peer_timeout_ms: Option<u64>,
    page_crc: Option<bool>,
    cluster_key: Option<PathBuf>,
    transport: Option<FileTransport>,
    rdma_device: Option<String>,
    rdma_port: Option<u8>,
    // A queue pair has 8 bits for it (`ibv_global_route.sgid_index`).
    rdma_gid_index: Option<u8>,
    si_ring: Option<PathBuf>,
    si_ring_entries: Option<u32>,
    status_socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileTransport {
    Auto,
    Verbs,
    Tcp,
}

impl From<FileTransport> for LinkPolicy {
    fn from(transport: FileTransport) -> Self {
        match transport {
            FileTransport::Auto => Self::Auto,
            FileTransport::Verbs => Self::Verbs,
            FileTransport::Tcp => Self::Tcp,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePeer {
    instance: u16,
    #[serde(deserialize_with = "address")]
    address: SocketAddr,
}

impl FileConfig {
    fn read(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                let before = &text.as_bytes()[..span.start.min(text.len())];
                before.iter().filter(|b| **b == b'\n').count() + 1
            });
            let message = error.message().replace('\n', " ");
            let span = error.span().and_then(|span| text.get(span)).unwrap_or_default();
            let problem = second_key(span, &message)
                .or_else(|| out_of_range(text, line, &message))
                .unwrap_or(message);
            let problem = format!("line {line}: {problem}");
            ConfigError::Parse { path: path.to_owned(), problem }
        })
    }
}

/// Refuses a number that is out of its range.
fn check<T: PartialOrd + ToString>(
    path: &Path,
    key: &'static str,
    found: &T,
    range: &RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(found) {
        return Ok(());
    }
    Err(ConfigError::value(path, key, found.to_string(), range_of(key)))
}

/// Refuses ids that no instance has, and those that are there twice, among `all` that `key` lists and `me`.
fn check_ids(
    path: &Path,
    key: &'static str,
    me: InstanceId,
    all: &[InstanceId],
) -> Result<(), ConfigError> {
    let is_none = |id: &InstanceId| id.0 >= crate::view::MEMBERS_MAX;
    if is_none(&me) {
        return Err(ConfigError::value(path, "instance", me.to_string(), range_of("instance")));
    }
    if let Some(found) = all.iter().copied().find(is_none) {
        let found = format!("a list with {found}");
        return Err(ConfigError::value(path, key, found, "ids from 0 to 63"));
    }
    let is_twice = |(at, id): (usize, &InstanceId)| all[..at].contains(id).then_some(*id);
    let Some(twice) = all.iter().enumerate().find_map(is_twice) else { return Ok(()) };
    let (found, expected) = match key {
        "peers" if twice == me => (
            format!("a list with {me}, which is this instance's own id"),
            "the other instances only; or mend `instance`",
        ),
        _ => (format!("a list with {twice} twice"), "each id once: give each instance its own"),
    };
    Err(ConfigError::value(path, key, found, expected))
}

impl NodeConfig {
    /// Reads the text of a TOML file; `path` is for the errors.
    ///
    /// # Errors
    /// [`ConfigError`]: not TOML, an unknown or missing key, a value out of range.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config = Self::of(FileConfig::read(text, path)?, path)?;
        config.check_ranges(path)?;
        config.check_liveness(path)?;
        config.check_arena(path)?;
        config.check_addresses(path)?;
        Ok(config)
    }

    /// What the file says, and defaults for what it does not.
    fn of(file: FileConfig, path: &Path) -> Result<Self, ConfigError> {
        let page_bytes = file.page_size.unwrap_or(8192);
        let page_size = PageSize::from_bytes(page_bytes).ok_or_else(|| {
            ConfigError::value(path, "page_size", page_bytes.to_string(), range_of("page_size"))
        })?;
        let peer =
            |p: &FilePeer| PeerConfig { instance: InstanceId(p.instance), address: p.address };
        let peers: Vec<_> = file.peers.iter().map(peer).collect();
        let instance = InstanceId(file.instance);
        let all: Vec<_> = peers.iter().map(|p| p.instance).chain([instance]).collect();
        let listed = file.members.map(|ids| ids.into_iter().map(InstanceId).collect());
        let members: Vec<_> = listed.unwrap_or_else(|| all.clone());
        if !members.contains(&instance) {
            let found = format!("a list without {instance}");
            let expected = "a list with this instance's id";
            return Err(ConfigError::value(path, "members", found, expected));
        }
        if let Some(stranger) = peers.iter().find(|p| !members.contains(&p.instance)) {
            let found = format!("instance {}", stranger.instance);
            let expected = "only instances that `members` lists";
            return Err(ConfigError::value(path, "peers", found, expected));
        }
        check_ids(path, "peers", instance, &all)?;
        check_ids(path, "members", instance, &members)?;
        let defaults =
            Self::new(ClusterId(file.cluster), instance, members, file.listen, file.storage);
        Ok(Self {
            peers,
            members_max: file.members_max,
            page_size,
            arena_mb: file.arena_mb.unwrap_or(defaults.arena_mb),
            cache_pages: file.cache_pages,
            huge_pages: file.huge_pages.unwrap_or(defaults.huge_pages),
            lock_memory: file.lock_memory.unwrap_or(defaults.lock_memory),
            dump_memory: file.dump_memory.unwrap_or(defaults.dump_memory),
            shards: file.shards.unwrap_or(defaults.shards),
            poller_cores: file.poller_cores,
            spin_us: file.spin_us.unwrap_or(defaults.spin_us),
            io_threads: file.io_threads.unwrap_or(defaults.io_threads),
            acquire_timeout_ms: file.acquire_timeout_ms.unwrap_or(defaults.acquire_timeout_ms),
            keepalive_ms: file.keepalive_ms.unwrap_or(defaults.keepalive_ms),
            peer_timeout_ms: file.peer_timeout_ms.unwrap_or(defaults.peer_timeout_ms),
            page_crc: file.page_crc.unwrap_or(defaults.page_crc),
            cluster_key: file.cluster_key,
            transport: file.transport.map_or(defaults.transport, LinkPolicy::from),
            rdma: Overrides {
                device: file.rdma_device,
                port: file.rdma_port,
                gid_index: file.rdma_gid_index.map(u32::from),
            },
            si_ring: Some(
                file.si_ring.unwrap_or_else(|| {
                    pagewire_si::default_path(ClusterId(file.cluster), instance)
                }),
            ),
            si_ring_entries: file.si_ring_entries.unwrap_or(defaults.si_ring_entries),
            status_socket: file.status_socket,
            ..defaults
        })
    }

    fn check_ranges(&self, path: &Path) -> Result<(), ConfigError> {
        check(path, "io_threads", &self.io_threads, &IO_THREADS)?;
        check(path, "members_max", &self.members_max.unwrap_or(1), &MEMBERS_MAX)?;
        if self.members_max.is_some_and(|most| usize::from(most) < self.members.len()) {
            let found = self.members_max.unwrap_or(0).to_string();
            let expected = "at least as many as `members` lists";
            return Err(ConfigError::value(path, "members_max", found, expected));
        }
        check(path, "shards", &self.shards, &SHARDS)?;
        check(path, "spin_us", &self.spin_us, &SPIN_US)?;
        check(path, "arena_mb", &self.arena_mb, &ARENA_MB)?;
        check(path, "acquire_timeout_ms", &self.acquire_timeout_ms, &ACQUIRE_TIMEOUT_MS)?;
        check(path, "keepalive_ms", &self.keepalive_ms, &KEEPALIVE_MS)?;
        check(path, "peer_timeout_ms", &self.peer_timeout_ms, &PEER_TIMEOUT_MS)?;
        check(path, "si_ring_entries", &self.si_ring_entries, &SI_RING_ENTRIES)?;
        if !self.si_ring_entries.is_power_of_two() {
            let (key, found) = ("si_ring_entries", self.si_ring_entries.to_string());
            return Err(ConfigError::value(path, key, found, range_of(key)));
        }
        check(path, "rdma_port", &self.rdma.port.unwrap_or(1), &RDMA_PORT)?;
        if self.rdma.device.as_ref().is_some_and(String::is_empty) {
            let expected = range_of("rdma_device");
            return Err(ConfigError::value(path, "rdma_device", "empty".to_owned(), expected));
        }
        if let Some(socket) = self.status_socket.as_deref().filter(|socket| !is_for_socket(socket))
        {
            let found = format!("{socket:?}");
            return Err(ConfigError::value(path, "status_socket", found, SOCKET));
        }
        let pages = self.cache_pages.unwrap_or(u32::MAX);
        check(path, "cache_pages", &pages, &(super::CACHE_PAGES_MIN..=u32::MAX))
    }
}

/// Whether a socket can be made at `path`, whatever is there.
fn is_for_socket(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    // Not `Path::file_name`, which passes over a slash or a dot at the end.
    let name = bytes.rsplit(|byte| *byte == b'/').next();
    path.is_absolute()
        && bytes.len() <= PATH_MAX_BYTES
        && !matches!(name, None | Some(b"" | b"." | b".."))
        && !bytes.iter().any(u8::is_ascii_control)
}
