//! Files that are no ring, or not this one: what the reader says, and what the writer does.

use pagewire_protocol::{ClusterId, Incarnation, InstanceId, crc32c};
use pagewire_si::{RingConfig, RingError, RingState, RingWriter, SiEntry, SiRead, SiReader};
use std::{
    fs::{self, OpenOptions},
    os::unix::{
        fs::{FileExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

const CLUSTER: ClusterId = ClusterId(0xC1);
/// Bytes of a ring of 16 entries.
const RING_BYTES: u64 = 4096 + 16 * 32;

fn config() -> RingConfig {
    let (instance, incarnation) = (InstanceId(3), Incarnation(7));
    RingConfig { cluster: CLUSTER, instance, incarnation, entries: 16 }
}

/// A folder with a ring that has no writer now.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        drop(place.write().unwrap());
        place
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ring")
    }

    fn write(&self) -> Result<RingWriter, RingError> {
        RingWriter::open(&self.path(), &config())
    }

    fn attach(&self) -> Result<SiReader, RingError> {
        SiReader::attach(&self.path(), CLUSTER)
    }

    fn patch(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    /// The same, with a CRC that is right.
    fn patch_fixed(&self, at: u64, bytes: &[u8]) {
        self.patch(at, bytes);
        let header = fs::read(self.path()).unwrap();
        self.patch(36, &crc32c(&[&header[..36]]).to_le_bytes());
    }

    fn cut(&self, len_bytes: u64) {
        OpenOptions::new().write(true).open(self.path()).unwrap().set_len(len_bytes).unwrap();
    }
}

/// What a refusal says, in one line that begins with the ring.
fn words<T>(place: &Path, refused: Result<T, RingError>) -> String {
    let told = match refused {
        Ok(_) => panic!("{} was taken", place.display()),
        Err(error) => error.to_string(),
    };
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with(&format!("SI ring {}", place.display())), "{told}");
    told
}

type Break = fn(&Place);

/// How a ring is broken, what the reader says, and whether the writer makes a new one in its place.
const BROKEN: &[(&str, Break, &str, bool)] = &[
    ("empty", |p| p.cut(0), "0 bytes, expected 4096", true),
    ("cut in its magic", |p| p.cut(5), "5 bytes, expected 4096", true),
    ("cut in its header", |p| p.cut(39), "39 bytes, expected 4096", true),
    ("cut behind its header", |p| p.cut(4096), "4096 bytes, expected 4608", true),
    ("cut by a byte", |p| p.cut(RING_BYTES - 1), "4607 bytes, expected 4608", true),
    ("longer by a byte", |p| p.cut(RING_BYTES + 1), "4609 bytes, expected 4608", true),
    ("no ring", |p| p.patch(0, b"\x7FELF"), "expected 0x474e524953574750: this is no SI", false),
    (
        "no ring, and short",
        |p| fs::write(p.path(), b"text").unwrap(),
        "begins with 0x0000000074786574, expected",
        false,
    ),
    ("of another version", |p| p.patch_fixed(8, &[2]), "layout version 2, expected 1", true),
    ("damaged in its version", |p| p.patch(8, &[2]), "header carries CRC-32C 0x", true),
    ("damaged in its cluster", |p| p.patch(24, &[2]), "header carries CRC-32C 0x", true),
    ("damaged in its CRC", |p| p.patch(36, &[0; 4]), "CRC-32C 0x00000000, computed", true),
    (
        "of another header",
        |p| p.patch_fixed(12, &[0, 32]),
        "header of 8192 and entries of 32 bytes, expected 4096 and 32",
        true,
    ),
    (
        "of other entries",
        |p| p.patch_fixed(16, &[64]),
        "header of 4096 and entries of 64 bytes, expected 4096 and 32",
        true,
    ),
    ("of 17 entries", |p| p.patch_fixed(20, &[17]), "17 entries, expected a power of two", true),
    (
        "of 8 entries",
        |p| p.patch_fixed(20, &[8]),
        "8 entries, expected a power of two from 16",
        true,
    ),
    (
        "of too many entries",
        |p| p.patch_fixed(20, &[0, 0, 0, 2]),
        "33554432 entries, expected a power of two from 16 to 16777216",
        true,
    ),
    ("longer than it is", |p| p.patch_fixed(20, &[32]), "4608 bytes, expected 5120", true),
    ("of another cluster", |p| p.patch_fixed(24, &[0xC2]), "cluster 194, expected 193", false),
    (
        "of another cluster and version",
        |p| {
            p.patch_fixed(24, &[0xC2]);
            p.patch_fixed(8, &[9]);
        },
        "layout version 9",
        false,
    ),
    ("at no position", |p| p.patch(135, &[0x80]), "expected less than 2^63", true),
    ("gone", |p| p.patch(84, &[1]), "it has been replaced: attach again", true),
];

#[test]
fn a_broken_ring_is_refused_by_the_reader_and_replaced_by_the_writer_where_it_is_its_own() {
    for (name, break_it, expected, is_replaced) in BROKEN {
        let place = Place::new();
        break_it(&place);
        let before = fs::read(place.path()).unwrap();
        let told = words(&place.path(), place.attach());
        assert!(told.contains(expected), "{name}: {told}");
        // What is to be done: where a writer would refuse it, restarting one is no remedy.
        let is_restart = told.contains("restart the instance");
        let says = is_restart == *is_replaced;
        let others = ["layout version", "power of two", "attach again"];
        assert!(says || others.iter().any(|words| told.contains(words)), "{name}: {told}");
        assert!(!told.contains("no SI ring") || told.contains("or remove it"), "{name}: {told}");
        match place.write() {
            Ok(mut writer) => {
                assert!(is_replaced, "{name}: the writer took it");
                let mut reader = place.attach().unwrap();
                writer.write(InstanceId(1), &[[5; 16]]);
                let mut out = [SiEntry::default(); 2];
                assert_eq!(reader.read(&mut out), SiRead::Messages(1), "{name}");
                assert_eq!(writer.generation(), 1, "{name}: it is not a new one");
            }
            Err(error) => {
                assert!(!is_replaced, "{name}: {error}");
                words(&place.path(), Err::<(), _>(error));
                assert_eq!(fs::read(place.path()).unwrap(), before, "{name}: changed");
            }
        }
        let names = fs::read_dir(place.folder.path()).unwrap().count();
        assert_eq!(names, 1, "{name}: something was left beside the ring");
    }
}

#[test]
fn readers_of_a_ring_that_must_be_replaced_are_told_that_it_is_gone() {
    for (name, break_it, _, is_replaced) in BROKEN {
        let place = Place::new();
        let mut reader = place.attach().unwrap();
        break_it(&place);
        // The memory of what was cut is not there any more; what was is told on the file's state.
        let is_whole = fs::metadata(place.path()).unwrap().len() >= RING_BYTES;
        if !is_replaced || place.write().is_err() {
            continue;
        }
        assert_eq!(reader.state().unwrap(), RingState::Gone, "{name}");
        if is_whole {
            assert!(reader.has_new(), "{name}");
            let mut out = [SiEntry::default(); 2];
            assert_eq!(reader.read(&mut out), SiRead::Gone, "{name}");
        }
    }
}

#[test]
fn what_is_no_file_is_refused_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    let both = |expected: [&str; 2]| {
        let told = words(&path, SiReader::attach(&path, CLUSTER));
        assert!(told.contains(expected[0]), "{told}");
        let told = words(&path, RingWriter::open(&path, &config()));
        assert!(told.contains(expected[1]), "{told}");
    };
    fs::create_dir(&path).unwrap();
    both(["found a directory, expected a regular file"; 2]);
    fs::remove_dir(&path).unwrap();
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    both(["found a FIFO, expected a regular file"; 2]);
    fs::remove_file(&path).unwrap();
    // A link leads the writer to what somebody else chose.
    symlink("/dev/null", &path).unwrap();
    both(["found a device, expected a regular file", "found a symbolic link"]);
    fs::remove_file(&path).unwrap();
    let told = words(&path, SiReader::attach(&path, CLUSTER));
    assert!(told.contains("no such file") && told.contains("start that instance"), "{told}");
    let nowhere = folder.path().join("no/folder/ring");
    assert!(SiReader::attach(&nowhere, CLUSTER).is_err());
    assert!(RingWriter::open(&nowhere, &config()).is_err());
}

