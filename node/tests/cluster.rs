//! Three instances in one process, with caches too small for the relation, over real sockets and a
//! real page file.
//!
//! Each page holds a counter. What the threads have added is counted beside it; after a flush the
//! file must hold exactly that, with right checksums.

mod support;

use pagewire_node::{Node, NodeConfig, NodeError, random::Random};
use pagewire_protocol::{ClusterId, InstanceId, Lsn, page};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use support::{
    cluster::{Cluster, SMALL_CACHE, add_one, assert_file_holds, read_counter},
    pages::{counter, read_pages, set_counter, storage, tag},
    process::{PATIENCE, wait_for},
};

/// Nine threads of three instances add to and read `pages` pages at random; then asserts that the
/// file holds what they have added.
fn hammer(cluster: &Cluster, pages: u32, rounds: u32) {
    let added: Vec<AtomicU64> = (0..pages).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for worker in 0..9usize {
            let handle = cluster.handle(worker % 3);
            let added = &added;
            scope.spawn(move || {
                let mut random = Random::new(worker as u64 + 1);
                for _ in 0..rounds {
                    let block = random.below(pages);
                    let expected = added[block as usize].load(Ordering::SeqCst);
                    if random.percent(50) {
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
        let version =
            handle.write(tag(block)).expect("an X grant").update(|_| {}).expect("a lease");
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
        let version = page.update(|page| set_counter(page, 1)).expect("a lease");
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
fn a_flush_ends_while_threads_go_on_writing() {
    let cluster = Cluster::start(2, 16);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..4usize {
            let handle = cluster.handle(worker % 2);
            let stop = &stop;
            scope.spawn(move || {
                let mut random = Random::new(worker as u64);
                while !stop.load(Ordering::Relaxed) {
                    add_one(&handle, random.below(16)).expect("an X grant");
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
                let mut random = Random::new(worker as u64 + 99);
                for _ in 0..300 {
                    let (a, b) = (random.below(PAGES), random.below(PAGES));
                    if a == b {
                        continue;
                    }
                    let mut low = handle.write(tag(a.min(b))).expect("an X grant");
                    let mut high = handle.write(tag(a.max(b))).expect("an X grant");
                    let (give, take) =
                        (counter(&low).wrapping_sub(1), counter(&high).wrapping_add(1));
                    low.update(|page| set_counter(page, give)).expect("a lease");
                    high.update(|page| set_counter(page, take)).expect("a lease");
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
