//! The tests of `ucx_perftest` that we have the same of, and the figure that each is about.

/// Tests of `ucx_perftest` that we have the same of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Test {
    /// Round trips, tag matching.
    TagLat,
    /// Round trips, active messages.
    AmLat,
    /// One way, tag matching.
    TagBw,
    /// One way, active messages.
    AmBw,
}

/// What a test is about, and so which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    /// Microseconds of half a round trip, at the median: less is better.
    HalfRoundTrip,
    /// Messages a second: more is better.
    Rate,
}

impl Test {
    /// The name here.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TagLat => "tag_lat",
            Self::AmLat => "am_lat",
            Self::TagBw => "tag_bw",
            Self::AmBw => "am_bw",
        }
    }

    /// What `ucx_perftest -t` calls it. Its own `am_lat` is one of a lower layer.
    pub(super) fn of_ucx(self) -> &'static str {
        match self {
            Self::TagLat => "tag_lat",
            Self::AmLat => "ucp_am_lat",
            Self::TagBw => "tag_bw",
            Self::AmBw => "ucp_am_bw",
        }
    }

    pub(super) fn figure(self) -> Figure {
        match self {
            Self::TagLat | Self::AmLat => Figure::HalfRoundTrip,
            Self::TagBw | Self::AmBw => Figure::Rate,
        }
    }
}

impl Figure {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::HalfRoundTrip => "half_round_trip_p50_us",
            Self::Rate => "messages_per_s",
        }
    }

    pub(super) fn better(self) -> &'static str {
        match self {
            Self::HalfRoundTrip => "below 1: ours is faster",
            Self::Rate => "above 1: ours is faster",
        }
    }
}
