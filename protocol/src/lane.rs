//! The lanes of a session, and what each travels on.

/// A lane of a session: FIFO and exactly-once in itself, unordered towards the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// What moves the protocol forward; never waits for what is below.
    Control = 0,
    /// New requests.
    Requests = 1,
    /// Shared invalidations.
    Si = 2,
    /// Messages that carry one frame.
    Pages = 3,
    /// Large transfers, frame by frame.
    Bulk = 4,
}

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 5;
    /// All lanes, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Control, Self::Requests, Self::Si, Self::Pages, Self::Bulk];

    /// The lane's number, for use as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lane that `byte` stands for on the wire.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The lane that `byte` stands for on the wire, if it is one whose messages have no frame.
    #[inline]
    #[must_use]
    pub const fn without_frame(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Control),
            1 => Some(Self::Requests),
            2 => Some(Self::Si),
            _ => None,
        }
    }

    /// Which connection (or queue pair) the lane travels on.
    #[must_use]
    pub const fn class(self) -> LaneClass {
        match self {
            Self::Control | Self::Requests | Self::Si => LaneClass::Small,
            Self::Pages => LaneClass::Page,
            Self::Bulk => LaneClass::Bulk,
        }
    }
}

/// Lanes that share one connection (or queue pair).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LaneClass {
    /// Messages without a frame, and every acknowledgement.
    Small = 0,
    /// One frame a message.
    Page = 1,
    /// One frame a message, kept from delaying the others.
    Bulk = 2,
}

impl LaneClass {
    /// Number of classes.
    pub const COUNT: usize = 3;
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Small, Self::Page, Self::Bulk];

    /// The class's number, for use as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The class that `byte` stands for on the wire.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// True when every message of the class (acknowledgements apart) carries one frame.
    #[must_use]
    pub const fn has_frame(self) -> bool {
        !matches!(self, Self::Small)
    }
}
