//! Invalidations beside the directory: the real core, over the same sessions, and readers that rely on
//! it.
//!
//! Now and then a writer changes what a page *says* (the others of its changes do not matter to anyone
//! who caches that), and publishes it under its X guard. Every instance has one reader process, which
//! caches what it last saw each page say, and forgets it when the ring tells it to. **Invariant S1**:
//! whoever is granted a page, by a local hit or by a grant, has nothing cached of it or what it says
//! now. **S2**: what is in a ring is in its publisher's order, none lost or doubled between resets.
//!
//! The pin of a guard that published stays until that is delivered, as in the runtime. Redo of a life
//! begins when every member has a view without it, as whoever drives recovery has to see to.

use super::{
    Checked, Cluster, Place, ensure,
    network::{Arrived, Outgoing, Payload},
};
use pagewire_node::{
    si::core::{self, Effect, SiCore},
    view::View,
};
use pagewire_protocol::{
    Body, Epoch, Incarnation, InstanceId, Lane, Lsn, MessageKind, Mode,
    si::wire::{
        INLINE_MAX, SI_ACK, SI_BATCH, SI_BEGIN, SI_FRAME, SiAck, SiBatch, SiBegin, SiBytes, SiFrame,
    },
};
use std::collections::VecDeque;

/// Most messages of one batch, in a frame.
const PER_FRAME: usize = 16;

/// The messages of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch(Vec<SiBytes>);

impl core::Batch for Batch {
    fn keep(self) -> Self {
        self
    }
}

/// What one instance has of invalidations, in one life.
#[derive(Debug)]
pub(super) struct Si {
    core: SiCore<Batch>,
    /// Published, and not left.
    queue: VecDeque<SiBytes>,
    /// Messages that were ever put in the queue, and of these the delivered ones.
    published: u64,
    completed: u64,
    /// Pages whose pins stay until so much is delivered.
    kept: Vec<(u64, usize)>,
    /// What its reader has cached of each page: the version that said so.
    cache: Vec<Option<Lsn>>,
    /// Per publisher: how many of its messages are in the ring, of those that it ever published.
    heard: Vec<Option<u64>>,
}

impl Si {
    fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
            && self.kept.is_empty()
            && self.core.is_delivered()
            && !self.core.owes()
    }
}

fn message(page: usize, version: Lsn, number: u64) -> SiBytes {
    // Three numbers in 16 bytes: none of them is large here.
    let page = u128::try_from(page).unwrap_or(0);
    (u128::from(number) << 72 | u128::from(version.0) << 8 | page).to_le_bytes()
}

/// Page, version, and the message's number among its publisher's.
fn parts(message: SiBytes) -> (usize, Lsn, u64) {
    let all = u128::from_le_bytes(message);
    let low = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    let page = usize::try_from(all & 0xFF).unwrap_or(0);
    (page, Lsn(low(all >> 8)), low(all >> 72))
}

impl Cluster {
    pub(super) fn is_si(kind: MessageKind) -> bool {
        matches!(kind, SI_BEGIN | SI_BATCH | SI_FRAME | SI_ACK)
    }

    fn has_si(&self) -> bool {
        self.options.si_percent > 0
    }

    /// A life begins with this view.
    pub(super) fn begin_si(&mut self, node: usize, view: &View) {
        if !self.has_si() {
            return;
        }
        let it = &self.nodes[node];
        let core = SiCore::new((it.id, it.life), view);
        self.nodes[node].si = Some(Si {
            core,
            queue: VecDeque::new(),
            published: 0,
            completed: 0,
            kept: Vec::new(),
            cache: vec![None; self.pages.len()],
            heard: vec![None; self.nodes.len()],
        });
    }

    // ---- effects ---------------------------------------------------------------------------------

