//! The ways that carry messages, each seen from one end: two endpoints ([`Ours`]), and the sockets
//! that they are measured against ([`Bare`], [`Plain`]).

mod bare;
mod ours;
mod setup;
mod traffic;
mod way;

pub(crate) use bare::{Bare, Plain, again, read, write};
pub(crate) use ours::Ours;
pub(crate) use setup::{CREDITS_MAX, FRAMES_MAX, Setup};
pub(crate) use traffic::{NUMBER_BYTES, PAGE_BYTES, Pages, Size, number_in, put_number, same};
pub(crate) use way::Way;

use crate::error::BenchError;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

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
