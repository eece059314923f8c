//! Which link a session is on, and how it moves: a pure core, without sockets, devices or a clock.
//!
//! A session begins on TCP, and the TCP connections stay for as long as there is a link. The end with
//! the greater instance id leads: it offers verbs, and later again if that was declined or failed.
//!
//! ```text
//!   leader                                   follower
//!   make queue pairs    Offer ----------->   make queue pairs, connect them
//!   connect             <---------- Accept
//!   hold, until all it sent is acknowledged
//!                       Switch{verbs} ---->  hold, until all it sent is acknowledged
//!   move to verbs       <--- Switch{verbs}   move to verbs
//!
//!   queue pairs failed here                  (or there, or at both ends at once)
//!   take what had arrived, close them
//!                       Switch{TCP} ------>  take what had arrived, close them
//!   back on TCP         <----- Switch{TCP}   back on TCP
//! ```
//! *Hold*: messages are taken from the owner and kept, none is put on a link. Acknowledgements go on.
//!
//! Invariants: an end puts no message on the old link after its own `Switch`, and none on the new one
//! before it has the other end's; TCP is in order, so what comes on it before the other end's `Switch`
//! is of the old link. Each `Switch` states what its sender expects next, so whatever was lost with
//! failed queue pairs is sent again (T3).
//!
//! Either end can give an attempt up (`Decline`) until it has said its own `Switch`; the leader, which
//! says it first, then stays where it was. The follower's `Switch` is final, and so is one to TCP.

#[cfg(test)]
mod tests;

use crate::error::SwitchError;
use pagewire_protocol::{
    LinkControl, LinkKind, TcpReason,
    link_control::{QueuePairs, Statement},
};
use std::time::{Duration, Instant};

/// Longest wait for the other end's next step before an attempt is given up.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the other end's switch, which may have to wait for acknowledgements first.
const SWITCH_MAX: Duration = Duration::from_secs(15);
/// Pause before verbs is tried again, at first; it doubles with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause before verbs is tried again. A link that was on verbs for so long starts anew with
/// the shortest.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What the owner has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this on the TCP connection.
    Say(LinkControl),
    /// Make queue pairs, then call [`Switch::made`].
    Make,
    /// Connect them with the peer's, then call [`Switch::connected`].
    Connect(QueuePairs),
    /// Close the queue pairs, if there are any; first take what has arrived on them, if the session
    /// is on them.
    Close,
    /// Put no message on a link until [`Step::Move`] or [`Step::Release`].
    Hold,
    /// Go on as before.
    Release,
    /// Say [`LinkControl::Switch`] for this attempt to that kind of link. Receives are posted first;
    /// only those of small messages when `tcp_still_receives`, because pages may still come there.
    SaySwitch {
        /// The attempt.
        attempt: u32,
        /// The next link.
        to: LinkKind,
        /// Pages may still come on TCP.
        tcp_still_receives: bool,
    },
    /// Go on with this kind of link; the other end has stated this.
    Move(LinkKind, Statement),
    /// Verbs is not used, or no longer, for this reason: the peer's (`theirs`) or one's own.
    OnTcp {
        /// Why.
        reason: TcpReason,
        /// Whether it is the peer's.
        theirs: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// On TCP. The leader offers at this time, if ever.
    Tcp { offer_at: Option<Instant> },
    /// Leader: makes queue pairs, offers, connects.
    Offering { until: Instant },
    /// Follower: makes queue pairs, connects them with these, accepts, and waits for the leader's
    /// switch.
    Accepting { until: Instant, theirs: QueuePairs },
    /// Holds until all it sent on TCP is acknowledged, then says its switch. The follower has the
    /// leader's already.
    Draining { until: Instant, theirs: Option<Statement> },
    /// Leader: has said its switch to verbs, and waits for the other one.
    Switching { until: Instant },
    /// On verbs.
    Verbs { since: Instant },
    /// Has said its switch to TCP, and waits for the other one.
    Falling { until: Instant, since: Instant },
}

/// Where one link stands; see the module.
#[derive(Debug)]
pub(super) struct Switch {
    leads: bool,
    phase: Phase,
    attempt: u32,
    /// Of this attempt.
    mine: Option<QueuePairs>,
    /// The queue pairs failed after this end had said its switch to them: it falls back as soon as it
    /// has the other one's.
    failed_early: bool,
    pause: Duration,
}

impl Switch {
    /// A TCP link has come up; all sessions begin on it. `verbs`: whether this end can offer.
    pub(super) fn new(leads: bool, verbs: bool, now: Instant) -> Self {
        let offer_at = (leads && verbs).then_some(now);
        let phase = Phase::Tcp { offer_at };
        Self { leads, phase, attempt: 0, mine: None, failed_early: false, pause: RETRY_FIRST }
    }

