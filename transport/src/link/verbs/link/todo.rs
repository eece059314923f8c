//! What the next flush of a verbs link has to do, in one word: mostly it is nothing, or some small
//! messages, and one comparison tells.

/// A set of things to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Todo(u8);

impl Todo {
    /// A message was turned away because a queue is full, and nobody has tried again yet.
    pub(super) const FULL: Self = Self(1 << 6);
    /// The link is of no use any more, and the reason is to be told.
    pub(super) const FAILED: Self = Self(1 << 7);

    /// Sends of a class are queued and not posted.
    #[inline]
    pub(super) const fn sends(class: usize) -> Self {
        Self(1 << class)
    }

    /// Receives of a class are queued and to be posted.
    #[inline]
    pub(super) const fn receives(class: usize) -> Self {
        Self(8 << class)
    }

    #[inline]
    pub(super) fn add(&mut self, one: Self) {
        self.0 |= one.0;
    }

    /// Takes one thing out. True if it was there.
    #[inline]
    pub(super) fn take(&mut self, one: Self) -> bool {
        let was_there = self.0 & one.0 != 0;
        self.0 &= !one.0;
        was_there
    }

    #[inline]
    pub(super) fn is_any(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub(super) fn is_just(self, one: Self) -> bool {
        self == one
    }

    #[inline]
    pub(super) fn is_any_but(self, one: Self) -> bool {
        self.0 & !one.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_protocol::LaneClass;

    #[test]
    fn each_thing_is_one_of_its_own_and_is_done_once() {
        let classes = || 0..LaneClass::COUNT;
        let all: Vec<_> = classes()
            .map(Todo::sends)
            .chain(classes().map(Todo::receives))
            .chain([Todo::FULL, Todo::FAILED])
            .collect();
        let mut todo = Todo::default();
        for one in &all {
            assert!(!todo.take(*one), "{one:?} is another one, too");
            todo.add(*one);
        }
        for (left, one) in (0..all.len()).rev().zip(&all) {
            assert_eq!(todo.is_any_but(*one), left > 0);
            assert_eq!(todo.is_just(*one), left == 0);
            assert!(todo.is_any() && todo.take(*one) && !todo.take(*one));
        }
        assert!(!todo.is_any());
    }
}
