//! How a request is granted, and how a grant ends.

use super::{Conversion, Directory, Page, Request, State};
use crate::{
    grd::{out::Out, store::InstanceSet},
    planted,
};
use pagewire_protocol::{GrantNumber, InstanceId, Lsn, Mode, Pcm, pcm::Verdict};

/// Decides how a request is granted; nothing is under way.
///
/// ```text
///  requester holds S (wants X)   RESPONSE Held, INVALIDATE to the other holders
///  someone owns it               SHIP to the owner; for X INVALIDATE to the other holders
///  nobody, a past image          SHIP past to who has it, or RESPONSE OwnPastImage
///  nobody                        RESPONSE Storage, with the least version that is known to be there
/// ```
pub(super) fn start(page: &mut Page, request: Request, out: &mut Out<'_>) {
    let Request { id, want, recovery } = request;
    let requester = id.instance;
    let revokes = page.entry.grant();
    let grant = page.entry.next_grant();
    let holders = page.entry.holders;
    let has_it = holders.has(requester);
    let base = page.rare.base.filter(|_| holders.is_empty()).map(|(shipper, _)| shipper);
    let source = page.entry.owner().filter(|_| !has_it);
    let others = holders.without(requester);
    let invalidated = match want {
        Mode::X if planted::is("forget_a_reader") => {
            others.without(others.iter().last().unwrap_or(requester))
        }
        Mode::X => source.map_or(others, |source| others.without(source)),
        Mode::S | Mode::N => InstanceSet::default(),
    };
    let acks = invalidated.0;
    page.rare.conversion = Some(Conversion {
        request: id,
        want,
        recovery,
        grant,
        source: source.or(base),
        invalidated,
    });
    for holder in invalidated.iter() {
        out.send_of(holder, &page.of, Pcm::Invalidate { request: id, grant, revokes });
    }
    let shipper = source.or(base.filter(|&shipper| shipper != requester));
    if let Some(shipper) = shipper {
        let past = source.is_none();
        out.send_of(shipper, &page.of, Pcm::Ship { request: id, want, grant, revokes, acks, past });
        return;
    }
    let verdict = match base {
        _ if has_it => Verdict::Held,
        Some(_) => Verdict::OwnPastImage,
        None => Verdict::Storage,
    };
    let version = page.entry.stored;
    out.send_of(
        requester,
        &page.of,
        Pcm::Response {
            request: id,
            verdict,
            mode: want,
            grant,
            version,
            acks,
            dirty: false,
            unsaved: false,
            past: false,
            writer: out.me,
        },
    );
}

impl Directory {
    pub(super) fn claim(&mut self, page: &mut Page, message: &Pcm, out: &mut Out<'_>) {
        let Pcm::Claim { request, mode, grant, version, past } = *message else { return };
        let (claimant, claimed) = (request.instance, Pcm::Claimed { request, grant });
        let State::Converting(c) = page.state() else {
            self.claim_again(page, claimant, claimed, grant, out);
            return;
        };
        if c.request != request || c.grant != grant {
            self.claim_again(page, claimant, claimed, grant, out);
            return;
        }
        let entry = &mut page.entry;
        if page.rare.lost || page.rare.base.is_some() {
            // What was known before has died, and only what is durable came back.
            entry.version = version.max(entry.stored);
        }
        entry.version = entry.version.max(version);
        if !planted::is("forget_past_image_holders") {
            entry.past = InstanceSet(entry.past.0 | past);
        }
        if mode == Mode::X {
            let kept = if planted::is("former_holders_stay_listed") { entry.holders.0 } else { 0 };
            entry.holders = InstanceSet(InstanceSet::of(claimant).0 | kept);
            entry.set_owner(Some(claimant));
        } else {
            entry.holders = entry.holders.with(claimant);
            let kept = entry.owner().filter(|_| !planted::is("the_last_reader_owns"));
            entry.set_owner(kept.or(Some(claimant)));
        }
        entry.set_exclusive(mode == Mode::X);
        (page.rare.base, page.rare.lost) = (None, false);
        out.send_of(claimant, &page.of, claimed);
        if let Some(source) = c.source.filter(|&source| source != claimant)
            && !planted::is("never_tell_the_shipper")
        {
            out.send_of(source, &page.of, claimed);
        }
        self.next(page, out);
    }

