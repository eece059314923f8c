//! Cores and clock.

use super::{Root, core_list};
use crate::doctor::facts::CpuFacts;

pub(super) fn gather(root: &Root) -> CpuFacts {
    let status = root.text("proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut cpu = CpuFacts {
        allowed: allowed.map(core_list).into_iter().flatten().collect(),
        isolated: root
            .line("sys/devices/system/cpu/isolated")
            .map(|list| core_list(&list).collect())
            .unwrap_or_default(),
        quota_cores: quota_cores(root),
        clock_source: root.line("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ..CpuFacts::default()
    };
    for core in &cpu.allowed {
        let folder = format!("sys/devices/system/cpu/cpu{core}");
        let siblings = root.line(&format!("{folder}/topology/thread_siblings_list"));
        let siblings: Vec<_> = siblings.map(|list| core_list(&list).collect()).unwrap_or_default();
        if siblings.len() > 1 {
            cpu.siblings.insert(siblings);
        }
        cpu.governors.extend(root.line(&format!("{folder}/cpufreq/scaling_governor")));
    }
    cpu
}

/// The tightest `cpu.max` of this process's control groups.
fn quota_cores(root: &Root) -> Option<f64> {
    let cores = |text: &String| {
        let (quota, period) = text.split_once(' ')?;
        let (quota, period): (u32, u32) = (quota.parse().ok()?, period.trim().parse().ok()?);
        (period > 0).then(|| f64::from(quota) / f64::from(period))
    };
    root.cgroup_values("cpu.max").iter().filter_map(cores).reduce(f64::min)
}
