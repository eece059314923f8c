//! Bugs that tests plant, one at a time and by name, to see that they are found.
//!
//! Without the feature `planted` [`is`] is `false` at compile time and nothing of it is left in a
//! program. Only `pagewire-tests` turns the feature on.

/// The bugs of the session, each with what it does.
#[cfg(feature = "planted")]
pub const ALL: &[(&str, &str)] = &[
    ("session_replay_skips", "a new link begins one message after what the peer expects"),
    ("session_forget_unacknowledged", "what was sent on a lost link counts as acknowledged"),
    ("session_deliver_duplicate", "a message that comes again is handed up again"),
    ("session_ack_ahead", "a message is acknowledged before it is there"),
    ("session_lose_receive", "every eighth receive is not posted again"),
    ("session_double_credit", "a receive that is posted counts twice"),
    ("session_old_sent", "messages sent on the last link use up the credit of this one"),
    ("session_state_behind", "the handshake asks for a message that was acknowledged"),
    (
        "session_move_forgets_acks",
        "a move goes back to what the peer stated before it acknowledged",
    ),
    ("session_never_lazy", "acknowledgements that are not urgent never leave"),
    ("session_ignore_credit", "messages are sent for which no receive is posted"),
    ("session_keep_acknowledged", "an acknowledged message now and then stays in the window"),
];

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<&'static str> = const { Cell::new("") };
    }

    /// Plants the bug `name` for this thread; "" for none.
    pub fn choose(name: &'static str) {
        CHOSEN.set(name);
    }

    /// True when the bug `name` is planted.
    #[must_use]
    pub fn is(name: &str) -> bool {
        CHOSEN.get() == name
    }
}

#[cfg(feature = "planted")]
pub use chosen::{choose, is};

/// True when the bug `name` is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub(crate) const fn is(_name: &str) -> bool {
    false
}
