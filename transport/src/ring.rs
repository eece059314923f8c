//! A queue whose elements are written, read and left where they lie: what is large is not moved to
//! enter it, and not moved to be forgotten.
//!
//! ```text
//!   places   | . | . | 3 | 4 | 5 | . | . | . |     a power of two of them
//!                      ^head        ^head + len    both modulo the number of places
//! ```
//! A place that nothing lies in keeps what lay there last, until it is written again: whoever forgets
//! an element first takes out of it what others wait for.

use std::fmt;

/// What lies in a place that nothing was written to.
pub(crate) trait Vacant {
    fn vacant() -> Self;
}

/// See the module.
pub(crate) struct Ring<T> {
    places: Box<[T]>,
    /// Place of the first element.
    head: usize,
    len: usize,
}

impl<T: Vacant> Ring<T> {
    /// Room for `count` elements before it has to grow.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { places: places(count.max(1).next_power_of_two()), head: 0, len: 0 }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn place(&self, index: usize) -> usize {
        self.head.wrapping_add(index) & (self.places.len() - 1)
    }

    /// The place behind the last element, which is the last one from now on: the caller writes all of
    /// it.
    #[inline]
    pub(crate) fn push(&mut self) -> &mut T {
        if self.len == self.places.len() {
            self.grow();
        }
        let place = self.place(self.len);
        self.len += 1;
        &mut self.places[place]
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index < self.len { self.places.get(self.place(index)) } else { None }
    }

    /// Takes the first element out, as it lies there, to be looked at until the next is written.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<&mut T> {
        if self.len == 0 {
            return None;
        }
        let place = self.head;
        self.forget(1);
        self.places.get_mut(place)
    }

    /// Forgets the first `count` elements, or all; they lie there still.
    #[inline]
    pub(crate) fn forget(&mut self, count: usize) {
        if count < self.len {
            self.head = self.place(count);
            self.len -= count;
        } else {
            // Back to the places that are still in the cache.
            (self.head, self.len) = (0, 0);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).filter_map(|index| self.get(index))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let (before, from) = self.places.split_at_mut(self.head);
        from.iter_mut().chain(before).take(self.len)
    }

    /// Keeps those for which `keep` is true, in their order.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let all = std::mem::replace(self, Self::with_capacity(self.places.len()));
        for element in all.into_vec() {
            if keep(&element) {
                *self.push() = element;
            }
        }
    }

    /// All elements, the first one first.
    pub(crate) fn into_vec(mut self) -> Vec<T> {
        self.places.rotate_left(self.head);
        let mut elements = self.places.into_vec();
        elements.truncate(self.len);
        elements
    }

    #[cold]
    fn grow(&mut self) {
        self.reserve(self.places.len() + 1);
    }

    /// Makes room for `count` elements in all.
    pub(crate) fn reserve(&mut self, count: usize) {
        if count <= self.places.len() {
            return;
        }
        let more = places(count.next_power_of_two());
        let old = std::mem::replace(&mut self.places, more);
        let len = self.len;
        let elements = Self { places: old, head: self.head, len }.into_vec();
        (self.head, self.len) = (0, 0);
        for element in elements {
            *self.push() = element;
        }
    }
}

impl<T: Vacant + fmt::Debug> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn places<T: Vacant>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::vacant()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::VecDeque, rc::Rc};

    impl Vacant for u16 {
        fn vacant() -> Self {
            0
        }
    }

    impl Vacant for Option<Rc<()>> {
        fn vacant() -> Self {
            None
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u16),
        Pop,
        Forget(usize),
        Reserve(usize),
        Retain(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => any::<u16>().prop_map(Step::Push),
            4 => Just(Step::Pop),
            1 => (0usize..9).prop_map(Step::Forget),
            1 => (0usize..70).prop_map(Step::Reserve),
            1 => (1u16..5).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_queue_holds(steps in prop::collection::vec(step(), 0..300)) {
            let (mut ring, mut queue) = (Ring::with_capacity(3), VecDeque::new());
            for step in steps {
                match step {
                    Step::Push(value) => {
                        *ring.push() = value;
                        queue.push_back(value);
                    }
                    Step::Pop => {
                        prop_assert_eq!(ring.get(0), queue.front());
                        prop_assert_eq!(ring.pop().copied(), queue.pop_front());
                    }
                    Step::Forget(count) => {
                        ring.forget(count);
                        queue.drain(..count.min(queue.len()));
                    }
                    Step::Reserve(count) => ring.reserve(count),
                    Step::Retain(divisor) => {
                        ring.retain(|value| value % divisor == 0);
                        queue.retain(|value| value % divisor == 0);
                    }
                }
                prop_assert_eq!((ring.len(), ring.is_empty()), (queue.len(), queue.is_empty()));
                prop_assert!(ring.iter().eq(&queue));
                prop_assert!(ring.iter_mut().map(|value| &*value).eq(&queue));
                prop_assert_eq!(ring.get(queue.len()), None);
            }
            prop_assert_eq!(queue, ring.into_vec());
        }
    }

    #[test]
    fn what_is_taken_out_of_an_element_is_free_at_once() {
        let mut ring = Ring::<Option<Rc<()>>>::with_capacity(2);
        let thing = Rc::new(());
        *ring.push() = Some(Rc::clone(&thing));
        ring.pop().unwrap().take();
        assert_eq!((ring.len(), Rc::strong_count(&thing)), (0, 1));
    }

    #[test]
    fn within_its_capacity_it_allocates_nothing() {
        let mut ring = Ring::with_capacity(100);
        let counted = allocation_counter::measure(|| {
            for round in 0..1000u16 {
                while ring.len() < 100 {
                    *ring.push() = round;
                }
                ring.forget(1 + usize::from(round % 100));
            }
        });
        assert_eq!(counted.count_total, 0);
    }
}
