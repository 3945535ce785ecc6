//! A part: an aligned range of one version, which fills while it is read.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;

use super::budget::Permit;
use super::buffer::{Buffer, Chunk, Filler};
use crate::error::FsError;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// One part. It is in the index of parts from before its GET until it is let go.
pub(crate) struct Part {
    /// Byte offsets within the object.
    pub(crate) range: Range<u64>,
    /// Whether it was asked for ahead of a stream: it is let go once all of it was handed over.
    pub(crate) streamed: bool,
    buffer: Arc<Buffer>,
    flow: Mutex<Flow>,
    /// Bytes handed to the page cache so far; repeated bytes count again.
    served: AtomicU64,
    download: OnceLock<AbortHandle>,
}

#[derive(Default)]
struct Flow {
    outcome: Option<Result<(), FsError>>,
    /// Who waits for the watermark to reach which byte.
    waiting: Vec<(usize, Waker)>,
}

impl Part {
    /// A part to be filled, and the duty to fill it.
    pub(crate) fn new(
        range: Range<u64>,
        streamed: bool,
        permit: Permit,
        chunk: Chunk,
    ) -> (Arc<Self>, Download) {
        let len = bytes(range.end - range.start);
        let (buffer, filler) = Buffer::new(permit, chunk, len);
        let part = Arc::new(Self {
            range,
            streamed,
            buffer,
            flow: Mutex::default(),
            served: AtomicU64::new(0),
            download: OnceLock::new(),
        });
        (Arc::clone(&part), Download { part, filler, finished: false })
    }

    /// The memory, for a reply that outlives the part's place in the index.
    pub(crate) fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    /// Bytes of memory that letting it go gives back, less what readers still hold.
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// `range` of the object as positions in the buffer.
    pub(crate) fn local(&self, range: &Range<u64>) -> Range<usize> {
        let start = range.start.max(self.range.start) - self.range.start;
        let end = range.end.min(self.range.end) - self.range.start;
        bytes(start)..bytes(end)
    }

    /// Whether everything has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.buffer.filled() as u64 == self.len()
    }

    /// Whether the first `end` bytes have arrived.
    pub(crate) fn has(&self, end: usize) -> bool {
        self.buffer.filled() >= end
    }

    /// Ready when the first `end` bytes are there, or when they will not come.
    pub(crate) fn wait_until(self: &Arc<Self>, end: usize) -> WaitUntil {
        WaitUntil { part: Arc::clone(self), end }
    }

    /// Counts bytes handed over; says whether all of the part has been.
    pub(crate) fn serve(&self, bytes: u64) -> bool {
        self.served.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.len()
    }

    /// Bytes that have come and were not handed over.
    pub(crate) fn unserved(&self) -> u64 {
        (self.buffer.filled() as u64).saturating_sub(self.served.load(Ordering::Relaxed))
    }

    /// Notes the task that fills the part, so that [`Part::cancel`] can end it.
    pub(crate) fn set_download(&self, task: AbortHandle) {
        let _ = self.download.set(task);
    }

    /// Ends the download; whoever waits gets an error.
    pub(crate) fn cancel(&self) {
        if let Some(task) = self.download.get() {
            task.abort();
        }
    }

    fn wake(&self, filled: usize, outcome: Option<Result<(), FsError>>) {
        let mut ready = Vec::new();
        {
            let mut flow = self.flow.lock();
            let over = outcome.is_some();
            if over {
                flow.outcome = outcome;
            }
            flow.waiting.retain_mut(|(end, waker)| {
                let due = over || *end <= filled;
                if due {
                    ready.push(waker.clone());
                }
                !due
            });
        }
        for waker in ready {
            waker.wake();
        }
    }
}

/// Parts are at most 8 MiB, so positions in them fit.
fn bytes(n: u64) -> usize {
    usize::try_from(n).expect("a position within a part")
}

/// See [`Part::wait_until`].
pub(crate) struct WaitUntil {
    part: Arc<Part>,
    end: usize,
}

impl Future for WaitUntil {
    type Output = Result<(), FsError>;

    fn poll(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.part.has(self.end) {
            return Poll::Ready(Ok(()));
        }
        let mut flow = self.part.flow.lock();
        // Again under the lock: the writer raises the watermark before it takes the lock to wake.
        if self.part.has(self.end) {
            return Poll::Ready(Ok(()));
        }
        match &flow.outcome {
            Some(Ok(())) => Poll::Ready(Err(FsError::Abandoned)),
            Some(Err(err)) => Poll::Ready(Err(err.clone())),
            None => {
                flow.waiting.retain(|(_, waker)| !waker.will_wake(ctx.waker()));
                flow.waiting.push((self.end, ctx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The duty to fill a part; dropped unfinished, its waiters get [`FsError::Abandoned`].
pub(crate) struct Download {
    part: Arc<Part>,
    filler: Filler,
    finished: bool,
}

impl Download {
    pub(crate) fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// Appends what has arrived and wakes who waited for it.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.filler.append(bytes);
        self.part.wake(self.part.buffer.filled(), None);
    }

    /// As [`Download::append`], for bytes that nobody sees before [`Download::publish`].
    pub(crate) fn stage(&mut self, bytes: &[u8]) {
        self.filler.stage(bytes);
    }

    /// Shows what was staged, and wakes who waited for it.
    pub(crate) fn publish(&mut self) {
        self.filler.publish();
        self.part.wake(self.part.buffer.filled(), None);
    }

    /// Forgets what was staged.
    pub(crate) fn rewind(&mut self) {
        self.filler.rewind();
    }

    /// How many bytes are still missing.
    pub(crate) fn room(&self) -> usize {
        self.filler.room()
    }

    /// The end, good or bad.
    pub(crate) fn finish(mut self, outcome: Result<(), FsError>) {
        self.finished = true;
        self.part.wake(self.part.buffer.filled(), Some(outcome));
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.finished {
            self.part.wake(self.part.buffer.filled(), Some(Err(FsError::Abandoned)));
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_models {
    use super::*;
    use crate::data::budget::Budget;

    /// A writer and two readers that wait for different bytes, and a download that is dropped
    /// half-way in every other run: whatever the schedule, nobody hangs, and who is answered well
    /// has its bytes.
    #[test]
    fn shuttle_part() {
        for whole in [true, false] {
            shuttle::check_random(
                move || {
                    let budget = Budget::new(1 << 20);
                    let permit = budget.try_reserve(&[4096]).expect("room").pop().expect("one");
                    let chunk = permit.take_chunk(0).expect("memory");
                    let (part, mut download) = Part::new(0..4, false, permit, chunk);
                    let readers: Vec<_> = [1, 4]
                        .map(|end| {
                            let part = Arc::clone(&part);
                            shuttle::thread::spawn(move || {
                                let outcome = shuttle::future::block_on(part.wait_until(end));
                                assert_eq!(outcome.is_ok(), part.has(end));
                                assert!(outcome.is_ok() || !whole);
                            })
                        })
                        .into_iter()
                        .collect();
                    download.append(&[1, 2]);
                    if whole {
                        download.append(&[3, 4]);
                        download.finish(Ok(()));
                    } else {
                        drop(download);
                    }
                    for reader in readers {
                        reader.join().expect("no reader panics");
                    }
                },
                2_000,
            );
        }
    }
}
