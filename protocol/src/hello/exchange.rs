//! The two sides of the handshake as state machines without sockets.
//!
//! ```text
//!   Dialler    opening() -> [wait intro] -> Speak -> speak() -> [wait proven hello] -> Proven
//!   Acceptor              [wait intro] -> Reply -> [wait proven hello] -> Proven -> answer()
//! ```
//! The caller reads into `room()` and says with `filled()` how many bytes came. An error ends the
//! machine: there is no room any more and `filled` says [`HandshakeError::Over`].

use super::{
    HELLO_BYTES, Hello, INTRO_BYTES, Intro, IntroKind, Nonce, PROOF_BYTES, ProofKey, Refusal,
    TrafficSecret,
    intro::{FirstBytes, IntroError},
    proof::{Label, Transcript},
};
use crate::{DecodeError, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

/// Bytes of a hello and its proof.
pub const PROVEN_BYTES: usize = HELLO_BYTES + PROOF_BYTES;
/// First version whose hello has a mark of the view.
const VIEW_MARK_SINCE_VERSION: u16 = 3;
/// First version whose hello says how long a pause its sender bears.
const PAUSE_SINCE_VERSION: u16 = 4;
/// First version whose hello says which storage its sender has.
const STORAGE_SINCE_VERSION: u16 = 6;
const _: () = assert!(PROVEN_BYTES == 160 && INTRO_BYTES == 48);

/// Why a handshake went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The other side is something else.
    #[error(
        "not a Pagewire peer: first bytes {0}, expected 50 41 47 45 57 49 52 45 (PAGEWIRE); find out \
         what connects here, or mend the address"
    )]
    NotPagewire(FirstBytes),
    /// A field holds what no peer sends.
    #[error("the handshake is not one of a Pagewire peer: {0}")]
    Decode(#[from] DecodeError),
    /// This side goes no further.
    #[error("this side refuses: {0:?}")]
    Refused(Rejection),
    /// The other side goes no further. Nothing proves that it was the other side.
    #[error("the other side refuses: {0:?}")]
    RefusedByPeer(Rejection),
    /// The machine has ended.
    #[error("the handshake is over")]
    Over,
}

/// A refusal before any proof, with what both sides have said for the operator's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub refusal: Refusal,
    /// Oldest and newest version that the other side speaks.
    pub versions: (u16, u16),
    /// Whether the other side has a cluster key.
    pub has_key: bool,
}

impl From<IntroError> for HandshakeError {
    fn from(error: IntroError) -> Self {
        match error {
            IntroError::NotPagewire(first) => Self::NotPagewire(first),
            IntroError::Field(error) => Self::Decode(error),
            IntroError::Version { min, max } => Self::Refused(Rejection {
                refusal: Refusal::Version,
                versions: (min, max),
                has_key: false,
            }),
        }
    }
}

/// A message that comes in pieces.
#[derive(Debug)]
struct Gather {
    bytes: [u8; PROVEN_BYTES],
    got: usize,
    wanted: usize,
}

impl Gather {
    fn new() -> Self {
        Self { bytes: [0; PROVEN_BYTES], got: 0, wanted: INTRO_BYTES }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.got..self.wanted]
    }

    /// True when the message is whole.
    fn filled(&mut self, count: usize) -> Result<bool, HandshakeError> {
        if self.wanted == 0 {
            return Err(HandshakeError::Over);
        }
        self.got = self.got.saturating_add(count).min(self.wanted);
        // Whoever does not begin like a peer need not go on.
        if self.wanted == INTRO_BYTES
            && let Some(first) = FirstBytes::that_are_no_magic(&self.bytes[..self.got])
        {
            return Err(HandshakeError::NotPagewire(first));
        }
        Ok(self.got == self.wanted)
    }

    fn next(&mut self, wanted: usize) {
        (self.got, self.wanted) = (0, wanted);
    }

    fn intro_bytes(&self) -> [u8; INTRO_BYTES] {
        let mut bytes = [0; INTRO_BYTES];
        bytes.copy_from_slice(&self.bytes[..INTRO_BYTES]);
        bytes
    }

    fn hello_bytes(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes.copy_from_slice(&self.bytes[..HELLO_BYTES]);
        bytes
    }

    fn proof(&self) -> &[u8] {
        &self.bytes[HELLO_BYTES..]
    }
}

