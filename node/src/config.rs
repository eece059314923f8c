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
use pagewire_protocol::{ClusterId, Epoch, Incarnation, InstanceId, PageSize, crc32c};
use pagewire_transport::{EndpointConfig, LaneCredits};
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    cluster: u64,
    instance: u16,
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
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePeer {
    instance: u16,
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
            let problem = format!("line {line}: {}", error.message().replace('\n', " "));
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
        if config.acquire_timeout_ms == 0 {
            return Err(value("acquire_timeout_ms", "0".to_owned(), "at least 1"));
        }
        Ok(config)
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

    pub(crate) fn endpoint(&self, view: &View, place: &Place) -> EndpointConfig {
        EndpointConfig {
            incarnation: place.incarnation,
            view_hash: view.hash() ^ self.shard_hash(place.number),
            credits: self.credits,
            page_crc: self.page_crc,
            // Until the directory can be recovered (see ARCHITECTURE).
            peers_may_return: false,
            ..EndpointConfig::new(self.cluster, self.instance, place.listen)
        }
    }

    /// Makes shards refuse each other that do not keep the same pages: part of the view until the
    /// hello says it.
    fn shard_hash(&self, number: u16) -> u64 {
        if self.shards == 1 {
            return 0;
        }
        u64::from(crc32c(&[&self.shards.to_le_bytes(), &number.to_le_bytes()])) << 32
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
            ("acquire_timeout_ms = 0", "at least 1"),
            ("shards = 0", "1 to 64"),
            ("shards = 65", "1 to 64"),
            ("spin_us = 1000001", "0 to 1000000"),
        ] {
            let error = parse(&format!("{GOOD}{line}\n")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse("cluster = 7\n").unwrap_err().contains("missing field"));
        assert!(parse("cluster = [").unwrap_err().contains("line 1"));
    }
}
