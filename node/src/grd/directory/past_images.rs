//! Past images: the master knows who keeps one, and tells them when a newer version is on storage.

use super::{Page, State};
use crate::{
    grd::{out::Out, store::InstanceSet},
    planted,
};
use pagewire_protocol::{InstanceId, Lsn, Pcm};

/// A version is on storage.
pub(super) fn written(page: &mut Page, version: Lsn, out: &mut Out<'_>) {
    let entry = &mut page.entry;
    entry.version = entry.version.max(version);
    entry.stored = entry.stored.max(version);
    let stored = entry.stored;
    page.rare.base = page.rare.base.filter(|(_, version)| *version > stored);
    if planted::is("never_discard") {
        return;
    }
    discard(page, page.entry.past, out);
}

fn discard(page: &Page, keepers: InstanceSet, out: &mut Out<'_>) {
    for keeper in keepers.iter() {
        out.send_of(keeper, &page.of, Pcm::Discard { version: page.entry.stored });
    }
}

/// `from` has no past image up to `version`. It may have a newer one, if there were changes since.
pub(super) fn discarded(page: &mut Page, from: InstanceId, version: Lsn) {
    if version >= page.entry.version {
        page.entry.past = page.entry.past.without(from);
    }
}

/// `from` wants its past image of `version` superseded.
pub(super) fn write_request(page: &mut Page, from: InstanceId, version: Lsn, out: &mut Out<'_>) {
    page.entry.past = page.entry.past.with(from);
    match page.state() {
        _ if page.entry.stored >= version => discard(page, InstanceSet::of(from), out),
        State::Free => have_it_written(page, out),
        State::Converting(_) | State::Repairing => page.rare.write_wanted = true,
        // Its redo comes first; whoever wants the past image gone asks again.
        State::Lost => {}
    }
}

/// Tells whoever has the newest version to write it.
pub(super) fn have_it_written(page: &mut Page, out: &mut Out<'_>) {
    if page.rare.lost {
        return;
    }
    let base = page.rare.base.map(|(keeper, _)| keeper);
    let version = page.entry.stored;
    match page.entry.owner().or(base) {
        Some(owner) => out.send_of(owner, &page.of, Pcm::Write { version }),
        // Nobody has it, so the last one who had wrote it before it let go.
        None => discard_all(page, out),
    }
}

/// Nobody holds the page and nothing of it is missing: storage has it.
fn discard_all(page: &mut Page, out: &mut Out<'_>) {
    page.entry.stored = page.entry.stored.max(page.entry.version);
    discard(page, page.entry.past, out);
}
