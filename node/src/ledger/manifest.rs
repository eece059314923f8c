//! What a run needs to know of the prepared relation, and what it takes to put the pages back.
//!
//! Purpose: written once when the relation is prepared, read by every instance, by the verifier and
//! when the result is restored. JSON, so that an operator can read it.
//!
//! Invariants: every block is in exactly one group or in `read_only`; `pages` has one entry per page
//! of the file, in the order of the file.

use pagewire_protocol::{BufferTag, Fork, PageSize};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Layout of the manifest that this build writes and reads.
pub const FORMAT: u32 = 1;

/// PostgreSQL's object id of the tablespace `pg_default`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// Database of a prepared relation, unless told otherwise.
pub const DEFAULT_DATABASE: u32 = 5;
/// Relation number of a prepared relation, unless its file name is a number.
pub const DEFAULT_RELATION: u32 = 16384;

/// Accounts of one group: an audit reads them all at one time.
pub const GROUP_ACCOUNTS: usize = 8;

/// What may be done with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageKind {
    /// Carries an account.
    Account,
    /// A valid page without room for an account: only read.
    ReadOnly,
    /// All zero: only read, never given a version or a checksum.
    New,
}

/// What a page was before it was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageOrigin {
    /// What may be done with it.
    pub kind: PageKind,
    /// Its `pd_lsn`.
    pub lsn: u64,
    /// True when it stored checksum 0, as a cluster without checksums does.
    pub checksum_off: bool,
    /// CRC-32C of what a run must leave alone ([`crate::ledger::account::contents_crc32c`]).
    pub contents_crc32c: u32,
}

/// The prepared relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Bytes of one page.
    pub page_size_bytes: u32,
    /// Object id of the tablespace.
    pub tablespace: u32,
    /// Object id of the database.
    pub database: u32,
    /// File number of the relation.
    pub relation: u32,
    /// Number of the segment file.
    pub segment: u32,
    /// Block number of the file's first page, counted from the relation's start.
    pub first_block: u32,
    /// Pages of the file.
    pub page_count: u32,
    /// Balance that every account starts with.
    pub initial_balance: i64,
    /// `pd_lsn` that every page starts with, new pages excepted.
    pub initial_version: u64,
    /// Blocks of the accounts, in groups of up to [`GROUP_ACCOUNTS`] (9 where the last would have
    /// been alone).
    pub groups: Vec<Vec<u32>>,
    /// Blocks that are only read.
    pub read_only: Vec<u32>,
    /// What each page was before.
    pub pages: Vec<PageOrigin>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file cannot be read or written.
    #[error("cannot access manifest {}: {source}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no manifest.
    #[error(
        "{} is no ledger manifest: {source}; give the file that preparing the relation wrote",
        path.display()
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The fields contradict each other.
    #[error(
        "manifest {} has {what} {found}, expected {expected}; prepare the relation again",
        path.display()
    )]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it may hold.
        expected: String,
    },
}

