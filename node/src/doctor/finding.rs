//! One thing that was looked at, and what came of it.

use serde::Serialize;
use std::fmt;

/// What is to be done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing.
    Ok,
    /// Nothing has to be; Pagewire runs, but the host could serve it better.
    Note,
    /// Without a change Pagewire does not run as configured, or cannot use a device that is there.
    Change,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is to be done.
    pub level: Level,
    /// Which part of the host.
    pub area: &'static str,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What is expected.
    pub expected: String,
    /// The command or setting that changes it; none when nothing is to be done.
    pub change: Option<String>,
}

impl Finding {
    pub(super) fn new(area: &'static str, subject: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            area,
            subject: subject.into(),
            found: "unknown: this host does not say".to_owned(),
            expected: String::new(),
            change: None,
        }
    }

    pub(super) fn found(self, found: impl Into<String>) -> Self {
        Self { found: found.into(), ..self }
    }

    pub(super) fn expected(self, expected: impl Into<String>) -> Self {
        Self { expected: expected.into(), ..self }
    }

    /// To be noted if `is_so`: `change` would be better.
    pub(super) fn note_if(self, is_so: bool, change: impl Into<String>) -> Self {
        if is_so { self.at(Level::Note, change) } else { self }
    }

    /// To be changed if `is_so`, by `change`.
    pub(super) fn change_if(self, is_so: bool, change: impl Into<String>) -> Self {
        if is_so { self.at(Level::Change, change) } else { self }
    }

    fn at(self, level: Level, change: impl Into<String>) -> Self {
        Self { level, change: Some(change.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "OK",
            Level::Note => "note",
            Level::Change => "CHANGE",
        };
        write!(f, "{level:<7} {}: {}", self.subject, self.found)?;
        if !self.expected.is_empty() {
            write!(f, "; expected {}", self.expected)?;
        }
        self.change.iter().try_for_each(|change| write!(f, "; to change: {change}"))
    }
}

/// A size is told in a lesser unit, without a fraction, up to so many of them.
const EXACT_BELOW: u64 = 10_000;

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let is_short = |unit: u64| bytes.is_multiple_of(unit) && bytes / unit < EXACT_BELOW;
    let exact = units.iter().find(|(unit, _)| bytes >= *unit && is_short(*unit));
    if let Some((unit, name)) = exact {
        return format!("{} {name}", bytes / unit);
    }
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_exact_ones_stay_exact() {
        let sizes = [(0, "0 bytes"), (8192, "8 KiB"), (64 << 20, "64 MiB"), (1 << 30, "1 GiB")];
        for (bytes, text) in sizes.into_iter().chain([((1 << 30) + (1 << 29), "1536 MiB")]) {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(
            (size(1500).as_str(), size(u64::MAX).as_str()),
            ("1.4 KiB", "17179869183.9 GiB")
        );
    }

    #[test]
    fn a_line_tells_level_subject_and_what_to_do() {
        let finding = Finding::new("memory", "memlock").found("1").expected("2");
        assert_eq!(finding.to_string(), "OK      memlock: 1; expected 2");
        let finding = finding.change_if(true, "ulimit -l 2");
        assert_eq!(finding.to_string(), "CHANGE  memlock: 1; expected 2; to change: ulimit -l 2");
    }
}
