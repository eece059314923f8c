//! Which RDMA device the instances of a demo are told to use.
//!
//! They listen on a loopback address, which no RDMA port has, so what the user leaves out cannot be
//! chosen by address: the only device there is, its first active port, and an address on it.

use super::{error::DemoError, options::DemoOptions};
use pagewire_transport::link::verbs::{
    Context, Overrides, VerbsError,
    choice::{DeviceFacts, Gid, GidKind, LinkLayer, PortFacts, PortState},
    device::device_names,
    pick,
};
use std::net::{IpAddr, Ipv4Addr};

/// Completes what the user named, and checks it as an instance would.
///
/// # Errors
/// [`DemoError::Verbs`] when this host has no such thing, [`DemoError::SeveralDevices`] when the user
/// has to name one.
pub(super) fn choose(options: &DemoOptions) -> Result<Overrides, DemoError> {
    let devices = devices()?;
    let chosen = complete(&devices, options.rdma())?;
    pick(&devices, IpAddr::V4(Ipv4Addr::LOCALHOST), &chosen).map_err(VerbsError::from)?;
    Ok(chosen)
}

fn devices() -> Result<Vec<DeviceFacts>, VerbsError> {
    let mut facts = Vec::new();
    let mut failed = None;
    for name in device_names()? {
        match Context::open(&name).and_then(|device| device.facts()) {
            Ok(device) => facts.push(device),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if facts.is_empty() => Err(error),
        _ => Ok(facts),
    }
}

fn complete(devices: &[DeviceFacts], named: Overrides) -> Result<Overrides, DemoError> {
    if named.device.is_some() && named.gid_index.is_some() {
        return Ok(named);
    }
    let device = match &named.device {
        Some(name) => devices.iter().find(|device| device.name == *name),
        None => match devices {
            [only] => Some(only),
            several => {
                let found = several.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(DemoError::SeveralDevices { found });
            }
        },
    };
    // What cannot be found is told by the choice that follows.
    let Some(device) = device else { return Ok(named) };
    let mut chosen = Overrides { device: Some(device.name.clone()), ..named };
    let is_meant = |port: &&PortFacts| {
        chosen.port.map_or(port.state == PortState::Active, |n| n == port.number)
    };
    let Some(port) = device.ports.iter().find(is_meant) else { return Ok(chosen) };
    chosen.port = Some(port.number);
    if chosen.gid_index.is_none() && port.link_layer == LinkLayer::Ethernet {
        chosen.gid_index = port.gids.iter().min_by_key(|gid| rank(gid)).map(|gid| gid.index);
    }
    Ok(chosen)
}

/// Which address serves best; less is better. All instances are on this host, so any does that its
/// kernel routes to itself.
fn rank(gid: &Gid) -> (bool, bool, u32) {
    (gid.kind != GidKind::RoceV2, gid.address.to_ipv4_mapped().is_none(), gid.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_transport::link::verbs::choice::Mtu;

    fn gid(index: u32, address: &str, kind: GidKind) -> Gid {
        Gid { index, address: address.parse().expect("an address"), kind, interface: None }
    }

    fn device(name: &str) -> DeviceFacts {
        let port = |number, state| PortFacts {
            number,
            state,
            link_layer: LinkLayer::Ethernet,
            lid: 0,
            active_mtu: Mtu::Bytes4096,
            gids: vec![
                gid(0, "::ffff:10.0.0.1", GidKind::RoceV1),
                gid(1, "fe80::1", GidKind::RoceV2),
                gid(2, "::ffff:10.0.0.1", GidKind::RoceV2),
            ],
        };
        let ports = vec![port(1, PortState::Down), port(2, PortState::Active)];
        DeviceFacts { name: name.to_owned(), ports }
    }

    #[test]
    fn the_only_device_its_active_port_and_the_ipv4_address_are_taken() {
        let chosen = complete(&[device("rxe0")], Overrides::default()).expect("chosen");
        let expected =
            Overrides { device: Some("rxe0".to_owned()), port: Some(2), gid_index: Some(2) };
        assert_eq!(chosen, expected);
        let named = Overrides { port: Some(1), gid_index: Some(1), ..Overrides::default() };
        let chosen = complete(&[device("rxe0")], named.clone()).expect("chosen");
        assert_eq!(chosen, Overrides { device: Some("rxe0".to_owned()), ..named });
    }

    #[test]
    fn of_several_devices_the_user_names_one() {
        let devices = [device("rxe0"), device("rxe1")];
        let error = complete(&devices, Overrides::default()).expect_err("several").to_string();
        assert!(error.contains("rxe0, rxe1") && error.contains("--rdma-device"), "{error}");
        let named = Overrides { device: Some("rxe1".to_owned()), ..Overrides::default() };
        assert_eq!(complete(&devices, named).expect("chosen").gid_index, Some(2));
    }
}
