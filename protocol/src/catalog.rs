//! Every message type in one table, and every exchange as a sequence; docs/messages.md is made
//! from here and a test keeps it equal.

use crate::{MessageKind, cluster_view::CLUSTER_VIEW, pcm::kind};
use std::fmt::Write as _;

/// What an engineer needs to know of one message type.
#[derive(Debug, Clone, Copy)]
pub struct MessageDoc {
    /// Its number.
    pub kind: MessageKind,
    /// Its name.
    pub name: &'static str,
    /// Lane it travels on.
    pub lane: &'static str,
    /// Who sends it to whom, and when.
    pub sent: &'static str,
    /// What answers it.
    pub answer: &'static str,
    /// What happens when it is late, doubled or of an old epoch.
    pub late: &'static str,
}

/// One exchange: steps as (from, to, text).
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// What it achieves.
    pub title: &'static str,
    /// What to know before reading the steps.
    pub note: &'static str,
    /// The steps, in order.
    pub steps: &'static [(&'static str, &'static str, &'static str)],
}

/// Numbers that are given out but not yet spoken; users of the original know them.
pub const RESERVED: &[(u16, &str)] =
    &[(99, "MAX_PCM_REQUEST_MESSAGE: the greatest number of a PCM request")];

const EPOCH: &str = "carry the epoch of their page's partition. An older one than the receiver's: not taken, \
                     answered with PCM_NAK (a page that came along is dropped; the sender, when it has \
                     the view, asks again or says what it has). A newer one: kept until the receiver has \
                     the view";

