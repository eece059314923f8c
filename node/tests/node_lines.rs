//! What `pagewire node` tells of its peers, what its configuration is refused for before anything
//! starts, and what the help says.

mod support;

use support::{
    ledger::Config,
    process::{Ended, Process},
};

/// Two instances that know each other, not started.
fn pair(storage: &std::path::Path) -> Vec<Config> {
    let mut configs = Config::three(storage);
    configs.truncate(2);
    for config in &mut configs {
        config.members.truncate(2);
        config.peers.retain(|(id, _)| *id < 2);
    }
    configs
}

#[test]
fn an_instance_says_whom_it_waits_for_and_who_comes_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let configs = Config::three(folder.path());
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut first = configs[0].run(&path(0));
    first.line("whom it waits for", |line| line == "waiting for instances 1, 2");
    let mut second = configs[2].run(&path(2));
    first.line("who came", |line| line == "instance 2 is up");
    second.line("who came", |line| line == "instance 0 is up");
    let _third = configs[1].run(&path(1));
    first.line("who came", |line| line == "instance 1 is up");
    first.line("that all are up", |line| line == "all 2 peers are up");
}

#[test]
fn one_peer_is_not_all_1_peers_and_none_is_awaited_by_an_instance_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let configs = pair(folder.path());
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = (0..2).map(|at| configs[at].run(&path(at))).collect();
    nodes[0].line("whom it waits for", |line| line == "waiting for instance 1");
    for node in &mut nodes {
        node.line("that the peer is up", |line| line == "the only peer is up");
    }
    let alone = Config { members: vec![0], ..Config::new(0, folder.path()) };
    let mut alone = alone.run(&path(2));
    alone.line("that it is alone", |line| line == "there are no other instances");
}

#[test]
fn addresses_and_sizes_that_cannot_be_are_refused_before_anything_starts() {
    // The storage folder is missing, too: what is wrong in the file itself comes first.
    let [good, other] = &pair("/nowhere/storage".as_ref())[..] else { unreachable!() };
    let (own, peer) = (good.listen.to_string(), other.listen.to_string());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refusal = |from: &str, to: &str| {
        let text = good.text();
        let at = text.rfind(from).unwrap_or_else(|| panic!("{from} in {text}"));
        let text = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).expect("a configuration");
        let arguments = ["node".as_ref(), "--config".as_ref(), path.as_os_str()];
        Process::pagewire(arguments).end().refused()
    };
    for (from, to, words) in [
        ("arena_mb = 16", "arena_mb = 16\ncache_pages = 0", &["cache_pages is 0", "from 32"][..]),
        (
            "arena_mb = 16",
            "arena_mb = 16\ncache_pages = 4294967296",
            &["cache_pages", "4294967295"],
        ),
        ("arena_mb = 16", "arena_mb = 4294967296", &["line 8", "arena_mb is", "1 to 1048576"]),
        (
            "arena_mb = 16",
            "arena_mb = 1\nio_threads = 64",
            &["128 frames", "at least 176", "`arena_mb` to 2"],
        ),
        ("instance = 1", "instance = 65536", &["instance is 65536", "0 to 63"]),
        (&peer, &own, &["peer 1", "this instance's own", "expected"]),
        (&peer, "127.0.0.1:0", &["peer 1", "no port", "expected"]),
        (&peer, "db1:7400", &["'db1:7400'", "expected IP:PORT", "not looked up"]),
    ] {
        let line = refusal(from, to);
        for word in words {
            assert!(line.contains(word), "'{word}' in: {line}");
        }
        assert!(!line.contains("storage"), "{line}");
    }
}

#[test]
fn verbs_that_is_demanded_and_not_to_be_had_ends_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    // Whatever this host has: that device it has not. Nor so many huge pages, which is a warning
    // where nothing is refused.
    let more = "arena_mb = 256\ntransport = \"verbs\"\nrdma_device = \"no-such-device\"\n";
    let more = more.to_owned();
    let config = Config { members: vec![0], more, ..Config::new(0, folder.path()) };
    std::fs::write(&path, config.text()).expect("a configuration");
    let arguments = ["node".as_ref(), "--config".as_ref(), path.as_os_str()];
    let line = Process::pagewire(arguments).end().refused();
    for word in ["demands verbs", "`auto`"] {
        assert!(line.contains(word), "'{word}' in: {line}");
    }
    let arguments = ["demo", "--transport", "verbs", "--rdma-device", "no-such-device"];
    let line = Process::pagewire(arguments).end().refused();
    assert!(line.contains("--transport verbs cannot be used"), "{line}");
}

#[test]
fn what_messages_go_over_is_told_with_the_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = pair(folder.path());
    configs[1].more.push_str("transport = \"tcp\"\n");
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = (0..2).map(|at| configs[at].run(&path(at))).collect();
    for (node, other, end) in [(0, 1, "the other end"), (1, 0, "this end")] {
        let told = format!("messages with instance {other} go over TCP: configured at {end}");
        nodes[node].line("what messages go over", |line| line.starts_with(&told));
    }
}

