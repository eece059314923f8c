//! What devices say of their ports and addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// Greatest payload of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mtu {
    /// 256 bytes.
    Bytes256 = 1,
    /// 512 bytes.
    Bytes512 = 2,
    /// 1024 bytes: what an Ethernet MTU of 1500 gives.
    Bytes1024 = 3,
    /// 2048 bytes.
    Bytes2048 = 4,
    /// 4096 bytes: what an Ethernet MTU of 9000 gives.
    Bytes4096 = 5,
}

impl Mtu {
    /// The value that `enum ibv_mtu` and the handshake have for it; `None`: there is no such.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        [Self::Bytes256, Self::Bytes512, Self::Bytes1024, Self::Bytes2048, Self::Bytes4096]
            .into_iter()
            .find(|mtu| u32::from(mtu.code()) == code)
    }

    /// The value in `enum ibv_mtu`.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        128 << self.code()
    }
}

/// State of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// No link.
    Down,
    /// There is a link, no subnet manager has configured it.
    Initialising,
    /// Configured, not yet in use.
    Armed,
    /// Ready.
    Active,
    /// A value that the library's headers do not name.
    Other(u32),
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("down"),
            Self::Initialising => f.write_str("initialising"),
            Self::Armed => f.write_str("armed"),
            Self::Active => f.write_str("active"),
            Self::Other(state) => write!(f, "in state {state}"),
        }
    }
}

/// What a port is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// An InfiniBand subnet: addresses are LIDs.
    InfiniBand,
    /// Ethernet: addresses are GIDs (RoCE), and every packet has a global header.
    Ethernet,
    /// The driver does not say; the manual wants this taken for InfiniBand.
    Unspecified,
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfiniBand => "InfiniBand",
            Self::Ethernet => "Ethernet",
            Self::Unspecified => "unspecified",
        })
    }
}

/// How packets with a GID look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet type 0x8915: not routable.
    RoceV1,
    /// UDP port 4791.
    RoceV2,
    /// A value that the library's headers do not name.
    Other(u32),
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InfiniBand => f.write_str("IB"),
            Self::RoceV1 => f.write_str("RoCE v1"),
            Self::RoceV2 => f.write_str("RoCE v2"),
            Self::Other(kind) => write!(f, "type {kind}"),
        }
    }
}

/// One entry of a port's table of addresses that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gid {
    /// Its place in the table.
    pub index: u32,
    /// The address; of an IPv4 network: IPv4-mapped.
    pub address: Ipv6Addr,
    /// What packets with it look like.
    pub kind: GidKind,
    /// The network interface it belongs to (RoCE), if that is known.
    pub interface: Option<String>,
}

impl Gid {
    pub(super) fn ip(&self) -> IpAddr {
        self.address.to_canonical()
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.index, self.ip(), self.kind)?;
        self.interface.iter().try_for_each(|interface| write!(f, " on {interface}"))
    }
}

/// A port as its device describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFacts {
    /// Its number, from 1.
    pub number: u8,
    /// Its state.
    pub state: PortState,
    /// What it is plugged into.
    pub link_layer: LinkLayer,
    /// Its address in an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// Greatest packet now; on Ethernet follows the MTU of the network interface.
    pub active_mtu: Mtu,
    /// The addresses in use, by index.
    pub gids: Vec<Gid>,
}

impl PortFacts {
    pub(super) fn uses_gids(&self) -> bool {
        self.link_layer == LinkLayer::Ethernet
    }
}

/// A device and its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its name, such as `mlx5_0`.
    pub name: String,
    /// Its ports, by number.
    pub ports: Vec<PortFacts>,
}
