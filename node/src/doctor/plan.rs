//! What one configuration asks of the host, tried out: storage, address, key file.
//!
//! Invariants: what is tried leaves nothing behind: a file without a name in the storage folder,
//! sockets that are closed again. A cluster key is taken in as a start would, so that both say the
//! same, and forgotten at once.

use super::{
    ring::{RingFound, RingPlace},
    socket::{SocketPlace, SocketProblem},
};
use crate::{
    NodeConfig,
    config::{CacheExcess, NoKey},
    status::{self, protocol::Query},
    store::{StoreError, advice, marks::Marks},
};
use pagewire_protocol::PageSize;
use pagewire_transport::{ClusterKey, LinkPolicy, Overrides};
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// What is written to a file without a name in the storage folder, in bytes: a page.
const PROBE_BYTES: usize = 8192;

/// What is needed and what came out of trying it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Bytes that the arenas of all shards take, with what describes their frames.
    pub arena_bytes: u64,
    /// Bytes that one peer may have on its way to this instance.
    pub in_flight_bytes: u64,
    /// Huge pages are asked for.
    pub huge_pages: bool,
    /// Other instances.
    pub peers: u64,
    /// The arena is to be locked in memory.
    pub lock_memory: bool,
    /// The arena is to be in core files.
    pub dump_memory: bool,
    /// Shards, each with a poller.
    pub shards: u16,
    /// How long an idle poller spins, in microseconds.
    pub spin_us: u64,
    /// Cores that the configuration names for pollers, in the order of the shards.
    pub poller_cores: Vec<usize>,
    /// Pages that there is room for in the caches of all shards.
    pub cache_room: u32,
    /// Pages that the configuration caches at most, if it says so.
    pub cache_pages: Option<u32>,
    /// More pages to cache than there is room for.
    pub cache_excess: Option<CacheExcess>,
    /// What links may be on.
    pub transport: LinkPolicy,
    /// What the configuration names of the RDMA devices.
    pub rdma: Overrides,
    /// What only a configuration has; `None`: none was given, and the rest are defaults.
    pub trial: Option<Trial>,
}

/// What was tried of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Trial {
    /// The file cannot be used, in words.
    Refused(String),
    /// It can.
    Tried {
        /// The storage folder.
        storage: PathBuf,
        /// Whether it can be used.
        storage_use: StorageUse,
        /// Its number, if an instance has started there.
        storage_id: Option<u64>,
        /// The address of the first shard; each other one listens on the port that follows.
        listen: SocketAddr,
        /// The first address that cannot be listened on, and why.
        listen_error: Option<(SocketAddr, io::ErrorKind, String)>,
        /// The cluster key's file, if the configuration names one.
        key: Option<Box<KeyFile>>,
        /// That there is no such file, and what comes of it.
        no_key: Option<Box<NoKey>>,
        /// The socket for `pagewire status`, if the configuration names one.
        socket: Option<Box<SocketPlace>>,
        /// The ring for invalidations.
        ring: Option<Box<RingPlace>>,
        /// What this very instance says, if it runs.
        running: Box<Running>,
    },
}

/// What an instance that runs says of itself; nothing when none answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// Where it listens.
    pub listen: Vec<String>,
    /// What is wrong with its storage, and what to do.
    pub storage_problem: Option<String>,
    /// What is wrong with its ring for invalidations, and what to do.
    pub ring_problem: Option<String>,
}

/// Whether a storage folder can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageUse {
    /// In full, past the page cache.
    Direct,
    /// Only through the page cache.
    Cached,
    /// It can be written to, and is another cluster's, in words.
    NotOurs(String),
    /// Not at all.
    Not {
        /// Why.
        found: String,
        /// What to do.
        change: String,
    },
}

/// A cluster key's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// Why a start would refuse it, and what it says to do.
    pub refused: Option<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self::of(&NodeConfig::new(
            pagewire_protocol::ClusterId(0),
            pagewire_protocol::InstanceId(0),
            Vec::new(),
            SocketAddr::from(([127, 0, 0, 1], 0)),
            PathBuf::new(),
        ))
    }
}

