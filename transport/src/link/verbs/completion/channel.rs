//! Where a completion queue reports to a thread that sleeps.
//!
//! Leaf module: the unsafe here calls functions of the library with pointers that came from it.

use crate::link::verbs::{
    abi,
    device::{Context, set_nonblocking},
    error::{VerbsError, check},
};
use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::Arc,
};

/// Where a completion queue reports that something is in it, for a thread that sleeps.
pub struct CompletionChannel {
    pub(super) raw: NonNull<abi::ibv_comp_channel>,
    context: Arc<Context>,
}

// SAFETY: libibverbs serialises what needs it; the pointer is owned by this value alone.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    /// A channel, nonblocking.
    ///
    /// # Errors
    /// [`VerbsError::Create`].
    pub fn new(context: &Arc<Context>) -> Result<Self, VerbsError> {
        let failed = |source| context.cannot_create("completion channel", source);
        // SAFETY: the context is open.
        let raw = unsafe { (context.library().create_comp_channel)(context.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| failed(io::Error::last_os_error()))?;
        let channel = Self { raw, context: Arc::clone(context) };
        set_nonblocking(&channel).map_err(failed)?;
        Ok(channel)
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: its completion queue owned it and is gone, so it is destroyed once and last.
        let returned = unsafe { (self.context.library().destroy_comp_channel)(self.raw.as_ptr()) };
        if let Err(error) = check(returned) {
            tracing::warn!("a completion channel of {} stays: {error}", self.context.name());
        }
    }
}

impl fmt::Debug for CompletionChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionChannel").field("device", &self.context.name()).finish()
    }
}
