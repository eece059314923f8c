//! Every message through its body and back; what is refused.

use super::{wire::GRANT_BITS, *};
use crate::{
    BufferTag, Fork,
    guide::Transit,
    stat::{InstanceStat, PageStat},
};
use proptest::prelude::*;

fn request() -> impl Strategy<Value = RequestId> {
    any::<(u16, u64, u64)>().prop_map(|(instance, incarnation, sequence)| RequestId {
        instance: InstanceId(instance),
        incarnation: Incarnation(incarnation),
        sequence,
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::S), Just(Mode::X)]
}

fn report() -> impl Strategy<Value = Report> {
    let transit = proptest::option::of(any::<(u16, bool, u32, u64, u64, bool)>());
    let past = proptest::option::of(any::<u64>());
    let held = any::<(u64, u64, bool, bool, u16)>();
    (0u8..3, held, transit, past, any::<Option<u32>>()).prop_map(
        |(mode, (grant, version, dirty, unsaved, writer), transit, past, pending)| Report {
            mode: Mode::from_wire(mode).unwrap(),
            grant: GrantNumber(grant & GRANT_BITS),
            version: Lsn(version),
            dirty,
            unsaved,
            writer: InstanceId(writer),
            transit: transit.map(|(to, to_dead, request, grant, version, dirty)| Transit {
                to: InstanceId(to),
                to_dead,
                request,
                grant: GrantNumber(grant & GRANT_BITS),
                version: Lsn(version),
                dirty,
            }),
            past: past.map(Lsn),
            pending,
        },
    )
}

fn steady() -> impl Strategy<Value = Pcm> {
    let grant = || any::<u64>().prop_map(GrantNumber);
    let version = || any::<u64>().prop_map(Lsn);
    let verdict = (1u8..=8).prop_map(|b| Verdict::from_wire(b).unwrap());
    let flags = any::<(u64, bool, bool, bool, u16)>();
    prop_oneof![
        (request(), mode(), any::<bool>()).prop_map(|(request, want, recovery)| Pcm::Acquire {
            request,
            want,
            recovery
        }),
        (request(), mode(), grant(), grant(), any::<u64>(), any::<bool>()).prop_map(
            |(request, want, grant, revokes, acks, past)| Pcm::Ship {
                request,
                want,
                grant,
                revokes,
                acks,
                past
            }
        ),
        (request(), grant(), grant()).prop_map(|(request, grant, revokes)| Pcm::Invalidate {
            request,
            grant,
            revokes
        }),
        (request(), grant(), any::<bool>()).prop_map(|(request, grant, dirty)| Pcm::Invalidated {
            request,
            grant,
            dirty
        }),
        (request(), mode(), grant(), version(), any::<u64>()).prop_map(
            |(request, mode, grant, version, past)| Pcm::Claim {
                request,
                mode,
                grant,
                version,
                past
            }
        ),
        (request(), grant()).prop_map(|(request, grant)| Pcm::Claimed { request, grant }),
        (grant(), version()).prop_map(|(grant, version)| Pcm::Release { grant, version }),
        grant().prop_map(|grant| Pcm::Released { grant }),
        (grant(), version()).prop_map(|(grant, version)| Pcm::Written { grant, version }),
        (request(), verdict, mode(), grant(), version(), flags).prop_map(
            |(request, verdict, mode, grant, version, (acks, dirty, unsaved, past, writer))| {
                Pcm::Response {
                    request,
                    verdict,
                    mode,
                    grant,
                    version,
                    acks,
                    dirty,
                    unsaved,
                    past,
                    writer: InstanceId(writer),
                }
            }
        ),
    ]
}

fn rare() -> impl Strategy<Value = Pcm> {
    let grant = || any::<u64>().prop_map(GrantNumber);
    let version = || any::<u64>().prop_map(Lsn);
    prop_oneof![
        request().prop_map(|request| Pcm::Cancel { request }),
        any::<bool>().prop_map(|whole| Pcm::StatRequest {
            about: if whole { StatAbout::Instance } else { StatAbout::Page }
        }),
        (any::<u16>(), request(), any::<u64>()).prop_map(|(kind, request, view)| Pcm::Nak {
            kind: MessageKind(kind),
            request,
            reason: NakReason::StaleEpoch,
            view: Epoch(view)
        }),
        (any::<u16>(), any::<u64>()).prop_map(|(instance, incarnation)| Pcm::NodeClear {
            instance: InstanceId(instance),
            incarnation: Incarnation(incarnation)
        }),
        version().prop_map(|version| Pcm::Discard { version }),
        version().prop_map(|version| Pcm::Discarded { version }),
        version().prop_map(|version| Pcm::WriteRequest { version }),
        version().prop_map(|version| Pcm::Write { version }),
        (request(), grant()).prop_map(|(request, grant)| Pcm::Refuse { request, grant }),
        grant().prop_map(|fence| Pcm::Query { fence }),
        Just(Pcm::GuideWanted),
        (grant(), report()).prop_map(|(fence, report)| Pcm::Report { fence, report }),
        (0u8..3, grant(), any::<bool>()).prop_map(|(mode, grant, dirty)| Pcm::Assign {
            mode: Mode::from_wire(mode).unwrap(),
            grant,
            dirty
        }),
        grant().prop_map(|grant| Pcm::Assigned { grant }),
        any::<[u64; 6]>().prop_map(|n| Pcm::StatReply(Stat::Instance(InstanceStat {
            entries: n[0],
            partitions: 7,
            loading: 3,
            held_shared: n[1],
            held_exclusive: n[2],
            dirty: n[3],
            past_images: n[4],
            requests: n[5],
        }))),
        (any::<[u64; 5]>(), any::<[bool; 5]>(), proptest::option::of(0u16..64)).prop_map(
            |(n, [known, exclusive, converting, repairing, lost], owner)| {
                Pcm::StatReply(Stat::Page(PageStat {
                    known,
                    owner: owner.map(InstanceId),
                    exclusive,
                    holders: n[0],
                    past_images: n[1],
                    version: Lsn(n[2]),
                    stored: Lsn(n[3]),
                    queued: 9,
                    grant: GrantNumber(n[4]),
                    converting,
                    repairing,
                    lost,
                }))
            }
        ),
    ]
}

fn message() -> impl Strategy<Value = Pcm> {
    prop_oneof![steady(), rare()]
}

fn tag() -> impl Strategy<Value = BufferTag> {
    (any::<(u32, u32, u32, u32)>(), 0u32..4).prop_map(|((a, b, c, block), fork)| BufferTag {
        tablespace: a,
        database: b,
        relation: c,
        fork: Fork::from_number(fork).unwrap(),
        block,
    })
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(tag in tag(), message in message()) {
        let body = message.encode(tag);
        prop_assert_eq!(Pcm::decode(message.kind(), &body), Ok((tag, message)));
    }

    #[test]
    fn any_bytes_decode_without_panic(kind in 0u16..110, body in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok((tag, message)) = Pcm::decode(MessageKind(kind), &body) {
            prop_assert_eq!(&message.encode(tag)[..], &body[..]);
        }
    }
}

#[test]
fn a_field_the_message_does_not_use_must_be_zero() {
    let message = Pcm::Released { grant: GrantNumber(4) };
    let mut body = message.encode(BufferTag::default());
    body[24] = 1;
    assert!(Pcm::decode(message.kind(), &body).is_err());
}
