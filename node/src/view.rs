//! Who is in the cluster and who masters what.
//!
//! Every instance computes the same partition map from the member list alone: a partition goes to
//! the member whose hash with it is greatest (rendezvous hashing, Thaler and Ravishankar 1998), so
//! that a change of the list moves only the partitions that have to move. Members that are leaving
//! master nothing, as long as anyone else is there.
//!
//! A partition's epoch is that of the view that last gave it another master; an instance that was
//! started again is another master. Messages about a page carry it, so that a view change refuses
//! what is on its way only where it matters.

use pagewire_protocol::{
    BufferTag, DecodeError, Epoch, Incarnation, InstanceId, PartitionId, crc32c, tag::PARTITIONS,
};
use pagewire_transport::prefetch;

/// Most members of a view; the directory keeps holders in a 64-bit set.
pub const MEMBERS_MAX: u16 = 64;

/// One instance in one life.
pub type Life = (InstanceId, Incarnation);

/// A member of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Who.
    pub id: InstanceId,
    /// In which life. 0 in a view made of a list of ids alone: any.
    pub incarnation: Incarnation,
    /// It is about to go, and masters nothing any more.
    pub leaving: bool,
}

impl Member {
    /// The life that is a member.
    #[must_use]
    pub fn life(&self) -> Life {
        (self.id, self.incarnation)
    }
}

/// What a sender is to a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A member.
    Member,
    /// It was one, or could have been, and is none any more.
    Past,
    /// It may be one of a later view.
    Unknown,
}