/// What both machines are made of.
#[derive(Debug)]
struct Common {
    ours: Intro,
    /// The other side's, once it is there.
    theirs: Option<Intro>,
    said: Transcript,
    gather: Gather,
}

impl Common {
    fn new(kind: IntroKind, has_key: bool, nonce: Nonce) -> Self {
        let (version_min, version_max) = (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
        let ours = Intro { version_min, version_max, kind, has_key, nonce };
        Self { ours, theirs: None, said: Transcript::new(), gather: Gather::new() }
    }

    fn over<T>(&mut self, result: Result<T, HandshakeError>) -> Result<T, HandshakeError> {
        if result.is_err() {
            self.gather.next(0);
        }
        result
    }

    /// Takes the other side's introduction; `expected` is its kind.
    fn introduced(&mut self, expected: IntroKind) -> Result<(), HandshakeError> {
        let bytes = self.gather.intro_bytes();
        let theirs = Intro::decode(&bytes, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION)?;
        self.theirs = Some(theirs);
        match theirs.kind {
            IntroKind::Refusal(refusal) if expected == IntroKind::Acceptor => {
                return Err(HandshakeError::RefusedByPeer(rejection(refusal, &theirs)));
            }
            kind if kind != expected => {
                let found = u64::from(bytes[12]);
                let expected = "1 from a dialler, 2 or 3 from an acceptor";
                let what = "introduction kind";
                return Err(DecodeError::Field { what, found, expected }.into());
            }
            _ => {}
        }
        if theirs.has_key != self.ours.has_key {
            return Err(HandshakeError::Refused(rejection(Refusal::KeyMissing, &theirs)));
        }
        Ok(())
    }

    /// Verifies and then reads the other side's hello.
    fn proven(&mut self, key: ProofKey<'_>, label: Label) -> Result<Hello, HandshakeError> {
        let bytes = self.gather.hello_bytes();
        self.said.push(&bytes);
        if !self.said.verifies(key, label, self.gather.proof()) {
            let Some(theirs) = &self.theirs else { return Err(HandshakeError::Over) };
            return Err(HandshakeError::Refused(rejection(Refusal::Proof, theirs)));
        }
        let hello = Hello::decode(&bytes)?;
        let sayable = self.as_said(&hello);
        let field = |what, found: u16, expected| {
            Err(DecodeError::Field { what, found: found.into(), expected }.into())
        };
        if hello.features != sayable.features {
            let expected = "none that came later than a version of either end: 0 in version 2, no bit \
                            but 0 in versions 3 and 4";
            return field("hello features", hello.features.to_wire(), expected);
        }
        let expected = "0 between ends of which one speaks version 2 only";
        if hello.view_mark != sayable.view_mark {
            return field("hello view mark", hello.view_mark, expected);
        }
        if hello.pause_max_ms != sayable.pause_max_ms {
            let expected = "0 between ends of which one speaks no version after 3";
            return field("hello longest pause", hello.pause_max_ms, expected);
        }
        if hello.storage_mark != sayable.storage_mark {
            let expected = "0 between ends of which one speaks no version after 5";
            return field("hello storage mark", hello.storage_mark, expected);
        }
        Ok(hello)
    }

    /// The newest version that both ends speak; our newest, as long as the other is not heard.
    fn version(&self) -> u16 {
        let theirs = self.theirs.map_or(u16::MAX, |theirs| theirs.version_max);
        self.ours.version_max.min(theirs)
    }

    /// What of `hello` the version that both speak can state.
    fn as_said(&self, hello: &Hello) -> Hello {
        let mut said = *hello;
        said.features = said.features.known_to(self.version());
        if self.version() < VIEW_MARK_SINCE_VERSION {
            said.view_mark = 0;
        }
        if self.version() < PAUSE_SINCE_VERSION {
            said.pause_max_ms = 0;
        }
        if self.version() < STORAGE_SINCE_VERSION {
            said.storage_mark = 0;
        }
        said
    }

    /// Our hello with its proof; features, view mark, pause and storage only where the other end knows of them.
    fn prove(&mut self, hello: &Hello, key: ProofKey<'_>, label: Label) -> [u8; PROVEN_BYTES] {
        let mut bytes = [0; PROVEN_BYTES];
        let (statement, proof) = bytes.split_at_mut(HELLO_BYTES);
        let hello = self.as_said(hello);
        statement.copy_from_slice(&hello.encode());
        self.said.push(statement);
        proof.copy_from_slice(&self.said.prove(key, label));
        bytes
    }
}

fn rejection(refusal: Refusal, theirs: &Intro) -> Rejection {
    let versions = (theirs.version_min, theirs.version_max);
    Rejection { refusal, versions, has_key: theirs.has_key }
}

/// What a dialler has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // On the stack, once a handshake.
pub enum DiallerStep {
    /// Read more.
    More,
    /// Say the hello: call [`Dialler::speak`] and send what it gives.
    Speak,
    /// The acceptor has proven its answer, which may still refuse.
    Proven(Hello),
}

/// The side that opened the connection.
#[derive(Debug)]
pub struct Dialler(Common);

impl Dialler {
    /// A dialler that has said nothing yet. `nonce` is fresh and random.
    #[must_use]
    pub fn new(has_key: bool, nonce: Nonce) -> Self {
        Self(Common::new(IntroKind::Dialler, has_key, nonce))
    }

