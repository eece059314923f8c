//! What the two ends of a link say to each other about the link itself: whether to use verbs, the
//! addresses of the queue pairs, when the session moves over, and which regions may be read.
//!
//! These messages travel on the TCP connection, as [`MessageKind::LINK`]: on the control lane,
//! without a sequence, never acknowledged, and never on verbs. The body:
//!
//! ```text
//!   Offer, Accept    0    1     2     4         8     24         36         48
//!                    +----+-----+-----+---------+-----+----------+----------+
//!                    |what| mtu | lid | attempt | gid | qpn, 3x4 | psn, 3x4 |   small, page, bulk
//!                    +----+-----+-----+---------+-----+----------+----------+
//!   Decline          0    1        2   4         8
//!                    +----+--------+---+---------+
//!                    |what| reason | - | attempt |
//!                    +----+--------+---+---------+
//!   Alive            what, zeros up to 8
//!   Close, Left      0    1   2        4         8
//!                    +----+---+--------+---------+
//!                    |what| - | region | attempt |
//!                    +----+---+--------+---------+
//!   Region           0    1   2        4         8         16    20       24
//!                    +----+---+--------+---------+---------+-----+--------+
//!                    |what| - | region | attempt | address | key | frames |
//!                    +----+---+--------+---------+---------+-----+--------+
//!   Switch           0    1    2   4         8                 48             68
//!                    +----+----+---+---------+-----------------+--------------+
//!                    |what| to | - | attempt | expected, 5 x 8 | credits, 5x4 |
//!                    +----+----+---+---------+-----------------+--------------+
//! ```
//! All integers little-endian; a GID is 16 bytes in network order, as everywhere.
//!
//! [`MessageKind::LINK`]: crate::MessageKind::LINK

use crate::{Body, DecodeError, Lane, LaneClass, RegionId, Sequence, header::BODY_BYTES_MAX};
use std::fmt;

/// The two kinds of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkKind {
    /// TCP connections.
    Tcp = 0,
    /// Queue pairs of RDMA verbs.
    Verbs = 1,
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Verbs => "verbs",
        })
    }
}

/// Why a link is not, or no longer, on verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum TcpReason {
    /// The configuration says TCP.
    Configured = 1,
    /// The host has no libibverbs.
    NoLibrary = 2,
    /// The kernel has no RDMA support, or it is not loaded.
    NoKernelSupport = 3,
    /// The host has no RDMA device, or not the configured one.
    NoDevice = 4,
    /// No port of a device has an address on the network of the TCP connection, or it is down.
    NoPort = 5,
    /// The arena cannot be registered with the device: most often the limit on locked memory.
    NotRegistered = 6,
    /// Queue pairs could not be made or connected.
    Setup = 7,
    /// The other side did not answer in time.
    Timeout = 8,
    /// The queue pairs failed; the cause is in the log.
    Failed = 9,
}

impl TcpReason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Configured,
        Self::NoLibrary,
        Self::NoKernelSupport,
        Self::NoDevice,
        Self::NoPort,
        Self::NotRegistered,
        Self::Setup,
        Self::Timeout,
        Self::Failed,
    ];

    /// The reason's position in [`TcpReason::ALL`], for use as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// The reason's name, as operators read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::NoLibrary => "no-library",
            Self::NoKernelSupport => "no-kernel-support",
            Self::NoDevice => "no-device",
            Self::NoPort => "no-port",
            Self::NotRegistered => "not-registered",
            Self::Setup => "setup",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for TcpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an end's queue pairs are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairs {
    /// Greatest packet of its port, as verbs counts them: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    /// LID of its port; 0 on Ethernet.
    pub lid: u16,
    /// GID of its port.
    pub gid: [u8; 16],
    /// Numbers of its queue pairs, by lane class.
    pub numbers: [u32; LaneClass::COUNT],
    /// Number of the first packet that each sends.
    pub first_packets: [u32; LaneClass::COUNT],
}

/// What an end states when it moves to another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The sequence it expects next on each lane.
    pub expected: [Sequence; Lane::COUNT],
    /// Receives it has posted on that link, by lane.
    pub credits: [u32; Lane::COUNT],
}

