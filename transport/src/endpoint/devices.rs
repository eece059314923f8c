//! The RDMA devices of an endpoint: opened, with the arena registered, when they are first needed;
//! let go when they vanish.

use super::{EndpointConfig, config::LinkPolicy, token::DEVICE};
use crate::{
    Arena,
    counters::VerbsCounters,
    link::verbs::{
        AsyncEvent, Choice, Context, MemoryRegion, Overrides, ProtectionDomain, ReadRegion,
        VerbsError, VerbsLink, device::open_others, link::LinkRoom, pick,
    },
};
use mio::{Interest, Registry, unix::SourceFd};
use pagewire_protocol::{RegionId, TcpReason, link_control::RegionMemory};
use std::{
    net::IpAddr,
    ops::Range,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// Time between two looks whether a device is still there: one that is removed tells nobody, and the
/// removal waits until every process has closed it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Sends of pages that wait for their completion at most, in each class.
pub(super) const PAGE_SENDS: u32 = 128;

/// Why verbs cannot be used, for the peer and in words.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) reason: TcpReason,
    pub(super) words: String,
}

impl Unusable {
    fn setup(error: &VerbsError) -> Self {
        Self { reason: error.tcp_reason(), words: error.to_string() }
    }
}

#[derive(Debug)]
struct Device {
    context: Arc<Context>,
    region: Option<Arc<MemoryRegion>>,
    /// What peers may read; `None`: it cannot be registered.
    readable: Vec<(RegionId, Option<ReadRegion>)>,
}