    /// Message 1.
    pub fn opening(&mut self) -> [u8; INTRO_BYTES] {
        let bytes = self.0.ours.encode();
        self.0.said = Transcript::new();
        self.0.said.push(&bytes);
        bytes
    }

    /// Where the bytes that come next belong; empty when none are due.
    pub fn room(&mut self) -> &mut [u8] {
        self.0.gather.room()
    }

    /// Bytes that have come of the present message.
    #[must_use]
    pub fn got(&self) -> usize {
        self.0.gather.got
    }

    /// `count` more bytes are in the room.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection.
    pub fn filled(
        &mut self,
        count: usize,
        key: ProofKey<'_>,
    ) -> Result<DiallerStep, HandshakeError> {
        let result = self.step(count, key);
        self.0.over(result)
    }

    fn step(&mut self, count: usize, key: ProofKey<'_>) -> Result<DiallerStep, HandshakeError> {
        if !self.0.gather.filled(count)? {
            return Ok(DiallerStep::More);
        }
        if self.0.theirs.is_none() {
            self.0.introduced(IntroKind::Acceptor)?;
            let bytes = self.0.gather.intro_bytes();
            self.0.said.push(&bytes);
            self.0.gather.next(0);
            return Ok(DiallerStep::Speak);
        }
        let bytes = self.0.gather.intro_bytes();
        let refused = Intro::decode(&bytes, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
        if let Ok(theirs @ Intro { kind: IntroKind::Refusal(refusal), .. }) = refused {
            return Err(HandshakeError::RefusedByPeer(rejection(refusal, &theirs)));
        }
        let hello = self.0.proven(key, Label::Acceptor)?;
        self.0.gather.next(0);
        Ok(DiallerStep::Proven(hello))
    }

    /// Message 3, once, when [`DiallerStep::Speak`] asks for it.
    pub fn speak(&mut self, hello: &Hello, key: ProofKey<'_>) -> [u8; PROVEN_BYTES] {
        self.0.gather.next(PROVEN_BYTES);
        self.0.prove(hello, key, Label::Dialler)
    }

    /// The connection's secret, after [`DiallerStep::Proven`].
    #[must_use]
    pub fn secret(&self, key: ProofKey<'_>) -> TrafficSecret {
        TrafficSecret::of(&self.0.said, key)
    }
}

/// What an acceptor has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // On the stack, once a handshake.
pub enum AcceptorStep {
    /// Read more.
    More,
    /// Send this and read more.
    Reply([u8; INTRO_BYTES]),
    /// The dialler has proven its hello: judge it, then call [`Acceptor::answer`].
    Proven(Hello),
}

/// The side that listened.
#[derive(Debug)]
pub struct Acceptor(Common);

impl Acceptor {
    /// An acceptor that has read nothing yet. `nonce` is fresh and random.
    #[must_use]
    pub fn new(has_key: bool, nonce: Nonce) -> Self {
        Self(Common::new(IntroKind::Acceptor, has_key, nonce))
    }

