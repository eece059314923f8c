//! Three instances in one process, with caches too small for the relation, over real sockets and a
//! real page file.
//!
//! Each page holds a counter. What the threads have added is counted beside it; after a flush the
//! file must hold exactly that, with right checksums.

mod support;

use pagewire_node::{Handle, Node, NodeConfig, NodeError, grd::AcquireError, view::View};
use pagewire_protocol::{ClusterId, Epoch, InstanceId, Lsn, page};
use std::{
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use support::{
    pages::{
        PAGE_BYTES, counter, read_pages, relation_path, set_counter, sound_page, storage, tag,
    },
    process::{PATIENCE, wait_for},
};

/// Fewest pages that a node caches.
const SMALL_CACHE: u32 = 32;

struct Cluster {
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
}

impl Cluster {
    /// `nodes` instances with small caches over `pages` pages.
    fn start(nodes: u16, pages: u32) -> Self {
        Self::with(nodes, pages, |_| {})
    }

    fn with(nodes: u16, pages: u32, adjust: impl Fn(&mut NodeConfig)) -> Self {
        let folder = storage(pages);
        let members: Vec<_> = (0..nodes).map(InstanceId).collect();
        let start = |id: &InstanceId| {
            let any_port = "127.0.0.1:0".parse().expect("an address");
            let path = folder.path().to_owned();
            let mut config = NodeConfig::new(ClusterId(77), *id, members.clone(), any_port, path);
            config.arena_mb = 8;
            config.cache_pages = Some(SMALL_CACHE);
            adjust(&mut config);
            Node::start(&config).expect("a node")
        };
        let nodes: Vec<_> = members.iter().map(start).collect();
        for node in &nodes {
            for other in &nodes {
                let (id, address) = (other.identity().0, other.listen_address());
                if id != node.identity().0 {
                    node.add_peer(id, address).expect("a new peer");
                }
            }
        }
        for node in &nodes {
            node.wait_for_peers(PATIENCE).expect("all are there");
        }
        Self { folder, nodes }
    }

    fn handle(&self, node: usize) -> Handle {
        self.nodes[node].handle().expect("a handle")
    }

    fn flush(&self) {
        for node in &self.nodes {
            node.flush().expect("written back");
        }
    }

    fn file(&self) -> PathBuf {
        relation_path(self.folder.path())
    }

    fn sum(&self, counters: impl Fn(&pagewire_node::runtime::NodeCounters) -> u64) -> u64 {
        self.nodes.iter().map(|node| counters(&node.counters())).sum()
    }
}

/// Adds 1 to the counter of block `block`.
fn add_one(handle: &Handle, block: u32) -> Result<u64, AcquireError> {
    let mut page = handle.write(tag(block))?;
    let value = counter(&page) + 1;
    page.update(|page| set_counter(page, value));
    Ok(value)
}

fn read_counter(handle: &Handle, block: u32) -> Result<u64, AcquireError> {
    Ok(counter(&handle.read(tag(block))?))
}

/// Asserts that the file holds `expected` for each page, with right checksums.
fn assert_file_holds(file: &Path, expected: &[u64]) {
    let pages = read_pages(file, 0);
    assert_eq!(pages.len(), expected.len());
    for ((block, page), expected) in pages.iter().zip(expected) {
        page::verify_checksum(page, *block).expect("a right checksum");
        assert_ne!(page::stored_checksum(page), 0, "block {block} has a checksum");
        assert_eq!(counter(page), *expected, "block {block}");
    }
}

fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    u32::try_from(*state >> 33).expect("31 bits")
}

