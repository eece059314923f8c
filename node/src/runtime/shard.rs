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
//!                                                           away and not yet claimed; past images
//! ```
//! so that a frame is there whenever one is needed, and only the cache has to make room.
//!
//! Here is what a shard consists of, and its turn; what comes in stands in [`arrivals`], its ends of
//! the handles in [`ends`], what the core wants done in [`effects`], requests and evictions in [`room`], writing back in [`flush`],
//! members that come and go in [`views`], shadow information in bulk in [`guides`], what tools ask in
//! [`stats`], and the way out in [`leave`].

mod arrival;
mod arrivals;
mod effects;
mod ends;
mod flush;
mod guides;
mod later;
mod leave;
mod room;
mod si;
mod stats;
mod views;

use arrival::{Arrival, Arrivals};
use ends::HandleEnds;
use flush::Flushes;
use guides::Guides;
use leave::Leaving;
use si::Si;
use stats::Askers;

use super::{
    copies::Copies,
    counters::NodeCounters,
    error::NodeError,
    handle::Handle,
    index::PageIndex,
    io::IoThreads,
    outbox::Outbox,
    pool::Pool,
    redo::{NothingToFlush, Redo, RedoLog},
    refusals::Refusals,
    shared::{FlushPositions, Panic, Shared},
    tag_map::TagMap,
};
use crate::{
    config::{CACHE_PAGES_MIN, NodeConfig},
    grd::{Effect, Event as Input, Grd},
    si::shared::SiShared,
    store::Store,
};
use pagewire_protocol::{
    BufferTag, ClusterView, Epoch, GrantNumber, Incarnation, InstanceId, Lane, Lsn, Pcm,
};
use pagewire_transport::{
    Arena, ArenaConfig, Endpoint, EndpointConfig, Frame, Received, arena::PinTicket,
    counters::EndpointCounters,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

/// Pause in making room after a page could not be written: it would be tried again at once.
const EVICT_RETRY: Duration = Duration::from_millis(100);
/// How often a shard that would sleep looks for what nothing wakes it for.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A shard's place in its instance.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// 0 to `shards - 1`.
    pub(super) number: u16,
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// Of the instance: all its shards have one.
    pub(super) incarnation: Incarnation,
    /// Greatest page version this instance has seen or given.
    pub(super) clock: Arc<AtomicU64>,
    /// Longest wait for a page since somebody asked, in nanoseconds.
    pub(super) longest_wait_ns: Arc<AtomicU64>,
    /// Its redo log.
    pub(super) redo: Arc<dyn RedoLog>,
    /// Where its threads publish invalidations.
    pub(super) si: Arc<SiShared>,
    /// Which storage it has, as peers are told; 0: nothing is told.
    pub(super) storage_mark: u16,
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
    handles: HandleEnds,
    outbox: Outbox,
    /// Something has been sent that somebody waits for.
    is_awaited: bool,
    /// A thread has been told what it waited for.
    has_answered: bool,
    /// The last turn has left out what nobody waits for.
    owes_rest: bool,
    arrivals: Arrivals,
    /// Pages shipped away and not claimed yet, and past images.
    copies: Copies,
    /// The page that was shipped away last, under which grant, while it is still to be put there.
    shipped: Option<(BufferTag, GrantNumber)>,
    redo: Redo,
    /// Requests that wait for room, the oldest first.
    waiting: VecDeque<(InstanceId, BufferTag, Epoch, Pcm)>,
    outstanding: usize,
    outstanding_max: usize,
    /// Most peers that there are frames for.
    peers_max: usize,
    inputs: VecDeque<Arrival>,
    /// What has come and can wait until the next turn: see [`later`].
    later: VecDeque<Received>,
    /// What is of a later view, in its order.
    parked: Vec<Arrival>,
    /// The core has said that of the event that it is handling.
    has_parked: bool,
    /// The core has more to do.
    has_more: bool,
    guides: Guides,
    askers: Askers,
    leaving: Option<Leaving>,
    /// The lease is over: see [`views`].
    is_fenced: bool,
    effects: Vec<Effect>,
    /// Pages of which the newest is wanted that there is, the least version of it, and what had come
    /// of it before storage is read.
    newest: TagMap<(Lsn, Option<Frame>)>,
    /// Pages that are on their way to storage.
    writing: BTreeSet<BufferTag>,
    /// No page is given up before; set when one could not be written.
    evict_again_at: Option<Instant>,
    flushes: Flushes,
    /// Peers with a session, whether it has a link or not.
    up: BTreeSet<InstanceId>,
    /// Those of them that have a link.
    linked: BTreeSet<InstanceId>,
    lost: BTreeSet<InstanceId>,
    /// Which view each peer has said last to have put in force.
    views_said: BTreeMap<InstanceId, ClusterView>,
    /// Peers that have another view of the same number.
    contradicting: BTreeSet<InstanceId>,
    /// By instance, the life that its session is with.
    lives: Vec<Incarnation>,
    refusals: Refusals,
    /// On the first shard.
    si: Option<Si>,
    /// Pins of guards that are gone, and up to where what was published under them has to be delivered.
    kept: Vec<(u64, PinTicket)>,
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
            longest_wait_ns: Arc::default(),
            redo: Arc::new(NothingToFlush),
            si: Arc::new(SiShared::new(1)),
            storage_mark: 0,
        };
        Self::start(&config, &place)
    }

    /// One of the shards of an instance, with its share of what the configuration gives the whole.
    pub(super) fn start(config: &NodeConfig, place: &Place) -> Result<Self, NodeError> {
        let view = config.view()?;
        let store = Arc::new(Store::open(&config.storage, config.page_size)?);
        // What is wrong with the key is told before anything large is set up.
        let endpoint = EndpointConfig {
            listen: place.listen,
            incarnation: place.incarnation,
            shard: place.number,
            storage_mark: place.storage_mark,
            ..config.endpoint(&view)?
        };
        let shards = u32::from(config.shards.max(1));
        let frames = config.frames_of_shard();
        let arena = ArenaConfig {
            // Frames with margins are aligned to no more than that.
            margins: store.memory_alignment_bytes() <= 512,
            ..config.arena(frames)
        };
        let arena = Arena::unwarned(&arena)?;
        let room = cache_pages(config, frames).ok_or_else(|| NodeError::ArenaTooSmall {
            frames: config.frames(),
            needed: shards.saturating_mul(config.frames_needed()),
        })?;
        let wanted = |pages: u32| pages.div_ceil(shards).clamp(CACHE_PAGES_MIN, room);
        let limit = config.cache_pages.map_or(room, wanted);
        let endpoint = Endpoint::bind(endpoint, arena.clone())?;
        // Whoever is refused is told why, and nothing else.
        arena.warn();
        let table = arena.page_table()?;
        let shared = Arc::new(Shared {
            index: PageIndex::new(frames),
            pages: table.view(),
            flush: FlushPositions::new(frames),
            clock: Arc::clone(&place.clock),
            waker: endpoint.waker(),
            acquire_timeout: Duration::from_millis(config.acquire_timeout_ms),
            longest_wait_ns: Arc::clone(&place.longest_wait_ns),
            panic: Panic::none_yet(place.number),
            si: Arc::clone(&place.si),
        });
        place.si.meet(place.number, shared.waker.clone(), arena.lease());
        let me = (config.instance, endpoint.config().incarnation);
        let si = if place.number == 0 {
            let ring = config.open_si_ring(me.1)?;
            Some(Si::new(Arc::clone(&place.si), me, &view, ring, config.page_size.bytes()))
        } else {
            None
        };
        let io = IoThreads::start(config.io_threads_of_shard(), &store, &arena, &shared.waker)
            .map_err(NodeError::Thread)?;
        let redo = Redo::new(Arc::clone(&place.redo), shared.waker.clone());
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
            handles: HandleEnds::default(),
            outbox: Outbox::default(),
            is_awaited: false,
            has_answered: false,
            owes_rest: false,
            arrivals: Arrivals::default(),
            copies: Copies::default(),
            shipped: None,
            redo,
            waiting: VecDeque::with_capacity(64),
            outstanding: 0,
            // The request is the credit: no more pages can be on their way than are posted.
            peers_max: config.peers_max(),
            outstanding_max: config.credits.of(Lane::Pages) as usize,
            inputs: VecDeque::with_capacity(64),
            later: VecDeque::with_capacity(64),
            parked: Vec::new(),
            has_parked: false,
            // A newcomer tells the others that it has nothing.
            has_more: true,
            guides: Guides::default(),
            askers: Askers::default(),
            leaving: None,
            is_fenced: false,
            newest: TagMap::default(),
            effects: Vec::with_capacity(64),
            writing: BTreeSet::new(),
            evict_again_at: None,
            flushes: Flushes::default(),
            up: BTreeSet::new(),
            linked: BTreeSet::new(),
            lost: BTreeSet::new(),
            views_said: BTreeMap::new(),
            contradicting: BTreeSet::new(),
            lives: Vec::new(),
            refusals: Refusals::new(Instant::now()),
            si,
            kept: Vec::with_capacity(64),
            counters,
        })
    }

    /// Makes a peer known.
    ///
    /// # Errors
    /// [`NodeError::Transport`] when it is this instance or known already;
    /// [`NodeError::TooManyPeers`] when there are no frames for it.
    pub fn add_peer(&mut self, id: InstanceId, address: SocketAddr) -> Result<(), NodeError> {
        let is_new = id != self.me && self.endpoint.peer_counters(id).is_none();
        if is_new && self.outbox.peers() >= self.peers_max {
            return Err(NodeError::TooManyPeers { peer: id, most: self.peers_max });
        }
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
        self.grd.view().members().iter().map(|member| member.id).filter(is_missing).collect()
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

    /// All redo of a life that has ended is applied.
    pub fn redo_done(&mut self, instance: InstanceId, incarnation: Incarnation) {
        self.input(Input::RedoDone { instance, incarnation });
        self.run();
    }

    /// Its arena: the lease can be ended there from any thread.
    pub(super) fn arena(&self) -> Arena {
        self.arena.clone()
    }

    /// Where its thread leaves the words of a panic.
    pub(super) fn panic(&self) -> Arc<Panic> {
        Arc::clone(&self.shared.panic)
    }

    /// A handle for one thread, where this is the instance's only shard.
    pub fn handle(&mut self) -> Handle {
        Handle::new(vec![self.line()])
    }

    /// One turn. True when it found anything to do. As [`Endpoint::poll_spinning`] it is compiled into its
    /// caller, best the loop that spins.
    #[inline(always)]
    pub fn poll(&mut self) -> bool {
        // First what local threads want, so that it leaves together with what the last turn left.
        let busy = self.take_commands() | self.publish() | self.let_go();
        let (handles, io, redo) = (&self.handles, &self.io, &self.redo);
        let si = self.si.as_ref();
        let work_waits = || {
            handles.have_commands()
                || io.has_done()
                || redo.has_news()
                || si.is_some_and(Si::has_queued)
        };
        let events = self.endpoint.poll_spinning(work_waits);
        self.turn(busy || events)
    }

    /// Sleeps until there is something to do or `timeout` is over, then one turn. `work_waits`
    /// tells of work that the caller wakes the shard for.
    pub fn wait(&mut self, timeout: Duration, work_waits: impl FnOnce() -> bool) -> bool {
        if self.owes_rest {
            return self.poll();
        }
        let (handles, io, redo, later) = (&self.handles, &self.io, &self.redo, &self.later);
        let (kept, shared, si) = (&self.kept, &self.shared.si, self.si.as_ref());
        // What is there already waits for room, which no look at it makes.
        let is_queued = si.is_some_and(Si::has_queued);
        // Nothing wakes the shard for what it only looks for now and then.
        let looks = self.leaving.is_some()
            || self.has_more
            || !self.guides.is_empty()
            || !self.waiting.is_empty()
            || self.redo.asks_again()
            || is_queued;
        let timeout = if looks { timeout.min(LOOK_AGAIN) } else { timeout };
        let events = self.endpoint.wait(timeout, || {
            io.has_done()
                || redo.has_news()
                || work_waits()
                || !later.is_empty()
                || handles.have_commands()
                || (!is_queued && si.is_some_and(Si::has_queued))
                || si::any_may_go(kept, shared)
        });
        self.turn(events)
    }

    #[inline(always)] // What is flushed here is a part of the caller's loop, as in `poll`.
    fn turn(&mut self, busy: bool) -> bool {
        // The endpoint has just sent what the last turn left.
        let busy = self.catch_up() || busy;
        while self.take_next() {}
        let acknowledges = self.acknowledge_si();
        if mem::take(&mut self.is_awaited) || acknowledges {
            // The rest of this turn would only make it late.
            self.endpoint.flush();
        }
        self.put_away();
        // Whoever was answered goes on, and may be who drives this shard. Not twice in a row: the rest
        // has its turn, too.
        if mem::take(&mut self.has_answered) && !self.owes_rest {
            self.owes_rest = true;
            return true;
        }
        self.owes_rest = false;
        busy | self.rest_of_turn()
    }

    /// What neither a peer nor a local thread waits for. True when there was anything.
    fn rest_of_turn(&mut self) -> bool {
        let mut busy = false;
        while self.io.has_done()
            && let Some(done) = self.io.next()
        {
            busy = true;
            self.on_io(done);
        }
        if self.redo.asks_again() {
            self.redo.ask_again(Instant::now());
        }
        self.take_flushed();
        self.run();
        busy |= self.let_go();
        self.outbox.pump(&mut self.endpoint);
        busy |= self.publish();
        self.make_room();
        self.flush_on();
        self.send_guides();
        busy |= self.go_on();
        self.leave_on();
        busy
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

#[cfg(test)]
mod tests;
