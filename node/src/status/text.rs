//! A node's status for people. Pure.

use super::{
    answer::{Connections, Invalidations, Status},
    members::MemberStatus,
    peer::{NoLink, PeerStatus},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// Lines, each with its end.
pub(super) fn of(status: &Status) -> String {
    let Status { version, cluster, instance, incarnation, listen, transport, up_s, .. } = status;
    let (view, members, peers) = (status.view, &status.members, &status.peers);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "instance {instance} of cluster {cluster}, incarnation {incarnation}, pagewire {version}, up \
         {up_s} s\nlistens on {}, transport = \"{transport}\", storage {}",
        listen.join(", "),
        status.storage_id
    );
    if let Some(problem) = &status.storage_problem {
        let _ = writeln!(out, "  {problem}");
    }
    if !members.is_empty() {
        let _ = writeln!(out, "view {view}, {}", count(members.len() as u64, "member"));
    }
    members.iter().for_each(|of_member| member(&mut out, of_member, *instance));
    if peers.is_empty() {
        out.push_str("no peers\n");
    }
    peers.iter().for_each(|of_peer| peer(&mut out, of_peer));
    connections(&mut out, &status.connections);
    invalidations(&mut out, &status.invalidations);
    out
}

fn invalidations(out: &mut String, of_status: &Invalidations) {
    let Invalidations { published, acknowledged, waiting, delivered, resets, ring_problem } =
        of_status;
    let _ = writeln!(
        out,
        "invalidations published {published} (acknowledged {acknowledged}, waiting {waiting}), \
         delivered {delivered}, resets {resets}"
    );
    if let Some(problem) = ring_problem {
        let _ = writeln!(out, "  {problem}");
    }
}

