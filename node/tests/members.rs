//! Members that come and go: nothing is lost, nobody fails, and what a dead one leaves is cleared.

mod support;

use pagewire_node::{
    grd::AcquireError,
    runtime::{Flushed, RedoLog},
};
use pagewire_protocol::{InstanceId, Lsn};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use support::{
    cluster::{add_one, assert_file_holds, read_counter},
    moving::Moving,
    pages::{counter, set_counter, tag},
    process::{PATIENCE, wait_for},
};

const LIMIT: Duration = Duration::from_secs(10);

/// Threads that add to pages at random until they are told to stop; the sums of what they added.
struct Workers<'s, 'e> {
    scope: &'s thread::Scope<'s, 'e>,
    added: &'e [AtomicU64],
}

struct Worker<'s> {
    stop: Arc<AtomicBool>,
    thread: thread::ScopedJoinHandle<'s, u64>,
}

impl<'s> Workers<'s, '_> {
    fn start(&self, moving: &Moving, node: u16, seed: u64) -> Worker<'s> {
        let (handle, stop) = (moving.handle(node), Arc::<AtomicBool>::default());
        let (added, stopped) = (self.added, Arc::clone(&stop));
        let thread = self.scope.spawn(move || {
            let mut random = pagewire_node::random::Random::new(seed);
            let mut done = 0;
            while !stopped.load(Ordering::Relaxed) {
                let block = random.below(u32::try_from(added.len()).expect("few"));
                if random.percent(60) {
                    add_one(&handle, block).expect("an X grant");
                    added[block as usize].fetch_add(1, Ordering::SeqCst);
                } else {
                    let before = added[block as usize].load(Ordering::SeqCst);
                    let found = read_counter(&handle, block).expect("an S grant");
                    assert!(found >= before, "block {block}: {found} after {before}");
                }
                done += 1;
            }
            done
        });
        Worker { stop, thread }
    }
}

impl Worker<'_> {
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no request failed")
    }
}

/// `pages` pages under load, while an instance joins and one leaves, `rounds` times.
fn come_and_go(pages: u32, rounds: u16, adjust: fn(&mut pagewire_node::NodeConfig)) {
    let mut moving = Moving::start(3, pages, adjust);
    let added: Vec<AtomicU64> = (0..pages).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let workers = Workers { scope, added: &added };
        let mut at_work: Vec<_> =
            (0..3).map(|node| (node, workers.start(&moving, node, u64::from(node) + 1))).collect();
        for round in 0..rounds {
            let (comes, goes) = (3 + round, round);
            moving.join(comes);
            at_work.push((comes, workers.start(&moving, comes, u64::from(comes) + 10)));
            moving.begin_leaving(goes);
            let at = at_work.iter().position(|(node, _)| *node == goes).expect("at work");
            assert!(at_work.remove(at).1.end() > 0, "instance {goes} worked until it was stopped");
            moving.end_leaving(goes);
        }
        for (node, worker) in at_work {
            assert!(worker.end() > 0, "instance {node} works");
        }
    });
    moving.flush();
    let expected: Vec<_> = added.into_iter().map(AtomicU64::into_inner).collect();
    assert_file_holds(&moving.file(), &expected);
    for node in moving.nodes.values() {
        let counters = node.counters();
        assert_eq!((counters.bad_messages.get(), counters.protocol_errors.get()), (0, 0));
    }
}

#[test]
fn no_request_fails_and_no_update_is_lost_while_instances_join_and_leave() {
    come_and_go(120, 3, |_| {});
}

#[test]
fn the_same_with_two_shards_each() {
    come_and_go(120, 2, |config| (config.shards, config.cache_pages) = (2, Some(64)));
}

#[test]
fn an_instance_that_has_left_is_missed_by_nobody() {
    let mut moving = Moving::start(3, 60, |_| {});
    let leaver = moving.handle(1);
    for block in 0..60 {
        add_one(&leaver, block).expect("an X grant");
    }
    drop(leaver);
    moving.begin_leaving(1);
    moving.end_leaving(1);
    for node in [0, 2] {
        let handle = moving.handle(node);
        for block in 0..60 {
            assert_eq!(read_counter(&handle, block), Ok(1), "block {block} at instance {node}");
        }
    }
    let stats: Vec<_> = [0, 2].map(|id| moving.stat(id).expect("an answer")).to_vec();
    assert_eq!(stats.iter().map(|stat| u32::from(stat.partitions)).sum::<u32>(), 4096);
}