    /// Which attempt is under way or was last; its queue pairs are those that there are.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// True while [`Switch::drained`] is to be called as soon as all that was sent is acknowledged.
    #[inline]
    pub(super) fn wants_drained(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// When [`Switch::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        match self.phase {
            Phase::Tcp { offer_at } => offer_at,
            Phase::Verbs { .. } => None,
            Phase::Offering { until }
            | Phase::Accepting { until, .. }
            | Phase::Draining { until, .. }
            | Phase::Switching { until }
            | Phase::Falling { until, .. } => Some(until),
        }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// [`SwitchError::Stuck`].
    pub(super) fn tick(&mut self, now: Instant, steps: &mut Vec<Step>) -> Result<(), SwitchError> {
        if self.next_tick().is_none_or(|at| at > now) {
            return Ok(());
        }
        match self.phase {
            Phase::Tcp { .. } => {
                self.attempt += 1;
                self.phase = Phase::Offering { until: now + STEP_MAX };
                steps.push(Step::Make);
            }
            Phase::Offering { .. } | Phase::Accepting { .. } | Phase::Draining { .. } => {
                self.give_up(TcpReason::Timeout, now, steps);
            }
            Phase::Switching { .. } => return Err(stuck(LinkKind::Verbs)),
            Phase::Falling { .. } => return Err(stuck(LinkKind::Tcp)),
            Phase::Verbs { .. } => {}
        }
        Ok(())
    }

    /// The queue pairs that were asked for, or why there are none.
    pub(super) fn made(
        &mut self,
        made: Result<QueuePairs, TcpReason>,
        now: Instant,
        steps: &mut Vec<Step>,
    ) {
        let attempt = self.attempt;
        match (made, self.phase) {
            (Err(reason), _) => self.give_up(reason, now, steps),
            (Ok(mine), Phase::Accepting { theirs, .. }) => {
                self.mine = Some(mine);
                steps.push(Step::Connect(theirs));
            }
            (Ok(queue_pairs), _) => {
                steps.push(Step::Say(LinkControl::Offer { attempt, queue_pairs }));
            }
        }
    }

    /// Whether the queue pairs could be connected.
    pub(super) fn connected(
        &mut self,
        connected: Result<(), TcpReason>,
        now: Instant,
        steps: &mut Vec<Step>,
    ) {
        let attempt = self.attempt;
        match (connected, self.mine.take()) {
            (Err(reason), _) => self.give_up(reason, now, steps),
            (Ok(()), Some(queue_pairs)) => {
                steps.push(Step::Say(LinkControl::Accept { attempt, queue_pairs }));
            }
            (Ok(()), None) => {
                self.phase = Phase::Draining { until: now + STEP_MAX, theirs: None };
                steps.push(Step::Hold);
            }
        }
    }

    /// All that this end has sent on TCP is acknowledged.
    pub(super) fn drained(&mut self, now: Instant, steps: &mut Vec<Step>) {
        let Phase::Draining { theirs, .. } = self.phase else { return };
        let (attempt, to) = (self.attempt, LinkKind::Verbs);
        let tcp_still_receives = theirs.is_none();
        steps.push(Step::SaySwitch { attempt, to, tcp_still_receives });
        self.phase = if let Some(theirs) = theirs {
            steps.push(Step::Move(to, theirs));
            Phase::Verbs { since: now }
        } else {
            Phase::Switching { until: now + SWITCH_MAX }
        };
    }

    /// The queue pairs have failed.
    pub(super) fn failed(&mut self, now: Instant, steps: &mut Vec<Step>) {
        let reason = TcpReason::Failed;
        match self.phase {
            Phase::Verbs { since } => {
                self.phase = Phase::Falling { until: now + SWITCH_MAX, since };
                self.fall(steps);
                steps.push(Step::OnTcp { reason, theirs: false });
            }
            Phase::Offering { .. } | Phase::Accepting { .. } | Phase::Draining { .. } => {
                self.give_up(reason, now, steps);
            }
            Phase::Switching { .. } => self.failed_early = true,
            Phase::Tcp { .. } | Phase::Falling { .. } => {}
        }
    }

    fn fall(&self, steps: &mut Vec<Step>) {
        let (attempt, to) = (self.attempt, LinkKind::Tcp);
        steps.push(Step::Hold);
        steps.push(Step::Close);
        steps.push(Step::SaySwitch { attempt, to, tcp_still_receives: false });
    }

    fn give_up(&mut self, reason: TcpReason, now: Instant, steps: &mut Vec<Step>) {
        let attempt = self.attempt;
        steps.push(Step::Say(LinkControl::Decline { attempt, reason }));
        self.attempt_over(reason, false, now, steps);
    }

    fn attempt_over(
        &mut self,
        reason: TcpReason,
        theirs: bool,
        now: Instant,
        steps: &mut Vec<Step>,
    ) {
        steps.push(Step::Close);
        steps.push(Step::Release);
        steps.push(Step::OnTcp { reason, theirs });
        self.back_on_tcp(now);
    }

