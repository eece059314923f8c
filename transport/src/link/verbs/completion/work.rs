//! Which work a completion is about: what a work request's id says.

use std::fmt;

/// Which work request of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A receive.
    Receive {
        /// The slot it had.
        slot: u32,
    },
    /// A send, and with it every earlier one of the queue pair.
    Send {
        /// The slot it had.
        slot: u32,
    },
    /// The marker behind the last send of a queue pair that is being drained.
    Drain,
    /// Nothing that we post.
    Unknown(u64),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receive { slot } => write!(f, "receive {slot}"),
            Self::Send { slot } => write!(f, "send {slot}"),
            Self::Drain => f.write_str("the end of its sends"),
            Self::Unknown(id) => write!(f, "work request {id:#x}"),
        }
    }
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link::verbs) struct Owner {
    /// The caller's word for the queue pair.
    pub(in crate::link::verbs) tag: u16,
    /// Tells it from earlier queue pairs with the same tag and number, of which completions may
    /// still be in the queue.
    pub(in crate::link::verbs) serial: u16,
}

/// ```text
///  63        48 47        32 31  30 29              0
///  +-----------+------------+------+----------------+
///  | tag       | serial     | kind | slot           |
///  +-----------+------------+------+----------------+
/// ```
/// The kind has to be in the id: of work that failed nothing else of a completion can be relied on
/// but its status and the number of the queue pair.
pub(in crate::link::verbs) fn work_id(owner: Owner, work: Work) -> u64 {
    let (kind, slot) = match work {
        Work::Receive { slot } => (1, slot),
        Work::Send { slot } => (2, slot),
        Work::Drain => (3, 0),
        Work::Unknown(id) => return id,
    };
    debug_assert!(slot <= SLOT_MASK);
    let owner = u64::from(owner.tag) << 16 | u64::from(owner.serial);
    owner << 32 | u64::from(kind << 30 | slot)
}

/// Bits of a slot's number: far more than a queue can have.
const SLOT_MASK: u32 = (1 << 30) - 1;

#[inline]
pub(super) fn decode_work_id(id: u64) -> (Owner, Work) {
    let [t1, t0, s1, s0, w3, w2, w1, w0] = id.to_be_bytes();
    let word = u32::from_be_bytes([w3, w2, w1, w0]);
    let slot = word & SLOT_MASK;
    let work = match word >> 30 {
        1 => Work::Receive { slot },
        2 => Work::Send { slot },
        3 => Work::Drain,
        _ => Work::Unknown(id),
    };
    let (tag, serial) = (u16::from_be_bytes([t1, t0]), u16::from_be_bytes([s1, s0]));
    (Owner { tag, serial }, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_work_request_says_whose_and_which_it_was() {
        let works = [Work::Receive { slot: 0 }, Work::Send { slot: SLOT_MASK }, Work::Drain];
        for work in works {
            for (tag, serial) in [(0, 1), (1, 0), (u16::MAX, u16::MAX)] {
                let owner = Owner { tag, serial };
                assert_eq!(decode_work_id(work_id(owner, work)), (owner, work));
            }
        }
        assert_eq!(decode_work_id(5).1, Work::Unknown(5));
    }
}
