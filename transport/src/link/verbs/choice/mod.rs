//! Which port and which of its addresses reach a peer.
//!
//! Pure: takes what the devices say ([`DeviceFacts`]), the address of the TCP connection to the peer,
//! and what the operator fixed ([`Overrides`]).
//!
//! RoCE: the GID that equals the local address of that connection, since the network it is on reaches
//! the peer already; RoCE v2 before v1, which no router forwards. InfiniBand: GIDs there are made
//! of GUIDs and match no address, so the port is the only one that is active, or the one that the
//! operator names; peers address each other by LID.

mod error;
mod facts;
#[cfg(test)]
mod tests;

pub use error::ChoiceError;
pub use facts::{DeviceFacts, Gid, GidKind, LinkLayer, Mtu, PortFacts, PortState};

use std::net::IpAddr;
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
