//! A peer that is a process of its own, so that it can be killed and stopped: this very test program,
//! started again with one test chosen and its [`Order`] in the environment.
//!
//! ```text
//!   parent                                     peer
//!   tell("load" | "quiet")  -- stdin ------->  sends on all lanes, or no more; checks what it gets
//!   wait_line("down")       <- stdout -------  up, down, linked, ended, quiet
//!   wait_turn()             <- stdout -------  turned: a whole turn since it was asked
//!   ledger()                <- a file -------  counts, written before an acknowledgement can leave
//! ```
//! What a peer takes is checked there, message by message: its number is the next of its lane, and
//! all bytes are right. Any fault ends the process, and whoever waits for it learns so.

use super::{
    CREDITS, FRAMES, PATIENCE, arena, assert_is, assert_received, config,
    netns::{self, Lab},
    numbered,
};
use pagewire_protocol::{Incarnation, InstanceId, Lane};
use pagewire_transport::{Endpoint, EndpointConfig, Event, Message, SendError};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;

/// The test that a second process runs.
const PEER_TEST: &str = "peer_process";
const ORDER: &str = "PAGEWIRE_TEST_PEER";
/// What begins each line for the parent; the test harness writes to stdout as well.
const MARK: &str = "peer: ";
/// The order to tell when a turn is over, and what the peer says then.
const TURN: &str = "turn";
const TURNED: &str = "turned";

type PerLane = [u64; Lane::COUNT];

/// Counts of a peer, as it wrote them last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ledger {
    /// Number of the last message taken, and of the last one sent, by lane.
    pub(crate) got: PerLane,
    pub(crate) sent: PerLane,
    pub(crate) sent_again: u64,
    pub(crate) no_credit: u64,
    pub(crate) links_up: u64,
    pub(crate) bad_input: u64,
    pub(crate) free_frames: u64,
}

const LEDGER_NUMBERS: usize = 2 * Lane::COUNT + 5;

impl Ledger {
    fn to_bytes(self) -> Vec<u8> {
        let others =
            [self.sent_again, self.no_credit, self.links_up, self.bad_input, self.free_frames];
        let numbers = self.got.into_iter().chain(self.sent).chain(others);
        numbers.flat_map(u64::to_le_bytes).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut numbers = bytes.chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap()));
        let mut next = || numbers.next().unwrap();
        Self {
            got: [(); Lane::COUNT].map(|()| next()),
            sent: [(); Lane::COUNT].map(|()| next()),
            sent_again: next(),
            no_credit: next(),
            links_up: next(),
            bad_input: next(),
            free_frames: next(),
        }
    }
}

// ---- the peer ----------------------------------------------------------------------------------

struct Peer {
    endpoint: Endpoint,
    other: InstanceId,
    loading: bool,
    got: PerLane,
    sent: PerLane,
    ledger: File,
}

/// What the second process does; nothing when this is the first one.
pub(crate) fn run() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let mut peer = Peer::new(&order);
    let (sender, commands) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    loop {
        let mut tell_turn = false;
        match commands.try_recv() {
            Ok(command) if command == TURN => tell_turn = true,
            Ok(command) if command == "load" => peer.loading = true,
            Ok(command) => {
                assert_eq!(command, "quiet");
                peer.loading = false;
                println!("{MARK}quiet");
            }
            Err(TryRecvError::Empty) => {}
            // The parent is done, or gone.
            Err(TryRecvError::Disconnected) => return,
        }
        peer.turn();
        if tell_turn {
            println!("{MARK}{TURNED}");
        }
    }
}

impl Peer {
    fn new(order: &str) -> Self {
        let words: Vec<_> = order.split(' ').collect();
        let [id, incarnation, peer_timeout_ms, expiry_ms, ledger] = words[..] else {
            panic!("{order}")
        };
        let (id, ms) =
            (id.parse::<u16>().unwrap(), |word: &str| Duration::from_millis(word.parse().unwrap()));
        let peer_timeout = ms(peer_timeout_ms);
        let config = EndpointConfig {
            incarnation: Incarnation(incarnation.parse().unwrap()),
            listen: Lab::address(id),
            peer_timeout,
            keepalive: peer_timeout / 5,
            handshake_timeout: Duration::from_secs(1),
            session_expiry: Some(ms(expiry_ms)).filter(|expiry| !expiry.is_zero()),
            ..config(id)
        };
        let mut endpoint = Endpoint::bind(config, arena(FRAMES)).unwrap();
        let other = InstanceId(3 - id);
        endpoint.add_peer(other, Lab::address(other.0)).unwrap();
        let ledger = File::options().write(true).open(ledger).unwrap();
        let (got, sent) = ([0; Lane::COUNT], [0; Lane::COUNT]);
        Self { endpoint, other, loading: false, got, sent, ledger }
    }

