//! Who keeps a mount from being unmounted: found in /proc by reading links, never by following them, so
//! that a mount that stalls is not touched.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::process::all_pids;
use crate::error::one_line;
use crate::mountinfo::{Entry, Table};

/// More need not be named to know what to do.
pub(super) const NAMED_MAX: usize = 5;

/// /proc answers at once, but for the maps of a process whose memory is locked: what was found until
/// then is told.
const PATIENCE: Duration = Duration::from_secs(3);

/// A process that uses a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    pid: u32,
    program: String,
    uses: Use,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Use {
    OpenFile(PathBuf),
    WorkingDirectory,
    Root,
    Program,
    Mapping(PathBuf),
}

/// Who uses a mount, as far as it can be told.
#[derive(Default, Debug)]
pub(super) struct Holders {
    /// At most [`NAMED_MAX`].
    pub(super) named: Vec<Holder>,
    /// There are more.
    pub(super) more: bool,
    /// Some processes may not be looked at.
    pub(super) hidden: bool,
}

enum Found {
    Holder(Holder),
    Hidden,
}

/// Those who use `mount`.
pub(super) fn find(mount: &Entry, table: &Table) -> Holders {
    let (sender, receiver) = mpsc::sync_channel(NAMED_MAX);
    let (mount, table) = (mount.clone(), table.clone());
    // A thread of its own, which is left behind where it hangs.
    std::thread::spawn(move || {
        let me = std::process::id();
        for pid in all_pids().into_iter().filter(|pid| *pid != me) {
            // Nobody listens any more when enough are found.
            if look_at(pid, &mount, &table).is_some_and(|found| sender.send(found).is_err()) {
                return;
            }
        }
    });
    let (end, mut holders) = (Instant::now() + PATIENCE, Holders::default());
    while let Ok(found) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        match found {
            Found::Hidden => holders.hidden = true,
            Found::Holder(_) if holders.named.len() == NAMED_MAX => {
                holders.more = true;
                break;
            }
            Found::Holder(holder) => holders.named.push(holder),
        }
    }
    holders
}

/// What the process uses of the mount, the most telling first.
fn look_at(pid: u32, mount: &Entry, table: &Table) -> Option<Found> {
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let is_in =
        |path: &Path| table.containing(&existing(path)).is_some_and(|found| found.id == mount.id);
    let links_in = |name: &str| fs::read_link(of(name)).is_ok_and(|target| is_in(&target));
    let Ok(files) = fs::read_dir(of("fd")) else {
        // One that has ended meanwhile is nobody.
        return of("comm").exists().then_some(Found::Hidden);
    };
    let open_file = || {
        files.flatten().find_map(|file| {
            let target = fs::read_link(file.path()).ok()?;
            let info = fs::read_to_string(of("fdinfo").join(file.file_name())).unwrap_or_default();
            // The mount's number tells those apart that lie upon each other; mounts of other
            // namespaces, as of a container, have numbers of their own.
            let is_ours = match mount_id(&info) {
                Some(id) if table.by_id(id).is_some() => id == mount.id,
                _ => is_in(&target),
            };
            is_ours.then(|| Use::OpenFile(inside(&target, mount)))
        })
    };
    let mapping = || {
        let maps = fs::read(of("maps")).ok()?;
        let maps = String::from_utf8_lossy(&maps);
        let target = maps.lines().find_map(|line| mapped(line).filter(|it| is_in(it)))?;
        Some(Use::Mapping(inside(&target, mount)))
    };
    let uses = open_file()
        .or_else(|| links_in("cwd").then_some(Use::WorkingDirectory))
        .or_else(|| links_in("root").then_some(Use::Root))
        .or_else(|| links_in("exe").then_some(Use::Program))
        .or_else(mapping)?;
    let program = fs::read_to_string(of("comm")).unwrap_or_default();
    Some(Found::Holder(Holder { pid, program: one_line(&program), uses }))
}

/// The path of a link in /proc without what the kernel says of a file that is gone.
fn existing(path: &Path) -> PathBuf {
    let text = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    text.map_or_else(|| path.to_owned(), PathBuf::from)
}

fn inside(path: &Path, mount: &Entry) -> PathBuf {
    path.strip_prefix(&mount.mount_point).unwrap_or(path).to_owned()
}

/// The line `mnt_id:` of proc_pid_fdinfo(5).
fn mount_id(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// The path in a line of proc_pid_maps(5): `7f0-7f1 r--p 00000000 00:28 5   /mnt/s3/a b`.
fn mapped(line: &str) -> Option<PathBuf> {
    let start = line.find('/')?;
    // Before it stand numbers, rights and spaces.
    line[..start].ends_with(' ').then(|| line[start..].replace("\\012", "\n").into())
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Path| match path.to_string_lossy() {
            path if path.is_empty() => "its root".to_owned(),
            path => one_line(&path),
        };
        write!(f, "{} ({}, ", self.pid, self.program)?;
        match &self.uses {
            Use::OpenFile(path) => write!(f, "open: {})", shown(path)),
            Use::Mapping(path) => write!(f, "mapped: {})", shown(path)),
            Use::WorkingDirectory => f.write_str("working directory)"),
            Use::Root => f.write_str("root directory)"),
            Use::Program => f.write_str("the program itself)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_to_its_end() {
        let line = "7f07a5a00000-7f07a5c00000 r--s 00000000 00:28 5          /mnt/s3/a b/\u{e9}";
        assert_eq!(mapped(line), Some("/mnt/s3/a b/\u{e9}".into()));
        assert_eq!(mapped("7f-80 r--p 00000000 00:00 0 "), None);
        assert_eq!(mapped("7f-80 rw-p 00000000 00:00 0    [anon:a/b]"), None);
    }

    #[test]
    fn a_holder_is_named_with_what_it_holds() {
        let said = |uses| Holder { pid: 7, program: "dd".to_owned(), uses }.to_string();
        assert_eq!(said(Use::OpenFile("a/b".into())), "7 (dd, open: a/b)");
        assert_eq!(said(Use::OpenFile("".into())), "7 (dd, open: its root)");
        assert_eq!(said(Use::WorkingDirectory), "7 (dd, working directory)");
        assert_eq!(existing(Path::new("/m/a (deleted)")), Path::new("/m/a"));
    }

    #[test]
    fn the_mounts_number_is_read() {
        assert_eq!(mount_id("pos:\t0\nflags:\t0100000\nmnt_id:\t52\nino:\t9\n"), Some(52));
        assert_eq!(mount_id("pos:\t0\n"), None);
    }
}