    /// Runs `what` on the core of an instance, and does what it says.
    fn with_si<T>(
        &mut self,
        node: usize,
        what: impl FnOnce(&mut SiCore<Batch>, &mut Vec<Effect<Batch>>) -> T,
    ) -> Checked<Option<T>> {
        let Some(si) = &mut self.nodes[node].si else { return Ok(None) };
        let mut effects = Vec::new();
        let result = what(&mut si.core, &mut effects);
        for effect in effects {
            self.apply_si(node, effect)?;
        }
        let Some(si) = &self.nodes[node].si else { return Ok(None) };
        if (si.core.owes() || !si.queue.is_empty()) && !self.si_work.contains(&node) {
            self.si_work.push(node);
        }
        Ok(Some(result))
    }

    fn apply_si(&mut self, node: usize, effect: Effect<Batch>) -> Checked {
        let step = self.summary.steps;
        match effect {
            Effect::Begin { to, begin } => {
                self.send_si(node, to, Lane::Si, SI_BEGIN, begin.encode(), Payload::None)
            }
            Effect::Acknowledge { to, ack } => {
                self.trace.event(step, || format!("{node} acknowledges {to}: {ack:?}"));
                self.send_si(node, to, Lane::Control, SI_ACK, ack.encode(), Payload::None)
            }
            Effect::Write { publisher, batch: Batch(messages) } => {
                let from = usize::from(publisher.0);
                for message in messages {
                    self.hear(node, from, message)?;
                }
                Ok(())
            }
            Effect::Reset => {
                self.trace.event(step, || format!("the readers of {node} reset"));
                let Some(si) = &mut self.nodes[node].si else { return Ok(()) };
                si.cache.fill(None);
                si.heard.fill(None);
                Ok(())
            }
            Effect::Complete { position } => {
                self.trace.event(step, || format!("{position} of {node} are delivered"));
                if let Some(si) = &mut self.nodes[node].si {
                    si.completed = position;
                }
                self.let_pins_go(node)
            }
        }
    }

    /// A message is in the ring of `node`: what its reader has cached of the page is gone.
    fn hear(&mut self, node: usize, from: usize, message: SiBytes) -> Checked {
        let (page, version, number) = parts(message);
        self.trace.action(page, self.summary.steps, || {
            format!("the ring of {node} has v{} of {from}, number {number}", version.0)
        });
        let Some(si) = &mut self.nodes[node].si else { return Ok(()) };
        let before = si.heard[from].replace(number);
        ensure!(
            before.is_none_or(|before| number == before + 1),
            "S2: the ring of {node} has number {number} of {from} after {before:?}"
        );
        si.cache[page] = None;
        Ok(())
    }

    fn send_si(
        &mut self,
        node: usize,
        to: InstanceId,
        lane: Lane,
        kind: MessageKind,
        body: Body,
        payload: Payload,
    ) -> Checked {
        let what = Outgoing { lane, kind, epoch: Epoch(0), body, payload };
        self.network.send(node, usize::from(to.0), what, &mut self.random, self.now)?;
        Ok(())
    }

    // ---- sessions and views ------------------------------------------------------------------------

    pub(super) fn si_up(&mut self, node: usize, peer: usize, life: Incarnation) -> Checked {
        let id = self.nodes[peer].id;
        self.with_si(node, |core, effects| core.up(id, life, effects)).map(drop)
    }

    pub(super) fn si_ended(&mut self, node: usize, peer: usize) -> Checked {
        let id = self.nodes[peer].id;
        self.with_si(node, |core, _| core.ended((id, Incarnation(0)))).map(drop)
    }

    pub(super) fn si_view(&mut self, node: usize, view: &View) -> Checked {
        self.with_si(node, |core, effects| core.view(view, effects)).map(drop)
    }

    /// Nobody who is a member has a view with one of the dead: their redo may begin.
    pub(super) fn all_have_reset(&self) -> bool {
        let has_dead = |view: &View| {
            let dead = &self.membership.dead;
            view.members().iter().any(|member| dead.contains(&member.life()))
        };
        let live = self.nodes.iter().filter(|node| node.is_live());
        !self.has_si() || live.map(|node| node.grd.view()).all(|view| !has_dead(view))
    }

    // ---- steps -------------------------------------------------------------------------------------

