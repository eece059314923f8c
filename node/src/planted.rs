//! Planted bugs: each a single line of the directory that goes wrong when its name is switched on,
//! so that the simulator can show that it would find it. Only builds with the feature `planted` have
//! them; in all others [`is`] is a constant `false` and costs nothing.

/// Whether the planted bug `name` is switched on.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
pub(crate) use on::is;
#[cfg(feature = "planted")]
pub use on::{PLANTED, switch_on};

#[cfg(feature = "planted")]
mod on {
    use std::cell::Cell;

    /// Every planted bug: its name, and what goes wrong.
    pub const PLANTED: &[(&str, &str)] = &[
        (
            "accept_any_epoch",
            "messages of an old partition epoch are handled as if they were of this one",
        ),
        ("never_tell_the_shipper", "PCM_CLAIMED goes to the claimant only"),
        ("never_discard", "nobody is told that a version is on storage"),
        ("ship_before_flush", "a dirty page is shipped before its redo is durable"),
        ("write_before_flush", "a dirty page is written before its redo is durable"),
        (
            "no_past_image_of_an_invalidated_page",
            "whoever acknowledges a dirty page keeps no past image",
        ),
        ("discard_any_past_image", "PCM_DISCARD drops a past image that is newer, too"),
        ("unsaved_counts_as_written", "who does not know that its copy is on storage says it is"),
        ("do_not_wait_for_acknowledgements", "X is taken as soon as the page is there"),
    ];

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Switches one of [`PLANTED`] on for this thread, or all off. False: there is none of that name.
    pub fn switch_on(name: Option<&str>) -> bool {
        let known =
            |name: &str| PLANTED.iter().map(|(known, _)| *known).find(|known| *known == name);
        let found = name.and_then(known);
        ON.set(found);
        name.is_none() || found.is_some()
    }

    /// Whether the planted bug `name` is switched on.
    pub(crate) fn is(name: &str) -> bool {
        debug_assert!(PLANTED.iter().any(|(known, _)| *known == name), "{name} is not listed");
        ON.get() == Some(name)
    }
}
