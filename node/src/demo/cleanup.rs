//! What must be gone when the demo ends, also when a signal ends it.
//!
//! Purpose: the instances and files of a run are entered here as they come to be. SIGINT, SIGTERM
//! and SIGHUP stop the instances by their process id, remove the files and end the process with
//! 128 + the signal's number, as a shell expects.
//!
//! Threads: the coordinator enters and strikes out; one thread waits for signals. The lock decides
//! between them: whoever clears away keeps it until the process has ended, so that the coordinator
//! can neither start another instance nor complain of those that were stopped.

use crate::signals::is_ignored;
use std::{
    fs, io,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How often a folder is removed again that something was just put into.
const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// A child process as coordinator and signal thread share it.
pub(super) type SharedChild = Arc<Mutex<Child>>;

/// Takes a lock; a thread that panicked leaves nothing half done here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Litter {
    children: Vec<SharedChild>,
    paths: Vec<PathBuf>,
}

/// See the module. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Cleanup {
    litter: Arc<Mutex<Litter>>,
}

impl Cleanup {
    /// Starts `command`, unless everything is being cleared away already.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<SharedChild> {
        let mut litter = lock(&self.litter);
        let child = Arc::new(Mutex::new(command.spawn()?));
        litter.children.push(Arc::clone(&child));
        Ok(child)
    }

    /// Strikes out a child that was reaped.
    pub(super) fn forget_child(&self, child: &SharedChild) {
        lock(&self.litter).children.retain(|other| !Arc::ptr_eq(other, child));
    }

    /// Lets `make` make a file or folder and enters it; it is removed when the returned value is
    /// dropped, or before.
    pub(super) fn enter(&self, make: impl FnOnce() -> io::Result<PathBuf>) -> io::Result<Entered> {
        let mut litter = lock(&self.litter);
        let path = make()?;
        litter.paths.push(path.clone());
        drop(litter);
        Ok(Entered { cleanup: self.clone(), path, is_kept: false })
    }

    /// Ends the process in order when a signal asks for it; see the module.
    ///
    /// # Errors
    /// When the system has no room for handlers or a thread.
    pub fn at_signals(&self) -> io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let mut wanted = vec![SIGINT, SIGTERM];
        // `nohup` has it ignored, and that is to stay.
        if !is_ignored(SIGHUP) {
            wanted.push(SIGHUP);
        }
        let mut signals = signal_hook::iterator::Signals::new(&wanted)?;
        let cleanup = self.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let litter = lock(&cleanup.litter);
                clear(&litter);
                let clear_line = if io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                eprintln!(
                    "{clear_line}pagewire: ended by {name}: the instances are stopped, nothing is \
                     kept"
                );
                process::exit(128 + signal);
            }
        })?;
        Ok(())
    }
}

fn clear(litter: &Litter) {
    // All first, so that none has the time to complain of another's end.
    for child in &litter.children {
        let _ = lock(child).kill();
    }
    for child in &litter.children {
        let _ = lock(child).wait();
    }
    litter.paths.iter().for_each(|path| remove(path));
}

/// Removes a file or folder; the coordinator may be writing into it.
fn remove(path: &Path) {
    for _ in 0..REMOVE_TRIES {
        let Ok(about) = fs::symlink_metadata(path) else { return };
        let removed = if about.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        if removed.is_err() {
            thread::park_timeout(REMOVE_PAUSE);
        }
    }
}

/// From now on a file that would grow beyond the limit on its size (`ulimit -f`) fails to be written,
/// as on a full disk, where the signal would end the process and leave everything behind. What this
/// process starts has to ask for it, too.
///
/// # Errors
/// When the system has no room for a handler.
pub fn survive_file_size_limit() -> io::Result<()> {
    // Any handler will do: the write that it interrupts fails with EFBIG.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default()).map(drop)
}

/// A file or folder that does not outlive this value.
#[derive(Debug)]
pub(super) struct Entered {
    cleanup: Cleanup,
    path: PathBuf,
    is_kept: bool,
}

impl Entered {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It outlives this value after all.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut litter = lock(&self.cleanup.litter);
        if !self.is_kept {
            remove(&self.path);
        }
        litter.paths.retain(|other| *other != self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_entered_is_gone_with_its_value_or_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, inner) = (folder.path().join("file"), folder.path().join("inner"));
        fs::create_dir(&inner).expect("made");
        fs::write(&file, "1").expect("written");
        fs::write(inner.join("file"), "2").expect("written");
        let cleanup = Cleanup::default();
        let entered = cleanup.enter(|| Ok(file.clone())).expect("entered");
        assert_eq!(entered.path(), file);
        drop(entered);
        assert!(!file.exists() && inner.exists());
        fs::write(&file, "3").expect("written");
        cleanup.enter(|| Ok(file.clone())).expect("entered").keep();
        clear(&lock(&cleanup.litter));
        assert!(file.exists(), "it is nobody's to remove any more");
        let _inner = cleanup.enter(|| Ok(inner.clone())).expect("entered");
        let child = cleanup.spawn(Command::new("sleep").arg("1000")).expect("a child");
        let id = lock(&child).id();
        clear(&lock(&cleanup.litter));
        assert!(!inner.exists());
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "killed and reaped");
    }

    #[test]
    fn signals_are_not_ignored_unless_the_process_was_started_so() {
        // SIGPIPE, which Rust programs ignore, and SIGTERM, which they do not.
        assert!(is_ignored(13) && !is_ignored(15));
    }
}
