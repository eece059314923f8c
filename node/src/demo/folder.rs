//! The demo's temporary folder, and those of demos that were killed.
//!
//! Whoever ends by SIGKILL cannot remove anything, so the next demo does. Each folder holds a file
//! that is locked (flock) for as long as its demo lives: the system gives the lock back with the
//! process, however that ends.
//!
//! Invariants: the file has its name only while it is locked by its owner, or when that is gone; so
//! a folder without it, or whose file is locked, is nobody else's to remove. Only folders of this
//! very user are looked at, and links are not followed.

use super::cleanup::{Cleanup, Entered};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// What the folders' names begin with.
const PREFIX: &str = "pagewire-demo-";
/// The file in there that is locked.
const LOCK: &str = "lock";
/// Its name until it is.
const UNLOCKED: &str = "unlocked";

/// A folder that goes with the value.
#[derive(Debug)]
pub(super) struct Folder {
    entered: Entered,
    /// Held until the folder is gone.
    _lock: File,
}

impl Folder {
    /// Makes one among the system's temporary files.
    pub(super) fn make(cleanup: &Cleanup) -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir(), cleanup)
    }

    fn make_in(parent: &Path, cleanup: &Cleanup) -> io::Result<Self> {
        let make = || {
            let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
            made.map(tempfile::TempDir::keep)
        };
        let entered = cleanup.enter(make)?;
        let [unlocked, locked] = [UNLOCKED, LOCK].map(|name| entered.path().join(name));
        let lock = OpenOptions::new().write(true).create_new(true).open(&unlocked)?;
        lock.lock()?;
        fs::rename(unlocked, locked)?;
        Ok(Self { entered, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.entered.path()
    }

    /// It is not removed, now or by another demo; where it is.
    ///
    /// # Errors
    /// When its lock cannot be taken out. It is not kept then.
    pub(super) fn keep(self) -> io::Result<PathBuf> {
        let path = self.path().to_owned();
        fs::remove_file(path.join(LOCK))?;
        self.entered.keep();
        Ok(path)
    }

    /// Removes the folders beside this one whose demos are gone. What cannot be removed stays: the
    /// demo that starts does not depend on it.
    pub(super) fn remove_orphans(&self) {
        let Some(parent) = self.path().parent() else { return };
        let Ok(own) = fs::symlink_metadata(self.path()) else { return };
        let is_meant = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            let about = fs::symlink_metadata(path);
            name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
                && about.is_ok_and(|about| about.is_dir() && about.uid() == own.uid())
        };
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        for orphan in entries.map(|entry| entry.path()).filter(is_meant) {
            match remove_orphan(&orphan) {
                Ok(true) => tracing::info!("removed {}: its demo is gone", orphan.display()),
                Ok(false) => {}
                Err(error) => tracing::info!("{} stays: {error}", orphan.display()),
            }
        }
    }
}

/// Removes `folder` if its demo is gone; true when it did.
fn remove_orphan(folder: &Path) -> io::Result<bool> {
    let path = folder.join(LOCK);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().write(true).custom_flags(flags).open(&path);
    let Ok(lock) = opened else { return Ok(false) };
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    // Another demo may have removed the folder between the two.
    let is_same = |about: fs::Metadata| -> io::Result<bool> {
        let locked = lock.metadata()?;
        Ok(about.is_file() && (about.dev(), about.ino()) == (locked.dev(), locked.ino()))
    };
    if !fs::symlink_metadata(&path).and_then(is_same).unwrap_or(false) {
        return Ok(false);
    }
    // The lock's file goes last: should this process be killed meanwhile, the next one can go on.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir_all(folder)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_folder_whose_demo_is_gone_is_removed() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| parent.path().join(name);
        let with = |name: &str, files: &[&str]| {
            fs::create_dir_all(path(name).join("storage")).expect("made");
            files.iter().for_each(|file| fs::write(path(name).join(file), "1").expect("written"));
        };
        with("pagewire-demo-gone", &[LOCK, "transfers-0.log", "storage/16384"]);
        with("pagewire-demo-without-a-lock", &["transfers-0.log"]);
        with("another-program", &[LOCK]);
        with("pagewire-demo-with-a-link", &[]);
        symlink(path("another-program").join(LOCK), path("pagewire-demo-with-a-link").join(LOCK))
            .expect("a link");
        symlink(path("another-program"), path("pagewire-demo-link")).expect("a link");
        fs::write(path("pagewire-demo-file"), "1").expect("written");
        let make = || Folder::make_in(parent.path(), &Cleanup::default()).expect("made");
        let (alive, folder) = (make(), make());
        folder.remove_orphans();
        assert!(!path("pagewire-demo-gone").exists());
        assert!(alive.path().join(LOCK).exists() && folder.path().join(LOCK).exists());
        for kept in ["without-a-lock", "with-a-link", "link", "file"] {
            assert!(path(&format!("pagewire-demo-{kept}")).exists(), "{kept}");
        }
        assert!(path("another-program").join(LOCK).exists());
        let kept = make().keep().expect("kept");
        folder.remove_orphans();
        assert!(kept.exists());
        let gone = alive.path().to_owned();
        drop(alive);
        assert!(!gone.exists());
    }

    #[test]
    fn a_folder_is_left_alone_for_as_long_as_it_is_locked() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let lock = File::create(parent.path().join(LOCK)).expect("made");
        lock.lock().expect("locked");
        assert!(!remove_orphan(parent.path()).expect("nothing to do"));
        drop(lock);
        assert!(remove_orphan(parent.path()).expect("removed"));
        assert!(!parent.path().exists());
    }
}
