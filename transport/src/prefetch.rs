//! Hints to the processor: memory that is about to be read is to be brought nearer.
//!
//! What is known of a page that nobody has asked for lately lies in memory, a tenth of a microsecond away,
//! and in several places that name each other: index, entry, descriptor, the page itself. Looked up one
//! after the other each is waited for. Whoever knows early what will be looked up says so here, and all
//! of them come at the same time.

use std::ptr;

/// What the processor fetches at a time.
const LINE_BYTES: usize = 64;

/// Brings all of `value` nearer, a cache line at a time. It changes nothing, and waits for nothing.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let first = ptr::from_ref(value).cast::<u8>();
    let bytes = size_of::<T>();
    for at in (0..bytes).step_by(LINE_BYTES) {
        prefetch_line(first.wrapping_add(at));
    }
    // Where it does not begin with a line, it ends in one more.
    prefetch_line(first.wrapping_add(bytes.saturating_sub(1)));
}

/// Brings the line with this address nearer, if there is one.
#[inline(always)]
pub(crate) fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it reads nothing, and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_nearer_is_as_it_was_whatever_its_size() {
        let (nothing, bytes, lines) = ((), [7u8; 63], [9u64; 99]);
        prefetch(&nothing);
        prefetch(&bytes);
        prefetch(&lines);
        prefetch_line(ptr::null());
        assert_eq!((bytes, lines), ([7; 63], [9; 99]));
    }
}
