//! A set of instances in one word.

use pagewire_protocol::InstanceId;

/// A set of instances with ids below 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceSet(pub u64);

impl InstanceSet {
    /// The set of `id` alone.
    #[must_use]
    pub fn of(id: InstanceId) -> Self {
        Self(1 << (id.0 % 64))
    }

    /// Whether `id` is in it.
    #[must_use]
    pub fn has(self, id: InstanceId) -> bool {
        self.0 & Self::of(id).0 != 0
    }

    /// The set with `id`.
    #[must_use]
    pub fn with(self, id: InstanceId) -> Self {
        Self(self.0 | Self::of(id).0)
    }

    /// The set without `id`.
    #[must_use]
    pub fn without(self, id: InstanceId) -> Self {
        Self(self.0 & !Self::of(id).0)
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    #[must_use]
    pub fn count(self) -> u16 {
        u16::try_from(self.0.count_ones()).unwrap_or(64)
    }

    /// Its members, the least id first.
    pub fn iter(self) -> impl Iterator<Item = InstanceId> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let id = u16::try_from(left.trailing_zeros()).ok().filter(|id| *id < 64)?;
            left &= left - 1;
            Some(InstanceId(id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_out_in_order_and_only_those_that_went_in() {
        let ids = [63, 0, 5].map(InstanceId);
        let set = ids.into_iter().fold(InstanceSet::default(), InstanceSet::with);
        assert_eq!(set.iter().map(|id| id.0).collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(set.count(), 3);
        let set = set.without(InstanceId(5)).without(InstanceId(6));
        assert!(!set.has(InstanceId(5)) && set.has(InstanceId(63)) && !set.is_empty());
        assert_eq!(set.iter().count(), 2);
    }
}
