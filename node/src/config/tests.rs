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
        ("acquire_timeout_ms = 0", "1 to 86400000"),
        ("cache_pages = 0", "cache_pages is 0, expected a number from 32"),
        ("members = [1, 2, 3]\narena_mb = 1", "raise `arena_mb` to 2"),
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
        ("transport = \"rdma\"", "\"rdma\", expected \"auto\", \"verbs\" or \"tcp\""),
    ] {
        let error = parse(&format!("{GOOD}{line}\n")).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for value in ["99999999999", "-1", "1.5", "\"8\"", "99999999999999999999"] {
        for (key, range) in RANGES.iter().skip(5) {
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

#[test]
fn a_file_without_an_end_is_refused() {
    let error = NodeConfig::load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("/dev/zero") && error.contains("too large"), "{error}");
}
