//! Mounting and unmounting, by ourselves rather than by fuser: its unmount as root is not lazy, and
//! after an outside unmount it unmounts whatever was mounted there since (its `is_mounted` is inverted).
//! Invariant: nothing is unmounted but the device number that we mounted.

use std::ffi::c_ulong;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::point::is_dead;
use super::start_error::{StartError, StartErrorKind};
use super::sys;
use crate::config::{Access, MountConfig, MountFlag, effective_user};
use crate::error::one_line;
use crate::mountinfo::{self, DeviceNumber, FS_TYPE};

/// The set-user-id helpers, of libfuse 3 and, with the same protocol, of libfuse 2. The second also
/// works where PATH is empty, as under some service managers.
const HELPERS: [&str; 3] = ["fusermount3", "/usr/bin/fusermount3", "fusermount"];

/// A file system of ours and where it was mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attached {
    dir: PathBuf,
    device: DeviceNumber,
}

/// How an unmount went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unmounted {
    Gone,
    /// In use: gone from the directory, and alive until the last user leaves.
    Detached,
    /// Nothing of ours is at the directory any more: someone else was faster.
    Absent,
    /// Another file system was mounted upon ours, and is not ours to unmount.
    Covered,
    Failed(String),
}

/// Mounts on `dir` and gives the descriptor to serve. With the right to mount(2) directly, else by
/// fusermount3.
pub(super) fn mount(dir: &Path, config: &MountConfig) -> Result<(OwnedFd, Attached), StartError> {
    let device = match mount_directly(dir, config)? {
        Some(device) => device,
        None => mount_by_helper(dir, config)?,
    };
    // From here on something is mounted: no early return without unmounting.
    match mountinfo::top_at(dir) {
        Ok(Some(top)) if top.fs_type == FS_TYPE => {
            Ok((device, Attached { dir: dir.to_owned(), device: top.device }))
        }
        // Someone else unmounted it or mounted over it. The descriptor is closed on return, which
        // leaves nothing alive.
        _ => Err(StartError::new(
            StartErrorKind::MountPoint,
            format!("{} was unmounted or covered by someone else meanwhile", dir.display()),
        )),
    }
}

/// Detaches what is on top at `dir`, whatever it is.
pub(super) fn detach(dir: &Path) -> io::Result<()> {
    take_away(dir, Manner::Detached).map(drop)
}

/// How a mount is taken away from its directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// Not where it is in use: EBUSY.
    Idle,
    /// Those who use it keep it.
    Detached,
    /// Those who use it get errors, also those who wait now, if the kernel does it: fusermount3 has no
    /// word for that, and detaches.
    Aborted,
}

/// Who took a mount away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Kernel,
    Helper,
}

/// Takes away what is on top at `dir`, whatever it is: with the right to umount2(2) directly, else by
/// fusermount3. `NotFound` where that is not installed; its other failures are its words.
pub(crate) fn take_away(dir: &Path, manner: Manner) -> io::Result<By> {
    let flags = match manner {
        Manner::Idle => 0,
        Manner::Detached => libc::MNT_DETACH,
        Manner::Aborted => libc::MNT_FORCE | libc::MNT_DETACH,
    };
    match sys::unmount(dir, flags) {
        Err(err) if err.raw_os_error() == Some(libc::EPERM) => {}
        result => return result.map(|()| By::Kernel),
    }
    let child = run_helper(|command| {
        command.arg("-u").args((manner != Manner::Idle).then_some("-z")).arg("--").arg(dir);
    })?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(By::Helper);
    }
    let words = one_line(&String::from_utf8_lossy(&output.stderr));
    // It has no exit codes.
    if words.contains("resource busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(words))
}

impl Attached {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn device(&self) -> DeviceNumber {
        self.device
    }

    /// Unmounts; lazily where it is in use.
    pub(super) fn unmount(&self) -> Unmounted {
        if let Some(reason) = self.hindrance() {
            return reason;
        }
        if take_away(&self.dir, Manner::Idle).is_ok() && self.hindrance().is_some() {
            return Unmounted::Gone;
        }
        match self.detach() {
            Unmounted::Gone => Unmounted::Detached,
            other => other,
        }
    }

