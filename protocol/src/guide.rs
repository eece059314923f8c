//! Shadow information on the wire: what one instance has of a page, told to a (new) master.
//!
//! One page at a time it travels as PCM_REPORT. Whole partitions travel as PCM_LOAD_GUIDE, a batch of
//! records in one frame on the bulk lane; the message's body says how many, and whether they are the
//! sender's last ([`GuideHeader`]), its header's epoch is that of the sender's view.
//!
//! ```text
//!  0                                       80                                     160
//!  +---------------------------------------+---------------------------------------+---
//!  | PCM_REPORT body; `revokes` holds the  | End, Nothing, Whole: no page; kind    |
//!  | partition's epoch                     | and partition in place of a report    |
//!  +---------------------------------------+---------------------------------------+---
//! ```

use crate::{
    BufferTag, DecodeError, Epoch, GrantNumber, InstanceId, Lsn, Mode, PartitionId, Pcm, pcm::kind,
};

/// Bytes of one record.
pub const GUIDE_RECORD_BYTES: usize = 80;
/// Most records in one batch: they fit the smallest page, 4 KiB.
pub const GUIDE_RECORDS_MAX: usize = 4096 / GUIDE_RECORD_BYTES;
/// Bytes of the body of PCM_LOAD_GUIDE.
pub const GUIDE_BODY_BYTES: usize = 4;

/// The lower half of a request's sequence, as reports have it.
#[must_use]
pub fn lower_half(sequence: u64) -> u32 {
    u32::try_from(sequence & u64::from(u32::MAX)).unwrap_or(0)
}

/// A copy that was shipped away, and whose arrival the master has not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transit {
    /// To whom.
    pub to: InstanceId,
    /// That one is no member any more, as far as the reporter knows.
    pub to_dead: bool,
    /// The request that was answered with it: the lower half of its sequence.
    pub request: u32,
    /// Under which grant; less than 2^48.
    pub grant: GrantNumber,
    /// Version of the copy.
    pub version: Lsn,
    /// It was dirty: the duty to write it left with it.
    pub dirty: bool,
}

/// What one instance has of one page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Mode in which it is held.
    pub mode: Mode,
    /// The grant under which it is held; less than 2^48.
    pub grant: GrantNumber,
    /// Version at the last grant or drain.
    pub version: Lsn,
    /// The duty to write it is here.
    pub dirty: bool,
    /// It is held S, and the duty to write this version was elsewhere when it came.
    pub unsaved: bool,
    /// Whose change the copy carries.
    pub writer: InstanceId,
    /// A copy that was shipped away.
    pub transit: Option<Transit>,
    /// Version of the past image that is kept.
    pub past: Option<Lsn>,
    /// The request for the page that is not answered yet: the lower half of its sequence. A copy in
    /// transit for another request has arrived long ago.
    pub pending: Option<u32>,
}

impl Report {
    /// True when there is nothing of the page.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.mode == Mode::N && self.transit.is_none() && self.past.is_none()
    }
}

/// One record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuideRecord {
    /// The sender has this of a page.
    Page {
        /// The page.
        tag: BufferTag,
        /// Epoch of its partition.
        epoch: Epoch,
        /// What the sender has.
        report: Report,
    },
    /// The sender has told everything of a partition, and of those with lower numbers and the same
    /// epoch that the receiver masters: it tells them in order.
    End {
        /// The partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The sender has told everything of a partition that was asked for out of turn
    /// ([`Pcm::GuideWanted`]). Of those with lower numbers this says nothing.
    Whole {
        /// The partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The sender has nothing of any partition that the receiver masters since `epoch` or before.
    Nothing {
        /// Epoch of the sender's view.
        epoch: Epoch,
    },
}

/// What the body of PCM_LOAD_GUIDE says of the batch in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuideHeader {
    /// Records in the frame.
    pub records: u16,
    /// The sender has no more for now.
    pub last: bool,
}

impl GuideHeader {
    /// The 4 bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; GUIDE_BODY_BYTES] {
        let [low, high] = self.records.to_le_bytes();
        [low, high, u8::from(self.last), 0]
    }

    /// Reads what [`GuideHeader::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError`] when the length is not 4 or a field holds what no sender writes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let &[low, high, last, reserved] = body else {
            return Err(DecodeError::Length {
                what: "PCM_LOAD_GUIDE body",
                found: body.len(),
                expected: GUIDE_BODY_BYTES,
            });
        };
        let header = Self { records: u16::from_le_bytes([low, high]), last: last == 1 };
        if last > 1 || reserved != 0 || usize::from(header.records) > GUIDE_RECORDS_MAX {
            return Err(DecodeError::Field {
                what: "PCM_LOAD_GUIDE body",
                found: u32::from_le_bytes([low, high, last, reserved]).into(),
                expected: "at most 51 records, and 0 or 1 for the last batch",
            });
        }
        Ok(header)
    }
}

