//! The configuration of one instance: a TOML file, every key of which is known. Paths are taken as they are:
//! those that are relative from the folder that the process was started in.
//!
//! ```toml
//! cluster = 42                    # the same on all instances
//! instance = 0                    # its own on each, 0 to 63
//! listen = "127.0.0.1:7400"
//! storage = "/srv/shared"         # the same files on all instances
//!                                 # optional, with what they are otherwise:
//! members = [0, 1, 2]             # this instance and its peers
//! members_max = 3                 # as many as `members` has; more, where some may join later
//! page_size = 8192                # 4096, 8192, 16384 or 32768
//! arena_mb = 64
//! cache_pages = 4000              # as many as the arena has room for
//! huge_pages = true               # if the host has them
//! lock_memory = false             # keep the arena from being swapped out
//! dump_memory = false             # leave the arena's pages in core files
//! shards = 1                      # the same on all; shard n listens on `listen`'s port + n
//! poller_cores = [2]              # one for each shard; otherwise any core
//! spin_us = 0                     # spin this long before sleeping; only with cores to spare
//! io_threads = 2
//! acquire_timeout_ms = 30000
//! keepalive_ms = 1000             # a link with nothing to say says so this often
//! peer_timeout_ms = 10000         # a link that is silent for so long is taken down
//! page_crc = true
//! cluster_key = "/etc/pagewire/cluster.key"   # none; the same file on all instances, mode 0600
//! transport = "auto"              # RDMA verbs where both ends can; "verbs": nothing else; or "tcp"
//! rdma_device = "mlx5_0"          # chosen by `listen`'s address, as are the two that follow
//! rdma_port = 1
//! rdma_gid_index = 3
//! si_ring = "/dev/shm/pagewire-42-0.si"        # the invalidations' ring, which other processes read
//! si_ring_entries = 65536         # a power of two; a reader further behind is told to reset
//! status_socket = "/run/pagewire/42-0.sock"    # where `pagewire status` asks; a usual place
//!
//! [[peers]]
//! instance = 1
//! address = "10.0.0.2:7400"
//!
//! [[peers]]
//! instance = 2
//! address = "10.0.0.3:7400"
//! ```

mod check;
mod error;
mod file;
mod warnings;

pub use error::ConfigError;
pub use warnings::{CacheExcess, NoKey};

