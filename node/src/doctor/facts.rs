//! What is known of a host: plain data, gathered in one place and judged in another.
//!
//! Invariants: whatever could not be read, or made no sense, is `None` or absent, never a guess.

use pagewire_protocol::TcpReason;
use pagewire_transport::link::verbs::choice::DeviceFacts;
use std::{collections::BTreeSet, path::PathBuf};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    /// Memory and huge pages.
    pub memory: MemoryFacts,
    /// Cores and clock.
    pub cpu: CpuFacts,
    /// Limits of this process.
    pub process: ProcessFacts,
    /// TCP.
    pub network: NetworkFacts,
    /// RDMA.
    pub rdma: RdmaFacts,
}

/// A stock of huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// Size of one, in KiB.
    pub size_kib: u64,
    /// Of one NUMA node; `None`: of the host.
    pub node: Option<u32>,
    /// How many there are.
    pub total: u64,
    /// How many nobody uses.
    pub free: u64,
}

/// Memory and huge pages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryFacts {
    /// Available memory and free swap space, in bytes.
    pub available_bytes: Option<u64>,
    /// What is left under the commit limit, in bytes; counts only with `overcommit` 2.
    pub committable_bytes: Option<u64>,
    /// `vm.overcommit_memory`.
    pub overcommit: Option<u64>,
    /// The least `memory.max` of this process's control groups, in bytes.
    pub cgroup_max_bytes: Option<u64>,
    /// Of the host, and of each NUMA node if there are several.
    pub huge_pages: Vec<HugePages>,
}

/// Cores and clock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuFacts {
    /// Cores that this process may use.
    pub allowed: BTreeSet<u32>,
    /// Cores kept free of other work by the boot option `isolcpus`.
    pub isolated: BTreeSet<u32>,
    /// Cores' worth of time that the control groups grant: quota divided by period.
    pub quota_cores: Option<f64>,
    /// Groups of cores that share one physical core.
    pub siblings: BTreeSet<Vec<u32>>,
    /// Frequency governors of the allowed cores; empty: the host does not say.
    pub governors: BTreeSet<String>,
    /// Clock source in use.
    pub clock_source: Option<String>,
}

/// One bound of a resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// So much.
    Value(u64),
    /// Any amount.
    Unlimited,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What holds now.
    pub soft: Bound,
    /// What it may be raised to.
    pub hard: Bound,
}

/// Limits of this process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessFacts {
    /// Locked memory, in bytes.
    pub memlock: Option<Limit>,
    /// Core files, in bytes.
    pub core: Option<Limit>,
    /// Open files.
    pub files: Option<Limit>,
    /// It may lock memory beyond the limit (CAP_IPC_LOCK).
    pub may_lock: bool,
    /// Where core files go.
    pub core_pattern: Option<String>,
    /// Which kinds of memory core files hold.
    pub coredump_filter: Option<u64>,
}

/// TCP.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkFacts {
    /// `net.core.busy_poll`, in microseconds.
    pub busy_poll_us: Option<u64>,
    /// `net.core.busy_read`, in microseconds.
    pub busy_read_us: Option<u64>,
    /// `net.core.rmem_max`, in bytes.
    pub rmem_max_bytes: Option<u64>,
    /// `net.core.wmem_max`, in bytes.
    pub wmem_max_bytes: Option<u64>,
    /// The greatest of `net.ipv4.tcp_rmem`, in bytes.
    pub tcp_rmem_max_bytes: Option<u64>,
    /// The greatest of `net.ipv4.tcp_wmem`, in bytes.
    pub tcp_wmem_max_bytes: Option<u64>,
    /// `net.ipv4.tcp_slow_start_after_idle`.
    pub slow_start_after_idle: Option<u64>,
    /// Interfaces with hardware behind them, with their MTU.
    pub interfaces: Vec<(String, Option<u64>)>,
}

/// RDMA.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RdmaFacts {
    /// Devices, by name.
    pub devices: Vec<RdmaDevice>,
    /// The software device's module is loaded.
    pub rxe_loaded: bool,
    /// The running kernel has that module; `None`: it has no list of modules.
    pub rxe_available: Option<bool>,
    /// Where libibverbs was found.
    pub libibverbs: Option<PathBuf>,
    /// What the library says of each device, by name; `None`: it was not asked, because the root is
    /// not this host's.
    pub verbs: Option<Result<Vec<AskedDevice>, Unusable>>,
}

/// The name of a device, and what it says of itself.
pub type AskedDevice = (String, Result<DeviceFacts, Unusable>);

/// Why verbs cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// As peers are told.
    pub reason: TcpReason,
    /// In words, with what to do.
    pub words: String,
}

/// An RDMA device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RdmaDevice {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<RdmaPort>,
}

/// A port of an RDMA device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RdmaPort {
    /// Its number.
    pub number: u32,
    /// As the kernel words it: "4: ACTIVE".
    pub state: Option<String>,
    /// "Ethernet" or "InfiniBand".
    pub link_layer: Option<String>,
    /// Greatest payload of a packet now, in bytes; sysfs does not have it.
    pub active_mtu: Option<u64>,
    /// As the kernel words it.
    pub rate: Option<String>,
    /// Its addresses.
    pub gids: Vec<Gid>,
}

/// An address of a port.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gid {
    /// Its place in the table.
    pub index: u32,
    /// The address: that of an interface, for RoCE.
    pub address: String,
    /// "IB/RoCE v1" or "RoCE v2".
    pub kind: Option<String>,
    /// The interface it belongs to.
    pub interface: Option<String>,
    /// That interface's MTU, in bytes.
    pub interface_mtu: Option<u64>,
}