/// Every message type.
pub const MESSAGES: &[MessageDoc] = &[
    MessageDoc {
        kind: MessageKind::ACK_ONLY,
        name: "ACK",
        lane: "any (travels with the small messages)",
        sent: "session to session, when a lane owes an acknowledgement or credits and has no \
               message to carry them",
        answer: "nothing; it has no sequence and is never acknowledged",
        late: "values are cumulative: an older one changes nothing",
    },
    MessageDoc {
        kind: MessageKind::LINK,
        name: "LINK",
        lane: "control, on the TCP connection only",
        sent: "link to link: whether to use verbs, the queue pairs' addresses, when the session \
               moves to the other link, and the keys of regions that the other end may read",
        answer: "an offer: acceptance or refusal; a switch: the other side's switch",
        late: "of an earlier attempt: dropped; it has no sequence and is never acknowledged",
    },
    MessageDoc {
        kind: MessageKind::READ,
        name: "READ",
        lane: "requests",
        sent: "endpoint to endpoint, when a page of a region is to be read and there is no key for \
               an RDMA READ; only where both ends have turned one-sided reads on",
        answer: "one READ_PAGE or READ_REFUSED",
        late: "more of them than may be under way: the link is closed",
    },
    MessageDoc {
        kind: MessageKind::READ_PAGE,
        name: "READ_PAGE",
        lane: "bulk",
        sent: "owner of the region to the asker, with the page as it was when it was copied",
        answer: "nothing",
        late: "for a read that is not under way: the link is closed",
    },
    MessageDoc {
        kind: MessageKind::READ_REFUSED,
        name: "READ_REFUSED",
        lane: "control",
        sent: "owner to the asker: no such region, or it ends before",
        answer: "nothing",
        late: "for a read that is not under way: the link is closed",
    },
    MessageDoc {
        kind: kind::PCM_ACQUIRE,
        name: "PCM_ACQUIRE",
        lane: "requests",
        sent: "requester to master, when a page is wanted in a mode that is not held",
        answer: "one PCM_RESPONSE, from the master or from the instance that ships the page",
        late: "doubled: ignored while the first is under way; after a view that moves the partition \
               it is sent again under the same id",
    },
    MessageDoc {
        kind: kind::PCM_SHIP,
        name: "PCM_SHIP",
        lane: "control",
        sent: "master to owner, to have the page shipped to a requester",
        answer: "PCM_RESPONSE with the page, to the requester",
        late: "before the grant it revokes: parked until that grant has arrived; for a page that \
               is not held: PCM_RESPONSE NotHolder; below the fence of a repair: ignored",
    },
    MessageDoc {
        kind: kind::PCM_INVALIDATE,
        name: "PCM_INVALIDATE",
        lane: "control",
        sent: "master to each other holder, when a requester is to get X",
        answer: "PCM_INVALIDATED, to the requester, once the last guard is dropped",
        late: "before the grant it revokes: parked; after it was given up: answered again; below \
               the fence of a repair: ignored",
    },
    MessageDoc {
        kind: kind::PCM_INVALIDATED,
        name: "PCM_INVALIDATED",
        lane: "control",
        sent: "former holder to requester",
        answer: "nothing; the requester notes whose have come. A dirty one leaves a past image at its \
                 sender",
        late: "for a request that is over, or below the fence of a repair: counted and dropped",
    },
    MessageDoc {
        kind: kind::PCM_CLAIM,
        name: "PCM_CLAIM",
        lane: "control",
        sent: "requester to master, when it holds the page and has every PCM_INVALIDATED",
        answer: "PCM_CLAIMED, to the requester and to the shipper",
        late: "doubled: PCM_CLAIMED again, nothing else changes",
    },
    MessageDoc {
        kind: kind::PCM_CLAIMED,
        name: "PCM_CLAIMED",
        lane: "control",
        sent: "master to requester and shipper, when the claim is recorded",
        answer: "nothing; what the shipper had in transit is a past image if the duty to write left \
                 with it, otherwise forgotten",
        late: "for a page not in transit: ignored",
    },
    MessageDoc {
        kind: kind::PCM_RELEASE,
        name: "PCM_RELEASE",
        lane: "control",
        sent: "holder to master, when it evicts a page that it need not write; requester to \
               master, when storage could not give it the page that it was granted",
        answer: "PCM_RELEASED, or the PCM_SHIP or PCM_INVALIDATE that crossed it",
        late: "for a grant that has been revoked: ignored",
    },
    MessageDoc {
        kind: kind::PCM_RELEASED,
        name: "PCM_RELEASED",
        lane: "control",
        sent: "master to former holder",
        answer: "nothing; the holder frees the frame",
        late: "for another grant than the one being released: ignored",
    },
    MessageDoc {
        kind: kind::PCM_WRITTEN,
        name: "PCM_WRITTEN",
        lane: "control",
        sent: "write-owner to master, when it has written a page that it keeps",
        answer: "nothing; the master notes the version on storage, and sends PCM_DISCARD to whoever \
                 keeps a past image",
        late: "an older version than noted changes nothing",
    },
    MessageDoc {
        kind: kind::PCM_CANCEL_BUSY_REQUEST,
        name: "PCM_CANCEL_BUSY_REQUEST",
        lane: "requests, behind its PCM_ACQUIRE",
        sent: "requester to master, when nobody waits for the page any more, or when redo needs it first",
        answer: "PCM_RESPONSE Cancelled if the request was waiting; NotLost if it is being granted: the grant that is \
                 on its way is claimed, and who came for redo does not wait for it",
        late: "for a request that is over: nothing",
    },
    MessageDoc {
        kind: kind::PCM_STAT_REQUEST,
        name: "PCM_STAT_REQUEST",
        lane: "requests",
        sent: "anyone to a master about one page, to anyone about the whole instance",
        answer: "PCM_STAT_REPLY",
        late: "of any epoch: answered",
    },
    MessageDoc {
        kind: kind::PCM_STAT_REPLY,
        name: "PCM_STAT_REPLY",
        lane: "control",
        sent: "whoever was asked to whoever asked",
        answer: "nothing",
        late: "of any epoch: taken",
    },
    MessageDoc {
        kind: kind::PCM_NAK,
        name: "PCM_NAK",
        lane: "control",
        sent: "any to the sender of a message of an older partition epoch; names the message, its request and the view that the refusing instance has",
        answer: "nothing; it is counted",
        late: "changes nothing at any time",
    },
    MessageDoc {
        kind: kind::FAULT_NODE_CLEAR,
        name: "FAULT_NODE_CLEAR",
        lane: "control",
        sent: "each master to each member, when it has taken a dead instance out of its part of the directory and begun repairs",
        answer: "nothing; it is counted",
        late: "changes nothing at any time",
    },
    MessageDoc {
        kind: kind::PCM_DISCARD,
        name: "PCM_DISCARD",
        lane: "control",
        sent: "master to each keeper of a past image, when a version is on storage",
        answer: "PCM_DISCARDED, unless the past image is newer",
        late: "doubled: answered again",
    },
    MessageDoc {
        kind: kind::PCM_DISCARDED,
        name: "PCM_DISCARDED",
        lane: "control",
        sent: "former keeper of a past image to master",
        answer: "nothing",
        late: "when there were changes since: ignored, the next PCM_DISCARD is answered again",
    },
    MessageDoc {
        kind: kind::PCM_WRITE_REQUEST,
        name: "PCM_WRITE_REQUEST",
        lane: "control",
        sent: "keeper of a past image to master, when it wants the frame back or its log is to be cut",
        answer: "PCM_DISCARD at once if the version is known to be on storage; otherwise PCM_WRITE to whoever has the newest",
        late: "may be repeated; forgotten by a view that moves the partition",
    },
    MessageDoc {
        kind: kind::PCM_WRITE,
        name: "PCM_WRITE",
        lane: "control",
        sent: "master to the owner; when nobody holds the page, to the keeper of the newest past image",
        answer: "PCM_WRITTEN, once it is on storage",
        late: "for a page that is not held: ignored",
    },
    MessageDoc {
        kind: kind::PCM_REFUSE,
        name: "PCM_REFUSE",
        lane: "control",
        sent: "requester to master, when a grant fits no request or the shipper did not have the page",
        answer: "PCM_QUERY to all who may have the page",
        late: "for a grant that is not on its way: ignored",
    },
    MessageDoc {
        kind: kind::PCM_QUERY,
        name: "PCM_QUERY",
        lane: "control",
        sent: "master to all who may have a page, when one of them died in the middle of something or refused a grant",
        answer: "PCM_REPORT",
        late: "a later one has a greater fence and takes its place",
    },
    MessageDoc {
        kind: kind::PCM_REPORT,
        name: "PCM_REPORT",
        lane: "control",
        sent: "whoever was queried to the master",
        answer: "PCM_ASSIGN to those for whom something changes, when all have reported",
        late: "of an earlier fence: ignored",
    },
    MessageDoc {
        kind: kind::PCM_ASSIGN,
        name: "PCM_ASSIGN",
        lane: "control",
        sent: "master to whoever had a copy in transit, or gets the duty to write",
        answer: "PCM_ASSIGNED",
        late: "in order with PCM_QUERY on its lane",
    },
    MessageDoc {
        kind: kind::PCM_ASSIGNED,
        name: "PCM_ASSIGNED",
        lane: "control",
        sent: "whoever was told to the master",
        answer: "nothing; after the last one the next request is granted",
        late: "of an earlier assignment: ignored",
    },
    MessageDoc {
        kind: kind::PCM_LOAD_GUIDE,
        name: "PCM_LOAD_GUIDE",
        lane: "bulk",
        sent: "each member to the new master of partitions, bit by bit, after a view; its header has the epoch of the view, its records that of their partition",
        answer: "nothing; when everyone has told everything the partition is usable",
        late: "records of another partition epoch: ignored; of a later view: kept until the receiver has it",
    },
    MessageDoc {
        kind: kind::PCM_RESPONSE,
        name: "PCM_RESPONSE",
        lane: "control; pages when it carries the page",
        sent: "master or shipper to requester",
        answer: "PCM_CLAIM; PCM_REFUSE when it grants what cannot be taken; nothing when it refuses",
        late: "for a request that is over: PCM_REFUSE; below the fence of a repair: dropped, with \
               its page",
    },
    MessageDoc {
        kind: CLUSTER_VIEW,
        name: "CLUSTER_VIEW",
        lane: "control",
        sent: "member to every other, when it has put a view in force: number and hash",
        answer: "nothing; who has another view of that number takes no PCM message of the sender \
                 until one of them has a later one",
        late: "the greatest number counts",
    },
];

