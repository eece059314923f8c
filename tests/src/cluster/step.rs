//! One step: what can happen next, what does, and what it is about.

use super::{
    Checked, Cluster, Delayed, EPOCH, Place, carried_duty, carries_page, ensure,
    network::{Arrived, Outgoing},
    workload::Habit,
};
use pagewire_node::grd::Event;
use pagewire_protocol::{Body, Pcm};
use super::content::Content;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Network,
    Request,
    Storage,
    Drain,
    Thread,
    Housekeeping,
}

impl Cluster {
    /// Takes one step; false when nothing is left to do.
    pub(super) fn step(&mut self) -> Checked<bool> {
        self.summary.steps += 1;
        self.now += 1;
        if self.summary.steps.is_multiple_of(256) {
            self.check_waits()?;
        }
        self.fault()?;
        let Some(kind) = self.choose() else { return Ok(false) };
        match kind {
            Kind::Network => self.network_step()?,
            Kind::Request => self.send_request()?,
            Kind::Storage => self.storage_step()?,
            Kind::Drain => self.report_drain()?,
            Kind::Thread => self.thread_step()?,
            Kind::Housekeeping => self.housekeeping()?,
        }
        Ok(true)
    }

    fn choose(&mut self) -> Option<Kind> {
        let o = &self.options;
        let loaded = self.habit != Habit::Nothing;
        let possible = [
            (Kind::Network, o.deliver_weight, self.network.is_busy()),
            (Kind::Request, o.request_weight, !self.requests.is_empty()),
            (Kind::Storage, o.storage_weight, !self.ios.is_empty()),
            (Kind::Drain, o.drain_weight, !self.drains.is_empty()),
            (Kind::Thread, o.thread_weight, loaded || self.anyone_could_release()),
            (Kind::Housekeeping, o.housekeeping_weight, self.habit == Habit::Mixed),
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
        None
    }

    fn fault(&mut self) -> Checked {
        if self.habit != Habit::Mixed || self.options.fault_every == 0 {
            return Ok(());
        }
        if self.random.below(self.options.fault_every) != 0 {
            return Ok(());
        }
        let (a, b) = (self.random.index(self.nodes.len()), self.random.index(self.nodes.len()));
        if a == b {
            return Ok(());
        }
        if self.random.percent(50) {
            if self.network.break_link(a, b, &mut self.random) {
                self.trace.action(self.summary.steps, || format!("link of {a} and {b} breaks"));
            }
        } else if self.network.begin_move(a, b) {
            self.trace.action(self.summary.steps, || format!("link of {a} and {b} moves"));
        }
        Ok(())
    }

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
        let Arrived { from, to, kind, epoch, body, content } = arrived;
        let (tag, message) = Pcm::decode(kind, body.as_slice()).map_err(|e| e.to_string())?;
        let Some(page) = self.pages.iter().position(|page| page.tag == tag) else {
            return Err(format!("a message about {tag}, which nobody asked for"));
        };
        let place = Place { node: to, page };
        let node = &mut self.nodes[to];
        let frame = &mut node.frames[page];
        if let Some(request) = carried_duty(&message) {
            self.pages[page].flying_duties -= 1;
            let asked = frame.request.map(|(request, _)| request);
            ensure!(asked == Some(request), "a duty to write came to nobody's request");
            frame.duty = true;
        }
        ensure!(content.is_some() == carries_page(&message), "a page came alone, or did not come");
        if let Some(content) = content {
            ensure!(frame.request.is_some(), "a page came without a reservation");
            ensure!(frame.arrival.is_none(), "a page came while another waits to be installed");
            frame.arrival = Some(content);
            node.clock = node.clock.max(content.version);
        }
        let from = self.nodes[from].id;
        self.feed(place, Event::Message { from, epoch, tag, message })
    }

    fn send_request(&mut self) -> Checked {
        let at = self.random.index(self.requests.len());
        let Delayed { place, to, message } = self.requests.swap_remove(at);
        let Place { node, page } = place;
        if to != node {
            self.trace.action(self.summary.steps, || format!("{node} sends its request {page}"));
            return self.send(node, to, page, message, None);
        }
        let (from, tag) = (self.nodes[node].id, self.pages[page].tag);
        self.feed(place, Event::Message { from, epoch: EPOCH, tag, message })
    }

    fn report_drain(&mut self) -> Checked {
        let at = self.random.index(self.drains.len());
        let place = self.drains.swap_remove(at);
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.is_drained(), "pins came back after they were drained");
        let (Some(to), Some(content)) = (frame.lowering.take(), frame.held) else {
            return Err("pins are drained of a page that is not there".to_owned());
        };
        let (dirty, version) = (frame.dirty, content.version);
        let tag = self.pages[place.page].tag;
        self.feed(place, Event::Drained { tag, to, dirty, version })
    }

    fn housekeeping(&mut self) -> Checked {
        let node = self.random.index(self.nodes.len());
        let page = self.random.index(self.pages.len());
        let tag = self.pages[page].tag;
        let evict = self.random.percent(50);
        let event = if evict { Event::Evict { tag } } else { Event::WriteBack { tag } };
        self.feed(Place { node, page }, event)
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        page: usize,
        message: Pcm,
        content: Option<Content>,
    ) -> Checked {
        self.pages[page].flying_duties += usize::from(carried_duty(&message).is_some());
        let bytes = message.encode(self.pages[page].tag);
        let what = Outgoing {
            lane: message.lane(),
            kind: message.kind(),
            epoch: EPOCH,
            body: Body::new(&bytes).ok_or("a body of more than 80 bytes")?,
            content,
        };
        self.network.send(from, to, what, &mut self.random, self.now)?;
        Ok(())
    }
}
