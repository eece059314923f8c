//! Storage that fails, deadlines and nodes that stop: what threads are told, and what goes on.

mod support;

use pagewire_node::{NodeConfig, grd::AcquireError, view::View};
use pagewire_protocol::{BufferTag, Epoch, InstanceId, Lsn};
use std::{sync::mpsc, thread};
use support::{
    cluster::{Cluster, SMALL_CACHE, add_one, read_counter},
    pages::{PAGE_BYTES, counter, read_pages, set_counter, sound_page, tag},
    process::{PATIENCE, wait_for},
};

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
    let missing = BufferTag { relation: 99, ..tag(0) };
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
    guard.update(|page| set_counter(page, 5)).expect("a lease");
    assert_eq!(counter(&guard), 5);
    drop(guard);
    let asked = handle.read(tag(1)).map(drop);
    assert_eq!(asked, Err(AcquireError::Stopped { tag: tag(1) }));
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
