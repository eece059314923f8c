//! Asks two other bindings of libibverbs whether ours is right.
//!
//! `pagewire-softroce-oracle [ADDRESS]`: `rdma-sys` has what a C compiler makes of the system's
//! headers, and every size, offset and constant of ours is compared with it. With ADDRESS, which an RDMA
//! device of this host has, `ibverbs` lists devices and addresses as we do, and messages go both ways
//! between one of its queue pairs and one of ours.
//!
//! Prints `PASS name` and `FAIL name: why`; ends with 1 if anything failed.

mod layout;
mod peer;

use std::{net::IpAddr, process::ExitCode};

/// Counts what failed.
#[derive(Default)]
struct Report {
    failed: u32,
}

impl Report {
    fn result(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => println!("PASS {name}"),
            Err(why) => {
                self.failed += 1;
                println!("FAIL {name}: {}", why.replace('\n', " "));
            }
        }
    }
}

fn main() -> ExitCode {
    let mut report = Report::default();
    layout::compare(&mut report);
    match std::env::args().nth(1).map(|text| text.parse::<IpAddr>()) {
        None => println!("no address given: layouts only"),
        Some(Err(error)) => report.result("address", Err(error.to_string())),
        Some(Ok(address)) => peer::compare(&mut report, address),
    }
    ExitCode::from(u8::from(report.failed > 0))
}