/// One message about the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkControl {
    /// Use verbs? Here are my queue pairs.
    Offer {
        /// Which try it is, since the TCP link came up: 1, 2, ...
        attempt: u32,
        /// The sender's end.
        queue_pairs: QueuePairs,
    },
    /// Yes; mine are connected with yours.
    Accept {
        /// The offer's.
        attempt: u32,
        /// The sender's end.
        queue_pairs: QueuePairs,
    },
    /// No, or no longer: the queue pairs of this attempt are gone.
    Decline {
        /// The attempt; 0: none was begun.
        attempt: u32,
        /// Why.
        reason: TcpReason,
    },
    /// From here on nothing with a sequence comes on the present link, and all goes on `to`.
    Switch {
        /// The attempt that made the queue pairs.
        attempt: u32,
        /// The next link.
        to: LinkKind,
        /// What to go on with.
        statement: Statement,
    },
    /// The sender lives. While messages are on verbs nothing else shows it: an acknowledgement would
    /// count receives of one link on the other.
    Alive,
    /// The sender lets the other end read this region over the queue pairs of this attempt, with this
    /// key. Only where both ends have stated [`Features::READS`](crate::hello::Features::READS).
    Region {
        /// The attempt that made the queue pairs.
        attempt: u32,
        /// Which region.
        region: RegionId,
        /// Where it is.
        memory: RegionMemory,
    },
    /// The sender closes this region: the other end begins no read of it any more, and says
    /// [`LinkControl::Left`] when the last one has ended. Only where both ends have stated
    /// [`Features::CLOSING`](crate::hello::Features::CLOSING).
    Close {
        /// The attempt that made the queue pairs that it is read over.
        attempt: u32,
        /// Which region.
        region: RegionId,
    },
    /// The sender has forgotten the key of this region, and has no read of it under way: the answer to
    /// [`LinkControl::Close`].
    Left {
        /// That of the [`LinkControl::Close`].
        attempt: u32,
        /// Which region.
        region: RegionId,
    },
}

/// Where a region is, for an RDMA READ: its frames lie one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionMemory {
    /// Its first byte, as the owner's device knows it.
    pub address: u64,
    /// The key, which covers the region and nothing else.
    pub key: u32,
    /// Frames that it has.
    pub frames: u32,
}

const OFFER: u8 = 1;
const ACCEPT: u8 = 2;
const DECLINE: u8 = 3;
const SWITCH: u8 = 4;
const ALIVE: u8 = 5;
const REGION: u8 = 6;
const CLOSE: u8 = 7;
const LEFT: u8 = 8;
const OFFER_BYTES: usize = 48;
const DECLINE_BYTES: usize = 8;
const ALIVE_BYTES: usize = 8;
const REGION_BYTES: usize = 24;
const CLOSE_BYTES: usize = 8;
const SWITCH_BYTES: usize = 8 + 12 * Lane::COUNT;
const _: () = assert!(SWITCH_BYTES <= BODY_BYTES_MAX);
/// A queue pair's number, and a packet sequence, have 24 bits.
const BITS_24: u32 = 0x00FF_FFFF;

impl LinkControl {
    /// The body of the message.
    #[must_use]
    pub fn encode(&self) -> Body {
        let mut bytes = [0; BODY_BYTES_MAX];
        let len = match self {
            Self::Offer { attempt, queue_pairs } => {
                put_offer(&mut bytes, OFFER, *attempt, queue_pairs)
            }
            Self::Accept { attempt, queue_pairs } => {
                put_offer(&mut bytes, ACCEPT, *attempt, queue_pairs)
            }
            Self::Decline { attempt, reason } => {
                put_head(&mut bytes, DECLINE, *reason as u8, *attempt);
                DECLINE_BYTES
            }
            Self::Switch { attempt, to, statement } => {
                put_head(&mut bytes, SWITCH, *to as u8, *attempt);
                let (expected, credits) = bytes[8..SWITCH_BYTES].split_at_mut(8 * Lane::COUNT);
                for (place, sequence) in expected.chunks_exact_mut(8).zip(statement.expected) {
                    place.copy_from_slice(&sequence.0.to_le_bytes());
                }
                for (place, credit) in credits.chunks_exact_mut(4).zip(statement.credits) {
                    place.copy_from_slice(&credit.to_le_bytes());
                }
                SWITCH_BYTES
            }
            Self::Alive => {
                put_head(&mut bytes, ALIVE, 0, 0);
                ALIVE_BYTES
            }
            Self::Region { attempt, region, memory } => {
                put_head(&mut bytes, REGION, 0, *attempt);
                bytes[2..4].copy_from_slice(&region.0.to_le_bytes());
                bytes[8..16].copy_from_slice(&memory.address.to_le_bytes());
                bytes[16..20].copy_from_slice(&memory.key.to_le_bytes());
                bytes[20..24].copy_from_slice(&memory.frames.to_le_bytes());
                REGION_BYTES
            }
            Self::Close { attempt, region } => put_close(&mut bytes, CLOSE, *attempt, *region),
            Self::Left { attempt, region } => put_close(&mut bytes, LEFT, *attempt, *region),
        };
        Body::new(&bytes[..len]).unwrap_or(Body::EMPTY)
    }

