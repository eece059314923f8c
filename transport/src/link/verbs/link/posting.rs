//! What a link hands to its device, and when: one doorbell for all that are queued of a class.
//!
//! Receives of small messages wait for a turn in which nothing has come, so that no answer waits for
//! them; those of pages are told to the peer, and are posted before anything is sent.

use super::{SMALL_RECEIVES_SPARE, Todo, VerbsLink};
use crate::{
    error::LinkError,
    link::{Link, verbs::VerbsError},
};
use pagewire_protocol::LaneClass;

impl VerbsLink {
    /// A receive of a page is queued; it is posted at once, since the peer is told of it.
    pub(super) fn receive_queued(&mut self, class: usize) {
        self.counters.receives.add(1);
        self.todo.add(Todo::receives(class));
    }

    /// Queues the used receives of small messages again, and posts them once there are enough of them:
    /// they are worth a doorbell then.
    pub(super) fn requeue_used(&mut self) -> Result<(), VerbsError> {
        let queue_pair = &mut self.queue_pairs[LaneClass::Small.index()];
        let queued = queue_pair.queue_message_receives(self.used_receives);
        debug_assert_eq!(queued, self.used_receives, "more receives than the queue has");
        self.used_receives = 0;
        self.counters.receives.add(queued.into());
        self.queued_receives += queued;
        if self.queued_receives >= SMALL_RECEIVES_SPARE {
            self.queued_receives = 0;
            self.post_receives(LaneClass::Small.index())?;
        }
        Ok(())
    }

    /// Hands queued receives to the device.
    pub(super) fn post_receives(&mut self, class: usize) -> Result<(), VerbsError> {
        self.counters.receive_doorbells.add(1);
        self.queue_pairs[class].post_receives()
    }

    /// Hands queued sends to the device.
    #[inline(always)] // Of each message.
    pub(super) fn post_sends(&mut self, class: usize) -> Result<(), VerbsError> {
        self.counters.send_doorbells.add(1);
        self.queue_pairs[class].post_sends()
    }

    /// Hands what is queued to the device: more than some small messages.
    #[inline(never)] // A page costs more than the call.
    pub(super) fn flush_all(&mut self) -> Result<(), LinkError> {
        if self.failed.is_some() {
            return self.take_failure();
        }
        // Whoever was turned away tries again after this.
        self.todo.take(Todo::FULL);
        // Receives first: what is sent may tell the peer of them.
        for class in 0..LaneClass::COUNT {
            if self.todo.take(Todo::receives(class)) {
                self.post_receives(class)?;
            }
        }
        if self.post_all_sends()? && !self.later.is_empty() {
            // What nobody waits for leaves behind what is urgent.
            self.hurry();
            self.post_all_sends()?;
        }
        Ok(())
    }

    /// True if there were any.
    pub(super) fn post_all_sends(&mut self) -> Result<bool, VerbsError> {
        let mut any = false;
        for class in 0..LaneClass::COUNT {
            if self.todo.take(Todo::sends(class)) {
                self.post_sends(class)?;
                any = true;
            }
        }
        Ok(any)
    }
}
