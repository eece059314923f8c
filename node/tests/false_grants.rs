//! A peer that breaks the page protocol: what it claims is counted and fails what depends on it,
//! and the instance goes on.

mod support;

use pagewire_node::{Node, NodeConfig, grd::AcquireError, view::View};
use pagewire_protocol::{
    Body, ClusterId, Epoch, GrantNumber, InstanceId, Lsn, Mode, Pcm, pcm::Verdict,
};
use pagewire_transport::{Arena, ArenaConfig, Endpoint, EndpointConfig, Event, Message};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use support::{
    pages::{counter, storage, tag},
    process::PATIENCE,
};

const HONEST: InstanceId = InstanceId(0);
const LIAR: InstanceId = InstanceId(1);
const CLUSTER: ClusterId = ClusterId(77);
const FROM: Duration = Duration::from_millis(10);

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// An endpoint that takes part as [`LIAR`].
fn liar(view: &View) -> Endpoint {
    let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(128) });
    let config =
        EndpointConfig { view_hash: view.hash(), ..EndpointConfig::new(CLUSTER, LIAR, any_port()) };
    Endpoint::bind(config, arena.expect("an arena")).expect("an endpoint")
}

/// Answers whoever asks for a page with a grant in the mode that `mode` makes of the one wanted, and
/// says that the page is there already, until `stop`.
fn lie(endpoint: &mut Endpoint, epoch: Epoch, mode: fn(Mode) -> Mode, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        endpoint.wait(FROM, || false);
        while let Some(event) = endpoint.next_event() {
            let Event::Message(asked) = event else { continue };
            let Ok((tag, Pcm::Acquire { request, want, .. })) =
                Pcm::decode(asked.kind, asked.body.as_slice())
            else {
                continue;
            };
            let answer = Pcm::Response {
                request,
                verdict: Verdict::Held,
                mode: mode(want),
                grant: GrantNumber(1),
                version: Lsn(1),
                acks: 0,
                dirty: true,
                unsaved: false,
                past: false,
                writer: LIAR,
            };
            let body = Body::new(&answer.encode(tag)).expect("it fits");
            let message = Message { epoch, ..Message::new(answer.kind(), body) };
            endpoint.send(asked.from, answer.lane(), message).expect("credit");
        }
    }
}

/// Ends the liar also when an assertion fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_grant_of_a_page_that_is_not_here_fails_its_request_alone() {
    a_lie_fails_its_request_alone(|wanted| wanted);
}

#[test]
fn a_grant_of_another_mode_fails_its_request_alone() {
    a_lie_fails_its_request_alone(|wanted| if wanted == Mode::S { Mode::X } else { Mode::S });
}

fn a_lie_fails_its_request_alone(mode: fn(Mode) -> Mode) {
    let members = vec![HONEST, LIAR];
    let view = View::new(Epoch(1), members.clone()).expect("a view");
    let folder = storage(64);
    let path = folder.path().to_owned();
    let config = NodeConfig::new(CLUSTER, HONEST, members, any_port(), path);
    let node = Node::start(&NodeConfig { arena_mb: 8, acquire_timeout_ms: 2000, ..config })
        .expect("a node");
    let mut endpoint = liar(&view);
    endpoint.add_peer(HONEST, node.listen_address()).expect("a new peer");
    node.add_peer(LIAR, endpoint.listen_address()).expect("a new peer");
    let mastered_by = |id| (0..64).map(tag).find(|tag| view.master(tag) == id).expect("a block");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stops = Stops(&stop);
        scope.spawn(|| lie(&mut endpoint, view.epoch(), mode, &stop));
        node.wait_for_peers(PATIENCE).expect("the liar is there");
        let handle = node.handle().expect("a handle");
        let theirs = mastered_by(LIAR);
        for found in [handle.read(theirs).map(drop), handle.write(theirs).map(drop)] {
            assert_eq!(found, Err(AcquireError::Protocol { tag: theirs }));
        }
        let ours = handle.read(mastered_by(HONEST)).expect("pages of others are to be had");
        assert_eq!(counter(&ours), 0);
    });
    assert!(node.counters().protocol_errors.get() >= 2, "{:?}", node.counters());
    node.flush().expect("nothing to write");
}
