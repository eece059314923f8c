//! Invalidations between real nodes on loopback: who gets them, when, in which order, and what readers
//! in other processes can rely on.

mod support;

use pagewire_node::{
    Handle, Node, NodeConfig,
    si::{PublishError, Publisher, TicketError},
};
use pagewire_protocol::{ClusterId, SiMessage};
use pagewire_si::{SiEntry, SiRead, SiReader};
use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use support::{
    cluster::Cluster,
    moving::Moving,
    pages::{counter, set_counter, tag},
    process::{PATIENCE, wait_for},
};

/// The variables that make this program a reader of the ring at a path.
const RING: &str = "PAGEWIRE_TEST_SI_RING";

fn relcache(database: u32, relation: u32) -> SiMessage {
    SiMessage::Relcache { database, relation }
}

/// A ring in a file, for readers in other processes.
fn in_file(config: &mut NodeConfig) {
    config.si_ring = Some(config.storage.join(format!("si-ring-{}", config.instance)));
}

/// Everything that a reader finds until `wanted` messages are there; a reset among it is a failure.
fn read_all(reader: &mut SiReader, wanted: usize) -> Vec<SiMessage> {
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    let mut entries = vec![SiEntry::default(); 512];
    while found.len() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} messages came", found.len());
        match reader.read(&mut entries) {
            SiRead::Messages(0) => thread::yield_now(),
            SiRead::Messages(count) => {
                found.extend(entries[..count].iter().map(|entry| entry.message().expect("a kind")));
            }
            other => panic!("{other:?} after {} messages", found.len()),
        }
    }
    found
}

/// Readers of all rings once every stream has begun: nothing resets them any more.
fn readers(nodes: &[Node]) -> Vec<SiReader> {
    for node in nodes {
        // Its ticket needs the word of all others, and theirs needs its own.
        node.si_publisher().publish(&[relcache(0, 0)]).unwrap().wait(PATIENCE).unwrap();
    }
    nodes.iter().map(|node| node.si_reader().unwrap()).collect()
}

#[test]
fn what_one_instance_publishes_is_in_the_ring_of_each_when_its_ticket_is_complete() {
    let cluster = Cluster::start(3, 1);
    let mut readers = readers(&cluster.nodes);
    for (node, count) in [(0, 1), (1, 4), (2, 5), (0, 3000)] {
        let messages: Vec<_> = (0..count).map(|n| relcache(node, n)).collect();
        let publisher = cluster.nodes[node as usize].si_publisher();
        publisher.publish(&messages).unwrap().wait(PATIENCE).unwrap();
        for reader in &mut readers {
            assert!(reader.has_new(), "the ticket was complete before the ring had it");
            assert_eq!(read_all(reader, messages.len()), messages);
            assert!(!reader.has_new());
        }
    }
    assert_eq!(cluster.sum(|counters| counters.bad_messages.get()), 0);
    assert_eq!(cluster.sum(|counters| counters.si_delivered.get()), 2 * (3 + 3010));
    assert!(cluster.nodes.iter().all(|node| node.si_waiting() == 0));
}