/// The byte in the place of the verdict, which a report does not use, that tells records apart.
const END: u8 = 1;
const NOTHING: u8 = 2;
const WHOLE: u8 = 3;
const VERDICT_AT: usize = 23;
const EPOCH_AT: usize = 48;
const SMALL_AT: usize = 74;

impl GuideRecord {
    /// The 80 bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; GUIDE_RECORD_BYTES] {
        let mut bytes = [0; GUIDE_RECORD_BYTES];
        let mut mark = |what: u8, epoch: Epoch, partition: u16| {
            bytes[VERDICT_AT] = what;
            bytes[EPOCH_AT..EPOCH_AT + 8].copy_from_slice(&epoch.0.to_le_bytes());
            bytes[SMALL_AT..SMALL_AT + 2].copy_from_slice(&partition.to_le_bytes());
        };
        match *self {
            Self::Page { tag, epoch, report } => {
                return Pcm::Report { fence: GrantNumber(epoch.0), report }.encode(tag);
            }
            Self::End { partition, epoch } => mark(END, epoch, partition.0),
            Self::Nothing { epoch } => mark(NOTHING, epoch, 0),
            Self::Whole { partition, epoch } => mark(WHOLE, epoch, partition.0),
        }
        bytes
    }

    /// Reads what [`GuideRecord::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError`] when the length is not 80 or a field holds what no sender writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = bytes.get(VERDICT_AT).copied().unwrap_or(0);
        if what == 0 {
            let (tag, message) = Pcm::decode(kind::PCM_REPORT, bytes)?;
            let Pcm::Report { fence, report } = message else {
                return Err(odd_record(what));
            };
            return Ok(Self::Page { tag, epoch: Epoch(fence.0), report });
        }
        let epoch = bytes.get(EPOCH_AT..EPOCH_AT + 8).and_then(|b| b.try_into().ok());
        let partition = bytes.get(SMALL_AT..SMALL_AT + 2).and_then(|b| b.try_into().ok());
        let (Some(epoch), Some(partition)) = (epoch, partition) else {
            return Err(odd_record(what));
        };
        let epoch = Epoch(u64::from_le_bytes(epoch));
        let partition = PartitionId(u16::from_le_bytes(partition));
        let record = match what {
            END => Self::End { partition, epoch },
            NOTHING => Self::Nothing { epoch },
            WHOLE => Self::Whole { partition, epoch },
            _ => return Err(odd_record(what)),
        };
        if record.encode() == *bytes { Ok(record) } else { Err(odd_record(what)) }
    }
}

fn odd_record(what: u8) -> DecodeError {
    DecodeError::Field {
        what: "PCM_LOAD_GUIDE record",
        found: what.into(),
        expected: "80 bytes: a report, an end, a nothing or a whole, all other fields 0",
    }
}

/// Writes the records of a batch behind each other; at most [`GUIDE_RECORDS_MAX`] fit any frame.
pub fn encode_batch(records: &[GuideRecord], frame: &mut [u8]) {
    for (place, record) in frame.chunks_exact_mut(GUIDE_RECORD_BYTES).zip(records) {
        place.copy_from_slice(&record.encode());
    }
}

/// Reads the records of a batch.
///
/// # Errors
/// [`DecodeError`] when the frame is too short for them or one is none.
pub fn decode_batch(header: GuideHeader, frame: &[u8]) -> Result<Vec<GuideRecord>, DecodeError> {
    let expected = usize::from(header.records) * GUIDE_RECORD_BYTES;
    let bytes = frame.get(..expected).ok_or(DecodeError::Length {
        what: "PCM_LOAD_GUIDE frame",
        found: frame.len(),
        expected,
    })?;
    bytes.chunks_exact(GUIDE_RECORD_BYTES).map(GuideRecord::decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_its_frame() {
        let report = Report { mode: Mode::S, grant: GrantNumber(4), ..Report::default() };
        let records = [
            GuideRecord::Page { tag: BufferTag::default(), epoch: Epoch(9), report },
            GuideRecord::End { partition: PartitionId(4095), epoch: Epoch(9) },
            GuideRecord::Nothing { epoch: Epoch(12) },
            GuideRecord::Whole { partition: PartitionId(7), epoch: Epoch(9) },
        ];
        let mut frame = vec![0; 4096];
        encode_batch(&records, &mut frame);
        let header = GuideHeader { records: 4, last: true };
        assert_eq!(GuideHeader::decode(&header.encode()), Ok(header));
        assert_eq!(decode_batch(header, &frame), Ok(records.to_vec()));
        assert!(decode_batch(header, &frame[..200]).is_err());
        frame[80 + VERDICT_AT] = 4;
        assert!(decode_batch(header, &frame).is_err());
        assert!(GuideHeader::decode(&[52, 0, 0, 0]).is_err());
    }
}
