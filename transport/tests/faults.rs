//! What happens to networks and hosts: cuts of both kinds, death, and silence, between processes in
//! network namespaces, with all lanes loaded in both directions. Each peer checks each message that
//! it takes; see `common/process.rs`.

mod common;

use common::{
    CREDITS, FRAMES,
    netns::Lab,
    process::{self, Order, Process, finish, wait_for_traffic, wait_turns, wait_until},
};
use pagewire_protocol::Lane;
use pagewire_transport::link::tcp::CONNECTIONS;
use std::time::{Duration, Instant};

/// Messages on each lane that show that traffic flows.
const SOME: u64 = 200;
/// Silence is found soon, or never within a test's patience.
const SOON: Order = Order { incarnation: 1, peer_timeout_ms: 1000, session_expiry_ms: 0 };
const NEVER: Order = Order { peer_timeout_ms: 600_000, ..SOON };

/// The second process of the other tests, which start it; without their order it does nothing.
#[test]
fn peer_process() {
    process::run();
}

fn is_down(line: &str) -> bool {
    line.starts_with("down")
}

fn is_silent(line: &str) -> bool {
    line.starts_with("down Silent")
}

fn start(lab: &Lab, order: Order) -> [Process; 2] {
    let peers = [1, 2].map(|host| Process::start(lab, host, order));
    for peer in &peers {
        peer.wait_line("it is up", |line| line == "up 1");
    }
    peers
}

fn start_loaded(lab: &Lab, order: Order) -> [Process; 2] {
    let mut peers = start(lab, order);
    peers.iter_mut().for_each(|peer| peer.tell("load"));
    wait_for_traffic(&mut peers, SOME);
    peers
}

/// Lets the scenario go on for `duration`; `look` at it after each turn of the peers.
fn meanwhile(peers: &mut [Process; 2], duration: Duration, mut look: impl FnMut(&[Process; 2])) {
    // How long it lasts is the scenario itself: no condition says that it is over.
    let until = Instant::now() + duration;
    while Instant::now() < until {
        wait_turns(peers, "the scenario is over");
        look(peers);
    }
}

#[test]
fn a_link_that_is_cut_for_five_seconds_loses_doubles_and_reorders_nothing() {
    let Some(lab) = Lab::new() else { return };
    let mut peers = start_loaded(&lab, SOON);
    let before = peers.each_ref().map(Process::ledger);
    lab.set_link(2, "down");
    meanwhile(&mut peers, Duration::from_secs(5), |_| {});
    for peer in &peers {
        peer.wait_line("it finds the silence", is_down);
    }
    lab.set_link(2, "up");
    wait_for_traffic(&mut peers, SOME);
    let after = finish(peers);
    assert!((0..2).all(|i| after[i].links_up > before[i].links_up), "{after:?}");
    assert!(after.iter().any(|ledger| ledger.sent_again > 0), "the cut hit nothing: {after:?}");
}

#[test]
fn a_cut_in_one_direction_is_found_by_both_sides_and_heals() {
    let Some(lab) = Lab::new() else { return };
    let mut peers = start_loaded(&lab, SOON);
    for deaf in [0, 1] {
        peers.iter().for_each(|peer| drop(peer.lines_so_far()));
        let before = peers.each_ref().map(|peer| peer.ledger().links_up);
        lab.cut_towards([1, 2][deaf]);
        peers[deaf].wait_line("the deaf side finds the silence", is_silent);
        peers[1 - deaf].wait_line("the side that is not heard learns of it", is_down);
        lab.heal_towards([1, 2][deaf]);
        wait_until(&mut peers, "both are linked again", |now| {
            (0..2).all(|i| now[i].links_up > before[i])
        });
        wait_for_traffic(&mut peers, SOME);
    }
    assert!(finish(peers).iter().any(|ledger| ledger.sent_again > 0));
}

#[test]
fn a_connection_that_dies_alone_takes_its_link_down_and_another_is_made() {
    let Some(lab) = Lab::new() else { return };
    let mut peers = start_loaded(&lab, SOON);
    // A firewall that forgets one connection leaves the keepalives on the other.
    for (class, _) in CONNECTIONS.iter().enumerate() {
        let before = peers.each_ref().map(|peer| peer.ledger().links_up);
        let ports = peers[0].connection_ports();
        assert_eq!(ports.len(), CONNECTIONS.len(), "{ports:?}");
        lab.cut_port(ports[class]);
        wait_until(&mut peers, "both have a new link", |now| {
            (0..2).all(|i| now[i].links_up > before[i])
        });
        wait_for_traffic(&mut peers, SOME);
    }
    finish(peers);
}

/// What a peer says when a session has ended: up to which message the dead one had acknowledged,
/// and what had been sent, by lane.
fn parse_ended(line: &str) -> [[u64; Lane::COUNT]; 2] {
    let numbers: Vec<u64> = line.split(' ').skip(2).map(|word| word.parse().unwrap()).collect();
    let (acknowledged, sent) = numbers.split_at(Lane::COUNT);
    [acknowledged, sent].map(|part| part.try_into().unwrap())
}

