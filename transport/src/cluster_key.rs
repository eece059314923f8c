//! The cluster key: a file that every instance of the cluster has, and nobody else.
//!
//! Any 32 to 4,096 bytes will do; they are used as they are, without a newline at their end, so
//! `openssl rand -hex 32 > cluster.key && chmod 600 cluster.key` makes a good one. The file must be
//! the instance's own or root's, and closed to everybody else.
//!
//! Invariants: nothing prints a key; its memory is overwritten when the last copy goes.

use pagewire_protocol::hello::ProofKey;
use std::{
    fmt,
    fs::{FileType, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// Fewest and most bytes of a key.
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=4096;
const KEY_BYTES_MAX: u64 = 4096;

/// A cluster key; see the module.
#[derive(Clone)]
pub struct ClusterKey(Arc<Zeroizing<Vec<u8>>>);

/// Why a file cannot be used as a cluster key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterKeyError {
    /// It cannot be read.
    #[error(
        "cluster key {}: {source}; name a file with the cluster's key that this user may read, a copy of \
         the same on all instances (`openssl rand -hex 32` makes one; mode 0600)",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a folder, a pipe, a device or a socket.
    #[error(
        "cluster key {}: found {found}, not a regular file; name the file that has the key, or put the key \
         into one",
        path.display()
    )]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Another user could change it.
    #[error(
        "cluster key {}: owner is uid {found}, expected {expected} (this process) or 0; run \
         `chown {expected} {}`",
        path.display(), path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// Effective user of this process.
        expected: u32,
    },
    /// Others than its owner may read or change it.
    #[error(
        "cluster key {}: found mode {found:04o}, which lets others in, expected 0600; run \
         `chmod 600 {}`",
        path.display(), path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
    /// It has too few or too many bytes.
    #[error(
        "cluster key {}: has {found} bytes, expected {} to {}; this is no cluster key: name the file that \
         has it, or make one with `openssl rand -hex 32` for all instances",
        path.display(), KEY_BYTES.start(), KEY_BYTES.end()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes, without a newline at the end; of a file that is too long all of them.
        found: usize,
    },
}

/// What decides whether a file is closed to others.
#[derive(Debug, Clone, Copy)]
struct About {
    /// What it is, if it is no regular file.
    other: Option<&'static str>,
    mode: u32,
    uid: u32,
}

impl About {
    fn check(self, path: &Path, euid: u32) -> Result<(), ClusterKeyError> {
        let path = || path.to_owned();
        if let Some(found) = self.other {
            return Err(ClusterKeyError::NotAFile { path: path(), found });
        }
        if self.uid != euid && self.uid != 0 {
            return Err(ClusterKeyError::Owner { path: path(), found: self.uid, expected: euid });
        }
        let found = self.mode & 0o7777;
        if found & 0o077 != 0 {
            return Err(ClusterKeyError::Mode { path: path(), found });
        }
        Ok(())
    }
}

impl ClusterKey {
    /// Reads the key from a file.
    ///
    /// # Errors
    /// [`ClusterKeyError`]: not readable, no regular file, open to others, too short or too long.
    pub fn from_file(path: &Path) -> Result<Self, ClusterKeyError> {
        let read = |source| ClusterKeyError::Read { path: path.to_owned(), source };
        // A pipe that nobody writes to must not hold the start up. What is opened is what is judged.
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
        let about = file.metadata().map_err(read)?;
        // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
        let euid = unsafe { libc::geteuid() };
        let (other, mode, uid) = (other_kind(about.file_type()), about.mode(), about.uid());
        About { other, mode, uid }.check(path, euid)?;
        // Room for all of it, so that no copy is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(*KEY_BYTES.end() + 2));
        file.take(KEY_BYTES_MAX + 2).read_to_end(&mut bytes).map_err(read)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Self::checked(bytes).map_err(|read| {
            // A file that is too long is not read to its end.
            let size = usize::try_from(about.len()).unwrap_or(usize::MAX);
            let found = if read > *KEY_BYTES.end() { read.max(size) } else { read };
            ClusterKeyError::Length { path: path.to_owned(), found }
        })
    }

