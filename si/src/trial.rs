//! What a writer would meet at a path, found out without becoming one: for tools that judge a
//! configuration before an instance runs with it.
//!
//! Invariants: nothing that is there is changed, no lock is taken, and what is made to see whether it can
//! be goes again.

use crate::{
    RingConfig, RingError, RingFault,
    layout::{RING_MODE, check_entries, ring_bytes},
    lock,
    memory::{self, Access},
    place::{self, Beside},
};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// What a writer would do at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// Make a ring: there is none.
    Make,
    /// Go on with the ring that is there, which was this instance's.
    TakeOver,
    /// Make another one in the place of this instance's: it is damaged, or of another size or version.
    Replace,
}

/// What [`crate::RingWriter::open`] would do at `path`.
///
/// # Errors
/// As [`crate::RingWriter::open`]: [`RingError::InUse`] when a writer has it.
pub fn try_out(path: &Path, config: &RingConfig) -> Result<Trial, RingError> {
    check_entries(config.entries).map_err(RingError::fault(path))?;
    let trial = match place::open(path, Access::Write)? {
        None => Trial::Make,
        Some(file) => {
            place::check_kind(path, &file)?;
            place::check_owner(path, &file)?;
            if lock::is_locked(&file).map_err(RingError::io(path, "ask for its writer"))? {
                return Err(RingError::InUse { path: path.to_owned(), pid: place::pid_in(&file) });
            }
            match place::judge(path, &file, config)? {
                Some(_) => return Ok(Trial::TakeOver),
                None => Trial::Replace,
            }
        }
    };
    make_and_remove(path, config)?;
    Ok(trial)
}

/// Memory for the ring is asked for, too: where it is short, in a container's `/dev/shm` say, a start
/// would be refused it.
fn make_and_remove(path: &Path, config: &RingConfig) -> Result<(), RingError> {
    if path.file_name().is_none() {
        return Err(RingError::fault(path)(RingFault::NotAFile { found: "no file's name" }));
    }
    let beside = Beside::of(path);
    // What a killed writer of the same process id has left, as `place::make` does.
    let _ = fs::remove_file(beside.path());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(RING_MODE);
    let file = options.open(beside.path()).map_err(RingError::io(path, "make it"))?;
    let allocated = memory::allocate(&file, ring_bytes(config.entries));
    allocated.map_err(RingError::io(path, "get memory for it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RingWriter;
    use pagewire_protocol::{ClusterId, Incarnation, InstanceId};

    #[test]
    fn what_a_start_would_do_is_found_out_and_nothing_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        let (cluster, instance) = (ClusterId(42), InstanceId(3));
        let config = RingConfig { cluster, instance, incarnation: Incarnation(7), entries: 16 };
        let larger = RingConfig { entries: 32, ..config.clone() };
        let left = || fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(try_out(&path, &config).unwrap(), Trial::Make);
        assert_eq!(left(), 0);
        let writer = RingWriter::open(&path, &config).unwrap();
        let used = try_out(&path, &config).unwrap_err();
        assert!(
            matches!(used, RingError::InUse { pid, .. } if pid == std::process::id()),
            "{used}"
        );
        drop(writer);
        let before = fs::read(&path).unwrap();
        assert_eq!(try_out(&path, &config).unwrap(), Trial::TakeOver);
        assert_eq!(try_out(&path, &larger).unwrap(), Trial::Replace);
        let other = RingConfig { instance: InstanceId(4), ..config.clone() };
        let refused = try_out(&path, &other).unwrap_err();
        assert!(matches!(refused.ring_fault(), Some(RingFault::Instance { .. })), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, &before[..100]).unwrap();
        assert_eq!(try_out(&path, &config).unwrap(), Trial::Replace);
        fs::write(&path, "no ring, and longer than the fixed part of a header is").unwrap();
        let refused = try_out(&path, &config).unwrap_err();
        assert!(matches!(refused.ring_fault(), Some(RingFault::Magic { .. })), "{refused}");
        assert_eq!(left(), 1);
        let refused = try_out(&folder.path().join("none/ring"), &config).unwrap_err();
        assert!(refused.to_string().contains("let this user make it"), "{refused}");
    }
}
