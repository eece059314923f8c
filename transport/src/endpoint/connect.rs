//! From a bare connection to a link: dialling, accepting, the handshake, and when to try again.
//!
//! ```text
//!   dialler                                   acceptor
//!   connect, hello{small, nonce} ---------->  judge: refuse, or tear down an older link
//!                 <------------ hello{status, what it expects, its credits}
//!   the same for bulk
//!   link up                                   link up
//! ```
//! The instance with the greater id dials at once, the lesser one half a second later, so that both
//! rarely dial at the same time; if they do, the greater one's link goes first.

use super::{Endpoint, Event};
use crate::{
    Frame,
    error::LinkError,
    link::{
        Link, Urgency,
        tcp::{CONNECTIONS, TcpLink},
    },
    session::Session,
};
use mio::{Interest, Token, event, net::TcpStream};
use pagewire_protocol::{
    Incarnation, InstanceId, Lane, LaneClass, LinkNonce, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    Sequence,
    hello::{HELLO_BYTES, Hello, Refusal},
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

pub(super) const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
/// Connections in their handshake at the same time; further ones are dropped.
pub(super) const MAX_INCOMING: usize = 64;
const INCOMING_BASE: usize = 2;
const PEER_BASE: usize = 128;
const TOKENS_PER_PEER: usize = 8;
const DIAL_OFFSET: usize = 4;

/// A connection that came in and has not said all of its hello.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: TcpStream,
    address: SocketAddr,
    hello: PartialHello,
    deadline: Instant,
}

#[derive(Debug)]
struct PartialHello {
    bytes: [u8; HELLO_BYTES],
    got: usize,
}

impl PartialHello {
    fn new() -> Self {
        Self { bytes: [0; HELLO_BYTES], got: 0 }
    }

    /// Reads on; true when all is there.
    fn read(&mut self, stream: &mut TcpStream) -> Result<bool, LinkError> {
        while self.got < HELLO_BYTES {
            match stream.read(&mut self.bytes[self.got..]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.got += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            // Whoever does not begin like a hello need not go on.
            let begun = self.got.min(8);
            if self.bytes[..begun] != b"PAGEWIRE"[..begun] {
                self.got = HELLO_BYTES;
            }
        }
        Ok(true)
    }
}

/// A link that is being made, from either side.
#[derive(Debug)]
pub(super) struct Forming {
    ours: bool,
    nonce: LinkNonce,
    deadline: Instant,
    expected: [Sequence; Lane::COUNT],
    posted: Vec<(LaneClass, Frame)>,
    credits: [u32; Lane::COUNT],
    /// In the order of [`CONNECTIONS`].
    streams: [Option<TcpStream>; CONNECTIONS.len()],
    /// The other side's hello on the first connection.
    theirs: Option<Hello>,
    /// The connection that is being dialled.
    dial: Option<Dial>,
}

#[derive(Debug)]
struct Dial {
    class: LaneClass,
    stream: TcpStream,
    said_hello: bool,
    answer: PartialHello,
}

/// Which of a link's connections that of `class` is.
fn position(class: LaneClass) -> Option<usize> {
    CONNECTIONS.iter().position(|connection| *connection == class)
}

fn dial_token(slot: usize, class: LaneClass) -> Token {
    Token(PEER_BASE + slot * TOKENS_PER_PEER + DIAL_OFFSET + class.index())
}

pub(super) fn link_token(slot: usize, class: LaneClass) -> Token {
    Token(PEER_BASE + slot * TOKENS_PER_PEER + class.index())
}

impl Endpoint {
    pub(super) fn os_event(&mut self, event: &event::Event) {
        match event.token() {
            LISTENER => self.accept(),
            WAKER => {}
            Token(token) if token < PEER_BASE => self.progress_incoming(token - INCOMING_BASE),
            Token(token) => {
                let (slot, offset) =
                    ((token - PEER_BASE) / TOKENS_PER_PEER, (token - PEER_BASE) % TOKENS_PER_PEER);
                if offset >= DIAL_OFFSET {
                    self.progress_dial(slot);
                } else if let (Some(link), Some(class)) =
                    (&mut self.peers[slot].link, LaneClass::ALL.get(offset))
                {
                    let ended = event.is_read_closed() || event.is_error();
                    link.ready(*class, event.is_readable(), event.is_writable(), ended);
                }
            }
        }
    }