/// A membership view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    epoch: Epoch,
    /// Epoch of the first view of the cluster: partitions that still have it were never moved.
    founded: Epoch,
    /// By id.
    members: Vec<Member>,
    /// Died, and their redo is not applied yet; by id.
    dead: Vec<Life>,
    /// The last life of everyone who was a member and is none; by id.
    former: Vec<Life>,
    masters: Vec<InstanceId>,
    partition_epochs: Vec<Epoch>,
    hash: u64,
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
    /// The only view of a cluster whose members do not change: `members` in any order, in whatever
    /// life.
    ///
    /// # Errors
    /// [`ViewError`] when the list is empty, or an id is out of range or there twice.
    pub fn new(epoch: Epoch, members: Vec<InstanceId>) -> Result<Self, ViewError> {
        let member = |id| Member { id, incarnation: Incarnation(0), leaving: false };
        Self::first(epoch, members.into_iter().map(member).collect())
    }

    /// The first view of a cluster: nobody holds anything yet.
    ///
    /// # Errors
    /// [`ViewError`] when the list is empty, or an id is out of range or there twice.
    pub fn first(epoch: Epoch, members: Vec<Member>) -> Result<Self, ViewError> {
        let mut view = Self {
            epoch,
            founded: epoch,
            members,
            dead: Vec::new(),
            former: Vec::new(),
            masters: Vec::new(),
            partition_epochs: vec![epoch; usize::from(PARTITIONS)],
            hash: 0,
        };
        view.complete()?;
        Ok(view)
    }

    /// The view after this one. `dead` are all instances that have died and whose redo is not
    /// applied yet, those of earlier views included ([`View::gone`] says who is new among them).
    ///
    /// # Errors
    /// [`ViewError`] when the list is empty, or an id is out of range or there twice.
    pub fn next(&self, members: Vec<Member>, mut dead: Vec<Life>) -> Result<Self, ViewError> {
        dead.sort_unstable();
        dead.dedup();
        let epoch = Epoch(self.epoch.0 + 1);
        let mut view = Self {
            epoch,
            founded: self.founded,
            former: self.former_after(&members),
            members,
            dead,
            masters: Vec::new(),
            partition_epochs: self.partition_epochs.clone(),
            hash: 0,
        };
        view.complete()?;
        for at in 0..usize::from(PARTITIONS) {
            let (old, new) = (self.masters[at], view.masters[at]);
            if self.member(old).map(|m| m.life()) != view.member(new).map(|m| m.life()) {
                view.partition_epochs[at] = epoch;
            }
        }
        view.hash = view.make_hash();
        Ok(view)
    }

    /// Everyone who is no member when these are, and was one.
    fn former_after(&self, members: &[Member]) -> Vec<Life> {
        let known = self.former.iter().copied().chain(self.members.iter().map(Member::life));
        let is_none = |life: &Life| members.iter().all(|m| m.id != life.0);
        let mut former: Vec<Life> = known.filter(is_none).collect();
        former.sort_unstable();
        // No id is twice: who is a member is not among those who were.
        former
    }

    /// Checks the member list, and makes of it the map and the hash.
    fn complete(&mut self) -> Result<(), ViewError> {
        self.members.sort_unstable();
        if let Some(member) = self.members.iter().find(|m| m.id.0 >= MEMBERS_MAX) {
            return Err(ViewError::IdOutOfRange(member.id));
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ViewError::Twice(pair[0].id));
        }
        let all_leave = self.members.iter().all(|m| m.leaving);
        let candidates = || self.members.iter().filter(|m| all_leave || !m.leaving).map(|m| m.id);
        let master = |partition| candidates().max_by_key(|id| (weight(partition, *id), *id));
        let masters = (0..PARTITIONS).map(master).collect::<Option<Vec<_>>>();
        self.masters = masters.ok_or(ViewError::Empty)?;
        self.hash = self.make_hash();
        Ok(())
    }

    /// Number of the view.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Those that have died and whose redo is not applied yet, by id.
    #[must_use]
    pub fn dead(&self) -> &[Life] {
        &self.dead
    }

    /// The member `id`.
    #[must_use]
    pub fn member(&self, id: InstanceId) -> Option<&Member> {
        // Where no id is left out, which is the rule, a member's place is its id.
        if let Some(member) = self.members.get(usize::from(id.0)).filter(|m| m.id == id) {
            return Some(member);
        }
        let at = self.members.binary_search_by_key(&id, |m| m.id).ok()?;
        self.members.get(at)
    }

    /// Members of this view that are none of `newer`: died, left, or started again.
    pub fn gone<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = Life> + 'a {
        let stays = |m: &&Member| newer.member(m.id).is_some_and(|n| n.life() == m.life());
        self.members.iter().filter(move |m| !stays(m)).map(Member::life)
    }

    /// What the sender of a message is. `incarnation` 0: its session vouches for its life.
    #[must_use]
    pub fn standing(&self, id: InstanceId, incarnation: Incarnation) -> Standing {
        match self.member(id) {
            Some(m) if m.incarnation.0 == 0 || incarnation.0 == 0 => Standing::Member,
            Some(m) if m.incarnation == incarnation => Standing::Member,
            Some(m) if m.incarnation > incarnation => Standing::Past,
            _ if self.dead.contains(&(id, incarnation)) => Standing::Past,
            Some(_) => Standing::Unknown,
            None => self.standing_of_none(id, incarnation),
        }
    }

    /// Of one that is no member: lives are numbered upwards, so one that is not newer than the last
    /// that was a member is over, also when its redo is applied and nothing else is left of it.
    fn standing_of_none(&self, id: InstanceId, incarnation: Incarnation) -> Standing {
        let last = self.former.iter().find(|former| former.0 == id);
        let is_over = last.is_some_and(|last| incarnation.0 != 0 && incarnation <= last.1);
        if is_over { Standing::Past } else { Standing::Unknown }
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

    /// The view that gave `partition` its master.
    #[must_use]
    pub fn partition_epoch(&self, partition: PartitionId) -> Epoch {
        self.partition_epochs[usize::from(partition.0 % PARTITIONS)]
    }

    /// Brings what is known of a partition nearer to the processor.
    #[inline]
    pub(crate) fn approach(&self, partition: PartitionId) {
        let at = usize::from(partition.0 % PARTITIONS);
        prefetch(&self.masters[at]);
        prefetch(&self.partition_epochs[at]);
    }

    /// What messages about page `tag` carry.
    #[must_use]
    pub fn epoch_of(&self, tag: &BufferTag) -> Epoch {
        self.partition_epoch(tag.partition())
    }

    /// Whether `partition` has had its master from the beginning: there was never anything to move.
    #[must_use]
    pub fn is_original(&self, partition: PartitionId) -> bool {
        self.partition_epoch(partition) == self.founded
    }

    /// Partitions whose epoch is another than in `older`.
    pub fn changed<'a>(&'a self, older: &'a Self) -> impl Iterator<Item = PartitionId> + 'a {
        let is_other = |p: &PartitionId| self.partition_epoch(*p) != older.partition_epoch(*p);
        (0..PARTITIONS).map(PartitionId).filter(move |p| is_other(p))
    }

    /// A hash of all of it; instances with different ones refuse each other.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn make_hash(&self) -> u64 {
        let masters: Vec<u8> = self.masters.iter().flat_map(|id| id.0.to_le_bytes()).collect();
        u64::from(crc32c(&[&self.encode()])) << 32 | u64::from(crc32c(&[&masters]))
    }

    // ---- as bytes, for whoever joins ---------------------------------------------------------------

    /// The view as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes();
        let mut bytes = Vec::with_capacity(64 + 8 * usize::from(PARTITIONS));
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.founded.0.to_le_bytes());
        bytes.extend_from_slice(&count(self.members.len()));
        for Member { id, incarnation, leaving } in &self.members {
            bytes.extend_from_slice(&id.0.to_le_bytes());
            bytes.extend_from_slice(&incarnation.0.to_le_bytes());
            bytes.push(u8::from(*leaving));
        }
        for lives in [&self.dead, &self.former] {
            bytes.extend_from_slice(&count(lives.len()));
            for (id, incarnation) in lives {
                bytes.extend_from_slice(&id.0.to_le_bytes());
                bytes.extend_from_slice(&incarnation.0.to_le_bytes());
            }
        }
        for epoch in &self.partition_epochs {
            bytes.extend_from_slice(&epoch.0.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`View::encode`] writes.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no view's.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { rest: bytes, all: bytes.len() };
        let epoch = Epoch(reader.u64()?);
        let founded = Epoch(reader.u64()?);
        let mut members = Vec::new();
        for _ in 0..reader.u16()? {
            let (id, incarnation) = reader.life()?;
            members.push(Member { id, incarnation, leaving: reader.take::<1>()? != [0] });
        }
        let (dead, former) = (reader.lives()?, reader.lives()?);
        let mut partition_epochs = Vec::with_capacity(usize::from(PARTITIONS));
        for _ in 0..PARTITIONS {
            partition_epochs.push(Epoch(reader.u64()?));
        }
        let masters = Vec::new();
        let mut view =
            Self { epoch, founded, members, dead, former, masters, partition_epochs, hash: 0 };
        let is_view = view.complete().is_ok() && view.encode() == bytes;
        if is_view { Ok(view) } else { Err(odd_view(bytes.len())) }
    }
}

