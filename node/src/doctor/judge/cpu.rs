//! Cores and clock.

use super::ranges;
use crate::doctor::{facts::CpuFacts, finding::Finding};

const AREA: &str = "cpu";
/// A poller that spins, and what gives it work.
const CORES_MIN: usize = 2;
/// Clocks that a process reads without a system call.
const FAST_CLOCKS: [&str; 4] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

pub(super) fn judge(cpu: &CpuFacts) -> Vec<Finding> {
    vec![cores(cpu), quota(cpu), isolated(cpu), siblings(cpu), governor(cpu), clock(cpu)]
}

fn cores(cpu: &CpuFacts) -> Finding {
    let finding = Finding::new(AREA, "cores that this process may use")
        .expected(format!("at least {CORES_MIN}: a poller that spins needs one for itself"));
    match cpu.allowed.len() {
        0 => finding,
        count => finding.found(format!("{count} ({})", ranges(&cpu.allowed))).note_if(
            count < CORES_MIN,
            "give it more cores (taskset, CPUAffinity=, the container's cpuset)",
        ),
    }
}

fn quota(cpu: &CpuFacts) -> Finding {
    let finding = Finding::new(AREA, "time quota of the control group (cpu.max)");
    match cpu.quota_cores {
        None => finding.found("none").expected("none"),
        Some(cores) => finding
            .found(format!("{cores:.2} cores' worth of time"))
            .expected("none: a poller that has used it up stands still for the rest of the period")
            .note_if(true, "remove the quota (CPUQuota=, the container's CPU limit), use a cpuset"),
    }
}

fn isolated(cpu: &CpuFacts) -> Finding {
    let finding = Finding::new(AREA, "cores kept for pollers (isolcpus)");
    match cpu.isolated.is_empty() {
        // Worth it only where every microsecond counts; a normal host has none.
        true => finding.found("none").expected("none, or those in poller_cores"),
        false => finding.found(ranges(&cpu.isolated)).expected("those in poller_cores"),
    }
}

fn siblings(cpu: &CpuFacts) -> Finding {
    let finding = Finding::new(AREA, "cores that share a physical core (SMT)");
    if cpu.siblings.is_empty() {
        return finding.found("none").expected("none, or only one of each group in poller_cores");
    }
    let group = |cores: &Vec<u32>| ranges(&cores.iter().copied().collect()).replace('-', "+");
    let groups: Vec<_> = cpu.siblings.iter().map(group).collect();
    finding
        .found(groups.join(" "))
        .expected("only one of each group in poller_cores, the other left idle")
        .note_if(
            true,
            "choose poller_cores so, or switch SMT off: echo off > \
             /sys/devices/system/cpu/smt/control",
        )
}

fn governor(cpu: &CpuFacts) -> Finding {
    let finding = Finding::new(AREA, "frequency governor").expected("performance");
    if cpu.governors.is_empty() {
        return finding
            .found("none: the host does not set the frequency")
            .expected("performance, or none (a virtual machine, or the firmware decides)");
    }
    let found: Vec<_> = cpu.governors.iter().map(String::as_str).collect();
    let is_fast = found == ["performance"];
    finding.found(found.join(", ")).note_if(!is_fast, "cpupower frequency-set -g performance")
}

fn clock(cpu: &CpuFacts) -> Finding {
    let finding = Finding::new(AREA, "clock source").expected("tsc");
    let Some(found) = &cpu.clock_source else { return finding };
    let is_fast = FAST_CLOCKS.contains(&found.as_str());
    finding.found(found).note_if(
        !is_fast,
        "boot with clocksource=tsc if the machine's is stable: reading this one is a system call",
    )
}
