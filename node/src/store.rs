//! Shared storage as page files, laid out as in a PostgreSQL data directory.
//!
//! ```text
//!   tablespace 1663 -> base/<database>/<relation><fork>[.<segment>]
//!   tablespace 1664 -> global/<relation><fork>[.<segment>]
//!   any other       -> pg_tblspc/<tablespace>/PG_15_202209061/<database>/<relation>...
//! ```
//! Pages are read and written with O_DIRECT where the file system has it, so that no page cache of
//! one host stands between two instances. A checksum is put on every page written and checked on
//! every page read.
//!
//! Beside the page files are the [`marks`] that say whose the folder is.
//!
//! Threading: any; the runtime's I/O threads call it, because it blocks.

pub(crate) mod advice;
pub mod marks;

use pagewire_protocol::{
    BufferTag, ClusterId, Fork, Lsn, PageSize,
    page::{self, PageError},
    tag::blocks_per_segment,
};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// What storage could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder is not there or is no folder.
    #[error(
        "storage folder {}: {source}; expected an existing folder that all instances share, make \
         it or mend `storage` in the configuration", path.display()
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing can be written into the folder.
    #[error(
        "storage folder {} cannot be written: {source}; {}", path.display(), advice::of(source)
    )]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is of another cluster.
    #[error(
        "storage folder {} is of cluster {found} (says {}), this instance of cluster {cluster}: name the \
         folder of this cluster in `storage`, mend `cluster`, or remove that file if the other cluster \
         has left the folder for good", root.display(), path.display()
    )]
    OtherCluster {
        /// The folder.
        root: PathBuf,
        /// Its mark.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose this instance is.
        cluster: ClusterId,
    },
    /// The pages in the folder have another size.
    #[error(
        "storage folder {} has pages of {found_bytes} bytes (says {}), this instance of {page_size}: set \
         the same page size on all (`page_size`), or name another folder in `storage`",
        root.display(), path.display()
    )]
    OtherPageSize {
        /// The folder.
        root: PathBuf,
        /// Its mark.
        path: PathBuf,
        /// Size of its pages, in bytes.
        found_bytes: u64,
        /// Size of this instance's pages, in bytes.
        page_size: u64,
    },
    /// A mark that says whose the folder is cannot be read or made.
    #[error(
        "{}, which says whose the storage is, cannot be read or written: {source}; {}",
        path.display(), advice::of(source)
    )]
    Mark {
        /// The mark.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A mark says nothing.
    #[error(
        "{}, which says whose the storage is, cannot be understood ({problem}): see that no instance \
         runs and that the storage is this cluster's, and remove it", path.display()
    )]
    BadMark {
        /// The mark.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A page file cannot be used.
    #[error("page file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A page file is not made of whole pages.
    #[error(
        "page file {} has {found} bytes, expected a multiple of {page_bytes}: it is cut off, or \
         `page_size` is not the cluster's", path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Bytes of a page.
        page_bytes: usize,
    },
    /// The page lies beyond the end of its file.
    #[error(
        "page file {} ends before block {block}; expected it to be there: extend the relation first",
        path.display()
    )]
    BeyondEnd {
        /// The file.
        path: PathBuf,
        /// The block, counted from the relation's start.
        block: u32,
    },
    /// What was read is damaged.
    #[error("page file {}: {source}; restore the page from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with the page.
        source: PageError,
    },
    /// What was read is older than what must be there.
    #[error(
        "page file {}, block {block}, has version {found}, expected at least {expected}: a write \
         was lost on the way to storage", path.display()
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// The block, counted from the relation's start.
        block: u32,
        /// Version on storage.
        found: Lsn,
        /// Least version that must be there.
        expected: Lsn,
    },
    /// What was read has a version that no page can have.
    #[error(
        "page file {}, block {block}, has version {found}, expected at most {}: the page is not one \
         of this cluster's, restore it", path.display(), page::VERSION_MAX
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The block, counted from the relation's start.
        block: u32,
        /// Version on storage.
        found: Lsn,
    },
}

/// A segment file of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Segment {
    tablespace: u32,
    database: u32,
    relation: u32,
    fork: Fork,
    number: u32,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
}

/// The page files under one folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    page_size: PageSize,
    memory_alignment_bytes: usize,
    files: Mutex<HashMap<Segment, Arc<OpenFile>>>,
}

