//! Events go into a core, and what it wants done is done: to the end, or until the instance crashes.

use super::{
    Checked, Cluster, Content, Fault, Parked, Place, ensure,
    trace::{effect_words, event_words},
};
use pagewire_node::grd::{Effect, Event};
use pagewire_protocol::BufferTag;

impl Cluster {
    /// The page of `tag`, if it is one of ours.
    pub(super) fn page_of(&self, tag: &BufferTag) -> Option<usize> {
        let first = self.pages[0].tag;
        let at = usize::try_from(tag.block.checked_sub(first.block)?).ok()?;
        self.pages.get(at).filter(|page| page.tag == *tag).map(|_| at)
    }

    /// Gives `event` to the core, does what it wants done, and checks the pages it touched.
    pub(super) fn feed(&mut self, place: Place, event: Event) -> Checked {
        self.feed_with(place, event, None)
    }

    /// The same with the page that comes with the event.
    pub(super) fn feed_with(
        &mut self,
        place: Place,
        event: Event,
        content: Option<Content>,
    ) -> Checked {
        if self.handle(place, event, content)? {
            self.hand_in_again(place.node)?;
        }
        while let Some((place, answer)) = self.answers.pop() {
            if self.nodes[place.node].running {
                self.handle(place, answer, None)?;
            }
        }
        Ok(())
    }

    /// What was parked comes again, before anything that came after it.
    fn hand_in_again(&mut self, node: usize) -> Checked {
        let parked = std::mem::take(&mut self.parked[node]);
        for Parked { event, content } in parked {
            if !self.nodes[node].running {
                return Ok(());
            }
            let installed = self.handle(Place { node, page: self.focus }, event, content)?;
            ensure!(!installed, "a message installs a view");
        }
        Ok(())
    }

    /// True when the event has installed a view.
    fn handle(&mut self, place: Place, event: Event, content: Option<Content>) -> Checked<bool> {
        let Place { node, page } = place;
        self.focus = page;
        let step = self.summary.steps;
        let pages = &self.pages;
        self.trace.action(page, step, || format!("instance {node} {}", event_words(&event, pages)));
        // Kept in case that the core parks it.
        let again = matches!(event, Event::Message { .. } | Event::LoadGuide { .. });
        let kept = if again && self.membership.disturbed { Some(event.clone()) } else { None };
        let epoch = self.nodes[node].grd.view().epoch();
        let mut effects = std::mem::take(&mut self.effects);
        self.nodes[node].grd.handle(event, &mut effects);
        self.incoming = content;
        let mut touched = [false; 8];
        touched[page] = true;
        let mut installed = false;
        let mut applied = Ok(());
        for effect in effects.drain(..) {
            if self.crashes_now(node) {
                applied = self.crash_inside(node);
                break;
            }
            let is_other = matches!(effect, Effect::PartitionReady { .. });
            let about = self.about(&effect);
            if is_other && about.is_none() {
                continue;
            }
            let about = about.unwrap_or(page);
            touched[about] = true;
            let pages = &self.pages;
            self.trace.detail(about, || effect_words(&effect, pages));
            self.focus = about;
            match effect {
                Effect::PartitionReady { .. } => {}
                Effect::ViewInstalled { .. } => installed = true,
                Effect::Park => {
                    let event = kept.clone().ok_or("parks what is of no later view")?;
                    let content = self.incoming.take();
                    self.parked[node].push(Parked { event, content });
                    self.summary.parked += 1;
                }
                effect => applied = self.apply(Place { node, page: about }, effect),
            }
            if applied.is_err() {
                break;
            }
        }
        self.effects = effects;
        self.effects.clear();
        self.incoming = None;
        applied?;
        let now = self.nodes[node].grd.view().epoch();
        ensure!(now >= epoch, "I6: instance {node} goes back from view {epoch} to {now}");
        self.focus = page;
        for (page, _) in touched.iter().enumerate().filter(|(_, touched)| **touched) {
            if page != self.focus {
                self.check_page(page).inspect_err(|_| self.focus = page)?;
            }
        }
        self.check_page(page)?;
        Ok(installed)
    }

    /// The page that an effect is about.
    fn about(&self, effect: &Effect) -> Option<usize> {
        match effect {
            Effect::PartitionReady { partition } => {
                self.pages.iter().position(|page| page.tag.partition() == *partition)
            }
            effect => tag_of(effect).and_then(|tag| self.page_of(tag)),
        }
    }

    fn crashes_now(&mut self, node: usize) -> bool {
        match &mut self.crash_at {
            Some((at, 0)) if *at == node => true,
            Some((at, left)) if *at == node => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }

    fn crash_inside(&mut self, node: usize) -> Checked {
        self.crash_at = None;
        self.note(Fault::CrashInside, || format!("instance {node} crashes before its next effect"));
        self.crash(node)
    }
}

fn tag_of(effect: &Effect) -> Option<&BufferTag> {
    use Effect as E;
    match effect {
        E::Send { tag, .. }
        | E::Request { tag, .. }
        | E::RequestAgain { tag, .. }
        | E::RequestOver { tag }
        | E::Ship { tag, .. }
        | E::ShipPastImage { tag, .. }
        | E::Forget { tag, .. }
        | E::ToPastImage { tag, .. }
        | E::Reinstate { tag, .. }
        | E::KeepPastImage { tag, .. }
        | E::DropPastImage { tag, .. }
        | E::Take { tag }
        | E::ReadNewer { tag, .. }
        | E::Read { tag, .. }
        | E::Write { tag, .. }
        | E::Lower { tag, .. }
        | E::Install { tag, .. }
        | E::MarkDirty { tag }
        | E::Discard { tag }
        | E::Broken { tag, .. }
        | E::Complete { tag, .. }
        | E::Fail { tag, .. }
        | E::Open { tag, .. }
        | E::Drop { tag }
        | E::Flush { tag, .. }
        | E::StatReply { tag, .. } => Some(tag),
        E::Park
        | E::Fence
        | E::LoadGuide { .. }
        | E::Again
        | E::ViewInstalled { .. }
        | E::PartitionReady { .. } => None,
    }
}