    /// Where the bytes that come next belong; empty when none are due.
    pub fn room(&mut self) -> &mut [u8] {
        self.0.gather.room()
    }

    /// Bytes that have come of the present message.
    #[must_use]
    pub fn got(&self) -> usize {
        self.0.gather.got
    }

    /// The dialler's nonce, once it is there.
    #[must_use]
    pub fn dialler_nonce(&self) -> Option<Nonce> {
        self.0.theirs.map(|intro| intro.nonce)
    }

    /// `count` more bytes are in the room.
    ///
    /// # Errors
    /// [`HandshakeError`]: for [`HandshakeError::Refused`] send [`Acceptor::refuse`]; close the
    /// connection.
    pub fn filled(
        &mut self,
        count: usize,
        key: ProofKey<'_>,
    ) -> Result<AcceptorStep, HandshakeError> {
        let result = self.step(count, key);
        self.0.over(result)
    }

    fn step(&mut self, count: usize, key: ProofKey<'_>) -> Result<AcceptorStep, HandshakeError> {
        if !self.0.gather.filled(count)? {
            return Ok(AcceptorStep::More);
        }
        if self.0.theirs.is_none() {
            self.0.introduced(IntroKind::Dialler)?;
            let (theirs, ours) = (self.0.gather.intro_bytes(), self.0.ours.encode());
            self.0.said.push(&theirs);
            self.0.said.push(&ours);
            self.0.gather.next(PROVEN_BYTES);
            return Ok(AcceptorStep::Reply(ours));
        }
        let hello = self.0.proven(key, Label::Dialler)?;
        self.0.gather.next(0);
        Ok(AcceptorStep::Proven(hello))
    }

    /// Message 4, once, after [`AcceptorStep::Proven`], and the connection's secret. The answer may
    /// refuse.
    pub fn answer(
        &mut self,
        hello: &Hello,
        key: ProofKey<'_>,
    ) -> ([u8; PROVEN_BYTES], TrafficSecret) {
        let bytes = self.0.prove(hello, key, Label::Acceptor);
        (bytes, TrafficSecret::of(&self.0.said, key))
    }

    /// What tells the dialler of a refusal that comes before the proof: as long as the message it
    /// waits for, so that it need not tell them apart before all is there. Ends the machine.
    pub fn refuse(&mut self, refusal: Refusal) -> Refused {
        let len = if self.0.said.is_empty() { INTRO_BYTES } else { PROVEN_BYTES };
        let nonce = Nonce([0; 32]);
        let intro = Intro { kind: IntroKind::Refusal(refusal), nonce, ..self.0.ours };
        let mut bytes = [0; PROVEN_BYTES];
        bytes[..INTRO_BYTES].copy_from_slice(&intro.encode());
        self.0.gather.next(0);
        Refused { bytes, len }
    }
}

/// An unproven refusal on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    bytes: [u8; PROVEN_BYTES],
    len: usize,
}

impl Refused {
    /// The bytes to send.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests;
