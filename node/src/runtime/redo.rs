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
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The redo log of an instance. Its shards ask it from their threads, so nothing here may block.
pub trait RedoLog: Send + Sync + fmt::Debug {
    /// Makes the log durable at least up to `to`, and then says so to `done`, from any thread. What
    /// cannot be made durable is not answered: the page then stays where it is. An answer that falls
    /// short of `to` is none: what was asked is asked again a moment later.
    fn flush(&self, to: Lsn, done: Flushed);
}

/// How long after an answer that fell short the same is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Where a [`RedoLog`] says how far it is durable; each one answers once.
#[derive(Debug)]
pub struct Flushed {
    asked: Lsn,
    told: Sender<Answer>,
    waker: Waker,
}

/// How far the log is durable, to somebody who asked for it up to `asked`.
#[derive(Debug)]
struct Answer {
    asked: Lsn,
    up_to: Lsn,
}

impl Flushed {
    /// The log is durable up to `up_to`.
    pub fn durable(self, up_to: Lsn) {
        // A shard that has ended need not know.
        if self.told.send(Answer { asked: self.asked, up_to }).is_ok() {
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
    told: Sender<Answer>,
    answers: Receiver<Answer>,
    waker: Waker,
    /// Greatest position asked for: asked again it would be flushed again.
    asked: Lsn,
    /// Up to where the log is durable.
    durable: Lsn,
    /// Its answer to `asked` fell short: when that is asked again.
    ask_again_at: Option<Instant>,
    fell_short: bool,
}

impl Redo {
    pub(super) fn new(log: Arc<dyn RedoLog>, waker: Waker) -> Self {
        let (told, answers) = unbounded();
        let (asked, durable) = (Lsn::ZERO, Lsn::ZERO);
        Self { log, told, answers, waker, asked, durable, ask_again_at: None, fell_short: false }
    }

    /// Asks for the log up to `to`, unless that was asked for before.
    pub(super) fn flush(&mut self, to: Lsn) {
        if to > self.asked {
            self.asked = to;
            self.ask();
        }
    }

    fn ask(&mut self) {
        // What is asked now has an answer of its own.
        self.ask_again_at = None;
        let (asked, told, waker) = (self.asked, self.told.clone(), self.waker.clone());
        self.log.flush(asked, Flushed { asked, told, waker });
    }

    /// Asks again for what the log was not made durable up to, if it is time.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if self.ask_again_at.is_some_and(|at| at <= now) {
            self.ask();
        }
    }

    /// True when [`Redo::ask_again`] will have something to do.
    pub(super) fn asks_again(&self) -> bool {
        self.ask_again_at.is_some()
    }

    /// How far the log is durable, when that is news at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Option<Lsn> {
        let before = self.durable;
        while let Ok(Answer { asked, up_to }) = self.answers.try_recv() {
            self.durable = self.durable.max(up_to);
            // Told once, until all is durable that was asked for.
            if up_to < asked && !std::mem::replace(&mut self.fell_short, true) {
                tracing::error!(
                    "the redo log is durable up to {up_to}, expected at least {asked}, which was \
                     asked for: pages whose redo is missing stay here, and the log is asked again; \
                     see why it cannot be written"
                );
            }
            // Of answers that fall short only the last question's counts: it is the greatest.
            if up_to < asked && asked == self.asked {
                self.ask_again_at = Some(now + ASK_AGAIN);
            }
        }
        if self.asked <= self.durable {
            (self.ask_again_at, self.fell_short) = (None, false);
        }
        (self.durable > before).then_some(self.durable)
    }

    /// True when there is news.
    pub(super) fn has_news(&self) -> bool {
        !self.answers.is_empty()
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
        let now = Instant::now();
        assert_eq!(redo.next(now), None);
        for (to, done) in asked.into_iter().rev() {
            done.durable(to);
        }
        assert!(redo.has_news());
        assert_eq!((redo.next(now), redo.next(now)), (Some(Lsn(9)), None));
        assert!(!redo.asks_again(), "that of 5 came late, and is no news");
    }

    #[test]
    fn a_position_that_was_not_reached_is_asked_for_again() {
        let log = Arc::new(Slow::default());
        let mut redo = Redo::new(Arc::clone(&log) as _, waker());
        let asked = || std::mem::take(&mut *log.0.lock().unwrap());
        let answer = |asked: Vec<(Lsn, Flushed)>, up_to| {
            asked.into_iter().for_each(|(_, done)| done.durable(Lsn(up_to)));
        };
        let start = Instant::now();
        let positions = |asked: &[(Lsn, Flushed)]| asked.iter().map(|a| a.0.0).collect::<Vec<_>>();
        redo.flush(Lsn(9));
        answer(asked(), 5);
        assert_eq!(redo.next(start), Some(Lsn(5)), "so far it is durable");
        redo.ask_again(start);
        assert!(asked().is_empty(), "not at once");
        for (after, up_to, news) in [(1, 4, None), (2, 5, None), (3, 9, Some(Lsn(9)))] {
            assert!(redo.asks_again());
            let now = start + after * ASK_AGAIN;
            redo.ask_again(now);
            let again = asked();
            assert_eq!(positions(&again), [9]);
            assert!(!redo.asks_again(), "one question at a time");
            answer(again, up_to);
            assert_eq!(redo.next(now), news);
        }
        assert!(!redo.asks_again(), "it is there");
        // A greater question takes the place of one that was not answered as it has to be.
        redo.flush(Lsn(20));
        answer(asked(), 10);
        assert_eq!(redo.next(start), Some(Lsn(10)));
        redo.flush(Lsn(30));
        assert!(!redo.asks_again());
        assert_eq!(positions(&asked()), [30]);
    }

    #[test]
    fn without_a_log_everything_is_durable_at_once() {
        let mut redo = Redo::new(Arc::new(NothingToFlush), waker());
        redo.flush(Lsn(7));
        assert_eq!(redo.next(Instant::now()), Some(Lsn(7)));
    }
}
