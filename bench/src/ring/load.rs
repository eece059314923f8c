//! A steady stream of messages, and a reader that looks now and then, as a backend does between its
//! statements: how often it has to reset its caches, by the size of the ring.

use super::{Args, ring};
use crate::{cores, error::BenchError, stats::rounded};
use core_affinity::CoreId;
use pagewire_protocol::InstanceId;
use pagewire_si::{SiEntry, SiRead, SiReader};
use serde_json::{Value, json};
use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Messages that are written together.
const TOGETHER: usize = 64;

/// What a reader met.
#[derive(Debug)]
pub(super) struct Load {
    entries: u32,
    messages: u64,
    read: u64,
    resets: u64,
    /// What the stream really came to.
    per_s: f64,
}

impl Load {
    pub(super) fn measure(
        args: &Args,
        entries: u32,
        [first, second]: [CoreId; 2],
    ) -> Result<Self, BenchError> {
        let mut writer = ring(entries)?;
        let reader = writer.reader()?;
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let pinned = cores::pin(second);
                let read = look_now_and_then(reader, args.load_pause_us, &is_over);
                pinned.map(|()| read)
            });
            let pinned = cores::pin(first);
            let start = Instant::now();
            let mut written = 0;
            let batch = [[0; 16]; TOGETHER];
            while pinned.is_ok() && written < args.load_messages {
                let due = u128::from(args.load_rate) * start.elapsed().as_nanos() / 1_000_000_000;
                if due < u128::from(written) {
                    spin_loop();
                    continue;
                }
                writer.write(InstanceId(1), &batch);
                written += TOGETHER as u64;
            }
            let took = start.elapsed().as_secs_f64();
            is_over.store(true, Ordering::Release);
            let (read, resets) = reading.join().expect("the reader's thread is not to panic")?;
            pinned?;
            // Exact up to 2^53.
            #[allow(clippy::cast_precision_loss)]
            let per_s = written as f64 / took;
            Ok(Self { entries, messages: written, read, resets, per_s })
        })
    }

    #[allow(clippy::cast_precision_loss)] // Exact up to 2^53.
    fn per_million(&self, count: u64) -> f64 {
        count as f64 * 1e6 / self.messages as f64
    }

    fn lost(&self) -> u64 {
        self.messages.saturating_sub(self.read)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "entries": self.entries,
            "messages": self.messages,
            "per_s": rounded(self.per_s),
            "resets": self.resets,
            "resets_per_million": rounded(self.per_million(self.resets)),
            "not_read_per_million": rounded(self.per_million(self.lost())),
        })
    }

    pub(super) fn line(&self) -> String {
        let (resets, lost) = (self.per_million(self.resets), self.per_million(self.lost()));
        format!(
            "  {:>8} entries: {resets:>8.2} resets a million messages, {lost:>9.0} of them not read",
            self.entries
        )
    }
}

/// Messages read and resets, until the stream is over.
fn look_now_and_then(mut reader: SiReader, pause_us: u32, is_over: &AtomicBool) -> (u64, u64) {
    let mut out = [SiEntry::default(); TOGETHER];
    let (mut read, mut resets) = (0, 0);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    loop {
        let was_over = is_over.load(Ordering::Acquire);
        while reader.has_new() {
            match reader.read(&mut out) {
                SiRead::Messages(count) => read += count as u64,
                SiRead::Reset => resets += 1,
                SiRead::Gone => return (read, resets),
            }
        }
        if was_over {
            return (read, resets);
        }
        // Statements take from no time to twice the mean.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = Duration::from_nanos((random >> 33) % (u64::from(pause_us) * 2000));
        let end = Instant::now() + pause;
        while Instant::now() < end {
            spin_loop();
        }
    }
}
