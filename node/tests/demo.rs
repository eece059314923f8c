//! `pagewire demo` as its user sees it: what it prints, what it keeps, what it refuses, and what it
//! says when something is done to it.

mod support;

use pagewire_node::ledger::{account, log, relation};
use pagewire_protocol::{Lsn, PageSize, page};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    demo::{Demo, children, is_there, signal},
    ledger::{Cluster, Files},
    pages::{PAGE_BYTES, full_page, put_checksum, read_pages, sound_page},
    process::{Ended, Process, say, wait_for},
};

fn demo(arguments: &[&str]) -> Ended {
    Demo::start(arguments.iter().copied()).end()
}

/// The one JSON object that a demo printed.
fn json(ended: Ended) -> Value {
    let Ended { stdout, stderr, .. } = ended.succeeded();
    assert_eq!(stderr, "", "nothing to complain of");
    assert_eq!(stdout.lines().count(), 1, "one line: {stdout}");
    let value: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert!(value.is_object());
    value
}

fn number(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).unwrap_or_else(|| panic!("no {path} in {value}"));
    found.as_u64().unwrap_or_else(|| panic!("{path} is {found}"))
}

/// Asserts what every good run reports.
fn assert_sound(report: &Value) {
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(report["total_before"], report["total_after"]);
    for zero in ["/lost_updates", "/bad_checksums", "/audit_failures"] {
        assert_eq!(number(report, zero), 0, "{zero}");
    }
    assert_eq!(report["problems"], Value::Array(vec![]));
    // The instances listen on a loopback address, which no RDMA port has.
    let nodes = number(report, "/nodes");
    assert_eq!(number(report, "/transport/tcp"), nodes * (nodes - 1) / 2, "{report}");
    assert_eq!(number(report, "/transport/verbs") + number(report, "/transport/down"), 0);
    let reasons = report["transport"]["tcp_reasons"].as_object().expect("an object");
    assert!(!reasons.is_empty(), "{report}");
    for kind in ["local", "two_way", "three_way", "storage"] {
        let field = |field: &str| {
            let found = report.pointer(&format!("/grants/{kind}/{field}"));
            found.and_then(Value::as_f64).unwrap_or_else(|| panic!("{kind} {field} in {report}"))
        };
        let steps = ["p50_us", "p99_us", "p999_us", "max_us"].map(field);
        assert!(steps.is_sorted(), "{kind}: {steps:?}");
        assert_eq!(field("count") > 0.0, steps[3] > 0.0, "{kind}: {report}");
    }
}

fn assert_busy(report: &Value, nodes: u64) {
    assert_sound(report);
    assert_eq!(number(report, "/nodes"), nodes);
    assert_eq!(number(report, "/total_before"), 1000 * number(report, "/accounts"));
    for some in ["/transfers", "/audits", "/pages_shipped"] {
        assert!(number(report, some) > 0, "{some} in {report}");
    }
    for some in ["local", "two_way", "storage"] {
        assert!(number(report, &format!("/grants/{some}/count")) > 0, "{some} in {report}");
    }
    // With two instances there is no third.
    assert_eq!(number(report, "/grants/three_way/count") > 0, nodes > 2, "{report}");
    // Every shipped page answers a request.
    let moved = number(report, "/grants/two_way/count") + number(report, "/grants/three_way/count");
    assert!(moved >= number(report, "/pages_shipped"), "{report}");
    assert!(number(report, "/bytes_shipped") >= 8192 * number(report, "/pages_shipped"));
}

// ---- good runs -----------------------------------------------------------------------------------

#[test]
fn an_instance_joins_and_one_leaves_in_mid_run_without_a_failed_transfer() {
    let report = json(demo(&["--nodes", "3", "--seconds", "3", "--join", "--leave", "--json"]));
    assert_eq!(report["verdict"], "verified", "{report}");
    assert_eq!(report["total_before"], report["total_after"]);
    for zero in ["/lost_updates", "/bad_checksums", "/audit_failures"] {
        assert_eq!(number(&report, zero), 0, "{zero}");
    }
    assert!(number(&report, "/transfers") > 0 && number(&report, "/pages_shipped") > 0);
    let changes = report["changes"].as_array().expect("changes");
    let [join, leave] = &changes[..] else { panic!("{report}") };
    assert_eq!((&join["what"], &join["instance"]), (&"join".into(), &3.into()));
    assert_eq!((&leave["what"], &leave["instance"]), (&"leave".into(), &1.into()));
    for change in changes {
        let field = |field: &str| change[field].as_f64().unwrap_or_else(|| panic!("{change}"));
        assert!(field("at_s") > 0.0 && field("took_ms") > 0.0, "{change}");
        assert!(field("longest_request_ms") > 0.0, "{change}");
    }
    assert!(report["longest_request_ms"].as_f64() > Some(0.0), "{report}");
    // Three instances are left, each linked with the others.
    assert_eq!(number(&report, "/transport/tcp"), 3, "{report}");
}

