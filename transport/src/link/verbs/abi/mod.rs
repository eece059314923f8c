//! What we need of the binary interface of libibverbs, in its own names.
//!
//! Source: `infiniband/verbs.h` of rdma-core 44.0 (soname `libibverbs.so.1`, symbol version
//! `IBVERBS_1.1`), checked against rdma-core master of August 2026. The soname promises that fields
//! keep their places: newer headers only append (`ibv_port_attr.active_speed_ex`), and functions
//! that fill such a structure take its size or fill the old part only, as `ibv_query_port` does.
//! `tests/softroce/oracle` compares every size and offset here with the headers of the system it is
//! built on.
//!
//! Enumerations are plain integers: a newer library may report a value that is not listed here, and
//! a Rust enum that holds such a value is undefined behaviour.
//!
//! Leaf module: declarations only, no code. Linux on `x86_64` and `aarch64`.

#![allow(
    non_camel_case_types,
    reason = "the names are those of the C header, to be looked up there"
)]
#![allow(
    missing_docs,
    reason = "the C header and the manual pages of its functions document these"
)]
#![allow(missing_debug_implementations, reason = "mutexes and unions show nothing of use")]

mod constants;
mod functions;
mod structs;

pub use constants::*;
pub use functions::*;
pub use structs::*;

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("the layouts of libibverbs are declared for Linux on x86_64 and aarch64");