#[test]
fn a_killed_peer_is_reported_and_what_it_had_not_acknowledged_is_handed_back() {
    let Some(lab) = Lab::new() else { return };
    // A stopped one acknowledges nothing more: every window is full when it dies.
    for stopped_before in [false, true] {
        let order = Order { session_expiry_ms: 500, ..NEVER };
        let mut peers = start_loaded(&lab, order);
        if stopped_before {
            peers[1].stop();
            let (mut last, mut looks) = (peers[0].ledger().sent, 0);
            wait_until(&mut peers, "every window is full", |now| {
                looks = if now[0].sent == last { looks + 1 } else { 0 };
                last = now[0].sent;
                looks == 20
            });
        }
        let [survivor, dead] = peers;
        let dead = dead.kill();
        let down = survivor.wait_line("it reports the death", is_down);
        assert!(!is_silent(&down), "the dead one's host says so at once: {down}");
        let ended = survivor.wait_line("the session ends", |line| line.starts_with("ended 1 "));
        let [acknowledged, sent] = parse_ended(&ended);
        for lane in Lane::ALL {
            let (acked, last, got) =
                (acknowledged[lane.index()], sent[lane.index()], dead.got[lane.index()]);
            // It had written down all that is not handed back, and nothing that was not sent.
            assert!(acked <= got && got <= last, "{lane:?}: {acked} <= {got} <= {last}");
            assert!(last - acked <= u64::from(CREDITS.of(lane)), "{lane:?}: more than the window");
            assert!(last > acked, "{lane:?}: under load nothing was under way");
        }
        // Its next life begins with nothing of this one.
        let mut next = Process::start(&lab, 2, Order { incarnation: 2, ..order });
        survivor.wait_line("the next life is up", |line| line == "up 2");
        next.wait_line("it is up", |line| line == "up 1");
        next.tell("load");
        let mut peers = [survivor, next];
        wait_for_traffic(&mut peers, SOME);
        finish(peers);
    }
}

#[test]
fn a_host_that_vanishes_without_a_word_is_found_and_its_next_life_accepted() {
    let Some(lab) = Lab::new() else { return };
    // Nothing is under way, so nothing but the keepalives can tell.
    let [survivor, vanished] = start(&lab, SOON);
    for host in [1, 2] {
        lab.cut_towards(host);
    }
    vanished.kill();
    survivor.wait_line("it finds the silence", is_silent);
    for host in [1, 2] {
        lab.heal_towards(host);
    }
    let next = Process::start(&lab, 2, Order { incarnation: 2, ..SOON });
    let ended = survivor.wait_line("the former life ends", |line| line.starts_with("ended 1 "));
    assert_eq!(parse_ended(&ended), [[0; Lane::COUNT]; 2]);
    survivor.wait_line("the next life is up", |line| line == "up 2");
    let mut peers = [survivor, next];
    peers.iter_mut().for_each(|peer| peer.tell("load"));
    wait_for_traffic(&mut peers, SOME);
    finish(peers);
}

#[test]
fn a_peer_that_stops_for_ten_seconds_is_waited_for_in_bounded_memory() {
    // The arena is resident before: what grows is not frames.
    const GROWTH_BYTES: u64 = 2 << 20;
    let Some(lab) = Lab::new() else { return };
    let mut peers = start_loaded(&lab, NEVER);
    peers[1].stop();
    let stopped = peers[1].ledger();
    let before = (peers[0].ledger(), peers[0].resident_bytes());
    meanwhile(&mut peers, Duration::from_secs(10), |peers| {
        let (now, resident_bytes) = (peers[0].ledger(), peers[0].resident_bytes());
        for lane in Lane::ALL {
            let kept = now.sent[lane.index()] - stopped.got[lane.index()];
            assert!(kept <= u64::from(CREDITS.of(lane)), "{lane:?}: {kept} are kept");
        }
        // Those that are posted, and those that are kept.
        let held = 2 * (CREDITS.of(Lane::Pages) + CREDITS.of(Lane::Bulk));
        assert!(now.free_frames >= u64::from(FRAMES - held), "{now:?}");
        assert!(resident_bytes <= before.1 + GROWTH_BYTES, "{resident_bytes} of {}", before.1);
    });
    let after = peers[0].ledger();
    assert!(after.no_credit > before.0.no_credit, "back-pressure: {after:?}");
    peers[1].go_on();
    wait_for_traffic(&mut peers, SOME);
    let ledgers = finish(peers);
    assert_eq!(ledgers.map(|ledger| ledger.links_up), [1; 2], "the link was never given up");
}

#[test]
fn a_peer_that_stops_for_too_long_loses_its_link_and_goes_on_with_the_next() {
    let Some(lab) = Lab::new() else { return };
    let mut peers = start_loaded(&lab, SOON);
    let before = peers.each_ref().map(|peer| peer.ledger().links_up);
    peers[1].stop();
    peers[0].wait_line("it finds the silence", is_silent);
    peers[1].go_on();
    wait_until(&mut peers, "both are linked again", |now| {
        (0..2).all(|i| now[i].links_up > before[i])
    });
    wait_for_traffic(&mut peers, SOME);
    assert!(finish(peers).iter().any(|ledger| ledger.sent_again > 0));
}