#[test]
fn the_lease_ends_hits_guards_requests_and_storage() {
    let moving = Moving::start(2, 8, |_| {});
    let handle = moving.handle(0);
    for block in 0..4 {
        add_one(&handle, block).expect("an X grant");
    }
    moving.flush();
    let reading = handle.read(tag(0)).expect("held");
    let mut writing = handle.write(tag(1)).expect("held");
    writing.update(|page| set_counter(page, 7)).expect("a lease");
    moving.nodes[&0].end_lease().expect("a node");
    assert!(reading.page().is_err() && reading.is_empty());
    assert!(writing.page().is_err() && writing.update(|page| set_counter(page, 8)).is_err());
    drop((reading, writing));
    assert!(handle.try_read(&tag(2)).is_none() && handle.try_write(&tag(3)).is_none());
    for block in [2, 6] {
        let error = handle.read(tag(block)).map(drop).expect_err("no lease");
        assert_eq!(error, AcquireError::LeaseExpired { tag: tag(block) });
    }
    assert!(moving.nodes[&0].flush().is_err(), "nothing is written any more");
    assert_file_holds(&moving.file(), &[1, 1, 1, 1, 0, 0, 0, 0]);
}

#[test]
fn whoever_waits_when_the_lease_ends_is_told() {
    let moving = Moving::start(2, 8, |_| {});
    let (mine, other) = (moving.handle(0), moving.handle(1));
    let held = other.write(tag(1)).expect("an X grant");
    thread::scope(|scope| {
        let waits = scope.spawn(move || mine.read(tag(1)).map(drop));
        wait_for("a request", || moving.stat(0).is_some_and(|stat| stat.requests == 1));
        moving.nodes[&0].end_lease().expect("a node");
        let error = waits.join().expect("no panic").expect_err("no lease");
        assert_eq!(error, AcquireError::LeaseExpired { tag: tag(1) });
    });
    drop(held);
}

#[test]
fn a_deadline_leaves_nothing_behind_on_either_side() {
    let moving = Moving::start(3, 8, |config| config.acquire_timeout_ms = 200);
    let (holder, other) = (moving.handle(0), moving.handle(1));
    let held = holder.write(tag(1)).expect("an X grant");
    // One waits at the holder, one in the master's queue behind it.
    thread::scope(|scope| {
        let second = moving.handle(2);
        let late = |handle: &pagewire_node::Handle| {
            let error = handle.write(tag(1)).map(drop).expect_err("held all the time");
            assert_eq!(error, AcquireError::Deadline { tag: tag(1), limit_ms: 200 });
        };
        scope.spawn(move || late(&second));
        late(&other);
    });
    drop(held);
    wait_for("nothing is left", || {
        let page = moving.nodes[&1].page_stat(tag(1), LIMIT);
        let is_quiet = page.is_ok_and(|(_, page)| page.queued == 0 && !page.converting);
        is_quiet && (0..3).all(|id| moving.stat(id).is_some_and(|stat| stat.requests == 0))
    });
    for node in 0..3 {
        assert_eq!(add_one(&moving.handle(node), 1), Ok(u64::from(node) + 1));
    }
}

#[test]
fn requests_that_wait_for_a_dead_master_go_on_at_the_new_one() {
    let mut moving = Moving::start(3, 200, |_| {});
    // Held by a survivor and mastered by the one that dies; and one that nobody has.
    let held = moving.block_of(2, 0, tag);
    let fresh = moving.block_of(2, held + 1, tag);
    add_one(&moving.handle(0), held).expect("an X grant");
    let (one, other) = (moving.handle(1), moving.handle(1));
    let dead = moving.kill(2);
    thread::scope(|scope| {
        let (told, answers) = mpsc::channel();
        for (handle, block) in [(one, held), (other, fresh)] {
            let told = told.clone();
            scope.spawn(move || {
                let answer = read_counter(&handle, block);
                told.send((block, answer)).expect("somebody waits");
            });
        }
        wait_for("both requests", || moving.stat(1).is_some_and(|stat| stat.requests == 2));
        moving.bury(dead);
        assert_eq!(answers.recv_timeout(PATIENCE), Ok((held, Ok(1))), "a survivor has it");
        // What the dead one alone may have changed waits for its redo.
        let stat = moving.nodes[&1].page_stat(tag(fresh), LIMIT);
        assert!(stat.is_ok_and(|(_, page)| page.lost || page.queued > 0 || !page.known));
        moving.redo_done(dead);
        assert_eq!(answers.recv_timeout(PATIENCE), Ok((fresh, Ok(0))));
    });
}

