//! What the operator reads of a refusal: what was found, what was expected, what to do.

use super::MAX_INCOMING;
use crate::{error::LinkError, link::tcp::CONNECTIONS};
use pagewire_protocol::{
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    hello::{Hello, Refusal, Rejection},
};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use std::{
    fmt::Display,
    io::{self, ErrorKind},
};

/// Of a connection that this process has no file descriptor for, to one of `peers` or from somebody;
/// `None`: it failed for another reason.
pub(super) fn out_of_descriptors(error: &io::Error, peers: usize) -> Option<String> {
    let (found, change) = match Errno::from_io_error(error)? {
        Errno::MFILE => {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.map_or("no".to_owned(), |limit| limit.to_string());
            (
                format!("all file descriptors of this process are in use (limit {limit})"),
                "raise the limit: `ulimit -n` before the start, or LimitNOFILE in the unit",
            )
        }
        Errno::NFILE => (
            "the host has no file descriptor left".to_owned(),
            "raise fs.file-max with sysctl, or end what has so many files open",
        ),
        _ => return None,
    };
    let each = CONNECTIONS.len();
    let needed = 2 * each * peers + MAX_INCOMING;
    Some(format!(
        "{found}, expected room for {needed} connections beside all other files: {each} for each of \
         {peers} peers, as many for links that take their place, {MAX_INCOMING} in handshake; {change}"
    ))
}

/// Of a try to make a link that came to nothing before anything was said: what was found, and what to do.
pub(super) fn unreachable(error: &LinkError) -> (String, &'static str) {
    let address = "check the peer's address, the network and its firewalls";
    match error {
        LinkError::Io(io) => match io.kind() {
            ErrorKind::ConnectionRefused => (
                "nobody listens there (connection refused)".to_owned(),
                "start that instance, or mend its address here",
            ),
            ErrorKind::TimedOut => ("nothing answers there (timed out)".to_owned(), address),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                (format!("no way leads there ({io})"), address)
            }
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => unreachable(&LinkError::Closed),
            _ => (error.to_string(), address),
        },
        LinkError::ConnectTimeout { limit_ms } => {
            (format!("nothing answers there (timed out after {limit_ms} ms)"), address)
        }
        LinkError::HandshakeTimeout { limit_ms } => (
            format!("who listens there did not finish the handshake within {limit_ms} ms"),
            "see that it is a Pagewire instance, and that it is not stopped or overloaded",
        ),
        LinkError::Closed => (
            "who listens there closed the connection in its handshake".to_owned(),
            "see that it is a Pagewire instance, and what its log says",
        ),
        _ => (error.to_string(), "see what the log of that instance says"),
    }
}

/// Of a refusal before the proof. `who` is the other side; `refused_us` tells who refused.
pub(super) fn unproven(rejection: &Rejection, who: impl Display, refused_us: bool) -> String {
    let (min, max) = rejection.versions;
    match rejection.refusal {
        Refusal::Version => format!(
            "{who} speaks protocol versions {min} to {max}, this one {PROTOCOL_VERSION_MIN} to \
             {PROTOCOL_VERSION}: run builds that are at most one version apart"
        ),
        Refusal::KeyMissing => {
            let (theirs, ours) = if rejection.has_key { ("a", "none") } else { ("no", "one") };
            format!(
                "{who} has {theirs} cluster key, this one has {ours}: give all instances the same \
                 cluster key file, or none of them"
            )
        }
        // Neither end has a key: the proof is a check of the bytes only.
        _ if !rejection.has_key => {
            let (finder, sender) = if refused_us {
                ("the other end", "this end")
            } else {
                ("this end", "the other end")
            };
            format!(
                "handshake with {who}: {finder} got other bytes than {sender} sent: no cluster key is \
                 configured, so it is not that; find out what changes bytes on the way, and run the \
                 same build on both"
            )
        }
        _ if refused_us => format!(
            "{who} found the proof of this instance's cluster key wrong: give all instances the \
             same cluster key file (if they have it, something on the way changes what is sent)"
        ),
        _ => format!(
            "{who} cannot prove that it has this cluster's key, expected a proof for this very \
             connection: give all instances the same cluster key file, or find out who tries"
        ),
    }
}

/// Of a handshake that was proven before, on another connection. `who` is the other side.
pub(super) fn replayed(who: impl Display) -> String {
    format!(
        "{who} repeats the handshake of an earlier connection, expected a new one: somebody has recorded \
         what this cluster sends, and plays it again; find out who, and keep others off its network"
    )
}

