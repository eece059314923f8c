//! Where `--out` goes: beside its place first, then into it by renaming.
//!
//! Invariants: nothing is opened that is no regular file, so a FIFO cannot hold the demo up; a file
//! that was there stays whole until the new one is; a link stays a link, its target is replaced.

use super::{
    cleanup::{Cleanup, Entered},
    error::DemoError,
};
use crate::{
    file_kind,
    ledger::relation::{self, Prepared},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A place that was found fit for the result.
#[derive(Debug)]
pub(super) struct Out {
    /// As the user named it.
    named: PathBuf,
    /// What is replaced: no link.
    target: PathBuf,
    folder: PathBuf,
    beside: PathBuf,
}

impl Out {
    /// Checks that the result of `pages` can be put at `path`; leaves nothing there.
    pub(super) fn check(
        path: &Path,
        pages: Option<&Path>,
        cleanup: &Cleanup,
    ) -> Result<Self, DemoError> {
        let refused = |source| DemoError::Out { path: path.to_owned(), source };
        let not_a_file = |found| DemoError::OutNotAFile { path: path.to_owned(), found };
        let target = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(refused(error)),
            Ok(_) => match fs::canonicalize(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(not_a_file("a link to nothing"));
                }
                target => target.map_err(refused)?,
            },
        };
        match fs::metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(error)),
            Ok(about) if !about.is_file() => {
                return Err(not_a_file(file_kind::in_words(about.file_type())));
            }
            Ok(about) => {
                let identity = |about: fs::Metadata| (about.dev(), about.ino());
                let source = pages.and_then(|pages| fs::metadata(pages).ok()).map(identity);
                if source == Some(identity(about)) {
                    return Err(DemoError::OutIsSource { path: path.to_owned() });
                }
                // Should it have become something else since: this neither waits nor follows.
                let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
                let open = OpenOptions::new().write(true).custom_flags(flags).open(&target);
                open.map_err(refused)?;
            }
        }
        if target.file_name().is_none() {
            return Err(not_a_file("a directory"));
        }
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let beside = folder.join(format!(".pagewire-out-{}", std::process::id()));
        let out = Self { named: path.to_owned(), target, folder, beside };
        out.create_beside(cleanup).map_err(refused)?;
        Ok(out)
    }

    fn create_beside(&self, cleanup: &Cleanup) -> io::Result<Entered> {
        cleanup.enter(|| {
            // What is there already is not ours to remove.
            OpenOptions::new().write(true).create_new(true).open(&self.beside)?;
            Ok(self.beside.clone())
        })
    }

    /// Puts the result in its place.
    pub(super) fn write(&self, prepared: &Prepared, cleanup: &Cleanup) -> Result<(), DemoError> {
        let refused = |source| DemoError::Out { path: self.named.clone(), source };
        let _beside = self.create_beside(cleanup).map_err(refused)?;
        relation::finish(&prepared.path, &prepared.manifest, &self.beside)?;
        if let Ok(before) = fs::metadata(&self.target) {
            // Only the superuser may give a file away; who may not, keeps it.
            let _ = std::os::unix::fs::chown(&self.beside, Some(before.uid()), Some(before.gid()));
            fs::set_permissions(&self.beside, before.permissions()).map_err(refused)?;
        }
        let place = fs::rename(&self.beside, &self.target);
        place.and_then(|()| File::open(&self.folder)?.sync_all()).map_err(refused)
    }
}