impl Device {
    fn region(&mut self, arena: &Arena) -> Result<Arc<MemoryRegion>, VerbsError> {
        if let Some(region) = &self.region {
            return Ok(Arc::clone(region));
        }
        let domain = ProtectionDomain::new(&self.context)?;
        let region = MemoryRegion::new(&domain, arena, false)?;
        self.region = Some(Arc::clone(&region));
        Ok(region)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Devices {
    policy: LinkPolicy,
    overrides: Overrides,
    open: Vec<Device>,
    looked_at: Instant,
}

impl Devices {
    /// Opens them, and registers the arena with the one that the listening address is on.
    ///
    /// # Errors
    /// [`VerbsError`] when the configuration demands verbs and it is not to be had.
    pub(super) fn new(
        config: &EndpointConfig,
        arena: &Arena,
        registry: &Registry,
    ) -> Result<Self, VerbsError> {
        let mut devices = Self {
            policy: config.links,
            overrides: config.verbs.clone(),
            open: Vec::new(),
            looked_at: Instant::now(),
        };
        if config.links == LinkPolicy::Tcp {
            return Ok(devices);
        }
        let ip = config.listen.ip();
        let prepared = devices.open(registry).and_then(|()| {
            if ip.is_unspecified() && config.verbs == Overrides::default() {
                return Ok(());
            }
            devices.choose(ip, arena).map(|_| ())
        });
        match prepared {
            Err(error) if config.links == LinkPolicy::Verbs => Err(error),
            Err(error) => {
                tracing::debug!("verbs: {error}");
                Ok(devices)
            }
            Ok(()) => Ok(devices),
        }
    }

    /// Opens the devices that are not open: also those that were removed and have come back.
    fn open(&mut self, registry: &Registry) -> Result<(), VerbsError> {
        let is_open = |name: &str| self.open.iter().any(|d| d.context.name() == name);
        for context in open_others(is_open)? {
            let fd = context.async_events_fd().as_raw_fd();
            registry.register(&mut SourceFd(&fd), DEVICE, Interest::READABLE).map_err(
                |source| VerbsError::Query {
                    device: context.name().to_owned(),
                    what: "events",
                    source,
                },
            )?;
            self.open.push(Device { context, region: None, readable: Vec::new() });
        }
        Ok(())
    }

    fn choose(
        &mut self,
        local: IpAddr,
        arena: &Arena,
    ) -> Result<(Choice, Arc<MemoryRegion>), VerbsError> {
        let facts: Result<Vec<_>, _> = self.open.iter().map(|d| d.context.facts()).collect();
        let choice = pick(&facts?, local, &self.overrides)?;
        let device = self.open.iter_mut().find(|d| d.context.name() == choice.device);
        let region = device.ok_or(VerbsError::NoDevice)?.region(arena)?;
        Ok((choice, region))
    }

    /// Queue pairs for a peer that a TCP connection from `local` reaches.
    pub(super) fn make(
        &mut self,
        local: IpAddr,
        arena: &Arena,
        room: &LinkRoom,
        registry: &Registry,
        counters: &Arc<VerbsCounters>,
    ) -> Result<VerbsLink, Unusable> {
        if self.policy == LinkPolicy::Tcp {
            let words = "the configuration says `tcp`".to_owned();
            return Err(Unusable { reason: TcpReason::Configured, words });
        }
        // Rare: there is a second and more between two attempts.
        match self.open(registry) {
            Err(error) if self.open.is_empty() => return Err(Unusable::setup(&error)),
            Err(error) => tracing::debug!("verbs: {error}"),
            Ok(()) => {}
        }
        let (choice, region) =
            self.choose(local, arena).map_err(|error| Unusable::setup(&error))?;
        VerbsLink::new(&region, &choice, room, counters).map_err(|error| Unusable::setup(&error))
    }

    /// What a peer has to know to read `frames` with the named device; `None` where they cannot be
    /// registered, which is said once: such a region is read by asking for it.
    pub(super) fn readable(
        &mut self,
        device: &str,
        arena: &Arena,
        region: RegionId,
        frames: &Range<u32>,
    ) -> Option<RegionMemory> {
        let device = self.open.iter_mut().find(|open| open.context.name() == device)?;
        let known = device.readable.iter().position(|(id, _)| *id == region);
        let at = known.unwrap_or_else(|| {
            if arena.memory_of(frames).is_none() {
                tracing::warn!(
                    "region {region} is asked for and not read one-sided over verbs: the arena keeps \
                     room between its frames, expected one with `margins` off"
                );
                device.readable.push((region, None));
                return device.readable.len() - 1;
            }
            let registered = device
                .region(arena)
                .and_then(|whole| ReadRegion::new(whole.domain(), arena, frames.clone()));
            if let Err(error) = &registered {
                tracing::warn!("region {region} is not read one-sided over verbs: {error}");
            }
            device.readable.push((region, registered.ok()));
            device.readable.len() - 1
        });
        device.readable[at].1.as_ref().map(ReadRegion::memory)
    }

    /// Takes a region's key back from every device: who reads with it fails, and has its queue pair fail.
    pub(super) fn forget_region(&mut self, region: RegionId) {
        for device in &mut self.open {
            device.readable.retain(|(known, _)| *known != region);
        }
    }

    /// What the devices report.
    pub(super) fn events(&self) -> Vec<(String, AsyncEvent)> {
        let mut events = Vec::new();
        for device in &self.open {
            let name = device.context.name();
            loop {
                match device.context.next_async_event() {
                    Ok(Some(event)) => events.push((name.to_owned(), event)),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!("{error}");
                        break;
                    }
                }
            }
        }
        events
    }

    /// The devices that have vanished since the last look. Their queue pairs have to be closed.
    pub(super) fn vanished(&mut self, now: Instant) -> Vec<String> {
        if self.open.is_empty() || now.saturating_duration_since(self.looked_at) < LOOK_EVERY {
            return Vec::new();
        }
        self.looked_at = now;
        let gone = self.open.iter().filter(|device| !device.context.is_present());
        gone.map(|device| device.context.name().to_owned()).collect()
    }

    /// Closes a device, once nothing uses it any more.
    pub(super) fn let_go(&mut self, name: &str, registry: &Registry) {
        for device in self.open.extract_if(.., |device| device.context.name() == name) {
            let fd = device.context.async_events_fd().as_raw_fd();
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
    }

    /// True when a look whether they are still there is due now and then.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.open.is_empty()).then(|| self.looked_at + LOOK_EVERY)
    }
}
