//! What there is: three instances, the lanes between them, storage, logs.

use pagewire_node::{
    grd::{Effect, Event, Grd},
    view::{Member, View},
};
use pagewire_protocol::{
    BufferTag, Epoch, Incarnation, InstanceId, Lane, Lsn, Mode, Pcm, guide::GuideRecord,
};
use std::{
    cell::Cell,
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    sync::Arc,
};

/// Instances of the model.
pub(super) const INSTANCES: usize = 3;

/// What may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// What each instance asks for, one after the other.
    pub requests: [Vec<Mode>; INSTANCES],
    /// Who masters the page at first.
    pub master: u16,
    /// Who may crash, once.
    pub crash: Option<u16>,
    /// Everybody who has the page may be told to give it up, once each.
    pub evictions: bool,
}

/// What a message carries beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Load {
    Pcm(Box<Pcm>, Option<Lsn>),
    Guide(Vec<GuideRecord>, bool),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) epoch: Epoch,
    pub(super) load: Load,
}

/// One instance, and its runtime as far as it matters: versions stand for contents.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) grd: Grd,
    pub(super) held: Option<Lsn>,
    pub(super) dirty: bool,
    pub(super) open: Mode,
    pub(super) arrival: Option<Lsn>,
    pub(super) transit: Option<(u64, Lsn)>,
    pub(super) past: Option<Lsn>,
    pub(super) requested: bool,
    pub(super) clock: Lsn,
    /// Versions of this life, in the order of its log, and how many are durable.
    pub(super) log: Vec<Lsn>,
    pub(super) durable: usize,
    pub(super) parked: Vec<(Event, Option<Lsn>)>,
    pub(super) to_do: VecDeque<Mode>,
    /// The waiter that waits, and for what.
    pub(super) waiting: Option<(u64, Mode)>,
    /// The waiter that applies redo, beside it.
    pub(super) recovering: Option<u64>,
    pub(super) again: bool,
    /// May still be told to give the page up.
    pub(super) evictable: bool,
    /// It has heard of the crash, and that redo is done.
    pub(super) heard: bool,
    pub(super) redone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Redo {
    NotYet,
    Asked(usize),
    Done,
}

/// A state of the model.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) tag: BufferTag,
    /// Shared with the states before, as long as nothing happens to them.
    pub(super) instances: [Option<Rc<Instance>>; INSTANCES],
    /// Fingerprints of instances, where they are known.
    known: [Cell<Option<u128>>; INSTANCES],
    pub(super) lanes: [[[VecDeque<Packet>; Lane::COUNT]; INSTANCES]; INSTANCES],
    pub(super) storage: Lsn,
    /// Every version that is not lost, with its writer; the last is what was last committed.
    pub(super) history: Vec<(Lsn, usize)>,
    pub(super) crash: Option<usize>,
    pub(super) crashed: Option<usize>,
    pub(super) view: Arc<View>,
    pub(super) next_view: Option<Arc<View>>,
    pub(super) redo: Redo,
    pub(super) effects: Vec<Effect>,
}

impl World {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let member =
            |id: u16| Member { id: InstanceId(id), incarnation: Incarnation(1), leaving: false };
        let members: Vec<_> = (0..INSTANCES).map(|id| member(id_of(id).0)).collect();
        let view = Arc::new(View::first(Epoch(1), members).expect("three instances are a view"));
        let mastered = (0..).map(|block| BufferTag { relation: 1, block, ..BufferTag::default() });
        let master = InstanceId(bounds.master);
        let tag = { mastered }.find(|tag| view.master(tag) == master).expect("it masters some");
        let instance = |id: usize| {
            Some(Rc::new(Instance {
                grd: Grd::new(id_of(id), Incarnation(1), Arc::clone(&view)),
                held: None,
                dirty: false,
                open: Mode::N,
                arrival: None,
                transit: None,
                past: None,
                requested: false,
                clock: Lsn::ZERO,
                log: Vec::new(),
                durable: 0,
                parked: Vec::new(),
                to_do: bounds.requests[id].iter().copied().collect(),
                waiting: None,
                recovering: None,
                again: false,
                evictable: bounds.evictions,
                heard: false,
                redone: false,
            }))
        };
        Self {
            tag,
            instances: std::array::from_fn(instance),
            known: Default::default(),
            lanes: Default::default(),
            storage: Lsn::ZERO,
            history: Vec::new(),
            crash: bounds.crash.map(usize::from),
            crashed: None,
            view,
            next_view: None,
            redo: Redo::NotYet,
            effects: Vec::new(),
        }
    }

    /// What was last committed.
    pub(super) fn truth(&self) -> Lsn {
        self.history.last().map_or(Lsn::ZERO, |(version, _)| *version)
    }

    pub(super) fn instance(&mut self, at: usize) -> Result<&mut Instance, String> {
        self.known[at].set(None);
        let it = self.instances[at].as_mut().ok_or_else(|| format!("instance {at} is gone"))?;
        Ok(Rc::make_mut(it))
    }

    /// Tells states apart by everything that can matter; 128 bits, so that two states that differ
    /// have the same one with a chance of less than one in 10^20.
    pub(super) fn fingerprint(&self) -> u128 {
        let instances: [_; INSTANCES] = std::array::from_fn(|at| {
            let it = self.instances[at].as_ref()?;
            let print = self.known[at]
                .get()
                .unwrap_or_else(|| wide(|hasher| it.hash_into(&self.tag, hasher)));
            self.known[at].set(Some(print));
            Some(print)
        });
        wide(|hasher| {
            instances.hash(hasher);
            for queue in self.lanes.iter().flatten().flatten() {
                queue.len().hash(hasher);
                for packet in queue {
                    format!("{packet:?}").hash(hasher);
                }
            }
            (self.storage, &self.history, self.crashed, self.next_view.is_some()).hash(hasher);
            self.redo.hash(hasher);
        })
    }
}

impl Instance {
    fn hash_into(&self, tag: &BufferTag, hasher: &mut DefaultHasher) {
        self.grd.fingerprint(tag, hasher);
        (self.held, self.dirty, self.open, self.arrival, self.transit, self.past).hash(hasher);
        (self.requested, self.clock, &self.log, self.durable, &self.to_do).hash(hasher);
        (self.waiting, self.recovering, self.again, self.evictable, self.heard, self.redone)
            .hash(hasher);
        format!("{:?}", self.parked).hash(hasher);
    }
}

fn wide(what: impl Fn(&mut DefaultHasher)) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        what(&mut hasher);
        hasher.finish()
    };
    u128::from(half(1)) << 64 | u128::from(half(2))
}

pub(super) fn id_of(at: usize) -> InstanceId {
    InstanceId(u16::try_from(at).unwrap_or(u16::MAX))
}
