//! Writing everything back: who is told "durable" has everything on storage that was changed before
//! he asked, whatever was under way.

mod support;

use pagewire_node::{NodeConfig, Shard};
use pagewire_protocol::{BufferTag, ClusterId, InstanceId, Mode};
use std::time::Instant;
use support::{
    pages::{counter, read_pages, relation_path, set_counter, storage, tag},
    process::PATIENCE,
};

/// An instance without peers that the test drives itself.
fn shard(folder: &std::path::Path) -> Shard {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let me = InstanceId(0);
    let mut config = NodeConfig::new(ClusterId(78), me, vec![me], any_port, folder.to_owned());
    config.arena_mb = 8;
    config.io_threads = 1;
    Shard::new(&config).expect("a shard")
}

fn until(shard: &mut Shard, mut done: impl FnMut(&mut Shard) -> bool) {
    let start = Instant::now();
    while !done(shard) {
        assert!(start.elapsed() < PATIENCE, "nothing comes of it");
        shard.poll();
    }
}

#[test]
fn a_second_flush_is_not_answered_with_the_sync_of_the_first() {
    let folder = storage(4);
    let mut shard = shard(folder.path());
    let handle = shard.handle();
    let on_storage = |block: u32| {
        let pages = read_pages(&relation_path(folder.path()), 0);
        counter(&pages[block as usize].1)
    };
    let write = |tag: BufferTag, value| {
        let mut page = handle.try_write(&tag).expect("held in X");
        page.update(|bytes| set_counter(bytes, value)).expect("a lease");
    };
    for block in 0..4 {
        handle.begin(tag(block), Mode::X);
        until(&mut shard, |_| handle.finish_write().map(|page| page.expect("X")).is_some());
    }
    let counters = shard.counters();
    // Many times: how far the I/O thread gets between two looks differs.
    for round in 1..=200u64 {
        let before = counters.pages_written.get();
        let (reply, first) = crossbeam_channel::bounded(1);
        write(tag(0), round);
        shard.flush(reply);
        // The turn that takes the page's completion sends the sync on its way, and its answer is
        // not looked at before the next turn.
        until(&mut shard, |_| counters.pages_written.get() == before + 1);
        let (mut rest, mut told) = (Vec::new(), Vec::new());
        for block in 1..4 {
            write(tag(block), round);
            let (reply, answer) = crossbeam_channel::bounded(1);
            shard.flush(reply);
            rest.push(answer);
        }
        until(&mut shard, |_| {
            told.extend(rest.iter().filter_map(|answer| answer.try_recv().ok()));
            told.len() == rest.len()
        });
        assert_eq!(told, vec![Ok(()); 3]);
        assert_eq!(first.try_recv(), Ok(Ok(())), "the first is answered before the others");
        assert_eq!(counters.pages_written.get(), before + 4);
        assert_eq!([0, 1, 2, 3].map(on_storage), [round; 4]);
    }
}
