//! Judges what was gathered: pure, facts in, findings out.

mod config;
mod cpu;
mod links;
mod memory;
mod network;
mod process;
mod rdma;

use super::{facts::HostFacts, finding::Finding, plan::Plan};
use std::collections::BTreeSet;

/// Everything that can be said of a host for `plan`.
#[must_use]
pub fn judge(facts: &HostFacts, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(memory::judge(&facts.memory, plan));
    findings.extend(cpu::judge(&facts.cpu));
    findings.extend(process::judge(facts, plan));
    findings.extend(network::judge(&facts.network, plan));
    findings.extend(rdma::judge(&facts.rdma));
    findings.extend(links::judge(facts, plan));
    findings.extend(config::judge(facts, plan));
    findings
}

/// Numbers as ranges: 0-3, 8.
fn ranges(cores: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}
