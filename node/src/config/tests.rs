use super::{file::RANGES, *};

const GOOD: &str = "cluster = 7\ninstance = 1\nlisten = \"127.0.0.1:0\"\nstorage = \"/tmp\"\n";

fn parse(text: &str) -> Result<NodeConfig, String> {
    NodeConfig::parse(text, Path::new("node.toml")).map_err(|e| e.to_string())
}

#[test]
fn defaults_and_peers() {
    let text = format!("{GOOD}[[peers]]\ninstance = 4\naddress = \"127.0.0.1:9\"\n");
    let config = parse(&text).unwrap();
    assert_eq!(config.members, [InstanceId(4), InstanceId(1)]);
    assert_eq!((config.page_size, config.frames()), (PageSize::K8, 8192));
}

#[test]
fn ids_that_cannot_be_are_told_with_the_key_that_has_them_also_without_members() {
    let peer = |id| format!("[[peers]]\ninstance = {id}\naddress = \"127.0.0.1:9{id}\"\n");
    for (peers, words) in [
        (peer(2) + &peer(2), "peers is a list with 2 twice"),
        (peer(1), "peers is a list with 1, which is this instance's own id"),
        (peer(64), "peers is a list with 64, expected ids from 0 to 63"),
    ] {
        let error = parse(&format!("{GOOD}{peers}")).unwrap_err();
        assert!(error.contains("configuration node.toml: ") && error.contains(words), "{error}");
    }
    let error = parse(&GOOD.replace("instance = 1", "instance = 64")).unwrap_err();
    assert!(error.contains("instance is 64, expected a number from 0 to 63"), "{error}");
}

