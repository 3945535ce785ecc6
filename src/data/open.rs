//! Open validates, for nothing: the first bytes are asked for at once, and the head of the answer
//! says whether the version that the names know is still the current one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::download::{Content, Removal};
use super::part::{Download, Part};
use super::prefetch::ALIGN;
use super::read::chunk_bytes;
use super::{Data, File};
use crate::config::{PageCache, Ttl};
use crate::error::{FsError, StoreErrorKind};
use crate::flight::{Boarded, Flight, Flights};
use crate::object::{Ino, Object};
use crate::store::{Condition, GetRequest, Head, Priority};

/// An object up to this size comes whole with its open, by one GET without Range: at 90 MB/s it
/// lasts half a round trip of 20 ms.
pub(super) const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Opens on their way, by inode.
pub(super) type Openings = Flights<Ino, Result<Opened, FsError>>;

/// How lately the content must have been known to be current for an open that does not ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recency {
    /// The mount's `open_ttl` ago, if there is anything of it to be had without asking.
    OpenTtl,
    /// Each open asks.
    Now,
}

/// What `open` found.
#[derive(Clone, Debug)]
pub enum Opened {
    /// The version is the current one.
    Current,
    /// Another version is current now; its first bytes are kept for its own inode.
    Changed(Replacement),
}

/// The version that took the place of the one that was opened.
#[derive(Clone, Debug)]
pub struct Replacement {
    pub object: Arc<Object>,
    /// When the request was sent that told it.
    pub sent: Instant,
}

pub(super) fn openings() -> Openings {
    Flights::new(Err(FsError::Abandoned))
}

impl Data {
    /// How old an answer may be that spares the open of `file` its own request, where that would only ask
    /// whether a version that was current is so still. `None` where the open needs no request, or where
    /// its answer is needed by itself: for bytes, for an ETag that listings do not have, and with a time
    /// of 0 for this one open.
    pub fn in_doubt(&self, file: &File) -> Option<Ttl> {
        if self.reach.serves_at_once() {
            return None;
        }
        let over = |age| self.open_ttl.left(age).is_zero();
        let in_doubt = file.validated_age().is_some_and(over) && self.is_warm(file);
        let can_be_told = !over(Duration::ZERO) && file.object.version.etag.is_some();
        (in_doubt && can_be_told).then_some(self.open_ttl)
    }

    /// Asks whether `file` is still the current version of its key, unless that is known as lately as it
    /// has to be, and brings its first bytes. Fails with `NotFound` when the key is gone.
    ///
    /// Ready at the first poll when nothing needs to be asked.
    pub async fn open(
        self: &Arc<Self>,
        file: &Arc<File>,
        recency: Recency,
    ) -> Result<Opened, FsError> {
        if file.validated_age().is_none() {
            self.wait_for_ahead(file).await;
        }
        let fresh = |age| !self.open_ttl.left(age).is_zero();
        let asks = recency == Recency::Now || !fresh(Duration::ZERO);
        if !asks && self.is_warm(file) && file.validated_age().is_some_and(fresh) {
            file.opened.store(true, Ordering::Relaxed);
            return Ok(Opened::Current);
        }
        if file.validated_age().is_some() {
            // Read before: while S3 is out it opens as what it was.
            let asked = self.reach.unless_out(self.ask_to_open(file, asks)).await;
            return asked.unwrap_or(Ok(Opened::Current));
        }
        self.ask_to_open(file, asks).await
    }

    async fn ask_to_open(
        self: &Arc<Self>,
        file: &Arc<File>,
        asks: bool,
    ) -> Result<Opened, FsError> {
        let (flight, was_on_its_way) = self.begin_opening(file);
        let opened = flight.wait().await;
        if asks && was_on_its_way && matches!(opened, Ok(Opened::Current)) {
            // The server may have answered that one before this open began; not so the next.
            return self.begin_opening(file).0.wait().await;
        }
        opened
    }

    /// The request of an open, or the one that is on its way, and whether it is that.
    fn begin_opening(
        self: &Arc<Self>,
        file: &Arc<File>,
    ) -> (Arc<Flight<Result<Opened, FsError>>>, bool) {
        let (flight, landing) = match self.openings.board(&file.ino) {
            Boarded::Joined(flight) => return (flight, true),
            Boarded::Started(flight, landing) => (flight, landing),
        };
        let (data, file, warm) = (Arc::clone(self), Arc::clone(file), self.is_warm(file));
        self.runtime.spawn(async move {
            let asked = data.ask(&file, warm).await.or_else(|err| data.outlast(&file, err));
            match asked {
                Ok(answer) => {
                    landing.land(Ok(answer.opened));
                    if let Some(rest) = answer.rest {
                        let Rest { file, download, removal, content } = rest;
                        data.continue_download(&file, download, removal, content).await;
                    }
                }
                Err(err) => landing.land(Err(err)),
            }
        });
        (flight, false)
    }

    /// Whether some of it is here, or the kernel may have it.
    fn is_warm(&self, file: &File) -> bool {
        let has_pages = self.page_cache == PageCache::Used && file.opened.load(Ordering::Relaxed);
        has_pages || self.index.lock().has_any(file.ino)
    }

