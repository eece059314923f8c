//! Protection domains, and memory that a device may read and write.
//!
//! Invariants: a [`MemoryRegion`] keeps what it registers mapped until the device has given it up; if
//! the device does not, the memory is never unmapped.
//!
//! Leaf module: the unsafe here calls functions of the library with pointers that came from it.

use super::{
    abi,
    device::Context,
    error::{VerbsError, check},
};
use crate::{Arena, arena};
use pagewire_protocol::link_control::RegionMemory;
use std::{fmt, io, mem::ManuallyDrop, ops::Range, ptr::NonNull, sync::Arc};

/// Queue pairs and memory of one domain may be used together.
pub struct ProtectionDomain {
    raw: NonNull<abi::ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: libibverbs serialises what needs it; the pointer is owned by this value alone.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    /// A domain of the device.
    ///
    /// # Errors
    /// [`VerbsError::Create`].
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.library().alloc_pd)(context.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| {
            context.cannot_create("protection domain", io::Error::last_os_error())
        })?;
        Ok(Arc::new(Self { raw, context: Arc::clone(context) }))
    }

    /// The device it is on.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn as_ptr(&self) -> *mut abi::ibv_pd {
        self.raw.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: what was made in the domain held it and is gone, so it is given up once and last.
        let returned = unsafe { (self.context.library().dealloc_pd)(self.raw.as_ptr()) };
        if let Err(error) = check(returned) {
            tracing::warn!("a protection domain of {} stays: {error}", self.context.name());
        }
    }
}

impl fmt::Debug for ProtectionDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectionDomain").field("device", &self.context.name()).finish()
    }
}

/// Memory that can be registered: stays where it is as long as the value lives.
///
/// # Safety
/// `range` gives addresses that are mapped, readable and writable until the value is dropped, and
/// moving the value does not change them.
pub(super) unsafe trait Registrable: Send + Sync {
    /// First byte, and length in bytes.
    fn range(&self) -> (NonNull<u8>, usize);
}

// SAFETY: an arena's mapping never moves and stays until the last handle on the arena is gone, and
// this is one.
unsafe impl Registrable for Arena {
    fn range(&self) -> (NonNull<u8>, usize) {
        self.memory()
    }
}

/// A registration of `M` with a device.
pub(super) struct Registration<M> {
    raw: NonNull<abi::ibv_mr>,
    /// Dropped only when the device has given it up.
    memory: ManuallyDrop<M>,
    domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs serialises what needs it; the pointer is owned by this value, and the memory
// may be moved to another thread by its own right.
unsafe impl<M: Send> Send for Registration<M> {}
// SAFETY: as above; a shared reference gives addresses and a key only.
unsafe impl<M: Sync> Sync for Registration<M> {}

impl<M: Registrable> Registration<M> {
    pub(super) fn new(
        domain: &Arc<ProtectionDomain>,
        memory: M,
        access: i32,
    ) -> Result<Self, VerbsError> {
        let context = &domain.context;
        let (first, needed_bytes) = memory.range();
        // SAFETY: the range is mapped, and stays so because `memory` is kept.
        let raw = unsafe {
            (context.library().reg_mr)(domain.as_ptr(), first.as_ptr().cast(), needed_bytes, access)
        };
        let Some(raw) = NonNull::new(raw) else {
            let source = io::Error::last_os_error();
            let (soft_bytes, hard_bytes) = arena::lock_limits_bytes().unwrap_or((None, None));
            let device = context.name().to_owned();
            return Err(VerbsError::Memory {
                device,
                needed_bytes,
                soft_bytes,
                hard_bytes,
                source,
            });
        };
        Ok(Self { raw, memory: ManuallyDrop::new(memory), domain: Arc::clone(domain) })
    }

    pub(super) fn memory(&self) -> &M {
        &self.memory
    }

    /// The key for work requests on this host.
    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: the registration exists; its fields do not change.
        unsafe { (*self.raw.as_ptr()).lkey }
    }

    fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw.as_ptr()).rkey }
    }
}

