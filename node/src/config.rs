//! The configuration of one instance: a TOML file, every key of which is known.
//!
//! ```toml
//! cluster = 42                    # the same on all instances
//! instance = 0                    # its own on each, 0 to 63
//! listen = "127.0.0.1:7400"
//! storage = "/srv/shared"         # the same files on all instances
//!                                 # optional, with what they are otherwise:
//! members = [0, 1, 2]             # this instance and its peers
//! page_size = 8192                # 4096, 8192, 16384 or 32768
//! arena_mb = 64
//! cache_pages = 4000              # as many as the arena has room for
//! huge_pages = true               # if the host has them
//! shards = 1                      # the same on all; shard n listens on `listen`'s port + n
//! poller_cores = [2]              # one for each shard; otherwise any core
//! spin_us = 0                     # spin this long before sleeping; only with cores to spare
//! io_threads = 2
//! acquire_timeout_ms = 30000
//! page_crc = true
//! cluster_key = "/etc/pagewire/cluster.key"   # none; the same file on all instances, mode 0600
//!
//! [[peers]]
//! instance = 1
//! address = "10.0.0.2:7400"
//!
//! [[peers]]
//! instance = 2
//! address = "10.0.0.3:7400"
//! ```

use crate::{
    runtime::Place,
    view::{View, ViewError},
};
use pagewire_protocol::{ClusterId, Epoch, Incarnation, InstanceId, PageSize};
use pagewire_transport::{ClusterKey, ClusterKeyError, EndpointConfig, LaneCredits};
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Most shards of an instance.
const SHARDS_MAX: u16 = 64;
/// Longest spin, in microseconds: who wants more wants a thread that never sleeps.
const SPIN_MAX_US: u64 = 1_000_000;

/// What one instance is told.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Cluster id, the same on all instances.
    pub cluster: ClusterId,
    /// This instance's id.
    pub instance: InstanceId,
    /// Address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Folder of the shared page files.
    pub storage: PathBuf,
    /// All members, this instance included.
    pub members: Vec<InstanceId>,
    /// Members to dial, with their addresses.
    pub peers: Vec<PeerConfig>,
    /// Size of a page.
    pub page_size: PageSize,
    /// Size of the arena, in MiB.
    pub arena_mb: u32,
    /// Most pages to cache; by default all that the arena has room for.
    pub cache_pages: Option<u32>,
    /// Use huge pages if the host has them.
    pub huge_pages: bool,
    /// Shards that the instance's pages are spread over, each with a thread, an equal share of the
    /// arena and the cache, and a port of its own: those that follow the one of `listen`.
    pub shards: u16,
    /// Cores for the shards' threads, in their order; a shard without one runs on any.
    pub poller_cores: Vec<usize>,
    /// How long an idle shard spins before it sleeps, in microseconds. 0, at once, is right where
    /// other threads or instances want its core.
    pub spin_us: u64,
    /// Threads that read and write storage.
    pub io_threads: u32,
    /// Longest wait for a page, in milliseconds.
    pub acquire_timeout_ms: u64,
    /// Put a CRC-32C on every page sent.
    pub page_crc: bool,
    /// File with the key that every instance proves to have; without one, whoever reaches the port
    /// can speak as any instance.
    pub cluster_key: Option<PathBuf>,
    /// Receives posted for each peer.
    pub credits: LaneCredits,
}

/// Another member and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its id.
    pub instance: InstanceId,
    /// Its address.
    pub address: SocketAddr,
}

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
         expected at least {needed} for {peers} peers: raise `arena_mb` to {needed_mb}",
        path.display()
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

/// A day: a clock can add it to any time.
const ACQUIRE_TIMEOUT_MAX_MS: u64 = 86_400_000;
/// Fewest pages an instance can work with, as in runtime/shard.rs.
const CACHE_PAGES_MIN: u32 = 32;