    /// Takes all that has come and writes it down before it polls again: what is acknowledged to the
    /// other side is in the ledger by then.
    fn turn(&mut self) {
        self.endpoint.wait(Duration::from_millis(5), || false);
        while let Some(event) = self.endpoint.next_event() {
            self.take(event);
        }
        if self.loading {
            Lane::ALL.into_iter().for_each(|lane| self.send(lane));
        }
        let counters = self.endpoint.peer_counters(self.other).unwrap();
        let of_lanes = |lane: Lane| {
            let lane = counters.lane(lane);
            (lane.sent_again.get(), lane.no_credit.get())
        };
        let ledger = Ledger {
            got: self.got,
            sent: self.sent,
            sent_again: Lane::ALL.into_iter().map(|lane| of_lanes(lane).0).sum(),
            no_credit: Lane::ALL.into_iter().map(|lane| of_lanes(lane).1).sum(),
            links_up: counters.links_up.get(),
            bad_input: self.endpoint.counters().bad_input.get(),
            free_frames: self.endpoint.arena().free_frames().into(),
        };
        self.ledger.write_all_at(&ledger.to_bytes(), 0).unwrap();
    }

    fn send(&mut self, lane: Lane) {
        let sent = &mut self.sent[lane.index()];
        while let Some(message) = numbered(self.endpoint.arena(), lane, *sent + 1) {
            match self.endpoint.send(self.other, lane, message) {
                Ok(()) => *sent += 1,
                Err(SendError::NoCredit(_) | SendError::NoSession(_)) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Message(received) => {
                let got = &mut self.got[received.lane.index()];
                *got += 1;
                assert_received(&received, *got);
            }
            Event::Up { incarnation, .. } => println!("{MARK}up {incarnation}"),
            Event::Linked { .. } => println!("{MARK}linked"),
            Event::Down { reason, .. } => println!("{MARK}down {reason:?}"),
            Event::Ended { incarnation, undelivered, .. } => self.ended(incarnation, &undelivered),
            other => println!("{MARK}other {other:?}"),
        }
    }

    /// What was handed back is the last that was sent on each lane, in order and whole. The next
    /// session is numbered anew.
    fn ended(&mut self, incarnation: Incarnation, undelivered: &[(Lane, Message)]) {
        let mut acknowledged = self.sent;
        for lane in Lane::ALL {
            let of_lane = || undelivered.iter().filter(|(of, _)| *of == lane);
            let before = &mut acknowledged[lane.index()];
            *before -= of_lane().count() as u64;
            for ((_, message), number) in of_lane().zip(*before + 1..) {
                assert_is(message, lane, number);
            }
        }
        let numbers: Vec<_> =
            acknowledged.iter().chain(&self.sent).map(ToString::to_string).collect();
        println!("{MARK}ended {incarnation} {}", numbers.join(" "));
        (self.got, self.sent) = ([0; Lane::COUNT], [0; Lane::COUNT]);
    }
}

// ---- its parent --------------------------------------------------------------------------------

/// How a peer is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) incarnation: u64,
    pub(crate) peer_timeout_ms: u64,
    /// 0: sessions do not expire.
    pub(crate) session_expiry_ms: u64,
}

/// A peer, as its parent sees it. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The answers to [`TURN`], apart from the lines that somebody may still wait for.
    turns: Receiver<()>,
    stopped: bool,
    ledger: NamedTempFile,
}

