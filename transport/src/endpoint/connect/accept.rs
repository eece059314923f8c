//! The side that listens: connections that came in, and what becomes of their hellos.

use super::{
    MAX_INCOMING,
    attempt::{Authenticated, Forming},
    explain, refused_by_us,
    wire::{fresh_nonce, is_first, is_last, position, read_some, write_whole},
};
use crate::{
    endpoint::{
        Endpoint,
        log_limit::{Who, Why},
        token::incoming_token,
    },
    error::LinkError,
};
use mio::{Interest, net::TcpStream};
use pagewire_protocol::{
    Incarnation,
    hello::{Acceptor, AcceptorStep, Hello, ProofKey, Refusal},
};
use std::{io::ErrorKind, net::SocketAddr, time::Instant};

/// A connection that came in and has not proven its hello. Its size is fixed.
#[derive(Debug)]
pub(in crate::endpoint) struct Incoming {
    stream: TcpStream,
    address: SocketAddr,
    shake: Acceptor,
    deadline: Instant,
}

impl Incoming {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Goes on with the handshake; the dialler's hello once it is proven.
    fn progress(&mut self, key: ProofKey<'_>) -> Result<Option<Hello>, LinkError> {
        loop {
            let Some(count) = read_some(&mut self.stream, self.shake.room())? else {
                return Ok(None);
            };
            match self.shake.filled(count, key)? {
                AcceptorStep::More => {}
                AcceptorStep::Reply(reply) => write_whole(&mut self.stream, &reply)?,
                AcceptorStep::Proven(hello) => return Ok(Some(hello)),
            }
        }
    }
}

