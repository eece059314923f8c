//! Ring files: found, judged, made, taken over, replaced.
//!
//! A file is never there half made: it is made beside its place and then given its name, so whoever
//! finds it finds a whole ring. Whoever writes has the lock; a file whose lock was got is looked up
//! again by its name, for it may have been replaced meanwhile.
//!
//! ```text
//!   found                                          writer                    reader
//!   nothing                                        makes one                 refused
//!   its own ring: cluster, instance, entries       takes it over             attaches
//!   of another version or size, cut, damaged       tells its readers,        refused (another
//!                                                  makes a new one           size is no fault)
//!   of another cluster                             refused                   refused
//!   of another instance                            refused                   attaches
//!   no ring (magic), no file                       refused                   refused
//! ```

use crate::{
    RingConfig, RingError, RingFault,
    layout::{
        FIRST_SEQUENCE, FIXED_BYTES, Fixed, HEADER_BYTES, POSITION_END, STATE_GONE,
        cluster_of_any_version, ring_bytes,
    },
    lock,
    memory::{self, Access, Ring},
};
use pagewire_protocol::ClusterId;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// How often a file that was replaced under our hands is looked up again.
const LOOKS_MAX: u32 = 16;

/// What a writer got.
#[derive(Debug)]
pub(crate) enum Place {
    /// A ring with nothing in it, whose life has not begun.
    New(File, Ring),
    /// The ring of a writer that is no more.
    Found(File, Ring),
}

/// The ring at `path`, with the writer's lock.
pub(crate) fn for_writing(path: &Path, config: &RingConfig, mode: u32) -> Result<Place, RingError> {
    for _ in 0..LOOKS_MAX {
        let Some(file) = open(path, Access::Write)? else {
            let file = make(path, config, mode, Existing::Respect)?;
            let Some((file, ring)) = file else { continue };
            return Ok(Place::New(file, ring));
        };
        check_kind(path, &file)?;
        check_owner(path, &file)?;
        if !lock::try_lock(&file).map_err(RingError::io(path, "lock it"))? {
            let pid = pid_in(&file);
            return Err(RingError::InUse { path: path.to_owned(), pid });
        }
        if !is_at(path, &file)? {
            continue;
        }
        let judged = judge(path, &file, config)?;
        if let Some(ring) = judged {
            return Ok(Place::Found(file, ring));
        }
        let made = make(path, config, mode, Existing::Replace(&file))?;
        let Some((new, ring)) = made else { continue };
        return Ok(Place::New(new, ring));
    }
    let error = io::Error::other("another process replaces it again and again");
    Err(RingError::io(path, "open it")(error))
}

/// The ring in `file`, for reading, if it is of this cluster.
pub(crate) fn for_reading(
    path: &Path,
    file: &File,
    cluster: ClusterId,
) -> Result<(Fixed, Ring), RingError> {
    check_kind(path, file)?;
    let fixed = header(path, file)?.map_err(RingError::fault(path))?;
    if fixed.cluster != cluster {
        let fault = RingFault::Cluster { found: fixed.cluster, expected: cluster };
        return Err(RingError::fault(path)(fault));
    }
    let ring = Ring::map(file, fixed.entries, Access::Read);
    let ring = ring.map_err(RingError::io(path, "map it"))?;
    Ok((fixed, ring))
}

/// The cluster that the ring at `path` says it is of: for tools that are given a path alone. Whoever
/// caches knows its cluster, and has it checked.
///
/// # Errors
/// [`RingError`], as [`crate::SiReader::attach`].
pub fn cluster_of(path: &Path) -> Result<ClusterId, RingError> {
    let file = open_to_read(path)?;
    check_kind(path, &file)?;
    let fixed = header(path, &file)?.map_err(RingError::fault(path))?;
    Ok(fixed.cluster)
}

/// Opens a file that has to be there.
pub(crate) fn open_to_read(path: &Path) -> Result<File, RingError> {
    let absent = || RingError::fault(path)(RingFault::Absent);
    open(path, Access::Read)?.ok_or_else(absent)
}

