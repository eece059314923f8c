//! Keys and the fall to TCP, without a device: the switch is on verbs, and its queue pairs are gone, as
//! they are from the moment they have failed until the peer has followed.

use super::*;
use crate::{Arena, ArenaConfig, EndpointConfig, LinkPolicy};
use pagewire_protocol::{ClusterId, InstanceId, link_control::Statement};
use std::time::Duration;

const REGION: RegionId = RegionId(5);
const MEMORY: RegionMemory = RegionMemory { address: 1 << 20, key: 77, frames: 4 };
const PATIENCE: Duration = Duration::from_secs(30);

fn endpoint(id: u16) -> Endpoint {
    let arena = ArenaConfig { huge_pages: false, margins: false, ..ArenaConfig::new(256) };
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let config = EndpointConfig::new(ClusterId(1), InstanceId(id), any_port);
    let config = EndpointConfig { links: LinkPolicy::Tcp, one_sided_reads: true, ..config };
    Endpoint::bind(config, Arena::new(&arena).expect("an arena")).expect("an endpoint")
}

/// An endpoint whose queue pairs with the other one have failed, and what that one then states.
struct Falling {
    end: Endpoint,
    /// Its link is there as long as this is.
    _other: Endpoint,
    theirs: Statement,
}

impl Falling {
    const ATTEMPT: u32 = 1;

    fn new() -> Self {
        let (mut end, mut other) = (endpoint(1), endpoint(2));
        let addresses = (end.listen_address(), other.listen_address());
        end.add_peer(InstanceId(2), addresses.1).expect("a peer");
        other.add_peer(InstanceId(1), addresses.0).expect("a peer");
        let deadline = Instant::now() + PATIENCE;
        while !(end.is_linked(InstanceId(2)) && other.is_linked(InstanceId(1))) {
            assert!(Instant::now() < deadline, "the two are not linked");
            end.poll();
            other.poll();
        }
        let expected = other.peers[0].session.as_ref().expect("a session").expected();
        let theirs = Statement { expected, credits: other.config.credits.0 };
        // The first attempt, as far as the end's switch knows of it.
        let (now, mut steps) = (Instant::now(), Vec::new());
        let mut switch = Switch::new(true, true, now);
        switch.tick(now, &mut steps).expect("it offers");
        switch.connected(Ok(()), now, &mut steps);
        switch.drained(now, &mut steps);
        let (attempt, to) = (Self::ATTEMPT, LinkKind::Verbs);
        let said = LinkControl::Switch { attempt, to, statement: theirs };
        switch.heard(said, now, &mut steps).expect("the other follows");
        let peer = &mut end.peers[0];
        peer.switch = Some(switch);
        peer.link.as_mut().expect("a link").be_on_nothing();
        end.verbs_failed(0, &VerbsError::RegionKept { region: REGION });
        assert!(end.peers[0].held, "it waits for the other");
        Self { end, _other: other, theirs }
    }

    fn hear(&mut self, said: LinkControl) {
        self.end.peers[0].heard.push_back(said);
        self.end.hear(0);
        assert!(self.end.is_linked(InstanceId(2)), "a correct peer says this: {said:?}");
    }

    fn keys(&mut self) -> &mut Keys {
        &mut self.end.peers[0].reads.as_mut().expect("reads are on").keys
    }
}

#[test]
fn a_key_that_is_told_while_the_end_falls_back_is_not_noted() {
    let mut falling = Falling::new();
    let (attempt, region, memory) = (Falling::ATTEMPT, REGION, MEMORY);
    falling.hear(LinkControl::Region { attempt, region, memory });
    assert_eq!(falling.keys().of(REGION), None, "there are no queue pairs to use it on");
}

#[test]
fn no_key_is_left_when_messages_are_on_tcp_again() {
    let mut falling = Falling::new();
    // However they came to be noted: the next queue pairs have keys of their own.
    let (attempt, other) = (Falling::ATTEMPT, RegionId(6));
    let keys = falling.keys();
    keys.theirs.push((REGION, MEMORY));
    keys.leaving.push((other, attempt));
    keys.told.push(other);
    let statement = falling.theirs;
    falling.hear(LinkControl::Switch { attempt, to: LinkKind::Tcp, statement });
    let peer = &falling.end.peers[0];
    assert_eq!(peer.link.as_ref().map(DualLink::on), Some(LinkKind::Tcp));
    let keys = falling.keys();
    assert_eq!(keys.of(REGION), None, "a key outlives its queue pairs");
    assert!(keys.leaving.is_empty() && keys.told.is_empty(), "{keys:?}");
    assert!(keys.can_close, "what the ends have stated holds for the next ones, too");
}
