//! Preparing the shared relation file, and putting the result back.
//!
//! Purpose: a run works on a copy, made here: each page with room gets an account, every page that
//! is not new gets version 1 in `pd_lsn` and a checksum. [`finish`] turns the result into a relation
//! file that PostgreSQL accepts: each page's original `pd_lsn`, checksum recomputed. The account
//! records stay in the free space, which PostgreSQL does not read.
//!
//! Invariants: the source is only read; pages are streamed, so a segment of any size needs the
//! memory of one page and of the manifest.

use super::{
    account,
    manifest::{
        self, DEFAULT_DATABASE, DEFAULT_RELATION, DEFAULT_TABLESPACE, FORMAT, Manifest, PageKind,
        PageOrigin,
    },
    synthetic,
};
use pagewire_protocol::{
    Lsn, PageSize,
    page::{self, PageError},
    tag::blocks_per_segment,
};
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Balance that every account starts with.
pub const INITIAL_BALANCE: i64 = 1000;
/// Version that every page starts with.
pub const INITIAL_VERSION: Lsn = Lsn(1);

const BUFFER_BYTES: usize = 1 << 18;

/// Why a relation cannot be prepared or put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelationError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}; check the path, its permissions and free space", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is no plain file.
    #[error("{} is no plain file; give a copy of one relation file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file ends inside a page.
    #[error(
        "page file {} has {found_bytes} bytes, no multiple of the page size of {page_size_bytes} \
         bytes: {remainder_bytes} bytes are left over; give a whole relation file with pages of \
         {page_size_bytes} bytes",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// Bytes of one page.
        page_size_bytes: u32,
        /// Bytes behind the last whole page.
        remainder_bytes: u64,
    },
    /// The file holds more than a segment.
    #[error(
        "page file {} has {found_pages} pages, a segment holds at most {expected_pages}; \
         give one segment file of the relation",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its pages.
        found_pages: u64,
        /// Pages of a full segment.
        expected_pages: u32,
    },
    /// The number behind the dot names no segment.
    #[error(
        "the name of page file {} says segment {segment}, whose blocks are beyond 32-bit block \
         numbers; name the file as PostgreSQL does, such as 16384 or 16384.1",
        path.display()
    )]
    Segment {
        /// The file.
        path: PathBuf,
        /// The segment it names.
        segment: u64,
    },
    /// The fork keeps its data where an account would go.
    #[error(
        "page file {} is by its name a fork ({suffix}) that keeps its data in the free space; \
         give the relation's main file",
        path.display()
    )]
    Fork {
        /// The file.
        path: PathBuf,
        /// What the name ends in.
        suffix: &'static str,
    },
    /// A page is damaged.
    #[error("block {block} of {} is damaged: {source}; give an undamaged copy (pg_checksums --check finds damage)", path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// Block number from the relation's start.
        block: u32,
        /// What is wrong.
        source: PageError,
    },
    /// A page without a header has contents.
    #[error(
        "block {block} of {} has pd_upper 0, as a new page, but is not all zero: it is damaged; \
         give an undamaged copy",
        path.display()
    )]
    NotZero {
        /// The file.
        path: PathBuf,
        /// Block number from the relation's start.
        block: u32,
    },
    /// The result has not the pages that the manifest lists.
    #[error(
        "{} has {found_bytes} bytes, the manifest lists {expected_bytes}; \
         give the relation file of the same run",
        path.display()
    )]
    ResultSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// Bytes of all pages that the manifest lists.
        expected_bytes: u64,
    },
}

/// A relation file ready for a run.
#[derive(Debug)]
pub struct Prepared {
    /// What is in it and what it was.
    pub manifest: Manifest,
    /// The file, below the storage folder.
    pub path: PathBuf,
}

/// Relation number and segment that a file's name states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    relation: u32,
    segment: u32,
    first_block: u32,
}

/// Makes up a relation of `pages` pages from `seed` and prepares it below `storage`.
///
/// # Errors
/// [`RelationError::Io`] when the storage folder cannot be written, [`RelationError::TooLong`] when
/// `pages` is more than a segment holds.
pub fn prepare_synthetic(
    storage: &Path,
    page_size: PageSize,
    pages: u32,
    seed: u64,
) -> Result<Prepared, RelationError> {
    let name = Name { relation: DEFAULT_RELATION, segment: 0, first_block: 0 };
    let label = Path::new("(synthetic)");
    check_length(label, u64::from(pages), page_size)?;
    prepare(storage, page_size, pages, name, label, |page, block| {
        synthetic::fill(page, block, seed);
        Ok(())
    })
}

