//! The transfer log: one append-only file per instance, one fixed record per finished transfer.
//!
//! ```text
//!  header, 40 bytes:  magic 8 | version 4 | crc 4 | record bytes 4 | instance 2 | 0 x 2 |
//!                     incarnation 8 | 0 x 8
//!  record, 88 bytes:  magic 4 | crc 4 | sequence 8 | instance 2 | 0 x 6 | from 4 | to 4 | amount 8 |
//!                     from: version before 8, after 8, balance after 8 | to: the same 24
//! ```
//! Invariants: little-endian; every CRC-32C covers what follows it; a record holds only what the
//! workload appended, under both pages' exclusive guards, so that for each page the records of one
//! log stand in the order of the page's versions. Sequences may stand in another order: threads
//! share a log.

use super::account::TransferId;
use pagewire_protocol::{Incarnation, InstanceId, Lsn, crc32c};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{I64, U16, U32, U64},
};

/// Layout of the log that this build writes and reads.
pub const LOG_VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 40;
/// Bytes of one record.
pub const RECORD_BYTES: usize = 88;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"PWLEDGER");
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"PWTX");
/// First byte that the header's CRC covers, and first that a record's covers.
const HEADER_CRC_FROM_BYTE: usize = 16;
const RECORD_CRC_FROM_BYTE: usize = 8;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U64,
    version: U32,
    crc: U32,
    record_bytes: U32,
    instance: U16,
    reserved: [u8; 2],
    incarnation: U64,
    reserved_too: [u8; 8],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSide {
    before: U64,
    after: U64,
    balance: I64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    magic: U32,
    crc: U32,
    sequence: U64,
    instance: U16,
    reserved: [u8; 6],
    from_block: U32,
    to_block: U32,
    amount: I64,
    from: RawSide,
    to: RawSide,
}

const _: () = assert!(size_of::<RawRecord>() == RECORD_BYTES);

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHeader {
    /// The instance that wrote it.
    pub instance: InstanceId,
    /// Which life of the instance.
    pub incarnation: Incarnation,
}

/// What a transfer did to one of its two pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Block number of the page.
    pub block: u32,
    /// The page's version before.
    pub before: Lsn,
    /// The page's version after.
    pub after: Lsn,
    /// The account's balance after.
    pub balance: i64,
}

/// One finished transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Its name.
    pub id: TransferId,
    /// Money moved.
    pub amount: i64,
    /// The account it left.
    pub from: Side,
    /// The account it reached.
    pub to: Side,
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system refused.
    #[error("cannot {doing} transfer log {}: {source}; check the path, its permissions and free space", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not start as a log of this version.
    #[error(
        "transfer log has {what} {found:#x}, expected {expected:#x}; \
         give a file that this build's ledger wrote"
    )]
    Header {
        /// The field.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// A record is damaged.
    #[error(
        "record at byte {offset_bytes} of the transfer log has {what} {found:#010x}, \
         expected {expected:#010x}: it is damaged"
    )]
    Record {
        /// Where the record starts.
        offset_bytes: u64,
        /// The field.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// The file ends inside the header or a record.
    #[error(
        "transfer log ends {found_bytes} bytes behind byte {offset_bytes}, \
         expected {expected_bytes}: it was cut off"
    )]
    Truncated {
        /// Where the header or record starts.
        offset_bytes: u64,
        /// Bytes that are there.
        found_bytes: usize,
        /// Bytes it has.
        expected_bytes: usize,
    },
}

/// Appends to a log.
#[derive(Debug)]
pub struct LogWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

impl LogWriter {
    /// Starts a log at `path`.
    ///
    /// # Errors
    /// [`LogError::Io`], also when the file is there already: a log is never overwritten.
    pub fn create(path: &Path, header: LogHeader) -> Result<Self, LogError> {
        let file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(|source| {
                LogError::Io { doing: "create", path: path.to_owned(), source }
            })?;
        let mut writer =
            Self { out: BufWriter::with_capacity(1 << 16, file), path: path.to_owned() };
        writer.put(&encode_header(header))?;
        Ok(writer)
    }

    /// Appends `transfer`; it is in the file once [`LogWriter::finish`] has returned.
    ///
    /// # Errors
    /// [`LogError::Io`] when a full buffer cannot be written.
    pub fn append(&mut self, transfer: &Transfer) -> Result<(), LogError> {
        self.put(&encode(transfer))
    }