    /// How long [`Endpoint::wait`] may sleep before [`Endpoint::timers`] has something to do.
    pub(super) fn next_timer(&self) -> Duration {
        let now = Instant::now();
        let returns = self.config.peers_may_return;
        let unlinked =
            self.peers.iter().filter(|p| p.link.is_none() && (returns || p.ended.is_none()));
        let dials = unlinked.map(|p| p.forming.as_ref().map_or(p.dial_at, |f| f.deadline));
        let hellos = self.incoming.iter().flatten().map(|i| i.deadline);
        // No event tells that a frame has come back or that a connection can be accepted now.
        let owing = self.peers.iter().any(|p| p.link.is_some() && p.owed_frames != [0; 3]);
        let retry = (owing || self.accept_again).then_some(now);
        dials
            .chain(hellos)
            .chain(retry)
            .min()
            .map_or(Duration::from_secs(60), |at| at.saturating_duration_since(now))
            .max(Duration::from_millis(1))
    }

    pub(super) fn timers(&mut self, now: Instant) {
        if self.accept_again {
            self.accept();
        }
        for place in &mut self.incoming {
            if place.as_ref().is_some_and(|incoming| incoming.deadline <= now) {
                self.counters.handshakes_dropped.add(1);
                let limit_ms = self.config.handshake_timeout.as_millis();
                if let Some(incoming) = place.take() {
                    let address = incoming.address;
                    let got = incoming.hello.got;
                    tracing::warn!(
                        "connection from {address} dropped: {got} of {HELLO_BYTES} bytes of a \
                         hello came in {limit_ms} ms"
                    );
                }
            }
        }
        for slot in 0..self.peers.len() {
            let peer = &mut self.peers[slot];
            if let Some(forming) = &peer.forming {
                if forming.deadline <= now {
                    let limit_ms = self.config.handshake_timeout.as_millis();
                    self.forming_failed(slot, &LinkError::HandshakeTimeout { limit_ms });
                    // Meanwhile the other side, to which this one was busy, gets its turn.
                    self.peers[slot].retry_soon(now);
                }
            } else if peer.link.is_none()
                && peer.dial_at <= now
                // A newcomer that may not return learns it when it dials.
                && (self.config.peers_may_return || peer.ended.is_none())
            {
                self.dial(slot, now);
            }
        }
    }

    fn accept(&mut self) {
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
                    tracing::warn!("a connection cannot be accepted: {e}");
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, mut stream: TcpStream, address: SocketAddr) {
        let Some(place) = self.incoming.iter().position(Option::is_none) else {
            self.counters.handshakes_dropped.add(1);
            tracing::warn!("connection from {address} dropped: {MAX_INCOMING} are in handshake");
            return;
        };
        let _ = stream.set_nodelay(true);
        let token = Token(INCOMING_BASE + place);
        if self.os.registry().register(&mut stream, token, Interest::READABLE).is_err() {
            return;
        }
        let deadline = Instant::now() + self.config.handshake_timeout;
        self.incoming[place] =
            Some(Incoming { stream, address, hello: PartialHello::new(), deadline });
        self.progress_incoming(place);
    }

