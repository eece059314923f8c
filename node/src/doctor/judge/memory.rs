//! Memory and huge pages.

use crate::doctor::{
    facts::{HugePages, MemoryFacts},
    finding::{Finding, size},
    plan::Plan,
};

const AREA: &str = "memory";
/// The size that the arena asks for, in KiB.
const WANTED_KIB: u64 = 2048;

pub(super) fn judge(memory: &MemoryFacts, plan: &Plan) -> Vec<Finding> {
    let mut findings = huge_pages(memory, plan);
    findings.push(available(memory, plan));
    findings.push(overcommit(memory, plan));
    findings.extend(memory.cgroup_max_bytes.map(|limit| {
        Finding::new(AREA, "memory limit of the control group (memory.max)")
            .found(size(limit))
            .expected(format!("more than the arena's {}", size(plan.arena_bytes)))
            .change_if(
                limit <= plan.arena_bytes,
                "raise the limit of the container or unit (MemoryMax=), or lower arena_mb",
            )
    }));
    findings
}

fn huge_pages(memory: &MemoryFacts, plan: &Plan) -> Vec<Finding> {
    let needed = plan.arena_bytes.div_ceil(WANTED_KIB * 1024);
    let mut findings: Vec<_> =
        memory.huge_pages.iter().map(|pages| stock(pages, plan, needed)).collect();
    if !memory.huge_pages.iter().any(|pages| pages.size_kib == WANTED_KIB) {
        let finding = Finding::new(AREA, "huge pages of 2 MiB")
            .found("none of that size on this host")
            .expected(expected(plan, needed))
            .note_if(
                plan.huge_pages,
                "a kernel with CONFIG_HUGETLBFS; until then normal pages are used",
            );
        findings.insert(0, finding);
    }
    findings
}

fn expected(plan: &Plan, needed: u64) -> String {
    match plan.huge_pages {
        true => format!("at least {needed} free for an arena of {}", size(plan.arena_bytes)),
        false => "nothing: huge_pages = false".to_owned(),
    }
}

fn stock(pages: &HugePages, plan: &Plan, needed: u64) -> Finding {
    let HugePages { size_kib, node, total, free } = *pages;
    let place = node.map_or(String::new(), |node| format!(", NUMA node {node}"));
    let subject = format!("huge pages of {}{place}", size(size_kib.saturating_mul(1024)));
    let finding = Finding::new(AREA, subject).found(format!("{free} free of {total}"));
    if size_kib != WANTED_KIB {
        return finding.expected("nothing: the arena uses those of 2 MiB");
    }
    if node.is_some() {
        return finding.expected("the most on the node of the poller's core");
    }
    let set = total.saturating_sub(free).saturating_add(needed);
    finding.expected(expected(plan, needed)).note_if(
        plan.huge_pages && free < needed,
        format!("sysctl -w vm.nr_hugepages={set} (and in /etc/sysctl.d); until then normal pages are used"),
    )
}

/// Whether the arena will lie on huge pages.
pub(super) fn fits_huge(memory: &MemoryFacts, plan: &Plan) -> bool {
    let wanted_pages = |pages: &&HugePages| pages.size_kib == WANTED_KIB && pages.node.is_none();
    let huge = memory.huge_pages.iter().find(wanted_pages).map_or(0, |pages| pages.free);
    plan.huge_pages && huge.saturating_mul(WANTED_KIB * 1024) >= plan.arena_bytes
}

/// Whether the arena can be had if it lies on normal pages.
fn available(memory: &MemoryFacts, plan: &Plan) -> Finding {
    let finding = Finding::new(AREA, "available memory and swap")
        .expected(format!("at least {} for the arena", size(plan.arena_bytes)));
    let Some(available) = memory.available_bytes else { return finding };
    finding.found(size(available)).change_if(
        available < plan.arena_bytes && !fits_huge(memory, plan),
        "lower arena_mb, or free some memory: an arena that does not fit is refused",
    )
}

fn overcommit(memory: &MemoryFacts, plan: &Plan) -> Finding {
    let finding = Finding::new(AREA, "vm.overcommit_memory").expected("0 or 1");
    match memory.overcommit {
        None => finding,
        Some(mode @ (0 | 1)) => finding.found(mode.to_string()),
        Some(mode) => {
            let change = "sysctl -w vm.overcommit_memory=0, or raise vm.overcommit_ratio";
            let left = memory.committable_bytes;
            let found =
                left.map_or(String::new(), |left| format!(", {} left to commit", size(left)));
            let is_short = left.is_some_and(|left| left < plan.arena_bytes);
            finding
                .found(format!("{mode} (strict){found}"))
                .expected(format!("0 or 1, or room for an arena of {}", size(plan.arena_bytes)))
                .note_if(true, change)
                .change_if(is_short, change)
        }
    }
}
