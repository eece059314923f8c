//! What instances say to each other about shared invalidations.
//!
//! A stream goes from one life of a publisher to one life of a subscriber, in their session. It begins
//! with SI_BEGIN; its batches are numbered, one after the other, and may come on two lanes, so that a
//! subscriber may have to hold one back until those before it are there.
//!
//! ```text
//!   SI_BEGIN   si lane        0 publisher's life   8 subscriber's life   16 next batch        24
//!   SI_BATCH   si lane        0 batch   8 count (1 to 4)   16 messages, 16 bytes each         80
//!   SI_FRAME   bulk lane      0 batch   8 count            16   + frame: the messages, 16 bytes each
//!   SI_ACK     control lane   0 up to this batch           8 view in force                    16
//! ```
//! All integers little-endian; counts are 8 bytes. What follows the messages in a frame means nothing.

use super::SI_MESSAGE_BYTES;
use crate::{Body, DecodeError, Epoch, Incarnation, MessageKind};

/// A stream begins.
pub const SI_BEGIN: MessageKind = MessageKind(111);
/// Up to [`INLINE_MAX`] messages, in the body.
pub const SI_BATCH: MessageKind = MessageKind(112);
/// Messages in a frame.
pub const SI_FRAME: MessageKind = MessageKind(113);
/// Everything up to a batch is in the subscriber's ring.
pub const SI_ACK: MessageKind = MessageKind(114);

/// Most messages in a body.
pub const INLINE_MAX: usize = 4;

/// Greatest number of a batch: none ever comes so far, and whoever counts on from it has room.
pub const BATCH_MAX: u64 = 1 << 62;

/// One message as it travels.
pub type SiBytes = [u8; SI_MESSAGE_BYTES];

const PREFIX_BYTES: usize = 16;
const _: () =
    assert!(PREFIX_BYTES + INLINE_MAX * SI_MESSAGE_BYTES == crate::header::BODY_BYTES_MAX);

/// Body of SI_BEGIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiBegin {
    /// The life that publishes.
    pub publisher: Incarnation,
    /// The life that it is for.
    pub subscriber: Incarnation,
    /// Number of the first batch that comes: what was before is covered by a reset.
    pub next: u64,
}

/// Body of SI_FRAME; the frame has the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiFrame {
    /// Number of the batch.
    pub batch: u64,
    /// Messages in the frame, from 1.
    pub count: u64,
}

/// Body of SI_ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiAck {
    /// The last batch that is in the ring; all before it are, too.
    pub up_to: u64,
    /// The view that is in force at the subscriber, as it says so.
    pub epoch: Epoch,
}

/// Body of SI_BATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiBatch {
    /// Number of the batch.
    pub batch: u64,
    count: usize,
    messages: [SiBytes; INLINE_MAX],
}

impl SiBegin {
    /// The message's body.
    #[must_use]
    pub fn encode(&self) -> Body {
        words([self.publisher.0, self.subscriber.0, self.next])
    }

    /// Reads what [`SiBegin::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError`]: another length, or a batch number of 0 or above [`BATCH_MAX`].
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let [publisher, subscriber, next] = read_words("SI_BEGIN body", body)?;
        let next = batch_number(next)?;
        Ok(Self { publisher: Incarnation(publisher), subscriber: Incarnation(subscriber), next })
    }
}

impl SiFrame {
    /// The message's body.
    #[must_use]
    pub fn encode(&self) -> Body {
        words([self.batch, self.count])
    }

    /// Reads what [`SiFrame::encode`] writes, and finds the messages in `frame`.
    ///
    /// # Errors
    /// [`DecodeError`]: another length, a batch number of 0 or above [`BATCH_MAX`], no message, or more
    /// than the frame holds.
    pub fn decode<'a>(body: &[u8], frame: &'a [u8]) -> Result<(Self, &'a [SiBytes]), DecodeError> {
        let [batch, count] = read_words("SI_FRAME body", body)?;
        let batch = batch_number(batch)?;
        let all = frame.as_chunks().0;
        let messages = usize::try_from(count).ok().and_then(|count| all.get(..count));
        match messages {
            Some(messages) if count > 0 => Ok((Self { batch, count }, messages)),
            _ => Err(DecodeError::Field {
                what: "count of an SI_FRAME",
                found: count,
                expected: "1 to as many messages as the frame holds",
            }),
        }
    }
}