/// Prepares a copy of the relation file `file` below `storage`.
///
/// A name that ends in `.N` is segment N: block numbers count from the relation's start. A name that
/// is a number is taken as the relation's.
///
/// # Errors
/// [`RelationError`]: what is wrong with the file, or that the storage folder cannot be written.
pub fn prepare_file(
    storage: &Path,
    page_size: PageSize,
    file: &Path,
) -> Result<Prepared, RelationError> {
    let (name, pages) = inspect(file, page_size)?;
    let mut source = BufReader::with_capacity(BUFFER_BYTES, open(file)?);
    prepare(storage, page_size, pages, name, file, |page, _| {
        source.read_exact(page).map_err(io_error("read", file))
    })
}

/// Checks name and size of a relation file; the cheap part of [`prepare_file`].
///
/// # Errors
/// As [`prepare_file`], but damaged pages are not looked for.
pub fn check_file(file: &Path, page_size: PageSize) -> Result<(), RelationError> {
    inspect(file, page_size).map(|_| ())
}

fn inspect(file: &Path, page_size: PageSize) -> Result<(Name, u32), RelationError> {
    let name = parse_name(file, page_size)?;
    let about = fs::metadata(file).map_err(io_error("read", file))?;
    if !about.is_file() {
        return Err(RelationError::NotAFile { path: file.to_owned() });
    }
    let page_size_bytes = page_size.bytes_u32();
    let remainder_bytes = about.len() % u64::from(page_size_bytes);
    if remainder_bytes != 0 {
        return Err(RelationError::Size {
            path: file.to_owned(),
            found_bytes: about.len(),
            page_size_bytes,
            remainder_bytes,
        });
    }
    let pages = check_length(file, about.len() / u64::from(page_size_bytes), page_size)?;
    Ok((name, pages))
}

fn check_length(path: &Path, pages: u64, page_size: PageSize) -> Result<u32, RelationError> {
    let expected_pages = blocks_per_segment(page_size);
    u32::try_from(pages).ok().filter(|pages| *pages <= expected_pages).ok_or_else(|| {
        RelationError::TooLong { path: path.to_owned(), found_pages: pages, expected_pages }
    })
}