    /// Takes the mount away from its directory at once; those who use it keep it.
    pub(super) fn detach(&self) -> Unmounted {
        if let Some(reason) = self.hindrance() {
            return reason;
        }
        let result = take_away(&self.dir, Manner::Detached);
        // The helper's own word is not enough: a failure of its is silent.
        match (self.hindrance(), result) {
            (Some(_), _) => Unmounted::Gone,
            (None, Ok(_)) => Unmounted::Failed("it is still mounted".to_owned()),
            (None, Err(err)) => Unmounted::Failed(err.to_string()),
        }
    }

    /// After the session's end the device number may already be another mount's. What answers "not
    /// connected" under our number is what an abort of the connection left of us.
    fn detach_if_dead(&self) {
        if self.hindrance().is_none() && is_dead(&self.dir) {
            self.detach();
        }
    }

    /// Why nothing at the directory is to be unmounted; `None` where our mount is on top.
    fn hindrance(&self) -> Option<Unmounted> {
        match mountinfo::top_at(&self.dir) {
            Ok(Some(top)) if top.device == self.device && top.fs_type == FS_TYPE => None,
            Ok(Some(_)) => Some(Unmounted::Covered),
            Ok(None) => Some(Unmounted::Absent),
            Err(err) => Some(Unmounted::Failed(format!("/proc/self/mountinfo: {err}"))),
        }
    }
}

/// Unmounts when it goes out of scope, so that no failed start and no panic leaves a mount.
#[derive(Debug)]
pub(super) struct MountGuard(Option<Attached>);

impl MountGuard {
    pub(super) fn new(mount: Option<Attached>) -> Self {
        Self(mount)
    }

    pub(super) fn mount(&self) -> Option<&Attached> {
        self.0.as_ref()
    }

    /// The session has ended, and with it the mount, unless the connection was aborted.
    pub(super) fn session_ended(mut self) {
        if let Some(mount) = self.0.take() {
            mount.detach_if_dead();
        }
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Some(mount) = &self.0
            && let Unmounted::Failed(reason) = mount.detach()
        {
            tracing::error!("{} could not be unmounted: {reason}", mount.dir.display());
        }
    }
}

/// As [`mount`], where the mount of a process that died lies on `dir`: the new one comes beneath it
/// before it is taken away, so that nobody sees the bare directory in between, an empty listing. The
/// new one is not served yet: whoever comes waits. `None` where the kernel (before 6.5) or the rights
/// of this process do not allow it; the dead one is still there then.
pub(super) fn mount_beneath_dead(
    dir: &Path,
    config: &MountConfig,
) -> Option<io::Result<(OwnedFd, Attached)>> {
    // Several upon each other: the others would come out again beneath the new one.
    if mountinfo::n_at(dir).ok()? != 1 {
        return None;
    }
    let device = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?);
    let mut options = device_options(&device, config);
    options.extend([
        ("source", Some(config.source.clone())),
        ("subtype", FS_TYPE.split_once('.').map(|(_, subtype)| subtype.to_owned())),
        ("ro", None),
    ]);
    if let Err(err) = sys::mount_beneath(dir, &options, mount_flags(config)) {
        tracing::debug!("no mount beneath the dead one on {}: {err}", dir.display());
        return None;
    }
    // From here on something is mounted: what fails is told.
    let attached = || {
        detach(dir)?;
        match mountinfo::top_at(dir)? {
            Some(top) if top.fs_type == FS_TYPE => {
                Ok(Attached { dir: dir.to_owned(), device: top.device })
            }
            _ => Err(io::Error::other("it was unmounted or covered by someone else meanwhile")),
        }
    };
    Some(attached().map(|attached| (device, attached)))
}

/// How the kernel is to serve, for mount(2) and its successors.
fn device_options(device: &OwnedFd, config: &MountConfig) -> Vec<(&'static str, Option<String>)> {
    let (uid, gid) = effective_user();
    let mut options = vec![
        ("fd", Some(device.as_raw_fd().to_string())),
        // A directory, in octal.
        ("rootmode", Some("40000".to_owned())),
        ("user_id", Some(uid.to_string())),
        ("group_id", Some(gid.to_string())),
        ("default_permissions", None),
    ];
    options.extend(shared_with_others(config.access).then_some(("allow_other", None)));
    options
}

