//! Devices, addresses and a ping-pong, against `ibverbs`.

use crate::Report;
use ibverbs::ibv_qp_type;
use pagewire_transport::{
    Arena, ArenaConfig,
    link::verbs::{
        Capacity, Choice, CompletionBatch, CompletionQueue, MemoryRegion, Overrides,
        ProtectionDomain, QueuePair, QueuePairAddress, QueuePairOptions, Work,
        choice::{DeviceFacts, GidKind},
        device, pick,
        queue_pair::SLOT_BYTES,
    },
};
use std::{
    fmt::Display,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(10);
const ROUNDS: u8 = 50;
/// `ibverbs` 0.9 always sends its first packet with number 0.
const THEIR_FIRST_PACKET: u32 = 0;

pub(crate) fn compare(report: &mut Report, address: IpAddr) {
    report.result("devices_as_ibverbs_lists_them", devices());
    report.result("gids_as_ibverbs_lists_them", gids());
    report.result("pingpong_with_ibverbs", ping_pong(address));
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn same<T: PartialEq + std::fmt::Debug>(ours: T, theirs: T) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("{ours:?} here, {theirs:?} by ibverbs")) }
}

fn devices() -> Result<(), String> {
    let mut ours: Vec<_> = device::open_all()
        .map_err(text)?
        .iter()
        .map(|device| (device.name().to_owned(), device.guid()))
        .collect();
    let theirs = ibverbs::devices().map_err(text)?;
    let mut theirs: Vec<_> = theirs
        .iter()
        .map(|device| {
            let name = device.name().map(|name| name.to_string_lossy().into_owned());
            let guid = device.guid().map_err(text)?;
            // Version 0.9.2 takes the number, which is big-endian, for one of the host.
            Ok((name.unwrap_or_default(), u64::from_be(u64::from(guid))))
        })
        .collect::<Result<_, String>>()?;
    ours.sort();
    theirs.sort();
    same(ours, theirs)
}

fn facts() -> Result<Vec<DeviceFacts>, String> {
    device::open_all().map_err(text)?.iter().map(|it| it.facts().map_err(text)).collect()
}

/// Port, index, address and kind of each GID.
type Row = (u32, u32, Ipv6Addr, u32);

fn gids() -> Result<(), String> {
    let theirs = ibverbs::devices().map_err(text)?;
    for device in facts()? {
        let ours: Vec<Row> = device
            .ports
            .iter()
            .flat_map(|port| {
                let kind = |kind| match kind {
                    GidKind::InfiniBand => 0,
                    GidKind::RoceV1 => 1,
                    GidKind::RoceV2 => 2,
                    GidKind::Other(kind) => kind,
                };
                let row = move |gid: &pagewire_transport::link::verbs::choice::Gid| {
                    (u32::from(port.number), gid.index, gid.address, kind(gid.kind))
                };
                port.gids.iter().map(row)
            })
            .collect();
        let found = theirs
            .iter()
            .find(|it| it.name().is_some_and(|name| name.to_bytes() == device.name.as_bytes()))
            .ok_or_else(|| format!("ibverbs has no {}", device.name))?;
        let context = found.open().map_err(text)?;
        let mut theirs: Vec<Row> = context
            .gid_table()
            .iter()
            .map(|it| (it.port_num, it.gid_index, address(it.gid), it.gid_type))
            .collect();
        theirs.sort();
        same(ours, theirs)?;
    }
    Ok(())
}

fn address(gid: ibverbs::Gid) -> Ipv6Addr {
    let halves = u128::from(gid.subnet_prefix()) << 64 | u128::from(gid.interface_id());
    Ipv6Addr::from(halves)
}

