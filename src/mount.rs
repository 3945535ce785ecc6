//! The life of a mount, from the checked words to the exit code. Builds the object graph; with
//! `fuse/` the only user of fuser.
//!
//! The order is what keeps it sound: the mount point is looked at; the process goes to the
//! background, before any thread; the bucket is proven by its first listing; only then something is
//! mounted; and the command returns when the mount has answered. From mount(2) on a guard unmounts,
//! whatever fails.

mod attach;
mod mountinfo;
mod point;
mod report;
mod session;
mod signals;
mod start_error;
pub(crate) mod sys;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use attach::{Mount, Unmounted};
use attach::{MountGuard, mount as attach};
use fuser::Filesystem;
pub use mountinfo::DeviceNumber;
use point::Target;
pub use report::Report;
use session::Session;
use signals::Signals;
use start_error::signal_exit_code;
pub use start_error::{StartError, StartErrorKind};
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::{BucketConfig, Config};
use crate::data::{Data, DataConfig, Numbering};
use crate::error::{StoreError, StoreErrorKind};
use crate::fs::{FileSystem, Look, Node};
use crate::fuse::{self, Adapter};
use crate::metrics::Metrics;
use crate::object::DirPath;
use crate::store::credentials::{readable_by_others, readable_warning};
use crate::store::limit::LimitConfig;
use crate::store::{ListPage, ListRequest, ObjectStore, stack};
use crate::tree::{Tree, TreeConfig};

/// The kernel asks a new mount for its root, which is known from the proof of the bucket: what
/// takes longer than this is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the kernel reads ahead of a stream, where it may be set (root): large requests are what
/// makes a stream cheap, while a page fault of a mapped file cannot be told from one and reads all of
/// it. docs/ARCHITECTURE.md has the measurements.
const READ_AHEAD_KIB: u32 = 512;

/// The part of the budget that listings may hold: metadata evicts up to half of it.
const NAMES_SHARE: u64 = 2;

/// What is still running when the mount has gone gets this long to notice.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Mounts, and returns the exit code: in the foreground after the end of the mount, else when it
/// answers. To be called before the first thread is started.
pub fn run(config: &Config) -> Result<u8, StartError> {
    sys::tame_allocator();
    let json = config.mount.json;
    let ready = config.mount.ready_fd.map(sys::take_inherited).transpose();
    let ready = ready.map_err(|err| StartError::unexpected("--ready-fd", &err))?;
    let target = point::check(&config.mount.dir, &mut |sentence| {
        report::print_warning(sentence, json);
    })?;
    if config.mount.foreground {
        return serve(config, target, &mut Report::in_foreground(ready));
    }

    let dir = match &target {
        Target::Directory { path, .. } => Some(path.clone()),
        Target::Descriptor(_) => None,
    };
    let result = report::in_background(ready, json, |report| serve(config, target, report));
    if result.is_err()
        && let Some(dir) = dir
    {
        // A background process that was killed outright could not clean up after itself.
        point::take_dead_mount_of_ours_away(&dir);
    }
    result
}

/// Proves the bucket, mounts, serves until unmounted.
fn serve(config: &Config, target: Target, report: &mut Report) -> Result<u8, StartError> {
    let runtime = start_runtime(config)?;
    let listening = {
        let _context = runtime.enter();
        Signals::listen(config.mount.foreground)
    };
    let mut signals =
        listening.map_err(|err| StartError::unexpected("cannot listen to signals", &err))?;

    for path in readable_by_others(&config.bucket.credential_files.key_files()) {
        report.warn(&readable_warning(&path));
    }
    let proven = runtime.block_on(unless_ended(&mut signals, prove(config)))?;
    if proven.first_page.is_none() {
        report.warn("the bucket may not be listed: only paths that are known open");
    }
    let is_empty = |page: &ListPage| page.objects.is_empty() && page.prefixes.is_empty();
    if proven.first_page.as_ref().is_some_and(is_empty) {
        let BucketConfig { bucket, prefix, .. } = &config.bucket;
        if !prefix.is_empty() {
            report.warn(&format!("no key in the bucket {bucket} begins with {prefix}"));
        }
    }
    let filesystem = build_filesystem(config, proven, runtime.handle());

    let (device, guard, claim) = match target {
        Target::Directory { path, claim } => {
            let (device, mount) = attach(&path, &config.mount)?;
            (device, MountGuard::new(Some(mount)), claim)
        }
        Target::Descriptor(device) => (device, MountGuard::new(None), None),
    };
    let mut session = Session::start(filesystem, device, &config.mount)
        .map_err(|err| StartError::unexpected("cannot start a thread", &err))?;
    runtime.block_on(unless_ended(&mut signals, answer(&mut session, guard.mount())))?;
    if let Some(mount) = guard.mount() {
        read_ahead(mount.device());
    }
    if let Some(claim) = claim {
        // The waiting parent has the lock, too: closing it here would not be enough.
        let _ = claim.unlock();
    }
    report.ready()?;
    tracing::info!("{} is mounted on {}", config.mount.source, config.mount.dir.display());

    let code = runtime.block_on(until_the_end(session, guard, &mut signals));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    Ok(code)
}

/// The bucket, proven, and its root's first page.
struct Proven {
    store: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    /// `None` where it may not be listed, with `--known-paths`.
    first_page: Option<ListPage>,
    /// When that page was asked for.
    sent: Instant,
}

