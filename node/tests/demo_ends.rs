//! How `pagewire demo` ends: by a signal, with a result that cannot be kept, or with nothing to move.
//! Whatever it is, no process and no file is left, and what came out is printed.

mod support;

use pagewire_protocol::Lsn;
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    demo::{Demo, children, is_there, signal},
    pages::{full_page, sound_page},
    process::{Ended, Process, wait_for},
};

// ---- signals -------------------------------------------------------------------------------------

/// Starts a demo, sends it `name` once its workers work, and asserts how it ends.
fn ends_by(name: &str, status: i32) {
    let out = tempfile::tempdir().expect("a temporary folder");
    let path = out.path().join("out");
    let arguments = ["--seconds".into(), "600".into(), "--out".into(), path.into_os_string()];
    let demo = Demo::start::<OsString>(arguments);
    demo.instance_at_work(0);
    let processes = children(demo.process.id());
    assert_eq!(processes.len(), 3);
    signal(name, demo.process.id());
    // Its temporary folder is empty: `end` asserts that.
    let Ended { status: found, stdout, stderr } = demo.end();
    assert_eq!(found.code(), Some(status), "{found}: {stderr}");
    assert_eq!(stdout, "", "no table of a run that did not end");
    assert!(stderr.contains(&format!("ended by SIG{name}")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "no complaint of the instances it stopped: {stderr}");
    let left: Vec<_> = processes.iter().filter(|id| is_there(**id)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(fs::read_dir(out.path()).expect("the folder").count(), 0);
}

#[test]
fn ctrl_c_stops_the_instances_and_removes_every_file() {
    ends_by("INT", 130);
}

#[test]
fn sigterm_stops_the_instances_and_removes_every_file() {
    ends_by("TERM", 143);
}

#[test]
fn a_terminal_that_closes_stops_the_instances_and_removes_every_file() {
    if ignores_hangup() {
        println!("skipped: SIGHUP is ignored here (nohup), and so by what is started from here");
        return;
    }
    ends_by("HUP", 129);
}

/// True when this process was started to outlive its terminal.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("this process's state");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A mask in hexadecimal; SIGHUP, number 1, is its lowest bit.
    ignored.is_some_and(|mask| mask.trim_end().ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']))
}

#[test]
fn what_a_terminal_sends_to_the_whole_group_is_the_coordinators_alone() {
    let demo = Demo::start(["--seconds", "600"]);
    demo.instance_at_work(0);
    let group = |id: u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("a running process");
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace().nth(2);
        fields.expect("a process group").to_owned()
    };
    let own = group(demo.process.id());
    for id in children(demo.process.id()) {
        assert_ne!(group(id), own, "process {id} would get Ctrl-C, too");
    }
    signal("TERM", demo.process.id());
    assert_eq!(demo.end().status.code(), Some(143));
}

#[test]
fn a_signal_while_the_pages_are_prepared_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("16384");
    // Sparse: new pages, enough for the preparation to take a while.
    fs::File::create(&file).and_then(|file| file.set_len(512 << 20)).expect("a page file");
    let demo = Demo::start::<OsString>(["--pages".into(), file.into_os_string()]);
    wait_for("the demo's folder", || {
        fs::read_dir(demo.folder.path())
            .expect("the folder")
            .flatten()
            .any(|entry| entry.path().join("storage").exists())
    });
    signal("INT", demo.process.id());
    assert_eq!(demo.end().status.code(), Some(130));
}

// ---- --out ---------------------------------------------------------------------------------------

/// A folder with a sound page file of `count` pages.
fn page_file(count: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pages = folder.path().join("16384");
    let sound: Vec<_> = (0..count).map(|block| sound_page(block, Lsn(5))).collect();
    fs::write(&pages, sound.concat()).expect("a page file");
    (folder, pages)
}

fn start(pages: &Path, out: &Path, more: &[&str]) -> Demo {
    let files = ["--pages".into(), pages.to_owned(), "--out".into(), out.to_owned()];
    let options = ["--nodes", "2", "--seconds", "1"].into_iter().chain(more.iter().copied());
    Demo::start(options.map(OsString::from).chain(files.map(PathBuf::into_os_string)))
}

