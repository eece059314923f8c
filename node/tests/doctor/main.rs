//! `pagewire doctor` on hosts that are made of files: what it finds, what it says, and that no
//! content of `/proc` and `/sys` can upset it.

mod command;
mod configuration;
mod host;
mod hosts;
#[path = "../support/mod.rs"]
mod support;
