//! Hosts made of files, and how a finding is looked at.

use pagewire_node::doctor::{Diagnosis, Finding, Level, diagnose};
use std::{fs, path::Path};

/// A made-up root folder.
pub(crate) struct Host {
    folder: tempfile::TempDir,
}

pub(crate) const STATUS: &str = "Name:\tx\nCpus_allowed_list:\t0-3\nCapEff:\t0000000000000000\n";
pub(crate) const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max core file size        unlimited            unlimited            bytes     
Max open files            4096                 524288               files     
Max locked memory         unlimited            unlimited            bytes     
";

/// A host that has everything but RDMA: 4 cores, 16 GiB, 100 huge pages.
pub(crate) const GOOD: &[(&str, &str)] = &[
    (
        "proc/meminfo",
        "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapFree: 0 kB\n\
         CommitLimit: 8388608 kB\nCommitted_AS: 1048576 kB\n",
    ),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "100\n"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n"),
    ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
    ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "0\n"),
    ("sys/devices/system/node/node0/x", ""),
    ("proc/self/status", STATUS),
    ("proc/self/limits", LIMITS),
    ("proc/self/cgroup", "0::/system.slice/x.service\n"),
    ("proc/self/coredump_filter", "00000033\n"),
    ("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump\n"),
    ("proc/sys/kernel/osrelease", "6.1.0\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("proc/sys/net/core/busy_read", "50\n"),
    ("proc/sys/net/core/busy_poll", "50\n"),
    ("proc/sys/net/core/rmem_max", "212992\n"),
    ("proc/sys/net/core/wmem_max", "212992\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "0\n"),
    ("sys/class/net/eth0/device/x", ""),
    ("sys/class/net/eth0/mtu", "9000\n"),
    ("sys/class/net/lo/mtu", "65536\n"),
    ("lib/modules/6.1.0/modules.dep", "kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko: x\n"),
    ("etc/ld.so.conf.d/arch.conf", "# where\n/usr/lib/some-arch\n"),
    ("usr/lib/some-arch/libibverbs.so.1", ""),
];

pub(crate) const PORT: &str = "sys/class/infiniband/mlx5_0/ports/1";

impl Host {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn good() -> Self {
        GOOD.iter().fold(Self::empty(), |host, (path, text)| host.with(path, text))
    }

    /// [`Host::good`] with one RoCE device.
    pub(crate) fn with_device() -> Self {
        let zero = "0000:0000:0000:0000:0000:0000:0000:0000\n";
        Self::good()
            .with(&format!("{PORT}/state"), "4: ACTIVE\n")
            .with(&format!("{PORT}/link_layer"), "Ethernet\n")
            .with(&format!("{PORT}/rate"), "100 Gb/sec (4X EDR)\n")
            .gid(0, "fe80:0000:0000:0000:0000:00ff:fe00:0001\n", "IB/RoCE v1\n")
            .gid(1, "0000:0000:0000:0000:0000:ffff:0a00:0001\n", "RoCE v2\n")
            .with(&format!("{PORT}/gids/2"), zero)
    }

    pub(crate) fn gid(self, index: u32, address: &str, kind: &str) -> Self {
        self.with(&format!("{PORT}/gids/{index}"), address)
            .with(&format!("{PORT}/gid_attrs/types/{index}"), kind)
            .with(&format!("{PORT}/gid_attrs/ndevs/{index}"), "eth0\n")
    }

    pub(crate) fn with(self, path: &str, text: &str) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
        self
    }

    pub(crate) fn without(self, path: &str) -> Self {
        fs::remove_file(self.path().join(path)).expect("removed");
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn diagnose(&self) -> Diagnosis {
        diagnose(self.path(), None)
    }

    /// The one finding whose subject begins with `subject`.
    pub(crate) fn finding(&self, subject: &str) -> Finding {
        one(&self.diagnose(), subject)
    }
}

pub(crate) fn one(diagnosis: &Diagnosis, subject: &str) -> Finding {
    let found = diagnosis.findings.iter().filter(|f| f.subject.starts_with(subject));
    let found: Vec<_> = found.cloned().collect();
    assert_eq!(found.len(), 1, "'{subject}' in {diagnosis:#?}");
    found.into_iter().next().expect("one")
}

/// Asserts level and words of a finding, the change's among them.
pub(crate) fn assert_tells(finding: &Finding, level: Level, words: &[&str]) {
    let line = finding.to_string();
    assert_eq!(finding.level, level, "{line}");
    assert_eq!(finding.change.is_some(), level != Level::Ok, "{line}");
    for word in words {
        assert!(line.contains(word), "'{word}' in: {line}");
    }
}

impl Host {
    pub(crate) fn with_device_paths() -> Vec<String> {
        let files = ["state", "link_layer", "rate", "gids/0", "gids/1", "gid_attrs/types/1"];
        let port = files.iter().chain(&["gid_attrs/ndevs/1"]).map(|file| format!("{PORT}/{file}"));
        GOOD.iter().map(|(path, _)| (*path).to_owned()).chain(port).collect()
    }
}
