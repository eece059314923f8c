//! How figures are printed, the same for every benchmark: one JSON object, or a table for people.

use crate::{error::BenchError, pairing::Verdict};
use serde_json::{Value, json};
use std::io::{self, Write};

/// What is said of figures that nothing was run beside for comparison.
const NO_CONTROL: &str = "no control was run: only other runs tell whether the machine was steady";

/// The figures of a benchmark, ready to print.
pub(crate) trait Report {
    /// For programs, but for what [`Report::object`] adds.
    fn json(&self) -> Value;

    /// What the control says of the figures; `None`: there is no control.
    fn verdict(&self) -> Option<Verdict>;

    /// For people.
    fn lines(&self) -> Vec<String>;

    /// For programs: the figures, whether they are inconclusive, and what there is to say of them.
    fn object(&self) -> Value {
        let mut object = self.json();
        let verdict = self.verdict();
        let is_steady = |verdict: &Verdict| matches!(verdict, Verdict::Steady { .. });
        let warning = match &verdict {
            Some(verdict) if is_steady(verdict) => None,
            Some(verdict) => Some(verdict.to_string()),
            None => Some(NO_CONTROL.to_owned()),
        };
        object["inconclusive"] = json!(verdict.is_some_and(|verdict| !is_steady(&verdict)));
        object["warnings"] = json!(warning.as_slice());
        object
    }

    /// Prints the one or the other.
    ///
    /// # Errors
    /// As [`say`].
    fn print(&self, json: bool) -> Result<(), BenchError> {
        let text = if json { self.object().to_string() } else { self.lines().join("\n") };
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

    struct Figures(Option<Verdict>);

    impl Report for Figures {
        fn json(&self) -> Value {
            json!({ "p50_us": 1.5 })
        }

        fn verdict(&self) -> Option<Verdict> {
            self.0
        }

        fn lines(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn programs_are_told_of_figures_that_are_not_to_be_quoted() {
        for (verdict, inconclusive, warning) in [
            (Some(Verdict::of(1.01, 15)), false, None),
            (Some(Verdict::of(1.03, 15)), true, Some("inconclusive, run again")),
            (Some(Verdict::of(f64::NAN, 15)), true, Some("inconclusive, run again")),
            (Some(Verdict::of(1.0, 2)), true, Some("only 2 rounds")),
            (None, false, Some("no control")),
        ] {
            let object = Figures(verdict).object();
            assert_eq!(
                (&object["p50_us"], &object["inconclusive"]),
                (&1.5.into(), &inconclusive.into())
            );
            let warnings = object["warnings"].as_array().unwrap();
            assert_eq!(warnings.len(), usize::from(warning.is_some()), "{object}");
            for (told, words) in warnings.iter().zip(warning) {
                assert!(told.as_str().unwrap().contains(words), "'{words}' in: {told}");
            }
        }
    }

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
