//! Messages on their way from any thread to the one that publishes them: bounded, in order, without
//! locks and allocations.
//!
//! A thread takes places for its whole batch with one compare-exchange, fills them, and stamps each
//! with its position + 1; the one taker goes on as far as the stamps go. So a batch is never torn
//! apart by another one, and positions say how far everything is.
//!
//! ```text
//!        head (taken)                      tail (promised)
//!          |   stamped, to be taken   | being |    free
//!   -------+--------------------------+ filled+--------------------
//! ```

use pagewire_protocol::si::wire::SiBytes;
use std::sync::atomic::{AtomicU64, Ordering};

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Apart(AtomicU64);

#[derive(Debug, Default)]
struct Slot {
    stamp: AtomicU64,
    words: [AtomicU64; 2],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    slots: Box<[Slot]>,
    tail: Apart,
    head: Apart,
}

impl Queue {
    /// One with room for `capacity` messages, a power of two.
    pub(crate) fn new(capacity: usize) -> Self {
        debug_assert!(capacity.is_power_of_two());
        let slots = std::iter::repeat_with(Slot::default).take(capacity).collect();
        Self { slots, tail: Apart::default(), head: Apart::default() }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, position: u64) -> &Slot {
        // The mask leaves what is below the number of slots.
        let at = position & (self.slots.len() as u64 - 1);
        &self.slots[usize::try_from(at).unwrap_or(0)]
    }

    /// Puts messages in, in order; back comes the position behind the last one. `Err`: there is no room
    /// for so many now.
    pub(crate) fn push(&self, messages: impl ExactSizeIterator<Item = SiBytes>) -> Result<u64, ()> {
        let count = messages.len() as u64;
        let mut first = self.tail.0.load(Ordering::Relaxed);
        loop {
            let taken = self.head.0.load(Ordering::Acquire);
            // Another thread may have moved the tail since, and the taker its head.
            let waiting = first.saturating_sub(taken);
            if waiting + count > self.slots.len() as u64 {
                return Err(());
            }
            let next = first + count;
            let (ok, failed) = (Ordering::AcqRel, Ordering::Relaxed);
            match self.tail.0.compare_exchange_weak(first, next, ok, failed) {
                Ok(_) => break,
                Err(now) => first = now,
            }
        }
        for (position, message) in (first..).zip(messages) {
            let slot = self.slot(position);
            let (halves, _) = message.as_chunks::<8>();
            for (word, half) in slot.words.iter().zip(halves) {
                word.store(u64::from_le_bytes(*half), Ordering::Relaxed);
            }
            slot.stamp.store(position + 1, Ordering::Release);
        }
        Ok(first + count)
    }

    /// The position behind everything that was promised.
    pub(crate) fn tail(&self) -> u64 {
        self.tail.0.load(Ordering::Acquire)
    }

    /// True when at least `count` messages, one or more, can be taken. The taker asks.
    pub(crate) fn has(&self, count: usize) -> bool {
        let last = self.head.0.load(Ordering::Relaxed) + count as u64;
        self.slot(last - 1).stamp.load(Ordering::Acquire) == last
    }

    /// Appends up to `most` messages to `out`; back comes the position behind them. One thread takes.
    pub(crate) fn take(&self, most: usize, out: &mut Vec<SiBytes>) -> u64 {
        let mut position = self.head.0.load(Ordering::Relaxed);
        for _ in 0..most {
            let slot = self.slot(position);
            if slot.stamp.load(Ordering::Acquire) != position + 1 {
                break;
            }
            let mut message = SiBytes::default();
            for (half, word) in message.as_chunks_mut::<8>().0.iter_mut().zip(&slot.words) {
                *half = word.load(Ordering::Relaxed).to_le_bytes();
            }
            out.push(message);
            position += 1;
        }
        self.head.0.store(position, Ordering::Release);
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    fn message(thread: u64, number: u64) -> SiBytes {
        (u128::from(thread) << 64 | u128::from(number)).to_le_bytes()
    }

    #[test]
    fn a_batch_without_room_is_handed_back_and_nothing_of_it_is_in() {
        let queue = Queue::new(8);
        let mut out = Vec::new();
        assert!(!queue.has(1));
        assert_eq!(
            queue.push((0..6).map(|n| message(0, n)).collect::<Vec<_>>().into_iter()),
            Ok(6)
        );
        assert_eq!(queue.push([message(1, 0); 3].into_iter()), Err(()));
        assert!(queue.has(6) && !queue.has(7));
        assert_eq!(queue.take(4, &mut out), 4);
        assert_eq!(queue.push([message(1, 0); 3].into_iter()), Ok(9));
        assert_eq!((queue.take(100, &mut out), queue.tail()), (9, 9));
        assert_eq!(out[..6], (0..6).map(|n| message(0, n)).collect::<Vec<_>>());
        assert_eq!(out[6..], [message(1, 0); 3]);
    }

    #[test]
    fn batches_of_many_threads_stay_whole_and_in_their_threads_order() {
        const THREADS: u64 = 4;
        const BATCHES: u64 = 2_000;
        let queue = Arc::new(Queue::new(64));
        let threads: Vec<_> = (0..THREADS)
            .map(|id| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    for batch in 0..BATCHES {
                        let messages: Vec<_> = (0..3).map(|n| message(id, batch * 3 + n)).collect();
                        while queue.push(messages.iter().copied()).is_err() {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let (mut out, total) = (Vec::new(), usize::try_from(THREADS * BATCHES * 3).unwrap());
        while out.len() < total {
            queue.take(17, &mut out);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut next = [0; 4];
        for batch in out.chunks(3) {
            let id = usize::from(batch[0][8]);
            for one in batch {
                assert_eq!(*one, message(id as u64, next[id]));
                next[id] += 1;
            }
        }
    }
}