#[test]
fn a_dead_instance_may_come_back_in_a_new_life() {
    let mut moving = Moving::start(3, 40, |_| {});
    for block in 0..40 {
        add_one(&moving.handle(0), block).expect("an X grant");
    }
    let dead = moving.kill(2);
    moving.bury(dead);
    moving.redo_done(dead);
    moving.join(2);
    let back = moving.handle(2);
    for block in 0..40 {
        assert_eq!(add_one(&back, block), Ok(2), "block {block}");
    }
    moving.flush();
    assert_file_holds(&moving.file(), &[2; 40]);
}

#[test]
fn members_whose_views_contradict_each_other_take_nothing_of_each_other() {
    let moving = Moving::start(3, 8, |config| config.acquire_timeout_ms = 300);
    // One membership layer says that instance 2 is about to go, another one that instance 1 is.
    let views = [2, 1].map(|leaver| {
        let mut members = moving.view.members().to_vec();
        members.iter_mut().filter(|m| m.id.0 == leaver).for_each(|m| m.leaving = true);
        Arc::new(moving.view.next(members, Vec::new()).expect("a view"))
    });
    for (node, view) in [(0, &views[0]), (2, &views[0]), (1, &views[1])] {
        moving.nodes[&node].install_view(view, &[]).expect("a view that is taken");
    }
    let contradicted = |id: u16| moving.nodes[&id].counters().views_contradicted.get() > 0;
    wait_for("all that are concerned notice", || (0..3).all(contradicted));
    let block = (0..8).find(|block| views[1].master(&tag(*block)) == InstanceId(0));
    let error = add_one(&moving.handle(1), block.expect("one")).expect_err("nobody answers");
    assert!(matches!(error, AcquireError::Deadline { .. }), "{error}");
}

/// A log that becomes durable when the test says so.
#[derive(Debug, Default)]
struct SlowLog(Mutex<Vec<(Lsn, Flushed)>>);

impl RedoLog for SlowLog {
    fn flush(&self, to: Lsn, done: Flushed) {
        self.0.lock().expect("not poisoned").push((to, done));
    }
}

#[test]
fn a_page_leaves_only_when_its_redo_is_durable() {
    let mut moving = Moving::start(1, 8, |_| {});
    let log = Arc::new(SlowLog::default());
    moving.join_with(1, &(Arc::clone(&log) as _));
    let (writer, reader) = (moving.handle(1), moving.handle(0));
    let mut page = writer.write(tag(1)).expect("an X grant");
    page.update_logged(Lsn(500), |page| set_counter(page, 3)).expect("a lease");
    page.update_logged(Lsn(400), |page| set_counter(page, 4)).expect("a lease");
    drop(page);
    thread::scope(|scope| {
        let reads = scope.spawn(move || reader.read(tag(1)).map(|page| counter(&page)));
        wait_for("the log is asked", || !log.0.lock().expect("not poisoned").is_empty());
        assert!(!reads.is_finished(), "its redo is not durable");
        let asked = std::mem::take(&mut *log.0.lock().expect("not poisoned"));
        assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [Lsn(500)]);
        asked.into_iter().for_each(|(to, done)| done.durable(to));
        assert_eq!(reads.join().expect("no panic"), Ok(4));
    });
}

#[test]
fn a_past_image_is_kept_until_a_newer_version_is_on_storage() {
    let moving = Moving::start(2, 8, |_| {});
    add_one(&moving.handle(0), 1).expect("an X grant");
    add_one(&moving.handle(1), 1).expect("an X grant");
    let past = |id| moving.stat(id).map(|stat| stat.past_images);
    wait_for("a past image", || past(0) == Some(1));
    let (_, page) = moving.nodes[&0].page_stat(tag(1), LIMIT).expect("its master answers");
    assert_eq!((page.past_images, page.owner), (1, Some(InstanceId(1))), "{page:?}");
    assert!(page.exclusive && page.known && page.holders == 2, "{page:?}");
    moving.nodes[&1].flush().expect("written back");
    wait_for("the past image to go", || past(0) == Some(0));
    assert_file_holds(&moving.file(), &[0, 2, 0, 0, 0, 0, 0, 0]);
}