/// A ring in a memfd.
pub(crate) fn in_memory(path: &Path, config: &RingConfig) -> Result<(File, Ring), RingError> {
    let file = memory::memfd().map_err(RingError::io(path, "make a memfd"))?;
    let ring = fill(path, &file, config)?;
    memory::seal(&file).map_err(RingError::io(path, "seal it"))?;
    Ok((file, ring))
}

/// Opens `path`; `None` when nothing is there.
pub(crate) fn open(path: &Path, access: Access) -> Result<Option<File>, RingError> {
    // A FIFO must not keep us waiting. A writer goes through no link: it may come to write elsewhere.
    let (write, no_link) = match access {
        Access::Read => (false, 0),
        Access::Write => (true, libc::O_NOFOLLOW),
    };
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(libc::O_NONBLOCK | no_link);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            Err(RingError::fault(path)(RingFault::NotAFile { found: "a directory" }))
        }
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            Err(RingError::fault(path)(RingFault::NotAFile { found: "a symbolic link" }))
        }
        Err(error) => Err(RingError::io(path, "open it")(error)),
    }
}

pub(crate) fn check_kind(path: &Path, file: &File) -> Result<(), RingError> {
    let kind = file.metadata().map_err(RingError::io(path, "look at it"))?.file_type();
    let found = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () => "a device",
    };
    Err(RingError::fault(path)(RingFault::NotAFile { found }))
}

/// A writer refuses a file of another user: in a folder that all may write in, anybody may have laid it
/// there, and its owner could cut it under our hands.
pub(crate) fn check_owner(path: &Path, file: &File) -> Result<(), RingError> {
    let found = file.metadata().map_err(RingError::io(path, "look at it"))?.uid();
    let expected = memory::user();
    match found == expected {
        true => Ok(()),
        false => Err(RingError::fault(path)(RingFault::Owner { found, expected })),
    }
}

/// The fixed part of the header, or what is wrong with it.
fn header(path: &Path, file: &File) -> Result<Result<Fixed, RingFault>, RingError> {
    let (bytes, len_bytes) = beginning(path, file)?;
    Ok(Fixed::decode(&bytes, len_bytes))
}

/// The first bytes of the file, as many as the fixed part has or there are, and its length.
fn beginning(path: &Path, file: &File) -> Result<(Vec<u8>, u64), RingError> {
    let read = || {
        let len_bytes = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(FIXED_BYTES).min(FIXED_BYTES)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok((bytes, len_bytes))
    };
    read().map_err(RingError::io(path, "read its header"))
}

/// The ring if it is ours to go on with, `None` if it is ours to replace.
pub(crate) fn judge(
    path: &Path,
    file: &File,
    config: &RingConfig,
) -> Result<Option<Ring>, RingError> {
    let (bytes, len_bytes) = beginning(path, file)?;
    let refused = |fault| Err(RingError::fault(path)(fault));
    if let Some(found) = cluster_of_any_version(&bytes)
        && found != config.cluster
    {
        return refused(RingFault::Cluster { found, expected: config.cluster });
    }
    match Fixed::decode(&bytes, len_bytes) {
        // No ring at all: somebody else's file. An empty one is nobody's.
        Err(fault @ RingFault::Magic { .. }) => refused(fault),
        Err(_) => Ok(None),
        Ok(fixed) if fixed.instance != config.instance => {
            let (found, expected) = (fixed.instance, config.instance);
            refused(RingFault::Instance { found, expected })
        }
        Ok(fixed) if fixed != Fixed::of(config) => Ok(None),
        Ok(fixed) => {
            let ring = Ring::map(file, fixed.entries, Access::Write);
            let ring = ring.map_err(RingError::io(path, "map it"))?;
            let whole = position(&ring).is_ok() && !is_gone(&ring);
            Ok(whole.then_some(ring))
        }
    }
}

pub(crate) fn is_gone(ring: &Ring) -> bool {
    ring.state().load(Ordering::Relaxed) == STATE_GONE
}

