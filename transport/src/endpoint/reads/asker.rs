//! The asker's side: reads under way and how far each is. Pure.

use super::ReadId;
use crate::error::LinkError;
use pagewire_protocol::{DecodeError, RegionId, read::READS_MAX};
use std::time::Instant;

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

/// A read whose deadline has passed, while owner or device still has it.
#[derive(Debug)]
struct Late {
    id: ReadId,
    region: RegionId,
    /// Posted or asked.
    stage: Stage,
}

#[derive(Debug)]
struct Read {
    id: ReadId,
    region: RegionId,
    offset_frames: u32,
    stage: Stage,
    /// When the caller is told that there is no page.
    deadline: Instant,
}

/// The reads of one peer's regions, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Asked {
    reads: Vec<Read>,
    /// They count as reads under way, because for the other end they are.
    late: Vec<Late>,
}

impl Asked {
    pub(super) fn room(&self) -> usize {
        READS_MAX.saturating_sub(self.reads.len() + self.late.len())
    }

    /// One more; false: there is no room.
    pub(super) fn begin(
        &mut self,
        id: ReadId,
        (region, offset_frames): (RegionId, u32),
        deadline: Instant,
    ) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.reads.push(Read { id, region, offset_frames, stage: Stage::Waiting, deadline });
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
        self.late_ended(id);
    }

    /// The earliest deadline of those that have not ended.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let under_way = self.reads.iter().filter(|read| read.stage != Stage::Ended);
        under_way.map(|read| read.deadline).min()
    }

    /// A read whose deadline has passed, which then has ended, and what it waited for.
    pub(super) fn expire(
        &mut self,
        now: Instant,
    ) -> Option<(ReadId, (RegionId, u32), &'static str)> {
        let is_due = |read: &&mut Read| read.stage != Stage::Ended && read.deadline <= now;
        let read = self.reads.iter_mut().find(is_due)?;
        let waited_for = match read.stage {
            Stage::Waiting => "a link, for credit or for a free frame at this end",
            Stage::Posted => "the RDMA device",
            Stage::Asked | Stage::Ended => {
                "the owner, which was asked and has no free frame, does not poll or is cut off"
            }
        };
        if read.stage != Stage::Waiting {
            self.late.push(Late { id: read.id, region: read.region, stage: read.stage });
        }
        read.stage = Stage::Ended;
        Some((read.id, (read.region, read.offset_frames), waited_for))
    }

    /// What comes for this read comes after its deadline; false: it does not.
    pub(super) fn late_ended(&mut self, id: ReadId) -> bool {
        let at = self.late.iter().position(|late| late.id == id);
        at.map(|at| self.late.swap_remove(at)).is_some()
    }

    /// The device does none of what it had.
    pub(super) fn posted_are_lost(&mut self) {
        for read in self.reads.iter_mut().filter(|read| read.stage == Stage::Posted) {
            read.stage = Stage::Waiting;
        }
        self.late.retain(|late| late.stage != Stage::Posted);
    }

    /// Whether the device has a read of that region.
    pub(super) fn has_posted(&self, region: RegionId) -> bool {
        let of_it = |of: RegionId, stage| of == region && stage == Stage::Posted;
        self.reads.iter().any(|read| of_it(read.region, read.stage))
            || self.late.iter().any(|late| of_it(late.region, late.stage))
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
            assert!(asked.begin(ReadId(id), (REGION, 7), Instant::now()));
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
    fn a_read_that_is_late_is_the_device_s_until_it_has_ended_or_cannot_end() {
        let start = Instant::now();
        for is_lost in [true, false] {
            let mut asked = Asked::default();
            assert!(asked.begin(ReadId(0), (REGION, 7), start));
            assert!(!asked.has_posted(REGION));
            asked.posted(ReadId(0));
            assert!(asked.has_posted(REGION) && !asked.has_posted(RegionId(4)));
            assert!(asked.expire(start).is_some());
            asked.taken(ReadId(0));
            assert!(asked.has_posted(REGION), "it may still write to its frame");
            if is_lost {
                asked.posted_are_lost();
            } else {
                assert!(asked.late_ended(ReadId(0)));
            }
            assert!(!asked.has_posted(REGION));
        }
    }

    #[test]
    fn a_read_counts_until_its_event_is_taken() {
        let mut asked = with(READS_MAX as u64);
        assert!(!asked.begin(ReadId(99), (REGION, 0), Instant::now()));
        asked.taken(ReadId(5));
        assert_eq!(asked.room(), 0, "it has not ended");
        asked.asked(ReadId(5));
        asked.answered(ReadId(5));
        assert_eq!(asked.room(), 0, "its event waits");
        asked.taken(ReadId(5));
        assert!(asked.begin(ReadId(99), (REGION, 0), Instant::now()));
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

    #[test]
    fn a_read_past_its_deadline_counts_until_what_is_late_has_come_or_cannot_come() {
        let start = Instant::now();
        let mut asked = Asked::default();
        for id in 0..3 {
            assert!(asked.begin(ReadId(id), (REGION, 7), start));
        }
        asked.posted(ReadId(1));
        asked.asked(ReadId(2));
        assert_eq!(asked.next_deadline(), Some(start));
        let expired: Vec<_> = std::iter::from_fn(|| asked.expire(start)).collect();
        assert_eq!(expired.iter().map(|(id, ..)| id.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((asked.next_deadline(), asked.end_any()), (None, None), "each ends once");
        (0..3).for_each(|id| asked.taken(ReadId(id)));
        assert_eq!(asked.room(), READS_MAX - 2, "device and owner have one each");
        assert_eq!(asked.answered(ReadId(2)), None);
        asked.posted_are_lost();
        assert_eq!(asked.room(), READS_MAX - 1);
        assert!(asked.late_ended(ReadId(2)) && !asked.late_ended(ReadId(2)));
        assert_eq!(asked.room(), READS_MAX);
    }
}
