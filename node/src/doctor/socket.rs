//! The place of the socket for `pagewire status`, looked at as a start would find it.
//!
//! Invariants: no socket is made and none removed; a node that runs is not disturbed.

use crate::status::{InTheWay, in_the_way};
use std::path::{Path, PathBuf};

/// Where the socket for `pagewire status` is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlace {
    /// The path.
    pub path: PathBuf,
    /// What a start would find there.
    pub problem: Option<SocketProblem>,
}

/// Why a socket cannot be made at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketProblem {
    /// Its folder is not there or cannot be written to, and why.
    Folder(String),
    /// A process listens there.
    Listener,
    /// Something else is there; what it is, and what to do.
    InTheWay(String, &'static str),
}

impl SocketPlace {
    /// Makes no socket: `pagewire status` may be asking there.
    pub(super) fn try_out(path: &Path) -> Self {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let problem = match (tempfile::tempfile_in(folder), in_the_way(path)) {
            (Err(error), _) => Some(SocketProblem::Folder(error.to_string())),
            (Ok(_), None) => None,
            (Ok(_), Some(InTheWay::Listener)) => Some(SocketProblem::Listener),
            (Ok(_), Some(other)) => Some(SocketProblem::InTheWay(other.found(), other.change())),
        };
        Self { path: path.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::net::UnixListener};

    #[test]
    fn a_place_is_free_also_where_a_dead_nodes_socket_is_and_nothing_is_left_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("node.sock");
        let problem = || SocketPlace::try_out(&path).problem;
        assert_eq!(problem(), None);
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
        let listener = UnixListener::bind(&path).expect("a socket");
        assert_eq!(problem(), Some(SocketProblem::Listener));
        drop(listener);
        assert_eq!(problem(), None, "nobody listens any more");
        assert!(path.exists(), "it is the node's to replace");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "mine").expect("written");
        let Some(SocketProblem::InTheWay(found, change)) = problem() else { panic!() };
        assert!(found == "a regular file" && change.contains("move that away"), "{found} {change}");
        for folder in [folder.path().join("missing"), "/proc".into()] {
            let place = SocketPlace::try_out(&folder.join("node.sock"));
            assert!(matches!(place.problem, Some(SocketProblem::Folder(_))), "{place:?}");
        }
    }
}
