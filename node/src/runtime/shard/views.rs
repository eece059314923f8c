//! Views that move: whom the shard speaks to, which lives are over, and what the core is told.
//!
//! ```text
//!   gone  (was a member in that life)    end_incarnation, and remove_peer when no later life is one
//!   new   (is one, with an address)      add_peer, admit
//!   all                                  the view's number and hash for handshakes to come
//!   members                              CLUSTER_VIEW: number and hash; two of one number that differ
//!                                        take no page messages of each other
//!   core                                 Event::View, then what was parked
//! ```
//! A message of a later view than this instance has comes with [`Effect::Park`]: it is kept, page and
//! all, and handed in again before anything else once the view is there. How many can be kept is what
//! the credits of the sessions allow, for whoever is ahead waits for answers.
//!
//! [`Effect::Park`]: crate::grd::Effect::Park

use super::{Shard, arrival::Arrival};
use crate::{
    grd::{AcquireError, Event as Input},
    runtime::error::NodeError,
    view::View,
};
use pagewire_protocol::{
    Body, BufferTag, ClusterView, Epoch, GrantNumber, Incarnation, InstanceId, Lane, Lsn, Mode,
    Pcm, RequestId, cluster_view::CLUSTER_VIEW, pcm::Verdict,
};
use pagewire_transport::{Message, TransportError};
use std::{net::SocketAddr, sync::Arc};

impl Shard {
    /// Puts `view` in force; one that is not newer than the present one changes nothing. `addresses`
    /// are those of this shard's likes on the members that are new here. Whoever is no member any
    /// more has lost its lease.
    ///
    /// # Errors
    /// [`NodeError::TooManyPeers`] when there is no memory for so many, [`NodeError::Transport`] when
    /// a member's address is none to dial; and then nothing is done.
    pub fn install_view(
        &mut self,
        view: &Arc<View>,
        addresses: &[(InstanceId, SocketAddr)],
    ) -> Result<(), NodeError> {
        if view.epoch() <= self.grd.view().epoch() || self.is_fenced {
            return Ok(());
        }
        let me = self.identity();
        if view.member(me.0).is_none_or(|m| m.incarnation != me.1 && m.incarnation.0 != 0) {
            tracing::error!("view {} has this instance no more; it stops", view.epoch());
            self.lose_lease();
            return Ok(());
        }
        let others = || view.members().iter().filter(|member| member.id != me.0);
        if let Some(last) = others().nth(self.peers_max) {
            return Err(NodeError::TooManyPeers { peer: last.id, most: self.peers_max });
        }
        self.check_newcomers(view, addresses)?;
        let gone: Vec<_> = self.grd.view().gone(view).filter(|(id, _)| *id != me.0).collect();
        for (id, incarnation) in gone {
            self.end_life(id, incarnation);
            if view.member(id).is_none() {
                self.endpoint.remove_peer(id);
                self.outbox.remove_peer(id);
                tracing::info!("instance {id} is no member any more");
            }
        }
        for member in others() {
            let address = addresses.iter().find(|(id, _)| *id == member.id);
            if let (false, Some((_, address))) = (self.outbox.knows(member.id), address) {
                // It cannot fail: that was looked at before anything was done.
                self.add_peer(member.id, *address)?;
            }
            if member.incarnation.0 != 0
                && self.endpoint.admit(member.id, member.incarnation).is_some()
            {
                self.forget_life(member.id);
            }
        }
        self.endpoint.set_view(view.epoch(), view.hash());
        let ours = ClusterView { epoch: view.epoch(), hash: view.hash() };
        let ids: Vec<_> = others().map(|member| member.id).collect();
        for id in ids {
            self.say_view(id, &ours);
            if let Some(theirs) = self.views_said.get(&id).copied() {
                self.compare_views(id, &theirs, &ours);
            }
        }
        self.si_view(view);
        self.input(Input::View(Arc::clone(view)));
        self.run();
        Ok(())
    }

    /// Whether all members that are new here can be peers, so that nothing fails halfway.
    fn check_newcomers(
        &self,
        view: &View,
        addresses: &[(InstanceId, SocketAddr)],
    ) -> Result<(), NodeError> {
        let known = |id: InstanceId| id == self.me || self.outbox.knows(id);
        let members = view.members().iter().filter(|member| !known(member.id));
        let address = |id: InstanceId| addresses.iter().find(move |(of, _)| *of == id);
        let new: Vec<_> = members.filter_map(|member| address(member.id)).collect();
        let goes = |(id, _): &(InstanceId, Incarnation)| {
            *id != self.me && view.member(*id).is_none() && self.outbox.knows(*id)
        };
        let staying = self.outbox.peers() - self.grd.view().gone(view).filter(goes).count();
        if let Some((peer, _)) = new.get(self.peers_max.saturating_sub(staying)) {
            return Err(NodeError::TooManyPeers { peer: *peer, most: self.peers_max });
        }
        let none =
            |(_, to): &&&(InstanceId, SocketAddr)| to.port() == 0 || to.ip().is_unspecified();
        new.iter().find(none).map_or(Ok(()), |&&(peer, address)| {
            let problem = "is no address to dial, expected a host's and a port of 1 to 65535; the \
                           view came with it: nothing of that view is in force";
            Err(TransportError::Peer { peer, address, problem }.into())
        })
    }

    /// Tells a member which view is in force here.
    fn say_view(&mut self, to: InstanceId, ours: &ClusterView) {
        let body = Body::new(&ours.encode()).unwrap_or(Body::EMPTY);
        let message = Message { epoch: ours.epoch, ..Message::new(CLUSTER_VIEW, body) };
        self.outbox.send(&mut self.endpoint, to, Lane::Control, message, false);
    }