/// Of a proven refusal. `theirs` is what the other side said, `ours` what this side is;
/// `refused_us` tells who refused.
pub(super) fn proven(refusal: Refusal, theirs: &Hello, ours: &Hello, refused_us: bool) -> String {
    let id = theirs.instance;
    let mine = ours.instance;
    match refusal {
        Refusal::Cluster => format!(
            "instance {id} is of cluster {}, this one of cluster {}: give both the same cluster id",
            theirs.cluster, ours.cluster
        ),
        Refusal::WrongTarget if refused_us => format!(
            "the process at that address is instance {id}, expected instance {}: mend the peer's \
             address",
            ours.to
        ),
        Refusal::WrongTarget => format!(
            "instance {id} means to reach instance {}, this is instance {mine}: mend the address \
             in its configuration",
            theirs.to
        ),
        Refusal::UnknownInstance if refused_us => format!(
            "instance {id} has no peer {mine} in its configuration: add it there or mend the id here"
        ),
        Refusal::UnknownInstance => {
            format!("instance {id} is not among the configured peers: add it or mend its id")
        }
        Refusal::DuplicateInstance => {
            let twice = if refused_us { mine } else { id };
            format!(
                "instance id {twice} is in use by another living process, expected one process \
                 per id: stop one of them or give it an id of its own; if it is the same one \
                 restarted, give each life a greater incarnation than the one before"
            )
        }
        Refusal::PageSize => format!(
            "instance {id} has pages of {}, this one of {}: set the same page size on all",
            theirs.page_size, ours.page_size
        ),
        Refusal::Storage => format!(
            "instance {id} has another storage (its number folded to 16 bits is {:04x}, this one's {:04x}): \
             what one of the two writes the other never reads, and pages are lost; give all instances the \
             same storage (see what is mounted there; doctor tells the whole number on each host), and start \
             again whichever had the wrong one. If it is the same, and somebody has removed its mark while \
             instances ran: stop all and start them together",
            theirs.storage_mark, ours.storage_mark
        ),
        Refusal::View => format!(
            "instance {id} has member list {:016x}, this one {:016x}: configure the same members \
             on all",
            theirs.view_hash, ours.view_hash
        ),
        Refusal::Shard => format!(
            "shard {} of {} of instance {id} met shard {} of {} of this one, expected the same: \
             configure the same number of shards on all, and mend the addresses of the shards",
            theirs.shard, theirs.shards, ours.shard, ours.shards
        ),
        Refusal::Class => format!(
            "instance {id} and this one do not agree that a link has a connection of lane class \
             {:?}: run the same build on both",
            theirs.class
        ),
        Refusal::NoReturn => {
            let back = if refused_us { ours } else { theirs };
            format!(
                "instance {} took part in an earlier life and is back as incarnation {}; this \
                 version cannot recover what that life held: stop all instances and start them \
                 together",
                back.instance, back.incarnation
            )
        }
        Refusal::Busy => format!("instance {id} is dialling us: its link goes first"),
        _ => {
            let over = if refused_us { ours } else { theirs };
            format!(
                "incarnation {} of instance {} is over: a later one was seen, or its session was \
                 ended or has expired; restart the process with a greater one (by default it is \
                 the time of day: see that the host's clock has not gone back)",
                over.incarnation, over.instance
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_handshake_is_put_down_to_the_cluster_key_only_where_there_is_one() {
        for refused_us in [false, true] {
            let told = |has_key| {
                let rejection = Rejection { refusal: Refusal::Proof, versions: (2, 2), has_key };
                unproven(&rejection, "10.0.0.2:7400", refused_us)
            };
            assert!(told(true).contains("the same cluster key file"), "{}", told(true));
            let text = told(false);
            assert!(
                !text.contains("key file") && text.contains("changes bytes on the way"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_told_with_what_to_look_at() {
        let io = |kind: ErrorKind| LinkError::Io(kind.into());
        for (error, found, change) in [
            (io(ErrorKind::ConnectionRefused), "connection refused", "start that instance"),
            (io(ErrorKind::TimedOut), "timed out", "firewalls"),
            (io(ErrorKind::HostUnreachable), "no way leads there", "firewalls"),
            (LinkError::ConnectTimeout { limit_ms: 5000 }, "after 5000 ms", "firewalls"),
            (LinkError::HandshakeTimeout { limit_ms: 5000 }, "within 5000 ms", "not stopped"),
            (LinkError::Closed, "closed the connection", "its log"),
            (io(ErrorKind::ConnectionReset), "closed the connection", "its log"),
        ] {
            let told = unreachable(&error);
            assert!(told.0.contains(found) && told.1.contains(change), "{error}: {told:?}");
        }
    }

    #[test]
    fn no_descriptors_left_is_told_with_the_limit_the_need_and_the_setting() {
        let told = |code: Errno| out_of_descriptors(&code.into(), 3);
        let text = told(Errno::MFILE).expect("it is about descriptors");
        for part in ["(limit ", "room for 76 connections", "3 peers", "`ulimit -n`", "LimitNOFILE"]
        {
            assert!(text.contains(part), "'{part}' in: {text}");
        }
        let text = told(Errno::NFILE).expect("it is about descriptors");
        assert!(text.contains("the host has no") && text.contains("fs.file-max"), "{text}");
        assert_eq!(told(Errno::CONNREFUSED), None);
        assert_eq!(out_of_descriptors(&io::ErrorKind::TimedOut.into(), 3), None);
    }
}