/// Nine threads of three instances add to and read `pages` pages at random; then asserts that the
/// file holds what they have added.
fn hammer(cluster: &Cluster, pages: u32, rounds: u32) {
    let added: Vec<AtomicU64> = (0..pages).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for worker in 0..9usize {
            let handle = cluster.handle(worker % 3);
            let added = &added;
            scope.spawn(move || {
                let mut state = worker as u64 + 1;
                for _ in 0..rounds {
                    let block = random(&mut state) % pages;
                    let expected = added[block as usize].load(Ordering::SeqCst);
                    if random(&mut state).is_multiple_of(2) {
                        add_one(&handle, block).expect("an X grant");
                        added[block as usize].fetch_add(1, Ordering::SeqCst);
                    } else {
                        let found = read_counter(&handle, block).expect("an S grant");
                        assert!(found >= expected, "block {block}: {found} after {expected}");
                    }
                }
            });
        }
    });
    cluster.flush();
    let expected: Vec<_> = added.into_iter().map(AtomicU64::into_inner).collect();
    assert!(expected.iter().sum::<u64>() > u64::from(rounds));
    assert_file_holds(&cluster.file(), &expected);
    // A cache of 32 pages has given up many and read them again, changed ones among them.
    assert!(cluster.sum(|c| c.pages_evicted.get()) > u64::from(pages));
    assert!(cluster.sum(|c| c.pages_read.get()) > u64::from(pages));
    assert!(cluster.sum(|c| c.pages_written.get()) > u64::from(pages));
    assert!(cluster.sum(|c| c.pages_shipped.get()) > 0);
    assert_eq!(cluster.sum(|c| c.bad_messages.get() + c.protocol_errors.get()), 0);
}

#[test]
fn no_update_is_lost_while_pages_are_evicted_and_read_again() {
    let cluster = Cluster::start(3, 200);
    hammer(&cluster, 200, 1500);
}

#[test]
fn no_update_is_lost_by_instances_of_two_shards() {
    const SHARDS: u16 = 2;
    // As small as above for each shard.
    let adjust = |config: &mut NodeConfig| {
        (config.shards, config.cache_pages) = (SHARDS, Some(2 * SMALL_CACHE));
    };
    let cluster = Cluster::with(3, 400, adjust);
    hammer(&cluster, 400, 1500);
    for node in &cluster.nodes {
        let by_shard = node.endpoint_counters();
        assert_eq!(by_shard.len(), usize::from(SHARDS));
        for (shard, counters) in by_shard.iter().enumerate() {
            for (peer, counters) in counters.peers() {
                let received: u64 = counters.lanes.iter().map(|lane| lane.received.get()).sum();
                assert!(received > 100, "shard {shard} had {received} messages of {peer}");
            }
        }
    }
}

#[test]
fn versions_rise_across_the_shards_of_an_instance() {
    let cluster = Cluster::with(1, 64, |config| config.shards = 2);
    let handle = cluster.handle(0);
    let mut last = Lsn(1);
    for block in 0..64 {
        let version = handle.write(tag(block)).expect("an X grant").update(|_| {});
        assert!(version > last, "block {block} of shard {}", tag(block).shard(2));
        last = version;
    }
}

#[test]
fn instances_with_different_numbers_of_shards_refuse_each_other() {
    let folder = storage(1);
    let members = vec![InstanceId(0), InstanceId(1)];
    let nodes = [1, 2].map(|shards| {
        let id = InstanceId(shards - 1);
        let any_port = "127.0.0.1:0".parse().expect("an address");
        let path = folder.path().to_owned();
        let mut config = NodeConfig::new(ClusterId(77), id, members.clone(), any_port, path);
        (config.arena_mb, config.shards) = (8, shards);
        Node::start(&config).expect("a node")
    });
    let addresses = nodes.each_ref().map(Node::listen_address);
    nodes[0].add_peer(InstanceId(1), addresses[1]).expect("a new peer");
    nodes[1].add_peer(InstanceId(0), addresses[0]).expect("a new peer");
    let error = nodes[0].wait_for_peers(PATIENCE).expect_err("a refusal");
    assert!(matches!(error, NodeError::Refused(_)), "{error}");
}

#[test]
fn a_node_that_spins_sleeps_once_its_budget_is_over() {
    let cluster = Cluster::with(1, 8, |config| config.spin_us = 1);
    let handle = cluster.handle(0);
    for block in 0..8 {
        assert_eq!(add_one(&handle, block), Ok(1));
    }
    let counters = &cluster.nodes[0].poller_counters()[0];
    wait_for("sleep", || counters.sleeps.get() > 0);
    assert!(counters.wake_ups.get() <= counters.sleeps.get());
}

