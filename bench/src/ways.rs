//! The ways that carry messages, each seen from one end: two endpoints ([`Ours`]), and the sockets
//! that they are measured against ([`Bare`], [`Plain`]).

mod bare;
mod ours;
mod traffic;

pub(crate) use bare::{Bare, Plain, again, read, write};
pub(crate) use ours::Ours;
pub(crate) use traffic::{NUMBER_BYTES, PAGE_BYTES, Pages, Size, number_in, put_number, same};

use crate::{error::BenchError, spin::Switch};
use pagewire_protocol::Lane;
use pagewire_transport::LaneCredits;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// Resident pages, and received pages that are kept, at most.
pub(crate) const FRAMES_MAX: u32 = 65_536;
/// Credits of a lane at most: what a session keeps.
pub(crate) const CREDITS_MAX: u32 = 4096;

/// One way to carry messages, seen from one end.
pub(crate) trait Way {
    /// Sends a message of `size` that carries `number`.
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError>;

    /// Looks once for a message of `size`; its number if it is there, its contents checked.
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError>;

    /// Sleeps until there may be something to hear.
    fn sleep(&mut self) -> Result<(), BenchError>;

    /// As [`Way::hear`], right after [`Way::sleep`].
    fn hear_awake(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        self.hear(size)
    }

    /// Makes what was said leave, if it has not.
    fn flush(&mut self) {}
}

/// What both ends have to agree on before they can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// Resident pages that page messages are sent from in turn.
    pub(crate) frames: u32,
    /// Received pages that are kept before their frames are used again.
    pub(crate) keep: u32,
    /// Each page carries its CRC.
    pub(crate) page_crc: bool,
    /// Credits of the requests and the pages lane, if not the default ones.
    pub(crate) credits: Option<u32>,
}

impl Setup {
    /// An error if a value is beyond what the options of the command line allow: it may have come
    /// from another host.
    ///
    /// # Errors
    /// [`BenchError::Control`].
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        let fits = (1..=FRAMES_MAX).contains(&self.frames)
            && self.keep <= FRAMES_MAX
            && self.credits.is_none_or(|credits| (1..=CREDITS_MAX).contains(&credits));
        if fits {
            return Ok(());
        }
        Err(BenchError::Control(format!(
            "found {self:?}, expected frames 1 to {FRAMES_MAX}, keep up to {FRAMES_MAX} and \
             credits 1 to {CREDITS_MAX}"
        )))
    }

    pub(crate) fn lane_credits(&self) -> LaneCredits {
        let mut credits = LaneCredits::default();
        if let Some(count) = self.credits {
            credits.0[Lane::Requests.index()] = count;
            credits.0[Lane::Pages.index()] = count;
        }
        credits
    }
}

/// Two connected, nonblocking sockets on loopback.
pub(crate) fn sockets() -> Result<(TcpStream, TcpStream), BenchError> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let dialled = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for stream in [&dialled, &accepted] {
        spinning(stream)?;
    }
    Ok((dialled, accepted))
}

/// Makes `stream` one that is spun on.
pub(crate) fn spinning(stream: &TcpStream) -> Result<(), BenchError> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(())
}
