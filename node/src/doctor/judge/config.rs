//! One configuration against the host.

use super::ranges;
use crate::config::NoKey;
use crate::doctor::{
    facts::HostFacts,
    finding::Finding,
    plan::{KeyFile, Plan, Running, StorageUse, Trial},
    ring::{RingFound, RingPlace},
    socket::{SocketPlace, SocketProblem},
};
use std::{collections::BTreeSet, io, net::SocketAddr, path::Path};

const AREA: &str = "configuration";

pub(super) fn judge(facts: &HostFacts, plan: &Plan) -> Vec<Finding> {
    match &plan.trial {
        None => Vec::new(),
        Some(Trial::Refused(problem)) => {
            let finding = Finding::new(AREA, "configuration file").found(problem);
            vec![finding.expected("a file that `pagewire node` takes").change_if(true, "mend it")]
        }
        Some(Trial::Tried {
            storage,
            storage_use,
            storage_id,
            listen,
            listen_error,
            key,
            no_key,
            socket,
            ring,
            running,
        }) => {
            let mut findings = vec![
                judge_storage(storage, storage_use, *storage_id),
                judge_listen(*listen, plan.shards, listen_error.as_ref(), running),
                cache_pages(plan),
                poller_cores(facts, plan),
                pollers(facts, plan),
            ];
            findings.extend(running.storage_problem.as_deref().map(judge_running_storage));
            findings.extend(key.as_deref().map(judge_key));
            findings.extend(no_key.as_deref().map(judge_no_key));
            findings.extend(socket.as_deref().map(|socket| judge_socket(socket, running)));
            findings.extend(ring.as_deref().map(|ring| judge_ring(ring, running)));
            findings
        }
    }
}

fn judge_storage(folder: &Path, found: &StorageUse, id: Option<u64>) -> Finding {
    let finding = Finding::new(AREA, format!("storage {}", folder.display())).expected(
        "a folder that all instances share, with the same number on all, writable, with O_DIRECT",
    );
    let number = id.map_or("no number before an instance has started there".to_owned(), |id| {
        format!("number {id:016x}")
    });
    match found {
        StorageUse::NotOurs(why) => finding
            .found(why)
            .change_if(true, "name this cluster's folder in `storage`, or do as it says"),
        StorageUse::Direct => finding.found(format!("writable, with O_DIRECT, {number}")),
        StorageUse::Cached => finding.found(format!("writable, without O_DIRECT, {number}")).note_if(
            true,
            "use a file system that has it (not tmpfs or overlay): with instances on several hosts \
             it must",
        ),
        StorageUse::Not { found, change } => finding.found(found).change_if(true, change),
    }
}

/// What the instance has found that runs: its peers' storage, which only it can look for.
fn judge_running_storage(problem: &str) -> Finding {
    let (found, change) = problem.split_once("; ").unwrap_or((problem, "see its log"));
    Finding::new(AREA, "storage of this very instance, which runs")
        .found(found)
        .expected("the folder that it started with, the same on all instances")
        .change_if(true, change)
}

fn judge_listen(
    first: SocketAddr,
    shards: u16,
    error: Option<&(SocketAddr, io::ErrorKind, String)>,
    running: &Running,
) -> Finding {
    let last = first.port().saturating_add(shards.saturating_sub(1));
    let (subject, expected) = match shards {
        0 | 1 => (format!("listen {first}"), "a free port".to_owned()),
        _ => (
            format!("listen {first} to {last}"),
            format!("{shards} free ports in a row, one for each shard"),
        ),
    };
    let expected = format!("an address of this host with {expected}");
    let finding = Finding::new(AREA, subject).expected(expected);
    match error {
        None => finding.found("free"),
        Some((address, io::ErrorKind::AddrInUse, _))
            if running.listen.contains(&address.to_string()) =>
        {
            finding.found("in use by this very instance, which runs")
        }
        Some((address, io::ErrorKind::AddrInUse, why)) => finding
            .found(format!("{address}: {why}"))
            .change_if(true, "stop what uses it (ss -ltnp), or mend `listen`"),
        Some((address, _, why)) => finding
            .found(format!("{address}: {why}"))
            .change_if(true, "choose an address of this host (ip addr)"),
    }
}

fn cache_pages(plan: &Plan) -> Finding {
    let found = match plan.cache_pages {
        None => "none: as many as there is room for".to_owned(),
        Some(found) => found.to_string(),
    };
    let finding = Finding::new(AREA, "cache_pages")
        .found(found)
        .expected(format!("at most {}, which the arena has room for", plan.cache_room));
    match &plan.cache_excess {
        None => finding,
        Some(excess) => finding
            .found(format!("{}: {}", excess.found, excess.used()))
            .note_if(true, excess.change()),
    }
}

