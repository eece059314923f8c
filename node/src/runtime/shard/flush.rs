//! Writing back all that a shard has to write.

use super::{Flush, Shard};
use crate::{grd::Event as Input, runtime::io::IoJob};
use crossbeam_channel::Sender;
use pagewire_protocol::BufferTag;
use std::collections::BTreeSet;

impl Shard {
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

    /// The page is no longer this flush's business.
    pub(super) fn flushed(&mut self, tag: &BufferTag) {
        if let Some(flush) = &mut self.flush {
            flush.left.remove(tag);
        }
    }

    /// Goes on with writing back, when no page is left.
    pub(super) fn flush_on(&mut self) {
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