    fn progress_incoming(&mut self, place: usize) {
        let Some(incoming) = self.incoming.get_mut(place).and_then(Option::as_mut) else { return };
        let read = incoming.hello.read(&mut incoming.stream);
        if matches!(read, Ok(false)) {
            return;
        }
        let Some(Incoming { stream, address, hello, .. }) = self.incoming[place].take() else {
            return;
        };
        if let Err(error) = read {
            self.counters.not_a_hello.add(1);
            let got = hello.got;
            tracing::warn!(
                "connection from {address} ended after {got} of {HELLO_BYTES} bytes of a hello: \
                 {error}"
            );
            return;
        }
        match Hello::decode(&hello.bytes) {
            Ok(hello) => self.answer(stream, address, &hello),
            Err(error) => {
                self.counters.not_a_hello.add(1);
                tracing::warn!("connection from {address} closed: {error}");
            }
        }
    }

    fn hello(&self, to: InstanceId, class: LaneClass, nonce: LinkNonce) -> Hello {
        Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            class,
            refusal: None,
            cluster: self.config.cluster,
            instance: self.config.instance,
            to,
            page_size: self.arena.page_size(),
            incarnation: self.config.incarnation,
            nonce,
            view_hash: self.config.view_hash,
            expected: [Sequence(1); Lane::COUNT],
            credits: [0; Lane::COUNT],
        }
    }