fn odd_view(found: usize) -> DecodeError {
    let expected = "members by id, each once, and an epoch for each partition";
    DecodeError::Field { what: "membership view", found: found as u64, expected }
}

struct Reader<'a> {
    rest: &'a [u8],
    all: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(odd_view(self.all))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn life(&mut self) -> Result<Life, DecodeError> {
        Ok((InstanceId(self.u16()?), Incarnation(self.u64()?)))
    }

    fn lives(&mut self) -> Result<Vec<Life>, DecodeError> {
        (0..self.u16()?).map(|_| self.life()).collect()
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

    fn members(lives: &[(u16, u64)]) -> Vec<Member> {
        let member = |&(id, incarnation)| Member {
            id: InstanceId(id),
            incarnation: Incarnation(incarnation),
            leaving: false,
        };
        lives.iter().map(member).collect()
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
    fn a_partition_keeps_its_epoch_as_long_as_its_master_lives() {
        let first = View::first(Epoch(1), members(&[(0, 10), (1, 11), (2, 12)])).unwrap();
        // Instance 2 dies and is back at once.
        let dead = vec![(InstanceId(2), Incarnation(12))];
        let next = first.next(members(&[(0, 10), (1, 11), (2, 13)]), dead.clone()).unwrap();
        assert_eq!(first.gone(&next).collect::<Vec<_>>(), dead);
        for partition in (0..PARTITIONS).map(PartitionId) {
            let is_new = next.partition_epoch(partition) == Epoch(2);
            assert_eq!(is_new, first.master_of(partition) == InstanceId(2));
            assert_eq!(next.is_original(partition), !is_new);
        }
        assert_eq!(next.changed(&first).count(), first.changed(&next).count());
        assert_eq!(next.standing(InstanceId(2), Incarnation(12)), Standing::Past);
        assert_eq!(next.standing(InstanceId(2), Incarnation(14)), Standing::Unknown);
        assert_eq!(next.standing(InstanceId(3), Incarnation(1)), Standing::Unknown);
        assert_eq!(next.standing(InstanceId(1), Incarnation(11)), Standing::Member);
    }

    #[test]
    fn a_life_that_is_over_stays_so_when_nothing_is_left_of_it() {
        let first = View::first(Epoch(1), members(&[(0, 1), (1, 5)])).unwrap();
        let without =
            first.next(members(&[(0, 1)]), vec![(InstanceId(1), Incarnation(5))]).unwrap();
        let redone = without.next(members(&[(0, 1), (2, 1)]), Vec::new()).unwrap();
        let redone = View::decode(&redone.encode()).unwrap();
        for over in [4, 5] {
            assert_eq!(redone.standing(InstanceId(1), Incarnation(over)), Standing::Past, "{over}");
        }
        assert_eq!(redone.standing(InstanceId(1), Incarnation(6)), Standing::Unknown, "to come");
        let back = redone.next(members(&[(0, 1), (1, 6), (2, 1)]), Vec::new()).unwrap();
        assert_eq!(back.standing(InstanceId(1), Incarnation(6)), Standing::Member);
        let gone = back.next(members(&[(0, 1), (2, 1)]), Vec::new()).unwrap();
        assert_eq!(gone.standing(InstanceId(1), Incarnation(6)), Standing::Past, "left as planned");
    }

    #[test]
    fn whoever_leaves_masters_nothing_unless_all_leave() {
        let first = View::first(Epoch(1), members(&[(0, 1), (1, 1)])).unwrap();
        let mut leaving = members(&[(0, 1), (1, 1)]);
        leaving[1].leaving = true;
        let next = first.next(leaving.clone(), Vec::new()).unwrap();
        assert!((0..PARTITIONS).all(|p| next.master_of(PartitionId(p)) == InstanceId(0)));
        leaving[0].leaving = true;
        let last = next.next(leaving, Vec::new()).unwrap();
        assert!((0..PARTITIONS).any(|p| last.master_of(PartitionId(p)) == InstanceId(1)));
    }

    #[test]
    fn a_view_survives_its_bytes_and_other_bytes_are_none() {
        let first = View::first(Epoch(1), members(&[(0, 10), (1, 11)])).unwrap();
        let dead = vec![(InstanceId(1), Incarnation(11))];
        let next = first.next(members(&[(0, 10), (1, 12), (3, 1)]), dead).unwrap();
        let bytes = next.encode();
        assert_eq!(View::decode(&bytes), Ok(next.clone()));
        assert_ne!(first.hash(), next.hash());
        assert!(View::decode(&bytes[1..]).is_err());
        assert!(View::decode(&[]).is_err());
        let mut twice = bytes;
        twice[18 + 11] = 0;
        assert!(View::decode(&twice).is_err());
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
