//! Looks, and messages a second: alone, after each other, and at once.

use super::{Args, ring};
use crate::{cores, error::BenchError};
use core_affinity::CoreId;
use pagewire_protocol::InstanceId;
use pagewire_si::{RingWriter, SiEntry, SiRead, SiReader};
use std::{
    hint::{black_box, spin_loop},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const PUBLISHER: InstanceId = InstanceId(1);
/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured, a figure a round.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) has_new_ns: Vec<f64>,
    pub(super) has_new_busy_ns: Vec<f64>,
    pub(super) write_per_s: Vec<f64>,
    pub(super) read_per_s: Vec<f64>,
    pub(super) stream_per_s: Vec<f64>,
    /// Of the reader, in everything above.
    pub(super) allocations: u64,
}

/// What the writer's core does next.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// Writes as many messages as the ring holds.
    Fill,
    /// Writes the round's messages, held back to the reader.
    Stream,
    /// Writes until it is told to stop.
    Busy,
}

const TURNS: [Turn; 3] = [Turn::Fill, Turn::Stream, Turn::Busy];

/// What the two cores share besides the ring.
#[derive(Debug)]
struct Shared {
    /// Begin and end of each turn.
    barrier: Barrier,
    /// Sequence that the reader has read up to, for a writer that is held back.
    read: AtomicU64,
    stop: AtomicBool,
    /// The reader has failed: nobody waits for it.
    failed: AtomicBool,
}

impl Flow {
    pub(super) fn measure(args: &Args, [first, second]: [CoreId; 2]) -> Result<Self, BenchError> {
        let writer = ring(args.entries)?;
        let reader = writer.reader()?;
        let shared = Shared {
            barrier: Barrier::new(2),
            read: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        let mut flow = Self::default();
        thread::scope(|scope| {
            let theirs = scope.spawn(|| Writing { args, shared: &shared, writer }.run(second));
            let pinned = cores::pin(first);
            let reading = Reading {
                args,
                shared: &shared,
                reader,
                out: vec![SiEntry::default(); batch(args)],
            };
            let ours = reading.run(&mut flow);
            let written = theirs.join().expect("the writer's thread is not to panic")?;
            flow.write_per_s = written;
            pinned.and(ours)
        })?;
        Ok(flow)
    }
}

/// Messages written or read at once: half of the ring at most, so that a writer which is held back to
/// the reader has room for them.
fn batch(args: &Args) -> usize {
    usize::from(args.batch).min(args.entries as usize / 2)
}

struct Writing<'a> {
    args: &'a Args,
    shared: &'a Shared,
    writer: RingWriter,
}

impl Writing<'_> {
    /// Messages a second of each filling.
    fn run(mut self, core: CoreId) -> Result<Vec<f64>, BenchError> {
        let pinned = cores::pin(core);
        let batch = vec![[0; 16]; batch(self.args)];
        let mut rates = Vec::new();
        for _ in 0..self.args.run.rounds {
            for turn in TURNS {
                self.shared.barrier.wait();
                match turn {
                    Turn::Fill => rates.push(self.fill(&batch)),
                    Turn::Stream => self.stream(&batch),
                    Turn::Busy => {
                        while !self.shared.stop.load(Ordering::Relaxed) {
                            self.writer.write(PUBLISHER, &batch);
                        }
                    }
                }
                self.shared.barrier.wait();
            }
        }
        pinned.map(|()| rates)
    }

    fn fill(&mut self, batch: &[[u8; 16]]) -> f64 {
        let start = Instant::now();
        let mut left = self.args.entries as usize;
        while left > 0 {
            let count = left.min(batch.len());
            self.writer.write(PUBLISHER, black_box(&batch[..count]));
            left -= count;
        }
        f64::from(self.args.entries) / start.elapsed().as_secs_f64()
    }

    fn stream(&mut self, batch: &[[u8; 16]]) {
        let end = self.writer.head() + self.args.messages;
        let room = u64::from(self.args.entries) - batch.len() as u64;
        while self.writer.head() < end {
            while self.writer.head() > self.shared.read.load(Ordering::Acquire) + room {
                if self.shared.failed.load(Ordering::Relaxed) {
                    return;
                }
                spin_loop();
            }
            let left = usize::try_from(end - self.writer.head()).unwrap_or(usize::MAX);
            self.writer.write(PUBLISHER, &batch[..left.min(batch.len())]);
        }
    }
}

