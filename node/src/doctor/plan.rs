//! What one configuration asks of the host, tried out: storage, address, key file.
//!
//! Invariants: what is tried leaves nothing behind: a file without a name in the storage folder, a
//! socket that is closed again. Nothing is read of a key but its file's mode.

use crate::NodeConfig;
use pagewire_protocol::PageSize;
use pagewire_transport::ArenaConfig;
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Key of the configuration that names the cluster key's file.
const CLUSTER_KEY: &str = "cluster_key";

/// What is needed and what came out of trying it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Bytes that the arena takes, with what describes its frames.
    pub arena_bytes: u64,
    /// Bytes that one peer may have on its way to this instance.
    pub in_flight_bytes: u64,
    /// Huge pages are asked for.
    pub huge_pages: bool,
    /// Other instances.
    pub peers: u64,
    /// Cores that the configuration names for pollers.
    pub poller_cores: BTreeSet<usize>,
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
        /// The address to listen on.
        listen: SocketAddr,
        /// Why it cannot be listened on.
        listen_error: Option<(io::ErrorKind, String)>,
        /// The cluster key's file, if the configuration names one.
        key: Option<KeyFile>,
    },
}

/// Whether a storage folder can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageUse {
    /// In full, past the page cache.
    Direct,
    /// Only through the page cache.
    Cached,
    /// Not at all, and why.
    Not(String),
}

/// A cluster key's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// Its permission bits, or why it cannot be looked at.
    pub mode: Result<u32, String>,
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
        let arena = ArenaConfig {
            page_size: config.page_size,
            huge_pages: config.huge_pages,
            ..ArenaConfig::new(config.frames())
        };
        let frames = u64::from(config.credits.frames_per_peer() / 2);
        Self {
            // More than can be addressed is more than any host has.
            arena_bytes: arena.memory_bytes().map_or(u64::MAX, |bytes| bytes as u64),
            in_flight_bytes: frames * page_bytes(config.page_size),
            huge_pages: config.huge_pages,
            peers: config.members.len().saturating_sub(1) as u64,
            poller_cores: config.poller_cores.iter().copied().collect(),
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
            None => Trial::Tried {
                storage_use: storage_use(&config.storage),
                storage: config.storage.clone(),
                listen: config.listen,
                listen_error: TcpListener::bind(config.listen)
                    .err()
                    .map(|error| (error.kind(), error.to_string())),
                key: fs::read_to_string(path).ok().and_then(|text| key_file(&text)),
            },
        };
        Self { trial: Some(trial), ..Self::of(&config) }
    }
}

fn storage_use(folder: &Path) -> StorageUse {
    let tried = || -> io::Result<StorageUse> {
        if !fs::metadata(folder)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let file = tempfile::tempfile_in(folder)?;
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(again);
        Ok(if direct.is_ok() { StorageUse::Direct } else { StorageUse::Cached })
    };
    tried().unwrap_or_else(|error| StorageUse::Not(error.to_string()))
}

/// The key's file as the configuration `text` names it.
fn key_file(text: &str) -> Option<KeyFile> {
    let table: toml::Table = text.parse().ok()?;
    let path = PathBuf::from(table.get(CLUSTER_KEY)?.as_str()?);
    let mode = match fs::metadata(&path) {
        Ok(about) if about.is_file() => Ok(about.mode() & 0o7777),
        Ok(_) => Err("it is no regular file".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Some(KeyFile { path, mode })
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
        assert!(!matches!(storage_use(folder.path()), StorageUse::Not(_)));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
        for (path, word) in [
            (file, "not a directory"),
            (folder.path().join("missing"), "No such file"),
            // Not even root can write there.
            (PathBuf::from("/proc"), ""),
        ] {
            let StorageUse::Not(why) = storage_use(&path) else { panic!("{}", path.display()) };
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn the_keys_file_is_looked_at_but_not_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("key");
        let of = |path: &Path| key_file(&format!("cluster_key = {path:?}\n")).expect("a key");
        assert!(of(&path).mode.expect_err("missing").contains("No such file"));
        assert!(of(folder.path()).mode.expect_err("a folder").contains("no regular file"));
        fs::write(&path, "secret").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        assert_eq!(of(&path).mode, Ok(0o640));
        assert_eq!(key_file("cluster = 1\n"), None);
        assert_eq!(key_file("cluster_key = 1\n"), None);
    }
}
