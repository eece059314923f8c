//! One end of a pair under load, for the soft-RoCE lab, whose suites cut its cable and its power and
//! kill it (tests/softroce/guest/peer.sh). Each end is a process of its own, in a guest of its own.
//!
//! ```text
//!   PAGEWIRE_TEST_VERBS_PEER="ID INCARNATION LISTEN PEER PEER-TIMEOUT-MS EXPIRY-MS FOLDER"
//!   FOLDER/status   lines "key value", replaced as a whole after each turn
//!   FOLDER/quiet    when it is there, nothing new is sent
//!   FOLDER/stop     when it is there, the process ends
//! ```
//! It sends numbered messages and pages on all lanes without end, over verbs where it can, and checks
//! that each message that it takes is the next of its lane and whole. Any fault ends it.

mod common;

use common::{FRAMES, arena, assert_is, assert_received, config, numbered};
use pagewire_protocol::{Incarnation, InstanceId, Lane, LinkKind};
use pagewire_transport::{Endpoint, EndpointConfig, Event, Message, SendError};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const ORDER: &str = "PAGEWIRE_TEST_VERBS_PEER";

/// What a suite waits for. Times are those of `/proc/uptime`, in milliseconds; 0 is "never".
#[derive(Debug, Default)]
struct Seen {
    /// Life of the peer that is up, or was last.
    incarnation: u64,
    down_at_ms: u64,
    /// Messages that were handed back when the last session ended, and those that had not been
    /// acknowledged just before.
    handed_back: usize,
    unacknowledged_at_end: usize,
    sessions_ended: u64,
}

struct Peer {
    endpoint: Endpoint,
    other: InstanceId,
    folder: PathBuf,
    /// Of this session, by lane.
    got: [u64; Lane::COUNT],
    sent: [u64; Lane::COUNT],
    unacknowledged: usize,
    quiet: bool,
    on: Option<LinkKind>,
    seen: Seen,
    status: String,
}

/// The end of a pair that its order describes; nothing without one.
#[test]
fn peer_under_load() {
    let Ok(order) = std::env::var(ORDER) else { return };
    // The harness leaves its line open.
    println!();
    let mut peer = Peer::new(&order);
    while !peer.is_told("stop") {
        peer.turn();
    }
}

impl Peer {
    fn new(order: &str) -> Self {
        let words: Vec<_> = order.split(' ').collect();
        let [id, incarnation, listen, address, timeout_ms, expiry_ms, folder] = words[..] else {
            panic!("{ORDER} is {order:?}")
        };
        let id: u16 = id.parse().unwrap();
        let ms = |word: &str| Duration::from_millis(word.parse().unwrap());
        let config = EndpointConfig {
            incarnation: Incarnation(incarnation.parse().unwrap()),
            listen: listen.parse().unwrap(),
            peer_timeout: ms(timeout_ms),
            keepalive: ms(timeout_ms) / 5,
            handshake_timeout: Duration::from_secs(2),
            session_expiry: Some(ms(expiry_ms)),
            ..config(id)
        };
        let mut endpoint = Endpoint::bind(config, arena(FRAMES)).unwrap();
        let other = InstanceId(3 - id);
        endpoint.add_peer(other, address.parse().unwrap()).unwrap();
        Self {
            endpoint,
            other,
            folder: folder.into(),
            got: [0; Lane::COUNT],
            sent: [0; Lane::COUNT],
            unacknowledged: 0,
            quiet: false,
            on: None,
            seen: Seen::default(),
            status: String::new(),
        }
    }

    fn is_told(&self, order: &str) -> bool {
        self.folder.join(order).exists()
    }

    /// Takes all that has come and writes it down before it polls again: what is acknowledged to the
    /// other end is in its status by then.
    fn turn(&mut self) {
        self.endpoint.wait(Duration::from_millis(5), || false);
        while let Some(event) = self.endpoint.next_event() {
            self.take(event);
        }
        self.quiet = self.is_told("quiet");
        if !self.quiet {
            Lane::ALL.into_iter().for_each(|lane| self.send(lane));
        }
        self.unacknowledged = self.endpoint.unacknowledged(self.other);
        self.write_status();
    }

