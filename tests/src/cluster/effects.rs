//! The runtime, messages: what is done for effects that send something, or wait for something, and
//! what each of them promises. Effects on the page itself are in [`super::pages`].

use super::{
    Checked, Cluster, Delayed, Place,
    content::Content,
    ensure,
    frame::Transit,
    network::{Outgoing, Payload},
};
use pagewire_node::grd::{Effect, Event};
use pagewire_protocol::{
    Body, Epoch, GrantNumber, InstanceId, Lane, Lsn, Mode, Pcm, RequestId,
    guide::{GUIDE_RECORD_BYTES, GuideHeader, GuideRecord, encode_batch},
    pcm::{Verdict, kind},
};

/// The request whose requester gets the duty to write the page with this message.
pub(super) fn carried_duty(message: &Pcm) -> Option<RequestId> {
    match *message {
        Pcm::Response { request, dirty: true, .. }
        | Pcm::Invalidated { request, dirty: true, .. } => Some(request),
        _ => None,
    }
}

/// Whether a message has to travel with the page.
pub(super) fn carries_page(message: &Pcm) -> bool {
    matches!(message, Pcm::Response { verdict: Verdict::Page, .. })
}

impl Cluster {
    pub(super) fn apply(&mut self, place: Place, effect: Effect) -> Checked {
        let fenced = self.nodes[place.node].fenced;
        ensure!(
            !fenced || matches!(effect, Effect::Fail { .. }),
            "I7: instance {} acts after its fence: {effect:?}",
            place.node
        );
        match effect {
            Effect::Send { to, epoch, message, .. } => self.apply_send(place, to, epoch, message),
            Effect::Request { to, epoch, message, .. } => {
                self.apply_request(place, to, epoch, message)
            }
            Effect::RequestAgain { to, epoch, message, .. } => {
                self.apply_request_again(place, to, epoch, message)
            }
            Effect::RequestOver { .. } => self.apply_request_over(place),
            Effect::Ship { to, epoch, message, keep, .. } => {
                self.apply_ship(place, to, epoch, message, keep)
            }
            Effect::ShipPastImage { to, epoch, message, .. } => {
                self.apply_ship_past_image(place, to, epoch, message)
            }
            Effect::Forget { grant, .. } => self.apply_forget(place, grant),
            Effect::ToPastImage { grant, .. } => self.apply_to_past_image(place, grant),
            Effect::Reinstate { grant, dirty, .. } => self.apply_reinstate(place, grant, dirty),
            Effect::KeepPastImage { version, .. } => self.apply_keep_past_image(place, version),
            Effect::DropPastImage { version, .. } => self.apply_drop_past_image(place, version),
            Effect::Take { .. } => self.apply_take(place),
            Effect::ReadNewer { at_least, .. } => self.apply_read(place, at_least, true),
            Effect::Read { at_least, .. } => self.apply_read(place, at_least, false),
            Effect::Write { version, .. } => self.apply_write(place, version),
            Effect::Lower { to, .. } => self.apply_lower(place, to),
            Effect::Install { dirty, .. } => self.apply_install(place, dirty),
            Effect::MarkDirty { .. } => self.apply_mark_dirty(place),
            Effect::Discard { .. } => self.apply_discard(place),
            Effect::Broken { problem, .. } => Err(format!("I5: the page {problem}")),
            Effect::Complete { waiter, mode, .. } => self.apply_complete(place, waiter, mode),
            Effect::Fail { waiter, error, .. } => self.apply_fail(place, waiter, error.as_ref()),
            Effect::Open { mode, .. } => self.apply_open(place, mode),
            Effect::Drop { .. } => self.apply_drop(place),
            Effect::Flush { to, .. } => {
                let end = self.nodes[place.node].log.end;
                ensure!(to <= end, "flushes to {to}, the log ends at {end}");
                self.submit_flush(place, to);
                Ok(())
            }
            Effect::Fence => {
                self.nodes[place.node].fence();
                Ok(())
            }
            Effect::LoadGuide { to, epoch, batch, last } => {
                self.apply_load_guide(place.node, to, epoch, &batch, last)
            }
            Effect::Again => {
                if !self.agains.contains(&place.node) {
                    self.agains.push(place.node);
                }
                Ok(())
            }
            Effect::PartitionReady { .. } | Effect::StatReply { .. } => Ok(()),
            Effect::Park | Effect::ViewInstalled { .. } => Err("is done elsewhere".to_owned()),
        }
    }