    fn judge(&self, hello: &Hello) -> Result<usize, Refusal> {
        if !hello.speaks(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION) || position(hello.class).is_none()
        {
            return Err(Refusal::Version);
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
        if hello.view_hash != self.config.view_hash {
            return Err(Refusal::View);
        }
        let peer = &self.peers[slot];
        if peer.ended.is_some_and(|ended| hello.incarnation <= ended) {
            return Err(Refusal::Ended);
        }
        if let Some(known) = peer.incarnation {
            if hello.incarnation < known {
                return Err(Refusal::Ended);
            }
            if hello.incarnation > known && peer.link.is_some() {
                return Err(Refusal::DuplicateInstance);
            }
        }
        if self.is_return(slot, hello.incarnation) {
            return Err(Refusal::NoReturn);
        }
        let begun = hello.class == LaneClass::Small;
        match &peer.forming {
            // Once the other side has answered, ours is under way between two connections, too.
            Some(f)
                if f.ours
                    && (f.theirs.is_some() || f.dial.as_ref().is_some_and(|d| d.said_hello)) =>
            {
                // Both dialled: the greater id's link goes first.
                if self.config.instance > hello.instance { Err(Refusal::Busy) } else { Ok(slot) }
            }
            Some(f) if !f.ours && f.nonce == hello.nonce => Ok(slot),
            _ if begun => Ok(slot),
            _ => Err(Refusal::Busy),
        }
    }

    /// True when `incarnation` is a later life than one that took part, and must not.
    fn is_return(&self, slot: usize, incarnation: Incarnation) -> bool {
        let peer = &self.peers[slot];
        let earlier = peer.incarnation.or(peer.ended);
        !self.config.peers_may_return && earlier.is_some_and(|earlier| incarnation > earlier)
    }

    /// Answers a hello: takes the connection into the link it belongs to, or says why not.
    fn answer(&mut self, mut stream: TcpStream, address: SocketAddr, theirs: &Hello) {
        let mut reply = self.hello(theirs.instance, theirs.class, theirs.nonce);
        let slot = match self.judge(theirs) {
            Ok(slot) => slot,
            Err(refusal) => {
                reply.refusal = Some(refusal);
                self.counters.refused.add(1);
                if let (Refusal::NoReturn, Some(slot)) = (refusal, self.slot(theirs.instance)) {
                    // That it is back says that its former life is over.
                    self.end_older(slot, theirs.incarnation);
                }
                if refusal != Refusal::Busy {
                    let detail = explain(refusal, theirs, &reply, false);
                    tracing::warn!("connection from {address} refused: {detail}");
                }
                let _ = stream.write(&reply.encode());
                return;
            }
        };
        if theirs.class == LaneClass::Small {
            self.begin_forming(slot, false, theirs.nonce, theirs.incarnation);
            if let Some(forming) = &mut self.peers[slot].forming {
                forming.theirs = Some(*theirs);
            }
        }
        let Some(forming) = &mut self.peers[slot].forming else { return };
        (reply.expected, reply.credits) = (forming.expected, forming.credits);
        // A fresh connection takes 128 bytes at once; if not, it is not worth having.
        if !matches!(stream.write(&reply.encode()), Ok(HELLO_BYTES)) {
            return;
        }
        if let Some(at) = position(theirs.class) {
            forming.streams[at] = Some(stream);
        }
        self.establish_if_whole(slot);
    }

    /// Ends whatever link or attempt there was, and states what the new link starts from. An older
    /// incarnation of the peer ends here.
    fn begin_forming(
        &mut self,
        slot: usize,
        ours: bool,
        nonce: LinkNonce,
        incarnation: Incarnation,
    ) {
        self.peers[slot].forming = None;
        self.link_down(slot, LinkError::Replaced);
        if !ours {
            self.end_older(slot, incarnation);
        }
        let mut credits = self.config.credits.0;
        let mut posted = Vec::new();
        for lane in Lane::ALL.into_iter().filter(|lane| lane.class().has_frame()) {
            let wanted = credits[lane.index()];
            let frames = (0..wanted).map_while(|_| self.arena.take());
            let before = posted.len();
            posted.extend(frames.map(|frame| (lane.class(), frame)));
            // Credit is given for receives that are posted, not for those that should be.
            let got = u32::try_from(posted.len() - before).unwrap_or(wanted);
            if got < wanted {
                self.counters.out_of_frames.add(1);
            }
            credits[lane.index()] = got;
        }
        let peer = &mut self.peers[slot];
        let expected = peer.session.as_ref().map_or([Sequence(1); Lane::COUNT], Session::expected);
        peer.forming = Some(Forming {
            ours,
            nonce,
            deadline: Instant::now() + self.config.handshake_timeout,
            expected,
            posted,
            credits,
            streams: [None, None],
            theirs: None,
            dial: None,
        });
    }

    fn end_older(&mut self, slot: usize, incarnation: Incarnation) {
        let peer = &mut self.peers[slot];
        let Some(old) = peer.incarnation.filter(|&known| known < incarnation) else { return };
        peer.incarnation = None;
        peer.ended = Some(old);
        let undelivered = peer.session.take().map(Session::end).unwrap_or_default();
        self.events.push_back(Event::Ended { peer: peer.id, incarnation: old, undelivered });
    }

    fn establish_if_whole(&mut self, slot: usize) {
        let whole = |f: &Forming| f.theirs.is_some() && f.streams.iter().all(Option::is_some);
        let peer = &mut self.peers[slot];
        if !peer.forming.as_ref().is_some_and(whole) {
            return;
        }
        let Some(Forming { posted, credits, streams, theirs: Some(theirs), .. }) =
            peer.forming.take()
        else {
            return;
        };
        let [Some(main), Some(bulk)] = streams else { return };
        let fresh = peer.session.is_none();
        let (me, id) = (self.config.instance, peer.id);
        let session = peer.session.get_or_insert_with(|| Session::new(me, id, theirs.credits));
        if let Err(violation) = session.link_up(theirs.expected, theirs.credits, credits) {
            self.counters.bad_input.add(1);
            tracing::warn!("no link with instance {id}: {violation}");
            if fresh {
                peer.session = None;
            }
            peer.retry_soon(Instant::now());
            return;
        }
        let page_bytes = self.arena.page_size().bytes();
        let mut link = TcpLink::new([main, bulk], page_bytes, self.config.page_crc);
        for class in CONNECTIONS {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = link_token(slot, class);
            let registry = self.os.registry();
            let stream = link.stream_mut(class);
            if registry.reregister(stream, token, interest).is_err()
                && let Err(error) = registry.register(stream, token, interest)
            {
                session.link_down();
                if fresh {
                    peer.session = None;
                }
                tracing::warn!("no link with instance {id}: {error}");
                return;
            }
        }
        for (class, frame) in posted {
            link.post_receive(class, frame);
        }
        // Receives that the arena had no frame for yet.
        for lane in Lane::ALL.into_iter().filter(|lane| lane.class().has_frame()) {
            let missing = self.config.credits.of(lane) - credits[lane.index()];
            peer.owed_frames[lane.class().index()] = missing;
        }
        peer.link = Some(link);
        peer.incarnation = Some(theirs.incarnation);
        peer.connected();
        peer.counters.links_up.add(1);
        for lane in Lane::ALL {
            peer.pump(lane, Urgency::Now);
        }
        self.events.push_back(if fresh {
            Event::Up { peer: id, incarnation: theirs.incarnation }
        } else {
            Event::Linked { peer: id }
        });
    }

    fn dial(&mut self, slot: usize, now: Instant) {
        let nonce = LinkNonce(getrandom::u64().unwrap_or(self.config.incarnation.0));
        self.begin_forming(slot, true, nonce, Incarnation(0));
        self.peers[slot].retry_soon(now);
        self.dial_class(slot, LaneClass::Small);
    }

    fn dial_class(&mut self, slot: usize, class: LaneClass) {
        let peer = &mut self.peers[slot];
        let Some(forming) = &mut peer.forming else { return };
        let connected = TcpStream::connect(peer.address).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.os.registry().register(&mut stream, dial_token(slot, class), interest)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => {
                let answer = PartialHello::new();
                forming.dial = Some(Dial { class, stream, said_hello: false, answer });
            }
            Err(error) => self.forming_failed(slot, &error.into()),
        }
    }

