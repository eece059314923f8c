//! The place of the ring for invalidations, looked at as a start would find it.
//!
//! Invariants: what is there stays as it is; a node that writes it and those that read it are not
//! disturbed.

use crate::NodeConfig;
use pagewire_si::{RingConfig, RingError, Trial};
use std::path::{Path, PathBuf};

/// Where the ring is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingPlace {
    /// The file.
    pub path: PathBuf,
    /// What a start would do there.
    pub found: RingFound,
}

/// What a start would find at a ring's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingFound {
    /// None, and one can be made.
    Free,
    /// One that it goes on with.
    Ours,
    /// One of this instance's that it makes anew: damaged, or of another size or version.
    ToReplace,
    /// A process writes it; its id.
    InUse(u32),
    /// Something that keeps it from starting.
    Refused {
        /// What.
        found: String,
        /// What to do.
        change: String,
    },
}

impl RingPlace {
    pub(super) fn try_out(config: &NodeConfig, path: &Path) -> Self {
        let (cluster, instance) = (config.cluster, config.instance);
        let incarnation = pagewire_protocol::Incarnation(0);
        let ring = RingConfig { cluster, instance, incarnation, entries: config.si_ring_entries };
        let found = match pagewire_si::try_out(path, &ring) {
            Ok(Trial::Make) => RingFound::Free,
            Ok(Trial::TakeOver) => RingFound::Ours,
            Ok(Trial::Replace) => RingFound::ToReplace,
            Err(RingError::InUse { pid, .. }) => RingFound::InUse(pid),
            Err(error) => refused(path, &error),
        };
        Self { path: path.to_owned(), found }
    }
}

/// In the words of a start, with what to do apart.
fn refused(path: &Path, error: &RingError) -> RingFound {
    let text = error.to_string();
    let text = text.strip_prefix(&format!("SI ring {}: ", path.display())).unwrap_or(&text);
    let (found, change) =
        text.split_once("; ").or_else(|| text.split_once(": ")).unwrap_or((text, "mend `si_ring`"));
    RingFound::Refused { found: found.to_owned(), change: change.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_protocol::{ClusterId, Incarnation, InstanceId};
    use pagewire_si::RingWriter;
    use std::fs;

    #[test]
    fn a_place_for_a_ring_is_told_in_the_words_of_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        let (me, listen) = (InstanceId(3), "127.0.0.1:0".parse().unwrap());
        let config = NodeConfig::new(ClusterId(42), me, vec![me], listen, PathBuf::new());
        let found = || RingPlace::try_out(&config, &path).found;
        assert_eq!(found(), RingFound::Free);
        let ring = config.open_ring_at(&path, Incarnation(7));
        assert_eq!(found(), RingFound::InUse(std::process::id()));
        drop(ring);
        assert_eq!(found(), RingFound::Ours);
        fs::write(&path, "PGWSIRNG").unwrap();
        assert_eq!(found(), RingFound::ToReplace);
        let told = |words: [&str; 2]| {
            let RingFound::Refused { found, change } = found() else { panic!("{:?}", found()) };
            assert!(found.contains(words[0]) && change.contains(words[1]), "{found}; {change}");
        };
        fs::write(&path, "no ring, and longer than the fixed part of a header is").unwrap();
        told(["this is no SI ring", "name another file"]);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        told(["found a directory", "name the file"]);
        fs::remove_dir(&path).unwrap();
        fs::remove_dir(folder.path()).unwrap();
        told(["No such file", "make its folder"]);
    }

    impl NodeConfig {
        fn open_ring_at(&self, path: &Path, life: Incarnation) -> RingWriter {
            let config = Self { si_ring: Some(path.to_owned()), ..self.clone() };
            config.open_si_ring(life).unwrap()
        }
    }
}
