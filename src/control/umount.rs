//! `s3mount umount DIR...`: the mount goes, whatever its process does. Nothing in the mount is touched: where
//! it is says the mount table, who serves it the control socket and /proc.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{is_mine, owner};
use super::connection::{self, NoConnection};
use super::holders::{self, Holders};
use super::place;
use super::process::{Process, Servers};
use crate::error::{one_line, plain};
use crate::mount::{self, By, Manner, StartError, StartErrorKind};
use crate::mountinfo::{DeviceNumber, Entry, FS_TYPE, Table};

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Umount {
    /// Every mount of ours that the user may unmount, instead of `dirs`.
    pub all: bool,
    pub dirs: Vec<PathBuf>,
    /// Also where it is in use; those who use it go on.
    pub lazy: bool,
    /// Also where it is in use; those who use it get errors.
    pub force: bool,
    pub json: bool,
}

/// A process that is well takes no connection later than this.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// What is still running when the mount has gone has 2 s; the rest is for a machine that is busy.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether the process is stopped, and will not end by itself.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Unmounts, and says of each mount what came of it. Gives the exit code, which is that of the first
/// failure. Leaves the working directory, which may be in a mount.
pub fn umount(asked: &Umount) -> Result<u8, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|err| StartError::unexpected("cannot wait for an end", &err))?;
    let table = place::table()?;
    let places: Vec<Result<PathBuf, StartError>> = if asked.all {
        innermost_first(&table).into_iter().map(|entry| Ok(entry.mount_point.clone())).collect()
    } else {
        let resolved = |dir| place::resolved(&table, &place::absolute(dir)?, &place::read_link);
        asked.dirs.iter().map(|dir| resolved(dir)).collect()
    };
    // Else this process would be one of those that use it.
    let _ = std::env::set_current_dir("/");
    if places.is_empty() && io::stderr().is_terminal() {
        let _ = writeln!(io::stderr(), "s3mount: no mount of s3mount that this user may unmount");
    }
    let mut exit_code = 0;
    for dir in places {
        let done = dir.and_then(|dir| runtime.block_on(unmount(&dir, asked)));
        // A closed pipe is no reason to complain.
        match done {
            Ok(done) => {
                let text = if asked.json { done.to_json().to_string() } else { done.sentence() };
                let _ = writeln!(io::stdout(), "{text}");
            }
            Err(err) => {
                let text =
                    if asked.json { err.to_json().to_string() } else { format!("s3mount: {err}") };
                let _ = writeln!(io::stderr(), "{text}");
                exit_code = if exit_code == 0 { err.exit_code() } else { exit_code };
            }
        }
    }
    Ok(exit_code)
}

/// What came of one.
#[derive(Debug)]
struct Done {
    mount: Entry,
    manner: Manner,
    end: End,
}

/// What is known of the process that served it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    /// There was none, or nothing depends on it.
    Unknown,
    /// It was to be ended, and could not be found.
    NotFound,
    Ended(u32),
    /// It serves the same mount in another place.
    ServesElsewhere(u32),
    /// It serves those who use the mount.
    ServesUsers(u32),
    Stopped(u32),
    Late(u32),
}

/// The mounts of ours that this user may unmount, those that lie in or upon others first.
fn innermost_first(table: &Table) -> Vec<&Entry> {
    let mut mine: Vec<&Entry> = table.ours().filter(|entry| is_mine(entry)).collect();
    mine.sort_by_key(|entry| std::cmp::Reverse(table.depth(entry)));
    mine
}

