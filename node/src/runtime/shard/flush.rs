//! Writing back all that a shard has to write.
//!
//! One write-back is under way at a time. Whoever asks meanwhile is answered by the next one, which
//! begins when this one is durable: what was changed after a write-back began may not be part of it.

use super::Shard;
use crate::{grd::Event as Input, runtime::io::IoJob};
use crossbeam_channel::Sender;
use pagewire_protocol::BufferTag;
use std::collections::BTreeSet;

/// Where whoever asked is told how it ended.
type Reply = Sender<Result<(), String>>;

/// What a shard knows of writing everything back.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    now: Option<Flush>,
    /// Those that the next one answers.
    asked: Vec<Reply>,
}

/// The write-back that is under way.
#[derive(Debug, Default)]
struct Flush {
    /// Pages that were dirty, or being written to, when it began: until they are written, found
    /// clean, or gone to another instance, and the duty to write them with them.
    left: BTreeSet<BufferTag>,
    replies: Vec<Reply>,
    failed: Option<String>,
    syncing: bool,
}

impl Flushes {
    /// The page is no longer its business.
    pub(super) fn settled(&mut self, tag: &BufferTag) {
        if let Some(flush) = &mut self.now {
            flush.left.remove(tag);
        }
    }

    /// A page could not be written.
    pub(super) fn failed(&mut self, why: impl Into<String>) {
        if let Some(flush) = &mut self.now {
            flush.failed.get_or_insert_with(|| why.into());
        }
    }

    /// Nothing can be written any more: whoever asked is told why.
    pub(super) fn abandon(&mut self) {
        let failed = self.now.as_ref().and_then(|flush| flush.failed.clone());
        let why = failed.unwrap_or_else(|| "nothing is written any more".to_owned());
        self.now.get_or_insert_with(Flush::default).replies.append(&mut self.asked);
        self.end(&Err(why));
    }

    /// It is over.
    pub(super) fn end(&mut self, result: &Result<(), String>) {
        for reply in self.now.take().into_iter().flat_map(|flush| flush.replies) {
            // Whoever asked may have given up.
            let _ = reply.send(result.clone());
        }
    }
}

impl Shard {
    /// Writes every page back that is dirty now and makes it durable; the answer goes to `reply`.
    pub fn flush(&mut self, reply: Sender<Result<(), String>>) {
        self.flushes.asked.push(reply);
        if self.is_fenced {
            return self.flushes.abandon();
        }
        self.flush_on();
    }

    /// Begins writing back if it was asked for, or goes on with it when no page is left.
    pub(super) fn flush_on(&mut self) {
        if self.flushes.now.is_none() && !self.flushes.asked.is_empty() {
            self.begin_flush();
        }
        let Some(flush) = &mut self.flushes.now else { return };
        if flush.syncing || !flush.left.is_empty() {
            return;
        }
        if let Some(error) = flush.failed.take() {
            self.flushes.end(&Err(error));
        } else {
            flush.syncing = true;
            self.io.submit(IoJob::Sync);
        }
    }

    fn begin_flush(&mut self) {
        let left: BTreeSet<_> = self.pool.unclean().chain(self.writing.iter().copied()).collect();
        self.inputs.extend(left.iter().map(|&tag| Input::WriteBack { tag }.into()));
        let replies = std::mem::take(&mut self.flushes.asked);
        self.flushes.now = Some(Flush { left, replies, failed: None, syncing: false });
        self.run();
    }
}