#[test]
fn an_out_that_is_no_regular_file_is_refused_at_once() {
    let (folder, pages) = page_file(2);
    let path = |name: &str| folder.path().join(name);
    let made = Command::new("mkfifo").arg(path("fifo")).status().expect("mkfifo");
    assert!(made.success());
    symlink(path("nowhere"), path("dangling")).expect("a link");
    symlink(path("fifo"), path("link-to-fifo")).expect("a link");
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
    for (out, found) in [
        (path("fifo"), "is a FIFO"),
        (path("link-to-fifo"), "is a FIFO"),
        (path("dangling"), "is a link to nothing"),
        (path("socket"), "is a socket"),
        (path(""), "is a directory"),
        ("/dev/full".into(), "is a device"),
    ] {
        let line = start(&pages, &out, &[]).end().refused();
        assert!(line.contains("--out") && line.contains(found), "'{found}' in: {line}");
        assert!(line.contains("expected a regular file"), "{line}");
    }
    let link = fs::read_link(path("dangling")).expect("the link is still one");
    assert!(link == path("nowhere") && !link.exists());
}

#[test]
fn an_out_that_is_there_is_replaced_whole_and_a_link_stays_a_link() {
    let (folder, pages) = page_file(2);
    let (kept, link) = (folder.path().join("kept"), folder.path().join("link"));
    fs::write(&kept, "old").expect("written");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o640)).expect("a mode");
    symlink(&kept, &link).expect("a link");
    let before = fs::metadata(&kept).expect("a file").ino();
    start(&pages, &link, &[]).end().succeeded();
    assert_eq!(fs::read_link(&link).expect("still a link"), kept);
    let after = fs::metadata(&kept).expect("a file");
    assert_eq!((after.len(), after.mode() & 0o777), (2 * 8192, 0o640));
    assert_ne!(after.ino(), before, "renamed into place, not written over");
    assert_eq!(names(folder.path()), ["16384", "kept", "link"], "nothing is left beside it");
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = fs::read_dir(folder).expect("a folder").flatten().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_result_that_cannot_be_kept_does_not_cost_the_table() {
    for (more, printed) in [(&[][..], "\nVERIFIED: "), (&["--json"], "\"verdict\":\"verified\"")] {
        let (_folder, pages) = page_file(4);
        let gone = tempfile::tempdir().expect("a temporary folder");
        let out = gone.path().join("out");
        let demo = start(&pages, &out, more);
        demo.instance_at_work(0);
        drop(gone);
        let Ended { status, stdout, stderr } = demo.end();
        assert_eq!(status.code(), Some(1), "{stderr}");
        assert!(stdout.contains(printed), "the outcome stands: {stdout}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.contains("cannot write --out") && stderr.contains("No such file"),
            "{stderr}"
        );
    }
}

#[test]
fn an_outcome_that_cannot_be_printed_says_so_of_standard_output() {
    for (script, why) in [
        ("\"$@\" >/dev/full; echo $? >&2", "No space left on device"),
        // The reader goes at once.
        ("{ \"$@\"; echo $? >&2; } | :", "Broken pipe"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_pagewire")]);
        command.args(["demo", "--seconds", "1", "--nodes", "2"]);
        let stderr = Process::start(command.env("TMPDIR", folder.path())).end().stderr;
        let told = format!("pagewire: cannot write to standard output: {why}");
        assert!(stderr.starts_with(&told) && stderr.contains("check where it goes"), "{stderr}");
        assert_eq!(stderr.lines().skip(1).collect::<Vec<_>>(), ["1"], "its exit status");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }
}

// ---- nothing to move -----------------------------------------------------------------------------

#[test]
fn pages_between_which_nothing_can_move_are_not_called_verified() {
    for (sound, full) in [(0, 0), (1, 0), (0, 3), (1, 3)] {
        let (folder, pages) = page_file(sound);
        let mut bytes = fs::read(&pages).expect("the pages");
        (sound..sound + full).for_each(|block| bytes.extend(full_page(block, Lsn(9))));
        fs::write(&pages, &bytes).expect("a page file");
        let out = folder.path().join("out");
        // Any number of pages is allowed, so this is no failure.
        let stdout = start(&pages, &out, &[]).end().succeeded().stdout;
        let verdict = stdout.lines().last().expect("a last line");
        let told = format!("NOTHING TO MOVE: accounts on {sound} of {} pages", sound + full);
        assert!(verdict.starts_with(&told), "'{told}' in: {stdout}");
        assert!(verdict.contains("at least 2") && !stdout.contains("VERIFIED"), "{stdout}");
        assert_eq!(fs::metadata(&out).expect("kept").len(), bytes.len() as u64);
    }
    let (folder, pages) = page_file(1);
    let stdout = start(&pages, &folder.path().join("out"), &["--json"]).end().succeeded().stdout;
    let report: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!((&report["verdict"], &report["transfers"]), (&"nothing_to_move".into(), &0.into()));
}
