//! The ledger: the workload of `pagewire demo` and the proof that it came out right.
//!
//! Purpose: prepare a shared relation file with one account per page ([`relation`]), move money
//! between accounts through page guards ([`workload`]), log every finished transfer ([`log`]), and
//! afterwards replay the logs against the page file ([`verify`]). Accounts live in the free space
//! of a PostgreSQL page ([`account`]), so that every page stays a valid PostgreSQL page.
//!
//! Invariants: nothing here knows how pages travel: the workload sees them through
//! [`workload::Pages`] only, and the verifier sees only files.

pub mod account;
pub mod log;
pub mod manifest;
pub mod relation;
pub mod synthetic;
pub mod verify;
pub mod workload;

pub use account::{Account, TransferId};
pub use log::{LogHeader, LogReader, LogWriter, Transfer};
pub use manifest::Manifest;
pub use verify::Verification;
pub use workload::{Ledger, PageWrite, Pages};
