//! Copies of pages that this instance keeps without holding them: in transit, and past images.
//!
//! ```text
//!   ship for X --> transit(grant) --PCM_CLAIMED--> forgotten, or past image if it was dirty
//!                        |
//!                        +--refused, repaired----> held again (reinstated)
//!   held, dirty --INVALIDATE--> past image(version) --PCM_DISCARD--> forgotten
//! ```
//! Each copy is a frame that counts as cache until it goes. At most one of each kind for a page; a
//! newer past image replaces the older.

use super::tag_map::TagMap;
use pagewire_protocol::{BufferTag, GrantNumber, Lsn, page};
use pagewire_transport::SharedFrame;
use std::collections::{BTreeSet, VecDeque};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    transits: TagMap<(GrantNumber, SharedFrame)>,
    past: TagMap<(Lsn, SharedFrame)>,
    /// Past images, about the oldest first; those that have gone since are left out when met.
    order: VecDeque<BufferTag>,
    /// Those whose frames were asked for.
    wanted: BTreeSet<BufferTag>,
}

impl Copies {
    /// Frames that they take.
    pub(super) fn frames(&self) -> usize {
        self.transits.len() + self.past.len()
    }

    /// Past images.
    pub(super) fn past_images(&self) -> usize {
        self.past.len()
    }

    /// The page was shipped away under `grant`.
    pub(super) fn sent(&mut self, tag: BufferTag, grant: GrantNumber, frame: SharedFrame) {
        self.transits.insert(tag, (grant, frame));
    }

    /// The copy that was shipped under `grant` is one no more. A later one stays.
    pub(super) fn end_transit(
        &mut self,
        tag: &BufferTag,
        grant: GrantNumber,
    ) -> Option<SharedFrame> {
        let is_it = self.transits.get(tag).is_some_and(|(shipped, _)| *shipped == grant);
        if is_it { self.transits.remove(tag).map(|(_, frame)| frame) } else { None }
    }

    /// Keeps `frame` as the page's past image; its version is in it. A newer one stays.
    pub(super) fn keep(&mut self, tag: BufferTag, frame: SharedFrame) {
        let version = page::lsn(&frame);
        match self.past.get(&tag) {
            Some((kept, _)) if *kept > version => {}
            Some(_) => drop(self.past.insert(tag, (version, frame))),
            None => {
                self.past.insert(tag, (version, frame));
                self.wanted.remove(&tag);
                // Pages that come and go as past images must not fill the line for ever.
                if self.order.len() > 2 * self.past.len() + 64 {
                    let past = &self.past;
                    let mut seen = BTreeSet::new();
                    self.order.retain(|tag| past.contains_key(tag) && seen.insert(*tag));
                }
                self.order.push_back(tag);
            }
        }
    }

    /// The past image, to be sent.
    pub(super) fn past(&self, tag: &BufferTag) -> Option<&SharedFrame> {
        self.past.get(tag).map(|(_, frame)| frame)
    }

    /// Takes the past image away, to drop it or to hold it.
    pub(super) fn take_past(&mut self, tag: &BufferTag) -> Option<SharedFrame> {
        self.wanted.remove(tag);
        self.past.remove(tag).map(|(_, frame)| frame)
    }

    /// Up to `count` past images whose frames have not been asked for yet, the oldest first: they
    /// count as asked for from now on.
    pub(super) fn want(&mut self, count: usize) -> Vec<BufferTag> {
        let mut wanted = Vec::new();
        if self.wanted.len() == self.past.len() {
            return wanted;
        }
        for _ in 0..self.order.len() {
            if wanted.len() == count {
                break;
            }
            let Some(tag) = self.order.pop_front() else { break };
            if !self.past.contains_key(&tag) {
                continue;
            }
            self.order.push_back(tag);
            if self.wanted.insert(tag) {
                wanted.push(tag);
            }
        }
        wanted
    }

    /// Time has passed, and those that were asked for may be asked for again.
    pub(super) fn forget_wanted(&mut self) {
        self.wanted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_transport::{Arena, ArenaConfig};

    fn arena() -> Arena {
        Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(16) }).unwrap()
    }

    fn tag(block: u32) -> BufferTag {
        BufferTag { block, ..BufferTag::default() }
    }

    fn frame(arena: &Arena, version: u64) -> SharedFrame {
        let mut frame = arena.take().unwrap();
        page::set_lsn(&mut frame, Lsn(version));
        frame.freeze()
    }

    #[test]
    fn one_past_image_is_kept_of_a_page_the_newest() {
        let (arena, mut copies) = (arena(), Copies::default());
        for version in [5, 7, 6] {
            copies.keep(tag(1), frame(&arena, version));
        }
        assert_eq!((copies.frames(), copies.past_images()), (1, 1));
        assert_eq!(copies.past(&tag(1)).map(|frame| page::lsn(frame)), Some(Lsn(7)));
        assert_eq!(arena.free_frames(), 15);
        drop(copies.take_past(&tag(1)));
        assert_eq!((copies.frames(), arena.free_frames()), (0, 16));
    }

    #[test]
    fn a_copy_in_transit_goes_with_its_own_grant_only() {
        let (arena, mut copies) = (arena(), Copies::default());
        copies.sent(tag(1), GrantNumber(4), frame(&arena, 1));
        assert!(copies.end_transit(&tag(1), GrantNumber(3)).is_none());
        copies.sent(tag(1), GrantNumber(9), frame(&arena, 2));
        assert!(copies.end_transit(&tag(1), GrantNumber(4)).is_none(), "the later one stays");
        assert_eq!(
            copies.end_transit(&tag(1), GrantNumber(9)).map(|f| page::lsn(&f)),
            Some(Lsn(2))
        );
        assert_eq!((copies.frames(), arena.free_frames()), (0, 16));
    }

    #[test]
    fn past_images_are_asked_for_once_each_the_oldest_first() {
        let (arena, mut copies) = (arena(), Copies::default());
        for block in 1..=4 {
            copies.keep(tag(block), frame(&arena, 1));
        }
        drop(copies.take_past(&tag(2)));
        assert_eq!(copies.want(2), [tag(1), tag(3)]);
        assert_eq!(copies.want(5), [tag(4)]);
        assert_eq!(copies.want(5), []);
        copies.forget_wanted();
        assert_eq!(copies.want(9).len(), 3);
        // However often a page comes and goes, the line stays short.
        for _ in 0..1000 {
            copies.keep(tag(9), frame(&arena, 1));
            drop(copies.take_past(&tag(9)));
        }
        assert!(copies.order.len() < 100, "{}", copies.order.len());
    }
}
