//! Leaving in order: the shard gives up everything that it has, and says when nothing is left.
//!
//! The view has this instance as leaving by then, so that its partitions move away, and nobody here
//! asks for pages any more. What it gives up it writes first, where it must; a past image goes when
//! a newer version is on storage, which is asked for. Nothing is left when the others have
//! acknowledged all that was said: then the process may go.

use super::Shard;
use crate::grd::Event as Input;
use crossbeam_channel::Sender;
use pagewire_protocol::BufferTag;
use std::time::{Duration, Instant};

/// Pages that one turn begins to give up: others wait for no more than that.
const PAGES_PER_TURN: usize = 64;
/// How often what may have been forgotten is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What a shard knows of its leaving.
#[derive(Debug)]
pub(super) struct Leaving {
    reply: Sender<()>,
    ask_again_at: Instant,
}

impl Shard {
    /// Gives up everything; `reply` is told when nothing is left.
    pub fn leave(&mut self, reply: Sender<()>) {
        self.leaving = Some(Leaving { reply, ask_again_at: Instant::now() });
        self.leave_on();
    }

    pub(super) fn leave_on(&mut self) {
        let Some(leaving) = &mut self.leaving else { return };
        let now = Instant::now();
        if leaving.ask_again_at <= now {
            leaving.ask_again_at = now + ASK_AGAIN;
            self.copies.forget_wanted();
        }
        let may_go = |tag: &BufferTag| self.grd.holding(tag).is_some_and(|h| !h.busy);
        for _ in 0..PAGES_PER_TURN {
            let Some(tag) = self.pool.victim(may_go) else { break };
            self.inputs.push_back(Input::Evict { tag }.into());
        }
        self.want_past_images(PAGES_PER_TURN);
        self.run();
        if self.has_left()
            && let Some(leaving) = self.leaving.take()
        {
            // Whoever asked may have given up.
            let _ = leaving.reply.send(());
        }
    }

    /// Asks for the frames of up to `count` past images.
    pub(super) fn want_past_images(&mut self, count: usize) {
        for tag in self.copies.want(count) {
            self.inputs.push_back(Input::PastImageWanted { tag }.into());
        }
    }

    /// True when the others need nothing of this instance any more, and know all it had to say.
    fn has_left(&self) -> bool {
        let has_told =
            |peer: &pagewire_protocol::InstanceId| self.endpoint.unacknowledged(*peer) == 0;
        self.pool.is_empty()
            && self.copies.frames() == 0
            && self.outstanding == 0
            && self.waiting.is_empty()
            && self.writing.is_empty()
            && self.guides.is_empty()
            && !self.has_more
            && self.grd.mastered_tags().next().is_none()
            && self.outbox.waiting() == 0
            && self.is_si_at_rest()
            && self.up.iter().all(has_told)
    }
}
