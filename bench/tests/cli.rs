//! The binary as a user runs it: the shape of its JSON, its table, and its errors.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pagewire-bench")).args(args).output().expect("it starts")
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
        "ours",
        "plain",
        "ratio_p50",
        "ratio_plain_p50",
        "reply",
        "request",
        "rounds",
    ];
    assert_eq!(keys(&json), expected);
    assert_eq!(json["request"].to_string(), request);
    assert_eq!(json["reply"].to_string(), reply);
    assert_eq!(json["rounds"], 2);
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