/// What the keys take that a wrong number or type may be given for.
const RANGES: &[(&str, &str)] = &[
    ("cluster", "a number from 0 to 18446744073709551615"),
    ("instance", "a number from 0 to 63"),
    ("members", "a list of instance ids, each 0 to 63"),
    ("page_size", "4096, 8192, 16384 or 32768"),
    ("arena_mb", "1 to 1048576"),
    ("cache_pages", "a number from 32 to 4294967295"),
    ("poller_cores", "a list of core numbers"),
    ("io_threads", "1 to 64"),
    ("acquire_timeout_ms", "1 to 86400000"),
];

fn range_of(key: &str) -> &'static str {
    RANGES.iter().find(|(known, _)| *known == key).map_or("another value", |(_, range)| range)
}

/// What is wrong in line `line` (from 1) if the value of a key in [`RANGES`] is: TOML's own `message`
/// knows types, not keys.
fn out_of_range(text: &str, line: usize, message: &str) -> Option<String> {
    let is_of_a_value = ["invalid value", "invalid type", "number", "overflow", "integer"];
    if !is_of_a_value.iter().any(|words| message.contains(words)) {
        return None;
    }
    let (key, rest) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    let (key, range) = RANGES.iter().find(|(known, _)| *known == key.trim())?;
    let found = rest.split('#').next().unwrap_or(rest).trim();
    Some(format!("{key} is {found}, expected {range}"))
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
    #[serde(default)]
    peers: Vec<FilePeer>,
    page_size: Option<u64>,
    arena_mb: Option<u32>,
    cache_pages: Option<u32>,
    huge_pages: Option<bool>,
    shards: Option<u16>,
    #[serde(default)]
    poller_cores: Vec<usize>,
    spin_us: Option<u64>,
    io_threads: Option<u32>,
    acquire_timeout_ms: Option<u64>,
    page_crc: Option<bool>,
    cluster_key: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePeer {
    instance: u16,
    #[serde(deserialize_with = "address")]
    address: SocketAddr,
}

impl NodeConfig {
    /// A configuration with defaults, for instance `instance` of `members`.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        instance: InstanceId,
        members: Vec<InstanceId>,
        listen: SocketAddr,
        storage: PathBuf,
    ) -> Self {
        Self {
            cluster,
            instance,
            listen,
            storage,
            members,
            peers: Vec::new(),
            page_size: PageSize::K8,
            arena_mb: 64,
            cache_pages: None,
            huge_pages: true,
            shards: 1,
            poller_cores: Vec::new(),
            spin_us: 0,
            io_threads: 2,
            acquire_timeout_ms: 30_000,
            page_crc: true,
            cluster_key: None,
            credits: LaneCredits::default(),
        }
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ConfigError`]: no such file, not TOML, an unknown or missing key, a value out of range.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a TOML file; `path` is for the errors.
    ///
    /// # Errors
    /// [`ConfigError`]: not TOML, an unknown or missing key, a value out of range.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: FileConfig = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                text.as_bytes()[..span.start.min(text.len())]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count()
                    + 1
            });
            let message = error.message().replace('\n', " ");
            let problem = match out_of_range(text, line, &message) {
                Some(problem) => format!("line {line}: {problem}"),
                None => format!("line {line}: {message}"),
            };
            ConfigError::Parse { path: path.to_owned(), problem }
        })?;
        let value = |key, found: String, expected| ConfigError::Value {
            path: path.to_owned(),
            key,
            found,
            expected,
        };
        let page_bytes = file.page_size.unwrap_or(8192);
        let page_size = PageSize::from_bytes(page_bytes).ok_or_else(|| {
            value("page_size", page_bytes.to_string(), "4096, 8192, 16384 or 32768")
        })?;
        let peers: Vec<_> = file
            .peers
            .iter()
            .map(|p| PeerConfig { instance: InstanceId(p.instance), address: p.address })
            .collect();
        let instance = InstanceId(file.instance);
        let members = match file.members {
            Some(ids) => ids.into_iter().map(InstanceId).collect(),
            None => peers.iter().map(|p| p.instance).chain([instance]).collect::<Vec<_>>(),
        };
        if !members.contains(&instance) {
            let found = format!("a list without {instance}");
            return Err(value("members", found, "a list with this instance's id"));
        }
        if let Some(stranger) = peers.iter().find(|p| !members.contains(&p.instance)) {
            let found = format!("instance {}", stranger.instance);
            return Err(value("peers", found, "only instances that `members` lists"));
        }
        let defaults =
            Self::new(ClusterId(file.cluster), instance, members, file.listen, file.storage);
        let config = Self {
            peers,
            page_size,
            arena_mb: file.arena_mb.unwrap_or(defaults.arena_mb),
            cache_pages: file.cache_pages,
            huge_pages: file.huge_pages.unwrap_or(defaults.huge_pages),
            shards: file.shards.unwrap_or(defaults.shards),
            poller_cores: file.poller_cores,
            spin_us: file.spin_us.unwrap_or(defaults.spin_us),
            io_threads: file.io_threads.unwrap_or(defaults.io_threads),
            acquire_timeout_ms: file.acquire_timeout_ms.unwrap_or(defaults.acquire_timeout_ms),
            page_crc: file.page_crc.unwrap_or(defaults.page_crc),
            cluster_key: file.cluster_key,
            ..defaults
        };
        if !(1..=64).contains(&config.io_threads) {
            return Err(value("io_threads", config.io_threads.to_string(), "1 to 64"));
        }
        if !(1..=SHARDS_MAX).contains(&config.shards) {
            return Err(value("shards", config.shards.to_string(), "1 to 64"));
        }
        if config.spin_us > SPIN_MAX_US {
            return Err(value("spin_us", config.spin_us.to_string(), "0 to 1000000"));
        }
        if !(1..=1 << 20).contains(&config.arena_mb) {
            return Err(value("arena_mb", config.arena_mb.to_string(), "1 to 1048576"));
        }
        if !(1..=ACQUIRE_TIMEOUT_MAX_MS).contains(&config.acquire_timeout_ms) {
            let found = config.acquire_timeout_ms.to_string();
            return Err(value("acquire_timeout_ms", found, range_of("acquire_timeout_ms")));
        }
        if let Some(pages) = config.cache_pages.filter(|pages| *pages < CACHE_PAGES_MIN) {
            return Err(value("cache_pages", pages.to_string(), range_of("cache_pages")));
        }
        config.check_arena(path)?;
        config.check_addresses(path)?;
        Ok(config)
    }

    /// Checks that the arena has room for what the peers may have on their way, and some pages.
    fn check_arena(&self, path: &Path) -> Result<(), ConfigError> {
        let peers = self.members.len().saturating_sub(1);
        // The sum at the top of runtime/shard.rs.
        let fabric = peers as u64 * u64::from(self.credits.frames_per_peer());
        let needed = fabric + u64::from(self.io_threads) + u64::from(CACHE_PAGES_MIN);
        if u64::from(self.frames()) >= needed {
            return Ok(());
        }
        let page_bytes = self.page_size.bytes();
        Err(ConfigError::ArenaTooSmall {
            path: path.to_owned(),
            found_mb: self.arena_mb,
            frames: self.frames(),
            page_bytes,
            needed,
            needed_mb: (needed * page_bytes as u64).div_ceil(1 << 20),
            peers,
        })
    }

    /// Checks that each peer has an address that can be its own.
    fn check_addresses(&self, path: &Path) -> Result<(), ConfigError> {
        for (at, PeerConfig { instance: peer, address }) in self.peers.iter().enumerate() {
            let wrong = |problem: String| {
                let (peer, address) = (*peer, *address);
                Err(ConfigError::PeerAddress { path: path.to_owned(), peer, address, problem })
            };
            if address.port() == 0 {
                return wrong("which has no port; expected the port that it listens on".to_owned());
            }
            if address.ip().is_unspecified() {
                let expected = "expected the address at which this instance reaches it";
                return wrong(format!("which is no address to dial; {expected}"));
            }
            // An entry for this very instance, or a second one for a peer, is told by the endpoint.
            if *peer != self.instance && self.is_own(address) {
                let expected = "expected the address that the peer listens on";
                return wrong(format!("which is this instance's own; {expected}"));
            }
            let same = |other: &&PeerConfig| other.address == *address && other.instance != *peer;
            if let Some(other) = self.peers[..at].iter().find(same) {
                let other = other.instance;
                return wrong(format!("which peer {other} has, too; expected one for each"));
            }
        }
        Ok(())
    }

    fn is_own(&self, address: &SocketAddr) -> bool {
        let is_here = self.listen.ip() == address.ip()
            || (self.listen.ip().is_unspecified() && address.ip().is_loopback());
        self.listen.port() == address.port() && is_here
    }

    /// Checks that every other member has an address. Whoever adds peers later need not ask.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the members that have none.
    pub fn check_peers(&self, path: &Path) -> Result<(), ConfigError> {
        let is_known =
            |id: &InstanceId| *id == self.instance || self.peers.iter().any(|p| p.instance == *id);
        let unknown = self.members.iter().filter(|id| !is_known(id));
        let unknown: Vec<_> = unknown.map(ToString::to_string).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Value {
            path: path.to_owned(),
            key: "peers",
            found: format!("a list without {}", unknown.join(", ")),
            expected: "an address for each other instance that `members` lists",
        })
    }

    /// The membership view that the member list makes.
    ///
    /// # Errors
    /// [`ViewError`] when the list cannot be used.
    pub fn view(&self) -> Result<View, ViewError> {
        View::new(Epoch(1), self.members.clone())
    }

    /// Frames of the arena.
    #[must_use]
    pub fn frames(&self) -> u32 {
        let frames = (u64::from(self.arena_mb) << 20) / self.page_size.bytes() as u64;
        u32::try_from(frames).unwrap_or(u32::MAX)
    }

    /// A new incarnation of this instance.
    pub(crate) fn next_incarnation(&self) -> Incarnation {
        EndpointConfig::new(self.cluster, self.instance, self.listen).incarnation
    }

    /// What the fabric is told; reads the cluster key.
    pub(crate) fn endpoint(
        &self,
        view: &View,
        place: &Place,
    ) -> Result<EndpointConfig, ClusterKeyError> {
        let cluster_key = self.cluster_key.as_deref().map(ClusterKey::from_file).transpose()?;
        Ok(EndpointConfig {
            cluster_key,
            incarnation: place.incarnation,
            shard: place.number,
            shards: self.shards,
            view_hash: view.hash(),
            credits: self.credits,
            page_crc: self.page_crc,
            // Until the directory can be recovered (see ARCHITECTURE).
            peers_may_return: false,
            // Until the membership view says when an incarnation is over.
            session_expiry: None,
            ..EndpointConfig::new(self.cluster, self.instance, place.listen)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "cluster = 7\ninstance = 1\nlisten = \"127.0.0.1:0\"\nstorage = \"/tmp\"\n";

    fn parse(text: &str) -> Result<NodeConfig, String> {
        NodeConfig::parse(text, Path::new("node.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_and_peers() {
        let text = format!("{GOOD}[[peers]]\ninstance = 4\naddress = \"127.0.0.1:9\"\n");
        let config = parse(&text).unwrap();
        assert_eq!(config.members, [InstanceId(4), InstanceId(1)]);
        assert_eq!((config.page_size, config.frames()), (PageSize::K8, 8192));
    }

    #[test]
    fn the_documented_file_is_accepted() {
        let lines = include_str!("config.rs").lines().map_while(|line| line.strip_prefix("//!"));
        let lines = lines.skip_while(|line| !line.contains("```toml")).skip(1);
        let text: Vec<_> = lines.take_while(|line| !line.contains("```")).collect();
        let config = parse(&text.join("\n")).unwrap();
        config.check_peers(Path::new("node.toml")).unwrap();
        assert_eq!((config.cluster, config.cache_pages), (ClusterId(42), Some(4000)));
        assert_eq!((config.poller_cores, config.peers.len()), (vec![2], 2));
        assert_eq!(config.cluster_key.as_deref(), Some(Path::new("/etc/pagewire/cluster.key")));
    }

    #[test]
    fn addresses_that_cannot_be_a_peers_are_refused() {
        let parse = |listen: &str, peers: &[&str]| {
            let peer = |(id, address): (usize, &&str)| {
                format!("[[peers]]\ninstance = {}\naddress = \"{address}\"\n", id + 2)
            };
            let peers: String = peers.iter().enumerate().map(peer).collect();
            parse(&(GOOD.replace("127.0.0.1:0", listen) + &peers)).map(drop)
        };
        let listen = "10.0.0.1:7400";
        for (listen, peers, words) in [
            (listen, &["10.0.0.2:0"][..], "peer 2 has address 10.0.0.2:0, which has no port"),
            (listen, &["0.0.0.0:7400"], "no address to dial"),
            (
                listen,
                &["10.0.0.2:1", "10.0.0.1:7400"],
                "peer 3 has address 10.0.0.1:7400, which is",
            ),
            ("0.0.0.0:7400", &["127.0.0.1:7400"], "this instance's own"),
            (listen, &["10.0.0.2:1", "10.0.0.2:1"], "which peer 2 has, too"),
            (listen, &["db1.example:7400"], "line 7: 'db1.example:7400' is no socket address"),
            (
                "localhost:7400",
                &[],
                "line 3: 'localhost:7400' is no socket address, expected IP:PORT",
            ),
        ] {
            let error = parse(listen, peers).unwrap_err();
            assert!(error.contains(words), "'{words}' in: {error}");
        }
        parse(listen, &["10.0.0.1:7401", "10.0.0.2:7400"]).unwrap();
        parse("0.0.0.0:7400", &["127.0.0.1:7401"]).unwrap();
    }

    #[test]
    fn a_member_without_an_address_is_named() {
        let config = parse(&format!("{GOOD}members = [1, 2]\n")).unwrap();
        let error = config.check_peers(Path::new("node.toml")).unwrap_err().to_string();
        assert!(error.contains("a list without 2"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse(&format!("{GOOD}arena_mib = 5\n")).unwrap_err();
        assert!(error.contains("line 5") && error.contains("arena_mib"), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }

    #[test]
    fn values_out_of_range_say_what_is_expected() {
        for (line, expected) in [
            ("page_size = 1000", "4096, 8192, 16384 or 32768"),
            ("io_threads = 0", "1 to 64"),
            ("arena_mb = 0", "1 to 1048576"),
            ("members = [0, 2]", "this instance's id"),
            ("acquire_timeout_ms = 0", "1 to 86400000"),
            ("cache_pages = 0", "cache_pages is 0, expected a number from 32"),
            ("members = [1, 2, 3]\narena_mb = 1", "raise `arena_mb` to 2"),
            ("shards = 0", "1 to 64"),
            ("shards = 65", "1 to 64"),
            ("spin_us = 1000001", "0 to 1000000"),
        ] {
            let error = parse(&format!("{GOOD}{line}\n")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        for value in ["99999999999", "-1", "1.5", "\"8\"", "99999999999999999999"] {
            for (key, range) in RANGES.iter().skip(2) {
                let error = parse(&format!("{GOOD}{key} = {value} # odd\n")).unwrap_err();
                let told = format!("{key} is {value}, expected {range}");
                assert!(error.contains(&told), "{told} in: {error}");
            }
        }
        assert!(parse("cluster = 7\n").unwrap_err().contains("missing field"));
        assert!(parse("cluster = [").unwrap_err().contains("line 1"));
    }
}