    /// A key from bytes that the caller has from elsewhere; `None` unless they are as many as
    /// [`KEY_BYTES`] allows.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::checked(Zeroizing::new(bytes.to_vec())).ok()
    }

    fn checked(bytes: Zeroizing<Vec<u8>>) -> Result<Self, usize> {
        if KEY_BYTES.contains(&bytes.len()) { Ok(Self(Arc::new(bytes))) } else { Err(bytes.len()) }
    }

    pub(crate) fn proof_key(&self) -> ProofKey<'_> {
        ProofKey::new(&self.0)
    }
}

/// What is no regular file, in words.
fn other_kind(kind: FileType) -> Option<&'static str> {
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a pipe"),
        () => Some("a device"),
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn key_file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn refused(content: &[u8], mode: u32) -> String {
        let (_folder, path) = key_file(content, mode);
        let text = ClusterKey::from_file(&path).unwrap_err().to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        text
    }

    #[test]
    fn a_key_is_its_bytes_without_the_newline_at_the_end() {
        for (content, key) in [
            (b"0123456789abcdef0123456789abcdef\n".to_vec(), 32),
            (b"0123456789abcdef0123456789abcdef".to_vec(), 32),
            ([vec![7; 4096], b"\n".to_vec()].concat(), 4096),
            ([vec![0xFF; 40], b"\n\n".to_vec()].concat(), 41),
        ] {
            let (_folder, path) = key_file(&content, 0o600);
            assert_eq!(*ClusterKey::from_file(&path).unwrap().0.as_slice(), content[..key]);
        }
        for mode in [0o400, 0o600, 0o700] {
            let (_folder, path) = key_file(&[1; 32], mode);
            ClusterKey::from_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_open_to_others_is_refused_with_what_to_run() {
        for mode in [0o640, 0o604, 0o620, 0o660, 0o601, 0o610, 0o777] {
            let text = refused(&[7; 40], mode);
            for part in [&format!("found mode {mode:04o}"), "expected 0600", "`chmod 600 /"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn a_key_that_is_too_short_or_too_long_is_refused() {
        for (content, found) in [(0, 0), (31, 31), (4097, 4097), (5000, 5000), (100_000, 100_000)] {
            let text = refused(&vec![7; content], 0o600);
            assert!(text.contains(&format!("has {found} bytes, expected 32 to 4096")), "{text}");
            assert!(text.contains("no cluster key: name the file that has it"), "{text}");
        }
        assert!(refused(&[[7; 31].as_slice(), b"\n"].concat(), 0o600).contains("has 31 bytes"));
        assert!(ClusterKey::from_bytes(&[7; 31]).is_none());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let text = ClusterKey::from_file(folder.path()).unwrap_err().to_string();
        assert!(text.contains("found a folder, not a regular file; name the file"), "{text}");
        let text = ClusterKey::from_file(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(text.contains("found a device"), "{text}");
        let text = ClusterKey::from_file(&folder.path().join("none")).unwrap_err().to_string();
        assert!(text.contains("No such file") && text.contains("name a file"), "{text}");
    }

    #[test]
    fn another_users_file_is_refused_and_roots_is_not() {
        let about = |uid| About { other: None, mode: 0o100_600, uid };
        let path = Path::new("/etc/cluster.key");
        about(1000).check(path, 1000).unwrap();
        about(0).check(path, 1000).unwrap();
        let text = about(1001).check(path, 1000).unwrap_err().to_string();
        for part in ["/etc/cluster.key", "owner is uid 1001, expected 1000", "`chown 1000 "] {
            assert!(text.contains(part), "{text}");
        }
        // Not even to root: another user could change it under it.
        assert!(about(1001).check(path, 0).is_err());
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        let key = ClusterKey::from_bytes(b"hush-hush-hush-hush-hush-hush-hush").unwrap();
        assert_eq!(format!("{key:?}"), "ClusterKey(secret)");
    }
}
