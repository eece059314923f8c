//! The arena and other processes: what one that maps the memfd sees, which files it refuses, what
//! core files leave out, and what the limit on locked memory says.
//!
//! The second process is this very test program, started again with one test chosen and an order in
//! its environment.

use pagewire_protocol::{BufferTag, Mode};
use pagewire_transport::{
    Arena, ArenaConfig, FrameIndex, TransportError,
    arena::{ArenaView, ViewError},
};
use std::{
    fs::{self, File},
    io::{Seek, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What the second process is to do, and with which file.
const ORDER: &str = "PAGEWIRE_TEST_ORDER";
const FILE: &str = "PAGEWIRE_TEST_FILE";
/// What it says when it did it.
const DONE: &str = "the second process did as it was told";

fn order() -> Option<String> {
    std::env::var(ORDER).ok()
}

/// Runs test `name` in another process with `order`; `wrapper` is what it is started by.
fn second_process(wrapper: &[&str], name: &str, order: &str, file: &Path) -> Output {
    let program = std::env::current_exe().expect("this program");
    let mut command = match wrapper {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(ORDER, order).env(FILE, file).output().expect("the second process starts")
}

fn assert_done(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{complaint}", output.status);
    assert!(text.contains(DONE), "it skipped the order: {text}{complaint}");
}

fn config(frames: u32) -> ArenaConfig {
    ArenaConfig { huge_pages: false, ..ArenaConfig::new(frames) }
}

fn tag(block: u32) -> BufferTag {
    BufferTag { tablespace: 1663, database: 5, relation: 16384, block, ..BufferTag::default() }
}

fn memfd(arena: &Arena) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), arena.fd().as_raw_fd()).into()
}

// ---- what another process sees -------------------------------------------------------------------

#[test]
fn another_process_sees_pages_modes_and_pins_as_they_are() {
    if order().is_some() {
        look();
        return;
    }
    let arena = Arena::new(&config(8)).unwrap();
    let mut table = arena.page_table().unwrap();
    let view = table.view();
    let _free_again = arena.take().unwrap();
    let shared = table.publish(arena.take().unwrap(), tag(1), Mode::S, false);
    let exclusive = table.publish(arena.take().unwrap(), tag(2), Mode::X, true);
    let gone = table.publish(arena.take().unwrap(), tag(3), Mode::N, false);
    drop(table.take(gone));
    assert_eq!([shared, exclusive, gone], [FrameIndex(1), FrameIndex(2), FrameIndex(3)]);
    let pins = [(); 2].map(|()| view.pin_shared(shared, &tag(1)).unwrap());
    let writer = view.pin_exclusive(exclusive, &tag(2)).unwrap();

    let name = "another_process_sees_pages_modes_and_pins_as_they_are";
    assert_done(&second_process(&[], name, "look", &memfd(&arena)));
    drop((pins, writer));
}

/// The second process's part: asserts what the first one prepared.
fn look() {
    // Read-only: no right to write is needed.
    let file = File::open(std::env::var_os(FILE).expect("a file")).unwrap();
    let view = ArenaView::map(&file).unwrap();
    drop(file);
    assert_eq!((view.frames(), view.page_size().bytes(), view.free_frames()), (8, 8192, 5));
    let [taken, shared, exclusive, gone] =
        [0, 1, 2, 3].map(|index| view.frame(FrameIndex(index)).unwrap());
    assert_eq!((taken.tag, taken.mode, taken.pins, taken.references), (None, Mode::N, 0, 1));
    assert_eq!((shared.tag, shared.mode, shared.pins), (Some(tag(1)), Mode::S, 2));
    assert!(!shared.exclusive && !shared.dirty);
    assert_eq!((exclusive.tag, exclusive.mode, exclusive.pins), (Some(tag(2)), Mode::X, 0));
    assert!(exclusive.exclusive && exclusive.dirty);
    assert_eq!((gone.tag, gone.mode, gone.generation), (None, Mode::N, 2));
    assert_eq!(view.frame(FrameIndex(8)), None, "there are 8");
    assert_eq!(view.lease_generation(), 0);
    println!("{DONE}");
}

