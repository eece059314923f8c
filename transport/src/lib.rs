//! Ships blocks between hosts without copying them in user space.
//!
//! Purpose: one [`Endpoint`] per thread speaks to the endpoints of the other instances. Pages live
//! in the frames of an [`Arena`] and change owner instead of being copied; a session delivers each
//! message exactly once and in order per lane; credits keep every queue bounded.
//!
//! | lane | frame | default credits | for |
//! | --- | --- | --- | --- |
//! | control | no | 256 | what moves the protocol forward |
//! | requests | no | 128 | new requests |
//! | SI | no | 128 | shared invalidations |
//! | pages | one a message | 32 | pages |
//! | bulk | one a message | 8 | large transfers ([`transfer`]); a connection of its own |
//!
//! Credits are receives that are posted for each peer, so an arena needs
//! [`LaneCredits::frames_per_peer`] frames for each peer and what the application keeps. Message
//! kinds are the application's: 1 to 65,531. Ids, lanes and bodies come from [`protocol`].
//!
//! One-sided reads ([`Endpoint::read_page`]) are off unless both ends turn them on. What they bring may
//! be torn and gives no right to the page.
//!
//! An endpoint that is dropped takes its links with it: what is not acknowledged may not have
//! arrived. [`Endpoint::lane_state`] says what a session still keeps. A peer that cannot be reached is
//! tried for ever, without an event; the log has the reason at level debug.
//!
//! Threading: an endpoint, its links and its sessions belong to one thread, which calls
//! [`Endpoint::poll`], or which a [`poller`] is. Frames may travel between threads. Pins on
//! published pages ([`arena::PageView`]) may be taken on any thread.
//!
//! ```
//! use pagewire_protocol::{Body, ClusterId, InstanceId, Lane, MessageKind};
//! use pagewire_transport::{Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Message};
//! use std::{thread, time::Duration};
//!
//! fn endpoint(id: u16) -> Endpoint {
//!     let arena = Arena::new(&ArenaConfig::new(256)).unwrap();
//!     let any_port = "127.0.0.1:0".parse().unwrap();
//!     Endpoint::bind(EndpointConfig::new(ClusterId(1), InstanceId(id), any_port), arena).unwrap()
//! }
//! fn next_event(endpoint: &mut Endpoint) -> Event {
//!     loop {
//!         if let Some(event) = endpoint.next_event() {
//!             return event;
//!         }
//!         endpoint.wait(Duration::from_secs(1), || false);
//!     }
//! }
//!
//! let (mut a, mut b) = (endpoint(0), endpoint(1));
//! a.add_peer(InstanceId(1), b.listen_address()).unwrap();
//! b.add_peer(InstanceId(0), a.listen_address()).unwrap();
//! let sender = thread::spawn(move || {
//!     while !matches!(next_event(&mut a), Event::Up { .. }) {}
//!     let mut frame = a.arena().take().expect("a free frame");
//!     frame.fill(7);
//!     let message = Message::new(MessageKind(200), Body::new(b"block 5").unwrap());
//!     let page = Message { frame: Some(frame.freeze()), ..message };
//!     a.send(InstanceId(1), Lane::Pages, page).unwrap();
//!     a.flush();
//!     a // dropped only after the page has arrived: a link ends with its endpoint
//! });
//! let received = loop {
//!     let Event::Message(received) = next_event(&mut b) else { continue };
//!     break received;
//! };
//! assert_eq!(received.body.as_slice(), b"block 5");
//! assert!(received.frame.unwrap().iter().all(|&byte| byte == 7));
//! drop(sender.join().unwrap());
//! ```

pub mod arena;
pub mod cluster_key;
mod counter;
pub mod counters;
pub mod endpoint;
pub mod error;
pub mod histogram;
pub mod link;
pub mod message;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
pub mod poller;
mod prefetch;
mod ring;
pub mod session;
pub mod transfer;

pub use pagewire_protocol as protocol;

pub use arena::{Arena, ArenaConfig, Frame, FrameIndex, MARGIN_BYTES, SharedFrame};
pub use cluster_key::{ClusterKey, ClusterKeyError};
pub use endpoint::{
    Endpoint, EndpointConfig, Event, LaneCredits, LaneState, LinkPolicy, ReadDone, ReadError,
    ReadId, ReadRefused, RegionState, SendError, Taken, Waker,
};
pub use error::TransportError;
pub use link::verbs::Overrides;
pub use message::{Message, Received};
pub use prefetch::prefetch;
pub use transfer::{Assembly, Transfer};
