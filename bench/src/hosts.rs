//! `serve` and `connect`: latency and rate between two hosts, with the same reports.
//!
//! ```text
//!   connect (asker or sender)                          serve (answerer or receiver)
//!   control  ------------- hello: benchmark, cluster, port of the endpoint -------->
//!            <------------ ready: port of its endpoint, port of the bare sockets ---
//!   endpoint <=========================== a session ==============================> endpoint
//!   bare     ---- as many connections as the benchmark has, each with a ticket ---->
//!   control  ------------- turn: leg -------->   before each leg, ours and bare in turn
//!            <------------ turned: leg -------
//!   control  ------------- end --------------->  the server takes the next client
//! ```
//! The control connection carries one JSON object a line ([`control`]). Both hosts use one core for
//! what is measured; the threads that speak over the control connection sleep meanwhile. Each
//! session has a random cluster id, which the tickets repeat, so that nobody else's connection is
//! taken for one of the benchmark.
//!
//! Whoever reaches the server's port may keep a core of it busy: open it on trusted networks only,
//! and only while measuring. The ports of the endpoint and of the bare sockets are chosen by the
//! system, at the address that the control connection came in on.

mod connect;
mod control;
mod serve;

pub(crate) use connect::{Args as ConnectArgs, run as connect};
pub(crate) use serve::{Args as ServeArgs, run as serve};
