//! How figures are printed, the same for every benchmark: one JSON object, or a table for people.

use serde_json::Value;
use std::io::{self, Write};

/// The figures of a benchmark, ready to print.
pub(crate) trait Report {
    /// For programs.
    fn json(&self) -> Value;

    /// For people.
    fn lines(&self) -> Vec<String>;

    /// Prints the one or the other.
    fn print(&self, json: bool) {
        let text = if json { self.json().to_string() } else { self.lines().join("\n") };
        say(&text);
    }
}

/// A line on standard output. Whoever reads it may have gone (`pagewire-bench ... | head`): that is
/// no failure of the benchmark.
pub(crate) fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
