//! Follows a ring: from the end, through resets, writers that come and go, and rings that are replaced.

use super::{SiError, Source, text::Met};
use pagewire_si::{RingFault, RingState, SiEntry, SiRead, SiReader};
use std::{
    io::{self, ErrorKind, Write},
    thread,
    time::{Duration, Instant},
};

/// Entries read at once.
const BATCH: usize = 256;
/// Between two looks when nothing comes: people read this.
const PAUSE: Duration = Duration::from_millis(2);
/// Looks in vain between two questions to the system for the writer.
const LOOKS: u32 = 50;
/// How long a ring that is just being replaced is waited for.
const REPLACED_MAX: Duration = Duration::from_secs(2);
/// How long one that has been removed is: an instance may be started again meanwhile.
const REMOVED_MAX: Duration = Duration::from_secs(60);
/// Between two looks for it.
const REMOVED_PAUSE: Duration = Duration::from_millis(50);

/// Prints what comes until `count` messages have, or whoever reads `out` has gone.
pub(super) fn follow(
    source: &Source,
    count: Option<u64>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), SiError> {
    let mut tail = Tail { source, left: count, json, out };
    match tail.run() {
        // `pagewire si tail ... | head`
        Err(SiError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

struct Tail<'a, W> {
    source: &'a Source,
    /// Messages until the end.
    left: Option<u64>,
    json: bool,
    out: &'a mut W,
}

impl<W: Write> Tail<'_, W> {
    fn run(&mut self) -> Result<(), SiError> {
        let mut is_first = true;
        loop {
            // Where there is none to begin with, it is a mistake rather than a restart.
            let patience = if is_first { Duration::ZERO } else { REMOVED_MAX };
            let mut reader = self.attach(patience)?;
            is_first = false;
            self.say(&Met::Attached { path: &self.source.path, reader: &reader })?;
            if self.read_to_the_end(&mut reader)? {
                return Ok(());
            }
            self.say(&Met::Gone)?;
        }
    }

    /// True when all messages that were wanted have come, false when the ring is gone.
    fn read_to_the_end(&mut self, reader: &mut SiReader) -> Result<bool, SiError> {
        let mut batch = [SiEntry::default(); BATCH];
        let (mut looks, mut had_writer) = (0, true);
        loop {
            if !reader.has_new() {
                self.out.flush()?;
                if looks == 0 && !self.look_for_writer(reader, &mut had_writer)? {
                    return Ok(false);
                }
                looks = (looks + 1) % LOOKS;
                thread::sleep(PAUSE);
                continue;
            }
            looks = 0;
            let room = self.left.map_or(BATCH, |left| usize::try_from(left).unwrap_or(BATCH));
            match reader.read(&mut batch[..room.min(BATCH)]) {
                SiRead::Messages(count) => {
                    for entry in &batch[..count] {
                        self.say(&Met::Message(entry))?;
                    }
                    if let Some(left) = &mut self.left {
                        *left -= count as u64;
                        if *left == 0 {
                            self.out.flush()?;
                            return Ok(true);
                        }
                    }
                }
                SiRead::Reset => self.say(&Met::Reset(reader))?,
                SiRead::Gone => return Ok(false),
            }
        }
    }

    /// Says when the writer has come or gone; false when the ring is gone.
    fn look_for_writer(
        &mut self,
        reader: &SiReader,
        had_writer: &mut bool,
    ) -> Result<bool, SiError> {
        let has_writer = match reader.state()? {
            RingState::Gone => return Ok(false),
            RingState::Written => true,
            RingState::NoWriter => false,
        };
        if has_writer != *had_writer {
            *had_writer = has_writer;
            let met = if has_writer { Met::Writer(reader) } else { Met::NoWriter };
            self.say(&met)?;
            self.out.flush()?;
        }
        Ok(true)
    }

    fn say(&mut self, met: &Met<'_>) -> io::Result<()> {
        writeln!(self.out, "{}", met.line(self.json))
    }

    /// Attaches; waits a moment for a ring that is just being replaced, and for so long for one that is
    /// not there.
    fn attach(&mut self, absent_max: Duration) -> Result<SiReader, SiError> {
        let mut since = Instant::now();
        let mut fault = None;
        let mut is_told = false;
        loop {
            let error = match SiReader::attach(&self.source.path, self.source.cluster) {
                Ok(reader) => return Ok(reader),
                Err(error) => error,
            };
            // Each has its own time.
            if fault.as_ref() != error.ring_fault() {
                (fault, since) = (error.ring_fault().cloned(), Instant::now());
            }
            let (limit, pause) = match error.ring_fault() {
                Some(RingFault::Replaced) => (REPLACED_MAX, PAUSE),
                Some(RingFault::Absent) => (absent_max, REMOVED_PAUSE),
                _ => (Duration::ZERO, PAUSE),
            };
            if since.elapsed() >= limit {
                return Err(error.into());
            }
            if !is_told && error.ring_fault() == Some(&RingFault::Absent) {
                is_told = true;
                let path = &self.source.path;
                self.say(&Met::Waiting { path, limit_s: limit.as_secs() })?;
                self.out.flush()?;
            }
            thread::sleep(pause);
        }
    }
}