impl Plan {
    fn of(config: &NodeConfig) -> Self {
        let page_bytes = |size: PageSize| size.bytes() as u64;
        let arena = config.arena(config.frames_of_shard());
        let shards = u64::from(config.shards);
        let frames = u64::from(config.credits.frames_per_peer() / 2);
        Self {
            // More than can be addressed is more than any host has.
            arena_bytes: arena
                .memory_bytes()
                .and_then(|bytes| (bytes as u64).checked_mul(shards))
                .unwrap_or(u64::MAX),
            in_flight_bytes: frames * page_bytes(config.page_size),
            huge_pages: config.huge_pages,
            peers: config.members.len().saturating_sub(1) as u64,
            lock_memory: config.lock_memory,
            dump_memory: config.dump_memory,
            shards: config.shards,
            spin_us: config.spin_us,
            poller_cores: config.poller_cores.clone(),
            cache_room: config.cache_room(),
            cache_pages: config.cache_pages,
            cache_excess: config.cache_excess(),
            transport: config.transport,
            rdma: config.rdma.clone(),
            trial: None,
        }
    }

    /// Reads the configuration at `path` and tries what it asks for.
    #[must_use]
    pub fn try_out(path: &Path) -> Self {
        let config = match NodeConfig::load(path) {
            Ok(config) => config,
            Err(error) => {
                return Self { trial: Some(Trial::Refused(error.to_string())), ..Self::default() };
            }
        };
        let refused = config.check_peers(path).err().map(|error| error.to_string());
        let refused = refused.or_else(|| config.view().err().map(|e| format!("members: {e}")));
        let trial = match refused {
            Some(problem) => Trial::Refused(problem),
            None => tried(&config),
        };
        Self { trial: Some(trial), ..Self::of(&config) }
    }
}

fn tried(config: &NodeConfig) -> Trial {
    let listen_error = listen_error(config);
    let socket = config.status_socket.as_deref().map(SocketPlace::try_out);
    let is_taken = matches!(&listen_error, Some((_, io::ErrorKind::AddrInUse, _)));
    let has_listener = |place: &SocketPlace| place.problem == Some(SocketProblem::Listener);
    let ring = config.si_ring.as_deref().map(|path| RingPlace::try_out(config, path));
    let is_written = |place: &RingPlace| matches!(place.found, RingFound::InUse(_));
    let may_run = is_taken
        || socket.as_ref().is_some_and(has_listener)
        || ring.as_ref().is_some_and(is_written);
    let refused = Marks::refusal(&config.storage, config.cluster, config.page_size);
    let storage_use = match (storage_use(&config.storage), refused) {
        (StorageUse::Direct | StorageUse::Cached, Some(StoreError::Mark { path, source })) => {
            let found = format!("{}: {source}", path.display());
            StorageUse::Not { found, change: advice::of(&source).to_owned() }
        }
        (StorageUse::Direct | StorageUse::Cached, Some(error)) => {
            StorageUse::NotOurs(error.to_string())
        }
        (found, _) => found,
    };
    Trial::Tried {
        storage_use,
        storage_id: Marks::storage_in(&config.storage),
        storage: config.storage.clone(),
        listen: config.listen,
        listen_error,
        key: config.cluster_key.as_deref().map(KeyFile::try_out).map(Box::new),
        no_key: config.no_key().map(Box::new),
        socket: socket.map(Box::new),
        ring: ring.map(Box::new),
        running: Box::new(if may_run { Running::ask(config) } else { Running::default() }),
    }
}

impl Running {
    /// Asks the instance of that configuration, at its status socket.
    fn ask(config: &NodeConfig) -> Self {
        let Ok(answer) = status::client::ask(config, &Query::Status) else {
            return Self::default();
        };
        let addresses = answer.get("listen").and_then(Value::as_array);
        let listen = addresses.into_iter().flatten().filter_map(Value::as_str);
        let text = |at| answer.pointer(at).and_then(Value::as_str).map(str::to_owned);
        Self {
            listen: listen.map(str::to_owned).collect(),
            storage_problem: text("/storage_problem"),
            ring_problem: text("/invalidations/ring_problem"),
        }
    }
}

