//! What links would be on: what an endpoint with this configuration would decide on this host.

use super::process::memlock_is_short;
use crate::doctor::{
    facts::{HostFacts, RdmaDevice, RdmaFacts, RdmaPort, Unusable},
    finding::Finding,
    plan::{Plan, Trial},
};
use pagewire_protocol::TcpReason;
use pagewire_transport::{
    LinkPolicy, Overrides,
    link::verbs::{
        choice::{Choice, DeviceFacts, Gid, GidKind, LinkLayer, Mtu, PortFacts, PortState},
        pick,
    },
};
use std::net::IpAddr;

const AREA: &str = "rdma";

/// Nothing without a configuration: it is about the address to listen on.
pub(super) fn judge(facts: &HostFacts, plan: &Plan) -> Option<Finding> {
    let Some(Trial::Tried { listen, .. }) = &plan.trial else { return None };
    let name = match plan.transport {
        LinkPolicy::Auto => "auto",
        LinkPolicy::Verbs => "verbs",
        LinkPolicy::Tcp => "tcp",
    };
    let finding = Finding::new(AREA, format!("transport = \"{name}\""));
    if plan.transport == LinkPolicy::Tcp {
        return Some(finding.found(format!("TCP: {}", TcpReason::Configured)));
    }
    let is_demanded = plan.transport == LinkPolicy::Verbs;
    let finding = finding.expected(match is_demanded {
        true => "verbs with every peer: there is no link without",
        false => "verbs where there is an RDMA network; with other peers TCP",
    });
    Some(match decide(facts, plan, listen.ip()) {
        Ok(found) => finding.found(found),
        Err(Unusable { reason, words }) => {
            let change = change(reason);
            finding
                .found(format!("TCP: {reason}: {words}"))
                .note_if(!facts.rdma.devices.is_empty(), change)
                .change_if(is_demanded, change)
        }
    })
}

fn change(reason: TcpReason) -> &'static str {
    match reason {
        TcpReason::NoPort => {
            "listen on an address of the RDMA network, or correct rdma_device, rdma_port and \
             rdma_gid_index"
        }
        TcpReason::NotRegistered => "raise the limit: see locked memory",
        _ => "see RDMA devices and libibverbs",
    }
}

fn decide(facts: &HostFacts, plan: &Plan, listen: IpAddr) -> Result<String, Unusable> {
    let devices = devices(&facts.rdma)?;
    let found = if listen.is_unspecified() && plan.rdma == Overrides::default() {
        format!("decided for each peer: {listen} is any address, that of the connection counts")
    } else {
        let refused = |error| Unusable { reason: TcpReason::NoPort, words: format!("{error}") };
        words(&pick(&devices, listen, &plan.rdma).map_err(refused)?)
    };
    if memlock_is_short(&facts.process, plan) {
        let words = "the limit on locked memory is below the arena's size".to_owned();
        return Err(Unusable { reason: TcpReason::NotRegistered, words });
    }
    Ok(found)
}

fn words(choice: &Choice) -> String {
    let Choice { device, port, mtu, .. } = choice;
    let gid = choice.gid.as_ref().map(|gid| format!(", GID {gid}")).unwrap_or_default();
    format!("verbs on {device}/{port}{gid}, active MTU {}", mtu.bytes())
}

/// The devices that can be used.
fn devices(rdma: &RdmaFacts) -> Result<Vec<DeviceFacts>, Unusable> {
    let unusable = |reason, words: &str| Err(Unusable { reason, words: words.to_owned() });
    match &rdma.verbs {
        Some(Err(error)) => Err(error.clone()),
        Some(Ok(asked)) => {
            let good: Vec<_> = asked.iter().filter_map(|(_, said)| said.as_ref().ok()).collect();
            let failed = asked.iter().find_map(|(_, said)| said.as_ref().err());
            match failed {
                Some(error) if good.is_empty() => Err(error.clone()),
                _ => Ok(good.into_iter().cloned().collect()),
            }
        }
        None if rdma.libibverbs.is_none() => unusable(TcpReason::NoLibrary, "not installed"),
        None if rdma.devices.is_empty() => unusable(TcpReason::NoDevice, "found none"),
        None => Ok(rdma.devices.iter().map(of_sysfs).collect()),
    }
}

fn of_sysfs(device: &RdmaDevice) -> DeviceFacts {
    let ports = device.ports.iter().filter_map(port_of_sysfs).collect();
    DeviceFacts { name: device.name.clone(), ports }
}

fn port_of_sysfs(port: &RdmaPort) -> Option<PortFacts> {
    let has = |text: &Option<String>, word| text.as_ref().is_some_and(|t| t.contains(word));
    let is_ethernet = has(&port.link_layer, "Ethernet");
    let gids = port.gids.iter().filter_map(|gid| {
        let address = match gid.address.parse().ok()? {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let kind = match (has(&gid.kind, "v2"), is_ethernet) {
            (true, _) => GidKind::RoceV2,
            (false, true) => GidKind::RoceV1,
            (false, false) => GidKind::InfiniBand,
        };
        Some(Gid { index: gid.index, address, kind, interface: gid.interface.clone() })
    });
    Some(PortFacts {
        number: u8::try_from(port.number).ok()?,
        state: if has(&port.state, "ACTIVE") { PortState::Active } else { PortState::Down },
        link_layer: if is_ethernet { LinkLayer::Ethernet } else { LinkLayer::InfiniBand },
        lid: 0,
        active_mtu: active_mtu(port),
        gids: gids.collect(),
    })
}

/// What fits into the interface's frames, as the kernel counts.
fn active_mtu(port: &RdmaPort) -> Mtu {
    let bytes = super::rdma::path_mtu_bytes(port).unwrap_or(0);
    let mtus = [Mtu::Bytes4096, Mtu::Bytes2048, Mtu::Bytes1024, Mtu::Bytes512];
    mtus.into_iter().find(|mtu| u64::from(mtu.bytes()) == bytes).unwrap_or(Mtu::Bytes256)
}