/// What is said before there is a session: fixed sizes, no session header (protocol/src/hello/).
pub const HANDSHAKE: &[(&str, &str)] = &[
    ("INTRO", "48 bytes, unproven: versions, whether there is a cluster key, 32 random bytes"),
    ("HELLO", "128 bytes and 32 of proof: who speaks, to whom, on which link, or why it refuses"),
    (
        "REFUSAL",
        "instead of INTRO or HELLO, unproven: other versions, one key missing, wrong proof",
    ),
];

/// Every exchange.
pub const EXCHANGES: &[Exchange] = &[
    Exchange {
        title: "Handshake of one connection",
        note: "Each proof is an HMAC-SHA256 with the cluster key over all that was said before it, \
               both sides' random bytes included; no HELLO is decoded before its proof has \
               verified. Without a cluster key on both sides the HMAC key is empty.",
        steps: &[
            ("dialler", "acceptor", "INTRO versions, has key, nonce"),
            ("acceptor", "dialler", "INTRO versions, has key, nonce"),
            ("dialler", "acceptor", "HELLO identity, link nonce, proof"),
            ("acceptor", "dialler", "HELLO identity, status, proof"),
        ],
    },
    Exchange {
        title: "Link of two connections",
        note: "What each side expects next and its first credits are stated on the last connection. \
               A link that is there goes when the last HELLO of the next one is proven and good.",
        steps: &[
            ("dialler", "acceptor", "HELLO small, link nonce"),
            ("acceptor", "dialler", "HELLO accepted"),
            ("dialler", "acceptor", "HELLO bulk, same link nonce, expected, credits"),
            ("acceptor", "dialler", "HELLO accepted, expected, credits"),
        ],
    },
    Exchange {
        title: "Handshake without the cluster key",
        note: "The refusal is unproven: it is told to the operator, and ends no session.",
        steps: &[
            ("dialler", "acceptor", "INTRO versions, has key, nonce"),
            ("acceptor", "dialler", "INTRO versions, has key, nonce"),
            ("dialler", "acceptor", "HELLO identity, wrong proof"),
            ("acceptor", "dialler", "REFUSAL Proof"),
        ],
    },
    Exchange {
        title: "One-sided read",
        note: "Off unless both ends turn it on. On verbs the owner hands out the keys of its regions \
               once the session is there, and a read is an RDMA READ without any message. Elsewhere \
               the owner's endpoint answers in its poll, and the page comes on the bulk lane. Either \
               may be torn and gives no right to the page: check version and checksum.",
        steps: &[
            ("owner", "reader", "LINK region, address, key (over verbs)"),
            ("reader", "owner", "READ region, offset (without a key)"),
            ("owner", "reader", "READ_PAGE + frame"),
        ],
    },
    Exchange {
        title: "Read from storage",
        note: "Nobody holds the page. `version` is the least version the read must return.",
        steps: &[
            ("requester", "master", "PCM_ACQUIRE want"),
            ("master", "requester", "PCM_RESPONSE Storage, grant, version"),
            ("requester", "storage", "read"),
            ("requester", "master", "PCM_CLAIM grant"),
            ("master", "requester", "PCM_CLAIMED"),
        ],
    },
    Exchange {
        title: "2-way grant",
        note: "The master is the owner.",
        steps: &[
            ("requester", "master", "PCM_ACQUIRE want"),
            ("master", "requester", "PCM_RESPONSE Page + frame"),
            ("requester", "master", "PCM_CLAIM grant"),
            ("master", "requester", "PCM_CLAIMED"),
        ],
    },
    Exchange {
        title: "3-way grant",
        note: "The owner is neither requester nor master; it answers the requester directly.",
        steps: &[
            ("requester", "master", "PCM_ACQUIRE want"),
            ("master", "owner", "PCM_SHIP grant, revokes"),
            ("owner", "requester", "PCM_RESPONSE Page + frame"),
            ("requester", "master", "PCM_CLAIM grant"),
            ("master", "requester", "PCM_CLAIMED"),
            ("master", "owner", "PCM_CLAIMED"),
        ],
    },
    Exchange {
        title: "X while others hold S",
        note: "Ship and invalidations go out together; the requester has X when it has the page \
               and `acks` acknowledgements.",
        steps: &[
            ("requester", "master", "PCM_ACQUIRE X"),
            ("master", "owner", "PCM_SHIP X, acks"),
            ("master", "holder", "PCM_INVALIDATE"),
            ("owner", "requester", "PCM_RESPONSE Page + frame, acks"),
            ("holder", "requester", "PCM_INVALIDATED"),
            ("requester", "master", "PCM_CLAIM grant"),
            ("master", "requester", "PCM_CLAIMED"),
            ("master", "owner", "PCM_CLAIMED"),
        ],
    },
    Exchange {
        title: "Upgrade S to X",
        note: "No page is shipped. A holder that was write-owner hands that duty over in its \
               acknowledgement.",
        steps: &[
            ("requester", "master", "PCM_ACQUIRE X"),
            ("master", "requester", "PCM_RESPONSE Held, acks"),
            ("master", "holder", "PCM_INVALIDATE"),
            ("holder", "requester", "PCM_INVALIDATED, dirty or clean"),
            ("requester", "master", "PCM_CLAIM grant"),
            ("master", "requester", "PCM_CLAIMED"),
        ],
    },
    Exchange {
        title: "Eviction",
        note: "A dirty page is written first. A revocation that crosses the release is served from \
               the page, which stays until one of the two answers is there.",
        steps: &[
            ("holder", "storage", "write, if dirty"),
            ("holder", "master", "PCM_RELEASE grant, version"),
            ("master", "holder", "PCM_RELEASED"),
        ],
    },
    Exchange {
        title: "Write-back of a page that is kept",
        note: "",
        steps: &[
            ("write-owner", "storage", "write"),
            ("write-owner", "master", "PCM_WRITTEN version"),
        ],
    },
    Exchange {
        title: "Cancel",
        note: "A request that is being granted is not cancelled, and the answer is NotLost: the grant comes, \
               is claimed and kept until someone else wants the page.",
        steps: &[
            ("requester", "master", "PCM_ACQUIRE want"),
            ("requester", "master", "PCM_CANCEL_BUSY_REQUEST"),
            ("master", "requester", "PCM_RESPONSE Cancelled"),
        ],
    },
    Exchange {
        title: "Life of a past image",
        note: "A writer's changes leave it for another writer; the old version stays until a newer one \
               is on storage.",
        steps: &[
            ("master", "former_writer", "PCM_SHIP X"),
            ("former_writer", "writer", "PCM_RESPONSE Page + frame, dirty"),
            ("writer", "master", "PCM_CLAIM grant, past = former_writer"),
            ("master", "former_writer", "PCM_CLAIMED: the copy in transit is a past image"),
            ("writer", "storage", "write"),
            ("writer", "master", "PCM_WRITTEN version"),
            ("master", "former_writer", "PCM_DISCARD version"),
            ("former_writer", "master", "PCM_DISCARDED version"),
        ],
    },
    Exchange {
        title: "A past image is wanted back",
        note: "",
        steps: &[
            ("keeper", "master", "PCM_WRITE_REQUEST version"),
            ("master", "owner", "PCM_WRITE"),
            ("owner", "storage", "write, if dirty"),
            ("owner", "master", "PCM_WRITTEN version"),
            ("master", "keeper", "PCM_DISCARD version"),
            ("keeper", "master", "PCM_DISCARDED version"),
        ],
    },
    Exchange {
        title: "A grant that cannot be taken",
        note: "The copy in transit is held again by its shipper.",
        steps: &[
            ("shipper", "requester", "PCM_RESPONSE Page + frame"),
            ("requester", "master", "PCM_REFUSE grant"),
            ("master", "shipper", "PCM_QUERY fence"),
            ("shipper", "master", "PCM_REPORT in transit"),
            ("master", "shipper", "PCM_ASSIGN S"),
            ("shipper", "master", "PCM_ASSIGNED"),
        ],
    },
    Exchange {
        title: "Repair of a page after a crash",
        note: "The master lives; a party of the page died. Whoever may have it is asked, the requester \
               included; its request stays in the master's queue.",
        steps: &[
            ("master", "holder", "PCM_QUERY fence"),
            ("master", "requester", "PCM_QUERY fence"),
            ("holder", "master", "PCM_REPORT held, in transit, past image"),
            ("requester", "master", "PCM_REPORT pending"),
            ("master", "holder", "PCM_ASSIGN mode, dirty"),
            ("holder", "master", "PCM_ASSIGNED"),
            ("master", "holder", "PCM_SHIP: the next request"),
        ],
    },
    Exchange {
        title: "A partition moves: join, planned leave or crash",
        note: "Members cut off what is on its way under the old partition epoch and say what they have; \
               a joiner has nothing. Requests are sent again under their ids and wait for the last \
               End.",
        steps: &[
            ("member", "new_master", "PCM_LOAD_GUIDE pages, End"),
            ("joiner", "new_master", "PCM_LOAD_GUIDE Nothing"),
            ("requester", "new_master", "PCM_ACQUIRE, the same id"),
            ("new_master", "member", "PCM_ASSIGN, where something changes"),
            ("member", "new_master", "PCM_ASSIGNED"),
            ("new_master", "requester", "PCM_RESPONSE"),
        ],
    },
    Exchange {
        title: "Recovery of a lost page",
        note: "Only a requester that applies redo gets it. It takes the newest of past image and \
               storage, and applies what the dead one's log has beyond it.",
        steps: &[
            ("recoverer", "master", "PCM_ACQUIRE X, recovery"),
            ("master", "keeper", "PCM_SHIP past"),
            ("keeper", "recoverer", "PCM_RESPONSE Page + frame, past"),
            ("recoverer", "storage", "read, to compare"),
            ("recoverer", "master", "PCM_CLAIM grant"),
            ("master", "recoverer", "PCM_CLAIMED"),
        ],
    },
    Exchange {
        title: "A message of an old view",
        note: "",
        steps: &[
            ("sender", "receiver", "PCM_ACQUIRE in an older partition epoch"),
            ("receiver", "sender", "PCM_NAK view"),
            ("sender", "new_master", "PCM_ACQUIRE, once the sender has the view"),
        ],
    },
];

