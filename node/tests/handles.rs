//! Handles that come and go, and requests that nobody waits for any more: what they were granted is
//! given back, and nobody else gets their answers.

mod support;

use pagewire_node::{Handle, NodeConfig, Shard};
use pagewire_protocol::{ClusterId, InstanceId, Mode};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Instant,
};
use support::{
    pages::{counter, set_counter, storage, tag},
    process::PATIENCE,
};

/// More than a number of 16 bits tells apart.
const MANY: u32 = 70_000;
const PAGES: u32 = 16;

/// An instance without peers that the test drives itself.
fn shard(folder: &Path) -> Shard {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let me = InstanceId(0);
    let mut config = NodeConfig::new(ClusterId(79), me, vec![me], any_port, folder.to_owned());
    (config.arena_mb, config.huge_pages, config.io_threads) = (8, false, 1);
    Shard::new(&config).expect("a shard")
}

/// Lets the shard work until `done` gives something.
fn until<T>(shard: &mut Shard, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "nothing comes of it");
        shard.poll();
        if let Some(found) = done() {
            return found;
        }
    }
}

/// Each page of its own number, held in X and pinned by nobody.
fn numbered(shard: &mut Shard) {
    let handle = shard.handle();
    for block in 0..PAGES {
        write(shard, &handle, block, u64::from(block) + 100);
    }
}

fn write(shard: &mut Shard, handle: &Handle, block: u32, value: u64) {
    handle.begin(tag(block), Mode::X);
    let mut page = until(shard, || handle.finish_write()).expect("a grant");
    page.update(|bytes| set_counter(bytes, value)).expect("a lease");
}

/// Every page can be had for writing: nobody has it pinned.
fn assert_unpinned(shard: &mut Shard) {
    let handle = shard.handle();
    for block in 0..PAGES {
        handle.begin(tag(block), Mode::X);
        until(shard, || handle.finish_write()).map(drop).expect("a grant");
    }
}

#[test]
fn however_many_handles_there_have_been_a_new_one_gets_its_own_answers() {
    let folder = storage(PAGES);
    let mut shard = shard(folder.path());
    let first = shard.handle();
    for number in 0..MANY {
        drop(shard.handle());
        if number % 64 == 0 {
            shard.poll();
        }
    }
    let last = shard.handle();
    last.begin(tag(1), Mode::S);
    until(&mut shard, || last.finish_read()).map(drop).expect("a grant");
    assert!(first.finish_read().is_none(), "it has asked for nothing");
}

#[test]
fn what_a_handle_asked_for_that_has_gone_is_pinned_by_nobody() {
    let folder = storage(PAGES);
    let mut shard = shard(folder.path());
    numbered(&mut shard);
    for mode in [Mode::S, Mode::X] {
        // Before the shard has heard of the request.
        let goes = shard.handle();
        goes.begin(tag(0), mode);
        drop(goes);
        // With the answer on its way.
        let goes = shard.handle();
        goes.begin(tag(1), mode);
        shard.poll();
        drop(goes);
        // While the request waits for a guard.
        let stays = shard.handle();
        let guard = stays.try_write(&tag(2)).expect("held in X");
        let goes = shard.handle();
        goes.begin(tag(2), mode);
        shard.poll();
        drop(goes);
        shard.poll();
        drop(guard);
        // While the page is read from storage, where there is none: the answer is a failure.
        let goes = shard.handle();
        goes.begin(tag(PAGES), mode);
        shard.poll();
        drop(goes);
        assert_unpinned(&mut shard);
    }
}

#[test]
fn a_request_takes_the_place_of_those_that_nobody_finished() {
    let folder = storage(PAGES);
    let mut shard = shard(folder.path());
    numbered(&mut shard);
    let handle = shard.handle();
    for polls in [0, 1, 2] {
        for block in 0..PAGES {
            handle.begin(tag(block), if block % 2 == 0 { Mode::S } else { Mode::X });
            for _ in 0..polls {
                shard.poll();
            }
        }
        let page = until(&mut shard, || handle.finish_write()).expect("a grant");
        assert_eq!(counter(&page), u64::from(PAGES) + 99, "that of the last request");
        drop(page);
        assert!(handle.finish_read().is_none(), "it has been taken");
        assert_unpinned(&mut shard);
    }
    // One that failed is no answer to the next.
    handle.begin(tag(PAGES), Mode::S);
    for _ in 0..100 {
        shard.poll();
    }
    handle.begin(tag(3), Mode::S);
    let page = until(&mut shard, || handle.finish_read()).expect("a grant");
    assert_eq!(counter(&page), 103);
}

#[test]
fn a_change_that_panics_has_not_happened() {
    let folder = storage(PAGES);
    let mut shard = shard(folder.path());
    numbered(&mut shard);
    let handle = shard.handle();
    let mut guard = handle.try_write(&tag(4)).expect("held in X");
    let before = guard.to_vec();
    let half_done = catch_unwind(AssertUnwindSafe(|| {
        guard.update(|bytes| {
            set_counter(bytes, 7);
            panic!("half done");
        })
    }));
    assert!(half_done.is_err());
    assert_eq!(*guard, before, "its bytes, and its version with them");
    drop(guard);
    // The same where the guard goes with the panic.
    let half_done = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = handle.try_write(&tag(4)).expect("nobody has it pinned");
        let _ = guard.update(|bytes| {
            bytes.fill(1);
            panic!("half done");
        });
    }));
    assert!(half_done.is_err());
    assert_eq!(*handle.try_read(&tag(4)).expect("nobody has it pinned"), before);
    write(&mut shard, &handle, 4, 8);
    assert_unpinned(&mut shard);
}
