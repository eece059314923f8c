//! What hosts offer, and what to change on them.

use crate::host::*;
use pagewire_node::doctor::Level;
use serde_json::Value;
use std::fs;

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
    let words = ["8 MiB (hard: 8 MiB)", "at least 70 MiB", "LimitMEMLOCK=73400320", "limits.conf"];
    assert_tells(&of(Host::good()).finding("locked memory"), Level::Note, &words);
    assert_tells(&of(Host::with_device()).finding("locked memory"), Level::Change, &words);
    let capable = STATUS.replace("0000000000000000", "0000000000004000");
    let host = of(Host::with_device()).with("proc/self/status", &capable);
    assert_tells(&host.finding("locked memory"), Level::Ok, &["CAP_IPC_LOCK"]);
    let raisable = LIMITS
        .replace("Max locked memory         unlimited", "Max locked memory         8388608  ");
    let host = of(Host::with_device()).with("proc/self/limits", &raisable);
    assert_tells(&host.finding("locked memory"), Level::Change, &["ulimit -l 71680"]);
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
        &["12 MiB left", "arena of 70 MiB"],
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
    told(&host("0", "0"), Level::Note, &["0 free of 0", "at least 35", "vm.nr_hugepages=35"]);
    told(&host("40", "32"), Level::Note, &["32 free of 40", "vm.nr_hugepages=43"]);
    told(&host("40", "35"), Level::Ok, &["35 free of 40"]);
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
        ("memory limit", Level::Change, &["64 MiB", "more than the arena's 70 MiB", "MemoryMax="]),
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