#[test]
fn batches_of_many_threads_come_whole_in_one_order_everywhere() {
    const THREADS: u32 = 4;
    const BATCHES: u32 = 300;
    let cluster = Cluster::start(3, 1);
    let mut readers = readers(&cluster.nodes);
    let publisher = cluster.nodes[0].si_publisher();
    let sizes = [1, 3, 64, 5, 1, 600];
    let publish = |publisher: Publisher, thread: u32| {
        let mut next = 0;
        for size in sizes.iter().cycle().take(BATCHES as usize) {
            let batch: Vec<_> = (next..next + size).map(|n| relcache(thread, n)).collect();
            next += size;
            let deadline = Instant::now() + PATIENCE;
            loop {
                match publisher.publish(&batch) {
                    Ok(_ticket) => break,
                    Err(PublishError::Full { .. }) => {
                        assert!(Instant::now() < deadline, "nobody takes what is published");
                        thread::yield_now();
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    };
    let each: u32 = sizes.iter().cycle().take(BATCHES as usize).sum();
    let found: Vec<_> = thread::scope(|scope| {
        let all = (THREADS * each) as usize;
        let read: Vec<_> =
            readers.iter_mut().map(|reader| scope.spawn(move || read_all(reader, all))).collect();
        for thread in 0..THREADS {
            let publisher = publisher.clone();
            scope.spawn(move || publish(publisher, thread));
        }
        read.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found[0] == found[1] && found[0] == found[2], "one order");
    let mut next = [0; THREADS as usize];
    for message in &found[0] {
        let SiMessage::Relcache { database, relation } = *message else { panic!("{message}") };
        assert_eq!(relation, next[database as usize], "of thread {database}");
        next[database as usize] += 1;
    }
    // Without messages a ticket stands for all before it.
    publisher.publish(&[]).unwrap().wait(PATIENCE).unwrap();
    assert_eq!(cluster.nodes[0].si_waiting(), 0);
}

#[test]
fn a_member_that_was_killed_counts_when_the_view_says_so_and_others_reset() {
    let mut moving = Moving::start(3, 4, |_| {});
    let publisher = moving.nodes[&0].si_publisher();
    publisher.publish(&[relcache(1, 1)]).unwrap().wait(PATIENCE).unwrap();
    let mut reader = moving.nodes[&1].si_reader().unwrap();
    let dead = moving.kill(2);
    let ticket = publisher.publish(&[relcache(1, 2)]).unwrap();
    assert_eq!(read_all(&mut reader, 1), [relcache(1, 2)], "the other one has it");
    let deadline = Err(TicketError::Deadline { limit_ms: 20 });
    assert_eq!(ticket.wait(Duration::from_millis(20)), deadline);
    assert!(!ticket.is_complete());
    moving.bury(dead);
    ticket.wait(PATIENCE).unwrap();
    let mut entries = [SiEntry::default(); 4];
    assert_eq!(reader.read(&mut entries), SiRead::Reset, "it may have published to others only");
    publisher.publish(&[relcache(1, 3)]).unwrap().wait(PATIENCE).unwrap();
    assert_eq!(read_all(&mut reader, 1), [relcache(1, 3)]);
}

#[test]
fn a_joiner_resets_and_has_what_is_published_after_it_came() {
    let mut moving = Moving::start(2, 4, |_| {});
    let publisher = moving.nodes[&0].si_publisher();
    for round in 0..20 {
        publisher.publish(&[relcache(2, round)]).unwrap().wait(PATIENCE).unwrap();
    }
    moving.join(2);
    let ticket = publisher.publish(&[relcache(2, 20)]).unwrap();
    ticket.wait(PATIENCE).unwrap();
    let joiner = &moving.nodes[&2];
    let (resets, delivered) =
        (joiner.counters().si_resets.get(), joiner.counters().si_delivered.get());
    assert!(resets >= 1, "its stream of each began with a reset");
    assert_eq!(delivered, 1, "what was published before is covered by the reset");
    let mut reader = joiner.si_reader().unwrap();
    publisher.publish(&[relcache(2, 21)]).unwrap().wait(PATIENCE).unwrap();
    // That of the other member may begin late.
    let mut entries = [SiEntry::default(); 4];
    let found = reader.read(&mut entries);
    assert!(matches!(found, SiRead::Reset | SiRead::Messages(1)), "{found:?}");
}

#[test]
fn nobody_gets_a_page_before_what_was_published_under_its_guard_is_delivered() {
    for shards in [1, 2] {
        guard_is_kept(if shards == 1 { |_| {} } else { |config| config.shards = 2 });
    }
}

fn guard_is_kept(adjust: fn(&mut NodeConfig)) {
    let mut moving = Moving::start(3, 200, adjust);
    let publisher = moving.nodes[&0].si_publisher();
    publisher.publish(&[relcache(3, 0)]).unwrap().wait(PATIENCE).unwrap();
    let (writer, other) = (moving.handle(0), moving.handle(1));
    // A few pages, of every shard, that the dead one has nothing to do with.
    let blocks: Vec<_> = (0..200)
        .filter(|block| moving.view.master(&tag(*block)) == pagewire_protocol::InstanceId(0))
        .take(8)
        .collect();
    for block in &blocks {
        drop(writer.write(tag(*block)).unwrap());
    }
    let dead = moving.kill(2);
    let mut tickets = Vec::new();
    for block in &blocks {
        let mut guard = writer.write(tag(*block)).unwrap();
        guard.update(|page| set_counter(page, 1)).unwrap();
        tickets.push(guard.publish(&publisher, &[relcache(3, *block)]).unwrap());
    }
    let foreign = moving.nodes[&1].si_publisher();
    for block in &blocks {
        assert!(writer.try_read(&tag(*block)).is_none(), "a local hit before the ticket");
    }
    assert!(tickets.iter().all(|ticket| !ticket.is_complete()));
    let told = AtomicBool::new(false);
    thread::scope(|scope| {
        let (blocks, told) = (&blocks, &told);
        let wants = scope.spawn(move || {
            for block in blocks {
                let page = other.read(tag(*block)).unwrap();
                assert!(told.load(Ordering::SeqCst), "granted before the ticket");
                assert_eq!(counter(&page), 1);
            }
        });
        // It has asked, and has to wait.
        wait_for("the request", || {
            moving.stat(1).is_some_and(|stat| stat.requests > 0) || wants.is_finished()
        });
        told.store(true, Ordering::SeqCst);
        moving.bury(dead);
        wants.join().unwrap();
    });
    for (ticket, block) in tickets.iter().zip(&blocks) {
        ticket.wait(PATIENCE).unwrap();
        let mut guard = writer.write(tag(*block)).unwrap();
        assert_eq!(guard.publish(&foreign, &[]).unwrap_err(), PublishError::OtherInstance);
    }
}

#[test]
fn who_has_lost_its_lease_publishes_nothing_and_is_told() {
    let mut moving = Moving::start(2, 1, |_| {});
    let publisher = moving.nodes[&0].si_publisher();
    publisher.publish(&[relcache(4, 0)]).unwrap().wait(PATIENCE).unwrap();
    moving.kill(1);
    let ticket = publisher.publish(&[relcache(4, 1)]).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| ticket.wait(PATIENCE));
        moving.nodes[&0].end_lease().unwrap();
        assert_eq!(waits.join().unwrap(), Err(TicketError::LeaseExpired));
    });
    assert_eq!(publisher.publish(&[relcache(4, 2)]).unwrap_err(), PublishError::LeaseExpired);
    drop(moving);
    assert_eq!(ticket.wait(PATIENCE), Err(TicketError::LeaseExpired));
}

#[test]
fn a_node_that_stops_tells_those_who_wait_and_publishes_no_more() {
    let mut moving = Moving::start(2, 1, |_| {});
    let publisher = moving.nodes[&0].si_publisher();
    moving.kill(1);
    let ticket = publisher.publish(&[relcache(5, 1)]).unwrap();
    moving.kill(0);
    assert_eq!(ticket.wait(PATIENCE), Err(TicketError::Stopped));
    assert_eq!(publisher.publish(&[]).unwrap_err(), PublishError::Stopped);
    let most = 1 << 14;
    let many = vec![relcache(5, 2); most + 1];
    let found = most + 1;
    assert_eq!(publisher.publish(&many).unwrap_err(), PublishError::TooMany { found, most });
}

// ---- readers in other processes ----------------------------------------------------------------------

/// A process that caches what pages say, and has nothing but the ring to know when that is stale.
struct Backend {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Backend {
    fn start(ring: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "is_a_backend", "--nocapture", "--quiet"])
            .env(RING, ring)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ready") {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "it has ended");
        }
        Self { child, stdin, stdout }
    }

    /// Tells it of a grant: the page says `value` while it is held. True when what it had cached, if
    /// anything, was the same.
    fn sees(&mut self, block: u32, value: u64) -> bool {
        writeln!(self.stdin, "{block} {value}").unwrap();
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it has ended");
        line.trim() == "good"
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`Backend`] runs.
#[test]
fn is_a_backend() {
    let Some(ring) = env::var_os(RING) else { return };
    let mut reader = SiReader::attach(&PathBuf::from(ring), ClusterId(77)).unwrap();
    println!("\nready");
    let mut cache: BTreeMap<u32, u64> = BTreeMap::new();
    let mut entries = [SiEntry::default(); 64];
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let (block, value) = line.split_once(' ').unwrap();
        let (block, value) = (block.parse().unwrap(), value.parse().unwrap());
        while reader.has_new() {
            match reader.read(&mut entries) {
                SiRead::Messages(count) => {
                    for entry in &entries[..count] {
                        if let Ok(SiMessage::Relcache { relation, .. }) = entry.message() {
                            cache.remove(&relation);
                        }
                    }
                }
                SiRead::Reset | SiRead::Gone => cache.clear(),
            }
        }
        let is_good = *cache.entry(block).or_insert(value) == value;
        println!("{}", if is_good { "good" } else { "stale" });
    }
}