impl SiAck {
    /// The message's body.
    #[must_use]
    pub fn encode(&self) -> Body {
        words([self.up_to, self.epoch.0])
    }

    /// Reads what [`SiAck::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError::Length`].
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let [up_to, epoch] = read_words("SI_ACK body", body)?;
        Ok(Self { up_to, epoch: Epoch(epoch) })
    }
}

impl SiBatch {
    /// A batch of these messages; `None` when there are none, or more than [`INLINE_MAX`].
    #[must_use]
    pub fn new(batch: u64, messages: &[SiBytes]) -> Option<Self> {
        let mut all = [SiBytes::default(); INLINE_MAX];
        all.get_mut(..messages.len())?.copy_from_slice(messages);
        (!messages.is_empty()).then_some(Self { batch, count: messages.len(), messages: all })
    }

    /// The messages.
    #[must_use]
    pub fn messages(&self) -> &[SiBytes] {
        &self.messages[..self.count]
    }

    /// The message's body.
    #[must_use]
    pub fn encode(&self) -> Body {
        let mut bytes = [0; crate::header::BODY_BYTES_MAX];
        let (head, rest) = bytes.split_at_mut(PREFIX_BYTES);
        head[..8].copy_from_slice(&self.batch.to_le_bytes());
        head[8..].copy_from_slice(&(self.count as u64).to_le_bytes());
        let rest = &mut rest[..self.count * SI_MESSAGE_BYTES];
        rest.copy_from_slice(self.messages().as_flattened());
        let length = PREFIX_BYTES + rest.len();
        Body::new(&bytes[..length]).unwrap_or(Body::EMPTY)
    }

    /// Reads what [`SiBatch::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError`]: a batch number of 0 or above [`BATCH_MAX`], or a count that the body does not
    /// have or that is out of range.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let what = "SI_BATCH body";
        let wrong = |expected| DecodeError::Length { what, found: body.len(), expected };
        let (head, rest) = body.split_at_checked(PREFIX_BYTES).ok_or(wrong(PREFIX_BYTES))?;
        let [batch, count] = read_words(what, head)?;
        let batch = batch_number(batch)?;
        let (messages, odd) = rest.as_chunks();
        let Some(decoded) = Self::new(batch, messages).filter(|it| it.count as u64 == count) else {
            let expected = "1 to 4, as many messages as the body has";
            return Err(DecodeError::Field {
                what: "count of an SI_BATCH",
                found: count,
                expected,
            });
        };
        if odd.is_empty() { Ok(decoded) } else { Err(wrong(body.len() - odd.len())) }
    }
}

fn batch_number(batch: u64) -> Result<u64, DecodeError> {
    let field = DecodeError::Field {
        what: "number of a batch of invalidations",
        found: batch,
        expected: "1 to 2^62",
    };
    if (1..=BATCH_MAX).contains(&batch) { Ok(batch) } else { Err(field) }
}

fn words<const N: usize>(words: [u64; N]) -> Body {
    Body::new(words.map(u64::to_le_bytes).as_flattened()).unwrap_or(Body::EMPTY)
}

