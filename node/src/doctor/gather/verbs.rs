//! RDMA devices as libibverbs shows them, where it can be opened: what an instance would find.

use super::Root;
use crate::doctor::facts::{Gid, RdmaFacts, RdmaPort, Unusable};
use pagewire_transport::link::verbs::{
    Context, VerbsError,
    choice::{DeviceFacts, PortFacts},
    device::device_names,
};

/// Asks every device, and puts what it says in the place of what sysfs says.
pub(super) fn gather(root: &Root, rdma: &mut RdmaFacts) {
    let ask = |name: String| {
        let said = Context::open(&name).and_then(|device| device.facts());
        (name, said.map_err(unusable))
    };
    let asked = device_names().map(|names| names.into_iter().map(ask).collect::<Vec<_>>());
    for (_, said) in asked.iter().flatten() {
        said.iter().for_each(|device| replace(root, rdma, device));
    }
    rdma.verbs = Some(asked.map_err(unusable));
}

/// As an endpoint tells its peers.
#[allow(clippy::needless_pass_by_value)] // It is what `map_err` gives.
fn unusable(error: VerbsError) -> Unusable {
    Unusable { reason: error.tcp_reason(), words: error.to_string() }
}

fn replace(root: &Root, rdma: &mut RdmaFacts, said: &DeviceFacts) {
    let Some(device) = rdma.devices.iter_mut().find(|device| device.name == said.name) else {
        return;
    };
    for port in &mut device.ports {
        let of_port = said.ports.iter().find(|said| u32::from(said.number) == port.number);
        of_port.into_iter().for_each(|said| replace_port(root, port, said));
    }
}

fn replace_port(root: &Root, port: &mut RdmaPort, said: &PortFacts) {
    port.state = Some(said.state.to_string().to_uppercase());
    port.link_layer = Some(said.link_layer.to_string());
    port.active_mtu = Some(u64::from(said.active_mtu.bytes()));
    let mtu = |name: &String| root.number(&format!("sys/class/net/{name}/mtu"));
    let gid = |gid: &pagewire_transport::link::verbs::choice::Gid| Gid {
        index: gid.index,
        address: gid.address.to_canonical().to_string(),
        kind: Some(gid.kind.to_string()),
        interface_mtu: gid.interface.as_ref().and_then(mtu),
        interface: gid.interface.clone(),
    };
    port.gids = said.gids.iter().map(gid).collect();
}