#[test]
fn another_process_sees_that_a_lease_is_over() {
    if order().is_some() {
        let file = File::open(std::env::var_os(FILE).expect("a file")).unwrap();
        assert_eq!(ArenaView::map(&file).unwrap().lease_generation(), 1);
        println!("{DONE}");
        return;
    }
    let arena = Arena::new(&config(8)).unwrap();
    let here = ArenaView::map(arena.fd()).unwrap();
    assert_eq!(here.lease_generation(), 0);
    arena.end_lease();
    assert_eq!(here.lease_generation(), 1, "a view that was there before");
    let name = "another_process_sees_that_a_lease_is_over";
    assert_done(&second_process(&[], name, "look", &memfd(&arena)));
}

#[test]
fn a_page_that_comes_and_goes_is_never_seen_under_another_tag() {
    let arena = Arena::new(&config(1)).unwrap();
    let mut table = arena.page_table().unwrap();
    let view = ArenaView::map(arena.fd()).unwrap();
    let done = AtomicBool::new(false);
    let (seen, torn) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let Some(tag) = view.frame(FrameIndex(0)).and_then(|state| state.tag) else {
                    continue;
                };
                // Words of the tag that change together.
                if tag.tablespace != tag.block {
                    torn.store(u64::from(tag.block), Ordering::Relaxed);
                }
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut round = 0u32;
        while round < 100_000 || seen.load(Ordering::Relaxed) < 1000 {
            assert!(Instant::now() < deadline, "the reader saw {seen:?} pages");
            round = round.wrapping_add(1);
            let frame = arena.take().unwrap();
            let tag = BufferTag { tablespace: round, block: round, ..tag(0) };
            let index = table.publish(frame, tag, Mode::N, false);
            drop(table.take(index));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(torn.load(Ordering::Relaxed), 0, "a torn tag");
}

#[test]
fn nobody_can_cut_the_memory_off_under_a_mapping() {
    let arena = Arena::new(&config(4)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(memfd(&arena)).unwrap();
    let length = file.metadata().unwrap().len();
    assert!(file.set_len(4096).is_err() && file.set_len(length + 4096).is_err(), "sealed");
    assert_eq!(file.metadata().unwrap().len(), length);
}

// ---- files that are none -------------------------------------------------------------------------

/// A copy of an arena of 4 frames in a plain file, after `damage`.
fn damaged(damage: impl FnOnce(&mut File)) -> ViewError {
    let arena = Arena::new(&config(4)).unwrap();
    let bytes = fs::read(memfd(&arena)).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    damage(&mut file);
    ArenaView::map(&file).unwrap_err()
}

#[test]
fn files_that_are_no_arena_are_refused_in_words() {
    type Damage = fn(&mut File);
    let cases: [(Damage, &[&str]); 12] = [
        (|file| file.set_len(0).unwrap(), &["0 bytes", "at least 4096", "cut off"]),
        (|file| file.set_len(4095).unwrap(), &["4095 bytes", "at least 4096"]),
        // Header and descriptors are there, the frames are not: 8192 + 4 x 8704, rounded up.
        (|file| file.set_len(8192).unwrap(), &["8192 bytes", "at least 45056"]),
        (|file| file.set_len(45055).unwrap(), &["45055 bytes", "at least 45056"]),
        (|file| file.write_all_at(b"GARBAGE", 0).unwrap(), &["begins with", "no arena"]),
        (|file| file.write_all_at(&[2], 7).unwrap(), &["layout version 2", "expected 3"]),
        (|file| put(file, 8, 1000), &["page size 1000", "4096, 8192, 16384 or 32768"]),
        (|file| put(file, 12, 0), &["frame count 0", "at least 1"]),
        // 2^32 - 1 frames: far more than the file has.
        (
            |file| {
                put(file, 12, u32::MAX);
                put(file, 16, 0xC000_0000);
            },
            &["frames offset"],
        ),
        (|file| put(file, 16, 4096), &["frames offset 4096", "damaged"]),
        (|file| put(file, 36, 8193), &["frame stride 8193", "the page size, or 512 more"]),
        // Nothing is wrong with it, but that anybody may cut it off.
        (|_| {}, &["not sealed", "F_SEAL_SHRINK"]),
    ];
    for (damage, words) in cases {
        let text = damaged(damage).to_string();
        for word in words {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
    }
}

#[test]
fn a_frame_count_whose_size_the_file_does_not_have_is_refused() {
    let error = damaged(|file| {
        put(file, 12, u32::MAX);
        let offset = (4096 + 64 * u64::from(u32::MAX) + 512).next_multiple_of(8192);
        file.write_all_at(&offset.to_le_bytes(), 16).unwrap();
    });
    let ViewError::Truncated { expected_bytes, .. } = error else { panic!("{error}") };
    assert!(expected_bytes > 8192 * u64::from(u32::MAX));
}

#[test]
fn a_descriptor_that_cannot_be_mapped_is_refused() {
    let null = File::open("/dev/null").unwrap();
    assert!(matches!(ArenaView::map(&null), Err(ViewError::Truncated { found_bytes: 0, .. })));
    let folder = File::open("/").unwrap();
    assert!(ArenaView::map(&folder).is_err());
}

fn put(file: &File, at: u64, value: u32) {
    file.write_all_at(&value.to_le_bytes(), at).unwrap();
}

// ---- sizes ---------------------------------------------------------------------------------------

#[test]
fn sizes_that_cannot_be_are_errors_in_words() {
    let refused = |frames| Arena::new(&config(frames)).unwrap_err();
    let none = refused(0).to_string();
    assert!(none.contains("0 frames") && none.contains("expected at least 1"), "{none}");
    // 32 TiB: the memory of no host that runs these tests.
    let error = refused(u32::MAX);
    let text = error.to_string();
    assert!(matches!(error, TransportError::ArenaTooLarge { .. }), "{text}");
    assert!(text.contains("are available") && text.contains("a smaller arena"), "{text}");
    let huge = ArenaConfig { huge_pages: true, ..config(u32::MAX) };
    assert!(matches!(Arena::new(&huge), Err(TransportError::ArenaTooLarge { .. })));
}

// ---- core files ----------------------------------------------------------------------------------

/// The kernel's flags of the arena's mapping: "dd" is do not dump.
fn is_dumped(arena: &Arena) -> bool {
    let inode = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(memfd(arena)).unwrap().ino().to_string()
    };
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines();
    lines
        .find(|line| {
            line.contains("pagewire-arena") && line.split_whitespace().nth(4) == Some(&inode)
        })
        .expect("the mapping");
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).expect("its flags");
    !flags.split_whitespace().any(|flag| flag == "dd")
}

#[test]
fn core_files_leave_the_arena_out_unless_it_is_asked_for() {
    assert!(!is_dumped(&Arena::new(&config(4)).unwrap()));
    assert!(is_dumped(&Arena::new(&ArenaConfig { dump: true, ..config(4) }).unwrap()));
}

// ---- locked memory -------------------------------------------------------------------------------

fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of status");
    line.trim().to_owned()
}