/// From where a ring goes on: beyond all that its last writer wrote or meant to write.
pub(crate) fn position(ring: &Ring) -> Result<u64, RingFault> {
    let head = ring.head().load(Ordering::Relaxed);
    let found = head.max(ring.reserved().load(Ordering::Relaxed));
    if found < POSITION_END { Ok(found) } else { Err(RingFault::Position { found }) }
}

/// Tells whoever has the ring mapped that it is no more: they find themselves behind, and then the
/// state. The places of both are the same in every version.
fn tell_readers(path: &Path, file: &File) -> Result<(), RingError> {
    let len_bytes = file.metadata().map_err(RingError::io(path, "look at it"))?.len();
    if len_bytes < HEADER_BYTES as u64 {
        return Ok(());
    }
    let ring = Ring::map_header(file).map_err(RingError::io(path, "map its header"))?;
    ring.state().store(STATE_GONE, Ordering::Relaxed);
    // Further from every cursor than any ring has entries, and where nobody attaches any more.
    let head = ring.head().load(Ordering::Relaxed);
    ring.cells().jump(head.max(POSITION_END).wrapping_add(1 << 32));
    Ok(())
}

/// What to do with what has the name already.
#[derive(Clone, Copy)]
enum Existing<'a> {
    /// Leave it: it was not there before.
    Respect,
    /// Put the new one in its place.
    Replace(&'a File),
}

/// Makes a ring beside `path` and gives it that name; `None` when somebody else had it first.
fn make(
    path: &Path,
    config: &RingConfig,
    mode: u32,
    existing: Existing<'_>,
) -> Result<Option<(File, Ring)>, RingError> {
    let beside = Beside::of(path);
    // What a writer of this process id, killed here, may have left.
    let _ = fs::remove_file(&beside.0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(mode);
    let file = options.open(&beside.0).map_err(RingError::io(&beside.0, "make it"))?;
    // The process's mask may have taken bits away.
    let set = file.set_permissions(Permissions::from_mode(mode));
    set.map_err(RingError::io(&beside.0, "set its mode"))?;
    if !lock::try_lock(&file).map_err(RingError::io(&beside.0, "lock it"))? {
        return Err(RingError::InUse { path: beside.0.clone(), pid: 0 });
    }
    let ring = fill(path, &file, config)?;
    let named = match existing {
        Existing::Replace(old) => {
            // First, so that none of its readers is left behind if this process ends in between.
            tell_readers(path, old)?;
            fs::rename(&beside.0, path)
        }
        Existing::Respect => fs::hard_link(&beside.0, path),
    };
    match named {
        Ok(()) => Ok(Some((file, ring))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(RingError::io(path, "give the new ring its name")(error)),
    }
}

/// Gives a new file its pages and its header.
fn fill(path: &Path, file: &File, config: &RingConfig) -> Result<Ring, RingError> {
    let entries = config.entries;
    let allocated = memory::allocate(file, ring_bytes(entries));
    allocated.map_err(RingError::io(path, "get memory for it"))?;
    let written = file.write_all_at(&Fixed::of(config).encode(), 0);
    written.map_err(RingError::io(path, "write its header"))?;
    let ring = Ring::map(file, entries, Access::Write).map_err(RingError::io(path, "map it"))?;
    ring.cells().jump(FIRST_SEQUENCE);
    Ok(ring)
}

/// Where a ring is made before it gets its name. The name goes with this value, unless it was renamed.
pub(crate) struct Beside(PathBuf);

impl Beside {
    pub(crate) fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self(path.with_file_name(format!(".{name}.{}.new", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// True when `path` names `file`.
fn is_at(path: &Path, file: &File) -> Result<bool, RingError> {
    let held = file.metadata().map_err(RingError::io(path, "look at it"))?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RingError::io(path, "look at it")(error)),
    }
}

/// The process id that the ring's writer wrote down; 0 if it has not.
pub(crate) fn pid_in(file: &File) -> u32 {
    let mut bytes = [0; 4];
    let read = file.read_exact_at(&mut bytes, crate::layout::PID_AT as u64);
    if read.is_ok() { u32::from_le_bytes(bytes) } else { 0 }
}
