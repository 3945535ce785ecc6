//! What a program says that mounts by itself: the words of the command line, as methods.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::Args;
use crate::config::{Config, Environment, MetadataTtl, Ttl};
use crate::mount::{self, Mount, StartError};

/// A mount that is to be: [`Mount::builder`]. Each method is the option of its name on the command
/// line, with the same default; the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL` and so on) is read
/// by [`Builder::start`].
#[must_use]
pub struct Builder {
    args: Args,
    warn: Box<dyn FnMut(&str) + Send>,
}

impl Mount {
    /// A mount of `bucket` (also `bucket/prefix`, `s3://bucket/prefix` or an access-point ARN) on
    /// `dir`, a directory that exists, or `/dev/fd/N`.
    pub fn builder(bucket: impl Into<String>, dir: impl Into<PathBuf>) -> Builder {
        let warn = Box::new(|sentence: &str| tracing::warn!("{sentence}"));
        Builder { args: Args::new(bucket.into(), dir.into()), warn }
    }
}

impl Builder {
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.args.prefix = Some(prefix.into());
        self
    }

    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.args.region = Some(region.into());
        self
    }

    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.args.profile = Some(profile.into());
        self
    }

    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.args.endpoint_url = Some(url.into());
        self
    }

    pub fn force_path_style(mut self) -> Self {
        self.args.force_path_style = true;
        self
    }

    pub fn no_sign_request(mut self) -> Self {
        self.args.no_sign_request = true;
        self
    }

    pub fn requester_pays(mut self) -> Self {
        self.args.requester_pays = true;
        self
    }

    pub fn known_paths(mut self) -> Self {
        self.args.known_paths = true;
        self
    }

    /// A number of 12 digits.
    pub fn expected_bucket_owner(mut self, account: impl Into<String>) -> Self {
        self.args.expected_bucket_owner = Some(account.into());
        self
    }

    /// The owner and group of all files and directories.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.args.uid, self.args.gid) = (Some(uid), Some(gid));
        self
    }

    /// Permission bits of files and of directories; those to write are left out.
    pub fn modes(mut self, files: u16, directories: u16) -> Self {
        (self.args.file_mode, self.args.dir_mode) = (files & 0o777, directories & 0o777);
        self
    }

    pub fn allow_other(mut self) -> Self {
        self.args.allow_other = true;
        self
    }

    /// In bytes, at least 32 MiB; what is less is raised to that.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.args.memory = Some(bytes.max(crate::config::MEMORY_MIN_BYTES));
        self
    }

    /// How long names, sizes and listings hold; [`Duration::MAX`] is for ever.
    pub fn metadata_ttl(mut self, ttl: Duration) -> Self {
        self.args.metadata_ttl = MetadataTtl::Fixed(lasting(ttl));
        self
    }

    /// How long a missing name is taken to be missing; [`Duration::MAX`] is for ever.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.args.negative_ttl = lasting(ttl);
        self
    }

    /// How long the content of a cached file is believed when it is opened again; [`Duration::MAX`]
    /// is for ever.
    pub fn open_ttl(mut self, ttl: Duration) -> Self {
        self.args.open_ttl = lasting(ttl);
        self
    }

    /// How long what is known and cached is served beyond its time while S3 cannot be reached;
    /// [`Duration::MAX`] is for ever.
    pub fn offline_grace(mut self, time: Duration) -> Self {
        self.args.offline_grace = lasting(time);
        self
    }

    pub fn direct_io(mut self) -> Self {
        self.args.direct_io = true;
        self
    }

    /// From 1 to 64; what is outside is moved to the nearest.
    pub fn max_threads(mut self, n_threads: u16) -> Self {
        self.args.max_threads = Some(n_threads.clamp(1, 64));
        self
    }

    /// The most requests in flight, from 2 to 64; what is outside is moved to the nearest.
    pub fn max_requests(mut self, n_requests: u16) -> Self {
        self.args.max_requests = Some(n_requests.clamp(2, 64));
        self
    }

    /// The most bytes that are received in a second, at least 64 KiB; what is less is raised to that.
    pub fn max_bandwidth(mut self, bytes: u64) -> Self {
        self.args.max_bandwidth = Some(bytes.max(crate::config::BANDWIDTH_MIN_BYTES));
        self
    }

    /// Hears sentences about what does not stand in the way, during [`Builder::start`]; by default
    /// they are events of `tracing`, as all that the mount says later.
    pub fn on_warning(mut self, warn: impl FnMut(&str) + Send + 'static) -> Self {
        self.warn = Box::new(warn);
        self
    }

    /// Mounts, and returns when the mount answers. Blocks the calling thread meanwhile; a task does
    /// better to call it by `spawn_blocking`.
    ///
    /// Fails with the sentence and the kind ([`StartError::kind`]) that the command would end with;
    /// nothing is mounted then.
    pub fn start(mut self) -> Result<Mount, StartError> {
        mount::apart(|| {
            let config = Config::new(self.args, &Environment::read())?;
            mount::start(&config, &mut self.warn)
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("args", &self.args).finish_non_exhaustive()
    }
}

fn lasting(ttl: Duration) -> Ttl {
    if ttl == Duration::MAX { Ttl::Forever } else { Ttl::For(ttl) }
}
