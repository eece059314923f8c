//! Ids as types of their own, so that an epoch is never passed where a sequence is meant.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One member of the cluster, chosen by the operator; unique in the cluster.
    InstanceId(u16)
}
id! {
    /// One life of an instance: new at every start, greater than the ones before it.
    Incarnation(u64)
}
id! {
    /// Number of the membership view.
    Epoch(u64)
}
id! {
    /// Names the cluster; instances of different clusters refuse each other.
    ClusterId(u64)
}
id! {
    /// One of the [`crate::tag::PARTITIONS`] parts of the page directory.
    PartitionId(u16)
}
id! {
    /// Number of a grant of one page: each grant of the page has a greater one. 0 is "never".
    GrantNumber(u64)
}
id! {
    /// One endpoint of one process: drawn at random when it is bound, so that two that claim the same
    /// incarnation can be told apart.
    ProcessId(u64)
}
id! {
    /// Position of a message in its lane of a session; the first is 1, 0 is "none yet".
    Sequence(u64)
}
id! {
    /// Ties together the connections of one link: drawn at random by the side that dials.
    LinkNonce(u64)
}

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl GrantNumber {
    /// The grant number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one request for ever, so that it may be repeated without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RequestId {
    /// Who asks.
    pub instance: InstanceId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Counted from 1 in that life.
    pub sequence: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}:{}", self.instance, self.incarnation.0, self.sequence)
    }
}

/// PCM mode of one page on one instance. Ordered: a stronger mode is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Mode {
    /// Null: the instance holds no right to the page.
    #[default]
    N = 0,
    /// Shared: may read; others may hold S as well.
    S = 1,
    /// Exclusive: may read and write; nobody else holds S or X.
    X = 2,
}

impl Mode {
    /// The mode that `byte` stands for on the wire.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::N),
            1 => Some(Self::S),
            2 => Some(Self::X),
            _ => None,
        }
    }

    /// The byte that stands for this mode on the wire.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::N => "N",
            Self::S => "S",
            Self::X => "X",
        })
    }
}
