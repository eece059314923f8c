//! The asker's side: reads under way and how far each is. Pure.

use super::ReadId;
use crate::error::LinkError;
use pagewire_protocol::{DecodeError, RegionId, read::READS_MAX};

/// How far a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not begun, or lost with queue pairs.
    Waiting,
    /// The device has it.
    Posted,
    /// The owner was asked, in the session.
    Asked,
    /// Its event waits for the caller.
    Ended,
}

#[derive(Debug)]
struct Read {
    id: ReadId,
    region: RegionId,
    offset_frames: u32,
    stage: Stage,
}

/// The reads of one peer's regions, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Asked {
    reads: Vec<Read>,
}

impl Asked {
    pub(super) fn room(&self) -> usize {
        READS_MAX - self.reads.len()
    }

    /// One more; false: there is no room.
    pub(super) fn begin(&mut self, id: ReadId, region: RegionId, offset_frames: u32) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.reads.push(Read { id, region, offset_frames, stage: Stage::Waiting });
        true
    }

    /// The oldest that waits.
    pub(super) fn next_waiting(&self) -> Option<(ReadId, RegionId, u32)> {
        let read = self.reads.iter().find(|read| read.stage == Stage::Waiting)?;
        Some((read.id, read.region, read.offset_frames))
    }

    /// From one stage to another; what was read, if it was at that stage.
    fn step(&mut self, id: ReadId, from: Stage, to: Stage) -> Option<(RegionId, u32)> {
        let read = self.reads.iter_mut().find(|read| read.id == id && read.stage == from)?;
        read.stage = to;
        Some((read.region, read.offset_frames))
    }

    pub(super) fn posted(&mut self, id: ReadId) {
        self.step(id, Stage::Waiting, Stage::Posted);
    }

    pub(super) fn asked(&mut self, id: ReadId) {
        self.step(id, Stage::Waiting, Stage::Asked);
    }

    /// It will not be begun.
    pub(super) fn refused(&mut self, id: ReadId) {
        self.step(id, Stage::Waiting, Stage::Ended);
    }

    /// The device has done it.
    pub(super) fn completed(&mut self, id: ReadId) -> Option<(RegionId, u32)> {
        self.step(id, Stage::Posted, Stage::Ended)
    }

    /// The owner has answered; `None`: it was not asked that.
    pub(super) fn answered(&mut self, id: ReadId) -> Option<(RegionId, u32)> {
        self.step(id, Stage::Asked, Stage::Ended)
    }

    /// The device could not do it.
    pub(super) fn lost(&mut self, id: ReadId) {
        self.step(id, Stage::Posted, Stage::Waiting);
    }

    /// The device does none of what it had.
    pub(super) fn posted_are_lost(&mut self) {
        for read in self.reads.iter_mut().filter(|read| read.stage == Stage::Posted) {
            read.stage = Stage::Waiting;
        }
    }

    /// Its event was taken: there is room for another.
    pub(super) fn taken(&mut self, id: ReadId) {
        self.reads.retain(|read| read.id != id || read.stage != Stage::Ended);
    }

    /// The oldest that has not ended, which then has.
    pub(super) fn end_any(&mut self) -> Option<(ReadId, RegionId, u32)> {
        let read = self.reads.iter_mut().find(|read| read.stage != Stage::Ended)?;
        read.stage = Stage::Ended;
        Some((read.id, read.region, read.offset_frames))
    }
}

/// An answer to a question that was not asked, or was answered before.
#[cold]
pub(super) fn not_asked(token: u64) -> LinkError {
    let what = "token in an answer to a read";
    DecodeError::Field { what, found: token, expected: "that of a question not yet answered" }
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: RegionId = RegionId(3);

    fn with(reads: u64) -> Asked {
        let mut asked = Asked::default();
        for id in 0..reads {
            assert!(asked.begin(ReadId(id), REGION, 7));
        }
        asked
    }

    #[test]
    fn a_read_that_the_device_loses_waits_again_and_ends_once() {
        let mut asked = with(1);
        let (id, what) = (ReadId(0), Some((REGION, 7)));
        asked.posted(id);
        assert_eq!((asked.next_waiting(), asked.answered(id)), (None, None));
        asked.lost(id);
        asked.posted(id);
        asked.posted_are_lost();
        assert_eq!(asked.completed(id), None, "it is no longer the device's");
        assert_eq!(asked.next_waiting(), Some((id, REGION, 7)));
        asked.asked(id);
        asked.posted_are_lost();
        assert_eq!(asked.next_waiting(), None, "what was asked for survives queue pairs");
        assert_eq!(asked.answered(id), what);
        assert_eq!((asked.answered(id), asked.end_any()), (None, None));
    }

    #[test]
    fn a_read_counts_until_its_event_is_taken() {
        let mut asked = with(READS_MAX as u64);
        assert!(!asked.begin(ReadId(99), REGION, 0));
        asked.taken(ReadId(5));
        assert_eq!(asked.room(), 0, "it has not ended");
        asked.asked(ReadId(5));
        asked.answered(ReadId(5));
        assert_eq!(asked.room(), 0, "its event waits");
        asked.taken(ReadId(5));
        assert!(asked.begin(ReadId(99), REGION, 0));
    }

    #[test]
    fn whatever_stage_they_are_at_the_end_of_the_session_ends_each_once() {
        let mut asked = with(4);
        asked.posted(ReadId(1));
        asked.asked(ReadId(2));
        asked.asked(ReadId(3));
        asked.answered(ReadId(3));
        let ended: Vec<_> = std::iter::from_fn(|| asked.end_any()).map(|(id, ..)| id.0).collect();
        assert_eq!(ended, [0, 1, 2]);
    }
}
