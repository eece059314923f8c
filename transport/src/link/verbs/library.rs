//! libibverbs, opened at run time: a table of its functions.
//!
//! One binary runs on hosts with and without RDMA, and building it needs no system package. Only
//! functions of the control path are in the table; posting and polling go through the function
//! table of the device's context, as in C.
//!
//! `ibv_fork_init` is not called. It marks the pages of every registration with MADV_DONTFORK: a
//! child then lacks those of the arena, which other processes are meant to map, and each
//! registration splits a mapping, until the host's limit on mappings is reached (ofiwg/libfabric
//! #9792, openucx/ucx#11573). What we register is mapped shared, so that a fork never copies it away
//! from under the device; the driver's own queues are private memory, for which kernels since 5.12
//! copy pinned pages at the fork (`ibv_is_fork_initialized` then answers IBV_FORK_UNNEEDED). It is
//! asked for only where it is needed: on an older kernel an application that forks without exec
//! calls it before its first device is opened (or sets `IBV_FORK_SAFE=1`).
//!
//! Leaf module: the unsafe here is `dlopen`, `dlsym` and the cast to the function's type.

use super::{abi, error::VerbsError};
use std::{
    ffi::{CStr, c_void},
    mem::transmute_copy,
    ptr::NonNull,
    sync::OnceLock,
};

const LIBRARY: &CStr = c"libibverbs.so.1";

/// The functions; see [`abi`] for what they take and return.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) get_device_list: abi::GetDeviceList,
    pub(super) free_device_list: abi::FreeDeviceList,
    pub(super) get_device_name: abi::GetDeviceName,
    pub(super) get_device_guid: abi::GetDeviceGuid,
    pub(super) open_device: abi::OpenDevice,
    pub(super) close_device: abi::CloseDevice,
    pub(super) query_device: abi::QueryDevice,
    pub(super) query_port: abi::QueryPort,
    /// Since rdma-core 33.
    pub(super) query_gid_table: Option<abi::QueryGidTable>,
    pub(super) get_async_event: abi::GetAsyncEvent,
    pub(super) ack_async_event: abi::AckAsyncEvent,
    pub(super) alloc_pd: abi::AllocPd,
    pub(super) dealloc_pd: abi::DeallocPd,
    pub(super) reg_mr: abi::RegMr,
    pub(super) dereg_mr: abi::DeregMr,
    pub(super) create_comp_channel: abi::CreateCompChannel,
    pub(super) destroy_comp_channel: abi::DestroyCompChannel,
    pub(super) create_cq: abi::CreateCq,
    pub(super) destroy_cq: abi::DestroyCq,
    pub(super) get_cq_event: abi::GetCqEvent,
    pub(super) ack_cq_events: abi::AckCqEvents,
    pub(super) create_qp: abi::CreateQp,
    pub(super) modify_qp: abi::ModifyQp,
    pub(super) destroy_qp: abi::DestroyQp,
}

impl Library {
    /// The library of this process, opened by the first call that succeeds and never closed: the
    /// providers it loads register themselves and cannot be unloaded.
    pub(super) fn get() -> Result<&'static Self, VerbsError> {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        // Two threads may both open it: that is the same library, opened twice.
        let library = Self::open()?;
        Ok(LIBRARY.get_or_init(|| library))
    }

    fn open() -> Result<Self, VerbsError> {
        let handle = Handle::open(LIBRARY)?;
        // SAFETY: each field's type is that of the function of this name in `infiniband/verbs.h`,
        // whose symbol version IBVERBS_1.1 is the library's default, which dlsym gives.
        unsafe {
            Ok(Self {
                get_device_list: handle.function(c"ibv_get_device_list")?,
                free_device_list: handle.function(c"ibv_free_device_list")?,
                get_device_name: handle.function(c"ibv_get_device_name")?,
                get_device_guid: handle.function(c"ibv_get_device_guid")?,
                open_device: handle.function(c"ibv_open_device")?,
                close_device: handle.function(c"ibv_close_device")?,
                query_device: handle.function(c"ibv_query_device")?,
                query_port: handle.function(c"ibv_query_port")?,
                query_gid_table: handle.function(c"_ibv_query_gid_table").ok(),
                get_async_event: handle.function(c"ibv_get_async_event")?,
                ack_async_event: handle.function(c"ibv_ack_async_event")?,
                alloc_pd: handle.function(c"ibv_alloc_pd")?,
                dealloc_pd: handle.function(c"ibv_dealloc_pd")?,
                reg_mr: handle.function(c"ibv_reg_mr")?,
                dereg_mr: handle.function(c"ibv_dereg_mr")?,
                create_comp_channel: handle.function(c"ibv_create_comp_channel")?,
                destroy_comp_channel: handle.function(c"ibv_destroy_comp_channel")?,
                create_cq: handle.function(c"ibv_create_cq")?,
                destroy_cq: handle.function(c"ibv_destroy_cq")?,
                get_cq_event: handle.function(c"ibv_get_cq_event")?,
                ack_cq_events: handle.function(c"ibv_ack_cq_events")?,
                create_qp: handle.function(c"ibv_create_qp")?,
                modify_qp: handle.function(c"ibv_modify_qp")?,
                destroy_qp: handle.function(c"ibv_destroy_qp")?,
            })
        }
    }
}

/// A library that stays open until the process ends.
#[derive(Debug)]
struct Handle(NonNull<c_void>);

impl Handle {
    fn open(name: &CStr) -> Result<Self, VerbsError> {
        // SAFETY: `name` is a C string; the initialisers of libibverbs register what it has built
        // in and depend on nothing of this process.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        NonNull::new(handle)
            .map(Self)
            .ok_or_else(|| VerbsError::LibraryMissing { reason: linker_message() })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the type of a pointer to the C function of that name.
    unsafe fn function<F: Copy>(&self, name: &'static CStr) -> Result<F, VerbsError> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle is open, and `name` is a C string.
        let symbol = unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) };
        if symbol.is_null() {
            let symbol = name.to_str().unwrap_or("?");
            return Err(VerbsError::LibraryLacks { symbol });
        }
        // SAFETY: the sizes are equal, the pointer is not null, and the caller vouches for the
        // type. The library is never closed, so the function stays.
        Ok(unsafe { transmute_copy::<*mut c_void, F>(&symbol) })
    }
}

/// Why the last call of the dynamic linker on this thread failed.
fn linker_message() -> String {
    // SAFETY: glibc and musl keep the message per thread; it is copied before the next call.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: not null, so a C string that is valid until the next call on this thread.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_does_not_exist_is_reported_with_the_linkers_reason() {
        let error = Handle::open(c"libibverbs-of-nowhere.so.1").unwrap_err();
        let VerbsError::LibraryMissing { reason } = error else { panic!("{error}") };
        assert!(reason.contains("libibverbs-of-nowhere"), "{reason}");
    }

    #[test]
    fn a_function_that_does_not_exist_is_named() {
        let library = Handle::open(c"libc.so.6").unwrap();
        // SAFETY: there is no such function, so nothing is made of the type.
        let found = unsafe { library.function::<abi::DestroyQp>(c"ibv_destroy_qp") };
        assert!(matches!(found, Err(VerbsError::LibraryLacks { symbol: "ibv_destroy_qp" })));
    }
}
