//! Steady state allocates nothing: grants with pages between two instances, over real sockets.

use pagewire_node::{Handle, NodeConfig, Shard, view::View};
use pagewire_protocol::{BufferTag, ClusterId, Epoch, Fork, InstanceId, Mode, PageSize, page};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

const BLOCKS: u32 = 64;

fn tag(block: u32) -> BufferTag {
    BufferTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main, block }
}

fn relation(folder: &Path) {
    std::fs::create_dir_all(folder.join("base/5")).unwrap();
    let mut file = Vec::new();
    for block in 0..BLOCKS {
        let mut bytes = vec![0; PageSize::K8.bytes()];
        page::init(&mut bytes);
        let checksum = page::checksum(&bytes, block);
        page::set_checksum(&mut bytes, checksum);
        file.extend(bytes);
    }
    std::fs::write(folder.join("base/5/16384"), file).unwrap();
}

fn pair(folder: &Path) -> [Shard; 2] {
    let members = vec![InstanceId(0), InstanceId(1)];
    let mut shards = [0, 1].map(|id| {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let storage = folder.to_owned();
        let config =
            NodeConfig::new(ClusterId(1), InstanceId(id), members.clone(), listen, storage);
        Shard::new(&NodeConfig { huge_pages: false, arena_mb: 8, ..config }).unwrap()
    });
    let addresses = [shards[0].listen_address(), shards[1].listen_address()];
    shards[0].add_peer(InstanceId(1), addresses[1]).unwrap();
    shards[1].add_peer(InstanceId(0), addresses[0]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while shards.iter().any(|shard| shard.peers_up() == 0) {
        assert!(Instant::now() < deadline, "no session");
        for shard in &mut shards {
            shard.poll();
        }
    }
    shards
}

/// Takes `tag` in `mode` for `handle`; under X the page is changed.
fn take(shards: &mut [Shard; 2], handle: &Handle, tag: BufferTag, mode: Mode) {
    handle.begin(tag, mode);
    for _ in 0..10_000_000u64 {
        for shard in &mut *shards {
            shard.poll();
        }
        if mode == Mode::S {
            if let Some(granted) = handle.finish_read() {
                drop(granted.unwrap());
                return;
            }
        } else if let Some(granted) = handle.finish_write() {
            let mut page = granted.unwrap();
            page.update(|page| page[100] = page[100].wrapping_add(1)).unwrap();
            return;
        }
    }
    panic!("page {tag} was not granted in {mode}");
}

#[test]
fn a_grant_with_its_page_allocates_nothing_in_steady_state() {
    let folder = tempfile::tempdir().unwrap();
    relation(folder.path());
    let mut shards = pair(folder.path());
    let handles = [shards[0].handle(), shards[1].handle()];
    let view = View::new(Epoch(1), vec![InstanceId(0), InstanceId(1)]).unwrap();
    let mastered = |id| (0..BLOCKS).filter(move |b| view.master(&tag(*b)) == InstanceId(id));
    assert!(mastered.clone()(0).count() > 5 && mastered.clone()(1).count() > 5, "both ways");
    let mut round = |rounds: u32| {
        for round in 0..rounds {
            for block in 0..BLOCKS {
                // From one to the other and back: ship for S, upgrade, ship for X.
                take(&mut shards, &handles[0], tag(block), Mode::X);
                take(&mut shards, &handles[1], tag(block), Mode::S);
                if round % 2 == 0 {
                    take(&mut shards, &handles[1], tag(block), Mode::X);
                }
            }
        }
    };
    round(40);
    let counted = allocation_counter::measure(|| round(40));
    assert_eq!(counted.count_total, 0, "allocations in 40 rounds over {BLOCKS} pages");
}