#[test]
fn members_that_come_or_go_are_told_as_they_do_and_in_the_table() {
    let ended = demo(&["--nodes", "2", "--seconds", "1", "--join"]).succeeded();
    let told = "pagewire: instance 2 joined after ";
    assert!(ended.stderr.starts_with(told) && ended.stderr.lines().count() == 1, "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("instance 2 joined after "));
    let at = at.unwrap_or_else(|| panic!("{}", ended.stdout));
    assert!(lines[at].contains(" ms; longest request meanwhile "), "{}", lines[at]);
    assert!(lines[at + 1].starts_with("longest request otherwise "), "{}", lines[at + 1]);
    assert!(ended.stdout.contains("\nVERIFIED: "), "{}", ended.stdout);
    let ended = demo(&["--nodes", "2", "--seconds", "1", "--leave"]).succeeded();
    assert!(ended.stderr.starts_with("pagewire: instance 1 left after "), "{ended:?}");
    assert!(ended.stdout.contains("\nVERIFIED: "), "{}", ended.stdout);
}

#[test]
fn two_instances_verify() {
    let report = json(demo(&["--json", "--seconds", "2", "--nodes", "2", "--seed", "42"]));
    assert_busy(&report, 2);
    assert_eq!((number(&report, "/seed"), number(&report, "/seconds")), (42, 2));
    assert_busy(&json(demo(&["--json", "--seconds", "2", "--nodes", "2"])), 2);
}

#[test]
fn three_instances_verify_and_ship_pages_three_ways() {
    assert_busy(&json(demo(&["--json", "--seconds", "2", "--seed", "42"])), 3);
    let report = json(demo(&["--json", "--seconds", "2", "--nodes", "3", "--transport", "tcp"]));
    assert_busy(&report, 3);
    let asked = &report["transport"];
    assert_eq!((&asked["asked"], number(asked, "/tcp_reasons/configured")), (&"tcp".into(), 3));
}

#[test]
fn four_instances_verify() {
    assert_busy(&json(demo(&["--json", "--seconds", "2", "--nodes", "4", "--seed", "42"])), 4);
    assert_busy(&json(demo(&["--json", "--seconds", "2", "--nodes", "4"])), 4);
}

#[test]
fn a_cache_far_smaller_than_the_relation_verifies() {
    let report = json(demo(&["--json", "--seconds", "2", "--cache-pages", "48"]));
    assert_busy(&report, 3);
    // Every page is read at least once; a page that was given up is read again.
    assert!(number(&report, "/grants/storage/count") > 2 * number(&report, "/pages"), "{report}");
}

#[test]
fn many_workers_verify() {
    let report = json(demo(&["--json", "--seconds", "2", "--threads", "12", "--nodes", "2"]));
    assert_busy(&report, 2);
    assert_eq!(number(&report, "/threads"), 12);
}

#[test]
fn the_report_for_people_has_the_table_and_the_verdict() {
    let Ended { stdout, stderr, .. } = demo(&["--seconds", "1", "--seed", "7"]).succeeded();
    assert_eq!(stderr, "", "without a terminal no progress is shown");
    let starts = ["transfers ", "audits ", "reads ", "pages shipped ", "grants ", "local hit "];
    for start in starts.into_iter().chain(["2-way ", "3-way ", "storage "]) {
        assert!(stdout.lines().any(|line| line.starts_with(start)), "{start} in {stdout}");
    }
    assert!(stdout.starts_with("3 instances x 2 workers over tcp, 600 pages"), "{stdout}");
    let verdict = stdout.lines().last().expect("a last line");
    assert!(verdict.starts_with("VERIFIED: total "), "{stdout}");
    assert!(
        verdict.ends_with("0 lost updates, 0 bad checksums, 0 failed audits, 0 stale uses"),
        "{stdout}"
    );
}

// ---- arguments -----------------------------------------------------------------------------------

#[test]
fn a_folder_that_is_to_be_kept_is_there_afterwards_and_named_and_no_other_demo_removes_it() {
    let demo = Demo::start(["--seconds", "1", "--nodes", "2", "--keep"]);
    let parent = demo.folder;
    let ended = demo.process.end().succeeded();
    let kept: Vec<_> = fs::read_dir(parent.path()).expect("the folder").flatten().collect();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    let kept = kept.path();
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains(&format!("are kept in {}\n", kept.display())), "{ended:?}");
    let mut next = Process::command(["demo", "--seconds", "1", "--nodes", "2"]);
    Process::start(next.env("TMPDIR", parent.path())).end().succeeded();
    for name in ["manifest.json", "transfers-0.log", "transfers-1.log", "instance-1.toml"] {
        assert!(kept.join(name).is_file(), "{name}");
    }
}

