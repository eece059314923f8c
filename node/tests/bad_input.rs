//! What operators and strangers do wrong: each is told in one line what was found, what was expected
//! and what to do, and the instances that are right carry on.
//!
//! That they carry on is shown by a cluster whose workers move money all the while, and whose files
//! verify in the end.

mod support;

use pagewire_node::{agent::lines::Event, random::Random};
use pagewire_protocol::{
    ClusterId, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, PageSize, ProcessId, Sequence,
    hello::{
        Dialler, DiallerStep, Features, Hello, INTRO_BYTES, Nonce, PROVEN_BYTES, ProofKey, Refusal,
    },
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};
use support::{
    ledger::{CLUSTER, Cluster, Config, own_address},
    process::{Process, wait_for},
};

/// What `pagewire node` says of the configuration `text`.
fn refusal(text: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    std::fs::write(&path, text).expect("a configuration");
    Process::pagewire(["node".as_ref(), "--config".as_ref(), path.as_os_str()]).end().refused()
}

fn assert_tells(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "'{word}' in: {line}");
    }
}

// ---- the file ------------------------------------------------------------------------------------

#[test]
fn a_configuration_that_is_none_is_refused_with_the_key_and_the_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = Config { members: vec![0], ..Config::new(0, folder.path()) }.text();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from} in {good}");
        good.replacen(from, to, 1)
    };
    let cases = [
        (with("arena_mb = 16", "arena_mib = 16"), vec!["line 8", "arena_mib", "expected one of"]),
        (with("instance = 0", "instance = \"zero\""), vec!["line 2", "\"zero\"", "0 to 63"]),
        (with("instance = 0", "instance = -1"), vec!["line 2", "instance is -1", "0 to 63"]),
        (with("instance = 0", "instance = 64"), vec!["members", "list with this instance's id"]),
        (with("cluster = 4711", ""), vec!["missing field", "cluster"]),
        (
            with("cluster = 4711", "cluster = 4711\ncluster = 4712"),
            vec!["line 2", "a second `cluster`", "take one out"],
        ),
        (with("cluster = 4711", "cluster = "), vec!["line 1"]),
        (with(":7400", ""), vec!["line 3", "socket address"]),
        (with(":7400", ":74000"), vec!["line 3", "socket address"]),
        (with("page_size = 8192", "page_size = 1000"), vec!["page_size is 1000", "8192"]),
        (with("page_size = 8192", "page_size = \"8k\""), vec!["line 6", "\"8k\""]),
        (with("members = [0]", "members = [1, 2]"), vec!["without 0", "this instance's id"]),
        (
            with("members = [0]", "members = [0, 0]"),
            vec!["members is a list with 0 twice", "its own"],
        ),
        (with("members = [0]", "members = [0, 99]"), vec!["members is a list with 99", "0 to 63"]),
        (with("members = [0]", "members = [0, 9]"), vec!["without 9", "an address for each"]),
        (
            with("members = [0]", "") + "[[peers]]\ninstance = 0\naddress = \"127.0.0.9:1\"\n",
            vec!["peers is a list with 0, which is this instance's own id"],
        ),
        (with("arena_mb = 16", "cache_pages = 0"), vec!["cache_pages is 0", "from 32"]),
        (with("arena_mb = 16", "arena_mb = 0"), vec!["arena_mb is 0", "1 to 1048576"]),
    ];
    for (text, words) in cases {
        assert_tells(&refusal(&text), &words);
    }
}

#[test]
fn a_cluster_key_that_is_none_is_refused_with_what_to_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = folder.path().join("cluster.key");
    let more = format!("huge_pages = false\narena_mb = 16\ncluster_key = {key:?}\n");
    let text = Config { members: vec![0], more, ..Config::new(0, folder.path()) }.text();
    assert_tells(&refusal(&text), &["cluster.key", "No such file", "name a file"]);
    let with_mode = |content: &str, mode: u32| {
        std::fs::write(&key, content).expect("a key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("a mode");
        refusal(&text)
    };
    let key_text = "0123456789abcdef0123456789abcdef\n";
    assert_tells(&with_mode(key_text, 0o640), &["found mode 0640", "expected 0600", "`chmod 600 "]);
    assert_tells(&with_mode("short\n", 0o600), &["has 5 bytes", "expected 32 to 4096"]);
}

