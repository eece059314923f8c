//! What a report says of members that came or went in mid-run.

use pagewire_protocol::InstanceId;
use serde::Serialize;
use std::{fmt, time::Duration};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// An instance was added.
    Join,
    /// One was retired.
    Leave,
}

/// One change, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// With which instance.
    pub instance: u16,
    /// When it began, in seconds after the workers started.
    pub at_s: f64,
    /// From the beginning until every partition was in use again and the instance at work, or gone,
    /// in milliseconds: the start of its process included.
    pub took_ms: f64,
    /// The longest that any worker waited for a page meanwhile, in milliseconds.
    pub longest_request_ms: f64,
}

impl Change {
    pub(super) fn new(
        what: What,
        instance: InstanceId,
        at: Duration,
        took: Duration,
        longest: Duration,
    ) -> Self {
        Self {
            what,
            instance: instance.0,
            at_s: at.as_secs_f64(),
            took_ms: ms(took),
            longest_request_ms: ms(longest),
        }
    }
}

/// To the microsecond: what is behind it is noise.
pub(super) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, instance, at_s, took_ms, longest_request_ms } = self;
        let done = match what {
            What::Join => "joined",
            What::Leave => "left",
        };
        write!(
            f,
            "instance {instance} {done} after {at_s:.1} s, in {took_ms:.0} ms; longest request \
             meanwhile {longest_request_ms:.1} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_and_an_object() {
        let ms = Duration::from_millis;
        let change = Change::new(What::Join, InstanceId(3), ms(1720), ms(85), ms(12));
        let line = "instance 3 joined after 1.7 s, in 85 ms; longest request meanwhile 12.0 ms";
        assert_eq!(change.to_string(), line);
        let json = serde_json::to_value(&change).expect("JSON");
        assert_eq!((&json["what"], &json["took_ms"]), (&"join".into(), &85.0.into()));
    }
}
