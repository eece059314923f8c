//! One configuration on a host.

use crate::{host::*, support::ledger::Config};
use pagewire_node::doctor::{Level, diagnose};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

/// A configuration's file, and the folder it names for storage.
pub(crate) fn config(more: &str) -> (tempfile::TempDir, PathBuf, Config) {
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
        ("si_ring", &["No such file", "make its folder", "mend `si_ring`"]),
        ("available memory", &["8 GiB", "lower arena_mb"]),
    ] {
        assert_tells(&one(&diagnosis, subject), Level::Change, words);
    }
    assert_eq!(diagnosis.changes, 5, "{diagnosis:#?}");
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
        (socket, "status_socket", &["a process listens", "not this instance", "end it"][..]),
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
fn what_this_very_instance_uses_while_it_runs_needs_no_change() {
    let (_folder, path, base) = config("huge_pages = false\narena_mb = 16\nshards = 2\n");
    let mut node = base.run(&path);
    node.line("that it can be asked", |line| line.contains("`pagewire status"));
    let judged = || diagnose(Host::good().path(), Some(&path));
    let running = judged();
    for (subject, words) in
        [("listen", "this very instance"), ("status_socket", "this very instance")]
    {
        assert_tells(&one(&running, subject), Level::Ok, &[words]);
    }
    assert!(running.ok, "{running:#?}");
    // Another one that wants its port, and its socket, is told otherwise.
    let text = fs::read_to_string(&path).expect("the file");
    fs::write(&path, text.replace("instance = 0", "instance = 9").replace("[0]", "[9]"))
        .expect("written");
    let other = judged();
    for subject in ["listen", "status_socket"] {
        assert_tells(&one(&other, subject), Level::Change, &[]);
    }
    // One that runs, and was told of another port since: somebody else has that.
    let taken = TcpListener::bind(SocketAddr::new(base.listen.ip(), 0)).expect("a port");
    let taken = taken.local_addr().expect("an address");
    let text = text.replace(&base.listen.to_string(), &taken.to_string()).replace("shards = 2", "");
    fs::write(&path, text).expect("written");
    assert_tells(&one(&judged(), "listen"), Level::Change, &["in use", "ss -ltnp"]);
}

#[test]
fn storage_of_another_cluster_and_peers_that_prove_nothing_are_told() {
    let (_folder, path, base) = config("");
    let mut other = base.clone();
    other.cluster += 1;
    other.run(&path).line("that it can be asked", |line| line.contains("`pagewire status"));
    fs::write(&path, base.text()).expect("written");
    let diagnosis = diagnose(Host::good().path(), Some(&path));
    let cluster = format!("is of cluster {}", other.cluster);
    assert_tells(&one(&diagnosis, "storage"), Level::Change, &[&cluster, "`storage`"]);
    fs::remove_dir_all(base.storage.join("pagewire")).expect("removed");

    let with_peer = |listen: &str| {
        let more = format!("members_max = 2\n{}", base.more);
        let config = Config { more, listen: listen.parse().expect("an address"), ..base.clone() };
        fs::write(&path, config.text()).expect("written");
        diagnose(Host::good().path(), Some(&path))
    };
    let words = ["account on this host", "before others can reach it"];
    let here = with_peer(&base.listen.to_string());
    assert_tells(&one(&here, "cluster_key"), Level::Note, &words);
    let words = ["whoever reaches 192.0.2.1:7400", "openssl rand -hex 32"];
    assert_tells(&one(&with_peer("192.0.2.1:7400"), "cluster_key"), Level::Note, &words);
    assert_eq!(fs::read_dir(&base.storage).expect("the folder").count(), 0);
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
        assert_tells(&one(&shared, "poller_cores"), Level::Note, &["1, 1", "each core once"]);
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
