//! What the endpoints are measured against: nonblocking sockets, spun on, and nothing else.
//!
//! [`Bare`] moves the bytes that a link moves, with the calls that a link makes: header and padded
//! body in one contiguous buffer, `send` and `recv`; a page as header, padded body and frame in one
//! piece, too, with the header in the frame's margin, out of as many frames and into as many as the
//! endpoint uses. It goes by the standard library's sockets, as whoever writes such a loop would; past
//! the C library, and without a return across a call, it would be faster (ARCHITECTURE.md). It computes no
//! CRC, keeps nothing and knows no sequence. It knows what comes next, which a link has to guess, so it
//! asks for exactly that: the cheapest form of the link's calls. [`Plain`] moves the payload alone, from
//! one buffer and into the same. Asked to sleep, both block in `epoll_wait`.

use super::{
    traffic::{self, NUMBER_BYTES, PAGE_BYTES, Pages, Size},
    way::Way,
};
use crate::{
    error::BenchError,
    spin::{Patience, Switch},
};
use pagewire_protocol::header::{BODY_BYTES_MAX, FRAME_OFFSET_BYTES, HEADER_BYTES};
use pagewire_transport::{Arena, Frame};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsRawFd,
};

/// Where the number lies in a message: at the start of the body.
const NUMBER_AT: usize = HEADER_BYTES;

/// Same bytes, same system calls.
#[derive(Debug)]
pub(crate) struct Bare {
    stream: TcpStream,
    sleeper: Option<Sleeper>,
    output: [u8; FRAME_OFFSET_BYTES],
    input: [u8; FRAME_OFFSET_BYTES],
    /// Bytes of the present message that are there.
    got: usize,
    pages: Pages,
    /// Received into in turn.
    landing: Vec<Frame>,
    next_landing: usize,
}

impl Bare {
    /// Bare sockets that send `pages`, and receive into `landing_frames` frames of `arena`.
    pub(crate) fn new(
        stream: TcpStream,
        pages: Pages,
        arena: &Arena,
        landing_frames: u32,
    ) -> Result<Self, BenchError> {
        let landing = (0..landing_frames).map(|_| arena.take());
        Ok(Self {
            stream,
            sleeper: None,
            output: [0; FRAME_OFFSET_BYTES],
            input: [0; FRAME_OFFSET_BYTES],
            got: 0,
            pages,
            landing: landing.collect::<Option<_>>().ok_or(BenchError::NoFrame)?,
            next_landing: 0,
        })
    }

    /// Lets the ends sleep until something comes.
    pub(crate) fn with_sleeper(mut self) -> Result<Self, BenchError> {
        self.sleeper = Some(Sleeper::new(&self.stream)?);
        Ok(self)
    }

    #[inline]
    fn hear_small(&mut self) -> Result<Option<u64>, BenchError> {
        self.got += read(self.stream.read(&mut self.input[self.got..]))?;
        let wire_bytes = FRAME_OFFSET_BYTES;
        if self.got < wire_bytes {
            return Ok(None);
        }
        self.got -= wire_bytes;
        let number = traffic::number_in(&self.input[NUMBER_AT..]);
        // One message at a time: nothing may follow.
        traffic::same("the length of a message", number, self.got as u64, 0)?;
        Ok(Some(number))
    }

    #[inline]
    fn hear_page(&mut self) -> Result<Option<u64>, BenchError> {
        let frame = &mut self.landing[self.next_landing];
        let whole = frame.with_margins().ok_or(BenchError::NoFrame)?;
        let wire_bytes = FRAME_OFFSET_BYTES + PAGE_BYTES;
        self.got += read(self.stream.read(&mut whole[self.got..wire_bytes]))?;
        if self.got < wire_bytes {
            return Ok(None);
        }
        self.got = 0;
        let number = traffic::number_in(&whole[NUMBER_AT..]);
        self.pages.check(&whole[FRAME_OFFSET_BYTES..wire_bytes], number)?;
        self.next_landing = (self.next_landing + 1) % self.landing.len();
        Ok(Some(number))
    }
}