use crate::{
    file_kind,
    view::{View, ViewError},
};
use pagewire_protocol::{ClusterId, Epoch, Incarnation, InstanceId, PageSize};
use pagewire_si::{RingConfig, RingError, RingWriter};
use pagewire_transport::{
    ArenaConfig, ClusterKey, ClusterKeyError, EndpointConfig, LaneCredits, LinkPolicy,
    link::verbs::Overrides,
};
use std::{
    fs::{self, Metadata, OpenOptions},
    io::Read,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Fewest pages a shard can work with: every thread needs some at the same time.
pub(crate) const CACHE_PAGES_MIN: u32 = 32;

/// Most that is read of a file, in bytes: thousands of times what one needs.
const FILE_MAX_BYTES: u64 = 1 << 20;

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
    /// Most members that there may be at a time: memory for what they have on their way is set aside.
    /// By default as many as `members` has.
    pub members_max: Option<u16>,
    /// The view to begin with, where a membership layer has decided one; otherwise it is made of
    /// `members`, in whatever lives they come.
    pub first_view: Option<Arc<View>>,
    /// The life that the instance begins, where a membership layer names it; otherwise a new one.
    pub incarnation: Option<Incarnation>,
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
    /// Keep the arena from being swapped out; an error if the limit on locked memory is too low.
    pub lock_memory: bool,
    /// Leave the arena's pages in core files.
    pub dump_memory: bool,
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
    /// How often a link that has nothing to say says so, in milliseconds. The peers' time-out must
    /// be at least twice as long.
    pub keepalive_ms: u64,
    /// A link on which nothing was heard for so long is taken down, in milliseconds.
    pub peer_timeout_ms: u64,
    /// Put a CRC-32C on every page sent.
    pub page_crc: bool,
    /// File with the key that every instance proves to have; without one, whoever reaches the port
    /// can speak as any instance.
    pub cluster_key: Option<PathBuf>,
    /// What messages may travel on.
    pub transport: LinkPolicy,
    /// Which RDMA device, port and GID to use; what is left out is chosen by the address of the
    /// connection.
    pub rdma: Overrides,
    /// Where a running node answers `pagewire status`; without one, in a usual place.
    pub status_socket: Option<PathBuf>,
    /// File of the ring that invalidations are written to; without one it is in memory without a name,
    /// for readers in this process.
    pub si_ring: Option<PathBuf>,
    /// Messages that the ring holds, a power of two.
    pub si_ring_entries: u32,
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
            members_max: None,
            first_view: None,
            incarnation: None,
            peers: Vec::new(),
            page_size: PageSize::K8,
            arena_mb: 64,
            cache_pages: None,
            huge_pages: true,
            lock_memory: false,
            dump_memory: false,
            shards: 1,
            poller_cores: Vec::new(),
            spin_us: 0,
            io_threads: 2,
            acquire_timeout_ms: 30_000,
            keepalive_ms: 1000,
            peer_timeout_ms: 10_000,
            page_crc: true,
            cluster_key: None,
            transport: LinkPolicy::Auto,
            rdma: Overrides::default(),
            status_socket: None,
            si_ring: None,
            si_ring_entries: 1 << 16,
            credits: LaneCredits::default(),
        }
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ConfigError`]: no such file, no regular one, not TOML, an unknown or missing key, a value
    /// out of range.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }

    /// The membership view that the instance begins with.
    ///
    /// # Errors
    /// [`ViewError`] when it is to be made of the member list, and that cannot be used.
    pub fn view(&self) -> Result<Arc<View>, ViewError> {
        let first = || View::new(Epoch(1), self.members.clone()).map(Arc::new);
        self.first_view.clone().map_or_else(first, Ok)
    }

    /// Frames of the arena.
    #[must_use]
    pub fn frames(&self) -> u32 {
        let frames = (u64::from(self.arena_mb) << 20) / self.page_size.bytes() as u64;
        u32::try_from(frames).unwrap_or(u32::MAX)
    }

    /// What an arena of `frames` frames is made of.
    pub(crate) fn arena(&self, frames: u32) -> ArenaConfig {
        ArenaConfig {
            page_size: self.page_size,
            huge_pages: self.huge_pages,
            lock: self.lock_memory,
            dump: self.dump_memory,
            ..ArenaConfig::new(frames)
        }
    }

    /// The incarnation of this instance: the one that was chosen for it, or a new one.
    pub(crate) fn next_incarnation(&self) -> Incarnation {
        if let Some(chosen) = self.incarnation {
            return chosen;
        }
        EndpointConfig::new(self.cluster, self.instance, self.listen).incarnation
    }

    /// The ring for invalidations, of this life.
    pub(crate) fn open_si_ring(&self, incarnation: Incarnation) -> Result<RingWriter, RingError> {
        let (cluster, instance) = (self.cluster, self.instance);
        let ring = RingConfig { cluster, instance, incarnation, entries: self.si_ring_entries };
        self.si_ring
            .as_deref()
            .map_or_else(|| RingWriter::in_memory(&ring), |path| RingWriter::open(path, &ring))
    }

    /// What the fabric is told, as the first shard would say it; reads the cluster key.
    pub(crate) fn endpoint(&self, view: &View) -> Result<EndpointConfig, ClusterKeyError> {
        let cluster_key = self.cluster_key.as_deref().map(ClusterKey::from_file).transpose()?;
        Ok(EndpointConfig {
            cluster_key,
            shards: self.shards,
            view_epoch: view.epoch(),
            view_hash: view.hash(),
            credits: self.credits,
            page_crc: self.page_crc,
            links: self.transport,
            verbs: self.rdma.clone(),
            keepalive: Duration::from_millis(self.keepalive_ms),
            peer_timeout: Duration::from_millis(self.peer_timeout_ms),
            // Until the directory can be recovered (see ARCHITECTURE).
            peers_may_return: false,
            // Until the membership view says when an incarnation is over.
            session_expiry: None,
            ..EndpointConfig::new(self.cluster, self.instance, self.listen)
        })
    }
}

/// The text of the file at `path`. Nothing is opened that is no regular file: opening a device may
/// do something, and a FIFO would wait for a writer.
fn read(path: &Path) -> Result<String, ConfigError> {
    let refused = |source| ConfigError::Read { path: path.to_owned(), source };
    let check = |about: Metadata| match about.is_file() {
        true => Ok(()),
        false => {
            let found = file_kind::in_words(about.file_type());
            Err(ConfigError::NotAFile { path: path.to_owned(), found })
        }
    };
    check(fs::metadata(path).map_err(refused)?)?;
    // Should it have become something else since: this does not wait.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(refused)?;
    check(file.metadata().map_err(refused)?)?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned(), most_bytes: FILE_MAX_BYTES });
    }
    String::from_utf8(bytes).map_err(|error| {
        let text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = text.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotText { path: path.to_owned(), line }
    })
}

#[cfg(test)]
mod tests;
