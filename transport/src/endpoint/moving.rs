//! A session moves between TCP and verbs: does what [`super::switch`] decides.
//!
//! ```text
//!                    TCP's receives        verbs' receives           what the session is told
//!   TCP              posted                none
//!   leader says      posted                small messages'
//!   leader moves     taken back            frames, as there are     credits: small; the rest follows
//!   follower moves   taken back, then ->   all, then it says so     credits: all
//!   verbs            none                  posted
//!   falls            all, then it says so  given back by the drain  credits: all
//! ```
//! A frame is thus posted on one link at a time, so that the arena needs none for the other.

use super::{
    Endpoint,
    config::LinkPolicy,
    devices::PAGE_SENDS,
    peer::Peer,
    switch::{Step, Switch},
    token::link_token,
};
use crate::{
    error::LinkError,
    link::{
        Link,
        verbs::{AsyncEvent, VerbsError, link::LinkRoom},
    },
};
use mio::{Interest, unix::SourceFd};
use pagewire_protocol::{
    Lane, LaneClass, LinkControl, LinkKind, TcpReason,
    link_control::{QueuePairs, Statement},
};
use std::{collections::VecDeque, os::fd::AsRawFd, time::Instant};

impl Endpoint {
    /// A TCP link has come up.
    pub(super) fn begin_on_tcp(&mut self, slot: usize) {
        let policy = self.config.links;
        let peer = &mut self.peers[slot];
        let leads = self.config.instance > peer.id;
        peer.switch = Some(Switch::new(leads, policy != LinkPolicy::Tcp, Instant::now()));
        peer.held = policy == LinkPolicy::Verbs;
        peer.heard.clear();
        peer.counters.link.set(LinkKind::Tcp as u64 + 1);
        if leads && policy == LinkPolicy::Tcp {
            let reason = TcpReason::Configured;
            self.say(slot, &LinkControl::Decline { attempt: 0, reason });
            self.stays_on_tcp(slot, reason, false);
        }
    }

    /// When a switch has something to do.
    pub(super) fn next_switch(&self) -> Option<Instant> {
        let ticks = self.peers.iter().filter_map(|peer| peer.switch.as_ref()?.next_tick());
        ticks.chain(self.devices.next_look()).min()
    }

    /// Time has passed.
    pub(super) fn tick_switches(&mut self, now: Instant) {
        for name in self.devices.vanished(now) {
            tracing::warn!("RDMA device {name} was removed");
            for slot in 0..self.peers.len() {
                let link = self.peers[slot].link.as_mut();
                if link.and_then(|l| l.verbs_mut()).is_some_and(|v| v.device() == name) {
                    self.verbs_failed(slot, &VerbsError::Removed { device: name.clone() });
                }
            }
            self.devices.let_go(&name, self.os.registry());
        }
        for slot in 0..self.peers.len() {
            let due = |switch: &Switch| switch.next_tick().is_some_and(|at| at <= now);
            if self.peers[slot].switch.as_ref().is_some_and(due) {
                self.step(slot, |switch, steps| switch.tick(now, steps));
            }
        }
    }

    /// What peers have said about their links.
    #[cold]
    pub(super) fn hear(&mut self, slot: usize) {
        while let Some(said) = self.peers[slot].heard.pop_front() {
            let of_region = match said {
                LinkControl::Region { attempt, region, memory } => {
                    self.key_heard(slot, attempt, (region, memory))
                }
                LinkControl::Close { attempt, region } => self.close_heard(slot, attempt, region),
                LinkControl::Left { attempt, region } => self.left_heard(slot, attempt, region),
                said => {
                    self.step(slot, |switch, steps| switch.heard(said, Instant::now(), steps));
                    continue;
                }
            };
            if let Err(error) = of_region {
                self.link_down(slot, error);
            }
        }
    }

    /// If all that was sent is acknowledged, and that is waited for.
    #[cold]
    pub(super) fn check_drained(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        peer.draining = peer.switch.as_ref().is_some_and(Switch::wants_drained);
        if peer.draining && peer.session.as_ref().is_some_and(|session| session.is_settled()) {
            self.step(slot, |switch, steps| {
                switch.drained(Instant::now(), steps);
                Ok(())
            });
        }
    }

    /// The queue pairs of a peer have failed.
    #[cold]
    pub(super) fn verbs_failed(&mut self, slot: usize, error: &VerbsError) {
        let id = self.peers[slot].id;
        tracing::warn!("verbs with instance {id} failed: {error}");
        self.step(slot, |switch, steps| {
            switch.failed(Instant::now(), steps);
            Ok(())
        });
    }

    /// A link reports an error: the queue pairs', or its own.
    #[cold]
    pub(super) fn link_failed(&mut self, slot: usize, reason: LinkError) {
        match reason {
            LinkError::Verbs(error)
                if self.peers[slot].link.as_mut().is_some_and(|l| l.verbs_mut().is_some()) =>
            {
                self.verbs_failed(slot, &error);
            }
            reason => self.link_down(slot, reason),
        }
    }

