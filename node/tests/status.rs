//! `pagewire status`: what a running node answers, and what is said when there is none, or something
//! else in its place. Nothing of it hangs.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    thread,
};
use support::{
    ledger::Config,
    process::{Ended, Process, wait_for},
};

/// Two instances that know each other; their sockets are beside their files.
struct Pair {
    folder: tempfile::TempDir,
    configs: Vec<Config>,
}

impl Pair {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut configs = Config::three(folder.path());
        configs.truncate(2);
        for config in &mut configs {
            config.members.truncate(2);
            config.peers.retain(|(id, _)| *id < 2);
        }
        Self { folder, configs }
    }

    fn path(&self, at: usize, extension: &str) -> PathBuf {
        self.folder.path().join(at.to_string()).with_extension(extension)
    }

    fn run(&self, at: usize) -> Process {
        let mut node = self.configs[at].run(&self.path(at, "toml"));
        node.line("that it listens", |line| line.contains("listens on"));
        node
    }

    /// Writes the file of an instance that is not started.
    fn write(&self, at: usize) {
        let text = self.configs[at].text_with_socket(&self.path(at, "toml"));
        fs::write(self.path(at, "toml"), text).expect("a configuration");
    }

    fn status(&self, at: usize, arguments: &[&str]) -> Ended {
        let file = self.path(at, "toml");
        let all = ["status".as_ref(), "--config".as_ref(), file.as_os_str()].into_iter();
        Process::pagewire(all.chain(arguments.iter().map(AsRef::as_ref))).end()
    }

    fn refused(&self, at: usize) -> String {
        self.status(at, &[]).refused()
    }
}

/// What is answered to these bytes.
fn answer(path: &Path, question: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("the node listens");
    // A node that has heard enough may have closed.
    let _ = stream.write_all(question);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_running_node_says_what_messages_with_each_peer_go_over_and_why() {
    let mut pair = Pair::new();
    pair.configs[1].more.push_str("transport = \"tcp\"\n");
    let mut nodes: Vec<_> = (0..2).map(|at| pair.run(at)).collect();
    for node in &mut nodes {
        node.line("what messages go over", |line| line.contains("go over TCP: configured"));
    }
    for (at, reasons, none, end) in [
        (0, "tcp_reasons_theirs", "tcp_reasons", "the other's"),
        (1, "tcp_reasons", "tcp_reasons_theirs", "this end's"),
    ] {
        let other = 1 - at;
        let json = pair.status(at, &["--json"]).succeeded().stdout;
        assert_eq!(json.lines().count(), 1, "{json}");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json["instance"], &json["cluster"]), (&at.into(), &Config::CLUSTER.into()));
        assert!(json["incarnation"].as_u64() > Some(0), "{json}");
        assert_eq!(json["transport"], if at == 0 { "auto" } else { "tcp" });
        let listen = pair.configs[at].listen.to_string();
        assert_eq!(json["listen"], serde_json::json!([listen]));
        let [peer] = &json["peers"].as_array().expect("peers")[..] else { panic!("{json}") };
        assert_eq!(peer["instance"], other);
        assert_eq!(peer["links"], serde_json::json!(["tcp"]));
        assert_eq!((&peer["links_up"], &peer["links_down"]), (&1.into(), &0.into()));
        assert!(peer[reasons]["configured"].as_u64() >= Some(1), "{json}");
        assert_eq!(peer[none].get("configured"), None, "{json}");
        for key in ["messages_sent", "messages_received", "page_bytes", "moves_to_verbs"] {
            assert!(peer[key].is_u64(), "{key} in {json}");
        }
        let text = pair.status(at, &[]).succeeded().stdout;
        for words in [
            format!("instance {at} of cluster {}", Config::CLUSTER),
            format!("listens on {listen}"),
            format!("instance {other}: TCP\n  links up 1, down 0"),
            " in all, one for each try of verbs and each fall: ".to_owned(),
            format!("{end} configured "),
        ] {
            assert!(text.contains(&words), "'{words}' in: {text}");
        }
    }
    nodes.remove(1).kill();
    nodes[0].line("that it is gone", |line| line == "instance 1 is gone");
    let text = pair.status(0, &[]).succeeded().stdout;
    let none = text.lines().find(|line| line.starts_with("instance 1: no link: "));
    let none = none.unwrap_or_else(|| panic!("{text}"));
    assert!(none.ends_with(" s ago"), "{none}");
    assert!(text.contains("\n  links up 1, down 1"), "{text}");
}

