//! The process that serves a mount, as the kernel knows it: by whoever listens at the control socket, and
//! by who has the mount's connection of /dev/fuse open. Nothing in the mount is touched.
//!
//! Invariant: a signal goes to no process that does not have that connection open. What listens at a
//! socket is not enough: the user who mounted may put a link to the socket of another program there.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::mount::sys;
use crate::mountinfo::{DeviceNumber, Entry};

/// What serves a mount.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    /// Means this process also when the number is another's.
    handle: OwnedFd,
}

impl Process {
    /// The one that serves `mount`; `None` where there is none, or none that may be looked at.
    /// `listener` is who listens at the control socket, if that is the user who mounted.
    pub(super) fn serving(mount: &Entry, listener: Option<u32>) -> Option<Self> {
        let candidates = listener.into_iter().chain(all_pids());
        candidates.into_iter().find_map(|pid| Self::if_serving(pid, mount.device, listener))
    }

    fn if_serving(pid: u32, device: DeviceNumber, listener: Option<u32>) -> Option<Self> {
        // What most processes are is told without opening them.
        let connections = Connections::of(pid)?;
        let handle = sys::open_process(pid).ok()?;
        let serves = match connections.has(device) {
            Some(serves) => serves,
            // The kernel does not say of which mount: who listens at its socket is the one.
            None => listener == Some(pid),
        };
        // Looked at again, as the number may have been another's before it was opened.
        (serves && Connections::of(pid)? == connections).then_some(Self { pid, handle })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end at most so long.
    pub(super) fn has_ended_within(&self, time: Duration) -> bool {
        sys::wait_readable(&[self.handle.as_fd()], Some(time)).is_ok_and(|ended| ended)
    }

    /// By SIGSTOP or a debugger: it does nothing until it goes on.
    pub(super) fn is_stopped(&self) -> bool {
        is_stopped(self.pid)
    }

    /// SIGKILL, which a stopped process hears, too.
    pub(super) fn kill(&self) -> io::Result<()> {
        sys::signal_process(self.handle.as_fd(), libc::SIGKILL)
    }
}

pub(super) fn is_stopped(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything: `1 (a b) T 0 ..`.
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Who serves what.
#[derive(Debug)]
pub(super) struct Servers {
    by_minor: HashMap<u32, u32>,
    /// A process has /dev/fuse open, and the kernel does not say for which mount, as older ones.
    some_untold: bool,
    /// Processes of other process namespaces are not seen from within one.
    sees_all: bool,
}

impl Servers {
    pub(super) fn look() -> Self {
        /// PROC_PID_INIT_INO of the kernel.
        const FIRST_NAMESPACE: &str = "pid:[4026531836]";
        let namespace = fs::read_link("/proc/self/ns/pid");
        let mut servers = Self {
            by_minor: HashMap::new(),
            some_untold: false,
            sees_all: namespace.is_ok_and(|it| it == Path::new(FIRST_NAMESPACE)),
        };
        for pid in all_pids() {
            let Some(connections) = Connections::of(pid) else { continue };
            servers.some_untold |= connections.has_untold;
            servers.by_minor.extend(connections.minors.into_iter().map(|minor| (minor, pid)));
        }
        servers
    }

    pub(super) fn pid(&self, device: DeviceNumber) -> Option<u32> {
        self.by_minor.get(&device.minor).copied().filter(|_| device.major == 0)
    }

    /// That no process serves it is certain, if who asks may look at those who could. `is_refused`: nobody
    /// listens at its control socket. That alone is not enough, as a socket may be left from another
    /// mount, which had this number before.
    pub(super) fn has_none(&self, device: DeviceNumber, is_refused: bool) -> bool {
        self.pid(device).is_none() && !self.some_untold && (self.sees_all || is_refused)
    }
}

/// The connections of /dev/fuse that a process has open.
#[derive(PartialEq, Eq, Debug)]
struct Connections {
    /// File systems without a disk have the major number 0.
    minors: Vec<u32>,
    has_untold: bool,
}

impl Connections {
    /// `None` where it has none or may not be looked at.
    fn of(pid: u32) -> Option<Self> {
        let mut found = Self { minors: Vec::new(), has_untold: false };
        for file in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
            // Only the link is read: nothing is opened, and no file system is asked.
            let target = fs::read_link(file.path()).unwrap_or_default();
            if target.file_name().is_none_or(|name| name != "fuse") {
                continue;
            }
            let info = format!("/proc/{pid}/fdinfo/{}", file.file_name().display());
            let Ok(info) = fs::read_to_string(info) else { continue };
            match connection(&info) {
                Some(minor) if !found.minors.contains(&minor) => found.minors.push(minor),
                Some(_) => {}
                None => found.has_untold = true,
            }
        }
        (found.has_untold || !found.minors.is_empty()).then_some(found)
    }

    /// `None` where the kernel does not say.
    fn has(&self, device: DeviceNumber) -> Option<bool> {
        if self.minors.is_empty() {
            return None;
        }
        Some(device.major == 0 && self.minors.contains(&device.minor))
    }
}

/// Linux 6.18 has this line, and 6.12 has not. A descriptor that was opened and not mounted has none either.
fn connection(info: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"));
    line?.trim().parse().ok()
}

pub(super) fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_read_where_the_kernel_tells_it() {
        let info = "pos:\t0\nflags:\t02100002\nmnt_id:\t24\nino:\t90\nfuse_connection:\t40\n";
        assert_eq!(connection(info), Some(40));
        assert_eq!(connection("pos:\t0\nflags:\t02100002\n"), None);
    }

    #[test]
    fn a_process_without_the_connection_serves_nothing_even_if_it_listens() {
        let device = DeviceNumber { major: 0, minor: u32::MAX };
        let myself = std::process::id();
        assert!(Process::if_serving(myself, device, Some(myself)).is_none());
        assert!(!is_stopped(myself));
        assert!(all_pids().contains(&myself));
    }
}