impl Endpoint {
    pub(super) fn accept(&mut self) {
        self.accept_again = false;
        loop {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    self.counters.accepted.add(1);
                    self.take_in(stream, address);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // Out of file descriptors, say: the connection waits, others go on. There will
                    // be no further event for it.
                    let words = explain::out_of_descriptors(&e, self.peers.len());
                    let words = words.unwrap_or_else(|| e.to_string());
                    let told = format_args!("a connection cannot be accepted: {words}");
                    self.complain(Who::This, Why::NoConnection, told);
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, mut stream: TcpStream, address: SocketAddr) {
        let nonce = match fresh_nonce() {
            Ok(nonce) => nonce,
            Err(error) => {
                self.counters.handshakes_dropped.add(1);
                let told = format_args!("connection from {address} dropped: {error}");
                self.complain(Who::This, Why::NoConnection, told);
                return;
            }
        };
        let Some(place) = self.place_for_one_more() else { return };
        let _ = stream.set_nodelay(true);
        let token = incoming_token(place);
        if self.os.registry().register(&mut stream, token, Interest::READABLE).is_err() {
            return;
        }
        let deadline = Instant::now() + self.config.handshake_timeout;
        let shake = Acceptor::new(self.config.proof_key().is_some(), nonce);
        self.incoming[place] = Some(Incoming { stream, address, shake, deadline });
        self.progress_incoming(place);
    }

    /// A free place. When all are taken, the oldest that has not introduced itself goes, or else the
    /// oldest: whoever comes and says nothing does not keep a peer out, and a peer needs its place
    /// for two round trips only.
    fn place_for_one_more(&mut self) -> Option<usize> {
        if let Some(free) = self.incoming.iter().position(Option::is_none) {
            return Some(free);
        }
        let rank =
            |incoming: &Incoming| (incoming.shake.dialler_nonce().is_some(), incoming.deadline);
        let places = self.incoming.iter().enumerate();
        let taken = places.filter_map(|(at, incoming)| Some((rank(incoming.as_ref()?), at)));
        let (_, oldest) = taken.min()?;
        if let Some(Incoming { address, .. }) = self.incoming[oldest].take() {
            self.counters.handshakes_dropped.add(1);
            let told = format_args!(
                "connection from {address} dropped for a newer one: {MAX_INCOMING} are in handshake"
            );
            self.complain(Who::Address(address.ip()), Why::Crowded, told);
        }
        Some(oldest)
    }

    pub(super) fn drop_slow_incoming(&mut self, now: Instant) {
        for place in 0..self.incoming.len() {
            let is_slow = |incoming: &mut Incoming| incoming.deadline <= now;
            if let Some(slow) = self.incoming[place].take_if(is_slow) {
                self.counters.handshakes_dropped.add(1);
                let limit_ms = self.config.handshake_timeout.as_millis();
                let Incoming { address, shake, .. } = slow;
                let (step, got) =
                    (if shake.dialler_nonce().is_some() { 3 } else { 1 }, shake.got());
                let told = format_args!(
                    "connection from {address} dropped: its handshake was not over in {limit_ms} \
                     ms; {got} bytes of message {step} had come"
                );
                self.complain(Who::Address(address.ip()), Why::Slow, told);
            }
        }
    }

    pub(super) fn progress_incoming(&mut self, place: usize) {
        let taken = self.incoming.get_mut(place).and_then(Option::take);
        let Some(mut incoming) = taken else { return };
        match incoming.progress(self.config.proof_key()) {
            Ok(None) => self.incoming[place] = Some(incoming),
            Ok(Some(hello)) => {
                if let Some(nonce) = incoming.shake.dialler_nonce() {
                    self.gate.remember(nonce);
                }
                self.answer(incoming, &hello);
            }
            Err(error) => self.turn_away(incoming, &error),
        }
    }

    /// Nothing was proven: counts it, and tells the other side if it may be a peer.
    fn turn_away(&mut self, mut incoming: Incoming, error: &LinkError) {
        let address = incoming.address;
        let who = Who::Address(address.ip());
        if let Some(rejection) = refused_by_us(error) {
            let why = self.count_unproven(&rejection, incoming.shake.dialler_nonce());
            let bytes = incoming.shake.refuse(rejection.refusal);
            let _ = write_whole(&mut incoming.stream, bytes.as_slice());
            let process = format_args!("the process at {address}");
            let detail = match why {
                Why::Replay => explain::replayed(process),
                _ => explain::unproven(&rejection, process, false),
            };
            self.complain(who, why, format_args!("connection refused: {detail}"));
            return;
        }
        self.counters.not_a_hello.add(1);
        let got = incoming.shake.got();
        match error {
            LinkError::Handshake(problem) => {
                let told = format_args!("connection from {address} closed: {problem}");
                self.complain(who, Why::NoHandshake, told);
            }
            _ => {
                let told = format_args!(
                    "connection from {address} ended in its handshake, {got} bytes into a message: \
                     {error}"
                );
                self.complain(who, Why::Cut, told);
            }
        }
    }

    /// Whether the sender of a proven hello gets a link; its place among the peers.
    fn judge(&self, hello: &Hello) -> Result<usize, Refusal> {
        if position(hello.class).is_none() {
            return Err(Refusal::Class);
        }
        if hello.cluster != self.config.cluster {
            return Err(Refusal::Cluster);
        }
        if hello.to != self.config.instance {
            return Err(Refusal::WrongTarget);
        }
        if hello.instance == self.config.instance {
            return Err(Refusal::DuplicateInstance);
        }
        let slot = self.slot(hello.instance).ok_or(Refusal::UnknownInstance)?;
        if hello.page_size != self.arena.page_size() {
            return Err(Refusal::PageSize);
        }
        let ours = self.hello(hello.instance, hello.class, hello.nonce);
        if !hello.fits_storage_of(&ours) {
            return Err(Refusal::Storage);
        }
        if !hello.fits_view_of(&ours) {
            return Err(Refusal::View);
        }
        if (hello.shard, hello.shards) != (self.config.shard, self.config.shards) {
            return Err(Refusal::Shard);
        }
        self.judge_life(slot, hello)?;
        self.judge_turn(slot, hello)?;
        Ok(slot)
    }

    fn judge_life(&self, slot: usize, hello: &Hello) -> Result<(), Refusal> {
        let peer = &self.peers[slot];
        if peer.is_over(hello.incarnation) {
            return Err(Refusal::Ended);
        }
        if let Some(known) = peer.incarnation {
            if hello.incarnation < known {
                return Err(Refusal::Ended);
            }
            let is_later = hello.incarnation > known;
            // Another process has nothing of the session, so it cannot go on with it, linked or not.
            let is_other = !is_later && peer.process != Some(hello.process);
            if is_other || (is_later && peer.link.is_some()) {
                return Err(Refusal::DuplicateInstance);
            }
        }
        if self.is_return(slot, hello.incarnation) {
            return Err(Refusal::NoReturn);
        }
        Ok(())
    }

    fn judge_turn(&self, slot: usize, hello: &Hello) -> Result<(), Refusal> {
        match &self.peers[slot].forming {
            // Both dialled, and the peer may have heard of it: the greater id's link goes first.
            Some(f) if f.is_ours_and_told() && self.config.instance > hello.instance => {
                Err(Refusal::Busy)
            }
            Some(f) if f.awaits(hello) => Ok(()),
            _ if is_first(hello.class) => Ok(()),
            _ => Err(Refusal::Busy),
        }
    }

    /// True when `incarnation` is a later life than one that took part, and must not.
    pub(super) fn is_return(&self, slot: usize, incarnation: Incarnation) -> bool {
        let peer = &self.peers[slot];
        let earlier = peer.incarnation.or(peer.ended);
        let may_return = self.config.peers_may_return || peer.admitted == Some(incarnation);
        !may_return && earlier.is_some_and(|earlier| incarnation > earlier)
    }

    /// Answers a proven hello: takes the connection into the link it belongs to, or says why not.
    fn answer(&mut self, mut incoming: Incoming, theirs: &Hello) {
        let mut reply = self.hello(theirs.instance, theirs.class, theirs.nonce);
        let slot = match self.judge(theirs) {
            Ok(slot) => slot,
            Err(refusal) => {
                reply.refusal = Some(refusal);
                self.refuse(incoming, refusal, theirs, &reply);
                return;
            }
        };
        if is_first(theirs.class) {
            self.end_older(slot, theirs.incarnation);
            let deadline = Instant::now() + self.config.handshake_timeout;
            self.peers[slot].forming = Some(Forming::theirs(theirs, deadline));
        }
        // From here on nothing comes from an older link: see the module.
        let posted = is_last(theirs.class).then(|| {
            self.link_down(slot, LinkError::Replaced);
            self.post_receives()
        });
        if let Some(posted) = &posted {
            (reply.expected, reply.credits) = (self.expected(slot), posted.credits);
        }
        let (bytes, secret) = incoming.shake.answer(&reply, self.config.proof_key());
        if write_whole(&mut incoming.stream, &bytes).is_err() {
            self.peers[slot].forming = None;
            return;
        }
        let Some(forming) = &mut self.peers[slot].forming else { return };
        forming.add(theirs.class, Authenticated::new(incoming.stream, secret));
        if let Some(posted) = posted {
            self.establish(slot, posted, theirs);
        }
    }

    fn refuse(&mut self, mut incoming: Incoming, refusal: Refusal, theirs: &Hello, reply: &Hello) {
        self.counters.refused.add(1);
        if let (Refusal::NoReturn, Some(slot)) = (refusal, self.slot(theirs.instance)) {
            // That it is back says that its former life is over.
            self.end_older(slot, theirs.incarnation);
        }
        if refusal != Refusal::Busy {
            let (address, detail) =
                (incoming.address, explain::proven(refusal, theirs, reply, false));
            let told = format_args!("connection from {address} refused: {detail}");
            self.complain(Who::Peer(theirs.instance), Why::Refused(refusal), told);
        }
        let (bytes, _) = incoming.shake.answer(reply, self.config.proof_key());
        let _ = write_whole(&mut incoming.stream, &bytes);
    }
}