/// Changes page `block` and publishes that, under one guard.
fn change(handle: &Handle, publisher: &Publisher, block: u32) {
    let mut guard = handle.write(tag(block)).expect("an X grant");
    let value = counter(&guard) + 1;
    guard.update(|page| set_counter(page, value)).expect("a lease");
    let _ticket = guard.publish(publisher, &[relcache(5, block)]).expect("room");
}

#[test]
fn no_process_sees_a_page_before_it_can_read_that_it_has_changed() {
    const BLOCKS: u32 = 3;
    const ROUNDS: u32 = 1500;
    let cluster = Cluster::with(3, BLOCKS, in_file);
    drop(readers(&cluster.nodes));
    let done = AtomicU32::new(0);
    thread::scope(|scope| {
        for (at, node) in cluster.nodes.iter().enumerate() {
            let (reads, writes) = (cluster.handle(at), cluster.handle(at));
            let (publisher, ring) = (node.si_publisher(), node.si_ring_path().unwrap());
            let done = &done;
            let seed = u64::try_from(at).unwrap();
            // Its writer makes for local hits between the two, and takes pages from the others.
            scope.spawn(move || {
                let mut random = pagewire_node::random::Random::new(seed);
                while done.load(Ordering::Relaxed) < 3 {
                    change(&writes, &publisher, random.below(BLOCKS));
                    // The others get their turns.
                    for _ in 0..random.below(4) {
                        thread::yield_now();
                    }
                }
            });
            scope.spawn(move || {
                let mut backend = Backend::start(ring);
                let mut random = pagewire_node::random::Random::new(seed + 10);
                for round in 0..ROUNDS {
                    let block = random.below(BLOCKS);
                    let page = reads.read(tag(block)).expect("an S grant");
                    let value = counter(&page);
                    let is_good = backend.sees(block, value);
                    drop(page);
                    if !is_good {
                        done.store(3, Ordering::Relaxed);
                        panic!("round {round}: stale of block {block} on {at}, it has {value}");
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(cluster.sum(|counters| counters.bad_messages.get()), 0);
    let resets: u64 = cluster.sum(|counters| counters.si_resets.get());
    assert_eq!(resets, 6, "one for each stream, none since");
}
