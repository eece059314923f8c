//! How figures are printed, the same for every benchmark: one JSON object, or a table for people.

use serde_json::Value;

/// The figures of a benchmark, ready to print.
pub(crate) trait Report {
    /// For programs.
    fn json(&self) -> Value;

    /// For people.
    fn lines(&self) -> Vec<String>;

    /// Prints the one or the other.
    fn print(&self, json: bool) {
        let text = if json { self.json().to_string() } else { self.lines().join("\n") };
        println!("{text}");
    }
}