impl Way for Bare {
    #[inline]
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError> {
        traffic::put_number(&mut self.output[NUMBER_AT..], number);
        let stream = &mut self.stream;
        match size {
            Size::Small(_) => write(&self.output, switch, |rest| stream.write(rest)),
            Size::Page => {
                let sent = self.pages.of(number).with_header(&self.output, |whole| {
                    write(whole, switch, |rest| stream.write(rest))
                });
                sent.ok_or(BenchError::NoFrame)?
            }
        }
    }

    #[inline]
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        match size {
            Size::Small(_) => self.hear_small(),
            Size::Page => self.hear_page(),
        }
    }

    fn sleep(&mut self) -> Result<(), BenchError> {
        self.sleeper.as_mut().map_or(Ok(()), Sleeper::sleep)
    }
}

/// Payload alone, one buffer.
#[derive(Debug)]
pub(crate) struct Plain {
    stream: TcpStream,
    sleeper: Option<Sleeper>,
    buffer: Frame,
    got: usize,
}

impl Plain {
    /// Bare sockets with a buffer from `arena`.
    pub(crate) fn new(stream: TcpStream, arena: &Arena) -> Result<Self, BenchError> {
        let buffer = arena.take().ok_or(BenchError::NoFrame)?;
        Ok(Self { stream, sleeper: None, buffer, got: 0 })
    }

    /// Lets the ends sleep until something comes.
    pub(crate) fn with_sleeper(mut self) -> Result<Self, BenchError> {
        self.sleeper = Some(Sleeper::new(&self.stream)?);
        Ok(self)
    }
}

impl Way for Plain {
    #[inline]
    fn say(&mut self, size: Size, number: u64, switch: &Switch) -> Result<(), BenchError> {
        traffic::put_number(&mut self.buffer, number);
        let stream = &mut self.stream;
        write(&self.buffer[..size.bytes()], switch, |rest| stream.write(rest))
    }

    #[inline]
    fn hear(&mut self, size: Size) -> Result<Option<u64>, BenchError> {
        self.got += read(self.stream.read(&mut self.buffer[self.got..size.bytes()]))?;
        if self.got < size.bytes() {
            return Ok(None);
        }
        self.got = 0;
        Ok(Some(traffic::number_in(&self.buffer)))
    }

    fn sleep(&mut self) -> Result<(), BenchError> {
        self.sleeper.as_mut().map_or(Ok(()), Sleeper::sleep)
    }
}

/// A blocking `epoll_wait`, without a time limit, on one socket. It is edge-triggered: whoever wakes
/// reads all that the message still needs, so that a read that got less has emptied the socket and
/// the rest brings the next edge.
#[derive(Debug)]
struct Sleeper {
    poll: mio::Poll,
    events: mio::Events,
}

impl Sleeper {
    fn new(stream: &TcpStream) -> Result<Self, BenchError> {
        let poll = mio::Poll::new()?;
        let mut source = mio::unix::SourceFd(&stream.as_raw_fd());
        poll.registry().register(&mut source, mio::Token(0), mio::Interest::READABLE)?;
        Ok(Self { poll, events: mio::Events::with_capacity(1) })
    }

    #[inline]
    fn sleep(&mut self) -> Result<(), BenchError> {
        match self.poll.poll(&mut self.events, None) {
            Err(e) if !again(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

/// Bytes that a read got: 0 when none wait.
#[inline]
pub(crate) fn read(result: io::Result<usize>) -> Result<usize, BenchError> {
    match result {
        Ok(0) => Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
        Ok(n) => Ok(n),
        Err(e) if again(&e) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Writes all of `bytes`: in one call, unless the socket's buffer is full.
#[inline]
pub(crate) fn write(
    bytes: &[u8],
    switch: &Switch,
    mut call: impl FnMut(&[u8]) -> io::Result<usize>,
) -> Result<(), BenchError> {
    let mut sent = 0;
    let mut patience = Patience::new(switch, "room in a socket");
    loop {
        match call(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(e) if again(&e) => {}
            Err(e) => return Err(e.into()),
        }
        if sent == bytes.len() {
            return Ok(());
        }
        patience.spin()?;
    }
}

const _: () = assert!(NUMBER_AT + NUMBER_BYTES <= FRAME_OFFSET_BYTES);
const _: () = assert!(HEADER_BYTES + BODY_BYTES_MAX == FRAME_OFFSET_BYTES);