#[test]
fn a_second_writer_is_refused_while_the_first_one_lives_and_not_longer() {
    let place = Place::new();
    let first = place.write().unwrap();
    let told = words(&place.path(), place.write());
    let expected = format!("is written by process {}", std::process::id());
    assert!(told.contains(&expected), "{told}");
    drop(first);
    assert_eq!(place.write().unwrap().generation(), 3);
}

#[test]
fn another_instance_is_refused_by_the_writer_and_not_by_the_reader() {
    let place = Place::new();
    let other = RingConfig { instance: InstanceId(4), ..config() };
    let told = words(&place.path(), RingWriter::open(&place.path(), &other));
    assert!(told.contains("it is of instance 3, expected 4"), "{told}");
    assert_eq!(place.attach().unwrap().instance(), InstanceId(3));
}

#[test]
fn a_number_of_entries_that_no_ring_has_is_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ring");
    for entries in [0, 1, 8, 17, 65_535, 1 << 25, u32::MAX] {
        let wrong = RingConfig { entries, ..config() };
        let told = words(&path, RingWriter::open(&path, &wrong));
        assert!(told.contains(&format!("{entries} entries, expected a power of two")), "{told}");
        assert!(RingWriter::in_memory(&wrong).is_err());
    }
    assert!(!path.exists());
}

