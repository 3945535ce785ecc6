//! What was typed, understood: validated, with units in the names. The only reader of the
//! environment; everybody else gets values from here.

pub mod bucket;
pub mod endpoint;
mod environment;
pub mod profiles;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

pub use environment::{Environment, ReadProfile, absolute_variables, effective_user, runtime_dir};
use tracing::level_filters::LevelFilter;

pub use crate::store::credentials::CredentialFiles;

/// One mount.
#[derive(Clone, Debug)]
pub struct Config {
    pub bucket: BucketConfig,
    pub mount: MountConfig,
    pub names: NamesConfig,
    pub memory_max_bytes: u64,
    /// How long the content of a file that is cached is believed when it is opened.
    pub open_ttl: Ttl,
    /// How long old answers are served while S3 cannot be reached.
    pub offline_grace: Ttl,
    pub network: NetworkConfig,
    pub page_cache: PageCache,
    pub log: LogConfig,
}

/// What the mount may have of the network; `None` is for what suits the mount.
#[derive(Clone, Copy, Default, Debug)]
pub struct NetworkConfig {
    /// Requests in flight.
    pub requests_max: Option<usize>,
    /// Received in a second.
    pub bytes_per_second_max: Option<u64>,
}

/// Where the bucket is and who asks.
#[derive(Clone, Debug, Default)]
pub struct BucketConfig {
    /// A bucket name, an access-point alias or an access-point ARN.
    pub bucket: String,
    /// Empty, or ending in `/`.
    pub prefix: String,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// The server that is asked instead of AWS, wherever it was named.
    pub endpoint_url: Option<String>,
    /// What named it, for whoever has to correct it: an option, a variable, a line of a profile.
    pub endpoint_source: String,
    /// Path style: asked for, or the endpoint is not one of AWS.
    pub force_path_style: bool,
    pub sign_requests: bool,
    /// A bucket that may not be listed is no error: paths that are known open.
    pub known_paths: bool,
    pub requester_pays: bool,
    pub expected_bucket_owner: Option<String>,
    /// `AWS_CA_BUNDLE`: a PEM file that is trusted instead of the system's roots.
    pub ca_bundle: Option<PathBuf>,
    /// The files that hold profiles and keys.
    pub credential_files: CredentialFiles,
    /// Keys are taken from the environment, not from a profile.
    pub keys_in_environment: bool,
    /// The variable that names the proxy between us and the server.
    pub proxy_variable: Option<String>,
    /// Parsers and the S3 client's runtime use this many threads.
    pub threads_max: usize,
}

/// How the tree is shown and served.
#[derive(Clone, Debug)]
pub struct MountConfig {
    pub dir: PathBuf,
    /// What `mount` and `df` show as the source.
    pub source: String,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits of files, 0o444 unless told otherwise.
    pub file_mode: u16,
    /// Permission bits of directories, 0o555 unless told otherwise.
    pub dir_mode: u16,
    pub access: Access,
    /// FUSE threads.
    pub threads: usize,
    pub foreground: bool,
    /// A process above the one that serves starts another when that one dies.
    pub auto_remount: bool,
    /// Further mount(2) flags from `-o`.
    pub flags: Vec<MountFlag>,
    /// `XDG_RUNTIME_DIR`, where the control socket goes.
    pub runtime_dir: Option<PathBuf>,
    /// The address of the bus on which logind says that the machine goes to sleep.
    pub system_bus: String,
    /// Told `READY=1\n` on success; see `--ready-fd`.
    pub ready_fd: Option<i32>,
    /// Errors are printed as a JSON object.
    pub json: bool,
}

/// Who may use the mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Owner,
    OwnerAndRoot,
    Everybody,
}

/// A mount(8) option with an effect on a mount that is always read-only, nosuid and nodev.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountFlag {
    NoExec,
    NoAtime,
}

/// What the kernel does with the bytes of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageCache {
    /// It keeps what is read, but for those who open with O_DIRECT.
    Used,
    /// It keeps nothing: `--direct-io`.
    Bypassed,
}

/// How long what the tree knows holds.
#[derive(Clone, Debug)]
pub struct NamesConfig {
    pub metadata_ttl: MetadataTtl,
    pub negative_ttl: Ttl,
}

/// How long a present name and a listing hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetadataTtl {
    /// What it cost: 2 s for each page of the listing, at most 60 s.
    Auto,
    Fixed(Ttl),
}

/// A time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    For(Duration),
    Forever,
}

impl Ttl {
    /// What is left of it after `age`; zero when it is over.
    pub fn left(self, age: Duration) -> Duration {
        match self {
            Self::For(ttl) => ttl.saturating_sub(age),
            Self::Forever => FOREVER,
        }
    }
}

/// What the kernel is told for `forever`: a hundred years, which its arithmetic holds.
pub const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Where the log goes and how much of it.
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub level: LevelFilter,
    pub target: LogTarget,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogTarget {
    Terminal,
    /// An absolute path: the process leaves its working directory.
    File(PathBuf),
    /// syslog(3), as "s3mount" among the daemons.
    System,
}

/// The command line makes no sense: the sentence names the option, the value and what is allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Below this a few parts in flight and a page of a listing have no room beside each other.
pub const MEMORY_MIN_BYTES: u64 = 32 << 20;

/// The least bandwidth, in bytes a second: with less, a read of the kernel's (1 MiB) beside another would
/// come near its deadline of 60 s.
pub const BANDWIDTH_MIN_BYTES: u64 = 64 << 10;

/// `--memory` where it was not typed: small against the machine, so that a mount is no burden on a
/// laptop, and small against a container's limit, which also counts the program that reads.
pub fn default_memory_bytes(machine_bytes: u64, cgroup_limit_bytes: Option<u64>) -> u64 {
    let share = (machine_bytes / 48).clamp(128 << 20, 4 << 30);
    let limit = cgroup_limit_bytes.map_or(u64::MAX, |limit| limit / 10 * 4);
    share.min(limit).max(MEMORY_MIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_machine_within_bounds_and_the_cgroup_above_all() {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        for (machine, limit, expected) in [
            (0, None, 128 * MIB),
            (2 * GIB, None, 128 * MIB),
            (48 * GIB, None, GIB),
            (1024 * GIB, None, 4 * GIB),
            (48 * GIB, Some(100 * GIB), GIB),
            (48 * GIB, Some(GIB), GIB / 10 * 4),
            (48 * GIB, Some(200 * MIB), 200 * MIB / 10 * 4),
            (48 * GIB, Some(64 * MIB), 32 * MIB),
        ] {
            assert_eq!(default_memory_bytes(machine, limit), expected, "{machine} {limit:?}");
        }
    }
}
