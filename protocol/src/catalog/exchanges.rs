//! Every exchange, step by step.

use super::Exchange;

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
               a joiner has nothing. Requests are sent again under their ids and wait until everyone \
               has told of their partition; one that somebody waits for is told out of turn, and \
               ends with Whole.",
        steps: &[
            ("member", "new_master", "PCM_LOAD_GUIDE pages, End"),
            ("joiner", "new_master", "PCM_LOAD_GUIDE Nothing"),
            ("requester", "new_master", "PCM_ACQUIRE, the same id"),
            ("new_master", "member", "PCM_GUIDE_WANTED"),
            ("member", "new_master", "PCM_LOAD_GUIDE pages, Whole"),
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
    Exchange {
        title: "Invalidations",
        note: "A stream from one life to another begins with a reset of the subscriber's ring. A small \
               batch travels in a body, a large one in a frame that all subscribers get; the numbers \
               put them in order again where lanes overtake each other. The publisher's own ring is \
               written when a batch leaves.",
        steps: &[
            ("publisher", "subscriber", "SI_BEGIN lives, next batch 5"),
            ("subscriber", "publisher", "SI_ACK up to 4, view: after the reset"),
            ("publisher", "subscriber", "SI_BATCH 5"),
            ("publisher", "subscriber", "SI_FRAME 6 + frame"),
            ("subscriber", "publisher", "SI_ACK up to 6, view: after the ring has both"),
        ],
    },
];