fn storage_use(folder: &Path) -> StorageUse {
    let tried = || -> io::Result<StorageUse> {
        if !fs::metadata(folder)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut file = tempfile::tempfile_in(folder)?;
        // A full file system may well take a file, and nothing in it; a network's says so at the end.
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_data()?;
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(again);
        Ok(if direct.is_ok() { StorageUse::Direct } else { StorageUse::Cached })
    };
    tried().unwrap_or_else(|error| not_usable(&error))
}

fn not_usable(error: &io::Error) -> StorageUse {
    let change = match error.kind() {
        io::ErrorKind::NotFound => "make it and let this user write there",
        _ => advice::of(error),
    };
    StorageUse::Not { found: error.to_string(), change: format!("{change}, or mend `storage`") }
}

/// Listens on the ports of all shards at once, as a start would.
fn listen_error(config: &NodeConfig) -> Option<(SocketAddr, io::ErrorKind, String)> {
    // Where the system chooses the first port, it finds a row for the others.
    let last = if config.listen.port() == 0 { 0 } else { config.row(config.listen)? };
    let mut listeners = Vec::new();
    for port in config.listen.port()..=last {
        let address = SocketAddr::new(config.listen.ip(), port);
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => return Some((address, error.kind(), error.to_string())),
        }
    }
    None
}

impl KeyFile {
    fn try_out(path: &Path) -> Self {
        let refused = ClusterKey::from_file(path).err().map(|error| {
            let text = error.to_string();
            let text =
                text.strip_prefix(&format!("cluster key {}: ", path.display())).unwrap_or(&text);
            let (found, change) = text.split_once("; ").unwrap_or((text, "mend `cluster_key`"));
            (found.to_owned(), change.to_owned())
        });
        Self { path: path.to_owned(), refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_that_is_none_or_missing_or_unwritable_is_told_and_nothing_is_left_in_a_good_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(!matches!(storage_use(folder.path()), StorageUse::Not { .. }));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
        for (path, word) in [
            (file, "not a directory"),
            (folder.path().join("missing"), "No such file"),
            // Not even root can write there.
            (PathBuf::from("/proc"), ""),
        ] {
            let StorageUse::Not { found, .. } = storage_use(&path) else {
                panic!("{}", path.display())
            };
            assert!(found.contains(word), "{found}");
        }
        for (kind, advice) in
            [(libc::ENOSPC, "`df -i`"), (libc::EROFS, "`findmnt -T`"), (libc::ENOENT, "make it")]
        {
            let use_of = not_usable(&io::Error::from_raw_os_error(kind));
            let StorageUse::Not { change, .. } = use_of else { panic!("{use_of:?}") };
            assert!(change.contains(advice) && change.ends_with("or mend `storage`"), "{change}");
        }
    }

    #[test]
    fn a_key_is_refused_in_the_words_of_a_start() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("key");
        let refused = |path: &Path| KeyFile::try_out(path).refused.expect("refused");
        assert!(refused(&path).0.contains("No such file"));
        assert!(refused(folder.path()).0.contains("not a regular file"));
        let write = |content: &str, mode: u32| {
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        write("secret", 0o600);
        let (found, change) = refused(&path);
        assert_eq!(
            (found.as_str(), change.contains("openssl rand")),
            ("has 6 bytes, expected 32 to 4096", true)
        );
        write(&"secret".repeat(6), 0o640);
        let (found, change) = refused(&path);
        assert!(
            found.contains("found mode 0640") && change.contains("chmod 600"),
            "{found}; {change}"
        );
        let start = ClusterKey::from_file(&path).expect_err("refused").to_string();
        assert_eq!(start, format!("cluster key {}: {found}; {change}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        assert_eq!(KeyFile::try_out(&path).refused, None);
    }
}
