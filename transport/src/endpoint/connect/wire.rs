//! Small help for the handshake: which connection of a link is which, and bytes to and fro.

use crate::{error::LinkError, link::tcp::CONNECTIONS};
use mio::net::TcpStream;
use pagewire_protocol::{LaneClass, hello::Nonce};
use std::io::{self, ErrorKind, Read, Write};

/// Which of a link's connections that of `class` is.
pub(super) fn position(class: LaneClass) -> Option<usize> {
    CONNECTIONS.iter().position(|connection| *connection == class)
}

pub(super) fn is_first(class: LaneClass) -> bool {
    CONNECTIONS.first() == Some(&class)
}

/// Both sides state what the link starts from in the hello of this connection.
pub(super) fn is_last(class: LaneClass) -> bool {
    CONNECTIONS.last() == Some(&class)
}

/// Reads once, to the room that there is; `None` when nothing is there yet.
pub(super) fn read_some(
    stream: &mut TcpStream,
    room: &mut [u8],
) -> Result<Option<usize>, LinkError> {
    loop {
        match stream.read(room) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(n) => return Ok(Some(n)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Writes all of it: a fresh connection takes a few hundred bytes at once; if not, it is not worth
/// having.
pub(super) fn write_whole(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), LinkError> {
    match stream.write(bytes) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from(ErrorKind::WriteZero).into()),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn no_random(error: getrandom::Error) -> io::Error {
    io::Error::other(format!("no random bytes from the system: {error}"))
}

pub(super) fn fresh_nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce([0; 32]);
    getrandom::fill(&mut nonce.0).map_err(no_random)?;
    Ok(nonce)
}
