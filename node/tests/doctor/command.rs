//! The links of a configuration, and the command itself.

use crate::{
    configuration::config,
    host::*,
    support::process::{Ended, Process},
};
use pagewire_node::doctor::{Level, diagnose};
use serde_json::Value;

#[test]
fn what_the_links_would_be_on_is_told_with_the_reason() {
    let found = |host: &Host, more: &str| {
        let (_folder, path, _) = config(more);
        one(&diagnose(host.path(), Some(&path)), "transport = ")
    };
    let device = Host::with_device();
    let named = "rdma_device = \"mlx5_0\"\nrdma_gid_index = 1\n";
    let words = ["\"auto\": verbs on mlx5_0/1, GID 1: 10.0.0.1 RoCE v2 on eth0, active MTU 4096"];
    assert_tells(&found(&device, named), Level::Ok, &words);
    let loopback = ["TCP: no-port", "mlx5_0/1 1: 10.0.0.1", "to change: listen on an address"];
    assert_tells(&found(&device, ""), Level::Note, &loopback);
    let demanded = "transport = \"verbs\"\n";
    assert_tells(&found(&device, demanded), Level::Change, &loopback);
    assert_tells(&found(&device, "transport = \"tcp\"\n"), Level::Ok, &["TCP: configured"]);
    let wrong = "rdma_gid_index = 7\n";
    assert_tells(&found(&device, wrong), Level::Note, &["no GID with index 7", "rdma_gid_index"]);
    // Nobody who has no device needs to be told what to change, unless verbs is demanded.
    assert_tells(&found(&Host::good(), ""), Level::Ok, &["TCP: no-device"]);
    assert_tells(&found(&Host::good(), demanded), Level::Change, &["TCP: no-device"]);
    let bare = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    assert_tells(&found(&bare, named), Level::Note, &["TCP: no-library"]);
    let low = LIMITS.replace(
        "Max locked memory         unlimited            unlimited ",
        "Max locked memory         1048576              1048576   ",
    );
    let low = Host::with_device().with("proc/self/limits", &low);
    assert_tells(&found(&low, named), Level::Note, &["TCP: not-registered", "see locked memory"]);
    let (_folder, path, _) = config("transport = \"tcp\"\n");
    let locked = one(&diagnose(low.path(), Some(&path)), "locked memory");
    assert_eq!(locked.level, Level::Note, "TCP pins nothing: {locked}");
}

fn doctor(host: &Host, more: &[&str]) -> Ended {
    let root = host.path().to_str().expect("text");
    Process::pagewire(["doctor", "--root", root].iter().chain(more)).end()
}

#[test]
fn the_exit_status_is_1_only_when_something_is_to_be_changed() {
    let Ended { status, stdout, stderr } = doctor(&Host::good(), &[]);
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.ends_with("\nThis host runs Pagewire; 1 note.\n"), "{stdout}");
    let host = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    let Ended { status, stdout, .. } = doctor(&host, &[]);
    assert_eq!(status.code(), Some(1));
    assert!(stdout.lines().any(|line| line.starts_with("CHANGE  libibverbs: ")), "{stdout}");
    assert!(stdout.ends_with("\n1 thing is to be changed; 0 notes.\n"), "{stdout}");
    let levels = ["OK ", "note ", "CHANGE "];
    for line in stdout.lines().take_while(|line| !line.is_empty()) {
        assert!(levels.iter().any(|level| line.starts_with(level)), "{line}");
    }
}

#[test]
fn the_json_has_the_documented_shape() {
    let host = Host::with_device().without("usr/lib/some-arch/libibverbs.so.1");
    let Ended { status, stdout, .. } = doctor(&host, &["--json"]);
    assert_eq!((status.code(), stdout.lines().count()), (Some(1), 1));
    let json: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!(
        (&json["ok"], &json["changes"], &json["notes"]),
        (&false.into(), &1.into(), &0.into())
    );
    let findings = json["findings"].as_array().expect("a list");
    let areas = ["memory", "cpu", "limits", "network", "rdma", "configuration"];
    for finding in findings {
        let text = |field: &str| finding[field].as_str().unwrap_or_else(|| panic!("{finding}"));
        assert!(areas.contains(&text("area")), "{finding}");
        assert!(!text("subject").is_empty() && !text("found").is_empty(), "{finding}");
        let is_ok = text("level") == "ok";
        assert!(is_ok || ["note", "change"].contains(&text("level")), "{finding}");
        assert_eq!(finding["change"].is_null(), is_ok, "{finding}");
    }
}

#[test]
fn this_very_host_is_told_without_a_complaint() {
    let Ended { status, stdout, stderr } = Process::pagewire(["doctor", "--json"]).end();
    assert_eq!(stderr, "");
    let json: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!(json["ok"] == true, status.code() == Some(0), "{status}: {stdout}");
}
