//! One shard: endpoint, directory core, page pool and storage, driven by one thread.
//!
//! An instance has one or several. Each keeps the pages that [`BufferTag::shard`] gives it, with an
//! endpoint, an arena, a directory and I/O threads of its own, and speaks to the shards of the same
//! number on the other instances. They share the version clock and nothing else.
//!
//! Data path of a miss: command ring -> `Grd` -> PCM_ACQUIRE; PCM_RESPONSE with a page arrives in a
//! posted frame, which is published as it is and pinned for the waiter. Nothing is copied, and
//! nothing is allocated once the maps have grown.
//!
//! Frames, all counted in [`cache_pages`]: an arena of `frames` frames has
//!
//! ```text
//!   posted       peers x (page credits + bulk credits)      receives, one frame each
//!   unconfirmed  peers x (page credits + bulk credits)      sent, not acknowledged
//!   scratch      I/O threads                                checksums are put on there
//!   cache        the rest                                   pages held, expected, or shipped
//!                                                           away and not yet claimed
//! ```
//! so that a frame is there whenever one is needed, and only the cache has to make room.

use super::{
    NodeCounters,
    command::{Command, Completion, Grant},
    handle::{Handle, Line, Panic, Shared},
    index::PageIndex,
    io::{IoDone, IoJob, IoThreads},
    outbox::Outbox,
    pool::Pool,
    refusals::Refusals,
};
use crate::{
    config::{CACHE_PAGES_MIN, NodeConfig},
    grd::{AcquireError, Effect, Event as Input, Grd, TagMap, WaiterId},
    runtime::node::NodeError,
    store::Store,
};
use crossbeam_channel::Sender;
use pagewire_protocol::{
    Body, BufferTag, GrantNumber, Incarnation, InstanceId, Lane, Lsn, Pcm, pcm::Verdict,
};
use pagewire_transport::{
    Arena, Endpoint, Event, Frame, Message, Received, SharedFrame, counters::EndpointCounters,
};
use rtrb::{Consumer, Producer, RingBuffer};
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread::Thread,
    time::{Duration, Instant},
};

/// Commands that a thread can have on their way: more than it has guards.
const COMMANDS: usize = 1024;
/// Pause in making room after a page could not be written: it would be tried again at once.
const EVICT_RETRY: Duration = Duration::from_millis(100);
/// The slot of a waiter id that tells the handle; below it the handle's own count.
const HANDLE_SHIFT: u32 = 48;

/// The shard's end of one handle.
#[derive(Debug)]
struct HandleEnd {
    commands: Consumer<Command>,
    completions: Producer<Completion>,
    waiter: Option<Thread>,
}

/// Writing everything back, as asked for by [`Shard::flush`].
#[derive(Debug)]
struct Flush {
    /// Pages that were dirty, or being written to, when it was asked for: until they are written,
    /// found clean, or gone to another instance, and the duty to write them with them.
    left: BTreeSet<BufferTag>,
    reply: Sender<Result<(), String>>,
    failed: Option<String>,
    syncing: bool,
}

/// A shard's place in its instance.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// 0 to `shards - 1`.
    pub(crate) number: u16,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Of the instance: all its shards have one.
    pub(crate) incarnation: Incarnation,
    /// Greatest page version this instance has seen or given.
    pub(crate) clock: Arc<AtomicU64>,
}

