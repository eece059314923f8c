//! What of a configuration must fit together: arena, addresses, times.

use super::{CACHE_PAGES_MIN, ConfigError, NodeConfig, PeerConfig};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

impl NodeConfig {
    /// Checks that a peer is not given up because one keepalive was late.
    pub(super) fn check_liveness(&self, path: &Path) -> Result<(), ConfigError> {
        let needed_ms = self.keepalive_ms.saturating_mul(2);
        if self.peer_timeout_ms >= needed_ms {
            return Ok(());
        }
        Err(ConfigError::PeerTimeout {
            path: path.to_owned(),
            found_ms: self.peer_timeout_ms,
            keepalive_ms: self.keepalive_ms,
            needed_ms,
        })
    }

    /// Checks that each shard's share of the arena has room for what the peers may have on their
    /// way, and some pages.
    pub(super) fn check_arena(&self, path: &Path) -> Result<(), ConfigError> {
        if self.frames_of_shard() >= self.frames_needed() {
            return Ok(());
        }
        let page_bytes = self.page_size.bytes();
        let needed = u64::from(self.frames_needed()) * u64::from(self.shards);
        Err(ConfigError::ArenaTooSmall {
            path: path.to_owned(),
            found_mb: self.arena_mb,
            frames: self.frames(),
            page_bytes,
            needed,
            needed_mb: (needed * page_bytes as u64).div_ceil(1 << 20),
            peers: self.peers_max(),
            shards: self.shards,
        })
    }

    /// Frames that one shard has.
    pub(crate) fn frames_of_shard(&self) -> u32 {
        self.frames() / u32::from(self.shards.max(1))
    }

    /// Fewest frames that one shard works with: the sum at the top of runtime/shard.rs.
    pub(crate) fn frames_needed(&self) -> u32 {
        self.frames_beside_cache().saturating_add(CACHE_PAGES_MIN)
    }

    /// Frames that one shard needs beside its cached pages.
    pub(crate) fn frames_beside_cache(&self) -> u32 {
        let peers = u32::try_from(self.peers_max()).unwrap_or(u32::MAX);
        let fabric = peers.saturating_mul(self.credits.frames_per_peer());
        fabric.saturating_add(self.io_threads_of_shard())
    }

    /// Most peers at a time that there are frames for.
    pub(crate) fn peers_max(&self) -> usize {
        let most = self.members.len().max(self.members_max.unwrap_or(0).into());
        most.saturating_sub(1)
    }

    /// I/O threads of one shard: it cannot do without one.
    pub(crate) fn io_threads_of_shard(&self) -> u32 {
        (self.io_threads / u32::from(self.shards.max(1))).max(1)
    }

    /// Checks that there is a port for each shard, and that each peer has an address that can be its
    /// own. All shards of all instances listen on ports of their own.
    pub(super) fn check_addresses(&self, path: &Path) -> Result<(), ConfigError> {
        if self.row(self.listen).is_none() {
            let expected = "a port that those of all shards can follow; take a lower one, or fewer \
                            `shards`";
            let found = self.listen.to_string();
            return Err(ConfigError::value(path, "listen", found, expected));
        }
        for (at, peer) in self.peers.iter().enumerate() {
            if let Some(problem) = self.problem_with(peer, &self.peers[..at]) {
                let (path, PeerConfig { instance: peer, address }) =
                    (path.to_owned(), peer.clone());
                return Err(ConfigError::PeerAddress { path, peer, address, problem });
            }
        }
        Ok(())
    }

    /// What is wrong with the address of a peer that comes after `before`.
    fn problem_with(&self, peer: &PeerConfig, before: &[PeerConfig]) -> Option<String> {
        let PeerConfig { instance: id, address } = peer;
        if address.port() == 0 {
            return Some("which has no port; expected the port that it listens on".to_owned());
        }
        if address.ip().is_unspecified() {
            let expected = "expected the address at which this instance reaches it";
            return Some(format!("which is no address to dial; {expected}"));
        }
        let Some(last) = self.row(*address) else {
            return Some(
                "which leaves no port for its last shard; expected a lower one".to_owned(),
            );
        };
        let row = match self.shards {
            0 | 1 => String::new(),
            shards => format!(" (its {shards} shards listen on ports up to {last})"),
        };
        // Two entries for one instance are told apart from their addresses.
        if *id != self.instance && self.is_own(address) {
            let expected = "expected the address that the peer listens on";
            return Some(format!("which is this instance's own{row}; {expected}"));
        }
        let same = |other: &&PeerConfig| {
            let ip = other.address.ip();
            other.instance != *id && self.rows_meet(other.address, *address, ip)
        };
        let other = before.iter().find(same)?.instance;
        Some(format!("which peer {other} has, too{row}; expected one for each"))
    }

    /// The last port of the shards of an instance whose first listens on `first`.
    pub(crate) fn row(&self, first: SocketAddr) -> Option<u16> {
        first.port().checked_add(self.shards.saturating_sub(1))
    }

    /// Whether shards that listen on `one` and the ports that follow, and those on `other` and the
    /// following at `ip`, would share a port.
    fn rows_meet(&self, one: SocketAddr, other: SocketAddr, ip: IpAddr) -> bool {
        ip == other.ip() && one.port().abs_diff(other.port()) < self.shards.max(1)
    }

    fn is_own(&self, address: &SocketAddr) -> bool {
        let is_any = self.listen.ip().is_unspecified() && address.ip().is_loopback();
        let here = if is_any { address.ip() } else { self.listen.ip() };
        // Port 0 is none yet.
        self.listen.port() != 0 && self.rows_meet(self.listen, *address, here)
    }

    /// Checks that every other member has an address, and that peers can know this instance's. Whoever
    /// adds peers later, and tells them where it listens, need not ask.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the members that have none, or `listen` without a port.
    pub fn check_peers(&self, path: &Path) -> Result<(), ConfigError> {
        let is_known =
            |id: &_| *id == self.instance || self.peers.iter().any(|p| p.instance == *id);
        let unknown = self.members.iter().filter(|id| !is_known(id));
        let unknown: Vec<_> = unknown.map(ToString::to_string).collect();
        if unknown.is_empty() && self.listen.port() == 0 && self.peers_max() > 0 {
            let expected =
                "a port of its own: peers cannot dial one that the system chooses at each start";
            return Err(ConfigError::value(path, "listen", self.listen.to_string(), expected));
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let found = format!("a list without {}", unknown.join(", "));
        let expected = "an address for each other instance that `members` lists";
        Err(ConfigError::value(path, "peers", found, expected))
    }
}
