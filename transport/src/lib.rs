//! Ships blocks between hosts without copying them in user space.
//!
//! Purpose: one [`Endpoint`] per thread speaks to the endpoints of the other instances. Pages live
//! in the frames of an [`Arena`] and change owner instead of being copied; a session delivers each
//! message exactly once and in order per lane; credits keep every queue bounded.
//!
//! Threading: an endpoint, its links and its sessions belong to one thread, which calls
//! [`Endpoint::poll`]. Frames may travel between threads. Pins on published pages
//! ([`arena::PageView`]) may be taken on any thread.
//!
//! ```
//! use pagewire_transport::{Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Message};
//! use pagewire_protocol::{Body, ClusterId, InstanceId, Lane, MessageKind};
//! use std::time::{Duration, Instant};
//!
//! fn endpoint(id: u16) -> Endpoint {
//!     let arena = Arena::new(&ArenaConfig::new(256)).unwrap();
//!     let listen = "127.0.0.1:0".parse().unwrap();
//!     Endpoint::bind(EndpointConfig::new(ClusterId(1), InstanceId(id), listen), arena).unwrap()
//! }
//! let (mut a, mut b) = (endpoint(0), endpoint(1));
//! let (at_a, at_b) = (a.listen_address(), b.listen_address());
//! a.add_peer(InstanceId(1), at_b).unwrap();
//! b.add_peer(InstanceId(0), at_a).unwrap();
//!
//! let mut frame = a.arena().take().expect("a free frame");
//! frame.fill(7);
//! let mut page = Some(Message {
//!     frame: Some(frame.freeze()),
//!     ..Message::new(MessageKind(200), Body::new(b"block 5").unwrap())
//! });
//! let deadline = Instant::now() + Duration::from_secs(10);
//! let received = loop {
//!     assert!(Instant::now() < deadline);
//!     a.poll();
//!     while let Some(event) = a.next_event() {
//!         if let Event::Up { peer, .. } = event {
//!             a.send(peer, Lane::Pages, page.take().unwrap()).unwrap();
//!         }
//!     }
//!     b.poll();
//!     if let Some(Event::Message(received)) = b.next_event() {
//!         break received;
//!     }
//! };
//! assert_eq!(received.body.as_slice(), b"block 5");
//! assert!(received.frame.unwrap().iter().all(|&byte| byte == 7));
//! ```

pub mod arena;
pub mod counters;
pub mod endpoint;
pub mod error;
pub mod histogram;
pub mod link;
pub mod message;
pub mod poller;
pub mod session;

pub use arena::{Arena, ArenaConfig, Frame, FrameIndex, SharedFrame};
pub use endpoint::{Endpoint, EndpointConfig, Event, LaneCredits, SendError, Waker};
pub use error::TransportError;
pub use message::{Message, Received};