#[test]
fn a_peer_that_was_started_again_is_told_as_over_and_its_partitions_as_of_no_use() {
    let pair = Pair::new();
    let mut nodes: Vec<_> = (0..2).map(|at| pair.run(at)).collect();
    nodes[0].line("its peer", |line| line.contains("peer is up"));
    nodes.remove(1).kill();
    nodes[0].line("that it is gone", |line| line == "instance 1 is gone");
    let text = || pair.status(0, &[]).succeeded().stdout;
    let not_granted = "  requests for pages in its partitions are not granted until ";
    let told = text();
    assert!(told.contains(&format!("{not_granted}there is a link with it again\n")), "{told}");
    let again = pair.configs[1].run(&pair.path(1, "toml")).end();
    assert!(again.stderr.contains("start them together"), "{again:?}");
    let over = "instance 1: no link: instance 1 was started again, as incarnation ";
    wait_for("word of it", || text().contains(over));
    let told = text();
    let line = told.lines().find(|line| line.starts_with(over)).expect("there is one");
    assert!(line.ends_with("stop all instances and start them together"), "no old reason: {line}");
    let until = format!("{not_granted}all instances are stopped and started together\n");
    assert!(told.contains(&until), "{told}");
    let json = pair.status(0, &["--json"]).succeeded().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["peers"][0]["no_link"]["is_final"], true, "{json}");
    assert!(json["members"][1]["problem"].is_string(), "{json}");
    assert!(json["members"][0]["problem"].is_null(), "{json}");

    // Pages of both: the own ones can be asked about, the others cannot.
    let file = pair.path(0, "toml");
    let page = |block: u32| {
        let tag = format!("1663/5/16384:{block}");
        let arguments = ["page".as_ref(), tag.as_ref(), "--config".as_ref(), file.as_os_str()];
        Process::pagewire(arguments).end().refused()
    };
    let told: Vec<_> = (0..20).map(page).collect();
    let own = told.iter().find(|told| told.contains("no entry of page"));
    let other = told.iter().find(|told| told.contains("which instance 1 masters"));
    let (Some(_), Some(other)) = (own, other) else { panic!("{told:?}") };
    for words in ["instance 1 was started again", "not granted until all instances are stopped"] {
        assert!(other.contains(words), "'{words}' in: {other}");
    }
}

