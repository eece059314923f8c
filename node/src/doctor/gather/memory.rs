//! Memory and huge pages.

use super::{Root, value_of};
use crate::doctor::facts::{HugePages, MemoryFacts};

pub(super) fn gather(root: &Root) -> MemoryFacts {
    let meminfo = root.text("proc/meminfo").unwrap_or_default();
    let bytes = |key| value_of(&meminfo, key).and_then(|kib| kib.checked_mul(1024));
    let committed = bytes("Committed_AS");
    let limits = root.cgroup_values("memory.max");
    MemoryFacts {
        available_bytes: bytes("MemAvailable")
            .and_then(|available| available.checked_add(bytes("SwapFree").unwrap_or(0))),
        committable_bytes: bytes("CommitLimit")
            .zip(committed)
            .map(|(limit, committed)| limit.saturating_sub(committed)),
        overcommit: root.number("proc/sys/vm/overcommit_memory"),
        cgroup_max_bytes: limits.iter().filter_map(|limit| limit.parse().ok()).min(),
        huge_pages: huge_pages(root),
    }
}

fn huge_pages(root: &Root) -> Vec<HugePages> {
    let mut all = stock(root, "sys/kernel/mm/hugepages", None);
    let nodes = root.numbered("sys/devices/system/node", "node");
    if nodes.len() > 1 {
        for (node, name) in nodes {
            let folder = format!("sys/devices/system/node/{name}/hugepages");
            all.extend(stock(root, &folder, Some(node)));
        }
    }
    all
}

fn stock(root: &Root, folder: &str, node: Option<u32>) -> Vec<HugePages> {
    let of_size = |name: String| {
        let size_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file| root.number(&format!("{folder}/{name}/{file}"));
        let (total, free) = (count("nr_hugepages")?, count("free_hugepages")?);
        Some(HugePages { size_kib, node, total, free })
    };
    let mut sizes: Vec<_> = root.names(folder).into_iter().filter_map(of_size).collect();
    sizes.sort_by_key(|pages| pages.size_kib);
    sizes
}
