//! Why a read was not begun, and why it brought no page.

use pagewire_protocol::{ReadRefusal, read::READS_MAX};

/// Why [`Endpoint::read_page`](crate::Endpoint::read_page) did not begin a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadRefused {
    /// The configuration of this end does not turn them on.
    #[error(
        "one-sided reads are off at this end: turn them on (`EndpointConfig::one_sided_reads`), here \
         and at the peer"
    )]
    Off,
    /// That of the peer does not.
    #[error(
        "one-sided reads are off at the peer, or its version has none: turn them on there, too, with \
         a restart of its instance"
    )]
    OffAtPeer,
    /// There is no session with that instance.
    #[error("there is no session with that instance: poll until `Event::Up`")]
    NoSession,
    /// As many are under way as can be: back-pressure.
    #[error(
        "{READS_MAX} reads of that peer are under way or their events not taken, expected fewer: \
         poll, take events and try again"
    )]
    TooMany,
}

/// Why a read brought no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer has opened no such region, or has closed it.
    #[error(
        "the peer has opened no region of that number, or has closed it: have it opened before it is \
         read"
    )]
    UnknownRegion,
    /// The region ends before.
    #[error("frame {offset_frames} of a region of {frames}, expected a lesser one")]
    OutOfBounds {
        /// The frame that was to be read, counted from 0.
        offset_frames: u32,
        /// Frames of the region.
        frames: u32,
    },
    /// The deadline came first ([`EndpointConfig::read_timeout`](crate::EndpointConfig)).
    #[error(
        "no page within {limit_ms} ms: waited for {waited_for}; have frames given back where none is \
         free, then read again, or raise `read_timeout`"
    )]
    TimedOut {
        /// The limit.
        limit_ms: u128,
        /// What the page was waited for at the end.
        waited_for: &'static str,
    },
    /// The session ended first.
    #[error(
        "the session with the owner ended before the page was there: nothing is known of the page; \
         read it from whoever has it now"
    )]
    SessionEnded,
}

impl ReadError {
    /// The owner's words about a read of this frame.
    pub(super) fn of(why: ReadRefusal, offset_frames: u32) -> Self {
        match why {
            ReadRefusal::UnknownRegion => Self::UnknownRegion,
            ReadRefusal::OutOfBounds { frames } => Self::OutOfBounds { offset_frames, frames },
        }
    }
}