fn read_words<const N: usize>(what: &'static str, body: &[u8]) -> Result<[u64; N], DecodeError> {
    let wrong = DecodeError::Length { what, found: body.len(), expected: N * size_of::<u64>() };
    let (read, rest) = body.as_chunks();
    let read = <[[u8; 8]; N]>::try_from(read).map_err(|_| wrong)?;
    if rest.is_empty() { Ok(read.map(u64::from_le_bytes)) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn every_body_survives_the_wire_and_no_other_length_does(
            numbers in any::<[u64; 3]>(),
            messages in vec(any::<SiBytes>(), 1..=INLINE_MAX),
        ) {
            let [one, two, next] = numbers.map(|number| number.clamp(1, BATCH_MAX));
            let begin = SiBegin { publisher: Incarnation(one), subscriber: Incarnation(two), next };
            prop_assert_eq!(SiBegin::decode(begin.encode().as_slice()), Ok(begin));
            let ack = SiAck { up_to: one, epoch: Epoch(two) };
            prop_assert_eq!(SiAck::decode(ack.encode().as_slice()), Ok(ack));
            let batch = SiBatch::new(next, &messages).unwrap();
            prop_assert_eq!(batch.messages(), &messages[..]);
            prop_assert_eq!(SiBatch::decode(batch.encode().as_slice()), Ok(batch));
            for body in [begin.encode(), ack.encode(), batch.encode()] {
                let longer = [body.as_slice(), &[0]].concat();
                for bytes in [&longer[..], &longer[..body.as_slice().len() - 1], &[]] {
                    prop_assert!(SiBegin::decode(bytes).is_err());
                    prop_assert!(SiAck::decode(bytes).is_err());
                    prop_assert!(SiBatch::decode(bytes).is_err());
                }
            }
        }

        #[test]
        fn a_frame_gives_as_many_messages_as_its_body_says_and_it_holds(
            batch in 1..=BATCH_MAX,
            count in 0u64..12,
            frame in vec(any::<u8>(), 0..160),
        ) {
            let body = SiFrame { batch, count }.encode();
            let fits = count > 0 && count * 16 <= frame.len() as u64;
            match SiFrame::decode(body.as_slice(), &frame) {
                Ok((read, messages)) => {
                    prop_assert!(fits);
                    prop_assert_eq!(read, SiFrame { batch, count });
                    let bytes = messages.as_flattened();
                    prop_assert_eq!(messages.len() as u64, count);
                    prop_assert_eq!(bytes, &frame[..bytes.len()]);
                }
                Err(_) => prop_assert!(!fits),
            }
        }

        #[test]
        fn any_bytes_decode_only_to_what_encodes_back(
            mut bytes in vec(any::<u8>(), 0..=80),
            small in any::<bool>(),
        ) {
            if small && bytes.len() >= 16 {
                bytes[8] %= 6;
                bytes[9..16].fill(0);
            }
            if let Ok(batch) = SiBatch::decode(&bytes) {
                let body = batch.encode();
                prop_assert_eq!(body.as_slice(), &bytes[..]);
            }
            if let Ok(begin) = SiBegin::decode(&bytes) {
                let body = begin.encode();
                prop_assert_eq!(body.as_slice(), &bytes[..]);
            }
            if let Ok(ack) = SiAck::decode(&bytes) {
                let body = ack.encode();
                prop_assert_eq!(body.as_slice(), &bytes[..]);
            }
        }
    }

    #[test]
    fn a_batch_without_a_number_or_messages_is_none() {
        assert_eq!(SiBatch::new(1, &[]), None);
        assert_eq!(SiBatch::new(1, &[[0; 16]; 5]), None);
        // Nor has one a number that whoever counts on from it would run over.
        for batch in [0, BATCH_MAX + 1, u64::MAX] {
            let none = SiBatch { batch, count: 1, messages: [[0; 16]; 4] };
            assert!(SiBatch::decode(none.encode().as_slice()).is_err());
            let frame = SiFrame { batch, count: 1 };
            assert!(SiFrame::decode(frame.encode().as_slice(), &[0; 32]).is_err());
            let life = Incarnation(1);
            let begin = SiBegin { publisher: life, subscriber: life, next: batch };
            assert!(SiBegin::decode(begin.encode().as_slice()).is_err());
        }
    }
}
