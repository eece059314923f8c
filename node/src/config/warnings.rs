//! What of a configuration is taken, but not used as it is written.

use super::{CACHE_PAGES_MIN, NodeConfig, file::ARENA_MB};
use pagewire_transport::{LinkPolicy, Overrides};
use std::collections::BTreeMap;

impl NodeConfig {
    /// What a start tells the operator, once: what was found, what is used and what to do.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let cache = self.cache_excess().map(|excess| {
            format!("cache_pages is {}, {}: {}", excess.found, excess.used(), excess.change())
        });
        let no_key = self.no_key().filter(|no_key| no_key.is_reachable);
        let no_key =
            no_key.map(|no_key| format!("cluster_key is {}: {}", no_key.found, no_key.change));
        let rest =
            self.spare_cores().into_iter().chain(self.idle_rdma()).chain(self.shared_cores());
        cache.into_iter().chain(no_key).chain(rest).collect()
    }

    /// What a start notes, in case somebody asks.
    pub(crate) fn notes(&self) -> Vec<String> {
        let no_key = self.no_key().filter(|no_key| !no_key.is_reachable);
        no_key.into_iter().map(|no_key| format!("cluster_key is {}", no_key.found)).collect()
    }

    /// That peers do not prove who they are, where there can be any.
    pub(crate) fn no_key(&self) -> Option<NoKey> {
        if self.cluster_key.is_some() || self.peers_max() == 0 {
            return None;
        }
        let is_reachable = !self.listen.ip().is_loopback();
        let found = match is_reachable {
            true => format!("none: whoever reaches {} can speak as any instance", self.listen),
            false => {
                "none: whoever has an account on this host can speak as any instance".to_owned()
            }
        };
        let change = "make one (`openssl rand -hex 32 > cluster.key && chmod 600 cluster.key`), give all \
                      instances the same, and name it in `cluster_key`";
        Some(NoKey { is_reachable, found, change })
    }

    /// What is named of RDMA devices, where none is used.
    fn idle_rdma(&self) -> Option<String> {
        (self.transport == LinkPolicy::Tcp && self.rdma != Overrides::default()).then(|| {
            "transport is \"tcp\", so rdma_device, rdma_port and rdma_gid_index are not used: take them \
             out, or set transport to \"auto\" or \"verbs\""
                .to_owned()
        })
    }

    /// Pages that the instance has room for in its cache, in all shards together.
    pub(crate) fn cache_room(&self) -> u32 {
        let of_shard = self.frames_of_shard().saturating_sub(self.frames_beside_cache());
        of_shard.saturating_mul(self.shards.max(1).into())
    }

    /// `cache_pages`, if the arena cannot hold so many.
    pub(crate) fn cache_excess(&self) -> Option<CacheExcess> {
        let (found, room) = (self.cache_pages?, self.cache_room());
        if found <= room {
            return None;
        }
        let shards = u64::from(self.shards.max(1));
        let of_shard = u64::from(found).div_ceil(shards).max(CACHE_PAGES_MIN.into());
        let frames = (of_shard + u64::from(self.frames_beside_cache())) * shards;
        let needed_mb = (frames * self.page_size.bytes() as u64).div_ceil(1 << 20);
        let needed_mb = u32::try_from(needed_mb).ok().filter(|mb| ARENA_MB.contains(mb));
        Some(CacheExcess { found, room, needed_mb })
    }

    fn spare_cores(&self) -> Option<String> {
        let (found, shards) = (self.poller_cores.len(), usize::from(self.shards));
        (found > shards).then(|| {
            format!(
                "poller_cores names {found} cores, shards is {shards}: those beyond are not used; \
                 name as many as `shards`"
            )
        })
    }

    /// Cores that several shards are to run on. Where they spin, the pollers tell it themselves.
    fn shared_cores(&self) -> Vec<String> {
        let mut shards_of = BTreeMap::<usize, Vec<String>>::new();
        for (shard, core) in self.poller_cores.iter().take(self.shards.into()).enumerate() {
            shards_of.entry(*core).or_default().push(shard.to_string());
        }
        let is_shared = |shards: &Vec<String>| shards.len() > 1 && self.spin_us == 0;
        let told = |(core, shards): (usize, Vec<String>)| {
            format!(
                "poller_cores names core {core} for shards {}: they wait for each other; name each \
                 core once",
                shards.join(", ")
            )
        };
        shards_of.into_iter().filter(|(_, shards)| is_shared(shards)).map(told).collect()
    }
}

/// An instance without a cluster key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoKey {
    /// From other hosts, too.
    pub is_reachable: bool,
    /// What was found, in words.
    pub found: String,
    /// What to do.
    pub change: &'static str,
}

/// More pages to cache than there is room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheExcess {
    /// `cache_pages`.
    pub found: u32,
    /// Pages that there is room for.
    pub room: u32,
    /// The least arena that has room for all of them, in MiB; `None`: more than one may have.
    pub needed_mb: Option<u32>,
}

impl CacheExcess {
    /// What is used instead.
    pub(crate) fn used(&self) -> String {
        format!("the arena has room for {0}, so {0} are cached", self.room)
    }

    /// What to do.
    pub(crate) fn change(&self) -> String {
        let raise = self.needed_mb.map(|mb| format!(", or raise `arena_mb` to {mb}"));
        format!("lower `cache_pages`{}", raise.unwrap_or_default())
    }
}