    fn progress_dial(&mut self, slot: usize) {
        let peer = &self.peers[slot];
        let Some(forming) = &peer.forming else { return };
        let Some(dial) = &forming.dial else { return };
        let class = dial.class;
        let mut hello = self.hello(peer.id, class, forming.nonce);
        (hello.expected, hello.credits) = (forming.expected, forming.credits);
        let Some(dial) = self.peers[slot].forming.as_mut().and_then(|f| f.dial.as_mut()) else {
            return;
        };
        match dial.progress(&hello) {
            Ok(None) => {}
            Ok(Some(answer)) => self.dial_answered(slot, class, &hello, &answer),
            Err(error) => self.forming_failed(slot, &error),
        }
    }

    fn dial_answered(&mut self, slot: usize, class: LaneClass, ours: &Hello, answer: &Hello) {
        let peer = &mut self.peers[slot];
        if let Some(refusal) = answer.refusal {
            let (peer_id, address) = (peer.id, peer.address);
            if refusal != Refusal::Busy {
                let detail = explain(refusal, answer, ours, true);
                let event = Event::Refused { peer: peer_id, address, refusal, detail };
                self.events.push_back(event);
            }
            self.forming_failed(slot, &LinkError::Refused(refusal));
            return;
        }
        let meant = answer.instance == peer.id
            && answer.cluster == ours.cluster
            && answer.nonce == ours.nonce
            && answer.class == class;
        let over = peer.incarnation.is_some_and(|known| answer.incarnation < known)
            || peer.ended.is_some_and(|ended| answer.incarnation <= ended);
        if !meant || over {
            let refusal = if meant { Refusal::Ended } else { Refusal::WrongTarget };
            self.forming_failed(slot, &LinkError::Refused(refusal));
            return;
        }
        if self.is_return(slot, answer.incarnation) {
            self.end_older(slot, answer.incarnation);
            self.forming_failed(slot, &LinkError::Refused(Refusal::NoReturn));
            return;
        }
        let peer = &mut self.peers[slot];
        if class == LaneClass::Small {
            let fresh = peer.incarnation != Some(answer.incarnation);
            self.end_older(slot, answer.incarnation);
            if let Some(forming) = &mut self.peers[slot].forming {
                forming.theirs = Some(*answer);
                if fresh && forming.expected != [Sequence(1); Lane::COUNT] {
                    // What the hello stated was for the incarnation that is over: start again.
                    self.forming_failed(slot, &LinkError::Replaced);
                    return;
                }
            }
        }
        let Some(forming) = &mut self.peers[slot].forming else { return };
        if let (Some(dial), Some(at)) = (forming.dial.take(), position(class)) {
            forming.streams[at] = Some(dial.stream);
        }
        match position(class).and_then(|at| CONNECTIONS.get(at + 1)) {
            Some(&next) => self.dial_class(slot, next),
            None => self.establish_if_whole(slot),
        }
    }

