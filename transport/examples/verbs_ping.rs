//! Sends messages and pages between two queue pairs of one RDMA device, and says what went where.
//!
//! `verbs_ping ADDRESS [DEVICE]`: ADDRESS is the one by which a peer would be reached. Ends with 0
//! when every byte arrived over the device, 1 with a line `FAIL ...` otherwise.

use pagewire_transport::{
    Arena, ArenaConfig, Frame,
    link::verbs::{
        Arrival, Capacity, Completion, CompletionBatch, CompletionChannel, CompletionQueue,
        Context, MemoryRegion, Overrides, ProtectionDomain, QueuePair, QueuePairOptions,
        RefusedReason, RemoteMemory, Status, Work, device, pick, queue_pair::SLOT_BYTES,
    },
};
use std::{
    collections::VecDeque,
    error::Error,
    fs,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const CAPACITY: Capacity = Capacity { receives: 8, sends: 8 };
const LIMIT: Duration = Duration::from_secs(10);

/// Two queue pairs connected to each other; what is sent on the first arrives on the second.
struct Pair {
    completions: Arc<CompletionQueue>,
    batch: CompletionBatch,
    waiting: VecDeque<Completion>,
    ends: [QueuePair; 2],
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(Ok(address)) = arguments.next().map(|text| text.parse()) else {
        eprintln!("usage: verbs_ping ADDRESS [DEVICE]");
        std::process::exit(2);
    };
    if let Err(error) = run(address, arguments.next()) {
        println!("FAIL verbs_ping: {error}");
        std::process::exit(1);
    }
}

fn run(address: IpAddr, device: Option<String>) -> Outcome {
    let devices = device::open_all()?;
    let facts = devices.iter().map(|device| device.facts()).collect::<Result<Vec<_>, _>>()?;
    for port in facts.iter().flat_map(|device| &device.ports) {
        println!("port {}: {}, MTU {}", port.number, port.state, port.active_mtu.bytes());
        port.gids.iter().for_each(|gid| println!("  GID {gid}"));
    }
    let nowhere = Overrides { device: Some("nowhere0".to_owned()), ..Overrides::default() };
    expect(pick(&facts, address, &nowhere).is_err(), "a device that is not there is refused")?;
    let overrides = Overrides { device, ..Overrides::default() };
    let choice = pick(&facts, address, &overrides)?;
    println!("chosen: {choice:?}");
    let context = devices.iter().find(|device| device.name() == choice.device);
    let context = context.ok_or("the chosen device is not open")?;
    println!("{context:?}, guid {:#018x}", context.guid());

    let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(64) })?;
    let domain = ProtectionDomain::new(context)?;
    let region = MemoryRegion::new(&domain, &arena, true)?;
    let before = packets(context, choice.port);
    for carries_frames in [false, true] {
        let mut pair = Pair::new(&region, &choice, carries_frames)?;
        pair.messages(&arena, carries_frames)?;
        pair.chain(&arena, carries_frames)?;
        if carries_frames {
            pair.read(&arena, &region)?;
        }
        pair.sleep(&arena, carries_frames)?;
        pair.drain(&arena)?;
        drop(pair);
        expect(arena.free_frames() == arena.frames(), "every frame is back in the arena")?;
    }
    let mut pair = Pair::new(&region, &choice, true)?;
    pair.read_with_wrong_key(&arena, &region)?;
    drop(pair);
    let pair = Pair::new(&region, &choice, true)?;
    pair.peer_gone(&arena)?;
    expect(arena.free_frames() == arena.frames(), "every frame is back after failures, too")?;
    let after = packets(context, choice.port);
    println!("packets sent and received: {before:?} before, {after:?} after");
    if let (Some(before), Some(after)) = (before, after) {
        // 8 pages and more, each at least two packets: this was no copy in memory.
        expect(after.0 >= before.0 + 20 && after.1 >= before.1 + 20, "the device's packets count")?;
    }
    while let Some(event) = context.next_async_event()? {
        println!("event: {event:?}");
    }
    println!("PASS verbs_ping");
    Ok(())
}

impl Pair {
    fn new(
        region: &Arc<MemoryRegion>,
        choice: &pagewire_transport::link::verbs::Choice,
        carries_frames: bool,
    ) -> Outcome<Self> {
        let context = region.domain().context();
        let channel = CompletionChannel::new(context)?;
        let room = 2 * CAPACITY.completions();
        let completions = CompletionQueue::new(context, room, Some(channel))?;
        let end = |tag| {
            let options = QueuePairOptions {
                tag,
                capacity: CAPACITY,
                carries_frames,
                remote_reads: true,
                inline: true,
            };
            QueuePair::new(region, &completions, choice, options)
        };
        let (mut a, mut b) = (end(0)?, end(1)?);
        expect(end(2).is_err(), "a queue pair for which there is no room is refused")?;
        let (to_a, to_b) = (a.address(), b.address());
        a.connect(&to_b)?;
        b.connect(&to_a)?;
        println!("{to_a:?} <-> {to_b:?}, inline {} B", a.inline_bytes_max());
        Ok(Self {
            completions,
            batch: CompletionBatch::new(),
            waiting: VecDeque::new(),
            ends: [a, b],
        })
    }