    // ---- sending -------------------------------------------------------------------------------

    fn apply_send(&mut self, place: Place, to: InstanceId, epoch: Epoch, message: Pcm) -> Checked {
        ensure!(!carries_page(&message), "a page is to be sent without the page");
        let storage = self.pages[place.page].storage;
        let frame = &self.nodes[place.node].frames[place.page];
        let held = frame.held;
        match message {
            Pcm::Claim { version, .. } => {
                let held = held.map(|content| content.version);
                ensure!(held == Some(version), "claims v{version}, holds {held:?}");
            }
            // Without a page it gives a grant back that storage could not serve.
            Pcm::Release { version, .. } if held.is_some() => {
                let held = held.map(|content| content.version);
                ensure!(held == Some(version), "releases v{version}, holds {held:?}");
                ensure!(!frame.dirty, "I3: releases a dirty page");
            }
            Pcm::Written { version, .. } => {
                ensure!(storage.version >= version, "I3: says written what is not on storage");
            }
            Pcm::Invalidated { dirty, .. } => {
                let is = frame.dirty && held.is_some();
                ensure!(dirty == is, "I3: gives up: dirty {is}, says {dirty}");
                ensure!(
                    held.is_some() || self.membership.disturbed,
                    "gives up what it does not have"
                );
                if let Some(content) = held.filter(|_| dirty) {
                    self.check_redo(place, content)?;
                    // The duty to write is in the message now.
                    self.nodes[place.node].frames[place.page].dirty = false;
                }
            }
            Pcm::Cancel { .. } if self.cancelled_here(place) => return Ok(()),
            Pcm::Cancel { .. } if usize::from(to.0) == place.node => {
                let (from, incarnation) = (self.nodes[place.node].id, self.nodes[place.node].life);
                let tag = self.pages[place.page].tag;
                let event = Event::Message { from, incarnation, epoch, tag, message };
                self.answers.push((place, event));
                return Ok(());
            }
            _ => {}
        }
        self.send(place, to, epoch, message, None)
    }

    fn send(
        &mut self,
        place: Place,
        to: InstanceId,
        epoch: Epoch,
        message: Pcm,
        content: Option<Content>,
    ) -> Checked {
        self.pages[place.page].flying_duties += usize::from(carried_duty(&message).is_some());
        let bytes = message.encode(self.pages[place.page].tag);
        let what = Outgoing {
            lane: message.lane(),
            kind: message.kind(),
            epoch,
            body: Body::new(&bytes).ok_or("a body of more than 80 bytes")?,
            payload: content.map_or(Payload::None, Payload::Page),
        };
        let to = usize::from(to.0);
        ensure!(to != place.node, "sends a message to itself");
        self.network.send(place.node, to, what, &mut self.random, self.now)?;
        Ok(())
    }

    fn apply_load_guide(
        &mut self,
        node: usize,
        to: InstanceId,
        epoch: Epoch,
        batch: &[GuideRecord],
        last: bool,
    ) -> Checked {
        let records = u16::try_from(batch.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![0; batch.len() * GUIDE_RECORD_BYTES];
        ensure!(bytes.len() <= 4096, "a batch of {records} records does not fit the smallest page");
        encode_batch(batch, &mut bytes);
        let body = GuideHeader { records, last }.encode();
        let what = Outgoing {
            lane: Lane::Bulk,
            kind: kind::PCM_LOAD_GUIDE,
            epoch,
            body: Body::new(&body).ok_or("a body of more than 80 bytes")?,
            payload: Payload::Bytes(bytes),
        };
        self.network.send(node, usize::from(to.0), what, &mut self.random, self.now)?;
        Ok(())
    }

    // ---- requests ------------------------------------------------------------------------------

    fn apply_request(
        &mut self,
        place: Place,
        to: InstanceId,
        epoch: Epoch,
        message: Pcm,
    ) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let Pcm::Acquire { request, want, .. } = message else {
            return Err("a request is no ACQUIRE".to_owned());
        };
        ensure!(frame.request.is_none(), "a second request for the page");
        (frame.request, frame.sent) = (Some((request, want)), false);
        let to = usize::from(to.0);
        self.requests.push(Delayed { place, to, epoch, message });
        Ok(())
    }

