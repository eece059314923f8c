//! TCP settings.

use crate::doctor::{
    facts::NetworkFacts,
    finding::{Finding, size},
    plan::Plan,
};

const AREA: &str = "network";
/// What the kernel's documentation proposes, in microseconds.
const BUSY_US: u64 = 50;

pub(super) fn judge(network: &NetworkFacts, plan: &Plan) -> Vec<Finding> {
    vec![
        busy(network),
        buffer("rmem", network.tcp_rmem_max_bytes, network.rmem_max_bytes, plan),
        buffer("wmem", network.tcp_wmem_max_bytes, network.wmem_max_bytes, plan),
        slow_start(network),
    ]
}

/// Reading a socket then polls the card's queue, instead of waiting for its interrupt. Loopback has
/// no such queue.
fn busy(network: &NetworkFacts) -> Finding {
    let finding = Finding::new(AREA, "busy polling (net.core.busy_read, busy_poll)");
    let Some((read, poll)) = network.busy_read_us.zip(network.busy_poll_us) else {
        return finding.expected("settings of this kernel (CONFIG_NET_RX_BUSY_POLL)");
    };
    let names: Vec<_> = network.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    let finding = finding.found(format!("{read} us, {poll} us"));
    if names.is_empty() {
        return finding.expected("anything: there is no network card");
    }
    finding
        .expected(format!("{BUSY_US} us where {} carries pages over TCP", names.join(", ")))
        .note_if(
            read == 0,
            format!("sysctl -w net.core.busy_read={BUSY_US} net.core.busy_poll={BUSY_US}"),
        )
}

/// Pagewire leaves the size to the kernel, which goes up to the greatest of `tcp_rmem` or `tcp_wmem`;
/// `rmem_max` and `wmem_max` bound what programs set themselves.
fn buffer(name: &str, tcp_max: Option<u64>, core_max: Option<u64>, plan: &Plan) -> Finding {
    let needed = plan.in_flight_bytes;
    let finding =
        Finding::new(AREA, format!("TCP buffers (net.ipv4.tcp_{name}, net.core.{name}_max)"))
            .expected(format!(
                "tcp_{name} up to {} or more: the pages that a peer may send ahead",
                size(needed)
            ));
    let Some(found) = tcp_max else { return finding };
    let core = core_max.map_or("unknown".to_owned(), size);
    finding.found(format!("up to {}; {name}_max {core}", size(found))).note_if(
        found < needed,
        format!("sysctl -w net.ipv4.tcp_{name}='4096 131072 {}'", needed.next_power_of_two()),
    )
}

/// After a pause of one retransmission time-out the kernel begins again with 10 segments, two pages
/// at an MTU of 1500; whatever is more than that then waits for a round trip.
fn slow_start(network: &NetworkFacts) -> Finding {
    let finding = Finding::new(AREA, "net.ipv4.tcp_slow_start_after_idle").expected("0");
    let Some(found) = network.slow_start_after_idle else { return finding };
    if network.interfaces.is_empty() {
        return finding.found(found.to_string()).expected("anything: there is no network card");
    }
    finding
        .found(found.to_string())
        .expected("0: a burst of pages after a pause goes out at once")
        .note_if(
            found != 0,
            "sysctl -w net.ipv4.tcp_slow_start_after_idle=0 (and in /etc/sysctl.d)",
        )
}