    /// The next completion that `wanted` fits; sends before it are taken from their queue pairs,
    /// the rest waits.
    fn until(&mut self, wanted: impl Fn(&Completion) -> bool) -> Outcome<Completion> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.waiting.iter().position(&wanted) {
                return self.waiting.remove(at).ok_or_else(|| "nothing".into());
            }
            while let Some(completion) = self.waiting.pop_front() {
                let Work::Send { .. } = completion.work() else {
                    return Err(format!("unexpected: {completion:?}").into());
                };
                self.ends[usize::from(completion.tag())].take_sent(completion)?;
            }
            self.completions.poll(&mut self.batch)?;
            for completion in self.batch.drain() {
                completion.result()?;
                self.waiting.push_back(completion);
            }
            expect(Instant::now() < deadline, "a completion comes in time")?;
        }
    }

    fn receive(&mut self, frame: Option<Frame>) -> Outcome {
        self.ends[1].queue_receive(frame).map_err(|refused| format!("{refused:?}").into())
    }

    fn arrival(&mut self) -> Outcome<Arrival<'_>> {
        let of_b = |c: &Completion| c.tag() == 1 && matches!(c.work(), Work::Receive { .. });
        let completion = self.until(of_b)?;
        Ok(self.ends[1].take_receive(completion)?)
    }

    /// One message at a time, of 64 and 128 bytes, with a page each where pages travel.
    fn messages(&mut self, arena: &Arena, carries_frames: bool) -> Outcome {
        for (round, len) in (0u8..40).zip([64, SLOT_BYTES, 48].into_iter().cycle()) {
            let frame = |fill: u8| -> Outcome<Frame> {
                let mut frame = arena.take().ok_or("no free frame")?;
                frame.fill(fill);
                Ok(frame)
            };
            self.receive(if carries_frames { Some(frame(0xEE)?) } else { None })?;
            self.ends[1].post_receives()?;
            let page = if carries_frames { Some(frame(round)?.freeze()) } else { None };
            let write = |slot: &mut [u8; SLOT_BYTES]| {
                slot[..len].fill(round + 1);
                len
            };
            let sent = self.ends[0].queue_send(page, round % 2 == 0, write);
            sent.map_err(|refused| format!("{refused:?}"))?;
            self.ends[0].post_sends()?;
            let arrival = self.arrival()?;
            let whole = if carries_frames { SLOT_BYTES } else { len };
            expect(arrival.message_bytes == whole, "the message has its length")?;
            expect(arrival.message[..len].iter().all(|&b| b == round + 1), "the message is whole")?;
            expect(arrival.message[len..].iter().all(|&b| b == 0), "zeros follow it")?;
            if let Some(frame) = &arrival.frame {
                expect(arrival.frame_bytes == frame.len(), "the page is whole")?;
                expect(frame.iter().all(|&b| b == round), "the page is the one that was sent")?;
            }
        }
        Ok(())
    }

    /// Several messages with one call, and their receives with one.
    fn chain(&mut self, arena: &Arena, carries_frames: bool) -> Outcome {
        for _ in 0..CAPACITY.receives {
            let frame = if carries_frames { arena.take() } else { None };
            self.receive(frame)?;
        }
        let more = self.ends[1].queue_receive(if carries_frames { arena.take() } else { None });
        let full = more.is_err_and(|refused| refused.reason == RefusedReason::Full);
        expect(full, "a receive for which there is no room is handed back")?;
        self.ends[1].post_receives()?;
        // What was not known as done is, once a send behind it is.
        for number in 0..4u8 {
            let write = |slot: &mut [u8; SLOT_BYTES]| {
                slot[0] = number;
                SLOT_BYTES
            };
            let page = if carries_frames { arena.take().map(Frame::freeze) } else { None };
            let sent = self.ends[0].queue_send(page, number == 3, write);
            sent.map_err(|refused| format!("{refused:?}"))?;
        }
        self.ends[0].post_sends()?;
        for number in 0..4u8 {
            expect(self.arrival()?.message[0] == number, "messages keep their order")?;
        }
        Ok(())
    }

    /// Reads a page of the same arena, as if it were a peer's.
    fn read(&mut self, arena: &Arena, region: &Arc<MemoryRegion>) -> Outcome {
        let mut theirs = arena.take().ok_or("no free frame")?;
        theirs.fill(0xAB);
        let from =
            RemoteMemory { address: theirs.as_ptr().addr().try_into()?, key: region.remote_key() };
        let ours = arena.take().ok_or("no free frame")?;
        self.ends[0].queue_read(ours, from).map_err(|refused| format!("{refused:?}"))?;
        self.ends[0].post_sends()?;
        loop {
            let completion = self.until(|c| c.tag() == 0)?;
            if let Some(frame) = self.ends[0].take_sent(completion)?.read {
                return expect(*frame == *theirs, "the read brings the page");
            }
        }
    }

    /// The first completion that is a failure.
    fn failure(&mut self) -> Outcome<Completion> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.completions.poll(&mut self.batch)?;
            if let Some(failed) = self.batch.drain().find(|c| c.result().is_err()) {
                return Ok(failed);
            }
            expect(Instant::now() < deadline, "a failure is reported in time")?;
        }
    }

    /// A read with a key that the peer never gave is refused by it, and says so.
    fn read_with_wrong_key(&mut self, arena: &Arena, region: &Arc<MemoryRegion>) -> Outcome {
        let frame = arena.take().ok_or("no free frame")?;
        let address = frame.as_ptr().addr().try_into()?;
        let from = RemoteMemory { address, key: region.remote_key() ^ 0x00FF_FF00 };
        self.ends[0].queue_read(frame, from).map_err(|refused| format!("{refused:?}"))?;
        self.ends[0].post_sends()?;
        let failed = self.failure()?;
        println!("expected failure: {}", failed.result().err().ok_or("none")?);
        expect(failed.status() == Status::RemoteAccess, "the peer refuses the access")?;
        let sent = self.ends[0].take_sent(failed)?;
        expect(sent.read.is_some(), "the frame of a failed read comes back")
    }

    /// What is sent to a queue pair that is gone fails in time. This pair is dropped with receives
    /// posted and a send that nobody took back, whose frames come back all the same.
    fn peer_gone(self, arena: &Arena) -> Outcome {
        let Self { completions, mut batch, waiting, ends: [mut ours, mut theirs] } = self;
        theirs.queue_receive(arena.take()).map_err(|refused| format!("{refused:?}"))?;
        theirs.post_receives()?;
        drop(theirs);
        let page = arena.take().map(Frame::freeze);
        ours.queue_send(page, false, |_| 64).map_err(|refused| format!("{refused:?}"))?;
        ours.post_sends()?;
        let started = Instant::now();
        let failed = loop {
            completions.poll(&mut batch)?;
            let ours = batch.drain().find(|c| c.tag() == 0);
            if let Some(completion) = ours {
                break completion;
            }
            expect(started.elapsed() < LIMIT, "a lost peer is noticed in time")?;
        };
        let error = failed.result().err().ok_or("a send to nobody succeeded")?;
        println!("expected failure after {} ms: {error}", started.elapsed().as_millis());
        drop((waiting, ours));
        expect(failed.status() == Status::RetryExceeded, "the peer does not acknowledge")
    }

    /// An armed queue makes its channel readable.
    fn sleep(&mut self, arena: &Arena, carries_frames: bool) -> Outcome {
        self.completions.take_events()?;
        self.completions.arm()?;
        let write = |slot: &mut [u8; SLOT_BYTES]| {
            slot.fill(9);
            64
        };
        let page = if carries_frames { arena.take().map(Frame::freeze) } else { None };
        let sent = self.ends[0].queue_send(page, true, write);
        sent.map_err(|refused| format!("{refused:?}"))?;
        self.ends[0].post_sends()?;
        let deadline = Instant::now() + LIMIT;
        while self.completions.take_events()? == 0 {
            expect(Instant::now() < deadline, "an armed completion queue reports")?;
            std::thread::yield_now();
        }
        expect(self.arrival()?.message[0] == 9, "what woke is there")
    }

    /// Receives that are left come back as flushed, sends that nobody was told of are let go.
    fn drain(&mut self, arena: &Arena) -> Outcome {
        let (mut flushed, mut page) = (0, None);
        if self.ends[0].options().carries_frames {
            page = arena.take().map(Frame::freeze);
        }
        let sent = self.ends[0].queue_send(page, false, |_| 64);
        sent.map_err(|refused| format!("{refused:?}"))?;
        self.ends[0].post_sends()?;
        self.arrival()?;
        let left = self.ends[1].receives_posted();
        self.ends.iter_mut().try_for_each(QueuePair::begin_drain)?;
        let deadline = Instant::now() + LIMIT;
        while !self.ends.iter().all(QueuePair::is_drained) {
            self.completions.poll(&mut self.batch)?;
            for completion in self.waiting.drain(..).chain(self.batch.drain()) {
                let end = &mut self.ends[usize::from(completion.tag())];
                flushed += u32::from(completion.status() == Status::Flushed);
                match completion.work() {
                    Work::Receive { .. } => drop(end.take_receive(completion)?),
                    _ => drop(end.take_sent(completion)?),
                }
            }
            if Instant::now() > deadline {
                return Err(format!("not drained: {:?}", self.ends).into());
            }
        }
        println!("drained: {left} receives were left, {flushed} requests flushed");
        expect(left > 0 && flushed >= left, "receives that are left are flushed")
    }
}

/// What the device has sent and received, if its driver counts packets as rxe does.
fn packets(context: &Context, port: u8) -> Option<(u64, u64)> {
    let folder = format!("/sys/class/infiniband/{}/ports/{port}/hw_counters", context.name());
    let count = |name: &str| {
        fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    Some((count("sent_pkts")?, count("rcvd_pkts")?))
}

fn expect(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(format!("expected that {what}").into()) }
}
