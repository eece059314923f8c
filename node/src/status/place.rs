//! Where the socket of a node is: where the configuration says, or the first of a few folders that
//! can be had. Node and asker look at the same ones in the same order.
//!
//! A folder that is chosen is this user's alone (mode 0700), so that nobody else can put a socket of
//! their own there.

use crate::NodeConfig;
use pagewire_protocol::{ClusterId, InstanceId};
use std::{
    env,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Longest path of a socket, in bytes: the system takes 107, and while a socket is made its name is
/// longer by up to 11.
pub(crate) const PATH_MAX_BYTES: usize = 96;

/// Places of one instance's socket, the best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub(super) paths: Vec<PathBuf>,
    /// The configuration names it.
    pub(super) is_configured: bool,
}

impl Places {
    /// Those of the instance that `config` describes, in this process's environment.
    #[must_use]
    pub fn of(config: &NodeConfig) -> Self {
        if let Some(path) = &config.status_socket {
            return Self { paths: vec![path.clone()], is_configured: true };
        }
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let temporary = env::temp_dir();
        Self::usual(config.cluster, config.instance, runtime.as_deref(), &temporary, own_id())
    }

    fn usual(
        cluster: ClusterId,
        instance: InstanceId,
        runtime: Option<&Path>,
        temporary: &Path,
        user: u32,
    ) -> Self {
        let runtime = runtime.filter(|folder| folder.is_absolute());
        let folders = runtime
            .map(|folder| folder.join("pagewire"))
            .into_iter()
            .chain(["/run/pagewire".into(), temporary.join(format!("pagewire-{user}"))]);
        let socket = |folder: PathBuf| folder.join(format!("{cluster}-{instance}.sock"));
        let fits = |path: &PathBuf| path.as_os_str().len() <= PATH_MAX_BYTES;
        Self { paths: folders.map(socket).filter(fits).collect(), is_configured: false }
    }

    /// The place to listen at; the folder is there then.
    pub(super) fn to_listen(&self) -> Option<&Path> {
        let has_folder = |path: &&PathBuf| {
            self.is_configured || path.parent().is_some_and(|folder| make_own(folder).is_ok())
        };
        self.paths.iter().find(has_folder).map(PathBuf::as_path)
    }

    /// The places to ask at. Other users' folders are left out.
    pub(super) fn to_ask(&self) -> impl Iterator<Item = &Path> {
        let trusted = |path: &&PathBuf| {
            self.is_configured || path.parent().is_some_and(|folder| check_own(folder).is_ok())
        };
        self.paths.iter().filter(trusted).map(PathBuf::as_path)
    }
}

/// Makes a folder that is this user's alone, or finds that it is there.
fn make_own(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => check_own(folder),
    }
}

/// Whether nobody but this user (and root) can have put something into the folder.
fn check_own(folder: &Path) -> io::Result<()> {
    let about = fs::symlink_metadata(folder)?;
    let is_own = about.is_dir() && about.uid() == own_id() && about.mode() & 0o022 == 0;
    if is_own { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// This process's user.
fn own_id() -> u32 {
    fs::metadata("/proc/self").map_or(u32::MAX, |about| about.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn usual(runtime: Option<&str>) -> Vec<String> {
        let (cluster, instance) = (ClusterId(42), InstanceId(7));
        let runtime = runtime.map(Path::new);
        let places = Places::usual(cluster, instance, runtime, "/var/tmp".as_ref(), 1000);
        places.paths.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_users_folder_comes_first_then_the_hosts_then_the_temporary_one() {
        let rest = ["/run/pagewire/42-7.sock", "/var/tmp/pagewire-1000/42-7.sock"];
        assert_eq!(usual(None), rest);
        assert_eq!(usual(Some("relative")), rest);
        assert_eq!(usual(Some("")), rest);
        let all = usual(Some("/run/user/1000"));
        assert_eq!(all[0], "/run/user/1000/pagewire/42-7.sock");
        assert_eq!(all[1..], rest);
        assert_eq!(usual(Some(&format!("/{}", "x".repeat(90)))), rest, "too long for a socket");
    }

    #[test]
    fn a_folder_that_others_may_write_to_or_that_is_a_link_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("own");
        make_own(&folder).unwrap();
        make_own(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(make_own(&link).is_err());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(make_own(&folder).is_err());
        assert!(make_own(&parent.path().join("no/such")).is_err());
        let places = Places {
            paths: vec![folder.join("a.sock"), parent.path().join("b/c.sock")],
            is_configured: false,
        };
        assert_eq!(places.to_listen().unwrap(), parent.path().join("b/c.sock"));
        let asked: Vec<_> = places.to_ask().collect();
        assert_eq!(asked, [parent.path().join("b/c.sock")]);
    }
}
