//! What the two state machines say: effects, messages to this instance itself, and anomalies.

use super::{
    event::Effect,
    store::{Hashed, InstanceSet},
};
use crate::view::View;
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict,
};
use std::collections::VecDeque;

/// Things that no correct peer causes; each is counted and answered harmlessly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Anomalies {
    /// Requests for pages that this instance does not master.
    pub not_master: u64,
    /// Revocations of a page that is not held.
    pub not_holder: u64,
    /// Grants for no request that is under way.
    pub no_request: u64,
    /// Claims and releases that do not fit the directory.
    pub no_grant: u64,
    /// Responses that grant another mode than was asked for.
    pub wrong_mode: u64,
    /// Two instances reported what only one can have.
    pub contradicting_reports: u64,
}

/// What view changes and repairs make of messages that were on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fenced {
    /// Messages of an older partition epoch, answered with a NAK.
    pub stale_epoch: u64,
    /// Such answers that came.
    pub naks: u64,
    /// Messages of who is no member any more.
    pub not_member: u64,
    /// Messages that came before the view they belong to.
    pub parked: u64,
    /// Grants and acknowledgements numbered below the fence of a repair, or for a request that it
    /// has answered.
    pub late: u64,
    /// Masters that cleared what a dead instance held: FAULT_NODE_CLEAR.
    pub node_clears: u64,
}

/// Where the two state machines put what they want done.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) me: InstanceId,
    pub(super) view: &'a View,
    pub(super) loopback: &'a mut VecDeque<(Hashed, Pcm)>,
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) anomalies: &'a mut Anomalies,
    pub(super) fenced: &'a mut Fenced,
}

impl Out<'_> {
    pub(super) fn send(&mut self, to: InstanceId, tag: BufferTag, message: Pcm) {
        self.send_of(to, &Hashed::of(tag), message);
    }

    pub(super) fn send_of(&mut self, to: InstanceId, page: &Hashed, message: Pcm) {
        if to == self.me {
            self.loopback.push_back((*page, message));
        } else {
            let epoch = self.view.partition_epoch(page.partition());
            self.effects.push(Effect::Send { to, tag: page.tag, epoch, message });
        }
    }

    #[inline]
    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Everyone in the view.
    pub(super) fn members(&self) -> InstanceSet {
        let members = self.view.members().iter();
        members.fold(InstanceSet::default(), |set, member| set.with(member.id))
    }

    pub(super) fn refuse(
        &mut self,
        to: InstanceId,
        tag: BufferTag,
        request: RequestId,
        mode: Mode,
        verdict: Verdict,
    ) {
        self.refuse_grant(to, tag, request, mode, verdict, GrantNumber(0));
    }

    /// As [`Out::refuse`], for who was to ship the page under a grant.
    pub(super) fn refuse_grant(
        &mut self,
        to: InstanceId,
        tag: BufferTag,
        request: RequestId,
        mode: Mode,
        verdict: Verdict,
        grant: GrantNumber,
    ) {
        let message = Pcm::Response {
            request,
            verdict,
            mode,
            grant,
            version: Lsn::ZERO,
            acks: 0,
            dirty: false,
            unsaved: false,
            past: false,
            writer: self.me,
        };
        self.send(to, tag, message);
    }
}
