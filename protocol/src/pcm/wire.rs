//! The fixed layout of a PCM body, and what a REPORT and a STAT_REPLY put where in it.

use super::PCM_BODY_BYTES;
use crate::{
    DecodeError, GrantNumber, Incarnation, InstanceId, Lsn, Mode, RequestId,
    guide::{Report, Transit},
    stat::{InstanceStat, PageStat, Stat},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Default, PartialEq)]
#[repr(C)]
pub(super) struct WirePcm {
    pub(super) tag: [U32; 5],
    pub(super) request_instance: U16,
    pub(super) mode: u8,
    pub(super) verdict: u8,
    pub(super) request_sequence: U64,
    pub(super) request_incarnation: U64,
    pub(super) grant: U64,
    pub(super) revokes: U64,
    pub(super) version: U64,
    pub(super) mask: U64,
    pub(super) flags: U16,
    pub(super) small: U16,
    pub(super) reserved: U32,
}
const _: () = assert!(size_of::<WirePcm>() == PCM_BODY_BYTES);
const _: () = assert!(PCM_BODY_BYTES <= crate::header::BODY_BYTES_MAX);

/// The bits of the flags field; which of them a message uses its arm of encode says.
pub(super) mod flag {
    pub(in crate::pcm) const DIRTY: u16 = 1;
    pub(in crate::pcm) const UNSAVED: u16 = 2;
    pub(in crate::pcm) const PAST: u16 = 4;
    pub(in crate::pcm) const RECOVERY: u16 = 8;
    pub(in crate::pcm) const TRANSIT: u16 = 16;
    pub(in crate::pcm) const TRANSIT_DIRTY: u16 = 32;
    pub(in crate::pcm) const INSTANCE: u16 = 64;
    pub(in crate::pcm) const EXCLUSIVE: u16 = 128;
    pub(in crate::pcm) const CONVERTING: u16 = 256;
    pub(in crate::pcm) const LOST: u16 = 512;
    pub(in crate::pcm) const REPAIRING: u16 = 1024;
    pub(in crate::pcm) const KNOWN: u16 = 2048;
    pub(in crate::pcm) const PENDING: u16 = 4096;
    pub(in crate::pcm) const TO_DEAD: u16 = 8192;
}

/// The fields beside tag and flags, as the bits of a set; which of them a message uses its arm of decode
/// says.
pub(super) mod field {
    pub(in crate::pcm) const NONE: u16 = 0;
    pub(in crate::pcm) const REQUEST: u16 = 1;
    pub(in crate::pcm) const MODE: u16 = 2;
    pub(in crate::pcm) const VERDICT: u16 = 4;
    pub(in crate::pcm) const GRANT: u16 = 8;
    pub(in crate::pcm) const REVOKES: u16 = 16;
    pub(in crate::pcm) const VERSION: u16 = 32;
    pub(in crate::pcm) const MASK: u16 = 64;
    pub(in crate::pcm) const SMALL: u16 = 128;
}

/// Grant numbers have 48 bits.
pub(super) const GRANT_BITS: u64 = (1 << 48) - 1;

fn high_u16(word: u64) -> u32 {
    u32::try_from(word >> 48).unwrap_or(0)
}

impl WirePcm {
    pub(super) fn set_request(&mut self, request: RequestId) {
        self.request_instance = U16::new(request.instance.0);
        self.request_incarnation = U64::new(request.incarnation.0);
        self.request_sequence = U64::new(request.sequence);
    }

    pub(super) fn request(&self) -> RequestId {
        RequestId {
            instance: InstanceId(self.request_instance.get()),
            incarnation: Incarnation(self.request_incarnation.get()),
            sequence: self.request_sequence.get(),
        }
    }

    pub(super) fn mode_or_none(&self) -> Result<Mode, DecodeError> {
        Mode::from_wire(self.mode).ok_or(DecodeError::Field {
            what: "PCM mode",
            found: self.mode.into(),
            expected: "0 (N), 1 (S) or 2 (X)",
        })
    }

    pub(super) fn mode(&self) -> Result<Mode, DecodeError> {
        self.mode_or_none().ok().filter(|&m| m != Mode::N).ok_or(DecodeError::Field {
            what: "PCM mode",
            found: self.mode.into(),
            expected: "1 (S) or 2 (X)",
        })
    }

