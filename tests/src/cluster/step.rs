//! One step: what can happen next, what does, and what it is about.

use super::{
    Checked, Cluster, Place,
    effects::{carried_duty, carries_page},
    ensure,
    network::{Arrived, Payload},
    workload::Habit,
};
use pagewire_node::grd::Event;
use pagewire_protocol::{
    Lsn, Pcm, RequestId,
    guide::{GuideHeader, decode_batch},
    pcm::kind,
    stat::StatAbout,
};

#[derive(Debug, Clone, Copy)]
enum Kind {
    Network,
    Request,
    Storage,
    Drain,
    Thread,
    Housekeeping,
    Membership,
    Redo,
    Again,
    Leave,
    Si,
}

/// What a leaver does to have less left.
#[derive(Debug, Clone, Copy)]
enum LeaveChore {
    /// Its log is to be durable to the end.
    Flush(usize),
    /// A past image is to be superseded.
    PastImage(Place),
    /// A page is to be given up.
    Evict(Place),
}

impl Cluster {
    /// Takes one step; false when nothing is left to do.
    pub(super) fn step(&mut self) -> Checked<bool> {
        self.summary.steps += 1;
        self.now += 1;
        if self.summary.steps.is_multiple_of(256) {
            self.check_waits()?;
        }
        if !self.dues.is_empty() {
            self.pass_time(false)?;
        }
        self.inject()?;
        let Some(kind) = self.choose() else { return Ok(false) };
        match kind {
            Kind::Network => self.network_step()?,
            Kind::Request => self.send_request()?,
            Kind::Storage => self.storage_step()?,
            Kind::Drain => self.report_drain()?,
            Kind::Thread => self.thread_step()?,
            Kind::Housekeeping => self.housekeeping()?,
            Kind::Membership => self.membership_step()?,
            Kind::Redo => self.redo_step()?,
            Kind::Again => self.go_on()?,
            Kind::Leave => self.leave_step()?,
            Kind::Si => self.si_step()?,
        }
        Ok(true)
    }

    fn choose(&mut self) -> Option<Kind> {
        let o = &self.options;
        let loaded = self.habit != Habit::Nothing;
        let drained = self.drains.iter().any(|place| self.nodes[place.node].is_active());
        let disturbed = self.membership.disturbed;
        let again = self.agains.iter().any(|&node| self.nodes[node].is_active());
        let possible = [
            (Kind::Network, o.deliver_weight, self.network.is_busy()),
            (
                Kind::Request,
                o.request_weight,
                self.requests.iter().any(|request| self.may_leave(request)),
            ),
            (Kind::Storage, o.storage_weight, self.storage_waits()),
            (Kind::Drain, o.drain_weight, drained),
            (Kind::Thread, o.thread_weight, loaded || self.anyone_could_release()),
            (Kind::Housekeeping, o.housekeeping_weight, self.habit == Habit::Mixed),
            (Kind::Membership, o.membership_weight, self.membership_waits()),
            (Kind::Redo, o.membership_weight, disturbed && self.redo_waits()),
            (Kind::Again, o.deliver_weight, again),
            (Kind::Leave, o.membership_weight, disturbed && self.leave_chores().next().is_some()),
            (Kind::Si, o.deliver_weight, self.si_waits()),
        ];
        let weight = |&(_, weight, possible): &(Kind, u32, bool)| if possible { weight } else { 0 };
        let total: u32 = possible.iter().map(weight).sum();
        let mut at = self.random.below(total);
        for choice in &possible {
            if at < weight(choice) {
                return Some(choice.0);
            }
            at -= weight(choice);
        }
        // Leavers ask again after a while, also when nothing else goes on.
        (disturbed && self.leavers().next().is_some()).then_some(Kind::Leave)
    }

    // ---- messages ------------------------------------------------------------------------------

    fn network_step(&mut self) -> Checked {
        // A message may be held up, but not for ever: in the end there is nothing else to wait for.
        let now = if self.habit == Habit::Nothing { u64::MAX } else { self.now };
        match self.network.step(&mut self.random, now)? {
            Some(arrived) => self.deliver(arrived),
            None => Ok(()),
        }
    }

    fn deliver(&mut self, arrived: Arrived) -> Checked {
        self.summary.messages += 1;
        if Self::is_si(arrived.kind) {
            return self.si_arrives(&arrived);
        }
        let Arrived { from, to, life: incarnation, kind, epoch, body, payload } = arrived;
        let from_id = self.nodes[from].id;
        if kind == kind::PCM_LOAD_GUIDE {
            let Payload::Bytes(bytes) = payload else {
                return Err("records came without their frame".to_owned());
            };
            let header = GuideHeader::decode(body.as_slice()).map_err(|e| e.to_string())?;
            let batch = decode_batch(header, &bytes).map_err(|e| e.to_string())?;
            self.summary.guides += batch.len() as u64;
            let last = header.last;
            let event = Event::LoadGuide { from: from_id, incarnation, epoch, batch, last };
            return self.feed_all(to, event);
        }
        let (tag, message) = Pcm::decode(kind, body.as_slice()).map_err(|e| e.to_string())?;
        let event = Event::Message { from: from_id, incarnation, epoch, tag, message };
        let Some(page) = self.page_of(&tag) else {
            // About no page.
            return self.feed(Place { node: to, page: 0 }, event);
        };
        let place = Place { node: to, page };
        self.cover(place, epoch, &message)?;
        let content = match payload {
            Payload::Page(content) => Some(content),
            Payload::None | Payload::Bytes(_) => None,
        };
        ensure!(content.is_some() == carries_page(&message), "a page came alone, or did not come");
        if let Some(request) = carried_duty(&message) {
            self.duty_arrives(place, request)?;
        }
        self.feed_with(place, event, content)
    }

