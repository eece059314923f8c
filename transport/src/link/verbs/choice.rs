//! Which port and which of its addresses reach a peer.
//!
//! Pure: takes what the devices say ([`DeviceFacts`]), the address of the TCP connection to the peer,
//! and what the operator fixed ([`Overrides`]).
//!
//! RoCE: the GID that equals the local address of that connection, since the network it is on reaches
//! the peer already; RoCE v2 before v1, which no router forwards. InfiniBand: GIDs there are made
//! of GUIDs and match no address, so the port is the only one that is active, or the one that the
//! operator names; peers address each other by LID.

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
    fn ip(&self) -> IpAddr {
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
    fn uses_gids(&self) -> bool {
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

/// What the operator fixed; `None`: chosen by the address of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Name of the device.
    pub device: Option<String>,
    /// Number of the port, from 1.
    pub port: Option<u8>,
    /// Index in the port's table of addresses.
    pub gid_index: Option<u32>,
}

/// A port, and the address to use on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Name of the device.
    pub device: String,
    /// Number of the port.
    pub port: u8,
    /// Greatest packet now.
    pub mtu: Mtu,
    /// What the port is plugged into.
    pub link_layer: LinkLayer,
    /// The port's LID; 0 on Ethernet.
    pub lid: u16,
    /// The GID; on Ethernet always, on InfiniBand where the port has one.
    pub gid: Option<Gid>,
    /// True when packets carry a global header, so that the peer has to know the GID: on Ethernet,
    /// and on InfiniBand when the operator fixed a GID (a peer behind a router).
    pub global: bool,
}

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

type Port<'a> = (&'a DeviceFacts, &'a PortFacts);

/// The port to use for a peer that a TCP connection from `local` reaches.
///
/// # Errors
/// [`ChoiceError`]: what was found and what to change.
pub fn pick(
    devices: &[DeviceFacts],
    local: IpAddr,
    overrides: &Overrides,
) -> Result<Choice, ChoiceError> {
    let ports = allowed_ports(devices, overrides)?;
    match overrides.gid_index {
        Some(index) => pick_by_index(&ports, local.to_canonical(), index),
        None => pick_by_address(&ports, local.to_canonical()),
    }
}

/// The ports that the overrides leave.
fn allowed_ports<'a>(
    devices: &'a [DeviceFacts],
    overrides: &Overrides,
) -> Result<Vec<Port<'a>>, ChoiceError> {
    let mut allowed: Vec<_> = devices.iter().collect();
    if let Some(named) = &overrides.device {
        allowed.retain(|device| device.name == *named);
        if allowed.is_empty() {
            let found = devices.iter().map(|device| device.name.clone()).collect();
            return Err(ChoiceError::Device { named: named.clone(), found });
        }
    }
    let ports: Vec<Port<'_>> = allowed
        .into_iter()
        .flat_map(|device| device.ports.iter().map(move |port| (device, port)))
        .collect();
    let Some(named) = overrides.port else { return Ok(ports) };
    let matching: Vec<_> = ports.iter().copied().filter(|(_, port)| port.number == named).collect();
    if matching.is_empty() {
        return Err(ChoiceError::Port { named, found: ports.iter().map(port_name).collect() });
    }
    Ok(matching)
}

fn port_name((device, port): &Port<'_>) -> String {
    format!("{}/{}", device.name, port.number)
}

fn gid_names(ports: &[Port<'_>]) -> Vec<String> {
    let names = |(device, port): &Port<'_>| -> Vec<String> {
        let name = |gid: &Gid| format!("{}/{} {gid}", device.name, port.number);
        port.gids.iter().map(name).collect()
    };
    ports.iter().flat_map(names).collect()
}