/// The text of docs/messages.md.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "<!-- Made from protocol/src/catalog.rs; a test keeps it equal. To renew it:\n     \
         PAGEWIRE_BLESS=1 cargo test -p pagewire-protocol catalog -->\n# Messages\n\n\
         Every message has the 48-byte session header (protocol/src/header.rs) and a body of at \
         most 80 bytes; PCM bodies have all 80 (protocol/src/pcm.rs). Sessions deliver exactly once \
         and in order per lane, so \"late\" and \"doubled\" below speak of other lanes, of repeated \
         requests and of changed views.\n\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(out, "PCM messages {EPOCH}.\n");
    out.push_str("| number | name | lane | sent | answered by | late, doubled |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for m in MESSAGES {
        let MessageDoc { kind, name, lane, sent, answer, late } = m;
        let _ = writeln!(out, "| {kind} | {name} | {lane} | {sent} | {answer} | {late} |");
    }
    out.push_str("\nReserved numbers: ");
    let reserved: Vec<_> = RESERVED.iter().map(|(n, name)| format!("{n} ({name})")).collect();
    out.push_str(&reserved.join(", "));
    out.push_str(
        ".\n\n# Handshake\n\nBefore there is a session, without its header:\n\n\
         | name | what it is |\n| --- | --- |\n",
    );
    for (name, what) in HANDSHAKE {
        let _ = writeln!(out, "| {name} | {what} |");
    }
    out.push_str("\n# Exchanges\n");
    for exchange in EXCHANGES {
        let _ = write!(out, "\n## {}\n\n", exchange.title);
        if !exchange.note.is_empty() {
            let _ = write!(out, "{}\n\n", exchange.note);
        }
        out.push_str("```mermaid\nsequenceDiagram\n");
        for (from, to, text) in exchange.steps {
            let _ = writeln!(out, "    {from}->>{to}: {text}");
        }
        out.push_str("```\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_messages_md_is_what_the_catalog_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/messages.md");
        if std::env::var_os("PAGEWIRE_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            on_disk == markdown(),
            "docs/messages.md is stale: its first line says how to renew it"
        );
    }

    #[test]
    fn numbers_are_unique_and_every_step_names_a_message() {
        let mut numbers: Vec<u16> = MESSAGES.iter().map(|m| m.kind.0).collect();
        numbers.extend(RESERVED.iter().map(|r| r.0));
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        for (_, to, text) in EXCHANGES.iter().flat_map(|e| e.steps) {
            let word = text.split([' ', ',', ':']).next().unwrap();
            let is_known = MESSAGES.iter().any(|m| m.name == word)
                || HANDSHAKE.iter().any(|(name, _)| *name == word);
            assert!(*to == "storage" || is_known, "{text}");
        }
    }
}
