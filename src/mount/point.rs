//! The place of the mount, looked at before anything else is done: most mistakes are seen here.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attach;
use super::start_error::{StartError, StartErrorKind};
use super::sys;
use crate::error::one_line;
use crate::mountinfo::{self, Entry, FS_TYPE};

/// Where the file system is to appear.
#[derive(Debug)]
pub(super) enum Target {
    Directory {
        /// Absolute, without links.
        path: PathBuf,
        /// Locked until the mount is ready, so that of two starts at once one is refused: the
        /// kernel would mount them over each other.
        claim: Option<File>,
    },
    /// Holds the mount of an s3mount that died. It stays until the bucket is proven: meanwhile
    /// programs get errors there, and not an empty directory, which would be a wrong answer.
    Dead(PathBuf),
    /// Held the mount of the process before this one, which died: mounted anew only if it is still
    /// there, as else somebody has unmounted it.
    Died(PathBuf),
    /// `/dev/fd/N`: mounted, and unmounted, by someone else.
    Descriptor(OwnedFd),
}

impl Target {
    pub(super) fn dir(&self) -> Option<&Path> {
        match self {
            Self::Directory { path, .. } | Self::Dead(path) | Self::Died(path) => Some(path),
            Self::Descriptor(_) => None,
        }
    }
}

/// Dead mounts may lie upon each other; more than this are left to a person.
const LAYERS_MAX: usize = 16;

/// Replacing a dead mount takes some milliseconds.
const TURN_TRIES: u32 = 200;
const TURN_PAUSE: Duration = Duration::from_millis(10);

/// Looks at `dir`. `warn` hears what does not stand in the way.
pub(super) fn check(dir: &Path, warn: &mut dyn FnMut(&str)) -> Result<Target, StartError> {
    if let Some(number) = descriptor_number(dir) {
        return check_descriptor(dir, number);
    }
    if is_dead(dir) {
        return Ok(Target::Dead(dead_mount_of_ours(dir)?.0));
    }
    let (path, claim) = check_directory(dir, warn)?;
    Ok(Target::Directory { path, claim })
}

/// Makes room on `dir`, which held a dead mount of ours. Gives what [`Target::Directory`] holds.
pub(super) fn clear(
    dir: &Path,
    warn: &mut dyn FnMut(&str),
) -> Result<(PathBuf, Option<File>), StartError> {
    for _ in 0..LAYERS_MAX {
        if !is_dead(dir) {
            return check_directory(dir, warn);
        }
        take_dead_away(dir)?;
        warn(&was_dead(dir));
    }
    Err(wrong(format!("{} holds too many dead mounts; unmount them", dir.display())))
}

/// What is said when the dead mount on `dir` has been taken away.
pub(super) fn was_dead(dir: &Path) -> String {
    format!("{} held the mount of an s3mount that had died; it was unmounted", dir.display())
}

/// What is said when nothing is mounted anew on `dir`.
pub(super) fn unmounted_meanwhile(dir: &Path) -> StartError {
    wrong(format!("{} was unmounted meanwhile; it is not mounted anew", dir.display()))
}