impl Process {
    /// Starts the peer with the id of its `host`.
    pub(crate) fn start(lab: &Lab, host: u16, order: Order) -> Self {
        let ledger = NamedTempFile::new().unwrap();
        ledger.as_file().write_all_at(&Ledger::default().to_bytes(), 0).unwrap();
        let Order { incarnation, peer_timeout_ms, session_expiry_ms } = order;
        let path = ledger.path().display();
        let mut child = lab
            .command_on(host)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", PEER_TEST, "--nocapture", "--test-threads=1"])
            .env(
                ORDER,
                format!("{host} {incarnation} {peer_timeout_ms} {session_expiry_ms} {path}"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a peer starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let ((told, lines), (turned, turns)) = (channel(), channel());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = match line.split_once(MARK) {
                    Some((_, TURNED)) => turned.send(()).is_ok(),
                    Some((_, line)) => told.send(line.to_owned()).is_ok(),
                    None => true,
                };
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines, turns, stopped: false, ledger }
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").expect("the peer lives");
    }

    /// The next line that is wanted; those before it are dropped.
    pub(crate) fn wait_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => passed.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("waited {PATIENCE:?} in vain until {what}; it said {passed:?}, {:?}", {
                        self.ledger()
                    })
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the peer ended before {what}; it said {passed:?}")
                }
            }
        }
    }

    /// Waits until it has made a whole turn: taken what had come, sent what it could, and written
    /// it down.
    fn wait_turn(&mut self, what: &str) {
        // An error means that it has ended, which the wait finds, too.
        let _ = writeln!(self.stdin.as_mut().unwrap(), "{TURN}");
        if let Err(error) = self.turns.recv_timeout(PATIENCE) {
            let said = self.lines_so_far();
            panic!("the peer makes no turn before {what} ({error}); it said {said:?}");
        }
    }

    /// All that it has said and nobody waited for.
    pub(crate) fn lines_so_far(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let mut bytes = [0; 8 * LEDGER_NUMBERS];
        self.ledger.as_file().read_exact_at(&mut bytes, 0).unwrap();
        Ledger::from_bytes(&bytes)
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// The changing port of each connection that it has, in the order in which they were opened.
    pub(crate) fn connection_ports(&self) -> Vec<u16> {
        const ESTABLISHED: &str = "01";
        let of_process = format!("/proc/{}", self.child.id());
        let table = std::fs::read_to_string(format!("{of_process}/net/tcp")).unwrap();
        let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
        let by_inode: BTreeMap<_, _> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words[3] == ESTABLISHED)
            .filter_map(|words| {
                let ends = [port(words[1])?, port(words[2])?];
                let changing = ends.into_iter().find(|end| *end != netns::PORT)?;
                Some((format!("socket:[{}]", words[9]), changing))
            })
            .collect();
        // The lowest free number is given first.
        let mut files: Vec<(u32, PathBuf)> = std::fs::read_dir(format!("{of_process}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|file| {
                let number = file.file_name().to_str()?.parse().ok()?;
                Some((number, std::fs::read_link(file.path()).ok()?))
            })
            .collect();
        files.sort();
        files.iter().filter_map(|(_, file)| by_inode.get(file.to_str()?).copied()).collect()
    }

    /// Stops it as a debugger does, and waits until it stands still.
    pub(crate) fn stop(&mut self) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::STOP).unwrap();
        // The signal reaches its threads one by one; its parent is told when the last one stands.
        waitid(WaitId::Pid(id), WaitIdOptions::STOPPED).expect("the peer stops");
        self.stopped = true;
    }

    pub(crate) fn go_on(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
        self.stopped = false;
    }

    /// Kills it as `kill -9` does, and returns what it had written down.
    pub(crate) fn kill(mut self) -> Ledger {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ledger()
    }

    fn end(mut self) {
        self.stdin = None;
        // Its output ends with it.
        let deadline = Instant::now() + PATIENCE;
        let next = || self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let last = std::iter::repeat_with(next).find_map(Result::err);
        assert_eq!(last, Some(RecvTimeoutError::Disconnected), "the peer does not end");
        assert!(self.child.wait().unwrap().success(), "the peer found a fault");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until each peer that is not stopped has made a whole turn.
pub(crate) fn wait_turns(peers: &mut [Process; 2], what: &str) {
    peers.iter_mut().filter(|peer| !peer.stopped).for_each(|peer| peer.wait_turn(what));
}

/// Looks at both peers after each turn until `done`.
///
/// # Panics
/// When that takes longer than [`PATIENCE`], or a peer ends.
pub(crate) fn wait_until(
    peers: &mut [Process; 2],
    what: &str,
    mut done: impl FnMut([Ledger; 2]) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    let ledgers = |peers: &[Process; 2]| [peers[0].ledger(), peers[1].ledger()];
    while !done(ledgers(peers)) {
        let said = || peers.each_ref().map(Process::lines_so_far);
        let now = Instant::now();
        assert!(now < deadline, "waited in vain until {what}: {:?} {:?}", ledgers(peers), said());
        wait_turns(peers, what);
    }
}

/// Waits until each peer has got `more` messages on every lane, of those sent from now on too.
pub(crate) fn wait_for_traffic(peers: &mut [Process; 2], more: u64) {
    let before = peers.each_ref().map(|peer| peer.ledger().got);
    let least = u64::from(*CREDITS.0.iter().max().unwrap());
    assert!(more > least, "what was under way already is no proof");
    wait_until(peers, "messages pass on all lanes", |now| {
        (0..2).all(|i| now[i].got.iter().zip(before[i]).all(|(got, before)| *got >= before + more))
    });
}

/// Stops the load and waits until everything that was sent has arrived and every frame is back; then
/// both end. Returns what they wrote down last.
pub(crate) fn finish(mut peers: [Process; 2]) -> [Ledger; 2] {
    for peer in &mut peers {
        peer.tell("quiet");
        peer.wait_line("it is quiet", |line| line == "quiet");
    }
    wait_until(&mut peers, "everything has arrived", |now| {
        now[0].got == now[1].sent && now[1].got == now[0].sent
    });
    let posted = CREDITS.of(Lane::Pages) + CREDITS.of(Lane::Bulk);
    wait_until(&mut peers, "all frames are back", |now| {
        now.iter().all(|ledger| ledger.free_frames == u64::from(FRAMES - posted))
    });
    let ledgers = peers.each_ref().map(Process::ledger);
    peers.into_iter().for_each(Process::end);
    assert_eq!(ledgers.map(|ledger| ledger.bad_input), [0; 2]);
    ledgers
}
