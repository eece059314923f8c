//! One Pagewire instance.
//!
//! Purpose: everything above the transport: the page directory ([`grd`], a pure core), the
//! membership view ([`view`]), shared storage ([`store`]), and the [`runtime`] where they meet
//! threads and sockets. On top of it the ledger workload of `pagewire demo`: [`ledger`] (data and
//! proof), [`agent`] (one instance's part) and [`demo`] (the coordinator), whose choices [`random`]
//! makes repeatable. [`doctor`] looks at the host before anything runs,
//! [`status`] asks an instance that does, [`si_cmd`] shows the invalidations that reach it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod config;
pub mod demo;
pub mod doctor;
mod file_kind;
pub mod grd;
pub mod instance;
pub mod latency;
pub mod ledger;
pub mod link_lines;
pub mod planted;
pub mod random;
pub mod ring_watch;
pub mod roster;
pub mod runtime;
pub mod si;
pub mod si_cmd;
mod signals;
pub mod status;
pub mod storage_watch;
pub mod store;
pub mod view;

pub use config::NodeConfig;
pub use runtime::{Handle, Node, NodeError, ReadGuard, Shard, WriteGuard};
