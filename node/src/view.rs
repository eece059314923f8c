//! Who is in the cluster and who masters what.
//!
//! Every instance computes the same partition map from the member list alone: a partition goes to
//! the member whose hash with it is greatest (rendezvous hashing, Thaler and Ravishankar 1998), so
//! that a change of the list moves only the partitions that have to move.

use pagewire_protocol::{BufferTag, Epoch, InstanceId, PartitionId, crc32c, tag::PARTITIONS};

/// Most members of a view; the directory keeps holders in a 64-bit set.
pub const MEMBERS_MAX: u16 = 64;

/// A membership view; fixed for the life of the process in this version.
#[derive(Debug, Clone)]
pub struct View {
    epoch: Epoch,
    members: Vec<InstanceId>,
    masters: Vec<InstanceId>,
}

/// Why a member list is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Nobody is in it.
    #[error("the member list is empty; name at least one instance")]
    Empty,
    /// An id cannot be used.
    #[error("instance id {0} is out of range; ids are 0 to 63")]
    IdOutOfRange(InstanceId),
    /// An id is there twice.
    #[error("instance id {0} is listed twice; give each instance its own")]
    Twice(InstanceId),
}

impl View {
    /// The view `epoch` of `members`, in any order.
    ///
    /// # Errors
    /// [`ViewError`] when the list is empty, or an id is out of range or there twice.
    pub fn new(epoch: Epoch, mut members: Vec<InstanceId>) -> Result<Self, ViewError> {
        members.sort_unstable();
        if let Some(&id) = members.iter().find(|id| id.0 >= MEMBERS_MAX) {
            return Err(ViewError::IdOutOfRange(id));
        }
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ViewError::Twice(pair[0]));
        }
        let master =
            |partition: u16| members.iter().copied().max_by_key(|id| (weight(partition, *id), *id));
        let masters = (0..PARTITIONS).map(master).collect::<Option<Vec<_>>>();
        let masters = masters.ok_or(ViewError::Empty)?;
        Ok(Self { epoch, members, masters })
    }

    /// Number of the view.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> &[InstanceId] {
        &self.members
    }

    /// The instance that keeps the directory entries of `partition`.
    #[must_use]
    pub fn master_of(&self, partition: PartitionId) -> InstanceId {
        self.masters[usize::from(partition.0 % PARTITIONS)]
    }

    /// The instance that keeps the directory entry of page `tag`.
    #[must_use]
    pub fn master(&self, tag: &BufferTag) -> InstanceId {
        self.master_of(tag.partition())
    }

    /// A hash of member list and partition map; instances with different ones refuse each other.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let bytes = |ids: &[InstanceId]| -> Vec<u8> {
            ids.iter().flat_map(|id| id.0.to_le_bytes()).collect()
        };
        let members = crc32c(&[&self.epoch.0.to_le_bytes(), &bytes(&self.members)]);
        u64::from(members) << 32 | u64::from(crc32c(&[&bytes(&self.masters)]))
    }
}

fn weight(partition: u16, member: InstanceId) -> u64 {
    BufferTag { relation: u32::from(partition), block: u32::from(member.0), ..BufferTag::default() }
        .hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ids: &[u16]) -> View {
        View::new(Epoch(1), ids.iter().copied().map(InstanceId).collect()).unwrap()
    }

    #[test]
    fn the_map_depends_on_the_members_not_on_their_order() {
        assert_eq!(view(&[2, 0, 1]).hash(), view(&[0, 1, 2]).hash());
        assert_ne!(view(&[0, 1]).hash(), view(&[0, 1, 2]).hash());
    }

    #[test]
    fn a_newcomer_takes_partitions_and_moves_no_others() {
        let (two, three) = (view(&[0, 1]), view(&[0, 1, 2]));
        let mut taken = 0;
        for partition in (0..PARTITIONS).map(PartitionId) {
            let (before, after) = (two.master_of(partition), three.master_of(partition));
            assert!(before == after || after == InstanceId(2));
            taken += u32::from(after == InstanceId(2));
        }
        assert!((1200..1530).contains(&taken), "a third of 4096, got {taken}");
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        let ids = |ids: &[u16]| ids.iter().copied().map(InstanceId).collect();
        assert_eq!(View::new(Epoch(1), ids(&[])).err(), Some(ViewError::Empty));
        assert_eq!(View::new(Epoch(1), ids(&[1, 1])).err(), Some(ViewError::Twice(InstanceId(1))));
        let out = ViewError::IdOutOfRange(InstanceId(64));
        assert_eq!(View::new(Epoch(1), ids(&[0, 64])).err(), Some(out));
    }
}
