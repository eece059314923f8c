//! Writer and readers in one process. Processes, and what breaks files, are in tests/.

use crate::{RingConfig, RingState, RingWriter, SiEntry, SiRead, SiReader};
use pagewire_protocol::{ClusterId, Incarnation, InstanceId, SiMessage};

const CLUSTER: ClusterId = ClusterId(0xC1);
const ENTRIES: u32 = 16;

fn config() -> RingConfig {
    let (instance, incarnation) = (InstanceId(3), Incarnation(7));
    RingConfig { cluster: CLUSTER, instance, incarnation, entries: ENTRIES }
}

fn message(number: u32) -> [u8; 16] {
    SiMessage::Relcache { database: 1, relation: number }.encode()
}

fn messages(numbers: std::ops::Range<u32>) -> Vec<[u8; 16]> {
    numbers.map(message).collect()
}

/// What a reader gets until nothing is new: the numbers, and `None` for a reset.
fn drain(reader: &mut SiReader) -> Vec<Option<u32>> {
    let mut got = Vec::new();
    let mut out = [SiEntry::default(); 5];
    for _ in 0..1000 {
        match reader.read(&mut out) {
            SiRead::Messages(0) => return got,
            SiRead::Messages(count) => got.extend(out[..count].iter().map(|entry| {
                let Ok(SiMessage::Relcache { relation, .. }) = entry.message() else { panic!() };
                Some(relation)
            })),
            SiRead::Reset => got.push(None),
            SiRead::Gone => panic!("gone"),
        }
    }
    panic!("a reader finds no end");
}

fn numbers(range: std::ops::Range<u32>) -> Vec<Option<u32>> {
    range.map(Some).collect()
}

#[test]
fn what_is_written_is_read_in_order_across_the_rings_end() {
    let mut writer = RingWriter::in_memory(&config()).unwrap();
    let mut reader = writer.reader().unwrap();
    assert!(!reader.has_new());
    for first in (0..200).step_by(10) {
        writer.write(InstanceId(9), &messages(first..first + 10));
        assert!(reader.has_new());
        assert_eq!(drain(&mut reader), numbers(first..first + 10));
        assert!(!reader.has_new());
    }
    assert_eq!(reader.cursor(), writer.head());
}

#[test]
fn an_entry_tells_its_publisher_and_its_sequence() {
    let mut writer = RingWriter::in_memory(&config()).unwrap();
    let mut reader = writer.reader().unwrap();
    let first = writer.head();
    writer.write(InstanceId(9), &messages(0..1));
    writer.write(InstanceId(65_535), &messages(1..2));
    let mut out = [SiEntry::default(); 4];
    assert_eq!(reader.read(&mut out), SiRead::Messages(2));
    assert_eq!(out.map(|entry| entry.publisher().0)[..2], [9, 65_535]);
    assert_eq!(out.map(|entry| entry.sequence())[..2], [first, first + 1]);
}

#[test]
fn a_reader_behind_by_the_whole_ring_still_reads_and_by_one_more_resets() {
    let mut writer = RingWriter::in_memory(&config()).unwrap();
    let (mut reader, mut late) = (writer.reader().unwrap(), writer.reader().unwrap());
    writer.write(InstanceId(1), &messages(0..ENTRIES));
    assert_eq!(drain(&mut reader), numbers(0..ENTRIES));
    writer.write(InstanceId(1), &messages(ENTRIES..ENTRIES + 1));
    assert_eq!(drain(&mut reader), numbers(ENTRIES..ENTRIES + 1));
    assert_eq!(drain(&mut late), [None]);
    writer.write(InstanceId(1), &messages(50..52));
    assert_eq!(drain(&mut late), numbers(50..52));
}

#[test]
fn a_batch_that_the_ring_cannot_hold_resets_even_a_reader_that_had_all() {
    let mut writer = RingWriter::in_memory(&config()).unwrap();
    let mut reader = writer.reader().unwrap();
    writer.write(InstanceId(1), &messages(0..ENTRIES + 1));
    writer.write(InstanceId(1), &messages(40..41));
    assert_eq!(drain(&mut reader), [None]);
    writer.write(InstanceId(1), &messages(41..42));
    assert_eq!(drain(&mut reader), numbers(41..42));
}

#[test]
fn a_reset_reaches_a_reader_that_had_all_and_one_that_had_not() {
    let mut writer = RingWriter::in_memory(&config()).unwrap();
    let (mut reader, mut late) = (writer.reader().unwrap(), writer.reader().unwrap());
    writer.write(InstanceId(1), &messages(0..3));
    assert_eq!(drain(&mut reader), numbers(0..3));
    writer.reset();
    assert!(reader.has_new());
    assert_eq!(drain(&mut reader), [None]);
    assert_eq!(drain(&mut late), [None]);
    assert!(!late.has_new());
}

#[test]
fn no_messages_are_nothing_new() {
    let mut writer = RingWriter::in_memory(&config()).unwrap();
    let mut reader = writer.reader().unwrap();
    writer.write(InstanceId(1), &[]);
    assert!(!reader.has_new());
    writer.write(InstanceId(1), &messages(0..1));
    assert_eq!(reader.read(&mut []), SiRead::Messages(0));
    assert_eq!(drain(&mut reader), numbers(0..1));
}

#[test]
fn a_writer_that_comes_back_resets_the_readers_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    let mut writer = RingWriter::open(&path, &config()).unwrap();
    let mut reader = SiReader::attach(&path, CLUSTER).unwrap();
    writer.write(InstanceId(1), &messages(0..3));
    assert_eq!(drain(&mut reader), numbers(0..3));
    assert_eq!((reader.generation(), reader.state().unwrap()), (1, RingState::Written));
    drop(writer);
    assert_eq!(reader.state().unwrap(), RingState::NoWriter);
    assert!(!reader.has_new());

    let incarnation = Incarnation(8);
    let mut writer = RingWriter::open(&path, &RingConfig { incarnation, ..config() }).unwrap();
    assert_eq!(drain(&mut reader), [None]);
    assert_eq!((reader.generation(), reader.incarnation()), (2, incarnation));
    assert_eq!(reader.writer_pid(), std::process::id());
    writer.write(InstanceId(1), &messages(3..5));
    assert_eq!(drain(&mut reader), numbers(3..5));
}

#[test]
fn a_writer_of_another_size_replaces_the_ring_and_its_readers_hear_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    let writer = RingWriter::open(&path, &config()).unwrap();
    let mut reader = SiReader::attach(&path, CLUSTER).unwrap();
    drop(writer);
    let entries = ENTRIES * 2;
    let mut writer = RingWriter::open(&path, &RingConfig { entries, ..config() }).unwrap();
    let mut out = [SiEntry::default(); 4];
    for _ in 0..3 {
        assert!(reader.has_new());
        assert_eq!(reader.read(&mut out), SiRead::Gone);
    }
    assert_eq!(reader.state().unwrap(), RingState::Gone);
    let mut reader = SiReader::attach(&path, CLUSTER).unwrap();
    assert_eq!(reader.entries(), entries);
    writer.write(InstanceId(1), &messages(0..3));
    assert_eq!(drain(&mut reader), numbers(0..3));
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "something was left beside the ring");
}