impl Manifest {
    /// The pages' size.
    ///
    /// # Panics
    /// If `page_size_bytes` is no page size; [`Manifest::load`] refuses such a manifest.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        PageSize::from_bytes(u64::from(self.page_size_bytes)).expect("checked when it was loaded")
    }

    /// The tag of block `block`.
    #[must_use]
    pub fn tag(&self, block: u32) -> BufferTag {
        BufferTag {
            tablespace: self.tablespace,
            database: self.database,
            relation: self.relation,
            fork: Fork::Main,
            block,
        }
    }

    /// Position of `block` in the file, in pages; none when the file does not hold it.
    #[must_use]
    pub fn index_of(&self, block: u32) -> Option<usize> {
        let index = block.checked_sub(self.first_block).filter(|index| *index < self.page_count)?;
        usize::try_from(index).ok()
    }

    /// Number of accounts.
    #[must_use]
    pub fn account_count(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Money in all accounts together.
    #[must_use]
    pub fn total(&self) -> i64 {
        let accounts = i64::try_from(self.account_count()).unwrap_or(i64::MAX);
        self.initial_balance.saturating_mul(accounts)
    }

    /// The relation's file below the storage folder, where PostgreSQL would have it.
    #[must_use]
    pub fn relation_path(&self, storage: &Path) -> PathBuf {
        let folder = storage.join("base").join(self.database.to_string());
        match self.segment {
            0 => folder.join(self.relation.to_string()),
            segment => folder.join(format!("{}.{segment}", self.relation)),
        }
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// [`ManifestError::Io`] or [`ManifestError::Json`] with the path.
    pub fn save(&self, path: &Path) -> Result<(), ManifestError> {
        let io = |source| ManifestError::Io { path: path.to_owned(), source };
        let mut out = BufWriter::new(File::create(path).map_err(io)?);
        serde_json::to_writer(&mut out, self)
            .map_err(|source| ManifestError::Json { path: path.to_owned(), source })?;
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(io)
    }

    /// Reads a manifest and checks that its fields agree.
    ///
    /// # Errors
    /// [`ManifestError`] with the path and what is wrong.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let file = File::open(path)
            .map_err(|source| ManifestError::Io { path: path.to_owned(), source })?;
        let manifest: Self = serde_json::from_reader(BufReader::new(file))
            .map_err(|source| ManifestError::Json { path: path.to_owned(), source })?;
        manifest.check(path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<(), ManifestError> {
        let wrong = |what, found: u64, expected: String| {
            Err(ManifestError::Field { path: path.to_owned(), what, found, expected })
        };
        if self.format != FORMAT {
            return wrong("format", u64::from(self.format), FORMAT.to_string());
        }
        if PageSize::from_bytes(u64::from(self.page_size_bytes)).is_none() {
            let expected = "4096, 8192, 16384 or 32768".to_owned();
            return wrong("page_size_bytes", u64::from(self.page_size_bytes), expected);
        }
        if usize::try_from(self.page_count) != Ok(self.pages.len()) {
            let expected = format!("page_count {}", self.page_count);
            return wrong("pages of length", self.pages.len() as u64, expected);
        }
        let blocks = || self.groups.iter().flatten().chain(&self.read_only);
        if let Some(block) = blocks().find(|block| self.index_of(**block).is_none()) {
            let expected = format!("{} pages from {}", self.page_count, self.first_block);
            return wrong("block", u64::from(*block), expected);
        }
        if blocks().count() != self.pages.len() {
            let expected = format!("{} in groups and read_only", self.pages.len());
            return wrong("blocks listed", blocks().count() as u64, expected);
        }
        Ok(())
    }
}

/// Cuts the account blocks into groups of up to [`GROUP_ACCOUNTS`] by order; a last group of one
/// joins the one before it, because a transfer needs two accounts.
#[must_use]
pub fn group(accounts: &[u32]) -> Vec<Vec<u32>> {
    let mut groups: Vec<Vec<u32>> = accounts.chunks(GROUP_ACCOUNTS).map(<[u32]>::to_vec).collect();
    if groups.len() >= 2
        && groups.last().is_some_and(|last| last.len() == 1)
        && let (Some(alone), Some(last)) = (groups.pop(), groups.last_mut())
    {
        last.extend(alone);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_alone_joins_the_group_before_it() {
        let sizes = |count: u32| {
            group(&(0..count).collect::<Vec<_>>()).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert!(sizes(0).is_empty());
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(8), [8]);
        assert_eq!(sizes(9), [9]);
        assert_eq!(sizes(10), [8, 2]);
        assert_eq!(sizes(17), [8, 9]);
    }

    fn small() -> Manifest {
        let origin = PageOrigin {
            kind: PageKind::Account,
            lsn: 0x16_B374_D848,
            checksum_off: false,
            contents_crc32c: 9,
        };
        Manifest {
            format: FORMAT,
            page_size_bytes: 8192,
            tablespace: DEFAULT_TABLESPACE,
            database: DEFAULT_DATABASE,
            relation: DEFAULT_RELATION,
            segment: 1,
            first_block: 131_072,
            page_count: 2,
            initial_balance: 1000,
            initial_version: 1,
            groups: vec![vec![131_072, 131_073]],
            read_only: vec![],
            pages: vec![origin; 2],
        }
    }

    #[test]
    fn a_manifest_reads_as_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("manifest.json");
        small().save(&path).expect("written");
        assert_eq!(Manifest::load(&path).expect("read"), small());
        assert_eq!(small().relation_path(Path::new("/s")), Path::new("/s/base/5/16384.1"));
        assert_eq!(small().total(), 2000);
        assert_eq!(small().index_of(131_073), Some(1));
        assert_eq!(small().index_of(5), None);
    }

    #[test]
    fn a_contradicting_manifest_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("manifest.json");
        let refuse = |change: fn(&mut Manifest), text: &str| {
            let mut manifest = small();
            change(&mut manifest);
            manifest.save(&path).expect("written");
            let error = Manifest::load(&path).expect_err("refused").to_string();
            assert!(error.contains(text), "{error}");
        };
        refuse(|m| m.format = 9, "format 9, expected 1");
        refuse(|m| m.page_size_bytes = 1000, "page_size_bytes 1000");
        refuse(|m| m.page_count = 3, "length 2, expected page_count 3");
        refuse(|m| m.groups[0][0] = 7, "block 7");
        refuse(|m| m.read_only.push(131_072), "blocks listed 3");
        std::fs::write(&path, "[]").expect("written");
        assert!(matches!(Manifest::load(&path), Err(ManifestError::Json { .. })));
    }
}