fn poller_cores(facts: &HostFacts, plan: &Plan) -> Finding {
    let allowed = &facts.cpu.allowed;
    let finding = Finding::new(AREA, "poller_cores");
    let expected = format!("cores that this process may use: {}", ranges(allowed));
    if plan.poller_cores.is_empty() {
        return finding.found("none: pollers run on any core").expected(expected);
    }
    let wanted: BTreeSet<_> =
        plan.poller_cores.iter().map(|core| u32::try_from(*core).unwrap_or(u32::MAX)).collect();
    let outside: BTreeSet<_> = wanted.difference(allowed).copied().collect();
    let spare = plan.poller_cores.len() > usize::from(plan.shards);
    let as_listed: Vec<_> = plan.poller_cores.iter().map(ToString::to_string).collect();
    let used = &plan.poller_cores[..plan.poller_cores.len().min(plan.shards.into())];
    let is_shared = used.iter().collect::<BTreeSet<_>>().len() < used.len();
    let what_comes_of_it = match plan.spin_us {
        0 => "pollers that share a core wait for each other",
        _ => "two on one core do not spin",
    };
    let finding = finding
        .found(as_listed.join(", "))
        .expected(expected)
        .note_if(
            spare,
            format!("name as many as `shards`, {}: the others are not used", plan.shards),
        )
        .note_if(is_shared, format!("name each core once: {what_comes_of_it}"));
    finding.change_if(
        !outside.is_empty() && !allowed.is_empty(),
        format!("take {} out, or allow it (taskset, CPUAffinity=, cpuset)", ranges(&outside)),
    )
}

/// Pollers, one for each shard, against the cores they have: a poller that spins keeps one busy, and
/// the threads that it works for need one, too.
fn pollers(facts: &HostFacts, plan: &Plan) -> Finding {
    let (shards, cores) = (usize::from(plan.shards), facts.cpu.allowed.len());
    let spins = plan.spin_us > 0;
    let how = match plan.spin_us {
        0 => "that sleep when idle".to_owned(),
        spin_us => format!("that spin for {spin_us} us when idle"),
    };
    let finding = Finding::new(AREA, "pollers (shards, spin_us)")
        .expected("at most one for each core; where they spin, a core more for other threads");
    if cores == 0 {
        return finding;
    }
    let finding = finding.found(format!("{shards} {how}, {cores} cores"));
    finding
        .note_if(
            !spins && shards > cores,
            "lower `shards` or allow more cores: pollers that share a core wait for each other",
        )
        .note_if(
            spins && shards >= cores,
            "lower `shards`, set spin_us = 0 or allow more cores: the threads that they work for need \
             one, too",
        )
}

fn judge_key(key: &KeyFile) -> Finding {
    let finding = Finding::new(AREA, format!("cluster key {}", key.path.display()))
        .expected("32 to 4096 bytes in a file that only this user may read");
    match &key.refused {
        None => finding.found("such a file"),
        Some((found, change)) => finding.found(found).change_if(true, change),
    }
}

fn judge_no_key(no_key: &NoKey) -> Finding {
    let finding = Finding::new(AREA, "cluster_key")
        .found(&no_key.found)
        .expected("the same key on all instances, so that none but they can speak as one of them");
    let change = match no_key.is_reachable {
        true => no_key.change.to_owned(),
        false => format!(
            "nothing for a trial on one host; before others can reach it, {}",
            no_key.change
        ),
    };
    finding.note_if(true, change)
}

fn judge_socket(socket: &SocketPlace, running: &Running) -> Finding {
    let finding = Finding::new(AREA, format!("status_socket {}", socket.path.display()))
        .expected("a folder where this user may make a socket, and no other process on it");
    match &socket.problem {
        None => finding.found("can be made"),
        Some(SocketProblem::Folder(why)) => finding
            .found(format!("its folder cannot be written to: {why}"))
            .change_if(true, "make the folder and let this user write there, or set status_socket"),
        Some(SocketProblem::Listener) if !running.listen.is_empty() => {
            finding.found("this very instance answers there")
        }
        Some(SocketProblem::Listener) => finding
            .found("a process listens there, which is not this instance")
            .change_if(true, "end it, or set status_socket to a path of its own"),
        Some(SocketProblem::InTheWay(found, change)) => {
            finding.found(found).change_if(true, *change)
        }
    }
}

fn judge_ring(ring: &RingPlace, running: &Running) -> Finding {
    let finding = Finding::new(AREA, format!("si_ring {}", ring.path.display()))
        .expected("this instance's ring, or a folder where this user may make it");
    // It may have been removed under the instance: then there is none, and one can be made.
    if let Some(problem) = &running.ring_problem {
        let (found, change) = problem.split_once("; ").unwrap_or((problem, "see its log"));
        return finding.found(found).change_if(true, change);
    }
    match &ring.found {
        RingFound::Free => finding.found("can be made"),
        RingFound::Ours => finding.found("the one of its last life, which it goes on with"),
        RingFound::ToReplace => finding.found("an earlier one, which it makes anew"),
        RingFound::InUse(_) if !running.listen.is_empty() => {
            finding.found("this very instance writes it")
        }
        RingFound::InUse(pid) => finding
            .found(format!("process {pid} writes it, which does not answer as this instance"))
            .change_if(true, "stop that instance, or give this one a ring of its own in `si_ring`"),
        RingFound::Refused { found, change } => finding.found(found).change_if(true, change),
    }
}