async fn unmount(dir: &Path, asked: &Umount) -> Result<Done, StartError> {
    // Who mounts anew what has died is not to do that while it is unmounted.
    let turn = match dir.parent() {
        Some(above) if place::table()?.containing(above).is_none_or(|it| !it.is_fuse()) => {
            mount::turn(dir).await
        }
        // The directory above may hang.
        _ => None,
    };
    let table = place::table()?;
    let mount = find(&table, dir)?.clone();
    let (listener, is_refused) = match connection::open(&mount, CONNECT_PATIENCE).await {
        Ok(stream) => {
            let peer = stream.peer_cred().ok();
            let peer = peer.filter(|peer| mount.owner.is_none_or(|owner| owner == peer.uid()));
            (peer.and_then(|peer| u32::try_from(peer.pid()?).ok()), false)
        }
        Err(err) => (None, matches!(err, NoConnection::Dead(_))),
    };
    let process = Process::serving(&mount, listener);
    let is_dead =
        process.is_none() && is_mine(&mount) && Servers::look().has_none(mount.device, is_refused);
    let manner = if asked.force {
        Manner::Aborted
    } else if asked.lazy || is_dead {
        // Who still uses what is dead loses nothing: what the kernel has of it stays.
        Manner::Detached
    } else {
        Manner::Idle
    };
    let by = mount::take_away(&mount.mount_point, manner).map_err(|err| failed(&mount, &err))?;
    let table = place::table()?;
    if table.by_id(mount.id).is_some_and(|it| it.mount_point == mount.mount_point) {
        let sentence =
            format!("{} is still mounted, though fusermount3 reports no failure", shown(&mount));
        return Err(StartError::new(StartErrorKind::Fuse, sentence));
    }
    drop(turn);
    // The kernel has ended the connection already where it was asked directly.
    let aborted = manner == Manner::Aborted && (by == By::Kernel || abort(mount.device).is_ok());
    let end = match process {
        None if manner == Manner::Aborted && !aborted && !is_dead => End::NotFound,
        None => End::Unknown,
        Some(process) if manner != Manner::Aborted && is_mounted(&table, mount.device) => {
            End::ServesElsewhere(process.pid())
        }
        Some(process) => {
            if manner == Manner::Aborted && !aborted {
                // One that has ended meanwhile is as good.
                let _ = process.kill();
            }
            follow(&process, manner)
        }
    };
    Ok(Done { mount, manner, end })
}

/// A part of it may be mounted elsewhere (mount --bind).
fn is_mounted(table: &Table, device: DeviceNumber) -> bool {
    table.ours().any(|entry| entry.device == device)
}

/// The mount of ours whose directory `dir` is, an absolute path without links.
fn find<'a>(table: &'a Table, dir: &Path) -> Result<&'a Entry, StartError> {
    let typed = words(dir);
    match table.containing(dir) {
        Some(top) if top.mount_point == dir && top.fs_type == FS_TYPE => Ok(top),
        Some(top) if top.mount_point == dir => {
            let covered = table.ours().any(|entry| entry.mount_point == dir);
            let what =
                if covered { "covers a mount of s3mount; unmount it first" } else { "stays" };
            Err(wrong(format!(
                "{typed} is a mount of another kind, {} ({}), and {what}",
                one_line(&top.source),
                one_line(&top.fs_type)
            )))
        }
        Some(top) if top.fs_type == FS_TYPE => Err(wrong(format!(
            "{typed} lies in the mount of {} on {}; to unmount that, write: s3mount umount {}",
            one_line(&top.source),
            shown(top),
            typable(top)
        ))),
        _ => Err(wrong(format!(
            "{typed} is not mounted; `s3mount list` shows what s3mount has mounted"
        ))),
    }
}

/// Ends the connection by fusectl, whose files belong to the user who mounted. Nobody waits there.
fn abort(device: DeviceNumber) -> io::Result<()> {
    let path = format!("/sys/fs/fuse/connections/{}/abort", device.minor);
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(b"1")
}