impl<M> Drop for Registration<M> {
    fn drop(&mut self) {
        let context = &self.domain.context;
        // SAFETY: the registration is given up once; queue pairs that used it held it and are gone.
        let returned = unsafe { (context.library().dereg_mr)(self.raw.as_ptr()) };
        match check(returned) {
            // SAFETY: dropped once, here.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.memory) },
            Err(error) => tracing::warn!(
                "{} does not give up memory that it has registered: {error}; it stays mapped",
                context.name()
            ),
        }
    }
}

/// Some frames of an arena.
struct Frames {
    arena: Arena,
    numbers: Range<u32>,
}

// SAFETY: as of the arena, which this holds; an empty range at its start is in it, too.
unsafe impl Registrable for Frames {
    fn range(&self) -> (NonNull<u8>, usize) {
        self.arena.memory_of(&self.numbers).unwrap_or((self.arena.memory().0, 0))
    }
}

/// Frames that peers may read one-sided: registered beside the arena, with a key that covers them
/// and nothing else.
pub struct ReadRegion {
    registration: Registration<Frames>,
}

impl ReadRegion {
    /// Registers these frames for peers to read. The pages are pinned once more, which counts against
    /// RLIMIT_MEMLOCK once more.
    ///
    /// # Errors
    /// [`VerbsError::Memory`].
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        arena: &Arena,
        frames: Range<u32>,
    ) -> Result<Self, VerbsError> {
        let frames = Frames { arena: arena.clone(), numbers: frames };
        let registration = Registration::new(domain, frames, abi::IBV_ACCESS_REMOTE_READ)?;
        Ok(Self { registration })
    }

    /// What a peer has to know to read it. For authenticated peers only.
    #[must_use]
    pub fn memory(&self) -> RegionMemory {
        let (first, _) = self.registration.memory().range();
        RegionMemory {
            // Exposed: the device reads by this number.
            address: first.as_ptr().expose_provenance() as u64,
            key: self.registration.remote_key(),
            frames: u32::try_from(self.registration.memory().numbers.len()).unwrap_or(0),
        }
    }
}

impl fmt::Debug for ReadRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadRegion")
            .field("device", &self.registration.domain.context.name())
            .field("frames", &self.registration.memory().numbers)
            .finish_non_exhaustive()
    }
}

/// An arena, registered with a device as a whole: every frame may be sent and received into.
pub struct MemoryRegion {
    registration: Registration<Arena>,
    addresses: Range<usize>,
}

impl MemoryRegion {
    /// Registers the arena; once a device is enough for any number of queue pairs. The pages are
    /// pinned, which counts against RLIMIT_MEMLOCK.
    ///
    /// `remote_reads`: peers that know [`MemoryRegion::remote_key`] may read all of it.
    ///
    /// # Errors
    /// [`VerbsError::Memory`].
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        arena: &Arena,
        remote_reads: bool,
    ) -> Result<Arc<Self>, VerbsError> {
        let remote = if remote_reads { abi::IBV_ACCESS_REMOTE_READ } else { 0 };
        let access = abi::IBV_ACCESS_LOCAL_WRITE | remote;
        let registration = Registration::new(domain, arena.clone(), access)?;
        let (first, len) = arena.memory();
        // Exposed: the device reads and writes by these numbers.
        let first = first.as_ptr().expose_provenance();
        Ok(Arc::new(Self { registration, addresses: first..first + len }))
    }

    /// The domain it is in.
    #[must_use]
    pub fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.registration.domain
    }

    /// The arena.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        self.registration.memory()
    }

    /// The key by which a peer reads it, when it was registered for that. Give it to authenticated
    /// peers only: it opens the whole arena.
    #[must_use]
    pub fn remote_key(&self) -> u32 {
        self.registration.remote_key()
    }

    pub(super) fn local_key(&self) -> u32 {
        self.registration.local_key()
    }

    /// The address of `bytes`, if all of them are in the region.
    pub(super) fn address_of(&self, bytes: &[u8]) -> Option<u64> {
        let Range { start, end } = bytes.as_ptr_range();
        let is_inside = self.addresses.contains(&start.addr()) && end.addr() <= self.addresses.end;
        is_inside.then_some(start.addr() as u64)
    }
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegion")
            .field("device", &self.domain().context.name())
            .field("bytes", &self.addresses.len())
            .finish_non_exhaustive()
    }
}