impl Store {
    /// Storage in folder `root`.
    ///
    /// # Errors
    /// [`StoreError::Folder`] or [`StoreError::NotWritable`].
    pub fn open(root: &Path, page_size: PageSize) -> Result<Self, StoreError> {
        let folder = |source| StoreError::Folder { path: root.to_owned(), source };
        if !std::fs::metadata(root).map_err(folder)?.is_dir() {
            return Err(folder(io::Error::other("is no folder")));
        }
        let not_writable = |source| StoreError::NotWritable { path: root.to_owned(), source };
        let probe = tempfile::Builder::new().prefix(".pagewire-probe-").tempfile_in(root);
        let probe = probe.map_err(not_writable)?;
        let memory_alignment_bytes = memory_alignment_bytes(probe.path(), page_size);
        probe.close().map_err(not_writable)?;
        Ok(Self {
            root: root.to_owned(),
            page_size,
            memory_alignment_bytes,
            files: Mutex::default(),
        })
    }

    /// What the memory of a page that is read or written must be aligned to.
    #[must_use]
    pub fn memory_alignment_bytes(&self) -> usize {
        self.memory_alignment_bytes
    }

    /// Path of the file that holds page `tag`.
    #[must_use]
    pub fn path(&self, tag: &BufferTag) -> PathBuf {
        let BufferTag { tablespace, database, relation, fork, block } = *tag;
        let folder = match tablespace {
            1663 => format!("base/{database}"),
            1664 => "global".to_owned(),
            other => format!("pg_tblspc/{other}/PG_15_202209061/{database}"),
        };
        let suffix = fork.file_suffix();
        let file = match block / blocks_per_segment(self.page_size) {
            0 => format!("{relation}{suffix}"),
            segment => format!("{relation}{suffix}.{segment}"),
        };
        self.root.join(folder).join(file)
    }

    fn file(&self, tag: &BufferTag) -> Result<Arc<OpenFile>, StoreError> {
        let segment = Segment {
            tablespace: tag.tablespace,
            database: tag.database,
            relation: tag.relation,
            fork: tag.fork,
            number: tag.block / blocks_per_segment(self.page_size),
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = files.get(&segment) {
            return Ok(Arc::clone(open));
        }
        let path = self.path(tag);
        let failed = |source| StoreError::File { path: path.clone(), source };
        let file = open_direct(&path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if !found.is_multiple_of(self.page_size.bytes() as u64) {
            return Err(StoreError::Size { path, found, page_bytes: self.page_size.bytes() });
        }
        let open = Arc::new(OpenFile { file, path });
        files.insert(segment, Arc::clone(&open));
        Ok(open)
    }

    fn offset_bytes(&self, tag: &BufferTag) -> u64 {
        let in_segment = tag.block % blocks_per_segment(self.page_size);
        u64::from(in_segment) * self.page_size.bytes() as u64
    }

    /// Reads page `tag` into `into`, memory of one page, aligned to
    /// [`Store::memory_alignment_bytes`], and returns its version.
    ///
    /// # Errors
    /// [`StoreError`]: no such file or page, a damaged page, or one older than `at_least`.
    pub fn read(&self, tag: &BufferTag, at_least: Lsn, into: &mut [u8]) -> Result<Lsn, StoreError> {
        let open = self.file(tag)?;
        let path = || open.path.clone();
        open.file.read_exact_at(into, self.offset_bytes(tag)).map_err(|source| {
            match source.kind() {
                io::ErrorKind::UnexpectedEof => {
                    StoreError::BeyondEnd { path: path(), block: tag.block }
                }
                _ => StoreError::File { path: path(), source },
            }
        })?;
        page::verify_checksum(into, tag.block)
            .map_err(|source| StoreError::Damaged { path: path(), source })?;
        let found = page::lsn(into);
        if found > page::VERSION_MAX {
            return Err(StoreError::Version { path: path(), block: tag.block, found });
        }
        if found < at_least {
            let block = tag.block;
            return Err(StoreError::Stale { path: path(), block, found, expected: at_least });
        }
        Ok(found)
    }

    /// Writes `page` as page `tag`, its checksum put on in `scratch`, memory as for [`Store::read`]:
    /// the page itself is shared and cannot be changed.
    ///
    /// # Errors
    /// [`StoreError::File`] and [`StoreError::Size`].
    pub fn write(
        &self,
        tag: &BufferTag,
        page: &[u8],
        scratch: &mut [u8],
    ) -> Result<(), StoreError> {
        let open = self.file(tag)?;
        scratch.copy_from_slice(page);
        if !page::is_new(scratch) {
            let checksum = page::checksum(scratch, tag.block);
            page::set_checksum(scratch, checksum);
        }
        open.file
            .write_all_at(scratch, self.offset_bytes(tag))
            .map_err(|source| StoreError::File { path: open.path.clone(), source })
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let files: Vec<_> = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.values().cloned().collect()
        };
        for open in files {
            open.file
                .sync_data()
                .map_err(|source| StoreError::File { path: open.path.clone(), source })?;
        }
        Ok(())
    }
}

/// 512 where direct I/O from and to memory with that alignment works, or where there is none; else
/// 4096. Tried out on an empty file: kernels before 6.1 do not tell.
fn memory_alignment_bytes(file: &Path, page_size: PageSize) -> usize {
    let bytes = vec![0; page_size.bytes() + 2 * 4096];
    let at = bytes.as_ptr().align_offset(4096) + 512;
    let Some(page) = bytes.get(at..at + page_size.bytes()) else { return 4096 };
    let written = open_direct(file).and_then(|file| file.write_all_at(page, 0));
    if written.is_ok() { 512 } else { 4096 }
}

/// Opens for direct I/O, or where the file system has none, as usual.
fn open_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => options.open(path),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_transport::{Arena, ArenaConfig};