#[test]
fn nine_threads_of_three_instances_share_one_page_without_losing_an_update() {
    const ROUNDS: u64 = 400;
    let cluster = Cluster::start(3, 1);
    let highest = AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in 0..9usize {
            let handle = cluster.handle(worker % 3);
            let highest = &highest;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let before = highest.load(Ordering::SeqCst);
                    let found = if round % 4 == 3 {
                        read_counter(&handle, 0).expect("an S grant")
                    } else {
                        add_one(&handle, 0).expect("an X grant")
                    };
                    assert!(found >= before, "{found} after {before}");
                    highest.fetch_max(found, Ordering::SeqCst);
                }
            });
        }
    });
    cluster.flush();
    assert_file_holds(&cluster.file(), &[9 * ROUNDS / 4 * 3]);
}

#[test]
fn versions_of_a_page_rise_with_every_update_of_any_instance() {
    let cluster = Cluster::start(3, 1);
    let handles: Vec<_> = (0..3).map(|node| cluster.handle(node)).collect();
    let mut last = Lsn(1);
    for round in 0..30 {
        let mut page = handles[round % 3].write(tag(0)).expect("an X grant");
        assert_eq!(page::lsn(&page), last, "the version before is the last one given");
        let version = page.update(|page| set_counter(page, 1));
        assert!(version > last, "{version} after {last}");
        last = version;
    }
}

#[test]
fn pages_that_nobody_changed_are_given_up_without_being_written() {
    let cluster = Cluster::start(1, 200);
    let handle = cluster.handle(0);
    for _ in 0..3 {
        for block in 0..200 {
            assert_eq!(read_counter(&handle, block), Ok(0));
        }
    }
    let counters = cluster.nodes[0].counters();
    assert!(counters.pages_evicted.get() >= 200, "{counters:?}");
    assert_eq!(counters.pages_written.get(), 0);
    drop(handle);
    let before = std::fs::read(cluster.file()).expect("the file");
    cluster.flush();
    assert_eq!(std::fs::read(cluster.file()).expect("the file"), before);
}

#[test]
fn changed_pages_are_written_before_they_are_given_up() {
    let cluster = Cluster::start(1, 200);
    let handle = cluster.handle(0);
    for round in 1..=3 {
        for block in 0..200 {
            assert_eq!(add_one(&handle, block), Ok(round), "block {block}");
        }
    }
    assert!(cluster.nodes[0].counters().pages_evicted.get() >= 200);
    drop(handle);
    cluster.flush();
    assert_file_holds(&cluster.file(), &[3; 200]);
}

#[test]
fn a_full_cache_of_shared_pages_can_be_upgraded() {
    let cluster = Cluster::start(1, SMALL_CACHE);
    let handle = cluster.handle(0);
    for block in 0..SMALL_CACHE {
        assert_eq!(read_counter(&handle, block), Ok(0));
    }
    for block in 0..SMALL_CACHE {
        assert_eq!(add_one(&handle, block), Ok(1), "block {block}");
    }
}

#[test]
fn a_page_that_is_held_elsewhere_is_refused_at_the_deadline_and_had_later() {
    let cluster = Cluster::with(2, 4, |config| config.acquire_timeout_ms = 100);
    let near = cluster.handle(0);
    for node in [0, 1] {
        let far = cluster.handle(node);
        let guard = near.write(tag(2)).expect("an X grant");
        let writer = far.write(tag(2)).map(drop);
        assert_eq!(writer, Err(AcquireError::Deadline { tag: tag(2), limit_ms: 100 }));
        let reader = far.read(tag(2)).map(drop);
        assert_eq!(reader, Err(AcquireError::Deadline { tag: tag(2), limit_ms: 100 }));
        // Another page is to be had all the while.
        assert_eq!(add_one(&cluster.handle(node), 3), Ok(node as u64 + 1));
        drop(guard);
        assert_eq!(add_one(&far, 2), Ok(node as u64 + 1), "instance {node}");
        assert_eq!(read_counter(&near, 2), Ok(node as u64 + 1));
    }
}