    fn duty_arrives(&mut self, place: Place, request: RequestId) -> Checked {
        if self.membership.disturbed {
            return Ok(());
        }
        self.pages[place.page].flying_duties -= 1;
        let frame = &mut self.nodes[place.node].frames[place.page];
        let asked = frame.request.map(|(request, _)| request);
        ensure!(asked == Some(request), "I3: a duty to write came to nobody's request");
        frame.duty = true;
        Ok(())
    }

    // ---- the runtime ---------------------------------------------------------------------------

    fn report_drain(&mut self) -> Checked {
        let active = |place: &Place| self.nodes[place.node].is_active();
        let ready: Vec<_> = (0..self.drains.len()).filter(|&at| active(&self.drains[at])).collect();
        let Some(&at) = ready.get(self.random.index(ready.len())) else { return Ok(()) };
        let place = self.drains.swap_remove(at);
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.is_drained(), "pins came back after they were drained");
        let (Some(to), Some(content)) = (frame.lowering.take(), frame.held) else {
            return Err("pins are drained of a page that is not there".to_owned());
        };
        let (dirty, version) = (frame.dirty, content.version);
        let made = self.pages[place.page].made(version).filter(|made| {
            dirty && (made.writer, made.life) == (place.node, self.nodes[place.node].life)
        });
        let flush = made.map_or(Lsn::ZERO, |made| made.redo);
        let tag = self.pages[place.page].tag;
        self.feed(place, Event::Drained { tag, to, dirty, version, flush })
    }

    fn housekeeping(&mut self) -> Checked {
        let node = self.random.index(self.nodes.len());
        let page = self.random.index(self.pages.len());
        if !self.nodes[node].is_active() {
            return Ok(());
        }
        let (place, tag) = (Place { node, page }, self.pages[page].tag);
        match self.random.below(100) {
            0..40 => self.feed(place, Event::Evict { tag }),
            40..70 => self.feed(place, Event::WriteBack { tag }),
            70..80 => self.feed(place, Event::PastImageWanted { tag }),
            80..85 => {
                let to = self.nodes[node].grd.view().master(&tag);
                let whole = self.random.percent(50);
                let about = if whole { StatAbout::Instance } else { StatAbout::Page };
                self.feed(place, Event::Stat { to, tag, about })
            }
            // A commit: the log as it is now becomes durable.
            _ => {
                let to = self.nodes[node].log.end;
                if to > self.nodes[node].log.durable {
                    self.submit_flush(place, to);
                }
                Ok(())
            }
        }
    }

    /// A core that has more to do goes on.
    fn go_on(&mut self) -> Checked {
        let active = |&node: &usize| self.nodes[node].is_active();
        let Some(at) = self.agains.iter().position(active) else { return Ok(()) };
        let node = self.agains.swap_remove(at);
        self.feed_all(node, Event::Continue)
    }

    // ---- planned leaves ------------------------------------------------------------------------

    /// Members that are leaving, and have something left that they can do something about.
    fn leavers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|&at| {
            let it = &self.nodes[at];
            it.leaving && it.is_active() && !self.has_nothing_left(at)
        })
    }

    /// What leavers can do something about now.
    fn leave_chores(&self) -> impl Iterator<Item = LeaveChore> + '_ {
        self.leavers().flat_map(move |node| {
            let it = &self.nodes[node];
            let flush = (it.log.durable < it.log.end).then_some(LeaveChore::Flush(node));
            let asks = self.now >= it.asks_again_at;
            let pages = it.frames.iter().enumerate().filter_map(move |(page, frame)| {
                let place = Place { node, page };
                let busy = it.grd.holding(&self.pages[page].tag).is_some_and(|held| held.busy);
                match (frame.past.is_some() && asks, frame.held.is_some() && !busy) {
                    (true, _) => Some(LeaveChore::PastImage(place)),
                    (_, true) => Some(LeaveChore::Evict(place)),
                    _ => None,
                }
            });
            flush.into_iter().chain(pages)
        })
    }

    fn leave_step(&mut self) -> Checked {
        let chores: Vec<_> = self.leave_chores().collect();
        match chores.get(self.random.index(chores.len())) {
            None => Ok(()),
            Some(&LeaveChore::Flush(node)) => {
                let to = self.nodes[node].log.end;
                self.submit_flush(Place { node, page: 0 }, to);
                Ok(())
            }
            Some(&LeaveChore::PastImage(place)) => {
                // Asked for again after a while only: each time causes messages.
                self.nodes[place.node].asks_again_at = self.now + 500;
                let tag = self.pages[place.page].tag;
                self.feed(place, Event::PastImageWanted { tag })
            }
            Some(&LeaveChore::Evict(place)) => {
                let tag = self.pages[place.page].tag;
                self.feed(place, Event::Evict { tag })
            }
        }
    }

    /// Nothing is left at an instance that is to leave.
    pub(super) fn has_nothing_left(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        it.frames.iter().all(super::frame::Frame::is_empty)
            && it.threads.iter().all(super::workload::Thread::is_idle)
            && it.log.durable == it.log.end
            && self.membership.told[node].is_empty()
            && !self.agains.contains(&node)
            && self.parked[node].is_empty()
            && it.grd.held_tags().next().is_none()
            && it.grd.mastered_tags().next().is_none()
            && !self.has_io(node)
            && self.network.has_told_everything(node)
            && self.is_si_at_rest(node)
    }
}
