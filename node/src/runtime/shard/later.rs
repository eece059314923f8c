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

use super::{Shard, arrivals::Said};
use pagewire_protocol::{
    Lane, MessageKind,
    pcm::kind::{PCM_CLAIM, PCM_CLAIMED, PCM_DISCARD, PCM_DISCARDED, PCM_RELEASED, PCM_WRITTEN},
};
use pagewire_transport::Received;

fn can_wait(kind: MessageKind) -> bool {
    matches!(
        kind,
        PCM_CLAIM | PCM_CLAIMED | PCM_DISCARD | PCM_DISCARDED | PCM_RELEASED | PCM_WRITTEN
    )
}

impl Shard {
    /// Takes what the endpoint has next, or puts it by for the next turn. False: there is nothing.
    #[inline(always)] // As `Shard::turn`.
    pub(super) fn take_next(&mut self) -> bool {
        let Some(mut taken) = self.endpoint.next_message() else { return self.take_event() };
        let lane = taken.lane;
        if lane == Lane::Control && can_wait(taken.kind) {
            // As it lay: what it says is read when it is its turn.
            self.later.push_back(taken.take());
            return true;
        }
        if !Said::is(taken.kind) {
            let received = taken.take();
            drop(taken);
            self.take_other(received);
            return true;
        }
        let said = Said::read(&mut taken);
        drop(taken);
        if lane == Lane::Control {
            self.catch_up();
        }
        self.on_said(said);
        true
    }

    #[inline(never)] // Rare beside the messages of the page protocol.
    fn take_other(&mut self, mut received: Received) {
        if received.lane == Lane::Control {
            self.catch_up();
        }
        self.on_message(&mut received);
    }

    fn take_event(&mut self) -> bool {
        let Some(event) = self.endpoint.next_event() else { return false };
        self.catch_up();
        self.on_event(event);
        true
    }

    /// Takes what was put by. True when there was anything.
    #[inline]
    pub(super) fn catch_up(&mut self) -> bool {
        let any = !self.later.is_empty();
        while let Some(mut received) = self.later.pop_front() {
            self.on_said(Said::read(&mut received));
        }
        any
    }
}
