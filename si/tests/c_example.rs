//! The C header and its example, compiled and run against this crate's writer.

use pagewire_protocol::{
    ClusterId, Incarnation, InstanceId, SiMessage,
    si::{Backend, CatcacheId},
};
use pagewire_si::{RingConfig, RingError, RingWriter};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

const CLUSTER: ClusterId = ClusterId(42);
const ENTRIES: u32 = 16;

fn config(entries: u32) -> RingConfig {
    let (instance, incarnation) = (InstanceId(3), Incarnation(7));
    RingConfig { cluster: CLUSTER, instance, incarnation, entries }
}

/// The example, compiled into `folder` with everything the compiler can complain of; `None` where there
/// is no compiler.
fn compile(folder: &Path) -> Option<PathBuf> {
    if Command::new("cc").arg("--version").output().is_err() {
        assert!(std::env::var_os("PAGEWIRE_REQUIRE_CC").is_none(), "no cc: install a C compiler");
        eprintln!("skipped: no cc");
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join("tail");
    let output = Command::new("cc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"])
        .arg("-I")
        .arg(here.join("include"))
        .arg(here.join("examples/tail.c"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Tail {
    fn start(program: &Path, ring: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(ring).arg(CLUSTER.to_string()).args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Ends with the process, or with whoever reads the lines.
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn one_of_each_kind() -> Vec<SiMessage> {
    let (database, relation) = (5, 4_294_967_295);
    vec![
        SiMessage::Catcache { cache: CatcacheId::MAX, database, hash: 0xAB },
        SiMessage::Catalog { database, catalog: 1259 },
        SiMessage::Relcache { database, relation },
        SiMessage::Smgr { backend: Backend::NONE, space: 1663, database, relation },
        SiMessage::Smgr { backend: Backend::MAX, space: 1663, database, relation },
        SiMessage::Smgr { backend: Backend::MIN, space: 1663, database, relation },
        SiMessage::Relmap { database },
        SiMessage::Snapshot { database, relation },
    ]
}

/// A writer that comes after another one. A compiler that another test has just forked off has the former
/// writer's file, and with it its lock, until it is executed.
fn open_again(path: &Path, entries: u32) -> RingWriter {
    let start = std::time::Instant::now();
    loop {
        match RingWriter::open(path, &config(entries)) {
            Err(RingError::InUse { .. }) if start.elapsed().as_secs() < 30 => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn a_reader_in_c_sees_messages_resets_and_the_end_of_a_ring() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile(folder.path()) else { return };
    let path = folder.path().join("ring");
    let mut writer = RingWriter::open(&path, &config(ENTRIES)).unwrap();
    let mut tail = Tail::start(&program, &path, &[]);
    assert_eq!(tail.line(), "attached to instance 3");

    // Three times, so that the ring's end is crossed.
    for publisher in [0, 1, 65_535] {
        let first = writer.head();
        let messages: Vec<_> = one_of_each_kind().iter().map(SiMessage::encode).collect();
        writer.write(InstanceId(publisher), &messages);
        for (sequence, message) in (first..).zip(one_of_each_kind()) {
            assert_eq!(tail.line(), format!("{sequence} from {publisher}: {message}"));
        }
    }
    writer.reset();
    assert_eq!(tail.line(), "reset");
    // More than the ring holds.
    writer.write(InstanceId(1), &vec![[0; 16]; ENTRIES as usize + 1]);
    assert_eq!(tail.line(), "reset");
    drop(writer);
    let writer = open_again(&path, ENTRIES);
    assert_eq!(tail.line(), "reset");
    drop(writer);
    let mut writer = open_again(&path, 2 * ENTRIES);
    assert_eq!(tail.line(), "gone");
    assert_eq!(tail.line(), "attached to instance 3");
    let first = writer.head();
    writer.write(InstanceId(2), &[SiMessage::Relmap { database: 1 }.encode()]);
    assert_eq!(tail.line(), format!("{first} from 2: relmap database 1"));
    drop(writer);
    assert!(tail.child.wait().unwrap().success(), "it ends when there is no writer");
}

#[test]
fn a_reader_in_c_refuses_broken_rings_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile(folder.path()) else { return };
    let path = folder.path().join("ring");
    let run = |cluster: &str| -> Output {
        Command::new(&program).arg(&path).args([cluster, "1"]).output().unwrap()
    };
    let refused = |cluster: &str, why: &str| {
        let output = run(cluster);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(told, format!("SI ring {}: {why}\n", path.display()));
    };
    refused("42", "No such file or directory");
    fs::create_dir(&path).unwrap();
    refused("42", "not a regular file");
    fs::remove_dir(&path).unwrap();
    drop(RingWriter::open(&path, &config(ENTRIES)).unwrap());
    refused("43", "of another cluster");
    refused("42", "it has no writer any more");
    let whole = fs::read(&path).unwrap();
    let break_at = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        let crc = pagewire_protocol::crc32c(&[&bytes[..36]]).to_le_bytes();
        bytes[36..40].copy_from_slice(&crc);
        fs::write(&path, bytes).unwrap();
    };
    break_at(0, b'X');
    refused("42", "no SI ring");
    break_at(8, 2);
    refused("42", "of another layout version");
    break_at(12, 1);
    refused("42", "damaged: its sizes cannot be");
    break_at(20, 17);
    refused("42", "damaged: its sizes cannot be");
    break_at(20, 32);
    refused("42", "shorter or longer than its header says");
    break_at(135, 0x80);
    refused("42", "damaged: its head cannot be");
    break_at(84, 1);
    refused("42", "replaced by another ring: attach again");
    let mut bytes = whole.clone();
    bytes[32] ^= 1;
    fs::write(&path, bytes).unwrap();
    refused("42", "damaged: its header does not match its CRC-32C");
    for len_bytes in [0, 39, 4095, whole.len() - 1] {
        fs::write(&path, &whole[..len_bytes]).unwrap();
        refused("42", "shorter or longer than its header says");
    }
}
