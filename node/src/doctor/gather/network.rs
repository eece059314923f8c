//! TCP settings and interfaces.

use super::Root;
use crate::doctor::facts::NetworkFacts;

pub(super) fn gather(root: &Root) -> NetworkFacts {
    let core = |name: &str| root.number(&format!("proc/sys/net/core/{name}"));
    let tcp = |name: &str| root.line(&format!("proc/sys/net/ipv4/{name}"));
    // Least, usual and greatest size.
    let greatest = |line: String| line.split_whitespace().nth(2)?.parse().ok();
    let interface = |name: String| {
        let folder = format!("sys/class/net/{name}");
        let mtu = root.number(&format!("{folder}/mtu"));
        root.exists(&format!("{folder}/device")).then_some((name, mtu))
    };
    NetworkFacts {
        busy_poll_us: core("busy_poll"),
        busy_read_us: core("busy_read"),
        rmem_max_bytes: core("rmem_max"),
        wmem_max_bytes: core("wmem_max"),
        tcp_rmem_max_bytes: tcp("tcp_rmem").and_then(greatest),
        tcp_wmem_max_bytes: tcp("tcp_wmem").and_then(greatest),
        slow_start_after_idle: tcp("tcp_slow_start_after_idle").and_then(|s| s.parse().ok()),
        interfaces: root.names("sys/class/net").into_iter().filter_map(interface).collect(),
    }
}