    /// A member says which view is in force there.
    pub(super) fn on_view_said(&mut self, from: InstanceId, body: &[u8]) {
        match ClusterView::decode(body) {
            Ok(theirs) => {
                self.views_said.insert(from, theirs);
                let view = self.grd.view();
                let ours = ClusterView { epoch: view.epoch(), hash: view.hash() };
                self.compare_views(from, &theirs, &ours);
            }
            Err(error) => {
                self.counters.bad_messages.add(1);
                tracing::warn!("instance {from} sent what is no CLUSTER_VIEW: {error}");
            }
        }
    }

    fn compare_views(&mut self, with: InstanceId, theirs: &ClusterView, ours: &ClusterView) {
        if !theirs.contradicts(ours) {
            self.contradicting.remove(&with);
        } else if self.contradicting.insert(with) {
            self.counters.views_contradicted.add(1);
            tracing::error!(
                "instance {with} has another view {} than this one (hash {:016x}, here {:016x}), \
                 expected the same: nothing that it says of pages counts; see that one membership \
                 layer decides for both",
                ours.epoch,
                theirs.hash,
                ours.hash
            );
        }
    }

    /// The life of a peer is over: its session, and everything that was on its way.
    fn end_life(&mut self, id: InstanceId, incarnation: Incarnation) {
        // A view made of ids alone says nothing of lives: the present one then.
        let session = self.endpoint.incarnation_of(id);
        let over = if incarnation.0 == 0 { session } else { Some(incarnation) };
        if let Some(over) = over {
            self.endpoint.end_incarnation(id, over);
        }
        // Where nobody had met the life that is over, the next one may have its session before the view
        // that says so: what it has said and is to get stays.
        if session.is_none() || session <= over {
            self.forget_life(id);
        }
    }

    /// What was for a life that is over must not reach the next.
    pub(super) fn forget_life(&mut self, id: InstanceId) {
        self.outbox.forget(id);
        self.guides.forget(id);
        self.up.remove(&id);
        self.linked.remove(&id);
        self.lost.remove(&id);
        self.contradicting.remove(&id);
        self.views_said.remove(&id);
        self.parked.retain(|arrival| arrival.sender() != Some(id));
    }

    /// Keeps an event of a later view.
    pub(super) fn park(&mut self, arrival: Arrival) {
        self.counters.parked.add(1);
        self.parked.push(arrival);
    }

    /// The view that was waited for may be there: what was parked comes before everything else.
    pub(super) fn unpark(&mut self) {
        for arrival in self.parked.drain(..).rev() {
            self.inputs.push_front(arrival);
        }
    }

    /// This instance may no longer act: pins, guards and storage fail from now on, and whoever waits
    /// is told.
    pub fn lose_lease(&mut self) {
        // Not later: the core's own word comes as an effect, after what it has to do before.
        self.arena.end_lease();
        self.input(Input::LeaseLost);
        self.run();
    }

    /// The core has fenced itself off: nothing that it was to do is done any more.
    pub(super) fn fence(&mut self) {
        self.arena.end_lease();
        self.is_fenced = true;
        self.shared.si.fence();
        self.waiting.clear();
        self.parked.clear();
        self.guides.clear();
        self.flushes.failed("the lease of this instance is over");
        self.flushes.abandon();
        tracing::error!("the lease of this instance is over: it serves no page any more");
    }

    /// What a thread is told that asks after the end.
    pub(super) fn fenced(&self, tag: BufferTag) -> Option<AcquireError> {
        self.is_fenced.then_some(AcquireError::LeaseExpired { tag })
    }

    /// A request goes elsewhere under the reservation that it has: one that still waits for its frame
    /// takes the new way, one that is on its way is sent again.
    pub(super) fn request_again(
        &mut self,
        to: InstanceId,
        tag: BufferTag,
        epoch: Epoch,
        message: Pcm,
    ) {
        if let Some(waiting) = self.waiting.iter_mut().find(|(_, of, ..)| *of == tag) {
            *waiting = (to, tag, epoch, message);
        } else if to == self.me {
            self.loop_back(tag, epoch, message);
        } else {
            self.send(to, tag, epoch, &message, None);
        }
    }

    /// Hands a message to this instance's own core.
    pub(super) fn loop_back(&mut self, tag: BufferTag, epoch: Epoch, message: Pcm) {
        let (from, incarnation) = self.identity();
        self.input(Input::Message { from, incarnation, epoch, tag, message });
    }

    /// A cancel of a request that has not left: it never will, and the answer is as good as there.
    /// True when that is so.
    pub(super) fn cancelled_here(&mut self, message: &Pcm) -> bool {
        let Pcm::Cancel { request } = message else { return false };
        let is_it =
            |waiting: &Pcm| matches!(waiting, Pcm::Acquire { request: r, .. } if r == request);
        let Some(at) = self.waiting.iter().position(|(.., waiting)| is_it(waiting)) else {
            return false;
        };
        let Some((to, tag, epoch, Pcm::Acquire { request, want, .. })) = self.waiting.remove(at)
        else {
            return false;
        };
        // As if it had left: its end gives the reservation back.
        self.outstanding += 1;
        let message = cancelled(request, want, self.me);
        let incarnation = Incarnation(0);
        self.input(Input::Message { from: to, incarnation, epoch, tag, message });
        true
    }
}

/// The answer to a request that was cancelled before it left.
fn cancelled(request: RequestId, mode: Mode, writer: InstanceId) -> Pcm {
    Pcm::Response {
        request,
        verdict: Verdict::Cancelled,
        mode,
        grant: GrantNumber(0),
        version: Lsn::ZERO,
        acks: 0,
        dirty: false,
        unsaved: false,
        past: false,
        writer,
    }
}