/// Sends a message with a page to a queue pair of `ibverbs` on the same device, which sends the same
/// bytes back.
fn ping_pong(local: IpAddr) -> Result<(), String> {
    let choice = pick(&facts()?, local, &Overrides::default()).map_err(text)?;
    let arena = ArenaConfig { huge_pages: false, ..ArenaConfig::new(8) };
    let arena = Arena::new(&arena).map_err(text)?;
    let bytes = SLOT_BYTES + arena.page_size().bytes();

    let theirs = ibverbs::devices().map_err(text)?;
    let their_device = theirs
        .iter()
        .find(|it| it.name().is_some_and(|name| name.to_bytes() == choice.device.as_bytes()))
        .ok_or("ibverbs has not the chosen device")?;
    let their_context = their_device.open().map_err(text)?;
    let their_domain = their_context.alloc_pd().map_err(text)?;
    let their_queue = their_context.create_cq(16, 0).map_err(text)?;
    let mut their_memory = their_domain.allocate::<u8>(bytes).map_err(text)?;
    let gid_index = choice.gid.as_ref().map_or(0, |gid| gid.index);

    let (ours, our_queue) = our_end(&choice, &arena)?;
    let mut ours = ours;
    let prepared = their_domain
        .create_qp(&their_queue, &their_queue, ibv_qp_type::IBV_QPT_RC)
        .set_gid_index(gid_index)
        .set_rq_psn(ours.address().first_packet)
        .set_path_mtu(choice.mtu.code().into())
        .build()
        .map_err(text)?;
    let endpoint = prepared.endpoint();
    ours.connect(&QueuePairAddress {
        queue_pair: endpoint.num,
        first_packet: THEIR_FIRST_PACKET,
        lid: endpoint.lid,
        gid: endpoint.gid.map_or(Ipv6Addr::UNSPECIFIED, address),
        mtu: choice.mtu,
    })
    .map_err(text)?;
    let mut to_us = endpoint;
    (to_us.num, to_us.lid) = (ours.number(), choice.lid);
    let mut their_pair = prepared.handshake(to_us).map_err(text)?;

    let mut batch = CompletionBatch::new();
    for round in 0..ROUNDS {
        // SAFETY: the memory is only looked at, and sent from, when the receive is done.
        unsafe { their_pair.post_receive(&mut their_memory, .., 1) }.map_err(text)?;
        let frame = arena.take().ok_or("no free frame")?;
        ours.queue_receive(Some(frame)).map_err(|refused| format!("{refused:?}"))?;
        ours.post_receives().map_err(text)?;
        let mut page = arena.take().ok_or("no free frame")?;
        page.fill(round);
        let write = |slot: &mut [u8; SLOT_BYTES]| {
            slot.fill(!round);
            SLOT_BYTES
        };
        let sent = ours.queue_send(Some(page.freeze()), true, write);
        sent.map_err(|refused| format!("{refused:?}"))?;
        ours.post_sends().map_err(text)?;

        their_completion(&their_queue, 1)?;
        let (message, page) = their_memory.split_at(SLOT_BYTES);
        if !message.iter().all(|&b| b == !round) || !page.iter().all(|&b| b == round) {
            return Err(format!("round {round}: ibverbs received other bytes"));
        }
        // SAFETY: nobody writes to the memory until the send is done.
        unsafe { their_pair.post_send(&mut their_memory, .., 2) }.map_err(text)?;
        their_completion(&their_queue, 2)?;
        our_completions(&mut ours, &our_queue, &mut batch, round)?;
    }
    ours.begin_drain().map_err(text)
}

type OurEnd = (QueuePair, std::sync::Arc<CompletionQueue>);

fn our_end(choice: &Choice, arena: &Arena) -> Result<OurEnd, String> {
    let context = device::Context::open(&choice.device).map_err(text)?;
    let domain = ProtectionDomain::new(&context).map_err(text)?;
    let region = MemoryRegion::new(&domain, arena, false).map_err(text)?;
    let capacity = Capacity { receives: 4, sends: 4 };
    let queue = CompletionQueue::new(&context, capacity.completions(), None).map_err(text)?;
    let options = QueuePairOptions {
        tag: 7,
        capacity,
        carries_frames: true,
        remote_reads: false,
        inline: false,
    };
    Ok((QueuePair::new(&region, &queue, choice, options).map_err(text)?, queue))
}

fn their_completion(queue: &ibverbs::CompletionQueue<'_>, id: u64) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    let mut completions = [ibverbs::ibv_wc::default(); 1];
    loop {
        if let Some(completion) = queue.poll(&mut completions).map_err(text)?.first() {
            if let Some((status, vendor)) = completion.error() {
                return Err(format!("ibverbs has status {status:?}, vendor error {vendor}"));
            }
            return same(id, completion.wr_id());
        }
        if Instant::now() > deadline {
            return Err("no completion of ibverbs in time".to_owned());
        }
    }
}

/// Takes the completion of our send and that of the echo.
fn our_completions(
    ours: &mut QueuePair,
    queue: &CompletionQueue,
    batch: &mut CompletionBatch,
    round: u8,
) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    let (mut sent, mut received) = (false, false);
    while !(sent && received) {
        queue.poll(batch).map_err(text)?;
        for completion in batch.drain() {
            completion.result().map_err(text)?;
            let Work::Receive { .. } = completion.work() else {
                ours.take_sent(completion).map_err(text)?;
                sent = true;
                continue;
            };
            let arrival = ours.take_receive(completion).map_err(text)?;
            let page = arrival.frame.as_deref().unwrap_or(&[]);
            let is_whole = arrival.message_bytes == SLOT_BYTES && arrival.frame_bytes == page.len();
            let is_same = arrival.message.iter().all(|&b| b == !round)
                && !page.is_empty()
                && page.iter().all(|&b| b == round);
            if !(is_whole && is_same) {
                return Err(format!("round {round}: the echo has other bytes"));
            }
            received = true;
        }
        if Instant::now() > deadline {
            return Err("no completion of ours in time".to_owned());
        }
    }
    Ok(())
}
