//! What must be so in every state, and in those in which nothing is left to happen.

use super::world::{Redo, World};
use pagewire_protocol::Mode;

impl World {
    /// One writer, or readers; everyone who may read has what was last committed.
    pub(super) fn check(&self) -> Result<(), String> {
        let truth = self.truth();
        let instances = || self.instances.iter().flatten();
        let opens: Vec<_> = instances().map(|it| it.open).collect();
        let readers = opens.iter().filter(|open| **open >= Mode::S).count();
        if opens.contains(&Mode::X) && readers > 1 {
            return Err(format!("I1: a writer among {readers}: {opens:?}"));
        }
        for (at, it) in self.instances.iter().enumerate() {
            let Some(it) = it else { continue };
            if it.open > Mode::N && it.held != Some(truth) {
                let held = it.held;
                return Err(format!("I2: {at} reads {held:?}, committed is v{truth}"));
            }
        }
        Ok(())
    }

    /// Nothing is left to happen: everyone has had what it asked for, the directory is the union of
    /// what is held, and one instance has to write the page, or storage has it.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let truth = self.truth();
        let mut dirty = 0;
        let view = self.next_view.as_ref().unwrap_or(&self.view);
        let master = usize::from(view.master(&self.tag).0);
        let entry = self.instances[master].as_ref().and_then(|it| it.grd.entry(&self.tag));
        for (at, it) in self.instances.iter().enumerate() {
            let Some(it) = it else { continue };
            if it.waiting.is_some()
                || it.recovering.is_some()
                || !it.to_do.is_empty()
                || it.requested
            {
                return Err(format!("I5: at the end {at} waits: {:?}", it.waiting));
            }
            if it.transit.is_some() || it.arrival.is_some() || !it.parked.is_empty() {
                return Err(format!("I10: at the end {at} keeps {:?}", (it.transit, it.arrival)));
            }
            dirty += u32::from(it.dirty);
            let listed = entry
                .as_ref()
                .is_some_and(|e| e.holders.iter().any(|holder| usize::from(holder.0) == at));
            if listed != it.held.is_some() {
                return Err(format!("I4: at the end {at} holds {:?}, listed {listed}", it.held));
            }
            if it.past.is_some_and(|past| past <= self.storage) {
                return Err(format!("I10: at the end {at} keeps past image {:?}", it.past));
            }
        }
        if entry.as_ref().is_some_and(|entry| entry.converting) {
            return Err("I5: at the end the master converts".to_owned());
        }
        if dirty > 1 || dirty == 0 && self.storage != truth {
            return Err(format!(
                "I3: at the end {dirty} have to write it; storage has v{}, committed is v{truth}",
                self.storage
            ));
        }
        if self.crashed.is_some() && self.redo != Redo::Done {
            return Err(format!("I9: at the end redo is {:?}", self.redo));
        }
        Ok(())
    }
}