/// A GID that the operator fixed. Several ports may have the index: the one with the address of the
/// connection is meant, then one that is active.
fn pick_by_index(ports: &[Port<'_>], local: IpAddr, index: u32) -> Result<Choice, ChoiceError> {
    let with_index = ports.iter().filter_map(|port| {
        let gid = port.1.gids.iter().find(|gid| gid.index == index)?;
        Some((*port, gid))
    });
    let best = with_index
        .min_by_key(|((_, port), gid)| (gid.ip() != local, port.state != PortState::Active));
    let Some((port, gid)) = best else {
        return Err(ChoiceError::GidIndex { named: index, found: gid_names(ports) });
    };
    chosen(port, Some(gid), true)
}

fn pick_by_address(ports: &[Port<'_>], local: IpAddr) -> Result<Choice, ChoiceError> {
    let matching = ports.iter().filter(|(_, port)| port.uses_gids()).flat_map(|port| {
        let same = port.1.gids.iter().filter(|gid| gid.ip() == local && rank(gid.kind) < 2);
        same.map(|gid| (*port, gid))
    });
    let best =
        matching.min_by_key(|((_, port), gid)| (port.state != PortState::Active, rank(gid.kind)));
    if let Some((port, gid)) = best {
        return chosen(port, Some(gid), true);
    }
    let infiniband: Vec<_> = ports.iter().filter(|(_, port)| !port.uses_gids()).copied().collect();
    let active: Vec<_> =
        infiniband.iter().filter(|(_, port)| port.state == PortState::Active).copied().collect();
    match (active.as_slice(), infiniband.as_slice()) {
        ([only], _) => chosen(*only, only.1.gids.first(), false),
        ([], [down, ..]) => chosen(*down, None, false),
        ([], []) => Err(ChoiceError::Address { address: local, found: gid_names(ports) }),
        (several, _) => {
            Err(ChoiceError::Ambiguous { found: several.iter().map(port_name).collect() })
        }
    }
}

/// Which kind of GID is preferred on Ethernet; less is better, 2 is of no use.
fn rank(kind: GidKind) -> u8 {
    match kind {
        GidKind::RoceV2 => 0,
        GidKind::RoceV1 => 1,
        GidKind::InfiniBand | GidKind::Other(_) => 2,
    }
}

fn chosen(
    (device, port): Port<'_>,
    gid: Option<&Gid>,
    global: bool,
) -> Result<Choice, ChoiceError> {
    if port.state != PortState::Active {
        let (device, port, state) = (device.name.clone(), port.number, port.state);
        return Err(ChoiceError::PortDown { device, port, state });
    }
    Ok(Choice {
        device: device.name.clone(),
        port: port.number,
        mtu: port.active_mtu,
        link_layer: port.link_layer,
        lid: port.lid,
        gid: gid.cloned(),
        global,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u32, address: &str, kind: GidKind) -> Gid {
        let address = match address.parse().unwrap() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Gid { index, address, kind, interface: Some("eth0".to_owned()) }
    }

    fn roce(name: &str, address: &str) -> DeviceFacts {
        let gids = vec![
            gid(0, "fe80::1", GidKind::RoceV1),
            gid(1, "fe80::1", GidKind::RoceV2),
            gid(2, address, GidKind::RoceV1),
            gid(3, address, GidKind::RoceV2),
        ];
        let port = PortFacts {
            number: 1,
            state: PortState::Active,
            link_layer: LinkLayer::Ethernet,
            lid: 0,
            active_mtu: Mtu::Bytes4096,
            gids,
        };
        DeviceFacts { name: name.to_owned(), ports: vec![port] }
    }

    fn infiniband(name: &str, lid: u16) -> DeviceFacts {
        let port = PortFacts {
            number: 1,
            state: PortState::Active,
            link_layer: LinkLayer::InfiniBand,
            lid,
            active_mtu: Mtu::Bytes4096,
            gids: vec![gid(0, "fe80::f", GidKind::InfiniBand)],
        };
        DeviceFacts { name: name.to_owned(), ports: vec![port] }
    }

    fn pick_from(
        devices: &[DeviceFacts],
        local: &str,
        overrides: &Overrides,
    ) -> Result<Choice, ChoiceError> {
        pick(devices, local.parse().unwrap(), overrides)
    }

    fn free() -> Overrides {
        Overrides::default()
    }

    #[test]
    fn the_gid_with_the_connections_address_is_taken_and_roce_v2_of_both() {
        let devices = [roce("mlx5_0", "10.0.0.1"), roce("mlx5_1", "10.1.0.1")];
        let choice = pick_from(&devices, "10.1.0.1", &free()).unwrap();
        assert_eq!(choice.device, "mlx5_1");
        assert_eq!(choice.gid.unwrap(), gid(3, "10.1.0.1", GidKind::RoceV2));
        assert!(choice.global);
        let mapped = pick_from(&devices, "::ffff:10.0.0.1", &free()).unwrap();
        assert_eq!(mapped.device, "mlx5_0");
        let v6 = [roce("mlx5_0", "2001:db8::7")];
        assert_eq!(pick_from(&v6, "2001:db8::7", &free()).unwrap().gid.unwrap().index, 3);
    }

    #[test]
    fn roce_v1_serves_where_there_is_no_v2() {
        let mut device = roce("old_0", "10.0.0.1");
        device.ports[0].gids.retain(|gid| gid.kind == GidKind::RoceV1);
        let choice = pick_from(&[device], "10.0.0.1", &free()).unwrap();
        assert_eq!(choice.gid.unwrap().index, 2);
    }

    #[test]
    fn an_address_that_no_port_has_is_refused_with_the_addresses_there_are() {
        let error = pick_from(&[roce("rxe0", "10.0.0.1")], "127.0.0.1", &free()).unwrap_err();
        let text = error.to_string();
        for word in ["127.0.0.1", "rxe0/1 3: 10.0.0.1 RoCE v2 on eth0", "GID index"] {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
        let none = pick_from(&[], "127.0.0.1", &free()).unwrap_err();
        assert!(none.to_string().contains("found none"));
    }

    #[test]
    fn what_the_configuration_names_wrongly_is_answered_with_what_there_is() {
        let devices = [roce("rxe0", "10.0.0.1"), roce("rxe1", "10.0.0.2")];
        let device = Overrides { device: Some("mlx5_0".to_owned()), ..free() };
        let text = pick_from(&devices, "10.0.0.1", &device).unwrap_err().to_string();
        assert!(text.contains("mlx5_0") && text.contains("rxe0, rxe1"), "{text}");
        let port = Overrides { port: Some(2), ..free() };
        let text = pick_from(&devices, "10.0.0.1", &port).unwrap_err().to_string();
        assert!(text.contains("no port 2, found rxe0/1, rxe1/1"), "{text}");
        let index = Overrides { gid_index: Some(9), ..free() };
        let text = pick_from(&devices, "10.0.0.1", &index).unwrap_err().to_string();
        assert!(text.contains("index 9") && text.contains("rxe1/1 3: 10.0.0.2 RoCE v2"), "{text}");
    }

    #[test]
    fn a_gid_index_is_taken_on_the_device_with_the_connections_address() {
        let devices = [roce("rxe0", "10.0.0.1"), roce("rxe1", "10.0.0.2")];
        let index = |gid_index| Overrides { gid_index: Some(gid_index), ..free() };
        assert_eq!(pick_from(&devices, "10.0.0.2", &index(3)).unwrap().device, "rxe1");
        let by_name = Overrides { device: Some("rxe1".to_owned()), ..index(1) };
        let choice = pick_from(&devices, "127.0.0.1", &by_name).unwrap();
        assert_eq!((choice.device.as_str(), choice.gid.unwrap().index), ("rxe1", 1));
    }

    #[test]
    fn a_port_that_is_down_is_used_by_nobody_and_named() {
        let mut devices = [roce("rxe0", "10.0.0.1"), roce("rxe1", "10.0.0.1")];
        devices[0].ports[0].state = PortState::Down;
        assert_eq!(pick_from(&devices, "10.0.0.1", &free()).unwrap().device, "rxe1");
        let error = pick_from(&devices[..1], "10.0.0.1", &free()).unwrap_err();
        assert!(error.to_string().contains("rxe0/1 is down, expected active"), "{error}");
    }

    #[test]
    fn infiniband_is_addressed_by_lid_and_two_active_ports_want_a_name() {
        let devices = [infiniband("mlx5_0", 7), infiniband("mlx5_1", 8)];
        let only = pick_from(&devices[..1], "10.0.0.1", &free()).unwrap();
        assert_eq!((only.lid, only.global), (7, false));
        let error = pick_from(&devices, "10.0.0.1", &free()).unwrap_err();
        assert!(error.to_string().contains("mlx5_0/1, mlx5_1/1"), "{error}");
        let named = Overrides { device: Some("mlx5_1".to_owned()), ..free() };
        assert_eq!(pick_from(&devices, "10.0.0.1", &named).unwrap().lid, 8);
        let routed = Overrides { gid_index: Some(0), ..named };
        assert!(pick_from(&devices, "10.0.0.1", &routed).unwrap().global);
        let both = [infiniband("mlx5_0", 7), roce("mlx5_1", "10.0.0.1")];
        assert_eq!(pick_from(&both, "10.0.0.1", &free()).unwrap().device, "mlx5_1");
    }

    #[test]
    fn packet_sizes_are_the_codes_of_the_header() {
        assert_eq!(Mtu::from_code(3).map(Mtu::bytes), Some(1024));
        assert_eq!(Mtu::from_code(5).map(Mtu::bytes), Some(4096));
        assert_eq!((Mtu::from_code(0), Mtu::from_code(6)), (None, None));
    }
}
