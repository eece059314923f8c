//! Two hosts on one machine: network namespaces joined by a veth pair.
//!
//! ```text
//!   namespace a                       namespace b
//!   lo, veth 10.213.0.1/24 <-------> veth 10.213.0.2/24, lo
//! ```
//! Needs root and iproute2. Names are random, so that tests and runs do not meet; a namespace goes
//! with its value, also when the test panics, and the veth pair with the namespace. Nothing outside
//! the two is touched: the veth pair is made inside of one and its other end moved into the other.
//! Drop (or end) what runs inside before the namespaces.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher, Hasher},
    net::Ipv4Addr,
    process::Command,
};

/// If this is 1, tests that need namespaces fail where there are none.
const REQUIRE: &str = "PAGEWIRE_REQUIRE_NETNS";

/// One network namespace; see the module.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
    address: Ipv4Addr,
}

impl Netns {
    /// Two that reach each other. `None`, after a line that says why, where that cannot be had.
    ///
    /// # Panics
    /// When that cannot be had although the environment requires it.
    pub(crate) fn pair() -> Option<[Self; 2]> {
        match Self::try_pair() {
            Ok(pair) => Some(pair),
            Err(why) => {
                assert!(env::var(REQUIRE).as_deref() != Ok("1"), "no network namespaces: {why}");
                eprintln!("skipped: {why}; install iproute2 / run as root");
                None
            }
        }
    }

    fn try_pair() -> Result<[Self; 2], String> {
        let (a, b) = (Self::new(1)?, Self::new(2)?);
        let link = ["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"];
        a.ip(&link)?;
        a.ip(&["link", "set", "veth1", "netns", &b.name])?;
        for (namespace, device) in [(&a, "veth0"), (&b, "veth1")] {
            let address = format!("{}/24", namespace.address);
            namespace.ip(&["address", "add", &address, "dev", device])?;
            namespace.ip(&["link", "set", device, "up"])?;
            namespace.ip(&["link", "set", "lo", "up"])?;
        }
        Ok([a, b])
    }

    fn new(host: u8) -> Result<Self, String> {
        let random = RandomState::new().build_hasher().finish();
        let name = format!("pagewire-{random:016x}");
        ip(&["netns", "add", &name])?;
        Ok(Self { name, address: Ipv4Addr::new(10, 213, 0, host) })
    }

    /// The address that the other one reaches.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs `program` inside. Its process id is that of the program.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// What it printed.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<(), String> {
        ip(&[&["-n", &self.name], args].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(why) = ip(&["netns", "delete", &self.name]) {
            eprintln!("namespace {} stays: {why}", self.name);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", args.join(" "), said.trim()))
}
