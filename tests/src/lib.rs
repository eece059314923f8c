//! Tests that cross crates.
//!
//! [`cluster`] runs the directory cores of several instances against a network, storage, logs,
//! threads and a membership that are simulated, in schedules that a seed names; [`planted`] shows
//! that it finds what is wrong. [`model`] explores a small case completely.

pub mod cluster;
pub mod model;
pub mod planted;
