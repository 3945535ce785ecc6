//! The folder that the sockets are in: private to the user who mounts. It is opened once and checked
//! through its descriptor, so that nobody exchanges it between the check and the use.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::mountinfo::DeviceNumber;

/// The name of the folder, wherever it is.
const NAME: &str = "s3mount";

/// Where those of root are.
const SYSTEM: &str = "/run";

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    dir: File,
}

/// Why there is no folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NoFolder {
    /// Not on this machine, for this user.
    Absent(String),
    /// There is one, and it cannot be trusted.
    Unsafe(String),
}

impl Folder {
    /// The folder for the mounts of `uid`, who asks: made if need be. `runtime_dir` is XDG_RUNTIME_DIR.
    pub(super) fn of_server(runtime_dir: Option<&Path>, uid: u32) -> Result<Self, NoFolder> {
        let path = base(runtime_dir, uid)?.join(NAME);
        let shown = path.display();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                return Err(NoFolder::Absent(format!("{shown} cannot be made: {err}")));
            }
            _ => {}
        }
        let unsafe_ = |what: String| Err(NoFolder::Unsafe(format!("{shown} {what}")));
        let dir = match open(&path) {
            Ok(dir) => dir,
            Err(err) if is_no_directory(&err) => {
                return unsafe_("is no directory, or a link to one".to_owned());
            }
            Err(err) => return unsafe_(format!("cannot be opened: {err}")),
        };
        let found = match dir.metadata() {
            Ok(found) => found,
            Err(err) => return unsafe_(format!("cannot be looked at: {err}")),
        };
        if found.uid() != uid {
            return unsafe_(format!("belongs to the user {}", found.uid()));
        }
        if found.mode() & 0o077 != 0
            && let Err(err) = dir.set_permissions(Permissions::from_mode(0o700))
        {
            return unsafe_(format!("is open to other users: {err}"));
        }
        Ok(Self { path, dir })
    }

    /// The folder at `path`, as it is found by a client, if it belongs to one of `owners`.
    pub(super) fn of_client(path: &Path, owners: &[u32]) -> io::Result<Self> {
        let dir = open(path)?;
        if !owners.contains(&dir.metadata()?.uid()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { path: path.to_owned(), dir })
    }

    /// Where a client of a mount of `owner` looks for its folder, in this order.
    pub(super) fn candidates(runtime_dir: Option<&Path>, owner: u32) -> Vec<PathBuf> {
        let mut bases = vec![of_login(owner), SYSTEM.into()];
        if let Some(dir) = runtime_dir.filter(|dir| !bases.iter().any(|base| base == dir)) {
            bases.insert(0, dir.to_owned());
        }
        bases.into_iter().map(|base| base.join(NAME)).collect()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself, to be locked.
    pub(super) fn dir(&self) -> &File {
        &self.dir
    }

    /// `name` in this folder, and no other that has taken its place. Also short enough for the
    /// address of a socket, which has 108 bytes (unix(7)).
    pub(super) fn join(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()).into()
    }

    /// The sockets in it, by their names.
    pub(super) fn sockets(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.join(""))?.filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.ends_with(SUFFIX)).collect())
    }
}

const SUFFIX: &str = ".sock";

/// What the socket of the mount with this number is called.
pub(super) fn socket_name(device: DeviceNumber) -> String {
    format!("{device}{SUFFIX}")
}

/// What the folder of `uid` is in. logind takes /run/user/UID away when the last session ends: mounts
/// of root outlive that, so theirs is elsewhere.
fn base(runtime_dir: Option<&Path>, uid: u32) -> Result<PathBuf, NoFolder> {
    let of_login = of_login(uid);
    let is_private = |dir: &Path| {
        let found = fs::metadata(dir);
        found.is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0)
    };
    let chosen = runtime_dir.filter(|dir| uid != 0 || *dir != of_login);
    if let Some(dir) = chosen.filter(|dir| dir.is_absolute() && is_private(dir)) {
        return Ok(dir.to_owned());
    }
    match uid {
        0 => Ok(SYSTEM.into()),
        _ if is_private(&of_login) => Ok(of_login),
        _ => Err(NoFolder::Absent(format!(
            "XDG_RUNTIME_DIR names no directory of the user {uid}, and there is no {}",
            of_login.display()
        ))),
    }
}

fn of_login(uid: u32) -> PathBuf {
    format!("/run/user/{uid}").into()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

fn is_no_directory(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::effective_user;

    fn open_in(base: &Path) -> Result<Folder, NoFolder> {
        Folder::of_server(Some(base), effective_user().0)
    }

    #[test]
    fn a_folder_is_made_private_and_found_again() {
        let base = tempfile::tempdir().unwrap();
        let folder = open_in(base.path()).unwrap();
        let path = base.path().join("s3mount");
        assert_eq!((folder.path(), folder.sockets().unwrap()), (&*path, vec![]));
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("0:7.sock"), "").unwrap();
        assert_eq!(open_in(base.path()).unwrap().sockets().unwrap(), ["0:7.sock"]);
        assert_eq!(mode(), 0o700, "one of our own is closed");
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let (base, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = base.path().join("s3mount");
        symlink(other.path(), &path).unwrap();
        assert!(
            matches!(open_in(base.path()), Err(NoFolder::Unsafe(what)) if what.contains("link"))
        );
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(open_in(base.path()), Err(NoFolder::Unsafe(_))));
        assert!(Folder::of_client(&path, &[0]).is_err());
    }

    #[test]
    fn a_directory_that_others_may_write_is_no_place_for_it() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o777)).unwrap();
        let nobody = 65_534;
        assert!(matches!(super::base(Some(base.path()), nobody), Err(NoFolder::Absent(_))));
        assert_eq!(super::base(Some(base.path()), 0), Ok("/run".into()));
        assert_eq!(super::base(Some(Path::new("/run/user/0")), 0), Ok("/run".into()));
    }

    #[test]
    fn a_client_looks_where_it_was_told_first_and_nowhere_twice() {
        let candidates = |dir: Option<&str>| Folder::candidates(dir.map(Path::new), 7);
        assert_eq!(candidates(None), ["/run/user/7/s3mount", "/run/s3mount"].map(PathBuf::from));
        assert_eq!(candidates(Some("/run/user/7")), candidates(None));
        assert_eq!(
            candidates(Some("/x"))[..2],
            ["/x/s3mount", "/run/user/7/s3mount"].map(PathBuf::from)
        );
    }
}
