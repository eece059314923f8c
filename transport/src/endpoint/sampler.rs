//! Round trips, from a message's way to the link until its acknowledgement: one message in
//! [`MESSAGES_PER_SAMPLE`] of each lane is timed, so that the clock costs the others nothing.
//!
//! An acknowledgement waits for a message to travel with: on a lane that nobody answers, this is
//! how long the peer was not quiet. A message that was sent again after the loss of a link is not
//! counted, because nobody can tell which sending was acknowledged.

use pagewire_protocol::{Lane, Sequence};
use std::time::{Duration, Instant};

/// Messages of a lane from one sample to the next.
const MESSAGES_PER_SAMPLE: u32 = 64;

#[derive(Debug, Default)]
struct LaneSample {
    timed: Option<(Sequence, Instant)>,
    messages_left: u32,
}

impl LaneSample {
    #[cold]
    fn begin(&mut self, sequence: Sequence) {
        self.timed = Some((sequence, Instant::now()));
        self.messages_left = MESSAGES_PER_SAMPLE - 1;
    }
}

#[derive(Debug, Default)]
pub(super) struct Sampler([LaneSample; Lane::COUNT]);

impl Sampler {
    /// A message has been given to the link for the first time.
    #[inline(always)] // Mostly it counts down.
    pub(super) fn sent(&mut self, lane: Lane, sequence: Sequence) {
        let sample = &mut self.0[lane.index()];
        if sample.messages_left > 0 {
            sample.messages_left -= 1;
        } else if sample.timed.is_none() {
            sample.begin(sequence);
        }
    }

    /// An acknowledgement of `lane` may end a round trip.
    #[inline]
    pub(super) fn is_timed(&self, lane: Lane) -> bool {
        self.0[lane.index()].timed.is_some()
    }

    /// `lane` is acknowledged up to `ack`; the round trip, if that ends one.
    #[inline]
    pub(super) fn acknowledged(&mut self, lane: Lane, ack: Sequence) -> Option<Duration> {
        let timed = &mut self.0[lane.index()].timed;
        let (_, start) = timed.filter(|(sequence, _)| *sequence <= ack)?;
        *timed = None;
        Some(start.elapsed())
    }

    /// The link is gone.
    pub(super) fn forget(&mut self) {
        for sample in &mut self.0 {
            sample.timed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_in_64_is_timed_and_ends_with_its_own_acknowledgement() {
        let mut sampler = Sampler::default();
        let mut samples = 0;
        for sequence in (1..=640).map(Sequence) {
            sampler.sent(Lane::Pages, sequence);
            assert_eq!(sampler.acknowledged(Lane::Si, sequence), None);
            if sequence.0 % 2 == 0 {
                samples += u32::from(sampler.acknowledged(Lane::Pages, sequence).is_some());
            }
        }
        assert_eq!(samples, 10);
        sampler.sent(Lane::Pages, Sequence(641));
        assert_eq!(sampler.acknowledged(Lane::Pages, Sequence(640)), None);
        sampler.forget();
        assert_eq!(sampler.acknowledged(Lane::Pages, Sequence(641)), None);
    }
}