/// The flags of mount(2).
fn mount_flags(config: &MountConfig) -> c_ulong {
    let mut flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_RDONLY;
    for flag in &config.flags {
        flags |= match flag {
            MountFlag::NoExec => libc::MS_NOEXEC,
            MountFlag::NoAtime => libc::MS_NOATIME,
        };
    }
    flags as c_ulong
}

/// `None` where this process may not mount.
fn mount_directly(dir: &Path, config: &MountConfig) -> Result<Option<OwnedFd>, StartError> {
    let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(file) => OwnedFd::from(file),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(err) => return Err(no_device(&err)),
    };
    let words = device_options(&device, config).into_iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.to_owned(),
    });
    let data = words.collect::<Vec<_>>().join(",");
    match sys::mount(&config.source, dir, FS_TYPE, mount_flags(config), &data) {
        Ok(()) => Ok(Some(device)),
        Err(err) => match err.raw_os_error() {
            Some(libc::EPERM) => Ok(None),
            Some(libc::ENODEV) => Err(no_device(&err)),
            // The directory was found and opened: it is a security module that says no.
            Some(libc::EACCES) => {
                let remedy = "a container needs --security-opt apparmor=unconfined";
                Err(confined("this process", dir, remedy))
            }
            Some(libc::ENOENT | libc::ENOTDIR | libc::EBUSY) => Err(StartError::new(
                StartErrorKind::MountPoint,
                format!(
                    "nothing can be mounted on {} ({err}); choose another directory",
                    dir.display()
                ),
            )),
            _ => Err(StartError::new(
                StartErrorKind::Fuse,
                format!(
                    "the kernel refused the mount on {} ({err}); its log (dmesg) may say why",
                    dir.display()
                ),
            )),
        },
    }
}

/// The protocol of fusermount: it mounts and sends the descriptor over the socket that
/// `_FUSE_COMMFD` names.
fn mount_by_helper(dir: &Path, config: &MountConfig) -> Result<OwnedFd, StartError> {
    let mut options = format!(
        "ro,nosuid,nodev,default_permissions,fsname={},subtype=s3mount{}",
        config.source,
        if shared_with_others(config.access) { ",allow_other" } else { "" }
    );
    for flag in &config.flags {
        options.push_str(match flag {
            MountFlag::NoExec => ",noexec",
            MountFlag::NoAtime => ",noatime",
        });
    }
    let broken = |err: io::Error| StartError::unexpected("cannot talk to fusermount3", &err);
    let (ours, theirs) = UnixStream::pair().map_err(broken)?;
    let theirs = OwnedFd::from(theirs);
    let spawned = run_helper(|command| {
        command.arg("-o").arg(&options).arg("--").arg(dir);
        command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
        sys::inherit(command, &theirs);
    });
    drop(theirs); // Else the end of the helper is not seen.
    let child = match spawned {
        Ok(child) => child,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(no_helper()),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            let sentence = "fusermount3 may not be run by this user (Permission denied); check its \
                            mode, or mount as root";
            return Err(StartError::new(StartErrorKind::Fuse, sentence));
        }
        Err(err) => return Err(broken(err)),
    };
    let received = sys::receive_fd(&ours);
    drop(ours);
    let output = child.wait_with_output().map_err(broken)?;
    received.map_err(|_| refused(dir, &output.stderr))
}

