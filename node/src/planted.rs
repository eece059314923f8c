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
pub use on::{BY_UNIT_TESTS, PLANTED, switch_on};

#[cfg(feature = "planted")]
mod on {
    use std::cell::Cell;

    /// Every planted bug that the simulator finds: its name, and what goes wrong.
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
        ("do_not_wait_for_acknowledgements", "X is taken as soon as the page is there"),
        ("forget_a_reader", "the last of the readers is not told to give the page up for a writer"),
        ("forget_past_image_holders", "a claim does not say who keeps a past image"),
        ("former_holders_stay_listed", "a writer's claim leaves the former holders in the entry"),
        ("the_last_reader_owns", "a reader's claim makes it the owner"),
        ("grant_what_is_lost", "what is lost is granted before its redo is applied"),
        ("forget_the_queue", "the next request is not granted when the page is shared"),
        ("do_not_wait_for_all_reports", "a new master does not wait for the first member's report"),
        ("await_reports_of_the_dead", "a new master waits for the reports of who has died"),
        ("keep_reports_of_the_dead", "what the dead reported of a partition counts"),
        (
            "serve_before_all_is_told",
            "a second request for a page of a partition that is being collected is answered at once",
        ),
        ("whole_is_an_end", "a partition that was told out of turn ends those before it as well"),
        (
            "forget_what_is_wanted",
            "a partition that is wanted is taken out of its turn and not told",
        ),
        ("whole_without_its_pages", "a partition that is wanted ends without what is held of it"),
        ("ends_before_what_is_wanted", "others are told, and ended, before what is wanted"),
        ("no_fence", "a query has the number of the last grant"),
        ("serve_the_dead", "requests of the dead stay queued"),
        ("do_not_repair_the_owner", "a page whose owner has died stays as it is"),
        ("wait_for_the_dead", "a grant that a dead instance has to acknowledge stays under way"),
        ("reuse_a_request_id", "every fourth request has the id of the one before"),
        ("ignore_the_fence", "a grant from before a query is taken"),
        (
            "drop_the_duty_of_an_acknowledgement",
            "the duty to write that an acknowledgement brings is lost",
        ),
        ("a_recovered_page_is_clean", "a past image that is newer than storage counts as written"),
        ("lose_a_claim", "every eighth claim is not sent"),
        ("grant_a_request_twice", "a request that waited stays queued when it is granted"),
        ("lose_an_acknowledgement", "PCM_INVALIDATED of every eighth grant is not sent"),
        ("evict_what_is_dirty", "a dirty page is released as it is"),
        ("keep_what_is_released", "what is released when a query comes stays held"),
        ("lose_the_duty", "a page is shipped for X without the duty to write it"),
        ("never_unsaved", "a dirty page is shipped for S as if it were on storage"),
        (
            "no_past_image_of_a_shipped_page",
            "a dirty page that was shipped away is forgotten when it has arrived",
        ),
        (
            "reinstate_beside_a_holder",
            "a copy in transit is held again though others hold the page",
        ),
        ("nobody_adopts_the_duty", "the duty to write of who died passes to nobody"),
        ("forget_what_was_in_transit", "a dirty copy in transit to one who died is no past image"),
        ("nothing_is_ever_lost", "a page that died with its holder is read from storage at once"),
        (
            "si_acknowledge_what_is_held_back",
            "invalidations are acknowledged that are not in the ring",
        ),
        ("si_forget_a_member", "invalidations count as delivered without the last member's word"),
        (
            "si_let_go_before_delivery",
            "a page is let go before what was published under it is delivered",
        ),
        ("si_lanes_in_any_order", "a batch of invalidations that overtook others is not held back"),
        ("si_no_reset_for_the_dead", "the ring is not reset when a publisher has died"),
    ];

    /// Those that no schedule of the simulator has found within 2,000 seeds; unit tests of the core find
    /// them (`si::core::tests`). Both need three things in a row, each rare by itself: a joiner caches
    /// what a page says and evicts the page, so that the publisher needs no word of it to write; all the
    /// while, the publisher's present view is older than that of the page's master; and the joiner is
    /// granted the page again before a stream to it has begun.
    pub const BY_UNIT_TESTS: &[(&str, &str)] = &[
        ("si_forget_the_later_view", "a later view in an acknowledgement holds no ticket up"),
        ("si_begin_without_reset", "the ring is not reset when a stream begins"),
    ];

    fn all() -> impl Iterator<Item = &'static str> {
        PLANTED.iter().chain(BY_UNIT_TESTS).map(|(name, _)| *name)
    }

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Switches one of [`PLANTED`] or [`BY_UNIT_TESTS`] on for this thread, or all off. False: there is
    /// none of that name.
    pub fn switch_on(name: Option<&str>) -> bool {
        let found = name.and_then(|name| all().find(|known| *known == name));
        ON.set(found);
        name.is_none() || found.is_some()
    }

    /// Whether the planted bug `name` is switched on.
    pub(crate) fn is(name: &str) -> bool {
        debug_assert!(all().any(|known| known == name), "{name} is not listed");
        ON.get() == Some(name)
    }
}
