//! `pagewire doctor` on hosts that are made of files: what it finds, what it says, and that no
//! content of `/proc` and `/sys` can upset it.

mod support;

use pagewire_node::doctor::{Diagnosis, Finding, Level, diagnose};
use serde_json::Value;
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};
use support::{
    ledger::Config,
    process::{Ended, Process},
};

/// A made-up root folder.
struct Host {
    folder: tempfile::TempDir,
}

const STATUS: &str = "Name:\tx\nCpus_allowed_list:\t0-3\nCapEff:\t0000000000000000\n";
const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max core file size        unlimited            unlimited            bytes     
Max open files            4096                 524288               files     
Max locked memory         unlimited            unlimited            bytes     
";

/// A host that has everything but RDMA: 4 cores, 16 GiB, 100 huge pages.
const GOOD: &[(&str, &str)] = &[
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

const PORT: &str = "sys/class/infiniband/mlx5_0/ports/1";

impl Host {
    fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn good() -> Self {
        GOOD.iter().fold(Self::empty(), |host, (path, text)| host.with(path, text))
    }

    /// [`Host::good`] with one RoCE device.
    fn with_device() -> Self {
        let zero = "0000:0000:0000:0000:0000:0000:0000:0000\n";
        Self::good()
            .with(&format!("{PORT}/state"), "4: ACTIVE\n")
            .with(&format!("{PORT}/link_layer"), "Ethernet\n")
            .with(&format!("{PORT}/rate"), "100 Gb/sec (4X EDR)\n")
            .gid(0, "fe80:0000:0000:0000:0000:00ff:fe00:0001\n", "IB/RoCE v1\n")
            .gid(1, "0000:0000:0000:0000:0000:ffff:0a00:0001\n", "RoCE v2\n")
            .with(&format!("{PORT}/gids/2"), zero)
    }

    fn gid(self, index: u32, address: &str, kind: &str) -> Self {
        self.with(&format!("{PORT}/gids/{index}"), address)
            .with(&format!("{PORT}/gid_attrs/types/{index}"), kind)
            .with(&format!("{PORT}/gid_attrs/ndevs/{index}"), "eth0\n")
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
        self
    }

    fn without(self, path: &str) -> Self {
        fs::remove_file(self.path().join(path)).expect("removed");
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn diagnose(&self) -> Diagnosis {
        diagnose(self.path(), None)
    }

    /// The one finding whose subject begins with `subject`.
    fn finding(&self, subject: &str) -> Finding {
        one(&self.diagnose(), subject)
    }
}

fn one(diagnosis: &Diagnosis, subject: &str) -> Finding {
    let found = diagnosis.findings.iter().filter(|f| f.subject.starts_with(subject));
    let found: Vec<_> = found.cloned().collect();
    assert_eq!(found.len(), 1, "'{subject}' in {diagnosis:#?}");
    found.into_iter().next().expect("one")
}

/// Asserts level and words of a finding, the change's among them.
fn assert_tells(finding: &Finding, level: Level, words: &[&str]) {
    let line = finding.to_string();
    assert_eq!(finding.level, level, "{line}");
    assert_eq!(finding.change.is_some(), level != Level::Ok, "{line}");
    for word in words {
        assert!(line.contains(word), "'{word}' in: {line}");
    }
}

// ---- hosts ---------------------------------------------------------------------------------------

#[test]
fn a_good_host_without_rdma_needs_no_change_and_gets_one_note() {
    let diagnosis = Host::good().diagnose();
    let notes: Vec<_> = diagnosis.findings.iter().filter(|f| f.level != Level::Ok).collect();
    assert!(diagnosis.ok && notes.len() == 1, "{notes:#?}");
    assert_tells(notes[0], Level::Note, &["RDMA devices", "TCP", "modprobe rdma_rxe"]);
    let unknown: Vec<_> =
        diagnosis.findings.iter().filter(|f| f.found.contains("unknown")).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn what_makes_a_software_device_follows_what_the_kernel_has() {
    let host = Host::good().with("lib/modules/6.1.0/modules.dep", "kernel/fs/ext4.ko:\n");
    assert_tells(&host.finding("RDMA devices"), Level::Note, &["has no module", "CONFIG_RDMA_RXE"]);
    let host = host.without("lib/modules/6.1.0/modules.dep");
    assert_tells(&host.finding("RDMA devices"), Level::Note, &["no modules in /lib/modules"]);
    let host = host.with("sys/module/rdma_rxe/refcnt", "0");
    assert_tells(&host.finding("RDMA devices"), Level::Note, &["is loaded", "rdma link add"]);
}

#[test]
fn a_roce_device_is_shown_with_its_addresses_and_path_mtu() {
    let host = Host::with_device();
    assert!(host.diagnose().ok, "{:#?}", host.diagnose());
    let port = ["4: ACTIVE", "Ethernet", "100 Gb/sec"];
    assert_tells(&host.finding("RDMA port mlx5_0/1"), Level::Ok, &port);
    assert_tells(&host.finding("GID 0 of"), Level::Ok, &["fe80::ff:fe00:1", "v1", "eth0"]);
    assert_tells(&host.finding("GID 1 of"), Level::Ok, &["10.0.0.1 (RoCE v2, eth0)"]);
    assert_tells(&host.finding("path MTU of"), Level::Ok, &["4096: eth0 has MTU 9000"]);
    assert_tells(&host.finding("libibverbs"), Level::Ok, &["/usr/lib/some-arch/libibverbs.so.1"]);
    let gids = host.diagnose().findings.iter().filter(|f| f.subject.starts_with("GID")).count();
    assert_eq!(gids, 2, "an entry that is not in use is not shown");
}

#[test]
fn what_keeps_a_roce_device_from_being_used_is_to_be_changed() {
    let host = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    assert_tells(&host.finding("libibverbs"), Level::Change, &["apt install libibverbs1"]);
    let host = Host::with_device().gid(1, "0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1");
    assert_tells(&host.finding("RoCE v2 address"), Level::Change, &["none", "ip addr add"]);
    // A port that is down has other sorrows.
    let host = host.with(&format!("{PORT}/state"), "1: DOWN\n");
    assert_tells(&host.finding("RoCE v2 address"), Level::Note, &["ip addr add"]);
    assert_tells(&host.finding("RDMA port"), Level::Note, &["1: DOWN", "ip link set"]);
    assert!(Host::good().without("usr/lib/some-arch/libibverbs.so.1").diagnose().ok, "no device");
}

#[test]
fn the_path_mtu_follows_the_interfaces() {
    for (mtu, path, level) in [
        ("9000", "4096:", Level::Ok),
        ("4192", "4096:", Level::Ok),
        ("4191", "2048:", Level::Note),
        ("1500", "1024:", Level::Note),
        ("300", "none:", Level::Note),
    ] {
        let host = Host::with_device().with("sys/class/net/eth0/mtu", mtu);
        assert_tells(&host.finding("path MTU of"), level, &[path, mtu]);
    }
    let host = Host::with_device().with(&format!("{PORT}/link_layer"), "InfiniBand\n");
    assert_tells(&host.finding("path MTU of"), Level::Ok, &["ibv_devinfo"]);
}

#[test]
fn locked_memory_counts_where_something_is_pinned() {
    let low = LIMITS.replace(
        "Max locked memory         unlimited            unlimited ",
        "Max locked memory         8388608              8388608   ",
    );
    let of = |host: Host| host.with("proc/self/limits", &low);
    let words = ["8 MiB (hard: 8 MiB)", "at least 66 MiB", "LimitMEMLOCK=69206016", "limits.conf"];
    assert_tells(&of(Host::good()).finding("locked memory"), Level::Note, &words);
    assert_tells(&of(Host::with_device()).finding("locked memory"), Level::Change, &words);
    let capable = STATUS.replace("0000000000000000", "0000000000004000");
    let host = of(Host::with_device()).with("proc/self/status", &capable);
    assert_tells(&host.finding("locked memory"), Level::Ok, &["CAP_IPC_LOCK"]);
    let raisable = LIMITS
        .replace("Max locked memory         unlimited", "Max locked memory         8388608  ");
    let host = of(Host::with_device()).with("proc/self/limits", &raisable);
    assert_tells(&host.finding("locked memory"), Level::Change, &["ulimit -l 67584"]);
}

#[test]
fn strict_overcommit_is_a_note_with_room_and_a_change_without() {
    let host = Host::good().with("proc/sys/vm/overcommit_memory", "2\n");
    let words = ["2 (strict)", "7 GiB left", "vm.overcommit_memory=0"];
    assert_tells(&host.finding("vm.overcommit"), Level::Note, &words);
    let meminfo = "MemAvailable: 8388608 kB\nCommitLimit: 1060864 kB\nCommitted_AS: 1048576 kB\n";
    let host = host.with("proc/meminfo", meminfo);
    assert_tells(
        &host.finding("vm.overcommit"),
        Level::Change,
        &["12 MiB left", "arena of 66 MiB"],
    );
    assert!(!host.diagnose().ok);
}

#[test]
fn too_few_huge_pages_are_a_note_with_the_number_to_set() {
    const STOCK: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let host = |total: &str, free: &str| {
        let host = Host::good().with(&format!("{STOCK}/nr_hugepages"), total);
        host.with(&format!("{STOCK}/free_hugepages"), free)
    };
    let told = |host: &Host, level, words| {
        assert_tells(&host.finding("huge pages of 2 MiB"), level, words);
    };
    told(&host("0", "0"), Level::Note, &["0 free of 0", "at least 33", "vm.nr_hugepages=33"]);
    told(&host("40", "32"), Level::Note, &["32 free of 40", "vm.nr_hugepages=41"]);
    told(&host("40", "33"), Level::Ok, &["33 free of 40"]);
    let several = host("40", "40")
        .with("sys/devices/system/node/node1/x", "")
        .with("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "40")
        .with("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "30");
    assert_tells(
        &several.finding("huge pages of 2 MiB, NUMA node 1"),
        Level::Ok,
        &["30 free of 40"],
    );
}

#[test]
fn cores_are_those_of_affinity_and_quota() {
    let group = "sys/fs/cgroup/system.slice";
    let one = STATUS.replace("0-3", "2");
    let host = Host::good()
        .with("proc/self/status", &one)
        .with(&format!("{group}/x.service/cpu.max"), "max 100000\n")
        .with(&format!("{group}/cpu.max"), "150000 100000\n")
        .with(&format!("{group}/memory.max"), "67108864\n")
        .with("sys/devices/system/cpu/isolated", "2-3\n")
        .with("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n")
        .with("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n")
        .with("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    for (subject, level, words) in [
        ("cores that this process", Level::Note, &["1 (2)", "at least 2", "taskset"][..]),
        ("time quota", Level::Note, &["1.50 cores", "CPUQuota="]),
        ("cores kept", Level::Ok, &["2-3"]),
        ("cores that share", Level::Note, &["0,2", "smt/control"]),
        (
            "frequency governor",
            Level::Note,
            &["powersave", "cpupower frequency-set -g performance"],
        ),
        ("clock source", Level::Note, &["hpet", "clocksource=tsc"]),
        ("memory limit", Level::Change, &["64 MiB", "more than the arena's 66 MiB", "MemoryMax="]),
    ] {
        assert_tells(&host.finding(subject), level, words);
    }
}

#[test]
fn limits_and_tcp_settings_have_their_words() {
    let limits = LIMITS
        .replace("4096                 524288", "70                   524288")
        .replace("core file size        unlimited", "core file size        0        ");
    let host = Host::good()
        .with("proc/self/limits", &limits)
        .with("proc/sys/kernel/core_pattern", "core\n")
        .with("proc/sys/net/core/busy_read", "0\n")
        .with("proc/sys/net/ipv4/tcp_rmem", "4096 16384 65536\n")
        .with("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n");
    for (subject, words) in [
        ("open files", &["70 (hard: 524288)", "ulimit -n 1024"][..]),
        ("core dumps", &["at most 0 bytes, to 'core'", "ulimit -c unlimited"]),
        ("busy polling", &["0 us", "eth0", "net.core.busy_read=50"]),
        (
            "TCP buffers (net.ipv4.tcp_rmem",
            &["up to 64 KiB", "320 KiB", "tcp_rmem='4096 131072 524288'"],
        ),
        ("net.ipv4.tcp_slow_start", &["1;", "tcp_slow_start_after_idle=0"]),
    ] {
        assert_tells(&host.finding(subject), Level::Note, words);
    }
    assert_tells(
        &host.finding("page content in core"),
        Level::Ok,
        &["0x33", "anonymous shared", "not to be dumped"],
    );
    let host = host.with("proc/self/limits", &limits.replace("70  ", "40  "));
    assert_tells(&host.finding("open files"), Level::Change, &["40 (hard: 524288)"]);
}

// ---- odd hosts -----------------------------------------------------------------------------------

#[test]
fn an_empty_root_is_all_unknown_and_no_reason_to_change_anything() {
    let diagnosis = Host::empty().diagnose();
    assert!(diagnosis.ok, "{diagnosis:#?}");
    assert!(diagnosis.findings.iter().filter(|f| f.found.contains("unknown")).count() > 5);
}

#[test]
fn no_content_of_any_file_upsets_it() {
    let paths: Vec<_> = Host::with_device_paths();
    let odd: [&[u8]; 9] = [
        b"",
        b"\n\n\n",
        b"-1\n",
        b"99999999999999999999999999",
        b"18446744073709551615 18446744073709551615 18446744073709551615",
        b"0-4294967295,7-3,,x-,-",
        b"\xff\xfe\x00\x80:::\x00",
        b"0::/../../../etc\nMax locked memory\nCapEff:\tzz\nMemAvailable: 18446744073709551615 kB\n",
        b"0 0\n",
    ];
    for bytes in odd {
        let host = Host::with_device();
        for path in &paths {
            fs::write(host.path().join(path), bytes).expect("written");
            host.diagnose();
        }
        let json = serde_json::to_string(&host.diagnose()).expect("JSON");
        serde_json::from_str::<Value>(&json).expect("JSON");
    }
    // Folders where files are expected.
    let host = Host::empty();
    for path in &paths {
        fs::create_dir_all(host.path().join(path)).expect("made");
    }
    host.diagnose();
}

impl Host {
    fn with_device_paths() -> Vec<String> {
        let files = ["state", "link_layer", "rate", "gids/0", "gids/1", "gid_attrs/types/1"];
        let port = files.iter().chain(&["gid_attrs/ndevs/1"]).map(|file| format!("{PORT}/{file}"));
        GOOD.iter().map(|(path, _)| (*path).to_owned()).chain(port).collect()
    }
}

// ---- one configuration ---------------------------------------------------------------------------

/// A configuration's file, and the folder it names for storage.
fn config(more: &str) -> (tempfile::TempDir, PathBuf, Config) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    let config = Config {
        members: vec![0],
        more: more.to_owned(),
        ..Config::new(0, &folder.path().join("storage"))
    };
    fs::create_dir(&config.storage).expect("made");
    fs::write(&path, config.text()).expect("written");
    (folder, path, config)
}

#[test]
fn a_configuration_that_fits_needs_no_change_and_trying_it_leaves_nothing() {
    let (_folder, path, config) = config("arena_mb = 16\npoller_cores = [3]\n");
    let diagnosis = diagnose(Host::good().path(), Some(&path));
    assert!(diagnosis.ok, "{diagnosis:#?}");
    assert_tells(&one(&diagnosis, "poller_cores"), Level::Ok, &["3", "0-3"]);
    assert_tells(&one(&diagnosis, "listen"), Level::Ok, &["free"]);
    assert!(one(&diagnosis, "storage").found.starts_with("writable"));
    assert_eq!(fs::read_dir(&config.storage).expect("the folder").count(), 0);
    drop(TcpListener::bind(config.listen).expect("still free"));
}

#[test]
fn what_keeps_a_configuration_from_running_is_to_be_changed() {
    let (_folder, path, config) = config("arena_mb = 9000\npoller_cores = [3, 4, 70000]\n");
    fs::remove_dir(&config.storage).expect("removed");
    let _taken = TcpListener::bind(config.listen).expect("a free port");
    let diagnosis = diagnose(Host::good().path(), Some(&path));
    for (subject, words) in [
        ("poller_cores", &["take 4,70000 out"][..]),
        ("listen", &["in use", "ss -ltnp"]),
        ("storage", &["No such file", "mend `storage`"]),
        ("available memory", &["8 GiB", "lower arena_mb"]),
    ] {
        assert_tells(&one(&diagnosis, subject), Level::Change, words);
    }
    assert_eq!(diagnosis.changes, 4, "{diagnosis:#?}");
}

#[test]
fn a_status_socket_that_could_not_be_made_is_to_be_changed() {
    let (folder, path, base) = config("");
    let judged = |socket: &Path| {
        let more = format!("{}status_socket = {socket:?}\n", base.more);
        fs::write(&path, Config { more, ..base.clone() }.text()).expect("written");
        diagnose(Host::good().path(), Some(&path))
    };
    let socket = folder.path().join("node.sock");
    let free = judged(&socket);
    assert_tells(&one(&free, "status_socket"), Level::Ok, &["can be made"]);
    assert_eq!((free.changes, socket.exists()), (0, false), "{free:#?}");
    let _node = UnixListener::bind(&socket).expect("a socket");
    let long = folder.path().join("x".repeat(96));
    for (socket, subject, words) in [
        (socket, "status_socket", &["a process listens", "unless that is this very instance"][..]),
        (folder.path().join("no/node.sock"), "status_socket", &["No such file", "make the folder"]),
        (path.clone(), "status_socket", &["a regular file", "name another path"]),
        (long, "configuration file", &["status_socket", "at most 96 bytes"]),
    ] {
        let diagnosis = judged(&socket);
        assert_tells(&one(&diagnosis, subject), Level::Change, words);
        assert_eq!(diagnosis.changes, 1, "{diagnosis:#?}");
    }
}

#[test]
fn each_shard_needs_a_port_and_a_core_and_its_share_of_the_arena() {
    let (_folder, path, four) = config("arena_mb = 16\nshards = 4\nspin_us = 50\n");
    let last = SocketAddr::new(four.listen.ip(), four.listen.port() + 3);
    let taken = TcpListener::bind(last).expect("a free port");
    let diagnosis = diagnose(Host::good().path(), Some(&path));
    let words = [&*format!(" to {}: {last}: ", last.port()), "in use"];
    assert_tells(&one(&diagnosis, "listen"), Level::Change, &words);
    drop(taken);
    let diagnosis = diagnose(Host::good().path(), Some(&path));
    assert_tells(&one(&diagnosis, "listen"), Level::Ok, &["free", "4 free ports in a row"]);
    // Four that spin on four cores leave none for anybody else.
    let words = ["4 that spin for 50 us when idle, 4 cores", "lower `shards`", "spin_us = 0"];
    assert_tells(&one(&diagnosis, "pollers"), Level::Note, &words);
    let of = |more: &str| {
        let (_folder, path, _) = config(more);
        diagnose(Host::good().path(), Some(&path))
    };
    let sleeping = of("arena_mb = 16\nshards = 4\n");
    assert_tells(&one(&sleeping, "pollers"), Level::Ok, &["4 that sleep when idle, 4 cores"]);
    let crowd = of("arena_mb = 16\nshards = 5\n");
    assert_tells(&one(&crowd, "pollers"), Level::Note, &["5 that sleep", "lower `shards`"]);
    let spare = of("arena_mb = 16\npoller_cores = [1, 2]\n");
    assert_tells(&one(&spare, "poller_cores"), Level::Note, &["as many as `shards`, 1"]);
    for more in ["", "spin_us = 50\n"] {
        let shared = of(&format!("arena_mb = 16\nshards = 2\n{more}poller_cores = [1, 1]\n"));
        assert_tells(&one(&shared, "pollers"), Level::Note, &["each core once"]);
    }
    let excess = of("arena_mb = 16\ncache_pages = 100000\n");
    let words = ["100000: the arena has room for", "lower `cache_pages`, or raise `arena_mb` to"];
    assert_tells(&one(&excess, "cache_pages"), Level::Note, &words);
    let none = of("arena_mb = 16\n");
    assert_tells(&one(&none, "cache_pages"), Level::Ok, &["as many as there is room for"]);
}

#[test]
fn a_cluster_key_is_judged_as_a_start_would() {
    let (folder, path, config) = config("");
    let key = folder.path().join("cluster.key");
    let config = Config { more: format!("arena_mb = 16\ncluster_key = {key:?}\n"), ..config };
    fs::write(&path, config.text()).expect("written");
    let finding = || one(&diagnose(Host::good().path(), Some(&path)), "cluster key");
    let write = |content: &str, mode: u32| {
        fs::write(&key, content).expect("written");
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    assert_tells(&finding(), Level::Change, &["No such file", "name a file"]);
    write("too short", 0o600);
    assert_tells(&finding(), Level::Change, &["has 9 bytes", "openssl rand -hex 32"]);
    write(&"long enough".repeat(3), 0o644);
    assert_tells(&finding(), Level::Change, &["found mode 0644", "chmod 600"]);
    write(&"long enough".repeat(3), 0o600);
    assert_tells(&finding(), Level::Ok, &["such a file"]);
}

#[test]
fn memory_that_is_to_be_locked_needs_the_limit_unless_it_is_on_huge_pages() {
    let low = LIMITS.replace(
        "Max locked memory         unlimited            unlimited ",
        "Max locked memory         8388608              8388608   ",
    );
    let (_folder, path, config) = config("arena_mb = 16\nlock_memory = true\ndump_memory = true\n");
    let host = Host::good().with("proc/self/limits", &low);
    let told = || diagnose(host.path(), Some(&path));
    let words = ["8 MiB", "at least 18 MiB: lock_memory = true"];
    assert_tells(&one(&told(), "locked memory"), Level::Note, &words);
    assert_tells(&one(&told(), "page content in core"), Level::Ok, &["dump_memory = true"]);
    let more = format!("huge_pages = false\n{}", config.more);
    fs::write(&path, Config { more, ..config }.text()).expect("written");
    let words = ["lock_memory = true", "LimitMEMLOCK="];
    assert_tells(&one(&told(), "locked memory"), Level::Change, &words);
}

#[test]
fn a_configuration_that_cannot_be_read_is_one_change_and_the_host_is_told_all_the_same() {
    let (_folder, path, _) = config("arena_mb = 0\n");
    let diagnosis = diagnose(Host::good().path(), Some(&path));
    let words = ["arena_mb is 0", "1 to 1048576"];
    assert_tells(&one(&diagnosis, "configuration file"), Level::Change, &words);
    assert!(diagnosis.findings.len() > 15);
    let diagnosis = diagnose(Host::good().path(), Some(Path::new("/nowhere.toml")));
    assert_tells(&one(&diagnosis, "configuration file"), Level::Change, &["No such file"]);
}

// ---- the command ---------------------------------------------------------------------------------

#[test]
fn what_the_links_would_be_on_is_told_with_the_reason() {
    let found = |host: &Host, more: &str| {
        let (_folder, path, _) = config(more);
        one(&diagnose(host.path(), Some(&path)), "transport = ")
    };
    let device = Host::with_device();
    let named = "rdma_device = \"mlx5_0\"\nrdma_gid_index = 1\n";
    let words = ["\"auto\": verbs on mlx5_0/1, GID 1: 10.0.0.1 RoCE v2 on eth0, active MTU 4096"];
    assert_tells(&found(&device, named), Level::Ok, &words);
    let loopback = ["TCP: no-port", "mlx5_0/1 1: 10.0.0.1", "to change: listen on an address"];
    assert_tells(&found(&device, ""), Level::Note, &loopback);
    let demanded = "transport = \"verbs\"\n";
    assert_tells(&found(&device, demanded), Level::Change, &loopback);
    assert_tells(&found(&device, "transport = \"tcp\"\n"), Level::Ok, &["TCP: configured"]);
    let wrong = "rdma_gid_index = 7\n";
    assert_tells(&found(&device, wrong), Level::Note, &["no GID with index 7", "rdma_gid_index"]);
    // Nobody who has no device needs to be told what to change, unless verbs is demanded.
    assert_tells(&found(&Host::good(), ""), Level::Ok, &["TCP: no-device"]);
    assert_tells(&found(&Host::good(), demanded), Level::Change, &["TCP: no-device"]);
    let bare = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    assert_tells(&found(&bare, named), Level::Note, &["TCP: no-library"]);
    let low = LIMITS.replace(
        "Max locked memory         unlimited            unlimited ",
        "Max locked memory         1048576              1048576   ",
    );
    let low = Host::with_device().with("proc/self/limits", &low);
    assert_tells(&found(&low, named), Level::Note, &["TCP: not-registered", "see locked memory"]);
    let (_folder, path, _) = config("transport = \"tcp\"\n");
    let locked = one(&diagnose(low.path(), Some(&path)), "locked memory");
    assert_eq!(locked.level, Level::Note, "TCP pins nothing: {locked}");
}

fn doctor(host: &Host, more: &[&str]) -> Ended {
    let root = host.path().to_str().expect("text");
    Process::pagewire(["doctor", "--root", root].iter().chain(more)).end()
}

#[test]
fn the_exit_status_is_1_only_when_something_is_to_be_changed() {
    let Ended { status, stdout, stderr } = doctor(&Host::good(), &[]);
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.ends_with("\nThis host runs Pagewire; 1 note.\n"), "{stdout}");
    let host = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    let Ended { status, stdout, .. } = doctor(&host, &[]);
    assert_eq!(status.code(), Some(1));
    assert!(stdout.lines().any(|line| line.starts_with("CHANGE  libibverbs: ")), "{stdout}");
    assert!(stdout.ends_with("\n1 thing is to be changed; 0 notes.\n"), "{stdout}");
    let levels = ["OK ", "note ", "CHANGE "];
    for line in stdout.lines().take_while(|line| !line.is_empty()) {
        assert!(levels.iter().any(|level| line.starts_with(level)), "{line}");
    }
}

#[test]
fn the_json_has_the_documented_shape() {
    let host = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    let Ended { status, stdout, .. } = doctor(&host, &["--json"]);
    assert_eq!((status.code(), stdout.lines().count()), (Some(1), 1));
    let json: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!(
        (&json["ok"], &json["changes"], &json["notes"]),
        (&false.into(), &1.into(), &0.into())
    );
    let findings = json["findings"].as_array().expect("a list");
    let areas = ["memory", "cpu", "limits", "network", "rdma", "configuration"];
    for finding in findings {
        let text = |field: &str| finding[field].as_str().unwrap_or_else(|| panic!("{finding}"));
        assert!(areas.contains(&text("area")), "{finding}");
        assert!(!text("subject").is_empty() && !text("found").is_empty(), "{finding}");
        let is_ok = text("level") == "ok";
        assert!(is_ok || ["note", "change"].contains(&text("level")), "{finding}");
        assert_eq!(finding["change"].is_null(), is_ok, "{finding}");
    }
}

#[test]
fn this_very_host_is_told_without_a_complaint() {
    let Ended { status, stdout, stderr } = Process::pagewire(["doctor", "--json"]).end();
    assert_eq!(stderr, "");
    let json: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!(json["ok"] == true, status.code() == Some(0), "{status}: {stdout}");
}
