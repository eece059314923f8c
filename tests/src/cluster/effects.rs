//! The runtime: what is done for each effect, and what each effect promises.

use super::{Checked, Cluster, Content, Delayed, Io, Place, carries_page, ensure, frame::Transit};
use pagewire_node::grd::Effect;
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, Pcm};

impl Cluster {
    pub(super) fn apply(&mut self, place: Place, effect: Effect) -> Checked {
        match effect {
            Effect::Send { to, message, .. } => self.apply_send(place, to, message),
            Effect::Request { to, message, .. } => self.apply_request(place, to, message),
            Effect::RequestOver { .. } => self.apply_request_over(place),
            Effect::Ship { to, message, keep, .. } => self.apply_ship(place, to, message, keep),
            Effect::Forget { grant, .. } => self.apply_forget(place, grant),
            Effect::Read { at_least, .. } => self.apply_read(place, at_least),
            Effect::Write { version, .. } => self.apply_write(place, version),
            Effect::Lower { to, .. } => self.apply_lower(place, to),
            Effect::Install { dirty, .. } => self.apply_install(place, dirty),
            Effect::MarkDirty { .. } => self.apply_mark_dirty(place),
            Effect::Discard { .. } => self.apply_discard(place),
            Effect::Broken { problem, .. } => Err(format!("the page {problem}")),
            Effect::Complete { waiter, mode, .. } => self.apply_complete(place, waiter, mode),
            Effect::Fail { waiter, error, .. } => self.apply_fail(place, waiter, error.as_ref()),
            Effect::Open { mode, .. } => self.apply_open(place, mode),
            Effect::Drop { .. } => self.apply_drop(place),
            Effect::Take { .. } => self.apply_take(place),
            other => Err(format!("not simulated yet: {other:?}")),
        }
    }

    fn apply_send(&mut self, place: Place, to: InstanceId, message: Pcm) -> Checked {
        ensure!(!carries_page(&message), "a page is to be sent without the page");
        let storage = self.pages[place.page].storage;
        let frame = &mut self.nodes[place.node].frames[place.page];
        let held = frame.held.map(|content| content.version);
        match message {
            Pcm::Claim { version, .. } => {
                ensure!(held == Some(version), "claims v{version}, holds {held:?}");
            }
            // Without a page it gives a grant back that storage could not serve.
            Pcm::Release { version, .. } if held.is_some() => {
                ensure!(held == Some(version), "releases v{version}, holds {held:?}");
                ensure!(!frame.dirty, "releases a dirty page");
            }
            Pcm::Written { version, .. } => {
                ensure!(storage.version >= version, "says written what is not on storage");
            }
            Pcm::Invalidated { dirty, .. } => {
                ensure!(dirty == frame.dirty, "gives up: dirty {}, says {dirty}", frame.dirty);
                ensure!(frame.held.is_some(), "gives up what it does not have");
                // The duty to write is in the message now.
                frame.dirty = false;
            }
            _ => {}
        }
        self.send(place.node, usize::from(to.0), place.page, message, None);
        Ok(())
    }

