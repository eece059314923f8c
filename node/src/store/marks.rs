//! Whose a storage folder is: marks that instances leave there, in a folder of their own beside the page
//! files, which PostgreSQL and its tools pass over.
//!
//! ```text
//!   pagewire/cluster        cluster id, page size, and an id of this storage: made by the first instance,
//!                           read by each at its start
//!   pagewire/instance-N     the life of instance N that has started here last
//! ```
//! An instance of another cluster, or with pages of another size, is refused. A peer whose mark is not
//! there has other storage mounted; whoever finds another life in its own mark shares the folder with a
//! cluster that has the same id ([`StorageWatch`](crate::storage_watch::StorageWatch)).
//!
//! Invariants: a mark is whole or not there, also while others look: it is written under another name and
//! then linked or renamed. Nothing here is needed to read pages; it may be removed while no instance runs.
//!
//! Threading: any; it blocks on storage.

use super::StoreError;
use crate::file_kind;
use pagewire_protocol::{ClusterId, Incarnation, InstanceId, PageSize};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The folder of the marks, in the storage folder.
const FOLDER: &str = "pagewire";
/// Most that is read of a mark, in bytes.
const MARK_MAX_BYTES: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct ClusterMark {
    cluster: u64,
    page_size: u64,
    /// The id of the storage.
    storage: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct InstanceMark {
    incarnation: u64,
}

/// The marks of one storage folder; see the module.
#[derive(Debug, Clone)]
pub struct Marks {
    folder: PathBuf,
    storage: u64,
}

impl Marks {
    /// The marks in the storage folder `root`, which is to be of `cluster`; the first instance makes them.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`], [`StoreError::OtherPageSize`]; [`StoreError::Mark`] and
    /// [`StoreError::BadMark`].
    pub fn claim(root: &Path, cluster: ClusterId, pages: PageSize) -> Result<Self, StoreError> {
        let folder = root.join(FOLDER);
        let path = folder.join("cluster");
        let failed = |source| StoreError::Mark { path: path.clone(), source };
        let page_size = pages.bytes() as u64;
        let mark = match look(&path)? {
            Some(mark) => mark,
            None => {
                let storage = getrandom::u64().map_err(|error| failed(io::Error::other(error)))?;
                let mark = ClusterMark { cluster: cluster.0, page_size, storage };
                make(&folder, &path, &mark, Place::OnlyIfFree).map_err(failed)?;
                // That of another instance, if it was there first.
                look(&path)?.unwrap_or(mark)
            }
        };
        if mark.cluster != cluster.0 {
            let found = ClusterId(mark.cluster);
            return Err(StoreError::OtherCluster { root: root.to_owned(), path, found, cluster });
        }
        if mark.page_size != page_size {
            let found_bytes = mark.page_size;
            let root = root.to_owned();
            return Err(StoreError::OtherPageSize { root, path, found_bytes, page_size });
        }
        Ok(Self { folder, storage: mark.storage })
    }

    /// What would keep an instance from starting there; nothing is made.
    pub(crate) fn refusal(root: &Path, cluster: ClusterId, pages: PageSize) -> Option<StoreError> {
        let folder = root.join(FOLDER);
        let claimed = match look::<ClusterMark>(&folder.join("cluster")) {
            Ok(None) => None,
            Ok(Some(_)) => Self::claim(root, cluster, pages).err(),
            Err(error) => Some(error),
        };
        // A start leaves a mark there, too: a file without a name is tried.
        claimed.or_else(|| match tempfile::tempfile_in(&folder) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Some(StoreError::Mark { path: folder, source })
            }
            _ => None,
        })
    }

    /// The number of the storage in `root`; nothing where no instance has started, or none can be read.
    pub(crate) fn storage_in(root: &Path) -> Option<u64> {
        let mark = look::<ClusterMark>(&root.join(FOLDER).join("cluster"));
        mark.ok().flatten().map(|mark| mark.storage)
    }

    /// The folder that they are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A number that no other storage has.
    #[must_use]
    pub fn storage_id(&self) -> u64 {
        self.storage
    }

    /// Whether the storage is still the one that these marks were claimed in.
    ///
    /// # Errors
    /// What was found in its place, in words.
    pub fn still_there(&self) -> Result<(), String> {
        let root = self.folder.parent().unwrap_or(&self.folder);
        match fs::metadata(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err("the folder is not there any more".to_owned());
            }
            Err(error) => return Err(format!("the folder cannot be looked at ({error})")),
            Ok(about) if !about.is_dir() => return Err("it is no folder any more".to_owned()),
            Ok(_) => {}
        }
        let path = self.folder.join("cluster");
        match look::<ClusterMark>(&path) {
            Ok(Some(mark)) if mark.storage == self.storage => Ok(()),
            Ok(Some(mark)) => Err(format!(
                "it is storage {:016x}, expected {:016x}: another folder is in its place, or its mark was \
                 removed and an instance that started since has made a new one (then stop all instances and \
                 start them together)",
                mark.storage, self.storage
            )),
            Ok(None) => Err(format!(
                "{} is not there any more: another folder is in its place, or somebody has removed that \
                 file (then stop all instances and start them again: the first one makes it)",
                path.display()
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Says that this life of `instance` has this storage.
    ///
    /// # Errors
    /// [`StoreError::Mark`].
    pub fn leave(&self, instance: InstanceId, life: Incarnation) -> Result<(), StoreError> {
        let path = self.path(instance);
        let mark = InstanceMark { incarnation: life.0 };
        make(&self.folder, &path, &mark, Place::Replaced)
            .map_err(|source| StoreError::Mark { path, source })
    }

    /// The life of `instance` that has said so last.
    ///
    /// # Errors
    /// [`StoreError::Mark`], [`StoreError::BadMark`].
    pub fn of(&self, instance: InstanceId) -> Result<Option<Incarnation>, StoreError> {
        let path = self.path(instance);
        // Opening the folder is what makes a network file system ask its server what is in there.
        fs::read_dir(&self.folder)
            .map_err(|source| StoreError::Mark { path: self.folder.clone(), source })?;
        Ok(look::<InstanceMark>(&path)?.map(|mark| Incarnation(mark.incarnation)))
    }

    fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(format!("instance-{instance}"))
    }
}

/// What there may be in a mark's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing; what is there stays.
    OnlyIfFree,
    /// An earlier one, which goes.
    Replaced,
}

