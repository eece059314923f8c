//! What the integration tests share: processes that end with their handle, page files, a
//! cluster in one process, and one of processes that runs the ledger.

// Every test program uses a part of it.
#![allow(dead_code)]

pub(crate) mod cluster;
pub(crate) mod demo;
pub(crate) mod ledger;
pub(crate) mod moving;
pub(crate) mod pages;
pub(crate) mod process;
