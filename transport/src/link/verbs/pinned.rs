//! An array whose elements never move, so that they may point at each other: work requests in a chain
//! for C to follow.
//!
//! Leaf module: the unsafe here is that of a box whose content is reached by raw pointers only. A
//! plain `Box` will not do: touching it through a reference would invalidate the pointers that its
//! elements hold to each other.

use std::ptr::NonNull;

/// `len` elements, fixed at start.
pub(super) struct Pinned<T> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: owns its elements as a box does. The pointers in them are to elements of arrays that
// their owner moves together with this one.
unsafe impl<T> Send for Pinned<T> {}

impl<T: Copy> Pinned<T> {
    pub(super) fn new(len: usize, element: T) -> Self {
        let elements = vec![element; len].into_boxed_slice();
        let first = NonNull::from(Box::leak(elements)).cast();
        Self { first, len }
    }

    /// The address of an element; valid as long as the array.
    #[inline(always)] // Of each message.
    pub(super) fn at(&self, index: usize) -> *mut T {
        if index >= self.len {
            outside(index, self.len);
        }
        // SAFETY: inside of the array, see above.
        unsafe { self.first.as_ptr().add(index) }
    }

    /// Which element `address` is of.
    pub(super) fn index_of(&self, address: *const T) -> Option<usize> {
        let bytes = address.addr().checked_sub(self.first.addr().get())?;
        let index = bytes / size_of::<T>();
        (bytes % size_of::<T>() == 0 && index < self.len).then_some(index)
    }

    #[cfg(test)]
    pub(super) fn get(&self, index: usize) -> T {
        // SAFETY: `at` gives an element, initialised in `new`; whoever writes has `&mut self`.
        unsafe { *self.at(index) }
    }

    /// An element, to be changed.
    #[inline(always)] // Of each message.
    pub(super) fn get_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: as of `update`.
        unsafe { &mut *self.at(index) }
    }

    /// Changes an element.
    #[inline]
    pub(super) fn update(&mut self, index: usize, change: impl FnOnce(&mut T)) {
        // SAFETY: as above; C follows the pointers during a call only, to which `self` is lent.
        change(unsafe { &mut *self.at(index) });
    }
}

/// Takes numbers, not references: what calls it keeps them in registers.
#[cold]
#[inline(never)]
fn outside(index: usize, len: usize) -> ! {
    panic!("element {index} of {len}");
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let elements = NonNull::slice_from_raw_parts(self.first, self.len);
        // SAFETY: the box that was leaked in `new`.
        drop(unsafe { Box::from_raw(elements.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_point_at_each_other_stay_where_they_are() {
        let mut array = Pinned::new(3, (0u32, std::ptr::null_mut::<u8>()));
        for (from, to) in [(0, 2), (2, 1)] {
            let to = array.at(to).cast();
            array.update(from, |element| element.1 = to);
        }
        let mut moved = array;
        moved.update(1, |element| element.0 = 7);
        assert_eq!(moved.index_of(moved.get(0).1.cast()), Some(2));
        assert_eq!(moved.index_of(moved.get(2).1.cast()), Some(1));
        assert_eq!(moved.get(1).0, 7);
        assert_eq!(moved.index_of(moved.get(0).1.wrapping_add(1).cast()), None);
        assert_eq!(moved.index_of(moved.at(0).wrapping_add(3)), None);
    }
}