/// For those who replace or unmount a dead mount on `dir`, one after the other: else the second would
/// take the first one's new mount away, or the first one would mount what the second has unmounted.
/// `None` where the directory above cannot be locked.
pub(crate) async fn turn(dir: &Path) -> Option<File> {
    let above = File::open(dir.parent()?).ok()?;
    for _ in 0..TURN_TRIES {
        match above.try_lock() {
            Ok(()) => return Some(above),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(TURN_PAUSE).await,
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// After the death of a process that had mounted on `dir`, a resolved path.
pub(super) fn take_dead_mount_of_ours_away(dir: &Path) {
    if is_dead(dir) {
        // The failure of the start is what is told, not that of the repair.
        let _ = take_dead_away(dir);
    }
}

/// "Transport endpoint is not connected": a FUSE mount without a process.
pub(super) fn is_dead(dir: &Path) -> bool {
    sys::ask_sizes(dir).is_err_and(|err| err.raw_os_error() == Some(libc::ENOTCONN))
}

fn check_directory(
    dir: &Path,
    warn: &mut dyn FnMut(&str),
) -> Result<(PathBuf, Option<File>), StartError> {
    let found = std::fs::metadata(dir).map_err(|err| not_usable(dir, &err))?;
    if !found.is_dir() {
        return Err(not_a_directory(dir));
    }
    let path = dir.canonicalize().map_err(|err| not_usable(dir, &err))?;
    let claim = claim(&path)?;
    // Only now: whoever had the claim before has mounted.
    if let Some(entry) = fuse_mount_at(&path)? {
        return Err(already_mounted(&path, &entry));
    }
    // Whoever cannot read a directory may still be allowed to mount on it.
    if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
        warn(&format!(
            "{} is not empty; what is in it is hidden while the bucket is mounted",
            path.display()
        ));
    }
    Ok((path, claim))
}

/// `None` where the directory cannot be read or its file system has no locks.
fn claim(path: &Path) -> Result<Option<File>, StartError> {
    let Ok(dir) = File::open(path) else { return Ok(None) };
    match dir.try_lock() {
        Ok(()) => Ok(Some(dir)),
        Err(TryLockError::WouldBlock) => Err(wrong(format!(
            "another s3mount is about to mount on {}; wait for it, or choose another directory",
            path.display()
        ))),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn take_dead_away(dir: &Path) -> Result<(), StartError> {
    let (path, entry) = dead_mount_of_ours(dir)?;
    attach::detach(&path).map_err(|err| {
        wrong(format!(
            "{} holds a dead mount of {}, which could not be unmounted: {err}",
            path.display(),
            one_line(&entry.source)
        ))
    })
}

/// Where it is, resolved; an error where what is dead there is not ours to take away.
fn dead_mount_of_ours(dir: &Path) -> Result<(PathBuf, Entry), StartError> {
    let path = resolve_dead(dir).map_err(|err| not_usable(dir, &err))?;
    match fuse_mount_at(&path)? {
        Some(entry) if entry.fs_type == FS_TYPE => Ok((path, entry)),
        Some(entry) => Err(wrong(format!(
            "{} holds a dead mount of another program, {} ({}); unmount it first, with: umount {0} \
             (or fusermount3 -u {0})",
            path.display(),
            one_line(&entry.source),
            one_line(&entry.fs_type)
        ))),
        None => Err(wrong(format!(
            "{} lies in a FUSE mount whose process has ended; unmount that first",
            path.display()
        ))),
    }
}

/// A dead mount cannot be resolved itself, but the directory it is in can.
fn resolve_dead(dir: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(absolute),
    }
}

fn fuse_mount_at(path: &Path) -> Result<Option<Entry>, StartError> {
    let top = mountinfo::top_at(path)
        .map_err(|err| StartError::unexpected("cannot read /proc/self/mountinfo", &err))?;
    Ok(top.filter(Entry::is_fuse))
}

fn already_mounted(path: &Path, entry: &Entry) -> StartError {
    let what = if entry.fs_type == FS_TYPE { "an s3mount" } else { "a FUSE mount" };
    wrong(format!(
        "{} is already {what} of {}; unmount it first, with: umount {0} (or fusermount3 -u {0})",
        path.display(),
        one_line(&entry.source)
    ))
}

fn not_a_directory(dir: &Path) -> StartError {
    wrong(format!("{} is not a directory; name one that exists and is empty", dir.display()))
}

fn not_usable(dir: &Path, err: &io::Error) -> StartError {
    let shown = dir.display();
    match err.kind() {
        io::ErrorKind::NotFound => {
            wrong(format!("{shown} does not exist; create it with: mkdir -p {shown}"))
        }
        io::ErrorKind::NotADirectory => not_a_directory(dir),
        io::ErrorKind::PermissionDenied => {
            // The FUSE mount of another user lets nobody look.
            let foreign = std::path::absolute(dir).ok().and_then(|path| {
                let entry = fuse_mount_at(&path).ok()??;
                Some(already_mounted(&path, &entry))
            });
            foreign.unwrap_or_else(|| {
                wrong(format!(
                    "there is no permission to look at {shown}; check its owner and mode"
                ))
            })
        }
        _ => wrong(format!(
            "{shown} cannot be used as a mount point ({err}); choose another directory"
        )),
    }
}

fn descriptor_number(dir: &Path) -> Option<i32> {
    dir.to_str()?.strip_prefix("/dev/fd/")?.parse().ok()
}

fn check_descriptor(dir: &Path, number: i32) -> Result<Target, StartError> {
    let shown = dir.display();
    let file = std::fs::read_link(format!("/proc/self/fd/{number}"))
        .map_err(|_| wrong(format!("{shown} is not an open descriptor of this process")))?;
    if file.file_name().is_none_or(|name| name != "fuse") || number < 3 {
        return Err(wrong(format!("{shown} is {}, not a descriptor of /dev/fuse", file.display())));
    }
    sys::take_inherited(number)
        .map(Target::Descriptor)
        .map_err(|err| wrong(format!("{shown} cannot be taken over: {err}")))
}

fn wrong(sentence: String) -> StartError {
    StartError::new(StartErrorKind::MountPoint, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(dir: &Path, part: &str) {
        let err = check(dir, &mut |_| {}).expect_err("a mount point").to_string();
        assert!(err.contains(part), "{err}");
    }

    #[test]
    fn a_directory_is_resolved_and_a_full_one_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut warnings = Vec::new();
        let target = check(&dir.path().join("."), &mut |it| warnings.push(it.to_owned())).unwrap();
        let Target::Directory { path, claim } = target else { panic!("not a directory") };
        drop(claim);
        assert_eq!(path, dir.path().canonicalize().unwrap());
        assert!(warnings.is_empty(), "{warnings:?}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        check(dir.path(), &mut |it| warnings.push(it.to_owned())).unwrap();
        assert!(warnings[0].contains("not empty"), "{warnings:?}");
    }

    #[test]
    fn of_two_starts_at_once_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = check(dir.path(), &mut |_| {}).unwrap();
        check_refused(dir.path(), "another s3mount");
        drop(first);
        check(dir.path(), &mut |_| {}).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        check_refused(&file, "not a directory");
        check_refused(&file.join("x"), "not a directory");
        check_refused(&dir.path().join("missing"), "mkdir -p");
        check_refused(Path::new("/dev/fd/987"), "not an open descriptor");
    }
}
