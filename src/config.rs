//! What was typed, understood: validated, with units in the names. The only reader of the
//! environment; everybody else gets values from here.

use std::path::PathBuf;
use std::time::Duration;

/// One mount.
#[derive(Clone, Debug)]
pub struct Config {
    pub bucket: BucketConfig,
    pub mount: MountConfig,
    pub names: NamesConfig,
    pub memory_max_bytes: u64,
    /// How long the content of a file that is cached is believed when it is opened.
    pub open_ttl: Ttl,
    pub log: LogConfig,
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
    pub endpoint_url: Option<String>,
    /// Path style: asked for, or the endpoint is an IP address or localhost.
    pub force_path_style: bool,
    pub sign_requests: bool,
    pub requester_pays: bool,
    pub expected_bucket_owner: Option<String>,
    /// `AWS_CA_BUNDLE`: a PEM file that is trusted instead of the system's roots.
    pub ca_bundle: Option<PathBuf>,
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
    /// Further mount(2) flags from `-o`, as `noexec`, `noatime`.
    pub flags: Vec<MountFlag>,
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

/// A mount(8) option with an effect on a read-only mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountFlag {
    NoExec,
    NoAtime,
    Suid,
    Dev,
}

/// How long what the tree knows holds; DESIGN "How long an answer holds".
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
    pub level: tracing::level_filters::LevelFilter,
    pub file: Option<PathBuf>,
}
