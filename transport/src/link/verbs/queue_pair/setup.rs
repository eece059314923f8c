//! From nothing to a queue pair that sends: making it, its states, and the way to the peer.
//!
//! Leaf module: the unsafe here calls functions of the library with pointers that came from it.

use super::{Capacity, QueuePair, QueuePairAddress, QueuePairOptions, SLOT_BYTES_U32};
use crate::link::verbs::{
    abi,
    choice::{Choice, LinkLayer},
    completion::CompletionQueue,
    device::Context,
    domain::MemoryRegion,
    error::{VerbsError, check},
    send_queue::SendQueue,
};
use std::{
    io,
    mem::zeroed,
    ptr::{self, NonNull},
};

/// Packet and queue pair numbers have 24 bits.
const BITS_24: u32 = 0x00FF_FFFF;
/// An acknowledgement is awaited for 4.096 us x 2^14 = 67 ms.
const ACKNOWLEDGE_TIMEOUT: u8 = 14;
/// Tries after the first: the peer is given up after about half a second (some drivers: two). Not 7:
/// rxe takes that for "for ever" (Linux 6.1, rxe_comp.c), so that a peer that is gone is never noticed.
const RETRIES: u8 = 6;
/// Tries when the peer has no receive posted. Credits forbid that, so that few are enough; 7 would
/// mean for ever.
const RNR_RETRIES: u8 = 6;
/// How long a peer without a receive asks for patience: 0.64 ms. (0 would mean 655 ms.)
const RNR_TIMER: u8 = 12;
const HOPS: u8 = 64;

impl QueuePair {
    pub(super) fn modify(
        &mut self,
        state: &'static str,
        attributes: &mut abi::ibv_qp_attr,
        mask: i32,
    ) -> Result<(), VerbsError> {
        let modify = self.context().library().modify_qp;
        // SAFETY: the queue pair exists, and the attributes of the mask are set.
        let returned = unsafe { modify(self.raw.as_ptr(), &raw mut *attributes, mask) };
        check(returned).map_err(|source| VerbsError::Modify {
            device: self.context().name().to_owned(),
            queue_pair: self.number(),
            state,
            source,
        })
    }

    pub(super) fn initialise(&mut self) -> Result<(), VerbsError> {
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_INIT;
        attributes.port_num = self.choice.port;
        if self.options.remote_reads {
            attributes.qp_access_flags = abi::IBV_ACCESS_REMOTE_READ.unsigned_abs();
        }
        let mask = abi::IBV_QP_STATE
            | abi::IBV_QP_PKEY_INDEX
            | abi::IBV_QP_PORT
            | abi::IBV_QP_ACCESS_FLAGS;
        self.modify("INIT", &mut attributes, mask)
    }

    /// Connects to the peer's queue pair: messages may come as soon as the peer has connected, too,
    /// and be sent when this returns.
    ///
    /// # Errors
    /// [`VerbsError::PeerAddress`] when what the peer stated cannot be; [`VerbsError::Modify`].
    pub fn connect(&mut self, peer: &QueuePairAddress) -> Result<(), VerbsError> {
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_RTR;
        attributes.ah_attr = route(&self.choice, peer)?;
        attributes.path_mtu = u32::from(self.choice.mtu.min(peer.mtu).code());
        attributes.dest_qp_num = peer.queue_pair;
        attributes.rq_psn = peer.first_packet;
        attributes.max_dest_rd_atomic = self.context().reads_max();
        attributes.min_rnr_timer = RNR_TIMER;
        let mask = abi::IBV_QP_STATE
            | abi::IBV_QP_AV
            | abi::IBV_QP_PATH_MTU
            | abi::IBV_QP_DEST_QPN
            | abi::IBV_QP_RQ_PSN
            | abi::IBV_QP_MAX_DEST_RD_ATOMIC
            | abi::IBV_QP_MIN_RNR_TIMER;
        self.modify("RTR (ready to receive)", &mut attributes, mask)?;
        let mut attributes = no_attributes();
        attributes.qp_state = abi::IBV_QPS_RTS;
        attributes.timeout = ACKNOWLEDGE_TIMEOUT;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RNR_RETRIES;
        attributes.sq_psn = self.first_packet;
        attributes.max_rd_atomic = self.context().reads_max();
        let mask = abi::IBV_QP_STATE
            | abi::IBV_QP_TIMEOUT
            | abi::IBV_QP_RETRY_CNT
            | abi::IBV_QP_RNR_RETRY
            | abi::IBV_QP_SQ_PSN
            | abi::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify("RTS (ready to send)", &mut attributes, mask)
    }
}

pub(super) fn no_attributes() -> abi::ibv_qp_attr {
    // SAFETY: plain integers, for which zeros are a value.
    unsafe { zeroed() }
}

pub(super) fn random_24_bits() -> io::Result<u32> {
    Ok(getrandom::u32().map_err(io::Error::other)? & BITS_24)
}

/// The depth of the send queue, if the device has queues that long.
pub(super) fn check_capacity(context: &Context, capacity: Capacity) -> Result<u32, VerbsError> {
    let available = context.work_requests_max();
    // One more for the marker of a drain.
    let sends = (1..=available).contains(&capacity.sends);
    let depth = if sends { SendQueue::depth_of(capacity.sends) } else { capacity.sends };
    let queues =
        [("receives of a queue pair", capacity.receives, 0), ("sends of a queue pair", depth, 1)];
    for (what, needed, beside) in queues {
        if needed == 0 || needed.saturating_add(beside) > available {
            return Err(VerbsError::Capacity { what, needed, available });
        }
    }
    Ok(depth)
}