    fn back_on_tcp(&mut self, now: Instant) {
        (self.mine, self.failed_early) = (None, false);
        self.phase = Phase::Tcp { offer_at: self.leads.then_some(now + self.pause) };
        self.pause = (2 * self.pause).min(RETRY_MAX);
    }

    fn fallen(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= RETRY_MAX {
            self.pause = RETRY_FIRST;
        }
        self.back_on_tcp(now);
    }

    /// The other end has said something about the link.
    ///
    /// # Errors
    /// [`SwitchError::Unexpected`].
    pub(super) fn heard(
        &mut self,
        said: LinkControl,
        now: Instant,
        steps: &mut Vec<Step>,
    ) -> Result<(), SwitchError> {
        let unexpected = SwitchError::Unexpected { said, phase: self.phase.name() };
        match said {
            // The keys of regions are the owner's business.
            LinkControl::Alive
            | LinkControl::Region { .. }
            | LinkControl::Close { .. }
            | LinkControl::Left { .. } => Ok(()),
            LinkControl::Offer { attempt, queue_pairs: theirs } => match self.phase {
                Phase::Tcp { .. } if !self.leads && attempt > self.attempt => {
                    self.attempt = attempt;
                    self.phase = Phase::Accepting { until: now + SWITCH_MAX, theirs };
                    steps.push(Step::Make);
                    Ok(())
                }
                _ => Err(unexpected),
            },
            LinkControl::Accept { attempt, queue_pairs } => match self.phase {
                Phase::Offering { .. } if attempt == self.attempt => {
                    steps.push(Step::Connect(queue_pairs));
                    Ok(())
                }
                // To an offer that was withdrawn meanwhile.
                Phase::Offering { .. } | Phase::Tcp { .. }
                    if self.leads && attempt <= self.attempt =>
                {
                    Ok(())
                }
                _ => Err(unexpected),
            },
            LinkControl::Decline { attempt: 0, reason } => {
                steps.push(Step::OnTcp { reason, theirs: true });
                Ok(())
            }
            LinkControl::Decline { attempt, reason } => {
                let ours = attempt == self.attempt;
                match self.phase {
                    Phase::Offering { .. }
                    | Phase::Accepting { .. }
                    | Phase::Draining { .. }
                    | Phase::Switching { .. }
                        if ours =>
                    {
                        self.attempt_over(reason, true, now, steps);
                        Ok(())
                    }
                    Phase::Verbs { .. } | Phase::Falling { .. } if ours => Err(unexpected),
                    // The leader has given up before it could offer.
                    Phase::Tcp { .. } if !self.leads && attempt > self.attempt => {
                        self.attempt = attempt;
                        steps.push(Step::OnTcp { reason, theirs: true });
                        Ok(())
                    }
                    // Both gave it up.
                    _ => Ok(()),
                }
            }
            LinkControl::Switch { attempt, .. } if attempt != self.attempt => Err(unexpected),
            LinkControl::Switch { to: LinkKind::Verbs, statement, .. } => match self.phase {
                Phase::Accepting { .. } if self.mine.is_none() => {
                    let until = now + STEP_MAX;
                    self.phase = Phase::Draining { until, theirs: Some(statement) };
                    steps.push(Step::Hold);
                    Ok(())
                }
                Phase::Switching { .. } => {
                    self.phase = Phase::Verbs { since: now };
                    steps.push(Step::Move(LinkKind::Verbs, statement));
                    if std::mem::take(&mut self.failed_early) {
                        self.failed(now, steps);
                    }
                    Ok(())
                }
                // We gave the attempt up meanwhile; our refusal is on its way to the leader.
                Phase::Tcp { .. } if !self.leads => Ok(()),
                _ => Err(unexpected),
            },
            LinkControl::Switch { to: LinkKind::Tcp, statement, .. } => {
                let since = match self.phase {
                    Phase::Verbs { since } => {
                        self.fall(steps);
                        steps.push(Step::OnTcp { reason: TcpReason::Failed, theirs: true });
                        since
                    }
                    Phase::Falling { since, .. } => since,
                    _ => return Err(unexpected),
                };
                steps.push(Step::Move(LinkKind::Tcp, statement));
                self.fallen(since, now);
                Ok(())
            }
        }
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp { .. } => "on TCP",
            Self::Offering { .. } => "waiting for an answer to its offer",
            Self::Accepting { .. } => "waiting for the switch to verbs",
            Self::Draining { .. } => "waiting for acknowledgements on TCP",
            Self::Switching { .. } => "waiting for the other switch to verbs",
            Self::Verbs { .. } => "on verbs",
            Self::Falling { .. } => "waiting for the other switch to TCP",
        }
    }
}

fn stuck(to: LinkKind) -> SwitchError {
    SwitchError::Stuck { to, limit_ms: SWITCH_MAX.as_millis() }
}