    pub(super) fn set(&mut self, flag: u16, on: bool) {
        if on {
            self.flags = U16::new(self.flags.get() | flag);
        }
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    /// Whether everything but the fields and flags that a message uses is 0, as it has to be.
    #[inline(always)] // Both sets are constants wherever it is called, and little is left of it.
    pub(super) fn has_only(&self, fields: u16, flags: u16) -> bool {
        let of = |field: u16, value: u64| if fields & field == 0 { value } else { 0 };
        let request = self.request_sequence.get()
            | self.request_incarnation.get()
            | u64::from(self.request_instance.get());
        let unused = of(field::REQUEST, request)
            | of(field::MODE, self.mode.into())
            | of(field::VERDICT, self.verdict.into())
            | of(field::GRANT, self.grant.get())
            | of(field::REVOKES, self.revokes.get())
            | of(field::VERSION, self.version.get())
            | of(field::MASK, self.mask.get())
            | of(field::SMALL, self.small.get().into())
            | u64::from(self.flags.get() & !flags)
            | u64::from(self.reserved.get());
        unused == 0
    }

    pub(super) fn set_report(&mut self, report: &Report) {
        let Report { mode, grant, version, dirty, unsaved, writer, transit, past, pending } =
            *report;
        self.mode = mode.to_wire();
        self.grant = U64::new(grant.0 & GRANT_BITS);
        if let Some(request) = pending {
            self.set(flag::PENDING, true);
            self.reserved = U32::new(request);
        }
        self.version = U64::new(version.0);
        self.small = U16::new(writer.0);
        self.set(flag::DIRTY, dirty);
        self.set(flag::UNSAVED, unsaved);
        if let Some(Transit { to, to_dead, request, grant, version, dirty }) = transit {
            // Its request fits in where grant numbers are never: above their 48 bits.
            let halves = (u64::from(request & 0xFFFF) << 48, u64::from(request >> 16) << 48);
            self.grant = U64::new(self.grant.get() | halves.0);
            self.set(flag::TO_DEAD, to_dead);
            self.set(flag::TRANSIT, true);
            self.set(flag::TRANSIT_DIRTY, dirty);
            self.request_instance = U16::new(to.0);
            self.request_sequence = U64::new(grant.0 & GRANT_BITS | halves.1);
            self.request_incarnation = U64::new(version.0);
        }
        if let Some(version) = past {
            self.set(flag::PAST, true);
            self.mask = U64::new(version.0);
        }
    }

    pub(super) fn report(&self) -> Result<Report, DecodeError> {
        Ok(Report {
            mode: self.mode_or_none()?,
            grant: GrantNumber(self.grant.get() & GRANT_BITS),
            version: Lsn(self.version.get()),
            dirty: self.has(flag::DIRTY),
            unsaved: self.has(flag::UNSAVED),
            writer: InstanceId(self.small.get()),
            transit: self.has(flag::TRANSIT).then(|| Transit {
                to: InstanceId(self.request_instance.get()),
                to_dead: self.has(flag::TO_DEAD),
                request: high_u16(self.grant.get()) | high_u16(self.request_sequence.get()) << 16,
                grant: GrantNumber(self.request_sequence.get() & GRANT_BITS),
                version: Lsn(self.request_incarnation.get()),
                dirty: self.has(flag::TRANSIT_DIRTY),
            }),
            past: self.has(flag::PAST).then(|| Lsn(self.mask.get())),
            pending: self.has(flag::PENDING).then(|| self.reserved.get()),
        })
    }

    pub(super) fn set_stat(&mut self, stat: &Stat) {
        match *stat {
            Stat::Page(page) => {
                let owner = page.owner.map_or(u16::MAX, |owner| owner.0);
                self.request_instance = U16::new(owner);
                self.request_sequence = U64::new(page.holders);
                self.request_incarnation = U64::new(page.past_images);
                self.grant = U64::new(page.grant.0);
                self.revokes = U64::new(page.stored.0);
                self.version = U64::new(page.version.0);
                self.small = U16::new(page.queued);
                self.set(flag::KNOWN, page.known);
                self.set(flag::EXCLUSIVE, page.exclusive);
                self.set(flag::CONVERTING, page.converting);
                self.set(flag::LOST, page.lost);
                self.set(flag::REPAIRING, page.repairing);
            }
            Stat::Instance(it) => {
                self.set(flag::INSTANCE, true);
                self.request_sequence = U64::new(it.entries);
                self.request_incarnation = U64::new(it.held_shared);
                self.grant = U64::new(it.held_exclusive);
                self.revokes = U64::new(it.dirty);
                self.version = U64::new(it.past_images);
                self.mask = U64::new(it.requests);
                self.small = U16::new(it.partitions);
                self.reserved = U32::new(it.loading.into());
            }
        }
    }

    pub(super) fn stat(&self) -> Stat {
        if self.has(flag::INSTANCE) {
            return Stat::Instance(InstanceStat {
                entries: self.request_sequence.get(),
                partitions: self.small.get(),
                loading: u16::try_from(self.reserved.get()).unwrap_or(u16::MAX),
                held_shared: self.request_incarnation.get(),
                held_exclusive: self.grant.get(),
                dirty: self.revokes.get(),
                past_images: self.version.get(),
                requests: self.mask.get(),
            });
        }
        let owner = self.request_instance.get();
        Stat::Page(PageStat {
            known: self.has(flag::KNOWN),
            owner: (owner != u16::MAX).then_some(InstanceId(owner)),
            exclusive: self.has(flag::EXCLUSIVE),
            holders: self.request_sequence.get(),
            past_images: self.request_incarnation.get(),
            version: Lsn(self.version.get()),
            stored: Lsn(self.revokes.get()),
            queued: self.small.get(),
            grant: GrantNumber(self.grant.get()),
            converting: self.has(flag::CONVERTING),
            repairing: self.has(flag::REPAIRING),
            lost: self.has(flag::LOST),
        })
    }
}