    /// Instances that have something to do about invalidations, and can.
    fn si_ready(&self) -> impl Iterator<Item = usize> + '_ {
        self.si_work.iter().copied().filter(|&node| {
            let it = &self.nodes[node];
            let can = |si: &Si| si.core.owes() || self.way_out(node, si, Lane::Si).is_some();
            it.is_active() && it.si.as_ref().is_some_and(can)
        })
    }

    /// The lane that the next batch can leave on, `wanted` if possible.
    fn way_out(&self, node: usize, si: &Si, wanted: Lane) -> Option<Lane> {
        let other = if wanted == Lane::Si { Lane::Bulk } else { Lane::Si };
        let can = |lane: &Lane| {
            let clear = |to: InstanceId| self.network.is_clear(node, usize::from(to.0), *lane);
            si.core.may_publish(*lane == Lane::Bulk) && si.core.subscribers().all(clear)
        };
        if si.queue.is_empty() { None } else { [wanted, other].into_iter().find(can) }
    }

    pub(super) fn si_waits(&self) -> bool {
        self.si_ready().next().is_some()
    }

    /// One instance publishes what it has, or acknowledges what it got.
    pub(super) fn si_step(&mut self) -> Checked {
        let ready: Vec<_> = self.si_ready().collect();
        let Some(&node) = ready.get(self.random.index(ready.len())) else { return Ok(()) };
        self.si_work.retain(|&work| work != node);
        let (acknowledges, in_frame) = (self.random.percent(50), self.random.percent(40));
        let Some(si) = &self.nodes[node].si else { return Ok(()) };
        let wanted = if in_frame { Lane::Bulk } else { Lane::Si };
        match self.way_out(node, si, wanted) {
            Some(lane) if !(si.core.owes() && acknowledges) => self.batch_leaves(node, lane)?,
            _ => {}
        }
        let owes = |si: &Si| si.core.owes();
        if acknowledges
            || self.nodes[node].si.as_ref().is_some_and(|si| si.queue.is_empty() && owes(si))
        {
            self.with_si(node, |core, effects| core.acknowledge(|_| true, effects))?;
        }
        // Once more if there is more.
        self.with_si(node, |_, _| ()).map(drop)
    }

    fn batch_leaves(&mut self, node: usize, lane: Lane) -> Checked {
        let in_frame = lane == Lane::Bulk;
        let Some(si) = &mut self.nodes[node].si else { return Ok(()) };
        let most = if in_frame { PER_FRAME } else { INLINE_MAX };
        let count = most.min(si.queue.len());
        let messages: Vec<_> = si.queue.drain(..count).collect();
        let position = si.published - si.queue.len() as u64;
        let to: Vec<_> = si.core.subscribers().collect();
        for message in &messages {
            self.hear(node, node, *message)?;
        }
        let number = self
            .with_si(node, |core, effects| core.publish(position, in_frame, effects))?
            .ok_or("no core publishes")?;
        for to in to {
            let (kind, body, payload) = if in_frame {
                let body = SiFrame { batch: number, count: messages.len() as u64 }.encode();
                (SI_FRAME, body, Payload::Bytes(messages.as_flattened().to_vec()))
            } else {
                let batch = SiBatch::new(number, &messages).ok_or("a batch of no messages")?;
                (SI_BATCH, batch.encode(), Payload::None)
            };
            self.send_si(node, to, lane, kind, body, payload)?;
        }
        Ok(())
    }

    /// A message about invalidations arrives.
    pub(super) fn si_arrives(&mut self, arrived: &Arrived) -> Checked {
        let Arrived { from, to, kind, body, payload, .. } = arrived;
        let (id, body) = (self.nodes[*from].id, body.as_slice());
        let words = |error: pagewire_protocol::DecodeError| error.to_string();
        let arrives = |number, messages: &[SiBytes]| (number, Batch(messages.to_vec()));
        let (number, batch) = match *kind {
            SI_BEGIN => {
                let begin = SiBegin::decode(body).map_err(words)?;
                let begun = self.with_si(*to, |core, effects| core.begun(id, begin, effects))?;
                return begun.unwrap_or(Ok(())).map_err(|odd| format!("S2: {from} to {to} {odd}"));
            }
            SI_ACK => {
                let ack = SiAck::decode(body).map_err(words)?;
                let acked =
                    self.with_si(*to, |core, effects| core.acknowledged(id, ack, effects))?;
                return acked.unwrap_or(Ok(())).map_err(|odd| format!("S2: {from} to {to} {odd}"));
            }
            SI_BATCH => {
                let batch = SiBatch::decode(body).map_err(words)?;
                arrives(batch.batch, batch.messages())
            }
            _ => {
                let Payload::Bytes(bytes) = payload else {
                    return Err("messages came without their frame".to_owned());
                };
                let (frame, messages) = SiFrame::decode(body, bytes).map_err(words)?;
                arrives(frame.batch, messages)
            }
        };
        let arrived =
            self.with_si(*to, |core, effects| core.arrived(id, number, batch, effects))?;
        arrived.unwrap_or(Ok(())).map_err(|odd| format!("S2: {from} to {to} {odd}"))
    }

    // ---- writers and readers -----------------------------------------------------------------------

    /// Whether a change is one of what the page says; then it is published, up to this position.
    pub(super) fn si_change(&mut self, place: Place, version: Lsn) -> Checked<Option<u64>> {
        if !self.has_si() || !self.random.percent(self.options.si_percent) {
            return Ok(None);
        }
        let Place { node, page } = place;
        let Some(si) = &mut self.nodes[node].si else { return Ok(None) };
        si.published += 1;
        let position = si.published;
        si.queue.push_back(message(page, version, position));
        self.summary.invalidations += 1;
        self.with_si(node, |_, _| ())?;
        Ok(Some(position))
    }

    /// A guard is granted: its reader looks into the ring, and then relies on what it has cached.
    pub(super) fn si_read(&mut self, place: Place) -> Checked {
        if !self.has_si() {
            return Ok(());
        }
        let Place { node, page } = place;
        let says = self.pages[page].says();
        let Some(si) = &mut self.nodes[node].si else { return Ok(()) };
        let cached = si.cache[page].replace(says);
        ensure!(
            cached.is_none_or(|cached| cached == says),
            "S1: a reader of {node} is granted page {page}, which says v{says}, and has {cached:?}"
        );
        Ok(())
    }

    /// True when the pin of a guard that published has to stay; then it does.
    pub(super) fn si_keeps(&mut self, place: Place, position: Option<u64>) -> bool {
        let Place { node, page } = place;
        let (Some(si), Some(position)) = (&mut self.nodes[node].si, position) else { return false };
        let stays = !core::may_let_go(si.completed, position);
        if stays {
            si.kept.push((position, page));
        }
        stays
    }

    fn let_pins_go(&mut self, node: usize) -> Checked {
        let Some(si) = &mut self.nodes[node].si else { return Ok(()) };
        let completed = si.completed;
        let (go, stay): (Vec<_>, Vec<_>) =
            si.kept.drain(..).partition(|(position, _)| core::may_let_go(completed, *position));
        si.kept = stay;
        for (_, page) in go {
            self.trace.action(page, self.summary.steps, || format!("instance {node} lets it go"));
            self.nodes[node].frames[page].unpin(Mode::X);
            self.note_drained(Place { node, page });
            self.check_page(page)?;
        }
        Ok(())
    }

    /// Nothing of an instance's invalidations is under way.
    pub(super) fn is_si_at_rest(&self, node: usize) -> bool {
        self.nodes[node].si.as_ref().is_none_or(Si::is_at_rest)
    }

    pub(super) fn check_si_rest(&self) -> Checked {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_live()) {
            let si = &node.si;
            ensure!(
                self.is_si_at_rest(at),
                "S3: at rest, but invalidations of {at} are not: {si:?}"
            );
        }
        Ok(())
    }
}
