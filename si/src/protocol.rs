//! The order of memory accesses between the ring's writer and its readers: a sequence lock over a
//! window that moves.
//!
//! ```text
//!   writer                                reader (cursor: the next sequence it wants)
//!   reserved = from + n                   head -> h
//!   fence(Release)             \      /   fence(Acquire)
//!   entries from..from + n      \    /    entries cursor..h -> out
//!   head = from + n (Release)   /\  /     fence(Acquire)
//!                              /  \/      reserved -> r
//!                                         r - cursor > capacity: lost
//! ```
//! Whoever copied a word of an entry written after the first fence sees, after its last one, the
//! `reserved` that was stored before: so what may have been overwritten while it was copied is always
//! told. Whoever saw `head` sees the entries below it. Each entry's sequence is looked at as well.
//!
//! Readers load relaxed and put a fence behind, never a load with an order of its own: they map the
//! ring read-only, and in such memory Rust promises relaxed loads alone.
//!
//! The text is used twice: by the crate, and with the model checker's atomics by tests/ring_model.rs.

use super::sync::{AtomicU64, Ordering, fence};

/// The shared words of a ring. An entry has `W` words; the first is its sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cells<'a, const W: usize> {
    /// The next sequence to be written: all below it are there, or have been overwritten.
    pub(crate) head: &'a AtomicU64,
    /// Sequences below this less the capacity may be overwritten by now.
    pub(crate) reserved: &'a AtomicU64,
    /// The entries; their number is a power of two, and sequence s lies at s modulo that.
    pub(crate) entries: &'a [[AtomicU64; W]],
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    /// So many entries, those from the cursor on.
    Entries(usize),
    /// What the cursor wants is not there any more. Nothing that was copied may be used.
    Lost,
}

impl<'a, const W: usize> Cells<'a, W> {
    fn capacity(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The entries of `count` sequences from `from` on, `count` at most the capacity: those up to the
    /// ring's end and those from its beginning.
    #[inline]
    fn run(&self, from: u64, count: usize) -> (&'a [[AtomicU64; W]], &'a [[AtomicU64; W]]) {
        // The remainder is below a length, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let at = (from & (self.capacity() - 1)) as usize;
        let (before, behind) = self.entries.split_at(at);
        let first = count.min(behind.len());
        (&behind[..first], &before[..count - first])
    }

    /// Writes `messages` at the sequences from `from` on, which is the writer's `head`, and gives the
    /// new one. No more messages than the capacity. For the one writer only.
    #[inline]
    pub(crate) fn write<M>(
        &self,
        from: u64,
        messages: &[M],
        words: impl Fn(u64, &M) -> [u64; W],
    ) -> u64 {
        let to = from + messages.len() as u64;
        self.reserved.store(to, Ordering::Relaxed);
        fence(Ordering::Release);
        let (first, second) = self.run(from, messages.len());
        let entries = first.iter().chain(second);
        for ((sequence, entry), message) in (from..).zip(entries).zip(messages) {
            for (place, word) in entry.iter().zip(words(sequence, message)) {
                place.store(word, Ordering::Relaxed);
            }
        }
        self.head.store(to, Ordering::Release);
        to
    }

    /// Moves `head` to `to` with nothing written: when that is more than the capacity beyond where it
    /// is, every reader finds itself lost. For the one writer only.
    pub(crate) fn jump(&self, to: u64) {
        self.reserved.store(to, Ordering::Relaxed);
        fence(Ordering::Release);
        self.head.store(to, Ordering::Release);
    }

    /// Copies what is there from `cursor` on, as much as `out` holds.
    #[inline]
    pub(crate) fn read<T: From<[u64; W]>>(&self, cursor: u64, out: &mut [T]) -> Copied {
        let head = self.head();
        if head == cursor {
            return Copied::Entries(0);
        }
        // A head that has gone back wraps round and is far away as well.
        let waiting = head.wrapping_sub(cursor);
        if waiting > self.capacity() {
            return Copied::Lost;
        }
        let count = usize::try_from(waiting).unwrap_or(usize::MAX).min(out.len());
        let (first, second) = self.run(cursor, count);
        let mut wrong = 0;
        for ((sequence, entry), place) in (cursor..).zip(first.iter().chain(second)).zip(out) {
            let words = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
            wrong |= words[0] ^ sequence;
            *place = T::from(words);
        }
        fence(Ordering::Acquire);
        let reserved = self.reserved.load(Ordering::Relaxed);
        if wrong != 0 || reserved.wrapping_sub(cursor) > self.capacity() {
            return Copied::Lost;
        }
        Copied::Entries(count)
    }

    /// The head, with everything below it.
    #[inline]
    pub(crate) fn head(&self) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        head
    }
}