    /// The request of one open, up to the head of its answer.
    async fn ask(self: &Arc<Self>, file: &Arc<File>, warm: bool) -> Result<Asked, FsError> {
        let first = first_bytes(file.size());
        let condition = match file.pin() {
            Some(etag) if warm => Condition::NoneMatch(etag.clone()),
            _ => Condition::Any,
        };
        let permit = match (&condition, chunk_bytes(&first)) {
            (Condition::Any, bytes @ 1..) => self.wait_for_room(&[bytes]).await.pop(),
            // 304 is expected, or nothing at all.
            _ => None,
        };
        let sent = Instant::now();
        let request = GetRequest {
            key: Arc::clone(&file.object.key),
            range: (first.end < file.size()).then(|| first.clone()),
            condition,
            priority: Priority::Open,
        };
        let answer = match self.store.get(request).await {
            Ok(answer) => answer,
            Err(err) if err.kind() == StoreErrorKind::NotModified => {
                file.validate(sent);
                return Ok(Asked { opened: Opened::Current, rest: None });
            }
            Err(err) if err.kind() == StoreErrorKind::OutOfRange => {
                // It has shrunk to nothing, so there is no range to ask for.
                let head = self.store.head(&file.object.key).await?;
                let (_, opened) = self.current(file, &head, sent);
                return Ok(Asked { opened, rest: None });
            }
            Err(err) => return Err(err.into()),
        };
        let head = self.dated(file, answer.head.clone()).await;
        let (current, opened) = self.current(file, &head, sent);
        let range = 0..answer.range.end.min(SMALL_BYTES_MAX);
        let fits = permit.filter(|permit| permit.bytes() >= chunk_bytes(&range));
        let permit = match fits {
            Some(permit) => Some(permit),
            // Only what can be had without waiting: the reader asks for the rest itself.
            None if range.end > 0 => self.reserve_now(chunk_bytes(&range)),
            None => None,
        };
        let rest = permit.filter(|_| range.end > 0).and_then(|permit| {
            // Without memory, too: whoever reads asks for it again, and hears of it.
            let chunk = self.chunk_for_reader(&permit).ok()?;
            let content = Content::of(answer, &range);
            let (part, download) = Part::new(range, false, permit, chunk);
            let mut index = self.index.lock();
            let free = index.gaps(current.ino, &part.range) == [part.range.clone(); 1];
            free.then(|| {
                index.insert(current.ino, &part, true);
                drop(index);
                let removal = Removal::of(self, &current, &download);
                Rest { file: current, download, removal, content }
            })
        });
        Ok(Asked { opened, rest })
    }

    /// While S3 is unreachable, a file that was read before is what it was: its cached bytes can be
    /// had, and a read of others fails by itself.
    fn outlast(&self, file: &File, err: FsError) -> Result<Asked, FsError> {
        let outage = matches!(&err, FsError::Store(err) if err.kind().is_transient());
        if !outage || file.validated_age().is_none() || !self.reach.serves_on() {
            return Err(err);
        }
        let key = &file.object.key;
        if self.reach.is_out() {
            tracing::debug!("open {key:?}: the cached version is opened: {err}");
        } else {
            // Others are answered, so nobody has said it yet.
            tracing::warn!("open {key:?}: the cached version is opened: {err}");
        }
        Ok(Asked { opened: Opened::Current, rest: None })
    }

    fn reserve_now(&self, bytes: usize) -> Option<super::budget::Permit> {
        self.budget.try_reserve(&[bytes])?.pop()
    }

    /// `head`, with a date where it is about another version than `file` and has none: a new
    /// version without its date would seem older than the one before.
    async fn dated(&self, file: &File, mut head: Head) -> Head {
        if !head.version.is_dated()
            && !file.agrees_with(&head)
            && let Ok(asked) = self.store.head(&file.object.key).await
            && asked.version.agrees_with(&head.version)
        {
            head.version.modified = asked.version.modified;
        }
        head
    }

    /// The file that the answer is about: `file` itself, or the one that took its place.
    fn current(&self, file: &Arc<File>, head: &Head, sent: Instant) -> (Arc<File>, Opened) {
        let (current, opened) = if file.agrees_with(head) {
            (Arc::clone(file), Opened::Current)
        } else {
            let mut version = head.version.clone();
            // Where listings have no ETag, those of the new version will have none either, and it
            // keeps its inode number; but for one that nothing else tells from the old.
            if file.object.version.etag.is_none() && !file.object.version.agrees_with(&version) {
                version.etag = None;
            }
            let object = Arc::new(Object { key: Arc::clone(&file.object.key), version });
            let ino = (self.numbering)(&object);
            let replacement = Replacement { object: Arc::clone(&object), sent };
            (self.file(ino, &object), Opened::Changed(replacement))
        };
        current.learn(head);
        current.validate(sent);
        (current, opened)
    }
}

/// The head of an open's answer, and what is still to come of it.
struct Asked {
    opened: Opened,
    rest: Option<Rest>,
}

struct Rest {
    file: Arc<File>,
    download: Download,
    removal: Removal,
    content: Content,
}

/// What an open asks for: the whole of a small object, else one unit of alignment.
fn first_bytes(size: u64) -> Range<u64> {
    if size <= SMALL_BYTES_MAX { 0..size } else { 0..ALIGN }
}