#[test]
fn the_help_of_every_command_says_what_it_does_and_how_to_see_more() {
    let commands =
        [&[][..], &["demo"], &["node"], &["verify"], &["doctor"], &["si"], &["si", "tail"]];
    for command in commands {
        let arguments = command.iter().copied().chain(["--help"]);
        let Ended { stdout, stderr, .. } = Process::pagewire(arguments).end().succeeded();
        assert_eq!(stderr, "");
        for word in ["Usage: pagewire", "PAGEWIRE_LOG", "[default: warn]", "--help"] {
            assert!(stdout.contains(word), "'{word}' in the help of {command:?}: {stdout}");
        }
    }
    let help = |command| Process::pagewire([command, "--help"]).end().succeeded().stdout;
    for word in ["--out", "--seed", "NOTHING TO MOVE", "130 or 143"] {
        assert!(help("demo").contains(word), "{word}");
    }
    for word in ["--config", "--json", "CHANGE", "Exit status"] {
        assert!(help("doctor").contains(word), "{word}");
    }
    assert!(help("node").contains("arena_mb"));
}

#[test]
fn every_key_of_the_file_is_in_the_help_and_in_the_readme() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    std::fs::write(&path, "nothing = 1\n").expect("a configuration");
    let arguments = ["node".as_ref(), "--config".as_ref(), path.as_os_str()];
    // An unknown key is answered with a list of those that are known.
    let refusal = Process::pagewire(arguments).end().refused();
    let keys: Vec<_> = refusal.split('`').skip(3).step_by(2).collect();
    assert!(keys.contains(&"cluster_key") && keys.len() > 15, "{refusal}");
    let help = Process::pagewire(["node", "--help"]).end().succeeded().stdout;
    let readme = include_str!("../../README.md");
    for key in keys {
        let is_told = |text: &str, around: &[[&str; 2]]| {
            around.iter().any(|[left, right]| text.contains(&format!("{left}{key}{right}")))
        };
        assert!(is_told(&help, &[["\n  ", " = "], ["[[", "]]"]]), "'{key}' in the help: {help}");
        let in_readme = [["\n", " = "], ["[[", "]]"], ["\n| `", "` "]];
        assert!(is_told(readme, &in_readme), "'{key}' in the README");
    }
}

#[test]
fn instances_of_several_shards_say_their_ports_and_who_goes_and_comes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = pair(folder.path());
    configs.iter_mut().for_each(|config| config.more.push_str("shards = 2\n"));
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = (0..2).map(|at| configs[at].run(&path(at))).collect();
    for (config, node) in configs.iter().zip(&mut nodes) {
        let ports =
            format!("listens on {} to {}, 2 shards", config.listen, config.listen.port() + 1);
        node.line("its ports", |line| line.ends_with(&ports));
        node.line("that the peer is up", |line| line == "the only peer is up");
    }
    nodes[1].kill();
    nodes[0].line("that it is gone", |line| line == "instance 1 is gone");
}

#[test]
fn what_is_not_used_as_it_is_written_is_warned_of_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config { members: vec![0], ..Config::new(0, folder.path()) };
    config.more.push_str("shards = 2\ncache_pages = 100000\npoller_cores = [0, 0, 0]\n");
    let mut node = config.run(&folder.path().join("node.toml"));
    let line = node.complaint("word of the cache", |line| line.contains("cache_pages is 100000"));
    assert!(!line.contains('\x1b'), "colours, and this is no terminal: {line:?}");
    node.complaint("word of spare cores", |line| line.contains("poller_cores names 3 cores"));
    node.complaint("word of a shared core", |line| line.contains("core 0 for shards 0, 1"));
    node.line("that it listens", |line| line.starts_with("instance 0 of cluster"));
    assert_eq!(node.history().matches("cache_pages").count(), 2, "{}", node.history());
}

#[test]
fn a_log_level_that_is_none_is_told_and_does_not_stop_anything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config { members: vec![0], ..Config::new(0, folder.path()) };
    let path = folder.path().join("node.toml");
    std::fs::write(&path, config.text_with_socket(&path)).expect("a configuration");
    let arguments = ["node".as_ref(), "--config".as_ref(), path.as_os_str()];
    let mut command = Process::command(arguments);
    let mut node = Process::start(command.env("PAGEWIRE_LOG", "a=b=c"));
    let line = node.complaint("word of the level", |line| line.contains("PAGEWIRE_LOG"));
    assert!(line.contains("'a=b=c'") && line.contains("taking warn"), "{line}");
    node.line("that it listens", |line| line.starts_with("instance 0 of cluster"));
}
