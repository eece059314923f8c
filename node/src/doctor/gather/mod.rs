//! Reads the facts from `/proc`, `/sys`, `/lib` and `/etc` below a root folder: `/`, or a made-up
//! tree in tests.
//!
//! Invariants: nothing is written or executed; nothing is opened for writing but the RDMA devices of
//! this host, which libibverbs is asked for; any content is survived; what is
//! read of one file or folder is bounded.

mod cpu;
mod memory;
mod network;
mod process;
mod rdma;
mod verbs;

use super::facts::HostFacts;
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Most that is read of one file, in bytes: `modules.dep` is the largest.
const FILE_MAX_BYTES: u64 = 16 << 20;
/// Most entries of one folder.
const ENTRIES_MAX: usize = 4096;
/// Greatest number of a core that is believed.
const CORE_MAX: u32 = 65_535;

/// Gathers everything below `root`.
#[must_use]
pub fn gather(root: &Path) -> HostFacts {
    let root = Root(root.to_owned());
    HostFacts {
        memory: memory::gather(&root),
        cpu: cpu::gather(&root),
        process: process::gather(&root),
        network: network::gather(&root),
        rdma: rdma::gather(&root),
    }
}

/// The folder that stands for `/`.
#[derive(Debug)]
struct Root(PathBuf);

impl Root {
    fn is_this_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// The text of a file; bytes that are none are replaced.
    fn text(&self, path: &str) -> Option<String> {
        let path = self.path(path);
        // A FIFO would hold the reader up.
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(FILE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of a file of one line, if there is any.
    fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.line(path)?.parse().ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a folder, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<_> = entries.flatten().filter_map(name).take(ENTRIES_MAX).collect();
        names.sort();
        names
    }

    /// Folders named `prefix` and a number, by number.
    fn numbered(&self, path: &str, prefix: &str) -> Vec<(u32, String)> {
        let number = |name: String| Some((name.strip_prefix(prefix)?.parse().ok()?, name));
        let mut all: Vec<_> = self.names(path).into_iter().filter_map(number).collect();
        all.sort();
        all
    }

    /// Values of `file` in the control groups of this process (version 2), from its own to the root's.
    fn cgroup_values(&self, file: &str) -> Vec<String> {
        let groups = self.text("proc/self/cgroup").unwrap_or_default();
        let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let is_plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
        let parts: Vec<_> = own.split('/').filter(is_plain).collect();
        let value = |depth: usize| {
            let group: String = parts[..depth].iter().map(|part| format!("{part}/")).collect();
            self.line(&format!("sys/fs/cgroup/{group}{file}"))
        };
        (0..=parts.len()).rev().filter_map(value).collect()
    }
}

/// The number behind `key` in lines like `MemFree:  123 kB`, in KiB there.
fn value_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Cores of a list such as `0-3,8`; what is no number is left out.
fn core_list(text: &str) -> impl Iterator<Item = u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<u32>().ok()?);
        Some(first..=last.min(CORE_MAX))
    };
    let ranges: Vec<_> = text.split(',').filter_map(range).collect();
    ranges.into_iter().flatten()
}
