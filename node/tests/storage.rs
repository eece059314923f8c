//! Storage that is another cluster's, not the same on all instances, or gone: a start refuses the first, the
//! instances each other for the second, and tell the third.

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
fn an_instance_with_storage_of_its_own_is_refused_before_a_page_is_shipped() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = Config::three(folder.path());
    for config in &mut configs {
        config.storage = folder.path().join("shared");
    }
    let other = folder.path().join("other");
    let mut wrong = Config { storage: other.clone(), ..configs[1].clone() };
    // Numbers that do not fold alike, which two that are drawn do once in a while.
    for (path, storage) in [(&configs[0].storage, 7), (&other, 8)] {
        fs::create_dir_all(path.join("pagewire")).expect("a folder");
        let mark =
            format!(r#"{{"cluster":{},"page_size":8192,"storage":{storage}}}"#, Config::CLUSTER);
        fs::write(path.join("pagewire/cluster"), mark).expect("a mark");
    }
    let path = |at: usize| folder.path().join(format!("{at}.toml"));
    let mut nodes: Vec<_> = [0, 2].iter().map(|&at| configs[at].run(&path(at))).collect();
    let ended = wrong.run(&path(1)).end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in ["has another storage (its number ", "the same storage", "mounted"] {
        assert!(ended.stderr.contains(words), "'{words}' in: {}", ended.stderr);
    }
    for node in &mut nodes {
        node.complaint("word of it", |line| line.contains("instance 1 has another storage"));
        assert!(node.is_running(), "{}", node.history());
    }
    // The right one is welcome.
    wrong.storage.clone_from(&configs[1].storage);
    nodes.push(wrong.run(&path(1)));
    for node in &mut nodes {
        node.line("word that all are up", |line| line == "all 2 peers are up");
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
