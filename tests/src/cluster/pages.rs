//! The runtime, pages: what is done for effects on the page that an instance has, and what each of
//! them promises.

use super::{Checked, Cluster, Place, content::Content, ensure};
use pagewire_protocol::{GrantNumber, Lsn, Mode};

impl Cluster {
    fn take_transit(&mut self, place: Place, grant: GrantNumber) -> Checked<(usize, Content)> {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let at = frame.transit.iter().position(|transit| transit.grant == grant);
        let Some(at) = at else { return Err(format!("grant {grant} is not in transit")) };
        let transit = frame.transit.swap_remove(at);
        Ok((transit.to, transit.content))
    }

    pub(super) fn apply_forget(&mut self, place: Place, grant: GrantNumber) -> Checked {
        let (to, _) = self.take_transit(place, grant)?;
        let arrived = self.nodes[to].frames[place.page].top_grant;
        let healthy = !self.membership.disturbed;
        ensure!(!healthy || arrived >= grant, "I9: forgets grant {grant} before it has arrived");
        Ok(())
    }

    pub(super) fn apply_to_past_image(&mut self, place: Place, grant: GrantNumber) -> Checked {
        let (_, content) = self.take_transit(place, grant)?;
        self.keep_past_image(place, content)
    }

    pub(super) fn apply_reinstate(
        &mut self,
        place: Place,
        grant: GrantNumber,
        dirty: bool,
    ) -> Checked {
        let (_, content) = self.take_transit(place, grant)?;
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_none(), "reinstates over a page");
        (frame.held, frame.dirty, frame.word) = (Some(content), dirty, Mode::N);
        self.summary.reinstated += 1;
        Ok(())
    }

    pub(super) fn apply_keep_past_image(&mut self, place: Place, version: Lsn) -> Checked {
        let content = self.nodes[place.node].frames[place.page].take()?;
        let has = content.version;
        ensure!(has == version, "keeps v{version} as past image, has v{has}");
        self.keep_past_image(place, content)
    }

    fn keep_past_image(&mut self, place: Place, content: Content) -> Checked {
        let past = &mut self.nodes[place.node].frames[place.page].past;
        let older = past.is_none_or(|past| past.version <= content.version);
        ensure!(older, "I9: an older past image replaces {past:?}");
        *past = Some(content);
        self.summary.past_images += 1;
        Ok(())
    }

    pub(super) fn apply_drop_past_image(&mut self, place: Place, version: Lsn) -> Checked {
        let storage = self.pages[place.page].storage.version;
        let past = self.nodes[place.node].frames[place.page].past.take();
        let has = past.map(|content| content.version);
        ensure!(has == Some(version), "drops past image v{version}, has {has:?}");
        ensure!(storage >= version, "I9: drops past image v{version}, and storage has v{storage}");
        Ok(())
    }

    /// The page that came with the event is kept.
    pub(super) fn apply_take(&mut self, place: Place) -> Checked {
        let Some(content) = self.incoming.take() else {
            return Err("takes a page that has not come".to_owned());
        };
        let node = &mut self.nodes[place.node];
        node.clock = node.clock.max(content.version);
        let frame = &mut node.frames[place.page];
        ensure!(frame.request.is_some(), "I10: takes a page without a frame for it");
        ensure!(frame.arrival.is_none(), "I10: takes a page while another waits");
        frame.arrival = Some(content);
        Ok(())
    }

    pub(super) fn apply_read(&mut self, place: Place, at_least: Lsn, newest: bool) -> Checked {
        let committed = self.pages[place.page].truth().version;
        let lost = self.membership.disturbed;
        ensure!(
            at_least <= committed || lost,
            "reads at least v{at_least}, committed is v{committed}"
        );
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.request.is_some(), "I10: reads without a reserved frame");
        ensure!(!frame.reading, "reads what is being read");
        ensure!(newest || frame.arrival.is_none(), "reads what is there");
        frame.reading = true;
        self.submit_read(place, at_least, newest);
        Ok(())
    }

    pub(super) fn apply_write(&mut self, place: Place, version: Lsn) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let Some(content) = frame.held else { return Err("writes what it does not have".into()) };
        ensure!(content.version == version, "writes v{}, says v{version}", content.version);
        ensure!(frame.dirty, "I3: writes a clean page");
        ensure!(!frame.exclusive && frame.word <= Mode::S, "I3: writes while writers may pin");
        ensure!(!frame.writing, "a second write of the page");
        frame.writing = true;
        self.check_redo(place, content)?;
        self.submit_write(place, content);
        Ok(())
    }

    pub(super) fn apply_lower(&mut self, place: Place, to: Mode) -> Checked {
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

    pub(super) fn apply_install(&mut self, place: Place, dirty: bool) -> Checked {
        let healthy = !self.membership.disturbed;
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_none(), "installs over a page");
        let Some(content) = frame.arrival.take() else {
            return Err("installs what has not come".to_owned());
        };
        let duty = frame.duty;
        ensure!(!healthy || dirty == duty, "I3: installs: the duty came {duty}, says {dirty}");
        (frame.held, frame.dirty, frame.duty) = (Some(content), dirty, false);
        frame.word = Mode::N;
        Ok(())
    }

    pub(super) fn apply_mark_dirty(&mut self, place: Place) -> Checked {
        let healthy = !self.membership.disturbed;
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_some(), "marks what it does not have");
        let duty = std::mem::take(&mut frame.duty);
        ensure!(!healthy || duty, "I3: marks dirty, but the duty has not come");
        frame.dirty = true;
        Ok(())
    }

    pub(super) fn apply_discard(&mut self, place: Place) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.arrival.take().is_some(), "discards what has not come");
        Ok(())
    }

    pub(super) fn apply_open(&mut self, place: Place, mode: Mode) -> Checked {
        // A frame that a send still holds is opened for readers only.
        let sent = self.random.percent(10);
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(frame.held.is_some(), "opens what it does not have");
        ensure!(frame.lowering.is_none(), "opens while pins are being lowered");
        ensure!(!frame.writing || mode == Mode::S, "I3: opens {mode} while it is being written");
        (frame.word, frame.opened_short) = (if sent { Mode::S } else { mode }, sent);
        Ok(())
    }

    pub(super) fn apply_drop(&mut self, place: Place) -> Checked {
        let frame = &mut self.nodes[place.node].frames[place.page];
        ensure!(!frame.dirty, "I3: drops a dirty page");
        frame.take()?;
        Ok(())
    }

    /// A guard has been granted: it must see what the last writer committed.
    pub(super) fn grant(&mut self, place: Place, mode: Mode) -> Checked<Content> {
        let frame = &mut self.nodes[place.node].frames[place.page];
        let seen = frame.pin(mode)?;
        let truth = self.pages[place.page].truth();
        ensure!(
            seen == truth,
            "I2: a guard sees v{}, committed is v{}",
            seen.version,
            truth.version
        );
        self.si_read(place)?;
        Ok(seen)
    }
}
