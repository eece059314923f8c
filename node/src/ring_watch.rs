//! Whether the file of the ring for invalidations is still there and whole.
//!
//! ```text
//!   removed, or another file in its place ... the instance writes on, and its readers read on; whoever
//!                                             comes later finds no ring, or one without a writer
//!   cut ..................................... whoever touches what is gone ends with SIGBUS: the
//!                                             instance at the next message, its readers, too
//! ```
//! Invariant: the file is looked at, its memory never touched: so whoever looks survives to say it.
//!
//! Threading: [`RingWatch`] is of one thread; [`RingProblem`] hands what it has found to others.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is wrong with the ring, for other threads.
#[derive(Debug, Clone, Default)]
pub struct RingProblem(Arc<Mutex<Option<String>>>);

impl RingProblem {
    /// What is wrong and what to do; nothing where the ring is as it was.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, problem: Option<&str>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = problem.map(str::to_owned);
    }
}

/// Looks at the file now and then; see the module.
#[derive(Debug)]
pub struct RingWatch {
    path: PathBuf,
    /// Open on the ring for as long as this is there: no other file gets its number.
    file: File,
    len_bytes: u64,
    looked: Instant,
    problem: Option<String>,
    told: RingProblem,
}

impl RingWatch {
    /// Of the ring at `path`, which a writer has just opened.
    ///
    /// # Errors
    /// What the system said when it was opened to be looked at.
    pub fn new(path: &Path, told: RingProblem, now: Instant) -> io::Result<Self> {
        // Something else may have come there: this waits for nobody.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let len_bytes = file.metadata()?.len();
        let path = path.to_owned();
        Ok(Self { path, file, len_bytes, looked: now, problem: None, told })
    }

    /// Looks if it is due; what is news of it, in words.
    pub fn observe(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.looked) < LOOK_EVERY {
            return None;
        }
        self.looked = now;
        let problem =
            self.look().map(|problem| format!("SI ring {}: {problem}", self.path.display()));
        if problem == self.problem {
            return None;
        }
        self.told.set(problem.as_deref());
        self.problem = problem;
        let over = || format!("SI ring {} is there and whole again", self.path.display());
        Some(self.problem.clone().unwrap_or_else(over))
    }

    fn look(&self) -> Option<String> {
        let held = match self.file.metadata() {
            Ok(held) => held,
            Err(error) => return Some(format!("cannot be looked at ({error}); see what is there")),
        };
        if held.len() < self.len_bytes {
            return Some(format!(
                "found {} bytes, expected {}: somebody has cut it, and the next message ends this instance \
                 with SIGBUS; stop all instances, see who writes there, and start them together",
                held.len(),
                self.len_bytes
            ));
        }
        let found = match fs::symlink_metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => return None,
            Ok(_) => "another file in its place",
            Err(error) if error.kind() == ErrorKind::NotFound => "no file",
            Err(error) => return Some(format!("cannot be looked at ({error}); see what is there")),
        };
        Some(format!(
            "found {found}, expected the one that this instance writes; it writes on, and readers that had \
             it read on, but those that come now do not find it; stop all instances and start them \
             together, and leave the file alone while they run"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_is_cut_removed_or_replaced_is_told_once_each_and_stands_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let (path, away) = (folder.path().join("ring"), folder.path().join("away"));
        fs::write(&path, [7; 4608]).unwrap();
        let (told, start) = (RingProblem::default(), Instant::now());
        let mut watch = RingWatch::new(&path, told.clone(), start).unwrap();
        let mut second = 0;
        let mut look = |words: &[&str]| {
            second += 2;
            let now = start + Duration::from_secs(second);
            let news = watch.observe(now).unwrap_or_default();
            for words in words {
                assert!(news.contains(words), "'{words}' in: {news}");
            }
            assert!(!words.is_empty() || news.is_empty(), "{news}");
            assert_eq!(watch.observe(now + Duration::from_secs(1)), None, "it is not due");
            let stands = told.get();
            assert!(words.is_empty() || stands.is_none() || stands.as_ref() == Some(&news));
            stands.is_some()
        };
        assert!(!look(&[]));
        fs::rename(&path, &away).unwrap();
        assert!(look(&["found no file", "start them together"]));
        assert!(look(&[]), "told once");
        fs::write(&path, [7; 4608]).unwrap();
        assert!(look(&["found another file in its place"]));
        fs::rename(&away, &path).unwrap();
        assert!(!look(&["there and whole again"]));
        OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert!(look(&["found 4096 bytes, expected 4608", "SIGBUS"]));
        assert!(look(&[]));
    }
}
