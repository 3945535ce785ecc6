//! The task that fills one part.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::index::PartId;
use super::part::Download;
use super::{Data, File};
use crate::error::{FsError, StoreError, StoreErrorKind};
use crate::store::{Body, Checksum, Condition, GetAnswer, GetRequest, Priority};

/// So often bytes that do not fit their checksum are taken for a mishap: what a link or a memory has changed
/// once comes right with the next try, and what is wrong where it is kept never does.
const CORRUPT_MAX: u32 = 3;

impl Data {
    /// Starts the GET for a part that is in the index.
    pub(super) fn start_download(self: &Arc<Self>, file: &Arc<File>, mut download: Download) {
        let (data, file) = (Arc::clone(self), Arc::clone(file));
        let part = Arc::clone(download.part());
        // Before the task, so that the part leaves the index also when the task never runs.
        let removal = Removal::of(self, &file, &download);
        let task = self.runtime.spawn(async move {
            let result = data.fill(&file, &mut download).await;
            data.settle(&file, download, result, removal);
        });
        part.set_download(task.abort_handle());
    }

    /// Fills a part from a body whose head has come already, and settles it.
    pub(super) async fn continue_download(
        self: &Arc<Self>,
        file: &Arc<File>,
        mut download: Download,
        removal: Removal,
        content: Content,
    ) {
        let result = self.pour_right(file, content, &mut download).await;
        self.settle(file, download, result, removal);
    }

    fn settle(
        self: &Arc<Self>,
        file: &File,
        download: Download,
        result: Result<(), FsError>,
        removal: Removal,
    ) {
        let part = Arc::clone(download.part());
        if result.is_ok() {
            removal.keep();
            let id = PartId { ino: file.ino, start: part.range.start };
            self.index.lock().complete(id, &part);
        } else {
            // Out of the index before the waiters know, so that whoever asks again starts anew.
            drop(removal);
        }
        download.finish(result);
        drop(part);
        self.relieve();
    }

    async fn fill(&self, file: &Arc<File>, download: &mut Download) -> Result<(), FsError> {
        crate::failpoint!("download");
        let answer = self.get_pinned(file, download).await?;
        let content = Content::of(answer, &download.part().range);
        self.pour_right(file, content, download).await
    }

    /// Fills the part with bytes that fit their checksum, asked for again where they do not.
    async fn pour_right(
        &self,
        file: &Arc<File>,
        mut content: Content,
        download: &mut Download,
    ) -> Result<(), FsError> {
        let mut n_corrupt = 0;
        loop {
            let is_checked = content.checksum.is_some();
            let err = match pour(content, download).await {
                Err(FsError::Store(err)) if is_checked && err.kind() == StoreErrorKind::Corrupt => {
                    err
                }
                poured => {
                    if is_checked && poured.is_ok() {
                        file.note_checked(true);
                    }
                    return poured;
                }
            };
            self.metrics.failed(err.kind());
            file.note_checked(false);
            n_corrupt += 1;
            if n_corrupt == CORRUPT_MAX {
                return Err(err.into());
            }
            tracing::warn!("{err}; it is asked for again");
            download.rewind();
            let answer = self.get_pinned(file, download).await?;
            content = Content::of(answer, &download.part().range);
        }
    }

    /// The GET for a part: of the version that the file is, else of nothing.
    async fn get_pinned(&self, file: &File, download: &Download) -> Result<GetAnswer, FsError> {
        if file.is_lost() {
            return Err(FsError::Stale);
        }
        let range = download.part().range.clone();
        let whole = range.start == 0 && range.end == file.size();
        let ahead = download.part().streamed;
        let request = |condition| GetRequest {
            key: Arc::clone(&file.object.key),
            range: (!whole).then(|| range.clone()),
            condition,
            priority: if ahead { Priority::Ahead } else { Priority::Demand },
        };
        let condition = file.pin().cloned().map_or(Condition::Any, Condition::Match);
        let sent = Instant::now();
        let err = match self.store.get(request(condition)).await {
            Ok(answer) if file.holds_bytes_of(&answer.head) => {
                file.learn(&answer.head);
                expect_range(&answer, download)?;
                if file.agrees_with(&answer.head) {
                    file.vouch(sent);
                }
                return Ok(answer);
            }
            Ok(_) => StoreError::new(StoreErrorKind::Changed, "the object has another version"),
            Err(err) => err,
        };
        match err.kind() {
            StoreErrorKind::Changed | StoreErrorKind::NotFound | StoreErrorKind::OutOfRange => {}
            _ => return Err(err.into()),
        }
        file.doubt();
        let old = self.get_old_version(file, request).await;
        match &old {
            Ok(answer) => expect_range(answer, download)?,
            Err(FsError::Stale) => file.lose(),
            Err(_) => {}
        }
        old
    }

