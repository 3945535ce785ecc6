//! What is true before a word is typed: the environment's variables, the user, the machine. The
//! one place that reads them. What only the AWS SDK needs, it reads itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::CredentialFiles;

/// The surroundings of a start.
#[derive(Clone, Default, Debug)]
pub struct Environment {
    /// The endpoint and the variable that named it.
    pub endpoint_url: Option<(&'static str, String)>,
    /// `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
    /// The files that hold profiles and keys.
    pub credential_files: CredentialFiles,
    /// The effective user and group.
    pub uid: u32,
    pub gid: u32,
    /// Threads that can run at once, which a cgroup may have lowered.
    pub cores: usize,
    /// Zero where it cannot be told.
    pub machine_memory_bytes: u64,
    /// The lowest memory limit among this process's cgroup and those above it.
    pub cgroup_memory_bytes: Option<u64>,
}

impl Environment {
    pub fn read() -> Self {
        let (uid, gid) = effective_user();
        Self {
            endpoint_url: endpoint_url(),
            ca_bundle: variable("AWS_CA_BUNDLE").map(PathBuf::from),
            credential_files: CredentialFiles::from_variables(|name| std::env::var_os(name)),
            uid,
            gid,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            machine_memory_bytes: machine_memory(&read("/proc/meminfo")),
            cgroup_memory_bytes: cgroup_memory(&read("/proc/self/cgroup"), |path| {
                std::fs::read_to_string(path).ok()
            }),
        }
    }
}

/// Whom the kernel takes this process for: user and group.
pub fn effective_user() -> (u32, u32) {
    let status = read("/proc/self/status");
    (effective_id(&status, "Uid:"), effective_id(&status, "Gid:"))
}

/// An empty variable is as good as none, as for the AWS command line.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The order and the switch are those of the AWS SDKs.
fn endpoint_url() -> Option<(&'static str, String)> {
    if variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
        .is_some_and(|it| it.eq_ignore_ascii_case("true"))
    {
        return None;
    }
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?.to_string_lossy().into_owned())))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The second number of the line: real, effective, saved, file system.
fn effective_id(status: &str, label: &str) -> u32 {
    let line = status.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

fn machine_memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The lowest limit on the way from the process's cgroup up to the root. Inside a container the path
/// in /proc may not exist below /sys/fs/cgroup: then the root there is the container's own.
fn cgroup_memory(cgroups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut lowest = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = read(&Path::new(root).join(group).join(file));
            // "max" is no number, and no limit of version 1 is a huge one.
            let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
            let limit = limit.filter(|bytes| *bytes < 1 << 60);
            lowest = [lowest, limit].into_iter().flatten().min();
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_machine_is_read_from_proc() {
        assert_eq!(machine_memory("MemFree: 1 kB\nMemTotal:       16318468 kB\n"), 16318468 * 1024);
        assert_eq!(machine_memory(""), 0);
        assert_eq!(effective_id("Name:\tx\nUid:\t1\t2\t3\t4\n", "Uid:"), 2);
    }

    #[track_caller]
    fn check_cgroup(cgroups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let files: HashMap<_, _> = files.iter().copied().collect();
        let read = |path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned());
        assert_eq!(cgroup_memory(cgroups, read), expected);
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "1000\n"),
            ("/sys/fs/cgroup/memory.max", "2000\n"),
        ];
        check_cgroup("0::/a/b\n", &files, Some(1000));
        check_cgroup("0::/a/b\n", &files[..1], None);
        check_cgroup("0::/kubepods/pod1/c1\n", &files[2..], Some(2000));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory_alone() {
        let files = [
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "5000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        check_cgroup("9:cpu:/x\n4:memory:/x\n0::/\n", &files, Some(5000));
        check_cgroup("4:memory:/\n", &files, None);
    }
}
