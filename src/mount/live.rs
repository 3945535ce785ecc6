//! A mount that answers, and its way there: the bucket proven, the layers put together, the kernel
//! greeted. Whoever has the value has the mount; Drop takes it away.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::asleep::Asleep;
use super::attach::{Attached, MountGuard, Unmounted, mount as attach, mount_beneath_dead};
use super::point::{self, Target};
use super::session::Session;
use super::start_error::{StartError, StartErrorKind};
use super::sys;
use crate::config::{BucketConfig, Config, MountConfig, NetworkConfig};
use crate::control::{Commands, Control, NoControl};
use crate::data::{Data, DataConfig, Numbering};
use crate::error::{StoreError, StoreErrorKind};
use crate::fs::{FileSystem, Look, Notices, Queues};
use crate::fuse::notify::{self, Asking};
use crate::fuse::{self, Adapter};
use crate::metrics::Metrics;
use crate::mountinfo::DeviceNumber;
use crate::object::DirPath;
use crate::store::credentials::{readable_by_others, readable_warning};
use crate::store::limit::LimitConfig;
use crate::store::reach::Reach;
use crate::store::{ListPage, ListRequest, ObjectStore, stack};
use crate::tree::{Found, Tree, TreeConfig};

/// The kernel asks a new mount for its root, which is known from the proof of the bucket: what
/// takes longer than this is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the kernel reads ahead of a stream, where it may be set (root): large requests are what
/// makes a stream cheap, while a page fault of a mapped file cannot be told from one and reads all of
/// it. docs/ARCHITECTURE.md has the measurements.
const READ_AHEAD_KIB: u32 = 512;

/// The part of the budget that listings may hold: metadata evicts up to half of it.
const NAMES_SHARE: u64 = 2;

/// A request has a connection; those that were late may have a second one for a while, and some that
/// are done are kept.
const FILES_PER_REQUEST: u64 = 2;

/// The device, the runtime, logs, the control socket with its 32 clients, the sockets of name
/// resolution and of credentials.
const OTHER_FILES: u64 = 64;

/// One for names and one for bytes: with less nothing goes.
const REQUESTS_MIN: usize = 2;

/// What is still running when the mount has gone gets this long to notice.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// A bucket, mounted: made by [`Mount::builder`]. It answers from the start, until it is unmounted,
/// by this program or any other, or dropped.
///
/// Dropping takes it away from its directory; a program that still has a file open in it gets errors
/// from then on. [`Mount::unmount`] and [`Mount::wait`] before that let such programs finish.
pub struct Mount {
    dir: Box<Path>,
    /// `None` after the end. Invariant: there until `guard` has unmounted.
    session: Option<Session>,
    guard: Option<MountGuard>,
    /// `None` where there is no place for a socket, and after the end.
    control: Option<Control>,
    /// `None` after the end.
    asleep: Option<Asleep>,
    metrics: Arc<Metrics>,
    /// `None` only while dropping.
    runtime: Option<Runtime>,
}

/// Why a mount could not be taken away from its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UnmountError {
    /// Another file system was mounted over it, and has to be unmounted first.
    Covered,
    /// It was mounted through `/dev/fd/N`: whoever mounted the descriptor unmounts it.
    NotOurs,
    /// The kernel or fusermount3 refused, in their words.
    Refused(String),
}

/// What [`Mount::wait_unless`] saw first.
pub(super) enum Ended<T> {
    Session(io::Result<()>),
    Otherwise(T),
}

