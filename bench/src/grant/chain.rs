//! The bare chain: sockets of the same topology on the same threads, the same bytes, and no
//! protocol.

use crate::{
    error::BenchError,
    latency,
    spin::{Patience, Switch},
    stats::Samples,
    ways::{Bare, Pages, Size, Way, same, sockets},
};
use pagewire_protocol::pcm::PCM_BODY_BYTES;
use pagewire_transport::Arena;

/// A PCM message without a page.
const MESSAGE: Size = Size::Small(PCM_BODY_BYTES);

/// The asking end: asks on the first socket, and is answered on the last.
#[derive(Debug)]
pub(super) struct Asker {
    sockets: Vec<Bare>,
}

/// The other thread's ends.
#[derive(Debug)]
pub(super) struct Relays {
    sockets: Vec<Bare>,
    relays: Vec<Relay>,
}

/// What arrives on one socket goes on by another.
#[derive(Debug)]
struct Relay {
    from: usize,
    to: usize,
    size: Size,
}

/// A chain of `hops` hops that answers with `pages`; frames to receive into come from `arena`.
pub(super) fn connect(
    hops: u8,
    pages: &Pages,
    arena: &Arena,
) -> Result<(Asker, Relays), BenchError> {
    let bare = |stream| Bare::new(stream, pages.clone(), arena, 1);
    // Pages land in as many frames as the grants install.
    let landing = |stream| Bare::new(stream, pages.clone(), arena, pages.count());
    if hops == 2 {
        let (asking, answering) = sockets()?;
        let relays = vec![Relay { from: 0, to: 0, size: Size::Page }];
        let sockets = vec![bare(answering)?];
        return Ok((Asker { sockets: vec![landing(asking)?] }, Relays { sockets, relays }));
    }
    let ((asking, at_master), (to_owner, at_owner), (answering, answered)) =
        (sockets()?, sockets()?, sockets()?);
    let sockets = vec![bare(at_master)?, bare(to_owner)?, bare(at_owner)?, bare(answering)?];
    let relays =
        vec![Relay { from: 0, to: 1, size: MESSAGE }, Relay { from: 2, to: 3, size: Size::Page }];
    Ok((Asker { sockets: vec![bare(asking)?, landing(answered)?] }, Relays { sockets, relays }))
}

impl Asker {
    /// One leg: `count` round trips after some that are not measured.
    pub(super) fn leg(
        &mut self,
        count: u32,
        number: &mut u64,
        switch: &Switch,
    ) -> Result<Samples, BenchError> {
        latency::sampled(count, number, |number| self.round_trip(number, switch))
    }

    fn round_trip(&mut self, number: u64, switch: &Switch) -> Result<(), BenchError> {
        let last = self.sockets.len() - 1;
        self.sockets[0].say(MESSAGE, number, switch)?;
        let patience = Patience::new(switch, "the end of the bare chain");
        let found = patience.until(|| self.sockets[last].hear(Size::Page))?;
        same("the page of the bare chain", number, found, number)
    }
}

impl Relays {
    /// Relays until the asker turns to another way.
    pub(super) fn relay(&mut self, leg: u32, switch: &Switch) -> Result<(), BenchError> {
        while switch.leg() == Some(leg) {
            for Relay { from, to, size } in &self.relays {
                if let Some(number) = self.sockets[*from].hear(MESSAGE)? {
                    self.sockets[*to].say(*size, number, switch)?;
                }
            }
        }
        Ok(())
    }
}
