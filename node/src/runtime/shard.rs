//! One shard: endpoint, directory core, page pool and storage, driven by one thread.
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
//!   in transit   peers x page credits                       shipped, not claimed
//!   scratch      I/O threads                                checksums are put on there
//!   cache        the rest                                   pages held or expected
//! ```
//! so that a frame is there whenever one is needed, and only the cache has to make room.

use super::{
    command::{Command, Completion, Grant},
    handle::{Handle, Shared},
    index::PageIndex,
    io::{IoDone, IoJob, IoThreads},
    outbox::Outbox,
    pool::Pool,
};
use crate::{
    config::NodeConfig,
    grd::{AcquireError, Effect, Event as Input, Grd, TagMap, WaiterId},
    runtime::node::NodeError,
    store::Store,
};
use crossbeam_channel::Sender;
use pagewire_protocol::{Body, BufferTag, GrantNumber, InstanceId, Lane, Lsn, Pcm, pcm::Verdict};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, Event, Frame, Message, Received, SharedFrame,
    counters::{Counter, EndpointCounters},
};
use rtrb::{Consumer, Producer, RingBuffer};
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread::Thread,
    time::Duration,
};

/// Commands that a thread can have on their way: more than it has guards.
const COMMANDS: usize = 1024;
/// Fewest pages an instance can work with: every thread needs some at the same time.
const CACHE_PAGES_MIN: u32 = 32;
/// The slot of a waiter id that tells the handle; below it the handle's own count.
const HANDLE_SHIFT: u32 = 48;

/// Counts of one node, readable from any thread.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Pages sent to other instances.
    pub pages_shipped: Counter,
    /// Bytes of those pages.
    pub bytes_shipped: Counter,
    /// Pages read from storage.
    pub pages_read: Counter,
    /// Pages written to storage.
    pub pages_written: Counter,
    /// Pages given up for room.
    pub pages_evicted: Counter,
    /// Pages copied because a send still held their frame when they were to be written.
    pub pages_copied: Counter,
    /// Messages that were no PCM message of this version.
    pub bad_messages: Counter,
}

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
    reply: Sender<Result<(), String>>,
    failed: Option<String>,
    syncing: bool,
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
    writing: usize,
    flush: Option<Flush>,
    up: BTreeSet<InstanceId>,
    lost: BTreeSet<InstanceId>,
    refusal: Option<String>,
    counters: Arc<NodeCounters>,
}

/// Frames of an arena that are left for cached pages; see the module. `None`: too few.
#[must_use]
pub fn cache_pages(config: &NodeConfig, frames: u32) -> Option<u32> {
    let peers = u32::try_from(config.members.len()).ok()?.saturating_sub(1);
    let credits = config.credits;
    let fabric = peers * (credits.frames_per_peer() + credits.of(Lane::Pages));
    frames.checked_sub(fabric + config.io_threads).filter(|&pages| pages >= CACHE_PAGES_MIN)
}

