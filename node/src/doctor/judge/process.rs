//! Limits of this process, and core files.

use super::memory::fits_huge;
use crate::doctor::{
    facts::{Bound, HostFacts, Limit, ProcessFacts},
    finding::{Finding, size},
    plan::Plan,
};
use pagewire_transport::LinkPolicy;

const AREA: &str = "limits";
/// Kinds of memory in core dumps, by their bit of `coredump_filter`. A memfd is anonymous shared
/// memory, or shared huge pages.
const DUMPED: [&str; 7] = [
    "anonymous private",
    "anonymous shared",
    "private of files",
    "shared of files",
    "ELF headers",
    "private huge pages",
    "shared huge pages",
];
/// Files open beside those of peers and page files.
const FILES_BASE: u64 = 64;
/// Connections to a peer, with those that are just being replaced.
const FILES_PER_PEER: u64 = 8;
/// Enough for the page files of a large database, too.
const FILES_USUAL: u64 = 1024;

pub(super) fn judge(facts: &HostFacts, plan: &Plan) -> Vec<Finding> {
    let process = &facts.process;
    vec![memlock(facts, plan), files(process, plan), core(process), core_content(process, plan)]
}

fn words(bound: Bound, unit: impl Fn(u64) -> String) -> String {
    match bound {
        Bound::Unlimited => "unlimited".to_owned(),
        Bound::Value(value) => unit(value),
    }
}

fn memlock(facts: &HostFacts, plan: &Plan) -> Finding {
    let HostFacts { process, rdma, memory, .. } = facts;
    let needed = plan.arena_bytes;
    let why = if plan.lock_memory { "lock_memory = true" } else { "RDMA pins the arena" };
    let finding = Finding::new(AREA, "locked memory (memlock, ulimit -l)")
        .expected(format!("at least {}: {why}", size(needed)));
    let Some(Limit { soft, hard }) = process.memlock else { return finding };
    let right = if process.may_lock { ", and the right to exceed it (CAP_IPC_LOCK)" } else { "" };
    let found = format!("{} (hard: {}){right}", words(soft, size), words(hard, size));
    let is_short = memlock_is_short(process, plan);
    let kib = needed.div_ceil(1024);
    let change = if hard >= Bound::Value(needed) {
        format!("ulimit -l {kib} before the start, or LimitMEMLOCK={needed} in the systemd unit")
    } else {
        format!(
            "as root: LimitMEMLOCK={needed} in the systemd unit, or 'memlock {kib}' soft and hard in \
             /etc/security/limits.conf, then log in anew"
        )
    };
    // Without a device nothing is pinned unless somebody asks for it, and huge pages need no limit to
    // stay in memory.
    let is_asked_for = plan.lock_memory && !fits_huge(memory, plan);
    let is_pinned = !rdma.devices.is_empty() && plan.transport != LinkPolicy::Tcp;
    finding
        .found(found)
        .note_if(is_short, change.as_str())
        .change_if(is_short && (is_asked_for || is_pinned), change.as_str())
}

/// True when the arena cannot be locked or pinned as things are.
pub(super) fn memlock_is_short(process: &ProcessFacts, plan: &Plan) -> bool {
    let is_less = |limit: Limit| limit.soft < Bound::Value(plan.arena_bytes);
    process.memlock.is_some_and(is_less) && !process.may_lock
}

fn files(process: &ProcessFacts, plan: &Plan) -> Finding {
    let least = FILES_BASE + plan.peers * FILES_PER_PEER;
    let usual = FILES_USUAL.max(least);
    let finding = Finding::new(AREA, "open files (ulimit -n)")
        .expected(format!("at least {usual}: connections and page files"));
    let Some(Limit { soft, hard }) = process.files else { return finding };
    let number = |value: u64| value.to_string();
    let change = format!("ulimit -n {usual} before the start, or LimitNOFILE={usual} in the unit");
    finding
        .found(format!("{} (hard: {})", words(soft, number), words(hard, number)))
        .note_if(soft < Bound::Value(usual), change.as_str())
        .change_if(soft < Bound::Value(least), change.as_str())
}

fn core(process: &ProcessFacts) -> Finding {
    let finding = Finding::new(AREA, "core dumps (ulimit -c, kernel.core_pattern)")
        .expected("a place to go, so that a crash can be looked into");
    let Some(Limit { soft, .. }) = process.core else { return finding };
    let pattern = process.core_pattern.as_deref().unwrap_or("nowhere");
    // A program that takes them is given all, whatever the limit.
    let is_piped = pattern.starts_with('|');
    finding.found(format!("at most {}, to '{pattern}'", words(soft, size))).note_if(
        soft == Bound::Value(0) && !is_piped,
        "ulimit -c unlimited, or LimitCORE=infinity in the unit",
    )
}

fn core_content(process: &ProcessFacts, plan: &Plan) -> Finding {
    let finding = Finding::new(AREA, "page content in core dumps (coredump_filter)");
    let finding = finding.expected(match plan.dump_memory {
        false => "none of the arena: it is marked as not to be dumped, whatever the filter",
        true => "anonymous shared, shared huge pages: the arena, as dump_memory = true asks",
    });
    match process.coredump_filter {
        None => finding,
        Some(filter) => {
            let is_dumped = |(bit, _): &(usize, &&str)| filter & (1 << bit) != 0;
            let kinds = DUMPED.iter().enumerate().filter(is_dumped).map(|(_, kind)| *kind);
            let kinds: Vec<_> = kinds.collect();
            finding.found(format!("{filter:#x}: {}", kinds.join(", ")))
        }
    }
}