#[test]
fn arguments_out_of_range_are_refused_in_one_line() {
    for (arguments, words) in [
        (&["--nodes", "1"][..], &["'1'", "--nodes", "2..=4"][..]),
        (&["--nodes", "5"], &["'5'", "--nodes", "2..=4"]),
        (&["--nodes", "three"], &["'three'", "--nodes"]),
        (&["--seconds", "0"], &["'0'", "--seconds", "1.."]),
        (&["--threads", "0"], &["'0'", "--threads", "1.."]),
        (&["--transport", "pigeon"], &["'pigeon'", "--transport", "auto", "tcp"]),
        (&["--cache-pages", "31"], &["31", "--cache-pages", "32"]),
        (&["--cache-pages", "33", "--threads", "9"], &["--cache-pages is 33", "at least 144"]),
        (&["--seed=-1"], &["'-1'", "--seed"]),
        (&["--colour"], &["--colour"]),
    ] {
        let line = demo(arguments).refused();
        for word in words {
            assert!(line.contains(word), "'{word}' in: {line}");
        }
    }
}

#[test]
fn a_temporary_folder_that_is_missing_is_told() {
    let mut command = Process::command(["demo"]);
    let line = Process::start(command.env("TMPDIR", "/nowhere")).end().refused();
    assert!(line.contains("temporary folder") && line.contains("check TMPDIR"), "{line}");
}

// ---- --pages and --out ---------------------------------------------------------------------------

/// Runs the demo on a file `name` that holds `pages`; returns its report and what `--out` kept.
fn run_on(name: &str, pages: &[Vec<u8>]) -> (Value, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, out) = (folder.path().join(name), folder.path().join("out"));
    fs::write(&file, pages.concat()).expect("a page file");
    let options = ["--json", "--seconds", "1", "--nodes", "2", "--pages"].map(OsString::from);
    let files = [file.clone().into(), "--out".into(), out.clone().into()];
    let report = json(Demo::start(options.into_iter().chain(files)).end());
    assert_sound(&report);
    assert_eq!(number(&report, "/pages"), pages.len() as u64);
    assert_eq!(fs::read(&file).expect("the source"), pages.concat(), "the source is only read");
    (report, out, folder)
}

/// Asserts that `out` is `before` but for the free space, each page with its LSN and a right
/// checksum.
fn assert_given_back(out: &Path, before: &[Vec<u8>], first_block: u32) {
    let after = read_pages(out, first_block);
    assert_eq!(after.len(), before.len());
    for ((block, after), before) in after.iter().zip(before) {
        if page::is_new(before) {
            assert_eq!(after, before, "block {block} is new");
            continue;
        }
        page::verify_checksum(after, *block).expect("a right checksum");
        assert_ne!(page::stored_checksum(after), 0);
        let free = page::free_space(before).expect("a sound page");
        // pd_lsn is the first 8 bytes, pd_checksum the next 2.
        assert_eq!(after[..8], before[..8], "the LSN of block {block}");
        assert_eq!(after[10..free.start], before[10..free.start], "block {block}");
        assert_eq!(after[free.end..], before[free.end..], "block {block}");
    }
}

fn sound_pages(first_block: u32, count: u32) -> Vec<Vec<u8>> {
    (first_block..first_block + count)
        .map(|block| sound_page(block, Lsn(0x1_0000_0000 + u64::from(block))))
        .collect()
}