#[test]
fn a_handle_goes_on_when_another_thread_takes_it() {
    let cluster = Cluster::start(2, 64);
    let mut handle = cluster.handle(0);
    let other = cluster.handle(1);
    for round in 0..6u32 {
        let block = round % 2;
        // Taken away, so that the handle has to wait for an answer in its new thread.
        add_one(&other, block).expect("an X grant");
        handle = thread::spawn(move || {
            add_one(&handle, block).expect("an X grant");
            handle
        })
        .join()
        .expect("no panic");
    }
    assert_eq!(read_counter(&handle, 0), Ok(6));
    assert_eq!(read_counter(&handle, 1), Ok(6));
}

#[test]
fn a_page_beyond_the_end_fails_alone_and_is_had_once_the_file_is_extended() {
    let cluster = Cluster::start(2, 8);
    for node in [0, 1] {
        let handle = cluster.handle(node);
        for result in [handle.read(tag(9)).map(drop), handle.write(tag(9)).map(drop)] {
            let Err(error @ AcquireError::Storage { .. }) = result else {
                panic!("instance {node}: {result:?}")
            };
            let text = error.to_string();
            assert!(text.contains("16384 ends before block 9"), "{text}");
            assert!(text.contains("extend the relation first"), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        assert_eq!(add_one(&handle, 7), Ok(node as u64 + 1), "others are to be had");
    }
    let mut file = std::fs::read(cluster.file()).expect("the file");
    file.extend([8, 9].map(|block| sound_page(block, Lsn(1))).concat());
    // In place, as PostgreSQL extends: the nodes have the file open.
    std::fs::write(cluster.file(), file).expect("extended");
    assert_eq!(add_one(&cluster.handle(1), 9), Ok(1));
    assert_eq!(add_one(&cluster.handle(0), 9), Ok(2));
    cluster.flush();
    let pages = read_pages(&cluster.file(), 0);
    assert_eq!(counter(&pages[9].1), 2);
}

#[test]
fn a_damaged_page_is_told_and_had_once_it_is_mended() {
    let cluster = Cluster::start(2, 8);
    let sound = std::fs::read(cluster.file()).expect("the file");
    let mut damaged = sound.clone();
    damaged[3 * PAGE_BYTES + 5000] ^= 4;
    std::fs::write(cluster.file(), &damaged).expect("damaged");
    for node in [0, 1] {
        let handle = cluster.handle(node);
        let error = handle.read(tag(3)).map(drop).expect_err("damaged").to_string();
        assert!(error.contains("16384"), "{error}");
        assert!(error.contains("checksum"), "{error}");
        assert!(error.contains("restore the page from a backup"), "{error}");
        assert_eq!(read_counter(&handle, 4), Ok(0), "others are to be had");
    }
    std::fs::write(cluster.file(), &sound).expect("mended");
    assert_eq!(add_one(&cluster.handle(0), 3), Ok(1));
}

#[test]
fn a_page_file_that_is_missing_fails_its_pages_alone() {
    let cluster = Cluster::start(2, 8);
    let handle = cluster.handle(0);
    let missing = pagewire_protocol::BufferTag { relation: 99, ..tag(0) };
    let error = handle.read(missing).map(drop).expect_err("no such file").to_string();
    assert!(error.contains("base/5/99"), "{error}");
    assert_eq!(add_one(&handle, 0), Ok(1));
}

#[test]
fn threads_that_wait_are_told_when_their_node_stops() {
    // Longer than the test waits: it is not the deadline that ends them.
    let patient = |config: &mut NodeConfig| config.acquire_timeout_ms = 600_000;
    let Cluster { folder, mut nodes } = Cluster::with(2, 64, patient);
    let view = View::new(Epoch(1), vec![InstanceId(0), InstanceId(1)]).expect("a view");
    let is_theirs = |block: &u32| view.master(&tag(*block)) == InstanceId(1);
    let blocks: Vec<_> = (0..64).filter(is_theirs).take(3).collect();
    let holder = nodes[1].handle().expect("a handle");
    let hold = |block: &u32| holder.write(tag(*block)).expect("an X grant");
    let guards: Vec<_> = blocks.iter().map(hold).collect();
    let stopping = nodes.remove(0);
    let (sender, results) = mpsc::channel();
    for (worker, block) in blocks.into_iter().enumerate() {
        let handle = stopping.handle().expect("a handle");
        let sender = sender.clone();
        // Not scoped: one that is never told must not keep the test from failing.
        thread::spawn(move || {
            let result =
                if worker == 0 { add_one(&handle, block) } else { read_counter(&handle, block) };
            let again = read_counter(&handle, block);
            let _ = sender.send((block, result, again));
        });
    }
    // Each of them has asked the master, and waits.
    let counters = &nodes[0].endpoint_counters()[0];
    wait_for("three requests", || {
        let (_, peer) = &counters.peers()[0];
        peer.lanes.iter().map(|lane| lane.received.get()).sum::<u64>() >= 3
    });
    drop(stopping);
    for _ in 0..3 {
        let (block, result, again) = results.recv_timeout(PATIENCE).expect("each is told");
        assert_eq!(result, Err(AcquireError::Stopped { tag: tag(block) }));
        assert_eq!(again, Err(AcquireError::Stopped { tag: tag(block) }));
    }
    drop((guards, folder));
}

#[test]
fn a_node_stops_while_guards_are_out() {
    let mut cluster = Cluster::start(2, 8);
    let handle = cluster.handle(0);
    let mut guard = handle.write(tag(0)).expect("an X grant");
    drop(cluster.nodes.remove(0));
    // The memory stays with the guard; what is done to the page has no effect any more.
    guard.update(|page| set_counter(page, 5));
    assert_eq!(counter(&guard), 5);
    drop(guard);
    let asked = handle.read(tag(1)).map(drop);
    assert_eq!(asked, Err(AcquireError::Stopped { tag: tag(1) }));
}

#[test]
fn a_flush_ends_while_threads_go_on_writing() {
    let cluster = Cluster::start(2, 16);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..4usize {
            let handle = cluster.handle(worker % 2);
            let stop = &stop;
            scope.spawn(move || {
                let mut state = worker as u64;
                while !stop.load(Ordering::Relaxed) {
                    add_one(&handle, random(&mut state) % 16).expect("an X grant");
                }
            });
        }
        let (sender, done) = mpsc::channel();
        let nodes = &cluster.nodes;
        scope.spawn(move || {
            for _ in 0..10 {
                let _ = sender.send(nodes[0].flush().and_then(|()| nodes[1].flush()));
            }
        });
        for _ in 0..10 {
            let flushed = done.recv_timeout(PATIENCE);
            stop.store(flushed.is_err(), Ordering::Relaxed);
            flushed.expect("the flush ends").expect("and all is written");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A storage folder whose relation reads as zeros and takes no write: no space is left.
fn put_full_device(cluster: &Cluster) {
    std::fs::remove_file(cluster.file()).expect("removed");
    std::os::unix::fs::symlink("/dev/full", cluster.file()).expect("a link");
}

#[test]
fn a_page_that_cannot_be_written_is_kept_and_the_flush_says_why() {
    let cluster = Cluster::start(1, 8);
    put_full_device(&cluster);
    let handle = cluster.handle(0);
    assert_eq!(add_one(&handle, 5), Ok(1));
    for _ in 0..2 {
        let error = cluster.nodes[0].flush().expect_err("no space");
        assert!(error.contains("16384") && error.contains("No space left"), "{error}");
    }
    assert_eq!(add_one(&handle, 5), Ok(2), "nothing is lost");
}

#[test]
fn a_cache_full_of_pages_that_cannot_be_written_refuses_more_but_serves_what_it_has() {
    let cluster = Cluster::with(1, 8, |config| config.acquire_timeout_ms = 300);
    put_full_device(&cluster);
    let handle = cluster.handle(0);
    let mut held = 0;
    let refused = loop {
        match add_one(&handle, held) {
            Ok(_) => held += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AcquireError::Deadline { .. }), "{refused}");
    assert!((1..=SMALL_CACHE).contains(&held), "{held}");
    for block in 0..held {
        assert_eq!(read_counter(&handle, block), Ok(1));
    }
}

#[test]
fn a_page_read_by_all_is_changed_by_one_and_seen_by_all() {
    let cluster = Cluster::start(3, 4);
    let handles: Vec<_> = (0..3).map(|node| cluster.handle(node)).collect();
    for round in 0..50u64 {
        for handle in &handles {
            assert_eq!(read_counter(handle, 1), Ok(round));
        }
        let writer = usize::try_from(round % 3).expect("small");
        assert_eq!(add_one(&handles[writer], 1), Ok(round + 1));
    }
    // Each round two others lack the page: nothing is shipped to the one that upgrades.
    assert_eq!(cluster.sum(|c| c.pages_shipped.get()), 2 * 50);
}

#[test]
fn the_duty_to_write_a_changed_page_goes_with_the_page() {
    let cluster = Cluster::start(3, 6);
    let handles: Vec<_> = (0..3).map(|node| cluster.handle(node)).collect();
    for block in 0..6 {
        assert_eq!(add_one(&handles[block as usize % 3], block), Ok(1));
    }
    for block in 0..6 {
        let (reader, taker) =
            (&handles[(block as usize + 1) % 3], &handles[(block as usize + 2) % 3]);
        if block % 2 == 0 {
            assert_eq!(read_counter(reader, block), Ok(1));
            assert_eq!(read_counter(taker, block), Ok(1));
        }
        // Exclusive, so all others lose it, and yet not changed: it is dirty all the same.
        assert_eq!(counter(&taker.write(tag(block)).expect("an X grant")), 1);
    }
    cluster.flush();
    assert_file_holds(&cluster.file(), &[1; 6]);
}

#[test]
fn guards_on_two_pages_in_tag_order_never_wait_for_each_other_for_good() {
    const PAGES: u32 = 12;
    let cluster = Cluster::start(3, PAGES);
    thread::scope(|scope| {
        for worker in 0..9usize {
            let handle = cluster.handle(worker % 3);
            scope.spawn(move || {
                let mut state = worker as u64 + 99;
                for _ in 0..300 {
                    let (a, b) = (random(&mut state) % PAGES, random(&mut state) % PAGES);
                    if a == b {
                        continue;
                    }
                    let mut low = handle.write(tag(a.min(b))).expect("an X grant");
                    let mut high = handle.write(tag(a.max(b))).expect("an X grant");
                    let (give, take) =
                        (counter(&low).wrapping_sub(1), counter(&high).wrapping_add(1));
                    low.update(|page| set_counter(page, give));
                    high.update(|page| set_counter(page, take));
                }
            });
        }
    });
    cluster.flush();
    let pages = read_pages(&cluster.file(), 0);
    let total = pages.iter().fold(0u64, |sum, (_, page)| sum.wrapping_add(counter(page)));
    assert_eq!(total, 0, "what one page lost, another has");
}

#[test]
fn an_instance_alone_needs_nobody() {
    let cluster = Cluster::start(1, 4);
    cluster.nodes[0].wait_for_peers(Duration::ZERO).expect("there are none");
    assert_eq!(add_one(&cluster.handle(0), 0), Ok(1));
}

#[test]
fn a_node_serves_many_handles_one_after_the_other() {
    let cluster = Cluster::start(2, 64);
    for round in 0..200u64 {
        let handle = cluster.handle(usize::try_from(round % 2).expect("small"));
        assert_eq!(add_one(&handle, 0), Ok(round + 1));
    }
}