impl Shard {
    /// Opens storage, maps the arena and listens. Peers are added with [`Shard::add_peer`].
    ///
    /// # Errors
    /// [`NodeError`] with what was found, what was expected and what to do.
    pub fn new(config: &NodeConfig) -> Result<Self, NodeError> {
        let view = config.view()?;
        let store = Arc::new(Store::open(&config.storage, config.page_size)?);
        let frames = config.frames();
        let arena = Arena::new(&ArenaConfig {
            frames,
            page_size: config.page_size,
            huge_pages: config.huge_pages,
        })?;
        let room = cache_pages(config, frames)
            .ok_or_else(|| NodeError::ArenaTooSmall { frames, needed: frames_needed(config) })?;
        let limit = config.cache_pages.map_or(room, |wanted| wanted.clamp(CACHE_PAGES_MIN, room));
        let endpoint = Endpoint::bind(config.endpoint(&view), arena.clone())?;
        let table = arena.page_table()?;
        let shared = Arc::new(Shared {
            index: PageIndex::new(frames),
            pages: table.view(),
            clock: AtomicU64::new(0),
            waker: endpoint.waker(),
            acquire_timeout: Duration::from_millis(config.acquire_timeout_ms),
        });
        let io = IoThreads::start(config.io_threads, &store, &arena, &shared.waker)
            .map_err(NodeError::Thread)?;
        let limit = limit as usize;
        let grd = Grd::new(config.instance, endpoint.config().incarnation, view);
        Ok(Self {
            me: config.instance,
            grd,
            pool: Pool::new(arena.clone(), table, Arc::clone(&shared), limit),
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
            writing: 0,
            flush: None,
            up: BTreeSet::new(),
            lost: BTreeSet::new(),
            refusal: None,
            counters: Arc::default(),
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
    pub fn identity(&self) -> (InstanceId, pagewire_protocol::Incarnation) {
        (self.me, self.endpoint.config().incarnation)
    }

    /// Peers that have a session.
    #[must_use]
    pub fn peers_up(&self) -> usize {
        self.up.len()
    }

    /// Why a peer refuses this instance for good, if one does.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
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

    /// A handle for one thread.
    pub fn handle(&mut self) -> Handle {
        let (to_shard, commands) = RingBuffer::new(COMMANDS);
        let (completions, to_thread) = RingBuffer::new(4);
        self.handles.push(HandleEnd { commands, completions, waiter: None });
        Handle::new(Arc::clone(&self.shared), to_shard, to_thread)
    }

    /// Writes every dirty page back and makes it durable; the answer goes to `reply`.
    pub fn flush(&mut self, reply: Sender<Result<(), String>>) {
        if let Some(flush) = &self.flush {
            tracing::warn!("asked to write back while doing so");
            let _ = flush.reply.send(Err("asked again before it was done".to_owned()));
        }
        self.flush = Some(Flush { reply, failed: None, syncing: false });
        for tag in self.pool.tags() {
            self.input(Input::WriteBack { tag });
        }
        self.run();
        self.flush_on();
    }

    /// One turn. True when it found anything to do.
    pub fn poll(&mut self) -> bool {
        let mut busy = self.endpoint.poll();
        while let Some(event) = self.endpoint.next_event() {
            self.on_event(event);
        }
        while let Some(done) = self.io.next() {
            busy = true;
            self.on_io(done);
        }
        for at in 0..self.handles.len() {
            while let Ok(command) = self.handles[at].commands.pop() {
                busy = true;
                self.on_command(at, command);
            }
        }
        self.outbox.pump(&mut self.endpoint);
        self.make_room();
        busy
    }

    /// Sleeps until there is something to do, `timeout` is over, or the waker is used and
    /// `work_waits` says so; then one turn.
    pub fn wait(&mut self, timeout: Duration, work_waits: impl FnOnce() -> bool) -> bool {
        let (handles, io) = (&self.handles, &self.io);
        self.endpoint.wait(timeout, || {
            io.has_done() || work_waits() || handles.iter().any(|h| !h.commands.is_empty())
        });
        self.poll()
    }

    // ---- what comes in -------------------------------------------------------------------------

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(received) => self.on_message(received),
            Event::Up { peer, incarnation } => {
                tracing::info!("instance {peer} is up, incarnation {incarnation}");
                self.up.insert(peer);
            }
            Event::Linked { peer } => tracing::info!("instance {peer} is linked again"),
            Event::Down { peer, reason } => {
                tracing::warn!("the link with instance {peer} is down: {reason}");
            }
            Event::Ended { peer, incarnation, undelivered } => {
                tracing::error!(
                    "instance {peer} has ended its incarnation {incarnation} with {} messages of \
                     unknown outcome; this version cannot recover its part of the directory",
                    undelivered.len()
                );
                self.lost.insert(peer);
            }
            Event::Refused { refusal, detail, .. } => {
                tracing::warn!("refused: {detail}");
                // A duplicate may be the trace of a former life; others do not go away.
                let _ = refusal;
                self.refusal = Some(detail);
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
                self.writing -= 1;
                let written = result.is_ok();
                if let Err(error) = result {
                    tracing::error!("page {tag} could not be written: {error}");
                    self.pool.set_dirty(&tag, true);
                    if let Some(flush) = &mut self.flush {
                        flush.failed.get_or_insert(error);
                    }
                } else {
                    self.counters.pages_written.add(1);
                }
                self.input(Input::WriteDone { tag, version, written });
            }
            IoDone::Sync { result } => {
                if let Some(flush) = self.flush.take() {
                    let _ = flush.reply.send(result);
                }
            }
        }
        self.run();
        self.flush_on();
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
                }
            }
            Effect::Read { tag, at_least } => {
                let frame = self.arena.take().expect("the arena has a frame for each request");
                self.io.submit(IoJob::Read { tag, at_least, frame });
            }
            Effect::Write { tag, version } => {
                self.pool.set_dirty(&tag, false);
                let frame = self.pool.share(&tag);
                self.writing += 1;
                self.io.submit(IoJob::Write { tag, version, frame });
            }
            Effect::Lower { tag, to } => {
                if let Some(drained) = self.pool.lower(&tag, to) {
                    self.input(drained_input(drained));
                }
            }
            Effect::Install { tag, dirty } => {
                let frame = self.arrivals.remove(&tag).expect("a page is installed when it came");
                self.pool.install(tag, frame, dirty);
            }
            Effect::MarkDirty { tag } => self.pool.set_dirty(&tag, true),
            Effect::Discard { tag } => drop(self.arrivals.remove(&tag)),
            Effect::Complete { waiter, tag, mode, path } => {
                let ticket = self.pool.pin(&tag, mode);
                self.complete(waiter, Ok(Grant { ticket, path }));
            }
            Effect::Fail { waiter, error, .. } => self.complete(waiter, Err(error)),
            Effect::Open { tag, mode } => {
                self.pool.keep(&tag);
                self.pool.open(&tag, mode);
            }
            Effect::Drop { tag } => {
                self.counters.pages_evicted.add(1);
                drop(self.pool.remove(&tag));
                self.admit();
            }
        }
    }

    fn send(&mut self, to: InstanceId, tag: BufferTag, message: Pcm, frame: Option<SharedFrame>) {
        let body = Body::new(&message.encode(tag)).unwrap_or(Body::EMPTY);
        let epoch = self.grd.view().epoch();
        let lane = message.lane();
        let message = Message { kind: message.kind(), epoch, body, frame };
        self.outbox.send(&mut self.endpoint, to, lane, message);
    }

    fn ship(&mut self, to: InstanceId, tag: BufferTag, message: Pcm, keep: bool) {
        let frame = if keep { self.pool.share(&tag) } else { self.pool.remove(&tag) };
        if let (false, Pcm::Response { grant, .. }) = (keep, message) {
            self.transits.insert(tag, (grant, frame.clone()));
        }
        self.counters.pages_shipped.add(1);
        self.counters.bytes_shipped.add(frame.len() as u64);
        self.send(to, tag, message, Some(frame));
        if !keep {
            self.admit();
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
        while self.outstanding < self.outstanding_max && self.pool.has_room(self.outstanding) {
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
        if self.waiting.is_empty() {
            return;
        }
        let expected = self.outstanding + self.waiting.len().min(self.outstanding_max);
        for _ in 0..self.pool.excess(expected) {
            let Some(tag) = self.pool.victim() else { break };
            self.input(Input::Evict { tag });
        }
        self.run();
    }

    /// Goes on with writing back, when the last write of a round is done.
    fn flush_on(&mut self) {
        let Some(flush) = &mut self.flush else { return };
        if flush.syncing || self.writing > 0 {
            return;
        }
        if let Some(error) = flush.failed.take() {
            let _ = flush.reply.send(Err(error));
            self.flush = None;
        } else if !self.pool.any_dirty() {
            flush.syncing = true;
            self.io.submit(IoJob::Sync);
        }
    }

    /// Pages copied so far, carried over to the counters.
    fn count_copies(&self) {
        let copied = &self.counters.pages_copied;
        copied.add(self.pool.copies() - copied.get());
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.count_copies();
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

/// Fewest frames the configuration works with.
fn frames_needed(config: &NodeConfig) -> u32 {
    let peers = u32::try_from(config.members.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let per_peer = config.credits.frames_per_peer() + config.credits.of(Lane::Pages);
    CACHE_PAGES_MIN + config.io_threads + peers.saturating_mul(per_peer)
}
