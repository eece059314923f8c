//! `move --nodes` and `rebuild --nodes`: the same with whole nodes, in one process, over loopback.
//!
//! Sessions, sockets, shards, storage and handles are in it, and all instances share the processors of
//! this host: a request that waits may wait for a processor, before the view changes as well as
//! meanwhile. Pages have 4 KiB, and each is cached by the instance that read it first.

use super::{Args, CALM, Change, GOES, INSTANCES, LIMIT, Stretch, report::NodeFigures, tag};
use crate::{error::BenchError, relation::Relation, report::Report, stats::Samples};
use pagewire_node::{
    Handle, Node, NodeConfig, NodeError,
    random::Random,
    view::{Member, View},
};
use pagewire_protocol::{Epoch, Incarnation, InstanceId, PageSize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

/// Frames of each instance beside those for its pages: for its peers, and for what others give it.
const SPARE_FRAMES: u32 = 8192;
/// Longest time in which all pages are read.
const POPULATE_LIMIT: Duration = Duration::from_secs(300);
/// How often it is asked whether the partitions are usable.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// When a request was made.
const BEFORE: u32 = 0;
const DURING: u32 = 1;
const AFTER: u32 = 2;
const STOP: u32 = 3;

/// Requests by stretch, and how many were refused.
type Requests = ([Samples; 3], u64);

/// Runs it and prints it.
///
/// # Errors
/// [`BenchError`].
pub(super) fn run(args: &Args, change: Change) -> Result<(), BenchError> {
    let relation = Relation::sparse(args.pages, PageSize::K4)?;
    let mut nodes = start(&relation, args.pages)?;
    let begin = Instant::now();
    populate(&nodes, args.pages)?;
    let populated = begin.elapsed();
    let phase = AtomicU32::new(BEFORE);
    let mut took = [Duration::ZERO; 3];
    let (requests, partitions) = thread::scope(|scope| {
        let clients = start_clients(scope, &nodes, args, change, &phase);
        let changed = clients.and_then(|clients| {
            let changed = watch(&mut nodes, change, &phase, &mut took);
            phase.store(STOP, Ordering::SeqCst);
            Ok((join(clients)?, changed?))
        });
        phase.store(STOP, Ordering::SeqCst);
        changed
    })?;
    let ([before, during, after], failed) = requests;
    let stretch = |requests, took| Stretch { requests, took };
    let [before, during, after] =
        [stretch(before, took[0]), stretch(during, took[1]), stretch(after, took[2])];
    NodeFigures { args, change, populated, partitions, before, during, after, failed }
        .print(args.json)
}

/// All instances, linked.
fn start(relation: &Relation, pages: u32) -> Result<Vec<Node>, BenchError> {
    let incarnation = |id: u16| Incarnation(u64::from(id) + 1);
    let member = |id| Member { id: InstanceId(id), incarnation: incarnation(id), leaving: false };
    let view = View::first(Epoch(1), (0..INSTANCES).map(member).collect());
    let view = Arc::new(view.map_err(NodeError::from)?);
    let each = pages.div_ceil(u32::from(INSTANCES));
    let node = |id: u16| {
        let config = relation.config(id, INSTANCES, each);
        let frames_per_mb = (1 << 20) / PageSize::K4.bytes_u32();
        Node::start(&NodeConfig {
            page_size: PageSize::K4,
            arena_mb: (each + each / 4 + SPARE_FRAMES).div_ceil(frames_per_mb),
            members: vec![InstanceId(id)],
            members_max: Some(INSTANCES),
            first_view: Some(Arc::clone(&view)),
            incarnation: Some(incarnation(id)),
            ..config
        })
    };
    let nodes = (0..INSTANCES).map(node).collect::<Result<Vec<_>, _>>()?;
    for (id, node) in (0..).zip(&nodes) {
        for (other, peer) in (0..).zip(&nodes).filter(|(other, _)| *other != id) {
            node.add_peer(InstanceId(other), peer.listen_address())?;
        }
    }
    nodes.iter().try_for_each(|node| node.wait_for_peers(LIMIT))?;
    Ok(nodes)
}

/// Every instance reads its share of the pages, so that it is the one that caches them.
fn populate(nodes: &[Node], pages: u32) -> Result<(), BenchError> {
    let deadline = Instant::now() + POPULATE_LIMIT;
    let read = |at: u32, handle: &Handle| {
        for block in (at..pages).step_by(nodes.len()) {
            drop(handle.write(tag(block))?);
            if Instant::now() >= deadline {
                let (what, limit) = ("the pages to be cached", POPULATE_LIMIT);
                return Err(BenchError::Deadline { what, limit });
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let reading = (0..).zip(nodes).map(|(at, node)| {
            let handle = node.handle()?;
            Ok(scope.spawn(move || read(at, &handle)))
        });
        let reading: Vec<_> = reading.collect::<Result<_, BenchError>>()?;
        reading.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or(Err(BenchError::OtherEnd { what: "the pages to be cached" }))
        })
    })
}

