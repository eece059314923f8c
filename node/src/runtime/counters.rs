//! What a shard counts: one writer, readable from any thread; a node's are the sums of its shards'.

use pagewire_transport::counters::Counter;

/// Counts of one shard, or sums over those of a node.
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
    /// Past images that were made of pages whose duty to write went elsewhere.
    pub past_images_kept: Counter,
    /// Messages of a later view that waited for it.
    pub parked: Counter,
    /// Messages of a peer that has another view of the same number, the one that says so included:
    /// none of them counts.
    pub views_contradicted: Counter,
    /// Batches of shadow information sent to masters.
    pub guides_sent: Counter,
    /// Messages that were no PCM message of this version.
    pub bad_messages: Counter,
    /// Invalidations published here that have left.
    pub si_published: Counter,
    /// Those of them that every member has.
    pub si_acknowledged: Counter,
    /// Invalidations of others that were written into the ring.
    pub si_delivered: Counter,
    /// Times the readers of the ring were told to reset, its opening aside.
    pub si_resets: Counter,
    /// Times a message made this instance want a page that was not there, or not as it must be, or
    /// granted what was not asked for.
    pub protocol_errors: Counter,
}

impl NodeCounters {
    /// The sums over several shards.
    #[must_use]
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let total = |count: fn(&Self) -> &Counter| {
            let total = Counter::default();
            all.clone().for_each(|one| total.add(count(one).get()));
            total
        };
        Self {
            pages_shipped: total(|c| &c.pages_shipped),
            bytes_shipped: total(|c| &c.bytes_shipped),
            pages_read: total(|c| &c.pages_read),
            pages_written: total(|c| &c.pages_written),
            pages_evicted: total(|c| &c.pages_evicted),
            pages_copied: total(|c| &c.pages_copied),
            past_images_kept: total(|c| &c.past_images_kept),
            parked: total(|c| &c.parked),
            views_contradicted: total(|c| &c.views_contradicted),
            guides_sent: total(|c| &c.guides_sent),
            bad_messages: total(|c| &c.bad_messages),
            si_published: total(|c| &c.si_published),
            si_acknowledged: total(|c| &c.si_acknowledged),
            si_delivered: total(|c| &c.si_delivered),
            si_resets: total(|c| &c.si_resets),
            protocol_errors: total(|c| &c.protocol_errors),
        }
    }
}
