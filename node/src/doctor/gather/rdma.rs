//! RDMA devices as sysfs shows them, and what using them takes.

use super::Root;
use crate::doctor::facts::{Gid, RdmaDevice, RdmaFacts, RdmaPort};
use std::{net::Ipv6Addr, path::PathBuf};

const DEVICES: &str = "sys/class/infiniband";
const LIBRARY: &str = "libibverbs.so.1";
/// Where the dynamic linker looks without being told.
const LIBRARY_FOLDERS: [&str; 6] =
    ["lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib", "usr/local/lib64"];
const LINKER_SETTINGS: &str = "etc/ld.so.conf.d";

pub(super) fn gather(root: &Root) -> RdmaFacts {
    let devices = root.names(DEVICES).into_iter().map(|name| device(root, name));
    let mut facts = RdmaFacts {
        devices: devices.collect(),
        rxe_loaded: root.exists("sys/module/rdma_rxe"),
        rxe_available: rxe_available(root),
        libibverbs: libibverbs(root),
        verbs: None,
    };
    if root.is_this_host() {
        super::verbs::gather(root, &mut facts);
    }
    facts
}

fn device(root: &Root, name: String) -> RdmaDevice {
    let folder = format!("{DEVICES}/{name}/ports");
    let ports = root.numbered(&folder, "");
    let ports = ports.into_iter().map(|(number, port)| RdmaPort {
        number,
        state: root.line(&format!("{folder}/{port}/state")),
        link_layer: root.line(&format!("{folder}/{port}/link_layer")),
        active_mtu: None,
        rate: root.line(&format!("{folder}/{port}/rate")),
        gids: gids(root, &format!("{folder}/{port}")),
    });
    RdmaDevice { ports: ports.collect(), name }
}

/// The entries of the address table that are in use.
fn gids(root: &Root, port: &str) -> Vec<Gid> {
    let gid = |(index, name): (u32, String)| {
        let text = root.line(&format!("{port}/gids/{name}"))?;
        let address: Ipv6Addr = text.parse().ok()?;
        if address.is_unspecified() {
            return None;
        }
        let attribute = |kind: &str| root.line(&format!("{port}/gid_attrs/{kind}/{name}"));
        let interface = attribute("ndevs").filter(|name| !name.contains('/'));
        let mtu = |name: &String| root.number(&format!("sys/class/net/{name}/mtu"));
        Some(Gid {
            index,
            address: match address.to_ipv4_mapped() {
                Some(address) => address.to_string(),
                None => address.to_string(),
            },
            kind: attribute("types"),
            interface_mtu: interface.as_ref().and_then(mtu),
            interface,
        })
    };
    root.numbered(&format!("{port}/gids"), "").into_iter().filter_map(gid).collect()
}

fn rxe_available(root: &Root) -> Option<bool> {
    let release = root.line("proc/sys/kernel/osrelease").filter(|name| !name.contains('/'))?;
    let lists = ["modules.dep", "modules.builtin"];
    let texts = lists.map(|list| root.text(&format!("lib/modules/{release}/{list}")));
    let has = |text: &String| text.contains("/rdma_rxe.ko");
    texts.iter().any(Option::is_some).then(|| texts.iter().flatten().any(has))
}

/// Looks where the dynamic linker would.
fn libibverbs(root: &Root) -> Option<PathBuf> {
    let mut folders: Vec<_> = LIBRARY_FOLDERS.map(str::to_owned).into();
    for setting in root.names(LINKER_SETTINGS) {
        let text = root.text(&format!("{LINKER_SETTINGS}/{setting}")).unwrap_or_default();
        let named = text.lines().filter_map(|line| line.trim().strip_prefix('/'));
        folders.extend(named.map(str::to_owned));
    }
    let library = |folder: String| {
        let path = format!("{folder}/{LIBRARY}");
        root.exists(&path).then(|| PathBuf::from("/").join(path))
    };
    folders.into_iter().find_map(library)
}