#[test]
fn a_peer_that_cannot_be_reached_is_told_with_the_reason_and_the_number_of_tries() {
    let pair = Pair::new();
    let mut node = pair.run(0);
    let at = format!("asks at {}", pair.path(0, "sock").display());
    node.line("where it can be asked", |line| {
        line.starts_with("`pagewire status") && line.ends_with(&at)
    });
    let text = || pair.status(0, &[]).succeeded().stdout;
    let refused = "instance 1: no link: nobody listens there (connection refused), tried ";
    wait_for("a try that was refused", || text().contains(refused));
    let json = pair.status(0, &["--json"]).succeeded().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let no_link = &json["peers"][0]["no_link"];
    assert!(no_link["tries"].as_u64() > Some(0) && no_link["last_s"].is_u64(), "{json}");
    assert!(no_link["reason"].as_str().is_some_and(|why| why.contains("refused")), "{json}");
    // The log has it as well, once it has gone on for a while.
    let address = pair.configs[1].listen;
    let line = node.complaint("word of it", |line| line.contains("no link with instance 1"));
    for words in [&address.to_string(), "nobody listens there", "times in", "mend its address"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
    let _peer = pair.run(1);
    node.line("that it is up", |line| line == "instance 1 is up");
    assert!(text().contains("instance 1: TCP\n"), "{}", text());
    let again = node.history().matches("no link with instance 1").count();
    // It was noted when it was waited for.
    assert_eq!(again, 1, "{}", node.history());
}

#[test]
fn shards_are_told_apart_and_added_up() {
    let mut pair = Pair::new();
    pair.configs.iter_mut().for_each(|config| config.more.push_str("shards = 2\n"));
    let mut nodes: Vec<_> = (0..2).map(|at| pair.run(at)).collect();
    for node in &mut nodes {
        node.line("that the peer is up", |line| line == "the only peer is up");
    }
    let json = pair.status(0, &["--json"]).succeeded().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["listen"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["peers"][0]["links"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["peers"][0]["links_up"], 2);
}

#[test]
fn the_socket_is_its_users_alone_and_a_node_that_was_killed_leaves_one_that_is_replaced() {
    let pair = Pair::new();
    let socket = pair.path(0, "sock");
    let mut node = pair.run(0);
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let inode = fs::metadata(&socket).expect("a socket").ino();
    let beside: Vec<_> = fs::read_dir(pair.folder.path()).expect("a folder").collect();
    node.kill();
    let line = pair.refused(0);
    for words in ["no node answers", "a socket that nobody listens on", "expected instance 0 of"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
    let _again = pair.run(0);
    assert_ne!(fs::metadata(&socket).expect("a socket").ino(), inode);
    let text = pair.status(0, &[]).succeeded().stdout;
    assert!(text.starts_with("instance 0 of cluster"), "{text}");
    let now = fs::read_dir(pair.folder.path()).expect("a folder").count();
    assert_eq!(now, beside.len(), "nothing is left beside it");
}

#[test]
fn a_node_that_a_signal_ends_takes_its_socket_with_it_and_no_other() {
    let pair = Pair::new();
    let socket = pair.path(0, "sock");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let node = pair.run(0);
        assert!(pair.status(0, &[]).succeeded().stdout.starts_with("instance 0"));
        assert!(socket.exists());
        let ended = signalled(node, signal);
        assert_eq!(ended.status.signal(), Some(signal.as_raw()), "as without a handler");
        assert!(!socket.exists(), "{signal:?}");
    }
    // What somebody else has put in its place is theirs.
    let node = pair.run(0);
    fs::remove_file(&socket).expect("removed");
    let _other = UnixListener::bind(&socket).expect("a socket");
    signalled(node, Signal::TERM);
    assert!(socket.exists());
}

fn signalled(node: Process, signal: Signal) -> Ended {
    let id = i32::try_from(node.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(id, signal).expect("it runs");
    node.end()
}

#[test]
fn without_a_node_the_places_that_were_looked_at_are_told_in_one_line() {
    let pair = Pair::new();
    pair.write(0);
    let line = pair.refused(0);
    for words in ["found nothing at", ".sock", "pagewire node --config FILE"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
    // In the usual places, where no instance of this cluster is.
    let config = Config { cluster: u64::MAX - 5, ..pair.configs[0].clone() };
    fs::write(pair.path(0, "toml"), config.text()).expect("a configuration");
    let mut command = Process::command([
        "status".as_ref(),
        "--config".as_ref(),
        pair.path(0, "toml").as_os_str(),
    ]);
    command.env("XDG_RUNTIME_DIR", pair.folder.path()).env("TMPDIR", "/nowhere");
    let line = Process::start(&mut command).end().refused();
    assert!(line.contains("no node answers") && line.contains("cluster 18446744073709551610"));
    assert!(line.contains("none of the usual places") || line.contains("found nothing"), "{line}");
}

#[test]
fn a_node_without_a_configured_socket_is_found_where_the_environment_says() {
    let pair = Pair::new();
    let file = pair.path(0, "toml");
    let config = Config { members: vec![0], peers: Vec::new(), ..pair.configs[0].clone() };
    fs::write(&file, config.text()).expect("a configuration");
    // Not the storage folder, where there is a folder of that name for its marks.
    let runtime = pair.folder.path().join("runtime");
    fs::create_dir(&runtime).expect("a folder");
    let run = |command: &str| {
        let arguments = [command.as_ref(), "--config".as_ref(), file.as_os_str()];
        let mut command = Process::command(arguments);
        Process::start(command.env("XDG_RUNTIME_DIR", &runtime))
    };
    let mut node = run("node");
    node.line("that it listens", |line| line.contains("listens on"));
    let socket = runtime.join(format!("pagewire/{}-0.sock", Config::CLUSTER));
    assert!(socket.exists());
    let folder = fs::metadata(socket.parent().expect("a folder")).expect("a folder");
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let Ended { stdout, .. } = run("status").end().succeeded();
    assert!(stdout.contains("no peers"), "{stdout}");
    // Another one of the same name has no place of its own, and runs all the same.
    let more = Config { listen: support::ledger::own_address(), ..config.clone() };
    fs::write(&file, more.text_with_ring(&pair.path(0, "other"))).expect("a configuration");
    let mut second = run("node");
    second.complaint("word of the place", |line| line.contains("another process listens there"));
    second.line("that it listens", |line| line.contains("listens on"));
    assert!(node.is_running() && second.is_running());
}

#[test]
fn what_is_in_the_place_of_a_socket_is_left_alone_and_named() {
    let pair = Pair::new();
    pair.write(0);
    let socket = pair.path(0, "sock");
    let start = || {
        let file = pair.path(0, "toml");
        Process::pagewire(["node".as_ref(), "--config".as_ref(), file.as_os_str()]).end()
    };
    fs::write(&socket, "precious").expect("a file");
    for line in [pair.refused(0), start().refused()] {
        assert!(line.contains("is a regular file, expected the socket"), "{line}");
    }
    assert_eq!(fs::read(&socket).expect("still there"), b"precious");
    fs::remove_file(&socket).expect("removed");
    fs::create_dir(&socket).expect("a folder");
    for line in [pair.refused(0), start().refused()] {
        assert!(line.contains("is a directory, expected the socket"), "{line}");
    }
    fs::remove_dir(&socket).expect("removed");
    let _other = UnixListener::bind(&socket).expect("a socket");
    let line = start().refused();
    assert!(line.contains("another process listens there"), "{line}");
}

#[test]
fn whoever_listens_there_and_is_no_node_of_that_name_is_told_in_one_line() {
    let pair = Pair::new();
    pair.write(0);
    let listener = UnixListener::bind(pair.path(0, "sock")).expect("a socket");
    let cases: [(&[u8], &str); 6] = [
        (b"220 mail.example ESMTP\r\n", "220 mail.example ESMTP"),
        (b"", "answered nothing"),
        (b"{}\n", "JSON without an answer"),
        (b"{\"answer\":{\"instance\":0}}\n", "JSON without cluster and instance"),
        (b"{\"answer\":{\"instance\":5,\"cluster\":9}}\n", "instance 5 of cluster 9 listens on"),
        (b"{\"error\":\"not today\"}\n", "the node refuses: not today"),
    ];
    for (said, words) in cases {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("somebody asks");
                let _ = stream.read(&mut [0; 100]);
                let _ = stream.write_all(said);
            });
            let line = pair.refused(0);
            assert!(line.contains(words), "'{words}' in: {line}");
        });
    }
}

