//! `serve` and `connect`, over loopback and between two network namespaces.

mod netns;

use netns::Netns;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

const BENCH: &str = env!("CARGO_BIN_EXE_pagewire-bench");
/// Longest wait for anything; reached only when something is broken.
const LIMIT: Duration = Duration::from_secs(120);
const FEW: [&str; 5] = ["--rounds", "2", "--frames", "3", "--json"];

/// Ends that spin share cores: one benchmark at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that goes with the value, and the lines it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (to, lines) = mpsc::channel();
        let output = child.stdout.take().expect("piped");
        let errors = child.stderr.take().expect("piped");
        for source in [Box::new(output) as Box<dyn Read + Send>, Box::new(errors)] {
            let to = to.clone();
            thread::spawn(move || {
                for line in BufReader::new(source).lines().map_while(Result::ok) {
                    let _ = to.send(line);
                }
            });
        }
        Self { child, lines }
    }

    /// The next line that begins with `start`; what follows it.
    fn line(&self, start: &str) -> String {
        let mut before = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| {
                panic!("no line that begins with {start:?}, only {before:?}");
            });
            match line.strip_prefix(start) {
                Some(rest) => return rest.into(),
                None => before.push(line),
            }
        }
    }

    /// All lines to the end, and whether it ended well.
    fn end(mut self) -> (bool, String) {
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => text += &(line + "\n"),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end: {text}"),
            }
        }
        (self.child.wait().expect("it was started").success(), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server on loopback and where it listens.
fn server(clients: &str) -> (Running, String) {
    let args = ["serve", "--listen", "127.0.0.1:0", "--clients", clients];
    let server = Running::start(Command::new(BENCH).args(args));
    let address = server.line("listening on ");
    (server, address)
}

fn connect(address: &str, args: &[&str]) -> (bool, String) {
    Running::start(Command::new(BENCH).args(["connect", address]).args(args)).end()
}

fn json((success, text): (bool, String)) -> Value {
    assert!(success, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn check_latency(output: (bool, String), request: u32, reply: u32) {
    let json = json(output);
    assert_eq!((&json["request"], &json["reply"]), (&request.into(), &reply.into()));
    assert_eq!(json["sleep"], false);
    for leg in ["ours", "bare", "plain"] {
        assert_eq!(json[leg]["samples"], 100, "{json}");
        assert!(json[leg]["p50_us"].as_f64().unwrap() > 0.0, "{json}");
    }
    assert!(json["ratio_p50"].as_f64().unwrap() > 0.0 && json["control"].as_f64().is_some());
}

fn check_rate(output: (bool, String), size: u32) {
    let json = json(output);
    assert_eq!((&json["size"], &json["rounds"]), (&size.into(), &2.into()));
    for leg in ["ours", "bare", "bare_batched"] {
        let figure = |key: &str| json[leg][key].as_f64().unwrap();
        let bytes = figure("bytes_per_s") / figure("messages_per_s");
        // Both are rounded, which is much of a rate on a host that has little time for it.
        assert!((bytes / f64::from(size) - 1.0).abs() < 1e-2, "{json}");
    }
    assert!(json["ratio"].as_f64().unwrap() > 0.0 && json["control"].as_f64().is_some());
}

#[test]
fn latency_and_rate_run_between_two_processes_one_client_after_the_other() {
    let _alone = alone();
    let (server, address) = server("4");
    for (request, reply) in [(64, 64), (64, 8192), (8192, 8192)] {
        let sizes = [request.to_string(), reply.to_string()];
        let args = ["--request", &sizes[0], "--reply", &sizes[1], "--samples-per-round", "50"];
        check_latency(connect(&address, &[&args[..], &FEW].concat()), request, reply);
    }
    let args = ["--rate", "--size", "8192", "--messages-per-round", "500"];
    check_rate(connect(&address, &[&args[..], &FEW].concat()), 8192);
    let (success, text) = server.end();
    assert!(success && text.matches("served").count() == 4, "{text}");
}

#[test]
fn two_clients_at_once_are_served_one_after_the_other() {
    let _alone = alone();
    let (server, address) = server("2");
    let args = ["--rate", "--messages-per-round", "2000"];
    let args = [&["connect", &address], &args[..], &FEW].concat();
    let clients = [0, 1].map(|_| Running::start(Command::new(BENCH).args(&args)));
    for client in clients {
        let (success, text) = client.end();
        let json = text.lines().last().unwrap_or_default();
        check_rate((success, json.into()), 64);
    }
    assert!(server.end().0);
}

#[test]
fn latency_and_rate_run_between_two_hosts() {
    let _alone = alone();
    let Some([here, there]) = Netns::pair() else { return };
    let listen = format!("{}:0", there.address());
    let args = ["serve", "--listen", &listen, "--clients", "3"];
    let server = Running::start(there.command(BENCH).args(args));
    let address = server.line("listening on ");
    let client = |args: &[&str]| {
        Running::start(here.command(BENCH).args(["connect", &address]).args(args).args(FEW)).end()
    };
    check_latency(client(&["--reply", "8192", "--samples-per-round", "50"]), 64, 8192);
    check_rate(client(&["--rate", "--messages-per-round", "2000"]), 64);
    check_rate(client(&["--rate", "--messages-per-round", "500", "--size", "8192"]), 8192);
    assert!(server.end().0);
    // Nobody listens there any longer; the packet has to come as far as that host to be refused.
    let (success, text) = client(&[]);
    assert!(!success && text.contains("refused"), "{text}");
}

#[test]
fn a_namespace_goes_with_its_value_also_in_a_panic() {
    let names = || {
        let listed = Command::new("ip").args(["netns", "list"]).output();
        listed.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
    };
    let (tell, told) = mpsc::channel();
    let panicked = thread::spawn(move || {
        if let Some([a, _b]) = Netns::pair() {
            tell.send(format!("{a:?}")).unwrap();
            panic!("as a failed assertion would");
        }
    });
    let Ok(made) = told.recv() else { return panicked.join().unwrap() };
    assert!(panicked.join().is_err());
    let name = made.split('"').nth(1).expect("a name in its debug form");
    assert!(name.starts_with("pagewire-"), "{made}");
    assert!(!names().contains(name), "{made} is still there");
}

/// What the server says to `line`, and then whether it closes.
fn ask(address: &str, line: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(line).unwrap();
    let mut said = String::new();
    // A reset, because it did not read everything, is an end too.
    let _ = stream.read_to_string(&mut said);
    said
}

#[test]
fn a_stranger_or_another_version_is_told_so_and_the_next_client_is_served() {
    let _alone = alone();
    let (server, address) = server("6");
    let text = ask(&address, b"{\"say\":\"hello\",\"version\":9}\n");
    assert!(text.contains("version 9") && text.contains("expected version 1"), "{text}");
    let text = ask(&address, b"{\"say\":\"end\"}\n");
    assert!(text.contains("no version") && text.contains("same build"), "{text}");
    let text = ask(&address, b"{\"say\":\"hello\",\"version\":1,\"benchmark\":{}}\n");
    assert!(text.contains("does not understand"), "{text}");
    let text = ask(&address, b"GET / HTTP/1.1\r\n\r\n");
    assert!(text.contains("no pagewire-bench"), "{text}");
    // A line without an end.
    ask(&address, &[b'x'; 100_000]);
    let args = ["--rate", "--messages-per-round", "500"];
    check_rate(connect(&address, &[&args[..], &FEW].concat()), 64);
    let (success, text) = server.end();
    assert!(success && text.matches("pagewire-bench: client").count() == 5, "{text}");
}

/// What a client says to a server that answers its hello with `answer`.
fn client_of(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (&stream).write_all(answer).unwrap();
        line
    });
    let (success, text) = connect(&address, &["--rounds", "1"]);
    assert!(!success && text.lines().count() == 1, "{text}");
    assert!(server.join().unwrap().contains(r#""say":"hello""#));
    text
}

#[test]
fn a_server_that_is_none_is_named() {
    let _alone = alone();
    let text = client_of(b"SSH-2.0-OpenSSH\r\n");
    assert!(text.contains("no pagewire-bench") && text.contains("SSH-2.0"), "{text}");
    let text = client_of(b"{\"say\":\"welcome\"}\n");
    assert!(text.contains("same build on both hosts"), "{text}");
    let text = client_of(b"{\"say\":\"error\",\"text\":\"expected version 7\"}\n");
    assert!(text.contains("the other host reports: expected version 7"), "{text}");
    let text = client_of(b"{\"say\":\"turned\",\"leg\":1}\n");
    assert!(text.contains("expected ready"), "{text}");
    let text = client_of(b"");
    assert!(text.contains("closed the control connection"), "{text}");
    // A port where nobody accepts any longer.
    let text = client_of(b"{\"say\":\"ready\",\"endpoint_port\":1,\"bare_port\":1}\n");
    assert!(text.contains("cannot be reached"), "{text}");
}

#[test]
fn a_connection_that_is_refused_says_what_to_run_there() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (success, text) = connect(&free.to_string(), &[]);
    assert!(!success && text.lines().count() == 1, "{text}");
    assert!(text.contains("refused") && text.contains("pagewire-bench serve"), "{text}");
}

#[test]
fn a_client_that_is_killed_leaves_the_server_to_the_next_one() {
    let _alone = alone();
    let (server, address) = server("2");
    let endless = ["connect", &address, "--rounds", "100000"];
    let client = Running::start(Command::new(BENCH).args(endless));
    server.line("serving ");
    drop(client);
    let args = ["--rate", "--messages-per-round", "500"];
    let (success, text) = connect(&address, &[&args[..], &FEW].concat());
    check_rate((success, text.lines().last().unwrap_or_default().into()), 64);
    let (success, text) = server.end();
    assert!(success && text.contains("pagewire-bench: client"), "{text}");
}

#[test]
fn a_server_that_is_killed_ends_its_client_with_one_line() {
    let _alone = alone();
    let (server, address) = server("1");
    let endless = ["connect", &address, "--rounds", "100000"];
    let client = Running::start(Command::new(BENCH).args(endless));
    server.line("serving ");
    drop(server);
    let (success, text) = client.end();
    assert!(!success && text.lines().count() == 1, "{text}");
    assert!(text.starts_with("pagewire-bench: "), "{text}");
}

fn refused(args: &[&str]) -> String {
    let Output { status, stderr, .. } = Command::new(BENCH).args(args).output().unwrap();
    assert!(!status.success());
    String::from_utf8_lossy(&stderr).into_owned()
}

#[test]
fn wrong_arguments_are_refused_with_what_was_expected() {
    assert!(refused(&["connect"]).contains("<HOST:PORT>"));
    assert!(refused(&["connect", "x:1", "--size", "64"]).contains("--rate"));
    assert!(refused(&["connect", "x:1", "--rate", "--request", "64"]).contains("--request"));
    assert!(refused(&["connect", "x:1", "--rate", "--size", "4096"]).contains("8 to 80"));
    assert!(refused(&["connect", "127.0.0.1:99999"]).contains("no HOST:PORT"));
    assert!(refused(&["serve", "--listen", "nowhere"]).contains("nowhere"));
    assert!(refused(&["serve", "--clients", "0"]).contains("--clients"));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let text = refused(&["serve", "--listen", &taken.local_addr().unwrap().to_string()]);
    assert!(text.contains("cannot listen") && text.contains("--listen"), "{text}");
}
