//! What is handed to the core, now or when it has the view for it, and the pages that came with it.

use crate::{grd::Event as Input, runtime::tag_map::TagMap};
use pagewire_protocol::{BufferTag, InstanceId};
use pagewire_transport::Frame;

/// An event for the core, and the page that came with it.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) input: Input,
    pub(super) page: Option<Frame>,
}

impl From<Input> for Arrival {
    fn from(input: Input) -> Self {
        Self { input, page: None }
    }
}

impl Arrival {
    /// Who sent what it is about.
    pub(super) fn sender(&self) -> Option<InstanceId> {
        match &self.input {
            Input::Message { from, .. } | Input::LoadGuide { from, .. } => Some(*from),
            _ => None,
        }
    }
}

/// Pages that came and are not installed yet.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The page that came with the event that the core is handling.
    pub(super) newcomer: Option<Frame>,
    /// The one that was kept last: most are installed at once.
    last: Option<(BufferTag, Frame)>,
    others: TagMap<Frame>,
}

impl Arrivals {
    /// Keeps the newcomer as page `tag`, in place of an older one. False: there is none.
    pub(super) fn keep(&mut self, tag: BufferTag) -> bool {
        let Some(frame) = self.newcomer.take() else { return false };
        drop(self.take(&tag));
        if let Some((tag, frame)) = self.last.replace((tag, frame)) {
            self.others.insert(tag, frame);
        }
        true
    }

    /// Takes page `tag` away, to hold it or to drop it.
    pub(super) fn take(&mut self, tag: &BufferTag) -> Option<Frame> {
        if let Some((_, frame)) = self.last.take_if(|(last, _)| last == tag) {
            return Some(frame);
        }
        if self.others.is_empty() { None } else { self.others.remove(tag) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_transport::{Arena, ArenaConfig};

    #[test]
    fn each_page_that_came_is_there_once_until_it_is_taken() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let tag = |block| BufferTag { block, ..BufferTag::default() };
        let mut arrivals = Arrivals::default();
        for block in [1, 2, 1, 2] {
            arrivals.newcomer = arena.take();
            assert!(arrivals.keep(tag(block)));
            assert!(!arrivals.keep(tag(3)), "nothing has come");
        }
        assert_eq!(arena.free_frames(), 2, "older ones are dropped");
        for block in [1, 2] {
            assert!(arrivals.take(&tag(block)).is_some());
            assert!(arrivals.take(&tag(block)).is_none());
        }
        assert_eq!(arena.free_frames(), 4);
    }
}