    fn send(&mut self, lane: Lane) {
        let sent = &mut self.sent[lane.index()];
        // Credits end it.
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
                return;
            }
            Event::Up { incarnation, .. } => self.seen.incarnation = incarnation.0,
            Event::Down { .. } => self.seen.down_at_ms = uptime_ms(),
            Event::Ended { ref undelivered, .. } => self.ended(undelivered),
            _ => {}
        }
        self.say(&in_words(&event));
    }

    /// With its name, which is that of its folder, because several write to one log.
    fn say(&self, what: &str) {
        let name = self.folder.file_name().unwrap().display();
        println!("{name} at {} ms: {what}", uptime_ms());
    }

    /// What is handed back is the last that was sent on each lane, in order and whole. The next
    /// session is numbered anew.
    fn ended(&mut self, undelivered: &[(Lane, Message)]) {
        for lane in Lane::ALL {
            let of_lane = || undelivered.iter().filter(|(of, _)| *of == lane);
            let acknowledged = self.sent[lane.index()] - of_lane().count() as u64;
            for ((_, message), number) in of_lane().zip(acknowledged + 1..) {
                assert_is(message, lane, number);
            }
        }
        self.seen.handed_back = undelivered.len();
        self.seen.unacknowledged_at_end = self.unacknowledged;
        self.seen.sessions_ended += 1;
        (self.got, self.sent) = ([0; Lane::COUNT], [0; Lane::COUNT]);
    }

    fn write_status(&mut self) {
        let counters = self.endpoint.peer_counters(self.other).unwrap();
        if self.on != counters.on() {
            self.say(&format!("messages are on {:?}, were on {:?}", counters.on(), self.on));
            self.on = counters.on();
        }
        let on = match self.on {
            None => "nothing",
            Some(LinkKind::Verbs) => "verbs",
            Some(_) => "tcp",
        };
        let of_lanes = |count: fn(&pagewire_transport::counters::LaneCounters) -> u64| {
            counters.lanes.iter().map(count).sum::<u64>()
        };
        let mut text = format!("on {on}\n");
        let numbers = [
            ("quiet", self.quiet.into()),
            ("incarnation", self.seen.incarnation),
            ("sent", self.sent.iter().sum()),
            ("pages_sent", self.sent[Lane::Pages.index()] + self.sent[Lane::Bulk.index()]),
            ("got", self.got.iter().sum()),
            // The slowest lane: all of them move.
            ("got_least", self.got.iter().copied().min().unwrap_or(0)),
            ("unacknowledged", self.unacknowledged as u64),
            ("sent_again", of_lanes(|lane| lane.sent_again.get())),
            ("links_up", counters.links_up.get()),
            ("links_down", counters.links_down.get()),
            ("moves_to_verbs", counters.moves_to_verbs.get()),
            ("falls_to_tcp", counters.falls_to_tcp.get()),
            ("down_at_ms", self.seen.down_at_ms),
            ("sessions_ended", self.seen.sessions_ended),
            ("handed_back", self.seen.handed_back as u64),
            ("unacknowledged_at_end", self.seen.unacknowledged_at_end as u64),
            ("bad_input", self.endpoint.counters().bad_input.get()),
            ("free_frames", self.endpoint.arena().free_frames().into()),
            ("frames", self.endpoint.arena().frames().into()),
        ];
        for (key, value) in numbers {
            let _ = writeln!(text, "{key} {value}");
        }
        if text != self.status {
            replace(&self.folder.join("status"), &text);
            self.status = text;
        }
    }
}

/// Readers see the former text or this one.
fn replace(path: &Path, text: &str) {
    let part = path.with_extension("new");
    fs::write(&part, text).unwrap();
    fs::rename(&part, path).unwrap();
}

/// Without the messages that an end of a session hands back.
fn in_words(event: &Event) -> String {
    match event {
        Event::Ended { peer, incarnation, undelivered } => {
            format!("Ended {peer} {incarnation}, {} handed back", undelivered.len())
        }
        other => format!("{other:?}"),
    }
}

fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap()
}
