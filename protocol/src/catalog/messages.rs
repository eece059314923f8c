//! Every message type.

use super::MessageDoc;
use crate::{MessageKind, cluster_view::CLUSTER_VIEW, pcm::kind, si::wire};

/// What is said of all PCM messages.
pub(super) const EPOCH: &str = "carry the epoch of their page's partition. An older one than the receiver's: not taken, \
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
               moves to the other link, the keys of regions that the other end may read, and that it \
               has to leave one",
        answer: "an offer: acceptance or refusal; a switch: the other side's switch; to leave a \
                 region: that it is left",
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
        kind: kind::PCM_GUIDE_WANTED,
        name: "PCM_GUIDE_WANTED",
        lane: "control",
        sent: "new master to each member that has not told all it has of a partition, when the first request for a page of it has come",
        answer: "PCM_LOAD_GUIDE of that partition, before all others",
        late: "when that has been told: ignored",
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
    MessageDoc {
        kind: wire::SI_BEGIN,
        name: "SI_BEGIN",
        lane: "si",
        sent: "publisher to subscriber, first of all in a session: both lives, and the number of the \
               first batch that comes",
        answer: "SI_ACK of the batch before that, once the subscriber's ring is reset",
        late: "overtaken by SI_FRAME: what overtook it is held back",
    },
    MessageDoc {
        kind: wire::SI_BATCH,
        name: "SI_BATCH",
        lane: "si",
        sent: "publisher to every subscriber: up to 4 invalidations, and the batch's number",
        answer: "SI_ACK, once it is in the subscriber's ring",
        late: "before those that come first: held back; doubled: counted and dropped",
    },
    MessageDoc {
        kind: wire::SI_FRAME,
        name: "SI_FRAME",
        lane: "bulk",
        sent: "publisher to every subscriber: as many invalidations as one frame holds, and the \
               batch's number; one frame for all subscribers",
        answer: "SI_ACK, once it is in the subscriber's ring",
        late: "before those that come first: held back; doubled: counted and dropped",
    },
    MessageDoc {
        kind: wire::SI_ACK,
        name: "SI_ACK",
        lane: "control",
        sent: "subscriber to publisher, once a turn: the last batch up to which all are in the ring, \
               and the view in force there",
        answer: "nothing; when all members have acknowledged a batch its ticket is complete, unless \
                 one of them has a later view: then when that is in force here and its members have",
        late: "the greatest number counts",
    },
];