    /// Brings everything appended to stable storage.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn finish(&mut self) -> Result<(), LogError> {
        let done = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        done.map_err(|source| LogError::Io { doing: "sync", path: self.path.clone(), source })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.out.write_all(bytes).map_err(|source| LogError::Io {
            doing: "append to",
            path: self.path.clone(),
            source,
        })
    }
}

/// The bytes of a log's header.
#[must_use]
pub fn encode_header(header: LogHeader) -> [u8; HEADER_BYTES] {
    let mut raw = RawHeader {
        magic: FILE_MAGIC.into(),
        version: LOG_VERSION.into(),
        crc: 0.into(),
        record_bytes: 88.into(),
        instance: header.instance.0.into(),
        reserved: [0; 2],
        incarnation: header.incarnation.0.into(),
        reserved_too: [0; 8],
    };
    raw.crc = crc32c(&[&raw.as_bytes()[HEADER_CRC_FROM_BYTE..]]).into();
    zerocopy::transmute!(raw)
}

/// The bytes of one record.
#[must_use]
pub fn encode(transfer: &Transfer) -> [u8; RECORD_BYTES] {
    let side = |side: &Side| RawSide {
        before: side.before.0.into(),
        after: side.after.0.into(),
        balance: side.balance.into(),
    };
    let mut raw = RawRecord {
        magic: RECORD_MAGIC.into(),
        crc: 0.into(),
        sequence: transfer.id.sequence.into(),
        instance: transfer.id.instance.0.into(),
        reserved: [0; 6],
        from_block: transfer.from.block.into(),
        to_block: transfer.to.block.into(),
        amount: transfer.amount.into(),
        from: side(&transfer.from),
        to: side(&transfer.to),
    };
    raw.crc = crc32c(&[&raw.as_bytes()[RECORD_CRC_FROM_BYTE..]]).into();
    zerocopy::transmute!(raw)
}

fn decode(bytes: [u8; RECORD_BYTES], offset_bytes: u64) -> Result<Transfer, LogError> {
    let computed = crc32c(&[&bytes[RECORD_CRC_FROM_BYTE..]]);
    let raw: RawRecord = zerocopy::transmute!(bytes);
    let damaged = |what, found: u32, expected: u32| LogError::Record {
        offset_bytes,
        what,
        found: u64::from(found),
        expected: u64::from(expected),
    };
    if raw.magic.get() != RECORD_MAGIC {
        return Err(damaged("magic", raw.magic.get(), RECORD_MAGIC));
    }
    if raw.crc.get() != computed {
        return Err(damaged("CRC-32C", raw.crc.get(), computed));
    }
    let side = |block: U32, side: &RawSide| Side {
        block: block.get(),
        before: Lsn(side.before.get()),
        after: Lsn(side.after.get()),
        balance: side.balance.get(),
    };
    Ok(Transfer {
        id: TransferId { instance: InstanceId(raw.instance.get()), sequence: raw.sequence.get() },
        amount: raw.amount.get(),
        from: side(raw.from_block, &raw.from),
        to: side(raw.to_block, &raw.to),
    })
}

/// Reads a log, record by record; holds one record at a time.
///
/// A damaged record comes out as an error and the next one is read behind it; after a cut-off
/// record or a read error the log ends.
#[derive(Debug)]
pub struct LogReader<R> {
    source: R,
    header: LogHeader,
    offset_bytes: u64,
    is_done: bool,
}

impl LogReader<BufReader<File>> {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read or does not start as a log.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = File::open(path).map_err(|source| LogError::Io {
            doing: "open",
            path: path.to_owned(),
            source,
        })?;
        Self::new(BufReader::with_capacity(1 << 16, file))
    }
}

impl<R: Read> LogReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`LogError::Header`] or [`LogError::Truncated`] when `source` does not start as a log.
    pub fn new(mut source: R) -> Result<Self, LogError> {
        let mut bytes = [0; HEADER_BYTES];
        read_whole(&mut source, &mut bytes, 0)?;
        let computed = crc32c(&[&bytes[HEADER_CRC_FROM_BYTE..]]);
        let raw: RawHeader = zerocopy::transmute!(bytes);
        let fields = [
            ("magic", raw.magic.get(), FILE_MAGIC),
            ("version", u64::from(raw.version.get()), u64::from(LOG_VERSION)),
            ("header CRC-32C", u64::from(raw.crc.get()), u64::from(computed)),
            ("record size", u64::from(raw.record_bytes.get()), RECORD_BYTES as u64),
        ];
        for (what, found, expected) in fields {
            if found != expected {
                return Err(LogError::Header { what, found, expected });
            }
        }
        let header = LogHeader {
            instance: InstanceId(raw.instance.get()),
            incarnation: Incarnation(raw.incarnation.get()),
        };
        Ok(Self { source, header, offset_bytes: HEADER_BYTES as u64, is_done: false })
    }

    /// Whose log it is.
    #[must_use]
    pub fn header(&self) -> LogHeader {
        self.header
    }
}

