//! The side that opens connections.

use super::{
    attempt::{Authenticated, Dial, Forming},
    explain, refused_by_us,
    wire::{fresh_nonce, is_first, is_last, position, write_whole},
};
use crate::{
    endpoint::{
        Endpoint,
        log_limit::{Who, Why},
        token::dial_token,
    },
    error::LinkError,
    link::tcp::CONNECTIONS,
};
use mio::{Interest, net::TcpStream};
use pagewire_protocol::{
    LaneClass, LinkNonce,
    hello::{Dialler, DiallerStep, HandshakeError, Hello, Refusal},
};
use std::{
    io::{self, ErrorKind},
    time::Instant,
};

impl Endpoint {
    pub(super) fn dial(&mut self, slot: usize, now: Instant) {
        self.peers[slot].retry_soon(now);
        let Ok(nonce) = getrandom::u64() else { return };
        let deadline = now + self.config.handshake_timeout;
        self.peers[slot].forming = Some(Forming::ours(LinkNonce(nonce), deadline));
        self.counters.dials.add(1);
        self.dial_class(slot, CONNECTIONS[0]);
    }

    fn dial_class(&mut self, slot: usize, class: LaneClass) {
        let address = self.peers[slot].address;
        let connected = fresh_nonce().and_then(|nonce| {
            let mut stream = TcpStream::connect(address)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.os.registry().register(&mut stream, dial_token(slot, class), interest)?;
            Ok((stream, nonce))
        });
        let Some(forming) = &mut self.peers[slot].forming else { return };
        match connected {
            Ok((stream, nonce)) => {
                let shake = Dialler::new(self.config.proof_key().is_some(), nonce);
                let (is_connected, said, posted) = (false, None, None);
                forming.dial = Some(Dial { class, stream, shake, is_connected, said, posted });
            }
            Err(error) => {
                let id = self.peers[slot].id;
                let Some(words) = explain::out_of_descriptors(&error, self.peers.len()) else {
                    return self.unreachable(slot, &error.into());
                };
                let told = format_args!("no link with instance {id}: {words}");
                self.complain(Who::This, Why::NoConnection, told);
                self.no_link(slot, words);
            }
        }
    }

    pub(super) fn progress_dial(&mut self, slot: usize) {
        let dial = self.peers[slot].forming.as_mut().and_then(|forming| forming.dial.take());
        let Some(mut dial) = dial else { return };
        loop {
            match dial.progress(self.config.proof_key()) {
                Ok(DiallerStep::More) => {
                    if let Some(forming) = &mut self.peers[slot].forming {
                        forming.dial = Some(dial);
                    }
                    return;
                }
                Ok(DiallerStep::Speak) => {
                    if let Err(error) = self.speak(slot, &mut dial) {
                        return self.dial_failed(slot, &error);
                    }
                }
                Ok(DiallerStep::Proven(answer)) => return self.dial_answered(slot, dial, &answer),
                Err(error) => return self.dial_failed(slot, &error),
            }
        }
    }

    /// Says our hello; on the last connection also what the link starts from on our side. There is
    /// no link now, so it stays true.
    fn speak(&mut self, slot: usize, dial: &mut Dial) -> Result<(), LinkError> {
        let peer = &self.peers[slot];
        let Some(forming) = &peer.forming else { return Err(LinkError::Closed) };
        debug_assert!(peer.link.is_none());
        let mut hello = self.hello(peer.id, dial.class, forming.nonce());
        if is_last(dial.class) {
            let posted = self.post_receives();
            (hello.expected, hello.credits) = (self.expected(slot), posted.credits);
            dial.posted = Some(posted);
        }
        let bytes = dial.shake.speak(&hello, self.config.proof_key());
        dial.said = Some(hello);
        write_whole(&mut dial.stream, &bytes)
    }