/// CAP_IPC_LOCK, with which no limit counts.
fn may_lock_anything() -> bool {
    u64::from_str_radix(&status("CapEff:"), 16).unwrap() & (1 << 14) != 0
}

#[test]
fn a_lock_beyond_the_limit_is_refused_with_both_figures_and_one_within_is_held() {
    if order().is_some() {
        lock_within_64_kib();
        return;
    }
    let lower = "ulimit -l 64 && exec \"$@\"";
    let drop_right = "ulimit -l 64 && exec setpriv --bounding-set -ipc_lock \"$@\"";
    let script = if may_lock_anything() { drop_right } else { lower };
    let name = "a_lock_beyond_the_limit_is_refused_with_both_figures_and_one_within_is_held";
    assert_done(&second_process(&["/bin/sh", "-c", script, "sh"], name, "lock", Path::new("")));
}

/// The second process's part, with a limit of 64 KiB.
fn lock_within_64_kib() {
    assert!(!may_lock_anything());
    // 4096 + 64 x 4 + 512, rounded up, and 4 x 8704 bytes, rounded up: 44 KiB.
    let arena = Arena::new(&ArenaConfig { lock: true, ..config(4) }).unwrap();
    assert_eq!(status("VmLck:"), "44 kB");
    drop(arena);
    assert_eq!(status("VmLck:"), "0 kB");
    let error = Arena::new(&ArenaConfig { lock: true, ..config(64) }).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, TransportError::ArenaLock { .. }), "{text}");
    for word in ["may lock 65536 bytes", "hard limit: 65536 bytes", "ulimit -l 560", "LimitMEMLOCK"]
    {
        assert!(text.contains(word), "'{word}' in: {text}");
    }
    println!("{DONE}");
}
