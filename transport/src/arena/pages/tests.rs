//! What pins and publications promise each other.

use super::*;
use crate::{Arena, ArenaConfig, arena::LeaseExpired};
use std::ops::DerefMut;

fn table() -> (Arena, PageTable) {
    let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
    let table = arena.page_table().unwrap();
    (arena, table)
}

fn tag(block: u32) -> BufferTag {
    BufferTag { block, ..BufferTag::default() }
}

#[test]
fn there_is_one_owner_of_the_page_table() {
    let (arena, _table) = table();
    assert!(arena.page_table().is_err());
}

#[test]
fn pins_follow_the_mode_and_the_tag() {
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
    let view = table.view();
    assert!(view.pin_shared(index, &tag(2)).is_err());
    assert!(view.pin_exclusive(index, &tag(1)).is_err());
    let first = view.pin_shared(index, &tag(1)).unwrap();
    let second = view.pin_shared(index, &tag(1)).unwrap();
    table.raise(index, Mode::X).unwrap();
    assert!(view.pin_exclusive(index, &tag(1)).is_err(), "readers are in");
    assert!(!first.release() && !second.release());
    let mut writer = view.pin_exclusive(index, &tag(1)).unwrap();
    writer[0] = 1;
    assert!(view.pin_shared(index, &tag(1)).is_err(), "a writer is in");
    assert!(!table.is_dirty(index));
    assert!(!writer.release());
    assert!(table.is_dirty(index));
}

#[test]
fn a_revocation_waits_for_the_last_pin_and_only_for_it() {
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
    let view = table.view();
    let first = view.pin_shared(index, &tag(1)).unwrap();
    let second = view.pin_shared(index, &tag(1)).unwrap();
    assert_eq!(table.lower(index, Mode::N), Drain::Waiting);
    assert!(view.pin_shared(index, &tag(1)).is_err(), "closed");
    assert!(!first.release());
    assert!(second.release(), "the last one is told");
    assert_eq!(table.lower(index, Mode::N), Drain::Done);
    drop(table.take(index));
    assert_eq!(arena.free_frames(), 4);
    assert!(view.pin_shared(index, &tag(1)).is_err(), "gone");
}

#[test]
fn a_page_that_is_being_sent_is_not_written() {
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::X, false);
    assert!(table.share(index).is_none(), "open for writing");
    assert_eq!(table.lower(index, Mode::S), Drain::Done);
    let sent = table.share(index).unwrap();
    assert_eq!(table.raise(index, Mode::X), Err(StillShared));
    assert!(table.pin_exclusive(index).is_none());
    drop(sent);
    assert_eq!(table.raise(index, Mode::X), Ok(()));
}

#[test]
fn a_ticket_carries_the_pin_to_another_thread() {
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::N, false);
    let view = table.view();
    let ticket = table.pin_exclusive(index).unwrap();
    assert!(table.pin_shared(index).is_none());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pin = view.adopt_exclusive(ticket);
            pin[7] = 7;
            assert!(!pin.release());
        });
    });
    assert!(table.is_dirty(index));
    assert_eq!(table.share(index).unwrap()[7], 7);
}