#[test]
fn an_instance_id_beyond_the_greatest_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config { members: vec![64], ..Config::new(64, folder.path()) };
    assert_tells(&refusal(&config.text()), &["instance is 64", "0 to 63"]);
}

#[test]
fn an_arena_without_room_for_pages_is_refused_with_what_it_needs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [config, ..] = &Config::three(folder.path())[..] else { unreachable!() };
    let text = config.text().replace("arena_mb = 16", "arena_mb = 1");
    assert_tells(&refusal(&text), &["128 frames", "expected at least", "raise `arena_mb`"]);
}

#[test]
fn a_peer_that_is_named_twice_or_is_the_instance_itself_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::three(folder.path()).remove(0);
    config.peers.push(config.peers[0]);
    assert_tells(
        &refusal(&config.text()),
        &["node.toml: peers is a list with 1 twice", "each id once"],
    );
    config.peers[2] = (0, config.listen);
    assert_tells(&refusal(&config.text()), &["peers is a list with 0", "this instance's own id"]);
    config.peers[2] = (7, config.listen);
    assert_tells(&refusal(&config.text()), &["peers", "instance 7", "only instances that"]);
}

#[test]
fn a_configuration_file_that_is_missing_is_named() {
    let run = Process::pagewire(["node", "--config", "/nowhere/node.toml"]);
    let line = run.end().refused();
    assert_tells(&line, &["/nowhere/node.toml", "No such file", "name an existing TOML file"]);
    let run = Process::pagewire(["node", "--config", "/proc"]);
    assert_tells(&run.end().refused(), &["/proc", "found a directory", "expected a regular file"]);
}

#[test]
fn arguments_that_are_none_are_refused_in_one_line() {
    for (arguments, words) in [
        (&["node"][..], &["--config"][..]),
        (&["node", "--config", "a", "--colour"], &["--colour"]),
        (&["dance"], &["dance"]),
        (&["node", "--config", "a", "--agent"], &["--manifest"]),
    ] {
        assert_tells(&Process::pagewire(arguments).end().refused(), words);
    }
}

// ---- the host ------------------------------------------------------------------------------------

#[test]
fn a_storage_folder_that_is_missing_or_none_or_unwritable_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    let refusal =
        |storage: &Path| refusal(&Config { members: vec![0], ..Config::new(0, storage) }.text());
    let line = refusal(&folder.path().join("missing"));
    assert_tells(&line, &["missing", "No such file", "all instances share", "`storage`"]);
    assert_tells(&refusal(&file), &["is no folder", "all instances share"]);
    // Not even root can write there.
    assert_tells(
        &refusal(Path::new("/proc")),
        &["/proc", "cannot be written", "no file can be made"],
    );
}

#[test]
fn a_busy_port_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config { members: vec![0], ..Config::new(0, folder.path()) };
    let _taken = TcpListener::bind(config.listen).expect("a free port");
    let line = refusal(&config.text());
    let listen = config.listen.to_string();
    assert_tells(&line, &[&listen, "in use", "choose another address"]);
    let elsewhere = Config { listen: "192.0.2.1:7400".parse().expect("an address"), ..config };
    assert_tells(&refusal(&elsewhere.text()), &["192.0.2.1:7400", "cannot listen"]);
}

#[test]
fn an_instance_of_the_demo_that_cannot_start_tells_its_coordinator() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    let config = Config::new(0, &folder.path().join("missing"));
    std::fs::write(&path, config.text()).expect("a configuration");
    let arguments = ["node", "--agent", "--manifest", "m", "--log", "l", "--config"];
    let arguments = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]);
    let ended = Process::pagewire(arguments).end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(ended.stderr, "", "the coordinator tells the user");
    let Ok(Event::Error { message }) = serde_json::from_str(&ended.stdout) else {
        panic!("{ended:?}")
    };
    assert_tells(&message, &["missing", "No such file", "all instances share"]);
}

// ---- other instances -----------------------------------------------------------------------------