#[test]
fn the_documented_file_is_accepted() {
    let lines = include_str!("../config.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let lines = lines.skip_while(|line| !line.contains("```toml")).skip(1);
    let text: Vec<_> = lines.take_while(|line| !line.contains("```")).collect();
    let config = parse(&text.join("\n")).unwrap();
    config.check_peers(Path::new("node.toml")).unwrap();
    assert_eq!((config.cluster, config.cache_pages), (ClusterId(42), Some(4000)));
    assert_eq!((config.poller_cores, config.peers.len()), (vec![2], 2));
    assert_eq!(config.cluster_key.as_deref(), Some(Path::new("/etc/pagewire/cluster.key")));
}

#[test]
fn addresses_that_cannot_be_a_peers_are_refused() {
    let parse = |listen: &str, peers: &[&str]| {
        let peer = |(id, address): (usize, &&str)| {
            format!("[[peers]]\ninstance = {}\naddress = \"{address}\"\n", id + 2)
        };
        let peers: String = peers.iter().enumerate().map(peer).collect();
        parse(&(GOOD.replace("127.0.0.1:0", listen) + &peers)).map(drop)
    };
    let listen = "10.0.0.1:7400";
    for (listen, peers, words) in [
        (listen, &["10.0.0.2:0"][..], "peer 2 has address 10.0.0.2:0, which has no port"),
        (listen, &["0.0.0.0:7400"], "no address to dial"),
        (listen, &["10.0.0.2:1", "10.0.0.1:7400"], "peer 3 has address 10.0.0.1:7400, which is"),
        ("0.0.0.0:7400", &["127.0.0.1:7400"], "this instance's own"),
        (listen, &["10.0.0.2:1", "10.0.0.2:1"], "which peer 2 has, too"),
        (listen, &["db1.example:7400"], "line 7: 'db1.example:7400' is no socket address"),
        ("localhost:7400", &[], "line 3: 'localhost:7400' is no socket address, expected IP:PORT"),
    ] {
        let error = parse(listen, peers).unwrap_err();
        assert!(error.contains(words), "'{words}' in: {error}");
    }
    parse(listen, &["10.0.0.1:7401", "10.0.0.2:7400"]).unwrap();
    parse("0.0.0.0:7400", &["127.0.0.1:7401"]).unwrap();
}

#[test]
fn a_member_without_an_address_is_named() {
    let config = parse(&format!("{GOOD}members = [1, 2]\n")).unwrap();
    let error = config.check_peers(Path::new("node.toml")).unwrap_err().to_string();
    assert!(error.contains("a list without 2"), "{error}");
}

#[test]
fn a_port_that_the_system_chooses_is_refused_where_peers_have_to_know_it() {
    let check = |listen: &str, peers: &str| {
        let config = parse(&(GOOD.replace("127.0.0.1:0", listen) + peers)).unwrap();
        config.check_peers(Path::new("node.toml")).map_err(|error| error.to_string())
    };
    let peer = "[[peers]]\ninstance = 4\naddress = \"127.0.0.1:9\"\n";
    let error = check("127.0.0.1:0", peer).unwrap_err();
    assert!(error.contains("listen is 127.0.0.1:0, expected a port of its own"), "{error}");
    let error = check("127.0.0.1:0", "members_max = 2\n").unwrap_err();
    assert!(error.contains("listen is 127.0.0.1:0"), "one may join later: {error}");
    check("127.0.0.1:7400", peer).unwrap();
    check("127.0.0.1:0", "").unwrap();
}

#[test]
fn peers_that_prove_nothing_are_warned_of_where_other_hosts_reach_them() {
    let peer = "[[peers]]\ninstance = 4\naddress = \"10.0.0.4:9\"\n";
    let told = |listen: &str, more: &str| {
        let config = parse(&(GOOD.replace("127.0.0.1:0", listen) + more)).unwrap();
        (config.warnings(), config.notes())
    };
    for listen in ["10.0.0.1:7400", "0.0.0.0:7400", "[::]:7400"] {
        let (warnings, notes) = told(listen, peer);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        for words in [&format!("whoever reaches {listen}"), "any instance", "openssl rand -hex 32"]
        {
            assert!(warning.contains(words), "{words} in: {warning}");
        }
        assert_eq!(notes, [""; 0]);
    }
    let (warnings, notes) = told("127.0.0.1:7400", peer);
    assert_eq!(warnings, [""; 0], "others do not reach it");
    assert!(notes[0].contains("an account on this host"), "{notes:?}");
    let nothing = (Vec::new(), Vec::new());
    assert_eq!(told("10.0.0.1:7400", ""), nothing, "there are no peers");
    assert_eq!(told("10.0.0.1:7400", &format!("cluster_key = \"k\"\n{peer}")), nothing);
}

#[test]
fn what_is_named_to_operators_as_a_key_of_the_file_is_one() {
    let texts = [
        include_str!("../../../transport/src/error.rs"),
        include_str!("../../../transport/src/endpoint/connect/explain.rs"),
        include_str!("../store.rs"),
        include_str!("../storage_watch.rs"),
        include_str!("../runtime/error.rs"),
        include_str!("../doctor/judge/config.rs"),
        include_str!("check.rs"),
        include_str!("error.rs"),
        include_str!("warnings.rs"),
    ];
    let code = texts.iter().flat_map(|text| text.lines());
    let code = code.filter(|line| !line.trim_start().starts_with("//"));
    // Every second piece is between backquotes; commands have blanks or dashes in them.
    let named = code.flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let named: Vec<_> = named.filter(is_name).collect();
    assert!(named.contains(&"keepalive_ms") && named.len() > 20, "{named:?}");
    for name in named {
        let is_key = RANGES.iter().any(|(key, _)| *key == name) || name == "listen";
        assert!(is_key || name == "auto", "`{name}` is no key of the file");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = parse(&format!("{GOOD}arena_mib = 5\n")).unwrap_err();
    assert!(error.contains("line 5") && error.contains("arena_mib"), "{error}");
    assert!(!error.contains('\n'), "one line: {error}");
}

#[test]
fn values_out_of_range_say_what_is_expected() {
    for (line, expected) in [
        ("page_size = 1000", "4096, 8192, 16384 or 32768"),
        ("io_threads = 0", "1 to 64"),
        ("arena_mb = 0", "1 to 1048576"),
        ("members = [0, 2]", "this instance's id"),
        ("members = [1, 2, 2]", "node.toml: members is a list with 2 twice, expected each id once"),
        ("members = [1, 64]", "members is a list with 64, expected ids from 0 to 63"),
        ("acquire_timeout_ms = 0", "1 to 86400000"),
        ("cache_pages = 0", "cache_pages is 0, expected a number from 32"),
        ("members = [1, 2, 3]\narena_mb = 1", "raise `arena_mb` to 2"),
        ("members_max = 0", "members_max is 0, expected 1 to 64"),
        ("members = [1, 2, 3]\nmembers_max = 2", "at least as many as `members` lists"),
        ("members_max = 4\narena_mb = 1", "at least 274 for 3 peers: raise `arena_mb` to 3"),
        ("shards = 0", "1 to 64"),
        ("shards = 65", "1 to 64"),
        ("spin_us = 1000001", "0 to 1000000"),
        (
            "shards = 4\narena_mb = 1",
            "at least 132 for 0 peers of 4 shards each: raise `arena_mb` to 2",
        ),
        ("keepalive_ms = 0", "1 to 3600000"),
        ("peer_timeout_ms = 1999", "peer_timeout_ms is 1999 with keepalive_ms 1000"),
        ("keepalive_ms = 5001", "at least 10002, twice as long"),
        ("rdma_port = 0", "rdma_port is 0, expected 1 to 255"),
        ("rdma_device = \"\"", "rdma_device is empty, expected the name"),
        ("status_socket = \"/run/folder/\"", "\"/run/folder/\", expected an absolute path"),
        ("status_socket = \"/run/folder/.\"", "with a name at its end"),
        ("status_socket = \"/run/..\"", "with a name at its end"),
        ("status_socket = \"/run/a\\u0000b\"", "\"/run/a\\0b\", expected an absolute path"),
        ("status_socket = \"/run/a\\nb\"", "\"/run/a\\nb\", expected an absolute path"),
        ("status_socket = \"/run/a\\u007fb\"", "no control characters"),
        ("si_ring_entries = 1000", "si_ring_entries is 1000, expected a power of two"),
        ("transport = \"rdma\"", "\"rdma\", expected \"auto\", \"verbs\" or \"tcp\""),
    ] {
        let error = parse(&format!("{GOOD}{line}\n")).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for value in ["99999999999", "-1", "1.5", "\"8\"", "99999999999999999999"] {
        for (key, range) in RANGES.iter().skip(6) {
            let error = parse(&format!("{GOOD}{key} = {value} # odd\n")).unwrap_err();
            let told = format!("{key} is {value}, expected {range}");
            assert!(error.contains(&told), "{told} in: {error}");
        }
    }
    let error = parse(&format!("{GOOD}cluster_key = 7\n")).unwrap_err();
    assert!(error.contains("line 5: cluster_key is 7, expected the path of a file"), "{error}");
    let error = parse(&format!("{GOOD}[peers]\ninstance = 2\n")).unwrap_err();
    assert!(error.contains("line 5: found [peers], expected [[peers]]"), "{error}");
    assert!(parse("cluster = 7\n").unwrap_err().contains("missing field"));
    assert!(parse("cluster = [").unwrap_err().contains("line 1"));
}

#[test]
fn the_arena_that_an_error_asks_for_is_enough_for_all_shards() {
    for (shards, peers) in [(1, 0), (3, 2), (5, 1), (64, 3)] {
        let members: Vec<_> = (1..=1 + peers).collect();
        let text = |arena_mb| {
            format!("{GOOD}members = {members:?}\nshards = {shards}\narena_mb = {arena_mb}\n")
        };
        let least = (1..).find(|&arena_mb| parse(&text(arena_mb)).is_ok()).unwrap();
        let config = parse(&text(least)).unwrap();
        assert!(config.frames_of_shard() >= config.frames_needed());
        if least > 1 {
            let error = parse(&text(least - 1)).unwrap_err();
            assert!(error.contains(&format!("raise `arena_mb` to {least}")), "{least}: {error}");
        }
    }
}

#[test]
fn every_shard_has_a_port_that_is_nobody_elses() {
    let parse = |listen: &str, shards: u16, peers: &[&str]| {
        let peer = |(id, address): (usize, &&str)| {
            format!("[[peers]]\ninstance = {}\naddress = \"{address}\"\n", id + 2)
        };
        let peers: String = peers.iter().enumerate().map(peer).collect();
        let good = GOOD.replace("127.0.0.1:0", listen);
        parse(&format!("{good}shards = {shards}\n{peers}")).map(drop)
    };
    let own = "10.0.0.1:7402";
    for (listen, shards, peers, words) in [
        (
            own,
            2,
            &["10.0.0.1:7403"][..],
            "this instance's own (its 2 shards listen on ports up to 7404)",
        ),
        (
            own,
            3,
            &["10.0.0.1:7400"],
            "this instance's own (its 3 shards listen on ports up to 7402)",
        ),
        ("0.0.0.0:7402", 2, &["127.0.0.1:7401"], "this instance's own"),
        (own, 4, &["10.0.0.2:7400", "10.0.0.2:7403"], "which peer 2 has, too (its 4 shards"),
        (own, 2, &["10.0.0.2:65535"], "leaves no port for its last shard"),
        ("10.0.0.1:65534", 3, &[], "listen is 10.0.0.1:65534, expected a port that"),
    ] {
        let error = parse(listen, shards, peers).unwrap_err();
        assert!(error.contains(words), "'{words}' in: {error}");
    }
    parse(own, 2, &["10.0.0.1:7404", "10.0.0.1:7400", "10.0.0.2:7402"]).unwrap();
    parse("10.0.0.1:65534", 2, &["10.0.0.2:65534"]).unwrap();
    // Port 0 is not yet anybody's.
    parse("127.0.0.1:0", 64, &["127.0.0.1:1"]).unwrap();
}

#[test]
fn memory_and_liveness_reach_the_transport() {
    let config = parse(&format!(
        "{GOOD}lock_memory = true\ndump_memory = true\nkeepalive_ms = 20\npeer_timeout_ms = 40\n"
    ))
    .unwrap();
    let arena = config.arena(7);
    assert!(arena.lock && arena.dump && arena.frames == 7);
    let endpoint = config.endpoint(&config.view().unwrap()).unwrap();
    let ms = Duration::from_millis;
    assert_eq!((endpoint.keepalive, endpoint.peer_timeout), (ms(20), ms(40)));
    let arena = parse(GOOD).unwrap().arena(7);
    assert!(!arena.lock && !arena.dump);
}

#[test]
fn what_is_no_file_of_text_is_refused_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Nobody writes there: who opened it would wait for good.
    let made = std::process::Command::new("mkfifo").arg(path("fifo")).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink(path("fifo"), path("link-to-fifo")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    fs::write(path("huge"), "# none\n".repeat(1 << 18)).unwrap();
    fs::write(path("latin-1"), b"cluster = 7\n# f\xfcr alle\n").unwrap();
    for (path, words) in [
        (path("fifo"), ["found a FIFO", "expected a regular file"]),
        (path("link-to-fifo"), ["found a FIFO", "expected a regular file"]),
        (path("socket"), ["found a socket", "expected a regular file"]),
        (path(""), ["found a directory", "expected a regular file"]),
        ("/dev/zero".into(), ["found a device", "expected a regular file"]),
        (path("huge"), ["more than 1048576 bytes", "the right file"]),
        (path("latin-1"), ["line 2: found bytes that are not UTF-8", "save it as UTF-8"]),
        (path("missing"), ["No such file", "name an existing TOML file"]),
    ] {
        let error = NodeConfig::load(&path).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in: {error}");
    }
    fs::write(path("good"), GOOD).unwrap();
    std::os::unix::fs::symlink(path("good"), path("link")).unwrap();
    assert_eq!(NodeConfig::load(&path("link")).unwrap().cluster, ClusterId(7));
}

#[test]
fn a_key_that_is_there_twice_is_named_with_what_to_do() {
    let error = parse(&format!("{GOOD}instance = 1\n")).unwrap_err();
    let told = "line 5: found a second `instance`, expected each key once: take one out, or begin \
                another peer above it with [[peers]]";
    assert!(error.contains(told), "{error}");
    let error = parse(&format!("{GOOD}arena_mb = 8\narena_mb = 9\n")).unwrap_err();
    assert!(error.ends_with("found a second `arena_mb`, expected each key once: take one out"));
    let peer = "[[peers]]\ninstance = 4\naddress = \"127.0.0.1:9\"\naddress = \"127.0.0.1:8\"\n";
    let error = parse(&format!("{GOOD}{peer}")).unwrap_err();
    assert!(error.contains("line 8: found a second `address`"), "{error}");
}

#[test]
fn one_peer_is_not_1_peers() {
    let error = |members| {
        parse(&format!("{GOOD}members = {members}\npage_size = 32768\narena_mb = 1\n")).unwrap_err()
    };
    assert!(error("[1, 2]").contains(" for 1 peer: raise"), "{}", error("[1, 2]"));
    assert!(error("[1, 2, 3]").contains(" for 2 peers: raise"));
}

#[test]
fn what_is_not_used_as_it_is_written_is_told() {
    let warnings = |more: &str| parse(&format!("{GOOD}{more}")).unwrap().warnings();
    assert_eq!(warnings("cache_pages = 4000\nshards = 2\npoller_cores = [0, 1]\n"), [""; 0]);
    let room = parse(GOOD).unwrap().cache_room();
    assert_eq!(warnings(&format!("cache_pages = {room}\n")), [""; 0]);
    for (transport, expected) in [("tcp", 1), ("auto", 0), ("verbs", 0)] {
        let told = warnings(&format!("transport = \"{transport}\"\nrdma_device = \"mlx5_0\"\n"));
        assert_eq!(told.len(), expected, "{told:?}");
        assert!(told.iter().all(|text| text.contains("rdma_device") && text.contains("take them")));
    }
    assert_eq!(warnings("transport = \"tcp\"\n"), [""; 0]);
    for shards in [1, 3] {
        let config = |more: &str| parse(&format!("{GOOD}shards = {shards}\n{more}")).unwrap();
        let room = config("").cache_room();
        let [told] = &config("cache_pages = 100000\n").warnings()[..] else { panic!("one") };
        let found = format!("cache_pages is 100000, the arena has room for {room}");
        assert!(told.starts_with(&found) && told.contains("lower `cache_pages`"), "{told}");
        let (_, needed) = told.rsplit_once("`arena_mb` to ").unwrap();
        assert_eq!(
            config(&format!("cache_pages = 100000\narena_mb = {needed}\n")).warnings(),
            [""; 0]
        );
        let less = needed.parse::<u32>().unwrap() - 1;
        let less = format!("cache_pages = 100000\narena_mb = {less}\n");
        assert_eq!(config(&less).warnings().len(), 1, "the least that will do is named");
    }
    let [most] = &warnings("cache_pages = 4294967295\n")[..] else { panic!("one") };
    assert!(most.ends_with(": lower `cache_pages`"), "no arena has room for so many: {most}");
    let spare = warnings("poller_cores = [0, 0]\n");
    let told = "poller_cores names 2 cores, shards is 1: those beyond are not used; name as many as \
                `shards`";
    assert_eq!(spare, [told]);
    let shared = warnings("shards = 3\npoller_cores = [4, 5, 4, 5]\n");
    assert_eq!(shared.len(), 2, "{shared:?}");
    assert!(shared[1].contains("names core 4 for shards 0, 2"), "{shared:?}");
}

#[test]
fn what_links_are_on_reaches_the_transport() {
    let endpoint = |more: &str| {
        let config = parse(&format!("{GOOD}{more}")).unwrap();
        config.endpoint(&config.view().unwrap()).unwrap()
    };
    let plain = endpoint("");
    assert_eq!((plain.links, plain.verbs), (LinkPolicy::Auto, Overrides::default()));
    for (word, links) in
        [("auto", LinkPolicy::Auto), ("verbs", LinkPolicy::Verbs), ("tcp", LinkPolicy::Tcp)]
    {
        assert_eq!(endpoint(&format!("transport = \"{word}\"\n")).links, links);
    }
    let named = endpoint("rdma_device = \"rxe0\"\nrdma_port = 2\nrdma_gid_index = 0\n").verbs;
    let expected = Overrides { device: Some("rxe0".to_owned()), port: Some(2), gid_index: Some(0) };
    assert_eq!(named, expected);
}