    /// The old version may still be there, in a versioned bucket, for those who may read it.
    async fn get_old_version(
        &self,
        file: &File,
        request: impl FnOnce(Condition) -> GetRequest,
    ) -> Result<GetAnswer, FsError> {
        let id = file.version_id().ok_or(FsError::Stale)?;
        if self.old_versions_denied.load(Ordering::Relaxed) {
            return Err(FsError::Stale);
        }
        match self.store.get(request(Condition::VersionId(Arc::clone(id)))).await {
            Ok(answer) if file.holds_bytes_of(&answer.head) => Ok(answer),
            Ok(_) => Err(FsError::Stale),
            Err(err) => match err.kind() {
                StoreErrorKind::Denied => {
                    self.old_versions_denied.store(true, Ordering::Relaxed);
                    tracing::info!("reading an old version needs s3:GetObjectVersion: {err}");
                    Err(FsError::Stale)
                }
                StoreErrorKind::NotFound => Err(FsError::Stale),
                _ => Err(err.into()),
            },
        }
    }
}

fn expect_range(answer: &GetAnswer, download: &Download) -> Result<(), FsError> {
    let wanted = &download.part().range;
    if answer.range == *wanted {
        return Ok(());
    }
    let message = format!("asked for bytes {wanted:?} and was given {:?}", answer.range);
    Err(StoreError::new(StoreErrorKind::Other, message).into())
}

/// Appends the body to the part, chunk by chunk as it comes. Where a checksum came with it, nobody sees
/// the chunks before the last one has, and all fit it; otherwise the part stays as it was.
async fn pour(content: Content, download: &mut Download) -> Result<(), FsError> {
    let Content { mut body, mut checksum } = content;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        // A body may be longer than the part when an object turned out larger than expected; the
        // part takes what it was made for, and the rest is not read.
        let take = chunk.len().min(download.room());
        match &mut checksum {
            None => download.append(&chunk[..take]),
            Some(checksum) => {
                checksum.update(&chunk[..take]);
                download.stage(&chunk[..take]);
            }
        }
        if download.room() == 0 {
            break;
        }
    }
    if download.room() > 0 {
        return Err(FsError::Abandoned);
    }
    if let Some(checksum) = checksum {
        checksum.finish()?;
        download.publish();
    }
    Ok(())
}

/// What came with the head of an answer that is believed.
pub(super) struct Content {
    body: Body,
    checksum: Option<Box<dyn Checksum>>,
}

impl Content {
    /// For a part of `range`. Of an object that turned out larger the checksum says nothing about the part.
    pub(super) fn of(answer: GetAnswer, range: &Range<u64>) -> Self {
        let GetAnswer { range: came, body, checksum, .. } = answer;
        Self { body, checksum: checksum.filter(|_| came == *range) }
    }
}

/// Takes a part out of the index when its download ends in any way but the good one, also when the
/// task is cancelled or panics.
pub(super) struct Removal {
    data: Arc<Data>,
    id: PartId,
    part: Option<Arc<super::Part>>,
}

impl Removal {
    pub(super) fn of(data: &Arc<Data>, file: &File, download: &Download) -> Self {
        let part = Arc::clone(download.part());
        let id = PartId { ino: file.ino, start: part.range.start };
        Self { data: Arc::clone(data), id, part: Some(part) }
    }

    fn keep(mut self) {
        self.part = None;
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(part) = self.part.take() {
            let removed = self.data.index.lock().remove(self.id, &part);
            drop(removed);
            drop(part);
            self.data.relieve();
        }
    }
}
