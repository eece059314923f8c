//! The instance's redo log, as far as shipping and writing pages needs it: log before ship.
//!
//! ```text
//!   writer: guard.update_logged(end, ..)     flush position of the frame = max(.., end)
//!   core:   Drained{flush} ... Flush{to} --> RedoLog::flush(to, done) --> done.durable(up_to)
//!                              Flushed{up_to} <-- shard's queue <-----------------+   any thread
//! ```
//! A page's flush position is where this instance's log ends that describes its last change here. It
//! is kept beside the frame and not in the page: a page that comes from another instance has none,
//! for its redo was durable before it left.

use crossbeam_channel::{Receiver, Sender, unbounded};
use pagewire_protocol::Lsn;
use pagewire_transport::Waker;
use std::{fmt, sync::Arc};

/// The redo log of an instance. Its shards ask it from their threads, so nothing here may block.
pub trait RedoLog: Send + Sync + fmt::Debug {
    /// Makes the log durable at least up to `to`, and then says so to `done`, from any thread. What
    /// cannot be made durable is not answered: the page then stays where it is.
    fn flush(&self, to: Lsn, done: Flushed);
}

/// Where a [`RedoLog`] says how far it is durable; each one answers once.
#[derive(Debug)]
pub struct Flushed {
    told: Sender<Lsn>,
    waker: Waker,
}

impl Flushed {
    /// The log is durable up to `up_to`.
    pub fn durable(self, up_to: Lsn) {
        // A shard that has ended need not know.
        if self.told.send(up_to).is_ok() {
            self.waker.wake();
        }
    }
}

/// The log of an instance that has none: whatever a page needs is durable already.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingToFlush;

impl RedoLog for NothingToFlush {
    fn flush(&self, to: Lsn, done: Flushed) {
        done.durable(to);
    }
}

/// A shard's side of the log.
#[derive(Debug)]
pub(super) struct Redo {
    log: Arc<dyn RedoLog>,
    told: Sender<Lsn>,
    durable: Receiver<Lsn>,
    waker: Waker,
    /// Greatest position asked for: asked again it would be flushed again.
    asked: Lsn,
}

impl Redo {
    pub(super) fn new(log: Arc<dyn RedoLog>, waker: Waker) -> Self {
        let (told, durable) = unbounded();
        Self { log, told, durable, waker, asked: Lsn::ZERO }
    }

    /// Asks for the log up to `to`, unless that was asked for before.
    pub(super) fn flush(&mut self, to: Lsn) {
        if to > self.asked {
            self.asked = to;
            self.log.flush(to, Flushed { told: self.told.clone(), waker: self.waker.clone() });
        }
    }

    /// How far the log is durable, when that is news.
    pub(super) fn next(&self) -> Option<Lsn> {
        self.durable.try_iter().max()
    }

    /// True when there is news.
    pub(super) fn has_news(&self) -> bool {
        !self.durable.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_protocol::{ClusterId, InstanceId};
    use pagewire_transport::{Arena, ArenaConfig, Endpoint, EndpointConfig};
    use std::sync::Mutex;

    /// A log that answers when the test says so.
    #[derive(Debug, Default)]
    struct Slow(Mutex<Vec<(Lsn, Flushed)>>);

    impl RedoLog for Slow {
        fn flush(&self, to: Lsn, done: Flushed) {
            self.0.lock().unwrap().push((to, done));
        }
    }

    fn waker() -> Waker {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(1) }).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = EndpointConfig::new(ClusterId(1), InstanceId(1), listen);
        Endpoint::bind(config, arena).unwrap().waker()
    }

    #[test]
    fn a_position_is_asked_for_once_and_the_greatest_answer_counts() {
        let log = Arc::new(Slow::default());
        let mut redo = Redo::new(Arc::clone(&log) as _, waker());
        for to in [5, 3, 5, 9] {
            redo.flush(Lsn(to));
        }
        let asked = std::mem::take(&mut *log.0.lock().unwrap());
        assert_eq!(asked.iter().map(|(to, _)| to.0).collect::<Vec<_>>(), [5, 9]);
        assert_eq!(redo.next(), None);
        for (to, done) in asked.into_iter().rev() {
            done.durable(to);
        }
        assert!(redo.has_news());
        assert_eq!((redo.next(), redo.next()), (Some(Lsn(9)), None));
    }

    #[test]
    fn without_a_log_everything_is_durable_at_once() {
        let mut redo = Redo::new(Arc::new(NothingToFlush), waker());
        redo.flush(Lsn(7));
        assert_eq!(redo.next(), Some(Lsn(7)));
    }
}
