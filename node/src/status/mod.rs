//! `pagewire status`: what a running node says of itself, asked over a local socket.
//!
//! ```text
//!   pagewire node                                       pagewire status --config FILE
//!   server: a thread, and one for each question         client: the same file, the same places
//!        ^   \
//!        |    Answers (facts)          {"query":"status"}\n  -->
//!        +---------------------        <--  {"answer":{...}}\n  or  {"error":"..."}\n
//! ```
//! The protocol is a line of JSON each way, and then the connection is closed. A question is an
//! object with the field `query`; whoever adds another kind of question adds an arm to
//! [`Query::parse`](protocol::Query::parse) and to what [`Answers`] is implemented for, and gives the
//! question fields of its own. Fields of answers are added, not renamed. (`storage_id` was a number before
//! the first release, and is text now: what asks takes either, an older one must ask with `--json`.)
//!
//! Rooms: `place` where the socket is, `protocol` the two lines, `server` and `client` the two ends,
//! `conversations` whom the server is talking to, `socket_file` the file between them, `answer` what
//! a node says, of `peer`s and `members` too, `page` what the master of a page says, `text` the same for
//! people, `facts` where it comes from, `command` the command.
//!
//! Bounds: a question has at most [`QUESTION_MAX_BYTES`](server::QUESTION_MAX_BYTES) and
//! [`PATIENCE`](server::PATIENCE); the node's other threads never wait for one that asks.

pub mod answer;
pub mod client;
pub mod command;
mod conversations;
mod error;
pub mod facts;
pub mod members;
pub mod page;
pub mod peer;
pub mod place;
pub mod protocol;
pub mod server;
mod socket_file;
mod text;

pub use answer::Status;
pub use command::{StatusOptions, run};
pub use error::StatusError;
pub use facts::{NodeFacts, gone_lives};
pub use members::MemberStatus;
pub use page::{PageOptions, PageStatus};
pub use peer::NoLink;
pub use place::Places;
pub use server::{Answers, Server};
pub use socket_file::SocketFile;
pub(crate) use socket_file::{InTheWay, in_the_way};