impl<R: Read> Iterator for LogReader<R> {
    type Item = Result<Transfer, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let (mut bytes, offset_bytes) = ([0; RECORD_BYTES], self.offset_bytes);
        match read_whole(&mut self.source, &mut bytes, offset_bytes) {
            Ok(()) => {
                self.offset_bytes += RECORD_BYTES as u64;
                Some(decode(bytes, offset_bytes))
            }
            Err(LogError::Truncated { found_bytes: 0, .. }) => {
                self.is_done = true;
                None
            }
            Err(error) => {
                self.is_done = true;
                Some(Err(error))
            }
        }
    }
}

fn read_whole(source: &mut impl Read, bytes: &mut [u8], offset_bytes: u64) -> Result<(), LogError> {
    let expected_bytes = bytes.len();
    let mut found_bytes = 0;
    while found_bytes < expected_bytes {
        match source.read(&mut bytes[found_bytes..]) {
            Ok(0) => return Err(LogError::Truncated { offset_bytes, found_bytes, expected_bytes }),
            Ok(count) => found_bytes += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(LogError::Io { doing: "read", path: PathBuf::from("(open)"), source });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: LogHeader = LogHeader { instance: InstanceId(2), incarnation: Incarnation(77) };

    fn transfer(sequence: u64) -> Transfer {
        let side =
            |block, base| Side { block, before: Lsn(base), after: Lsn(base + 1), balance: -5 };
        Transfer {
            id: TransferId { instance: InstanceId(2), sequence },
            amount: 17,
            from: side(3, 10 * sequence),
            to: side(u32::MAX, u64::MAX - 1),
        }
    }

    fn log_of(count: u64) -> Vec<u8> {
        let records = (1..=count).flat_map(|sequence| encode(&transfer(sequence)));
        encode_header(HEADER).into_iter().chain(records).collect()
    }

    #[test]
    fn a_log_reads_as_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log");
        let mut writer = LogWriter::create(&path, HEADER).expect("created");
        for sequence in 1..=1000 {
            writer.append(&transfer(sequence)).expect("appended");
        }
        writer.finish().expect("synced");
        let reader = LogReader::open(&path).expect("opened");
        assert_eq!(reader.header(), HEADER);
        let read: Vec<_> = reader.map(|record| record.expect("undamaged")).collect();
        assert_eq!(read, (1..=1000).map(transfer).collect::<Vec<_>>());
        assert_eq!(std::fs::read(&path).expect("read"), log_of(1000));
        let again = LogWriter::create(&path, HEADER).expect_err("never overwritten").to_string();
        assert!(again.starts_with("cannot create transfer log"), "{again}");
    }

    #[test]
    fn a_damaged_record_is_named_by_its_offset_and_the_next_one_is_read() {
        for byte in 0..RECORD_BYTES {
            let mut bytes = log_of(3);
            bytes[HEADER_BYTES + RECORD_BYTES + byte] ^= 0x40;
            let read: Vec<_> = LogReader::new(&bytes[..]).expect("header").collect();
            assert!(read[0].is_ok() && read[2].is_ok() && read.len() == 3);
            assert!(matches!(read[1], Err(LogError::Record { offset_bytes: 128, .. })), "{byte}");
        }
    }

    #[test]
    fn a_cut_off_log_is_refused_at_its_end() {
        let bytes = log_of(2);
        let read: Vec<_> = LogReader::new(&bytes[..bytes.len() - 1]).expect("header").collect();
        assert!(read[0].is_ok());
        let cut = LogError::Truncated { offset_bytes: 128, found_bytes: 87, expected_bytes: 88 };
        assert_eq!(read[1].as_ref().expect_err("cut").to_string(), cut.to_string());
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn bytes_that_are_no_log_are_refused() {
        assert!(matches!(LogReader::new(&b"PWL"[..]), Err(LogError::Truncated { .. })));
        for byte in 0..HEADER_BYTES {
            let mut bytes = log_of(0);
            bytes[byte] ^= 1;
            assert!(matches!(LogReader::new(&bytes[..]), Err(LogError::Header { .. })), "{byte}");
        }
    }
}