    /// Without a proven answer.
    fn dial_failed(&mut self, slot: usize, error: &LinkError) {
        let (id, address) = (self.peers[slot].id, self.peers[slot].address);
        let who = format_args!("instance {id} at {address}");
        let reason = if let Some(rejection) = refused_by_us(error) {
            let why = self.count_unproven(&rejection, None);
            let detail = explain::unproven(&rejection, who, false);
            self.complain(Who::Peer(id), why, format_args!("no link: {detail}"));
            detail
        } else if let LinkError::Handshake(HandshakeError::RefusedByPeer(rejection)) = error {
            let detail = explain::unproven(rejection, who, true);
            self.counters.refused_unproven.add(1);
            self.refused_by(slot, rejection.refusal, false, detail.clone());
            detail
        } else if let LinkError::Handshake(problem) = error {
            self.counters.not_a_hello.add(1);
            let told = format_args!("no link with {who}: {problem}");
            self.complain(Who::Peer(id), Why::NoHandshake, told);
            problem.to_string()
        } else {
            return self.unreachable(slot, error);
        };
        self.no_link(slot, reason);
    }

    /// The answer is proven; it may still refuse.
    fn dial_answered(&mut self, slot: usize, dial: Dial, answer: &Hello) {
        let Some(ours) = dial.said else { return };
        let is_meant = answer.instance == ours.to && answer.cluster == ours.cluster;
        if let Some(refusal) = answer.refusal {
            if refusal == Refusal::Ended && is_meant {
                // Our life is over there, and with it the session: nothing will answer for it.
                self.end_life(slot);
            }
            if refusal == Refusal::Busy {
                // Its own link is on the way.
                return self.forming_failed(slot, LinkError::Refused(refusal));
            }
            let detail = explain::proven(refusal, answer, &ours, true);
            self.refused_by(slot, refusal, true, detail.clone());
            return self.no_link(slot, detail);
        }
        let fits = is_meant
            && (answer.nonce, answer.class) == (ours.nonce, ours.class)
            && (answer.shard, answer.shards) == (ours.shard, ours.shards)
            && answer.page_size == ours.page_size
            && answer.fits_view_of(&ours);
        if !fits {
            return self.refused_answer(slot, Refusal::WrongTarget, answer, &ours);
        }
        if !answer.fits_storage_of(&ours) {
            return self.refused_answer(slot, Refusal::Storage, answer, &ours);
        }
        let peer = &self.peers[slot];
        let is_over = peer.incarnation.is_some_and(|known| answer.incarnation < known)
            || peer.is_over(answer.incarnation);
        if is_over {
            return self.refused_answer(slot, Refusal::Ended, answer, &ours);
        }
        if self.is_return(slot, answer.incarnation) {
            self.end_older(slot, answer.incarnation);
            return self.refused_answer(slot, Refusal::NoReturn, answer, &ours);
        }
        let is_other =
            peer.incarnation == Some(answer.incarnation) && peer.process != Some(answer.process);
        let is_same = is_first(dial.class)
            || peer.forming.as_ref().is_some_and(|f| f.is_with(answer.incarnation, answer.process));
        if is_other || !is_same {
            return self.refused_answer(slot, Refusal::DuplicateInstance, answer, &ours);
        }
        self.end_older(slot, answer.incarnation);
        self.dial_accepted(slot, dial, answer);
    }

    /// This end does not take the answer, which is proven.
    fn refused_answer(&mut self, slot: usize, refusal: Refusal, answer: &Hello, ours: &Hello) {
        // That we have reached somebody else is told as if we were refused for it.
        let detail = explain::proven(refusal, answer, ours, refusal == Refusal::WrongTarget);
        let (id, address) = (self.peers[slot].id, self.peers[slot].address);
        let told = format_args!("no link with instance {id} at {address}: {detail}");
        self.complain(Who::Peer(id), Why::Refused(refusal), told);
        self.no_link(slot, detail);
    }

    fn dial_accepted(&mut self, slot: usize, dial: Dial, answer: &Hello) {
        let secret = dial.shake.secret(self.config.proof_key());
        let Some(forming) = &mut self.peers[slot].forming else { return };
        forming.meet(answer.incarnation, answer.process);
        forming.add(dial.class, Authenticated::new(dial.stream, secret));
        let next = position(dial.class).and_then(|at| CONNECTIONS.get(at + 1));
        match (next, dial.posted) {
            (Some(&next), _) => self.dial_class(slot, next),
            (None, Some(posted)) => self.establish(slot, posted, answer),
            (None, None) => {
                let error = io::Error::from(ErrorKind::InvalidData).into();
                self.unreachable(slot, &error);
            }
        }
    }
}