/// What was turned away, by reason; the reasons that there are.
fn connections(out: &mut String, connections: &Connections) {
    let turned_away = connections.turned_away();
    let _ = write!(out, "connections accepted {}, turned away {turned_away}", connections.accepted);
    let reasons = [
        ("no handshake", connections.not_a_hello),
        ("did not fit", connections.refused),
        ("wrong proof", connections.proofs_refused),
        ("repeated", connections.replays_refused),
        ("too slow or too many", connections.handshakes_dropped),
    ];
    let reasons = reasons.iter().filter(|(_, count)| *count > 0);
    let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{reason} {count}")).collect();
    if !reasons.is_empty() {
        let _ = write!(out, " ({})", reasons.join(", "));
    }
    out.push('\n');
    if connections.refused_unproven > 0 {
        let _ = writeln!(
            out,
            "  refused by peers' addresses without proof {}",
            connections.refused_unproven
        );
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn member(out: &mut String, member: &MemberStatus, me: u16) {
    let own = if member.instance == me { " (this one)" } else { "" };
    let leaving = if member.leaving { ", leaving" } else { "" };
    let _ = writeln!(
        out,
        "member {}{own}{leaving}: masters {}",
        member.instance,
        count(member.partitions.into(), "partition")
    );
    if let Some(problem) = &member.problem {
        let _ = writeln!(out, "  {problem}");
    }
    let Some(counts) = &member.counts else {
        out.push_str("  it does not say what it has\n");
        return;
    };
    let loading = match counts.loading {
        0 => String::new(),
        loading => format!(", {} still being collected", count(loading.into(), "partition")),
    };
    let _ = writeln!(out, "  directory {}{loading}", count(counts.entries, "page"));
    let _ = writeln!(
        out,
        "  pages S {}, X {}, dirty {}, past images {}; requests {}",
        counts.shared, counts.exclusive, counts.dirty, counts.past_images, counts.requests
    );
}

fn peer(out: &mut String, peer: &PeerStatus) {
    let why = if peer.links.iter().all(Option::is_some) { String::new() } else { why_none(peer) };
    let _ = writeln!(out, "instance {}: {}{why}", peer.instance, links(&peer.links));
    if let Some(problem) = &peer.storage_problem {
        let _ = writeln!(out, "  {problem}");
    }
    let _ = writeln!(
        out,
        "  links up {}, down {}; moved to verbs {}, fell to TCP {}",
        peer.links_up, peer.links_down, peer.moves_to_verbs, peer.falls_to_tcp
    );
    let _ = writeln!(
        out,
        "  messages sent {} (again {}), received {}; pages {} bytes",
        peer.messages_sent, peer.messages_sent_again, peer.messages_received, peer.page_bytes
    );
    why_tcp(out, peer);
}

/// Why there is no link, of the shards that have none.
pub(super) fn why_none(peer: &PeerStatus) -> String {
    let Some(NoLink { reason, tries, last_s, is_final }) = &peer.no_link else {
        return ": no try has ended yet".to_owned();
    };
    match tries {
        _ if *is_final => format!(": {reason}"),
        0 => format!(": {reason}, {last_s} s ago"),
        tries => format!(": {reason}, tried {}, last {last_s} s ago", count(*tries, "time")),
    }
}

/// Every try of verbs is counted, and every fall from it: so there may be more of them than links, and
/// they grow while a link stays.
fn why_tcp(out: &mut String, peer: &PeerStatus) {
    let ends = [("this end's", &peer.tcp_reasons), ("the other's", &peer.tcp_reasons_theirs)];
    let sum: u64 = ends.iter().flat_map(|(_, counts)| counts.values()).sum();
    if sum == 0 {
        return;
    }
    let said = ends.iter().filter(|(_, counts)| !counts.is_empty());
    let said: Vec<_> = said.map(|(end, counts)| format!("{end} {}", reasons(counts))).collect();
    let _ = writeln!(
        out,
        "  reasons for TCP, {sum} in all, one for each try of verbs and each fall: {}",
        said.join("; ")
    );
}

/// One word where all shards agree.
fn links(links: &[Option<String>]) -> String {
    let name = |on: &Option<String>| match on.as_deref() {
        Some("verbs") => "verbs".to_owned(),
        Some("tcp") => "TCP".to_owned(),
        Some(other) => other.to_owned(),
        None => "no link".to_owned(),
    };
    let names: Vec<_> = links.iter().map(name).collect();
    match names.as_slice() {
        [] => "no link".to_owned(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => first.clone(),
        _ => format!("by shard: {}", names.join(", ")),
    }
}

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let one = |(reason, count): (&String, &u64)| format!("{reason} {count}");
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::members::MemberCounts;

    #[test]
    fn everything_that_is_known_of_a_peer_is_told() {
        let on = |kinds: &[&str]| kinds.iter().map(|kind| Some((*kind).to_owned())).collect();
        let counts = |reason: &str, count| BTreeMap::from([(reason.to_owned(), count)]);
        let one = PeerStatus {
            instance: 1,
            links: on(&["verbs", "verbs"]),
            no_link: None,
            storage_problem: Some("its storage is not this one: no mark".to_owned()),
            links_up: 2,
            links_down: 1,
            moves_to_verbs: 4,
            falls_to_tcp: 3,
            tcp_reasons: counts("failed", 3),
            tcp_reasons_theirs: counts("no-port", 5),
            messages_sent: 100,
            messages_sent_again: 7,
            messages_received: 90,
            page_bytes: 8192,
        };
        let other = PeerStatus { instance: 2, links: vec![None], ..PeerStatus::default() };
        let mut mixed = other.clone();
        (mixed.instance, mixed.links) = (3, vec![Some("tcp".to_owned()), None]);
        mixed.no_link = Some(NoLink {
            reason: "nobody is there".to_owned(),
            tries: 12,
            last_s: 3,
            is_final: false,
        });
        let mut down = mixed.clone();
        (down.instance, down.links) = (4, vec![None]);
        down.no_link =
            Some(NoLink { reason: "it hung up".to_owned(), tries: 0, last_s: 1, is_final: false });
        let mut over = mixed.clone();
        (over.instance, over.links) = (5, vec![None]);
        let reason = "it was started again: stop all".to_owned();
        over.no_link = Some(NoLink { reason, tries: 7, last_s: 600, is_final: true });
        let status = Status {
            version: "0.1.0".to_owned(),
            cluster: 42,
            instance: 0,
            incarnation: 17,
            listen: vec!["10.0.0.1:7400".to_owned(), "10.0.0.1:7401".to_owned()],
            transport: "auto".to_owned(),
            storage_id: "00000000000000ab".to_owned(),
            storage_problem: Some("it is gone: put it back".to_owned()),
            up_s: 12,
            view: 3,
            members: Vec::new(),
            connections: Connections {
                accepted: 90,
                not_a_hello: 7,
                refused: 6,
                proofs_refused: 5,
                replays_refused: 4,
                handshakes_dropped: 3,
                refused_unproven: 2,
            },
            invalidations: Invalidations {
                published: 9,
                acknowledged: 6,
                waiting: 3,
                delivered: 5,
                resets: 2,
                ring_problem: Some("SI ring r: it is gone; start again".to_owned()),
            },
            peers: vec![one, other, mixed, down, over],
        };
        let expected = "\
instance 0 of cluster 42, incarnation 17, pagewire 0.1.0, up 12 s
listens on 10.0.0.1:7400, 10.0.0.1:7401, transport = \"auto\", storage 00000000000000ab
  it is gone: put it back
instance 1: verbs
  its storage is not this one: no mark
  links up 2, down 1; moved to verbs 4, fell to TCP 3
  messages sent 100 (again 7), received 90; pages 8192 bytes
  reasons for TCP, 8 in all, one for each try of verbs and each fall: this end's failed 3; the other's \
no-port 5
instance 2: no link: no try has ended yet
  links up 0, down 0; moved to verbs 0, fell to TCP 0
  messages sent 0 (again 0), received 0; pages 0 bytes
instance 3: by shard: TCP, no link: nobody is there, tried 12 times, last 3 s ago
  links up 0, down 0; moved to verbs 0, fell to TCP 0
  messages sent 0 (again 0), received 0; pages 0 bytes
instance 4: no link: it hung up, 1 s ago
  links up 0, down 0; moved to verbs 0, fell to TCP 0
  messages sent 0 (again 0), received 0; pages 0 bytes
instance 5: no link: it was started again: stop all
  links up 0, down 0; moved to verbs 0, fell to TCP 0
  messages sent 0 (again 0), received 0; pages 0 bytes
connections accepted 90, turned away 25 (no handshake 7, did not fit 6, wrong proof 5, repeated 4, too \
slow or too many 3)
  refused by peers' addresses without proof 2
invalidations published 9 (acknowledged 6, waiting 3), delivered 5, resets 2
  SI ring r: it is gone; start again
";
        assert_eq!(of(&status), expected);
        let counts = MemberCounts {
            entries: 500,
            loading: 2,
            shared: 30,
            exclusive: 20,
            dirty: 10,
            past_images: 5,
            requests: 1,
        };
        let (partitions, leaving) = (4095, false);
        let one =
            MemberStatus { instance: 0, leaving, partitions, counts: Some(counts), problem: None };
        let mut other =
            MemberStatus { instance: 1, leaving: true, partitions: 1, ..MemberStatus::default() };
        let over = PeerStatus { instance: 1, ..status.peers[4].clone() };
        other.note_links(&[over]);
        let connections = Connections { accepted: 1, ..Connections::default() };
        let invalidations = Invalidations::default();
        let (peers, members) = (Vec::new(), vec![one, other]);
        let alone = Status { peers, members, connections, invalidations, ..status };
        let expected = "\
view 3, 2 members
member 0 (this one): masters 4095 partitions
  directory 500 pages, 2 partitions still being collected
  pages S 30, X 20, dirty 10, past images 5; requests 1
member 1, leaving: masters 1 partition
  requests for pages in its partitions are not granted until all instances are stopped and started \
together
  it does not say what it has
no peers
connections accepted 1, turned away 0
invalidations published 0 (acknowledged 0, waiting 0), delivered 0, resets 0
";
        assert!(of(&alone).ends_with(expected), "{}", of(&alone));
    }
}
