//! Messages that nobody waits for, put by until what others wait for has left.
//!
//! ```text
//!   poll:  send what is queued | read | first: what waited    then: what came -> answers queued
//!                                       since the last turn         |
//!                                             ^                     +-- nobody waits for it: later
//!                                             +----------------------------+
//! ```
//! A claim that comes together with the next request would otherwise be recorded and confirmed before
//! the request is answered. Lanes may overtake each other, so that nothing is lost by it; in the lane
//! itself, the one for control, the order stays: what cannot wait there is preceded by what did.

use super::Shard;
use pagewire_protocol::{
    Lane,
    pcm::kind::{PCM_CLAIM, PCM_CLAIMED, PCM_DISCARD, PCM_DISCARDED, PCM_RELEASED, PCM_WRITTEN},
};
use pagewire_transport::{Event, Received};

fn can_wait(received: &Received) -> bool {
    matches!(
        received.kind,
        PCM_CLAIM | PCM_CLAIMED | PCM_DISCARD | PCM_DISCARDED | PCM_RELEASED | PCM_WRITTEN
    )
}

impl Shard {
    /// Takes what has come from the endpoint, or puts it by for the next turn.
    pub(super) fn on_event_in_turn(&mut self, mut event: Event) {
        match &mut event {
            // By reference, as a message is large.
            Event::Message(received) if received.lane != Lane::Control => self.on_message(received),
            Event::Message(received) if !can_wait(received) => {
                self.catch_up();
                self.on_message(received);
            }
            Event::Message(_) => {
                if let Event::Message(received) = event {
                    self.later.push_back(received);
                }
            }
            _ => {
                self.catch_up();
                self.on_event(event);
            }
        }
    }

    /// Takes what was put by. True when there was anything.
    pub(super) fn catch_up(&mut self) -> bool {
        let any = !self.later.is_empty();
        while let Some(mut received) = self.later.pop_front() {
            self.on_message(&mut received);
        }
        any
    }
}
