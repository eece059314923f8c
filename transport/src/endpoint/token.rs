//! Which token of the poller stands for what.
//!
//! ```text
//!   0 listener   1 waker   2 .. incoming connections   127 RDMA devices   128 .. eight for each peer:
//!                            its links' connections (and completion channel), then its dials
//! ```

use mio::Token;
use pagewire_protocol::LaneClass;

pub(super) const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
const INCOMING_BASE: usize = 2;
/// Events of RDMA devices.
pub(super) const DEVICE: Token = Token(PEER_BASE - 1);
const PEER_BASE: usize = 128;
const TOKENS_PER_PEER: usize = 8;
const DIAL_OFFSET: usize = 4;

/// Tokens that there are for connections that came in.
pub(super) const INCOMING_PLACES: usize = DEVICE.0 - INCOMING_BASE;

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Listener,
    Waker,
    /// Something that an RDMA device reports.
    Device,
    /// A connection in its handshake, by its position.
    Incoming(usize),
    /// The connection that is being dialled for a peer, by its slot.
    Dial(usize),
    /// A connection of a peer's link; with the page class, its queue pairs' completion channel.
    Link(usize, LaneClass),
    /// None that was given out.
    Nothing,
}

impl Place {
    pub(super) fn of(token: Token) -> Self {
        match token {
            LISTENER => Self::Listener,
            WAKER => Self::Waker,
            DEVICE => Self::Device,
            Token(token) if token < PEER_BASE => Self::Incoming(token - INCOMING_BASE),
            Token(token) => {
                let at = token - PEER_BASE;
                let (slot, offset) = (at / TOKENS_PER_PEER, at % TOKENS_PER_PEER);
                match LaneClass::ALL.get(offset) {
                    Some(class) => Self::Link(slot, *class),
                    None if offset >= DIAL_OFFSET => Self::Dial(slot),
                    None => Self::Nothing,
                }
            }
        }
    }
}

pub(super) fn incoming_token(position: usize) -> Token {
    Token(INCOMING_BASE + position)
}

pub(super) fn dial_token(slot: usize, class: LaneClass) -> Token {
    Token(PEER_BASE + slot * TOKENS_PER_PEER + DIAL_OFFSET + class.index())
}

pub(super) fn link_token(slot: usize, class: LaneClass) -> Token {
    Token(PEER_BASE + slot * TOKENS_PER_PEER + class.index())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_stands_for_what_it_was_made_for() {
        assert_eq!(Place::of(LISTENER), Place::Listener);
        assert_eq!(Place::of(WAKER), Place::Waker);
        assert_eq!(Place::of(DEVICE), Place::Device);
        for at in [0, 1, INCOMING_PLACES - 1] {
            assert_eq!(Place::of(incoming_token(at)), Place::Incoming(at));
        }
        for slot in [0, 1, 1023] {
            for class in LaneClass::ALL {
                assert_eq!(Place::of(link_token(slot, class)), Place::Link(slot, class));
                assert_eq!(Place::of(dial_token(slot, class)), Place::Dial(slot));
            }
        }
    }
}
