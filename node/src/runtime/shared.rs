//! What the handles of a node share with one of its shards.
//!
//! The shard's thread alone changes it, but for the version clock, which whoever changes a page
//! raises.

use super::index::PageIndex;
use pagewire_transport::{Waker, arena::PageView};
use std::{
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

/// One shard's; see the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) index: PageIndex,
    pub(super) pages: PageView,
    /// Greatest page version this instance has seen or given; of all its shards.
    pub(super) clock: Arc<AtomicU64>,
    pub(super) waker: Waker,
    pub(super) acquire_timeout: Duration,
    pub(super) panic: Arc<Panic>,
}

/// What a shard's panic said, for those who ask the shard after it.
#[derive(Debug)]
pub(super) struct Panic {
    pub(super) shard: u16,
    pub(super) message: OnceLock<String>,
}

impl Panic {
    pub(super) fn none_yet(shard: u16) -> Arc<Self> {
        Arc::new(Self { shard, message: OnceLock::new() })
    }
}