    /// Reads what [`LinkControl::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] when the length is wrong or a field holds what no sender writes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let field = |what, found: u64, expected| Err(DecodeError::Field { what, found, expected });
        let what = body.first().copied().unwrap_or(0);
        let expected = match what {
            OFFER | ACCEPT => OFFER_BYTES,
            DECLINE => DECLINE_BYTES,
            SWITCH => SWITCH_BYTES,
            ALIVE => ALIVE_BYTES,
            REGION => REGION_BYTES,
            CLOSE | LEFT => CLOSE_BYTES,
            _ => return field("link control message", what.into(), "1 to 8"),
        };
        if body.len() != expected {
            let what = "link control message";
            return Err(DecodeError::Length { what, found: body.len(), expected });
        }
        let second = body[1];
        let attempt = u32_at(body, 4);
        if what == OFFER || what == ACCEPT {
            let queue_pairs = get_queue_pairs(body)?;
            return Ok(if what == OFFER {
                Self::Offer { attempt, queue_pairs }
            } else {
                Self::Accept { attempt, queue_pairs }
            });
        }
        if what == ALIVE {
            return match body[1..].iter().find(|byte| **byte != 0) {
                Some(byte) => field("link control reserved bytes", (*byte).into(), "0"),
                None => Ok(Self::Alive),
            };
        }
        if what == REGION {
            return get_region(body, attempt);
        }
        if what == CLOSE || what == LEFT {
            if second != 0 {
                return field("link control reserved bytes", second.into(), "0");
            }
            let region = RegionId(u16_at(body, 2));
            return Ok(if what == CLOSE {
                Self::Close { attempt, region }
            } else {
                Self::Left { attempt, region }
            });
        }
        if body[2..4] != [0; 2] {
            return field("link control reserved bytes", u16_at(body, 2).into(), "0");
        }
        if what == DECLINE {
            let Some(reason) = TcpReason::from_wire(second) else {
                return field("reason for TCP", second.into(), "1 to 9");
            };
            return Ok(Self::Decline { attempt, reason });
        }
        let to = match second {
            0 => LinkKind::Tcp,
            1 => LinkKind::Verbs,
            _ => return field("link to switch to", second.into(), "0 (TCP) or 1 (verbs)"),
        };
        let mut statement =
            Statement { expected: [Sequence(0); Lane::COUNT], credits: [0; Lane::COUNT] };
        for lane in Lane::ALL {
            let expected = u64_at(body, 8 + 8 * lane.index());
            if expected == 0 {
                return field("sequence expected after a switch", 0, "1 or more");
            }
            statement.expected[lane.index()] = Sequence(expected);
            statement.credits[lane.index()] = u32_at(body, 8 + 8 * Lane::COUNT + 4 * lane.index());
        }
        Ok(Self::Switch { attempt, to, statement })
    }
}

fn put_head(bytes: &mut [u8; BODY_BYTES_MAX], what: u8, second: u8, attempt: u32) {
    (bytes[0], bytes[1]) = (what, second);
    bytes[4..8].copy_from_slice(&attempt.to_le_bytes());
}

fn put_close(bytes: &mut [u8; BODY_BYTES_MAX], what: u8, attempt: u32, region: RegionId) -> usize {
    put_head(bytes, what, 0, attempt);
    bytes[2..4].copy_from_slice(&region.0.to_le_bytes());
    CLOSE_BYTES
}

