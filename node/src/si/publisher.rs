//! Publishing from any thread.

use super::{
    error::{PublishError, TicketError},
    shared::SiShared,
};
use pagewire_protocol::SiMessage;
use std::{sync::Arc, time::Duration};

/// Publishes invalidations of one instance; clone it for each thread, or share it.
///
/// What one thread publishes keeps its order, and so does what all of them do, in the order in which
/// the calls returned.
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<SiShared>,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<SiShared>) -> Self {
        Self { shared }
    }

    pub(crate) fn is_of(&self, shared: &Arc<SiShared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Publishes `messages`, in order, and does not wait for anything. The ticket is complete when the
    /// ring of every member has them. Without messages the ticket stands for all that was published
    /// before.
    ///
    /// # Errors
    /// [`PublishError`]: nothing of it is published. Back-pressure is [`PublishError::Full`]: nothing
    /// waits without bound, and nothing is dropped.
    pub fn publish(&self, messages: &[SiMessage]) -> Result<Ticket, PublishError> {
        let position = self.shared.publish(messages)?;
        Ok(Ticket { shared: Arc::clone(&self.shared), position })
    }
}

/// What was published, on its way.
#[derive(Debug, Clone)]
#[must_use = "only the ticket says when everyone has what was published"]
pub struct Ticket {
    shared: Arc<SiShared>,
    position: u64,
}

impl Ticket {
    /// True when the ring of every member of the view has it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.shared.outcome(self.position) == Some(Ok(()))
    }

    /// Waits for that: looks for a moment, then sleeps.
    ///
    /// # Errors
    /// [`TicketError::Deadline`] after `limit`, and it may be complete later; the others are final.
    pub fn wait(&self, limit: Duration) -> Result<(), TicketError> {
        self.shared.wait(self.position, limit)
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// True when a page may go under whose guard this was published: every member has it.
    pub(crate) fn may_let_go(&self) -> bool {
        self.shared.may_let_go(self.position)
    }
}
