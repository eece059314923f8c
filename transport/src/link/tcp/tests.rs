//! A link whose kernel takes little at a time: every write is cut somewhere.

use super::TcpLink;
use crate::{
    Arena, ArenaConfig, SharedFrame,
    link::{Link, Urgency},
};
use mio::net::TcpStream;
use pagewire_protocol::{
    Body, Epoch, InstanceId, Lane, LaneClass, MessageKind, Sequence, SessionHeader, crc32c,
    header::FRAME_OFFSET_BYTES,
};
use std::{
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

const MESSAGES: u64 = 3000;

/// A connection whose kernel buffers hold less than a page, and its other end. A link asks nothing of
/// its streams that a Unix socket does not have.
fn connection() -> (TcpStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).unwrap();
    }
    (TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(ours))), theirs)
}

/// Where pages are sent, some follow each other and some do not.
fn has_page(number: u64) -> bool {
    number / 250 % 3 != 2 && matches!(number % 7, 2 | 3 | 6)
}

fn header(number: u64, body: &Body) -> SessionHeader {
    let frame = has_page(number);
    SessionHeader {
        lane: if frame { Lane::Pages } else { Lane::Requests },
        kind: MessageKind(200),
        body_len: u8::try_from(body.as_slice().len()).unwrap(),
        frame,
        page_crc: None,
        epoch: Epoch(1),
        sequence: Sequence(number),
        ack: Sequence(0),
        credits: 0,
        source: InstanceId(1),
    }
}

#[test]
fn what_leaves_in_pieces_of_any_size_arrives_whole_and_in_order() {
    let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(16) }).unwrap();
    let pages: Vec<SharedFrame> = (0..5u8)
        .map(|fill| {
            let mut frame = arena.take().unwrap();
            frame.fill(fill);
            frame.freeze()
        })
        .collect();
    let page_bytes = pages[0].len();
    let ((main, mut theirs), (bulk, _bulk)) = (connection(), connection());
    let mut link = TcpLink::new([main, bulk], page_bytes, true);

    let (mut next, mut expected, mut turned_away) = (1, 1, 0);
    let (mut came, mut piece) = (Vec::<u8>::new(), 1);
    while expected <= MESSAGES {
        // Now one by one, each alone with the kernel, now as many as the queue takes, now without pages.
        let one_by_one = next / 250 % 3 == 0;
        while next <= MESSAGES && !(one_by_one && link.has_output()) {
            let body = Body::new(&next.to_le_bytes()).unwrap();
            let frame = has_page(next).then(|| &pages[usize::try_from(next % 5).unwrap()]);
            if !link.send(&header(next, &body), &body, frame, Urgency::Now) {
                turned_away += 1;
                break;
            }
            next += 1;
        }
        // The kernel has room again, as the poller would say.
        link.ready(LaneClass::Small, false, true, false);
        link.flush().unwrap();
        // Pieces of all sizes, so that writes are cut in slots, in pages and between them.
        piece = piece * 5 % 8191;
        let mut bytes = vec![0; piece];
        if let Ok(count) = theirs.read(&mut bytes) {
            came.extend(&bytes[..count]);
        }
        while let Some(slot) = came.first_chunk::<FRAME_OFFSET_BYTES>() {
            let mut slot = *slot;
            let header = SessionHeader::decode_slot(&mut slot).unwrap();
            let bytes = FRAME_OFFSET_BYTES + if header.frame { page_bytes } else { 0 };
            if came.len() < bytes {
                break;
            }
            assert_eq!((header.sequence, header.frame), (Sequence(expected), has_page(expected)));
            assert_eq!(Body::of_slot(&slot, header.body_len).as_slice(), expected.to_le_bytes());
            let page = &came[FRAME_OFFSET_BYTES..bytes];
            assert!(page.iter().all(|byte| u64::from(*byte) == expected % 5), "page {expected}");
            assert_eq!(header.page_crc, header.frame.then(|| crc32c(&[page])));
            came.drain(..bytes);
            expected += 1;
        }
    }
    assert!(came.is_empty() && !link.has_output(), "nothing is left");
    assert!(turned_away > 0, "the queue was never full");
    drop((link, pages));
    assert_eq!(arena.free_frames(), 16, "every page is given back");
}