    /// What the devices report beside the work.
    pub(super) fn device_events(&mut self) {
        for (device, event) in self.devices.events() {
            tracing::info!("RDMA device {device}: {event:?}");
            for slot in 0..self.peers.len() {
                let link = self.peers[slot].link.as_mut();
                let Some(verbs) = link.and_then(|link| link.verbs_mut()) else { continue };
                let is_dead = match event {
                    AsyncEvent::DeviceFatal | AsyncEvent::CompletionQueue => {
                        verbs.device() == device
                    }
                    AsyncEvent::QueuePairFatal { queue_pair }
                    | AsyncEvent::QueuePairAccess { queue_pair } => {
                        verbs.device() == device && verbs.has_queue_pair(queue_pair)
                    }
                    _ => false,
                };
                if is_dead {
                    let error = VerbsError::Event { device: device.clone(), event };
                    self.verbs_failed(slot, &error);
                }
            }
        }
    }

    fn step(
        &mut self,
        slot: usize,
        act: impl FnOnce(&mut Switch, &mut Vec<Step>) -> Result<(), crate::error::SwitchError>,
    ) {
        let mut steps = Vec::new();
        let Some(switch) = &mut self.peers[slot].switch else { return };
        if let Err(error) = act(switch, &mut steps) {
            return self.link_down(slot, error.into());
        }
        self.take_steps(slot, steps.into());
        self.check_drained(slot);
    }

    fn take_steps(&mut self, slot: usize, mut steps: VecDeque<Step>) {
        while let Some(step) = steps.pop_front() {
            let mut more = Vec::new();
            let now = Instant::now();
            match step {
                Step::Say(said) => self.say(slot, &said),
                Step::Make => {
                    let made = self.make_queue_pairs(slot);
                    if let Some(switch) = &mut self.peers[slot].switch {
                        switch.made(made, now, &mut more);
                    }
                }
                Step::Connect(theirs) => {
                    let connected = self.connect_queue_pairs(slot, &theirs);
                    if let Some(switch) = &mut self.peers[slot].switch {
                        switch.connected(connected, now, &mut more);
                    }
                }
                Step::Close => self.close_queue_pairs(slot),
                Step::Hold => self.peers[slot].held = true,
                Step::Release => self.release(slot),
                Step::SaySwitch { attempt, to, tcp_still_receives } => {
                    self.say_switch(slot, attempt, to, tcp_still_receives);
                }
                Step::Move(to, theirs) => self.move_session(slot, to, &theirs),
                Step::OnTcp { reason, theirs } => self.stays_on_tcp(slot, reason, theirs),
            }
            if self.peers[slot].link.is_none() {
                return;
            }
            for step in more.into_iter().rev() {
                steps.push_front(step);
            }
        }
    }

    pub(super) fn say(&mut self, slot: usize, said: &LinkControl) {
        let Some(link) = &mut self.peers[slot].link else { return };
        if !link.say(self.config.instance, said) {
            // Far more waits there than all credits allow: the connection takes nothing.
            self.link_down(slot, LinkError::Closed);
        }
    }

