//! What the directory says of a page, and what an instance counts: asked of whoever knows, as
//! PCM_STAT_REQUEST, also where that is this very instance.

use super::Shard;
use crate::grd::Event as Input;
use crossbeam_channel::Sender;
use pagewire_protocol::{BufferTag, InstanceId, Stat, StatAbout};

/// Who waits for an answer that may never come: askers have deadlines of their own.
const WAITING_MAX: usize = 256;

/// Somebody who wants to know.
#[derive(Debug)]
pub(super) struct Asker {
    of: InstanceId,
    tag: BufferTag,
    about: StatAbout,
    reply: Sender<(InstanceId, Stat)>,
}

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Askers(Vec<Asker>);

impl Shard {
    /// Asks the master of page `tag` about it; the answer goes to `reply` with the master's id.
    pub fn ask_about_page(&mut self, tag: BufferTag, reply: Sender<(InstanceId, Stat)>) {
        let of = self.grd.view().master(&tag);
        self.ask(of, tag, StatAbout::Page, reply);
    }

    /// Asks this shard's like on instance `of` what it counts.
    pub fn ask_about_instance(&mut self, of: InstanceId, reply: Sender<(InstanceId, Stat)>) {
        self.ask(of, BufferTag::default(), StatAbout::Instance, reply);
    }

    fn ask(
        &mut self,
        of: InstanceId,
        tag: BufferTag,
        about: StatAbout,
        reply: Sender<(InstanceId, Stat)>,
    ) {
        // Whoever has waited longest has given up most likely.
        if self.askers.0.len() == WAITING_MAX {
            self.askers.0.remove(0);
        }
        self.askers.0.push(Asker { of, tag, about, reply });
        self.input(Input::Stat { to: of, tag, about });
        self.run();
    }

    /// The answer is there; everyone who waits for it gets it.
    pub(super) fn answer(&mut self, from: InstanceId, tag: BufferTag, stat: &Stat) {
        let about = match stat {
            Stat::Page(_) => StatAbout::Page,
            Stat::Instance(_) => StatAbout::Instance,
        };
        self.askers.0.retain(|asker| {
            let is_it = asker.of == from
                && asker.about == about
                && (about == StatAbout::Instance || asker.tag == tag);
            if is_it {
                // Whoever asked may have given up.
                let _ = asker.reply.send((from, *stat));
            }
            !is_it
        });
    }
}
