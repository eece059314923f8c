//! Pages pinned by a local thread, to be read or changed.

use super::{
    command::{Command, Grant},
    line::Line,
};
use crate::si::{PublishError, Publisher, Ticket};
use pagewire_protocol::{Lsn, SiMessage, page};
use pagewire_transport::arena::{ExclusivePin, LeaseExpired, SharedPin};
use std::{cell::RefCell, mem, ops::Deref};

/// A page pinned for reading. Dereferenced it is the page, and nothing at all once the lease of this
/// instance is over, as [`ReadGuard::page`] says with an error.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    line: &'a Line,
    pin: Option<SharedPin<'a>>,
}

impl<'a> ReadGuard<'a> {
    #[inline]
    pub(super) fn new(line: &'a Line, pin: SharedPin<'a>) -> Self {
        Self { line, pin: Some(pin) }
    }

    /// What the shard has pinned.
    pub(super) fn granted(line: &'a Line, grant: Grant) -> Self {
        Self::new(line, line.shared().pages.adopt_shared(grant.ticket))
    }
}

impl ReadGuard<'_> {
    /// The page, as long as the lease of this instance lasts.
    ///
    /// # Errors
    /// [`LeaseExpired`]: others may have changed it meanwhile.
    #[inline]
    pub fn page(&self) -> Result<&[u8], LeaseExpired> {
        self.pin.as_ref().map_or(Err(LeaseExpired), SharedPin::page)
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pin.as_deref().unwrap_or(&[])
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let Some(pin) = self.pin.take() else { return };
        let index = pin.index();
        if pin.release() {
            self.line.command(Command::Unpinned(index));
        }
    }
}

/// A page pinned for writing. Dereferenced it is the page, and nothing at all once the lease of this
/// instance is over, as [`WriteGuard::page`] says with an error.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    line: &'a Line,
    pin: Option<ExclusivePin<'a>>,
    /// What was published under it last.
    published: Option<Ticket>,
}

impl<'a> WriteGuard<'a> {
    #[inline]
    pub(super) fn new(line: &'a Line, pin: ExclusivePin<'a>) -> Self {
        Self { line, pin: Some(pin), published: None }
    }

    /// What the shard has pinned.
    pub(super) fn granted(line: &'a Line, grant: Grant) -> Self {
        Self::new(line, line.shared().pages.adopt_exclusive(grant.ticket))
    }
}

impl WriteGuard<'_> {
    /// The page, as long as the lease of this instance lasts.
    ///
    /// # Errors
    /// [`LeaseExpired`]: others may have changed it meanwhile.
    #[inline]
    pub fn page(&self) -> Result<&[u8], LeaseExpired> {
        self.pin.as_ref().map_or(Err(LeaseExpired), ExclusivePin::page)
    }

    /// Publishes invalidations of what the page says: whoever is granted the page after this guard, here
    /// or on another instance, finds them in its instance's ring. The guard may be dropped at once:
    /// nobody gets the page before they are delivered.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is published.
    pub fn publish(
        &mut self,
        publisher: &Publisher,
        messages: &[SiMessage],
    ) -> Result<Ticket, PublishError> {
        if !publisher.is_of(&self.line.shared().si) {
            return Err(PublishError::OtherInstance);
        }
        let ticket = publisher.publish(messages)?;
        self.published = Some(ticket.clone());
        Ok(ticket)
    }

    /// Changes the page: runs `change` on it and gives it its next version, which is returned.
    /// The page counts as dirty from then on.
    ///
    /// # Errors
    /// [`LeaseExpired`] when the lease of this instance is over, or ended meanwhile: the change
    /// counts for nothing, and what follows from it must not be done.
    ///
    /// # Panics
    /// When `change` does. Then nothing has happened: the page has the bytes and the version that it
    /// had, and the guard is as good as before.
    pub fn update(&mut self, change: impl FnOnce(&mut [u8])) -> Result<Lsn, LeaseExpired> {
        self.update_logged(Lsn::ZERO, change)
    }

    /// As [`WriteGuard::update`], of a change that this instance's redo log describes up to
    /// `redo_end`: the page does not leave the instance, and is not written to storage, before the
    /// [`RedoLog`](super::RedoLog) is durable up to there.
    ///
    /// # Errors
    /// As [`WriteGuard::update`].
    ///
    /// # Panics
    /// As [`WriteGuard::update`]. The log then describes a change that was not made: whoever logged
    /// it has to log its undoing before another change of the page.
    pub fn update_logged(
        &mut self,
        redo_end: Lsn,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<Lsn, LeaseExpired> {
        let pin = self.pin.as_mut().ok_or(LeaseExpired)?;
        let page = pin.page_mut()?;
        let version = self.line.next_version();
        let mut changing = Changing::begin(page, self.line.undo());
        change(changing.page);
        changing.done = true;
        page::set_lsn(changing.page, version);
        drop(changing);
        self.line.changed(pin.index(), redo_end);
        pin.page().map(|_| version)
    }
}

/// A change under way. One that does not come to its end is undone: half of it, without a version of
/// its own, must not be taken for the page.
struct Changing<'a> {
    page: &'a mut [u8],
    /// The page as it was.
    before: Vec<u8>,
    /// Where that memory is kept for the next time.
    undo: &'a RefCell<Vec<u8>>,
    done: bool,
}

impl<'a> Changing<'a> {
    fn begin(page: &'a mut [u8], undo: &'a RefCell<Vec<u8>>) -> Self {
        // A change of another page within this one finds none, and makes its own.
        let mut before = mem::take(&mut *undo.borrow_mut());
        before.clear();
        before.extend_from_slice(page);
        Self { page, before, undo, done: false }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.page.copy_from_slice(&self.before);
        }
        *self.undo.borrow_mut() = mem::take(&mut self.before);
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pin.as_deref().unwrap_or(&[])
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        let Some(pin) = self.pin.take() else { return };
        // Where the lease is over nobody gets the page from here.
        let stays = |ticket: &Ticket| !ticket.may_let_go() && pin.page().is_ok();
        let under_way = self.published.take().filter(stays);
        if let Some(ticket) = under_way {
            return self.line.command(Command::Keep(pin.into_ticket(), ticket.position()));
        }
        let index = pin.index();
        if pin.release() {
            self.line.command(Command::Unpinned(index));
        }
    }
}