    fn make_queue_pairs(&mut self, slot: usize) -> Result<QueuePairs, TcpReason> {
        let peer = &mut self.peers[slot];
        let Some(link) = &mut peer.link else { return Err(TcpReason::Setup) };
        let local = link.tcp_mut().local_address().map_err(|_| TcpReason::Setup)?;
        let registry = self.os.registry();
        let (credits, reads) = (self.config.credits.0, peer.reads.is_some());
        let room = LinkRoom { credits, page_sends: PAGE_SENDS, reads };
        let counters = &peer.counters.verbs;
        let made = self.devices.make(local.ip(), &self.arena, &room, registry, counters);
        let verbs = made.map_err(|unusable| {
            peer.why_tcp = unusable.words;
            unusable.reason
        })?;
        if let Some(fd) = verbs.events_fd() {
            let token = link_token(slot, LaneClass::Page);
            let fd = fd.as_raw_fd();
            if let Err(error) = registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
                peer.why_tcp = format!("its events cannot be polled: {error}");
                return Err(TcpReason::Setup);
            }
        }
        let address = verbs.address();
        link.set_verbs(verbs);
        Ok(address)
    }

    fn connect_queue_pairs(&mut self, slot: usize, theirs: &QueuePairs) -> Result<(), TcpReason> {
        let peer = &mut self.peers[slot];
        let verbs = peer.link.as_mut().and_then(|link| link.verbs_mut());
        let Some(verbs) = verbs else { return Err(TcpReason::Setup) };
        verbs.connect(theirs).map_err(|error| {
            peer.why_tcp = error.to_string();
            TcpReason::Setup
        })
    }

    /// Closes the queue pairs. Where the session is on them, what had arrived is delivered first.
    fn close_queue_pairs(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        let Some(link) = &mut peer.link else { return };
        let on = link.on();
        let Some(verbs) = link.take_verbs() else { return };
        if let Some(fd) = verbs.events_fd() {
            let _ = self.os.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
        }
        let Some((_, mut arrivals)) = peer.receiving(&mut self.events) else { return };
        if on == LinkKind::Verbs {
            if let Err(error) = verbs.close(&mut arrivals) {
                self.link_down(slot, error);
            }
        } else {
            verbs.discard();
        }
        self.take_read_messages(slot);
        self.peers[slot].reads.iter_mut().for_each(|reads| reads.queue_pairs_gone());
        self.finish_closing();
    }

    fn release(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        peer.held = self.config.links == LinkPolicy::Verbs;
        peer.pump_all();
    }

    /// Posts receives on the next link, then says that this end moves there.
    fn say_switch(&mut self, slot: usize, attempt: u32, to: LinkKind, tcp_still_receives: bool) {
        let mut credits = self.shares;
        if tcp_still_receives {
            for lane in Lane::ALL.into_iter().filter(|lane| lane.class().has_frame()) {
                credits[lane.index()] = 0;
            }
        } else {
            if let (LinkKind::Verbs, Some(link)) = (to, &mut self.peers[slot].link)
                && let Err(error) = link.tcp_mut().take_receives()
            {
                return self.link_down(slot, error);
            }
            let posted = self.post_receives();
            credits = posted.credits;
            let Some(link) = &mut self.peers[slot].link else { return };
            for (class, frame) in posted.frames {
                match (to, link.verbs_mut()) {
                    (LinkKind::Verbs, Some(verbs)) => verbs.post_receive(class, frame),
                    _ => link.tcp_mut().post_receive(class, frame),
                }
            }
        }
        let peer = &mut self.peers[slot];
        peer.stated = credits;
        let Some(session) = &peer.session else { return };
        let statement = Statement { expected: session.expected(), credits };
        self.say(slot, &LinkControl::Switch { attempt, to, statement });
    }

    /// The session goes on with another kind of link.
    fn move_session(&mut self, slot: usize, to: LinkKind, theirs: &Statement) {
        let credits = self.config.credits;
        let peer = &mut self.peers[slot];
        let (Some(session), Some(link)) = (&mut peer.session, &mut peer.link) else { return };
        if let Err(error) = session.move_to_link(theirs.expected, theirs.credits, peer.stated) {
            return self.link_down(slot, error.into());
        }
        // The leader's: pages might have come there until now.
        if to == LinkKind::Verbs
            && let Err(error) = link.tcp_mut().take_receives()
        {
            return self.link_down(slot, error);
        }
        link.move_to(to);
        peer.forget_sent();
        peer.note_stale(&self.events);
        for lane in Lane::ALL.into_iter().filter(|lane| lane.class().has_frame()) {
            let missing = credits.of(lane) - peer.stated[lane.index()];
            peer.owed_frames[lane.class().index()] = missing;
            self.owing |= missing > 0;
        }
        peer.counters.link.set(to as u64 + 1);
        match to {
            LinkKind::Verbs => peer.counters.moves_to_verbs.add(1),
            LinkKind::Tcp => {
                peer.counters.falls_to_tcp.add(1);
                // No key outlives the queue pairs that it was for.
                peer.reads.iter_mut().for_each(|reads| reads.queue_pairs_gone());
            }
        }
        tracing::info!("messages with instance {} go over {to}", peer.id);
        peer.held = to == LinkKind::Tcp && self.config.links == LinkPolicy::Verbs;
        peer.pump_all();
        if to == LinkKind::Verbs {
            self.hand_out_all_keys(slot);
        }
    }

    /// Says and counts why verbs is not used.
    fn stays_on_tcp(&mut self, slot: usize, reason: TcpReason, theirs: bool) {
        let peer = &mut self.peers[slot];
        let counters = &peer.counters;
        let counts = if theirs { &counters.tcp_reasons_theirs } else { &counters.tcp_reasons };
        counts[reason.index()].add(1);
        let whose = if theirs { "the other" } else { "this" };
        if self.config.links == LinkPolicy::Verbs {
            return self.link_down(slot, LinkError::VerbsDemanded { reason, whose });
        }
        if peer.told_why_tcp != Some((reason, theirs)) {
            peer.told_why_tcp = Some((reason, theirs));
            let words = if theirs { "" } else { peer.why_tcp.as_str() };
            let (id, colon) = (peer.id, if words.is_empty() { "" } else { ": " });
            tracing::info!(
                "messages with instance {id} go over TCP: {reason}, {whose} end{colon}{words}"
            );
        }
    }
}

impl Peer {
    fn pump_all(&mut self) {
        for lane in Lane::ALL {
            self.pump(lane, crate::link::Urgency::Now);
        }
    }
}
