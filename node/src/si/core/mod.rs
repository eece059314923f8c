//! Shared invalidations of one instance: a pure core. No I/O, no clock; what happened goes in, what is
//! to be done comes out, in order. The runtime and the simulator drive the same code.
//!
//! ```text
//!   publisher                                            subscriber
//!   up      --- SI_BEGIN lives, next ------------------> reset; expects `next`
//!   publish --- SI_BATCH n  \/ lanes overtake ---------> held back until n is next, then the ring
//!           --- SI_FRAME n+1/\                           once a turn, after the ring:
//!   settle  <-- SI_ACK up to n+1, view in force -------- acknowledges
//! ```
//! **When a batch is delivered.** The own ring has it, and every member of the view that is in force
//! here has acknowledged it. Members that left or died drop out with the view that says so; members
//! that come have to acknowledge their SI_BEGIN, which stands for everything before it.
//!
//! **And nobody has told a later view than ours** in an acknowledgement. A joiner of that view may
//! hold pages and cache what they say already, and this instance would not know of it: the master that
//! granted it S before our X had the later view when it granted, so it tells that view when it
//! acknowledges what we publish under X, and it is a member of ours. Then we wait until that view is in
//! force here and its new members have acknowledged, too.
//!
//! **When a subscriber resets.** At every SI_BEGIN: what was published before it, to it or to a former
//! life, is not sent again. With every view in which a life is over: it may have published to some of
//! us only, and what it changed is recovered from its redo. (So redo may only be told done when every
//! member has that view in force; see `Node::redo_done`.)

mod publisher;
mod subscriber;
#[cfg(test)]
mod tests;

pub use publisher::{FRAMES_UNDER_WAY_MAX, UNDER_WAY_MAX};

use crate::{
    planted,
    view::{Life, View},
};
use pagewire_protocol::{
    Epoch, Incarnation, InstanceId,
    si::wire::{SiAck, SiBegin},
};
use publisher::Publisher;
use subscriber::Subscriber;

