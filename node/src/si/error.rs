//! Why nothing is published, or nobody knows whether it is delivered.

/// Why [`Publisher::publish`](super::Publisher::publish) took nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Back-pressure.
    #[error(
        "as many messages wait to be published as can ({most}), expected room for these: try again \
         when earlier tickets are complete"
    )]
    Full {
        /// Messages that can wait.
        most: usize,
    },
    /// One batch with more messages than can ever wait.
    #[error("a batch of {found} messages, expected {most} at most: publish it in parts")]
    TooMany {
        /// Messages in it.
        found: usize,
        /// Messages that can wait.
        most: usize,
    },
    /// Others may have given this instance up.
    #[error("the lease of this instance is over, expected one that lasts: start the instance anew")]
    LeaseExpired,
    /// A guard of one instance and a publisher of another.
    #[error("the publisher is of another instance than the page's guard, expected one of the same")]
    OtherInstance,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a ticket is not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Not yet.
    #[error(
        "not all members have acknowledged after {limit_ms} ms; see which of them has no link \
         (`pagewire status`): one that has died counts when a view says so"
    )]
    Deadline {
        /// How long was waited.
        limit_ms: u64,
    },
    /// Others may have given this instance up.
    #[error(
        "the lease of this instance is over: some members may have what was published, and some not; \
         they reset with the view without this instance"
    )]
    LeaseExpired,
    /// The node has stopped.
    #[error("the node has stopped: some members may have what was published, and some not")]
    Stopped,
}
