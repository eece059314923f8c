//! Turns of an endpoint: sending what is queued, reading what has come, spinning and sleeping.
//!
//! ```text
//!   poll            flush | post | timers, the poller (seldom) | read links
//!   poll_spinning   the same, and then, while nothing comes:     read links, again and again
//!   wait            flush | arm | sleep in the poller |          poll
//! ```

use super::{Endpoint, token::link_token};
use crate::link::Link;
use std::{
    io,
    time::{Duration, Instant},
};

/// Turns between two questions to the operating system while connections are hot.
const TURNS_PER_OS_POLL: u32 = 64;
/// Turns between two looks at the clock.
const TURNS_PER_TIMER: u32 = 256;
/// Turns without a sleep after which busy connections leave the poller: giving them back costs a
/// system call each, so an endpoint that sleeps now and then keeps them there.
const TURNS_TO_HEAT: u32 = 4096;
/// Turns without an event after which owed acknowledgements go out.
const QUIET_TURNS: u32 = 64;
/// Turns after which they go out even if others are never quiet.
const TURNS_PER_QUIET: u32 = 4096;
/// Looks for messages with which [`Endpoint::poll_spinning`] goes on where a turn has found none.
const LOOKS: u32 = 7;

impl Endpoint {
    /// One turn: sends what is queued, reads what has come. True when there are events to take.
    #[inline(never)] // See `read_links`.
    pub fn poll(&mut self) -> bool {
        self.begin_turn();
        self.read_links();
        self.end_turn()
    }

    /// What comes before the look for messages.
    #[inline(always)] // As `read_links`.
    fn begin_turn(&mut self) {
        self.flush_all();
        if self.owing {
            self.post_in_turn();
            self.flush();
        }
        self.turn = self.turn.wrapping_add(1);
        if !self.hot || self.turn.is_multiple_of(TURNS_PER_OS_POLL) {
            self.poll_os(Some(Duration::ZERO));
            if self.turn.is_multiple_of(TURNS_PER_TIMER) {
                self.now_and_then();
            }
        }
    }

    /// As [`Endpoint::poll`], for a caller that spins: where nothing has come, it looks some more times
    /// for messages, and only for them, as the rest of a turn would make the next look later. Between
    /// two looks it asks `work_waits` whether the caller has something else to do, and ends if so.
    ///
    /// It is compiled into its caller, and best into the very loop that spins: where a message is heard,
    /// answered and the next one looked for without a return from the function that all this is in, a
    /// round trip is up to a tenth shorter (ARCHITECTURE.md, "Nothing returns across a system call").
    #[inline(always)] // See `read_links`.
    pub fn poll_spinning(&mut self, work_waits: impl Fn() -> bool) -> bool {
        self.begin_turn();
        let mut looks = 0;
        while !self.read_links() && looks < LOOKS && self.hot && !work_waits() {
            looks += 1;
        }
        self.end_turn()
    }

    /// Counts turns in which nothing has come. True when there are events to take.
    #[inline]
    fn end_turn(&mut self) -> bool {
        if !self.events.is_empty() {
            self.quiet_turns = 0;
            return true;
        }
        self.quiet_turns = self.quiet_turns.saturating_add(1);
        if self.quiet_turns == QUIET_TURNS {
            self.quiet();
        }
        false
    }

    #[cold]
    fn now_and_then(&mut self) {
        let now = Instant::now();
        self.timers(now);
        self.tick_switches(now);
        self.check_liveness(now);
        if self.turn.is_multiple_of(TURNS_PER_QUIET) {
            // For lanes that wait while others are never quiet.
            self.quiet();
        }
        self.awake_turns = self.awake_turns.saturating_add(TURNS_PER_TIMER);
        if self.awake_turns >= TURNS_TO_HEAT {
            let registry = self.os.registry();
            for (slot, peer) in self.peers.iter_mut().enumerate() {
                if let Some(link) = &mut peer.link {
                    link.heat(registry, |class| link_token(slot, class));
                }
            }
        }
    }

    /// Gives every connection back to the poller, which is to report what comes.
    fn cool_down(&mut self) {
        self.awake_turns = 0;
        let registry = self.os.registry();
        for (slot, peer) in self.peers.iter_mut().enumerate() {
            if let Some(link) = &mut peer.link {
                link.cool_down(registry, |class| link_token(slot, class));
            }
        }
    }

    /// Sends what is queued, acknowledgements that have waited included, and sleeps until there is something to
    /// read, [`Waker::wake`](super::Waker::wake) is called, or `timeout` is over; then polls once. `work_waits` is asked
    /// after the endpoint has announced that it sleeps: it returns true if the caller's own queues
    /// hold something, and then there is no sleep. True when there are events to take.
    pub fn wait(&mut self, timeout: Duration, work_waits: impl FnOnce() -> bool) -> bool {
        if self.owing {
            self.post_in_turn();
        }
        let until_acks = self.acknowledge_when_quiet();
        self.flush();
        if self.events.is_empty() {
            self.cool_down();
        }
        let may_sleep = self.events.is_empty()
            && self.peers.iter().all(|p| p.link.as_ref().is_none_or(Link::may_sleep));
        if may_sleep {
            let live = self.next_liveness(Instant::now());
            let timeout = timeout.min(self.next_timer()).min(until_acks).min(live);
            self.waker.announce_sleep();
            if work_waits() {
                self.waker.awake();
            } else {
                self.counters.sleeps.add(1);
                self.poll_os(Some(timeout));
                self.waker.awake();
            }
            let now = Instant::now();
            self.timers(now);
            self.tick_switches(now);
            self.check_liveness(now);
        }
        self.poll()
    }

    /// Reads what has come on all links. True when anything has, be it an acknowledgement.
    ///
    /// Part of the loop that looks, all the way to the system call; so is what flushes. See
    /// [`Endpoint::poll_spinning`].
    #[inline(always)]
    fn read_links(&mut self) -> bool {
        self.hot = false;
        let mut any = false;
        for slot in 0..self.peers.len() {
            let peer = &mut self.peers[slot];
            let Some((link, mut arrivals)) = peer.receiving(&mut self.events) else { continue };
            let polled = link.poll(&mut arrivals);
            let (came, lanes) = (arrivals.any, arrivals.lanes);
            self.hot |= link.is_hot();
            if came {
                any = true;
                peer.count_moved();
                if lanes != 0 {
                    peer.arrived(lanes);
                }
            }
            if peer.reads.is_some() {
                self.polled_with_reads(slot, polled);
            } else if let Err(reason) = polled {
                self.link_failed(slot, reason);
            } else if !peer.heard.is_empty() {
                self.hear(slot);
            } else if peer.draining {
                self.check_drained(slot);
            }
        }
        any || !self.events.is_empty()
    }

    /// Asks the operating system what is ready, and lets connections, dials and the listener know.
    #[inline(never)] // Rare while connections are hot, and large.
    fn poll_os(&mut self, timeout: Option<Duration>) {
        let Some(mut events) = self.os_events.take() else { return };
        match self.os.poll(&mut events, timeout) {
            Ok(()) => {
                for event in &events {
                    self.os_event(event);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => tracing::error!("the poller failed: {e}"),
        }
        self.os_events = Some(events);
    }
}