fn put_offer(
    bytes: &mut [u8; BODY_BYTES_MAX],
    what: u8,
    attempt: u32,
    queue_pairs: &QueuePairs,
) -> usize {
    put_head(bytes, what, queue_pairs.mtu, attempt);
    bytes[2..4].copy_from_slice(&queue_pairs.lid.to_le_bytes());
    bytes[8..24].copy_from_slice(&queue_pairs.gid);
    for (place, number) in bytes[24..36].chunks_exact_mut(4).zip(queue_pairs.numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    for (place, packet) in bytes[36..48].chunks_exact_mut(4).zip(queue_pairs.first_packets) {
        place.copy_from_slice(&packet.to_le_bytes());
    }
    OFFER_BYTES
}

fn get_queue_pairs(body: &[u8]) -> Result<QueuePairs, DecodeError> {
    let field = |what, found: u64, expected| Err(DecodeError::Field { what, found, expected });
    let mtu = body[1];
    if !(1..=5).contains(&mtu) {
        return field("MTU of queue pairs", mtu.into(), "1 (256 bytes) to 5 (4096 bytes)");
    }
    let mut gid = [0; 16];
    gid.copy_from_slice(&body[8..24]);
    let numbers = [24, 28, 32].map(|at| u32_at(body, at));
    if let Some(number) = numbers.into_iter().find(|number| *number > BITS_24) {
        return field("number of a queue pair", number.into(), "24 bits");
    }
    let first_packets = [36, 40, 44].map(|at| u32_at(body, at));
    if let Some(packet) = first_packets.into_iter().find(|packet| *packet > BITS_24) {
        return field("number of a first packet", packet.into(), "24 bits");
    }
    Ok(QueuePairs { mtu, lid: u16_at(body, 2), gid, numbers, first_packets })
}

fn get_region(body: &[u8], attempt: u32) -> Result<LinkControl, DecodeError> {
    let field = |what, found: u64, expected| Err(DecodeError::Field { what, found, expected });
    if body[1] != 0 {
        return field("link control reserved bytes", body[1].into(), "0");
    }
    let memory =
        RegionMemory { address: u64_at(body, 8), key: u32_at(body, 16), frames: u32_at(body, 20) };
    if memory.frames == 0 {
        return field("frames of a region", 0, "1 or more");
    }
    Ok(LinkControl::Region { attempt, region: RegionId(u16_at(body, 2)), memory })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some() -> Vec<LinkControl> {
        let queue_pairs = QueuePairs {
            mtu: 5,
            lid: 0x1234,
            gid: std::array::from_fn(|i| u8::try_from(i).unwrap()),
            numbers: [17, 18, BITS_24],
            first_packets: [0, 1, 0x00AB_CDEF],
        };
        let statement = Statement {
            expected: [1, 2, 3, u64::MAX, 5].map(Sequence),
            credits: [256, 128, 128, 32, u32::MAX],
        };
        let mut all = vec![
            LinkControl::Offer { attempt: 1, queue_pairs },
            LinkControl::Accept { attempt: u32::MAX, queue_pairs },
            LinkControl::Switch { attempt: 7, to: LinkKind::Tcp, statement },
            LinkControl::Switch { attempt: 8, to: LinkKind::Verbs, statement },
            LinkControl::Alive,
            LinkControl::Region {
                attempt: 9,
                region: RegionId(0x0102),
                memory: RegionMemory { address: u64::MAX - 3, key: 0x0A0B_0C0D, frames: 64 },
            },
        ];
        let (attempt, region) = (10, RegionId(0x0304));
        all.extend([LinkControl::Close { attempt, region }, LinkControl::Left { attempt, region }]);
        all.extend(TcpReason::ALL.map(|reason| LinkControl::Decline { attempt: 3, reason }));
        all
    }

    #[test]
    fn every_message_survives_the_wire() {
        for message in some() {
            assert_eq!(LinkControl::decode(message.encode().as_slice()), Ok(message));
        }
    }

    #[test]
    fn a_message_that_is_cut_short_or_too_long_is_refused() {
        for message in some() {
            let body = message.encode();
            for len in 0..body.as_slice().len() {
                assert!(LinkControl::decode(&body.as_slice()[..len]).is_err(), "{len} bytes");
            }
            let longer = [body.as_slice(), &[0]].concat();
            assert!(LinkControl::decode(&longer).is_err());
        }
    }

    #[test]
    fn reasons_are_told_apart_by_index_and_name() {
        for (at, reason) in TcpReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), at);
            assert_eq!(TcpReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic_and_only_to_what_encodes_back(
            what in 0u8..10,
            rest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes: Vec<u8> = std::iter::once(what).chain(rest).collect();
            if let Ok(message) = LinkControl::decode(&bytes) {
                let again = message.encode();
                prop_assert_eq!(again.as_slice(), &bytes[..]);
            }
        }
    }
}
