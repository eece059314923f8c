//! Threads that read and write storage, so that the shard never blocks. None of them begins anything
//! once the lease is over.
//!
//! Who owns what: a job carries the frame that is read into, or a shared handle on the frame that
//! is written; the completion brings it back or drops it. There are never more jobs than frames, so
//! the queues cannot overflow.

use crate::store::Store;
use crossbeam_channel::{Receiver, Sender, bounded};
use pagewire_protocol::{BufferTag, Lsn};
use pagewire_transport::{
    Arena, Frame, SharedFrame, Waker,
    arena::{Lease, LeaseExpired},
};
use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

/// What storage is to do.
#[derive(Debug)]
pub(super) enum IoJob {
    /// Read a page.
    Read { tag: BufferTag, at_least: Lsn, frame: Frame },
    /// Write a page.
    Write { tag: BufferTag, version: Lsn, frame: SharedFrame },
    /// Make durable what was written.
    Sync,
}

/// What storage has done.
#[derive(Debug)]
pub(super) enum IoDone {
    /// The page, or why not.
    Read { tag: BufferTag, result: Result<(Lsn, Frame), String> },
    /// Whether the page is on storage.
    Write { tag: BufferTag, version: Lsn, result: Result<(), String> },
    /// Whether everything is durable.
    Sync { result: Result<(), String> },
}

/// The I/O threads of one shard.
#[derive(Debug)]
pub(super) struct IoThreads {
    jobs: Option<Sender<IoJob>>,
    done: Receiver<IoDone>,
    threads: Vec<JoinHandle<()>>,
}

impl IoThreads {
    /// Starts `count` threads. Each takes one frame of the arena for good, to put checksums on.
    pub(super) fn start(
        count: u32,
        store: &Arc<Store>,
        arena: &Arena,
        waker: &Waker,
    ) -> io::Result<Self> {
        let capacity = arena.frames() as usize + 1;
        let (jobs, jobs_out) = bounded(capacity);
        let (done_in, done) = bounded(capacity);
        let mut threads = Vec::new();
        for _ in 0..count {
            let Some(scratch) = arena.take() else {
                return Err(io::Error::other("the arena has no frame for an I/O thread"));
            };
            let (jobs, done, store, waker) =
                (jobs_out.clone(), done_in.clone(), Arc::clone(store), waker.clone());
            let lease = arena.lease();
            let thread = thread::Builder::new()
                .name("pagewire-io".to_owned())
                .spawn(move || work(&jobs, &done, &store, &lease, scratch, &waker))?;
            threads.push(thread);
        }
        Ok(Self { jobs: Some(jobs), done, threads })
    }

    /// Queues a job.
    pub(super) fn submit(&self, job: IoJob) {
        let queued = self.jobs.as_ref().map(|jobs| jobs.try_send(job));
        assert!(matches!(queued, Some(Ok(()))), "more I/O jobs than frames");
    }

    /// The next completion, if there is one.
    pub(super) fn next(&self) -> Option<IoDone> {
        self.done.try_recv().ok()
    }

    /// True when a completion waits.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }
}

impl Drop for IoThreads {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// What comes of a job once the lease is over.
fn refused(job: IoJob) -> IoDone {
    let why = LeaseExpired.to_string();
    match job {
        IoJob::Read { tag, .. } => IoDone::Read { tag, result: Err(why) },
        IoJob::Write { tag, version, .. } => IoDone::Write { tag, version, result: Err(why) },
        IoJob::Sync => IoDone::Sync { result: Err(why) },
    }
}

fn work(
    jobs: &Receiver<IoJob>,
    done: &Sender<IoDone>,
    store: &Store,
    lease: &Lease,
    mut scratch: Frame,
    waker: &Waker,
) {
    for job in jobs {
        let completion = match job {
            job if !lease.is_held() => refused(job),
            IoJob::Read { tag, at_least, mut frame } => {
                let read = store.read(&tag, at_least, &mut frame);
                let result = read.map(|version| (version, frame)).map_err(|e| e.to_string());
                IoDone::Read { tag, result }
            }
            IoJob::Write { tag, version, frame } => {
                let written = store.write(&tag, &frame, &mut scratch);
                drop(frame);
                IoDone::Write { tag, version, result: written.map_err(|e| e.to_string()) }
            }
            IoJob::Sync => IoDone::Sync { result: store.sync().map_err(|e| e.to_string()) },
        };
        if done.send(completion).is_err() {
            return;
        }
        waker.wake();
    }
}