/// Connects, and proves bucket, credentials and region by the listing that the root needs anyway.
async fn prove(config: &Config) -> Result<Proven, StartError> {
    let bucket = &config.bucket;
    let limits = LimitConfig::for_memory(config.memory_max_bytes);
    let failed = |err: StoreError| StartError::from_store(&err, bucket);
    let metrics = Arc::new(Metrics::default());
    let (files, counters) = (&bucket.credential_files, Arc::clone(&metrics));
    let store = stack::connect(bucket, files, counters, limits).await.map_err(failed)?;
    let sent = Instant::now();
    let first_page = match store.list(ListRequest::directory(&bucket.prefix)).await {
        Err(err) if bucket.known_paths && err.kind() == StoreErrorKind::Denied => None,
        answer => Some(answer.map_err(failed)?),
    };
    Ok(Proven { store, metrics, first_page, sent })
}

/// The one place where the file system is made of its layers.
fn build_filesystem(config: &Config, proven: Proven, runtime: &runtime::Handle) -> impl Filesystem {
    let Proven { store, metrics, first_page, sent } = proven;
    let root = DirPath::new(&config.bucket.prefix);
    let tree = Tree::new(
        Arc::clone(&store),
        runtime.clone(),
        TreeConfig {
            prefix: root.clone(),
            metadata_ttl: config.names.metadata_ttl,
            negative_ttl: config.names.negative_ttl,
            entries_bytes_max: config.memory_max_bytes / NAMES_SHARE,
        },
    );
    if let Some(first_page) = first_page {
        tree.seed(first_page, sent);
    }
    let inodes = FileSystem::inodes(&root);
    let numbering: Numbering = {
        let inodes = Arc::clone(&inodes);
        Arc::new(move |object| inodes.number(&Node::File(Arc::new(object.clone()))))
    };
    let data = Data::new(
        store,
        runtime.clone(),
        metrics,
        numbering,
        DataConfig { memory_max_bytes: config.memory_max_bytes, open_ttl: config.open_ttl },
    );
    let look = Look {
        uid: config.mount.uid,
        gid: config.mount.gid,
        file_mode: config.mount.file_mode,
        dir_mode: config.mount.dir_mode,
    };
    Adapter::new(FileSystem::new(tree, data, inodes, root, look), runtime.clone())
}

fn start_runtime(config: &Config) -> Result<Runtime, StartError> {
    runtime::Builder::new_multi_thread()
        .worker_threads(config.bucket.threads_max)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|err| StartError::unexpected("cannot start threads", &err))
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

/// A start that a signal gives up.
async fn unless_ended<T>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, StartError>>,
) -> Result<T, StartError> {
    tokio::select! {
        signal = signals.end() => {
            let sentence = format!("stopped by signal {signal} before the mount was ready");
            Err(StartError::new(StartErrorKind::Interrupted(signal), sentence))
        }
        result = work => result,
    }
}

/// Waits until the mount answers a stat with its own device number.
async fn answer(session: &mut Session, mount: Option<&Mount>) -> Result<(), StartError> {
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

/// Serves until the session ends, which a first signal asks for and a second one does not wait for.
async fn until_the_end(mut session: Session, guard: MountGuard, signals: &mut Signals) -> u8 {
    loop {
        tokio::select! {
            result = session.ended() => return ended(result, session, guard),
            signal = signals.end() => if guard.mount().is_none() {
                tracing::info!("ended by signal {signal}; whoever mounted the descriptor unmounts it");
                return 0;
            },
        }
        let mount = guard.mount().cloned();
        let unmounting = async {
            let unmount = move || mount.is_some_and(|mount| unmount(&mount));
            // Not in this thread: it may wait for a helper.
            if tokio::task::spawn_blocking(unmount).await.unwrap_or(false) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = session.ended() => return ended(result, session, guard),
            signal = signals.end() => {
                tracing::warn!("ended by a second signal; whoever still uses the mount gets errors");
                return signal_exit_code(signal); // The guard detaches what is left.
            }
            // It could not be unmounted: the next signal is a first one again.
            () = unmounting => {}
        }
    }
}

fn ended(result: io::Result<()>, session: Session, guard: MountGuard) -> u8 {
    guard.session_ended();
    session.join();
    match result {
        Ok(()) => {
            tracing::info!("unmounted");
            0
        }
        Err(err) => {
            tracing::error!("the session with the kernel failed: {err}");
            1
        }
    }
}

/// Whether the session is going to end.
fn unmount(mount: &Mount) -> bool {
    let dir = mount.dir().display();
    match mount.unmount() {
        Unmounted::Gone => true,
        Unmounted::Detached => {
            tracing::warn!(
                "{dir} is in use: it was detached, and this process ends when the last user has left"
            );
            true
        }
        Unmounted::Absent => {
            tracing::warn!("{dir} is already unmounted, but in use until the last user has left");
            true
        }
        Unmounted::Covered => {
            tracing::error!(
                "{dir} cannot be unmounted: another file system is mounted over it; unmount that \
                 first"
            );
            false
        }
        Unmounted::Failed(reason) => {
            tracing::error!("{dir} cannot be unmounted: {reason}");
            false
        }
    }
}