#[test]
fn a_relation_of_any_number_of_pages_is_taken() {
    for count in [0u32, 1, 2, 3, 9] {
        let pages = sound_pages(0, count);
        let (report, out, _folder) = run_on("16384", &pages);
        assert_eq!(number(&report, "/accounts"), u64::from(count));
        // Money moves between two pages at least; one alone is audited.
        assert_eq!(number(&report, "/transfers") > 0, count >= 2, "{count} pages: {report}");
        assert_eq!(number(&report, "/audits") > 0, count >= 1, "{count} pages: {report}");
        assert_given_back(&out, &pages, 0);
    }
}

#[test]
fn pages_without_room_and_new_pages_are_only_read() {
    let full: Vec<_> = (0..20).map(|block| full_page(block, Lsn(77))).collect();
    for pages in [vec![vec![0; PAGE_BYTES]; 20], full] {
        let (report, out, _folder) = run_on("relation", &pages);
        for (field, some) in [("/accounts", false), ("/transfers", false), ("/reads", true)] {
            assert_eq!(number(&report, field) > 0, some, "{field} in {report}");
        }
        assert_eq!(fs::read(out).expect("the result"), pages.concat(), "not one byte changes");
    }
}

#[test]
fn pages_of_all_kinds_come_back_with_their_own_lsn() {
    let mut pages = sound_pages(0, 40);
    pages[7] = vec![0; PAGE_BYTES];
    for block in [3u32, 39] {
        pages[block as usize] = full_page(block, Lsn(u64::from(block) << 32));
    }
    let (report, out, _folder) = run_on("accounts.copy", &pages);
    assert!(number(&report, "/transfers") > 0);
    assert_eq!(number(&report, "/accounts"), 37);
    assert_given_back(&out, &pages, 0);
}

#[test]
fn block_numbers_of_a_later_segment_count_from_the_relations_start() {
    const FIRST: u32 = 131_072;
    let pages = sound_pages(FIRST, 12);
    let (report, out, folder) = run_on("relfile.1", &pages);
    assert!(number(&report, "/transfers") > 0);
    assert_given_back(&out, &pages, FIRST);
    // Under a name that says segment 0 the same checksums are wrong.
    let other = folder.path().join("relfile");
    fs::rename(folder.path().join("relfile.1"), &other).expect("renamed");
    let line = refused_pages(&other);
    assert!(line.contains("block 0 of") && line.contains("damaged"), "{line}");
}

/// What the demo says when it refuses to work on `file`.
fn refused_pages(file: &Path) -> String {
    let arguments = ["--seconds", "1", "--pages"].map(OsString::from);
    let out = file.with_extension("out");
    let files = [file.into(), "--out".into(), out.clone().into()];
    let line = Demo::start(arguments.into_iter().chain(files)).end().refused();
    assert!(!out.exists(), "no result is kept");
    line
}

#[test]
fn page_files_that_are_none_are_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let sound = sound_pages(0, 3).concat();
    let mut damaged = sound.clone();
    damaged[PAGE_BYTES + 4000] ^= 1;
    let mut header = sound.clone();
    header[2 * PAGE_BYTES + 14..2 * PAGE_BYTES + 16].copy_from_slice(&20_000u16.to_le_bytes());
    put_checksum(&mut header[2 * PAGE_BYTES..], 2);
    let mut half_new = sound.clone();
    half_new[..PAGE_BYTES].fill(0);
    half_new[5000] = 1;
    for (path, words) in [
        (write("cut", &sound[..PAGE_BYTES + 100]), &["8292 bytes", "multiple", "100 bytes"][..]),
        (write("damaged", &damaged), &["block 1 of", "damaged", "checksum", "undamaged copy"]),
        (write("header", &header), &["block 2 of", "damaged", "20000"]),
        (write("half-new", &half_new), &["block 0 of", "not all zero", "undamaged copy"]),
        (write("16384_vm", &sound), &["16384_vm", "_vm", "main file"]),
        (write("16384.99999999", &sound), &["segment 99999999"]),
        (folder.path().join("missing"), &["missing", "No such file", "check the path"]),
        (folder.path().to_owned(), &["no plain file"]),
    ] {
        let line = refused_pages(&path);
        for word in words {
            assert!(line.contains(word), "'{word}' in: {line}");
        }
    }
}