    fn apply_request(&mut self, place: Place, to: InstanceId, message: Pcm) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let Pcm::Acquire { request, want, .. } = message else {
            return Err("a request is no ACQUIRE".to_owned());
        };
        ensure!(frame.request.is_none(), "a second request for the page");
        frame.request = Some((request, want));
        self.requests.push(Delayed { place, to: usize::from(to.0), message });
        Ok(())
    }

    fn apply_request_over(&mut self, place: Place) -> Checked {
        let first = self.first_waiter(place);
        let frame = &mut self.nodes[place.node].frames[place.page];
        let Some((_, want)) = frame.request.take() else {
            return Err("a request is over that was never made".to_owned());
        };
        ensure!(!frame.reading, "a request is over while its page is being read");
        frame.owed = first.filter(|&(_, mode)| mode <= want).map(|(waiter, _)| waiter);
        Ok(())
    }

    fn apply_ship(&mut self, place: Place, to: InstanceId, message: Pcm, keep: bool) -> Checked {
        ensure!(carries_page(&message), "ships a page without saying so");
        let Pcm::Response { version, dirty, grant, .. } = message else { return Ok(()) };
        let to = usize::from(to.0);
        let frame = &mut self.nodes[place.node].frames[place.page];
        let Some(content) = frame.held else { return Err("ships what it does not have".into()) };
        ensure!(content.version == version, "ships v{}, says v{version}", content.version);
        ensure!(!frame.exclusive, "ships while a writer has the page");
        let leaves = frame.dirty && !keep;
        ensure!(dirty == leaves, "the duty to write leaves: {leaves}, says {dirty}");
        if keep {
            ensure!(frame.word <= Mode::S, "ships while writers may pin");
            let owed = frame.owed;
            ensure!(owed.is_none(), "ships before waiter {owed:?} had what was granted");
        } else {
            frame.take()?;
            ensure!(frame.transit.is_empty(), "ships away while an earlier copy is in transit");
            frame.transit.push(Transit { to, grant });
        }
        self.summary.ships += 1;
        self.send(place.node, to, place.page, message, Some(content));
        Ok(())
    }

    fn apply_forget(&mut self, place: Place, grant: GrantNumber) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let at = frame.transit.iter().position(|transit| transit.grant == grant);
        let Some(at) = at else { return Err(format!("forgets grant {grant}, not in transit")) };
        let Transit { to, .. } = frame.transit.swap_remove(at);
        let arrived = self.nodes[to].frames[place.page].top_grant;
        ensure!(arrived >= grant, "forgets grant {grant} before it has arrived");
        Ok(())
    }

    fn apply_read(&mut self, place: Place, at_least: Lsn) -> Checked {
        let committed = self.pages[place.page].truth.version;
        ensure!(at_least == committed, "reads at least v{at_least}, committed is v{committed}");
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.request.is_some(), "reads without a reserved frame");
        ensure!(!frame.reading && frame.arrival.is_none(), "reads what is there");
        frame.reading = true;
        self.ios.push(Io::read(place, at_least));
        Ok(())
    }

    fn apply_write(&mut self, place: Place, version: Lsn) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let Some(content) = frame.held else { return Err("writes what it does not have".into()) };
        ensure!(content.version == version, "writes v{}, says v{version}", content.version);
        ensure!(frame.dirty, "writes a clean page");
        ensure!(!frame.exclusive && frame.word <= Mode::S, "writes while writers may pin");
        ensure!(!frame.writing, "a second write of the page");
        frame.writing = true;
        self.ios.push(Io::write(place, content));
        Ok(())
    }

    fn apply_lower(&mut self, place: Place, to: Mode) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_some(), "lowers pins of what it does not have");
        ensure!(!frame.writing, "lowers pins while the page is being written");
        ensure!(frame.lowering.is_none(), "lowers pins while they are being lowered");
        ensure!(to < Mode::X, "lowers pins to X");
        frame.lowering = Some(to);
        frame.word = frame.word.min(to);
        self.note_drained(place);
        Ok(())
    }

    /// The core will be told, some time, if what it wants lowered is.
    pub(super) fn note_drained(&mut self, place: Place) {
        let frame = &self.nodes[place.node].frames[place.page];
        if frame.is_drained() && !self.drains.contains(&place) {
            self.drains.push(place);
        }
    }

    fn apply_install(&mut self, place: Place, dirty: bool) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_none(), "installs over a page");
        let Some(content) = frame.arrival.take() else {
            return Err("installs what has not come".to_owned());
        };
        ensure!(dirty == frame.duty, "installs: the duty came {}, says {dirty}", frame.duty);
        (frame.held, frame.dirty, frame.duty) = (Some(content), dirty, false);
        frame.word = Mode::N;
        Ok(())
    }

    fn apply_mark_dirty(&mut self, place: Place) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_some(), "marks what it does not have");
        ensure!(std::mem::take(&mut frame.duty), "marks dirty, but the duty has not come");
        frame.dirty = true;
        Ok(())
    }

    fn apply_take(&mut self, place: Place) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.arrival.is_none(), "takes a page while another waits to be installed");
        frame.arrival = self.newcomer.take();
        ensure!(frame.arrival.is_some(), "takes a page that has not come");
        Ok(())
    }

    fn apply_discard(&mut self, place: Place) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.arrival.take().is_some(), "discards what has not come");
        Ok(())
    }

    fn apply_open(&mut self, place: Place, mode: Mode) -> Checked {
        // A frame that a send still holds is opened for readers only.
        let sent = self.random.percent(10);
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_some(), "opens what it does not have");
        ensure!(frame.lowering.is_none(), "opens while pins are being lowered");
        ensure!(!frame.writing || mode == Mode::S, "opens {mode} while the page is being written");
        (frame.word, frame.opened_short) = (if sent { Mode::S } else { mode }, sent);
        Ok(())
    }

    fn apply_drop(&mut self, place: Place) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(!frame.dirty, "drops a dirty page");
        frame.take()?;
        Ok(())
    }

    /// A guard has been granted: it must see what the last writer committed.
    pub(super) fn grant(&mut self, place: Place, mode: Mode) -> Checked<Content> {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let seen = frame.pin(mode)?;
        let truth = self.pages[place.page].truth;
        ensure!(seen == truth, "a guard sees v{}, committed is v{}", seen.version, truth.version);
        Ok(seen)
    }
}
