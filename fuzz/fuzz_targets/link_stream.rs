//! Any bytes in any pieces on both connections of a link: no panic, no frame lost; and as long as
//! what was written are messages, just these come out, whole and in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mio::net::TcpStream;
use pagewire_fuzz::{Input, PAGE_BYTES, arena, header};
use pagewire_protocol::{
    Body, DecodeError, InstanceId, Lane, LaneClass, LinkControl, SessionHeader, crc32c,
    header::Slot,
};
use pagewire_transport::{
    Arena, Frame,
    error::LinkError,
    link::{Link, Sink, tcp::TcpLink},
};
use std::{
    collections::VecDeque,
    io::Write,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

const FRAMES: u32 = 64;

thread_local!(static ARENA: Arena = arena(FRAMES));

/// A message as it was written.
struct Written {
    header: SessionHeader,
    body: Body,
    page: Option<u8>,
}

/// What has been written to one connection and not come out.
struct Wire {
    stream: UnixStream,
    expected: VecDeque<Written>,
    /// Bytes of which a part is still to be written.
    pending: VecDeque<u8>,
    /// Everything written so far was messages.
    clean: bool,
}

struct Checker<'a> {
    wires: &'a mut [Wire; 2],
    kept: Vec<Frame>,
    keep: bool,
}

impl Sink for Checker<'_> {
    fn message(
        &mut self,
        header: &SessionHeader,
        slot: &Slot,
        frame: Option<Frame>,
    ) -> Result<Option<Frame>, LinkError> {
        assert_eq!(header.frame, frame.is_some());
        let wire =
            &mut self.wires[usize::from(header.lane.class() == LaneClass::Bulk && header.frame)];
        match wire.expected.pop_front() {
            Some(written) => {
                let body = Body::of_slot(slot, header.body_len);
                assert_eq!((*header, body), (written.header, written.body));
                if let (Some(frame), Some(fill)) = (&frame, written.page) {
                    assert!(frame.iter().all(|&byte| byte == fill), "another page");
                }
            }
            None => assert!(!wire.clean, "a message that nobody sent: {header:?}"),
        }
        if self.keep {
            self.kept.extend(frame);
            return Ok(None);
        }
        Ok(frame)
    }

    fn control(&mut self, said: LinkControl) -> Result<(), LinkError> {
        assert!(self.wires.iter().any(|wire| !wire.clean), "what nobody said: {said:?}");
        assert_eq!(LinkControl::decode(said.encode().as_slice()), Ok(said));
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| ARENA.with(|arena| {
    run(arena, &mut Input::new(bytes));
    assert_eq!(arena.free_frames(), FRAMES, "a frame is lost");
}));

/// A connection to read from and the end that writes to it. A link asks nothing of its streams that a
/// Unix socket does not have, and thousands of these a second use up no ports.
fn connection() -> (TcpStream, Wire) {
    let (ours, stream) = UnixStream::pair().expect("a socket pair");
    for end in [&ours, &stream] {
        end.set_nonblocking(true).expect("a nonblocking socket");
    }
    let ours = TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(ours)));
    (ours, Wire { stream, expected: VecDeque::new(), pending: VecDeque::new(), clean: true })
}

fn run(arena: &Arena, input: &mut Input<'_>) {
    let ((main, main_wire), (bulk, bulk_wire)) = (connection(), connection());
    let mut wires = [main_wire, bulk_wire];
    let mut link = TcpLink::new([main, bulk], PAGE_BYTES, true);
    let mut checker = Checker { wires: &mut wires, kept: Vec::new(), keep: false };
    while !input.is_empty() {
        let op = input.byte();
        let which = usize::from(op >> 7);
        match op % 8 {
            0 | 1 => write_message(input, &mut checker.wires[which], which),
            2 => {
                let bytes = input.bytes(usize::from(op >> 3 & 15) * 16 + 1);
                checker.wires[which].clean = false;
                checker.wires[which].pending.extend(bytes);
            }
            3 => {
                let class = [LaneClass::Page, LaneClass::Bulk][which];
                if let Some(frame) = arena.take() {
                    link.post_receive(class, frame);
                }
            }
            4 => checker.kept.clear(),
            5 => checker.keep = !checker.keep,
            // Pieces of any size: into headers, between them, into pages.
            6 => flush(&mut checker.wires[which], usize::from(input.byte()) + 1),
            _ => flush(&mut checker.wires[which], usize::from(input.byte()) * 64),
        }
        if let Err(error) = poll(&mut link, &mut checker) {
            return check_error(&error, &wires);
        }
    }
    for which in 0..2 {
        flush(&mut checker.wires[which], usize::MAX);
    }
    for _ in 0..64 {
        if let Err(error) = poll(&mut link, &mut checker) {
            return check_error(&error, &wires);
        }
    }
    for wire in &wires {
        assert!(
            !wire.clean || !wire.pending.is_empty() || wire.expected.is_empty(),
            "messages stay"
        );
    }
}

/// Messages alone make no error, unless a page finds no receive.
fn check_error(error: &LinkError, wires: &[Wire; 2]) {
    let no_receive = matches!(
        error,
        LinkError::Decode(DecodeError::Field { what, .. }) if what.starts_with("receives posted")
    );
    assert!(no_receive || wires.iter().any(|wire| !wire.clean), "of messages: {error}");
}

fn poll(link: &mut TcpLink, checker: &mut Checker<'_>) -> Result<(), LinkError> {
    for class in [LaneClass::Small, LaneClass::Bulk] {
        link.ready(class, true, false, false);
    }
    link.poll(checker)
}

/// A message for the connection: any that belongs there, now and then one that does not.
fn write_message(input: &mut Input<'_>, wire: &mut Wire, which: usize) {
    let lane = input.lane();
    let lane = if which == 1 { Lane::Bulk } else { lane };
    let (mut header, body) = header(input, lane, InstanceId(2));
    let bulk_page = lane == Lane::Bulk && header.frame;
    wire.clean &= bulk_page == (which == 1);
    let fill = input.byte();
    let page = [fill; PAGE_BYTES];
    if header.frame && fill.is_multiple_of(2) {
        header.page_crc = Some(crc32c(&[&page]));
    }
    wire.pending.extend(header.encode_slot(&body, true));
    if header.frame {
        wire.pending.extend(page);
    }
    if wire.clean {
        wire.expected.push_back(Written { header, body, page: header.frame.then_some(fill) });
    }
}

/// Writes up to `count` bytes of what is pending, as far as the socket takes them.
fn flush(wire: &mut Wire, count: usize) {
    let count = count.min(wire.pending.len());
    let part: Vec<u8> = wire.pending.iter().take(count).copied().collect();
    if let Ok(written) = wire.stream.write(&part) {
        wire.pending.drain(..written);
    }
}