fn follow(process: &Process, manner: Manner) -> End {
    let pid = process.pid();
    // Who was detached ends with the last user, for whom nobody waits.
    let mut left = if manner == Manner::Detached { LOOK_EVERY } else { END_PATIENCE };
    loop {
        if process.has_ended_within(LOOK_EVERY.min(left)) {
            return End::Ended(pid);
        }
        left = left.saturating_sub(LOOK_EVERY);
        match manner {
            // Whoever kills it cannot wait for it to go on.
            Manner::Aborted if process.is_stopped() && process.kill().is_ok() => {}
            _ if process.is_stopped() => return End::Stopped(pid),
            Manner::Detached if left.is_zero() => return End::ServesUsers(pid),
            _ if left.is_zero() => return End::Late(pid),
            _ => {}
        }
    }
}

fn failed(mount: &Entry, err: &io::Error) -> StartError {
    let shown = shown(mount);
    let table = place::table();
    match (err.kind(), err.raw_os_error()) {
        (_, Some(libc::EBUSY)) => match table {
            Ok(table) => busy(mount, &table),
            Err(err) => err,
        },
        _ if !is_mine(mount) => StartError::new(
            StartErrorKind::Denied,
            format!(
                "{shown} was mounted by {}: only that user and root may unmount it; use sudo, or \
                 ask them",
                owner(mount)
            ),
        ),
        (io::ErrorKind::NotFound, None) => StartError::new(
            StartErrorKind::Fuse,
            "unmounting without root needs the program fusermount3, which is not installed; \
             install the package fuse3, or use sudo",
        ),
        // Somebody else was faster.
        _ if table.is_ok_and(|table| table.by_id(mount.id).is_none()) => {
            wrong(format!("{shown} was unmounted by someone else meanwhile"))
        }
        _ => StartError::new(
            StartErrorKind::Fuse,
            format!(
                "{shown} cannot be unmounted ({err}); take it away with: s3mount umount --lazy {}",
                typable(mount)
            ),
        ),
    }
}

fn busy(mount: &Entry, table: &Table) -> StartError {
    let shown = shown(mount);
    if let Some(child) = table.children(mount.id).next() {
        return wrong(format!(
            "{shown} is in use: {} ({}) is mounted in it on {}; unmount that first, or take both \
             away with: s3mount umount --lazy {}",
            one_line(&child.source),
            one_line(&child.fs_type),
            words(&child.mount_point),
            typable(mount)
        ));
    }
    let Holders { named, more, hidden } = holders::find(mount, table);
    let lazy = format!("s3mount umount --lazy {}, which lets them finish", typable(mount));
    let others = if hidden { "; processes of other users are not seen without root" } else { "" };
    if named.is_empty() {
        let who = if hidden {
            "by whom cannot be seen, as processes of other users are not seen without root"
        } else {
            "not by a process that can be seen, but perhaps by the kernel (a loop device, an \
             overlay) or in another namespace (a container)"
        };
        return wrong(format!("{shown} is in use, {who}; take it away with: {lazy}"));
    }
    let mut names: Vec<String> = named.iter().map(ToString::to_string).collect();
    names.extend(more.then(|| "and others".to_owned()));
    wrong(format!(
        "{shown} is in use by {}{others}; end them, or take it away with: {lazy}",
        names.join(", ")
    ))
}

impl Done {
    fn sentence(&self) -> String {
        let (source, shown) = (one_line(&self.mount.source), shown(&self.mount));
        let done = match self.manner {
            Manner::Idle => "unmounted",
            Manner::Detached => "detached",
            Manner::Aborted => "aborted and detached",
        };
        let end = match self.end {
            End::Unknown | End::Ended(_) => String::new(),
            End::NotFound => {
                "; its process was not found, so those who wait for it go on waiting".to_owned()
            }
            End::ServesElsewhere(pid) => {
                format!("; its process {pid} goes on, as the bucket is mounted elsewhere, too")
            }
            End::ServesUsers(pid) => {
                format!("; its process {pid} ends when the last user has left")
            }
            End::Stopped(pid) => format!(
                "; its process {pid} is stopped and ends when it goes on: kill -CONT {pid}, or \
                 kill -KILL {pid}"
            ),
            End::Late(pid) => format!(
                "; its process {pid} has not ended after {} s: the mount may be in use in another \
                 namespace (a container), else end it with: kill -KILL {pid}",
                END_PATIENCE.as_secs()
            ),
        };
        format!("{done} {source} from {shown}{end}")
    }

