//! What is true before a word is typed: the environment's variables, the user, the machine. The
//! one place that reads them. What only the AWS SDK needs, it reads itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::CredentialFiles;
use crate::store::aws::{ProfileSettings, read_profile};

/// The variables that name files or directories which are read while the mount serves, by the SDK or
/// by what it is made of, or by a program that a profile names. The background process has left the
/// directory that relative ones are relative to.
const PATH_VARIABLES: [&str; 6] = [
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_LOGIN_CACHE_DIRECTORY",
    "SSL_CERT_FILE",
];

/// The surroundings of a start.
#[derive(Clone, Default, Debug)]
pub struct Environment {
    /// The endpoint and the variable that named it.
    pub endpoint_url: Option<(&'static str, String)>,
    /// `AWS_PROFILE`.
    pub profile: Option<String>,
    /// A variable names the file with profiles or that with keys.
    pub names_files: bool,
    /// Both keys are in the environment, where the SDK looks first.
    pub has_keys: bool,
    /// The variables that name a proxy for `http://` and for `https://`.
    pub http_proxy: Option<&'static str>,
    pub https_proxy: Option<&'static str>,
    /// Reads what a profile says of the server, as the SDK does; `None` in tests: nothing.
    pub read_profile: Option<ReadProfile>,
    /// `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
    /// The files that hold profiles and keys.
    pub credential_files: CredentialFiles,
    /// Where this user's sockets are.
    pub runtime_dir: Option<PathBuf>,
    /// `DBUS_SYSTEM_BUS_ADDRESS`.
    pub system_bus: Option<String>,
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

/// The settings of the named profile, else of the one that the environment names. The error is a
/// sentence.
pub type ReadProfile = fn(Option<&str>) -> Result<ProfileSettings, String>;

impl Environment {
    pub fn read() -> Self {
        let (uid, gid) = effective_user();
        let one_of =
            |names: &[&'static str]| names.iter().copied().find(|name| variable(name).is_some());
        Self {
            endpoint_url: endpoint_url(),
            profile: variable("AWS_PROFILE").map(|name| name.to_string_lossy().into_owned()),
            names_files: one_of(&["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]).is_some(),
            has_keys: ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
                .into_iter()
                .all(|name| variable(name).is_some()),
            http_proxy: one_of(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https_proxy: one_of(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            read_profile: Some(read_profile),
            ca_bundle: variable("AWS_CA_BUNDLE").map(PathBuf::from),
            credential_files: CredentialFiles::from_variables(path_variable),
            runtime_dir: runtime_dir(),
            system_bus: variable("DBUS_SYSTEM_BUS_ADDRESS").and_then(|it| it.into_string().ok()),
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

/// `XDG_RUNTIME_DIR`: where this user's sockets are.
pub fn runtime_dir() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute())
}

/// Whom the kernel takes this process for: user and group.
pub fn effective_user() -> (u32, u32) {
    let status = read("/proc/self/status");
    (effective_id(&status, "Uid:"), effective_id(&status, "Gid:"))
}

/// Those of the variables with paths that are relative, made absolute: to be set before the working
/// directory is left.
pub fn absolute_variables() -> Vec<(&'static str, OsString)> {
    let changed = |name| {
        let (old, new) = (variable(name)?, path_variable(name)?);
        (old != new).then_some((name, new))
    };
    PATH_VARIABLES.into_iter().filter_map(changed).collect()
}

/// As [`variable`]; what names a file by a relative path names it by an absolute one. `~` at the
/// front is the home directory, to the SDK, too.
fn path_variable(name: &str) -> Option<OsString> {
    let value = variable(name)?;
    let path = match (Path::new(&value).strip_prefix("~"), variable("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(&value),
    };
    // Where the working directory is gone, so is the file.
    Some(std::path::absolute(path).map_or(value, OsString::from))
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