/// Writes a cluster key; the line of a configuration that names it.
fn write_key(path: &Path, of: &str) -> String {
    std::fs::write(path, of.repeat(40)).expect("a key");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    format!("cluster_key = {path:?}\n")
}

#[test]
fn instances_that_do_not_fit_end_and_the_cluster_carries_on() {
    let mut cluster = Cluster::at_work(64);
    let addresses = cluster.addresses.clone();
    let storage = cluster.files.storage();
    let newcomer = || Config::new(1, &storage).with_peers(&addresses);
    // Where nobody has left a mark.
    let elsewhere = |name: &str| {
        let folder = cluster.files.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        folder
    };

    let mut more = newcomer();
    more.members.push(3);
    more.peers.push((3, own_address()));
    let mut stranger = newcomer();
    (stranger.instance, stranger.members) = (7, vec![0, 7]);
    stranger.peers.retain(|(id, _)| *id == 0);
    let mut crossed = newcomer();
    crossed.peers = vec![(0, addresses[2].1), (2, addresses[0].1)];
    let cases = [
        (newcomer(), ["instance id 1 is in use", "expected one process per id", "stop one"]),
        (
            Config { cluster: 8, storage: elsewhere("cluster-8"), ..newcomer() },
            ["of cluster 4711", "this one of cluster 8", "the same cluster id"],
        ),
        (
            Config { page_size: 4096, storage: elsewhere("pages-4096"), ..newcomer() },
            ["pages of 8192", "this one of 4096", "the same page size"],
        ),
        (more, ["has member list", "the same members", "members of instance 1 are [0, 1, 2, 3]"]),
        (stranger, ["instance 0 has no peer 7", "add it there", "mend the id"]),
        (
            crossed,
            ["the process at that address is instance", "expected instance", "mend the peer's"],
        ),
    ];
    let start = |(number, (config, words)): (usize, (Config, _))| {
        let path = cluster.files.folder.path().join(format!("newcomer-{number}.toml"));
        (config.run(&path), words)
    };
    let newcomers: Vec<_> = cases.into_iter().enumerate().map(start).collect();
    for (newcomer, words) in newcomers {
        let ended = newcomer.end();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "one line: {}", ended.stderr);
        assert_tells(&ended.stderr, &words);
    }
    cluster.makes_progress();
    let files = cluster.finish();
    let verdict = files.verify(3).succeeded().stdout;
    assert!(verdict.ends_with("\nverified\n"), "{verdict}");
}

/// Waits until `node` says that it has all its peers.
fn is_whole(node: &mut Process) {
    node.line("word that all are up", |line| line == "all 2 peers are up");
}

#[test]
fn the_next_life_of_a_crashed_instance_is_refused_until_all_start_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let configs = Config::three(folder.path());
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let start = || (0..3).map(|at| configs[at].run(&path(at))).collect::<Vec<_>>();
    for crashed in [1, 0, 2] {
        let mut nodes = start();
        nodes.iter_mut().for_each(is_whole);
        nodes[crashed].kill();
        let ended = configs[crashed].run(&path(crashed)).end();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let id = format!("instance {crashed} took part in an earlier life");
        assert_tells(&ended.stderr, &[&id, "cannot recover", "start them together"]);
        for at in (0..3).filter(|at| *at != crashed) {
            assert!(nodes[at].is_running(), "{}", nodes[at].history());
        }
    }
}

#[test]
fn instances_that_have_each_other_wait_for_the_right_third_when_a_wrong_one_came() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = Config::three(folder.path());
    // The wrong one has the lesser id, so that the others dial it before it has dialled them.
    let mut wrong = configs[0].clone();
    (wrong.cluster, wrong.storage) = (8, folder.path().join("other"));
    std::fs::create_dir(&wrong.storage).expect("a folder");
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = [1, 2].iter().map(|&at| configs[at].run(&path(at))).collect();
    let ended = wrong.run(&path(0)).end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_tells(&ended.stderr, &["of cluster 4711", "this one of cluster 8"]);
    for node in &mut nodes {
        let word = "instance 0 is of cluster 8, this one of cluster 4711";
        node.complaint("word of the stranger", |line| line.contains(word));
        assert!(node.is_running(), "{}", node.history());
    }
    nodes.push(configs.remove(0).run(&path(0)));
    nodes.iter_mut().for_each(is_whole);
}