#[test]
fn an_out_that_cannot_be_written_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pages = folder.path().join("16384");
    fs::write(&pages, sound_pages(0, 2).concat()).expect("written");
    let same = folder.path().join("link");
    std::os::unix::fs::symlink(&pages, &same).expect("a link");
    for (out, word) in [
        (folder.path().join("none/out"), "No such file"),
        (folder.path().to_owned(), "directory"),
        (same, "same file as --pages"),
    ] {
        let arguments = ["--seconds".into(), "60".into(), "--pages".into(), pages.clone()];
        let line = Demo::start(arguments.into_iter().chain(["--out".into(), out])).end().refused();
        assert!(line.contains("--out") && line.contains(word), "'{word}' in: {line}");
    }
    assert_eq!(fs::read(&pages).expect("the source"), sound_pages(0, 2).concat());
}

// ---- runs that are tampered with -----------------------------------------------------------------

/// Asserts that `files` as they are now do not verify, for a reason that says `word`.
fn assert_not_verified(files: &Files, word: &str) {
    let Ended { status, stdout, stderr } = files.verify(3);
    assert_eq!(status.code(), Some(1), "{word}: {stdout}{stderr}");
    assert_eq!(stdout.lines().last(), Some("NOT VERIFIED"), "{stdout}{stderr}");
    assert!(stdout.contains(word), "'{word}' in: {stdout}");
}

#[test]
fn files_that_were_tampered_with_do_not_verify() {
    let mut files = Cluster::at_work(40).finish();
    files.verify(3).succeeded();
    let relation = files.prepared.path.clone();
    let good_pages = fs::read(&relation).expect("the relation");
    let good_log = fs::read(files.log(1)).expect("a log");
    let records = (good_log.len() - log::HEADER_BYTES) / log::RECORD_BYTES;
    assert!(records > 10, "{records}");
    let record = |number: usize| log::HEADER_BYTES + number * log::RECORD_BYTES;

    // The last account that anyone used, so that it has changed since it was opened.
    let blocks = files.prepared.manifest.groups.concat();
    let read = |block: u32| {
        let at = block as usize * PAGE_BYTES;
        account::read(&good_pages[at..at + PAGE_BYTES]).expect("an account")
    };
    let block = blocks.into_iter().rev().find(|block| read(*block).transfers > 0);
    let block = block.expect("an account that was used");
    let tampered_page = |tamper: &dyn Fn(&mut [u8])| {
        let mut bytes = good_pages.clone();
        let at = block as usize * PAGE_BYTES;
        tamper(&mut bytes[at..at + PAGE_BYTES]);
        fs::write(&relation, bytes).expect("tampered");
    };

    tampered_page(&|page| {
        let mut account = account::read(page).expect("an account");
        account.balance ^= 1;
        account::write(page, &account).expect("room");
        put_checksum(page, block);
    });
    assert_not_verified(&files, &format!("block {block} holds balance"));

    tampered_page(&|page| page[PAGE_BYTES - 1] ^= 1);
    assert_not_verified(&files, &format!("block {block} carries checksum"));

    tampered_page(&|page| {
        page[PAGE_BYTES - 1] ^= 1;
        put_checksum(page, block);
    });
    assert_not_verified(&files, &format!("block {block} was changed outside its account"));

    // What a write that was lost on its way to storage leaves: the page as it was prepared.
    let again = tempfile::tempdir().expect("a temporary folder");
    let prepared = relation::prepare_synthetic(again.path(), PageSize::K8, 40, 5);
    let stale = fs::read(prepared.expect("a relation").path).expect("the relation");
    tampered_page(&|page| {
        let at = block as usize * PAGE_BYTES;
        page.copy_from_slice(&stale[at..at + PAGE_BYTES]);
    });
    assert_not_verified(&files, &format!("block {block} is on storage in version 1, its last is"));
    fs::write(&relation, &good_pages).expect("restored");

    let tampered_log = |bytes: Vec<u8>| fs::write(files.log(1), bytes).expect("tampered");
    tampered_log([&good_log[..record(4)], &good_log[record(5)..]].concat());
    assert_not_verified(&files, "an update was lost");
    tampered_log([&good_log[..record(5)], &good_log[record(4)..]].concat());
    assert_not_verified(&files, "is logged twice");
    tampered_log(good_log[..record(records - 1)].to_vec());
    assert_not_verified(&files, "the logs hold");
    tampered_log(good_log[..good_log.len() - 7].to_vec());
    assert_not_verified(&files, "it was cut off");
    let mut flipped = good_log.clone();
    flipped[record(6) + 40] ^= 1;
    tampered_log(flipped);
    assert_not_verified(&files, "it is damaged");
    tampered_log(fs::read(files.log(2)).expect("a log"));
    assert_not_verified(&files, "instance 2 has two logs");
    fs::write(files.log(1), &good_log).expect("restored");

    files.transfers += 1;
    assert_not_verified(&files, "the instances reported");
    files.transfers -= 1;
    files.verify(3).succeeded();
}