/// One shard; see the module.
#[derive(Debug)]
pub struct Shard {
    me: InstanceId,
    endpoint: Endpoint,
    grd: Grd,
    shared: Arc<Shared>,
    pool: Pool,
    arena: Arena,
    io: IoThreads,
    handles: Vec<HandleEnd>,
    outbox: Outbox,
    /// Pages that came and are not installed yet.
    arrivals: TagMap<Frame>,
    /// Pages shipped away and not claimed yet.
    transits: TagMap<(GrantNumber, SharedFrame)>,
    /// Requests that wait for room, the oldest first.
    waiting: VecDeque<(InstanceId, BufferTag, Pcm)>,
    outstanding: usize,
    outstanding_max: usize,
    inputs: VecDeque<Input>,
    effects: Vec<Effect>,
    /// Pages that are on their way to storage.
    writing: BTreeSet<BufferTag>,
    /// No page is given up before; set when one could not be written.
    evict_again_at: Option<Instant>,
    flush: Option<Flush>,
    /// Peers with a session, whether it has a link or not.
    up: BTreeSet<InstanceId>,
    /// Those of them that have a link.
    linked: BTreeSet<InstanceId>,
    lost: BTreeSet<InstanceId>,
    refusals: Refusals,
    counters: Arc<NodeCounters>,
}

/// Frames of an arena that are left for cached pages; see the module. `None`: too few.
fn cache_pages(config: &NodeConfig, frames: u32) -> Option<u32> {
    let room = frames.checked_sub(config.frames_beside_cache());
    room.filter(|&pages| pages >= CACHE_PAGES_MIN)
}

impl Shard {
    /// The only shard of an instance: opens storage, maps the arena and listens. Peers are added
    /// with [`Shard::add_peer`]. For a caller that drives it itself; [`Node`](super::Node) starts as
    /// many as `config.shards` says.
    ///
    /// # Errors
    /// [`NodeError`] with what was found, what was expected and what to do.
    pub fn new(config: &NodeConfig) -> Result<Self, NodeError> {
        let config = NodeConfig { shards: 1, ..config.clone() };
        let place = Place {
            number: 0,
            listen: config.listen,
            incarnation: config.next_incarnation(),
            clock: Arc::default(),
        };
        Self::start(&config, &place)
    }

    /// One of the shards of an instance, with its share of what the configuration gives the whole.
    pub(super) fn start(config: &NodeConfig, place: &Place) -> Result<Self, NodeError> {
        let view = config.view()?;
        let store = Arc::new(Store::open(&config.storage, config.page_size)?);
        // What is wrong with the key is told before anything large is set up.
        let endpoint = config.endpoint(&view, place)?;
        let shards = u32::from(config.shards.max(1));
        let frames = config.frames_of_shard();
        let arena = Arena::new(&config.arena(frames))?;
        let room = cache_pages(config, frames).ok_or_else(|| NodeError::ArenaTooSmall {
            frames: config.frames(),
            needed: shards.saturating_mul(config.frames_needed()),
        })?;
        let wanted = |pages: u32| pages.div_ceil(shards).clamp(CACHE_PAGES_MIN, room);
        let limit = config.cache_pages.map_or(room, wanted);
        let endpoint = Endpoint::bind(endpoint, arena.clone())?;
        let table = arena.page_table()?;
        let shared = Arc::new(Shared {
            index: PageIndex::new(frames),
            pages: table.view(),
            clock: Arc::clone(&place.clock),
            waker: endpoint.waker(),
            acquire_timeout: Duration::from_millis(config.acquire_timeout_ms),
            panic: Panic::none_yet(place.number),
        });
        let io = IoThreads::start(config.io_threads_of_shard(), &store, &arena, &shared.waker)
            .map_err(NodeError::Thread)?;
        let limit = limit as usize;
        let counters = Arc::<NodeCounters>::default();
        let pool =
            Pool::new(arena.clone(), table, Arc::clone(&shared), limit, Arc::clone(&counters));
        let grd = Grd::new(config.instance, endpoint.config().incarnation, view);
        Ok(Self {
            me: config.instance,
            grd,
            pool,
            shared,
            arena,
            io,
            endpoint,
            handles: Vec::new(),
            outbox: Outbox::default(),
            arrivals: TagMap::default(),
            transits: TagMap::default(),
            waiting: VecDeque::with_capacity(64),
            outstanding: 0,
            // The request is the credit: no more pages can be on their way than are posted.
            outstanding_max: config.credits.of(Lane::Pages) as usize,
            inputs: VecDeque::with_capacity(64),
            effects: Vec::with_capacity(64),
            writing: BTreeSet::new(),
            evict_again_at: None,
            flush: None,
            up: BTreeSet::new(),
            linked: BTreeSet::new(),
            lost: BTreeSet::new(),
            refusals: Refusals::new(Instant::now()),
            counters,
        })
    }