#[test]
fn garbage_is_answered_with_what_was_expected_and_the_next_one_is_served() {
    let pair = Pair::new();
    let mut node = pair.run(0);
    let socket = pair.path(0, "sock");
    let long = vec![b'x'; 1 << 20];
    let endless = [b"{\"query\":".as_slice(), &vec![b'['; 4000]].concat();
    for (question, words) in [
        (&b"\n"[..], "found nothing"),
        (b"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1"),
        (b"\xFF\xFE\x00\x01\n", "expected one line of JSON"),
        (b"{\"query\":\"book\"}\n", "expected one of: status, page"),
        (b"{\"query\":\"page\",\"tag\":\"1/2/3\"}\n", "'1/2/3' is no page"),
        (b"{\"query\":null}\n", "no field `query`"),
        (&endless, "found no whole line"),
        (b"{\"query\":\"status\"", "found no whole line"),
    ] {
        let answer = answer(&socket, question);
        assert!(answer.starts_with("{\"error\":"), "{answer}");
        assert!(answer.contains(words), "'{words}' in: {answer}");
        assert_eq!(answer.lines().count(), 1, "{answer}");
    }
    // Of what is too long nobody can be sure that the answer arrives: the rest is not read.
    let told = answer(&socket, &long);
    assert!(told.is_empty() || told.contains("no end of line in 4096 bytes"), "{told}");
    // One that says nothing and one that goes away keep nobody for long.
    let silent = UnixStream::connect(&socket).expect("the node listens");
    drop(UnixStream::connect(&socket).expect("the node listens"));
    let text = pair.status(0, &[]).succeeded().stdout;
    assert!(text.contains("instance 1: no link"), "{text}");
    drop(silent);
    let good = answer(&socket, b"{\"query\":\"status\"}\n");
    assert!(good.starts_with("{\"answer\":{"), "{good}");
    assert!(node.is_running(), "{}", node.history());
    wait_for("nothing more", || true);
}