/// The messages of one batch, as whoever drives the core has them.
pub trait Batch {
    /// The same for as long as others have to come first: not in memory that what comes next needs.
    #[must_use]
    fn keep(self) -> Self;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<B> {
    /// SI_BEGIN, on the lane for invalidations.
    Begin {
        /// The subscriber.
        to: InstanceId,
        /// The message.
        begin: SiBegin,
    },
    /// SI_ACK, on the lane for control.
    Acknowledge {
        /// The publisher.
        to: InstanceId,
        /// The message.
        ack: SiAck,
    },
    /// A batch goes into this instance's ring.
    Write {
        /// Who published it.
        publisher: InstanceId,
        /// The messages.
        batch: B,
    },
    /// Every reader of this instance's ring has to reset.
    Reset,
    /// Everything up to here is delivered.
    Complete {
        /// As it was given to [`SiCore::publish`].
        position: u64,
    },
}

/// What no peer sends that keeps to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    /// There is no session that it could be of.
    #[error("is of no stream, expected one of the session that it came on")]
    NoStream,
    /// A stream begins that is not the session's, or begins again.
    #[error("begins a stream that is not of the two lives of its session, or begins it twice")]
    Begin,
    /// A batch comes again.
    #[error("has batch {found}, expected {expected} or a later one")]
    Again {
        /// Its number.
        found: u64,
        /// The next number.
        expected: u64,
    },
    /// More batches have overtaken others than a publisher has under way.
    #[error("has batch {found} while {expected} is missing, and too many others wait for that")]
    TooFar {
        /// Its number.
        found: u64,
        /// The next number.
        expected: u64,
    },
    /// What was never sent is acknowledged.
    #[error("acknowledges batch {found}, expected {last} at most")]
    Ack {
        /// The number.
        found: u64,
        /// The last one that was sent.
        last: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub struct SiCore<B> {
    me: Life,
    epoch: Epoch,
    /// All others in the view.
    members: Vec<Life>,
    publisher: Publisher,
    subscriber: Subscriber<B>,
}

impl<B: Batch> SiCore<B> {
    /// The core of `me`, a member of `view`. Its ring has to be one that readers reset at.
    #[must_use]
    pub fn new(me: Life, view: &View) -> Self {
        let (publisher, subscriber) = (Publisher::default(), Subscriber::default());
        let mut core = Self { me, epoch: view.epoch(), members: Vec::new(), publisher, subscriber };
        core.take_members(view);
        core
    }

    fn take_members(&mut self, view: &View) {
        self.epoch = view.epoch();
        self.members.clear();
        let others = view.members().iter().filter(|member| member.id != self.me.0);
        self.members.extend(others.map(crate::view::Member::life));
    }

    /// The view in force.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// `view` is in force; to be told before anything of it is used.
    pub fn view(&mut self, view: &View, effects: &mut Vec<Effect<B>>) {
        if view.epoch() <= self.epoch {
            return;
        }
        let stays = |life: &Life| view.members().iter().any(|member| member.life() == *life);
        let mut any_gone = false;
        for gone in self.members.iter().copied().filter(|life| !stays(life)) {
            any_gone = true;
            self.publisher.over(gone);
            self.subscriber.over(gone);
        }
        if any_gone && !planted::is("si_no_reset_for_the_dead") {
            effects.push(Effect::Reset);
        }
        self.take_members(view);
        self.settle(effects);
    }

    /// A session with this life of `peer` has begun.
    pub fn up(&mut self, peer: InstanceId, life: Incarnation, effects: &mut Vec<Effect<B>>) {
        self.subscriber.up(peer, life);
        let next = self.publisher.up(peer, life);
        let begin = SiBegin { publisher: self.me.1, subscriber: life, next };
        effects.push(Effect::Begin { to: peer, begin });
    }

    /// The session with this life of a peer is over. What it was owed is delivered when a view says that
    /// the life is.
    pub fn ended(&mut self, life: Life) {
        self.publisher.over(life);
        self.subscriber.over(life);
    }

    // ---- publishing ----------------------------------------------------------------------------

    /// Whom a batch goes to.
    pub fn subscribers(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.publisher.subscribers()
    }

    /// Whether one more batch may leave: in a frame, or in a body.
    #[must_use]
    pub fn may_publish(&self, in_frame: bool) -> bool {
        self.publisher.has_room(in_frame)
    }

    /// The next batch leaves, for all [`SiCore::subscribers`], and is in the own ring. `position`
    /// grows from batch to batch, and says how far everything is delivered. Returns its number.
    pub fn publish(&mut self, position: u64, in_frame: bool, effects: &mut Vec<Effect<B>>) -> u64 {
        let number = self.publisher.publish(position, in_frame);
        self.settle(effects);
        number
    }

    /// SI_ACK has come.
    ///
    /// # Errors
    /// [`Odd`]; nothing has changed.
    pub fn acknowledged(
        &mut self,
        from: InstanceId,
        ack: SiAck,
        effects: &mut Vec<Effect<B>>,
    ) -> Result<(), Odd> {
        self.publisher.acknowledged(from, ack)?;
        self.settle(effects);
        Ok(())
    }

    /// True when everything that left is delivered.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.publisher.is_delivered()
    }

    fn settle(&mut self, effects: &mut Vec<Effect<B>>) {
        if let Some(position) = self.publisher.settle(self.epoch, &self.members) {
            effects.push(Effect::Complete { position });
        }
    }

    // ---- subscribing ---------------------------------------------------------------------------

    /// SI_BEGIN has come.
    ///
    /// # Errors
    /// [`Odd`]; nothing has changed.
    pub fn begun(
        &mut self,
        from: InstanceId,
        begin: SiBegin,
        effects: &mut Vec<Effect<B>>,
    ) -> Result<(), Odd> {
        if begin.subscriber != self.me.1 {
            return Err(Odd::Begin);
        }
        self.subscriber.begun(from, begin, effects)
    }

    /// Batch `number` has come.
    ///
    /// # Errors
    /// [`Odd`]: it is dropped; where it is [`Odd::TooFar`] the ring is reset, and the stream goes on
    /// with what there is.
    pub fn arrived(
        &mut self,
        from: InstanceId,
        number: u64,
        batch: B,
        effects: &mut Vec<Effect<B>>,
    ) -> Result<(), Odd> {
        self.subscriber.arrived(from, number, batch, effects)
    }

    /// Whether anything is to be acknowledged.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.subscriber.owes()
    }

    /// Acknowledges, once a turn, what was written since; publishers that `may` is false for wait.
    pub fn acknowledge(&mut self, may: impl Fn(InstanceId) -> bool, effects: &mut Vec<Effect<B>>) {
        self.subscriber.acknowledge(self.epoch, may, effects);
    }
}

/// Whether a pin under which something was published up to `position` may go, where everything up to
/// `completed` is delivered.
#[must_use]
pub fn may_let_go(completed: u64, position: u64) -> bool {
    completed >= position || planted::is("si_let_go_before_delivery")
}