struct Reading<'a> {
    args: &'a Args,
    shared: &'a Shared,
    reader: SiReader,
    out: Vec<SiEntry>,
}

impl Reading<'_> {
    /// Takes part in every turn to the end, even when one has failed: the writer waits for it.
    fn run(mut self, flow: &mut Flow) -> Result<(), BenchError> {
        let mut result = Ok(());
        let info = allocation_counter::measure(|| {
            for _ in 0..self.args.run.rounds {
                for turn in TURNS {
                    let ended = self.turn(turn, flow);
                    result = std::mem::replace(&mut result, Ok(())).and(ended);
                }
            }
        });
        // The figures' own vectors grow now and then.
        flow.allocations = info.count_total.saturating_sub(flow.growths());
        result
    }

    fn turn(&mut self, turn: Turn, flow: &mut Flow) -> Result<(), BenchError> {
        self.shared.read.store(self.reader.cursor(), Ordering::Release);
        self.shared.stop.store(false, Ordering::Relaxed);
        self.shared.barrier.wait();
        let ended = match turn {
            Turn::Fill => {
                self.shared.barrier.wait();
                let start = Instant::now();
                let ended = self.read_all(self.args.entries.into());
                let rate = f64::from(self.args.entries) / start.elapsed().as_secs_f64();
                flow.read_per_s.push(rate);
                let look = self.looks();
                flow.has_new_ns.push(look);
                return ended;
            }
            Turn::Stream => {
                let start = Instant::now();
                let ended = self.read_all(self.args.messages);
                let took = start.elapsed().as_secs_f64();
                // Exact up to 2^53.
                #[allow(clippy::cast_precision_loss)]
                flow.stream_per_s.push(self.args.messages as f64 / took);
                ended
            }
            Turn::Busy => {
                let look = self.looks();
                flow.has_new_busy_ns.push(look);
                self.shared.stop.store(true, Ordering::Relaxed);
                Ok(())
            }
        };
        self.shared.failed.store(ended.is_err(), Ordering::Relaxed);
        self.shared.barrier.wait();
        if matches!(turn, Turn::Busy) {
            // Whatever came meanwhile is nobody's.
            while self.reader.has_new() {
                self.reader.read(&mut self.out);
            }
        }
        ended
    }

    fn read_all(&mut self, messages: u64) -> Result<(), BenchError> {
        let mut left = messages;
        let mut nothing = 0_u32;
        let end = Instant::now() + PATIENCE;
        while left > 0 {
            match self.reader.read(&mut self.out) {
                SiRead::Messages(0) => {
                    nothing = nothing.wrapping_add(1);
                    if nothing.is_multiple_of(1 << 16) && Instant::now() > end {
                        return Err(BenchError::Deadline { what: "messages", limit: PATIENCE });
                    }
                    spin_loop();
                }
                SiRead::Messages(count) => {
                    black_box(&self.out[..count]);
                    left -= count as u64;
                    self.shared.read.store(self.reader.cursor(), Ordering::Release);
                }
                SiRead::Reset | SiRead::Gone => {
                    return Err(BenchError::Reset { read: messages - left, written: messages });
                }
            }
        }
        Ok(())
    }

    /// Nanoseconds of a look.
    fn looks(&self) -> f64 {
        let start = Instant::now();
        for _ in 0..self.args.looks {
            black_box(self.reader.has_new());
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(self.args.looks)
    }
}

impl Flow {
    /// How often the vectors of this length have grown while they were filled one by one.
    fn growths(&self) -> u64 {
        let of = |len: usize| u64::from(len.max(4).next_power_of_two().ilog2()) - 1;
        [&self.has_new_ns, &self.has_new_busy_ns, &self.read_per_s, &self.stream_per_s]
            .iter()
            .map(|samples| of(samples.len()))
            .sum()
    }
}