#[test]
fn of_a_pair_with_different_clusters_one_ends_and_both_say_why() {
    let words = ["of cluster 8", "of cluster 4711", "the same cluster id"];
    one_of_a_pair_ends(words, |folder, configs| {
        (configs[1].cluster, configs[1].storage) = (8, folder.join("other"));
        std::fs::create_dir(&configs[1].storage).expect("a folder");
    });
}

#[test]
fn of_a_pair_with_different_member_lists_both_show_theirs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = Config::three(folder.path());
    configs[0].members = vec![0, 1];
    configs[0].peers.retain(|(id, _)| *id == 1);
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = (0..2).map(|at| configs[at].run(&path(at))).collect();
    wait_for("the end of one", || nodes.iter_mut().any(|node| !node.is_running()));
    for (node, members) in nodes.iter_mut().zip(["0 are [0, 1]", "1 are [0, 1, 2]"]) {
        // The last word of one that goes, a warning of one that stays.
        let told = format!("the members of instance {members}");
        node.complaint("its member list", |line| line.contains(&told));
    }
}

/// Nobody can say who sends a refusal without a proof, so nobody ends because of one: the two go on,
/// and are linked once the keys are the same.
#[test]
fn of_a_pair_with_different_cluster_keys_both_say_why_and_wait_for_the_right_one() {
    for keys in [[Some("7"), Some("8")], [Some("7"), None], [None, Some("7")]] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut configs = pair(folder.path());
        let right = configs[1].clone();
        for (config, of) in configs.iter_mut().zip(keys) {
            let key = of.map(|of| write_key(&folder.path().join(format!("key-{of}")), of));
            config.more.push_str(&key.unwrap_or_default());
        }
        let path = |at: usize| folder.path().join(format!("{at}.toml"));
        let mut nodes: Vec<_> = (0..2).map(|at| configs[at].run(&path(at))).collect();
        for node in &mut nodes {
            node.complaint("word of the other", |line| {
                ["cluster key file", "give all instances the same"].iter().all(|w| line.contains(w))
            });
        }
        // Who dialled is told as well, and only says so.
        let told = |node: &mut Process| node.history().contains("nobody has proven to say so");
        wait_for("a refusal", || nodes.iter_mut().any(told));
        nodes.remove(1).kill();
        let more = configs[0].more.clone();
        let mut second = Config { more, ..right }.run(&path(1));
        for node in [&mut nodes[0], &mut second] {
            node.line("that the peer is up", |line| line == "the only peer is up");
        }
    }
}

/// The first two of three instances, as a cluster of their own.
fn pair(folder: &Path) -> Vec<Config> {
    let mut configs = Config::three(folder);
    configs.truncate(2);
    for config in &mut configs {
        config.members.truncate(2);
        config.peers.retain(|(id, _)| *id < 2);
    }
    configs
}