type Client<'s> = ScopedJoinHandle<'s, Requests>;

fn start_clients<'s, 'e: 's>(
    scope: &'s thread::Scope<'s, 'e>,
    nodes: &[Node],
    args: &'e Args,
    change: Change,
    phase: &'e AtomicU32,
) -> Result<Vec<Client<'s>>, BenchError> {
    let mut clients = Vec::new();
    for (id, node) in (0..).zip(nodes) {
        // Who is about to die asks for nothing: what it took from others would wait for its redo.
        if change == Change::Crash && InstanceId(id) == GOES {
            continue;
        }
        for number in 0..args.clients {
            let handle = node.handle()?;
            let random = Random::new(u64::from(id) << 32 | u64::from(number));
            clients.push(scope.spawn(move || ask(&handle, random, args.pages, change, phase)));
        }
    }
    Ok(clients)
}

/// One client: page after page, until it is told to stop. A request counts to the stretch in which
/// the view changed if it was under way at any moment of it.
fn ask(
    handle: &Handle,
    mut random: Random,
    pages: u32,
    change: Change,
    phase: &AtomicU32,
) -> Requests {
    let mut requests = ([Samples::new(), Samples::new(), Samples::new()], 0);
    loop {
        let asked_in = phase.load(Ordering::SeqCst);
        if asked_in == STOP {
            return requests;
        }
        let block = random.below(pages);
        if change == Change::Crash && block % u32::from(INSTANCES) == u32::from(GOES.0) {
            continue;
        }
        let start = Instant::now();
        let granted = if random.percent(50) {
            handle.read(tag(block)).map(drop)
        } else {
            handle.write(tag(block)).map(drop)
        };
        let took = start.elapsed();
        let has_it_in = phase.load(Ordering::SeqCst);
        match granted {
            Err(_) if has_it_in != STOP => requests.1 += 1,
            Err(_) => {}
            Ok(()) => {
                let stretch = if asked_in == has_it_in { asked_in } else { DURING };
                requests.0[stretch as usize].record(took);
            }
        }
    }
}

fn join(clients: Vec<Client<'_>>) -> Result<Requests, BenchError> {
    let mut all = ([Samples::new(), Samples::new(), Samples::new()], 0);
    for client in clients {
        let lost = |_| BenchError::OtherEnd { what: "the clients to end" };
        let (samples, failed) = client.join().map_err(lost)?;
        all.0.iter_mut().zip(&samples).for_each(|(all, samples)| all.merge(samples));
        all.1 += failed;
    }
    Ok(all)
}

/// Lets the clients work, changes the view, and lets them work on. How many partitions changed.
fn watch(
    nodes: &mut Vec<Node>,
    change: Change,
    phase: &AtomicU32,
    took: &mut [Duration; 3],
) -> Result<usize, BenchError> {
    thread::sleep(CALM);
    took[0] = CALM;
    let old = nodes[0].view();
    let mut members = old.members().to_vec();
    let mut dead = Vec::new();
    if change == Change::Crash {
        dead.extend(members.iter().filter(|m| m.id == GOES).map(Member::life));
        members.retain(|member| member.id != GOES);
        drop(nodes.pop());
    } else {
        members.iter_mut().filter(|m| m.id == GOES).for_each(|m| m.leaving = true);
    }
    let view = Arc::new(old.next(members, dead).map_err(NodeError::from)?);
    phase.store(DURING, Ordering::SeqCst);
    let begin = Instant::now();
    // All hear of it at once, as from a membership layer.
    let view_of_all = &view;
    thread::scope(|scope| {
        let mut installing = Vec::new();
        for node in nodes.iter() {
            installing.push(scope.spawn(move || node.install_view(view_of_all, &[])));
        }
        installing.into_iter().try_for_each(|thread| {
            let lost = |_| BenchError::OtherEnd { what: "the view to be in force" };
            Ok::<_, BenchError>(thread.join().map_err(lost)??)
        })
    })?;
    let loading = |nodes: &[Node]| {
        nodes.iter().try_fold(0, |sum, node| node.partitions_loading().map(|loading| sum + loading))
    };
    while loading(nodes)? > 0 {
        if begin.elapsed() > LIMIT {
            let what = "all partitions to be usable again";
            return Err(BenchError::Deadline { what, limit: LIMIT });
        }
        thread::sleep(LOOK_EVERY);
    }
    took[1] = begin.elapsed();
    phase.store(AFTER, Ordering::SeqCst);
    thread::sleep(CALM);
    took[2] = CALM;
    Ok(view.changed(&old).count())
}