#[test]
fn a_path_that_cannot_be_a_socket_is_refused_before_anything_starts() {
    let pair = Pair::new();
    let file = pair.path(0, "toml");
    let long = format!("/{}", "x".repeat(96));
    for (socket, words) in [
        ("relative.sock", "status_socket is \"relative.sock\", expected an absolute path"),
        (long.as_str(), "at most 96 bytes"),
        ("/nowhere/to/be/found.sock", "make the folder"),
    ] {
        let mut config = pair.configs[0].clone();
        config.more.push_str(&format!("status_socket = {socket:?}\n"));
        fs::write(&file, config.text()).expect("a configuration");
        let node = ["node".as_ref(), "--config".as_ref(), file.as_os_str()];
        let line = Process::pagewire(node).end();
        assert_eq!(line.status.code(), Some(1));
        let line = line.stderr;
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(words), "'{words}' in: {line}");
    }
}

#[test]
fn connections_that_were_turned_away_are_counted_beyond_the_lines_of_the_log() {
    let mut pair = Pair::new();
    pair.configs[0].members = vec![0];
    pair.configs[0].peers.clear();
    let node = pair.run(0);
    // More than a second has lines for in the log.
    for _ in 0..30 {
        let mut stranger = TcpStream::connect(pair.configs[0].listen).expect("it listens");
        stranger.write_all(&[b'x'; 64]).expect("room in the socket");
        // Until the node has closed it.
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    let json = pair.status(0, &["--json"]).succeeded().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let counted = &json["connections"];
    assert_eq!((&counted["accepted"], &counted["not_a_hello"]), (&30.into(), &30.into()), "{json}");
    let text = pair.status(0, &[]).succeeded().stdout;
    let words = "connections accepted 30, turned away 30 (no handshake 30)\n";
    assert!(text.contains(words), "{text}");
    drop(node);
}

#[test]
fn the_members_of_a_cluster_are_told_with_what_each_has() {
    let pair = Pair::new();
    let _nodes: Vec<_> = (0..2)
        .map(|at| {
            let mut node = pair.run(at);
            node.skip_told();
            node
        })
        .collect();
    let all_answer = || {
        let json = pair.status(0, &["--json"]).succeeded().stdout;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["view"], 1, "{json}");
        let members = json["members"].as_array().expect("members").clone();
        let answers = members.iter().all(|member| member["counts"].is_object());
        (answers, members)
    };
    wait_for("both members", || all_answer().0);
    let (_, members) = all_answer();
    assert_eq!(members.len(), 2);
    let partitions = members.iter().map(|member| member["partitions"].as_u64().expect("a number"));
    assert_eq!(partitions.sum::<u64>(), 4096);
    for field in ["entries", "loading", "shared", "exclusive", "dirty", "past_images", "requests"] {
        assert_eq!(members[1]["counts"][field], 0, "{members:?}");
    }
    let text = pair.status(0, &[]).succeeded().stdout;
    assert!(text.contains("view 1, 2 members\nmember 0 (this one): masters "), "{text}");
    assert!(text.contains("  pages S 0, X 0, dirty 0, past images 0; requests 0\n"), "{text}");
}

#[test]
fn a_page_that_nobody_has_and_what_is_no_page_are_told_in_one_line() {
    let pair = Pair::new();
    let page = |at: usize, tag: &str| {
        let file = pair.path(at, "toml");
        let arguments = ["page".as_ref(), tag.as_ref(), "--config".as_ref(), file.as_os_str()];
        Process::pagewire(arguments).end()
    };
    pair.write(0);
    let told = page(0, "1663/5/16384:3").refused();
    assert!(told.contains("no node answers"), "{told}");
    let ended = page(0, "1663/5/16384");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("'1663/5/16384' is no page, expected TABLESPACE"), "{ended:?}");
    let mut nodes: Vec<_> = (0..2).map(|at| pair.run(at)).collect();
    for node in &mut nodes {
        node.line("its peer", |line| line.contains("peer is up"));
    }
    let told = page(0, "1663/5/16384_vm:3").refused();
    assert!(told.contains("no entry of page 1663/5/16384_vm:3"), "{told}");
}