    fn to_json(&self) -> Value {
        let (pid, ended) = match self.end {
            End::Unknown | End::NotFound => (None, None),
            End::Ended(pid) => (Some(pid), Some(true)),
            End::ServesElsewhere(pid)
            | End::ServesUsers(pid)
            | End::Stopped(pid)
            | End::Late(pid) => (Some(pid), Some(false)),
        };
        json!({
            "dir": self.mount.mount_point.to_string_lossy(),
            "source": self.mount.source,
            "detached": self.manner != Manner::Idle,
            "aborted": self.manner == Manner::Aborted,
            "pid": pid,
            "process_ended": ended,
        })
    }
}

fn shown(mount: &Entry) -> String {
    words(&mount.mount_point)
}

fn words(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

/// As a shell takes it.
fn typable(mount: &Entry) -> String {
    let path = shown(mount);
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+:@%,=".contains(letter);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

fn wrong(sentence: String) -> StartError {
    StartError::new(StartErrorKind::MountPoint, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dir: &str, expected: Result<u64, &str>) {
        let table = Table::of(&[
            "1 0 0:1 / / rw - ext4 r rw",
            "2 1 0:50 / /mnt/s3 ro - fuse.s3mount s3://b ro,user_id=7",
            "3 2 0:51 / /mnt/s3 ro - fuse.s3mount s3://c ro,user_id=7",
            "4 3 0:60 / /mnt/s3/over rw - tmpfs t rw",
            "5 1 0:52 / /covered ro - fuse.s3mount s3://d ro,user_id=7",
            "6 5 0:61 / /covered rw - tmpfs t rw",
        ]);
        let found = find(&table, Path::new(dir)).map_err(|err| err.to_string());
        match (found, expected) {
            (Ok(entry), Ok(id)) => assert_eq!(entry.id, id),
            (Err(sentence), Err(part)) => assert!(sentence.contains(part), "{sentence}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn only_a_mount_of_ours_that_lies_on_top_is_unmounted() {
        check("/mnt/s3", Ok(3));
        check(
            "/mnt/s3/x/y",
            Err("lies in the mount of s3://c on /mnt/s3; to unmount that, write:"),
        );
        check("/mnt/s3/over", Err("is a mount of another kind, t (tmpfs), and stays"));
        check("/mnt/s3/over/x", Err("is not mounted"));
        check("/covered", Err("t (tmpfs), and covers a mount of s3mount"));
        check("/mnt", Err("is not mounted"));
    }

    #[test]
    fn what_is_to_be_typed_can_be_typed() {
        let table = Table::of(&[
            "1 1 0:1 / /a/b-c ro - fuse.s3mount b ro",
            r"2 1 0:1 / /a/it's\040b ro - fuse.s3mount b ro",
        ]);
        let typed: Vec<String> = table.ours().map(typable).collect();
        assert_eq!(typed, ["/a/b-c", r"'/a/it'\''s b'"]);
    }

    #[test]
    fn what_lies_in_another_goes_first() {
        let table = Table::of(&[
            "1 1 0:1 / / rw - ext4 r rw",
            "2 1 0:50 / /a ro - fuse.s3mount outer ro",
            "3 2 0:51 / /a/in ro - fuse.s3mount inner ro",
            "4 3 0:52 / /a/in ro - fuse.s3mount upon ro",
            "5 1 0:53 / /b ro - fuse.s3mount other ro",
        ]);
        let mut all: Vec<&Entry> = table.ours().collect();
        all.sort_by_key(|entry| std::cmp::Reverse(table.depth(entry)));
        let sources: Vec<&str> = all.iter().map(|entry| entry.source.as_str()).collect();
        assert_eq!(sources, ["upon", "inner", "outer", "other"]);
    }
}