fn parse_name(file: &Path, page_size: PageSize) -> Result<Name, RelationError> {
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let (stem, segment) = match name.rsplit_once('.') {
        Some((stem, digits)) if is_number(digits) => {
            (stem, digits.parse::<u64>().unwrap_or(u64::MAX))
        }
        _ => (&*name, 0),
    };
    for suffix in ["_fsm", "_vm"] {
        if stem.strip_suffix(suffix).is_some_and(is_number) {
            return Err(RelationError::Fork { path: file.to_owned(), suffix });
        }
    }
    let no_segment = || RelationError::Segment { path: file.to_owned(), segment };
    let number = u32::try_from(segment).map_err(|_| no_segment())?;
    let first_block = page_size.first_block_of_segment(number).ok_or_else(no_segment)?;
    let relation = if is_number(stem) { stem.parse().ok() } else { None };
    Ok(Name { relation: relation.unwrap_or(DEFAULT_RELATION), segment: number, first_block })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn prepare(
    storage: &Path,
    page_size: PageSize,
    page_count: u32,
    name: Name,
    label: &Path,
    mut next: impl FnMut(&mut [u8], u32) -> Result<(), RelationError>,
) -> Result<Prepared, RelationError> {
    let mut manifest = Manifest {
        format: FORMAT,
        page_size_bytes: page_size.bytes_u32(),
        tablespace: DEFAULT_TABLESPACE,
        database: DEFAULT_DATABASE,
        relation: name.relation,
        segment: name.segment,
        first_block: name.first_block,
        page_count,
        initial_balance: INITIAL_BALANCE,
        initial_version: INITIAL_VERSION.0,
        groups: Vec::new(),
        read_only: Vec::new(),
        pages: Vec::new(),
    };
    let path = manifest.relation_path(storage);
    let folder = path.parent().unwrap_or(storage);
    fs::create_dir_all(folder).map_err(io_error("create folder", folder))?;
    let file = File::create(&path).map_err(io_error("create", &path))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut page = vec![0; page_size.bytes()];
    let mut accounts = Vec::new();
    for block in (name.first_block..).take(usize::try_from(page_count).unwrap_or(usize::MAX)) {
        next(&mut page, block)?;
        let origin = prepare_page(&mut page, block, label)?;
        match origin.kind {
            PageKind::Account => accounts.push(block),
            PageKind::ReadOnly | PageKind::New => manifest.read_only.push(block),
        }
        manifest.pages.push(origin);
        out.write_all(&page).map_err(io_error("write", &path))?;
    }
    manifest.groups = manifest::group(&accounts);
    let synced = out.flush().and_then(|()| out.get_ref().sync_all());
    synced.map_err(io_error("write", &path))?;
    Ok(Prepared { manifest, path })
}

fn prepare_page(page: &mut [u8], block: u32, label: &Path) -> Result<PageOrigin, RelationError> {
    let damaged = |source| RelationError::Page { path: label.to_owned(), block, source };
    let mut origin = PageOrigin {
        kind: PageKind::New,
        lsn: page::lsn(page).0,
        checksum_off: page::stored_checksum(page) == 0,
        contents_crc32c: 0,
    };
    if page::is_new(page) {
        if page.iter().any(|byte| *byte != 0) {
            return Err(RelationError::NotZero { path: label.to_owned(), block });
        }
        origin.contents_crc32c = account::contents_crc32c(page, None);
        return Ok(origin);
    }
    page::verify_checksum(page, block).map_err(damaged)?;
    let mut record = None;
    origin.kind = PageKind::ReadOnly;
    if account::is_usable(page).map_err(damaged)?
        && account::init(page, block, INITIAL_BALANCE).is_ok()
    {
        origin.kind = PageKind::Account;
        record = account::find(page).ok();
    }
    origin.contents_crc32c = account::contents_crc32c(page, record);
    page::set_lsn(page, INITIAL_VERSION);
    let checksum = page::checksum(page, block);
    page::set_checksum(page, checksum);
    Ok(origin)
}

/// Writes the result of a run, `result_file`, to `out_path` as a relation file for PostgreSQL: each
/// page carries its original `pd_lsn` and a right checksum, or checksum 0 where it had that before;
/// new pages stay as they are.
///
/// # Errors
/// [`RelationError::ResultSize`] when the file is not the manifest's, [`RelationError::Io`].
pub fn finish(
    result_file: &Path,
    manifest: &Manifest,
    out_path: &Path,
) -> Result<(), RelationError> {
    let found_bytes = fs::metadata(result_file).map_err(io_error("read", result_file))?.len();
    let expected_bytes = u64::from(manifest.page_count) * u64::from(manifest.page_size_bytes);
    if found_bytes != expected_bytes {
        let path = result_file.to_owned();
        return Err(RelationError::ResultSize { path, found_bytes, expected_bytes });
    }
    let mut source = BufReader::with_capacity(BUFFER_BYTES, open(result_file)?);
    let file = File::create(out_path).map_err(io_error("create", out_path))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut page = vec![0; manifest.page_size().bytes()];
    for (block, origin) in (manifest.first_block..).zip(&manifest.pages) {
        source.read_exact(&mut page).map_err(io_error("read", result_file))?;
        if origin.kind != PageKind::New {
            page::set_lsn(&mut page, Lsn(origin.lsn));
            let checksum = if origin.checksum_off { 0 } else { page::checksum(&page, block) };
            page::set_checksum(&mut page, checksum);
        }
        out.write_all(&page).map_err(io_error("write", out_path))?;
    }
    let synced = out.flush().and_then(|()| out.get_ref().sync_all());
    synced.map_err(io_error("write", out_path))
}

fn open(path: &Path) -> Result<File, RelationError> {
    File::open(path).map_err(io_error("open", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RelationError {
    let path = path.to_owned();
    move |source| RelationError::Io { doing, path, source }
}

#[cfg(test)]
mod tests;
