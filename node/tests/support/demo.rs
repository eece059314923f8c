//! `pagewire demo` as a process, and the processes it starts.

use super::process::{Ended, Process, wait_for};
use std::{ffi::OsString, fs, process::Command};

/// A demo that runs, with a temporary folder of its own.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) process: Process,
    pub(crate) folder: tempfile::TempDir,
}

impl Demo {
    pub(crate) fn start<S: Into<OsString>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments = arguments.into_iter().map(Into::into);
        let arguments = [OsString::from("demo")].into_iter().chain(arguments);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Process::command(arguments);
        let process = Process::start(command.env("TMPDIR", folder.path()));
        Self { process, folder }
    }

    /// What it ended with; it leaves nothing behind.
    pub(crate) fn end(self) -> Ended {
        let ended = self.process.end();
        let left: Vec<_> = fs::read_dir(self.folder.path()).expect("the folder").collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        ended
    }

    /// The process of instance `instance`, once its workers work.
    pub(crate) fn instance_at_work(&self, instance: u16) -> u32 {
        let log = format!("transfers-{instance}.log");
        let is_written = |folder: fs::DirEntry| {
            fs::metadata(folder.path().join(&log)).is_ok_and(|about| about.len() > 0)
        };
        wait_for("a transfer log", || {
            let folders = fs::read_dir(self.folder.path()).expect("the folder");
            folders.flatten().any(is_written)
        });
        let config = format!("instance-{instance}.toml");
        let child = children(self.process.id()).into_iter().find(|id| {
            fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|c| c.contains(&config))
        });
        child.expect("an instance's process")
    }
}

/// Processes that `parent` started.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).expect("a running process");
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
    let ids: String = tasks.flatten().filter_map(of_task).collect();
    ids.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
}

pub(crate) fn is_there(id: u32) -> bool {
    // A process that its parent has not reaped yet is over, too.
    let stat = fs::read_to_string(format!("/proc/{id}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn signal(name: &str, id: u32) {
    let sent = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {id}")]).status();
    assert!(sent.expect("a shell").success());
}
