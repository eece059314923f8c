//! Registered memory for the headers and bodies of messages, cut in slots.
//!
//! Invariants: the mapping is shared, so that a fork copies nothing away from under the device, and
//! stays until the registration is given up. Who may touch a slot, the device or its queue, is
//! decided by the queue that owns the slots.
//!
//! Leaf module: the unsafe here maps memory and turns a slot into a reference.

use super::{
    abi,
    domain::{ProtectionDomain, Registrable, Registration},
    error::VerbsError,
};
use pagewire_protocol::header::Slot;
use std::{io, ptr::NonNull, sync::Arc};

/// Bytes of a slot: header and body, to which a page follows.
pub const SLOT_BYTES: usize = pagewire_protocol::header::FRAME_OFFSET_BYTES;

/// Anonymous memory of zeros.
struct Memory {
    first: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: plain memory whose mapping this value alone ends.
unsafe impl Send for Memory {}
// SAFETY: as above; `&Memory` gives an address and a length only.
unsafe impl Sync for Memory {}

// SAFETY: the mapping does not move and ends when the value is dropped.
unsafe impl Registrable for Memory {
    fn range(&self) -> (NonNull<u8>, usize) {
        (self.first, self.len_bytes)
    }
}

impl Memory {
    fn new(len_bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { first, len_bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping made in `new`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.len_bytes) };
    }
}

/// Slots, registered with a device.
pub(super) struct Slots {
    registration: Registration<Memory>,
    count: u32,
}

/// Takes numbers, not references: what calls it keeps them in registers.
#[cold]
#[inline(never)]
fn outside(index: u32, count: u32) -> ! {
    panic!("slot {index} of {count}");
}

impl Slots {
    pub(super) fn new(domain: &Arc<ProtectionDomain>, count: u32) -> Result<Self, VerbsError> {
        let len_bytes = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(SLOT_BYTES);
        let memory = Memory::new(len_bytes)
            .map_err(|source| domain.context().cannot_create("memory for messages", source))?;
        memory.first.as_ptr().expose_provenance();
        let registration = Registration::new(domain, memory, abi::IBV_ACCESS_LOCAL_WRITE)?;
        Ok(Self { registration, count })
    }

    pub(super) fn local_key(&self) -> u32 {
        self.registration.local_key()
    }

    #[inline]
    fn place(&self, index: u32) -> NonNull<Slot> {
        if index >= self.count {
            outside(index, self.count);
        }
        let offset = index as usize * SLOT_BYTES;
        // SAFETY: the slot is inside of the mapping, see above.
        unsafe { self.registration.memory().first.add(offset) }.cast()
    }

    pub(super) fn address(&self, index: u32) -> u64 {
        self.place(index).addr().get() as u64
    }

    /// The bytes of a slot.
    ///
    /// # Safety
    /// The device has no work that uses the slot.
    #[inline]
    pub(super) unsafe fn get_mut(&mut self, index: u32) -> &mut Slot {
        // SAFETY: mapped, initialised (zeros or what a device wrote), aligned as bytes are; `self` is
        // borrowed mutably, and the caller answers for the device.
        unsafe { self.place(index).as_mut() }
    }
}