    fn tag(block: u32) -> BufferTag {
        BufferTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main, block }
    }

    fn storage(bytes: usize) -> (tempfile::TempDir, Store, Arena) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("base/5")).unwrap();
        std::fs::write(folder.path().join("base/5/16384"), vec![0; bytes]).unwrap();
        let store = Store::open(folder.path(), PageSize::K8).unwrap();
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(2) }).unwrap();
        (folder, store, arena)
    }

    #[test]
    fn a_written_page_is_read_back_with_its_version_and_a_checksum() {
        let (folder, store, arena) = storage(3 * 8192);
        let (mut frame, mut scratch) = (arena.take().unwrap(), arena.take().unwrap());
        page::init(&mut frame);
        page::set_lsn(&mut frame, Lsn(77));
        store.write(&tag(2), &frame, &mut scratch).unwrap();
        store.sync().unwrap();
        frame.fill(1);
        assert_eq!(store.read(&tag(2), Lsn(77), &mut frame).unwrap(), Lsn(77));
        assert_ne!(page::stored_checksum(&frame), 0);
        let stale = store.read(&tag(2), Lsn(78), &mut frame).unwrap_err();
        assert!(matches!(stale, StoreError::Stale { found: Lsn(77), .. }));
        assert!(matches!(
            store.read(&tag(3), Lsn(0), &mut frame),
            Err(StoreError::BeyondEnd { block: 3, .. })
        ));
        let path = folder.path().join("base/5/16384");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2 * 8192 + 5000] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        let damaged = store.read(&tag(2), Lsn(0), &mut frame).unwrap_err();
        assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
    }

    #[test]
    fn memory_of_the_alignment_that_the_storage_asks_for_will_do() {
        let (_folder, store, _) = storage(2 * 8192);
        let mut bytes = vec![0; 4 * 8192];
        let at = bytes.as_ptr().align_offset(4096) + store.memory_alignment_bytes();
        let (scratch, rest) = bytes[at..].split_at_mut(8192);
        let page = &mut rest[..8192];
        page::init(page);
        page::set_lsn(page, Lsn(5));
        store.write(&tag(1), page, scratch).unwrap();
        assert_eq!(store.read(&tag(1), Lsn(5), scratch).unwrap(), Lsn(5));
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let (_folder, store, arena) = storage(8192 + 100);
        let mut frame = arena.take().unwrap();
        let error = store.read(&tag(0), Lsn(0), &mut frame).unwrap_err();
        assert!(matches!(error, StoreError::Size { found: 8292, .. }));
        assert!(error.to_string().contains("multiple of 8192"));
    }

    #[test]
    fn a_folder_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Store::open(&folder.path().join("missing"), PageSize::K8).unwrap_err();
        assert!(matches!(missing, StoreError::Folder { .. }), "{missing}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Store::open(&file, PageSize::K8).is_err());
    }

    #[test]
    fn paths_are_postgresqls() {
        let (folder, store, _) = storage(0);
        let path = |tag| store.path(&tag).strip_prefix(folder.path()).unwrap().to_owned();
        assert_eq!(path(tag(0)), Path::new("base/5/16384"));
        assert_eq!(path(tag(131_072)), Path::new("base/5/16384.1"));
        let vm = BufferTag { fork: Fork::Visibility, tablespace: 1664, ..tag(0) };
        assert_eq!(path(vm), Path::new("global/16384_vm"));
        let other = BufferTag { tablespace: 99, ..tag(0) };
        assert_eq!(path(other), Path::new("pg_tblspc/99/PG_15_202209061/5/16384"));
    }
}