    /// Makes a peer known.
    ///
    /// # Errors
    /// [`NodeError::Transport`] when it is this instance or known already.
    pub fn add_peer(&mut self, id: InstanceId, address: SocketAddr) -> Result<(), NodeError> {
        self.endpoint.add_peer(id, address)?;
        self.outbox.add_peer(id);
        Ok(())
    }

    /// Address that peers dial.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.endpoint.listen_address()
    }

    /// This instance's identity: id and incarnation.
    #[must_use]
    pub fn identity(&self) -> (InstanceId, Incarnation) {
        (self.me, self.endpoint.config().incarnation)
    }

    /// Peers that have a session.
    #[must_use]
    pub fn peers_up(&self) -> usize {
        self.up.len()
    }

    /// Members, this instance aside, that have no link: not yet, or not now.
    #[must_use]
    pub fn peers_missing(&self) -> Vec<InstanceId> {
        let is_missing = |id: &InstanceId| *id != self.me && !self.linked.contains(id);
        self.grd.view().members().iter().copied().filter(is_missing).collect()
    }

    /// The refusal of a peer that this instance has to go for, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.refusals.verdict(!self.up.is_empty())
    }

    /// Any refusal of a peer that is not over.
    #[must_use]
    pub fn any_refusal(&self) -> Option<&str> {
        self.refusals.any()
    }

    /// Counters, readable from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<NodeCounters> {
        Arc::clone(&self.counters)
    }

    /// Counters of the transport, readable from any thread.
    #[must_use]
    pub fn endpoint_counters(&self) -> Arc<EndpointCounters> {
        self.endpoint.counters()
    }

    /// The directory core, to look at.
    #[must_use]
    pub fn grd(&self) -> &Grd {
        &self.grd
    }

    /// Wakes the shard's thread from [`Shard::wait`].
    #[must_use]
    pub fn waker(&self) -> pagewire_transport::Waker {
        self.shared.waker.clone()
    }

    /// Where its thread leaves the words of a panic.
    pub(super) fn panic(&self) -> Arc<Panic> {
        Arc::clone(&self.shared.panic)
    }

    /// A handle for one thread, where this is the instance's only shard.
    pub fn handle(&mut self) -> Handle {
        Handle::new(vec![self.line()])
    }

    /// This shard's line to a handle.
    pub(super) fn line(&mut self) -> Line {
        let (to_shard, commands) = RingBuffer::new(COMMANDS);
        let (completions, to_thread) = RingBuffer::new(4);
        self.handles.push(HandleEnd { commands, completions, waiter: None });
        Line::new(Arc::clone(&self.shared), to_shard, to_thread)
    }

    /// Writes every dirty page back and makes it durable; the answer goes to `reply`.
    pub fn flush(&mut self, reply: Sender<Result<(), String>>) {
        if let Some(flush) = &self.flush {
            tracing::warn!("asked to write back while doing so");
            let _ = flush.reply.send(Err("asked again before it was done".to_owned()));
        }
        let left: BTreeSet<_> = self.pool.unclean().chain(self.writing.iter().copied()).collect();
        self.inputs.extend(left.iter().map(|&tag| Input::WriteBack { tag }));
        self.flush = Some(Flush { left, reply, failed: None, syncing: false });
        self.run();
        self.flush_on();
    }

    /// One turn. True when it found anything to do.
    pub fn poll(&mut self) -> bool {
        // First what local threads want, so that it leaves together with what the last turn left.
        let busy = self.take_commands();
        let events = self.endpoint.poll();
        self.turn(busy || events)
    }

    /// Sleeps until there is something to do or `timeout` is over, then one turn. `work_waits`
    /// tells of work that the caller wakes the shard for.
    pub fn wait(&mut self, timeout: Duration, work_waits: impl FnOnce() -> bool) -> bool {
        let (handles, io) = (&self.handles, &self.io);
        let events = self.endpoint.wait(timeout, || {
            io.has_done() || work_waits() || handles.iter().any(|h| !h.commands.is_empty())
        });
        self.turn(events)
    }

    fn take_commands(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.handles.len() {
            while let Ok(command) = self.handles[at].commands.pop() {
                any = true;
                self.on_command(at, command);
            }
        }
        any
    }

    fn turn(&mut self, busy: bool) -> bool {
        let mut busy = busy;
        while let Some(event) = self.endpoint.next_event() {
            self.on_event(event);
        }
        while let Some(done) = self.io.next() {
            busy = true;
            self.on_io(done);
        }
        self.outbox.pump(&mut self.endpoint);
        self.make_room();
        self.flush_on();
        busy
    }

    // ---- what comes in -------------------------------------------------------------------------

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(received) => self.on_message(received),
            Event::Up { peer, incarnation } => {
                tracing::info!("instance {peer} is up, incarnation {incarnation}");
                self.refusals.over(peer);
                self.up.insert(peer);
                self.linked.insert(peer);
            }
            Event::Linked { peer } => {
                tracing::info!("instance {peer} is linked again");
                self.refusals.over(peer);
                self.linked.insert(peer);
            }
            Event::Down { peer, reason } => {
                tracing::warn!("the link with instance {peer} is down: {reason}");
                self.linked.remove(&peer);
            }
            Event::Ended { peer, incarnation, undelivered } => {
                tracing::error!(
                    "instance {peer} has ended its incarnation {incarnation} with {} messages of \
                     unknown outcome; this version cannot recover its part of the directory",
                    undelivered.len()
                );
                self.lost.insert(peer);
                self.up.remove(&peer);
                self.linked.remove(&peer);
            }
            Event::Refused { peer, refusal, detail, .. } => {
                // It is repeated with every attempt, and told once.
                let told = detail.clone();
                if self.refusals.note(peer, refusal, detail, Instant::now()) {
                    if self.up.is_empty() {
                        tracing::info!("refused: {told}");
                    } else {
                        tracing::warn!("refused: {told}");
                    }
                }
            }
            _ => {}
        }
    }

    fn on_message(&mut self, received: Received) {
        let Received { from, kind, epoch, body, frame, .. } = received;
        let (tag, message) = match Pcm::decode(kind, body.as_slice()) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.counters.bad_messages.add(1);
                tracing::warn!("instance {from} sent what is no PCM message: {error}");
                return;
            }
        };
        let carries = matches!(message, Pcm::Response { verdict: Verdict::Page, .. });
        if carries != frame.is_some() {
            self.counters.bad_messages.add(1);
            tracing::warn!("instance {from} sent PCM message {kind} with a page it must not have");
            return;
        }
        if let Some(frame) = frame {
            self.arrivals.insert(tag, frame);
        }
        self.input(Input::Message { from, epoch, tag, message });
        self.run();
    }

    fn on_io(&mut self, done: IoDone) {
        match done {
            IoDone::Read { tag, result } => {
                self.counters.pages_read.add(1);
                let result = result.map(|(version, frame)| {
                    self.arrivals.insert(tag, frame);
                    version
                });
                self.input(Input::ReadDone { tag, result });
            }
            IoDone::Write { tag, version, result } => {
                let written = result.is_ok();
                if let Err(error) = result {
                    tracing::error!("page {tag} could not be written: {error}");
                    self.pool.set_dirty(&tag, true);
                    self.evict_again_at = Some(Instant::now() + EVICT_RETRY);
                    if let Some(flush) = &mut self.flush {
                        flush.failed.get_or_insert(error);
                    }
                } else {
                    self.counters.pages_written.add(1);
                }
                self.writing.remove(&tag);
                self.flushed(&tag);
                self.input(Input::WriteDone { tag, version, written });
            }
            IoDone::Sync { result } => {
                if let Some(flush) = self.flush.take() {
                    let _ = flush.reply.send(result);
                }
            }
        }
        self.run();
    }

    fn on_command(&mut self, at: usize, command: Command) {
        let waiter = |sequence: u64| WaiterId((at as u64) << HANDLE_SHIFT | sequence);
        match command {
            Command::Waiter(thread) => self.handles[at].waiter = Some(thread),
            Command::Acquire { sequence, tag, mode } => {
                let master = self.grd.view().master(&tag);
                if self.lost.contains(&master) {
                    let error = AcquireError::PeerLost { tag, peer: master };
                    self.complete(waiter(sequence), Err(Some(error)));
                    return;
                }
                self.input(Input::Acquire { tag, mode, waiter: waiter(sequence) });
            }
            Command::Withdraw { sequence, tag } => {
                self.input(Input::Withdraw { tag, waiter: waiter(sequence) });
            }
            Command::Unpinned(index) => {
                if let Some(drained) = self.pool.drained(index) {
                    self.input(drained_input(drained));
                }
            }
        }
        self.run();
    }

    // ---- the core ------------------------------------------------------------------------------

    fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Feeds the core until it has nothing more to say.
    fn run(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let mut effects = std::mem::take(&mut self.effects);
            self.grd.handle(input, &mut effects);
            for effect in effects.drain(..) {
                self.apply(effect);
            }
            self.effects = effects;
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, tag, message } => self.send(to, tag, message, None),
            Effect::Request { to, tag, message } => {
                self.waiting.push_back((to, tag, message));
                self.admit();
            }
            Effect::RequestOver { .. } => {
                self.outstanding -= 1;
                self.admit();
            }
            Effect::Ship { to, tag, message, keep } => self.ship(to, tag, message, keep),
            Effect::Forget { tag, grant } => {
                if self.transits.get(&tag).is_some_and(|(shipped, _)| *shipped == grant) {
                    self.transits.remove(&tag);
                    self.admit();
                }
            }
            Effect::Read { tag, at_least } => {
                let frame = self.arena.take().expect("the arena has a frame for each request");
                self.io.submit(IoJob::Read { tag, at_least, frame });
            }
            Effect::Write { tag, version } => {
                let Some(frame) = self.pool.share(&tag) else {
                    self.flushed(&tag);
                    return self.input(Input::WriteDone { tag, version, written: false });
                };
                self.pool.set_dirty(&tag, false);
                self.writing.insert(tag);
                self.io.submit(IoJob::Write { tag, version, frame });
            }
            Effect::Lower { tag, to } => {
                if let Some(drained) = self.pool.lower(&tag, to) {
                    self.input(drained_input(drained));
                }
            }
            Effect::Install { tag, dirty } => {
                let frame = self.arrivals.remove(&tag);
                self.pool.install(tag, frame, dirty);
            }
            Effect::MarkDirty { tag } => self.pool.set_dirty(&tag, true),
            Effect::Discard { tag } => drop(self.arrivals.remove(&tag)),
            Effect::Broken { tag, problem } => self.pool.broken(&tag, problem),
            Effect::Complete { waiter, tag, mode, path } => {
                let pinned = self.pool.pin(&tag, mode);
                let grant = pinned.map(|ticket| Grant { ticket, path });
                let broken = Some(AcquireError::Protocol { tag });
                self.complete(waiter, grant.ok_or(broken));
            }
            Effect::Fail { waiter, error, .. } => self.complete(waiter, Err(error)),
            Effect::Open { tag, mode } => {
                self.pool.keep(&tag);
                self.pool.open(&tag, mode);
                if self.flush.is_some() && !self.pool.is_dirty(&tag) {
                    self.flushed(&tag);
                }
            }
            Effect::Drop { tag } => {
                drop(self.pool.remove(&tag));
                self.flushed(&tag);
                self.admit();
            }
        }
    }

    fn send(&mut self, to: InstanceId, tag: BufferTag, message: Pcm, frame: Option<SharedFrame>) {
        let body = Body::new(&message.encode(tag)).unwrap_or(Body::EMPTY);
        let epoch = self.grd.view().epoch();
        let (lane, may_wait) = (message.lane(), message.may_wait());
        let message = Message { kind: message.kind(), epoch, body, frame };
        self.outbox.send(&mut self.endpoint, to, lane, message, may_wait);
    }

    fn ship(&mut self, to: InstanceId, tag: BufferTag, message: Pcm, keep: bool) {
        let frame = if keep { self.pool.share(&tag) } else { self.pool.remove(&tag) };
        let Some(frame) = frame else { return };
        if let (false, Pcm::Response { grant, .. }) = (keep, message) {
            self.transits.insert(tag, (grant, frame.clone()));
        }
        self.counters.pages_shipped.add(1);
        self.counters.bytes_shipped.add(frame.len() as u64);
        self.send(to, tag, message, Some(frame));
        if !keep {
            self.flushed(&tag);
        }
    }

    fn complete(&mut self, waiter: WaiterId, result: Result<Grant, Option<AcquireError>>) {
        let at = usize::try_from(waiter.0 >> HANDLE_SHIFT).unwrap_or(usize::MAX);
        let sequence = waiter.0 & ((1 << HANDLE_SHIFT) - 1);
        let Some(handle) = self.handles.get_mut(at) else { return };
        // A handle has one request at a time and takes its answer before the next.
        let told = handle.completions.push(Completion { sequence, result });
        assert!(told.is_ok(), "a handle has more answers than requests");
        if let Some(thread) = &handle.waiter {
            thread.unpark();
        }
    }

    // ---- room ----------------------------------------------------------------------------------

    /// Sends requests while there is room for what they bring and credit for it to come.
    fn admit(&mut self) {
        while self.outstanding < self.outstanding_max
            && self.pool.has_room(self.outstanding + self.transits.len())
        {
            let Some((to, tag, message)) = self.waiting.pop_front() else { return };
            self.outstanding += 1;
            if to == self.me {
                let epoch = self.grd.view().epoch();
                self.input(Input::Message { from: to, epoch, tag, message });
            } else {
                self.send(to, tag, message, None);
            }
        }
    }

    /// Evicts pages while requests wait for room.
    fn make_room(&mut self) {
        let too_soon = |at: Instant| Instant::now() < at;
        if self.waiting.is_empty() || self.evict_again_at.is_some_and(too_soon) {
            return;
        }
        let wanted = self.waiting.len().min(self.outstanding_max);
        let expected = self.outstanding + self.transits.len() + wanted;
        // The core would not give up a busy page, the one that waits for its upgrade among them.
        let may_go = |tag: &BufferTag| self.grd.holding(tag).is_some_and(|h| !h.busy);
        for _ in 0..self.pool.excess(expected) {
            let Some(tag) = self.pool.victim(may_go) else { break };
            self.inputs.push_back(Input::Evict { tag });
        }
        self.run();
    }

    /// The page is no longer this flush's business.
    fn flushed(&mut self, tag: &BufferTag) {
        if let Some(flush) = &mut self.flush {
            flush.left.remove(tag);
        }
    }

    /// Goes on with writing back, when no page is left.
    fn flush_on(&mut self) {
        let Some(flush) = &mut self.flush else { return };
        if flush.syncing || !flush.left.is_empty() {
            return;
        }
        if let Some(error) = flush.failed.take() {
            let _ = flush.reply.send(Err(error));
            self.flush = None;
        } else {
            flush.syncing = true;
            self.io.submit(IoJob::Sync);
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        let waiting = self.outbox.waiting();
        if waiting > 0 {
            tracing::warn!("stopped with {waiting} messages unsent");
        }
    }
}

fn drained_input(drained: super::pool::Drained) -> Input {
    let super::pool::Drained { tag, to, dirty, version } = drained;
    debug_assert!(version != Lsn(u64::MAX));
    Input::Drained { tag, to, dirty, version }
}
