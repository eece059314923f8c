//! Limits of this process, and what becomes of it when it crashes.

use super::Root;
use crate::doctor::facts::{Bound, Limit, ProcessFacts};

/// CAP_IPC_LOCK, as a bit of the capability sets.
const MAY_LOCK: u64 = 1 << 14;

pub(super) fn gather(root: &Root) -> ProcessFacts {
    let limits = root.text("proc/self/limits").unwrap_or_default();
    let limit = |name| limit(&limits, name);
    let hexadecimal = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
    let status = root.text("proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| hexadecimal(line.strip_prefix("CapEff:")?));
    ProcessFacts {
        memlock: limit("Max locked memory"),
        core: limit("Max core file size"),
        files: limit("Max open files"),
        may_lock: effective.unwrap_or(0) & MAY_LOCK != 0,
        core_pattern: root.line("proc/sys/kernel/core_pattern"),
        coredump_filter: root.line("proc/self/coredump_filter").and_then(|s| hexadecimal(&s)),
    }
}

fn limit(limits: &str, name: &str) -> Option<Limit> {
    let mut words = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    let mut bound = || match words.next()? {
        "unlimited" => Some(Bound::Unlimited),
        word => word.parse().ok().map(Bound::Value),
    };
    Some(Limit { soft: bound()?, hard: bound()? })
}