/// Starts two instances that differ as `differ` makes them: both complain with `words`, and one ends
/// with them.
fn one_of_a_pair_ends(words: [&'static str; 3], differ: fn(&Path, &mut [Config])) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = pair(folder.path());
    differ(folder.path(), &mut configs);
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = (0..2).map(|at| configs[at].run(&path(at))).collect();
    for node in &mut nodes {
        node.complaint("word of the other", |line| words[..2].iter().all(|w| line.contains(w)));
    }
    wait_for("the end of one", || nodes.iter_mut().any(|node| !node.is_running()));
    let ended = nodes.into_iter().find_map(|mut node| (!node.is_running()).then(|| node.end()));
    let ended = ended.expect("one of the two");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let told = ended.stderr.lines().last().expect("a last line");
    assert_tells(told, &["pagewire: "]);
    assert_tells(told, &words);
}

// ---- strangers -----------------------------------------------------------------------------------

/// The hello that instance 1 of the cluster would send to `to`.
fn hello(to: u16) -> Hello {
    Hello {
        shard: 0,
        shards: 1,
        class: LaneClass::Small,
        refusal: None,
        cluster: ClusterId(CLUSTER),
        instance: InstanceId(1),
        to: InstanceId(to),
        page_size: PageSize::K8,
        storage_mark: 0,
        incarnation: Incarnation(1),
        process: ProcessId(1),
        nonce: LinkNonce(77),
        view_hash: 0,
        view_mark: 0,
        expected: [Sequence(1); Lane::COUNT],
        credits: [0; Lane::COUNT],
        features: Features::NONE,
        pause_max_ms: 0,
    }
}

/// Bytes that no peer sends.
fn garbage() -> Vec<Vec<u8>> {
    let mut source = Random::new(12345);
    let mut random = |bytes: usize| -> Vec<u8> {
        (0..bytes).map(|_| source.next_u64().to_be_bytes()[0]).collect()
    };
    let opening = Dialler::new(false, Nonce([7; 32])).opening();
    let mut all: Vec<_> = [0, 1, 7, 8, 127, 128, 129, 500, 4000, 70_000].map(&mut random).into();
    // Begun like a handshake, cut off or gone on with at random.
    all.extend([1, 7, 8, 9, 20, INTRO_BYTES - 1].map(|end| opening[..end].to_vec()));
    all.extend([8, 12, 16].map(|at| [opening[..at].to_vec(), random(INTRO_BYTES - at)].concat()));
    // A right beginning, and a hello that proves nothing.
    all.push([opening.to_vec(), random(10_000)].concat());
    for at in [8, 10, 12, 13, 14, 15] {
        let mut flipped = opening;
        flipped[at] ^= 0x55;
        all.push(flipped.to_vec());
    }
    all.push(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    all
}

/// Sends `bytes` to `address` and takes what comes back until the other side closes, if it does.
fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    // It may have closed before all is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; INTRO_BYTES + PROVEN_BYTES]);
    stream
}

/// Makes a whole handshake with `address` and says `hello`; what is answered.
fn greet(address: SocketAddr, hello: &Hello) -> Hello {
    let mut stream = TcpStream::connect(address).expect("it accepts");
    let mut dialler = Dialler::new(false, Nonce([9; 32]));
    stream.write_all(&dialler.opening()).expect("sent");
    loop {
        let count = stream.read(dialler.room()).expect("an answer");
        assert!(count > 0, "closed without an answer");
        match dialler.filled(count, ProofKey::NONE).expect("a peer's answer") {
            DiallerStep::More => {}
            DiallerStep::Speak => {
                stream.write_all(&dialler.speak(hello, ProofKey::NONE)).expect("sent");
            }
            DiallerStep::Proven(answer) => return answer,
        }
    }
}

#[test]
fn strangers_at_the_port_disturb_nobody() {
    let mut cluster = Cluster::at_work(64);
    let addresses = cluster.addresses.clone();
    let mut kept = Vec::new();
    for (_, address) in &addresses {
        // Everything right, but the member list: nobody knows it who has not configured it.
        assert_eq!(greet(*address, &hello(0)).refusal.map(Refusal::is_final), Some(true));
        for bytes in garbage() {
            kept.push(send(*address, &bytes));
        }
        // More than may be in their handshake at a time, and none says a word.
        kept.extend((0..80).map(|_| TcpStream::connect(*address).expect("it accepts")));
    }
    cluster.makes_progress();
    drop(kept);
    cluster.makes_progress();
    for agent in &mut cluster.agents {
        assert!(agent.is_running(), "{}", agent.history());
    }
    let files = cluster.finish();
    let verdict = files.verify(3).succeeded().stdout;
    assert!(verdict.ends_with("\nverified\n"), "{verdict}");
}

#[test]
fn an_instance_ends_when_its_coordinator_is_gone() {
    let mut cluster = Cluster::at_work(16);
    let ids: Vec<_> = cluster.agents.iter().map(Process::id).collect();
    cluster.agents.iter_mut().for_each(Process::hang_up);
    for agent in &mut cluster.agents {
        wait_for("its end", || !agent.is_running());
    }
    for (agent, id) in cluster.agents.into_iter().zip(ids) {
        let ended = agent.end();
        assert_eq!(ended.status.code(), Some(1), "process {id}: {ended:?}");
        assert_tells(&ended.stderr, &["the coordinator is gone, stopping"]);
    }
}
