//! Types of the functions: those of the table, and those that are exported.

use super::structs::*;
use std::ffi::{c_char, c_int, c_uint, c_void};

/// A function of the table that we neither call nor touch.
pub type Unused = Option<unsafe extern "C" fn()>;

pub type PollCq = unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int;
pub type ReqNotifyCq = unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int;
pub type PostSend =
    unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int;
pub type PostRecv =
    unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int;

/// Exported functions. Those that return a pointer set errno when it is null; those that return an
/// integer return 0, an errno, or -1 with errno set.
pub type GetDeviceList = unsafe extern "C" fn(*mut c_int) -> *mut *mut ibv_device;
pub type FreeDeviceList = unsafe extern "C" fn(*mut *mut ibv_device);
pub type GetDeviceName = unsafe extern "C" fn(*mut ibv_device) -> *const c_char;
pub type GetDeviceGuid = unsafe extern "C" fn(*mut ibv_device) -> u64;
pub type OpenDevice = unsafe extern "C" fn(*mut ibv_device) -> *mut ibv_context;
pub type CloseDevice = unsafe extern "C" fn(*mut ibv_context) -> c_int;
pub type QueryDevice = unsafe extern "C" fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
pub type QueryPort = unsafe extern "C" fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int;
/// Entries, room for how many, flags (0), size of an entry; the number of entries or -errno.
pub type QueryGidTable =
    unsafe extern "C" fn(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize;
pub type GetAsyncEvent = unsafe extern "C" fn(*mut ibv_context, *mut ibv_async_event) -> c_int;
pub type AckAsyncEvent = unsafe extern "C" fn(*mut ibv_async_event);
pub type AllocPd = unsafe extern "C" fn(*mut ibv_context) -> *mut ibv_pd;
pub type DeallocPd = unsafe extern "C" fn(*mut ibv_pd) -> c_int;
pub type RegMr = unsafe extern "C" fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
pub type DeregMr = unsafe extern "C" fn(*mut ibv_mr) -> c_int;
pub type CreateCompChannel = unsafe extern "C" fn(*mut ibv_context) -> *mut ibv_comp_channel;
pub type DestroyCompChannel = unsafe extern "C" fn(*mut ibv_comp_channel) -> c_int;
pub type CreateCq = unsafe extern "C" fn(
    *mut ibv_context,
    c_int,
    *mut c_void,
    *mut ibv_comp_channel,
    c_int,
) -> *mut ibv_cq;
pub type DestroyCq = unsafe extern "C" fn(*mut ibv_cq) -> c_int;
pub type GetCqEvent =
    unsafe extern "C" fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
pub type AckCqEvents = unsafe extern "C" fn(*mut ibv_cq, c_uint);
pub type CreateQp = unsafe extern "C" fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
pub type ModifyQp = unsafe extern "C" fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
pub type DestroyQp = unsafe extern "C" fn(*mut ibv_qp) -> c_int;