#[test]
fn files_of_a_run_that_are_missing_are_named_by_the_verifier() {
    let files = Cluster::at_work(40).finish();
    fs::remove_file(files.log(2)).expect("removed");
    let line = files.verify(3).refused();
    assert!(line.contains("transfers-2.log") && line.contains("No such file"), "{line}");
    let Ended { status, stdout, .. } = files.verify(2);
    assert_eq!(status.code(), Some(1));
    assert_eq!(stdout.lines().last(), Some("NOT VERIFIED"), "{stdout}");
    fs::write(&files.prepared.path, "short").expect("cut off");
    let line = files.verify(2).refused();
    assert!(line.contains("block 0") && line.contains("lists 40 pages"), "{line}");
}

// ---- runs that something happens to --------------------------------------------------------------

/// Asserts that the demo ends with one line that says `words`, and that none of its processes is
/// left.
fn assert_ends_with(demo: Demo, processes: &[u32], words: &[&str]) {
    let line = demo.end().refused();
    for word in words {
        assert!(line.contains(word), "'{word}' in: {line}");
    }
    let left: Vec<_> = processes.iter().filter(|id| is_there(**id)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn an_instance_that_is_killed_ends_the_demo_in_one_line() {
    let demo = Demo::start(["--seconds", "600", "--json"]);
    let victim = demo.instance_at_work(1);
    let processes = children(demo.process.id());
    assert_eq!(processes.len(), 3);
    signal("KILL", victim);
    let words = ["instance 1 ended early (signal: 9", "'progress'", "it left no word"];
    assert_ends_with(demo, &processes, &words);
}

#[test]
fn an_instance_that_is_stopped_ends_the_demo_in_one_line() {
    let demo = Demo::start(["--seconds", "600", "--json"]);
    let victim = demo.instance_at_work(2);
    let processes = children(demo.process.id());
    signal("STOP", victim);
    let words = ["instance 2 did not tell 'progress' within", "paused host"];
    assert_ends_with(demo, &processes, &words);
}

#[test]
fn instances_do_not_outlive_a_demo_that_is_killed() {
    let mut demo = Demo::start(["--seconds", "600"]);
    demo.instance_at_work(0);
    let processes = children(demo.process.id());
    assert_eq!(processes.len(), 3);
    demo.process.kill();
    wait_for("the end of the instances", || !processes.iter().any(|id| is_there(*id)));
    // Nor do its files outlive the start of the next one.
    let entries = || fs::read_dir(demo.folder.path()).expect("the folder").count();
    assert_eq!(entries(), 1);
    let mut next = Process::command(["demo", "--seconds", "1", "--nodes", "2"]);
    Process::start(next.env("TMPDIR", demo.folder.path())).end().succeeded();
    assert_eq!(entries(), 0);
}

#[test]
fn a_limit_on_the_size_of_files_ends_the_demo_in_one_line_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // In blocks of 512 or 1024 bytes: less than the relation has.
    let script = "ulimit -f 1000 && exec \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_pagewire"), "demo"]);
    let ended = Process::start(command.env("TMPDIR", folder.path())).end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.refused().contains("File too large"));
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}

#[test]
fn a_disk_that_is_full_ends_the_demo_in_one_line() {
    let own_mounts = Command::new("unshare").args(["-rm", "true"]).output();
    if !own_mounts.is_ok_and(|output| output.status.success()) {
        say("skipped: no full disk without the right to mount one (unshare -rm)");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = "mount -t tmpfs -o size=6m full \"$TMPDIR\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "/bin/sh", "-c", script, "sh", env!("CARGO_BIN_EXE_pagewire")]);
    command.args(["demo", "--seconds", "600"]).env("TMPDIR", folder.path());
    let line = Process::start(&mut command).end().refused();
    for word in ["transfer log", "No space left on device", "free space"] {
        assert!(line.contains(word), "'{word}' in: {line}");
    }
}
