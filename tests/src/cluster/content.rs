//! What there is of a page outside of the instances: its history, and what storage has.

use pagewire_protocol::{BufferTag, Epoch, GrantNumber, Incarnation, Lsn};

/// A page's content: the version in its header, and a value that tells two writers' work apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) version: Lsn,
    pub(super) value: u64,
}

/// A version that was made, and where its redo is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    pub(super) content: Content,
    pub(super) writer: usize,
    pub(super) life: Incarnation,
    /// Where the record ends in that life's log.
    pub(super) redo: Lsn,
    /// It changed what the page says, which was published.
    pub(super) published: bool,
}

/// One page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) tag: BufferTag,
    pub(super) master: usize,
    /// Every version that is not lost, the oldest first; each is made from the one before.
    pub(super) history: Vec<Version>,
    pub(super) storage: Content,
    /// Messages on their way that carry the duty to write it.
    pub(super) flying_duties: usize,
    /// The view that gave it its master.
    pub(super) epoch: Epoch,
    /// Greatest grant that anyone has held, and that the directory has given.
    pub(super) top_grant: GrantNumber,
    pub(super) top_given: GrantNumber,
    /// Version in the directory.
    pub(super) directory_version: Lsn,
}

impl Page {
    pub(super) fn new(tag: BufferTag, master: usize) -> Self {
        Self {
            tag,
            master,
            history: Vec::new(),
            storage: Content::default(),
            flying_duties: 0,
            epoch: Epoch(0),
            top_grant: GrantNumber(0),
            top_given: GrantNumber(0),
            directory_version: Lsn::ZERO,
        }
    }

    /// Another master counts grants anew.
    pub(super) fn forget_grants(&mut self) {
        (self.top_grant, self.top_given) = (GrantNumber(0), GrantNumber(0));
    }

    /// What the last writer made.
    pub(super) fn truth(&self) -> Content {
        self.history.last().map_or(Content::default(), |version| version.content)
    }

    /// The version since which it says what it says now.
    pub(super) fn says(&self) -> Lsn {
        let last = self.history.iter().rev().find(|made| made.published);
        last.map_or(Lsn::ZERO, |made| made.content.version)
    }

    /// Where `version` was made.
    pub(super) fn made(&self, version: Lsn) -> Option<&Version> {
        self.history.iter().rev().find(|made| made.content.version == version)
    }
}
