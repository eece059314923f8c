//! How figures are printed, the same for every benchmark: one JSON object, or a table for people.

use crate::error::BenchError;
use serde_json::Value;
use std::io::{self, Write};

/// The figures of a benchmark, ready to print.
pub(crate) trait Report {
    /// For programs.
    fn json(&self) -> Value;

    /// For people.
    fn lines(&self) -> Vec<String>;

    /// Prints the one or the other.
    ///
    /// # Errors
    /// As [`say`].
    fn print(&self, json: bool) -> Result<(), BenchError> {
        let text = if json { self.json().to_string() } else { self.lines().join("\n") };
        say(&text)
    }
}

/// A line on standard output. Whoever reads it may have gone (`pagewire-bench ... | head`): that is
/// no failure of the benchmark.
///
/// # Errors
/// [`BenchError::Output`] when it cannot be written for another reason.
pub(crate) fn say(line: &str) -> Result<(), BenchError> {
    say_to(&mut io::stdout().lock(), line)
}

fn say_to(out: &mut impl Write, line: &str) -> Result<(), BenchError> {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(BenchError::Output(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_forgiven() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        say_to(&mut writer, "figures").unwrap();
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = say_to(&mut full, "figures").unwrap_err().to_string();
        assert!(error.starts_with("cannot write to standard output: No space left"), "{error}");
        assert!(error.ends_with("; check where it goes"), "{error}");
    }
}
