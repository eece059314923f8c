//! Shared invalidations: what instances say to each other about them.

pub mod wire;
