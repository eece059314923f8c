//! Why there is no port to use, and what to change.

use super::PortState;
use std::net::IpAddr;

/// Why there is no port to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// The configuration names a device that is not there.
    #[error(
        "no RDMA device {named}, found {}; correct the device in the configuration",
        list(found)
    )]
    Device {
        /// The name.
        named: String,
        /// The devices there are.
        found: Vec<String>,
    },
    /// The configuration names a port that is not there.
    #[error("no port {named}, found {}; correct the port in the configuration", list(found))]
    Port {
        /// The number.
        named: u8,
        /// The ports there are, as `device/port`.
        found: Vec<String>,
    },
    /// The configuration names an entry of the table of addresses that is empty or not there.
    #[error(
        "no GID with index {named}, found {}; correct the GID index in the configuration, or leave \
         it out to have it chosen by address",
        list(found)
    )]
    GidIndex {
        /// The index.
        named: u32,
        /// The entries in use.
        found: Vec<String>,
    },
    /// No port has the address of the connection.
    #[error(
        "no active RDMA port has the address {address} of the TCP connection to the peer, found {}; \
         listen on an address of the RDMA network, or name device and GID index in the \
         configuration",
        list(found)
    )]
    Address {
        /// The local address of the connection.
        address: IpAddr,
        /// The GIDs there are.
        found: Vec<String>,
    },
    /// The port that would be used is not active.
    #[error(
        "RDMA port {device}/{port} is {state}, expected active: check cable and switch, set the \
         network interface up, or on InfiniBand start a subnet manager"
    )]
    PortDown {
        /// Name of the device.
        device: String,
        /// Number of the port.
        port: u8,
        /// Its state.
        state: PortState,
    },
    /// Several InfiniBand ports are active and nothing says which of them reaches the peer.
    #[error(
        "several InfiniBand ports are active ({}), expected one: name device and port in the \
         configuration, the same network on every instance",
        list(found)
    )]
    Ambiguous {
        /// The ports, as `device/port`.
        found: Vec<String>,
    },
}

fn list(found: &[String]) -> String {
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}
