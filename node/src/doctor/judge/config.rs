//! One configuration against the host.

use super::ranges;
use crate::doctor::{
    facts::HostFacts,
    finding::Finding,
    plan::{KeyFile, Plan, StorageUse, Trial},
};
use std::{collections::BTreeSet, io, net::SocketAddr, path::Path};

const AREA: &str = "configuration";
/// Permission bits of anyone but the owner.
const OTHERS: u32 = 0o077;

pub(super) fn judge(facts: &HostFacts, plan: &Plan) -> Vec<Finding> {
    match &plan.trial {
        None => Vec::new(),
        Some(Trial::Refused(problem)) => {
            let finding = Finding::new(AREA, "configuration file").found(problem);
            vec![finding.expected("a file that `pagewire node` takes").change_if(true, "mend it")]
        }
        Some(Trial::Tried { storage, storage_use, listen, listen_error, key }) => {
            let mut findings = vec![
                judge_storage(storage, storage_use),
                judge_listen(*listen, listen_error.as_ref()),
                poller_cores(facts, plan),
            ];
            findings.extend(key.as_ref().map(judge_key));
            findings
        }
    }
}

fn judge_storage(folder: &Path, found: &StorageUse) -> Finding {
    let finding = Finding::new(AREA, format!("storage {}", folder.display()))
        .expected("a folder that all instances share, writable, with O_DIRECT");
    match found {
        StorageUse::Direct => finding.found("writable, with O_DIRECT"),
        StorageUse::Cached => finding.found("writable, without O_DIRECT").note_if(
            true,
            "use a file system that has it (not tmpfs or overlay): with instances on several hosts \
             it must",
        ),
        StorageUse::Not(why) => finding
            .found(why)
            .change_if(true, "make it and let this user write there, or mend `storage`"),
    }
}

fn judge_listen(address: SocketAddr, error: Option<&(io::ErrorKind, String)>) -> Finding {
    let finding = Finding::new(AREA, format!("listen {address}"))
        .expected("an address of this host with a free port");
    match error {
        None => finding.found("free"),
        Some((io::ErrorKind::AddrInUse, why)) => finding.found(why).change_if(
            true,
            "stop what uses it (ss -ltnp), unless that is this very instance; or mend `listen`",
        ),
        Some((_, why)) => {
            finding.found(why).change_if(true, "choose an address of this host (ip addr)")
        }
    }
}

fn poller_cores(facts: &HostFacts, plan: &Plan) -> Finding {
    let allowed = &facts.cpu.allowed;
    let finding = Finding::new(AREA, "poller_cores");
    let expected = format!("cores that this process may use: {}", ranges(allowed));
    if plan.poller_cores.is_empty() {
        return finding.found("none: the poller runs on any core").expected(expected);
    }
    let wanted: BTreeSet<_> =
        plan.poller_cores.iter().map(|core| u32::try_from(*core).unwrap_or(u32::MAX)).collect();
    let outside: BTreeSet<_> = wanted.difference(allowed).copied().collect();
    finding.found(ranges(&wanted)).expected(expected).change_if(
        !outside.is_empty() && !allowed.is_empty(),
        format!("take {} out, or allow it (taskset, CPUAffinity=, cpuset)", ranges(&outside)),
    )
}

fn judge_key(key: &KeyFile) -> Finding {
    let path = key.path.display();
    let finding = Finding::new(AREA, format!("cluster key {path}"))
        .expected("a file that only its owner may read: mode 0600 or 0400");
    match &key.mode {
        Err(why) => finding.found(why).change_if(true, "put the key there, or mend `cluster_key`"),
        Ok(mode) => finding
            .found(format!("mode {mode:04o}"))
            .change_if(mode & OTHERS != 0, format!("chmod 600 {path}")),
    }
}