impl Mount {
    /// Proves the bucket, mounts on `target` and waits for the first answer, unless `given_up` comes
    /// first. Not to be called by a task.
    pub(super) fn start(
        runtime: Runtime,
        config: &Config,
        target: Target,
        warn: &mut dyn FnMut(&str),
        given_up: impl Future<Output = StartError>,
    ) -> Result<Self, StartError> {
        let started = runtime.block_on(async {
            tokio::select! {
                err = given_up => Err(err),
                started = begin(runtime.handle(), config, target, warn) => started,
            }
        });
        match started {
            Ok(Begun { session, guard, control, asleep, metrics }) => Ok(Self {
                dir: config.mount.dir.as_path().into(),
                session: Some(session),
                guard: Some(guard),
                control,
                asleep: Some(asleep),
                metrics,
                runtime: Some(runtime),
            }),
            Err(err) => {
                // A name server that does not answer would be waited for.
                runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
                Err(err)
            }
        }
    }

    /// Where it is mounted, as it was given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it has asked of the bucket, and what came of it.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whether it is this mount that unmounts, and not somebody who mounted `/dev/fd/N`.
    pub(super) fn is_ours(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.mount().is_some())
    }

    /// Takes the mount away from its directory. Programs that have a file open in it, or stand in it,
    /// go on until they leave: [`Mount::wait`] waits for them. Nothing is to be done, and nothing is
    /// wrong, where somebody else has unmounted it.
    pub fn unmount(&self) -> Result<(), UnmountError> {
        match &self.guard {
            Some(guard) => unmount(guard.mount()),
            None => Ok(()),
        }
    }

    /// [`Mount::unmount`], as a future that can be given up.
    pub(super) fn unmounting(&self) -> impl Future<Output = Result<(), UnmountError>> + use<> {
        let attached = self.guard.as_ref().map(|guard| guard.mount().cloned());
        // On a thread that may wait for a helper.
        let work = move || attached.map_or(Ok(()), |mount| unmount(mount.as_ref()));
        async { tokio::task::spawn_blocking(work).await.unwrap_or(Ok(())) }
    }

    /// Waits until it is unmounted, by whomever, and its last user has left. Fails where the session
    /// with the kernel did.
    pub fn wait(&mut self) -> io::Result<()> {
        apart(|| match self.wait_unless(std::future::pending::<()>()) {
            Ended::Session(result) => result,
            Ended::Otherwise(()) => Ok(()),
        })
    }

    /// Waits for the end, or for something else. Not to be called by a task.
    pub(super) fn wait_unless<T>(&mut self, other: impl Future<Output = T>) -> Ended<T> {
        let (Some(runtime), Some(session)) = (&self.runtime, &mut self.session) else {
            return Ended::Session(Ok(()));
        };
        let ended = runtime.block_on(async {
            tokio::select! {
                result = session.ended() => Ended::Session(result),
                value = other => Ended::Otherwise(value),
            }
        });
        if let Ended::Session(_) = &ended {
            drop(self.control.take());
            drop(self.asleep.take());
            if let Some(guard) = self.guard.take() {
                guard.session_ended();
            }
            if let Some(session) = self.session.take() {
                session.join();
            }
        }
        ended
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.control.take());
        drop(self.asleep.take());
        // First the directory, then those who serve it.
        drop(self.guard.take());
        if let Some(runtime) = self.runtime.take() {
            apart(|| runtime.shutdown_timeout(SHUTDOWN_TIMEOUT));
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl fmt::Display for UnmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Covered => f.write_str(
                "the mount cannot be unmounted: another file system is mounted over it; unmount \
                 that first",
            ),
            Self::NotOurs => {
                f.write_str("the mount is unmounted by whoever mounted the descriptor")
            }
            Self::Refused(reason) => write!(f, "the mount cannot be unmounted: {reason}"),
        }
    }
}

impl std::error::Error for UnmountError {}

/// Runs `work` on a thread of its own and waits for it: the caller may be a task of another runtime,
/// which may not wait for one of ours.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let result = std::thread::scope(|scope| scope.spawn(work).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn unmount(mount: Option<&Attached>) -> Result<(), UnmountError> {
    let mount = mount.ok_or(UnmountError::NotOurs)?;
    let dir = mount.dir().display();
    match mount.unmount() {
        Unmounted::Gone => {}
        Unmounted::Detached => {
            tracing::warn!("{dir} is in use: it was detached, and ends when the last user has left")
        }
        Unmounted::Absent => {
            tracing::warn!("{dir} is already unmounted, but in use until the last user has left")
        }
        Unmounted::Covered => return Err(UnmountError::Covered),
        Unmounted::Failed(reason) => return Err(UnmountError::Refused(reason)),
    }
    Ok(())
}