    /// A claim of no grant that is on its way: repeated, or of nothing that was ever granted.
    fn claim_again(
        &mut self,
        page: &Page,
        claimant: InstanceId,
        claimed: Pcm,
        grant: GrantNumber,
        out: &mut Out<'_>,
    ) {
        if grant <= page.entry.grant() {
            out.send_of(claimant, &page.of, claimed);
        } else {
            out.anomalies.no_grant += 1;
        }
    }

    /// What was under way is over: who was leaving leaves, who wanted it written is heard, and the
    /// next request is granted.
    pub(super) fn next(&mut self, page: &mut Page, out: &mut Out<'_>) {
        page.rare.conversion = None;
        let grant = page.entry.grant();
        for leaver in std::mem::take(&mut page.rare.leaving).iter() {
            if page.entry.holders.has(leaver) {
                remove(page, leaver, grant, Lsn::ZERO, out);
            }
        }
        if std::mem::take(&mut page.rare.write_wanted) {
            super::past_images::have_it_written(page, out);
        }
        if page.rare.lost && !planted::is("grant_what_is_lost") {
            let next = self.pool.pop_first(&mut page.rare.queue, |request| request.recovery);
            if let Some(request) = next {
                start(page, request, out);
            }
            return;
        }
        // Not in their turn: those before them may be threads that wait for redo elsewhere.
        while let Some(request) = self.pool.pop_first(&mut page.rare.queue, |r| r.recovery) {
            let Request { id, want, .. } = request;
            out.refuse(id.instance, page.of.tag, id, want, Verdict::NotLost);
        }
        if planted::is("forget_the_queue") && !page.entry.is_exclusive() {
            return;
        }
        if let Some(request) = self.pool.pop(&mut page.rare.queue) {
            if planted::is("grant_a_request_twice") {
                self.pool.push(&mut page.rare.queue, request);
            }
            start(page, request, out);
        }
    }

    pub(super) fn release(
        &mut self,
        page: &mut Page,
        from: InstanceId,
        grant: GrantNumber,
        version: Lsn,
        out: &mut Out<'_>,
    ) {
        let holds = page.entry.holders.has(from);
        match page.state() {
            State::Converting(c) if c.request.instance == from && c.grant == grant => {
                // What storage was to give it could not be read, so nobody holds it.
                out.send_of(from, &page.of, Pcm::Released { grant });
                self.next(page, out);
            }
            // Its answer says whether it still releases: when it is asked it has dropped the page, when
            // it is told what it has it thinks again.
            State::Repairing if page.is_awaited(from) => {}
            State::Repairing => page.rare.leaving = page.rare.leaving.with(from),
            _ if !holds => {}
            State::Converting(c) if c.source == Some(from) && c.want == Mode::S => {
                page.rare.leaving = page.rare.leaving.with(from);
            }
            State::Converting(c) if c.want == Mode::X && c.request.instance != from => {}
            _ => remove(page, from, grant, version, out),
        }
    }
}

/// `leaver` no longer holds the page; another holder becomes owner if it was. `version` is on storage
/// if the owner releases it: it had nothing left to write.
fn remove(
    page: &mut Page,
    leaver: InstanceId,
    grant: GrantNumber,
    version: Lsn,
    out: &mut Out<'_>,
) {
    drop_holder(page, leaver, version);
    out.send_of(leaver, &page.of, Pcm::Released { grant });
}

/// Takes an instance out of the holders.
pub(super) fn drop_holder(page: &mut Page, leaver: InstanceId, version: Lsn) {
    let entry = &mut page.entry;
    entry.version = entry.version.max(version);
    entry.holders = entry.holders.without(leaver);
    if entry.owner() == Some(leaver) {
        entry.stored = entry.stored.max(version);
        entry.set_owner(entry.holders.iter().next());
        entry.set_exclusive(false);
    }
}
