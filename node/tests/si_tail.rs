//! `pagewire si tail`: what it prints of a ring, and what it says when there is none.

mod support;

use pagewire_protocol::{ClusterId, Incarnation, InstanceId, SiMessage};
use pagewire_si::{RingConfig, RingWriter};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};
use support::{
    ledger::Config,
    process::{Process, wait_for},
};

const ENTRIES: u32 = 16;

fn open(path: &Path, entries: u32, life: u64) -> RingWriter {
    let (cluster, instance) = (ClusterId(42), InstanceId(3));
    let config = RingConfig { cluster, instance, incarnation: Incarnation(life), entries };
    RingWriter::open(path, &config).unwrap()
}

fn relcache(relation: u32) -> [u8; 16] {
    SiMessage::Relcache { database: 5, relation }.encode()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    (folder, path)
}

/// The command on the ring at `path`, attached.
fn tail(path: &Path, more: &[&str]) -> Process {
    let arguments = ["si", "tail"].into_iter().chain(more.iter().copied()).map(AsRef::as_ref);
    let mut tail = Process::pagewire(arguments.chain([path.as_os_str()]));
    tail.line("that it is attached", |line| line.contains("instance"));
    tail
}

#[test]
fn messages_resets_and_writers_that_come_and_go_are_printed_as_they_happen() {
    let (_folder, path) = place();
    let mut writer = open(&path, ENTRIES, 7);
    let mut tail = tail(&path, &[]);
    let first = writer.head();
    writer.write(InstanceId(9), &[relcache(16_384), [0x80; 16]]);
    tail.line("the message", |line| line == format!("{first} from 9: relcache 16384 database 5"));
    let unknown = format!("{} from 9: unknown kind, {}", first + 1, "80".repeat(16));
    tail.line("the odd one", |line| line == unknown);
    writer.reset();
    tail.line("the reset", |line| line.starts_with("reset: messages are missing before "));
    drop(writer);
    tail.line("that the writer is gone", |line| line.starts_with("no writer: "));
    let mut writer = open(&path, ENTRIES, 8);
    tail.line("the reset", |line| line.starts_with("reset: "));
    let expected = format!("writer 2: process {}, incarnation 8", std::process::id());
    tail.line("the next writer", |line| line == expected);
    writer.write(InstanceId(1), &[relcache(1)]);
    tail.line("its message", |line| line.ends_with("from 1: relcache 1 database 5"));
    drop(writer);
    let mut writer = open(&path, 2 * ENTRIES, 9);
    tail.line("that the ring is gone", |line| line.starts_with("gone: "));
    tail.line("the next ring", |line| line.contains("instance 3, 32 entries, writer 1 "));
    writer.write(InstanceId(1), &[relcache(2)]);
    tail.line("its message", |line| line.ends_with("from 1: relcache 2 database 5"));

    // Not Ctrl-C, which what a shell started in the background is deaf to.
    kill_process(Pid::from_raw(tail.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    let ended = tail.end();
    assert_eq!((ended.status.signal(), ended.stderr.as_str()), (Some(15), ""), "it ends");
}

#[test]
fn a_ring_that_is_removed_is_waited_for_and_the_next_one_read() {
    let (_folder, path) = place();
    let writer = open(&path, ENTRIES, 7);
    let mut tail = tail(&path, &[]);
    drop(writer);
    fs::remove_file(&path).unwrap();
    tail.line("that the ring is gone", |line| line.starts_with("gone: it was replaced or removed"));
    let waiting = format!("waiting: there is no {} now", path.display());
    tail.line("that it waits", |line| line.starts_with(&waiting) && line.contains("60 s"));
    let mut writer = open(&path, ENTRIES, 8);
    tail.line("the next ring", |line| line.contains("instance 3, 16 entries, writer 1 "));
    writer.write(InstanceId(1), &[relcache(2)]);
    tail.line("its message", |line| line.ends_with("from 1: relcache 2 database 5"));
}

#[test]
fn a_ring_that_is_removed_under_an_instance_is_told_by_its_log_its_status_and_the_doctor() {
    let (folder, _) = place();
    let storage = folder.path().join("storage");
    fs::create_dir(&storage).unwrap();
    let file = folder.path().join("0.toml");
    let config = Config { members: vec![0], ..Config::new(0, &storage) };
    let mut node = config.run(&file);
    node.line("that it can be asked", |line| line.starts_with("`pagewire status"));
    let ring = file.with_extension(format!("{}.ring", Config::CLUSTER));
    let asked = |name: &str, more: &[&str]| {
        let arguments = [name.as_ref(), "--config".as_ref(), file.as_os_str()].into_iter();
        Process::pagewire(arguments.chain(more.iter().map(AsRef::as_ref))).end()
    };
    let doctor = || {
        let told = asked("doctor", &[]).stdout;
        let line = told.lines().find(|line| line.contains(" si_ring ")).expect("a line");
        line.to_owned()
    };
    let problem = || {
        let told = asked("status", &["--json"]).succeeded().stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        told["invalidations"]["ring_problem"].clone()
    };
    assert!(problem().is_null());
    let line = doctor();
    assert!(line.starts_with("OK") && line.contains("this very instance writes it"), "{line}");

    fs::remove_file(&ring).unwrap();
    let told = node.complaint("word of it", |line| line.contains("found no file"));
    wait_for("the same in its status", || problem().is_string());
    let problem = problem();
    assert!(problem.as_str().is_some_and(|problem| told.contains(problem)), "{problem}: {told}");
    let text = asked("status", &[]).succeeded().stdout;
    assert!(text.contains(&format!("\n  SI ring {}: found no file", ring.display())), "{text}");
    let line = doctor();
    for words in ["CHANGE", "found no file", "start them together"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }

    node.kill();
    let line = doctor();
    assert!(line.starts_with("OK") && line.contains("can be made"), "{line}");
    fs::write(&ring, "no ring at all, but longer than the fixed part of a header").unwrap();
    let line = doctor();
    for words in ["CHANGE", "this is no SI ring", "name another file"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
}

#[test]
fn json_is_an_object_a_line_and_it_ends_after_the_messages_that_were_wanted() {
    let (_folder, path) = place();
    let mut writer = open(&path, ENTRIES, 7);
    let mut tail = tail(&path, &["--json", "--count", "3"]);
    let first = writer.head();
    writer.reset();
    // Before the messages: a reset that is found behind them has them in it.
    tail.line("the reset", |line| line.contains("reset"));
    writer.write(InstanceId(9), &[relcache(1), [0x80; 16], relcache(3), relcache(4)]);
    let stdout = tail.end().succeeded().stdout;
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let next = first + u64::from(ENTRIES) + 1;
    let [attached, rest @ ..] = &lines[..] else { panic!("{stdout}") };
    assert_eq!(attached["event"], "attached");
    assert_eq!(attached["ring"], path.to_str().unwrap());
    assert_eq!(attached["pid"], std::process::id());
    for (key, value) in [("instance", 3), ("entries", 16), ("generation", 1), ("incarnation", 7)] {
        assert_eq!(attached[key], value, "{key}");
    }
    let expected = [
        serde_json::json!({ "event": "reset", "next_sequence": next }),
        serde_json::json!({
            "event": "message", "sequence": next, "publisher": 9, "kind": "relcache",
            "database": 5, "relation": 1,
        }),
        serde_json::json!({
            "event": "message", "sequence": next + 1, "publisher": 9, "kind": "unknown",
            "bytes": "80".repeat(16),
        }),
        serde_json::json!({
            "event": "message", "sequence": next + 2, "publisher": 9, "kind": "relcache",
            "database": 5, "relation": 3,
        }),
    ];
    assert_eq!(rest, expected);
}

#[test]
fn what_is_no_ring_is_refused_in_one_line_and_changed_by_nothing() {
    let (folder, path) = place();
    let refused = |arguments: &[&str]| {
        Process::pagewire(["si", "tail"].iter().chain(arguments)).end().refused()
    };
    let at = path.to_str().unwrap();
    let told = refused(&[at]);
    assert!(
        told.starts_with(&format!("pagewire: SI ring {at}: found no such file, expected")),
        "{told}"
    );
    fs::write(&path, "no ring at all, but longer than the fixed part of a header").unwrap();
    let told = refused(&[at]);
    assert!(told.contains("this is no SI ring") && told.contains("or remove it"), "{told}");
    let told = refused(&[folder.path().to_str().unwrap()]);
    assert!(told.contains("found a directory, expected a regular file"), "{told}");

    let told = refused(&[]);
    assert!(told.contains("<RING|--config <FILE>>") && told.ends_with("see --help"), "{told}");
    let told = refused(&[at, "--config", at]);
    assert!(told.contains("cannot be used with"), "{told}");
    let told = refused(&[at, "--count", "0"]);
    assert!(told.contains("--count"), "{told}");
    let told = refused(&["--config", folder.path().join("none.toml").to_str().unwrap()]);
    assert!(told.contains("none.toml"), "{told}");
}

#[test]
fn with_a_configuration_the_ring_of_that_instance_is_looked_for() {
    let (folder, _) = place();
    let config = Config::three(folder.path()).remove(2);
    let file = folder.path().join("2.toml");
    let arguments = ["si".as_ref(), "tail".as_ref(), "--config".as_ref(), file.as_os_str()];
    let usual = format!("/dev/shm/pagewire-{}-2.si", Config::CLUSTER);
    for ring in [folder.path().join("ring").to_str().unwrap(), &usual] {
        let text = config.text_with_ring(Path::new(ring));
        // In its usual place it need not be named.
        let text = text.replace(&format!("si_ring = {usual:?}\n"), "");
        fs::write(&file, text).unwrap();
        let told = Process::pagewire(arguments).end().refused();
        assert!(told.contains(&format!("SI ring {ring}")), "{told}");
    }
}