/// A mount that answers.
struct Begun {
    session: Session,
    guard: MountGuard,
    control: Option<Control>,
    asleep: Asleep,
    metrics: Arc<Metrics>,
}

async fn begin(
    runtime: &runtime::Handle,
    config: &Config,
    target: Target,
    warn: &mut dyn FnMut(&str),
) -> Result<Begun, StartError> {
    for path in readable_by_others(&config.bucket.credential_files.key_files()) {
        warn(&readable_warning(&path));
    }
    let limits = limits(config, sys::open_files_max().unwrap_or(u64::MAX), warn);
    let proven = prove(config, limits).await?;
    if proven.first_page.is_none() {
        warn("the bucket may not be listed: only paths that are known open");
    }
    let is_empty = |page: &ListPage| page.objects.is_empty() && page.prefixes.is_empty();
    if proven.first_page.as_ref().is_some_and(is_empty) {
        let BucketConfig { bucket, prefix, .. } = &config.bucket;
        if !prefix.is_empty() {
            warn(&format!(
                "no key in the bucket {bucket} begins with {prefix}; the mount is empty until one does"
            ));
        }
    }
    let (notices, queues) = Notices::new();
    let (metrics, reach) = (Arc::clone(&proven.metrics), Arc::clone(&proven.reach));
    let filesystem = build_filesystem(config, proven, notices, runtime);
    let quiet = Arc::clone(reach.quiet());
    let adapter = Adapter::new(Arc::clone(&filesystem), runtime.clone(), config.page_cache, quiet);

    let (device, guard, claim) = place(target, &config.mount, warn).await?;
    let no_thread = |err: io::Error| StartError::unexpected("cannot start a thread", &err);
    notify_kernel(&device, queues, &filesystem).map_err(no_thread)?;
    // The session alone keeps it, and with it the thread that notifies.
    let commands = Commands::new(Arc::downgrade(&filesystem), &config.mount.source);
    drop(filesystem);
    let mut session = Session::start(adapter, device, &config.mount).map_err(no_thread)?;
    answer(&mut session, guard.mount()).await?;
    let mut control = None;
    if let Some(mount) = guard.mount() {
        read_ahead(mount.device());
        control = listen(config, mount.device(), commands, warn).await;
    }
    if let Some(claim) = claim {
        // The waiting parent has the lock, too: closing it here would not be enough.
        let _ = claim.unlock();
    }
    let asleep = Asleep::listen(&config.mount.system_bus, reach);
    Ok(Begun { session, guard, control, asleep, metrics })
}

/// What the mount may have in flight: as the budget gives it, or as was asked for; and no more than
/// there are descriptors for.
fn limits(config: &Config, open_files_max: u64, warn: &mut dyn FnMut(&str)) -> LimitConfig {
    let NetworkConfig { requests_max, bytes_per_second_max } = config.network;
    let wanted = LimitConfig::for_memory(config.memory_max_bytes)
        .bounded(requests_max, bytes_per_second_max);
    let room = open_files_max.saturating_sub(OTHER_FILES) / FILES_PER_REQUEST;
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(REQUESTS_MIN);
    if room >= wanted.requests_max {
        return wanted;
    }
    warn(&format!(
        "the limit of {open_files_max} open files leaves room for {room} requests in flight instead \
         of {}; raise it with `ulimit -n 1024` or LimitNOFILE=1024",
        wanted.requests_max
    ));
    wanted.bounded(Some(room), bytes_per_second_max)
}

