//! Work that is done, as a batch brings it.
//!
//! Leaf module: the unsafe here makes plain integers of zeros.

use super::{
    BATCH_LEN,
    status::{CompletionError, Status},
    work::{Owner, Work, decode_work_id},
};
use crate::link::verbs::abi;
use std::{fmt, mem::zeroed};

/// Work that is done, or has failed: the right to take back what it held, once. It is therefore
/// neither copied nor made by anybody but the queue.
pub struct Completion {
    id: u64,
    status: u32,
    bytes: u32,
    queue_pair: u32,
    vendor_error: u32,
}

impl Completion {
    #[inline]
    fn decode(raw: &abi::ibv_wc) -> Self {
        Self {
            id: raw.wr_id,
            status: raw.status,
            bytes: raw.byte_len,
            queue_pair: raw.qp_num,
            vendor_error: raw.vendor_err,
        }
    }

    #[inline]
    pub(in crate::link::verbs) fn owner(&self) -> Owner {
        decode_work_id(self.id).0
    }

    /// The tag of its queue pair ([`QueuePairOptions`](crate::link::verbs::QueuePairOptions)).
    #[inline]
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.owner().tag
    }

    /// Which work.
    #[inline]
    #[must_use]
    pub fn work(&self) -> Work {
        decode_work_id(self.id).1
    }

    /// How it went.
    #[inline]
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_raw(self.status)
    }

    /// Whether it went well.
    #[inline]
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status == abi::IBV_WC_SUCCESS
    }

    /// Bytes of the message that was received, or were read; of no meaning for sends and failures.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Number of its queue pair.
    #[must_use]
    pub fn queue_pair(&self) -> u32 {
        self.queue_pair
    }

    /// The failure, if it is one.
    ///
    /// # Errors
    /// [`CompletionError`] unless the work succeeded.
    pub fn result(&self) -> Result<(), CompletionError> {
        match self.status() {
            Status::Success => Ok(()),
            status => Err(CompletionError {
                queue_pair: self.queue_pair,
                work: self.work(),
                status,
                vendor_error: self.vendor_error,
            }),
        }
    }
}

/// Room for the completions of one poll.
pub struct CompletionBatch {
    pub(super) raw: [abi::ibv_wc; BATCH_LEN],
    pub(super) len: usize,
}

impl CompletionBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: plain integers, for which zeros are a value.
        Self { raw: unsafe { zeroed() }, len: 0 }
    }

    /// Takes the completions of the last poll, in their order.
    pub fn drain(&mut self) -> impl Iterator<Item = Completion> + '_ {
        let len = self.take_len();
        self.raw[..len].iter().map(Completion::decode)
    }

    /// As [`CompletionBatch::drain`], for who looks at each before it is taken
    /// ([`CompletionBatch::done`]): how many there are.
    #[inline]
    pub(in crate::link::verbs) fn take_len(&mut self) -> usize {
        std::mem::take(&mut self.len)
    }

    /// What lies at `at`, which is less than [`CompletionBatch::take_len`] has said.
    #[inline]
    pub(in crate::link::verbs) fn done(&self, at: usize) -> Done<'_> {
        Done(&self.raw[at])
    }
}

/// Work that is done, as it lies in the batch: to be looked at, and then taken or left. The right to
/// take back what it held is that of [`Completion`]; a queue that is told of the same work twice takes
/// it once.
pub(in crate::link::verbs) struct Done<'a>(&'a abi::ibv_wc);

impl Done<'_> {
    /// Id of the work and bytes received, if it is of the queue pair with this number and went well.
    #[inline]
    pub(in crate::link::verbs) fn succeeded(&self, queue_pair: u32) -> Option<(u64, u32)> {
        let went_well = self.0.status == abi::IBV_WC_SUCCESS && self.0.qp_num == queue_pair;
        went_well.then_some((self.0.wr_id, self.0.byte_len))
    }

    #[inline]
    pub(in crate::link::verbs) fn take(self) -> Completion {
        Completion::decode(self.0)
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("owner", &self.owner())
            .field("work", &self.work())
            .field("status", &self.status())
            .field("bytes", &self.bytes)
            .field("queue_pair", &self.queue_pair)
            .field("vendor_error", &self.vendor_error)
            .finish()
    }
}

impl Default for CompletionBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CompletionBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.raw[..self.len].iter().map(Completion::decode)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::verbs::completion::work::work_id;

    #[test]
    fn a_failed_completion_says_cause_and_remedy() {
        // SAFETY: plain integers, for which zeros are a value.
        let mut raw: abi::ibv_wc = unsafe { zeroed() };
        raw.wr_id = work_id(Owner { tag: 3, serial: 1 }, Work::Send { slot: 5 });
        assert!(Completion::decode(&raw).result().is_ok());
        (raw.status, raw.qp_num, raw.vendor_err) = (abi::IBV_WC_RETRY_EXC_ERR, 17, 0x81);
        // The other fields are not to be relied on.
        raw.opcode = 0xDEAD;
        let text = Completion::decode(&raw).result().unwrap_err().to_string();
        for word in ["send 5", "queue pair 17", "acknowledge", "RoCE version", "0x81"] {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
    }
}
