//! Storage that is another cluster's, or not the same on all instances: a start refuses the one, the
//! instances tell the other.

mod support;

use std::fs;
use support::{
    ledger::Config,
    process::{Process, wait_for},
};

#[test]
fn storage_of_another_cluster_or_with_other_pages_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    let first = Config { members: vec![0], ..Config::new(0, folder.path()) };
    let mut node = first.run(&path);
    node.line("that it listens", |line| line.contains("listens on"));
    node.kill();
    let refused = |config: Config| {
        fs::write(&path, config.text()).expect("a configuration");
        let arguments = ["node".as_ref(), "--config".as_ref(), path.as_os_str()];
        Process::pagewire(arguments).end().refused()
    };
    let line = refused(Config { cluster: 8, ..first.clone() });
    let is_of = format!("is of cluster {}", Config::CLUSTER);
    for words in [&is_of, "this instance of cluster 8", "`storage`", "remove that file"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
    let line = refused(Config { page_size: 4096, ..first.clone() });
    for words in ["has pages of 8192 bytes", "4096", "`page_size`"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
    // Its own cluster starts there again.
    first.run(&path).line("that it listens", |line| line.contains("listens on"));
}

#[test]
fn instances_with_storage_of_their_own_are_told_that_it_is_not_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = Config::three(folder.path());
    for (at, name) in ["shared", "other", "shared"].iter().enumerate() {
        configs[at].storage = folder.path().join(name);
        fs::create_dir_all(&configs[at].storage).expect("a folder");
    }
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = (0..3).map(|at| configs[at].run(&path(at))).collect();
    for (at, others) in [(0, &[1][..]), (1, &[0, 2]), (2, &[1])] {
        let mut lines = Vec::new();
        for _ in others {
            let line = nodes[at].complaint("word of it", |line| line.contains("not this storage"));
            lines.push(line);
        }
        for other in others {
            let words =
                format!("storage of instance {other} is not this storage: its mark is not in");
            assert!(lines.iter().any(|line| line.contains(&words)), "{words}: {lines:?}");
        }
    }
    let told = nodes[0].history();
    assert!(!told.contains("storage of instance 2"), "they have the same: {told}");
    let command = |name: &str, at: usize, more: &[&str]| {
        let file = path(at);
        let arguments = [name.as_ref(), "--config".as_ref(), file.as_os_str()].into_iter();
        Process::pagewire(arguments.chain(more.iter().map(AsRef::as_ref))).end()
    };
    wait_for("both of them in the status of the one that is alone", || {
        let told = command("status", 1, &["--json"]).succeeded().stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        let problem = told["storage_problem"].as_str().unwrap_or_default().to_owned();
        let peers = told["peers"].as_array().expect("peers");
        let words = ["of instance 0 is not", "of instance 2 is not", "stop all instances"];
        peers.iter().all(|peer| peer["storage_problem"].is_string())
            && words.iter().all(|words| problem.contains(words))
    });
    let told = command("status", 0, &[]).succeeded().stdout;
    for words in
        ["\n  storage of instance 1 is not this storage", "\n  its storage is not this one"]
    {
        assert_eq!(told.matches(words).count(), 1, "'{words}' in: {told}");
    }
    let told = command("doctor", 0, &[]);
    assert_eq!(told.status.code(), Some(1), "{}", told.stdout);
    let is_it = |line: &&str| line.starts_with("CHANGE  storage of this very instance");
    let line = told.stdout.lines().find(is_it).expect("a line about it");
    for words in ["of instance 1 is not", "its mark is not in", "expected", "stop all instances"] {
        assert!(line.contains(words), "'{words}' in: {line}");
    }
}

#[test]
fn storage_that_is_taken_away_under_an_instance_is_told_by_its_log_and_its_status_until_it_is_back()
{
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (shared, away) = (folder.path().join("shared"), folder.path().join("away"));
    fs::create_dir(&shared).expect("a folder");
    let path = folder.path().join("node.toml");
    let config = Config { members: vec![0], ..Config::new(0, &shared) };
    let mut node = config.run(&path);
    node.line("that it listens", |line| line.contains("listens on"));
    let status = || {
        let arguments =
            ["status".as_ref(), "--json".as_ref(), "--config".as_ref(), path.as_os_str()];
        let told = Process::pagewire(arguments).end().succeeded().stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        told["storage_problem"].clone()
    };
    assert!(status().is_null());
    fs::rename(&shared, &away).expect("moved");
    let told = node.complaint("word of it", |line| line.contains("is not there any more"));
    for words in [shared.to_str().expect("text"), "put it back", "what is mounted there"] {
        assert!(told.contains(words), "'{words}' in: {told}");
    }
    wait_for("the same in its status", || !status().is_null());
    let problem = status();
    assert!(problem.as_str().is_some_and(|problem| told.contains(problem)), "{problem}");
    // A folder that is only of the same name, as where something is not mounted any more.
    fs::create_dir(&shared).expect("a folder");
    node.complaint("word of it", |line| line.contains("another folder is in its place"));
    assert_eq!(fs::read_dir(&shared).expect("a folder").count(), 0, "nothing is left there");
    fs::remove_dir(&shared).expect("removed");
    fs::rename(&away, &shared).expect("moved");
    node.complaint("that it is over", |line| line.contains("is there again"));
    wait_for("nothing in its status", || status().is_null());
}
