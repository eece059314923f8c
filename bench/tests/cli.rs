//! The binary as a user runs it: the shape of its JSON, its table, and its errors.

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

const BENCH: &str = env!("CARGO_BIN_EXE_pagewire-bench");

fn bench(args: &[&str]) -> Output {
    run(Command::new(BENCH).args(args))
}

/// Ends that spin share cores: one benchmark at a time.
fn run(command: &mut Command) -> Output {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    command.output().expect("it starts")
}

fn latency(request: &str, reply: &str, more: &[&str]) -> Output {
    let few = ["--rounds", "2", "--samples-per-round", "50", "--frames", "3"];
    bench(&[&["latency", "--request", request, "--reply", reply], &few[..], more].concat())
}

/// Two ends that spin need two cores; where there is one the benchmark must say so.
fn one_core_only(output: &Output) -> bool {
    let one = std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2);
    if one {
        assert!(String::from_utf8_lossy(&output.stderr).contains("expected 2"), "{output:?}");
        eprintln!("skipped: one core");
    }
    one
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn check_json(request: &str, reply: &str, more: &[&str]) {
    let output = latency(request, reply, &[&["--json"], more].concat());
    if one_core_only(&output) {
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let expected = [
        "bare",
        "control",
        "inconclusive",
        "ours",
        "plain",
        "ratio_p50",
        "ratio_plain_p50",
        "reply",
        "request",
        "rounds",
        "sleep",
        "warnings",
    ];
    assert_eq!(keys(&json), expected);
    assert_eq!(json["request"].to_string(), request);
    assert_eq!(json["reply"].to_string(), reply);
    assert_eq!(json["rounds"], 2);
    assert_eq!(json["inconclusive"], true, "of 2 rounds");
    assert!(
        json["warnings"][0].as_str().is_some_and(|why| why.contains("only 2 rounds")),
        "{json}"
    );
    assert_eq!(json["sleep"], more.contains(&"--sleep"));
    for leg in ["ours", "bare", "plain"] {
        let leg = &json[leg];
        assert_eq!(keys(leg), ["max_us", "p50_us", "p999_us", "p99_us", "samples"]);
        assert_eq!(leg["samples"], 100);
        let figures = ["p50_us", "p99_us", "p999_us", "max_us"].map(|k| leg[k].as_f64().unwrap());
        assert!(figures[0] > 0.0 && figures.is_sorted(), "{leg}");
    }
    for ratio in ["ratio_p50", "ratio_plain_p50", "control"] {
        assert!(json[ratio].as_f64().unwrap() > 0.0, "{json}");
    }
}

#[test]
fn small_round_trips_are_reported_as_one_object() {
    check_json("64", "64", &[]);
}

#[test]
fn page_fetches_are_reported_as_one_object() {
    check_json("64", "8192", &[]);
}

#[test]
fn pages_both_ways_are_reported_as_one_object() {
    check_json("8192", "8192", &["--no-page-crc"]);
}

#[test]
fn a_page_against_a_small_reply_is_reported_as_one_object() {
    check_json("8192", "8", &[]);
}

#[test]
fn ends_that_sleep_are_woken_by_small_messages_and_by_pages() {
    check_json("64", "64", &["--sleep"]);
    check_json("64", "8192", &["--sleep"]);
    check_json("8192", "8192", &["--sleep", "--keep", "5"]);
}

fn rate(size: &str, more: &[&str]) -> Output {
    let few = ["--rounds", "2", "--messages-per-round", "2000", "--frames", "3"];
    bench(&[&["rate", "--size", size], &few[..], more].concat())
}

#[test]
fn messages_one_way_are_reported_as_one_object() {
    let wide = ["--credits", "300", "--batch", "7", "--keep", "3", "--json"];
    for (size, more) in [("64", &["--json"][..]), ("8192", &["--json"]), ("8", &wide)] {
        check_rate(size, more);
    }
    check_rate("8192", &[&wide[..], &["--no-page-crc"]].concat());
}

fn check_rate(size: &str, more: &[&str]) {
    let output = rate(size, more);
    if one_core_only(&output) {
        return;
    }
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let expected = [
        "bare",
        "bare_batched",
        "control",
        "inconclusive",
        "ours",
        "ratio",
        "ratio_batched",
        "rounds",
        "size",
        "warnings",
    ];
    assert_eq!(keys(&json), expected);
    assert_eq!(json["size"].to_string(), size);
    assert_eq!(json["rounds"], 2);
    for leg in ["ours", "bare", "bare_batched"] {
        assert_eq!(keys(&json[leg]), ["bytes_per_s", "messages_per_s"]);
        let figure = |key: &str| json[leg][key].as_f64().unwrap();
        let bytes = figure("bytes_per_s") / figure("messages_per_s");
        // Both are rounded, which is much of a rate on a host that has little time for it.
        assert!((bytes / size.parse::<f64>().unwrap() - 1.0).abs() < 1e-2, "{json}");
    }
    for ratio in ["ratio", "ratio_batched", "control"] {
        assert!(json[ratio].as_f64().unwrap() > 0.0, "{json}");
    }
}

#[test]
fn the_table_of_rates_names_every_leg() {
    let output = rate("64", &[]);
    if one_core_only(&output) {
        return;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["messages/s", "MB/s", "ours", "bare batched", "only 2 rounds"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[test]
fn a_rate_beyond_its_bounds_is_refused_with_what_was_expected() {
    for (args, expected) in [
        (["--size", "81"], "8 to 80"),
        (["--credits", "0"], "1..=4096"),
        (["--batch", "513"], "1..=512"),
        (["--messages-per-round", "0"], "1..="),
        (["--frames", "0"], "1..=65536"),
    ] {
        let output = bench(&[&["rate"], &args[..]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn an_address_that_is_none_is_refused_with_what_one_looks_like() {
    for wrong in ["localhost:7410", "127.0.0.1", "127.0.0.1:99999"] {
        let output = bench(&["serve", "--listen", wrong]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text}");
        for words in [wrong, "IP:PORT", "10.0.0.1:7410", "names are not looked up"] {
            assert!(text.contains(words), "'{words}' in: {text}");
        }
    }
}

/// Runs `ucx` where `ucx_perftest` is the shell script `script`, or nothing at all.
fn ucx_with(script: Option<&str>, folder: &Path, args: &[&str]) -> Output {
    let few = ["--rounds", "2", "--samples-per-round", "200", "--json"];
    if let Some(script) = script {
        let path = folder.join("ucx_perftest");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    run(Command::new(BENCH).arg("ucx").args(args).args(few).env("PATH", folder))
}

/// The server has no test; it is told from the client by that.
const PLAYS_UCX: &str = r#"case "$*" in *-t*) ;; *) exit 0 ;; esac
echo 'iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr'
echo '200,4.000,5.0,5.0,1.26,1.05,20654,1000'"#;

#[test]
fn figures_of_ucx_stand_beside_ours() {
    for (test, key, figure) in [
        ("tag_lat", "half_round_trip_p50_us", 4.0),
        ("am_lat", "half_round_trip_p50_us", 4.0),
        ("tag_bw", "messages_per_s", 1000.0),
        ("am_bw", "messages_per_s", 1000.0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let args = ["--test", test, "--size", "8192"];
        let output = ucx_with(Some(PLAYS_UCX), folder.path(), &args);
        if one_core_only(&output) {
            return;
        }
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let expected = [
            "control",
            "inconclusive",
            "ours",
            "ratio",
            "rounds",
            "samples_per_round",
            "size",
            "test",
            "ucx",
            "warnings",
        ];
        assert_eq!(keys(&json), expected);
        assert_eq!((&json["test"], &json["size"]), (&test.into(), &8192.into()));
        assert_eq!(json["ucx"][key], figure);
        assert_eq!(json["control"], 1.0);
        let ours = json["ours"][key].as_f64().unwrap();
        let ratio = json["ratio"].as_f64().unwrap();
        // Two rounds: the median lies between the two on both sides.
        assert!(ours > 0.0 && (ratio / (ours / figure) - 1.0).abs() < 1e-2, "{json}");
    }
}

#[test]
fn without_ucx_one_line_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let output = ucx_with(None, folder.path(), &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.lines().count() == 1, "{text}");
    assert!(text.contains("install") && text.contains("ucx-utils"), "{text}");
}

#[test]
fn a_client_of_ucx_that_fails_is_quoted_and_its_server_does_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids");
    let script = format!(
        "case \"$*\" in *-t*) echo boom >&2; exit 3 ;; esac\necho $$ >> {}\nexec /bin/sleep 600",
        ids.display()
    );
    let output = ucx_with(Some(&script), folder.path(), &[]);
    if one_core_only(&output) {
        return;
    }
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("boom"), "{text}");
    // It may have been killed before it wrote its id.
    for id in fs::read_to_string(ids).unwrap_or_default().lines() {
        assert!(!Path::new("/proc").join(id).exists(), "server {id} is still there");
    }
}

#[test]
fn output_of_ucx_without_a_figure_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let output = ucx_with(Some("echo nothing to see"), folder.path(), &["--test", "tag_bw"]);
    if one_core_only(&output) {
        return;
    }
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("nothing to see"), "{text}");
    assert!(text.contains("overall message rate"), "{text}");
}

#[test]
fn a_test_that_we_have_not_is_refused_with_those_that_there_are() {
    let output = bench(&["ucx", "--test", "put_lat"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("tag_lat, am_lat, tag_bw, am_bw"), "{text}");
}

#[test]
fn no_subcommand_prints_all_of_them() {
    let output = bench(&[]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    for name in ["latency", "rate", "serve", "connect", "ucx", "grant", "hit"] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
}

#[test]
fn the_table_says_when_there_were_too_few_rounds() {
    let output = latency("64", "64", &[]);
    if one_core_only(&output) {
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["ours", "bare", "plain", "p99.9 us", "only 2 rounds"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[test]
fn a_size_without_a_message_is_refused_with_what_was_expected() {
    let output = latency("64", "4096", &[]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("4096") && text.contains("8 to 80") && text.contains("8192"), "{text}");
}

#[test]
fn a_grant_prints_both_references_and_its_ratio() {
    for hops in ["2", "3"] {
        for mode in ["s", "x"] {
            let few = ["--rounds", "2", "--samples-per-round", "40", "--pages", "16", "--json"];
            let output = bench(&[&["grant", "--hops", hops, "--mode", mode], &few[..]].concat());
            if one_core_only(&output) {
                return;
            }
            assert!(output.status.success(), "{output:?}");
            let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
            assert_eq!(json["hops"].to_string(), hops);
            for leg in ["grant", "page_fetch", "bare_chain"] {
                let keys = keys(&json[leg]);
                assert_eq!(keys, ["max_us", "p50_us", "p999_us", "p99_us", "samples"]);
                assert!(json[leg]["p50_us"].as_f64().unwrap() > 0.0);
            }
            assert_eq!(json["grant"]["samples"], 80);
            for ratio in ["ratio_p50", "ratio_page_fetch_p50", "ratio_bare_chain_p50", "control"] {
                assert!(json[ratio].as_f64().unwrap() > 0.0, "{ratio}");
            }
        }
    }
}

#[test]
fn a_hit_allocates_nothing() {
    let few = ["--rounds", "2", "--samples-per-round", "6400", "--json"];
    let output = bench(&[&["hit"], &few[..]].concat());
    if one_core_only(&output) {
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    for figure in ["mean_ns", "p50_ns", "p99_ns"] {
        assert!(json[figure].as_f64().unwrap() > 0.0, "{figure}");
    }
    assert_eq!(json["allocations"], 0);
    assert_eq!(json["write"]["allocations"], 0);
}

#[test]
fn figures_and_lines_that_cannot_be_printed_are_an_error() {
    let few = ["--rounds", "1", "--samples-per-round", "50", "--frames", "3"];
    let cases = [[&["latency"], &few[..]].concat(), vec!["serve", "--listen", "127.0.0.1:0"]];
    for args in cases {
        let script = "exec \"$@\" >/dev/full";
        let output = run(Command::new("/bin/sh").args(["-c", script, "sh", BENCH]).args(&args));
        if one_core_only(&output) {
            return;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        let told = "pagewire-bench: cannot write to standard output: No space left on device";
        assert!(text.starts_with(told) && text.contains("; check where it goes"), "{text}");
    }
}

#[test]
fn the_ring_prints_its_figures_for_both_sizes_also_where_a_batch_is_larger_than_the_ring() {
    let few = ["--rounds", "1", "--messages", "5000", "--looks", "100", "--load-messages", "6400"];
    let output = bench(&[&["ring", "--json", "--entries", "64"], &few[..]].concat());
    if one_core_only(&output) {
        return;
    }
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    for key in ["has_new_ns", "read_per_s", "written_per_s", "streamed_per_s"] {
        assert!(json[key].as_f64() > Some(0.0), "{key} in {json}");
    }
    assert_eq!((&json["allocations"], &json["entries"]), (&0.into(), &64.into()));
    let rings = json["load"]["rings"].as_array().expect("a list");
    let sizes: Vec<_> = rings.iter().map(|ring| &ring["entries"]).collect();
    assert_eq!(sizes, [4096, 64]);
    let output = bench(&["ring", "--entries", "65535"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("65535 entries, expected a power of two"), "{told}");
}

#[test]
fn broadcasts_are_reported_as_one_object() {
    for (nodes, readers) in [("2", "1"), ("3", "0")] {
        let few = ["--rounds", "2", "--samples-per-round", "50", "--messages-per-round", "8192"];
        let args = ["broadcast", "--json", "--nodes", nodes, "--readers", readers];
        let output = bench(&[&args[..], &few].concat());
        if one_core_only(&output) {
            return;
        }
        assert!(output.status.success(), "{output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let expected = [
            "control",
            "inconclusive",
            "messages_per_s",
            "nodes",
            "ping_pong_p50_us",
            "publish_to_ticket",
            "publish_to_visible",
            "ratio_p50",
            "readers",
            "rounds",
            "warnings",
        ];
        assert_eq!(keys(&json), expected);
        assert_eq!(keys(&json["messages_per_s"]), ["1", "4096", "64"]);
        assert_eq!(
            (json["nodes"].to_string(), json["readers"].to_string()),
            (nodes.into(), readers.into())
        );
        assert_eq!(json["publish_to_ticket"]["samples"], 100);
        let seen = if readers == "0" { 0 } else { 2 * 2 * 200 };
        assert_eq!(json["publish_to_visible"]["samples"], seen);
    }
}
