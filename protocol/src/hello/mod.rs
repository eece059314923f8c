//! The handshake: four messages of fixed size on every connection, and nothing else is read before
//! they have proven that both sides have the cluster key.
//!
//! ```text
//!      dialler                                                            acceptor
//!   1  intro: versions, has key, nonce (48 bytes)            ---------->
//!   2                                    <----------  intro of the same shape, or a refusal
//!   3  hello (128), proof over 1, 2 and the hello (32)       ---------->  verify, then decode
//!   4  verify, then decode               <----------  hello with a status, proof over all; or a refusal
//! ```
//! Invariants:
//! - A hello is decoded, and anything of it acted on, only after its proof has verified.
//! - An answer that refuses is proven too. What refuses before the proof (versions, one side without
//!   a key, a proof that fails) is not, and cannot be; it is limited to the reasons that
//!   [`Refusal::needs_no_proof`] names, and is good for a message to the operator only.
//! - Memory is fixed for a connection: a [`Dialler`] or an [`Acceptor`], and no more is read than
//!   their [`Room`](Dialler::room) holds, so that what follows the handshake stays in the socket.
//!
//! Pure: bytes, key and random nonce come in, bytes and results go out. No input makes it panic.

mod exchange;
mod features;
mod intro;
mod proof;
mod refusal;
mod statement;

pub use exchange::{
    Acceptor, AcceptorStep, Dialler, DiallerStep, HandshakeError, PROVEN_BYTES, Refused, Rejection,
};
pub use features::Features;
pub use intro::{FirstBytes, INTRO_BYTES, Intro, IntroKind, MAGIC};
pub use proof::{NONCE_BYTES, Nonce, PROOF_BYTES, ProofKey, TrafficSecret};
pub use refusal::Refusal;
pub use statement::{HELLO_BYTES, Hello, storage_mark, view_mark};
