//! A network of the test's own: two hosts and a router between them, each a network namespace.
//!
//! ```text
//!   host 1 ----- router ----- host 2          10.77.1.0/24, 10.77.2.0/24
//!          veth         veth
//! ```
//! What is cut is cut in the router, so neither host notices anything but silence: no FIN, no reset
//! and no loss of carrier at its own interface. One direction alone is cut by a blackhole route.
//!
//! Needs root and iproute2. The namespaces go when the [`Lab`] is dropped, also by a panic. One lab
//! exists at a time: each loads both cores.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Set to 1, a host on which no namespaces can be made fails the tests that need them.
const REQUIRE: &str = "PAGEWIRE_REQUIRE_NETNS";
pub(crate) const PORT: u16 = 7400;

static TURN: Mutex<()> = Mutex::new(());

#[derive(Debug)]
pub(crate) struct Lab {
    prefix: String,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// The network, all connected; `None` (having said so) where there can be none.
    ///
    /// # Panics
    /// When there can be none and [`REQUIRE`] is 1.
    pub(crate) fn new() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let prefix = format!("pw{}-{:x}-", std::process::id(), now.subsec_nanos());
        let lab = Self { prefix, _turn: turn };
        match lab.build() {
            Ok(()) => Some(lab),
            Err(reason) => {
                let why = format!("skipped: {reason} (install iproute2 and run as root)");
                let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
                assert!(!required, "{why}, and {REQUIRE} is set");
                // Past the capture of the test's output.
                let _ = writeln!(std::io::stderr(), "{why}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let name = |place: &str| format!("{}{place}", self.prefix);
        let router = name("r");
        for place in ["r", "1", "2"] {
            ip(&["netns", "add", &name(place)])?;
            ip(&["-n", &name(place), "link", "set", "lo", "up"])?;
        }
        // The filter would take a cut towards a host for a forgery of that host's packets.
        let settings = "cd /proc/sys/net/ipv4 && echo 1 > ip_forward && \
                        echo 0 > conf/all/rp_filter && echo 0 > conf/default/rp_filter";
        ip(&["netns", "exec", &router, "sh", "-c", settings])?;
        for host in ["1", "2"] {
            let (there, here, of_router) =
                (name(host), format!("10.77.{host}.1"), format!("10.77.{host}.254"));
            let port = format!("to{host}");
            let veth = ["type", "veth", "peer", "name", &port, "netns", &router];
            ip(&[&["-n", &there, "link", "add", "eth"], &veth[..]].concat())?;
            ip(&["-n", &there, "addr", "add", &format!("{here}/24"), "dev", "eth"])?;
            ip(&["-n", &router, "addr", "add", &format!("{of_router}/24"), "dev", &port])?;
            ip(&["-n", &router, "link", "set", &port, "up"])?;
            ip(&["-n", &there, "link", "set", "eth", "up"])?;
            ip(&["-n", &there, "route", "add", "default", "via", &of_router])?;
        }
        Ok(())
    }

    /// Where the peer on `host` (1 or 2) listens.
    pub(crate) fn address(host: u16) -> SocketAddr {
        format!("10.77.{host}.1:{PORT}").parse().unwrap()
    }

    /// A command that runs what is added to it on `host`; it becomes that process.
    pub(crate) fn command_on(&self, host: u16) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{host}", self.prefix)]);
        command
    }

    fn router(&self, arguments: &[&str]) {
        let router = format!("{}r", self.prefix);
        ip(&[&["-n", &router], arguments].concat()).unwrap();
    }

    /// The router's link to `host` is pulled or plugged in.
    pub(crate) fn set_link(&self, host: u16, state: &str) {
        self.router(&["link", "set", &format!("to{host}"), state]);
    }

    /// From now on nothing reaches `host`; what it sends still arrives.
    pub(crate) fn cut_towards(&self, host: u16) {
        self.router(&["route", "add", "blackhole", &format!("10.77.{host}.1/32")]);
    }

    pub(crate) fn heal_towards(&self, host: u16) {
        self.router(&["route", "del", "blackhole", &format!("10.77.{host}.1/32")]);
    }

    /// From now on nothing passes of the connection that has this port at either end.
    pub(crate) fn cut_port(&self, port: u16) {
        for end in ["sport", "dport"] {
            self.router(&["rule", "add", "ipproto", "tcp", end, &port.to_string(), "blackhole"]);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in ["1", "2", "r"] {
            let _ = ip(&["netns", "del", &format!("{}{place}", self.prefix)]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let command = || format!("`ip {}`", arguments.join(" "));
    let done = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("{} does not start: {error}", command()))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", command(), String::from_utf8_lossy(&done.stderr).trim()))
}