    fn forming_failed(&mut self, slot: usize, reason: &LinkError) {
        let peer = &mut self.peers[slot];
        tracing::debug!("no link with instance {} at {} yet: {reason}", peer.id, peer.address);
        peer.forming = None;
        peer.dial_at = peer.dial_at.max(Instant::now());
    }
}

impl Dial {
    /// Goes on with the handshake; the answer when it is whole.
    fn progress(&mut self, hello: &Hello) -> Result<Option<Hello>, LinkError> {
        if !self.said_hello {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            match self.stream.peer_addr() {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotConnected => return Ok(None),
                Err(e) => return Err(e.into()),
            }
            let _ = self.stream.set_nodelay(true);
            if self.stream.write(&hello.encode())? != HELLO_BYTES {
                return Err(io::Error::from(ErrorKind::WriteZero).into());
            }
            self.said_hello = true;
        }
        if !self.answer.read(&mut self.stream)? {
            return Ok(None);
        }
        Ok(Some(Hello::decode(&self.answer.bytes)?))
    }
}

/// What the operator reads: what was found, what was expected, what to do. `theirs` is what the
/// other side said, `ours` what this side is; `refused_us` tells who refused.
fn explain(refusal: Refusal, theirs: &Hello, ours: &Hello, refused_us: bool) -> String {
    let id = theirs.instance;
    let mine = ours.instance;
    match refusal {
        Refusal::Version => format!(
            "instance {id} speaks protocol versions {} to {}, this one {} to {}: run builds that \
             are at most one version apart",
            theirs.version_min, theirs.version_max, ours.version_min, ours.version_max
        ),
        Refusal::Cluster => format!(
            "instance {id} is of cluster {}, this one of cluster {}: give both the same cluster id",
            theirs.cluster, ours.cluster
        ),
        Refusal::WrongTarget if refused_us => format!(
            "the process at that address is instance {id}, expected instance {}: mend the peer's \
             address",
            ours.to
        ),
        Refusal::WrongTarget => format!(
            "instance {id} means to reach instance {}, this is instance {mine}: mend the address \
             in its configuration",
            theirs.to
        ),
        Refusal::UnknownInstance if refused_us => format!(
            "instance {id} has no peer {mine} in its configuration: add it there or mend the id here"
        ),
        Refusal::UnknownInstance => {
            format!("instance {id} is not among the configured peers: add it or mend its id")
        }
        Refusal::DuplicateInstance => {
            let twice = if refused_us { mine } else { id };
            format!(
                "instance id {twice} is in use by another living process, expected one process \
                 per id: stop one of them or give it an id of its own"
            )
        }
        Refusal::PageSize => format!(
            "instance {id} has pages of {}, this one of {}: set the same page size on all",
            theirs.page_size, ours.page_size
        ),
        Refusal::View => format!(
            "instance {id} has member list {:016x}, this one {:016x}: configure the same members \
             on all",
            theirs.view_hash, ours.view_hash
        ),
        Refusal::NoReturn => {
            let back = if refused_us { ours } else { theirs };
            format!(
                "instance {} took part in an earlier life and is back as incarnation {}; this \
                 version cannot recover what that life held: stop all instances and start them \
                 together",
                back.instance, back.incarnation
            )
        }
        Refusal::Busy => format!("instance {id} is dialling us: its link goes first"),
        _ => {
            let over = if refused_us { ours } else { theirs };
            format!(
                "incarnation {} of instance {} is over, a later one was seen: restart the process",
                over.incarnation, over.instance
            )
        }
    }
}
