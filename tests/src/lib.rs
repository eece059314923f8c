//! Tests that cross crates.
//!
//! [`cluster`] runs the directory cores of several instances against a network, storage and
//! threads that are simulated, in schedules that a seed names.
#![forbid(unsafe_code)]

pub mod cluster;