/// Mounts on `target`. The file is its claim, until the mount answers.
async fn place(
    target: Target,
    config: &MountConfig,
    warn: &mut dyn FnMut(&str),
) -> Result<(OwnedFd, MountGuard, Option<File>), StartError> {
    let (path, claim) = match target {
        Target::Descriptor(device) => return Ok((device, MountGuard::new(None), None)),
        Target::Directory { path, claim } => (path, claim),
        Target::Dead(ref dir) | Target::Died(ref dir) => {
            let _turn = point::turn(dir).await;
            let is_dead = point::is_dead(dir);
            if !is_dead && matches!(target, Target::Died(_)) {
                return Err(point::unmounted_meanwhile(dir));
            }
            if is_dead && let Some(mounted) = mount_beneath_dead(dir, config) {
                let (device, mount) = mounted.map_err(|err| {
                    let sentence = format!("the dead mount on {}: {err}", dir.display());
                    StartError::new(StartErrorKind::MountPoint, sentence)
                })?;
                warn(&point::was_dead(dir));
                return Ok((device, MountGuard::new(Some(mount)), None));
            }
            // One that has mounted meanwhile is met here.
            point::clear(dir, warn)?
        }
    };
    let (device, mount) = attach(&path, config)?;
    Ok((device, MountGuard::new(Some(mount)), claim))
}

/// The bucket, proven, and its root's first page.
struct Proven {
    store: Arc<dyn ObjectStore>,
    reach: Arc<Reach>,
    metrics: Arc<Metrics>,
    /// `None` where it may not be listed, with `--known-paths`.
    first_page: Option<ListPage>,
    /// When that page was asked for.
    sent: Instant,
}

/// Connects, and proves bucket, credentials and region by the listing that the root needs anyway.
async fn prove(config: &Config, limits: LimitConfig) -> Result<Proven, StartError> {
    let bucket = &config.bucket;
    let failed = |err: StoreError| StartError::from_store(&err, bucket);
    let metrics = Arc::new(Metrics::default());
    let (files, counters) = (&bucket.credential_files, Arc::clone(&metrics));
    let reach = Arc::new(Reach::new(config.offline_grace));
    let connecting = stack::connect(bucket, files, counters, limits, Arc::clone(&reach));
    let store = connecting.await.map_err(failed)?;
    let sent = Instant::now();
    let first_page = match store.list(ListRequest::directory(&bucket.prefix)).await {
        Err(err) if bucket.known_paths && is_denial(&err) => None,
        answer => Some(answer.map_err(failed)?),
    };
    Ok(Proven { store, reach, metrics, first_page, sent })
}

/// Whether a permission is missing: a wrong clock is refused by the same status.
fn is_denial(err: &StoreError) -> bool {
    err.kind() == StoreErrorKind::Denied && err.cause().is_none()
}

/// The one place where the file system is made of its layers.
fn build_filesystem(
    config: &Config,
    proven: Proven,
    notices: Notices,
    runtime: &runtime::Handle,
) -> Arc<FileSystem> {
    let Proven { store, reach, metrics, first_page, sent } = proven;
    let root = DirPath::new(&config.bucket.prefix);
    let tree = Tree::new(
        Arc::clone(&store),
        runtime.clone(),
        TreeConfig {
            prefix: root.clone(),
            metadata_ttl: config.names.metadata_ttl,
            negative_ttl: config.names.negative_ttl,
            entries_bytes_max: config.memory_max_bytes / NAMES_SHARE,
            reach: Arc::clone(&reach),
        },
    );
    if let Some(first_page) = first_page {
        tree.seed(first_page, sent);
    }
    let inodes = FileSystem::inodes(&root);
    let numbering: Numbering = {
        let inodes = Arc::clone(&inodes);
        Arc::new(move |object| inodes.number(&Found::File(Arc::new(object.clone()))))
    };
    let data = Data::new(
        store,
        runtime.clone(),
        Arc::clone(&metrics),
        numbering,
        DataConfig {
            memory_max_bytes: config.memory_max_bytes,
            open_ttl: config.open_ttl,
            page_cache: config.page_cache,
            reach,
        },
    );
    let look = Look {
        uid: config.mount.uid,
        gid: config.mount.gid,
        file_mode: config.mount.file_mode,
        dir_mode: config.mount.dir_mode,
    };
    FileSystem::new(tree, data, inodes, notices, metrics, root, look)
}

