//! What sysfs says of RDMA devices: names without a provider, and the table of addresses for
//! libraries older than rdma-core 33.

use super::choice::{Gid, GidKind};
use std::{
    fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

const DEVICES: &str = "/sys/class/infiniband";

/// Names of the devices that the kernel has, sorted.
pub(super) fn device_names() -> Vec<String> {
    names(Path::new(DEVICES))
}

/// The addresses in use of all ports of a device, each with the number of its port.
pub(super) fn gids(device: &str) -> Vec<(u32, Gid)> {
    gids_below(&Path::new(DEVICES).join(device).join("ports"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn numbers(folder: &Path) -> Vec<u32> {
    let mut numbers: Vec<u32> = names(folder).iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn gids_below(ports: &Path) -> Vec<(u32, Gid)> {
    let of_port = |port: u32| {
        let folder = ports.join(port.to_string());
        let entries = numbers(&folder.join("gids"));
        entries.into_iter().filter_map(move |index| Some((port, gid(&folder, index)?)))
    };
    numbers(ports).into_iter().flat_map(of_port).collect()
}

fn gid(port: &Path, index: u32) -> Option<Gid> {
    let line = |path: PathBuf| {
        Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|line| !line.is_empty())
    };
    let address: Ipv6Addr = line(port.join(format!("gids/{index}")))?.parse().ok()?;
    if address.is_unspecified() {
        return None;
    }
    // Reading the type of an entry that is not in use fails.
    let kind = match line(port.join(format!("gid_attrs/types/{index}")))?.as_str() {
        "RoCE v2" => GidKind::RoceV2,
        // The kernel has one text for both; only an Ethernet port has an interface.
        "IB/RoCE v1" if line(port.join("link_layer")).as_deref() == Some("Ethernet") => {
            GidKind::RoceV1
        }
        "IB/RoCE v1" => GidKind::InfiniBand,
        _ => GidKind::Other(u32::MAX),
    };
    Some(Gid {
        index,
        address,
        kind,
        interface: line(port.join(format!("gid_attrs/ndevs/{index}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_without_its_empty_entries() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("1/link_layer", "Ethernet\n");
        for (index, address, kind) in [
            (0, "fe80:0000:0000:0000:0000:0000:0000:0001", "IB/RoCE v1"),
            (1, "0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2"),
            (2, "0000:0000:0000:0000:0000:0000:0000:0000", "RoCE v2"),
        ] {
            write(&format!("1/gids/{index}"), &format!("{address}\n"));
            write(&format!("1/gid_attrs/types/{index}"), &format!("{kind}\n"));
            write(&format!("1/gid_attrs/ndevs/{index}"), "eth0\n");
        }
        write("1/gids/3", "fe80::2\n");
        let found = gids_below(folder.path());
        let texts: Vec<_> = found.iter().map(|(port, gid)| format!("{port} {gid}")).collect();
        assert_eq!(texts, ["1 0: fe80::1 RoCE v1 on eth0", "1 1: 10.0.0.1 RoCE v2 on eth0"]);
    }
}