    fn apply_request_again(
        &mut self,
        place: Place,
        to: InstanceId,
        epoch: Epoch,
        message: Pcm,
    ) -> Checked {
        let frame = &self.nodes[place.node].frames[place.page];
        let Pcm::Acquire { request, .. } = message else {
            return Err("a request is no ACQUIRE".to_owned());
        };
        let own = frame.request.map(|(own, _)| own);
        ensure!(own == Some(request), "I5: asks again for {request:?}, asked for {own:?}");
        self.requests.retain(|waiting| waiting.place != place);
        let again = Delayed { place, to: usize::from(to.0), epoch, message };
        if frame.sent && again.to != place.node {
            return self.depart(again);
        }
        self.requests.push(again);
        Ok(())
    }

    /// A request leaves that has a frame, or finds one now.
    pub(super) fn send_request(&mut self) -> Checked {
        let ready: Vec<_> =
            (0..self.requests.len()).filter(|&at| self.may_leave(&self.requests[at])).collect();
        let Some(&at) = ready.get(self.random.index(ready.len())) else { return Ok(()) };
        let request = self.requests.remove(at);
        self.depart(request)
    }

    /// Whether a cancelled request has not left: it never will, and the answer is as good as there.
    fn cancelled_here(&mut self, place: Place) -> bool {
        let waiting = |request: &Delayed| {
            request.place == place && !self.nodes[place.node].frames[place.page].sent
        };
        let Some(at) = self.requests.iter().position(waiting) else { return false };
        let Delayed { to, epoch, message, .. } = self.requests.remove(at);
        let Pcm::Acquire { request, want, .. } = message else { return false };
        let (from, incarnation) = (self.nodes[to].id, self.nodes[to].life);
        let message = Pcm::Response {
            request,
            verdict: Verdict::Cancelled,
            mode: want,
            grant: GrantNumber(0),
            version: Lsn::ZERO,
            acks: 0,
            dirty: false,
            unsaved: false,
            past: false,
            writer: self.nodes[place.node].id,
        };
        let tag = self.pages[place.page].tag;
        self.answers.push((place, Event::Message { from, incarnation, epoch, tag, message }));
        true
    }

    /// The request leaves.
    fn depart(&mut self, request: Delayed) -> Checked {
        let Delayed { place, to, epoch, message } = request;
        self.nodes[place.node].frames[place.page].sent = true;
        let it = &self.nodes[place.node];
        let (from, incarnation, tag) = (it.id, it.life, self.pages[place.page].tag);
        if to == place.node {
            return self.feed(place, Event::Message { from, incarnation, epoch, tag, message });
        }
        self.trace.action(place.page, self.summary.steps, || {
            format!("instance {} sends {to} its request", place.node)
        });
        let to = self.nodes[to].id;
        self.send(place, to, epoch, message, None)
    }

    pub(super) fn may_leave(&self, request: &Delayed) -> bool {
        let node = &self.nodes[request.place.node];
        let recovery = matches!(request.message, Pcm::Acquire { recovery: true, .. });
        let sent = node.frames[request.place.page].sent;
        let under_way = node.frames.iter().filter(|f| f.request.is_some() && f.sent).count();
        node.is_active()
            && (sent || recovery || under_way < super::count(self.options.requests_max))
    }

