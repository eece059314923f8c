//! The last actions of a simulation, in words.

use pagewire_node::grd::{Effect, Event};
use pagewire_protocol::{Pcm, RequestId};
use std::collections::VecDeque;

/// Actions that are kept.
const KEPT: usize = 60;

/// Written only in the second run of a seed that failed: formatting costs more than the steps.
#[derive(Debug, Default)]
pub(super) struct Trace {
    on: bool,
    actions: VecDeque<String>,
}

impl Trace {
    pub(super) fn new(on: bool) -> Self {
        Self { on, actions: VecDeque::new() }
    }

    /// Begins a new action.
    pub(super) fn action(&mut self, step: u64, words: impl FnOnce() -> String) {
        if self.on {
            if self.actions.len() == KEPT {
                self.actions.pop_front();
            }
            self.actions.push_back(format!("{step:>6} {}", words()));
        }
    }

    /// Adds to the last action.
    pub(super) fn detail(&mut self, words: impl FnOnce() -> String) {
        if self.on
            && let Some(action) = self.actions.back_mut()
        {
            action.push_str("\n         ");
            action.push_str(&words());
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.actions.into()
    }
}

fn request_words(request: &RequestId) -> String {
    format!("{}#{}", request.instance, request.sequence)
}

pub(super) fn message_words(message: &Pcm) -> String {
    match message {
        Pcm::Acquire { request, want, .. } => {
            format!("ACQUIRE {want} for {}", request_words(request))
        }
        Pcm::Ship { request, want, grant, revokes, acks, .. } => format!(
            "SHIP {want} for {}, grant {grant} revokes {revokes}, acks {acks:b}",
            request_words(request)
        ),
        Pcm::Invalidate { request, revokes, .. } => {
            format!("INVALIDATE for {}, revokes {revokes}", request_words(request))
        }
        Pcm::Invalidated { request, dirty, .. } => {
            format!("INVALIDATED for {}{}", request_words(request), dirty_word(*dirty))
        }
        Pcm::Claim { request, mode, grant, version, .. } => {
            format!("CLAIM {mode} by {}, grant {grant}, v{}", request_words(request), version.0)
        }
        Pcm::Claimed { request, grant } => {
            format!("CLAIMED by {}, grant {grant}", request_words(request))
        }
        Pcm::Release { grant, version } => format!("RELEASE grant {grant}, v{}", version.0),
        Pcm::Released { grant } => format!("RELEASED grant {grant}"),
        Pcm::Written { grant, version } => format!("WRITTEN grant {grant}, v{}", version.0),
        Pcm::Response { request, verdict, mode, grant, version, acks, dirty, .. } => format!(
            "RESPONSE {verdict:?} {mode} to {}, grant {grant}, v{}, acks {acks:b}{}",
            request_words(request),
            version.0,
            dirty_word(*dirty)
        ),
        other => format!("{other:?}"),
    }
}

fn dirty_word(dirty: bool) -> &'static str {
    if dirty { ", dirty" } else { "" }
}

pub(super) fn event_words(event: &Event) -> String {
    match event {
        Event::Message { from, message, .. } => {
            format!("from {from}: {}", message_words(message))
        }
        Event::Acquire { mode, waiter, .. } => format!("waiter {} wants {mode}", waiter.0),
        Event::Withdraw { waiter, .. } => format!("waiter {} withdraws", waiter.0),
        Event::Drained { to, dirty, version, .. } => {
            format!("drained to {to}, v{}{}", version.0, dirty_word(*dirty))
        }
        Event::ReadDone { result: Ok(version), .. } => format!("read v{}", version.0),
        Event::ReadDone { result: Err(_), .. } => "read failed".to_owned(),
        Event::WriteDone { version, written, .. } => {
            format!("write of v{} {}", version.0, if *written { "done" } else { "failed" })
        }
        Event::Evict { .. } => "evict".to_owned(),
        Event::WriteBack { .. } => "write back".to_owned(),
        other => format!("{other:?}"),
    }
}

pub(super) fn effect_words(effect: &Effect) -> String {
    match effect {
        Effect::Send { to, message, .. } => format!("send {to}: {}", message_words(message)),
        Effect::Request { to, message, .. } => format!("request {to}: {}", message_words(message)),
        Effect::RequestOver { .. } => "request over".to_owned(),
        Effect::Ship { to, message, keep, .. } => {
            let keep = if *keep { "keep" } else { "give up" };
            format!("ship {to} and {keep}: {}", message_words(message))
        }
        Effect::Forget { grant, .. } => format!("forget the copy of grant {grant}"),
        Effect::Read { at_least, .. } => format!("read, at least v{}", at_least.0),
        Effect::Write { version, .. } => format!("write v{}", version.0),
        Effect::Lower { to, .. } => format!("lower to {to}"),
        Effect::Install { dirty, .. } => format!("install{}", dirty_word(*dirty)),
        Effect::MarkDirty { .. } => "mark dirty".to_owned(),
        Effect::Discard { .. } => "discard".to_owned(),
        Effect::Broken { problem, .. } => format!("broken: the page {problem}"),
        Effect::Complete { waiter, mode, path, .. } => {
            format!("complete waiter {} with {mode} ({path:?})", waiter.0)
        }
        Effect::Fail { waiter, error, .. } => match error {
            Some(error) => format!("fail waiter {}: {error}", waiter.0),
            None => format!("waiter {} has withdrawn", waiter.0),
        },
        Effect::Open { mode, .. } => format!("open {mode}"),
        Effect::Drop { .. } => "drop".to_owned(),
        other => format!("{other:?}"),
    }
}