/// Starts the first helper that is installed. `NotFound` where there is none.
fn run_helper(arguments: impl Fn(&mut Command)) -> io::Result<std::process::Child> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    for helper in HELPERS {
        let mut command = Command::new(helper);
        arguments(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        result = command.spawn();
        if !matches!(&result, Err(err) if err.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    result
}

/// The kernel has no word for "root, too": that is kept by fuser.
fn shared_with_others(access: Access) -> bool {
    match access {
        Access::Owner => false,
        Access::OwnerAndRoot | Access::Everybody => true,
    }
}

fn no_device(reason: &impl std::fmt::Display) -> StartError {
    StartError::new(
        StartErrorKind::Fuse,
        format!(
            "/dev/fuse cannot be used ({reason}); load the kernel module with `modprobe fuse`, or \
             start the container with --device /dev/fuse and --cap-add SYS_ADMIN"
        ),
    )
}

fn no_helper() -> StartError {
    let sentence = match effective_user() {
        (0, _) => {
            "this root may not mount, and fusermount3 is not installed; start the container with \
             --cap-add SYS_ADMIN"
        }
        _ => {
            "mounting without root needs the program fusermount3, which is not installed; install \
             the package fuse3, or mount as root"
        }
    };
    StartError::new(StartErrorKind::Fuse, sentence)
}

/// EACCES from mount(2) where the directory is no obstacle, for ourselves or for fusermount3.
fn confined(who: &str, dir: &Path, remedy: &str) -> StartError {
    StartError::new(
        StartErrorKind::Fuse,
        format!(
            "{who} may not mount on {} (Permission denied), because AppArmor or another security \
             module confines it; {remedy}",
            dir.display()
        ),
    )
}

/// fusermount has no exit codes, so its words must be read.
fn refused(dir: &Path, stderr: &[u8]) -> StartError {
    let words = String::from_utf8_lossy(stderr);
    let words: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words = one_line(&words.join("; "));
    let said = |part: &str| words.contains(part);
    let shown = dir.display();
    let fuse = |sentence: String| StartError::new(StartErrorKind::Fuse, sentence);
    if said("user_allow_other") {
        return fuse(
            "--allow-other and --allow-root are for root; for other users write the line \
             user_allow_other into /etc/fuse.conf"
                .to_owned(),
        );
    }
    if said("no write access to mountpoint") || said("not owned by") || said("bad mount point") {
        return StartError::new(
            StartErrorKind::MountPoint,
            format!(
                "{shown} does not belong to the mounting user or is not writable, as fusermount3 \
                 wants it; choose a directory of your own, or mount as root"
            ),
        );
    }
    if said("open /dev/fuse: Permission denied") {
        return fuse(
            "/dev/fuse is closed to this user; mount as root, or let it be opened with `chmod 666 \
             /dev/fuse`, as udev does"
                .to_owned(),
        );
    }
    if said("/dev/fuse") || said("fuse device not found") {
        return no_device(&words);
    }
    if said("Permission denied") {
        // What the profile in Ubuntu from 25.04 on allows, and the file that it includes.
        let remedy = "mount below the home directory, /mnt, /media or /tmp, where the profile of \
                      Ubuntu lets it, allow the place in /etc/apparmor.d/local/fusermount3, or mount \
                      as root";
        return confined("fusermount3", dir, remedy);
    }
    if said("Operation not permitted") {
        return fuse(format!(
            "fusermount3 may not mount on {shown} (Operation not permitted); a container needs \
             --cap-add SYS_ADMIN, elsewhere fusermount3 must be set-user-id root"
        ));
    }
    let words = if words.is_empty() { "it gave no reason" } else { words.as_str() };
    fuse(format!(
        "fusermount3 refused to mount on {shown} ({words}); check /etc/fuse.conf and the system's \
         log"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(stderr: &str, exit_code: u8, part: &str) {
        let err = refused(Path::new("/mnt/s3"), stderr.as_bytes());
        assert_eq!(err.exit_code(), exit_code, "{err}");
        assert!(err.to_string().contains(part), "{err}");
    }

    #[test]
    fn the_words_of_fusermount_become_sentences() {
        check_refused(
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in \
             /etc/fuse.conf\n",
            8,
            "for root",
        );
        check_refused("fusermount3: user has no write access to mountpoint /mnt/s3\n", 7, "belong");
        check_refused("fusermount3: mount failed: Permission denied\n", 8, "AppArmor");
        check_refused("fusermount3: mount failed: Operation not permitted\n", 8, "SYS_ADMIN");
        check_refused("fusermount3: failed to open /dev/fuse: No such file\n", 8, "modprobe");
        check_refused("fusermount3: failed to open /dev/fuse: Permission denied\n", 8, "chmod");
        check_refused("", 8, "no reason");
    }

    #[test]
    fn a_mount_that_is_not_there_is_left_alone() {
        let device = DeviceNumber { major: 0, minor: 0 };
        let mount = Attached { dir: "/no/such/mount".into(), device };
        assert_eq!(mount.unmount(), Unmounted::Absent);
        assert_eq!(Attached { dir: "/".into(), device }.detach(), Unmounted::Covered);
    }
}