    fn apply_request_over(&mut self, place: Place) -> Checked {
        let first = self.first_waiter(place);
        let node = &mut self.nodes[place.node];
        let mode = node.grd.holding(&self.pages[place.page].tag).map(|holding| holding.mode);
        let frame = &mut node.frames[place.page];
        let Some((_, want)) = frame.request.take() else {
            return Err("I5: a request is over that was never made".to_owned());
        };
        // A read may outlive its request when the view changes.
        let reading = frame.reading && !self.membership.disturbed;
        ensure!(!reading, "a request is over while its page is being read");
        // It was granted, not refused: then it is of use to its first waiter.
        // A copy that came back from transit and is being given up already is no grant of it.
        let granted = mode.is_some_and(|mode| mode >= want) && frame.lowering.is_none();
        // Whoever applies redo comes before its first waiter.
        let redo = self.redo.as_ref().is_some_and(|redo| redo.is_at_work(place.node, place.page));
        let owed = first.filter(|&(_, mode)| granted && !redo && mode <= want);
        frame.owed = owed.map(|(waiter, _)| waiter);
        self.requests.retain(|waiting| waiting.place != place);
        Ok(())
    }

    // ---- shipping ------------------------------------------------------------------------------

    fn apply_ship(
        &mut self,
        place: Place,
        to: InstanceId,
        epoch: Epoch,
        message: Pcm,
        keep: bool,
    ) -> Checked {
        ensure!(carries_page(&message), "ships a page without saying so");
        let Pcm::Response { version, dirty, grant, .. } = message else { return Ok(()) };
        let frame = &self.nodes[place.node].frames[place.page];
        let Some(content) = frame.held else { return Err("ships what it does not have".into()) };
        ensure!(content.version == version, "ships v{}, says v{version}", content.version);
        ensure!(!frame.exclusive, "I1: ships while a writer has the page");
        let leaves = frame.dirty && !keep;
        ensure!(dirty == leaves, "I3: the duty to write leaves: {leaves}, says {dirty}");
        self.check_redo(place, content)?;
        let frame = &mut self.nodes[place.node].frames[place.page];
        if keep {
            ensure!(frame.word <= Mode::S, "I1: ships while writers may pin");
            let owed = frame.owed;
            ensure!(owed.is_none(), "I5: ships before waiter {owed:?} had what was granted");
        } else {
            frame.take()?;
            ensure!(frame.transit.is_empty(), "ships away while an earlier copy is in transit");
            frame.transit.push(Transit { to: usize::from(to.0), grant, content });
        }
        self.summary.ships += 1;
        self.send(place, to, epoch, message, Some(content))
    }

    fn apply_ship_past_image(
        &mut self,
        place: Place,
        to: InstanceId,
        epoch: Epoch,
        message: Pcm,
    ) -> Checked {
        ensure!(carries_page(&message), "ships a past image without saying so");
        let Pcm::Response { version, past, .. } = message else { return Ok(()) };
        ensure!(past, "ships a past image as the current version");
        let frame = &self.nodes[place.node].frames[place.page];
        let Some(content) = frame.past else { return Err("has no past image to ship".into()) };
        ensure!(content.version == version, "ships v{}, says v{version}", content.version);
        self.check_redo(place, content)?;
        self.summary.past_images_shipped += 1;
        self.send(place, to, epoch, message, Some(content))
    }

    /// Invariant 8: the redo of what leaves an instance, for another or for storage, is durable.
    pub(super) fn check_redo(&self, place: Place, content: Content) -> Checked {
        let Content { version, .. } = content;
        if version == Lsn::ZERO {
            return Ok(());
        }
        let Some(made) = self.pages[place.page].made(version) else {
            return Err(format!("I8: v{version} leaves {}, and its redo is lost", place.node));
        };
        ensure!(made.content == content, "I2: two contents of v{version}");
        let node = &self.nodes[place.node];
        let own = (made.writer, made.life) == (place.node, node.life);
        ensure!(
            !own || made.redo <= node.log.durable,
            "I8: v{version} leaves {}; its redo ends at {}, durable is {}",
            place.node,
            made.redo,
            node.log.durable
        );
        Ok(())
    }
}
