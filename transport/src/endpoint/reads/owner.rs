//! The owner's side: what a peer has asked for and is not yet answered. Pure.

use crate::error::LinkError;
use pagewire_protocol::{DecodeError, ReadRefusal, RegionId, read::READS_MAX};
use std::{collections::VecDeque, ops::Range};

/// What a peer wants to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    /// The peer's number for it.
    pub(super) token: u64,
    pub(super) region: RegionId,
    offset_frames: u32,
}

/// Questions of one peer, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Owed {
    questions: VecDeque<Question>,
    /// The question that was last found to wait for a frame.
    without_frame: Option<u64>,
}

impl Owed {
    /// # Errors
    /// When more are under way than a correct peer has.
    pub(super) fn push(
        &mut self,
        token: u64,
        region: RegionId,
        offset_frames: u32,
    ) -> Result<(), LinkError> {
        if self.questions.len() == READS_MAX {
            let (what, found) = ("reads of a peer under way", READS_MAX as u64 + 1);
            return Err(DecodeError::Field { what, found, expected: "32 at most" }.into());
        }
        self.questions.push_back(Question { token, region, offset_frames });
        Ok(())
    }

    pub(super) fn first(&self) -> Option<&Question> {
        self.questions.front()
    }

    /// The oldest that gets a refusal, and which.
    pub(super) fn first_refused<'a>(
        &self,
        frames_of: impl Fn(RegionId) -> Option<&'a Range<u32>>,
    ) -> Option<(u64, ReadRefusal)> {
        let refused = |question: &Question| {
            let why = judge(frames_of(question.region), question).err()?;
            Some((question.token, why))
        };
        self.questions.iter().find_map(refused)
    }

    /// No frame is free for this answer; false: that is known already.
    pub(super) fn waits_for_frame(&mut self, token: u64) -> bool {
        self.without_frame.replace(token) != Some(token)
    }

    /// This one is.
    pub(super) fn answered(&mut self, token: u64) {
        if let Some(at) = self.questions.iter().position(|question| question.token == token) {
            self.questions.remove(at);
        }
    }
}

/// Which frame of the arena is meant, in the region's frames.
pub(super) fn judge(frames: Option<&Range<u32>>, question: &Question) -> Result<u32, ReadRefusal> {
    let frames = frames.ok_or(ReadRefusal::UnknownRegion)?;
    let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
    if question.offset_frames >= count {
        return Err(ReadRefusal::OutOfBounds { frames: count });
    }
    Ok(frames.start + question.offset_frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_of_the_region_are_given() {
        let question = |offset_frames| Question { token: 1, region: RegionId(1), offset_frames };
        let frames = 5..8;
        assert_eq!(judge(Some(&frames), &question(0)), Ok(5));
        assert_eq!(judge(Some(&frames), &question(2)), Ok(7));
        let beyond = Err(ReadRefusal::OutOfBounds { frames: 3 });
        for offset in [3, 4, u32::MAX] {
            assert_eq!(judge(Some(&frames), &question(offset)), beyond);
        }
        assert_eq!(judge(None, &question(0)), Err(ReadRefusal::UnknownRegion));
    }

    #[test]
    fn a_peer_that_asks_for_more_than_it_may_is_told_so() {
        let mut owed = Owed::default();
        for token in 0..READS_MAX as u64 {
            owed.push(token, RegionId(0), 0).unwrap();
        }
        let text = owed.push(99, RegionId(0), 0).unwrap_err().to_string();
        assert!(text.contains("33, expected 32 at most"), "{text}");
        owed.answered(0);
        owed.push(99, RegionId(0), 0).unwrap();
    }
}