/// Starts the thread that notifies the kernel, by a descriptor of its own.
fn notify_kernel(device: &OwnedFd, queues: Queues, filesystem: &Arc<FileSystem>) -> io::Result<()> {
    let relief: Weak<FileSystem> = Arc::downgrade(filesystem);
    notify::start(device.try_clone()?, queues, Arc::new(relief), Asking::ByNumber)
}

pub(super) fn start_runtime(config: &Config) -> Result<Runtime, StartError> {
    runtime::Builder::new_multi_thread()
        .worker_threads(config.bucket.threads_max)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|err| StartError::unexpected("cannot start threads", &err))
}

/// Makes the control socket. A mount serves without one, too.
async fn listen(
    config: &Config,
    device: DeviceNumber,
    commands: Commands,
    warn: &mut dyn FnMut(&str),
) -> Option<Control> {
    let runtime_dir = config.mount.runtime_dir.as_deref();
    match Control::start(runtime_dir, device, commands).await {
        Ok(control) => Some(control),
        Err(NoControl::Usual(what)) => {
            tracing::info!(
                "there is no control socket, so `s3mount refresh` is not to be had: {what}"
            );
            None
        }
        Err(NoControl::Wrong(what)) => {
            warn(&format!(
                "there is no control socket, so `s3mount refresh` is not to be had: {what}"
            ));
            None
        }
    }
}

/// Raises the kernel's read-ahead where that is allowed.
fn read_ahead(device: DeviceNumber) {
    let DeviceNumber { major, minor } = device;
    match fuse::set_read_ahead(major, minor, READ_AHEAD_KIB) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!("the kernel's read-ahead stays as it is: {err}");
        }
        Err(err) => tracing::info!("the kernel's read-ahead stays as it is: {err}"),
    }
}

/// Waits until the mount answers a stat with its own device number.
async fn answer(session: &mut Session, mount: Option<&Attached>) -> Result<(), StartError> {
    let fuse = |sentence: String| StartError::new(StartErrorKind::Fuse, sentence);
    let probe = async {
        if session.opened().await.is_none() {
            let err = session.ended().await.err();
            let reason = err.map_or("it was unmounted".to_owned(), |err| err.to_string());
            return Err(fuse(format!("the kernel and the file system did not agree: {reason}")));
        }
        let Some(mount) = mount else { return Ok(()) };
        let dir = mount.dir().to_owned();
        let (sender, stat) = oneshot::channel();
        // A thread of its own: a stat of a mount that does not answer cannot be given up.
        std::thread::spawn(move || {
            use std::os::unix::fs::MetadataExt;
            let device = std::fs::metadata(dir).map(|found| DeviceNumber::from_stat(found.dev()));
            let _ = sender.send(device);
        });
        tokio::select! {
            _ = session.ended() => Err(fuse("it was unmounted before it was ready".to_owned())),
            answer = stat => match answer {
                Ok(Ok(device)) if device == mount.device() => Ok(()),
                Ok(Ok(_)) => Err(fuse("another file system was mounted over it".to_owned())),
                Ok(Err(err)) => Err(fuse(format!("the new mount answers with an error: {err}"))),
                Err(_) => Err(fuse("the new mount could not be asked".to_owned())),
            },
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, probe).await.unwrap_or_else(|_| {
        Err(fuse(format!("the new mount gave no answer for {} s", ANSWER_TIMEOUT.as_secs())))
    })
}