/// Makes the queue pair; with messages in the work request if the driver does that.
pub(super) fn create(
    region: &MemoryRegion,
    completions: &CompletionQueue,
    options: QueuePairOptions,
    depth: u32,
) -> Result<(NonNull<abi::ibv_qp>, u32), VerbsError> {
    let context = region.domain().context();
    let inline = if options.inline { context.quirks().inline_bytes_max } else { 0 };
    let segments = if options.carries_frames { 2 } else { 1 };
    let mut asked = inline.min(SLOT_BYTES_U32);
    loop {
        let mut attributes = abi::ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: completions.as_ptr(),
            recv_cq: completions.as_ptr(),
            srq: ptr::null_mut(),
            cap: abi::ibv_qp_cap {
                // One more for the marker of a drain.
                max_send_wr: depth + 1,
                max_recv_wr: options.capacity.receives,
                max_send_sge: segments,
                max_recv_sge: segments,
                max_inline_data: asked,
            },
            qp_type: abi::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: domain and completion queue exist and are kept by the queue pair; the attributes
        // are complete.
        let raw = unsafe {
            let create = context.library().create_qp;
            create(region.domain().as_ptr(), &raw mut attributes)
        };
        let failed = io::Error::last_os_error();
        match NonNull::new(raw) {
            // What is granted may be more than was asked for; that nobody has measured.
            Some(raw) => return Ok((raw, asked.min(attributes.cap.max_inline_data))),
            None if asked > 0 => asked = 0,
            None => return Err(context.cannot_create("queue pair", failed)),
        }
    }
}

/// How packets find the peer.
fn route(choice: &Choice, peer: &QueuePairAddress) -> Result<abi::ibv_ah_attr, VerbsError> {
    let wrong = |problem| Err(VerbsError::PeerAddress { problem });
    if peer.queue_pair > BITS_24 || peer.first_packet > BITS_24 {
        return wrong("its number has more than 24 bits");
    }
    // SAFETY: plain integers, for which zeros are a value.
    let mut route: abi::ibv_ah_attr = unsafe { zeroed() };
    route.port_num = choice.port;
    if choice.link_layer != LinkLayer::Ethernet {
        if peer.lid == 0 {
            return wrong("it has LID 0, expected one that a subnet manager has assigned");
        }
        route.dlid = peer.lid;
    }
    if choice.global {
        let Some(gid) = &choice.gid else { return wrong("this end has no GID to send from") };
        if peer.gid.is_unspecified() {
            return wrong(
                "it states no GID, expected one: is its port InfiniBand, this one Ethernet?",
            );
        }
        let Ok(sgid_index) = u8::try_from(gid.index) else {
            return wrong("this end's GID index is above 255, which a route cannot name");
        };
        route.is_global = 1;
        route.grh.dgid = abi::ibv_gid { raw: peer.gid.octets() };
        route.grh.sgid_index = sgid_index;
        route.grh.hop_limit = HOPS;
    }
    Ok(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::verbs::choice::{Gid, GidKind, Mtu};
    use std::net::Ipv6Addr;

    fn choice(link_layer: LinkLayer, gid_index: u32) -> Choice {
        let address = Ipv6Addr::LOCALHOST;
        let gid = Gid { index: gid_index, address, kind: GidKind::RoceV2, interface: None };
        let global = link_layer == LinkLayer::Ethernet;
        let device = "rxe0".to_owned();
        Choice { device, port: 1, mtu: Mtu::Bytes1024, link_layer, lid: 4, gid: Some(gid), global }
    }

    fn peer() -> QueuePairAddress {
        let gid = "::ffff:10.0.0.2".parse().unwrap();
        QueuePairAddress { queue_pair: 17, first_packet: 5, lid: 0, gid, mtu: Mtu::Bytes4096 }
    }

    #[test]
    fn ethernet_is_routed_by_gid_and_infiniband_by_lid() {
        let roce = route(&choice(LinkLayer::Ethernet, 3), &peer()).unwrap();
        assert_eq!((roce.is_global, roce.grh.sgid_index, roce.dlid), (1, 3, 0));
        assert_eq!(roce.grh.dgid.raw, peer().gid.octets());
        let to = QueuePairAddress { lid: 9, gid: Ipv6Addr::UNSPECIFIED, ..peer() };
        let subnet = route(&choice(LinkLayer::InfiniBand, 0), &to).unwrap();
        assert_eq!((subnet.is_global, subnet.dlid), (0, 9));
    }

    #[test]
    fn what_a_peer_cannot_have_is_refused_before_the_device_sees_it() {
        let ethernet = choice(LinkLayer::Ethernet, 3);
        let infiniband = choice(LinkLayer::InfiniBand, 0);
        for (choice, peer, word) in [
            (&ethernet, QueuePairAddress { queue_pair: 1 << 24, ..peer() }, "24 bits"),
            (&ethernet, QueuePairAddress { first_packet: u32::MAX, ..peer() }, "24 bits"),
            (&ethernet, QueuePairAddress { gid: Ipv6Addr::UNSPECIFIED, ..peer() }, "no GID"),
            (&infiniband, peer(), "LID 0"),
        ] {
            let error = route(choice, &peer).unwrap_err().to_string();
            assert!(error.contains(word), "'{word}' in: {error}");
        }
        assert!(route(&choice(LinkLayer::Ethernet, 300), &peer()).is_err());
    }
}