fn make(folder: &Path, path: &Path, mark: &impl Serialize, place: Place) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new().prefix(".mark-").tempfile_in(folder)?;
    // For whoever else may read the page files: there is no secret in it.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    writeln!(file, "{}", serde_json::to_string(mark)?)?;
    file.as_file().sync_all()?;
    match place {
        Place::Replaced => file.persist(path).map(drop).map_err(|error| error.error),
        Place::OnlyIfFree => match file.persist_noclobber(path) {
            Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error),
            _ => Ok(()),
        },
    }
}

fn look<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let failed = |source| StoreError::Mark { path: path.to_owned(), source };
    // Something else may be there: a FIFO would wait for a writer.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() {
        let problem = format!("it is {}, expected a file", file_kind::in_words(kind));
        return Err(StoreError::BadMark { path: path.to_owned(), problem });
    }
    let mut bytes = Vec::new();
    file.take(MARK_MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    let bad = |error| StoreError::BadMark { path: path.to_owned(), problem: format!("{error}") };
    serde_json::from_slice(&bytes).map(Some).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(42);

    #[test]
    fn a_folder_is_of_the_cluster_that_was_there_first() {
        let root = tempfile::tempdir().unwrap();
        let marks = Marks::claim(root.path(), CLUSTER, PageSize::K8).unwrap();
        let again = Marks::claim(root.path(), CLUSTER, PageSize::K8).unwrap();
        assert_eq!(marks.storage_id(), again.storage_id());
        let other = Marks::claim(root.path(), ClusterId(u64::MAX), PageSize::K8).unwrap_err();
        for words in ["is of cluster 42", "this instance of cluster 18446744073709551615"] {
            assert!(other.to_string().contains(words), "{other}");
        }
        let other = Marks::claim(root.path(), CLUSTER, PageSize::K4).unwrap_err().to_string();
        assert!(other.contains("pages of 8192 bytes") && other.contains("4096"), "{other}");
        let another = tempfile::tempdir().unwrap();
        let another = Marks::claim(another.path(), CLUSTER, PageSize::K8).unwrap();
        assert_ne!(marks.storage_id(), another.storage_id());
        let left: Vec<_> = fs::read_dir(marks.folder()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn instances_that_start_together_agree_on_one_mark() {
        let root = tempfile::tempdir().unwrap();
        let claim = || Marks::claim(root.path(), CLUSTER, PageSize::K8).map(|m| m.storage_id());
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn what_is_no_file_in_place_of_a_mark_is_told_and_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let marks = Marks::claim(root.path(), CLUSTER, PageSize::K8).unwrap();
        let of = |id| marks.of(InstanceId(id)).unwrap_err().to_string();
        fs::create_dir(marks.folder().join("instance-1")).unwrap();
        assert!(of(1).contains("it is a directory, expected a file"), "{}", of(1));
        let path = marks.folder().join("instance-2");
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        assert!(of(2).contains("it is a FIFO, expected a file"), "{}", of(2));
    }

    #[test]
    fn who_looks_finds_the_last_life_of_an_instance_or_none() {
        let root = tempfile::tempdir().unwrap();
        let marks = Marks::claim(root.path(), CLUSTER, PageSize::K8).unwrap();
        let (one, two) = (InstanceId(1), InstanceId(2));
        for life in [7, 9] {
            marks.leave(one, Incarnation(life)).unwrap();
            assert_eq!(marks.of(one).unwrap(), Some(Incarnation(life)));
        }
        assert_eq!(marks.of(two).unwrap(), None);
    }

    #[test]
    fn storage_that_is_gone_or_another_one_is_not_taken_for_the_same() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("shared");
        fs::create_dir(&root).unwrap();
        let marks = Marks::claim(&root, CLUSTER, PageSize::K8).unwrap();
        assert_eq!(marks.still_there(), Ok(()));
        let away = parent.path().join("away");
        fs::rename(&root, &away).unwrap();
        let told = |words: &str| {
            let found = marks.still_there().unwrap_err();
            assert!(found.contains(words), "'{words}' in: {found}");
        };
        told("the folder is not there any more");
        fs::write(&root, "").unwrap();
        told("no folder any more");
        fs::remove_file(&root).unwrap();
        // As below a file system that is not mounted any more.
        fs::create_dir(&root).unwrap();
        told("cluster is not there any more");
        Marks::claim(&root, CLUSTER, PageSize::K8).unwrap();
        told(&format!("expected {:016x}: another folder", marks.storage_id()));
        fs::write(root.join("pagewire/cluster"), "x").unwrap();
        told("cannot be understood");
        fs::remove_dir_all(&root).unwrap();
        fs::rename(&away, &root).unwrap();
        assert_eq!(marks.still_there(), Ok(()));
    }

    #[test]
    fn a_mark_that_is_none_is_told_and_where_none_can_be_made_too() {
        let root = tempfile::tempdir().unwrap();
        let claim = |root: &Path| Marks::claim(root, CLUSTER, PageSize::K8).map(drop);
        assert!(Marks::refusal(root.path(), CLUSTER, PageSize::K8).is_none());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is made by asking");
        claim(root.path()).unwrap();
        let path = root.path().join(FOLDER).join("cluster");
        for text in ["", "{\"cluster\":", "{\"cluster\":-1,\"page_size\":1,\"storage\":1}", "x"] {
            fs::write(&path, text).unwrap();
            let error = claim(root.path()).unwrap_err();
            assert!(matches!(error, StoreError::BadMark { .. }), "{text}: {error}");
            assert!(error.to_string().contains("remove it"), "{error}");
            assert!(Marks::refusal(root.path(), CLUSTER, PageSize::K8).is_some(), "{text}");
        }
        fs::remove_dir_all(root.path().join(FOLDER)).unwrap();
        fs::write(root.path().join(FOLDER), "").unwrap();
        for error in [
            claim(root.path()).unwrap_err(),
            Marks::refusal(root.path(), CLUSTER, PageSize::K8).unwrap(),
        ] {
            let text = error.to_string();
            assert!(text.contains("Not a directory") && text.contains("move it away"), "{text}");
        }
        // Not even root can write there.
        let error = claim(Path::new("/proc")).unwrap_err();
        assert!(matches!(error, StoreError::Mark { .. }), "{error}");
    }
}