#[test]
fn a_ring_is_its_groups_to_read_whatever_the_processs_mask() {
    let place = Place::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.path()), 0o640);
    let path = place.folder.path().join("open");
    drop(RingWriter::open_with_mode(&path, &config(), 0o666).unwrap());
    assert_eq!(mode(&path), 0o666);
}

#[test]
fn a_removed_ring_is_told_to_whoever_asks() {
    let place = Place::new();
    let reader = place.attach().unwrap();
    assert_eq!(reader.state().unwrap(), RingState::NoWriter);
    fs::remove_file(place.path()).unwrap();
    assert_eq!(reader.state().unwrap(), RingState::Gone);
}

/// Set in the process that has no permission: the ring's path.
const FORBIDDEN: &str = "PAGEWIRE_TEST_FORBIDDEN_RING";
const NOBODY: u32 = 65_534;

#[test]
fn without_permission_a_ring_is_refused_with_what_the_system_says() {
    if let Some(path) = std::env::var_os(FORBIDDEN) {
        let path = PathBuf::from(path);
        let told = words(&path, SiReader::attach(&path, CLUSTER));
        assert!(told.contains("cannot open it: Permission denied"), "{told}");
        let told = words(&path, RingWriter::open(&path, &config()));
        assert!(told.contains("cannot open it: Permission denied"), "{told}");
        println!("refused as expected");
        return;
    }
    let place = Place::new();
    let everyone = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.folder.path(), everyone).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o000)).unwrap();
    // A copy, where anybody may run it: the folder that tests are built in may be closed.
    let program = place.folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = "without_permission_a_ring_is_refused_with_what_the_system_says";
    let mut command = Command::new(&program);
    command.args(["--exact", name, "--nocapture"]).env(FORBIDDEN, place.path()).current_dir("/");
    // The superuser may open everything.
    if SiReader::attach(&place.path(), CLUSTER).is_ok() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("refused as expected"), "{output:?}");
}

#[test]
fn a_writer_refuses_a_file_of_another_user() {
    let place = Place::new();
    if std::os::unix::fs::chown(place.path(), Some(NOBODY), None).is_err() {
        eprintln!("skipped: only the superuser can give files away");
        return;
    }
    let told = words(&place.path(), place.write());
    assert!(told.contains("it belongs to user 65534, expected 0"), "{told}");
    place.attach().unwrap();
}
