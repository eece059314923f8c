//! RDMA devices, and what using them takes.

use crate::doctor::{
    facts::{Gid, RdmaDevice, RdmaFacts, RdmaPort, Unusable},
    finding::Finding,
};

const AREA: &str = "rdma";
/// MTUs that a queue pair can have, in bytes.
const PATH_MTUS: [u64; 5] = [4096, 2048, 1024, 512, 256];
/// Headers that the kernel leaves room for in a RoCE packet, in bytes: GRH or IP 40, UDP 8, BTH 12,
/// XRC 4, atomics 28, ICRC 4 (`iboe_get_mtu` in Linux).
const ROCE_HEADERS: u64 = 96;
const LIBRARY_PACKAGES: &str =
    "install it: apt install libibverbs1 ibverbs-providers, or dnf install libibverbs";

pub(super) fn judge(rdma: &RdmaFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if rdma.devices.is_empty() {
        findings.push(no_device(rdma));
    }
    for device in &rdma.devices {
        if device.ports.is_empty() {
            let subject = format!("RDMA device {}", device.name);
            let finding = Finding::new(AREA, subject).found("no port").expected("a port");
            findings.push(finding.note_if(true, "look at dmesg and `rdma dev`: its driver failed"));
        }
        findings.extend(device.ports.iter().flat_map(|port| judge_port(device, port)));
    }
    findings.push(library(rdma));
    findings.extend(unusable(rdma));
    findings
}

fn no_device(rdma: &RdmaFacts) -> Finding {
    let load =
        "for trying it out, soft-RoCE: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev IF";
    let (found, change) = match (rdma.rxe_loaded, rdma.rxe_available) {
        (true, _) => ("none; module rdma_rxe is loaded", "rdma link add rxe0 type rxe netdev IF"),
        (false, Some(true)) => ("none; module rdma_rxe is there, not loaded", load),
        (false, Some(false)) => {
            ("none; this kernel has no module rdma_rxe", "a card, or a kernel with CONFIG_RDMA_RXE")
        }
        (false, None) => (
            "none; no modules in /lib/modules",
            "a card and its driver, or a kernel with CONFIG_RDMA_RXE",
        ),
    };
    Finding::new(AREA, "RDMA devices")
        .found(found)
        .expected("at least one where RDMA is wanted; without, pages go over TCP")
        .note_if(true, change)
}

fn library(rdma: &RdmaFacts) -> Finding {
    let finding =
        Finding::new(AREA, "libibverbs").expected("libibverbs.so.1, opened when it is used");
    match &rdma.libibverbs {
        Some(path) => finding.found(path.display().to_string()),
        None => {
            let finding = finding.found("not installed");
            if rdma.devices.is_empty() {
                return finding.note_if(true, format!("only for RDMA, {LIBRARY_PACKAGES}"));
            }
            finding.change_if(true, LIBRARY_PACKAGES)
        }
    }
}

/// Devices that the kernel has and the library cannot use.
fn unusable(rdma: &RdmaFacts) -> Vec<Finding> {
    let finding = |subject: String, error: &Unusable| {
        let finding = Finding::new(AREA, subject).found(&error.words).expected("it can be used");
        finding.change_if(true, "do what is said there, or set transport = \"tcp\"")
    };
    match &rdma.verbs {
        // Without a device or the library that is said already.
        Some(Err(error)) if !rdma.devices.is_empty() && rdma.libibverbs.is_some() => {
            vec![finding("verbs".to_owned(), error)]
        }
        Some(Ok(asked)) => {
            let failed = |(name, said): &(String, Result<_, Unusable>)| {
                Some(finding(format!("verbs on {name}"), said.as_ref().err()?))
            };
            asked.iter().filter_map(failed).collect()
        }
        _ => Vec::new(),
    }
}

fn judge_port(device: &RdmaDevice, port: &RdmaPort) -> Vec<Finding> {
    let name = format!("{}/{}", device.name, port.number);
    let state = port.state.as_deref().unwrap_or("unknown");
    let link_layer = port.link_layer.as_deref().unwrap_or("unknown");
    let rate = port.rate.as_deref().unwrap_or("unknown");
    let is_active = state.contains("ACTIVE");
    let mut findings = vec![
        Finding::new(AREA, format!("RDMA port {name}"))
            .found(format!("{state}, {link_layer}, {rate}"))
            .expected("ACTIVE")
            .note_if(
                !is_active,
                "bring its interface up (ip link set IF up), check cable and switch",
            ),
    ];
    findings.extend(port.gids.iter().map(|gid| address(&name, gid)));
    if link_layer != "Ethernet" {
        let unknown = "not in sysfs for InfiniBand: see active_mtu in `ibv_devinfo`";
        let found = port.active_mtu.map_or(unknown.to_owned(), |mtu| mtu.to_string());
        findings
            .push(Finding::new(AREA, format!("path MTU of {name}")).found(found).expected("4096"));
        return findings;
    }
    let has_v2 = port.gids.iter().any(|gid| is_v2(gid) && is_routable(gid));
    if !has_v2 {
        let finding = Finding::new(AREA, format!("RoCE v2 address of {name}")).found("none");
        let change = "give its interface an IP address (ip addr add ADDRESS/LENGTH dev IF)";
        findings.push(
            finding
                .expected("one that peers reach")
                .change_if(is_active, change)
                .note_if(!is_active, change),
        );
    }
    findings.extend(path_mtu(&name, port));
    findings
}

fn is_v2(gid: &Gid) -> bool {
    gid.kind.as_deref().is_some_and(|kind| kind.contains("v2"))
}

/// Link-local addresses reach only the same segment, and peers are not known by them.
fn is_routable(gid: &Gid) -> bool {
    !gid.address.starts_with("fe80:")
}

fn address(port: &str, gid: &Gid) -> Finding {
    let kind = gid.kind.as_deref().unwrap_or("of unknown type");
    let interface = gid.interface.as_deref().unwrap_or("no interface");
    Finding::new(AREA, format!("GID {} of {port}", gid.index))
        .found(format!("{} ({kind}, {interface})", gid.address))
        .expected("one of RoCE v2 with the address that peers dial")
}

/// The active MTU, or what fits into the frames of the port's interface.
pub(super) fn path_mtu_bytes(port: &RdmaPort) -> Option<u64> {
    let mtu = port.gids.iter().find_map(|gid| gid.interface_mtu);
    let fits = |path: &&u64| mtu.is_some_and(|mtu| mtu >= **path + ROCE_HEADERS);
    port.active_mtu.or_else(|| PATH_MTUS.iter().find(fits).copied())
}

/// What fits into the frames of the port's interface.
fn path_mtu(name: &str, port: &RdmaPort) -> Option<Finding> {
    let gid = port.gids.iter().find(|gid| gid.interface_mtu.is_some())?;
    let mtu = gid.interface_mtu?;
    let interface = gid.interface.as_deref().unwrap_or("its interface");
    let path = path_mtu_bytes(port).map_or("none".to_owned(), |path| path.to_string());
    let needed = PATH_MTUS[0] + ROCE_HEADERS;
    let finding = Finding::new(AREA, format!("path MTU of {name}"))
        .found(format!("{path}: {interface} has MTU {mtu}"))
        .expected(format!("4096: an MTU of {needed} or more, so that a page is 2 packets"));
    Some(finding.note_if(
        mtu < needed,
        format!("ip link set {interface} mtu 9000, if all switches on the way take it"),
    ))
}
