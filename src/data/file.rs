//! What the bytes' layer knows of one object version beyond its parts.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::loading::Loading;
use super::prefetch::Detector;
use crate::error::{FsError, StoreErrorKind};
use crate::object::{ETag, Ino, Object, Version};
use crate::store::Head;

/// The kernel sends a buffered read that failed a second time (read-ahead, then the retry): what
/// failed by its deadline is answered at once for this long.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// Beyond so many of one file the kernel's second read is tried anew.
const FAILURES_MAX: usize = 64;

/// One version of an object, as all its handles share it.
pub struct File {
    /// The number that its parts are kept under.
    pub ino: Ino,
    pub object: Arc<Object>,
    /// The ETag that GETs are pinned to, where the listing had none and an answer taught it.
    learnt_etag: OnceLock<ETag>,
    version_id: OnceLock<Arc<str>>,
    pub(super) detector: Mutex<Detector>,
    pub(super) loading: Mutex<Loading>,
    /// Open handles.
    pub(super) handles: AtomicUsize,
    /// When the request was sent whose answer last named this version as the current one.
    validated: Mutex<Option<Instant>>,
    /// Whether it was opened since the kernel has its number: it may hold pages, though no part is here.
    pub(super) opened: AtomicBool,
    /// Replaced or deleted, and no old version can be read; until it is found current again.
    lost: AtomicBool,
    /// Its bytes did not fit their checksum, which comes with all of them alone; until they do.
    whole_only: AtomicBool,
    /// Reads that failed by their deadline a moment ago; at most [`FAILURES_MAX`].
    failures: Mutex<Vec<(Instant, Range<u64>, FsError)>>,
}

impl File {
    pub(super) fn new(ino: Ino, object: Arc<Object>) -> Arc<Self> {
        let size = object.version.size;
        let (detector, loading) = (Mutex::new(Detector::new(size)), Mutex::new(Loading::new(size)));
        Arc::new(Self {
            ino,
            object,
            learnt_etag: OnceLock::new(),
            version_id: OnceLock::new(),
            detector,
            loading,
            handles: AtomicUsize::new(0),
            validated: Mutex::new(None),
            opened: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            whole_only: AtomicBool::new(false),
            failures: Mutex::default(),
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.object.version.size
    }

    /// The ETag that a GET for these bytes must match, as far as one is known.
    pub(super) fn pin(&self) -> Option<&ETag> {
        self.object.version.etag.as_ref().or_else(|| self.learnt_etag.get())
    }

    /// The id to read this version by after the object has changed.
    pub(super) fn version_id(&self) -> Option<&Arc<str>> {
        self.version_id.get()
    }

    /// Whether an answer's bytes are bytes of this version.
    pub(super) fn holds_bytes_of(&self, head: &Head) -> bool {
        self.pinned().has_the_bytes_of(&head.version)
    }

    /// Whether an answer is about this version.
    pub(super) fn agrees_with(&self, head: &Head) -> bool {
        self.pinned().agrees_with(&head.version)
    }

    fn pinned(&self) -> Version {
        Version { etag: self.pin().cloned(), ..self.object.version.clone() }
    }

    /// Notes what an answer about this version taught.
    pub(super) fn learn(&self, head: &Head) {
        if self.object.version.etag.is_none()
            && let Some(etag) = &head.version.etag
        {
            let _ = self.learnt_etag.set(etag.clone());
        }
        if let Some(id) = &head.version_id {
            let _ = self.version_id.set(Arc::clone(id));
        }
    }

    /// An answer to a request sent at `sent` named this version as the current one.
    pub(super) fn validate(&self, sent: Instant) {
        self.vouch(sent);
        self.opened.store(true, Ordering::Relaxed);
    }

    /// As [`File::validate`], by an answer that nobody waits for to open it: the kernel may have none of its
    /// pages.
    pub(super) fn vouch(&self, sent: Instant) {
        let mut validated = self.validated.lock();
        *validated = (*validated).max(Some(sent));
        self.lost.store(false, Ordering::Relaxed);
    }

    /// As [`File::validate`], where somebody else's request told it. False where this version was doubted
    /// since it was last found current, or never was: then the bytes' own requests decide.
    pub fn confirm(&self, sent: Instant) -> bool {
        let mut validated = self.validated.lock();
        *validated = validated.map(|before| before.max(sent));
        validated.is_some()
    }

    /// An answer showed that this version is no longer the current one: the next open asks.
    pub(super) fn doubt(&self) {
        *self.validated.lock() = None;
    }

    /// The kernel has none of its pages.
    pub(super) fn forget_pages(&self) {
        self.opened.store(false, Ordering::Relaxed);
    }

    /// This version can not be had any more: no request asks for its bytes again.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Notes whether all its bytes, which came just now, fit their checksum.
    pub(super) fn note_checked(&self, is_right: bool) {
        self.whole_only.store(!is_right, Ordering::Relaxed);
    }

    /// Whether it is asked for as a whole only, as a part could not be told from a broken one.
    pub(super) fn is_whole_only(&self) -> bool {
        self.whole_only.load(Ordering::Relaxed)
    }

    /// How long ago this version was known to be current.
    pub(super) fn validated_age(&self) -> Option<Duration> {
        self.validated().map(|sent| sent.elapsed())
    }

    /// When the request was sent whose answer last named this version as the current one.
    pub(super) fn validated(&self) -> Option<Instant> {
        *self.validated.lock()
    }

    /// The error that a read which overlaps `range` met a moment ago by its deadline.
    pub(super) fn recent_failure(&self, range: &Range<u64>) -> Option<FsError> {
        let failures = self.failures.lock();
        let holds = failures.iter().find(|(at, failed, _)| {
            let overlaps = failed.start < range.end && range.start < failed.end;
            overlaps && at.elapsed() < FAILURE_HOLDS
        });
        holds.map(|(_, _, err)| err.clone())
    }

    /// Notes that reading `range` failed; only what comes after a long wait is remembered.
    pub fn note_failure(&self, range: Range<u64>, err: &FsError) {
        let by_deadline = match err {
            FsError::Deadline(_) => true,
            FsError::Store(err) => matches!(
                err.kind(),
                StoreErrorKind::TimedOut | StoreErrorKind::Unreachable | StoreErrorKind::Throttled
            ),
            _ => false,
        };
        if by_deadline {
            // Several readers of one file fail together, and the kernel repeats the read of each.
            let mut failures = self.failures.lock();
            failures.retain(|(at, _, _)| at.elapsed() < FAILURE_HOLDS);
            if failures.len() < FAILURES_MAX {
                failures.push((Instant::now(), range, err.clone()));
            }
        }
    }
}