#[test]
fn pins_and_guards_of_a_lease_that_is_over_fail_and_those_of_the_next_do_not() {
    let (arena, mut table) = table();
    let read = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
    let written = table.publish(arena.take().unwrap(), tag(2), Mode::X, false);
    let (view, lease) = (table.view(), arena.lease());
    let reader = view.pin_shared(read, &tag(1)).unwrap();
    let mut writer = view.pin_exclusive(written, &tag(2)).unwrap();
    let ticket = table.pin_shared(read).unwrap();
    assert!(reader.page().is_ok() && writer.page().is_ok() && lease.is_held());

    let other = view.clone();
    let _ = std::thread::scope(|scope| scope.spawn(|| arena.end_lease()).join());
    assert!(!lease.is_held() && !view.is_leased() && !other.is_leased());
    assert_eq!((reader.page(), reader.len()), (Err(LeaseExpired), 0));
    assert_eq!((writer.page(), writer.len()), (Err(LeaseExpired), 0));
    assert_eq!((writer.page_mut().err(), writer.deref_mut().len()), (Some(LeaseExpired), 0));
    let adopted = view.adopt_shared(ticket);
    assert_eq!(adopted.page(), Err(LeaseExpired), "granted before, adopted after");
    assert_eq!(view.pin_shared(read, &tag(1)).err(), Some(PinMiss::Unavailable));
    assert!(!writer.release() && !table.is_dirty(written), "nothing was written");
    assert_eq!(other.pin_exclusive(written, &tag(2)).err(), Some(PinMiss::Unavailable));
    drop((reader, adopted));
    assert!(!table.is_pinned(read) && !table.is_pinned(written), "a failed pin leaves nothing");

    let next = table.view();
    assert!(next.pin_shared(read, &tag(1)).unwrap().page().is_ok());
    assert!(arena.lease().is_held() && !lease.is_held());
}

#[test]
fn a_revocation_waits_for_pins_of_a_lease_that_is_over() {
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
    let view = table.view();
    let pin = view.pin_shared(index, &tag(1)).unwrap();
    arena.end_lease();
    assert_eq!(table.lower(index, Mode::N), Drain::Waiting, "a borrowed slice may be in use");
    assert!(pin.release());
    assert_eq!(table.lower(index, Mode::N), Drain::Done);
}

#[test]
#[should_panic(expected = "the ticket is of another arena")]
fn a_ticket_of_another_arena_is_refused_even_at_the_same_address() {
    // The second arena most likely lies where the first one lay.
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::N, false);
    let ticket = table.pin_shared(index).unwrap();
    drop((arena, table));
    let (_arena, mut table) = self::table();
    table.publish(_arena.take().unwrap(), tag(1), Mode::N, false);
    let _ = table.view().adopt_shared(ticket);
}

#[test]
fn readers_never_see_a_half_written_page() {
    let (arena, mut table) = table();
    let index = table.publish(arena.take().unwrap(), tag(1), Mode::X, false);
    let view = table.view();
    std::thread::scope(|scope| {
        for id in 1..=2u8 {
            let view = view.clone();
            scope.spawn(move || {
                for round in 0..20_000u32 {
                    let Ok(mut pin) = view.pin_exclusive(index, &tag(1)) else { continue };
                    pin[..64].fill(id ^ round.to_le_bytes()[0]);
                    let _ = pin.release();
                }
            });
        }
        for _ in 0..40_000 {
            if let Ok(pin) = view.pin_shared(index, &tag(1)) {
                assert!(pin[..64].iter().all(|&b| b == pin[0]));
                let _ = pin.release();
            }
        }
    });
}

#[test]
fn the_owner_looks_at_no_frame_that_may_be_written() {
    let (arena, mut table) = table();
    let frame = arena.take().unwrap();
    let index = frame.index();
    assert!(table.page(index).is_none() && table.share(index).is_none(), "not published");
    let index = table.publish(frame, tag(1), Mode::S, false);
    assert_eq!(table.page(index).map(<[u8]>::len), Some(arena.page_size().bytes()));
    table.raise(index, Mode::X).unwrap();
    assert!(table.page(index).is_none(), "open for writing");
    let view = table.view();
    let writer = view.pin_exclusive(index, &tag(1)).unwrap();
    assert_eq!(table.lower(index, Mode::N), Drain::Waiting);
    assert!(table.page(index).is_none(), "a writer is in");
    assert!(writer.release());
    assert_eq!(table.lower(index, Mode::N), Drain::Done);
    assert!(table.page(index).is_some());
    drop(table.take(index));
    assert!(table.page(index).is_none() && table.share(index).is_none(), "not published any more");
}
